"""What a vault costs: each row of the table, where its figures are, what they say further on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from stores.vectors import WIDTH

from scale.steps import BLOCK, K

Steps = dict[str, dict[str, Any]]
Tables = dict[int, Steps]
Figure = Callable[[Steps], float]


@dataclass(frozen=True, slots=True)
class Line:
    """One row of the table.

    Attributes:
        title: what it is called.
        step: that measures it.
        of: its figure, in the unit.
        unit: "s", "ms" or "GB".
        beside: what stands in brackets, of the same step, in the same unit; None for nothing.
        why: what its slope comes from.
    """

    title: str
    step: str
    of: Figure
    unit: str
    beside: Figure | None = None
    why: str = ""

    @property
    def work(self) -> Figure:
        """What slopes and estimates are made of: where there is one, the processors' time."""
        return self.of if self.unit == "GB" or self.beside is None else self.beside


def _spent(step: str, name: str, scale: float = 1.0) -> tuple[Figure, Figure]:
    """Seconds that passed, and seconds of processors."""
    return (
        lambda steps: steps[step][name][0] * scale,
        lambda steps: steps[step][name][1] * scale,
    )


def _line(title: str, step: str, name: str, unit: str, why: str, scale: float = 1.0) -> Line:
    of, beside = _spent(step, name, scale)
    return Line(title, step, of, unit, beside, why)


LINES = {
    "add": _line(
        f"add one, of {BLOCK:,} in one durable call, ids at random",
        "add",
        "add",
        "ms",
        "From where every new row has a page of its own, each costs that page read, kept in the "
        "journal and written back; in a small vault many rows share one.",
        1000 / BLOCK,
    ),
    "open": _line(
        "open, to the first answer, auto",
        "auto",
        "open",
        "s",
        "Linear: every row is fetched, its checksum compared, its vector copied; then scales, "
        "bytes and signs are derived on all cores. Nothing is built, so nothing grows faster.",
    ),
    "open_exact": _line(
        "open, to the first answer, exact", "exact", "open", "s", "The same without signs."
    ),
    "query": _line(
        f"query, auto, top {K}: median",
        "auto",
        "query",
        "ms",
        f"From 50,000 items on {WIDTH // 8} bytes of signs are read of every item, which is "
        "linear; below, and in what is compared further, there is work that grows more slowly.",
        1000,
    ),
    "query_exact": _line(
        f"query, exact, top {K}: median",
        "exact",
        "query",
        "ms",
        f"Linear: {WIDTH} bytes are read of every item, in memory that no cache holds.",
        1000,
    ),
    "delete": _line(
        "delete one row, durable: median",
        "forget",
        "delete",
        "ms",
        "Flat: one path of a tree, and three waits for the disk.",
        1000,
    ),
    "purge": _line(
        "purge",
        "forget",
        "purge",
        "s",
        "Linear: the ledger is checked, written anew and the old one overwritten.",
    ),
    "erase": _line(
        "delete one, purge and search all files",
        "forget",
        "erase",
        "s",
        "Linear: the purge, and a pass over the files.",
    ),
    "receipt": _line(
        "the same with a signed receipt",
        "prove",
        "receipt",
        "s",
        "Linear: besides, an HMAC of every item before and after.",
    ),
    "drop": _line(
        "delete one in a memory that is open, purge put off",
        "drop",
        "drop",
        "s",
        "Linear: rows behind it move up in RAM, and the files are searched.",
    ),
    "later": _line(
        "the purge that was put off, at the next opening for writing",
        "purge",
        "later_purge",
        "s",
        "The purge.",
    ),
    "ram": Line(
        "RAM of a reader that answers, auto (most while opening)",
        "auto",
        lambda steps: steps["auto"]["resident_bytes"] / 1e9,
        "GB",
        lambda steps: steps["auto"]["opening_peak_bytes"] / 1e9,
        f"Linear: {2 * WIDTH} bytes of vector, {WIDTH} rounded, {WIDTH // 8} of signs, and "
        "label, source and id; the rest is the interpreter.",
    ),
    "disk": Line(
        "on disk (twice that during a purge)",
        "fill",
        lambda steps: steps["fill"]["disk_bytes"] / 1e9,
        "GB",
        None,
        f"Linear: {2 * WIDTH} bytes of vector, label and source in pages of 4,096.",
    ),
}


# ---- arithmetic


def recall(steps: Steps) -> float | None:
    """The share of the exact answers that "auto" gives; None if both were not asked."""
    if not steps.keys() >= {"auto", "exact"}:
        return None
    pairs = zip(steps["auto"]["answers"], steps["exact"]["answers"], strict=True)
    return float(np.mean([len(set(some) & set(all_)) / len(all_) for some, all_ in pairs]))


def sizes_of(tables: Tables, key: str) -> list[int]:
    """The sizes of which a row has a figure, ascending."""
    return [count for count in sorted(tables) if LINES[key].step in tables[count]]


def exponent(tables: Tables, key: str) -> float | None:
    """Between the two largest sizes that were measured; None of fewer."""
    sizes = sizes_of(tables, key)
    if len(sizes) < 2:
        return None
    few, many = sizes[-2:]
    of = LINES[key].work
    return math.log(of(tables[many]) / of(tables[few])) / math.log(many / few)


def at_size(tables: Tables, key: str, count: float) -> float:
    """What a size costs: as measured, or from the largest that was, in proportion."""
    sizes = sizes_of(tables, key)
    if count in sizes:
        return LINES[key].work(tables[int(count)])
    largest = sizes[-1]
    return LINES[key].work(tables[largest]) * count / largest


def reach(tables: Tables, key: str, most: float) -> float:
    """How many items cost so much: between sizes by the line between them, else linear."""
    of, counts = LINES[key].work, sizes_of(tables, key)
    for few, many in pairwise(counts):
        low, high = of(tables[few]), of(tables[many])
        if low <= most <= high:
            share = math.log(most / low) / math.log(high / low)
            return few * (many / few) ** share
    end = counts[0] if most < of(tables[counts[0]]) else counts[-1]
    return end * most / of(tables[end])
