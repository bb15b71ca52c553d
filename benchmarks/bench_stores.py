"""procmem beside vector stores: what adding, asking and deleting cost, and what deleting leaves.

    python benchmarks/bench_stores.py --runs build/stores --out docs/results/stores.md
    python benchmarks/bench_stores.py --sizes 10000 --stores procmem-exact,hnswlib

The same vectors for all, two cores, one store after the other, every step in a process of its own.
Rows that are finished are kept in the folder of `--runs` and not measured again. Needs
`pip install hnswlib usearch faiss-cpu lancedb chromadb`; what is missing is left out. Nothing
goes over the network.
"""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from machine import machine
from stores import STORES
from stores.measure import WANTED_RECALL, K, Step, StepError
from stores.vectors import BLOCK, WIDTH, Vectors

ASKED, DOOMED, SEED = 200, 100, 0
THREAD_LIMITS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "RAYON_NUM_THREADS",
    "TOKIO_WORKER_THREADS",
    "LANCE_CPU_THREADS",
)
Row = dict[str, Any]

HEAD = (
    "| | add, s | reopen, s | query, ms | recall@20, % | delete 100, s | close, s | on disk, MB "
    "| peak RAM, MB | ghosts of 100 | changed answers, % | of two fresh ones, % |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|---|"
)
LEGEND = f"""
Vectors: float32, {WIDTH} wide, unit, random centers with noise of the same size, seed {SEED};
inner product. Every step is a process of its own, held to the same cores.

- **add**: all items in calls of {BLOCK:,}, and saving. procmem's has no model in it: a stand-in
  gives the vectors.
- **reopen**: until the first answer, in a new process that has imported everything.
- **query**: median of {ASKED}, one at a time, top {K}. The graphs of others (16 links, 100
  candidates when linking) are searched with the least breadth (ef) tried that finds
  {100 * WANTED_RECALL:.0f} % of these queries' neighbors. procmem's "binary" looks at signs first;
  the other rows compare everything.
- **delete 100**: one deletion of {DOOMED} items at random, until it is on the disk. For hnswlib,
  usearch and faiss that is to save the whole file, and fsync; LanceDB and Chroma wait for the disk
  as far as they do.
- **close**: of a store that was opened anew, asked and not changed.
- **on disk**: all files before the deletion. **Peak RAM**: of the processes that add, ask and
  delete; with Python and all imports.
- **ghosts**: how many of the deleted vectors can still be seen in the files after the store was
  closed: some 16 bytes of the vector as float32 or float16. Before the deletion it is 100 in every
  row, or the row says otherwise.
- **changed answers**: share of {ASKED} queries whose ids or their order differ from those of a
  store that never held the deleted items, both opened anew. **Of two fresh ones**: the same of two
  stores that never held them. Where that is not 0, building is left to chance (threads). Empty
  where there were not so many builds.
"""


