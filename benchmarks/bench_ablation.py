"""What each ingredient of the fast recipe earns at an equal, small budget of processor time.

    python benchmarks/bench_ablation.py DATA [--seconds 900] [--seed 1 --seed 2] [--runs FOLDER]

Every row trains a ViT-Ti/16 from the same random weights on the same procedural process, for as
many steps as fit into the budget: processor seconds of all threads, drawing included, measured on a
few steps before, of all rows in turns. Drawing the first pool, the same for all, is not counted.
Then k-NN top-1 as `procmem-pretrain evaluate` gives it: class token and readout. Runs are kept in
FOLDER and continued; what was measured before is kept there as well. With one seed, differences of
a point are noise.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import click
import numpy as np
from bench_training import Step

from procmem_pretrain.config import RECIPES, TrainConfig
from procmem_pretrain.evaluation.classification import knn_accuracy
from procmem_pretrain.evaluation.datasets import ClassificationSet, find_data_sets
from procmem_pretrain.evaluation.methods import Method, checkpoint_methods, random_methods
from procmem_pretrain.simdino import Phase
from procmem_pretrain.stream import ImageStream, StreamConfig
from procmem_pretrain.train import train

Precision = Literal["bf16", "fp32"]

_MODEL = "vit-tiny"
_RANDOM = "random weights"
_ROOT_SEED = 20261123
_ROUNDS = 3


def arms(root_seed: int, precision: Precision) -> dict[str, TrainConfig]:
    """Name -> configuration, the steps still open."""
    images = StreamConfig(root_seed=root_seed, side=144, mask_side=64, pool_images=768)
    fast = TrainConfig(
        root_seed=root_seed,
        images=images,
        final_momentum=1.0,
        health_programs=0,
        readout_images=800,
        precision=precision,
    )
    objective = fast.simdino

    def without(**fields: object) -> TrainConfig:
        return replace(fast, simdino=replace(objective, **fields))  # type: ignore[arg-type]

    paper = replace(
        RECIPES["paper"](),
        model=fast.model,
        root_seed=root_seed,
        images=replace(images, side=256, mask_side=256, protocol="paper"),
        batch=32,
        learning_rate=5e-4 * 32 / 256,
        precision="fp32",
        health_programs=0,
        readout_dimension=384,
        readout_images=800,
    )
    small = replace(paper.dino, global_side=128, local_side=64, local_views=2)
    return {
        "**fast**": fast,
        "without both targets: SimDINO alone": without(patch_weight=0.0, layout_weight=0.0),
        "paper's loss, fast's views (batch 64)": replace(
            paper, images=images, batch=64, learning_rate=1e-3, dino=small
        ),
        "paper (batch 32)": paper,
        "without patch descriptors": without(patch_weight=0.0),
        "without the layout": without(layout_weight=0.0),
        "192 pixels all along": without(phases=(Phase(1.0, 192, 0.4),)),
        "every patch, not half": without(phases=(Phase(0.88, 128, 1.0), Phase(0.12, 192, 1.0))),
        "without local views": without(local_views=0),
        "with 4 registers": replace(fast, registers=4),
        "bfloat16" if precision == "fp32" else "float32": replace(
            fast, precision="bf16" if precision == "fp32" else "fp32"
        ),
    }


def seconds_a_step(configs: dict[str, TrainConfig]) -> dict[str, float]:
    """Processor seconds, all threads, of a step with its images; phases weighed by their share.

    All configurations take their steps in turns, so that what else the machine does meets all.
    """
    steps = {name: Step(config) for name, config in configs.items()}
    taken: dict[tuple[str, int], list[float]] = {}
    with ExitStack() as stack:
        streams: dict[tuple[StreamConfig, int], ImageStream] = {}
        for config in configs.values():
            kind = (config.images, config.batch)
            if kind not in streams:
                streams[kind] = stack.enter_context(ImageStream(kind[0], batch=kind[1]))
        for measured in range(1 + _ROUNDS):
            for name, config in configs.items():
                images = streams[config.images, config.batch]
                for start, _ in _phases(config):
                    steps[name].number = start
                    before = time.process_time()
                    steps[name](next(images))
                    if measured:
                        taken.setdefault((name, start), []).append(time.process_time() - before)
    return {
        name: sum(share * statistics.median(taken[name, start]) for start, share in _phases(config))
        for name, config in configs.items()
    }


def _phases(config: TrainConfig) -> list[tuple[int, float]]:
    """The first step of each phase, and its share of all steps."""
    if config.objective != "simdino":
        return [(0, 1.0)]
    phases = config.simdino.phases
    starts = np.cumsum([0.0, *(phase.share for phase in phases)])
    return [
        (int(np.ceil(start * config.steps)), phase.share)
        for start, phase in zip(starts, phases, strict=False)
    ]


def plan(configs: dict[str, TrainConfig], runs: Path, seconds: float) -> dict[str, int]:
    """How many steps of each fit into the budget: measured once, kept in the folder."""
    file = runs / "plan.json"
    kept = json.loads(file.read_text()) if file.is_file() else {}
    new = {name: config for name, config in configs.items() if name not in kept}
    if new:
        kept |= seconds_a_step(new)
        runs.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(kept, indent=1))
    return {name: max(2, round(seconds / kept[name])) for name in configs}


def trained(config: TrainConfig, folder: Path) -> Path:
    """The checkpoint after all steps of a configuration."""
    path = folder / f"{config.model}.safetensors"
    if not path.is_file():
        train(config, folder, report=partial(click.echo, err=True))
    return path


def scores(method: Method, data: list[ClassificationSet], limit: int | None = None) -> list[float]:
    """k-NN top-1 of every set, percent."""
    found = []
    for one in data:
        memory, query = one.memory.first(limit), one.query.first(limit)
        embedded = method.embed(memory.images), method.embed(query.images)
        found.append(knn_accuracy(embedded[0], memory.labels, embedded[1], query.labels))
    return found


@click.command()
@click.argument("data", type=click.Path(path_type=Path, exists=True))
@click.option("--seconds", default=900.0, show_default=True, help="Processor time of each run.")
@click.option("--seed", "seeds", multiple=True, type=int, default=(_ROOT_SEED,), show_default=True)
@click.option(
    "--precision", type=click.Choice(get_args(Precision)), default="bf16", show_default=True
)
@click.option("--limit", default=300, show_default=True, help="Images of each part of a set.")
@click.option("--runs", type=click.Path(path_type=Path), help="Folder for the trained models.")
@click.option("--arm", "chosen", multiple=True, help="Only rows that contain this; repeatable.")
@click.option("--out", type=click.Path(path_type=Path))
def main(
    data: Path,
    seconds: float,
    seeds: tuple[int, ...],
    precision: Precision,
    limit: int,
    runs: Path | None,
    chosen: tuple[str, ...],
    out: Path | None,
) -> None:
    """Prints one Markdown table."""
    runs = runs or Path(tempfile.mkdtemp(prefix="ablation-"))
    sets = [one for one in find_data_sets([data]) if isinstance(one, ClassificationSet)]
    names = [name for name in arms(seeds[0], precision) if _is_chosen(name, chosen)]
    steps = plan({name: arms(seeds[0], precision)[name] for name in names}, runs, seconds)
    lines = [
        f"ViT-Ti/16 from random weights, {precision}, {seconds:g} processor seconds each, "
        f"{len(seeds)} seed(s); k-NN top-1 in percent, k = 20, at most {limit} images of each part "
        "of a set: class token / readout, mean over seeds (and their standard deviation).",
        "",
        "| recipe | steps | images | " + " | ".join(one.name for one in sets) + " | mean |",
        "|---|---|---|" + "---|" * (len(sets) + 1),
    ]
    if _is_chosen(_RANDOM, chosen):
        lines.append(
            _row(_RANDOM, 0, 0, [[scores(m, sets, limit) for m in random_methods(_MODEL)]])
        )
    for name in names:
        found, batch = [], 0
        for seed in seeds:
            config = replace(arms(seed, precision)[name], steps=steps[name])
            slug = "".join(c if c.isalnum() else "-" for c in name).strip("-")
            path = trained(config, runs / f"{slug}-{seed}")
            found.append([scores(method, sets, limit) for method in checkpoint_methods(path)])
            batch = config.batch
        lines.append(_row(name, steps[name], batch, found))
        click.echo(lines[-1], err=True)
    table = "\n".join(lines) + "\n"
    click.echo(table)
    if out is not None:
        out.write_text(table)


def _is_chosen(name: str, chosen: tuple[str, ...]) -> bool:
    return not chosen or any(part in name for part in chosen)


def _row(name: str, steps: int, batch: int, found: list[list[list[float]]]) -> str:
    """One line; `found` has, for each seed, the scores of class token and readout."""
    values = np.array(found)  # (seeds, 2, sets)
    cells = [f"{plain:.1f} / {read_out:.1f}" for plain, read_out in values.mean(axis=0).T]
    means = values.mean(axis=2)  # (seeds, 2)
    spread = [f" ± {s:.1f}" for s in means.std(axis=0, ddof=1)] if len(means) > 1 else ["", ""]
    both = zip(means.mean(axis=0), spread, strict=True)
    cells.append("**" + " / ".join(f"{mean:.1f}{spread}" for mean, spread in both) + "**")
    return f"| {name} | {steps} | {steps * batch:,} | " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
