"""A user's shader text -> complete GLSL for a driver, and the driver's log -> the user's lines.

Takes text from `user_shaders.py` and gives it back ready to compile. Two kinds are known:

- Shadertoy: `void mainImage(out vec4 fragColor, in vec2 fragCoord)`; its uniforms are declared
  here, as on https://www.shadertoy.com/howto.
- a plain fragment shader: its own `main` and its own uniforms, written to `gl_FragColor` or to an
  output of its own, for any `#version` or none.

Both are compiled as desktop GLSL of the core profile, never below 3.30, which contains nearly all
of GLSL ES 1.00 and 3.00 and of GLSL 1.10 to 3.20. Only text is handled here, no graphics context.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from procmem.errors import RenderError

# Where the driver counts lines from in the text around the user's own. Line numbers tell the three
# apart: drivers lose the second number of `#line` in some messages.
_BEFORE, _AFTER = 2_000_000, 1_000_000

_LOWEST_VERSION = 330

# What fragment shaders of GLSL ES 1.00 and GLSL 1.20 say, in today's words.
_OLD_WORDS = """\
#define varying in
#define texture2D texture
#define textureCube texture
#define texture2DLod textureLod
#define texture2DLodEXT textureLod
"""

# Part of every desktop GLSL since 1.30; desktop drivers do not know the names.
_BUILT_IN_EXTENSIONS = {
    "GL_OES_standard_derivatives",
    "GL_EXT_shader_texture_lod",
    "GL_EXT_frag_depth",
    "GL_OES_texture_3D",
}

# GLSL ES 3.00 has packHalf2x16 and its like, GLSL 3.30 does not.
_ALWAYS_ENABLED = ("GL_ARB_shading_language_packing",)

# https://www.shadertoy.com/howto; HW_PERFORMANCE is 0 on phones only.
_SHADERTOY_UNIFORMS = {
    "iResolution": "vec3 iResolution",
    "iTime": "float iTime",
    "iGlobalTime": "float iGlobalTime",
    "iTimeDelta": "float iTimeDelta",
    "iFrameRate": "float iFrameRate",
    "iFrame": "int iFrame",
    "iChannelTime": "float iChannelTime[4]",
    "iChannelResolution": "vec3 iChannelResolution[4]",
    "iMouse": "vec4 iMouse",
    "iDate": "vec4 iDate",
    "iSampleRate": "float iSampleRate",
    "iChannel0": "sampler2D iChannel0",
    "iChannel1": "sampler2D iChannel1",
    "iChannel2": "sampler2D iChannel2",
    "iChannel3": "sampler2D iChannel3",
}

# Input textures: the paper has none, they are black.
CHANNELS = ("iChannel0", "iChannel1", "iChannel2", "iChannel3")

# What a uniform can mean, how many components it may then have, and the names it goes by.
_MEANINGS: dict[str, tuple[tuple[int, ...], tuple[str, ...]]] = {
    "time": ((1,), ("iTime", "iGlobalTime", "u_time", "uTime", "time", "TIME")),
    "resolution": (
        (2, 3, 4),
        ("iResolution", "u_resolution", "uResolution", "resolution", "RENDERSIZE"),
    ),
    "mouse": ((2, 3, 4), ("iMouse", "u_mouse", "uMouse", "mouse")),
    "frame": ((1,), ("iFrame", "u_frame", "uFrame", "frame", "FRAMEINDEX")),
    "time delta": ((1,), ("iTimeDelta", "u_delta", "TIMEDELTA")),
    "frame rate": ((1,), ("iFrameRate",)),
    "date": ((4,), ("iDate", "u_date", "DATE")),
    "sample rate": ((1,), ("iSampleRate",)),
    "channel time": ((1,), ("iChannelTime",)),
    "channel resolution": ((3,), ("iChannelResolution",)),
}

_FRAMES_PER_SECOND = 60.0

_OUTPUT = "procmem_color"

_SHADERTOY_MAIN = f"""\
void main() {{
    vec4 color = vec4(0.0, 0.0, 0.0, 1.0);
    mainImage(color, gl_FragCoord.xy);
    {_OUTPUT} = color;
}}
"""

_SIGNATURE = "void mainImage(out vec4 fragColor, in vec2 fragCoord)"

# One triangle that covers the picture, without vertex data; `inputs` are 0 to 1 over it.
_VERTEX_SHADER = """\
#version {version} core
{declarations}
void main() {{
    vec2 corner = vec2((gl_VertexID << 1) & 2, gl_VertexID & 2);
{assignments}
    gl_Position = vec4(2.0 * corner - 1.0, 0.0, 1.0);
}}
"""

_COMMENT = re.compile(r"//(?:\\\n|[^\n])*|/\*.*?\*/", re.DOTALL)
_VERSION = re.compile(r"^[ \t]*#[ \t]*version[ \t]+(\d+)[ \t]*(\w*)[^\n]*$", re.MULTILINE)
_EXTENSION = re.compile(r"^[ \t]*#[ \t]*extension[ \t]+(\w+)[^\n]*$", re.MULTILINE)
_LINE = re.compile(r"^[ \t]*#[ \t]*line\b[^\n]*$", re.MULTILINE)
_DIRECTIVE = re.compile(r"^[ \t]*#(?:\\\n|[^\n])*$", re.MULTILINE)
_OLD_OUTPUT = re.compile(r"\bgl_FragColor\b|\bgl_FragData\s*\[\s*0\s*\]")
_INPUT = re.compile(
    r"(?:^|[;{}])\s*(?:layout\s*\([^)]*\)\s*)?(?:(?:smooth|flat|noperspective|centroid)\s+)*"
    r"(?:in|varying)\s+(?:(?:lowp|mediump|highp)\s+)?(\w+)\s+(\w+(?:\s*,\s*\w+)*)\s*(?=;)"
)

# How drivers begin a message: Mesa, NVIDIA, and AMD, Intel and Apple.
_MESSAGES = (
    re.compile(r"^\d+:(\d+)\(\d+\): (?:preprocessor )?error: (.*)$", re.MULTILINE),
    re.compile(r"^\d+\((\d+)\) : (?:fatal )?error (.*)$", re.MULTILINE),
    re.compile(r"^ERROR: \d+:(\d+): (.*)$", re.MULTILINE),
)


@dataclass(frozen=True, slots=True)
class Sources:
    """A complete program: what `moderngl.Context.program` takes."""

    vertex: str
    fragment: str


class ShaderTextError(RenderError):
    """A user's shader text that cannot become a program.

    Attributes:
        line: of the user's own text, from 1; None if it is no single line's fault.
    """

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message, line)
        self.line = line

    def __str__(self) -> str:
        return str(self.args[0])


def complete(text: str, *, newest_version: int) -> Sources:
    """A user's text as a program for the driver.

    Args:
        text: with line feeds alone at the ends of lines.
        newest_version: of GLSL that the driver has, e.g. 450. A shader that asks for a newer one
            is tried with this one.

    Raises:
        ShaderTextError: it has no entry point, or an input that only a scene can give.
    """
    code = _COMMENT.sub(_blank, text)
    shadertoy = _defines(code, "mainImage") and not _defines(code, "main")
    if not shadertoy and not _defines(code, "main"):
        raise ShaderTextError(f"has neither `{_SIGNATURE}` nor `void main()`; add one of them")
    declared = _VERSION.search(code)
    version = int(declared[1]) if declared else 0
    old = shadertoy or version < 130
    if declared and declared[2] == "es":
        version = {100: 0, 300: 330, 310: 430, 320: 450}.get(version, newest_version)
    version = min(max(version, _LOWEST_VERSION), newest_version)
    extensions = [
        name for name in _EXTENSION.findall(code) if name not in _BUILT_IN_EXTENSIONS | {"all"}
    ]
    for directive in (_VERSION, _EXTENSION, _LINE):
        code = directive.sub(_blank, code)
    inputs = [] if shadertoy else _inputs(code)
    needs_output = shadertoy or _OLD_OUTPUT.search(code)
    fragment = [
        f"#version {version} core",
        # An extension must be named before anything is declared, so the user's move up here.
        *(f"#extension {name} : enable" for name in dict.fromkeys((*_ALWAYS_ENABLED, *extensions))),
        f"#line {_BEFORE}",
        _OLD_WORDS if old else "",
        f"layout(location = 0) out vec4 {_OUTPUT};" if needs_output else "",
        _shadertoy_names(code) if shadertoy else "",
        "#line 1",
        code if shadertoy else _OLD_OUTPUT.sub(_OUTPUT, code),
        f"#line {_AFTER}",
        _SHADERTOY_MAIN if shadertoy else "",
    ]
    vertex = _VERTEX_SHADER.format(
        version=version,
        declarations="\n".join(f"out vec2 {name};" for name in inputs),
        assignments="\n".join(f"    {name} = corner;" for name in inputs),
    )
    return Sources(vertex, "\n".join(fragment))


def first_error(log: str, text: str) -> ShaderTextError:
    """The first error of a driver's log, with the line of the user's text that it is about."""
    found = [
        (int(match[1]), match[2].strip()) for kind in _MESSAGES for match in kind.finditer(log)
    ]
    if not found:
        # After its headings, such as "GLSL Linker failed", underlined with "=====".
        said = " ".join(log.rpartition("=====")[2].split())
        return ShaderTextError(f"the driver refuses it: {said or 'it does not say why'}")
    line, message = found[0]
    if line >= _BEFORE:
        return ShaderTextError(f"{message}; a #define or a name collides with procmem's own")
    if line >= _AFTER and "mainImage" in message:
        return ShaderTextError(f"{message}; the entry point must be `{_SIGNATURE}`")
    if line > text.count("\n") + 1:
        return ShaderTextError(f"{message}; a bracket, a comment or an #if is left open at the end")
    return ShaderTextError(message, line)


def has_own_value(text: str, uniform: str) -> bool:
    """Whether a text gives a uniform a value itself: `uniform float speed = 2.0;`."""
    code = _COMMENT.sub(_blank, text)
    return bool(re.search(rf"\b{re.escape(uniform)}\b\s*(?:\[[^\]]*\]\s*)?=(?!=)", code))


def meaning_of(uniform: str, *, kind: str, size: tuple[int, int]) -> str | None:
    """What a uniform means by its name, for `uniform_value`; None for an unknown name.

    Args:
        uniform: its name.
        kind: "f" for float, "i" for int, anything else for what has no meaning here.
        size: components (1 for a number), and length of an array (1 for none).

    Raises:
        ShaderTextError: a known name with a type that its meaning cannot have.
    """
    for meaning, (components, names) in _MEANINGS.items():
        if uniform not in names:
            continue
        longest = len(CHANNELS) if meaning.startswith("channel") else 1
        if size[0] not in components or size[1] > longest or kind not in ("f", "i"):
            raise ShaderTextError(
                f"uniform {uniform!r} has {size[0]} components and is an array of {size[1]}; as "
                f"the {meaning} it must have {' or '.join(map(str, components))}, be float or int, "
                f"and an array of at most {longest}"
            )
        return meaning
    return None


def uniform_value(meaning: str, *, time: float, side: int) -> tuple[float, ...]:
    """The numbers for a meaning, as many as the largest uniform of it takes.

    Args:
        meaning: given by `meaning_of`.
        time: seconds.
        side: of the picture, pixels.
    """
    return {
        "time": (time,),
        "resolution": (side, side, 1, 1),
        "mouse": (0, 0, 0, 0),
        "frame": (round(time * _FRAMES_PER_SECOND),),
        "time delta": (1 / _FRAMES_PER_SECOND,),
        "frame rate": (_FRAMES_PER_SECOND,),
        # A fixed day, so that pictures do not depend on today: 1 January 2000 (months from 0).
        "date": (2000, 0, 1, time),
        "sample rate": (44100,),
        "channel time": (time,) * len(CHANNELS),
        "channel resolution": (1, 1, 1) * len(CHANNELS),
    }[meaning]


def _defines(code: str, function: str) -> bool:
    return bool(re.search(rf"\bvoid\s+{function}\s*\(", code))


def _shadertoy_names(code: str) -> str:
    """What Shadertoy declares, without what the text declares itself."""
    lines = [
        f"uniform {declaration};"
        for name, declaration in _SHADERTOY_UNIFORMS.items()
        if not re.search(rf"\buniform\b[^;{{}}]*\b{name}\b", code)
    ]
    if not re.search(r"#[ \t]*define[ \t]+HW_PERFORMANCE\b", code):
        lines.append("#define HW_PERFORMANCE 1")
    return "\n".join(lines)


def _inputs(code: str) -> list[str]:
    """Names of the two-dimensional inputs; an input is not known by its name but by its type."""
    names: list[str] = []
    for match in _INPUT.finditer(_DIRECTIVE.sub(_blank, code)):
        declared = [name.strip() for name in match[2].split(",")]
        declared = [name for name in declared if not name.startswith("gl_")]
        if declared and match[1] != "vec2":
            raise ShaderTextError(
                f"input `{match[1]} {declared[0]}` would come from a scene, and here is none; "
                "only vec2 inputs are given (the place in the picture, 0 to 1)",
                code[: match.end()].count("\n") + 1,
            )
        names += declared
    return list(dict.fromkeys(names))


def _blank(match: re.Match[str]) -> str:
    """Spaces instead of a match, so that every later character keeps its line and column."""
    return re.sub(r"[^\n]", " ", match[0])
