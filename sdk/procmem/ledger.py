"""The file `ledger.sqlite`: how one is made, copied, and told from other files.

Used by `connection.py` and `vault.py`, which own the folder around it. What stands in its rows is
in `rows.py` and `sealed.py`. docs/formats.md describes the same from the file's side.

Promises that `write_copy` gives the same bytes for the same rows, whatever happened to the source
before (law 1), as long as the same version of SQLite writes.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from procmem.errors import VaultFormatError
from procmem.record import Binding
from procmem.rows import PLAIN_SCHEMA, SEALED_SCHEMA, Row, Rows

APPLICATION_ID = 0x50724D65  # "PrMe", at offset 68 of the file
FORMAT_VERSION = 2

PAGE_BYTES = 4096
_SCHEMA_COOKIE_AT = 40  # file offset; see https://sqlite.org/fileformat2.html#database_header
_SCHEMA_COOKIE = (1).to_bytes(4, "big")

_BINDING_KEYS = ("sha256", "name", "cls_dim", "patch_dim", "side", "patch_size")


@dataclass(frozen=True, slots=True)
class Seal:
    """Which key opens a sealed ledger. Tells nothing about the key.

    Attributes:
        id: of the vault, 32 random hexadecimal digits.
        epoch: of the epoch key, 32 hexadecimal digits, see `seal.fingerprint`.
    """

    id: str
    epoch: str


@dataclass(frozen=True, slots=True)
class Head:
    """What a ledger says of itself.

    Attributes:
        binding: the model that it belongs to.
        seal: None if it is plain.
    """

    binding: Binding
    seal: Seal | None = None


def write_ledger(
    path: Path, head: Head, rows: Rows, items: Sequence[Row] = (), dense: Sequence[Row] = ()
) -> None:
    """Writes a new ledger file that holds these rows, durably.

    Args:
        path: must not exist.
        head: of the ledger.
        rows: its form.
        items: rows as `rows.pack` makes them.
        dense: likewise, of the items that have masks.

    Raises:
        sqlite3.Error, OSError: it cannot be written; a part may be left.
    """
    connection = sqlite3.connect(":memory:", isolation_level=None)
    try:
        connection.execute(f"PRAGMA page_size={PAGE_BYTES}")
        connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version={FORMAT_VERSION}")
        connection.execute("BEGIN")
        for statement in rows.schema.values():
            connection.execute(statement)
        meta: dict[str, Any] = asdict(head.binding)
        meta |= {"items_checksum": 0, "dense_checksum": 0}
        if head.seal is not None:
            meta |= {"seal": head.seal.id, "epoch": head.seal.epoch}
        connection.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
        connection.executemany(rows.insert_item, items)
        connection.executemany(rows.insert_dense, dense)
        sums = sum(map(rows.item_checksum, items)), sum(map(rows.dense_checksum, dense))
        add_checksums(connection, *sums)
        connection.execute("COMMIT")
        write_copy(connection, path)
    finally:
        connection.close()


def add_checksums(connection: sqlite3.Connection, items: int, dense: int) -> None:
    """Adds to the sums of the checksums of all rows, in the transaction that is open.

    They tell later that no row is missing and none is foreign. Whole numbers below 2**63: they
    would overflow with two thousand million items.
    """
    for key, change in (("items_checksum", items), ("dense_checksum", dense)):
        if change:
            connection.execute("UPDATE meta SET value = value + ? WHERE key = ?", (change, key))


def read_checksums(connection: sqlite3.Connection) -> tuple[Any, Any]:
    """The sums of the checksums of items and of masks as the ledger has them."""
    wanted = ("items_checksum", "dense_checksum")
    sql = "SELECT value FROM meta WHERE key = ?"
    items, dense = ((connection.execute(sql, (key,)).fetchone() or (None,))[0] for key in wanted)
    return items, dense


def write_copy(
    connection: sqlite3.Connection,
    path: Path,
    *,
    change: Callable[[sqlite3.Connection], None] | None = None,
) -> None:
    """Writes what a ledger holds to a new file: a function of its rows alone, durably.

    Args:
        connection: to the ledger, outside a transaction.
        path: of the copy; must not exist. Readable by its owner only.
        change: is given a connection to the copy, in a transaction, before it is durable.

    Raises:
        sqlite3.Error, OSError: it cannot be written; a part may be left.
    """
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    connection.execute("VACUUM INTO CAST(? AS TEXT)", (os.fsencode(path),))
    if change is not None:
        copy = sqlite3.connect(path, isolation_level=None)
        try:
            copy.execute("PRAGMA journal_mode=OFF")
            copy.execute("PRAGMA synchronous=OFF")
            copy.execute("BEGIN")
            change(copy)
            copy.execute("COMMIT")
        finally:
            copy.close()
    with path.open("r+b") as file:
        # VACUUM INTO counts this one up from the source's, which would tell how often it was done.
        file.seek(_SCHEMA_COOKIE_AT)
        file.write(_SCHEMA_COOKIE)
        file.flush()
        os.fsync(file.fileno())


def read_version(connection: sqlite3.Connection, path: Path) -> int:
    """The format version of a file that says that it is a ledger.

    Args:
        connection: to the file, fresh; nothing of the file is trusted yet.
        path: for messages.

    Raises:
        VaultFormatError: it is not one, or newer than this procmem.
        sqlite3.Error: it is no SQLite file, or damaged.
    """
    connection.execute("PRAGMA trusted_schema=OFF")
    application_id = connection.execute("PRAGMA application_id").fetchone()[0]
    if application_id != APPLICATION_ID:
        raise VaultFormatError(
            f"{path} is not a procmem ledger (application id {application_id:#x}, wanted "
            f"{APPLICATION_ID:#x}); give the folder of a vault, or a new one"
        )
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if not 1 <= version <= FORMAT_VERSION:
        raise VaultFormatError(
            f"{path} has format version {version}, this procmem reads {FORMAT_VERSION}; "
            "upgrade procmem to open it"
        )
    return version


def read_head(connection: sqlite3.Connection, path: Path) -> Head:
    """Checks that a file is a sound ledger of the present format and reads what it says of itself.

    Args:
        connection: to a file of `FORMAT_VERSION`.
        path: for messages.

    Raises:
        VaultFormatError: it is not.
        sqlite3.Error: damaged.
    """
    schema, meta = read_meta(connection, path, [PLAIN_SCHEMA, SEALED_SCHEMA])
    sealed = schema == SEALED_SCHEMA
    seal = Seal(str(meta.get("seal")), str(meta.get("epoch"))) if sealed else None
    return Head(binding_from(meta, path), seal)


def read_meta(
    connection: sqlite3.Connection, path: Path, schemas: Sequence[dict[str, str]]
) -> tuple[dict[str, str], dict[str, Any]]:
    """Which of some schemas a file has exactly, and its table `meta`.

    Raises:
        VaultFormatError: it has others.
        sqlite3.Error: damaged.
    """
    # A foreign trigger or view could act when we read or write.
    found = connection.execute("SELECT name, sql FROM sqlite_master").fetchall()
    if dict(found) not in schemas or len(found) != len(dict(found)):
        names = ", ".join(sorted(str(name) for name, _ in found)) or "none"
        raise VaultFormatError(
            f"{path} has other tables than a procmem ledger ({names}); restore it from a backup"
        )
    return dict(found), dict(connection.execute("SELECT key, value FROM meta").fetchall())


def binding_from(meta: Mapping[str, Any], place: Path | str) -> Binding:
    """The model that a ledger's table `meta`, or the head of a memory on a server, names.

    Raises:
        VaultFormatError: it names none.
    """
    stored = {key: meta[key] for key in _BINDING_KEYS if key in meta}
    try:
        binding = Binding(**stored)
        numbers = (binding.cls_dim, binding.patch_dim, binding.side, binding.patch_size)
        usable = all(isinstance(number, int) and 1 <= number <= 2**20 for number in numbers)
        texts = isinstance(binding.sha256, str) and isinstance(binding.name, str)
        if not usable or not texts or binding.side % binding.patch_size:
            raise ValueError(f"its values are {stored}")
    except (TypeError, ValueError) as error:
        raise VaultFormatError(
            f"{place} does not say which model it belongs to ({error}); restore it from a backup"
        ) from error
    return binding
