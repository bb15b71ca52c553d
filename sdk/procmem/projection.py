"""A memory's vectors to a map of two dimensions, by principal components.

Takes rows from the index, gives `MemoryMap` to `memory.py`. Derived and never stored: it is
computed from what the memory holds when it is asked for, so that nothing of a forgotten item is
left in it. A pure function of the rows in the order of their ids.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from procmem.errors import InputError

_ROWS_AT_ONCE = 65_536  # float64 copies stay below 200 MB at 384 numbers a row


def project(
    rows: npt.NDArray[np.floating],
) -> tuple[npt.NDArray[np.float32], tuple[float, float]]:
    """Projects vectors onto their first two principal components.

    Args:
        rows: (N, D) floats, finite.

    Returns:
        (N, 2) float32 coordinates around 0, and the share of the variance that each of the two
        explains, in [0, 1]. The sign of a component is such that its largest entry is positive.
        Without variance, as of fewer than two different rows, coordinates and shares are 0.

    Raises:
        InputError: not (N, D), or not finite.
    """
    if rows.ndim != 2 or not np.isfinite(rows).all():
        raise InputError(f"rows have shape {rows.shape}, wanted (N, D) finite numbers")
    count, width = rows.shape
    points = np.zeros((count, 2), dtype=np.float32)
    if count < 2 or width < 2:
        return points, (0.0, 0.0)
    starts = range(0, count, _ROWS_AT_ONCE)
    mean = sum(rows[s : s + _ROWS_AT_ONCE].sum(axis=0, dtype=np.float64) for s in starts) / count
    scatter = np.zeros((width, width))
    for start in starts:
        wide = rows[start : start + _ROWS_AT_ONCE] - mean
        scatter += wide.T @ wide
    values, vectors = np.linalg.eigh(scatter)  # ascending
    total = float(np.trace(scatter))
    # Equal rows differ from their mean by rounding: float32 has 24 bits.
    if total <= count * float(mean @ mean) * 2.0**-40:
        return points, (0.0, 0.0)
    axes = vectors[:, [-1, -2]]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), [0, 1]])
    for start in starts:
        points[start : start + _ROWS_AT_ONCE] = (rows[start : start + _ROWS_AT_ONCE] - mean) @ axes
    first, second = (float(np.clip(values[at] / total, 0.0, 1.0)) for at in (-1, -2))
    return points, (first, second)
