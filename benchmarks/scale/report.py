"""Figures of `steps.py` as Markdown and as a plot, with what follows from them for larger vaults.

What is said of other engines comes from the pages that `SOURCES` names; nothing of it was run here.
"""

from __future__ import annotations

import math
import platform
from pathlib import Path

import numpy as np
from machine import machine
from stores.vectors import WIDTH

from scale.lines import LINES, Line, Steps, Tables, at_size, exponent, reach, recall, sizes_of
from scale.steps import K

LARGEST = 1_000_000_000
PGVECTOR_RAM = 1.9 * 2 * WIDTH
"""Bytes for each item: an index of half vectors, as much larger than them as the published one."""
MILVUS_RAM = 4 * WIDTH / 4
"""Codes and cache, an eighth of the vectors each."""
DEVICE_GB, SERVER_GB = 16, 128

SOURCES = """
- pgvector: a vector takes 4 bytes for each dimension and 8, a half one 2 and 8, a table is
  limited to 32 TB ([its README](https://github.com/pgvector/pgvector)); 550,000 vectors of
  1,024 make an HNSW index of 4.25 GB (1.9 times the vectors) in 364 to 666 s, and a query takes
  2.9 ms at recall@10 0.84 ([one benchmark's
  record](https://raw.githubusercontent.com/unrealshape/bachelor-db-benchmark/main/results/2026-06-15T22-05-21Z_pgvector-S0-latency-r3/summary.json));
  where the index outgrows the RAM, 4 GB in that case, queries went from 3.7 to 43 ms ([a
  provider's figures](https://rivestack.io/pgvector-benchmarks)).
- Milvus: with DiskANN an eighth of the vectors' bytes is kept in RAM as codes and an eighth as
  a cache, and 56 links of each on the disk ([its
  documentation](https://milvus.io/docs/disk_index.md)); IVF_SQ8 takes 70 to 75 % less RAM than
  the vectors ([its makers](https://zilliz.com/blog/demystify-milvus-sizing-tool)).
- DiskANN itself: 1,000,000,000 vectors of 128 bytes on one machine with 16 cores, 64 GB of RAM
  and an SSD, more than 5,000 queries/s at less than 3 ms, 1-recall@1 above 95 % ([Jayaram
  Subramanya and others, NeurIPS
  2019](https://proceedings.neurips.cc/paper/2019/hash/09853c7fb1d3f8ee67a61b6bf4a7f8e6-Abstract.html)).
"""


def report(tables: Tables, command: str) -> str:
    """The whole file."""
    most = max(tables)
    local, server = takeovers(tables)
    loads = [steps[name]["load"] for steps in tables.values() for name in steps]
    return f"""# A vault as it grows

`{command}`

{machine()}, Python {platform.python_version()}, numpy
{np.__version__}; load average at the steps' beginnings {min(loads):.1f} to {max(loads):.1f}.

![what a vault costs](../pictures/scale.png)

{_measured(tables)}

Plain vaults of unit vectors around {WIDTH}-wide random centers, 100 to each, with labels and
sources. Every step is a process of its own, after imports, on files that the system may have in
its cache; opening is the median of three. In brackets: seconds of all processors together, for a
query or a deletion in the mean (of the RAM: the most while opening). They are what the work needs;
seconds that passed are more where other programs had the cores too, and fewer where both cores
worked. Slope: the exponent of the work between the two largest sizes; 1 is linear.

## Why

{_reasons(tables)}

## How far a local vault goes

By the work of one core, between the sizes that were measured, and in proportion beyond the
largest: the number of items up to which a local vault does this.

{_limits(tables)}

The RAM decides: a device has {DEVICE_GB} GB of it and a server {SERVER_GB} GB in the picture above.

- **A local vault, up to about {_round(local):,} items**, is the rule for one device: one program
  that writes, any number that read, everything in RAM of each reader, and a deletion that is
  through within seconds, or put off to the next opening above 100,000 items.
- **PostgreSQL with pgvector** takes over where several programs write at once, where readers
  cannot each hold all vectors ({most:,} items are {at_size(tables, "ram", most):.1f} GB in every
  one of them), or where items come and go so often that a purge is too long each time (of so
  many {at_size(tables, "purge", most):.0f} s of a processor). Queries are no reason before. What
  is deleted there is in its files until a VACUUM, and in its log for longer.
- **Milvus** takes over where a server's RAM does not hold pgvector's index, from about
  {_round(server):,} items on. It deletes by marks and compaction.

## On paper, to {LARGEST:,}

{_paper(tables)}

Vectors of {WIDTH}; the local vault in proportion, by the work of one core; the others by the
published figures below, times and RAM for one copy. "pgvector" is half-precision vectors in a
table and an HNSW index of them, "Milvus" DiskANN.

{SOURCES.strip()}
"""


