import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import moderngl
import numpy as np
import numpy.typing as npt
import pytest

from procmem.errors import InputError, RenderError
from procmem_pretrain.gl import headless_context
from procmem_pretrain.isolation import Failure, Workers
from procmem_pretrain.user_glsl import complete, first_error, has_own_value
from procmem_pretrain.user_shaders import (
    MAX_BYTES,
    ShaderProblem,
    UserShader,
    draw_user_shader,
    load_shaders,
)

GOOD = Path(__file__).parent / "shaders" / "good"

STRIPES = "void mainImage(out vec4 c, in vec2 p) { c = vec4(step(8.0, mod(p.x, 16.0))); }\n"
# The result of the loop is used, so that no compiler may leave it out, and its body is long:
# Mesa's software rasterizer leaves every loop after 65,536 rounds, which take hours of this one.
LOOP = """\
#define STEP a = sin(a * 1.37 + 0.1);
#define STEPS STEP STEP STEP STEP STEP STEP STEP STEP
#define MANY STEPS STEPS STEPS STEPS STEPS STEPS STEPS STEPS
#define BODY {{ MANY MANY MANY MANY if (a < -2.0) break; }}
void mainImage(out vec4 c, in vec2 p) {{ float a = p.x; {loop} BODY c = vec4(a); }}
"""

BAD: dict[str, tuple[str | bytes, str, int | None, str]] = {
    # name: text, reason, line, what the message tells
    "binary.glsl": (bytes(range(256)), "unreadable", 2, "UTF-8"),
    "black.glsl": (
        "void mainImage(out vec4 c, in vec2 p) { c = vec4(0.0); }",
        "near-constant",
        None,
        "one color",
    ),
    "crash on windows.glsl": (
        STRIPES.replace("\n", "\r\n") + "\r\nfloat f = nowhere;\r\n",
        "refused",
        3,
        "nowhere",
    ),
    "discard.frag": ("void main() { discard; }", "near-constant", None, "one color"),
    "empty.glsl": ("  \n\n", "empty", None, "empty"),
    "endless_for.glsl": (LOOP.format(loop="for (;;)"), "time-out", None, "endless"),
    "endless_while.glsl": (LOOP.format(loop="while (true)"), "time-out", None, "endless"),
    "huge_loop.glsl": (
        LOOP.format(loop="for (int i = 0; i < 2000000000; i++)"),
        "time-out",
        None,
        "very slow",
    ),
    "latin.glsl": ("// caf\u00e9\n".encode("latin-1"), "unreadable", 1, "0xe9"),
    "name with spaces \u00e9\u65e5.glsl": (
        "// \u65e5\u672c\nvoid mainImage(out vec4 c, in vec2 p) {\n    c = vec4(1.0)\n}\n",
        "refused",
        4,
        "syntax",
    ),
    "nan.glsl": (
        "void mainImage(out vec4 c, in vec2 p) { c = vec4(sqrt(-p.x)); }",
        "not-finite",
        None,
        "roots",
    ),
    "needs_uniform.frag": (
        "uniform vec3 u_light;\nvoid main() { gl_FragColor = vec4(u_light * gl_FragCoord.x, 1); }",
        "refused",
        None,
        "'u_light'",
    ),
    "needs_scene.frag": (
        "#version 330\nuniform float time;\nin vec3 normal;\nout vec4 o;\n"
        "void main() { o = vec4(normal, time); }",
        "refused",
        3,
        "normal",
    ),
    "no_entry.glsl": ("float f(float x) { return x; }", "refused", None, "mainImage"),
    "open.glsl": (STRIPES + "void g() {\n", "refused", None, "left open"),
    "open_comment.glsl": (STRIPES + "/* for ever\n", "refused", None, "left open"),
    "signature.glsl": ("void mainImage(out vec3 c) { c = vec3(1); }", "refused", None, "in vec2"),
    "too_large.glsl": ("//" + "x" * MAX_BYTES, "unreadable", None, str(MAX_BYTES)),
    "utf16.glsl": (STRIPES.encode("utf-16"), "unreadable", 1, "UTF-8"),
    "version.frag": ("#version 330 core\n\nvoid main() { oops(); }", "refused", 3, "oops"),
    "wrong_type.frag": (
        "uniform vec2 time;\nvoid main() { gl_FragColor = vec4(time.x * gl_FragCoord.x); }",
        "refused",
        None,
        "2 components",
    ),
    "wrong_length.frag": (
        "uniform float time[3];\nvoid main() { gl_FragColor = vec4(time[2] * gl_FragCoord.x); }",
        "refused",
        None,
        "array of 3",
    ),
    "zero_bytes.glsl": ("void main() {\0}", "unreadable", None, "zero bytes"),
}


