"""Which remembered vectors are nearest.

Takes ids and stored vectors from `vault.py`, gives ids and similarities to `memory.py`. Derived:
a pure function of the surviving rows sorted by id, with no trace of the order in which they came
or of rows that left (law 1). What makes it fast is a function of each row alone: its bytes
(`screen.py`), which show in nothing but the time, and in a large memory its signs (`signs.py`),
which leave out a row that is near but does not look it; no row's place in a graph or a tree, which
would have to be built, and built anew when another row is forgotten. Never touches a file. Not safe
for use from several threads at once; `memory.py` holds the lock.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from typing import Literal, SupportsIndex, TypeAlias

import numpy as np
import numpy.typing as npt

from procmem.errors import InputError
from procmem.met import Met, merged, within
from procmem.patchsim import nearest_by_signs, top_k, unit_scales
from procmem.rowbuffer import RowBuffer
from procmem.screen import MAX_WIDTH, ROWS_PER_QUERY, Screen
from procmem.signs import MAX_WIDTH as MAX_SIGNS
from procmem.signs import Signs

IndexKind: TypeAlias = Literal["auto", "exact", "binary"]
INDEX_KINDS: tuple[IndexKind, ...] = ("auto", "exact", "binary")

CALIBRATION_ITEMS = 2_000
"""At most so many items, those of smallest id, calibrate `is_novel`."""

LEAST_ITEMS = 50_000
"""From so many items on "auto" is "binary"; an exact answer takes half a millisecond up to here."""

# How many rows are compared byte by byte after their signs were: so many times the root of how many
# there are, and some for each neighbor wanted. docs/results/indexes.md has what that finds.
_LIKELY = 3
_FOR_EACH = 8

_MOST_NEIGHBORS = 2**62  # what is asked for an item with itself is one more


class Index:
    """The searchable copy of a memory's vectors, in RAM.

    Args:
        ids: (N,) int64, distinct, in any order. Taken over, not copied, if ascending.
        vectors: (N, D) float16 as the vault stores them, row for row; finite. Taken over with
            `ids`: do not use them further.
        kind: "exact"; "binary" looks at signs first and finds nearly all; "auto" is "binary" from
            50,000 items on, and "exact" again below.
    """

    def __init__(
        self,
        ids: npt.NDArray[np.int64],
        vectors: npt.NDArray[np.float16] | RowBuffer[np.float16],
        kind: IndexKind = "auto",
    ) -> None:
        if not isinstance(vectors, RowBuffer):
            vectors = RowBuffer(vectors)
        if (np.diff(ids) < 0).any():
            order = np.argsort(ids, kind="stable")
            ids, vectors = ids[order], RowBuffer(vectors.rows[order])
        self._wanted_kind = kind
        self._id_rows, self._vector_rows = RowBuffer(ids), vectors
        self._scale_rows = RowBuffer(unit_scales(vectors.rows))
        self._screen: Screen | None = None  # made when it is first of use, as are the signs
        self._signs: Signs | None = None

    @property
    def _ids(self) -> npt.NDArray[np.int64]:
        return self._id_rows.rows

    @property
    def _rows(self) -> npt.NDArray[np.float16]:
        return self._vector_rows.rows

    @property
    def _scales(self) -> npt.NDArray[np.float32]:
        return self._scale_rows.rows

    @property
    def kind(self) -> Literal["exact", "binary"]:
        """How it answers now."""
        if self._wanted_kind == "auto":
            return "binary" if len(self) >= LEAST_ITEMS else "exact"
        return self._wanted_kind

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def ids(self) -> npt.NDArray[np.int64]:
        """(N,) ascending. Do not write to it."""
        return self._ids

    @property
    def rows(self) -> npt.NDArray[np.float16]:
        """(N, D) as they are stored, in the order of `ids`. Do not write to it."""
        return self._rows

    def add(self, ids: npt.NDArray[np.int64], vectors: npt.NDArray[np.float16]) -> None:
        """Takes in new rows; those of larger ids move.

        Args:
            ids: (M,) int64, distinct, none of them held already.
            vectors: (M, D) float16.
        """
        order = np.argsort(ids, kind="stable")
        at = np.searchsorted(self._ids, ids[order])
        rows = vectors[order]
        scales = unit_scales(rows)
        self._id_rows.insert(at, ids[order])
        self._vector_rows.insert(at, rows)
        self._scale_rows.insert(at, scales)
        if self._screen is not None:
            self._screen.insert(at, rows, scales)
        if self._signs is not None:
            self._signs.insert(at, rows)

    def remove(self, ids: Iterable[int]) -> None:
        """Drops rows and overwrites the memory that held them with zeros.

        Ids that are not held are passed over.
        """
        gone = np.isin(self._ids, np.fromiter(ids, dtype=np.int64))
        for buffer in (self._id_rows, self._vector_rows, self._scale_rows):
            buffer.remove(gone)
        for derived in (self._screen, self._signs):
            if derived is not None:
                derived.remove(gone)

    def clear(self) -> None:
        """Overwrites everything with zeros and holds nothing."""
        for buffer in (self._id_rows, self._vector_rows, self._scale_rows):
            buffer.clear()
        for derived in (self._screen, self._signs):
            if derived is not None:
                derived.clear()

    def search(
        self,
        query: npt.NDArray[np.float32],
        k: SupportsIndex,
        *,
        keep: npt.NDArray[np.bool_] | None = None,
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Finds the k nearest rows by cosine similarity.

        "exact" finds them all. "binary" looks at the rows whose signs are most like the query's,
        and what it finds has the same similarities; one query's answer does not depend on others.

        Args:
            query: (D,) or (Q, D) float32 unit vectors.
            k: at least 1; more than there are gives all.
            keep: (N,) in the order of `ids`, False for rows that shall not be found. They cost
                nothing.

        Returns:
            Ids int64 and similarities float32 in [-1, 1], both (K,) or (Q, K): largest similarity
            first, equal ones by smaller id, K = min(k, rows kept).

        Raises:
            InputError: `k`, the query or `keep` has a wrong type, shape or value.
        """
        count = check_k(k)
        width = self._rows.shape[1]
        queries = np.ascontiguousarray(np.atleast_2d(query))
        if query.ndim not in (1, 2) or queries.shape[1] != width:
            raise InputError(
                f"query has shape {query.shape}, wanted ({width},) or (Q, {width}): embed it "
                "with the model of this memory"
            )
        if keep is not None and (keep.shape != self._ids.shape or keep.dtype != np.bool_):
            raise InputError(
                f"keep is {keep.dtype} of shape {keep.shape}, wanted bool of {self._ids.shape}"
            )
        # A row sorted before another has the smaller id, so ties by position are ties by id.
        kept = len(self) if keep is None else int(np.count_nonzero(keep))
        likely = _LIKELY * math.isqrt(kept) + _FOR_EACH * count
        if self.kind == "binary" and 4 * likely <= kept and width <= MAX_SIGNS:
            indices, similarities = self._nearest_by_signs(queries, count, likely, keep)
        elif len(self) >= max(1, len(queries)) * ROWS_PER_QUERY and width <= MAX_WIDTH:
            indices, similarities = self._screened().nearest(
                queries, self._rows, count, keep=keep, scales=self._scales
            )
        else:
            indices, similarities = top_k(
                queries, self._rows, count, keep=keep, scales=self._scales
            )
        np.minimum(similarities, 1.0, out=similarities)
        np.maximum(similarities, -1.0, out=similarities)
        found = self._ids[indices]
        return (found[0], similarities[0]) if query.ndim == 1 else (found, similarities)

    def _nearest_by_signs(
        self,
        queries: npt.NDArray[np.float32],
        k: int,
        likely: int,
        keep: npt.NDArray[np.bool_] | None,
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        if self._signs is None:
            self._signs = Signs(self._rows)
        screen = self._screened()
        return nearest_by_signs(
            queries,
            self._rows,
            k,
            signs=self._signs.panels,
            codes=screen.codes,
            unit=screen.unit,
            likely=likely,
            scales=self._scales,
            keep=keep,
        )

    def _screened(self) -> Screen:
        if self._screen is None:
            self._screen = Screen(self._rows, self._scales)
        return self._screen

    def units(self) -> npt.NDArray[np.float32]:
        """(N, D) the rows as queries: each 1 long, a function of its own bits alone."""
        found: npt.NDArray[np.float32] = self._rows.astype(np.float32) * self._scales[:, None]
        return found

    def nearest_others(self, *, limit: int = CALIBRATION_ITEMS) -> npt.NDArray[np.float32]:
        """How near items are to their nearest other item.

        Args:
            limit: only the items with the `limit` smallest ids are asked; all items answer.

        Returns:
            (n,) float32 in the order of `ids`, n = min(N, limit); empty if there are fewer than
            two items. Cost: n searches.
        """
        return self.others(1, limit=limit)[2].ravel()

    def others(
        self,
        k: int,
        *,
        keep: npt.NDArray[np.bool_] | None = None,
        limit: int = CALIBRATION_ITEMS,
        met: Met | None = None,
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.float32]]:
        """What items would meet if they were asked themselves: leave-one-out neighbors.

        Args:
            k: at least 1.
            keep: (N,) in the order of `ids`, False for rows that neither ask nor answer.
            limit: only the kept items with the `limit` smallest ids are asked; all answer.
            met: what came of the last call with this `k`, and is brought up to date, for which it
                was told of every item that went since. The result is the same, sooner.

        Returns:
            Rows that are asked (n,), rows of their nearest others (n, K) and the similarities
            (n, K) float32, nearest first; K = min(k, M - 1) with M rows kept; n = 0 if M < 2.
            Rows are positions in `ids`. Cost: n searches; with `met` as many as there are items
            whose neighbors went, and n in what is new.
        """
        kept = np.arange(len(self)) if keep is None else np.flatnonzero(keep)
        count = min(k, len(kept) - 1)
        if count < 1:
            nothing = np.empty((0, 0), dtype=np.intp)
            return nothing.ravel(), nothing, np.empty((0, 0), dtype=np.float32)
        asked = kept[:limit]
        met = Met() if met is None else met
        self._meet(met, kept, asked, count + 1, keep)
        found, similarities = np.searchsorted(self._ids, met.found), met.near
        # An item is its own nearest, unless others equal it or come first within rounding; then
        # it may even be missing, and the farthest one found is one too many.
        itself = found == asked[:, None]
        itself[~itself.any(axis=1), -1] = True
        shape = (len(asked), count)
        near = np.clip(similarities[~itself].reshape(shape), -1.0, 1.0)
        return asked, found[~itself].reshape(shape), near

    def _meet(
        self,
        met: Met,
        kept: npt.NDArray[np.intp],
        asked: npt.NDArray[np.intp],
        count: int,
        keep: npt.NDArray[np.bool_] | None,
    ) -> None:
        """Brings `met` up to date: the `count` rows of `kept` nearest to each of `asked`."""
        known = within(self._ids[kept], met.kept)
        if np.count_nonzero(known) != len(met.kept) or met.found.shape[1] > count:
            met.clear()
            known[:] = False
        new, ids = kept[~known], self._ids[asked]
        queries = self._rows[asked].astype(np.float32) * self._scales[asked, None]
        found = np.empty((len(asked), count), dtype=np.int64)
        near = np.empty((len(asked), count), dtype=np.float32)
        # Those that have met all rows but the new ones, if that makes enough of them.
        before = within(ids, met.asked) & (met.found.shape[1] + len(new) >= count)
        if before.any():
            at = np.searchsorted(met.asked, ids[before])
            some, some_near = met.found[at], met.near[at]
            if len(new):
                rows, new_near = top_k(
                    queries[before], self._rows, count, rows=new, scales=self._scales
                )
                some, some_near = merged(some, some_near, self._ids[rows], new_near, count)
            found[before], near[before] = some, some_near
        rows, near[~before] = top_k(
            queries[~before], self._rows, count, keep=keep, scales=self._scales
        )
        found[~before] = self._ids[rows]
        queries.fill(0)
        met.clear()
        met.kept, met.asked, met.found, met.near = self._ids[kept], ids, found, near


def check_k(k: SupportsIndex) -> int:
    """The count that `k` is; raises InputError unless it is a whole number in [1, 2**62)."""
    try:
        count = operator.index(k)
    except TypeError as error:
        raise InputError(f"k is {k!r}, wanted a whole number of at least 1") from error
    if isinstance(k, bool) or count < 1:
        raise InputError(f"k is {k!r}, wanted a whole number of at least 1")
    if count >= _MOST_NEIGHBORS:
        raise InputError(f"k is {count}, wanted a number below 2**62")
    return count
