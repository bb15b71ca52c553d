"""`procmem-pretrain evaluate`: data sets and checkpoints in, tables and figures out."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click
import numpy as np

from procmem.cli.group import progress_bar
from procmem.errors import InputError


@click.command()
@click.argument("data", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--checkpoint",
    "checkpoints",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A checkpoint, or a model of procmem-export; repeatable.",
)
@click.option("--task", "tasks", multiple=True, help="Only this one; repeatable.")
@click.option(
    "--protocol", type=click.Choice(["exact", "paper"]), default="exact", show_default=True
)
@click.option("--k", default=20, show_default=True, help="Neighbors of the exact vote.")
@click.option("--limit", type=int, help="At most so many images of each part of a set.")
@click.option("--side", default=448, show_default=True, help="For patches, pixels.")
@click.option("--triplets", default=200, show_default=True, help="Generated for 2AFC; 0 for none.")
@click.option("--ignore", type=int, help="Mask index that means unlabelled.")
@click.option("--baselines/--no-baselines", default=True, help="Random weights, colors, HOG.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for results.")
def evaluate(
    data: tuple[Path, ...],
    checkpoints: tuple[Path, ...],
    tasks: tuple[str, ...],
    protocol: Literal["exact", "paper"],
    k: int,
    limit: int | None,
    side: int,
    triplets: int,
    ignore: int | None,
    baselines: bool,
    device: str,
    out: Path,
) -> None:
    """Measures checkpoints on DATA: folders and files of known layouts, or folders of them.

    Writes results.md, results.json and figures into --out; run again, it goes on where it stopped.
    Real images are only measured on.
    """
    from procmem_pretrain.device import torch_device
    from procmem_pretrain.evaluation import methods as known
    from procmem_pretrain.evaluation.datasets import find_data_sets
    from procmem_pretrain.evaluation.report import Results
    from procmem_pretrain.evaluation.similarity import generated_triplets
    from procmem_pretrain.evaluation.suite import (
        TASKS,
        Options,
        cells,
        check_names,
        check_tasks,
        run,
    )

    options = Options(protocol, k, limit, side)
    check_tasks(tasks)
    if not checkpoints and not baselines:
        raise InputError("nothing to measure; name a --checkpoint, or leave --no-baselines away")
    torch_device(device)
    with Results(out) as results:
        data_sets = list(find_data_sets(data, ignore=ignore))
        generates = triplets and (not tasks or "2afc" in tasks)
        if not data_sets and not generates:
            raise InputError("nothing to measure on; name DATA, or leave --triplets 0 away")
        methods = [
            method for path in checkpoints for method in known.methods_of(path, device=device)
        ]
        if baselines:
            for architecture in known.architectures_of(checkpoints):
                methods += known.random_methods(architecture, device=device)
            methods += known.descriptor_methods()
        check_names(methods)
        if generates:
            data_sets.append(generated_triplets(triplets))
        wanted = list(cells(data_sets, methods, options, tasks=tasks or tuple(TASKS)))
        with progress_bar("measuring") as progress:
            run(wanted, results, progress=progress)
        bound = "" if limit is None else f", at most {limit} images of each part of a set"
        heading = (
            f"`procmem-pretrain evaluate`, protocol {protocol}, k = {k}, patches at {side} "
            f"px{bound}."
        )
        (out / "results.md").write_text(results.markdown(TASKS, heading), encoding="utf-8")
        figures = _figures(data_sets, methods, options, out)
        click.echo((out / "results.md").read_text(encoding="utf-8"))
        click.echo(f"wrote {', '.join(['results.md', 'results.json', *figures])} in {out}")


def _figures(data_sets: list, methods: list, options: object, out: Path) -> list[str]:  # type: ignore[type-arg]  # imported late
    """Neighbors and PCA maps of the first checkpoint; the names of the files."""
    from procmem_pretrain.evaluation.datasets import ClassificationSet, SegmentationSet
    from procmem_pretrain.evaluation.report import maps_figure, neighbors_figure
    from procmem_pretrain.evaluation.segmentation import pca_map

    written: list[str] = []
    embedders = [method for method in methods if method.patches is not None] or methods
    if not embedders:
        return written
    best = next((m for m in methods if m.name.endswith("readout")), embedders[0])
    for data in data_sets:
        if isinstance(data, ClassificationSet):
            name = f"neighbors-{data.name}.png"
            neighbors_figure(data, best).save(out / name)
            written.append(name)
        elif isinstance(data, SegmentationSet) and embedders[0].patches is not None:
            rows = []
            for files in data.query[:: max(1, len(data.query) // 6)][:6]:
                image = data.load(files)
                maps = [
                    np.asarray(pca_map(image.image, method.patches, side=options.side))  # type: ignore[attr-defined]
                    for method in embedders
                ]
                rows.append((image.name, [image.image, *maps]))
            name = f"pca-{data.name}.png"
            headings = ["image", *(method.name for method in embedders)]
            maps_figure(rows, headings).save(out / name)
            written.append(name)
    return written
