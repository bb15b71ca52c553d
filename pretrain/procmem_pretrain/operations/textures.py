"""Patterns that fill the plane: coord -> scalar."""

from __future__ import annotations

from procmem_pretrain.language import (
    Value,
    absolute,
    atan2,
    clamp,
    cos,
    direction,
    dot,
    floor,
    fract,
    length,
    log2,
    loop,
    minimum,
    mix,
    modulo,
    power,
    rotate,
    sin,
    smoothstep,
    tanh,
    to_float,
    vec2,
    where,
)
from procmem_pretrain.noise import (
    TURN,
    cell_base,
    gabor_noise,
    gradient_fbm,
    hash_number,
    hash_unit,
    neighborhood,
    pair,
    scramble,
    unit,
    value_fbm,
    value_noise,
    worley,
)
from procmem_pretrain.noise import ridged_fbm as ridges
from procmem_pretrain.operations.table import (
    ANGLE,
    PLACE,
    SEED,
    UNIT,
    integer,
    linear,
    log,
    operation,
)

_GAIN = linear(0.35, 0.7)


@operation(
    "coord -> scalar", weight=1.2, rate=log(0.8, 10.0), octaves=integer(1, 6), gain=_GAIN, seed=SEED
)
def clouds(p: Value, *, t: Value, rate: Value, octaves: Value, gain: Value, seed: Value) -> Value:
    """Fractal value noise."""
    return value_fbm(p * rate + 0.3 * t, octaves, gain, seed)


@operation(
    "coord -> scalar", weight=1.8, rate=log(0.8, 10.0), octaves=integer(1, 6), gain=_GAIN, seed=SEED
)
def fog(p: Value, *, t: Value, rate: Value, octaves: Value, gain: Value, seed: Value) -> Value:
    """Fractal gradient noise."""
    return 0.5 + 0.8 * gradient_fbm(p * rate + 0.3 * t, octaves, gain, seed)


@operation(
    "coord -> scalar", weight=1.0, rate=log(0.8, 6.0), octaves=integer(2, 6), gain=_GAIN, seed=SEED
)
def crests(p: Value, *, t: Value, rate: Value, octaves: Value, gain: Value, seed: Value) -> Value:
    """Ridged noise."""
    return ridges(p * rate + 0.2 * t, octaves, gain, seed)


@operation("coord -> scalar", weight=0.8, rate=log(0.8, 6.0), octaves=integer(2, 5), seed=SEED)
def billows(p: Value, *, t: Value, rate: Value, octaves: Value, seed: Value) -> Value:
    """Turbulence: absolute noise."""
    return 1.8 * absolute(gradient_fbm(p * rate + 0.2 * t, octaves, 0.5, seed))


@operation(
    "coord -> scalar",
    weight=1.0,
    rate=log(0.7, 4.0),
    size=linear(0.5, 2.5),
    octaves=integer(2, 4),
    seed=SEED,
)
def marble(p: Value, *, t: Value, rate: Value, size: Value, octaves: Value, seed: Value) -> Value:
    """Noise warped by noise (Quilez)."""
    q = p * rate
    inner = gradient_fbm(q + 0.15 * t, octaves, 0.5, seed)
    return 0.5 + 0.8 * gradient_fbm(q + size * inner, octaves, 0.5, seed + 31)


@operation("coord -> scalar", weight=0.8, rate=log(0.5, 3.0), rings=log(2.0, 14.0), seed=SEED)
def wood(p: Value, *, rate: Value, rings: Value, seed: Value) -> Value:
    """Rings of a trunk, cut lengthwise."""
    q = p * rate
    grain = gradient_fbm(q * (1.0, 0.2), 2, 0.5, seed)
    fine = value_noise(q * (30.0, 2.0), seed + 5)
    return mix(fract(rings * (grain + 0.3 * q.x)), fine, 0.25)


@operation(
    "coord -> scalar",
    weight=1.2,
    rate=log(0.7, 3.0),
    fine=log(6.0, 30.0),
    size=linear(0.02, 0.08),
    seed=SEED,
)
def fur(p: Value, *, t: Value, rate: Value, fine: Value, size: Value, seed: Value) -> Value:
    """Fine noise drawn out along a current: hair, brush strokes, grass."""

    def step(_: Value, p: Value, total: Value) -> tuple[Value, ...]:
        turning = TURN * gradient_fbm(p * rate + 0.05 * t, 2, 0.5, seed)
        return p + size * direction(turning), total + value_noise(p * fine, seed + 9)

    _, total = loop(5, step, p, 0.0)
    return clamp(0.5 + 2.0 * (total * 0.2 - 0.5), 0.0, 1.0)


@operation("coord -> scalar", weight=1.0, rate=log(1.0, 10.0), spread=UNIT, seed=SEED)
def cells(p: Value, *, t: Value, rate: Value, spread: Value, seed: Value) -> Value:
    """Distance to the nearest of scattered sites."""
    return worley(p * rate, spread, 0.5 * t, seed).x


