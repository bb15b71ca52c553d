"""Palettes in several color spaces, layers and grades: -> color."""

from __future__ import annotations

from procmem_pretrain.language import (
    Float,
    Number,
    Value,
    Vec3,
    absolute,
    clamp,
    cos,
    floor,
    fract,
    function,
    length,
    mix,
    power,
    sin,
    smoothstep,
    to_float,
    vec2,
    vec3,
    where,
)
from procmem_pretrain.noise import TURN, cell_base, hash_color, hash_unit, scramble
from procmem_pretrain.operations.table import (
    ANGLE,
    HUE,
    PLACE,
    SATURATION,
    SEED,
    UNIT,
    Parameter,
    integer,
    linear,
    log,
    operation,
)

_LUMA = (0.299, 0.587, 0.114)
_SOFTNESS = log(0.004, 0.1)


@function
def hsv(h: Float, s: Float, v: Float) -> Value:
    """Hue (turns), saturation, value -> RGB (Smith 1978)."""
    k = absolute(fract(h + (1.0, 0.6666667, 0.3333333)) * 6.0 - 3.0)
    return v * (1.0 + s * (clamp(k - 1.0, 0.0, 1.0) - 1.0))


@function
def oklab(lab: Vec3) -> Value:
    """Oklab (lightness in [0, 1], a, b) -> RGB with the screen's gamma (Ottosson 2020)."""
    long = lab.x + 0.3963377774 * lab.y + 0.2158037573 * lab.z
    middle = lab.x - 0.1055613458 * lab.y - 0.0638541728 * lab.z
    short = lab.x - 0.0894841775 * lab.y - 1.2914855480 * lab.z
    long, middle, short = long * long * long, middle * middle * middle, short * short * short
    linear_rgb = vec3(
        4.0767416621 * long - 3.3077115913 * middle + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * middle - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * middle + 1.7076147010 * short,
    )
    return power(linear_rgb, 0.4545455)


def _oklch(lightness: Number, chroma: Number, hue: Value) -> Value:
    return oklab(vec3(lightness, chroma * cos(TURN * hue), chroma * sin(TURN * hue)))


def _held(x: Value) -> Value:
    return clamp(x, 0.0, 1.0)


@operation(
    "scalar -> color",
    weight=1.5,
    red=UNIT,
    green=UNIT,
    blue=UNIT,
    floor_=linear(0.0, 0.3),
    rate=linear(0.4, 1.6),
)
def cosine_palette(
    x: Value, *, red: Value, green: Value, blue: Value, floor_: Value, rate: Value
) -> Value:
    """Three cosines of one number (Quilez)."""
    wave = 0.5 + 0.5 * cos(TURN * (rate * x + vec3(red, green, blue)))
    return floor_ + (1.0 - floor_) * wave


@operation(
    "scalar -> color", weight=2.0, h0=HUE, s0=SATURATION, v0=UNIT, h1=HUE, s1=SATURATION, v1=UNIT
)
def two_colors(
    x: Value, *, h0: Value, s0: Value, v0: Value, h1: Value, s1: Value, v1: Value
) -> Value:
    """From one color to another."""
    return mix(hsv(h0, s0, v0), hsv(h1, s1, v1), _held(x))


@operation(
    "scalar -> color",
    weight=1.6,
    h0=HUE,
    s0=SATURATION,
    v0=UNIT,
    h1=HUE,
    s1=SATURATION,
    v1=UNIT,
    h2=HUE,
    s2=SATURATION,
    v2=UNIT,
)
def three_colors(
    x: Value,
    *,
    h0: Value,
    s0: Value,
    v0: Value,
    h1: Value,
    s1: Value,
    v1: Value,
    h2: Value,
    s2: Value,
    v2: Value,
) -> Value:
    """From one color through another to a third."""
    x = _held(x)
    middle = hsv(h1, s1, v1)
    first = mix(hsv(h0, s0, v0), middle, 2.0 * x)
    return where(x < 0.5, first, mix(middle, hsv(h2, s2, v2), 2.0 * x - 1.0))


@operation(
    "scalar -> color",
    weight=2.0,
    dark=linear(0.05, 0.5),
    light=linear(0.55, 1.0),
    chroma=Parameter(0.0, 0.25, "vividness"),
    hue=HUE,
    turn=linear(-0.5, 0.5),
)
def oklch_ramp(
    x: Value, *, dark: Value, light: Value, chroma: Value, hue: Value, turn: Value
) -> Value:
    """Dark to light with a hue that turns: even steps to the eye, as in paintings."""
    x = _held(x)
    return _oklch(mix(dark, light, x), chroma * (0.6 + 0.4 * sin(3.1416 * x)), hue + turn * x)


