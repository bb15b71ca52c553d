"""The plane moved, bent, folded and repeated: coord -> coord."""

from __future__ import annotations

from procmem_pretrain.language import (
    Value,
    absolute,
    atan2,
    cos,
    direction,
    dot,
    exp,
    floor,
    fract,
    length,
    log2,
    loop,
    maximum,
    modulo,
    power,
    rotate,
    sin,
    to_float,
    vec2,
    where,
)
from procmem_pretrain.noise import (
    TURN,
    cell_base,
    gradient_fbm,
    noise_vector,
    pair,
    scramble,
    unit,
)
from procmem_pretrain.operations.table import (
    ANGLE,
    PLACE,
    SEED,
    SPEED,
    UNIT,
    integer,
    linear,
    log,
    operation,
)


@operation("coord -> coord", weight=2.0, angle=ANGLE, zoom=log(0.4, 2.5), speed=SPEED)
def turn(p: Value, *, t: Value, angle: Value, zoom: Value, speed: Value) -> Value:
    """Turns and scales."""
    return rotate(p, angle + speed * t) * zoom


@operation("coord -> coord", weight=1.5, x=PLACE, y=PLACE, speed_x=SPEED, speed_y=SPEED)
def move(p: Value, *, t: Value, x: Value, y: Value, speed_x: Value, speed_y: Value) -> Value:
    """Shifts, on and on."""
    return p + vec2(x + 0.5 * speed_x * t, y + 0.5 * speed_y * t)


@operation("coord -> coord", weight=0.6, both=linear(-0.6, 0.6), one=linear(-0.8, 0.8))
def shear(p: Value, *, both: Value, one: Value) -> Value:
    """Slants."""
    return vec2(p.x + (both + one) * p.y, p.y + both * p.x)


@operation("coord -> coord", weight=0.5, x=log(0.4, 2.5), y=log(0.4, 2.5))
def stretch(p: Value, *, x: Value, y: Value) -> Value:
    """Scales the axes apart."""
    return p * vec2(x, y)


@operation("coord -> coord", weight=0.6, tilt=linear(0.1, 0.5), angle=ANGLE)
def perspective(p: Value, *, tilt: Value, angle: Value) -> Value:
    """Looks at the plane from the side."""
    q = rotate(p, angle)
    return q * (1.0 / maximum(1.0 + tilt * q.y, 0.2))


@operation(
    "coord -> coord", weight=1.5, size=linear(0.05, 0.4), rate=log(1.0, 12.0), x=ANGLE, y=ANGLE
)
def sine_warp(p: Value, *, t: Value, size: Value, rate: Value, x: Value, y: Value) -> Value:
    """Waves across each other."""
    return p + size * sin(rate * p.yx + vec2(x + t, y + t))


@operation(
    "coord -> coord",
    weight=2.5,
    size=linear(0.1, 1.0),
    rate=log(0.7, 4.0),
    octaves=integer(1, 4),
    seed=SEED,
)
def noise_warp(
    p: Value, *, t: Value, size: Value, rate: Value, octaves: Value, seed: Value
) -> Value:
    """Domain warping by two noises."""
    return p + size * noise_vector(p * rate + 0.2 * t, octaves, seed)


@operation("coord -> coord", weight=1.0, size=linear(0.03, 0.2), rate=log(0.8, 4.0), seed=SEED)
def flow_warp(p: Value, *, t: Value, size: Value, rate: Value, seed: Value) -> Value:
    """Six steps along a swirling current: stirred paint."""

    def step(_: Value, p: Value) -> tuple[Value, ...]:
        turning = TURN * gradient_fbm(p * rate + 0.1 * t, 2, 0.5, seed)
        return (p + size * direction(turning),)

    (moved,) = loop(6, step, p)
    return moved


@operation(
    "coord -> coord", weight=1.0, x=PLACE, y=PLACE, turns=linear(-5.0, 5.0), falloff=log(0.5, 4.0)
)
def swirl(p: Value, *, t: Value, x: Value, y: Value, turns: Value, falloff: Value) -> Value:
    """A whirl around one place."""
    q = p - vec2(x, y)
    return rotate(q, turns * exp(-falloff * dot(q, q)) + 0.3 * t)


