"""Procedural images to compare models on: the same for a seed on every machine with one driver.

Takes a pool of a few programs of its own seed (none of them trained on), gives uint8 images to
procmem-export's parity gate. Law 3: no real image calibrates or judges a model file.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from procmem_pretrain.pool import PoolConfig, build_pool
from procmem_pretrain.processes import draw
from procmem_pretrain.seeds import stream

# Far from the seeds that people train with.
PROBE_SEED = 2**61 - 1


def probe_images(count: int, *, side: int = 256) -> npt.NDArray[np.uint8]:
    """Draws probe images: half plain programs, half Shaders KML Mixup.

    Args:
        count: N, 2 or more.
        side: S, pixels.

    Returns:
        (N, S, S, 3) uint8.

    Raises:
        RenderError: no graphics context.
        InputError: count or side out of range.
    """
    config = PoolConfig(
        root_seed=PROBE_SEED, programs=max(8, count // 2), images_per_program=2, side=min(side, 256)
    )
    pool = torch.from_numpy(build_pool(config).images).permute(0, 3, 1, 2)
    plain = draw("shaders", pool, count - count // 2, random=stream(PROBE_SEED, "probe", 0))
    mixed = draw(
        "shaders-kml-mixup", pool, count // 2, random=stream(PROBE_SEED, "probe", 1), kml_side=64
    )
    images = torch.cat([plain, mixed])
    if side != config.side:
        images = functional.interpolate(images, size=(side, side), mode="bilinear")
    levels = (images * 255).round().to(torch.uint8)
    return np.ascontiguousarray(levels.permute(0, 2, 3, 1).numpy())
