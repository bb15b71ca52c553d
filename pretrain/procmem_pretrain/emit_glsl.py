"""Program -> GLSL that draws many images of it in one pass, as fragment or compute shader.

Takes `Program` from `program.py`, gives source text to `render.py`. The images are square tiles;
every tile has its own time and its own view of the plane, so one compilation and one read-back
serve many images. Both forms compute the same function of the same integer pixel.
"""

from __future__ import annotations

from collections.abc import Callable

from procmem_pretrain.language import Kind, Value
from procmem_pretrain.program import Program

MAX_TILES = 32

VERTEX_SHADER = """#version 330
in vec2 corner_position;
void main() { gl_Position = vec4(corner_position, 0.0, 1.0); }
"""

# `zero` is always 0. As a uniform it keeps drivers from unrolling loops, which halves the time
# that they take to compile.
_UNIFORMS = f"""uniform int zero;
uniform int side;
uniform float times[{MAX_TILES}];
uniform vec4 views[{MAX_TILES}];
float t;
"""

_FRAGMENT_MAIN = """void main() {
    ivec2 place = ivec2(gl_FragCoord.xy);
    int tile = place.x / side;
    pixel = shade(tile, ivec2(place.x - tile * side, place.y));
}
"""

# 8 x 8 threads: 64 a group suits every GPU, and square groups keep neighbors in one cache line.
GROUP_SIDE = 8

_COMPUTE_MAIN = """void main() {
    ivec2 place = ivec2(gl_GlobalInvocationID.xy);
    int tile = int(gl_GlobalInvocationID.z);
    if (place.x < side && place.y < side)
        imageStore(atlas, ivec2(tile * side, 0) + place, shade(tile, place));
}
"""


def fragment_shader(program: Program) -> str:
    """The complete fragment shader of a program, for an atlas of tiles in one row.

    Uniforms: `side` (tile side, pixels), `times[MAX_TILES]` (seconds), `views[MAX_TILES]`
    (center x, center y, angle, zoom). Values that are not finite come out as color (1, 0, 1)
    with alpha 0; all others have alpha 1.
    """
    return f"#version 330\n{_UNIFORMS}out vec4 pixel;\n{_shade(program)}{_FRAGMENT_MAIN}"


def compute_shader(program: Program) -> str:
    """The same picture as a compute shader that writes the atlas as an rgba8 image."""
    return (
        "#version 430\n"
        f"layout(local_size_x = {GROUP_SIDE}, local_size_y = {GROUP_SIDE}) in;\n"
        "layout(rgba8, binding = 0) writeonly uniform image2D atlas;\n"
        f"{_UNIFORMS}{_shade(program)}{_COMPUTE_MAIN}"
    )


def _shade(program: Program) -> str:
    backend = GlslBackend()
    plane, time = Value(backend, "vec2", "n0"), Value(backend, "float", "t")
    color = program.evaluate(plane, time)
    helpers = "\n".join(backend.functions)
    body = "\n".join(backend.lines)
    return f"""{helpers}
vec4 shade(int tile, ivec2 place) {{
    t = times[tile];
    vec4 view = views[tile];
    vec2 inside = (vec2(place) + 0.5) * (2.0 / float(side)) - 1.0;
    float c = cos(view.z) * view.w, s = sin(view.z) * view.w;
    vec2 n0 = vec2(c * inside.x - s * inside.y, s * inside.x + c * inside.y) + view.xy;
{body}
    vec3 color = {color.node};
    bool finite = !(any(isnan(color)) || any(isinf(color)));
    return finite ? vec4(clamp(color, 0.0, 1.0), 1.0) : vec4(1.0, 0.0, 1.0, 0.0);
}}
"""


