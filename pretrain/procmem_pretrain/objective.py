"""What `train.py` knows of an objective: a student, a teacher, and losses of a batch.

`simdino.py` and `dino.py` are the objectives. Each is one module, so that the whole of it is what
`DistributedDataParallel` wraps and what a checkpoint keeps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from torch import Tensor, nn

from procmem_pretrain.dino import DinoObjective
from procmem_pretrain.simdino import SimDinoObjective

if TYPE_CHECKING:
    from procmem_pretrain.config import TrainConfig


class Objective(Protocol):
    """A student that learns from a teacher, its moving average.

    Attributes:
        student: trained; its `vit` is the transformer.
        teacher: of the same form, without gradient; its `vit` is what is kept in the end.
    """

    student: nn.Module
    teacher: nn.Module

    def forward(self, step: int, images: Tensor) -> dict[str, Tensor]:
        """The weighted terms of one step, whose sum is minimized.

        Args:
            step: decides, with the root seed, every random choice.
            images: (b, 3, S, S) uint8, this process's share of the batch.
        """
        ...

    def before_update(self, step: int) -> None:
        """Called between the backward pass and the optimizer's step."""
        ...

    def diagnostics(self) -> dict[str, float]:
        """Numbers of the last step that tell a healthy run from a collapsed one."""
        ...


def make_objective(config: TrainConfig) -> nn.Module:
    """The objective that a configuration names, freshly initialized; it satisfies `Objective`."""
    objective = _initialized(config)
    if config.device == "cpu" and config.precision == "bf16":
        # The backward pass of torch's fused attention takes three to eight times as long there as
        # that of the two products it stands for (docs/results/training-speed.md).
        for block in objective.student.vit.blocks:  # type: ignore[union-attr]  # timm's
            block.attn.fused_attn = False
    return objective


def _initialized(config: TrainConfig) -> DinoObjective | SimDinoObjective:
    if config.objective == "dino":
        return DinoObjective(
            config.dino,
            model=config.model,
            root_seed=config.root_seed,
            steps=config.steps,
            batch=config.batch,
            precision=config.precision,
            registers=config.registers,
        )
    return SimDinoObjective(
        config.simdino,
        model=config.model,
        root_seed=config.root_seed,
        steps=config.steps,
        batch=config.batch,
        precision=config.precision,
        registers=config.registers,
    )
