"""Writes items into an open ledger, and the ledger anew: records become rows.

The writing half of `vault.py` and `beside.py`, as `reader.py` is the reading one. Whoever calls
holds the mutex of the connection and the lock of the folder, and has said what a crash may find.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

from procmem.checking import CheckApart, Flag, stop_by
from procmem.committer import Committer
from procmem.connection import Connection
from procmem.folder import TEMPORARY
from procmem.ledger import Seal, add_checksums, write_copy, write_ledger
from procmem.lock import shred
from procmem.purge import replace_ledger
from procmem.reader import LedgerReader, in_parts
from procmem.record import Record, values_of
from procmem.residue import Search
from procmem.rows import DamagedRowError, Row, Rows
from procmem.seal import fingerprint
from procmem.survey import survey


def _item_checksums(form: Rows, rows: list[Row]) -> list[int]:
    return [*map(form.item_checksum, rows)]


def _dense_checksums(form: Rows, rows: list[Row]) -> list[int]:
    return [*map(form.dense_checksum, rows)]


class LedgerWriter(LedgerReader):
    """Everything that is done to the rows of one ledger."""

    @property
    def connection(self) -> Connection:
        """To the ledger, for transactions over several."""
        return self._connection

    @property
    def seal(self) -> Seal | None:
        """Which key opens the ledger now; None if it is plain. Looks at the file."""
        self._connection.rows("SELECT 1")
        return self._connection.head.seal

    def held(self, ids: Iterable[int]) -> set[int]:
        """Those of the ids that stand in the ledger."""
        found: set[int] = set()
        for part in in_parts([*ids]):
            sql = f"SELECT id FROM items WHERE id IN ({', '.join('?' * len(part))})"
            found |= {row[0] for row in self._connection.rows(sql, tuple(part))}
        return found

    def insert(self, connection: sqlite3.Connection, records: Sequence[Record]) -> None:
        """Adds records, whose ids are new, in the transaction that is open on the ledger.

        Raises:
            InputError: a value does not fit.
        """
        values = [values_of(record, self.binding) for record in records]
        packed = [self._form.pack(item, dense) for item, dense in values]
        with self._connection.errors():
            connection.executemany(self._form.insert_item, [row for row, _ in packed])
            connection.executemany(
                self._form.insert_dense, [row for _, row in packed if row is not None]
            )
            add_checksums(
                connection,
                sum(self._form.item_checksum(row) for row, _ in packed),
                sum(self._form.dense_checksum(row) for _, row in packed if row is not None),
            )

    def remove(
        self, connection: sqlite3.Connection, ids: Sequence[int], *, schema: str = "main"
    ) -> None:
        """Removes items in an open transaction; ids that are not held are passed over.

        Args:
            connection: on which the transaction is; the ledger's own, or one that has attached it.
            ids: without repeats.
            schema: the ledger's name there.
        """
        items = dense = 0
        for part in in_parts(ids):
            items += sum(self._among("items", _item_checksums, part).values())
            dense += sum(self._among("dense", _dense_checksums, part).values())
        with self._connection.errors():
            add_checksums(connection, -items, -dense, schema=schema)
            for table in ("items", "dense"):
                connection.executemany(
                    f"DELETE FROM {schema}.{table} WHERE id = ?", [(id_,) for id_ in ids]
                )

    def rewrite(
        self,
        key: bytes | None = None,
        *,
        check: CheckApart | None = None,
        search: Search | None = None,
    ) -> None:
        """Puts a copy of the ledger in its place, a function of its rows alone; zeroes the old one.

        Args:
            key: of the epoch that a sealed ledger's items are wrapped under from now on, which is
                kept already; None leaves their wrapping as it is.
            check: waited for before anything happens to the old one, which is left as it was if
                the check fails.
            search: looks into the new one while the old one is zeroed.

        Raises:
            sqlite3.Error, OSError, VaultFormatError: the old ledger is still there, or the new one.
        """
        connection = self._connection.run(lambda current: current)
        change = None if key is None else partial(self._rewrap, key)

        def write(path: Path) -> None:
            if check is None:
                write_copy(connection, path, change=change)
            else:
                check.copy(connection, lambda: write_copy(connection, path, change=change))
            self._connection.expect_replacement()

        replace_ledger(
            self._ledger,
            connection,
            write=write,
            disconnect=self._connection.disconnect,
            meanwhile=None if search is None else partial(search.look, self._ledger),
        )

    def check(self, committer: Committer | None = None) -> None:
        """See `LedgerReader.check`."""
        if self._connection.read_only:
            super().check(committer)
            return
        with self._damages():
            self._connection.snapshot(
                lambda current: survey(current, self._ledger, self._form, committer=committer)
            )

    def check_apart(
        self, committer: Committer | None = None, *, search: Search | None = None
    ) -> Callable[[Flag], None]:
        """Gives a function that does what `check` does, over a connection of its own.

        Another thread may use the ledger's connection meanwhile, but nobody may change the ledger.
        Once the flag that it is given is set it ends with sqlite3.OperationalError.

        Args:
            committer: see `survey`, as for the other.
            search: see there.
        """
        connect, form = self._connection.apart(), self._form  # the form that the rows have now

        def check(stopped: Flag) -> None:
            with self._connection.errors(), self._damages(), closing(connect()) as connection:
                stop_by(connection, stopped)
                connection.execute("BEGIN")
                survey(
                    connection,
                    self._ledger,
                    form,
                    committer=committer,
                    search=search,
                    stopped=stopped,
                )

        return check

    def _rewrap(self, key: bytes, copy: sqlite3.Connection) -> None:
        from procmem.sealed import SealedRows  # cryptography takes a moment to import

        before, after = self._form, SealedRows(key, self.binding.sha256)
        assert isinstance(before, SealedRows)
        rows = copy.execute("SELECT id, wrapped FROM items").fetchall()
        try:
            changed = before.rewrapped(rows, to=after)
        except DamagedRowError as error:
            raise self._damaged(str(error)) from error
        copy.executemany("UPDATE items SET wrapped = ? WHERE id = ?", changed)
        copy.execute("UPDATE meta SET value = ? WHERE key = 'epoch'", (fingerprint(key),))

    def twin(self) -> bytes:
        """A ledger of the same items, made from their values and not from the ledger's pages."""
        path = self._ledger.with_name(TEMPORARY)
        form = self._form
        items: list[Row] = self._connection.rows(f"{form.select_items} ORDER BY id")
        dense = self._connection.rows("SELECT * FROM dense ORDER BY id")
        try:
            with self._connection.errors():
                write_ledger(path, self._connection.head, form, items, dense)
            return path.read_bytes()
        finally:
            shred(path)
