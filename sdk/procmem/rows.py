"""How items stand in the rows of a ledger, with what tells later whether a row is still right.

Used by `vault.py` through `connection.py`. `PlainRows` stores values as they are; `SealedRows`
(`sealed.py`) stores the same values encrypted. A ledger has one form for good. docs/formats.md
describes both from the file's side.

Promises: what `take_items`, `unpack_item` and `unpack_dense` give is what `pack` was given, or they
raise; a row is a function of its own values (and, sealed, of keys of its own), never of other rows.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from procmem import _ledger
from procmem.record import DenseValues, ItemBatch, ItemValues

Row: TypeAlias = tuple[Any, ...]

# No AUTOINCREMENT, which remembers the largest id for ever, and no index over private text, whose
# pages would keep copies of it.
_META = "CREATE TABLE meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID"
PLAIN_SCHEMA = {
    "dense": (
        "CREATE TABLE dense(id INTEGER PRIMARY KEY, patches BLOB, mask BLOB, checksum INTEGER)"
    ),
    "items": (
        "CREATE TABLE items(id INTEGER PRIMARY KEY, vector BLOB, label TEXT, source TEXT, "
        "added_seconds INTEGER, checksum INTEGER)"
    ),
    "meta": _META,
}
SEALED_SCHEMA = {
    "dense": "CREATE TABLE dense(id INTEGER PRIMARY KEY, sealed BLOB)",
    "items": "CREATE TABLE items(id INTEGER PRIMARY KEY, wrapped BLOB, sealed BLOB)",
    "meta": _META,
}

# id, added_seconds, lengths of label and source, -1 for none
_HEAD = struct.Struct(">qqii").pack
_DENSE_HEAD = struct.Struct(">q").pack


class DamagedRowError(ValueError):
    """A row is not what was once written; the message says which."""


class Rows(Protocol):
    """One form of storing items.

    Attributes:
        schema: name of each table -> the statement that makes it.
        select_items, select_dense: give rows for `unpack_*`, id first; a WHERE on `items.id` or
            `dense.id` may follow.
        select_texts: gives (id, label, source) likewise; None if they are not stored in clear.
        insert_item, insert_dense: take rows of `pack`. The last column of both kinds of rows is
            the one that checksums look at.
    """

    schema: dict[str, str]
    select_items: str
    select_dense: str
    select_texts: str | None
    insert_item: str
    insert_dense: str

    def pack(self, item: ItemValues, dense: DenseValues | None) -> tuple[Row, Row | None]:
        """The rows of an item."""
        ...

    def unpack_item(self, row: Row) -> ItemValues:
        """The values of a row of `select_items`. Raises DamagedRowError."""
        ...

    def unpack_items(self, rows: list[Row]) -> list[ItemValues]:
        """The values of rows of `select_items`. Raises DamagedRowError."""
        ...

    def check_items(self, rows: list[Row]) -> int:
        """What rows of `select_items` add to the ledger's checksum. Raises DamagedRowError."""
        ...

    def take_items(self, rows: list[Row], vectors: npt.NDArray[np.float16]) -> ItemBatch:
        """The values column by column, of at least one row.

        Args:
            rows: M of them.
            vectors: (M, D), where their vectors are written to. C-contiguous.

        Raises:
            DamagedRowError: also if a vector is not one of D finite numbers.
        """
        ...

    def texts(self, rows: list[Row]) -> list[bytes]:
        """Labels and sources of rows of `select_items`, as far as they are stored in clear."""
        ...

    def unpack_dense(self, row: Row) -> DenseValues:
        """The values of a row of `select_dense`. Raises DamagedRowError."""
        ...

    def item_checksum(self, row: Row) -> int:
        """What a row adds to the ledger's checksum of items, 32 bits; -1 of a damaged one."""
        ...

    def dense_checksum(self, row: Row) -> int:
        """What a row adds to the ledger's checksum of masks, 32 bits; -1 of a damaged one."""
        ...

    def item_secrets(self, row: Row) -> list[bytes]:
        """The bytes of a row of `select_items`, sound or not, that deleting leaves nowhere."""
        ...

    def dense_secrets(self, row: Row) -> list[bytes]:
        """The bytes of a row of `select_dense`, sound or not, that deleting leaves nowhere."""
        ...


