"""What each procedural process teaches at an equal, small budget.

    python benchmarks/bench_process_recognition.py DATA [--steps 100] [--runs FOLDER] [--out TABLE]

Trains the same ViT-Ti/16 with the same recipe, steps and augmentations on each process, then
measures k-NN top-1 as `procmem-pretrain evaluate` does, with the plain class token and with the
readout (fitted on images of the model's own process). Runs are kept in FOLDER and continued. One
seed: at this budget differences of a point or two are noise.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click
import numpy as np
from bench_ablation import scores

from procmem_pretrain.config import TrainConfig
from procmem_pretrain.evaluation.datasets import ClassificationSet, find_data_sets
from procmem_pretrain.evaluation.methods import checkpoint_methods, random_methods
from procmem_pretrain.processes import PROCESSES
from procmem_pretrain.simdino import Phase, SimDinoConfig
from procmem_pretrain.stream import StreamConfig
from procmem_pretrain.train import train

# Mean of Flowers, CUB, Food and ImageNet k-NN in the paper's table 1 (ViT-S/16, full budget).
PAPER = {
    "random init": 5.1,
    "stylegan": 21.7,
    "shaders": 37.7,
    "shaders-mixup": 44.1,
    "shaders-kml": 44.3,
    "shaders-kml-mixup": 47.2,
}


def configuration(process: str, steps: int, side: int) -> TrainConfig:
    """The same for every process but its name."""
    images = StreamConfig(
        process=process, root_seed=20261123, side=side, mask_side=64, pool_images=2048
    )
    return TrainConfig(
        root_seed=20261123,
        images=images,
        steps=steps,
        simdino=SimDinoConfig(phases=(Phase(1.0, 128, 0.5),)),
        schedule="cosine",
        final_momentum=1.0,
        readout_images=1500,
    )


@click.command()
@click.argument("data", type=click.Path(path_type=Path, exists=True))
@click.option("--steps", default=100, show_default=True, help="Of 128 images.")
@click.option("--side", default=144, show_default=True, help="Pixels of the training images.")
@click.option("--runs", type=click.Path(path_type=Path), help="Folder for the trained models.")
@click.option("--process", "chosen", multiple=True, help="Only this one; may be repeated.")
@click.option("--out", type=click.Path(path_type=Path))
def main(
    data: Path, steps: int, side: int, runs: Path | None, chosen: tuple[str, ...], out: Path | None
) -> None:
    """Prints one Markdown table."""
    runs = runs or Path(tempfile.mkdtemp(prefix="process-recognition-"))
    sets = [one for one in find_data_sets([data]) if isinstance(one, ClassificationSet)]
    lines = [
        f"ViT-Ti/16, {steps} steps of 128 images, the same recipe and augmentations; k-NN top-1 in "
        "percent, k = 20: class token / readout.",
        "",
        "| process | "
        + " | ".join(one.name for one in sets)
        + " | mean | paper (mean of 4 sets) |",
        "|---|" + "---|" * (len(sets) + 2),
    ]
    for process in chosen or ("random init", *PROCESSES):
        config = configuration("shaders" if process == "random init" else process, steps, side)
        if process == "random init":
            methods = random_methods(config.model)
        else:
            path = runs / process / f"{config.model}.safetensors"
            if not path.is_file():
                train(config, runs / process, report=lambda line: click.echo(line, err=True))
            methods = checkpoint_methods(path)
        plain, read_out = (scores(method, sets) for method in methods)
        cells = [f"{a:.1f} / {b:.1f}" for a, b in zip(plain, read_out, strict=True)]
        means = np.mean(plain), np.mean(read_out)
        paper = PAPER.get(process)
        cells += [f"**{means[0]:.1f} / {means[1]:.1f}**", "-" if paper is None else f"{paper:.1f}"]
        lines.append(f"| {process} | " + " | ".join(cells) + " |")
        click.echo(lines[-1], err=True)
    table = "\n".join(lines) + "\n"
    click.echo(table)
    if out is not None:
        out.write_text(table)


if __name__ == "__main__":
    main()
