"""Procedural images to compare models on: the same for a seed on every machine with one driver.

Takes a stream of a seed of its own, gives uint8 images to
procmem-export's parity gate. Law 3: no real image calibrates or judges a model file.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from procmem_pretrain.stream import StreamConfig, generate

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
    drawn_side = min(side, 256)
    parts = []
    for process, number in (("shaders", count - count // 2), ("shaders-kml-mixup", count // 2)):
        config = StreamConfig(
            process=process,
            root_seed=PROBE_SEED,
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
    return np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())
