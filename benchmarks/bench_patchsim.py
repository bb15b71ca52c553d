"""The patch-similarity kernel beside numpy: 196 queries, 100,000 rows of 384, top 20.

    python benchmarks/bench_patchsim.py [--out docs/results/patchsim.md]

Medians of 9 runs after one that does not count, in one process. Needs `pip install .`.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np

from procmem import patchsim

QUERIES, ROWS, WIDTH, K, RUNS = 196, 100_000, 384, 20, 9


def milliseconds(function: Callable[[], object]) -> float:
    function()
    samples = []
    for _ in range(RUNS):
        start = time.perf_counter()
        function()
        samples.append(1000 * (time.perf_counter() - start))
    return statistics.median(samples)


@click.command()
@click.option("--out", type=click.Path(path_type=Path))
def main(out: Path | None) -> None:
    """Prints one Markdown table."""
    random = np.random.default_rng(0)
    queries = random.standard_normal((QUERIES, WIDTH)).astype(np.float32)
    rows = random.standard_normal((ROWS, WIDTH)).astype(np.float32)
    names = {
        f"procmem.patchsim.top_k, {patchsim.isa()}": lambda: patchsim.top_k(queries, rows, K),
        "the same, one thread": lambda: patchsim.top_k(queries, rows, K, threads=1),
        "numpy product and argpartition": lambda: np.argpartition(-(queries @ rows.T), K, axis=1),
        "numpy product alone": lambda: queries @ rows.T,
    }
    times = {name: milliseconds(function) for name, function in names.items()}
    ours = next(iter(times.values()))
    lines = ["| | median ms | ratio |", "|---|---|---|"]
    lines += [f"| {name} | {value:.1f} | {value / ours:.2f} |" for name, value in times.items()]
    machine = (
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"numpy {np.__version__}"
    )
    text = (
        "# Patch similarity\n\n`python benchmarks/bench_patchsim.py`: "
        f"{QUERIES} queries x {ROWS:,} rows x {WIDTH}, float32, top {K}, medians of {RUNS}.\n\n"
        f"{machine}\n\n" + "\n".join(lines) + "\n"
    )
    click.echo(text)
    if out is not None:
        out.write_text(text)


if __name__ == "__main__":
    main()
