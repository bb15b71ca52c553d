"""The indexes of a memory beside hnswlib alone, usearch and numpy, on the same vectors.

    python benchmarks/bench_index.py --photos FOLDER --out docs/results/indexes.md

Two sets of vectors, 384 wide. Clusters: 1,000 random centers with noise of the same size, which is
kinder to graphs than independent vectors. Photos: what the bundled model makes of random crops of
the photos in a folder (40,000 by default; about a quarter of an hour at the first run, kept in
build/). One query at a time, medians, one table for each set; everything in one process with as
many threads as the machine has cores. Needs `pip install hnswlib usearch`; usearch is left out if
it is missing.
"""

from __future__ import annotations

import os
import platform
import random as chance
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import click
import hnswlib
import numpy as np
import numpy.typing as npt
from PIL import Image

from procmem import Embedder
from procmem.index import Index

WIDTH, K, QUERIES = 384, 20, 400
WANTED_RECALL = 0.99
Floats = npt.NDArray[np.float32]


def unit(rows: Floats) -> Floats:
    found: Floats = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return found


def clusters(count: int) -> Floats:
    random = np.random.default_rng(0)
    centers = random.standard_normal((1000, WIDTH), dtype=np.float32)
    rows = centers[random.integers(0, len(centers), count)]
    return unit(rows + random.standard_normal(rows.shape, dtype=np.float32))


def crops(folder: Path, count: int, kept: Path) -> Floats:
    """Embeddings of random crops, at least half as wide and high as their photo."""
    if kept.exists() and len(rows := np.load(kept)) == count:
        return unit(rows.astype(np.float32))
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in {".jpg", ".jpeg", ".png"})
    if not files:
        raise click.ClickException(f"{folder} holds no .jpg or .png")
    random = chance.Random(0)

    def crop() -> Image.Image:
        photo = Image.open(random.choice(files)).convert("RGB")
        share = random.uniform(0.5, 1.0)
        width, height = (max(8, int(share * side)) for side in photo.size)
        left = random.randint(0, max(0, photo.width - width))
        top = random.randint(0, max(0, photo.height - height))
        return photo.crop((left, top, left + width, top + height))

    parts = []
    with Embedder() as embedder, click.progressbar(length=count, label="crops") as bar:
        for start in range(0, count, 64):
            size = min(64, count - start)
            parts.append(embedder.embed([crop() for _ in range(size)]).cls)
            bar.update(size)
    kept.parent.mkdir(parents=True, exist_ok=True)
    np.save(kept, np.concatenate(parts))
    return unit(np.concatenate(parts))


def milliseconds(search: Callable[[Floats], object], queries: Floats) -> float:
    samples = []
    for query in queries:
        start = time.perf_counter()
        search(query)
        samples.append(1000 * (time.perf_counter() - start))
    return statistics.median(samples)


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def recall(found: list[list[int]], truth: list[list[int]]) -> float:
    hits = [len(set(a) & set(b)) for a, b in zip(found, truth, strict=True)]
    return sum(hits) / (K * len(truth))


def alone(rows: Floats, ids: npt.NDArray[np.int64], queries: Floats, truth: list[list[int]]) -> str:
    """The graph of hnswlib by itself, with the smallest breadth of search that finds 99 %."""
    graph = hnswlib.Index(space="ip", dim=WIDTH)
    graph.init_index(max_elements=len(rows), M=16, ef_construction=100, random_seed=1)
    built = seconds(lambda: graph.add_items(rows, ids, num_threads=1))
    for breadth in (20, 30, 40, 60, 80, 120, 160, 240, 320, 480, 640):
        graph.set_ef(breadth)
        found = graph.knn_query(queries, K)[0].tolist()
        if recall(found, truth) >= WANTED_RECALL:
            break
    median = milliseconds(lambda query: graph.knn_query(query, K, num_threads=1), queries)
    marked = 1000 * seconds(lambda: graph.mark_deleted(int(ids[5])))
    return (
        f"| hnswlib alone, ef {breadth} (marks the deleted) | {median:.2f} | "
        f"{100 * recall(found, truth):.1f} | {built:.1f} | {marked:.2f} |"
    )


def table(vectors: Floats) -> list[str]:
    """The first `QUERIES` vectors are asked, the others are held."""
    queries, rows = vectors[:QUERIES], vectors[QUERIES:].astype(np.float16)
    ids = np.sort(np.random.default_rng(1).integers(1, 2**62, len(rows)))
    wide = rows.astype(np.float32)
    exact = Index(ids.copy(), rows.copy(), "exact")
    binary = Index(ids.copy(), rows.copy(), "binary")
    truth = exact.search(queries, K)[0].tolist()
    lines = [
        "| | one query, ms | recall@20, % | built in s, one thread | delete one, ms |",
        "|---|---|---|---|---|",
        alone(wide, ids, queries, truth),
    ]
    for name, index in (("binary", binary), ("exact", exact)):
        built = seconds(lambda index=index: index.search(queries[0], K))  # type: ignore[misc]
        found = index.search(queries, K)[0].tolist()
        took = milliseconds(lambda query, index=index: index.search(query, K), queries)
        lines.append(
            f"| **procmem, {name}** | {took:.2f} | {100 * recall(found, truth):.1f} | "
            f"{built:.1f} | {1000 * seconds(lambda i=index: i.remove([int(ids[7])])):.1f} |"  # type: ignore[misc]
        )
    plain = milliseconds(lambda query: np.argpartition(-(wide @ query), K), queries[:50])
    lines.append(f"| numpy product and argpartition | {plain:.2f} | 100.0 | | |")
    try:
        from usearch.index import search
    except ImportError:
        click.echo("usearch is not installed: left out", err=True)
    else:
        took = milliseconds(lambda query: search(wide, query, K, "ip", exact=True), queries[:50])
        lines.append(f"| usearch, exact | {took:.2f} | 100.0 | | |")
    return lines


@click.command()
@click.option("--items", default=100_000, show_default=True, help="Vectors in clusters.")
@click.option("--photos", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--crops", "crop_count", default=40_000, show_default=True, help="Of the photos.")
@click.option("--out", type=click.Path(path_type=Path))
def main(items: int, photos: Path | None, crop_count: int, out: Path | None) -> None:
    """Prints Markdown tables."""
    sets = [(f"{items:,} vectors in clusters", clusters(items + QUERIES))]
    if photos is not None:
        rows = crops(photos, crop_count + QUERIES, Path("build/bench-index-crops.npy"))
        sets.append((f"{crop_count:,} crops of photos", rows))
    machine = f"{platform.machine()}, {os.cpu_count()} cores, numpy {np.__version__}"
    text = (
        f"# Indexes\n\n`python benchmarks/bench_index.py --items {items}"
        f"{' --photos FOLDER' if photos else ''}`: top {K} of {WIDTH} numbers, medians of "
        f"{QUERIES} queries one at a time (50 for numpy and usearch).\n\n{machine}\n"
    )
    for name, vectors in sets:
        text += f"\n## {name}\n\n" + "\n".join(table(vectors)) + "\n"
    click.echo(text)
    if out is not None:
        out.write_text(text)


if __name__ == "__main__":
    main()
