"""Is a run still learning, or has it collapsed? Looked at before every checkpoint.

A model that collapses gives every image the same embedding; its loss may stay finite. Two numbers
on images that no step sees tell it: the effective rank of the class tokens, and how often the
nearest neighbors of an image come from the same program. No real image is involved (law 3).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from procmem_pretrain.stream import StreamConfig
from procmem_pretrain.user_shaders import load_shaders
from procmem_pretrain.vit import normalized
from procmem_pretrain.workers import JobRunner

# A job number that no run reaches: its programs are drawn for looking only.
FIRST_JOB = 10**9
IMAGES_EACH = 6
NEIGHBORS = 5
# Class tokens that span fewer directions than this, or a k-NN accuracy below this share of the best
# so far, are a collapse: healthy runs have a rank of ten and more, and never lose half.
LEAST_RANK = 2.0
LEAST_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Vitals:
    """What a look at a model found.

    Attributes:
        knn: share of held-out procedural images whose five nearest neighbors vote for their
            program, in [0, 1]; six images of each program, each image left out once.
        rank: effective rank of their class tokens (Roy and Vetterli 2007): the exponential of the
            entropy of the singular values' shares; 1 is a collapse.
    """

    knn: float
    rank: float


class Unhealthy(Exception):
    """A run has collapsed or its loss is not finite; `train` rolls back."""


class HealthCheck:
    """Draws its images once, then looks at the model as often as asked.

    Args:
        config: whose programs, or shaders, are drawn.
        programs: how many.
        renderer: see `render.make_renderer`.
        device: of the model.
    """

    def __init__(
        self, config: StreamConfig, *, programs: int, renderer: str, device: torch.device
    ) -> None:
        jobs = dataclasses.replace(config, images_per_program=IMAGES_EACH).jobs
        shaders = () if config.shaders is None else load_shaders(Path(config.shaders))
        runner = JobRunner(
            jobs, renderer=renderer, shaders=shaders, first=FIRST_JOB, device=str(device)
        )
        try:
            drawn = [torch.from_numpy(runner.next()) for _ in range(programs)]
        finally:
            runner.close()
        side = config.side // 16 * 16
        images = torch.cat(drawn).permute(0, 3, 1, 2)[:, :, :side, :side]
        self._images = images.to(device).float().div_(255)
        self._programs = torch.arange(programs, device=device).repeat_interleave(IMAGES_EACH)

    @torch.no_grad()
    def look(self, vit: Any, *, best_knn: float = 0.0) -> Vitals:
        """Measures a transformer.

        Args:
            vit: as `vit.make_vit` makes it.
            best_knn: what the run had at best, in [0, 1].

        Raises:
            Unhealthy: it has collapsed.
        """
        tokens = torch.cat(
            [vit.forward_features(normalized(part))[:, 0] for part in torch.split(self._images, 48)]
        ).float()
        if not torch.isfinite(tokens).all():
            raise Unhealthy("the teacher's class tokens are not finite")
        vitals = Vitals(knn=program_knn(tokens, self._programs), rank=effective_rank(tokens))
        if vitals.rank < LEAST_RANK:
            raise Unhealthy(f"the class tokens span {vitals.rank:.1f} directions: a collapse")
        if vitals.knn < LEAST_SHARE * best_knn:
            raise Unhealthy(
                f"procedural k-NN fell from {best_knn:.3f} to {vitals.knn:.3f}: a collapse"
            )
        return vitals


def effective_rank(features: Tensor) -> float:
    """(N, D) features, centered here -> a number from 1 to min(N - 1, D)."""
    values = torch.linalg.svdvals(features - features.mean(0))
    shares = values / values.sum().clamp_min(1e-12)
    return float(torch.exp(-(shares * shares.clamp_min(1e-12).log()).sum()))


def program_knn(features: Tensor, programs: Tensor) -> float:
    """Share of images whose nearest neighbors, itself left out, vote for its program."""
    unit = torch.nn.functional.normalize(features - features.mean(0), dim=1)
    similarity = unit @ unit.T
    similarity.fill_diagonal_(-2.0)
    nearest, found = similarity.topk(NEIGHBORS, dim=1)
    votes = torch.zeros(len(features), int(programs.max()) + 1, device=features.device)
    votes.scatter_add_(1, programs[found], (nearest / 0.07).exp())
    return float((votes.argmax(1) == programs).float().mean())
