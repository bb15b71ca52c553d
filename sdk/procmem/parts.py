"""Work on many rows, a few at a time and on all cores; for `index.py`, `screen.py`, `signs.py`."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

ROWS = 256
"""Of 384 numbers these stay in a core's cache when they are widened. A multiple of `SIGN_ROWS`."""

_LEAST = 65_536  # with fewer rows threads do not pay


def in_parts(count: int, work: Callable[[slice], None]) -> None:
    """Calls `work` with slices of at most `ROWS` rows that cover `count`, in any order.

    Args:
        count: rows.
        work: writes to rows of its slice only; several calls may run at once.
    """
    parts = [slice(start, min(start + ROWS, count)) for start in range(0, count, ROWS)]
    threads = os.cpu_count() or 1
    if count < _LEAST or threads == 1:
        _each(work, parts)
        return
    with ThreadPoolExecutor(threads, "procmem-parts") as pool:
        tasks = [pool.submit(_each, work, parts[start::threads]) for start in range(threads)]
        for task in tasks:
            task.result()


def _each(work: Callable[[slice], None], parts: list[slice]) -> None:
    for part in parts:
        work(part)
