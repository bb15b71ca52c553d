"""GLSL -> uint8 images, without a window. The only place that makes a graphics context.

Takes source from `emit_glsl.py`, gives (N, S, S, 3) arrays to `processes.py`. Uses EGL; on a
machine without a GPU, Mesa's software rasterizer. Never touches a display.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from types import TracebackType

import moderngl
import numpy as np
import numpy.typing as npt

from procmem.errors import InputError, RenderError
from procmem_pretrain.emit_glsl import MAX_TILES, VERTEX_SHADER, fragment_shader
from procmem_pretrain.grammar import Program

# An image whose grey values vary less than this (of 255) teaches nothing.
MIN_STANDARD_DEVIATION = 6.0

_EGL_HELP = (
    "install the system's EGL and OpenGL libraries "
    "(Debian and Ubuntu: apt-get install libegl1 libgl1-mesa-dri libgles2)"
)


class Renderer:
    """A headless graphics context that draws programs. Use as a context manager.

    Raises:
        RenderError: no context could be made; the message says what to install.
    """

    def __init__(self) -> None:
        # Mesa's software rasterizer spends longer on optimizing a program than on drawing a few
        # images with it (measured: 145 ms a program, 93 ms so). Other drivers ignore this.
        os.environ.setdefault("GALLIVM_PERF", "nopt")
        # Mesa and Triton (which torch and timm load) each bring an LLVM of their own. Triton's
        # crashes the process if Mesa's was loaded first; the other way round both work.
        with contextlib.suppress(ImportError):
            importlib.import_module("triton")
        try:
            self._context = moderngl.create_context(
                standalone=True,
                backend="egl",  # type: ignore[arg-type]  # the stub types **settings as dicts
            )
        except Exception as error:
            raise RenderError(f"no EGL graphics context ({error}); {_EGL_HELP}") from error
        corners = np.array([-1, -1, 1, -1, -1, 1, 1, 1], dtype=np.float32)
        self._corners = self._context.buffer(corners.tobytes())
        self._targets: dict[tuple[int, int], moderngl.Framebuffer] = {}

    @property
    def device(self) -> str:
        """The driver's name for what draws, e.g. "llvmpipe (LLVM 15.0.6, 256 bits)"."""
        return str(self._context.info["GL_RENDERER"])

    def draw(
        self,
        program: Program,
        times: npt.NDArray[np.float64],
        views: npt.NDArray[np.float64],
        *,
        side: int,
    ) -> npt.NDArray[np.uint8]:
        """Draws a program once per time and view.

        Args:
            program: what to draw.
            times: (N,) seconds.
            views: (N, 4): center x, center y, angle in radians, zoom (larger shows more).
            side: S, pixels.

        Returns:
            (M, S, S, 3) uint8 with M <= N: images that are not finite everywhere or nearly of
            one color are left out, the others keep their order.

        Raises:
            InputError: shapes disagree.
            RenderError: the driver refuses the program.
        """
        count = len(times)
        if views.shape != (count, 4):
            raise InputError(f"views have shape {views.shape}, wanted ({count}, 4)")
        try:
            shader = self._context.program(
                vertex_shader=VERTEX_SHADER, fragment_shader=fragment_shader(program)
            )
        except moderngl.Error as error:
            raise RenderError(f"program {program.id[:12]} does not compile: {error}") from error
        vertices = self._context.vertex_array(shader, [(self._corners, "2f", "corner_position")])
        batches = []
        try:
            for first in range(0, count, MAX_TILES):
                part = slice(first, min(first + MAX_TILES, count))
                batches.append(self._draw_tiles(shader, vertices, times[part], views[part], side))
        finally:
            vertices.release()
            shader.release()
        return np.concatenate(batches)

    def _draw_tiles(
        self,
        shader: moderngl.Program,
        vertices: moderngl.VertexArray,
        times: npt.NDArray[np.float64],
        views: npt.NDArray[np.float64],
        side: int,
    ) -> npt.NDArray[np.uint8]:
        count = len(times)
        target = self._target(count, side)
        target.use()
        # A compiler removes uniforms that a program does not use; writing those is an error.
        for name, dtype, values in (("times", "f4", times), ("views", "f4", views)):
            if name in shader:
                padded = np.zeros((MAX_TILES, *values.shape[1:]), dtype)
                padded[:count] = values
                _uniform(shader, name).write(padded.tobytes())
        if "side" in shader:
            _uniform(shader, "side").value = side
        vertices.render(moderngl.TRIANGLE_STRIP)
        raw = target.read(components=4, alignment=1)
        atlas = np.frombuffer(raw, np.uint8).reshape(side, count, side, 4)
        images = atlas[::-1].transpose(1, 0, 2, 3)  # GL's rows run upward -> (N, S, S, 4)
        kept = [image[..., :3] for image in images if _is_usable(image)]
        return np.stack(kept) if kept else np.empty((0, side, side, 3), np.uint8)

    def _target(self, count: int, side: int) -> moderngl.Framebuffer:
        if (count, side) not in self._targets:
            texture = self._context.texture((count * side, side), 4)
            self._targets[count, side] = self._context.framebuffer([texture])
        return self._targets[count, side]

    def close(self) -> None:
        """Frees the context; the renderer cannot be used afterwards."""
        self._context.release()

    def __enter__(self) -> Renderer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _uniform(shader: moderngl.Program, name: str) -> moderngl.Uniform:
    uniform = shader[name]
    assert isinstance(uniform, moderngl.Uniform)
    return uniform


def _is_usable(image: npt.NDArray[np.uint8]) -> bool:
    return bool(image[..., 3].all() and image[..., :3].mean(axis=2).std() >= MIN_STANDARD_DEVIATION)
