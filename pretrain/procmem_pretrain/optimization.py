"""How weights move: AdamW, its schedules, gradient clipping, and the teacher's moving average.

Functions of a configuration and a step; called by `train.py`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from procmem_pretrain.config import TrainConfig


def make_optimizer(objective: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW over what is trained; biases and 1-d parameters have no weight decay (DINO)."""
    trained = [p for p in objective.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.ndim > 1]},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups,
        lr=config.learning_rate,
        betas=config.betas,
        weight_decay=config.weight_decay,
        fused=True,
    )


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, then a cosine, or the peak and a linear decay at the end.

    Before a cosine the warm-up goes from 0 to the peak, both included, as in DINO's code. A decay
    at the end is the trapezoid of Zhai et al. 2022 ("Scaling Vision Transformers", section 3.5):
    any point before the decay can become the end of a run.
    """
    warmup = round(config.warmup * config.steps)
    if step < warmup and config.schedule == "cosine":
        return config.learning_rate * step / max(1, warmup - 1)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    low, high = config.final_learning_rate, config.learning_rate
    if config.schedule == "cosine":
        return _cosine(high, low, (step - warmup) / max(1, config.steps - warmup))
    left = config.steps - max(config.decay_starts, warmup)
    return low + (high - low) * min(1.0, (config.steps - step) / max(1, left))


def weight_decay(config: TrainConfig, step: int) -> float:
    """A cosine from the first to the final value."""
    return _cosine(config.weight_decay, config.final_weight_decay, step / config.steps)


def teacher_momentum(config: TrainConfig, step: int) -> float:
    """DINO: a cosine. A new average follows faster, or a short run's teacher stays its start."""
    momentum = _cosine(config.momentum, config.final_momentum, step / config.steps)
    return momentum if config.objective == "dino" else min(momentum, (1 + step) / (10 + step))


def set_schedule(
    optimizer: torch.optim.AdamW, config: TrainConfig, step: int, *, factor: float = 1.0
) -> None:
    """Sets the learning rate (times `factor`) and the weight decay of a step."""
    decayed, plain = optimizer.param_groups
    decayed["lr"] = plain["lr"] = factor * learning_rate(config, step)
    decayed["weight_decay"] = weight_decay(config, step)


def clip_gradients(objective: nn.Module, config: TrainConfig) -> None:
    """Scales gradients longer than `config.clip` down, each tensor's by itself or all together."""
    trained = [p for p in objective.parameters() if p.grad is not None]
    groups = [[p] for p in trained] if config.clip_each else [trained]
    for group in groups:
        nn.utils.clip_grad_norm_(group, config.clip)


@torch.no_grad()
def move_teacher(student: nn.Module, teacher: nn.Module, momentum: float) -> None:
    """Moves the teacher: momentum * teacher + (1 - momentum) * student, all parameters at once."""
    torch._foreach_lerp_(
        list(teacher.parameters()), [p.detach() for p in student.parameters()], 1 - momentum
    )


def _cosine(start: float, end: float, done: float) -> float:
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * min(1.0, done)))
