"""What each procedural process teaches at an equal, small budget.

    python benchmarks/bench_process_recognition.py DATA [--steps 100] [--runs FOLDER] [--out TABLE]

Trains the same ViT-Ti/16 with the same recipe, steps and augmentations on each process, then
measures k-NN top-1 as bench_recognition.py does, with the plain class token and with the readout
(fitted on images of the model's own process). Runs are kept in FOLDER and continued. One seed: at
this budget differences of a point or two are noise.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click
import torch
from bench_recognition import Statistics

from procmem.evaluate import evaluate_folders
from procmem.manifest import Preprocessing
from procmem_pretrain.checkpoint import load_perception
from procmem_pretrain.compact import procedural_readout
from procmem_pretrain.config import TrainConfig
from procmem_pretrain.processes import PROCESSES
from procmem_pretrain.simdino import Phase, SimDinoConfig
from procmem_pretrain.stream import StreamConfig
from procmem_pretrain.train import train
from procmem_pretrain.vit import make_vit

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
    sets = sorted(p.name for p in data.iterdir() if (p / "memory").is_dir())
    lines = [
        f"ViT-Ti/16, {steps} steps of 128 images, the same recipe and augmentations; k-NN top-1 in "
        "percent, k = 20: class token / readout.",
        "",
        "| process | " + " | ".join(sets) + " | mean | paper (mean of 4 sets) |",
        "|---|" + "---|" * (len(sets) + 2),
    ]
    for process in chosen or ("random init", *PROCESSES):
        config = configuration("shaders" if process == "random init" else process, steps, side)
        if process == "random init":
            vit = make_vit(config.model, root_seed=config.root_seed, fixed_side=True)
            with torch.no_grad():
                weight, bias = procedural_readout(vit, config)
            preprocessing = Preprocessing()
        else:
            path = runs / process / f"{config.model}.safetensors"
            if not path.is_file():
                train(config, runs / process, report=lambda line: click.echo(line, err=True))
            manifest, model = load_perception(path)
            vit, preprocessing = model.vit, manifest.preprocessing
            weight, bias = model.readout_weight, model.readout_bias
        statistics = Statistics(vit, preprocessing)
        cells, means = [], [0.0, 0.0]
        for name in sets:
            scores = []
            for embed in (statistics.class_token(), statistics.readout(weight, bias)):
                result = evaluate_folders(
                    data / name / "memory", data / name / "query", embed=embed
                )
                scores.append(100 * result.accuracy[20])
            cells.append(f"{scores[0]:.1f} / {scores[1]:.1f}")
            means = [m + s / len(sets) for m, s in zip(means, scores, strict=True)]
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
