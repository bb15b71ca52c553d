"""Shapes as signed distances, negative inside (after Quilez): coord -> distance, and their union.

Distances are in units of the plane; some are bounds rather than exact, which bends rims a little.
"""

from __future__ import annotations

from procmem_pretrain.language import (
    Float,
    Int,
    UInt,
    Value,
    Vec2,
    absolute,
    atan2,
    clamp,
    cos,
    direction,
    dot,
    function,
    length,
    loop,
    maximum,
    minimum,
    mix,
    modulo,
    rotate,
    sin,
    to_float,
    vec2,
)
from procmem_pretrain.noise import TURN, gradient_fbm, hash_number
from procmem_pretrain.operations.table import (
    ANGLE,
    SEED,
    UNIT,
    integer,
    linear,
    log,
    operation,
)

_SIZE = linear(0.2, 0.8)
_SMOOTHNESS = log(0.01, 0.4)


@function
def smooth_minimum(a: Float, b: Float, k: Float) -> Value:
    """A minimum whose edge is rounded over a width of k (Quilez' quadratic form)."""
    h = maximum(k - absolute(a - b), 0.0) / k
    return minimum(a, b) - 0.25 * h * h * k


@function
def segment_distance(p: Vec2, a: Vec2, b: Vec2) -> Value:
    """Distance to the straight line between two points."""
    along, from_a = b - a, p - a
    share = clamp(dot(from_a, along) / (dot(along, along) + 1e-6), 0.0, 1.0)
    return length(from_a - along * share)


@operation("coord -> distance", weight=1.0, radius=_SIZE)
def disc(p: Value, *, radius: Value) -> Value:
    """A circle."""
    return length(p) - radius


@operation("coord -> distance", weight=0.8, x=_SIZE, y=_SIZE, angle=ANGLE)
def ellipse(p: Value, *, x: Value, y: Value, angle: Value) -> Value:
    """An ellipse (first-order distance)."""
    q = rotate(p, angle)
    k = length(q / vec2(x, y))
    slope = length(q / vec2(x * x, y * y))
    return k * (k - 1.0) / maximum(slope, 1e-3)


@operation(
    "coord -> distance", weight=1.2, x=_SIZE, y=_SIZE, rounding=linear(0.0, 0.15), angle=ANGLE
)
def box(p: Value, *, x: Value, y: Value, rounding: Value, angle: Value) -> Value:
    """A rectangle with rounded corners."""
    q = absolute(rotate(p, angle)) - vec2(x, y) + rounding
    return length(maximum(q, 0.0)) + minimum(maximum(q.x, q.y), 0.0) - rounding


@operation(
    "coord -> distance",
    weight=1.2,
    radius=_SIZE,
    corners=integer(3, 9),
    star=linear(0.0, 0.6),
    angle=ANGLE,
)
def polygon(
    p: Value, *, t: Value, radius: Value, corners: Value, star: Value, angle: Value
) -> Value:
    """A regular polygon or, with `star`, a star."""
    q = rotate(p, angle + 0.3 * t)
    sector = TURN / to_float(corners)
    local = absolute(modulo(atan2(q.y, q.x), sector) - 0.5 * sector)
    pointed = 1.0 + cos(TURN * local / sector)
    return length(q) * mix(cos(local), pointed, star) - radius


@operation(
    "coord -> distance",
    weight=2.0,
    radius=_SIZE,
    roughness=linear(0.1, 0.8),
    rate=log(0.6, 2.5),
    seed=SEED,
)
def blob(p: Value, *, t: Value, radius: Value, roughness: Value, rate: Value, seed: Value) -> Value:
    """A closed smooth outline: pebble, leaf, amoeba."""
    around = p / (length(p) + 1e-3)
    bump = gradient_fbm(around * rate + 0.1 * t, 3, 0.5, seed)
    return length(p) - radius * (1.0 + roughness * bump)


