"""The vocabulary of procedural programs: one table, one entry per operation.

Adding an operation means adding one entry to `OPERATIONS` (and, if it needs a helper function,
GLSL to `prelude.glsl`). `grammar.py` draws from the table, `emit_glsl.py` writes it out.

Types: "coord" is a point of the plane (vec2), the picture spans about [-1, 1]; "scalar" is a
float, by convention near [0, 1]; "color" is linear RGB (vec3) in [0, 1].

In a GLSL template {0}, {1}... are the inputs, {a}, {b}... the parameters in order, `t` is the
time in seconds. Hashes are integer arithmetic, so that every driver draws the same picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Type = Literal["coord", "scalar", "color"]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A number drawn once per program.

    Attributes:
        low: smallest value.
        high: largest value.
        scale: "linear", "log" (uniform in the logarithm) or "integer" (both ends included).
    """

    low: float
    high: float
    scale: Literal["linear", "log", "integer"] = "linear"


@dataclass(frozen=True, slots=True)
class Operation:
    """One kind of node.

    Attributes:
        inputs: types of the nodes it reads.
        output: type of what it gives.
        glsl: an expression; see the module docstring for its placeholders.
        parameters: drawn when a program is made.
        weight: relative chance among the operations of the same output type.
    """

    inputs: tuple[Type, ...]
    output: Type
    glsl: str
    parameters: tuple[Parameter, ...] = ()
    weight: float = 1.0


def _linear(low: float, high: float) -> Parameter:
    return Parameter(low, high)


def _log(low: float, high: float) -> Parameter:
    return Parameter(low, high, "log")


def _integer(low: int, high: int) -> Parameter:
    return Parameter(low, high, "integer")


_ANGLE = _linear(0.0, 6.2832)
_UNIT = _linear(0.0, 1.0)
_SEED = _integer(0, 65535)
_PLACE = _linear(-0.8, 0.8)
_SPEED = _linear(-0.4, 0.4)

