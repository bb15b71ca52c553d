"""Rows of a growing and shrinking matrix, kept in order and in one piece of memory.

Holds what `index.py`, `screen.py` and `columns.py` know of each item. Rows move within the memory
that there is, some at a time, so that a change of a large memory needs no second copy of it; what a
row leaves is overwritten with zeros. Room to grow shows in nothing but that.
"""

from __future__ import annotations

import contextlib
import math
import mmap
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

Scalar = TypeVar("Scalar", bound=np.generic)

_ROWS_AT_ONCE = 8192
_ROOM = 32  # one row in so many is room to grow
_LARGE_BYTES = 1 << 22
_MADV_POPULATE_WRITE = 23  # Linux 5.14; the module mmap has no name for it


class RowBuffer(Generic[Scalar]):
    """(N, ...) rows.

    Args:
        rows: taken over, not copied, and zeroed when it is outgrown: do not use it further.
    """

    def __init__(self, rows: npt.NDArray[Scalar]) -> None:
        self._memory = rows
        self._count = len(rows)

    @classmethod
    def with_room(cls, shape: tuple[int, ...], dtype: npt.DTypeLike) -> RowBuffer[Any]:
        """Rows of any contents, to be filled by `rows`, and room for more."""
        buffer = cls(_with_room(shape, dtype))
        buffer._count = shape[0]
        return buffer

    def __len__(self) -> int:
        return self._count

    @property
    def rows(self) -> npt.NDArray[Scalar]:
        """(N, ...), a view until the next change. Do not write to it."""
        return self._memory[: self._count]

    def insert(self, at: npt.NDArray[np.intp], rows: npt.NDArray[Any]) -> None:
        """Takes in rows before the positions `at`, ascending, as `np.insert` does."""
        grown = self._count + len(rows)
        if grown > len(self._memory):
            larger = _with_room((grown, *self._memory.shape[1:]), self._memory.dtype)
            larger[: self._count] = self.rows
            self._memory.fill(0)
            self._memory = larger
        end = self._count
        for more in range(len(rows), 0, -1):
            start = int(at[more - 1])
            self._shift(start, end, more)
            self._memory[start + more - 1] = rows[more - 1]
            end = start
        self._count = grown

    def remove(self, gone: npt.NDArray[np.bool_]) -> None:
        """Drops the rows marked in (N,) `gone`."""
        lost = np.flatnonzero(gone)
        if not len(lost):
            return
        end = int(lost[0])
        for start in range(end, self._count, _ROWS_AT_ONCE):
            part = slice(start, min(start + _ROWS_AT_ONCE, self._count))
            kept = self._memory[part][~gone[part]]
            self._memory[end : end + len(kept)] = kept
            end += len(kept)
            kept.fill(0)
        self._memory[end : self._count] = 0
        self._count = end

    def clear(self) -> None:
        """Drops all rows."""
        self._memory.fill(0)
        self._count = 0

    def _shift(self, start: int, end: int, by: int) -> None:
        """Moves the rows from `start` to `end` towards the end, the last of them first."""
        for stop in range(end, start, -_ROWS_AT_ONCE):
            first = max(start, stop - _ROWS_AT_ONCE)
            self._memory[first + by : stop + by] = self._memory[first:stop].copy()


def _with_room(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Memory for these rows and some more, which is zeros: not what other memory held.

    What is large is had from Linux in large pages and all at once. A gigabyte then takes a tenth of
    a second, not one to four as it does page by page with the first writing, which `np.zeros` and
    `np.empty` leave it to.
    """
    rows = (shape[0] + shape[0] // _ROOM, *shape[1:])
    length = math.prod(rows) * np.dtype(dtype).itemsize
    if length >= _LARGE_BYTES and hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # no room, which numpy has an error for
            memory = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            with contextlib.suppress(OSError):  # no large pages, or a kernel before 5.14
                memory.madvise(mmap.MADV_HUGEPAGE)
                memory.madvise(_MADV_POPULATE_WRITE)
            return np.frombuffer(memory, dtype=dtype).reshape(rows)
    return np.zeros(rows, dtype=dtype)