@operation(
    "scalar scalar -> color",
    weight=1.2,
    lightness=linear(0.3, 0.8),
    reach=linear(0.05, 0.2),
    hue=HUE,
    spread=linear(0.1, 0.6),
)
def oklch_hues(
    x: Value, y: Value, *, lightness: Value, reach: Value, hue: Value, spread: Value
) -> Value:
    """Related hues of nearly one lightness."""
    return _oklch(lightness + 0.3 * (_held(y) - 0.5), reach, hue + spread * _held(x))


@operation(
    "scalar scalar -> color", weight=1.0, hue=HUE, spread=linear(0.0, 0.4), saturation=SATURATION
)
def one_hue(x: Value, y: Value, *, hue: Value, spread: Value, saturation: Value) -> Value:
    """Shades of one hue."""
    return hsv(hue + spread * y, saturation, _held(x))


@operation("scalar -> color", weight=0.5)
def grey(x: Value) -> Value:
    """No color."""
    x = _held(x)
    return vec3(x, x, x)


@operation(
    "scalar -> color",
    weight=0.7,
    page=linear(0.8, 1.0),
    ink=linear(0.0, 0.3),
    hue=HUE,
    tint=linear(0.0, 0.3),
)
def paper(x: Value, *, page: Value, ink: Value, hue: Value, tint: Value) -> Value:
    """Dark ink on a light page."""
    return mix(hsv(hue, tint, page), hsv(hue + 0.5, tint, ink), _held(x))


@operation("scalar scalar scalar -> color", weight=0.5)
def channels(r: Value, g: Value, b: Value) -> Value:
    """Three patterns as red, green and blue."""
    return vec3(_held(r), _held(g), _held(b))


@operation("scalar -> color", weight=1.0, levels=integer(2, 8), saturation=SATURATION, seed=SEED)
def crayons(x: Value, *, levels: Value, saturation: Value, seed: Value) -> Value:
    """A few flat colors that have nothing to do with each other."""
    level = floor(_held(x) * (to_float(levels) - 0.01))
    h = scramble(cell_base(vec2(level, 0.0), seed))
    color = hash_color(h)
    return mix(vec3(color.x, color.x, color.x), color, saturation)


@operation("color color scalar -> color", weight=3.0)
def layer(below: Value, above: Value, mask: Value) -> Value:
    """One picture over another where the mask says so."""
    return mix(below, above, _held(mask))


@operation(
    "color color distance -> color",
    weight=4.0,
    softness=_SOFTNESS,
    shadow=linear(0.0, 0.7),
    reach=linear(0.03, 0.25),
)
def cutout(
    below: Value, above: Value, d: Value, *, softness: Value, shadow: Value, reach: Value
) -> Value:
    """A shape cut out of one picture, laid over another, with its shadow around it."""
    dimmed = below * (1.0 - shadow * clamp_share(1.0 - d / reach))
    return mix(dimmed, above, smoothstep(softness, -softness, d))


def clamp_share(x: Value) -> Value:
    """X * x, held in [0, 1]: light falls off faster than linear."""
    x = _held(x)
    return x * x


@operation(
    "color color distance -> color",
    weight=1.5,
    softness=_SOFTNESS,
    width=linear(0.01, 0.06),
    h=HUE,
    v=UNIT,
)
def outlined(
    below: Value, above: Value, d: Value, *, softness: Value, width: Value, h: Value, v: Value
) -> Value:
    """A shape with a contour, as drawn by hand."""
    picture = mix(below, above, smoothstep(softness, -softness, d))
    return mix(picture, hsv(h, 0.6, v), smoothstep(width + 0.01, width - 0.01, absolute(d)))


@operation(
    "color color distance -> color",
    weight=1.2,
    softness=_SOFTNESS,
    rim=linear(0.1, 0.4),
    dark=linear(0.2, 0.7),
)
def solid(
    below: Value, above: Value, d: Value, *, softness: Value, rim: Value, dark: Value
) -> Value:
    """A shape that darkens toward its rim: a round body."""
    inside = clamp(-d / rim, 0.0, 1.0)
    shade = mix(dark, 1.1, inside * (2.0 - inside))
    return mix(below, above * shade, smoothstep(softness, -softness, d))


@operation("color scalar -> color", weight=1.2, ambient=linear(0.1, 0.6))
def shade(color: Value, light: Value, *, ambient: Value) -> Value:
    """A color under a light."""
    return color * (ambient + (1.0 - ambient) * clamp(light, 0.0, 1.3))