@operation("coord -> coord", weight=0.6, strength=linear(-0.45, 1.5))
def lens(p: Value, *, strength: Value) -> Value:
    """Barrel and pincushion."""
    return p * (1.0 + strength * dot(p, p) / (1.0 + 0.3 * dot(p, p)))


@operation(
    "coord -> coord", weight=0.5, x=PLACE, y=PLACE, radius=linear(0.3, 0.8), power_=log(0.4, 2.5)
)
def bulge(p: Value, *, x: Value, y: Value, radius: Value, power_: Value) -> Value:
    """A round magnifier in one place."""
    q = p - vec2(x, y)
    share = length(q) / radius
    return where(share < 1.0, q * power(share, power_), q)


@operation("coord -> coord", weight=0.5, spokes=integer(1, 6), speed=SPEED)
def log_polar(p: Value, *, t: Value, spokes: Value, speed: Value) -> Value:
    """Rings and spokes that grow outward."""
    angle = atan2(p.y, p.x) * to_float(spokes) * (1.0 / 3.14159265)
    return vec2(0.6931472 * log2(length(p) + 0.02) + speed * t, angle)


@operation("coord -> coord", weight=0.4, spokes=integer(1, 6), rate=log(0.7, 4.0))
def polar(p: Value, *, spokes: Value, rate: Value) -> Value:
    """Radius and angle as the new axes."""
    return vec2(length(p) * rate, atan2(p.y, p.x) * to_float(spokes) * (1.0 / 3.14159265))


@operation("coord -> coord", weight=0.4, spokes=integer(1, 5), pitch=linear(0.5, 3.0))
def spiral(p: Value, *, t: Value, spokes: Value, pitch: Value) -> Value:
    """Log-polar, slanted."""
    radius = 0.6931472 * log2(length(p) + 0.02)
    angle = atan2(p.y, p.x) * to_float(spokes) * (1.0 / 3.14159265)
    return vec2(radius * pitch + angle, angle - radius + 0.2 * t)


@operation("coord -> coord", weight=0.4, size=linear(0.4, 1.5), softness=log(0.05, 0.5))
def inversion(p: Value, *, size: Value, softness: Value) -> Value:
    """Inside out at a circle."""
    return p * size / (dot(p, p) + softness)


@operation("coord -> coord", weight=0.4, x=PLACE, y=PLACE, u=PLACE, v=PLACE)
def mobius(p: Value, *, x: Value, y: Value, u: Value, v: Value) -> Value:
    """(z + a) / (conj(a) z + 1), a Moebius map, bounded near its pole."""
    top = p + vec2(x, y)
    bottom = vec2(u * p.x - v * p.y + 1.0, u * p.y + v * p.x)
    scale = 1.0 / (dot(bottom, bottom) + 0.1)
    return vec2(top.x * bottom.x + top.y * bottom.y, top.y * bottom.x - top.x * bottom.y) * scale


@operation("coord -> coord", weight=0.3, x=PLACE, y=PLACE)
def complex_square(p: Value, *, x: Value, y: Value) -> Value:
    """Z * z + a."""
    return vec2(p.x * p.x - p.y * p.y + x, 2.0 * p.x * p.y + y)


@operation("coord -> coord", weight=0.7, angle=ANGLE, x=UNIT, y=UNIT)
def fold(p: Value, *, angle: Value, x: Value, y: Value) -> Value:
    """Mirrors at two lines."""
    return absolute(rotate(p, angle)) - vec2(x, y)


@operation("coord -> coord", weight=0.8, angle=ANGLE, x=linear(0.0, 0.5))
def bilateral(p: Value, *, angle: Value, x: Value) -> Value:
    """Mirrors at one line, as bodies and faces do."""
    q = rotate(p, angle)
    return vec2(absolute(q.x) - x, q.y)


@operation("coord -> coord", weight=0.5, folds=integer(3, 9), angle=ANGLE)
def kaleidoscope(p: Value, *, t: Value, folds: Value, angle: Value) -> Value:
    """Mirrors at the spokes of a wheel."""
    sector = TURN / to_float(folds)
    a = modulo(atan2(p.y, p.x) + angle + 0.2 * t, sector)
    return length(p) * direction(absolute(a - 0.5 * sector))


@operation("coord -> coord", weight=0.6, rate=log(1.0, 4.0))
def repeat(p: Value, *, rate: Value) -> Value:
    """The same square, again and again."""
    return 2.0 * fract(0.5 * rate * p + 0.5) - 1.0


