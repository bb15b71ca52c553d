"""Unit vectors rounded to bytes: a first look that rules rows out before the exact one.

Takes unit rows from `index.py` and gives it back the nearest of them, to the bit those that a scan
of all rows gives, at half of the bytes read and with cheaper products. Rounding moves a dot product
by no more than is known beforehand, so that the rows that cannot be among the nearest are known
too; if too many could be, all rows are looked at. Derived from each row alone (law 1).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from procmem.parts import in_parts
from procmem.patchsim import round_rows, round_rows_reference, top_k
from procmem.rowbuffer import RowBuffer

Float32 = npt.NDArray[np.float32]
Rows = npt.NDArray[np.floating]

ROWS_PER_QUERY = 3000
"""With fewer rows for each query a scan of all of them is as fast."""

MAX_WIDTH = 65_536
"""Sums of more products of bytes could overflow."""

# Elements of a unit vector of width D have a spread of 1 / sqrt(D); hardly any is beyond 7 of that.
# Those that are get cut off, which costs speed and nothing else.
_SPREADS = 7.0
_LEVELS = 127


class Screen:
    """The rounded copy of (N, D) unit rows, D at most `MAX_WIDTH`.

    Args:
        rows: (N, D) float16 or float32, finite. Not kept.
        scales: (N,) float32 that make float16 rows 1 long; see `top_k`.
    """

    unit: float
    """What a byte counts in."""

    def __init__(self, rows: Rows, scales: Float32 | None = None) -> None:
        self.unit = _SPREADS / math.sqrt(rows.shape[1]) / _LEVELS
        self._buffers = self._rounded(rows, scales)
        self._bound()

    def __len__(self) -> int:
        return len(self._buffers[0])

    def insert(self, at: npt.NDArray[np.intp], rows: Rows, scales: Float32 | None = None) -> None:
        """Takes in (M, D) more rows before the positions `at`, as `np.insert` does."""
        codes, errors, lengths = self._rounded(rows, scales)
        self._buffers[0].insert(at, codes.rows)
        self._buffers[1].insert(at, errors.rows)
        self._buffers[2].insert(at, lengths.rows)
        self._bound()

    def remove(self, gone: npt.NDArray[np.bool_]) -> None:
        """Drops the rows marked in (N,) `gone` and overwrites the memory that held them."""
        for buffer in self._buffers:
            buffer.remove(gone)
        self._bound()

    def clear(self) -> None:
        """Drops all rows."""
        for buffer in self._buffers:
            buffer.clear()
        self._bound()

    @property
    def codes(self) -> npt.NDArray[np.int8]:
        """(N, D) the rows in bytes, whole numbers of `unit`. Do not write to it."""
        return self._buffers[0].rows

    @property
    def _errors(self) -> Float32:
        return self._buffers[1].rows

    def _bound(self) -> None:
        self._worst, self._longest = (
            float(buffer.rows.max(initial=0.0)) for buffer in self._buffers[1:]
        )

    def nearest(
        self,
        queries: Float32,
        rows: Rows,
        k: int,
        *,
        keep: npt.NDArray[np.bool_] | None = None,
        scales: Float32 | None = None,
    ) -> tuple[npt.NDArray[np.int64], Float32]:
        """What `top_k(queries, rows, k, keep=keep, scales=scales)` gives.

        Args:
            queries: (Q, D) float32.
            rows: the (N, D) rows that this is a copy of.
            scales: theirs, if they have any.
            k: at least 1.
            keep: (N,) bool, False for rows that shall not be found.

        Returns:
            Positions (Q, K) int64 and similarities (Q, K) float32, K = min(k, rows kept).

        Raises:
            InputError: as `top_k`.
        """
        if not np.isfinite(queries).all():
            return top_k(queries, rows, k, keep=keep, scales=scales)  # says what is wrong with them
        rounded = self._rounded(queries)
        codes, errors = rounded[0].rows, rounded[1].rows
        lengths = self.unit * np.sqrt(np.square(codes, dtype=np.float64).sum(axis=1))
        # With c' what the bytes of c stand for: q.r = q'.r' + q'.(r - r') + (q - q').r. The last
        # term is what the kernel's sums in float32 may be off.
        bounds = 1.0001 * (lengths * self._worst + errors * self._longest)
        bounds += queries.shape[1] * 2.0**-23 * (1.0001 * lengths * self._longest + bounds)

        kept = len(self) if keep is None else int(np.count_nonzero(keep))
        shape = (len(queries), min(k, kept))
        positions, similarities = np.empty(shape, np.int64), np.empty(shape, np.float32)
        open_ones = np.arange(len(queries))
        for count in self._counts(k):
            found, scores = top_k(codes[open_ones], self.codes, count, keep=keep)
            unproven = []
            for query, candidates, farthest in zip(open_ones, found, scores[:, -1:], strict=True):
                # Ascending, so that among equals the smaller position comes first here too.
                one, chosen = queries[query : query + 1], np.sort(candidates)
                best, near = top_k(one, rows, k, rows=chosen, scales=scales)
                unseen = self.unit**2 * farthest + bounds[query]
                if len(candidates) < count or unseen[0] < near[0, -1]:
                    positions[query], similarities[query] = best[0], near[0]
                else:
                    unproven.append(query)
            open_ones = np.array(unproven, dtype=np.intp)
            if len(open_ones) == 0:
                return positions, similarities
        positions[open_ones], similarities[open_ones] = top_k(
            queries[open_ones], rows, k, keep=keep, scales=scales
        )
        return positions, similarities

    def _counts(self, k: int) -> Iterable[int]:
        """How many rows to look at twice, until it costs more than to look at all of them."""
        count = 4 * k + 64
        while count <= len(self) // 16:
            yield count
            count *= 4

    def _rounded(
        self, rows: Rows, scales: Float32 | None = None
    ) -> tuple[RowBuffer[np.int8], RowBuffer[np.float32], RowBuffer[np.float32]]:
        """(N, D) int8; how far each row is from what they stand for, (N,); its length, (N,)."""
        buffers = (
            RowBuffer.with_room(rows.shape, np.int8),
            RowBuffer.with_room((len(rows),), np.float32),
            RowBuffer.with_room((len(rows),), np.float32),
        )
        codes, errors, lengths = (buffer.rows for buffer in buffers)
        if rows.dtype == np.float16 and scales is not None:
            round_rows(rows, scales, self.unit, codes=codes, errors=errors, lengths=lengths)
            return buffers

        def work(part: slice) -> None:
            own = None if scales is None else scales[part]
            codes[part], errors[part], lengths[part] = round_rows_reference(
                rows[part], own, self.unit
            )

        in_parts(len(rows), work)
        return buffers