def _measured(tables: Tables) -> str:
    counts = sorted(tables)
    lines = [
        "| | " + " | ".join(f"{count:,}" for count in counts) + " | slope |",
        "|---|" + "--:|" * (len(counts) + 1),
    ]
    for key, line in LINES.items():
        cells = [_cell(line, tables[count]) for count in counts]
        lines.append(f"| {line.title}, {line.unit} | {' | '.join(cells)} | {_slope(tables, key)} |")
    shares = [recall(tables[count]) for count in counts]
    cells = ["" if share is None else f"{100 * share:.2f}" for share in shares]
    lines.append(f"| recall@{K} of auto, % | {' | '.join(cells)} | |")
    return "\n".join(lines)


def _reasons(tables: Tables) -> str:
    return "\n".join(
        f"- **{line.title}**{_slope_text(tables, key)}: {line.why}" for key, line in LINES.items()
    )


def _limits(tables: Tables) -> str:
    wanted = [
        ("open", 1.0, "opens within 1 s"),
        ("open", 5.0, "opens within 5 s"),
        ("open", 60.0, "opens within a minute"),
        ("query", 5.0, "answers within 5 ms"),
        ("query", 100.0, "answers within 0.1 s, all that a person notices"),
        ("purge", 1.0, "purges within 1 s"),
        ("purge", 60.0, "purges within a minute"),
        ("ram", 1.5, "takes 1.5 GB of RAM"),
        ("ram", 16.0, "takes 16 GB of RAM"),
        ("ram", 128.0, "takes 128 GB of RAM"),
        ("disk", 1000.0, "takes 1 TB of disk, half of it for purges"),
    ]
    lines = ["| a local vault | up to about |", "|---|--:|"]
    for key, most, text in wanted:
        figure = most / 2 if key == "disk" else most
        lines.append(f"| {text} | {_round(reach(tables, key, figure)):,} |")
    return "\n".join(lines)


def _paper(tables: Tables) -> str:
    counts = [10_000_000, 100_000_000, LARGEST]
    rows = {
        "local vault: disk": lambda n: _bytes(1e9 * at_size(tables, "disk", n)),
        "local vault: RAM of each reader": lambda n: _bytes(1e9 * at_size(tables, "ram", n)),
        "local vault: query": lambda n: _time(at_size(tables, "query", n) / 1000),
        "local vault: open": lambda n: _time(at_size(tables, "open", n)),
        "local vault: purge": lambda n: _time(at_size(tables, "purge", n)),
        "pgvector: table and index on disk": lambda n: _bytes(n * (2 * WIDTH + 40 + PGVECTOR_RAM)),
        "pgvector: RAM for its index": lambda n: _bytes(n * PGVECTOR_RAM),
        "Milvus: on disk": lambda n: _bytes(n * 4 * (WIDTH + 56)),
        "Milvus: RAM": lambda n: _bytes(n * MILVUS_RAM),
    }
    lines = [
        "| | " + " | ".join(f"{count:,}" for count in counts) + " |",
        "|---|" + "--:|" * len(counts),
        *(
            f"| {title} | {' | '.join(of(count) for count in counts)} |"
            for title, of in rows.items()
        ),
    ]
    return "\n".join(lines)


