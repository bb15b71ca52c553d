"""Rows of a sealed ledger: every item encrypted under a key of its own.

    items.wrapped   the item's key, AES-256-GCM under the epoch key: nonce 12, key 32, tag 16 bytes
    items.sealed    vector, label, source and time, AES-256-GCM under the item's key
    dense.sealed    patches and mask, likewise

Whoever deletes an item deletes its wrapped key with it, and the purge that follows wraps all other
keys anew under a new epoch key (`seal.py`). What freed blocks, old backups or worn flash still
hold of the item are then bytes to which no key exists any more.

An item's key encrypts two messages at most, items.sealed and dense.sealed, under two fixed nonces.
The id, the table and the model's hash are authenticated with each. Labels and sources do not show
by length: the text is filled up to a multiple of 256 bytes.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from procmem.record import DenseValues, ItemBatch, ItemValues, canonical_bytes
from procmem.rows import SEALED_SCHEMA, DamagedRowError, Row, batch_of

KEY_BYTES = 32
_NONCE_BYTES = 12
ITEM_NONCE, DENSE_NONCE = b"items\0\0\0\0\0\0\0", b"dense\0\0\0\0\0\0\0"
_FILL_BYTES = 256
_NONE = 2**64 - 1


class SealedRows:
    """See `procmem.rows.Rows`.

    Args:
        epoch_key: 32 bytes that all keys of items are wrapped under.
        model_sha256: of the vault's model; authenticated with every row.
    """

    schema = SEALED_SCHEMA
    select_items = "SELECT id, wrapped, sealed FROM items"
    select_dense = (
        "SELECT dense.id, items.wrapped, dense.sealed FROM dense JOIN items ON items.id = dense.id"
    )
    select_texts: str | None = None
    insert_item = "INSERT INTO items VALUES (?, ?, ?)"
    insert_dense = "INSERT INTO dense VALUES (?, ?)"

    def __init__(self, epoch_key: bytes, model_sha256: str) -> None:
        self._epoch = AESGCM(epoch_key)
        self._model = model_sha256.encode()

    def pack(self, item: ItemValues, dense: DenseValues | None) -> tuple[Row, Row | None]:
        """See `Rows`."""
        id_, vector, label, source, added_seconds = item
        key = os.urandom(KEY_BYTES)
        fields = (vector, label, source, added_seconds.to_bytes(8, "big", signed=True))
        sealed = seal_fields(key, ITEM_NONCE, fields, context=self._context(b"items", id_))
        row = (id_, self._wrap(id_, key), sealed)
        if dense is None:
            return row, None
        context = self._context(b"dense", id_)
        return row, (id_, seal_fields(key, DENSE_NONCE, dense[1:], context=context, fill=False))

    def unpack_item(self, row: Row) -> ItemValues:
        """See `Rows`."""
        id_, wrapped, sealed = row
        found = self._open(id_, wrapped, sealed, b"items", ITEM_NONCE, 4)
        vector, label, source, seconds = found
        if vector is None or seconds is None:
            raise DamagedRowError(f"item {id_} lacks a value")
        return id_, vector, label, source, int.from_bytes(seconds, "big", signed=True)

    def unpack_items(self, rows: list[Row]) -> list[ItemValues]:
        """See `Rows`."""
        return [self.unpack_item(row) for row in rows]

    def check_items(self, rows: list[Row]) -> int:
        """See `Rows`."""
        self.unpack_items(rows)
        return sum(map(self.item_checksum, rows))

    def take_items(self, rows: list[Row], vectors: npt.NDArray[np.float16]) -> ItemBatch:
        """See `Rows`."""
        values = self.unpack_items(rows)
        return batch_of(values, vectors, checksum=sum(map(self.item_checksum, rows)))

    def texts(self, rows: list[Row]) -> list[bytes]:  # noqa: ARG002
        """See `Rows`: none is in clear."""
        return []

    def unpack_dense(self, row: Row) -> DenseValues:
        """See `Rows`."""
        id_, wrapped, sealed = row
        patches, mask = self._open(id_, wrapped, sealed, b"dense", DENSE_NONCE, 2)
        if patches is None or mask is None:
            raise DamagedRowError(f"item {id_} lacks patches or a mask")
        return id_, patches, mask

    def item_checksum(self, row: Row) -> int:
        """See `Rows`."""
        return zlib.crc32(row[-1]) if isinstance(row[-1], bytes) else -1

    dense_checksum = item_checksum

    def item_secrets(self, row: Row) -> list[bytes]:
        """See `Rows`. As they are stored, and in clear."""
        values: Row = ()
        with contextlib.suppress(DamagedRowError):
            values = self.unpack_item(row)
        return [value for value in (*row, *values) if isinstance(value, bytes)]

    def dense_secrets(self, row: Row) -> list[bytes]:
        """See `Rows`. As they are stored, and in clear."""
        values: Row = ()
        with contextlib.suppress(DamagedRowError):
            values = self.unpack_dense(row)
        return [value for value in (*row, *values) if isinstance(value, bytes)]

    def rewrapped(self, rows: Sequence[Row], to: SealedRows) -> list[Row]:
        """(wrapped key, id) of rows (id, wrapped key), under the epoch key of another.

        Raises:
            DamagedRowError: a key is not what was once wrapped.
        """
        return [(to._wrap(id_, self._unwrap(id_, wrapped)), id_) for id_, wrapped in rows]

    def _wrap(self, id_: int, key: bytes) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._epoch.encrypt(nonce, key, self._context(b"key", id_))

    def _unwrap(self, id_: int, wrapped: object) -> bytes:
        if not isinstance(wrapped, bytes) or len(wrapped) <= _NONCE_BYTES:
            raise DamagedRowError(f"the key of item {id_} has another type or size")
        nonce, rest = wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:]
        try:
            return self._epoch.decrypt(nonce, rest, self._context(b"key", id_))
        except InvalidTag as error:
            raise DamagedRowError(f"the key of item {id_} is not what was stored") from error

    def _open(
        self, id_: int, wrapped: object, sealed: object, table: bytes, nonce: bytes, count: int
    ) -> list[bytes | None]:
        if not isinstance(sealed, bytes):
            raise DamagedRowError(f"a column of item {id_} has another type")
        key = self._unwrap(id_, wrapped)
        try:
            return open_fields(key, nonce, sealed, count, context=self._context(table, id_))
        except InvalidTag as error:
            raise DamagedRowError(f"item {id_} is not what was stored") from error

    def _context(self, table: bytes, id_: int) -> bytes:
        return b"procmem 2 " + table + b" " + id_.to_bytes(8, "big", signed=True) + self._model


def seal_fields(
    key: bytes,
    nonce: bytes,
    fields: Sequence[bytes | None],
    *,
    context: bytes,
    fill: bool = True,
) -> bytes:
    """Encrypts an item's values by AES-256-GCM.

    Args:
        key: the item's, 32 bytes.
        nonce: `ITEM_NONCE` or `DENSE_NONCE`, each used once under a key.
        fields: the values.
        context: what is authenticated with them.
        fill: fill the text up to a multiple of 256 bytes, so that its length tells little.
    """
    text = canonical_bytes(*fields)
    if fill:
        text += bytes(-len(text) % _FILL_BYTES)
    return AESGCM(key).encrypt(nonce, text, context)


def open_fields(
    key: bytes, nonce: bytes, sealed: bytes, count: int, *, context: bytes
) -> list[bytes | None]:
    """The `count` values that were given to `seal_fields`.

    Raises:
        InvalidTag: not what was sealed, or not under this key and context.
    """
    return _fields(AESGCM(key).decrypt(nonce, sealed, context), count)


def _fields(text: bytes, count: int) -> list[bytes | None]:
    """The inverse of `canonical_bytes`; what follows the last field is filling."""
    found: list[bytes | None] = []
    at = 0
    for _ in range(count):
        length = int.from_bytes(text[at : at + 8], "big")
        at += 8
        if length == _NONE:
            found.append(None)
        else:
            found.append(text[at : at + length])
            at += length
    return found
