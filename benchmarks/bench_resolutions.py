"""What an image size costs and what it earns, with the bundled model.

    python benchmarks/bench_resolutions.py DATA... [--side 224 --side 448] [--limit 200]
        [--against OLD.onnx] [--out docs/results/resolutions.md]

DATA are folders as `procmem-pretrain evaluate` takes them; the embeddings come from
`procmem.Embedder`, whose whole preprocessing at each side counts. `--against` measures the model of
the same weights in a file for one side, beside the bundled one that was told that side. All times
are measured in turns. Needs `pip install '.[evaluate,cpu]'`.
"""

from __future__ import annotations

import importlib.metadata
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from machine import machine

from procmem import Embedder
from procmem.backends.onnxruntime import BATCH, INPUT, SIDE, import_onnxruntime
from procmem.embedder import DEFAULT_MODEL, _model_file
from procmem_pretrain.evaluation.classification import knn_accuracy
from procmem_pretrain.evaluation.datasets import (
    ClassificationSet,
    MaskedImage,
    SegmentationSet,
    find_data_sets,
)
from procmem_pretrain.evaluation.segmentation import in_context_score, kmeans_miou, knn_score

WARM_UP = 2


def in_turns(
    runs: dict[str, Callable[[], object]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Milliseconds of each, every round in another order: a busy machine disturbs all alike."""
    names, times = list(runs), {name: list[float]() for name in runs}
    for turn in range(rounds + WARM_UP):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            start = clock()
            runs[name]()
            if turn >= WARM_UP:
                times[name].append(1000 * (clock() - start))
    return times


def tensor(side: int, batch: int = 1) -> Any:
    return np.random.default_rng(0).uniform(-1, 1, (batch, 3, side, side)).astype(np.float32)


def time_lines(sides: Sequence[int], rounds: int) -> list[str]:
    """The model alone, one image at a time, as a memory asks it."""
    lines = [
        "| side | patches | ms, 1 thread | ms, 2 threads | ratio to 224 | bytes of a mask |",
        "|---|---|---|---|---|---|",
    ]
    measured: dict[int, dict[str, list[float]]] = {}
    for threads in (1, 2):
        opened = {side: Embedder(image_size=side, device="cpu", threads=threads) for side in sides}
        measured[threads] = in_turns(
            {
                str(side): lambda model=model: model.embed_tensors(tensor(model.side))
                for side, model in opened.items()
            },
            rounds,
        )
        dimension = opened[sides[0]].patch_dim
        patch = opened[sides[0]].manifest.patch_size
    for side in sides:
        one, two = (statistics.median(measured[threads][str(side)]) for threads in (1, 2))
        base = statistics.median(measured[1]["224"]) if 224 in sides else float("nan")
        cells = (side // patch) ** 2
        stored = cells * dimension + side**2
        lines.append(
            f"| {side} | {cells} | {one:.1f} | {two:.1f} | {one / base:.2f} | {stored:,} |"
        )
    return lines


def against_lines(old: Path, rounds: int) -> list[str]:
    """The file for one side and the bundled one at 224, in the same engine and in turns.

    A batch of one as `Embedder` runs it, all dimensions told. In a larger batch the number of
    images stays free: told it, this engine takes slower products for both files.
    """
    lines = [
        "| batch | threads | one side, ms | every side, ms | ratio, median of turns | "
        "ratio in processor time |",
        "|---|---|---|---|---|---|",
    ]
    new = _model_file(DEFAULT_MODEL)
    for batch in (1, 16):
        for threads in (1, 2):
            told = {SIDE: 224, BATCH: 1} if batch == 1 else {SIDE: 224}
            sessions = {"old": _session(old, threads, {}), "new": _session(new, threads, told)}
            images = {INPUT: tensor(224, batch)}
            runs: dict[str, Callable[[], object]] = {
                name: lambda session=session, images=images: session.run(None, images)
                for name, session in sessions.items()
            }
            turns = rounds if batch == 1 else max(5, rounds // 8)
            times = in_turns(runs, turns)
            ratio = _ratio(times)
            # What other programs take does not count here; waiting for the other thread does.
            quiet = _ratio(in_turns(runs, turns, time.process_time))
            before, after = (statistics.median(times[name]) for name in ("old", "new"))
            lines.append(
                f"| {batch} | {threads} | {before:.1f} | {after:.1f} | {ratio:.3f} | {quiet:.3f} |"
            )
    return lines


def _ratio(times: dict[str, list[float]]) -> float:
    pairs = zip(times["old"], times["new"], strict=True)
    return statistics.median(after / before for before, after in pairs)


def _session(file: Path, threads: int, told: dict[str, int]) -> Any:
    engine = import_onnxruntime()
    options = engine.SessionOptions()
    options.log_severity_level = 4
    options.inter_op_num_threads, options.intra_op_num_threads = 1, threads
    options.use_deterministic_compute = True
    for name, size in told.items():
        options.add_free_dimension_override_by_name(name, size)
    return engine.InferenceSession(
        file.read_bytes(), options, providers=["CPUExecutionProvider"], enable_fallback=0
    )


def recognition_lines(
    sets: Sequence[ClassificationSet], sides: Sequence[int], limit: int
) -> list[str]:
    lines = [
        f"| side | {' | '.join(data.name for data in sets)} | mean |",
        "|---|" + "---|" * (len(sets) + 1),
    ]
    for side in sides:
        scores = []
        with Embedder(image_size=side, device="cpu") as embedder:
            for data in sets:
                memory, query = data.memory.first(limit), data.query.first(limit)
                rows = [embedder.embed(part.images).cls for part in (memory, query)]
                scores.append(knn_accuracy(rows[0], memory.labels, rows[1], query.labels))
        cells = " | ".join(f"{score:.1f}" for score in scores)
        lines.append(f"| {side} | {cells} | {np.mean(scores):.1f} |")
        click.echo(lines[-1], err=True)
    return lines


def segmentation_lines(data: SegmentationSet, sides: Sequence[int], scenes: int) -> list[str]:
    lines = [
        "| side | k-NN mIoU | in-context mIoU | k-means mIoU |",
        "|---|---|---|---|",
    ]
    taught, asked = (
        [data.load(pair) for pair in part[:scenes]] for part in (data.memory, data.query)
    )
    pairs = [(taught[at % len(taught)], image) for at, image in enumerate(asked)]
    for side in sides:
        with Embedder(image_size=side, device="cpu") as embedder:
            patches = _patches(embedder, [*taught, *asked])
        ignore = data.ignore
        three = (
            knn_score(taught, asked, patches, side=side, ignore=ignore).miou(),
            in_context_score(pairs, patches, side=side, ignore=ignore).miou(),
            kmeans_miou(asked, patches, side=side, ignore=ignore),
        )
        lines.append(f"| {side} | " + " | ".join(f"{score:.1f}" for score in three) + " |")
        click.echo(lines[-1], err=True)
    return lines


def _patches(embedder: Embedder, images: Sequence[MaskedImage]) -> Callable[[Any, Any], Any]:
    """Patch tokens by image, each embedded once."""
    found = {id(one.image): embedder.embed(one.image, view="whole").patches[0] for one in images}
    return lambda image, _size: found[id(image)]


@click.command()
@click.argument("data", nargs=-1, type=click.Path(path_type=Path, exists=True))
@click.option("--side", "sides", multiple=True, type=int, default=(128, 160, 224, 448))
@click.option("--limit", default=200, show_default=True, help="Images of each part of a set.")
@click.option("--scenes", default=40, show_default=True, help="Images with masks, of each part.")
@click.option("--rounds", default=40, show_default=True, help="Of the measured times.")
@click.option("--against", type=click.Path(path_type=Path, exists=True), help="A file of one side.")
@click.option("--out", type=click.Path(path_type=Path))
def main(
    data: tuple[Path, ...],
    sides: tuple[int, ...],
    limit: int,
    scenes: int,
    rounds: int,
    against: Path | None,
    out: Path | None,
) -> None:
    """Prints Markdown tables."""
    hardware = (
        f"{machine()}, Python {platform.python_version()}, "
        f"onnxruntime {importlib.metadata.version('onnxruntime')}"
    )
    lines = [hardware, "", "## Cost", "", f"The model alone, medians of {rounds} turns.", ""]
    lines += time_lines(sides, rounds)
    if against is not None:
        lines += ["", "## One file for every side, and a file for one, at 224", ""]
        lines += against_lines(against, rounds)
    found = find_data_sets(data) if data else ()
    sets = [one for one in found if isinstance(one, ClassificationSet)]
    if sets:
        lines += ["", f"## Recognition: k-NN top-1 in percent, k = 20, at most {limit} images", ""]
        lines += recognition_lines(sets, sides, limit)
    for one in found:
        if isinstance(one, SegmentationSet):
            lines += ["", f"## Regions: {one.name}, at most {scenes} images of each part", ""]
            lines += segmentation_lines(one, sides, scenes)
    table = "\n".join(lines) + "\n"
    click.echo(table)
    if out is not None:
        out.write_text(table)


if __name__ == "__main__":
    main()