class Loaded(NamedTuple):
    folder: Path
    shaders: tuple[UserShader, ...]
    problems: list[ShaderProblem]
    progress: list[tuple[int, int | None]]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """A folder of everything that is bad, with a good shader first, between and last."""
    folder = tmp_path_factory.mktemp("bad")
    for name, (text, *_) in BAD.items():
        write(folder / name, text)
    for name, text in (
        ("a_good.GLSL", STRIPES),
        ("f_good.glsl", STRIPES.replace("8.0", "9.0")),
        ("nested/z_good.fs", STRIPES.replace("8.0", "7.0")),
        ("nested/z_twin.fs", STRIPES),
        (".hidden.glsl", STRIPES.replace("8.0", "6.0")),
        (".git/hidden.glsl", STRIPES.replace("8.0", "5.0")),
        ("notes.txt", "not a shader"),
    ):
        write(folder / name, text)
    (folder / "folder.glsl").mkdir()
    problems: list[ShaderProblem] = []
    progress: list[tuple[int, int | None]] = []
    shaders = load_shaders(
        folder,
        timeout_seconds=2.0,
        workers=2,
        report=problems.append,
        progress=lambda done, total: progress.append((done, total)),
    )
    return Loaded(folder, shaders, problems, progress)


@pytest.fixture(scope="module")
def drawer() -> Iterator[Workers]:
    with Workers(1, initializer=open_context) as workers:
        yield workers


_context: moderngl.Context | None = None


def open_context() -> None:
    global _context
    _context = headless_context()


