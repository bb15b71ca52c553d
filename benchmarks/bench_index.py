"""The indexes of a memory beside hnswlib alone, usearch and numpy, on the same vectors.

    python benchmarks/bench_index.py --photos FOLDER --out docs/results/indexes.md

Two sets of vectors, 384 wide. Clusters: 1,000 random centers with noise of the same size, which is
kinder to graphs than independent vectors. Photos: what the bundled model makes of random crops of
the photos in a folder (100,000 by default; about half an hour on two cores, kept in build/ and gone
on with when interrupted). One query at a time, the indexes in turns, so that whatever else the
machine does meets all of them; medians and 10th percentiles. Everything in one process with as many
threads as the machine has cores. Needs `pip install hnswlib usearch`; usearch is left out if it is
missing.
"""

from __future__ import annotations

import math
import os
import random as chance
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import click
import hnswlib
import numpy as np
import numpy.typing as npt
from machine import machine
from PIL import Image

from procmem import Embedder
from procmem.index import Index
from procmem.patchsim import like_signs
from procmem.signs import Signs

WIDTH, K, QUERIES, FEW = 384, 20, 400, 50
CROPS_AT_ONCE = 1024
WANTED_RECALL = 0.99
Floats = npt.NDArray[np.float32]
Search = Callable[[Floats], object]


def unit(rows: Floats) -> Floats:
    found: Floats = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return found


def clusters(count: int) -> Floats:
    random = np.random.default_rng(0)
    centers = random.standard_normal((1000, WIDTH), dtype=np.float32)
    rows = centers[random.integers(0, len(centers), count)]
    return unit(rows + random.standard_normal(rows.shape, dtype=np.float32))


def crops(folder: Path, count: int, kept: Path) -> Floats:
    """Embeddings of random crops, at least half as wide and high as their photo.

    Those that `kept` has already are taken from there, and it has all of them afterwards.
    """
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in {".jpg", ".jpeg", ".png"})
    if not files:
        raise click.ClickException(f"{folder} holds no .jpg or .png")
    random = chance.Random(0)

    @cache
    def size_of(file: Path) -> tuple[int, int]:
        with Image.open(file) as photo:
            width, height = photo.size
            return width, height

    def draw() -> tuple[Path, tuple[int, int, int, int]]:
        file = random.choice(files)
        share = random.uniform(0.5, 1.0)
        whole = size_of(file)
        width, height = (max(8, int(share * side)) for side in whole)
        left = random.randint(0, max(0, whole[0] - width))
        top = random.randint(0, max(0, whole[1] - height))
        return file, (left, top, left + width, top + height)

    drawn = [draw() for _ in range(count)]
    rows = np.load(kept) if kept.exists() else np.empty((0, WIDTH), dtype=np.float32)
    kept.parent.mkdir(parents=True, exist_ok=True)
    with Embedder() as embedder, click.progressbar(length=count, label="crops") as bar:
        bar.update(min(len(rows), count))
        while len(rows) < count:
            images = [
                Image.open(file).convert("RGB").crop(box)
                for file, box in drawn[len(rows) : len(rows) + CROPS_AT_ONCE]
            ]
            rows = np.concatenate([rows, embedder.embed(images).cls])
            np.save(part := kept.with_suffix(".part.npy"), rows)
            part.replace(kept)
            bar.update(len(images))
    return unit(rows[:count])


def in_turns(searches: list[Search], queries: Floats) -> list[Floats]:
    """For each of `searches` the milliseconds (Q,) of every query."""
    samples = np.empty((len(searches), len(queries)), dtype=np.float32)
    for at, query in enumerate(queries):
        for row, search in enumerate(searches):
            start = time.perf_counter()
            search(query)
            samples[row, at] = 1000 * (time.perf_counter() - start)
    return list(samples)


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def recall(found: list[list[int]], truth: list[list[int]]) -> float:
    hits = [len(set(a) & set(b)) for a, b in zip(found, truth, strict=True)]
    return sum(hits) / (K * len(truth))


@dataclass(frozen=True, slots=True)
class Peer:
    """One row of a table: what is asked, and what is known of it beside the time that takes."""

    title: str
    search: Search
    found: float
    built: float | None = None
    deleted: float | None = None


def alone(
    rows: Floats,
    ids: npt.NDArray[np.int64],
    queries: Floats,
    truth: list[list[int]],
    *,
    links: int,
) -> Peer:
    """The graph of hnswlib by itself, with the smallest breadth of search that finds 99 %."""
    graph = hnswlib.Index(space="ip", dim=WIDTH)
    candidates = 100 * links // 16
    graph.init_index(len(rows), M=links, ef_construction=candidates, random_seed=1)
    built = seconds(lambda: graph.add_items(rows, ids, num_threads=1))
    for breadth in (20, 30, 40, 60, 80, 120, 160, 240, 320, 480, 640):
        graph.set_ef(breadth)
        found = recall(graph.knn_query(queries, K)[0].tolist(), truth)
        if found >= WANTED_RECALL:
            break
    return Peer(
        f"hnswlib alone, {links} links, ef {breadth} (marks the deleted)",
        lambda query: graph.knn_query(query, K, num_threads=1),
        found,
        built,
        1000 * seconds(lambda: graph.mark_deleted(int(ids[5]))),
    )


