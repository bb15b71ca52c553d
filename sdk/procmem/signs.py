"""Unit vectors reduced to the signs of their elements: a first look at a large memory.

Takes unit rows from `index.py` and gives it back the rows that are likely to be among the nearest
of a query, at an eighth of the bytes that `screen.py` reads; that compares those anew. Two vectors
at an angle differ in as many signs as the angle is wide (Charikar, "Similarity estimation
techniques from rounding algorithms", 2002); the larger an element of the query is, the more its
sign counts. Derived from each row alone (law 1): there is nothing to build, and what is forgotten
has left no other row different.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from procmem.parts import in_parts
from procmem.patchsim import Words, like_signs, sign_panels

MAX_WIDTH = 21_824
"""Distances of wider rows could overflow."""


class Signs:
    """The signs of (N, D) rows, D at most `MAX_WIDTH`.

    Args:
        rows: (N, D) floats. Not kept.
    """

    def __init__(self, rows: npt.NDArray[np.floating]) -> None:
        self._count = len(rows)
        words = -(-rows.shape[1] // 64)
        self._panels: Words = np.empty((-(-len(rows) // 8), words, 8), dtype=np.uint64)

        def take(part: slice) -> None:  # begins with a panel
            own = sign_panels(rows[part])
            self._panels[part.start // 8 : part.start // 8 + len(own)] = own

        in_parts(len(rows), take)

    def __len__(self) -> int:
        return self._count

    def insert(self, at: npt.NDArray[np.intp], rows: npt.NDArray[np.floating]) -> None:
        """Takes in (M, D) more rows before the positions `at`, as `np.insert` does."""
        self._hold(np.insert(self._lines(), at, _lines_of(sign_panels(rows), len(rows)), axis=0))

    def remove(self, gone: npt.NDArray[np.bool_]) -> None:
        """Drops the rows marked in (N,) `gone` and overwrites the memory that held them."""
        lines = self._lines()
        self._hold(lines[~gone])
        lines.fill(0)

    def clear(self) -> None:
        """Drops all rows."""
        self._panels.fill(0)
        self._panels, self._count = self._panels[:0], 0

    def like(
        self,
        query: npt.NDArray[np.float32],
        wanted: int,
        *,
        keep: npt.NDArray[np.bool_] | None = None,
    ) -> npt.NDArray[np.int64]:
        """The rows whose signs are most like those of a query.

        Args:
            query: (D,) float32, finite.
            wanted: at least 1.
            keep: (N,) bool, False for rows that shall not be found.

        Returns:
            (R,) int64 positions, ascending; R >= `wanted`, by as many as are equally like, unless
            fewer are kept.
        """
        return like_signs(query, self._panels, self._count, wanted, keep=keep)

    def _lines(self) -> Words:
        """(N, W), a copy."""
        return _lines_of(self._panels, self._count)

    def _hold(self, lines: Words) -> None:
        self._panels.fill(0)
        self._count = len(lines)
        filled = np.zeros((-(-len(lines) // 8) * 8, lines.shape[1]), dtype=np.uint64)
        filled[: len(lines)] = lines
        # A copy also where one word makes the order of both the same.
        self._panels = filled.reshape(-1, 8, lines.shape[1]).transpose(0, 2, 1).copy()


def _lines_of(panels: Words, count: int) -> Words:
    lines: Words = panels.transpose(0, 2, 1).reshape(-1, panels.shape[1])[:count]
    return lines
