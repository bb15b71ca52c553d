"""The end of a run: what is kept of it, in float16, with a readout that fits what is kept.

Takes a transformer of `train.py` or of a full checkpoint, gives the compact checkpoint that
procmem-export turns into a model, and that a later run starts from.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from procmem_pretrain import checkpoint
from procmem_pretrain.config import TrainConfig
from procmem_pretrain.jobs import program_set
from procmem_pretrain.readout import fit_readout
from procmem_pretrain.stream import ImageStream
from procmem_pretrain.vit import (
    make_vit,
    normalized,
    statistics,
    statistics_blocks,
    without_registers,
)

# A batch number that no run reaches: its images are new to every model.
_READOUT_START = 10**9


def save_compact(
    path: Path,
    config: TrainConfig,
    vit: Any,
    chain: tuple[tuple[str, str], ...],
    *,
    step: int,
) -> Path:
    """Fits the readout on procedural images and writes the compact checkpoint.

    The weights are rounded to float16 before the readout is fitted, so that it fits what is kept.
    """
    rounded = make_vit(config.model, root_seed=0, registers=config.registers)
    rounded.load_state_dict({k: v.half().float() for k, v in vit.state_dict().items()})
    weight = bias = None
    if config.readout_dimension:
        weight, bias = procedural_readout(rounded, config)
    width = int(rounded.embed_dim)
    checkpoint.save(
        path,
        checkpoint.compact_tensors(rounded, weight, bias),
        config=config,
        step=step,
        program_set_sha256=program_set(config.images.jobs),
        cls_dim=config.readout_dimension or width,
        patch_dim=width,
        chain=chain,
    )
    return path


def procedural_readout(vit: Any, config: TrainConfig, *, side: int = 224) -> tuple[Tensor, Tensor]:
    """Fits the readout on images of the training process that no step saw, at the input size."""
    features = [
        statistics(tokens, (side // 16, side // 16))
        for tokens in procedural_tokens(vit, config, side=side)
    ]
    blocks = statistics_blocks(int(vit.embed_dim))
    return fit_readout(torch.cat(features), dimension=config.readout_dimension, blocks=blocks)


@torch.no_grad()
def procedural_tokens(vit: Any, config: TrainConfig, *, side: int = 224) -> Iterator[Tensor]:
    """(50, 1 + (side / 16)^2, P) tokens at a time, of `readout_images` images, rounded up."""
    vit = vit.eval()
    pool_images = min(config.images.pool_images, config.readout_images)
    with ImageStream(
        dataclasses.replace(config.images, pool_images=pool_images), batch=50, start=_READOUT_START
    ) as images:
        for _ in range(math.ceil(config.readout_images / 50)):
            drawn = next(images).float().div_(255)
            drawn = functional.interpolate(drawn, size=(side, side), mode="bicubic").clamp(0, 1)
            yield without_registers(vit, vit.forward_features(normalized(drawn)))