@click.command()
@click.option("--sizes", default="10000,100000", show_default=True, help="Items, by comma.")
@click.option("--stores", "chosen", default=",".join(STORES), help="Keys of rows; default all.")
@click.option("--per-center", default=100, show_default=True, help="Items around one center.")
@click.option("--threads", default=2, show_default=True, help="Cores for everything.")
@click.option("--runs", type=click.Path(path_type=Path), help="Where finished rows are kept.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where stores are made.")
@click.option("--fresh-limit", default=1_000_000, help="Second build, for comparison, up to here.")
@click.option("--control-limit", default=100_000, show_default=True, help="Third build up to here.")
@click.option("--limit-seconds", default=7200.0, show_default=True, help="Of one step.")
@click.option("--out", type=click.Path(path_type=Path))
def main(
    sizes: str,
    chosen: str,
    per_center: int,
    threads: int,
    runs: Path | None,
    folder: Path | None,
    fresh_limit: int,
    control_limit: int,
    limit_seconds: float,
    out: Path | None,
) -> None:
    """Prints one Markdown table for each size.

    After an interruption the same command with the same --runs goes on with the next row. A row
    that failed says why, and the exit code is 1.
    """
    counts, keys = [int(size) for size in sizes.split(",")], chosen.split(",")
    unknown = sorted(set(keys) - STORES.keys())
    if unknown:
        raise click.BadParameter(f"{', '.join(unknown)}; there are {', '.join(STORES)}")
    if min(counts) < 10 * DOOMED:
        raise click.BadParameter(f"{min(counts)} items, wanted at least {10 * DOOMED}")
    if not 1 <= per_center <= min(counts):
        raise click.BadParameter(f"{per_center} per center, wanted 1 to {min(counts)}")
    hold_back(threads)
    for key in [key for key in keys if STORES[key].missing()]:
        click.echo(f"{STORES[key].package} is not installed: {key} is left out", err=True)
        keys.remove(key)
    command = f"--sizes {sizes} --per-center {per_center} --threads {threads}"
    command += f" --fresh-limit {fresh_limit}" * (max(counts) > fresh_limit)
    tables: dict[int, dict[str, Row]] = {}
    for count in counts:
        if tables:
            foretell(count, tables)
        rows = tables[count] = {}
        vectors = Vectors(count, asked=ASKED, doomed=DOOMED, per_center=per_center, seed=SEED)
        builds = 1 + (count <= fresh_limit) * (1 + (count <= control_limit))
        bench = Bench(vectors, threads, runs, folder, builds, limit_seconds)
        for key in keys:
            largest = STORES[key].largest
            if largest is None or count <= largest:
                rows[key] = bench.row(key)
                if out is not None:
                    out.write_text(report(tables, command, threads))
    click.echo(report(tables, command, threads))
    if any("error" in row for rows in tables.values() for row in rows.values()):
        raise SystemExit(1)


def hold_back(threads: int) -> None:
    """Limits this process, and those that it starts, to some cores and threads."""
    os.environ.update(dict.fromkeys(THREAD_LIMITS, str(threads)), ANONYMIZED_TELEMETRY="False")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


class Bench:
    """All rows of one size."""

    def __init__(
        self,
        vectors: Vectors,
        threads: int,
        runs: Path | None,
        folder: Path | None,
        builds: int,
        limit_seconds: float,
    ) -> None:
        self.vectors, self.threads, self.runs, self.folder = vectors, threads, runs, folder
        self.builds, self.limit_seconds = builds, limit_seconds
        self._truth: tuple[tuple[int, ...], ...] = ()

    def row(self, key: str) -> Row:
        """Measures a row, or takes it from where it was kept."""
        settings = {
            **asdict(self.vectors),
            "threads": self.threads,
            "builds": self.builds,
            "version": STORES[key].version(),
        }
        kept = None if self.runs is None else self.runs / f"{key}-{self.vectors.count}.json"
        if kept is not None and kept.exists():
            row: Row = json.loads(kept.read_text())
            if row["settings"] == settings:
                click.echo(f"{key}, {self.vectors.count:,}: taken from {kept.name}", err=True)
                return row
        begun = time.perf_counter()
        with tempfile.TemporaryDirectory(dir=self.folder) as made:
            try:
                row = self._measured(key, Path(made))
            except StepError as error:
                click.echo(f"{key}: {error}", err=True)
                return {"settings": settings, "error": str(error)}
        row |= {"settings": settings, "wall_seconds": time.perf_counter() - begun}
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            partial = kept.with_suffix(".part")
            partial.write_text(json.dumps(row, indent=1))
            partial.replace(kept)
        return row

    def _measured(self, key: str, made: Path) -> Row:
        if not self._truth:
            nearest = self._step("truth", key, made)["nearest"]
            self._truth = tuple(tuple(ids) for ids in nearest)
        store = made / "store"
        built = self._step("build", key, store)
        before = self._step("scan", key, store)
        used = self._step("use", key, store, truth=self._truth)
        after = self._step("scan", key, store)
        breadth = used["breadth"]
        asked = self._step("ask", key, store, breadth=breadth)
        shutil.rmtree(store)
        fresh = [self._fresh(key, made / "fresh", breadth) for _ in range(self.builds - 1)]
        peak = max(built.pop("peak_bytes"), used.pop("peak_bytes"))
        return {
            **built,
            **used,
            "peak_bytes": peak,
            "close_seconds": asked["close_seconds"],
            "disk_bytes": before["disk_bytes"],
            "disk_bytes_after": after["disk_bytes"],
            "seen_before": before["found"],
            "ghosts": after["found"],
            "changed": differing(asked["answers"], fresh[0]) if fresh else None,
            "changed_of_fresh": differing(*fresh) if len(fresh) == 2 else None,
        }

    def _fresh(self, key: str, store: Path, breadth: int | None) -> list[list[int]]:
        self._step("build", key, store, survivors=True)
        answers: list[list[int]] = self._step("ask", key, store, breadth=breadth)["answers"]
        shutil.rmtree(store)
        return answers

    def _step(self, name: str, key: str, folder: Path, **more: Any) -> Row:
        begun = time.perf_counter()
        step = Step(name, key, folder, self.vectors, self.threads, **more)
        figures = step.run(limit_seconds=self.limit_seconds)
        seconds = time.perf_counter() - begun
        click.echo(f"{key}, {self.vectors.count:,}: {name}, {seconds:.1f} s", err=True)
        return figures


