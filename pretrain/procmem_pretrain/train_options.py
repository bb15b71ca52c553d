"""The options of `procmem-pretrain train`, generated from `config.py`: no second copy of help."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from procmem.errors import unknown_choice
from procmem_pretrain.config import RECIPES, TrainConfig


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """Trains, or goes on with the run in the folder.

    Attributes:
        folder: checkpoints, log.csv, and in the end <model>.safetensors.
        config: every constant of the run.
        init_from: checkpoint whose weights a new run starts from.
        renderer: what draws programs: auto, torch, gl-fragment or gl-compute.
        workers: processes that draw ahead; 0 draws between the steps.
        stop_after: stop after this many steps of the whole run.
        checkpoint_seconds: time between checkpoints.
    """

    folder: Path
    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)
    init_from: Path | None = None
    renderer: str = "auto"
    workers: int = 0
    stop_after: int | None = None
    checkpoint_seconds: float = 120.0


def parse(arguments: list[str]) -> TrainOptions:
    """Reads command-line arguments; exits with code 2 and a message if they are misused.

    `--recipe NAME` chooses which configuration the other options change.

    Raises:
        InputError: no such recipe.
    """
    recipes = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    recipes.add_argument("--recipe", default="fast")
    chosen, rest = recipes.parse_known_args(arguments)
    if chosen.recipe not in RECIPES:
        raise unknown_choice("recipe", chosen.recipe, RECIPES)
    default = TrainOptions(folder=tyro.MISSING, config=RECIPES[chosen.recipe]())
    options: TrainOptions = tyro.cli(
        TrainOptions,
        args=rest,
        default=default,
        prog=f"procmem-pretrain train --recipe {chosen.recipe}",
        description=f"{TrainOptions.__doc__}\nRecipes (--recipe): {', '.join(RECIPES)}.",
    )
    return options
