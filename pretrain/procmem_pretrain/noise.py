"""Noises of the plane, written in `language.py`: what the operations in `operations/` build on.

Hashes are integer arithmetic, so that every driver and torch draw the same lattice.
"""

from __future__ import annotations

from collections.abc import Callable

from procmem_pretrain.language import (
    Float,
    Int,
    Number,
    UInt,
    Value,
    Vec2,
    cos,
    direction,
    dot,
    exp,
    floor,
    function,
    length,
    lift,
    loop,
    maximum,
    minimum,
    mix,
    rotate,
    sin,
    to_float,
    to_int,
    to_uint,
    vec2,
    vec3,
    where,
)

TURN = 6.2831853

# Odd numbers near 2**32 over the golden ratio's relatives: cells (x, y) land far apart.
_STEP_X = 0x9E3779B1
_STEP_Y = 0x85EBCA77


@function
def scramble(h: UInt) -> Value:
    """Every bit of 32 depends on every other (lowbias32, Wellons 2018)."""
    h = (h ^ (h >> 16)) * 0x7FEB352D
    h = (h ^ (h >> 15)) * 0x846CA68B
    return h ^ (h >> 16)


def cell_base(cell: Value, seed: Value) -> Value:
    """One uint for the lattice cell whose corner is the vec2 `cell`; not scrambled yet."""
    return to_uint(to_int(cell.x)) * _STEP_X + to_uint(to_int(cell.y)) * _STEP_Y + seed * 0xC2B2AE3D


def unit(h: Value) -> Value:
    """A uint's high 24 bits as a float in [0, 1)."""
    return to_float(h >> 8) * (1.0 / 16777216.0)


def pair(h: Value) -> Value:
    """A uint's two halves as a vec2 in [0, 1)."""
    low = h ^ ((h >> 16) * 0x10000)
    return vec2(to_float(h >> 16), to_float(low)) * (1.0 / 65536.0)


@function
def hash_unit(cell: Vec2, seed: UInt) -> Value:
    """A float in [0, 1) that belongs to a cell."""
    return unit(scramble(cell_base(cell, seed)))


@function
def hash_pair(cell: Vec2, seed: UInt) -> Value:
    """A vec2 in [0, 1) that belongs to a cell."""
    return pair(scramble(cell_base(cell, seed)))


def hash_number(number: Value, seed: Value) -> Value:
    """A vec2 in [0, 1) that belongs to an int: for the n-th stroke, wave, dot."""
    return pair(scramble(to_uint(number) * _STEP_X + seed * 0xC2B2AE3D))


@function
def value_noise(p: Vec2, seed: UInt) -> Value:
    """Random values on a lattice, smooth between; in [0, 1]."""
    cell = floor(p)
    f = p - cell
    u = f * f * (3.0 - 2.0 * f)
    base = cell_base(cell, seed)
    near = mix(unit(scramble(base)), unit(scramble(base + _STEP_X)), u.x)
    base = base + _STEP_Y
    far = mix(unit(scramble(base)), unit(scramble(base + _STEP_X)), u.x)
    return mix(near, far, u.y)


@function
def gradient_noise(p: Vec2, seed: UInt) -> Value:
    """Random slopes on a lattice (Perlin 2002); about [-0.9, 0.9], mean 0."""
    cell = floor(p)
    f = p - cell
    u = f * f * f * (f * (f * 6.0 - 15.0) + 10.0)
    base = cell_base(cell, seed)
    near = mix(_slope(base, f), _slope(base + _STEP_X, f - (1.0, 0.0)), u.x)
    base = base + _STEP_Y
    far = mix(
        _slope(base, f - (0.0, 1.0)),
        _slope(base + _STEP_X, f - (1.0, 1.0)),
        u.x,
    )
    return 1.4 * mix(near, far, u.y)


def _slope(h: Value, offset: Value) -> Value:
    # Slopes fill a square, not a circle: no sine and cosine for four corners of every octave.
    return dot(2.0 * pair(scramble(h)) - 1.0, offset)


@function
def value_fbm(p: Vec2, octaves: Int, gain: Float, seed: UInt) -> Value:
    """Octaves of value noise, each turned and twice as fine; in [0, 1]."""

    def octave(i: Value, p: Value, total: Value, weight: Value, a: Value) -> tuple[Value, ...]:
        noise = value_noise(p, seed + to_uint(i))
        return rotate(p, 0.6) * 2.03, total + a * noise, weight + a, a * gain

    _, total, weight, _ = loop(octaves, octave, p, 0.0, 0.0, 1.0)
    return total / weight


