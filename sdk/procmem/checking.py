"""Whether every row of a ledger is what was once written, in one pass over all of them.

Used by `reader.py`, for itself and for the commitments of a receipt, and by `vault.py` while a copy
of the ledger is written. Knows nothing but an open connection to a ledger that reads one state.

Promises that a row which was changed, lost, added or moved since is noticed, by checksums of 32
bits; and to hold few rows at a time.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from procmem.ledger import read_checksums
from procmem.record import DenseValues, ItemValues
from procmem.rows import DamagedRowError, Row, Rows

_ROWS_AT_ONCE = 500
_ROWS_AT_ONCE_WITH_MASKS = 50  # some megabytes

_T = TypeVar("_T")

Use: TypeAlias = Callable[[list[ItemValues], list["DenseValues | None"]], None]
"""Is given items, ascending by id over all calls, and what is stored of the mask of each."""


def check_rows(connection: sqlite3.Connection, form: Rows, use: Use | None = None) -> None:
    """Reads every row, some at a time, and compares it with its checksum.

    Args:
        connection: to the ledger.
        form: of its rows.
        use: is given what was read, before the last row has been.

    Raises:
        DamagedRowError: a row is damaged, missing, too many or out of order.
        sqlite3.Error: the file is.
    """
    dense = _DenseRows(connection, form)
    at_once = _ROWS_AT_ONCE_WITH_MASKS if use and dense.any_left else _ROWS_AT_ONCE
    total, last = 0, 0
    cursor = connection.execute(f"{form.select_items} ORDER BY id")
    while rows := cursor.fetchmany(at_once):
        ids = [row[0] for row in rows]
        check_order(np.array(ids), after=last)
        last = ids[-1]
        if use is None:
            total += form.check_items(rows)
            dense.pass_over(last)
        else:
            items = form.unpack_items(rows)
            total += sum(map(form.item_checksum, rows))
            masks = {values[0]: values for values in dense.up_to(last)}
            use(items, [masks.get(id_) for id_ in ids])
    dense.pass_over(None)  # what belongs to no item `LedgerReader.problems` tells
    if (total, dense.checksum) != read_checksums(connection):
        raise DamagedRowError("rows are missing, or there are others than were stored")


class _DenseRows:
    """The rows of the table `dense`, each checked when it is passed."""

    def __init__(self, connection: sqlite3.Connection, form: Rows) -> None:
        self.checksum = 0
        self._form = form
        self._rows = connection.execute(f"{form.select_dense} ORDER BY dense.id")
        self._next: Row | None = self._rows.fetchone()
        self._last = 0

    @property
    def any_left(self) -> bool:
        """Whether a row comes next."""
        return self._next is not None

    def up_to(self, last: int | None) -> Iterator[DenseValues]:
        """The values of the next rows whose id is at most `last`; None for all that are left."""
        while self._next is not None and (last is None or self._next[0] <= last):
            values = self._form.unpack_dense(self._next)
            check_order(np.array([values[0]]), after=self._last)
            self._last = values[0]
            self.checksum += self._form.dense_checksum(self._next)
            self._next = self._rows.fetchone()
            yield values

    def pass_over(self, last: int | None) -> None:
        """Goes on to behind those of `up_to`."""
        for _ in self.up_to(last):
            pass


def check_order(ids: Sequence[int] | npt.NDArray[np.int64], *, after: int = 0) -> None:
    """Raises DamagedRowError unless ids ascend, from above `after`."""
    wrong = np.flatnonzero(np.diff(ids, prepend=after) <= 0)
    if len(wrong):
        raise DamagedRowError(f"item {ids[wrong[0]]} stands out of order")


@contextlib.contextmanager
def alongside(work: Callable[[], _T]) -> Iterator[Callable[[], _T]]:
    """Does `work` in a thread of its own while the block is run, which does not end before it.

    Gives the block a function that waits for it, and returns or raises what it did.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="procmem-check") as pool:
        try:
            future = pool.submit(work)
        except RuntimeError:  # the system gives no thread
            yield work
        else:
            yield future.result
