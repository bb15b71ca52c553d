"""What each ingredient of the fast recipe earns at an equal, small budget of processor time.

    python benchmarks/bench_ablation.py DATA [--seconds 900] [--runs FOLDER] [--out TABLE]

Every row trains a ViT-Ti/16 from the same random weights on the same procedural process, for as
many steps as fit into the budget: processor seconds of all threads, drawing included, measured on a
few steps before. Drawing the first pool, the same for all, is not counted. Then k-NN top-1 as
`procmem-pretrain evaluate` gives it: class token and readout. Runs are kept in FOLDER and
continued. One seed: differences of a point are noise.
"""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

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

_ROOT_SEED = 20261123


def arms() -> dict[str, TrainConfig]:
    """Name -> configuration, the steps still open."""
    images = StreamConfig(root_seed=_ROOT_SEED, side=144, mask_side=64, pool_images=768)
    fast = TrainConfig(
        root_seed=_ROOT_SEED,
        images=images,
        schedule="cosine",
        final_momentum=1.0,
        health_programs=0,
        readout_images=800,
    )
    objective = fast.simdino

    def without(**fields: object) -> TrainConfig:
        return replace(fast, simdino=replace(objective, **fields))  # type: ignore[arg-type]

    paper = replace(
        RECIPES["paper"](),
        model=fast.model,
        root_seed=_ROOT_SEED,
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
        "float32": replace(fast, precision="fp32"),
    }


def seconds_a_step(config: TrainConfig) -> float:
    """Processor seconds, all threads, of a step with its images; phases weighed by their share."""
    shares = [(0, 1.0)]
    if config.objective == "simdino":
        starts = np.cumsum([0.0, *(phase.share for phase in config.simdino.phases)])
        shares = [
            (int(np.ceil(start * config.steps)), phase.share)
            for start, phase in zip(starts, config.simdino.phases, strict=False)
        ]
    step = Step(config)
    total = 0.0
    with ImageStream(config.images, batch=config.batch) as images:
        for number, share in shares:
            step.number = number
            step(next(images))
            before = time.process_time()
            for _ in range(2):
                step(next(images))
            total += share * (time.process_time() - before) / 2
    return total


def trained(config: TrainConfig, folder: Path, seconds: float) -> tuple[int, Path]:
    """How many steps fit into the budget, and the checkpoint after them."""
    plan = folder / "plan.json"
    if not plan.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        plan.write_text(json.dumps({"steps": max(2, round(seconds / seconds_a_step(config)))}))
    steps = json.loads(plan.read_text())["steps"]
    path = folder / f"{config.model}.safetensors"
    if not path.is_file():
        report = partial(click.echo, err=True)
        train(replace(config, steps=steps), folder, report=report)
    return steps, path


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
@click.option("--limit", default=300, show_default=True, help="Images of each part of a set.")
@click.option("--runs", type=click.Path(path_type=Path), help="Folder for the trained models.")
@click.option("--arm", "chosen", multiple=True, help="Only rows that contain this; repeatable.")
@click.option("--out", type=click.Path(path_type=Path))
def main(
    data: Path,
    seconds: float,
    limit: int,
    runs: Path | None,
    chosen: tuple[str, ...],
    out: Path | None,
) -> None:
    """Prints one Markdown table."""
    runs = runs or Path(tempfile.mkdtemp(prefix="ablation-"))
    sets = [one for one in find_data_sets([data]) if isinstance(one, ClassificationSet)]
    lines = [
        f"ViT-Ti/16 from random weights, {seconds:g} processor seconds each; k-NN top-1 in "
        f"percent, k = 20, at most {limit} images of each part of a set: class token / readout.",
        "",
        "| recipe | steps | images | " + " | ".join(one.name for one in sets) + " | mean |",
        "|---|---|---|" + "---|" * (len(sets) + 1),
    ]
    rows: list[tuple[str, TrainConfig | None]] = [("random weights", None), *arms().items()]
    for name, config in rows:
        if chosen and not any(part in name for part in chosen):
            continue
        steps, batch = 0, 0
        if config is None:
            methods = random_methods("vit-tiny")
        else:
            folder = runs / "".join(c if c.isalnum() else "-" for c in name).strip("-")
            steps, path = trained(config, folder, seconds)
            methods, batch = checkpoint_methods(path), config.batch
        plain, read_out = (scores(method, sets, limit) for method in methods)
        cells = [f"{a:.1f} / {b:.1f}" for a, b in zip(plain, read_out, strict=True)]
        cells.append(f"**{np.mean(plain):.1f} / {np.mean(read_out):.1f}**")
        lines.append(f"| {name} | {steps} | {steps * batch:,} | " + " | ".join(cells) + " |")
        click.echo(lines[-1], err=True)
    table = "\n".join(lines) + "\n"
    click.echo(table)
    if out is not None:
        out.write_text(table)


if __name__ == "__main__":
    main()