@operation(
    "coord -> distance", weight=0.6, radius=_SIZE, width=linear(0.03, 0.2), open_=UNIT, angle=ANGLE
)
def arc(p: Value, *, t: Value, radius: Value, width: Value, open_: Value, angle: Value) -> Value:
    """Part of a ring, its ends round."""
    q = rotate(p, angle + 0.3 * t)
    q = vec2(absolute(q.x), q.y)
    end = direction(3.1 * open_ - 1.5707963)
    a = atan2(q.x, -q.y)
    beyond = absolute(a) - (3.1 * open_)
    ring = absolute(length(q) - radius)
    tip = length(q - radius * vec2(absolute(end.x), end.y))
    return minimum(maximum(ring, 10.0 * maximum(beyond, 0.0) * length(q)), tip) - width


@operation(
    "coord -> distance",
    weight=0.6,
    length_=linear(0.2, 0.9),
    width=linear(0.05, 0.3),
    taper=UNIT,
    angle=ANGLE,
)
def drop(p: Value, *, length_: Value, width: Value, taper: Value, angle: Value) -> Value:
    """A stick, thick at one end."""
    q = rotate(p, angle)
    share = clamp((q.x + length_) / (2.0 * length_), 0.0, 1.0)
    nearest = vec2(mix(-length_, length_, share), 0.0)
    return length(q - nearest) - width * mix(1.0, share, taper)


@operation(
    "coord -> distance",
    weight=0.5,
    radius=_SIZE,
    cut=linear(0.5, 1.1),
    shift=linear(0.2, 0.7),
    angle=ANGLE,
)
def moon(p: Value, *, radius: Value, cut: Value, shift: Value, angle: Value) -> Value:
    """A disc with a bite."""
    q = rotate(p, angle)
    bite = length(q - vec2(shift, 0.0) * radius * 2.0) - radius * cut
    return maximum(length(q) - radius, -bite)


@operation(
    "coord -> distance", weight=0.5, radius=_SIZE, teeth=integer(5, 16), depth=linear(0.05, 0.3)
)
def gear(p: Value, *, t: Value, radius: Value, teeth: Value, depth: Value) -> Value:
    """A wheel with teeth or a flower."""
    wave = sin(to_float(teeth) * atan2(p.y, p.x) + t)
    return length(p) - radius * (1.0 + depth * clamp(2.0 * wave, -1.0, 1.0))


@operation(
    "coord -> distance",
    weight=1.2,
    count=integer(3, 8),
    size=linear(0.08, 0.3),
    seed=SEED,
    smoothness=_SMOOTHNESS,
)
def bubbles(
    p: Value, *, t: Value, count: Value, size: Value, seed: Value, smoothness: Value
) -> Value:
    """Discs of different sizes, melted together."""

    def grow(i: Value, d: Value) -> tuple[Value, ...]:
        h = hash_number(i, seed)
        place = 1.3 * (h - 0.5) + 0.05 * sin(t + TURN * h.yx)
        radius = size * (0.5 + hash_number(i, seed + 1).x)
        return (smooth_minimum(d, length(p - place) - radius, smoothness),)

    (d,) = loop(count, grow, 9.0)
    return d


@operation(
    "coord -> distance",
    weight=1.5,
    limbs=integer(2, 7),
    width=linear(0.04, 0.16),
    seed=SEED,
    smoothness=_SMOOTHNESS,
)
def creature(
    p: Value, *, t: Value, limbs: Value, width: Value, seed: Value, smoothness: Value
) -> Value:
    """A body with limbs that bend once, melted together."""

    def limb(i: Value, d: Value) -> tuple[Value, ...]:
        h, g = hash_number(i, seed), hash_number(i, seed + 1)
        angle = TURN * h.x + 0.2 * sin(t + TURN * h.y)
        knee = (0.25 + 0.2 * g.x) * direction(angle)
        foot = knee + (0.15 + 0.3 * g.y) * direction(angle + 2.4 * (h.y - 0.5))
        leg = minimum(segment_distance(p, (0.0, 0.0), knee), segment_distance(p, knee, foot))
        return (smooth_minimum(d, leg - width * (0.5 + 0.7 * g.x), smoothness),)

    (d,) = loop(limbs, limb, length(p) - 2.0 * width)
    return d


