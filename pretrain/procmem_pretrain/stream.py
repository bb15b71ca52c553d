"""Endless batches of procedural images on a device: no folder, no loader, resumable exactly.

Takes images of `jobs.py` into a pool that it keeps rolling, mixes a batch from it with
`processes.py`, gives uint8 batches to `crops.py`. Batch b is a pure function of (configuration, b):
it is mixed from the pool after a number of jobs that b decides, with random numbers that belong to
b. So neither the number of workers nor where a run was interrupted changes a pixel. A batch costs
the same, however many programs there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from procmem.errors import InputError, TrainingError, unknown_choice
from procmem_pretrain.jobs import BUNDLED, JobConfig
from procmem_pretrain.kml import MASK_SIDE
from procmem_pretrain.processes import PROCESSES, UNMIXED, make_process, to_uint8
from procmem_pretrain.ranges import Range, outside
from procmem_pretrain.render import RENDERERS
from procmem_pretrain.seeds import stream
from procmem_pretrain.user_shaders import UserShader, load_shaders
from procmem_pretrain.workers import JobRunner

Progress = Callable[[int, int | None], None]

# Images that a process mixes at a time. Part of what a seed means: each chunk of a batch has random
# numbers of its own.
CHUNK = 32


_RANGES = {
    "pool_images": Range(1, 10_000_000),
    "fresh_programs": Range(0, 10_000),
    "mask_side": Range(8, 4096),
}


@dataclass(frozen=True, slots=True)
class StreamConfig:
    """What a stream shows. Equal configurations give equal images.

    Attributes:
        process: how pool images become training images; one of `processes.PROCESSES`.
        root_seed: of every random choice.
        programs: "bundled", "endless" or the path of a bank file (see `jobs.JobConfig`).
        shaders: a folder of your own GLSL files to draw instead of programs.
        side: S, pixels.
        pool_images: images that a batch is mixed from, rounded up to whole programs.
        images_per_program: drawn at a time, each at its own time and view.
        fresh_programs: programs drawn anew for every batch; their images replace the oldest ones
            of the pool. 0 draws the pool once. If they fill a batch, a process that does not mix
            shows each image once; else it draws from the pool with replacement.
        protocol: "paper" is the published procedure to the letter: plain views, K-means on
            256 x 256 pixels of 8 bits.
        mask_side: where K-means runs, pixels; None is 256, less is faster.
    """

    process: str = "shaders-kml-mixup"
    root_seed: int = 0
    programs: str = BUNDLED
    shaders: str | None = None
    side: int = 256
    pool_images: int = 2048
    images_per_program: int = 8
    fresh_programs: int = 1
    protocol: Literal["exact", "paper"] = "exact"
    mask_side: int | None = None

    def __post_init__(self) -> None:
        if self.process not in PROCESSES:
            raise unknown_choice("process", self.process, PROCESSES)
        problems = outside(self, _RANGES)
        if self.protocol == "paper" and self.mask_side not in (None, MASK_SIDE):
            problems.append(f"mask_side is {self.mask_side}, but the paper's is {MASK_SIDE}")
        if problems:
            raise InputError("; ".join(problems))
        _ = self.jobs

    @property
    def jobs(self) -> JobConfig:
        """What a worker draws."""
        return JobConfig(
            root_seed=self.root_seed,
            generator="stylegan" if self.process == "stylegan" else "programs",
            programs=self.programs,
            shaders=self.shaders,
            images_per_program=self.images_per_program,
            side=self.side,
            protocol=self.protocol,
        )

    def deals(self, batch: int) -> bool:
        """Whether each image is shown once: nothing is mixed, and enough are drawn for a batch."""
        fresh = self.fresh_programs * self.images_per_program
        return self.process in UNMIXED and min(fresh, self.pool_images) >= batch

    @property
    def pool_jobs(self) -> int:
        """How many jobs fill the pool."""
        return -(-self.pool_images // self.images_per_program)


class ImageStream:
    """An iterator of batches. Use as a context manager: it owns processes and graphics memory.

    Args:
        config: what to show.
        batch: B, images in a batch.
        device: where the pool lies and the batches come: "cpu", "cuda", "cuda:1"...
        renderer: what draws programs; see `render.make_renderer`.
        workers: processes that draw ahead; 0 draws in this process.
        start: number of the first batch; a stream opened at b gives what an uninterrupted one
            gives from b on.
        progress: of the filling of the pool, called with (programs drawn, programs in all).
        share: which images of each batch are wanted, by one of several processes that train
            together; None for all. Each process keeps the whole pool and mixes its share.

    Raises:
        InputError: a number out of range, an unknown name, a shader folder without a shader.
        BankError: the bank file cannot be used.
        RenderError: nothing here can draw.
    """

    def __init__(
        self,
        config: StreamConfig,
        *,
        batch: int = 128,
        device: torch.device | str = "cpu",
        renderer: str = "auto",
        workers: int = 0,
        start: int = 0,
        progress: Progress | None = None,
        share: slice | None = None,
    ) -> None:
        for name, value, low in (("batch", batch, 1), ("workers", workers, 0), ("start", start, 0)):
            if value < low:
                raise InputError(f"{name} is {value}, wanted {low} or more")
        if renderer not in RENDERERS:
            raise unknown_choice("renderer", renderer, RENDERERS)
        self.config = config
        self.position = start
        self._batch = batch
        self._share = range(batch)[share or slice(None)]
        self._progress = progress
        images = config.pool_jobs * config.images_per_program
        self._pool = _empty_pool(images, config.side, device)
        self._process = make_process(
            config.process,
            self._pool,
            protocol=config.protocol,
            mask_side=config.mask_side,
        )
        self._drawn = self._jobs_before(start) - config.pool_jobs  # the next job to draw
        self._runner = JobRunner(
            config.jobs,
            renderer=renderer,
            shaders=_usable_shaders(config),
            workers=workers,
            first=self._drawn,
            device=str(self._pool.device),
        )

    def __iter__(self) -> Iterator[Tensor]:
        return self

    def __next__(self) -> Tensor:
        """The batch at `position`, (B, 3, S, S) uint8 on the device; the position moves on by one.

        With a share, only its images.

        Raises:
            TrainingError: the batch does not fit into memory (the message says which would), or
                no usable image was found.
        """
        self._fill(self._jobs_before(self.position))
        try:
            images = self._mix(self.position, self._batch, self._share)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise self._too_large() from error
        self.position += 1
        return images

    def _jobs_before(self, batch: int) -> int:
        return self.config.pool_jobs + batch * self.config.fresh_programs

    def _fill(self, end: int) -> None:
        """Draws jobs up to `end` into the ring."""
        size, ring = self.config.images_per_program, self.config.pool_jobs
        first = self._drawn
        while self._drawn < end:
            images = torch.from_numpy(self._runner.next()).permute(0, 3, 1, 2)
            slot = self._drawn % ring * size
            self._pool[slot : slot + size] = images.to(self._pool.device)
            self._drawn += 1
            if self._progress is not None and end - first >= ring:
                self._progress(self._drawn - first, end - first)

    def _mix(self, position: int, count: int, share: range) -> Tensor:
        if self.config.deals(count):
            return self._deal(position, count)[share.start : share.stop]
        side = self.config.side
        batch = torch.empty(len(share), 3, side, side, dtype=torch.uint8, device=self._pool.device)
        for first in range(share.start - share.start % CHUNK, share.stop, CHUNK):
            # Every chunk has its own random numbers, so that a share costs no more than itself.
            random = stream(self.config.root_seed, "mixing", position, first // CHUNK)
            wanted = range(max(first, share.start), min(first + CHUNK, share.stop))
            images = to_uint8(self._process(min(CHUNK, count - first), random))
            batch[wanted.start - share.start : wanted.stop - share.start] = images[
                wanted.start - first : wanted.stop - first
            ]
        return batch

    def _deal(self, position: int, count: int) -> Tensor:
        """The images of the newest jobs, in random order."""
        size, ring = self.config.images_per_program, self.config.pool_jobs
        jobs = self._jobs_before(position) - 1 - np.arange(-(-count // size))
        newest = (jobs[:, None] % ring * size + np.arange(size)).ravel()
        random = stream(self.config.root_seed, "mixing", position)
        return self._pool[torch.from_numpy(random.permutation(newest)[:count])]

    def _too_large(self) -> TrainingError:
        """Looks for the batch that fits; its images are thrown away."""
        count = len(self._share) // 2
        while count:
            try:
                self._mix(self.position, count, range(count))
                break
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                count //= 2
        advice = f"{count} would: use --batch {count}" if count else "use a smaller --side"
        return TrainingError(
            f"a batch of {len(self._share)} images of {self.config.side} pixels does not fit into "
            f"the memory of {self._pool.device}; {advice}"
        )

    def close(self) -> None:
        """Ends the workers."""
        self._runner.close()

    def __enter__(self) -> ImageStream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def generate(
    config: StreamConfig,
    count: int,
    *,
    renderer: str = "auto",
    workers: int = 0,
    progress: Progress | None = None,
) -> Tensor:
    """The first `count` images of a stream, as one (N, 3, S, S) uint8 tensor on the CPU."""
    with ImageStream(
        config, batch=count, renderer=renderer, workers=workers, progress=progress
    ) as images:
        return next(images)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out: torch has no one class for it on the CPU."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "allocate memory" in str(error)


def _usable_shaders(config: StreamConfig) -> tuple[UserShader, ...]:
    if config.shaders is None:
        return ()
    return load_shaders(Path(config.shaders))  # logs a warning for each file that it skips


def _empty_pool(images: int, side: int, device: torch.device | str) -> Tensor:
    try:
        return torch.zeros(images, 3, side, side, dtype=torch.uint8, device=device)
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            gibibytes = images * 3 * side * side / 2**30
            raise TrainingError(
                f"a pool of {images} images of {side} pixels takes {gibibytes:.1f} GiB, more than "
                f"{device} has free; use a smaller --pool-images or --side"
            ) from error
        raise InputError(f"device {str(device)!r} cannot be used ({error}); use cpu") from error
