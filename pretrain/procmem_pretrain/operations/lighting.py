"""Light and shadow from height fields: coord and field -> scalar or color.

A field is a scalar pattern that can be asked at any point; here it is a height.
"""

from __future__ import annotations

from collections.abc import Callable

from procmem_pretrain.language import (
    Number,
    Value,
    clamp,
    direction,
    dot,
    lift,
    loop,
    maximum,
    minimum,
    mix,
    normalize,
    power,
    to_float,
    vec2,
    vec3,
)
from procmem_pretrain.operations.table import ANGLE, UNIT, linear, log, operation

Field = Callable[[Value], Value]

_STEP = 0.02  # of the plane: about one pixel of a 128-pixel picture


def _normal(p: Value, height: Field, strength: Value) -> Value:
    """The unit normal of a height field by forward differences."""
    here = height(p)
    right = height(p + (_STEP, 0.0)) - here
    up = height(p + (0.0, _STEP)) - here
    slope = strength / _STEP
    return normalize(vec3(-right * slope, -up * slope, 1.0))


def _toward(angle: Value, elevation: Number) -> Value:
    flat = direction(angle)
    return normalize(vec3(flat.x, flat.y, elevation))


@operation(
    "coord field -> scalar",
    weight=1.6,
    angle=ANGLE,
    elevation=linear(0.4, 1.5),
    strength=log(0.05, 0.5),
)
def relief(
    p: Value, height: Field, *, t: Value, angle: Value, elevation: Value, strength: Value
) -> Value:
    """Matt light on a height field (Lambert)."""
    light = _toward(angle + 0.2 * t, elevation)
    return maximum(dot(_normal(p, height, strength), light), 0.0)


@operation(
    "coord field -> scalar",
    weight=0.7,
    angle=ANGLE,
    elevation=linear(0.4, 1.5),
    strength=log(0.05, 0.5),
    gloss=log(4.0, 40.0),
)
def gloss(
    p: Value,
    height: Field,
    *,
    t: Value,
    angle: Value,
    elevation: Value,
    strength: Value,
    gloss: Value,
) -> Value:
    """A shiny height field (Blinn-Phong)."""
    light = _toward(angle + 0.2 * t, elevation)
    normal = _normal(p, height, strength)
    half = normalize(light + (0.0, 0.0, 1.0))
    shine = power(maximum(dot(normal, half), 0.0), gloss)
    return 0.15 + 0.55 * maximum(dot(normal, light), 0.0) + 0.6 * shine


@operation(
    "coord field -> scalar",
    weight=0.5,
    angle=ANGLE,
    elevation=linear(0.3, 1.0),
    strength=linear(0.15, 0.5),
)
def cast_shadow(
    p: Value, height: Field, *, angle: Value, elevation: Value, strength: Value
) -> Value:
    """Where the low sun reaches: six steps toward the light, darker under higher ground."""
    here = height(p)
    flat = direction(angle)

    def step(i: Value, lit: Value) -> tuple[Value, ...]:
        reach = 0.05 * (to_float(i) + 1.0)
        ray = here + elevation * reach / strength
        return (minimum(lit, 1.0 - clamp(4.0 * (height(p + flat * reach) - ray), 0.0, 1.0)),)

    (lit,) = loop(lift(here.backend, "int", 6), step, 1.0)
    return mix(0.25, 1.0, lit) * (0.4 + 0.6 * here)


@operation("coord field -> scalar", weight=0.4, reach=linear(0.04, 0.2), strength=linear(1.0, 4.0))
def hollows(p: Value, height: Field, *, reach: Value, strength: Value) -> Value:
    """Dark where the surroundings are higher (ambient occlusion)."""
    here = height(p)

    def look(i: Value, total: Value) -> tuple[Value, ...]:
        return (total + height(p + reach * direction(1.0472 * to_float(i))),)

    (around,) = loop(lift(here.backend, "int", 6), look, 0.0)
    return clamp(0.7 + strength * (here - around * (1.0 / 6.0)), 0.0, 1.2)


@operation("coord field -> color", weight=0.5, strength=log(0.05, 0.5), turn=ANGLE)
def iridescence(p: Value, height: Field, *, strength: Value, turn: Value) -> Value:
    """The direction of the slope as a color."""
    n = _normal(p, height, strength)
    a, b = direction(turn), direction(turn + 2.0944)
    flat = vec2(n.x, n.y)
    return 0.5 + 0.5 * vec3(dot(flat, a), dot(flat, b), 2.0 * n.z - 1.0)


@operation(
    "coord color field -> color",
    weight=1.2,
    angle=ANGLE,
    strength=log(0.05, 0.4),
    ambient=linear(0.2, 0.6),
    warmth=UNIT,
)
def sunlit(
    p: Value,
    color: Value,
    height: Field,
    *,
    t: Value,
    angle: Value,
    strength: Value,
    ambient: Value,
    warmth: Value,
) -> Value:
    """A color under warm light and cool shade."""
    light = maximum(dot(_normal(p, height, strength), _toward(angle + 0.2 * t, 0.8)), 0.0)
    sun = vec3(1.15, 1.0, 1.15 - 0.4 * warmth)
    sky = vec3(1.0 - 0.3 * warmth, 1.0, 1.1)
    return color * (ambient * sky + (1.1 - ambient) * light * sun)
