"""Whether every row of a ledger is what was once written, in one pass over all of them.

Used by `reader.py`, for itself and for the commitments of a receipt, and by `writer.py` and
`vault.py` in a thread of its own while a copy of the ledger is written.

Promises that a row which was changed, lost, added or moved since is noticed, by checksums of 32
bits; to hold few rows at a time; and to leave no statement open on the connection, whatever
happens.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from procmem.alongside import alongside
from procmem.ledger import read_checksums
from procmem.record import DenseValues, ItemValues
from procmem.rows import DamagedRowError, Row, Rows

_ROWS_AT_ONCE = 500
_ROWS_AT_ONCE_WITH_MASKS = 10  # a megabyte or some
_STEPS_AT_ONCE = 20_000  # of SQLite's machine; some hundred rows

Use: TypeAlias = Callable[[list[ItemValues], list["DenseValues | None"]], None]
"""Is given items, ascending by id over all calls, and what is stored of the mask of each."""

See: TypeAlias = Callable[[list[bytes]], None]
"""Is given labels and sources, some at a time."""


def check_rows(
    connection: sqlite3.Connection, form: Rows, use: Use | None = None, *, see: See | None = None
) -> None:
    """Reads every row, some at a time, and compares it with its checksum.

    Args:
        connection: to the ledger.
        form: of its rows.
        use: is given what was read, before the last row has been.
        see: is given the texts that are stored in clear, likewise.

    Raises:
        DamagedRowError: a row is damaged, missing, too many or out of order.
        sqlite3.Error: the file is.
    """
    items = connection.execute(f"{form.select_items} ORDER BY id")
    masks = connection.execute(f"{form.select_dense} ORDER BY dense.id")
    with closing(items), closing(masks):
        dense = _DenseRows(masks, form)
        at_once = _ROWS_AT_ONCE_WITH_MASKS if use and dense.any_left else _ROWS_AT_ONCE
        total, last = 0, 0
        while rows := items.fetchmany(at_once):
            ids = [row[0] for row in rows]
            check_order(np.array(ids), after=last)
            last = ids[-1]
            if use is None:
                total += form.check_items(rows)
                dense.pass_over(last)
            else:
                values = form.unpack_items(rows)
                total += sum(map(form.item_checksum, rows))
                use(values, dense.of(ids))
            if see is not None:
                see(form.texts(rows))
        dense.pass_over(None)  # what belongs to no item `LedgerReader.problems` tells
        found = total, dense.checksum
    if found != read_checksums(connection):
        raise DamagedRowError("rows are missing, or there are others than were stored")


class _DenseRows:
    """The rows of the table `dense`, each checked when it is passed."""

    def __init__(self, rows: sqlite3.Cursor, form: Rows) -> None:
        self.checksum = 0
        self._rows, self._form = rows, form
        self._next: Row | None = rows.fetchone()
        self._last = 0

    @property
    def any_left(self) -> bool:
        """Whether a row comes next."""
        return self._next is not None

    def of(self, ids: Sequence[int]) -> list[DenseValues | None]:
        """The values of each id, None where there are none; of ascending ids, at least one."""
        wanted = set(ids)
        found = {values[0]: values for values in self._up_to(ids[-1]) if values[0] in wanted}
        return [found.get(id_) for id_ in ids]

    def pass_over(self, last: int | None) -> None:
        """Goes on to behind the rows whose id is at most `last`; None: to the end."""
        for _ in self._up_to(last):
            pass

    def _up_to(self, last: int | None) -> Iterator[DenseValues]:
        while self._next is not None and (last is None or self._next[0] <= last):
            values = self._form.unpack_dense(self._next)
            check_order(np.array([values[0]]), after=self._last)
            self._last = values[0]
            self.checksum += self._form.dense_checksum(self._next)
            self._next = self._rows.fetchone()
            yield values


def check_order(ids: Sequence[int] | npt.NDArray[np.int64], *, after: int = 0) -> None:
    """Raises DamagedRowError unless ids ascend, from above `after`."""
    wrong = np.flatnonzero(np.diff(ids, prepend=after) <= 0)
    if len(wrong):
        raise DamagedRowError(f"item {ids[wrong[0]]} stands out of order")


class CheckApart:
    """Checks ledgers in a thread of its own while a block is run; both end together.

    A block that raises stops the check, and a check that fails stops what is done by `copy`. Where
    the system gives no thread, the check is done before the block.

    Args:
        checks: of a ledger each, done one after the other. Each is given a flag, by which the
            connection that it reads over is to be stopped.
    """

    def __init__(self, checks: Sequence[Callable[[Flag], None]]) -> None:
        self._checks = checks
        self._failed, self._stopped = Flag(), Flag()
        self._running = ExitStack()
        self._result: Callable[[], None] = _nothing

    def __enter__(self) -> CheckApart:
        with ExitStack() as entered:
            self._result = entered.enter_context(alongside(self._check))
            if self._failed.is_set():  # at once, or before it could be done apart
                self._result()
            self._running = entered.pop_all()
        return self

    def __exit__(self, *raised: object) -> None:
        self._stopped.set()
        self._running.close()
        self._result = _nothing  # and drops an error whose traceback leads back here

    def result(self) -> None:
        """Waits for the end of the check, and raises what it did."""
        self._result()

    def copy(self, connection: sqlite3.Connection, work: Callable[[], None]) -> None:
        """Does `work` over a connection, and then as `result`.

        Stopped when the check fails: the copy of a damaged ledger may be as large as the disk.
        """
        try:
            stop_by(connection, self._failed)
            work()
        except sqlite3.Error:
            if self._failed.is_set():
                self.result()  # says more than that something was interrupted
            raise
        finally:
            stop_by(connection, None)
        self.result()

    def _check(self) -> None:
        try:
            for check in self._checks:
                check(self._stopped)
        except BaseException:
            self._failed.set()
            raise


def _nothing() -> None:
    pass


class Flag:
    """Is set or not, which SQLite can ask from any thread."""

    def __init__(self) -> None:
        self._times: list[None] = []
        # Of a list, because this runs no line of Python: a Ctrl-C that strikes while SQLite asks
        # would be taken for a yes, and lost.
        self.ask = self._times.__len__

    def set(self) -> None:
        """Sets it."""
        self._times.append(None)

    def is_set(self) -> bool:
        """Whether it is."""
        return bool(self._times)


def stop_by(connection: sqlite3.Connection, flag: Flag | None) -> None:
    """Has a connection's statements end with sqlite3.OperationalError once the flag is set."""
    connection.set_progress_handler(None if flag is None else flag.ask, _STEPS_AT_ONCE)