class GlslBackend:
    """Writes statements: one assignment for each operation, one function for each helper."""

    def __init__(self) -> None:
        self.functions: list[str] = []
        self.lines: list[str] = []
        self._kinds: dict[str, Kind] = {}
        self._names = 0

    def constant(self, kind: Kind, value: float | tuple[float, ...]) -> str:
        """A literal; a negative one in parentheses ("x --0.5" would not be legal)."""
        if isinstance(value, tuple):
            return f"{kind}({', '.join(repr(float(each)) for each in value)})"
        if kind == "uint":
            return f"{int(value) & 0xFFFFFFFF}u"
        text = str(int(value)) if kind == "int" else repr(float(value))
        return f"({text})" if value < 0 else text

    def apply(self, name: str, kind: Kind, arguments: tuple[Value, ...]) -> str:
        """`kind name = expression;`, and the name."""
        expression = _EXPRESSIONS[name].format(*(argument.node for argument in arguments))
        if name in _COMPONENTS:
            return expression
        return self._assign(kind, expression)

    def call(
        self, name: str, body: Callable[..., Value], kinds: tuple[Kind, ...], *values: Value
    ) -> Value:
        """Writes the helper out at its first call."""
        if name not in self._kinds:
            outer, self.lines = self.lines, []
            names = [f"{name}_{index}" for index in range(len(kinds))]
            result = body(*(Value(self, k, n) for k, n in zip(kinds, names, strict=True)))
            parameters = ", ".join(f"{k} {n}" for k, n in zip(kinds, names, strict=True))
            lines = "\n".join(self.lines)
            self.functions.append(
                f"{result.kind} {name}({parameters}) {{\n{lines}\n    return {result.node};\n}}"
            )
            self._kinds[name] = result.kind
            self.lines = outer
        kind = self._kinds[name]
        expression = f"{name}({', '.join(str(value.node) for value in values)})"
        return Value(self, kind, self._assign(kind, expression))

    def loop(
        self, count: Value, body: Callable[..., tuple[Value, ...]], state: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        """A `for` over variables that hold the state."""
        variables = tuple(
            Value(self, each.kind, self._assign(each.kind, each.node)) for each in state
        )
        index = self._name("i")
        self.lines.append(f"    for (int {index} = 0; {index} < {count.node} + zero; {index}++) {{")
        # Copies first: a new value may be another variable's old one.
        after = [
            self._assign(each.kind, each.node)
            for each in body(Value(self, "int", index), *variables)
        ]
        self.lines += [f"    {v.node} = {a};" for v, a in zip(variables, after, strict=True)]
        self.lines.append("    }")
        return variables

    def _assign(self, kind: Kind, expression: str) -> str:
        name = self._name("v")
        self.lines.append(f"    {kind} {name} = {expression};")
        return name

    def _name(self, prefix: str) -> str:
        self._names += 1
        return f"{prefix}{self._names}"


_COMPONENTS = frozenset({"x", "y", "z"})

_EXPRESSIONS: dict[str, str] = {
    "add": "{0} + {1}",
    "subtract": "{0} - {1}",
    "multiply": "{0} * {1}",
    "divide": "{0} / {1}",
    "negate": "-{0}",
    "xor": "{0} ^ {1}",
    "shift_right": "{0} >> {1}",
    "and": "{0} && {1}",
    "less": "{0} < {1}",
    "less_equal": "{0} <= {1}",
    "x": "{0}.x",
    "y": "{0}.y",
    "z": "{0}.z",
    "vec2": "vec2({0}, {1})",
    "vec3": "vec3({0}, {1}, {2})",
    "to_float": "float({0})",
    "to_int": "int(floor({0}))",
    "to_uint": "uint({0})",
    "sin": "sin({0})",
    "cos": "cos({0})",
    "atan2": "atan({0}, {1})",
    "exp": "exp({0})",
    "log2": "log2({0})",
    "sqrt": "sqrt({0})",
    "power": "exp2(log2({0}) * {1})",
    "absolute": "abs({0})",
    "floor": "floor({0})",
    "fract": "fract({0})",
    "minimum": "min({0}, {1})",
    "maximum": "max({0}, {1})",
    "clamp": "clamp({0}, {1}, {2})",
    "mix": "mix({0}, {1}, {2})",
    "hermite": "{0} * {0} * (3.0 - 2.0 * {0})",
    "dot": "dot({0}, {1})",
    "length": "length({0})",
    "where": "{0} ? {1} : {2}",
}
