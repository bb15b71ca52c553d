"""Procedural images to compare models on: the same for a seed on every machine with one driver.

Takes a stream of a seed of its own, gives uint8 images to procmem-export: to its parity gate and to
the calibration of 8-bit models. Law 3: no real image calibrates or judges a model file.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from procmem.errors import InputError
from procmem_pretrain.jobs import JobConfig
from procmem_pretrain.stream import Progress, StreamConfig, generate
from procmem_pretrain.workers import JobRunner

# Far from the seeds that people train with.
PROBE_SEED = 2**61 - 1


# A job number that no run reaches: its programs are drawn for comparing only.
_FIRST_JOB = 2 * 10**9


@lru_cache(maxsize=4)  # several files of a checkpoint are compared on the same ones
def probe_images(count: int, *, side: int = 256, seed: int = PROBE_SEED) -> npt.NDArray[np.uint8]:
    """Draws probe images: half plain programs, half Shaders KML Mixup.

    Args:
        count: N, 2 or more.
        side: S, pixels.
        seed: of every random choice.

    Returns:
        (N, S, S, 3) uint8, read-only.

    Raises:
        RenderError: no graphics context.
        InputError: count or side out of range.
    """
    drawn_side = min(side, 256)
    parts = []
    for process, number in (("shaders", count - count // 2), ("shaders-kml-mixup", count // 2)):
        config = StreamConfig(
            process=process,
            root_seed=seed,
            side=drawn_side,
            pool_images=max(8, count),
            images_per_program=2,
            mask_side=64,
        )
        parts.append(generate(config, number))
    images = torch.cat(parts)
    if side != drawn_side:
        resized = functional.interpolate(images.float(), size=(side, side), mode="bilinear")
        images = resized.round().to(torch.uint8)
    drawn = np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())
    drawn.flags.writeable = False
    return drawn


def retrieval_images(
    programs: int, *, each: int = 8, side: int = 192, progress: Progress | None = None
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Draws a retrieval task: several views of each program, to be found by one another.

    Args:
        programs: how many, 2 or more.
        each: images of each, every one at its own time and from its own view, 2 or more.
        side: S, pixels.
        progress: called with (programs drawn, programs in all).

    Returns:
        (programs * each, S, S, 3) uint8, and the number of each image's program.

    Raises:
        RenderError: no graphics context.
        InputError: a number out of range.
    """
    for name, value in (("programs", programs), ("images of each program", each)):
        if value < 2:
            raise InputError(f"{name} is {value}, wanted 2 or more")
    config = JobConfig(root_seed=PROBE_SEED, images_per_program=each, side=side)
    runner = JobRunner(config, renderer="auto", shaders=(), workers=0, first=_FIRST_JOB)
    parts = []
    try:
        for number in range(programs):
            parts.append(runner.next())
            if progress is not None:
                progress(number + 1, programs)
    finally:
        runner.close()
    return np.concatenate(parts), np.repeat(np.arange(programs), each)
