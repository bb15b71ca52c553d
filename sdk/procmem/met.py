"""Who met whom when items were asked themselves, kept from one change of a memory to the next.

Filled and asked by `Index.others`, kept by `recall.py`. After a change only what has changed is
searched for: new rows among those that were asked before, and all rows for those whose neighbors
are gone. A similarity has the same bits wherever its two rows stand (`patchsim.py`), so that what
comes of it is to the bit what a search of everything gives (law 1); tests hold it to that.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]

_T = TypeVar("_T", bound=np.generic)


class Met:
    """For one number of neighbors and one kind of rows that may ask and answer.

    Attributes:
        kept: (M,) ids of the rows that could be met, ascending.
        asked: (n,) ids of those that were asked, ascending.
        found: (n, L) ids that each met, itself included, in the order of `patchsim.top_k`.
        near: (n, L) their similarities.
    """

    kept: Int64
    asked: Int64
    found: Int64
    near: Float32

    def __init__(self) -> None:
        self._empty()

    def _empty(self) -> None:
        self.kept, self.asked = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        self.found = np.empty((0, 0), dtype=np.int64)
        self.near = np.empty((0, 0), dtype=np.float32)

    def forget(self, ids: Iterable[int]) -> None:
        """Overwrites and drops everything about items that are gone."""
        gone = np.unique(np.fromiter(ids, dtype=np.int64))
        self.kept = _dropped(self.kept, within(self.kept, gone))
        touched = within(self.asked, gone) | within(self.found, gone).any(axis=1)
        self.asked = _dropped(self.asked, touched)
        self.found = _dropped(self.found, touched)
        self.near = _dropped(self.near, touched)

    def clear(self) -> None:
        """Overwrites and drops everything."""
        for part in (self.kept, self.asked, self.found, self.near):
            part.fill(0)
        self._empty()


def _dropped(rows: npt.NDArray[_T], gone: Bool) -> npt.NDArray[_T]:
    """The other rows; those that were are overwritten."""
    kept = rows[~gone]
    rows.fill(0)
    return kept


def within(values: Int64, ascending: Int64) -> Bool:
    """Whether each of (...,) `values` is one of (N,) `ascending`."""
    if not len(ascending):
        return np.zeros(values.shape, dtype=np.bool_)
    at = np.minimum(np.searchsorted(ascending, values), len(ascending) - 1)
    found: Bool = ascending[at] == values
    return found


def merged(
    found: Int64, near: Float32, more: Int64, more_near: Float32, count: int
) -> tuple[Int64, Float32]:
    """The nearest of two lists for each query, larger similarity first, equal ones by id.

    Args:
        found: (n, L) ids.
        near: (n, L) their similarities.
        more: (n, R) other ids.
        more_near: (n, R) theirs.
        count: how many are wanted of each.
    """
    ids, similarities = np.hstack([found, more]), np.hstack([near, more_near])
    order = np.lexsort((ids, -similarities))[:, :count]
    return np.take_along_axis(ids, order, axis=1), np.take_along_axis(similarities, order, axis=1)
