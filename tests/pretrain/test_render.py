import subprocess
import sys

import numpy as np
import pytest

from procmem.errors import InputError, RenderError
from procmem_pretrain.emit_glsl import MAX_TILES
from procmem_pretrain.grammar import Node, Program, sample_program
from procmem_pretrain.pool import times_and_views
from procmem_pretrain.render import Renderer

PROGRAM = sample_program(3, 0)
STILL = np.array([[0.0, 0.0, 0.0, 1.0]])


def test_a_program_draws_the_same_pixels_twice(renderer: Renderer) -> None:
    times, views = times_and_views(3, 0, 3)
    first = renderer.draw(PROGRAM, times, views, side=48)
    assert first.shape == (3, 48, 48, 3)
    assert np.array_equal(first, renderer.draw(PROGRAM, times, views, side=48))


def test_an_image_does_not_depend_on_the_tiles_beside_it(renderer: Renderer) -> None:
    times, views = times_and_views(3, 0, MAX_TILES + 3)  # more than one pass
    together = renderer.draw(PROGRAM, times, views, side=32)
    alone = [
        renderer.draw(PROGRAM, times[i : i + 1], views[i : i + 1], side=32) for i in (0, 5, 33)
    ]
    assert np.array_equal(together[[0, 5, 33]], np.concatenate(alone))


def test_time_and_view_change_the_picture(renderer: Renderer) -> None:
    times, views = times_and_views(3, 0, 2)
    images = renderer.draw(PROGRAM, times, views, side=48)
    assert not np.array_equal(images[0], images[1])


def test_the_first_row_is_the_top_of_the_plane(renderer: Renderer) -> None:
    # A gradient along y, angle 90 degrees: bright where y is large, and y points up.
    program = Program(
        (Node("plane"), Node("linear_gradient", (0,), (1.5708,)), Node("grey", (1,), ()))
    )
    image = renderer.draw(program, np.zeros(1), STILL, side=32)[0]
    assert image[0].mean() > 240
    assert image[-1].mean() < 15


def test_a_constant_picture_is_left_out(renderer: Renderer) -> None:
    program = Program(
        (
            Node("plane"),
            Node("linear_gradient", (0,), (0.0,)),
            Node("product", (1, 1), ()),
            Node("posterize", (2,), (1e-6,)),
            Node("grey", (3,), ()),
        )
    )
    assert renderer.draw(program, np.zeros(1), STILL, side=32).shape == (0, 32, 32, 3)


def test_a_picture_that_is_not_finite_is_left_out(renderer: Renderer) -> None:
    program = Program(
        (
            Node("plane"),
            Node("turn", (0,), (0.0, 1e38, 0.0)),
            Node("turn", (1,), (0.0, 1e38, 0.0)),
            Node("linear_gradient", (2,), (0.3,)),
            Node("difference", (3, 3), ()),
            Node("grey", (4,), ()),
        )
    )
    assert len(renderer.draw(program, np.zeros(1), STILL, side=32)) == 0


def test_a_program_that_does_not_compile_is_named(renderer: Renderer) -> None:
    broken = Program((Node("plane"), Node("grey", (0,), ())))  # a color from a point
    with pytest.raises(RenderError, match=f"program {broken.id[:12]} does not compile"):
        renderer.draw(broken, np.zeros(1), STILL, side=32)


def test_views_of_another_count_than_times_are_refused(renderer: Renderer) -> None:
    with pytest.raises(InputError, match=r"views have shape \(1, 4\), wanted \(2, 4\)"):
        renderer.draw(PROGRAM, np.zeros(2), STILL, side=32)


def test_torch_and_timm_can_be_imported_after_drawing() -> None:
    """Mesa's and Triton's LLVM do not get on in every order of loading."""
    code = (
        "import numpy as np\n"
        "from procmem_pretrain.grammar import sample_program\n"
        "from procmem_pretrain.render import Renderer\n"
        "with Renderer() as renderer:\n"
        "    renderer.draw(sample_program(3, 0), np.zeros(1), np.eye(4)[:1], side=32)\n"
        "    import timm\n"
        "    renderer.draw(sample_program(3, 1), np.zeros(1), np.eye(4)[:1], side=32)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
