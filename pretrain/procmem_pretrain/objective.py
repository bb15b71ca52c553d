"""What one training step computes: views of fresh images through student and teacher -> losses.

Takes images of `stream.py`, views of `crops.py` and the terms of `losses.py`; called by
`train.py`. All randomness is a function of (root_seed, step).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from procmem_pretrain.config import TrainConfig
from procmem_pretrain.crops import make_view
from procmem_pretrain.descriptors import CHANNELS, cell_descriptors, layout_targets, patch_targets
from procmem_pretrain.losses import alignment, coding_rate, regression
from procmem_pretrain.seeds import stream, torch_seed
from procmem_pretrain.vit import make_vit

LAYOUT_GRID = 4


class Student(nn.Module):
    """Transformer, projection for SimDINO, and linear predictors of the descriptors."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        self.vit = make_vit(config.model, root_seed=config.root_seed, drop_path=config.drop_path)
        width = self.vit.embed_dim
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch_seed(config.root_seed, "heads"))
            self.projection = nn.Sequential(
                nn.Linear(width, 512),
                nn.GELU(),
                nn.Linear(512, 512),
                nn.GELU(),
                nn.Linear(512, config.projection),
            )
            self.patch_predictor = nn.Linear(width, 4 * CHANNELS)
            self.layout_predictor = nn.Linear(width, LAYOUT_GRID**2 * CHANNELS)

    def tokens(self, views: Tensor, keep: Tensor | None = None) -> Tensor:
        """(B, 3, s, s) in [0, 1] -> (B, 1 + K, P); `keep` (B, K) selects patches."""
        normalized = (views - 0.5) / 0.5  # as `Preprocessing` has it
        tokens = self.vit._pos_embed(self.vit.patch_embed(normalized))
        if keep is not None:
            patches = torch.take_along_dim(tokens[:, 1:], keep[:, :, None], dim=1)
            tokens = torch.cat([tokens[:, :1], patches], dim=1)
        normed: Tensor = self.vit.norm(self.vit.blocks(self.vit.norm_pre(tokens)))
        return normed

    def project(self, cls: Tensor) -> Tensor:
        """(B, P) class tokens -> (B, projection) float32 unit vectors."""
        return functional.normalize(self.projection(cls).float(), dim=1)


def losses(
    config: TrainConfig, step: int, images: Tensor, student: Student, teacher: Student
) -> dict[str, Tensor]:
    """The weighted terms of one step: "alignment", "expansion", "patch", "layout".

    Args:
        config: of the run.
        step: decides every random choice.
        images: (B, 3, S, S) uint8, this step's.
        student: sees part of one global view, and the local views.
        teacher: sees another global view whole.
    """
    random = stream(config.root_seed, "step", step)
    torch.manual_seed(torch_seed(config.root_seed, "step", step))  # drop path
    phase = config.phase_at(step)
    drawn = images.float().div_(255)
    teacher_view = make_view(drawn, config.teacher_view(phase), random=random)
    global_view = make_view(drawn, config.student_view(phase), random=random)
    local_views = [
        make_view(drawn, config.local_view(), random=random) for _ in range(config.local_views)
    ]
    keep = _kept_patches((phase.side // 16) ** 2, config.batch, phase.keep, random).to(drawn.device)
    bf16 = torch.autocast(drawn.device.type, torch.bfloat16, enabled=config.precision == "bf16")

    with torch.no_grad(), bf16:
        target = teacher.project(teacher.tokens(teacher_view)[:, 0])
    with bf16:
        tokens = student.tokens(global_view, keep)
        embeddings = [student.project(tokens[:, 0])]
        patch = student.patch_predictor(tokens[:, 1:]).float()
        layout = student.layout_predictor(tokens[:, 0]).float()
        if local_views:
            local_tokens = student.tokens(torch.cat(local_views))
            embeddings += student.project(local_tokens[:, 0]).chunk(config.local_views)

    cells = cell_descriptors(global_view)
    kept_targets = torch.take_along_dim(patch_targets(cells), keep[:, :, None], dim=1)
    rates = torch.stack([coding_rate(e) for e in embeddings])
    return {
        "alignment": torch.stack([alignment(e, target) for e in embeddings]).mean(),
        "expansion": config.expansion_weight * (1 - rates.mean()),
        "patch": config.patch_weight * regression(patch, kept_targets),
        "layout": config.layout_weight
        * regression(layout, layout_targets(cells, grid=LAYOUT_GRID)),
    }


def _kept_patches(patches: int, count: int, share: float, random: np.random.Generator) -> Tensor:
    kept = max(1, round(patches * share))
    order = random.random((count, patches)).argsort(axis=1)[:, :kept]
    return torch.from_numpy(np.sort(order, axis=1))
