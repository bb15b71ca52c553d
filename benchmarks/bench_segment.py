"""What segmenting costs, end to end, and what storing patch tokens in a byte each costs in quality.

    python benchmarks/bench_segment.py DATA... [--side 448] [--out docs/results/segment.md]

DATA are folders of images with masks, as `procmem-pretrain evaluate` takes them. Times are medians
of runs that take turns, on the first of those images. Needs `pip install '.[evaluate,cpu]'`.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
from machine import machine

from procmem import Embedder, VisualMemory
from procmem.patchsim import top_k
from procmem.record import quantize_patches, restore_patches
from procmem_pretrain.evaluation.datasets import MaskedImage, SegmentationSet, find_data_sets
from procmem_pretrain.evaluation.segmentation import in_context_score, knn_score

K = 20
Tokens = npt.NDArray[np.float32]


def medians(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Milliseconds of each call, in turns, after one round that does not count."""
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if turn > 0:
                samples[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in samples.items()}


def times(images: list[MaskedImage], embedder: Embedder, rounds: int) -> list[str]:
    """A table of times for one side."""
    query, prompt = images[0].image, (images[1].image, images[1].mask.astype(np.uint8))
    with tempfile.TemporaryDirectory() as folder:
        memories = {}
        for count in (10, 100):
            memories[count] = VisualMemory(Path(folder, str(count)), embedder=embedder)
            chosen = [images[n % len(images)] for n in range(count)]
            memories[count].add(
                [one.image for one in chosen], masks=[one.mask.astype(np.uint8) for one in chosen]
            )
        calls: dict[str, Callable[[], object]] = {
            "embed two images": lambda: [
                embedder.embed(one, view="whole") for one in (query, prompt[0])
            ],
            "segment by one example": lambda: memories[10].segment(query, prompt=prompt),
        }
        for count, memory in memories.items():
            calls[f"segment by a memory of {count} masks"] = lambda m=memory: m.segment(query)  # type: ignore[misc]
        found = medians(calls, rounds)
        for memory in memories.values():
            memory.close()
    base = found["embed two images"]
    return [
        f"| {embedder.side} | {name} | {value:.1f} | {value / base:.2f} |"
        for name, value in found.items()
    ]


def quality(data: SegmentationSet, embedder: Embedder, limit: int) -> list[str]:
    """Two tables: neighbors that stay, and mIoU, with tokens as they come and as stored."""
    memory = [data.load(pair) for pair in data.memory[:: max(1, len(data.memory) // limit)]]
    queries = [data.load(pair) for pair in data.query[:: max(1, len(data.query) // limit)]]
    side = embedder.side

    def tokens(image: npt.NDArray[np.uint8], _: tuple[int, int]) -> Tokens:
        return embedder.embed(image, view="whole").patches[0]

    def stored(image: npt.NDArray[np.uint8], size: tuple[int, int]) -> Tokens:
        grid = tokens(image, size)
        lengths = np.linalg.norm(grid, axis=2, keepdims=True)
        return restore_patches(quantize_patches(grid)).reshape(grid.shape) * lengths

    def unit(grids: list[Tokens]) -> Tokens:
        rows = np.concatenate([grid.reshape(-1, grid.shape[2]) for grid in grids])
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    size = (side, side)
    asked = unit([tokens(one.image, size) for one in queries])
    full, _ = top_k(asked, unit([tokens(one.image, size) for one in memory]), K)
    byte, _ = top_k(asked, unit([stored(one.image, size) for one in memory]), K)
    overlap = np.mean(
        [len(set(a) & set(b)) / K for a, b in zip(full.tolist(), byte.tolist(), strict=True)]
    )
    lines = [f"Top {K} patches that both find: {100 * overlap:.1f} %.", ""]
    lines += ["| tokens | k-NN, mIoU | in context, mIoU |", "|---|---|---|"]
    for name, patches in (("float32", tokens), ("a byte for each element", stored)):
        scores = (
            knn_score(memory, queries, patches, side=side, ignore=data.ignore).miou(),
            in_context_score(
                list(zip(memory, queries, strict=False)), patches, side=side, ignore=data.ignore
            ).miou(),
        )
        lines.append(f"| {name} | {scores[0]:.1f} | {scores[1]:.1f} |")
    return lines


@click.command()
@click.argument("data", type=click.Path(path_type=Path, exists=True), nargs=-1, required=True)
@click.option("--side", "sides", multiple=True, type=int, help="Repeatable; default 224 and 448.")
@click.option("--limit", default=40, show_default=True, help="Images of each part of the set.")
@click.option("--rounds", default=9, show_default=True)
@click.option("--out", type=click.Path(path_type=Path))
def main(
    data: tuple[Path, ...], sides: tuple[int, ...], limit: int, rounds: int, out: Path | None
) -> None:
    """Prints Markdown tables."""
    (masked, *_) = [one for one in find_data_sets(list(data)) if isinstance(one, SegmentationSet)]
    images = [masked.load(pair) for pair in masked.memory[:40]]
    lines = [
        "# Segmentation: time, and a byte for each element",
        "",
        f"`python benchmarks/bench_segment.py DATA`: {masked.name}, medians of {rounds} runs that "
        f"take turns; {machine()}.",
        "",
        "| side | | ms | of embedding two images |",
        "|---|---|---|---|",
    ]
    embedders = [Embedder(image_size=side) for side in sides or (224, 448)]
    for embedder in embedders:
        lines += times(images, embedder, rounds)
    lines += ["", f"At {embedders[0].side} pixels, {limit} images of each part:", ""]
    lines += quality(masked, embedders[0], limit)
    text = "\n".join(lines) + "\n"
    click.echo(text)
    if out is not None:
        out.write_text(text)


if __name__ == "__main__":
    main()
