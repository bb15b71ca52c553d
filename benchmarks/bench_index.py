"""The indexes of a memory beside hnswlib alone, usearch and numpy, on the same vectors.

    python benchmarks/bench_index.py [--items 100000] [--out docs/results/index.md]

Vectors: unit, 384 wide, 1,000 random centers with noise of the same size, which is kinder to graphs
than independent ones and nearer to what embeddings are. One query at a time, medians; everything in
one process with as many threads as the machine has cores. Needs `pip install '.[hnsw]' usearch`;
usearch is left out if it is missing.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import click
import hnswlib
import numpy as np
import numpy.typing as npt

from procmem.cells import CELL_ITEMS, Cells
from procmem.index import Index

WIDTH, K, QUERIES = 384, 20, 200
Floats = npt.NDArray[np.float32]


def clustered(count: int, random: np.random.Generator, centers: Floats) -> Floats:
    rows = centers[random.integers(0, len(centers), count)]
    rows = rows + random.standard_normal(rows.shape, dtype=np.float32)
    unit: Floats = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


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
    for breadth in (20, 30, 40, 60, 80, 120, 160, 240):
        graph.set_ef(breadth)
        found = graph.knn_query(queries, K)[0].tolist()
        if recall(found, truth) >= 0.99:
            break
    median = milliseconds(lambda query: graph.knn_query(query, K, num_threads=1), queries)
    marked = 1000 * seconds(lambda: graph.mark_deleted(int(ids[5])))
    return (
        f"| hnswlib alone, ef {breadth} (marks the deleted) | {median:.2f} | "
        f"{100 * recall(found, truth):.1f} | {built:.1f} | {marked:.2f} |"
    )


@click.command()
@click.option("--items", default=100_000, show_default=True)
@click.option("--out", type=click.Path(path_type=Path))
def main(items: int, out: Path | None) -> None:
    """Prints one Markdown table."""
    random = np.random.default_rng(0)
    centers = random.standard_normal((1000, WIDTH), dtype=np.float32)
    rows = clustered(items, random, centers).astype(np.float16)
    queries = clustered(QUERIES, random, centers)
    ids = np.sort(random.integers(1, 2**62, items))
    exact = Index(ids, rows)
    truth = exact.search(queries, K)[0].tolist()
    lines = [
        "| | one query, ms | recall@20, % | built in s, one thread | delete one, ms |",
        "|---|---|---|---|---|",
        alone(exact.rows, ids, queries, truth),
    ]
    cells = Cells(ids, rows)
    built = seconds(cells.settle)
    found = cells.search(queries, K)[0].tolist()
    settled = milliseconds(lambda query: cells.search(query, K), queries)
    removed = 1000 * seconds(lambda: cells.remove([int(ids[7])]))
    again = seconds(cells.settle)
    lines.append(
        f"| **procmem, hnsw**, {len(cells._cells)} cells of at most {CELL_ITEMS:,} | "
        f"{settled:.2f} | {100 * recall(found, truth):.1f} | {built:.1f}; after a "
        f"delete {again:.1f} | {removed:.1f} |"
    )
    cells.remove([int(ids[9])])
    lines.append(
        "| the same right after a delete, one cell searched exactly | "
        f"{milliseconds(lambda query: cells.search(query, K), queries[:50]):.2f} | | | |"
    )
    cells.clear()
    scan = milliseconds(lambda query: exact.search(query, K), queries[:50])
    removed = 1000 * seconds(lambda: exact.remove([int(ids[7])]))
    lines.append(f"| **procmem, exact** | {scan:.2f} | 100.0 | | {removed:.1f} |")
    plain = milliseconds(lambda query: np.argpartition(-(exact.rows @ query), K), queries[:50])
    lines.append(f"| numpy product and argpartition | {plain:.2f} | 100.0 | | |")
    try:
        from usearch.index import search
    except ImportError:
        click.echo("usearch is not installed: left out", err=True)
    else:
        data = exact.rows
        took = milliseconds(lambda query: search(data, query, K, "ip", exact=True), queries[:50])
        lines.append(f"| usearch, exact | {took:.2f} | 100.0 | | |")
    machine = f"{platform.machine()}, {os.cpu_count()} cores, numpy {np.__version__}"
    text = (
        f"# Indexes\n\n`python benchmarks/bench_index.py --items {items}`: {items:,} x {WIDTH}, "
        f"top {K}, medians of {QUERIES} queries one at a time (50 for exact ones).\n\n{machine}\n\n"
        + "\n".join(lines)
        + "\n"
    )
    click.echo(text)
    if out is not None:
        out.write_text(text)


if __name__ == "__main__":
    main()