@operation("color color -> color", weight=0.5, share=linear(0.3, 0.9))
def screen(a: Value, b: Value, *, share: Value) -> Value:
    """Two slides in one projector."""
    return 1.0 - (1.0 - a) * (1.0 - share * b)


@operation("color color -> color", weight=0.5, share=linear(0.3, 0.9))
def multiply(a: Value, b: Value, *, share: Value) -> Value:
    """One picture printed over another."""
    return a * (1.0 - share + share * b)


@operation("color -> color", weight=0.4, hue=HUE, saturation=SATURATION, share=UNIT)
def tint(color: Value, *, hue: Value, saturation: Value, share: Value) -> Value:
    """Colored glass."""
    glass = 1.5 * hsv(hue, saturation, 1.0)
    return mix(color, color * glass, share)


@operation("color -> color", weight=0.4, share=UNIT)
def desaturate(color: Value, *, share: Value) -> Value:
    """Toward grey."""
    r, g, b = _LUMA
    luma = r * color.x + g * color.y + b * color.z
    return mix(color, vec3(luma, luma, luma), share)


@operation("color -> color", weight=0.4, contrast=log(0.6, 2.0), middle=linear(0.3, 0.6))
def contrast(color: Value, *, contrast: Value, middle: Value) -> Value:
    """A photographer's curve."""
    return middle + contrast * (color - middle)


@operation("color scalar -> color", weight=0.4, turn=linear(-0.5, 0.5))
def turn_hue(color: Value, amount: Value, *, turn: Value) -> Value:
    """Turns the hue by a pattern: a rotation around the grey axis."""
    angle = TURN * turn * amount
    c, s = cos(angle), sin(angle)
    third = (color.x + color.y + color.z) * (1.0 / 3.0) * (1.0 - c)
    k = 0.57735027 * s
    return vec3(
        color.x * c + third + k * (color.z - color.y),
        color.y * c + third + k * (color.x - color.z),
        color.z * c + third + k * (color.y - color.x),
    )


@operation("coord color -> color", weight=0.3, x=PLACE, y=PLACE, strength=linear(0.2, 0.8))
def vignette(p: Value, color: Value, *, x: Value, y: Value, strength: Value) -> Value:
    """Darker away from one place."""
    return color * clamp(1.3 - strength * length(p - 0.5 * vec2(x, y)), 0.2, 1.2)


@operation(
    "coord color -> color", weight=0.3, rate=log(40.0, 90.0), strength=linear(0.05, 0.25), seed=SEED
)
def grain(p: Value, color: Value, *, rate: Value, strength: Value, seed: Value) -> Value:
    """Fine grains of light and dark."""
    return color + strength * (hash_unit(floor(p * rate), seed) - 0.5)


@operation("coord -> color", weight=0.6, horizon=linear(-0.4, 0.6), hue=HUE, night=linear(0.2, 1.0))
def sky(p: Value, *, horizon: Value, hue: Value, night: Value) -> Value:
    """A ground and a sky that pales toward the horizon."""
    up = p.y - horizon
    above = _oklch(0.9 - 0.5 * clamp(up, 0.0, 1.2), 0.02 + 0.08 * clamp(up, 0.0, 1.0), hue)
    below = _oklch(0.35 + 0.25 * clamp(1.0 + up, 0.0, 1.0), 0.07, hue + 0.4)
    return night * mix(below, above, smoothstep(-0.02, 0.02, up))


@operation(
    "color color scalar -> color", weight=0.5, level=linear(0.3, 0.7), width=linear(0.02, 0.12)
)
def burnt(below: Value, above: Value, mask: Value, *, level: Value, width: Value) -> Value:
    """One picture eaten away, the rim charred."""
    rim = clamp(1.0 - absolute(mask - level) / width, 0.0, 1.0)
    return mix(below, above, smoothstep(level - 0.02, level + 0.02, mask)) * (1.0 - 0.8 * rim)


@operation(
    "color coord -> color", weight=0.3, rate=log(2.0, 8.0), dark=linear(0.2, 0.8), angle=ANGLE
)
def dappled(color: Value, p: Value, *, t: Value, rate: Value, dark: Value, angle: Value) -> Value:
    """Light through leaves."""
    q = p * rate + angle
    spots = 0.5 + 0.5 * sin(q.x + 1.7 * sin(q.y + t)) * cos(q.y - 1.3 * sin(q.x))
    return color * mix(dark, 1.15, smoothstep(0.3, 0.7, spots))