@operation("coord -> scalar", weight=1.0, rate=log(1.0, 8.0), spread=UNIT, seed=SEED)
def cracks(p: Value, *, t: Value, rate: Value, spread: Value, seed: Value) -> Value:
    """Distance to the border between two cells."""
    w = worley(p * rate, spread, 0.5 * t, seed)
    return 1.5 * (w.y - w.x)


@operation("coord -> scalar", weight=1.2, rate=log(1.0, 8.0), spread=UNIT, seed=SEED)
def mosaic(p: Value, *, t: Value, rate: Value, spread: Value, seed: Value) -> Value:
    """One value for each Voronoi cell."""
    return worley(p * rate, spread, 0.5 * t, seed).z


@operation("coord -> scalar", weight=0.7, rate=log(1.0, 5.0), seed=SEED)
def pebbles(p: Value, *, t: Value, rate: Value, seed: Value) -> Value:
    """Rounded cells of different grey, dark between."""
    w = worley(p * rate, 0.8, 0.5 * t, seed)
    return smoothstep(0.0, 0.35, w.y - w.x) * (0.45 + 0.55 * w.z) * (1.1 - 0.6 * w.x)


@operation(
    "coord -> scalar",
    weight=0.8,
    rate=log(1.0, 8.0),
    angle=ANGLE,
    spread=linear(0.0, 3.14),
    seed=SEED,
)
def gabor(p: Value, *, t: Value, rate: Value, angle: Value, spread: Value, seed: Value) -> Value:
    """Wave packets: fabric, ripples in sand, fingerprints."""
    return 0.5 + 0.5 * gabor_noise(p * rate, angle + 0.1 * t, spread, seed)


@operation(
    "coord -> scalar",
    weight=1.0,
    rate=log(4.0, 26.0),
    waves=integer(4, 10),
    bias=linear(-0.6, 0.6),
    contrast=log(1.0, 6.0),
    seed=SEED,
)
def labyrinth(
    p: Value, *, t: Value, rate: Value, waves: Value, bias: Value, contrast: Value, seed: Value
) -> Value:
    """Plane waves of one wavelength, pushed to black and white: Turing's spots and stripes."""

    def wave(i: Value, total: Value) -> tuple[Value, ...]:
        h = hash_number(i, seed)
        return (total + sin(rate * dot(p, direction(TURN * h.x)) + TURN * h.y + 0.3 * t),)

    (total,) = loop(waves, wave, 0.0)
    return 0.5 + 0.5 * tanh(contrast * (total / power(to_float(waves), 0.5) + bias))


@operation(
    "coord -> scalar",
    weight=0.7,
    rate=log(1.5, 7.0),
    size=linear(0.15, 0.45),
    softness=log(0.02, 0.3),
    seed=SEED,
)
def spots(p: Value, *, t: Value, rate: Value, size: Value, softness: Value, seed: Value) -> Value:
    """Dots of different sizes, strewn."""

    def visit(away: Value, h: Value, total: Value) -> tuple[Value, ...]:
        radius = size * (0.3 + unit(scramble(h + 9)))
        d = length(away - pair(h) + 0.06 * sin(t + TURN * unit(h)))
        return (total + smoothstep(softness, -softness, d - radius),)

    (total,) = neighborhood(p * rate, seed, visit, 0.0)
    return minimum(total, 1.0)


@operation("coord -> scalar", weight=0.6, rate=log(4.0, 40.0), phase=ANGLE)
def rings(p: Value, *, t: Value, rate: Value, phase: Value) -> Value:
    """Circles around the middle."""
    return 0.5 + 0.5 * sin(rate * length(p) + phase - 2.0 * t)


@operation("coord -> scalar", weight=0.4, arms=integer(1, 8), pitch=linear(1.0, 8.0))
def spiral_arms(p: Value, *, t: Value, arms: Value, pitch: Value) -> Value:
    """Arms of a spiral."""
    angle = to_float(arms) * atan2(p.y, p.x)
    return 0.5 + 0.5 * sin(angle + pitch * log2(length(p) + 0.02) + t)


@operation("coord -> scalar", weight=0.8, rate=log(2.0, 50.0), angle=ANGLE, speed=linear(-2.0, 2.0))
def stripes(p: Value, *, t: Value, rate: Value, angle: Value, speed: Value) -> Value:
    """Soft stripes."""
    return 0.5 + 0.5 * sin(rate * dot(p, direction(angle)) + speed * t)


@operation("coord -> scalar", weight=0.4, rate=log(1.0, 10.0))
def checker(p: Value, *, rate: Value) -> Value:
    """A chessboard."""
    q = floor(p * rate)
    return modulo(q.x + q.y, 2.0)


