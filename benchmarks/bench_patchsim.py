"""The patch-similarity kernel beside numpy, torch, faiss and usearch, and beside the processor.

    python benchmarks/bench_patchsim.py [--large] [--out docs/results/patchsim.md]

Medians of runs that take turns, in one process, after one that does not count. Peers that are not
installed are left out (`pip install torch faiss-cpu usearch`); the processor's peak needs a C++
compiler. --large adds 784 queries x 1,000,000 rows of int8, which take 0.4 GB.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
from machine import machine

from procmem import _patchsim, patchsim

QUERIES, ROWS, WIDTH, K = 196, 100_000, 384, 20
Float32 = npt.NDArray[np.float32]
Call = Callable[[], object]


def medians(calls: Mapping[str, Call], rounds: int) -> dict[str, float]:
    """Milliseconds of each call; the calls take turns, so that noise hits them alike."""
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if turn > 0:
                samples[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in samples.items()}


def to_int8(rows: Float32) -> npt.NDArray[np.int8]:
    """Unit rows at a fixed scale, as `procmem.screen` rounds them."""
    scale = 127 * np.sqrt(rows.shape[1]) / 7
    return np.clip(np.rint(rows * scale), -127, 127).astype(np.int8)


def unit_rows(random: np.random.Generator, rows: int) -> Float32:
    array = random.standard_normal((rows, WIDTH), dtype=np.float32)
    array /= np.linalg.norm(array, axis=1, keepdims=True)
    return array


def peers(queries: Float32, rows: Float32, threads: int) -> dict[str, Call]:
    """The same question, asked of others."""
    calls: dict[str, Call] = {
        "numpy, product and argpartition": lambda: np.argpartition(-(queries @ rows.T), K, axis=1),
    }
    if importlib.util.find_spec("torch"):
        import torch

        torch.set_num_threads(threads)
        left, right = torch.from_numpy(queries), torch.from_numpy(rows)
        calls["torch, product and topk"] = lambda: torch.topk(left @ right.T, K, dim=1)
    if importlib.util.find_spec("faiss"):
        import faiss

        faiss.omp_set_num_threads(threads)
        calls["faiss.knn"] = lambda: faiss.knn(queries, rows, K, metric=faiss.METRIC_INNER_PRODUCT)
    if importlib.util.find_spec("usearch"):
        from usearch.index import MetricKind, search

        calls["usearch, exact, float32"] = lambda: search(
            rows, queries, K, MetricKind.IP, exact=True, threads=threads
        )
        small_rows, small_queries = to_int8(rows), to_int8(queries)
        calls["usearch, exact, int8"] = lambda: search(
            small_rows, small_queries, K, MetricKind.IP, exact=True, threads=threads
        )
    return calls


def peaks(threads: int) -> dict[tuple[str, str], float]:
    """(element, path) -> multiply-adds a second that the processor does at best; may be empty."""
    compiler = shutil.which("g++")
    if compiler is None or platform.machine() != "x86_64":
        return {}
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "peak")
        source = Path(__file__).with_name("peak.cpp")
        subprocess.run(
            [compiler, "-O2", "-std=c++17", "-pthread", str(source), "-o", str(program)], check=True
        )
        lines = subprocess.run(
            [str(program), str(threads)], check=True, capture_output=True, text=True
        ).stdout.splitlines()
    return {(element, path): float(rate) for element, path, rate in map(str.split, lines)}


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows] + [""]


def top_k_section(random: np.random.Generator, threads: int, rounds: int) -> list[str]:
    queries, rows = unit_rows(random, QUERIES), unit_rows(random, ROWS)
    small_queries, small_rows, half_rows = to_int8(queries), to_int8(rows), rows.astype(np.float16)
    keep = np.repeat(random.random(-(-ROWS // QUERIES)) < 0.5, QUERIES)[:ROWS]

    def ask(q: object, m: object, **options: object) -> Call:
        return lambda: patchsim.top_k(q, m, K, threads=threads, **options)  # type: ignore[call-overload]

    ours = {
        "**procmem**, float32": ask(queries, rows),
        "**procmem**, float16 rows": ask(queries, half_rows),
        "**procmem**, int8": ask(small_queries, small_rows),
        "**procmem**, float32, half of the images left out": ask(queries, rows, keep=keep),
        "**procmem**, int8, top 200": lambda: patchsim.top_k(
            small_queries, small_rows, 200, threads=threads
        ),
    }
    times = medians({**ours, **peers(queries, rows, threads)}, rounds)
    base = times["**procmem**, float32"]
    exact, _ = patchsim.top_k(queries, rows, K)
    rounded, _ = patchsim.top_k(small_queries, small_rows, K)
    overlap = np.mean(
        [len(set(a) & set(b)) / K for a, b in zip(exact.tolist(), rounded.tolist(), strict=True)]
    )
    single = medians(
        {
            "float32": ask(queries[:1], rows),
            "float16 rows": ask(queries[:1], half_rows),
            "int8": ask(small_queries[:1], small_rows),
            "numpy product": lambda: queries[:1] @ rows.T,
        },
        rounds,
    )
    return [
        f"## Top {K} of {ROWS:,} rows, {QUERIES} queries, width {WIDTH}",
        "",
        *table(
            ("", "ms", "of the first"),
            [(name, f"{value:.1f}", f"{value / base:.2f}") for name, value in times.items()],
        ),
        f"Of random unit rows, the top {K} of int8 and float32 share {100 * overlap:.1f} %.",
        "",
        "One query:",
        "",
        *table(("", "ms"), [(name, f"{value:.2f}") for name, value in single.items()]),
    ]


def roofline_section(random: np.random.Generator, threads: int, rounds: int) -> list[str]:
    queries, rows = unit_rows(random, QUERIES), unit_rows(random, ROWS)
    small_queries, small_rows = to_int8(queries), to_int8(rows)
    calls: dict[str, Call] = {}
    for isa in _patchsim.available_isas():
        calls[f"float32 {isa}"] = lambda isa=isa: _patchsim.topk(  # type: ignore[misc]
            queries, rows, K, threads, isa=isa
        )
        calls[f"int8 {isa}"] = lambda isa=isa: _patchsim.topk(  # type: ignore[misc]
            small_queries, small_rows, K, threads, isa=isa
        )
    limits = peaks(threads)
    work = QUERIES * ROWS * WIDTH
    lines = []
    for name, milliseconds in medians(calls, rounds).items():
        element, isa = name.split()
        rate = work / milliseconds * 1000
        limit = limits.get((element, isa))
        lines.append(
            (
                isa,
                element,
                f"{milliseconds:.1f}",
                f"{rate / 1e9:.0f}",
                f"{limit / 1e9:.0f}" if limit else "",
                f"{100 * rate / limit:.0f} %" if limit else "",
            )
        )
    return [
        "## Share of the processor's peak",
        "",
        *table(
            ("path", "element", "ms", "10^9 multiply-adds a second", "peak", "share"),
            sorted(lines, key=lambda line: line[1]),
        ),
        "The same top-k on every path. The peak is that of a loop of the path's multiply-add on",
        "registers alone (`benchmarks/peak.cpp`), measured in the same run.",
        "",
    ]


def large_section(random: np.random.Generator, threads: int, rounds: int) -> list[str]:
    rows = np.concatenate([to_int8(unit_rows(random, 50_000)) for _ in range(20)])
    queries = to_int8(unit_rows(random, 784))
    times = medians(
        {
            f"top {k}": lambda k=k: patchsim.top_k(  # type: ignore[misc]
                queries, rows, k, threads=threads
            )
            for k in (20, 200)
        },
        max(3, rounds // 3),
    )
    limit = peaks(threads).get(("int8", _patchsim.isa()))
    bound = 784 * len(rows) * WIDTH / limit * 1000 if limit else None
    return [
        f"## 784 queries x {len(rows):,} rows, int8",
        "",
        *table(
            ("", "ms", "of the multiply-adds' limit"),
            [
                (name, f"{value:.0f}", f"{value / bound:.2f}" if bound else "")
                for name, value in times.items()
            ],
        ),
    ]


@click.command()
@click.option("--threads", default=2, show_default=True)
@click.option("--rounds", default=9, show_default=True)
@click.option("--large", is_flag=True, help="Also 784 x 1,000,000.")
@click.option("--out", type=click.Path(path_type=Path))
def main(threads: int, rounds: int, large: bool, out: Path | None) -> None:
    """Prints Markdown tables."""
    random = np.random.default_rng(0)
    versions = [f"Python {platform.python_version()}"] + [
        f"{name} {importlib.metadata.version(name)}"
        for name in ("numpy", "torch", "faiss-cpu", "usearch")
        if importlib.util.find_spec(name.removesuffix("-cpu"))
    ]
    lines = [
        "# Patch similarity",
        "",
        f"`python benchmarks/bench_patchsim.py{' --large' if large else ''}`: {threads} threads, "
        f"medians of {rounds} runs that take turns.",
        "",
        f"{machine()}, {', '.join(versions)}",
        "",
        *top_k_section(random, threads, rounds),
        *roofline_section(random, threads, rounds),
        *(large_section(random, threads, rounds) if large else []),
    ]
    text = "\n".join(lines).rstrip() + "\n"
    click.echo(text)
    if out is not None:
        out.write_text(text)


if __name__ == "__main__":
    main()
