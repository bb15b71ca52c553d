"""Iterated maps: escape times, orbit traps and folded planes, coord -> scalar."""

from __future__ import annotations

from procmem_pretrain.language import (
    Float,
    Int,
    Value,
    Vec2,
    absolute,
    clamp,
    cos,
    dot,
    exp,
    function,
    length,
    log2,
    loop,
    maximum,
    minimum,
    power,
    rotate,
    sin,
    sqrt,
    to_float,
    vec2,
    where,
)
from procmem_pretrain.operations.table import ANGLE, integer, linear, log, operation

_REAL = linear(-1.0, 0.4)
_IMAGINARY = linear(-0.8, 0.8)


@function
def escape_time(z: Vec2, c: Vec2, rounds: Int, burning: Float) -> Value:
    """Smooth number of rounds of z * z + c until |z| > 4, as a share of all rounds; in [0, 1].

    `burning` 1 takes absolute values first (the burning ship), 0 does not.
    """

    def step(_: Value, z: Value, count: Value) -> tuple[Value, ...]:
        inside = dot(z, z) <= 16.0
        q = vec2(z.x + burning * (absolute(z.x) - z.x), z.y + burning * (absolute(z.y) - z.y))
        following = vec2(q.x * q.x - q.y * q.y, 2.0 * q.x * q.y) + c
        return where(inside, following, z), count + where(inside, 1.0, 0.0)

    z, count = loop(rounds, step, z, 0.0)
    late = 0.5 * log2(maximum(dot(z, z), 16.0))  # |z| at the end as a power of 2, from 2 up
    return clamp((count + 1.0 - log2(maximum(0.5 * late, 1.0))) / to_float(rounds), 0.0, 1.0)


@operation("coord -> scalar", weight=0.5, zoom=linear(0.6, 1.6), x=_REAL, y=_IMAGINARY)
def julia(p: Value, *, t: Value, zoom: Value, x: Value, y: Value) -> Value:
    """Escape time of z * z + c for one c."""
    return escape_time(p * zoom, vec2(x + 0.03 * cos(t), y + 0.03 * sin(t)), 24, 0.0)


@operation(
    "coord -> scalar", weight=0.3, zoom=log(0.1, 1.3), x=linear(-1.2, 0.2), y=linear(-1.0, 1.0)
)
def mandelbrot(p: Value, *, zoom: Value, x: Value, y: Value) -> Value:
    """Escape time of z * z + c by c."""
    c = p * zoom + vec2(x, y)
    return escape_time(c, c, 28, 0.0)


@operation(
    "coord -> scalar", weight=0.3, zoom=log(0.1, 1.3), x=linear(-1.6, 0.4), y=linear(-1.0, 0.3)
)
def burning_ship(p: Value, *, zoom: Value, x: Value, y: Value) -> Value:
    """Escape time of (|x| + i |y|)^2 + c by c."""
    c = p * zoom + vec2(x, y)
    return escape_time(c, c, 24, 1.0)


@operation("coord -> scalar", weight=0.5, zoom=linear(0.6, 1.4), x=_REAL, y=_IMAGINARY)
def orbit_trap(p: Value, *, t: Value, zoom: Value, x: Value, y: Value) -> Value:
    """How near the orbit of z * z + c comes to a cross and a circle."""
    c = vec2(x + 0.03 * sin(t), y)

    def step(_: Value, z: Value, trap: Value) -> tuple[Value, ...]:
        inside = dot(z, z) <= 16.0
        following = vec2(z.x * z.x - z.y * z.y, 2.0 * z.x * z.y) + c
        near = minimum(absolute(following.x), absolute(following.y))
        near = near + 0.3 * absolute(length(following) - 0.6)
        return where(inside, following, z), where(inside, minimum(trap, near), trap)

    _, trap = loop(14, step, p * zoom, 4.0)
    return clamp(1.0 - sqrt(trap), 0.0, 1.0)


@operation(
    "coord -> scalar",
    weight=0.6,
    zoom=linear(0.5, 1.5),
    x=linear(0.4, 1.0),
    y=linear(0.2, 0.9),
    rounds=integer(4, 8),
)
def kali(p: Value, *, zoom: Value, x: Value, y: Value, rounds: Value) -> Value:
    """Fold and invert, again and again (the "Kali set")."""

    def step(_: Value, p: Value, total: Value) -> tuple[Value, ...]:
        p = absolute(p) / maximum(dot(p, p), 0.02) - vec2(x, y)
        return p, total + exp(-2.0 * absolute(length(p) - 0.5))

    _, total = loop(rounds, step, p * zoom, 0.0)
    return total / to_float(rounds)


@operation(
    "coord -> scalar",
    weight=0.8,
    rate=log(0.8, 3.0),
    strength=linear(0.5, 1.5),
    rounds=integer(2, 6),
)
def sine_map(p: Value, *, t: Value, rate: Value, strength: Value, rounds: Value) -> Value:
    """Sines fed into sines: oil on water."""

    def step(i: Value, p: Value) -> tuple[Value, ...]:
        return (p + strength * sin(p.yx * 1.7 + vec2(0.3 * t, 1.3 + to_float(i))),)

    (p,) = loop(rounds, step, p * rate)
    return 0.5 + 0.5 * sin(p.x) * cos(p.y)


@operation(
    "coord -> scalar",
    weight=0.4,
    zoom=linear(0.8, 2.0),
    angle=ANGLE,
    scale=linear(1.4, 2.0),
    offset=linear(0.4, 1.0),
    rounds=integer(3, 7),
)
def snowflake(
    p: Value, *, zoom: Value, angle: Value, scale: Value, offset: Value, rounds: Value
) -> Value:
    """Distance to a folded fractal's dust."""

    def step(_: Value, p: Value, size: Value) -> tuple[Value, ...]:
        return rotate(absolute(p), angle) * scale - offset, size * scale

    p, size = loop(rounds, step, p * zoom, 1.0)
    return clamp(1.0 - 2.0 * power(length(p) / size, 0.5), 0.0, 1.0)


@operation("coord -> scalar", weight=0.3, zoom=linear(0.8, 2.0), relaxation=linear(0.7, 1.3))
def newton(p: Value, *, zoom: Value, relaxation: Value) -> Value:
    """Which root of z^3 = 1 Newton's method finds, and how soon."""

    def step(_: Value, z: Value, near: Value) -> tuple[Value, ...]:
        square = vec2(z.x * z.x - z.y * z.y, 2.0 * z.x * z.y)
        cube = vec2(square.x * z.x - square.y * z.y, square.x * z.y + square.y * z.x)
        top = cube - (1.0, 0.0)
        bottom = 3.0 * square
        scale = relaxation / (dot(bottom, bottom) + 1e-3)
        quotient = vec2(dot(top, bottom), top.y * bottom.x - top.x * bottom.y)
        z = z - scale * quotient
        return z, near + exp(-4.0 * dot(top, top))

    z, near = loop(8, step, p * zoom, 0.0)
    return clamp(0.3 * near * 0.25 + 0.35 + 0.35 * clamp(z.y, -1.0, 1.0), 0.0, 1.0)
