"""One meaning, three renderers: fragment shaders, compute shaders and torch."""

import subprocess
import sys

import numpy as np
import pytest

import procmem_pretrain.render as render
from procmem.errors import InputError, RenderError
from procmem_pretrain.emit_glsl import MAX_TILES
from procmem_pretrain.emit_torch import TooManyOperationsError, evaluate
from procmem_pretrain.grammar import sample_program
from procmem_pretrain.jobs import times_and_views
from procmem_pretrain.operations import OPERATIONS
from procmem_pretrain.operations.table import operation
from procmem_pretrain.program import Node, Program
from procmem_pretrain.render import GlRenderer, TorchRenderer, make_renderer
from procmem_pretrain.seeds import stream

PROGRAM = sample_program(3, 0)
STILL = np.array([[0.0, 0.0, 0.0, 1.0]])


def views_of(count: int, number: int = 0) -> tuple[np.ndarray, np.ndarray]:
    return times_and_views(stream(3, "view", number), count)


def test_a_program_draws_the_same_pixels_twice(renderer: GlRenderer) -> None:
    times, views = views_of(3)
    first, finite = renderer.draw(PROGRAM, times, views, side=48)
    assert first.shape == (3, 48, 48, 3)
    assert finite.all()
    assert np.array_equal(first, renderer.draw(PROGRAM, times, views, side=48)[0])


def test_torch_and_opengl_draw_the_same_pictures(renderer: GlRenderer) -> None:
    """Mean absolute difference at most 1/255 (the promise), on average far less."""
    differences = []
    for number in range(40):
        program = sample_program(17, number)
        times, views = views_of(2, number)
        expected, finite = renderer.draw(program, times, views, side=48)
        drawn, also_finite = TorchRenderer().draw(program, times, views, side=48)
        assert np.array_equal(finite, also_finite), program.text
        differences.append(np.abs(expected.astype(float) - drawn).mean())
        assert differences[-1] <= 1.0, f"{differences[-1]} levels apart:\n{program.text}"
    assert np.mean(differences) < 0.1


@pytest.mark.parametrize("name", [n for n, o in OPERATIONS.items() if "color" not in o.inputs])
def test_every_operation_means_the_same_in_both_emitters(name: str, renderer: GlRenderer) -> None:
    program = _showing(name)
    times, views = views_of(1)
    expected, finite = renderer.draw(program, times, views, side=32)
    drawn, _ = TorchRenderer().draw(program, times, views, side=32)
    assert finite.all()
    assert np.abs(expected.astype(float) - drawn).mean() <= 1.0


def _showing(name: str) -> Program:
    """A program whose picture depends on one operation, its parameters in mid-range."""
    nodes = [Node("plane")]

    def add(kind: str) -> int:
        if kind in ("coord", "plane"):
            return 0
        leaf = {"scalar": "fog", "field": "clouds", "distance": "blob"}[kind]
        return append(leaf, (0,))

    def append(operation_name: str, inputs: tuple[int, ...]) -> int:
        values = []
        for parameter in OPERATIONS[operation_name].parameters.values():
            middle = (parameter.low + parameter.high) / 2
            whole = parameter.scale in ("integer", "seed")
            values.append(float(round(middle)) if whole else middle)
        nodes.append(Node(operation_name, inputs, tuple(values)))
        return len(nodes) - 1

    last = append(name, tuple(add(kind) for kind in OPERATIONS[name].inputs))
    output = OPERATIONS[name].output
    if output == "coord":
        last, output = append("fog", (last,)), "scalar"
    if output == "distance":
        last, output = append("bands", (last,)), "scalar"
    if output == "scalar":
        append("grey", (last,))
    return Program(tuple(nodes))


def test_compute_and_fragment_shaders_draw_equal_pictures(renderer: GlRenderer) -> None:
    times, views = views_of(3)
    with GlRenderer(compute=False) as fragment:
        expected = fragment.draw(PROGRAM, times, views, side=40)[0]
    drawn = renderer.draw(PROGRAM, times, views, side=40)[0]
    assert np.abs(expected.astype(int) - drawn).max() <= 1


