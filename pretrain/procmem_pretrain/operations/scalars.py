"""Scalars reshaped and combined, and shapes made visible: scalar or distance -> scalar."""

from __future__ import annotations

from procmem_pretrain.language import (
    Value,
    absolute,
    clamp,
    exp,
    floor,
    fract,
    maximum,
    minimum,
    mix,
    power,
    sin,
    smoothstep,
    sqrt,
    to_float,
)
from procmem_pretrain.operations.table import ANGLE, UNIT, integer, linear, log, operation

_SOFTNESS = log(0.004, 0.2)


@operation("distance -> scalar", weight=2.5, softness=_SOFTNESS)
def fill(d: Value, *, softness: Value) -> Value:
    """1 inside a shape."""
    return smoothstep(softness, -softness, d)


@operation("distance -> scalar", weight=0.8, width=linear(0.01, 0.08), softness=log(0.004, 0.05))
def outline(d: Value, *, width: Value, softness: Value) -> Value:
    """1 on a shape's rim."""
    return smoothstep(width + softness, width - softness, absolute(d))


@operation("distance -> scalar", weight=0.6, reach=log(0.02, 0.5))
def glow(d: Value, *, reach: Value) -> Value:
    """Light that fades away from a shape."""
    return exp(-maximum(d, 0.0) / reach)


@operation("distance -> scalar", weight=0.6, rate=log(2.0, 12.0), phase=UNIT)
def bands(d: Value, *, t: Value, rate: Value, phase: Value) -> Value:
    """Lines of equal distance."""
    return absolute(2.0 * fract(rate * d + phase + 0.1 * t) - 1.0)


@operation("distance -> scalar", weight=0.9, width=linear(0.1, 0.6))
def dome(d: Value, *, width: Value) -> Value:
    """A shape as a cushion: the height of a rounded body."""
    inside = clamp(-d / width, 0.0, 1.0)
    return sqrt(inside * (2.0 - inside))


@operation("scalar -> scalar", weight=1.0, level=linear(0.25, 0.75), softness=log(0.005, 0.25))
def threshold(x: Value, *, level: Value, softness: Value) -> Value:
    """Two values with a soft step between, as reactions settle."""
    return smoothstep(level - softness, level + softness, x)


@operation("scalar -> scalar", weight=0.8, rate=log(3.0, 30.0), phase=ANGLE)
def wave(x: Value, *, t: Value, rate: Value, phase: Value) -> Value:
    """A sine of the pattern."""
    return 0.5 + 0.5 * sin(rate * x + phase + t)


@operation("scalar -> scalar", weight=0.5, rate=log(0.7, 6.0))
def ridge(x: Value, *, rate: Value) -> Value:
    """Up and down again."""
    return 1.0 - absolute(2.0 * fract(rate * x) - 1.0)


@operation("scalar -> scalar", weight=0.6, exponent=log(0.3, 3.0))
def gain(x: Value, *, exponent: Value) -> Value:
    """A power of the pattern."""
    return power(clamp(x, 0.0, 1.0), exponent)


@operation("scalar -> scalar", weight=0.4, levels=integer(2, 7))
def posterize(x: Value, *, levels: Value) -> Value:
    """A few flat levels."""
    return (floor(x * to_float(levels)) + 0.5) / to_float(levels)


@operation("scalar -> scalar", weight=0.3)
def invert(x: Value) -> Value:
    """Light for dark."""
    return 1.0 - x


@operation("scalar -> scalar", weight=0.5, width=linear(0.05, 0.3), rate=log(1.0, 8.0))
def contour(x: Value, *, width: Value, rate: Value) -> Value:
    """Lines of equal value, as on a map."""
    return smoothstep(width, 0.0, absolute(fract(rate * x) - 0.5))


@operation("scalar scalar -> scalar", weight=1.0, share=linear(0.2, 0.8))
def blend(a: Value, b: Value, *, share: Value) -> Value:
    """Weighted mean."""
    return mix(a, b, share)


@operation("scalar scalar -> scalar", weight=0.8)
def product(a: Value, b: Value) -> Value:
    """Both at once."""
    return a * b


@operation("scalar scalar -> scalar", weight=0.5)
def lighter(a: Value, b: Value) -> Value:
    """The larger one."""
    return maximum(a, b)


@operation("scalar scalar -> scalar", weight=0.5)
def darker(a: Value, b: Value) -> Value:
    """The smaller one."""
    return minimum(a, b)


@operation("scalar scalar -> scalar", weight=0.6)
def difference(a: Value, b: Value) -> Value:
    """How far they are apart."""
    return absolute(a - b)


@operation(
    "scalar scalar scalar -> scalar", weight=0.8, level=linear(0.2, 0.7), softness=log(0.01, 0.3)
)
def choose(a: Value, b: Value, mask: Value, *, level: Value, softness: Value) -> Value:
    """One pattern or the other, by a third."""
    return mix(a, b, smoothstep(level, level + softness, mask))


@operation("scalar scalar distance -> scalar", weight=1.2, softness=_SOFTNESS)
def inlay(outside: Value, inside: Value, d: Value, *, softness: Value) -> Value:
    """One pattern inside a shape, another around it."""
    return mix(outside, inside, smoothstep(softness, -softness, d))
