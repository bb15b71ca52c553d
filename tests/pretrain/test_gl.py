from pathlib import Path

import moderngl
import numpy as np
import pytest

from procmem.errors import RenderError
from procmem_pretrain.gl import has_compute, headless_context
from procmem_pretrain.isolation import Failure, Workers

# All in child processes: a context made here would stop being the current one of other tests.


def version() -> tuple[int, bool]:
    context = headless_context()
    code, compute = int(context.version_code), has_compute(context)
    context.release()
    return code, compute


def version_without(refused: int) -> tuple[int, bool]:
    """On a driver that has no context of some version."""
    create = moderngl.create_context

    def refuse(*, require: int, **settings: object) -> moderngl.Context:
        if require >= refused:
            raise ValueError(f"Requested OpenGL version {require}, got version {refused - 10}")
        return create(require=require, **settings)  # type: ignore[arg-type]

    moderngl.create_context = refuse  # type: ignore[assignment]
    return version()


def one_pixel() -> list[float]:
    context = headless_context()
    texture = context.texture((1, 1), 4, dtype="f4")
    target = context.framebuffer([texture])
    target.clear(0.25, 0.5, 2.0, 1.0)
    value = np.frombuffer(target.read(components=4, dtype="f4"), np.float32).tolist()
    for thing in (target, texture, context):
        thing.release()
    return list(value)


def open_files_after_many_contexts() -> tuple[int, int]:
    counts = []
    for _ in range(20):
        headless_context().release()
        counts.append(len(list(Path("/proc/self/fd").iterdir())))
    return counts[1], counts[-1]


def two_contexts() -> list[list[int]]:
    """Each entered before use, as the docstring says."""
    contexts = [headless_context(), headless_context()]
    colors = []
    for context, red in zip(contexts * 2, (0, 1, 0, 1), strict=True):
        with context:
            texture = context.texture((1, 1), 4)
            target = context.framebuffer([texture])
            target.clear(red, 1 - red, 0, 1)
            colors.append(list(target.read()))
            target.release()
            texture.release()
    return colors


def ask(function: object, *args: object) -> object:
    with Workers(1) as workers:
        result = workers.submit(function, *args).wait()  # type: ignore[arg-type]
    if isinstance(result, Failure):
        raise result.error or AssertionError(result.message)
    return result


def test_the_context_is_new_enough_for_programs() -> None:
    code, compute = ask(version)  # type: ignore[misc]
    assert code >= 330
    assert compute == (code >= 430)


def test_an_older_driver_gives_the_older_context() -> None:
    asked, _ = ask(version_without, 450)  # type: ignore[misc]
    assert asked >= 330


def test_a_context_draws_floating_point() -> None:
    assert ask(one_pixel) == [0.25, 0.5, 2.0, 1.0]


def test_released_contexts_leave_no_open_file() -> None:
    first, last = ask(open_files_after_many_contexts)  # type: ignore[misc]
    assert last <= first


def test_contexts_that_are_entered_do_not_mix() -> None:
    assert ask(two_contexts) == [[0, 255, 0], [255, 0, 0]] * 2


def test_egl_without_a_device_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("__EGL_VENDOR_LIBRARY_FILENAMES", str(tmp_path / "none.json"))
    with pytest.raises(RenderError, match=r"0 devices.*NVIDIA_DRIVER_CAPABILITIES.*--renderer"):
        ask(version)


def test_a_machine_without_egl_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLCONTEXT_LINUX_LIBEGL", str(tmp_path / "libEGL.so"))
    with pytest.raises(RenderError, match=r"apt-get install .*libegl1"):
        ask(version)