@operation("coord -> scalar", weight=0.4, rate=log(1.5, 8.0), width=linear(0.1, 0.4))
def weave(p: Value, *, rate: Value, width: Value) -> Value:
    """Threads over and under each other."""
    q = p * rate
    f = absolute(fract(q) - 0.5)
    over = modulo(floor(q.x) + floor(q.y), 2.0)
    warp = (1.0 - f.x / (width + 0.1)) * (0.6 + 0.4 * cos(TURN * 0.5 * q.y))
    weft = (1.0 - f.y / (width + 0.1)) * (0.6 + 0.4 * sin(TURN * 0.5 * q.x))
    return clamp(mix(warp, weft, over), 0.0, 1.0)


@operation("coord -> scalar", weight=0.5, rate=log(1.5, 8.0), width=linear(0.05, 0.25), seed=SEED)
def truchet(p: Value, *, rate: Value, width: Value, seed: Value) -> Value:
    """Quarter circles at random turns: endless loops."""
    q = p * rate
    cell = floor(q)
    f = q - cell
    flipped = where(hash_unit(cell, seed) < 0.5, f.x, 1.0 - f.x)
    a = length(vec2(flipped, f.y))
    b = length(vec2(1.0 - flipped, 1.0 - f.y))
    d = minimum(absolute(a - 0.5), absolute(b - 0.5))
    return smoothstep(width + 0.04, width - 0.04, d)


@operation("coord -> scalar", weight=0.4, rate=log(1.0, 8.0), seed=SEED)
def tiles(p: Value, *, rate: Value, seed: Value) -> Value:
    """One value for each square."""
    return hash_unit(floor(p * rate), seed)


@operation("coord -> scalar", weight=0.5, rate=log(3.0, 12.0), spread=UNIT, seed=SEED)
def planks(p: Value, *, rate: Value, spread: Value, seed: Value) -> Value:
    """Rows cut into pieces of different grey, with joints."""
    q = vec2(p.x * rate * 0.3, p.y * rate)
    row = floor(q.y)
    shift = unit(scramble(cell_base(vec2(row, 0.0), seed)))
    along = q.x + shift * 3.0
    grey = hash_unit(vec2(floor(along), row), seed + 1)
    joint = minimum(fract(along) * 4.0, fract(q.y) * 2.0)
    return (0.5 + 0.5 * spread * (grey - 0.5) * 2.0) * smoothstep(0.0, 0.12, joint)


@operation("coord -> scalar", weight=0.8, angle=ANGLE)
def linear_gradient(p: Value, *, angle: Value) -> Value:
    """From dark to light along one direction."""
    return 0.5 + 0.5 * dot(p, direction(angle))


@operation("coord -> scalar", weight=0.8, slope=linear(0.4, 1.2), x=PLACE, y=PLACE)
def radial_gradient(p: Value, *, slope: Value, x: Value, y: Value) -> Value:
    """From light in one place to dark around it."""
    return 1.0 - slope * length(p - vec2(x, y))


@operation("coord -> scalar", weight=0.4, turns=integer(1, 3), angle=ANGLE)
def angular_gradient(p: Value, *, t: Value, turns: Value, angle: Value) -> Value:
    """Around the middle."""
    return fract(to_float(turns) * (atan2(p.y, p.x) + angle + 0.2 * t) * (1.0 / TURN))


@operation("coord -> scalar", weight=0.7, rate=log(2.0, 14.0), sources=integer(2, 6), seed=SEED)
def interference(p: Value, *, t: Value, rate: Value, sources: Value, seed: Value) -> Value:
    """Round waves from several sources."""
    q = p * rate

    def source(i: Value, total: Value) -> tuple[Value, ...]:
        h = hash_number(i, seed)
        return (total + sin(length(q - 9.0 * (h - 0.5)) * (1.0 + h.x) - t),)

    (total,) = loop(sources, source, 0.0)
    return 0.5 + 0.5 * total / power(to_float(sources), 0.7)


@operation("coord -> scalar", weight=0.4, rate=log(6.0, 30.0), angle=ANGLE, size=linear(0.3, 1.2))
def halftone(p: Value, *, rate: Value, angle: Value, size: Value) -> Value:
    """A print's dots, larger to one side."""
    f = fract(rotate(p, angle) * rate) - 0.5
    radius = size * clamp(0.5 + 0.4 * p.x, 0.1, 0.9)
    return smoothstep(radius + 0.1, radius - 0.1, 2.0 * length(f))


@operation("coord -> scalar", weight=0.5, rate=log(1.0, 4.0), lines=log(3.0, 14.0), seed=SEED)
def strata(p: Value, *, rate: Value, lines: Value, seed: Value) -> Value:
    """Layers of rock."""
    height = p.y + 0.35 * gradient_fbm(p * rate, 3, 0.5, seed)
    layer = floor(height * lines)
    return hash_unit(vec2(layer, 0.0), seed + 1)