class PlainRows:
    """Values as they are, and a CRC-32 of them."""

    schema = PLAIN_SCHEMA
    # Text goes in and out as bytes, because sqlite3 refuses a str with lone surrogates.
    select_items = (
        "SELECT id, vector, CAST(label AS BLOB), CAST(source AS BLOB), added_seconds, checksum "
        "FROM items"
    )
    select_dense = "SELECT id, patches, mask, checksum FROM dense"
    select_texts: str | None = "SELECT id, CAST(label AS BLOB), CAST(source AS BLOB) FROM items"
    insert_item = "INSERT INTO items VALUES (?, ?, CAST(? AS TEXT), CAST(? AS TEXT), ?, ?)"
    insert_dense = "INSERT INTO dense VALUES (?, ?, ?, ?)"

    def pack(self, item: ItemValues, dense: DenseValues | None) -> tuple[Row, Row | None]:
        """See `Rows`."""
        row = (*item, _item_crc(item))
        return row, None if dense is None else (*dense, _dense_crc(dense))

    def unpack_item(self, row: Row) -> ItemValues:
        """See `Rows`."""
        try:
            right = _item_crc(row[:5]) == row[5]
        except (TypeError, struct.error) as error:
            raise DamagedRowError(f"a column of item {row[0]} has another type") from error
        if not right:
            raise DamagedRowError(f"item {row[0]} does not match its checksum")
        return row[:5]

    def unpack_items(self, rows: list[Row]) -> list[ItemValues]:
        """See `Rows`."""
        self.check_items(rows)
        return [row[:5] for row in rows]

    def check_items(self, rows: list[Row]) -> int:
        """See `Rows`."""
        checksum = _ledger.check_items(rows)
        if checksum is not None:
            return checksum
        for row in rows:  # finds out which row it is, and says so
            self.unpack_item(row)
        return sum(map(self.item_checksum, rows))

    def take_items(self, rows: list[Row], vectors: npt.NDArray[np.float16]) -> ItemBatch:
        """See `Rows`. In C++, a third of the time of row by row."""
        taken = _ledger.take_items(rows, vectors)
        if taken is None:  # finds out which row it is, and says so
            values = [self.unpack_item(row) for row in rows]
            return batch_of(values, vectors, checksum=sum(row[-1] for row in rows))
        return ItemBatch(*taken)

    def texts(self, rows: list[Row]) -> list[bytes]:
        """See `Rows`."""
        return [text for row in rows for text in row[2:4] if text]

    def unpack_dense(self, row: Row) -> DenseValues:
        """See `Rows`."""
        try:
            right = _dense_crc(row[:3]) == row[3]
        except TypeError as error:
            raise DamagedRowError(f"patches or mask of item {row[0]} have another type") from error
        if not right:
            raise DamagedRowError(f"patches or mask of item {row[0]} do not match their checksum")
        return row[:3]

    def item_checksum(self, row: Row) -> int:
        """See `Rows`."""
        return row[-1] if isinstance(row[-1], int) else -1

    dense_checksum = item_checksum

    def item_secrets(self, row: Row) -> list[bytes]:
        """See `Rows`."""
        return [value for value in row if isinstance(value, bytes)]

    dense_secrets = item_secrets


def batch_of(
    values: Sequence[ItemValues], vectors: npt.NDArray[np.float16], *, checksum: int
) -> ItemBatch:
    """The values of several items column by column, for `Rows.take_items`.

    Raises:
        DamagedRowError: a vector is not one of D finite numbers.
    """
    ids, stored, labels, sources, seconds = zip(*values, strict=True)
    for id_, vector, target in zip(ids, stored, vectors, strict=True):
        if len(vector) != 2 * len(target):
            raise DamagedRowError(f"the vector of item {id_} has another size")
        target[:] = np.frombuffer(vector, dtype="<f2")
        if not np.isfinite(target).all():
            raise DamagedRowError(f"the vector of item {id_} is not finite")
    return ItemBatch(ids, labels, sources, seconds, checksum)


def _item_crc(values: ItemValues) -> int:
    id_, vector, label, source, added_seconds = values
    crc = zlib.crc32(vector)
    lengths = [-1, -1]
    if label is not None:
        crc = zlib.crc32(label, crc)
        lengths[0] = len(label)
    if source is not None:
        crc = zlib.crc32(source, crc)
        lengths[1] = len(source)
    return zlib.crc32(_HEAD(id_, added_seconds, *lengths), crc)


def _dense_crc(values: DenseValues) -> int:
    id_, patches, mask = values
    return zlib.crc32(_DENSE_HEAD(id_), zlib.crc32(mask, zlib.crc32(patches)))