@function
def stroke_distance(p: Vec2, count: Int, seed: UInt) -> Value:
    """Distance to the nearest of some curved strokes (quadratic Bezier curves in six pieces)."""

    def stroke(i: Value, nearest: Value) -> tuple[Value, ...]:
        a, b = 1.6 * (hash_number(i, seed) - 0.5), 1.6 * (hash_number(i, seed + 1) - 0.5)
        c = 2.4 * (hash_number(i, seed + 2) - 0.5)

        def piece(k: Value, last: Value, nearest: Value) -> tuple[Value, ...]:
            u = (to_float(k) + 1.0) * (1.0 / 6.0)
            following = mix(mix(a, c, u), mix(c, b, u), u)
            return following, minimum(nearest, segment_distance(p, last, following))

        _, nearest = loop(6, piece, a, nearest)
        return (nearest,)

    (nearest,) = loop(count, stroke, 9.0)
    return nearest


@operation(
    "coord -> distance", weight=1.6, count=integer(1, 5), width=linear(0.015, 0.1), seed=SEED
)
def strokes(p: Value, *, count: Value, width: Value, seed: Value) -> Value:
    """Curved strokes of a pen."""
    return stroke_distance(p, count, seed) - width


@operation(
    "coord -> distance", weight=0.8, lines=integer(3, 7), width=linear(0.03, 0.09), seed=SEED
)
def glyph(p: Value, *, lines: Value, width: Value, seed: Value) -> Value:
    """Straight strokes between the points of a 3 x 3 grid: a letter of no alphabet."""

    def line(i: Value, nearest: Value) -> tuple[Value, ...]:
        a, b = hash_number(i, seed), hash_number(i, seed + 1)
        return (minimum(nearest, segment_distance(p, _grid_point(a), _grid_point(b))),)

    (nearest,) = loop(lines, line, 9.0)
    return nearest - width


def _grid_point(h: Value) -> Value:
    # A number in [0, 1) in three steps: -0.5, 0, 0.5.
    third = vec2(_step(h.x), _step(h.y))
    return 0.5 * third


def _step(x: Value) -> Value:
    return clamp(30.0 * (x - 0.3333), 0.0, 1.0) + clamp(30.0 * (x - 0.6667), 0.0, 1.0) - 1.0


@operation("distance distance -> distance", weight=1.5, smoothness=_SMOOTHNESS)
def union(a: Value, b: Value, *, smoothness: Value) -> Value:
    """Both shapes, melted together."""
    return smooth_minimum(a, b, smoothness)


@operation("distance distance -> distance", weight=0.8, smoothness=_SMOOTHNESS)
def cut(a: Value, b: Value, *, smoothness: Value) -> Value:
    """The first shape without the second."""
    return -smooth_minimum(-a, b, smoothness)


@operation("distance distance -> distance", weight=0.5, smoothness=_SMOOTHNESS)
def intersection(a: Value, b: Value, *, smoothness: Value) -> Value:
    """Where both shapes are."""
    return -smooth_minimum(-a, -b, smoothness)


@operation("distance distance -> distance", weight=0.6, share=linear(0.2, 0.8))
def morph(a: Value, b: Value, *, t: Value, share: Value) -> Value:
    """A shape between two."""
    return mix(a, b, clamp(share + 0.2 * sin(t), 0.0, 1.0))


@operation("distance -> distance", weight=0.6, width=linear(0.02, 0.12))
def onion(d: Value, *, width: Value) -> Value:
    """Only the rim."""
    return absolute(d) - width


@operation("distance scalar -> distance", weight=0.8, depth=linear(0.03, 0.3))
def roughen(d: Value, pattern: Value, *, depth: Value) -> Value:
    """A rim moved by a pattern."""
    return d + depth * (pattern - 0.5)
