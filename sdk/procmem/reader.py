"""Reads items from an open ledger: checked rows become records.

The reading half of `vault.py`, for items, vectors, masks, and what is asked about all of them.
Nothing that a row holds is believed before it has been checked; what is damaged is named.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from procmem.checking import check_order, check_rows
from procmem.columns import ItemColumns
from procmem.committer import Committer
from procmem.connection import Connection
from procmem.errors import VaultFormatError
from procmem.folder import damaged
from procmem.ledger import PAGE_BYTES, read_checksums
from procmem.record import (
    Binding,
    DenseValues,
    Item,
    ItemValues,
    Record,
    dense_fits,
    dense_of,
    item_of,
    vector_of,
)
from procmem.rowbuffer import RowBuffer
from procmem.rows import DamagedRowError, Row, Rows

_ROWS_AT_ONCE = 500
_IDS_AT_ONCE = 100  # with masks, some megabytes
_ROWS_TO_CHECK = 2000  # many at once are checked by several threads

_T = TypeVar("_T")
Table: TypeAlias = Literal["items", "dense"]


DenseArrays: TypeAlias = tuple[npt.NDArray[np.int8], npt.NDArray[np.uint8]]


def _item_values(form: Rows, rows: list[Row]) -> list[ItemValues]:
    return form.unpack_items(rows)


def _dense_values(form: Rows, rows: list[Row]) -> list[DenseValues]:
    return [form.unpack_dense(row) for row in rows]


def _items(form: Rows, rows: list[Row]) -> list[Item]:
    return [item_of(values) for values in form.unpack_items(rows)]


def in_parts(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    """Ids in groups that one query takes."""
    return (ids[at : at + _IDS_AT_ONCE] for at in range(0, len(ids), _IDS_AT_ONCE))


@dataclass(frozen=True, slots=True, eq=False)
class Contents:
    """All items of a vault at one moment.

    Attributes:
        items: ascending by id.
        buffer: their vectors, (N, D) float16 in the same order, finite.
    """

    items: ItemColumns
    buffer: RowBuffer[np.float16]

    @property
    def vectors(self) -> npt.NDArray[np.float16]:
        """(N, D), a view of `buffer`."""
        return self.buffer.rows


class LedgerReader:
    """Everything that can be asked of a ledger.

    Args:
        connection: to it; opened by the first call.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._ledger = connection.ledger

    @property
    def binding(self) -> Binding:
        """The model that the vault is bound to."""
        return self._connection.head.binding

    @property
    def sealed(self) -> bool:
        """True if its items are encrypted."""
        return self._connection.head.seal is not None

    def state(self) -> tuple[int, int]:
        """A value that is another one after every change, by whichever process. Cheap."""
        version = self._connection.rows("PRAGMA data_version")[0][0]
        return self._connection.changes, int(version)

    def load(self) -> Contents:
        """Reads all items and vectors in one consistent pass over the vault.

        Raises:
            VaultFormatError: a row is damaged, missing or too many.
        """
        width = self.binding.cls_dim

        def read(connection: sqlite3.Connection) -> tuple[Contents, bool]:
            count = int(connection.execute("SELECT count(*) FROM items").fetchone()[0])
            pages = int(connection.execute("PRAGMA page_count").fetchone()[0])
            if count * 2 * width > pages * PAGE_BYTES:  # a tree whose branches meet again
                raise self._damaged("there are more items than the file has room for")
            items = ItemColumns(count)
            buffer = RowBuffer.with_room((count, width), np.float16)
            form, checksum = self._form, 0
            cursor = connection.execute(f"{form.select_items} ORDER BY id")
            while rows := cursor.fetchmany(_ROWS_TO_CHECK):
                if len(items) + len(rows) > count:
                    raise self._damaged("there are more items than SQLite counts")
                part = buffer.rows[len(items) : len(items) + len(rows)]
                batch = form.take_items(rows, part)
                checksum += batch.checksum
                items.append(batch)
            check_order(items.ids)
            return Contents(items, buffer), checksum == read_checksums(connection)[0]

        with self._damages():
            contents, complete = self._connection.snapshot(read)
        if not complete or len(contents.items) != len(contents.vectors):
            raise self._damaged("items are missing, or there are others than were stored")
        return contents

    def read_dense(self, use: Callable[[Iterator[DenseArrays]], _T]) -> _T:
        """Reads patch tokens and masks of the items that have them, in one pass, by id.

        Args:
            use: is given (patch tokens (h * w, P) int8, mask (S, S) uint8) of one item at a time.

        Returns:
            What `use` returned after the last.

        Raises:
            VaultFormatError: a row is damaged, missing or too many.
        """
        side, shape = self.binding.side, (self.binding.patch_count, self.binding.patch_dim)

        def read(connection: sqlite3.Connection) -> tuple[_T, bool]:
            form, found = self._form, 0

            def arrays() -> Iterator[DenseArrays]:
                nonlocal found
                last = 0
                for row in connection.execute(f"{form.select_dense} ORDER BY dense.id"):
                    found += form.dense_checksum(row)
                    id_, patches, mask = self._fitting(form.unpack_dense(row))
                    last = self._after(last, id_)
                    yield (
                        np.frombuffer(patches, dtype=np.int8).reshape(shape),
                        np.frombuffer(mask, dtype=np.uint8).reshape(side, side),
                    )

            return use(arrays()), found == read_checksums(connection)[1]

        with self._damages():
            used, complete = self._connection.snapshot(read)
        if not complete:
            raise self._damaged("masks are missing, or there are others than were stored")
        return used

    def load_dense(self) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.uint8]]:
        """Reads patch tokens and masks of all items that have them.

        Returns:
            (M, h * w, P) int8 and (M, S, S) uint8, ascending by id.

        Raises:
            VaultFormatError: a row is damaged, missing or too many.
        """
        found = self.read_dense(list)
        side, shape = self.binding.side, (self.binding.patch_count, self.binding.patch_dim)
        return (
            np.array([one[0] for one in found], dtype=np.int8).reshape(-1, *shape),
            np.array([one[1] for one in found], dtype=np.uint8).reshape(-1, side, side),
        )

    def count(self) -> int:
        """How many items are held. Reads every page of them."""
        return int(self._connection.rows("SELECT count(*) FROM items")[0][0])

    def count_dense(self) -> int:
        """How many items have a mask."""
        return int(self._connection.rows("SELECT count(*) FROM dense")[0][0])

    def items(self, ids: Iterable[int] | None = None) -> Iterator[Item]:
        """Gives items ascending by id, some hundreds at a time; holds no lock in between.

        Args:
            ids: only these; None for all. Ids that are not held are passed over.

        Raises:
            VaultFormatError: a row is damaged.
        """
        if ids is None:
            yield from self._walk("items", _items)
        else:
            yield from self._take("items", _items, sorted(set(ids)))

    def ids(self, *, dense: bool = False) -> list[int]:
        """The ids of all items, ascending; only of those with a mask if `dense`."""
        table = "dense" if dense else "items"
        return [row[0] for row in self._connection.rows(f"SELECT id FROM {table} ORDER BY id")]

    def records(self, ids: Iterable[int]) -> Iterator[Record]:
        """Gives items with all that is stored of them, one at a time, in the order of `ids`.

        Ids that are not held are passed over.

        Raises:
            VaultFormatError: a row is damaged.
        """
        for values in self._take("items", _item_values, ids):
            vector = vector_of(values[1])
            if vector.shape != (self.binding.cls_dim,) or not np.isfinite(vector).all():
                raise self._damaged(f"the vector of item {values[0]} is not one of its model")
            with self._connection.errors():
                item = item_of(values)
            masked = next(self._take("dense", _dense_values, [item.id]), None)
            if masked is None:
                yield Record(item, vector)
            else:
                yield Record(item, vector, *dense_of(self._fitting(masked), self.binding))

    def values(self, ids: Sequence[int] | None = None) -> Iterator[bytes]:
        """Gives what a deletion must leave nowhere: values as stored, of damaged rows too.

        Of a sealed vault also what the values are in clear.

        Args:
            ids: of these items; None for all. Ids that are not held are passed over.
        """
        for part in (self._secrets("items", ids), self._secrets("dense", ids)):
            for found in part:
                yield from found

    def _secrets(self, table: Table, ids: Sequence[int] | None) -> Iterator[list[bytes]]:
        def secrets_of(form: Rows, rows: list[Row]) -> list[list[bytes]]:
            return [*map(form.item_secrets if table == "items" else form.dense_secrets, rows)]

        if ids is None:
            return self._walk(table, secrets_of)
        found = (self._among(table, secrets_of, part) for part in in_parts(ids))
        return chain.from_iterable(part.values() for part in found)

    def texts(self) -> Iterator[bytes]:
        """Gives labels and sources as stored, without vectors; none of a sealed vault."""
        select, last = self._connection.form.select_texts, 0
        clause = f"WHERE items.id > ? ORDER BY items.id LIMIT {_ROWS_TO_CHECK}"
        while select and (rows := self._connection.rows(f"{select} {clause}", (last,))):
            with self._damages():
                check_order(np.array([row[0] for row in rows]), after=last)
            last = rows[-1][0]
            yield from [text for row in rows for text in row[1:] if text]

    def commit(self, committer: Committer, ids: Sequence[int] | None = None) -> None:
        """Commits to items as they are stored.

        Args:
            committer: is given them.
            ids: only these, ascending; None for all, in one pass. Ids that are not held are passed
                over.

        Raises:
            VaultFormatError: a row is damaged; of all, also missing, too many or out of order.
        """
        if ids is None:
            self.check(committer)
            return
        for part in in_parts(ids):
            items = self._among("items", _item_values, part)
            masks = self._among("dense", _dense_values, part)
            committer.take([*items.values()], [masks.get(id_) for id_ in items])

    def check(self, committer: Committer | None = None) -> None:
        """Reads every row, some at a time, and compares it with its checksum.

        Args:
            committer: is given all items.

        Raises:
            VaultFormatError: a row is damaged, missing, too many or out of order.
        """
        use = None if committer is None else committer.take
        with self._damages():
            self._connection.snapshot(lambda connection: check_rows(connection, self._form, use))

    def problems(self) -> list[str]:
        """Reads everything and says what is wrong, one sentence each; empty if all is well."""
        found: list[str] = []
        rows = self._connection.rows
        try:
            checked = [str(row[0]) for row in rows("PRAGMA integrity_check")]
            found += [f"SQLite: {line}" for line in checked if line != "ok"]
            for read in (self.load, self.load_dense):
                try:
                    read()
                except VaultFormatError as error:
                    found.append(str(error))
            low = rows("SELECT count(*) FROM items WHERE id < 1")[0][0]
            if low:
                found.append(f"{low} items have an id below 1")
            orphans = rows("SELECT id FROM dense EXCEPT SELECT id FROM items")
            if orphans:
                found.append(f"{len(orphans)} masks belong to no item")
        except VaultFormatError as error:
            found.append(str(error))
        return found

    # ---- rows

    @property
    def _form(self) -> Rows:
        return self._connection.form

    def _take(
        self, table: Table, use: Callable[[Rows, list[Row]], Sequence[_T]], ids: Iterable[int]
    ) -> Iterator[_T]:
        """Gives what `use` makes of the rows of these ids, in their order."""
        for id_ in ids:
            for _, taken in self._query(table, use, f"WHERE {table}.id = ?", (id_,)):
                yield taken

    def _among(
        self, table: Table, use: Callable[[Rows, list[Row]], Sequence[_T]], ids: Sequence[int]
    ) -> dict[int, _T]:
        """What `use` makes of the rows of some ids, ascending; of those that are held."""
        clause = f"WHERE {table}.id IN ({', '.join('?' * len(ids))}) ORDER BY {table}.id"
        return dict(self._query(table, use, clause, tuple(ids)))

    def _walk(self, table: Table, use: Callable[[Rows, list[Row]], Sequence[_T]]) -> Iterator[_T]:
        """Gives what `use` makes of all rows by id, in queries of `_ROWS_AT_ONCE` rows.

        What this process deletes in the meantime is not given any more, though it was read before.
        """
        last = 0
        clause = f"WHERE {table}.id > ? ORDER BY {table}.id LIMIT {_ROWS_AT_ONCE}"
        while True:
            changes = self._connection.changes
            found = self._query(table, use, clause, (last,))
            if not found:
                break
            for id_, taken in found:
                last = self._after(last, id_)  # or a damaged tree might lead round in circles
                yield taken
                if self._connection.changes != changes:
                    break

    def _query(
        self,
        table: Table,
        use: Callable[[Rows, list[Row]], Sequence[_T]],
        clause: str,
        parameters: Row = (),
    ) -> list[tuple[int, _T]]:
        """(id, what `use` makes of the row) of the rows that a clause chooses.

        In one call, because the purge of a sealed vault changes what rows are to be read with.
        """

        def work(connection: sqlite3.Connection) -> list[tuple[int, _T]]:
            form = self._form
            select = form.select_items if table == "items" else form.select_dense
            rows = connection.execute(f"{select} {clause}", parameters).fetchall()
            return [(row[0], used) for row, used in zip(rows, use(form, rows), strict=True)]

        with self._connection.errors(), self._damages():
            return self._connection.run(work)

    @contextlib.contextmanager
    def _damages(self) -> Iterator[None]:
        try:
            yield
        except DamagedRowError as error:
            raise self._damaged(str(error)) from error

    def _after(self, last: int, id_: int) -> int:
        """The id of a row that follows another one, whose id is smaller in a sound ledger."""
        if id_ <= last:
            raise self._damaged(f"item {id_} stands out of order")
        return id_

    def _fitting(self, values: DenseValues) -> DenseValues:
        if not dense_fits(values, self.binding):
            raise self._damaged(f"patches or mask of item {values[0]} have another size")
        return values

    def _damaged(self, what: str) -> VaultFormatError:
        return damaged(self._ledger, what)
