"""A checkpoint to export, as training writes it, of random weights and two blocks."""

from __future__ import annotations

from pathlib import Path

import torch
from tests.shallow_vit import SHALLOW

from procmem_pretrain import checkpoint
from procmem_pretrain.config import TrainConfig
from procmem_pretrain.vit import make_vit


def write_checkpoint(folder: Path, *, seed: int, registers: int = 0) -> Path:
    """A compact one, `vit-shallow-<seed>.safetensors`, with a readout."""
    generator = torch.Generator().manual_seed(seed)
    path = folder / f"{SHALLOW}-{seed}.safetensors"
    checkpoint.save(
        path,
        checkpoint.compact_tensors(
            make_vit(SHALLOW, root_seed=seed, registers=registers),
            torch.randn(32, 19 * 192, generator=generator).half().float(),
            torch.randn(32, generator=generator),
        ),
        config=TrainConfig(model=SHALLOW, registers=registers),
        step=1,
        program_set_sha256="0" * 64,
        cls_dim=32,
        patch_dim=192,
    )
    return path
