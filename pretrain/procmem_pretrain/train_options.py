"""The options of `procmem-pretrain train`, generated from `config.py`: no second copy of help."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from procmem_pretrain.config import TrainConfig


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """Trains, or goes on with the run in the folder.

    Attributes:
        folder: checkpoints, log.csv, and in the end <model>.safetensors.
        config: every constant of the run.
        renderer: what draws programs: auto, torch, gl-fragment or gl-compute.
        workers: processes that draw ahead; 0 draws between the steps.
        stop_after: stop after this many steps of the whole run.
        checkpoint_seconds: time between checkpoints.
    """

    folder: Path
    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)
    renderer: str = "auto"
    workers: int = 0
    stop_after: int | None = None
    checkpoint_seconds: float = 120.0


def parse(arguments: list[str]) -> TrainOptions:
    """Reads command-line arguments; exits with code 2 and a message if they are misused."""
    options: TrainOptions = tyro.cli(TrainOptions, args=arguments, prog="procmem-pretrain train")
    return options