def takeovers(tables: Tables) -> tuple[float, float]:
    """How many items a reader on a device holds, and a server that has pgvector's index in RAM."""
    return reach(tables, "ram", DEVICE_GB), SERVER_GB * 1e9 / PGVECTOR_RAM


# ---- words


def _round(count: float) -> int:
    """To two digits: it is an estimate."""
    unit = 10 ** max(0, int(math.log10(count)) - 1)
    return int(round(count / unit) * unit)


def _cell(line: Line, steps: Steps) -> str:
    if line.step not in steps:
        return ""
    beside = "" if line.beside is None else f" ({_number(line.beside(steps))})"
    return _number(line.of(steps)) + beside


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _slope(tables: Tables, key: str) -> str:
    found = exponent(tables, key)
    return "" if found is None else f"{found:.2f}"


def _slope_text(tables: Tables, key: str) -> str:
    slope = _slope(tables, key)
    return f" ({slope})" if slope else ""


def _bytes(value: float) -> str:
    return f"{value / 1e12:.1f} TB" if value >= 1e12 else f"{value / 1e9:,.0f} GB"


def _time(seconds: float) -> str:
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 3600:.1f} h"


# ---- the picture


def draw(tables: Tables, path: Path) -> None:
    """Measured figures as points, and lines on to a thousand million."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    least = min(tables)
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.8), layout="constrained")
    panels = (
        (
            left,
            "seconds of processors",
            ("receipt", "purge", "open", "query_exact", "query", "delete"),
        ),
        (right, "GB", ("disk", "ram")),
    )
    for axes, name, keys in panels:
        for key in keys:
            unit = 1000 if LINES[key].unit == "ms" else 1
            sizes = sizes_of(tables, key)
            known = [at_size(tables, key, count) / unit for count in sizes]
            growth = 1 if key == "delete" else LARGEST / sizes[-1]
            (line,) = axes.plot(sizes, known, "o-", label=LINES[key].title.split(",")[0])
            axes.plot(
                [sizes[-1], LARGEST],
                [known[-1], known[-1] * growth],
                "--",
                color=line.get_color(),
                alpha=0.5,
            )
            if key == "query":
                line.set_label("query, auto")
            elif key == "query_exact":
                line.set_label("query, exact")
        axes.set(xscale="log", yscale="log", xlabel="items", ylabel=name)
        axes.grid(which="major", alpha=0.3)
    left.lines[0].set_label("delete one, purge, search, receipt")
    right.lines[0].set_label("on disk")
    right.lines[2].set_label("RAM of a reader")
    engines = (
        ("pgvector, HNSW of halves: RAM (published)", "-.", PGVECTOR_RAM),
        ("Milvus, DiskANN: RAM (published)", ":", MILVUS_RAM),
    )
    ends = np.array([1e6, LARGEST])
    for title, style, each in engines:
        right.plot(ends, ends * each / 1e9, style, color="gray", label=title)
    local, server = takeovers(tables)
    names = ("a local vault", "PostgreSQL", "Milvus")
    edges = (least, local, server, LARGEST)
    for name, start, end in zip(names, edges, edges[1:], strict=False):
        right.axvspan(start, end, alpha=0.05 + 0.07 * names.index(name), color="gray", linewidth=0)
        right.annotate(name, ((start * end) ** 0.5, 0.013), fontsize=8, ha="center")
    left.axhline(5, color="black", linewidth=0.6)
    left.annotate("5 s", (LARGEST / 3, 5.5), fontsize=8)
    for axes in (left, right):
        axes.legend(fontsize=8, loc="upper left")
    figure.savefig(path, dpi=100)
    plt.close(figure)
