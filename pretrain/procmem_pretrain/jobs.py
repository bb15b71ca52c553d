"""Job number -> images: what a worker of the stream does.

Takes programs of `bank.py` or `grammar.py` (or a user's shaders) and a `render.py` renderer, gives
(K, S, S, 3) arrays to `stream.py`. A job's images are a pure function of the configuration and the
job's number, so that any number of workers gives the same stream.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from procmem.errors import InputError, RenderError, TrainingError
from procmem_pretrain.bank import ProgramBank, load_bank
from procmem_pretrain.grammar import GRAMMAR, sample_program
from procmem_pretrain.program import Program
from procmem_pretrain.ranges import Range, outside
from procmem_pretrain.rejects import varies
from procmem_pretrain.render import GlRenderer, Renderer
from procmem_pretrain.seeds import check_seed, stream
from procmem_pretrain.user_shaders import UserShader, draw_user_shader, load_shaders

# Programs that one job may go through until it has its images: accepted programs nearly always
# have them at once, raw ones two times in three.
_MAX_PROGRAMS = 50

_log = logging.getLogger(__name__)

BUNDLED = "bundled"
ENDLESS = "endless"


_RANGES = {"images_per_program": Range(1, 4096), "side": Range(16, 4096)}


@dataclass(frozen=True, slots=True)
class JobConfig:
    """What a job draws.

    Attributes:
        root_seed: of the choice of programs, of times and of views.
        generator: "programs" (or the user's shaders), or "stylegan": untrained networks.
        shaders: a folder of the user's own GLSL files, drawn instead of programs.
        programs: "bundled" (the accepted programs that come with procmem), "endless" (program
            after program of `root_seed`, rejecting only what cannot be used), or the path of a
            bank file.
        images_per_program: K, each at its own time and view.
        side: S, pixels.
        protocol: "exact" looks at each program from different views; "paper" only at different
            times t ~ U(0.1, 10) s, as the paper does.
    """

    root_seed: int = 0
    generator: Literal["programs", "stylegan"] = "programs"
    programs: str = BUNDLED
    shaders: str | None = None
    images_per_program: int = 8
    side: int = 256
    protocol: Literal["exact", "paper"] = "exact"

    def __post_init__(self) -> None:
        check_seed(self.root_seed)
        if problems := outside(self, _RANGES):
            raise InputError("; ".join(problems))


class Jobs(Protocol):
    """What draws jobs."""

    def images(self, job: int, *, attempt: int = 0) -> npt.NDArray[np.uint8]:
        """The images of a job.

        Args:
            job: 0 or more.
            attempt: other programs, where an earlier attempt was lost to a driver.

        Returns:
            (K, S, S, 3) uint8, every one finite and not nearly of one color.

        Raises:
            TrainingError: program after program gave nothing usable.
        """

    def close(self) -> None:
        """Frees the renderer."""


class ProgramJobs:
    """Draws programs of a bank, or of the endless sequence.

    Args:
        config: what to draw.
        renderer: with what.

    Raises:
        BankError: the bank file cannot be used.
    """

    def __init__(self, config: JobConfig, renderer: Renderer) -> None:
        self._config = config
        self._renderer = renderer
        self._bank: ProgramBank | None = None
        if config.programs != ENDLESS:
            self._bank = load_bank(None if config.programs == BUNDLED else config.programs)

    def images(self, job: int, *, attempt: int = 0) -> npt.NDArray[np.uint8]:
        """See `Jobs`."""
        count = self._config.images_per_program
        random = stream(self._config.root_seed, "job", job, attempt)
        for _ in range(_MAX_PROGRAMS):
            program = self._program(random)
            found = self._usable(program, random, count)
            # A second look from elsewhere: a program often has a few empty corners.
            if 0 < len(found) < count:
                more = self._usable(program, random, count)
                found = np.concatenate([found, more])[:count]
            if len(found) == count:
                return found
        raise TrainingError(
            f"{_MAX_PROGRAMS} programs in a row gave no usable image; use the bundled bank"
        )

    def close(self) -> None:
        """See `Jobs`."""
        self._renderer.close()

    def _program(self, random: np.random.Generator) -> Program:
        if self._bank is None:
            return sample_program(self._config.root_seed, int(random.integers(2**40)))
        return self._bank.program(int(random.integers(len(self._bank))))

    def _usable(
        self, program: Program, random: np.random.Generator, count: int
    ) -> npt.NDArray[np.uint8]:
        times, views = times_and_views(random, count, protocol=self._config.protocol)
        try:
            images, finite = self._renderer.draw(program, times, views, side=self._config.side)
        except RenderError as error:
            _log.warning("%s; another program is drawn", error)
            return np.empty((0, self._config.side, self._config.side, 3), np.uint8)
        return images[finite & varies(images)]


class UserShaderJobs:
    """Draws the shaders of a user's folder, at different times only: they have no views.

    Args:
        config: what to draw.
        renderer: OpenGL.
        shaders: those of the folder that can be drawn, one or more.

    Raises:
        RenderError: the renderer is not OpenGL.
    """

    def __init__(
        self, config: JobConfig, renderer: Renderer, shaders: tuple[UserShader, ...]
    ) -> None:
        if not isinstance(renderer, GlRenderer):
            renderer.close()
            raise RenderError("shaders of your own need OpenGL; draw with --renderer gl-fragment")
        self._config = config
        self._renderer = renderer
        self._shaders = shaders

    def images(self, job: int, *, attempt: int = 0) -> npt.NDArray[np.uint8]:
        """See `Jobs`."""
        count, side = self._config.images_per_program, self._config.side
        random = stream(self._config.root_seed, "job", job, attempt)
        found = np.empty((0, side, side, 3), np.uint8)
        for _ in range(_MAX_PROGRAMS):
            shader = self._shaders[int(random.integers(len(self._shaders)))]
            times = random.uniform(0.1, 10.0, count)
            images, finite = draw_user_shader(
                shader, times, side=side, context=self._renderer.context
            )
            found = np.concatenate([found, images[finite & varies(images)]])[:count]
            if len(found) == count:
                return found
        raise TrainingError(f"the shaders in {self._config.shaders} gave no usable image")

    def close(self) -> None:
        """See `Jobs`."""
        self._renderer.close()


class StyleganJobs:
    """Draws images of untrained generators, a new one for every job; on the CPU."""

    def __init__(self, config: JobConfig) -> None:
        self._config = config

    def images(self, job: int, *, attempt: int = 0) -> npt.NDArray[np.uint8]:
        """See `Jobs`."""
        from procmem_pretrain.stylegan import stylegan_images

        count, side = self._config.images_per_program, self._config.side
        random = stream(self._config.root_seed, "stylegan", job, attempt)
        images = stylegan_images(count, random, side=side)
        levels = (images * 255).add_(0.5).clamp_(0, 255).byte()
        return np.ascontiguousarray(levels.permute(0, 2, 3, 1).numpy())

    def close(self) -> None:
        """See `Jobs`."""


def times_and_views(
    random: np.random.Generator, count: int, *, protocol: Literal["exact", "paper"] = "exact"
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Times (N,) ~ U(0.1, 10) s (the paper's) and views (N, 4) for pictures of a program.

    Views are center x and y ~ U(-0.5, 0.5), angle ~ U(0, 2 pi), zoom log-uniform in [1/2, 2];
    the protocol "paper" has the plain view only.
    """
    times = random.uniform(0.1, 10.0, count)
    if protocol == "paper":
        return times, np.tile([0.0, 0.0, 0.0, 1.0], (count, 1))
    views = np.stack(
        [
            random.uniform(-0.5, 0.5, count),
            random.uniform(-0.5, 0.5, count),
            random.uniform(0.0, 2.0 * np.pi, count),
            np.exp(random.uniform(np.log(0.5), np.log(2.0), count)),
        ],
        axis=1,
    )
    return times, views


@lru_cache
def program_set(config: JobConfig) -> str:
    """SHA-256 that names the programs which a configuration draws from.

    Of a folder of shaders it is taken over the hashes of those that can be drawn, in order.

    Raises:
        BankError: the bank file cannot be used.
        InputError: the shader folder holds no shader.
    """
    if config.generator == "stylegan":
        text = f"untrained StyleGAN generators of seed {config.root_seed}"
        return hashlib.sha256(text.encode()).hexdigest()
    if config.shaders is not None:
        digests = [bytes.fromhex(each.sha256) for each in load_shaders(Path(config.shaders))]
        return hashlib.sha256(b"".join(digests)).hexdigest()
    if config.programs == ENDLESS:
        text = f"grammar {GRAMMAR}, every program of seed {config.root_seed}"
        return hashlib.sha256(text.encode()).hexdigest()
    return load_bank(None if config.programs == BUNDLED else config.programs).program_set_sha256


def make_jobs(config: JobConfig, renderer: Renderer, shaders: tuple[UserShader, ...] = ()) -> Jobs:
    """The jobs of a configuration; `shaders` are the usable ones of its folder, if it has one."""
    if config.generator == "stylegan":
        renderer.close()
        return StyleganJobs(config)
    if config.shaders is not None:
        return UserShaderJobs(config, renderer, shaders)
    return ProgramJobs(config, renderer)