def differing(some: Sequence[list[int]], others: Sequence[list[int]]) -> float:
    """The share of queries with other ids, or the same in another order."""
    return sum(a != b for a, b in zip(some, others, strict=True)) / len(some)


def foretell(count: int, tables: dict[int, dict[str, Row]]) -> None:
    """Says what a size is going to need, by the rows of the largest one before it."""
    last = max(tables)
    rows = [
        row
        for key, row in tables[last].items()
        if "error" not in row and count <= (STORES[key].largest or count)
    ]
    if not rows:
        return
    ratio = count / last
    # Each item of a graph is linked by a search, which takes longer among more.
    seconds = sum(row["wall_seconds"] for row in rows) * ratio * math.log(count) / math.log(last)
    peaks = [row["empty_bytes"] + ratio * (row["peak_bytes"] - row["empty_bytes"]) for row in rows]
    disk = ratio * max(row["disk_bytes"] for row in rows)
    click.echo(
        f"{count:,} items, judged by {last:,}: about {seconds / 3600:.1f} h in all, "
        f"{max(peaks) / 1e9:.1f} GB of RAM and {disk / 1e9:.1f} GB of disk for the largest store",
        err=True,
    )


# ---- the report


def report(tables: dict[int, dict[str, Row]], command: str, threads: int) -> str:
    """The whole file."""
    import numpy as np

    keys = [key for key in STORES if any(key in rows for rows in tables.values())]
    versions = {STORES[key].package: STORES[key].version() for key in keys}
    hardware = (
        f"{machine()}, {threads} of them used, Python "
        f"{platform.python_version()}, numpy {np.__version__}, "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
    )
    parts = [f"# Vector stores\n\n`python benchmarks/bench_stores.py {command}`\n\n{hardware}"]
    for count, rows in tables.items():
        lines = [line(key, row) for key, row in rows.items()]
        parts.append("\n".join([f"## {count:,} items\n", HEAD, *lines]))
    parts.append(LEGEND.strip())
    deletions = [f"- {STORES[key].title.replace('**', '')}: {STORES[key].deletes}" for key in keys]
    parts.append("\n".join(["How each deletes:\n", *deletions]))
    return "\n\n".join(parts) + "\n"


def line(key: str, row: Row) -> str:
    """One row of a table."""
    title = STORES[key].title
    if "error" in row:
        return f"| {title} | failed: {row['error'].replace('|', ' ')} |" + " |" * 10
    if row["breadth"] is not None:
        title += f", ef {row['breadth']}"
    reopen = f"{row['reopen_seconds']:.2f}"
    ghosts = f"{row['ghosts']}"
    if row["seen_before"] != DOOMED:
        ghosts += f" (before: {row['seen_before']})"
    cells = [
        title,
        f"{row['add_seconds']:.2f}",
        reopen,
        f"{1000 * row['query_seconds']:.2f}",
        f"{100 * row['recall']:.1f}",
        f"{row['delete_seconds']:.3f}",
        f"{row['close_seconds']:.2f}",
        f"{row['disk_bytes'] / 1e6:.0f}",
        f"{row['peak_bytes'] / 1e6:.0f}",
        ghosts,
        *(
            "" if share is None else f"{100 * share:.1f}"
            for share in (row["changed"], row["changed_of_fresh"])
        ),
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
