"""Ledgers of older formats, brought to the present one.

Used by `vault.py` when it opens one for writing. The old file stays as it is until the new one,
made from its rows, is durable and takes its place as in a purge. A new format adds the schema of
the one before it here, and a step.

    version 1   procmem 0.1: no checksums, never sealed
    version 2   the present one, see `ledger.py`
"""

from __future__ import annotations

import sqlite3
import struct
from pathlib import Path

from procmem.folder import damaged
from procmem.ledger import Head, binding_from, read_meta, write_ledger
from procmem.rows import PlainRows

_SCHEMA_1 = {
    "dense": "CREATE TABLE dense(id INTEGER PRIMARY KEY, patches BLOB, mask BLOB)",
    "items": (
        "CREATE TABLE items(id INTEGER PRIMARY KEY, vector BLOB, label TEXT, source TEXT, "
        "added_seconds INTEGER)"
    ),
    "meta": "CREATE TABLE meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID",
}


def write_migrated(connection: sqlite3.Connection, ledger: Path, path: Path) -> None:
    """Writes what a ledger of format version 1 holds to a new file of the present format.

    Args:
        connection: to the old ledger, outside a transaction; it is only read.
        ledger: its path, for messages.
        path: of the new file; must not exist.

    Raises:
        VaultFormatError: the old ledger is damaged.
        sqlite3.Error, OSError: it cannot be read, or the new one cannot be written.
    """
    _, meta = read_meta(connection, ledger, [_SCHEMA_1])
    form = PlainRows()
    items = connection.execute(
        "SELECT id, vector, CAST(label AS BLOB), CAST(source AS BLOB), added_seconds FROM items"
    ).fetchall()
    dense = connection.execute("SELECT id, patches, mask FROM dense").fetchall()
    try:
        with_masks = {row[0]: row for row in dense}
        packed = [form.pack(row, with_masks.get(row[0])) for row in items]
    except (TypeError, struct.error) as error:
        raise damaged(ledger, f"a column has another type: {error}") from error
    write_ledger(
        path,
        Head(binding_from(meta, ledger)),
        form,
        [row for row, _ in packed],
        [row for _, row in packed if row is not None],
    )