def test_an_image_does_not_depend_on_the_tiles_beside_it(renderer: GlRenderer) -> None:
    times, views = views_of(MAX_TILES + 3)  # more than one pass
    together = renderer.draw(PROGRAM, times, views, side=32)[0]
    for i in (0, 5, 33):
        alone = renderer.draw(PROGRAM, times[i : i + 1], views[i : i + 1], side=32)[0]
        assert np.array_equal(together[i], alone[0])


def test_time_and_view_change_the_picture(renderer: GlRenderer) -> None:
    times, views = views_of(2)
    images, _ = renderer.draw(PROGRAM, times, views, side=48)
    assert not np.array_equal(images[0], images[1])


@pytest.mark.parametrize("name", ["gl-fragment", "gl-compute", "torch"])
def test_the_first_row_is_the_top_of_the_plane(name: str) -> None:
    # A gradient along y, angle 90 degrees: bright where y is large, and y points up.
    program = Program((Node("plane"), Node("linear_gradient", (0,), (1.5708,)), Node("grey", (1,))))
    with make_renderer(name) as renderer:
        image = renderer.draw(program, np.zeros(1), STILL, side=32)[0][0]
    assert image[0].mean() > 240
    assert image[-1].mean() < 15


@pytest.mark.parametrize("name", ["gl-compute", "torch"])
def test_a_picture_that_is_not_finite_is_told(name: str) -> None:
    program = Program(
        (
            Node("plane"),
            Node("turn", (0,), (0.0, 1e38, 0.0)),
            Node("turn", (1,), (0.0, 1e38, 0.0)),
            Node("linear_gradient", (2,), (0.3,)),
            Node("cosine_palette", (3,), (0.1, 0.2, 0.3, 0.0, 1.0)),
        )
    )
    with make_renderer(name) as renderer:
        assert not renderer.draw(program, np.zeros(1), STILL, side=32)[1].any()


def test_a_program_that_does_not_compile_is_named(
    renderer: GlRenderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(render, "compute_shader", lambda _: "#version 430\nnonsense")
    with pytest.raises(RenderError, match=f"program {PROGRAM.id[:12]} does not compile"):
        renderer.draw(PROGRAM, np.zeros(1), STILL, side=32)


def test_views_of_another_count_than_times_are_refused(renderer: GlRenderer) -> None:
    with pytest.raises(InputError, match=r"times have shape \(2,\) and views \(1, 4\)"):
        renderer.draw(PROGRAM, np.zeros(2), STILL, side=32)


def test_an_evaluation_ends_at_its_limit_of_operations() -> None:
    with pytest.raises(TooManyOperationsError):
        evaluate(PROGRAM, np.zeros(1), STILL, side=8, max_operations=10)


def test_an_unknown_renderer_is_refused() -> None:
    with pytest.raises(InputError, match="did you mean 'torch'"):
        make_renderer("torhc")


def test_without_opengl_torch_draws_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_context() -> None:
        raise RenderError("no EGL graphics context (none here)")

    monkeypatch.setattr(render, "headless_context", no_context)
    with make_renderer("auto") as renderer:
        assert renderer.name == "torch"
    assert "drawing with torch instead" in caplog.text


def test_torch_draws_where_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert make_renderer("torch").device == make_renderer().device == "cuda"
    assert make_renderer("torch", "cuda:1").device == make_renderer("auto", "cuda:1").device
    assert make_renderer("torch", "cpu").device == "cpu"
    with make_renderer("auto", "cpu") as renderer:
        assert renderer.name != "torch"  # though there is a GPU, which this run does not use


def test_an_operation_cannot_be_registered_twice() -> None:
    with pytest.raises(ValueError, match="operation disc is double"):

        @operation("coord -> distance")
        def disc(p: object) -> object:
            return p


def test_torch_and_timm_can_be_imported_after_drawing() -> None:
    """Mesa's and Triton's LLVM do not get on in every order of loading."""
    code = (
        "import numpy as np\n"
        "from procmem_pretrain.grammar import sample_program\n"
        "from procmem_pretrain.render import GlRenderer\n"
        "with GlRenderer() as renderer:\n"
        "    renderer.draw(sample_program(3, 0), np.zeros(1), np.eye(4)[:1], side=32)\n"
        "    import timm\n"
        "    renderer.draw(sample_program(3, 1), np.zeros(1), np.eye(4)[:1], side=32)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
