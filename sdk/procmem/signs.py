"""Unit vectors reduced to the signs of their elements: a first look at a large memory.

Takes unit rows from `index.py` and keeps their signs. By them `patchsim.nearest_by_signs` finds the
rows that are likely to be among the nearest of a query, at an eighth of the bytes that `screen.py`
keeps, and compares those by these. Two vectors at an angle differ in as many signs as the angle is
wide (Charikar, "Similarity estimation techniques from rounding algorithms", 2002); the larger an
element of the query is, the more its sign counts. Derived from each row alone (law 1): there is
nothing to build, and what is forgotten has left no other row different.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from procmem.parts import in_parts
from procmem.patchsim import SIGN_ROWS, Bytes, panels_of, sign_lines, sign_panels

MAX_WIDTH = 21_840
"""Distances of wider rows could overflow."""


class Signs:
    """The signs of (N, D) rows, D at most `MAX_WIDTH`.

    Args:
        rows: (N, D) floats. Not kept.
    """

    def __init__(self, rows: npt.NDArray[np.floating]) -> None:
        self._count = len(rows)
        shape = (-(-len(rows) // SIGN_ROWS), -(-rows.shape[1] // 8), SIGN_ROWS)
        self._panels: Bytes = np.empty(shape, dtype=np.uint8)

        def take(part: slice) -> None:  # begins with a panel
            own = sign_panels(rows[part])
            start = part.start // SIGN_ROWS
            self._panels[start : start + len(own)] = own

        in_parts(len(rows), take)

    def __len__(self) -> int:
        return self._count

    def insert(self, at: npt.NDArray[np.intp], rows: npt.NDArray[np.floating]) -> None:
        """Takes in (M, D) more rows before the positions `at`, as `np.insert` does."""
        more = sign_lines(sign_panels(rows), len(rows))
        self._hold(np.insert(sign_lines(self._panels, self._count), at, more, axis=0))

    def remove(self, gone: npt.NDArray[np.bool_]) -> None:
        """Drops the rows marked in (N,) `gone` and overwrites the memory that held them."""
        lines = sign_lines(self._panels, self._count)
        self._hold(lines[~gone])
        lines.fill(0)

    def clear(self) -> None:
        """Drops all rows."""
        self._panels.fill(0)
        self._panels, self._count = self._panels[:0], 0

    @property
    def panels(self) -> Bytes:
        """(P, B, 64) as `patchsim.sign_panels` gives them. Do not write to it."""
        return self._panels

    def _hold(self, lines: Bytes) -> None:
        self._panels.fill(0)
        self._panels, self._count = panels_of(lines), len(lines)