def draw_here(
    shader: UserShader, times: list[float], side: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    assert _context is not None
    return draw_user_shader(shader, np.array(times), side=side, context=_context)


def draw(
    drawer: Workers, text: str, times: list[float], side: int = 16
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Draws in a child: this process may hold another test's context."""
    result = drawer.submit(draw_here, UserShader(Path("x.glsl"), text, ""), times, side).wait()
    if isinstance(result, Failure):
        raise result.error or AssertionError(result.message)
    return result


def write(path: Path, text: str | bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_told_with_its_reason_and_line(loaded: Loaded, name: str) -> None:
    _, reason, line, told = BAD[name]
    (problem,) = [problem for problem in loaded.problems if problem.path.name == name]
    assert (problem.reason, problem.line) == (reason, line), problem
    assert told in problem.message
    place = f"{loaded.folder / name}" + (f":{line}" if line else "")
    assert str(problem).startswith(f"{place}: ")


def test_the_good_files_go_on_in_order_of_their_names(loaded: Loaded) -> None:
    names = [shader.path.relative_to(loaded.folder).as_posix() for shader in loaded.shaders]
    assert names == ["a_good.GLSL", "f_good.glsl", "nested/z_good.fs"]


def test_problems_come_in_order_of_the_names_and_twins_are_told(loaded: Loaded) -> None:
    told = [problem.path.relative_to(loaded.folder).as_posix() for problem in loaded.problems]
    assert told == sorted([*BAD, "nested/z_twin.fs"])
    assert loaded.problems[told.index("nested/z_twin.fs")].reason == "duplicate"


def test_progress_counts_every_file(loaded: Loaded) -> None:
    total = len(BAD) + 4
    assert loaded.progress == [(done, total) for done in range(1, total + 1)]


def test_the_id_is_of_the_text_and_not_of_the_line_ends(tmp_path: Path) -> None:
    ids = []
    for name, end in (("unix", "\n"), ("windows", "\r\n"), ("mac", "\r")):
        folder = tmp_path / name
        write(folder / "x.glsl", ("\ufeff// top\n" + STRIPES).replace("\n", end))
        ids.append(load_shaders(folder, workers=1)[0].sha256)
    assert len(set(ids)) == 1


def test_every_kind_of_good_shader_is_taken() -> None:
    problems: list[ShaderProblem] = []
    shaders = load_shaders(GOOD, report=problems.append)
    assert not problems
    assert len(shaders) == sum(path.is_file() for path in GOOD.rglob("*"))


@pytest.mark.parametrize("make", [False, True])
def test_a_missing_or_empty_folder_says_what_to_do(tmp_path: Path, make: bool) -> None:
    folder = tmp_path / "shaders"
    if make:
        folder.mkdir()
    with pytest.raises(InputError, match=r"put GLSL files|check the path"):
        load_shaders(folder)


def test_a_file_instead_of_a_folder_says_so(tmp_path: Path) -> None:
    write(tmp_path / "x.glsl", STRIPES)
    with pytest.raises(InputError, match="is a file"):
        load_shaders(tmp_path / "x.glsl")


def test_a_folder_without_a_good_shader_is_an_error_with_the_first_reason(tmp_path: Path) -> None:
    write(tmp_path / "x.glsl", "oops")
    with pytest.raises(InputError, match=r"none of the 1 .*x\.glsl.*mainImage"):
        load_shaders(tmp_path, workers=1, report=lambda _: None)


def test_problems_are_logged_if_nobody_asks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "a.glsl", "")
    write(tmp_path / "b.glsl", STRIPES)
    load_shaders(tmp_path, workers=1)
    assert "a.glsl: is empty" in caplog.text


def test_no_graphics_is_one_error_and_not_one_for_each_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "x.glsl", STRIPES)
    monkeypatch.setenv("__EGL_VENDOR_LIBRARY_FILENAMES", str(tmp_path / "none.json"))
    with pytest.raises(RenderError, match="EGL"):
        load_shaders(tmp_path, workers=1)


def test_pictures_are_upright(drawer: Workers) -> None:
    images, finite = draw(drawer, (GOOD / "upright.glsl").read_text(), [0.0])
    assert finite.all()
    assert images[0, 0, 0].tolist() == [255, 255, 0]  # top left
    assert images[0, 0, -1].tolist() == [255, 0, 0]
    assert images[0, -1, 0].tolist() == [0, 255, 0]
    assert images[0, -1, -1].tolist() == [0, 0, 0]


def test_each_picture_has_its_own_time_in_float32(drawer: Workers) -> None:
    text = (
        "void mainImage(out vec4 c, in vec2 p) {"
        " c = vec4(iTime / 10.0, iTimeDelta * 30.0, float(iFrame) / 1000.0, 1.0); }"
    )
    times = [0.1, 5.0, 10.0]
    images, _ = draw(drawer, text, times)
    for image, time in zip(images, times, strict=True):
        wanted = [time / 10, 0.5, round(60 * time) / 1000]
        assert np.abs(image / 255 - wanted).max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize(
    ("color", "wanted"),
    [
        ("iResolution.xy / 32.0, iResolution.z", (0.5, 0.5, 1)),
        ("iMouse.x, iMouse.y, iMouse.w", (0, 0, 0)),
        ("texture(iChannel0, p).r, texture(iChannel3, p).g, textureLod(iChannel1, p, 0.0).a", 1),
        ("iChannelTime[2] / 8.0, iChannelResolution[1].x, iDate.w / 4.0", (0.25, 1, 0.5)),
        ("iSampleRate / 44100.0, iFrameRate / 60.0, iDate.x / 2000.0", (1, 1, 1)),
    ],
)
def test_shadertoy_gives_what_it_promises(
    drawer: Workers, color: str, wanted: tuple[float, ...] | int
) -> None:
    expected = (0, 0, 1) if wanted == 1 else wanted
    text = f"void mainImage(out vec4 c, in vec2 p) {{ c = vec4({color}, 1.0); }}"
    images, _ = draw(drawer, text, [2.0])
    # Halves fall between two levels.
    assert np.abs(images[0, 3, 5] / 255 - expected).max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize(
    "text",
    [
        "void main() { gl_FragColor = vec4(1, 0, 0, 1); }",
        "#version 100\nprecision mediump float;\nvoid main() { gl_FragColor = vec4(1, 0, 0, 1); }",
        "#version 120\nvoid main() { gl_FragData[ 0 ] = vec4(1, 0, 0, 1); }",
        "// first\n#version 130\nout vec4 o;\nvoid main(void) { o = vec4(1, 0, 0, 1); }",
        "#version 330 core\nlayout(location = 0) out vec3 o;\nvoid main() { o = vec3(1, 0, 0); }",
        "#version 330 compatibility\nvoid main() { gl_FragColor = vec4(1, 0, 0, 0); }",
        "#version 300 es\nprecision highp float;\nout vec4 o;\n"
        "void main() { o = vec4(1, 0, 0, 1); }",
        "#version 310 es\nprecision highp float;\nout vec4 o;\n"
        "void main() { o = vec4(1, 0, 0, 1); }",
        "#version 450\nout vec4 o;\nvoid main() { o = vec4(1, 0, 0, 1); }",
        "#version 460\nout vec4 o;\nvoid main() { o = vec4(1, 0, 0, 1); }",
        "#extension GL_OES_standard_derivatives : require\nuniform vec2 resolution;\n"
        "void main() { gl_FragColor = vec4(dFdx(gl_FragCoord.x), resolution.x * 0.0, 0, 1); }",
        "uniform float speed = 1.0;\nvoid main() { gl_FragColor = vec4(speed, 0, 0, 1); }",
        "uniform float iTime; uniform vec3 iResolution;\n"
        "void mainImage(out vec4 c, in vec2 p) { c = vec4(1, iTime * 0.0, 0, 1); }",
        "uniform vec2 u_resolution;\nuniform float u_time;\n"
        "void mainImage(out vec4 c, in vec2 p) { "
        "c = vec4(p.x / u_resolution.x + u_time + 9.0, 0, 0, 1); }\n"
        "void main() { mainImage(gl_FragColor, gl_FragCoord.xy); }",
    ],
)
def test_every_dialect_draws_red(drawer: Workers, text: str) -> None:
    images, finite = draw(drawer, text, [1.0])
    assert finite.all()
    assert (images == [255, 0, 0]).all()


@pytest.mark.parametrize("value", ["sqrt(-1.0 - p.x)", "1.0 / (p.x - 0.5)", "log(-p.x)"])
def test_one_pixel_that_is_not_finite_marks_its_picture(drawer: Workers, value: str) -> None:
    text = (
        f"void mainImage(out vec4 c, in vec2 p) {{ float v = {value};\n"
        "c = vec4(p.x < 1.0 && p.y < 1.0 && iTime > 1.0 ? v : 0.5); }"
    )
    images, finite = draw(drawer, text, [0.5, 2.0])
    assert finite.tolist() == [True, False]
    assert images[1, -1, 0].tolist() == [0, 0, 0]


def test_colors_beyond_0_to_1_are_clamped(drawer: Workers) -> None:
    text = "void mainImage(out vec4 c, in vec2 p) { c = vec4(7.0, -3.0, 1e30, 1.0 / 0.0); }"
    images, finite = draw(drawer, text, [1.0])
    assert finite.all()  # what is not finite is the transparency, which nobody sees
    assert (images == [255, 0, 255]).all()


def test_nothing_stays_from_one_shader_to_the_next(drawer: Workers) -> None:
    discarding = (GOOD / "upright.glsl").read_text().replace("{", "{ if (p.x < 8.0) discard;")
    clean, _ = draw(drawer, discarding, [1.0])
    draw(drawer, "void main() { gl_FragColor = vec4(1.0); }", [1.0, 2.0])
    again, _ = draw(drawer, discarding, [1.0])
    assert (clean == again).all()
    assert not clean[:, :, :8].any()


@pytest.mark.parametrize(("times", "side"), [([], 8), ([math.nan], 8), ([1.0], 0)])
def test_drawing_nothing_is_refused(drawer: Workers, times: list[float], side: int) -> None:
    with pytest.raises(InputError):
        draw(drawer, STRIPES, times, side)


def test_a_drawing_error_has_file_and_line(drawer: Workers) -> None:
    with pytest.raises(RenderError, match=r"x\.glsl:2: .*missing"):
        draw(drawer, STRIPES + "float a = missing;", [1.0])


@pytest.mark.parametrize(
    "log",
    [
        "GLSL Compiler failed\n\nfragment_shader\n=====\n0:7(12): error: `a' undeclared\n",
        '0(7) : error C1503: undefined variable "a"\n0(9) : error C0000: more',
        "ERROR: 0:7: 'a' : undeclared identifier\nERROR: 1 compilation errors.",
    ],
)
def test_the_line_is_found_in_the_log_of_every_driver(log: str) -> None:
    error = first_error(log, "\n" * 20)
    assert error.line == 7
    assert "unde" in str(error)


def test_a_log_without_lines_is_told_whole() -> None:
    error = first_error("GLSL Linker failed\n\nProgram\n=====\nerror: no `f'\n\n", "")
    assert error.line is None
    assert str(error) == "the driver refuses it: error: no `f'"


def test_a_comment_is_no_code() -> None:
    text = "// void main() { }\n/* uniform float a = 1.0; */" + STRIPES
    assert "mainImage(color" in complete(text, newest_version=450).fragment
    assert not has_own_value(text, "a")


def test_parameters_are_no_inputs() -> None:
    text = "void f(float a,\n in vec3 b) { }\nvarying vec2 uv, st;\nvoid main() { }"
    sources = complete(text, newest_version=330)
    assert "out vec2 uv;" in sources.vertex
    assert "out vec2 st;" in sources.vertex
    assert "vec3" not in sources.vertex