OPERATIONS: dict[str, Operation] = {
    # ---- the plane bent, folded and repeated: coord -> coord
    "turn": Operation(
        ("coord",), "coord", "rot({0}, {a} + {c} * t) * {b}", (_ANGLE, _log(0.4, 2.5), _SPEED), 2.0
    ),
    "move": Operation(
        ("coord",),
        "coord",
        "{0} + vec2({a}, {b}) + t * vec2({c}, {d})",
        (_PLACE, _PLACE, _SPEED, _SPEED),
        1.0,
    ),
    "shear": Operation(
        ("coord",),
        "coord",
        "{0} + {a} * {0}.yx + {b} * vec2({0}.y, 0.0)",
        (_linear(-0.6, 0.6), _linear(-0.8, 0.8)),
        0.6,
    ),
    "sine_warp": Operation(
        ("coord",),
        "coord",
        "{0} + {a} * sin({b} * {0}.yx + vec2({c}, {d}) + t)",
        (_linear(0.05, 0.4), _log(1.0, 12.0), _ANGLE, _ANGLE),
        1.5,
    ),
    "noise_warp": Operation(
        ("coord",),
        "coord",
        "{0} + {a} * noise_vector({0} * {b} + 0.2 * t, uint({c}))",
        (_linear(0.1, 1.0), _log(0.7, 4.0), _SEED),
        2.5,
    ),
    "swirl": Operation(
        ("coord",),
        "coord",
        "rot({0} - vec2({a}, {b}), {c} * exp(-{d} * dot({0}, {0})) + 0.3 * t)",
        (_PLACE, _PLACE, _linear(-5.0, 5.0), _log(0.5, 4.0)),
        1.0,
    ),
    "lens": Operation(
        ("coord",), "coord", "{0} * (1.0 + {a} * dot({0}, {0}))", (_linear(-0.45, 1.5),), 0.6
    ),
    "log_polar": Operation(
        ("coord",),
        "coord",
        "vec2(log(length({0}) + 0.02), atan({0}.y, {0}.x) * {a} / 3.14159265 + {b} * t)",
        (_integer(1, 6), _SPEED),
        0.5,
    ),
    "polar": Operation(
        ("coord",),
        "coord",
        "vec2(length({0}) * {b}, atan({0}.y, {0}.x) * {a} / 3.14159265)",
        (_integer(1, 6), _log(0.7, 4.0)),
        0.4,
    ),
    "inversion": Operation(
        ("coord",),
        "coord",
        "{0} * {a} / (dot({0}, {0}) + {b})",
        (_linear(0.4, 1.5), _log(0.05, 0.5)),
        0.4,
    ),
    "fold": Operation(
        ("coord",), "coord", "abs(rot({0}, {a})) - vec2({b}, {c})", (_ANGLE, _UNIT, _UNIT), 0.7
    ),
    "kaleidoscope": Operation(
        ("coord",), "coord", "kaleidoscope({0}, {a}, {b} + 0.2 * t)", (_integer(3, 9), _ANGLE), 0.5
    ),
    "repeat": Operation(("coord",), "coord", "repeat({0} * {a})", (_log(1.0, 4.0),), 0.6),
    "mirror_repeat": Operation(
        ("coord",), "coord", "mirror_repeat({0} * {a})", (_log(0.8, 4.0),), 0.5
    ),
    "brick_repeat": Operation(
        ("coord",),
        "coord",
        "brick_repeat({0} * {a} * vec2(1.0, {b}))",
        (_log(1.0, 4.0), _log(0.7, 2.5)),
        0.4,
    ),
    "scatter": Operation(
        ("coord",),
        "coord",
        "scatter({0} * {a}, {b}, uint({c}))",
        (_log(1.0, 4.0), _UNIT, _SEED),
        1.2,
    ),
    "iterate_fold": Operation(
        ("coord",),
        "coord",
        "iterate_fold({0}, {a}, {b}, {c}, int({d}))",
        (_ANGLE, _linear(1.1, 1.7), _linear(0.2, 0.9), _integer(2, 5)),
        0.5,
    ),
    "pixelate": Operation(("coord",), "coord", "floor({0} * {a}) / {a}", (_log(4.0, 24.0),), 0.25),
    # ---- patterns, shapes and fractals: coord -> scalar
    "value_fbm": Operation(
        ("coord",),
        "scalar",
        "value_fbm({0} * {a} + 0.3 * t, int({b}), {c}, uint({d}))",
        (_log(0.8, 10.0), _integer(1, 6), _linear(0.35, 0.7), _SEED),
        1.5,
    ),
    "gradient_fbm": Operation(
        ("coord",),
        "scalar",
        "0.5 + 0.7 * gradient_fbm({0} * {a} + 0.3 * t, int({b}), {c}, uint({d}))",
        (_log(0.8, 10.0), _integer(1, 6), _linear(0.35, 0.7), _SEED),
        2.0,
    ),
    "ridged_fbm": Operation(
        ("coord",),
        "scalar",
        "1.0 - 1.6 * abs(gradient_fbm({0} * {a} + 0.2 * t, int({b}), {c}, uint({d})))",
        (_log(0.8, 6.0), _integer(2, 6), _linear(0.35, 0.6), _SEED),
        1.2,
    ),
    "worley": Operation(
        ("coord",), "scalar", "worley({0} * {a}, t, uint({b})).x", (_log(1.0, 10.0), _SEED), 1.0
    ),
    "worley_edges": Operation(
        ("coord",),
        "scalar",
        "worley({0} * {a}, t, uint({b})).y - worley({0} * {a}, t, uint({b})).x",
        (_log(1.0, 8.0), _SEED),
        1.0,
    ),
    "voronoi_id": Operation(
        ("coord",), "scalar", "worley({0} * {a}, t, uint({b})).z", (_log(1.0, 8.0), _SEED), 1.0
    ),
    "relief": Operation(
        ("coord",),
        "scalar",
        "relief({0} * {a} + 0.2 * t, int({b}), {c}, {d}, uint({e}))",
        (_log(0.8, 6.0), _integer(2, 5), _ANGLE, _linear(0.5, 2.5), _SEED),
        1.5,
    ),
    "disc": Operation(
        ("coord",),
        "scalar",
        "edge({b} - length({0}), {a})",
        (_log(0.004, 0.3), _linear(0.2, 0.9)),
        1.0,
    ),
    "ball": Operation(
        ("coord",), "scalar", "ball({0} / {a}, {b} + 0.5 * t)", (_linear(0.4, 1.0), _ANGLE), 1.2
    ),
    "box": Operation(
        ("coord",),
        "scalar",
        "edge(-box_distance({0}, vec2({a}, {b}), {c}), {d})",
        (_linear(0.15, 0.8), _linear(0.15, 0.8), _linear(0.0, 0.2), _log(0.004, 0.2)),
        1.0,
    ),
    "polygon": Operation(
        ("coord",),
        "scalar",
        "edge({c} - polygon_radius(rot({0}, 0.5 * t), {a}, {b}), {d})",
        (_integer(3, 9), _linear(0.0, 0.6), _linear(0.3, 0.8), _log(0.004, 0.1)),
        1.2,
    ),
    "blob": Operation(
        ("coord",),
        "scalar",
        "edge({a} - blob_radius({0}, {b}, t, uint({c})), {d})",
        (_linear(0.3, 0.8), _linear(0.1, 0.6), _SEED, _log(0.004, 0.1)),
        1.5,
    ),
    "rings": Operation(
        ("coord",),
        "scalar",
        "0.5 + 0.5 * sin({a} * length({0}) + {b} - 2.0 * t)",
        (_log(4.0, 40.0), _ANGLE),
        0.6,
    ),
    "stripes": Operation(
        ("coord",),
        "scalar",
        "0.5 + 0.5 * sin({a} * dot({0}, vec2(cos({b}), sin({b}))) + {c} * t)",
        (_log(2.0, 50.0), _ANGLE, _linear(-2.0, 2.0)),
        0.8,
    ),
    "checker": Operation(
        ("coord",),
        "scalar",
        "mod(floor({0}.x * {a}) + floor({0}.y * {a}), 2.0)",
        (_log(1.0, 10.0),),
        0.4,
    ),
    "linear_gradient": Operation(
        ("coord",), "scalar", "0.5 + 0.5 * dot({0}, vec2(cos({a}), sin({a})))", (_ANGLE,), 0.8
    ),
    "radial_gradient": Operation(
        ("coord",),
        "scalar",
        "1.0 - {a} * length({0} - vec2({b}, {c}))",
        (_linear(0.4, 1.2), _PLACE, _PLACE),
        0.8,
    ),
    "waves": Operation(
        ("coord",), "scalar", "waves({0} * {a}, t, uint({b}))", (_log(2.0, 14.0), _SEED), 0.7
    ),
    "strokes": Operation(
        ("coord",),
        "scalar",
        "strokes({0}, int({a}), {b}, uint({c}))",
        (_integer(1, 5), _linear(0.015, 0.09), _SEED),
        2.0,
    ),
    "julia": Operation(
        ("coord",),
        "scalar",
        "julia({0} * {a}, vec2({b}, {c}) + 0.03 * vec2(cos(t), sin(t)))",
        (_linear(0.6, 1.6), _linear(-1.0, 0.4), _linear(-0.8, 0.8)),
        0.5,
    ),
    "orbit_trap": Operation(
        ("coord",),
        "scalar",
        "orbit_trap({0} * {a}, vec2({b}, {c}) + 0.03 * sin(t))",
        (_linear(0.6, 1.4), _linear(-1.0, 0.4), _linear(-0.8, 0.8)),
        0.5,
    ),
    "kali": Operation(
        ("coord",),
        "scalar",
        "kali({0} * {a}, vec2({b}, {c}), int({d}))",
        (_linear(0.5, 1.5), _linear(0.4, 1.0), _linear(0.2, 0.9), _integer(4, 9)),
        0.6,
    ),
    "sine_map": Operation(
        ("coord",),
        "scalar",
        "sine_map({0} * {a}, {b}, int({c}), t)",
        (_log(0.8, 3.0), _linear(0.5, 1.5), _integer(2, 6)),
        0.8,
    ),
    "cell_value": Operation(
        ("coord",),
        "scalar",
        "hash_unit(ivec2(floor({0} * {a})), uint({b}))",
        (_log(1.0, 8.0), _SEED),
        0.4,
    ),
    # ---- scalars reshaped and combined
    "threshold": Operation(
        ("scalar",),
        "scalar",
        "smoothstep({a} - {b}, {a} + {b}, {0})",
        (_linear(0.25, 0.75), _log(0.005, 0.25)),
        1.0,
    ),
    "wave": Operation(
        ("scalar",),
        "scalar",
        "0.5 + 0.5 * sin({a} * {0} + {b} + t)",
        (_log(3.0, 30.0), _ANGLE),
        0.8,
    ),
    "ridge": Operation(
        ("scalar",), "scalar", "1.0 - abs(2.0 * fract({a} * {0}) - 1.0)", (_log(0.7, 6.0),), 0.5
    ),
    "gain": Operation(
        ("scalar",), "scalar", "pow(clamp({0}, 0.0, 1.0), {a})", (_log(0.3, 3.0),), 0.6
    ),
    "posterize": Operation(("scalar",), "scalar", "floor({0} * {a}) / {a}", (_integer(2, 7),), 0.5),
    "invert": Operation(("scalar",), "scalar", "1.0 - {0}", (), 0.3),
    "contour": Operation(
        ("scalar",),
        "scalar",
        "smoothstep({a}, 0.0, abs(fract({b} * {0}) - 0.5))",
        (_linear(0.05, 0.3), _log(1.0, 8.0)),
        0.5,
    ),
    "sum": Operation(
        ("scalar", "scalar"), "scalar", "mix({0}, {1}, {a})", (_linear(0.2, 0.8),), 1.0
    ),
    "product": Operation(("scalar", "scalar"), "scalar", "{0} * {1}", (), 0.8),
    "union": Operation(
        ("scalar", "scalar"), "scalar", "smooth_max({0}, {1}, {a})", (_log(0.01, 0.3),), 0.8
    ),
    "intersection": Operation(
        ("scalar", "scalar"), "scalar", "-smooth_max(-({0}), -({1}), {a})", (_log(0.01, 0.3),), 0.6
    ),
    "difference": Operation(("scalar", "scalar"), "scalar", "abs({0} - {1})", (), 0.6),
    "choose": Operation(
        ("scalar", "scalar", "scalar"),
        "scalar",
        "mix({0}, {1}, smoothstep({a}, {a} + {b}, {2}))",
        (_linear(0.2, 0.7), _log(0.01, 0.3)),
        0.8,
    ),
    # ---- colors
    "cosine_palette": Operation(
        ("scalar",),
        "color",
        "{d} + (1.0 - {d}) * (0.5 + 0.5 * cos(6.2832 * ({e} * {0} + vec3({a}, {b}, {c}))))",
        (_UNIT, _UNIT, _UNIT, _linear(0.0, 0.3), _linear(0.4, 1.6)),
        2.0,
    ),
    "two_colors": Operation(
        ("scalar",),
        "color",
        "mix(hsv({a}, {b}, {c}), hsv({d}, {e}, {f}), clamp({0}, 0.0, 1.0))",
        (_UNIT, _UNIT, _UNIT, _UNIT, _UNIT, _UNIT),
        2.5,
    ),
    "three_colors": Operation(
        ("scalar",),
        "color",
        "three_colors(clamp({0}, 0.0, 1.0), hsv({a}, {b}, {c}), hsv({d}, {e}, {f}),"
        " hsv({g}, {h}, {i}))",
        (_UNIT, _UNIT, _UNIT, _UNIT, _UNIT, _UNIT, _UNIT, _UNIT, _UNIT),
        2.0,
    ),
    "one_hue": Operation(
        ("scalar", "scalar"),
        "color",
        "hsv({a} + {b} * {1}, {c}, clamp({0}, 0.0, 1.0))",
        (_UNIT, _linear(0.0, 0.4), _UNIT),
        1.5,
    ),
    "grey": Operation(("scalar",), "color", "vec3(clamp({0}, 0.0, 1.0))", (), 0.7),
    "paper": Operation(
        ("scalar",),
        "color",
        "mix(vec3({a}), vec3({b}), clamp({0}, 0.0, 1.0))",
        (_linear(0.8, 1.0), _linear(0.0, 0.3)),
        0.7,
    ),
    "channels": Operation(
        ("scalar", "scalar", "scalar"), "color", "clamp(vec3({0}, {1}, {2}), 0.0, 1.0)", (), 0.6
    ),
    "layer": Operation(
        ("color", "color", "scalar"), "color", "mix({0}, {1}, clamp({2}, 0.0, 1.0))", (), 4.0
    ),
    "shade": Operation(
        ("color", "scalar"),
        "color",
        "{0} * ({a} + (1.0 - {a}) * clamp({1}, 0.0, 1.3))",
        (_linear(0.1, 0.6),),
        1.5,
    ),
    "screen": Operation(
        ("color", "color"),
        "color",
        "1.0 - (1.0 - {0}) * (1.0 - {a} * {1})",
        (_linear(0.3, 0.9),),
        0.5,
    ),
    "tint": Operation(
        ("color",),
        "color",
        "mix({0}, {0} * hsv({a}, {b}, 1.0) * 1.5, {c})",
        (_UNIT, _UNIT, _UNIT),
        0.5,
    ),
    "desaturate": Operation(
        ("color",), "color", "mix({0}, vec3(dot({0}, vec3(0.30, 0.59, 0.11))), {a})", (_UNIT,), 0.5
    ),
}