def ours(
    kind: Literal["exact", "binary"],
    ids: npt.NDArray[np.int64],
    rows: npt.NDArray[np.float16],
    queries: Floats,
    truth: list[list[int]],
) -> Peer:
    """An index of a memory; it has derived what it needs once it was asked."""
    index = Index(ids.copy(), rows.copy(), kind)
    built = seconds(lambda: index.search(queries[0], K))
    deleted = seconds(lambda: index.remove([int(ids[7])]))
    index.add(ids[7:8], rows[7:8])
    found = recall(index.search(queries, K)[0].tolist(), truth)
    return Peer(
        f"**procmem, {kind}**", lambda query: index.search(query, K), found, built, 1000 * deleted
    )


def others(rows: Floats) -> list[Peer]:
    """What compares everything, and is not what one would take."""
    peers = [
        Peer(
            "numpy product and argpartition",
            lambda query: np.argpartition(-(rows @ query), K),
            1.0,
        )
    ]
    try:
        from usearch.index import search
    except ImportError:
        click.echo("usearch is not installed: left out", err=True)
        return peers
    exact = Peer("usearch, exact", lambda query: search(rows, query, K, "ip", exact=True), 1.0)
    return [*peers, exact]


def table(vectors: Floats) -> list[str]:
    """The first `QUERIES` vectors are asked, the others are held."""
    queries, rows = vectors[:QUERIES], vectors[QUERIES:].astype(np.float16)
    ids = np.sort(np.random.default_rng(1).integers(1, 2**62, len(rows)))
    wide = rows.astype(np.float32)
    truth = Index(ids.copy(), rows.copy(), "exact").search(queries, K)[0].tolist()
    peers = [
        alone(wide, ids, queries, truth, links=16),
        alone(wide, ids, queries, truth, links=32),
        ours("binary", ids, rows, queries, truth),
        ours("exact", ids, rows, queries, truth),
    ]
    samples = in_turns([peer.search for peer in peers], queries)
    slow = others(wide)
    samples += in_turns([peer.search for peer in slow], queries[:FEW])
    lines = [
        "| | one query, ms | 10th percentile | times hnswlib | recall@20, % | built in s | "
        "delete one, ms |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for peer, own in zip(peers + slow, samples, strict=True):
        cells = [
            peer.title,
            f"{np.median(own):.2f}",
            f"{np.quantile(own, 0.1):.2f}",
            f"{np.median(own) / np.median(samples[0]):.1f}",
            f"{100 * peer.found:.1f}",
            "" if peer.built is None else f"{peer.built:.1f}",
            "" if peer.deleted is None else f"{peer.deleted:.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    positions = np.searchsorted(ids, truth).tolist()
    return [
        *lines, "", "What is left by signs alone:", "", *left_by_signs(rows, queries, positions)
    ]  # fmt: skip


def left_by_signs(
    rows: npt.NDArray[np.float16], queries: Floats, truth: list[list[int]]
) -> list[str]:
    """How many of the neighbors, as positions, are among the rows of most like signs."""
    signs, root = Signs(rows), math.isqrt(len(rows))
    lines = ["| rows left | times the root of all | of the neighbors, % |", "|--:|--:|--:|"]
    for times in (1, 2, 3, 4, 6, 8):
        left = [like_signs(query, signs.panels, len(rows), times * root) for query in queries]
        found = recall([one.tolist() for one in left], truth)
        count = np.mean([len(one) for one in left])
        lines.append(f"| {count:,.0f} | {times} | {100 * found:.1f} |")
    return lines


@click.command()
@click.option("--items", default=100_000, show_default=True, help="Vectors in clusters.")
@click.option("--photos", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--crops", "crop_count", default=100_000, show_default=True, help="Of the photos.")
@click.option("--out", type=click.Path(path_type=Path))
def main(items: int, photos: Path | None, crop_count: int, out: Path | None) -> None:
    """Prints Markdown tables."""
    sets = [(f"{items:,} vectors in clusters", clusters(items + QUERIES))]
    if photos is not None:
        with Embedder() as embedder:
            kept = Path(f"build/bench-index-crops-{embedder.sha256[:8]}.npy")
        rows = crops(photos, crop_count + QUERIES, kept)
        sets.append((f"{crop_count:,} crops of photos", rows))
    load = " to ".join(f"{one:.1f}" for one in sorted(os.getloadavg()[::2]))
    hardware = f"{machine()}, numpy {np.__version__}"
    text = (
        f"# Indexes\n\n`python benchmarks/bench_index.py --items {items}"
        f"{' --photos FOLDER' if photos else ''}`: top {K} of {WIDTH} numbers, {QUERIES} queries "
        f"one at a time ({FEW} for numpy and usearch), the first four rows in turns.\n\n"
        f"{hardware}; load average {load}\n"
    )
    for name, vectors in sets:
        text += f"\n## {name}\n\n" + "\n".join(table(vectors)) + "\n"
    click.echo(text)
    if out is not None:
        out.write_text(text)


if __name__ == "__main__":
    main()