@function
def gradient_fbm(p: Vec2, octaves: Int, gain: Float, seed: UInt) -> Value:
    """Octaves of gradient noise; about [-0.8, 0.8], mean 0."""

    def octave(i: Value, p: Value, total: Value, weight: Value, a: Value) -> tuple[Value, ...]:
        noise = gradient_noise(p, seed + to_uint(i))
        return rotate(p, 0.6) * 2.03, total + a * noise, weight + a, a * gain

    _, total, weight, _ = loop(octaves, octave, p, 0.0, 0.0, 1.0)
    return total / weight


@function
def ridged_fbm(p: Vec2, octaves: Int, gain: Float, seed: UInt) -> Value:
    """Octaves of folded gradient noise: crests like those of mountains (Musgrave); in [0, 1]."""

    def octave(i: Value, p: Value, total: Value, weight: Value, a: Value) -> tuple[Value, ...]:
        noise = gradient_noise(p, seed + to_uint(i))
        crest = 1.0 - minimum(1.6 * maximum(noise, -noise), 1.0)
        return rotate(p, 0.6) * 2.03, total + a * crest * crest, weight + a, a * gain

    _, total, weight, _ = loop(octaves, octave, p, 0.0, 0.0, 1.0)
    return total / weight


@function
def noise_vector(p: Vec2, octaves: Int, seed: UInt) -> Value:
    """Two independent noises as a vec2; mean 0."""
    return vec2(gradient_fbm(p, octaves, 0.5, seed), gradient_fbm(p, octaves, 0.5, seed + 101))


def neighborhood(
    p: Value, seed: Value, visit: Callable[..., tuple[Value, ...]], *state: Number
) -> tuple[Value, ...]:
    """Visits the 3 x 3 lattice cells around `p`: `state = visit(away, h, *state)`.

    `away` points from the cell's corner to `p`; `h` is the cell's scrambled uint.
    """
    corner = floor(p)
    inside = p - corner
    base = cell_base(corner - 1.0, seed)
    three = lift(p.backend, "int", 3)

    def row(y: Value, *state: Value) -> tuple[Value, ...]:
        def cell(x: Value, *state: Value) -> tuple[Value, ...]:
            h = scramble(base + (to_uint(x) * _STEP_X + to_uint(y) * _STEP_Y))
            away = inside + 1.0 - vec2(to_float(x), to_float(y))
            return visit(away, h, *state)

        return loop(three, cell, *state)

    return loop(three, row, *state)


@function
def worley(p: Vec2, spread: Float, phase: Float, seed: UInt) -> Value:
    """Distances to the nearest and second nearest of scattered sites (Worley 1996).

    Returns:
        a vec3: nearest, second nearest, a number in [0, 1) that belongs to the nearest site.
    """

    def visit(away: Value, h: Value, first: Value, second: Value, name: Value) -> tuple[Value, ...]:
        d = length(away - 0.5 - 0.5 * spread * sin(phase + TURN * pair(h)))
        nearer = d < first
        after = where(nearer, first, minimum(second, d))
        return minimum(first, d), after, where(nearer, unit(h), name)

    return vec3(*neighborhood(p, seed, visit, 9.0, 9.0, 0.0))


@function
def gabor_noise(p: Vec2, angle: Float, spread: Float, seed: UInt) -> Value:
    """Scattered wave packets of one wavelength (after Lagae et al. 2009); mean 0, about [-1, 1].

    Args:
        p: one wavelength is 1/2, one packet spans about one cell.
        angle: main direction of the waves, radians.
        spread: how far directions differ from it, radians; pi is isotropic.
        seed: which one.
    """

    def visit(away: Value, h: Value, total: Value) -> tuple[Value, ...]:
        from_center = away - pair(h)
        turn = angle + spread * (2.0 * unit(scramble(h + 7)) - 1.0)
        wave = cos(2.0 * TURN * dot(from_center, direction(turn)) + TURN * unit(h))
        return (total + exp(-3.0 * dot(from_center, from_center)) * wave,)

    (total,) = neighborhood(p, seed, visit, 0.0)
    return total


def hash_color(h: Value) -> Value:
    """A random vec3 in [0, 1) from a scrambled uint."""
    return vec3(unit(h), unit(scramble(h + 1)), unit(scramble(h + 2)))