@operation("coord -> coord", weight=0.5, rate=log(0.8, 4.0))
def mirror_repeat(p: Value, *, rate: Value) -> Value:
    """Squares, every second one mirrored."""
    return 2.0 * absolute(2.0 * fract(0.25 * rate * p) - 1.0) - 1.0


@operation("coord -> coord", weight=0.4, rate=log(1.0, 4.0), tall=log(0.7, 2.5))
def brick_repeat(p: Value, *, rate: Value, tall: Value) -> Value:
    """Bricks."""
    q = p * vec2(rate, rate * tall)
    shift = modulo(floor(0.5 * q.y + 0.5), 2.0)
    return 2.0 * fract(0.5 * vec2(q.x + shift, q.y) + 0.5) - 1.0


@operation("coord -> coord", weight=0.4, rate=log(1.0, 5.0))
def hexagon_repeat(p: Value, *, rate: Value) -> Value:
    """Honeycomb: the offset from the nearest center of a hexagonal lattice."""
    q = p * rate
    a = _within(q, 1.0, 1.7320508)
    b = _within(q + (0.5, 0.8660254), 1.0, 1.7320508)
    return 2.0 * where(dot(a, a) < dot(b, b), a, b)


@operation("coord -> coord", weight=1.2, rate=log(1.0, 4.0), spread=UNIT, seed=SEED)
def scatter(p: Value, *, rate: Value, spread: Value, seed: Value) -> Value:
    """Copies strewn about: each cell with its own place, turn and size."""
    q = p * rate
    cell = floor(q)
    h = scramble(cell_base(cell, seed))
    local = 2.0 * (q - cell) - 1.0 - spread * (pair(h) - 0.5)
    size = 0.5 + unit(scramble(h + 3))
    return rotate(local, TURN * unit(scramble(h + 5)) * spread) / size


@operation(
    "coord -> coord",
    weight=0.5,
    angle=ANGLE,
    scale=linear(1.1, 1.7),
    offset=linear(0.2, 0.9),
    steps=integer(2, 5),
)
def iterate_fold(p: Value, *, angle: Value, scale: Value, offset: Value, steps: Value) -> Value:
    """Folds, turns and scales, several times: a kaleidoscopic fractal's plane."""

    def step(_: Value, p: Value, size: Value) -> tuple[Value, ...]:
        return rotate(absolute(p) - offset, angle) * scale, size * scale

    folded, size = loop(steps, step, p, 1.0)
    return folded * 2.0 / size


@operation("coord -> coord", weight=0.25, rate=log(4.0, 24.0))
def pixelate(p: Value, *, rate: Value) -> Value:
    """Coarse squares."""
    return (floor(p * rate) + 0.5) / rate


@operation("coord scalar -> coord", weight=1.2, size=linear(0.1, 0.8), angle=ANGLE)
def push(p: Value, amount: Value, *, size: Value, angle: Value) -> Value:
    """Shifts along one direction by a pattern."""
    return p + size * (amount - 0.5) * direction(angle)


@operation("coord scalar -> coord", weight=0.8, turns=linear(-3.0, 3.0))
def twist(p: Value, amount: Value, *, turns: Value) -> Value:
    """Turns by a pattern."""
    return rotate(p, turns * (amount - 0.5))


@operation("coord -> coord", weight=0.6, rate=log(2.0, 12.0), size=linear(0.02, 0.2), seed=SEED)
def shatter(p: Value, *, rate: Value, size: Value, seed: Value) -> Value:
    """Cut into strips that slipped."""
    strip = floor(p.y * rate)
    h = scramble(cell_base(vec2(strip, 0.0), seed))
    return p + vec2(size * 4.0 * (unit(h) - 0.5), 0.0)


@operation("coord -> coord", weight=0.3, petals=integer(2, 9), size=linear(0.1, 0.5))
def ripple(p: Value, *, t: Value, petals: Value, size: Value) -> Value:
    """Radius that swings with the angle."""
    swing = cos(to_float(petals) * atan2(p.y, p.x) + t)
    return p * (1.0 + size * swing)


def _within(p: Value, width: float, height: float) -> Value:
    """The offset from the middle of the rectangle of a lattice that holds p."""
    return vec2(modulo(p.x, width) - 0.5 * width, modulo(p.y, height) - 0.5 * height)
