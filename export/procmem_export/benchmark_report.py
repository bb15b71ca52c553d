"""Rows of `benchmark.py` as a table for people, JSON for programs, and a plot."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

from procmem_export.benchmark import Row

_COLUMNS = (
    ("p50_milliseconds", "p50 ms", "{:.1f}"),
    ("p95_milliseconds", "p95 ms", "{:.1f}"),
    ("images_per_second", "images/s", "{:.1f}"),
    ("memory_megabytes", "memory MB", "{:.0f}"),
    ("file_megabytes", "file MB", "{:.1f}"),
    ("cls_cosine_min", "class cosine", "{:.5f}"),
    ("patch_cosine_mean", "patch cosine", "{:.5f}"),
)


def as_markdown(rows: Sequence[Row]) -> str:
    """A table; what did not run stands below it with the reason."""
    titles = ["format", "device", *(title for _, title, _ in _COLUMNS)]
    lines = [f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}"]
    ran = [row for row in rows if not row.not_run]
    for row in ran:
        cells = [row.name, row.device]
        for field, _, form in _COLUMNS:
            value = getattr(row, field)
            cells.append("" if value is None or math.isnan(value) else form.format(value))
        lines.append(f"| {' | '.join(cells)} |")
    left_out = [row for row in rows if row.not_run]
    if left_out:
        lines += ["", "Not run:", ""]
        lines += [f"- {row.name} on {row.device}: {row.not_run}" for row in left_out]
    return "\n".join(lines) + "\n"


def as_json(rows: Sequence[Row]) -> str:
    """All rows with all figures."""
    return json.dumps([dataclasses.asdict(row) for row in rows], indent=2) + "\n"


def plot(rows: Sequence[Row], path: Path, *, title: str) -> None:
    """Draws latency (bars to p50, whiskers to p95) as a PNG.

    Args:
        rows: of `benchmark`.
        path: of the picture.
        title: above it.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    ran = [row for row in rows if row.p50_milliseconds is not None]
    ran.sort(key=lambda row: row.p50_milliseconds or 0.0)
    middles = [row.p50_milliseconds or 0.0 for row in ran]
    beyond = [(row.p95_milliseconds or 0.0) - m for row, m in zip(ran, middles, strict=True)]
    # What is compared with is gray: torch, and models that answer something else.
    gray = [row.name.startswith("torch") or row.cls_cosine_min is None for row in ran]
    colors = ["#8a8f98" if other else "#2f6fb3" for other in gray]
    figure = Figure(figsize=(8, 1.2 + 0.42 * len(ran)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    places = range(len(ran))
    axes.barh(places, middles, color=colors, height=0.62)
    axes.errorbar(
        middles, places, xerr=[[0.0] * len(ran), beyond], fmt="none", ecolor="#22262b", capsize=3
    )
    for place, row, extra in zip(places, ran, beyond, strict=True):
        middle = row.p50_milliseconds or 0.0
        axes.annotate(f" {middle:.1f} ms", (middle + extra, place), va="center", fontsize=9)
    axes.set_yticks(list(places), [f"{row.name} ({row.device})" for row in ran], fontsize=9)
    axes.invert_yaxis()
    axes.margins(x=0.16)
    axes.set_xlabel("one image, view to embedding: bar p50, whisker p95")
    axes.set_title(title, fontsize=11, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
