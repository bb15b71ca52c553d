"""Program -> GLSL fragment shader that draws many images of it in one pass.

Takes `Program` from `grammar.py`, gives source text to `render.py`. The image is an atlas of
square tiles in one row; every tile has its own time and its own view of the plane, so one
compilation and one read-back serve many images.
"""

from __future__ import annotations

from importlib.resources import files
from string import ascii_lowercase

from procmem_pretrain.grammar import Node, Program
from procmem_pretrain.operations import OPERATIONS

MAX_TILES = 32

VERTEX_SHADER = """#version 330
in vec2 corner_position;
void main() { gl_Position = vec4(corner_position, 0.0, 1.0); }
"""

_PRELUDE = files("procmem_pretrain").joinpath("prelude.glsl").read_text(encoding="utf-8")

_GLSL_TYPE = {"coord": "vec2", "scalar": "float", "color": "vec3"}


def fragment_shader(program: Program) -> str:
    """The complete fragment shader of a program.

    Uniforms: `side` (tile side, pixels), `times[MAX_TILES]` (seconds), `views[MAX_TILES]`
    (center x, center y, angle, zoom). Values that are not finite come out as color (1, 0, 1)
    with alpha 0; all others have alpha 1.
    """
    body = "\n".join(
        f"    {_line(index, node)}" for index, node in enumerate(program.nodes) if index > 0
    )
    return f"""#version 330
uniform int side;
uniform float times[{MAX_TILES}];
uniform vec4 views[{MAX_TILES}];
out vec4 pixel;
{_PRELUDE}
void main() {{
    int tile = int(gl_FragCoord.x) / side;
    float t = times[tile];
    vec4 view = views[tile];
    vec2 inside = vec2(gl_FragCoord.x - float(tile * side), gl_FragCoord.y) / float(side);
    vec2 n0 = rot(2.0 * inside - 1.0, view.z) * view.w + view.xy;
{body}
    vec3 color = n{len(program.nodes) - 1};
    bool finite = !(any(isnan(color)) || any(isinf(color)));
    pixel = finite ? vec4(clamp(color, 0.0, 1.0), 1.0) : vec4(1.0, 0.0, 1.0, 0.0);
}}
"""


def _line(index: int, node: Node) -> str:
    operation = OPERATIONS[node.operation]
    letters = dict(zip(ascii_lowercase, map(_literal, node.parameters), strict=False))
    expression = operation.glsl.format(*(f"n{i}" for i in node.inputs), **letters)
    return f"{_GLSL_TYPE[operation.output]} n{index} = {expression};"


def _literal(value: float) -> str:
    # A negative literal gets parentheses: "x - -0.5" is legal, "x --0.5" would not be.
    text = repr(float(value))
    return f"({text})" if value < 0 else text
