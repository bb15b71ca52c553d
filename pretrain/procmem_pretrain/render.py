"""Programs -> uint8 images: on OpenGL (fragment or compute shaders) or on torch.

Takes `Program` from `program.py` and a context from `gl.py`, gives (N, S, S, 3) arrays to
`jobs.py`. Every renderer draws the same picture (tests/pretrain/test_render.py holds them within
1/255); which one is faster depends on the machine, and `make_renderer` chooses.
"""

from __future__ import annotations

import importlib.util
import logging
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

import moderngl
import numpy as np
import numpy.typing as npt

from procmem.errors import InputError, RenderError, unknown_choice
from procmem_pretrain.emit_glsl import (
    GROUP_SIDE,
    MAX_TILES,
    VERTEX_SHADER,
    compute_shader,
    fragment_shader,
)
from procmem_pretrain.gl import has_compute, headless_context
from procmem_pretrain.program import Program

if TYPE_CHECKING:
    import torch
    from typing_extensions import Self

RENDERERS = ("auto", "torch", "gl-fragment", "gl-compute")

_log = logging.getLogger(__name__)


class Renderer(Protocol):
    """What draws programs. Use as a context manager."""

    name: str
    device: str

    def draw(
        self,
        program: Program,
        times: npt.NDArray[np.float64],
        views: npt.NDArray[np.float64],
        *,
        side: int,
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        """Draws a program once per time and view.

        Args:
            program: what to draw.
            times: (N,) seconds.
            views: (N, 4): center x, center y, angle in radians, zoom (larger shows more).
            side: S, pixels.

        Returns:
            images (N, S, S, 3) uint8, upright, and (N,) bool: False where an image has pixels
            that are not finite numbers.

        Raises:
            InputError: shapes disagree.
            RenderError: the driver refuses the program.
        """

    def close(self) -> None:
        """Frees what it holds."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def make_renderer(name: str = "auto", device: torch.device | str | None = None) -> Renderer:
    """The renderer of a name.

    "auto" is torch on a CUDA device (no driver to install), else OpenGL. Without a GPU too: a
    software rasterizer compiles a program in about 70 ms and then draws a picture several times
    faster than torch on the same cores (benchmarks/bench_render.py). Where OpenGL is missing,
    torch draws, and a warning is logged.

    Args:
        name: of `RENDERERS`.
        device: where torch draws; None: on a CUDA device if there is one, else on the CPU.

    Raises:
        InputError: an unknown name.
        RenderError: neither OpenGL nor torch is there.
    """
    if name not in RENDERERS:
        raise unknown_choice("renderer", name, RENDERERS)
    place = str(device) if device is not None else "cuda" if _has_cuda() else "cpu"
    if name == "torch" or (name == "auto" and place.startswith("cuda")):
        return TorchRenderer(place)
    try:
        return GlRenderer(compute={"gl-compute": True, "gl-fragment": False}.get(name))
    except RenderError as error:
        if importlib.util.find_spec("torch") is None:
            raise
        _log.warning("%s; drawing with torch instead", error)
        return TorchRenderer(place)


def _has_cuda() -> bool:
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


class _Closing:
    """`with` for things that have close()."""

    def close(self) -> None:
        """Frees what it holds."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class TorchRenderer(_Closing):
    """Draws with tensor operations.

    Args:
        device: "cpu", "cuda", "cuda:1"...
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.name = "torch"
        self.device = str(device)

    def draw(
        self,
        program: Program,
        times: npt.NDArray[np.float64],
        views: npt.NDArray[np.float64],
        *,
        side: int,
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        """See `Renderer`."""
        from procmem_pretrain.emit_torch import evaluate

        _check(times, views)
        images, finite, _ = evaluate(program, times, views, side=side, device=self.device)
        upright = images.permute(0, 2, 3, 1).contiguous()
        return np.asarray(upright.cpu()), np.asarray(finite.cpu())


class GlRenderer(_Closing):
    """Draws with OpenGL, without a window.

    Args:
        compute: use compute shaders; None does where they exist. Hopper GPUs shade fragments on
            few units and ran compute shaders 30 times faster; Mesa compiles them faster.

    Raises:
        RenderError: no context could be made, or it has no compute shaders.
    """

    def __init__(self, *, compute: bool | None = None) -> None:
        self.context = headless_context()
        self.device = str(self.context.info["GL_RENDERER"])
        if compute is None:
            compute = has_compute(self.context)
        elif compute and not has_compute(self.context):
            self.context.release()
            raise RenderError(f"{self.device} has no compute shaders; use gl-fragment")
        self.name = "gl-compute" if compute else "gl-fragment"
        corners = np.array([-1, -1, 1, -1, -1, 1, 1, 1], dtype=np.float32)
        self._corners = self.context.buffer(corners.tobytes())
        self._textures: dict[tuple[int, int], moderngl.Texture] = {}

    def draw(
        self,
        program: Program,
        times: npt.NDArray[np.float64],
        views: npt.NDArray[np.float64],
        *,
        side: int,
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        """See `Renderer`."""
        _check(times, views)
        batches = []
        with self.context:  # another context may have been made current meanwhile
            shader = self._compile(program)
            try:
                for first in range(0, len(times), MAX_TILES):
                    part = slice(first, min(first + MAX_TILES, len(times)))
                    batches.append(self._draw_tiles(shader, times[part], views[part], side))
            finally:
                shader.release()
        drawn = np.concatenate(batches)  # (N, S, S, 4)
        finite = np.asarray(drawn[..., 3].all(axis=(1, 2)))
        return np.ascontiguousarray(drawn[..., :3]), finite

    def _compile(self, program: Program) -> moderngl.Program | moderngl.ComputeShader:
        try:
            if self.name == "gl-compute":
                return self.context.compute_shader(compute_shader(program))
            return self.context.program(
                vertex_shader=VERTEX_SHADER, fragment_shader=fragment_shader(program)
            )
        except moderngl.Error as error:
            raise RenderError(f"program {program.id[:12]} does not compile: {error}") from error

    def _draw_tiles(
        self,
        shader: moderngl.Program | moderngl.ComputeShader,
        times: npt.NDArray[np.float64],
        views: npt.NDArray[np.float64],
        side: int,
    ) -> npt.NDArray[np.uint8]:
        count = len(times)
        # A compiler removes uniforms that a program does not use; writing those is an error.
        for name, values in (("times", times), ("views", views)):
            if name in shader:
                padded = np.zeros((MAX_TILES, *values.shape[1:]), "f4")
                padded[:count] = values
                _uniform(shader, name).write(padded.tobytes())
        if "side" in shader:
            _uniform(shader, "side").value = side
        texture = self._texture(count, side)
        if isinstance(shader, moderngl.ComputeShader):
            texture.bind_to_image(0, read=False, write=True)
            groups = -(-side // GROUP_SIDE)
            shader.run(groups, groups, count)
            self.context.memory_barrier()
        else:
            target = self.context.framebuffer([texture])
            vertices = self.context.vertex_array(shader, [(self._corners, "2f", "corner_position")])
            target.use()
            vertices.render(moderngl.TRIANGLE_STRIP)
            vertices.release()
            target.release()
        atlas = np.frombuffer(texture.read(alignment=1), np.uint8).reshape(side, count, side, 4)
        # GL's rows run upward -> (N, S, S, 4), rows downward
        return np.ascontiguousarray(atlas[::-1].transpose(1, 0, 2, 3))

    def _texture(self, count: int, side: int) -> moderngl.Texture:
        if (count, side) not in self._textures:
            limit = int(self.context.info["GL_MAX_TEXTURE_SIZE"])
            if count * side > limit:
                raise InputError(
                    f"{count} images of {side} pixels do not fit into one texture of {limit}; "
                    "draw fewer or smaller ones"
                )
            self._textures[count, side] = self.context.texture((count * side, side), 4)
        return self._textures[count, side]

    def close(self) -> None:
        """Frees the context; the renderer cannot be used afterwards."""
        self.context.release()


def _check(times: npt.NDArray[np.float64], views: npt.NDArray[np.float64]) -> None:
    if times.ndim != 1 or not len(times) or views.shape != (len(times), 4):
        raise InputError(
            f"times have shape {times.shape} and views {views.shape}, wanted (N,) and (N, 4)"
        )


def _uniform(shader: moderngl.Program | moderngl.ComputeShader, name: str) -> moderngl.Uniform:
    uniform = shader[name]
    assert isinstance(uniform, moderngl.Uniform)
    return uniform
