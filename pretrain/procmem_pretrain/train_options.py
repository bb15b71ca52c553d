"""The options of `procmem-pretrain train`, generated from `config.py`: no second copy of help."""

from __future__ import annotations

import argparse
import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from procmem.errors import ModelError, unknown_choice
from procmem.manifest import read_manifest
from procmem_pretrain.checkpoint import complete
from procmem_pretrain.config import RECIPES, TrainConfig, config_from_dict


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

    `--recipe NAME` chooses which configuration the other options change. Without it, it is that of
    the run in the folder, which so goes on by its folder alone; where there is none, "fast".

    Raises:
        InputError: no such recipe, or the run in the folder is of another version of procmem.
    """
    known = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    known.add_argument("--recipe")
    recipe, rest = known.parse_known_args(arguments)
    known.add_argument("--folder", type=Path, nargs="?")
    folder = known.parse_known_args(rest)[0].folder
    if recipe.recipe not in (None, *RECIPES):
        raise unknown_choice("recipe", recipe.recipe, RECIPES)
    config = None if recipe.recipe or folder is None else _config_of_run(folder)
    options: TrainOptions = tyro.cli(
        TrainOptions,
        args=rest,
        default=TrainOptions(
            folder=tyro.MISSING, config=config or RECIPES[recipe.recipe or "fast"]()
        ),
        prog=f"procmem-pretrain train{f' --recipe {recipe.recipe}' if recipe.recipe else ''}",
        description=f"{TrainOptions.__doc__}\nRecipes (--recipe): {', '.join(RECIPES)}.",
    )
    return options


def _config_of_run(folder: Path) -> TrainConfig | None:
    """As its newest checkpoint says whose manifest can be read; training tells of the others."""
    for path in complete(folder):
        with contextlib.suppress(ModelError):
            return config_from_dict(read_manifest(path).config)
    return None
