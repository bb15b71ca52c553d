"""The stored form: what stands in `ledger.sqlite`, and how values become its bytes.

Used by `vault.py`, which owns the folder around it. Here are the tables, the data that goes into
them, the making of a ledger file, and the checks that a file is one. docs/formats.md describes the
same from the file's side.

Promises that `write_copy` gives the same bytes for the same rows, whatever happened to the source
before (law 1), as long as the same version of SQLite writes; and that text comes back as it went
in, down to the lone surrogates by which Python names files that are not UTF-8.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from procmem.errors import InputError, VaultFormatError

APPLICATION_ID = 0x50724D65  # "PrMe", at offset 68 of the file
FORMAT_VERSION = 1

# No AUTOINCREMENT, which remembers the largest id for ever, and no index over private text, whose
# pages would keep copies of it.
SCHEMA = {
    "dense": "CREATE TABLE dense(id INTEGER PRIMARY KEY, patches BLOB, mask BLOB)",
    "items": (
        "CREATE TABLE items(id INTEGER PRIMARY KEY, vector BLOB, label TEXT, source TEXT, "
        "added_seconds INTEGER)"
    ),
    "meta": "CREATE TABLE meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID",
}

MAX_LABEL_CHARACTERS = 1_000
MAX_SOURCE_CHARACTERS = 32_767  # the longest path of Windows; other systems allow less

PAGE_BYTES = 4096
_SCHEMA_COOKIE_AT = 40  # file offset; see https://sqlite.org/fileformat2.html#database_header
_SCHEMA_COOKIE = (1).to_bytes(4, "big")

_NONE = b"\xff" * 8  # in place of a length

ItemRow: TypeAlias = tuple[int, bytes, "bytes | None", "bytes | None", int]
DenseRow: TypeAlias = tuple[int, bytes, bytes]


@dataclass(frozen=True, slots=True)
class Item:
    """One remembered image, without its vector.

    Attributes:
        id: in [1, 2**63).
        label: what it was taught as, or None.
        source: where it came from, or None.
        added_seconds: when it was added, whole seconds since 1970 UTC.
    """

    id: int
    label: str | None
    source: str | None
    added_seconds: int


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """An item with everything that the ledger stores of it.

    Attributes:
        item: see `Item`.
        vector: (D,) float16, the unit class token.
        patches: (h * w, P) int8 from `quantize_patches`; None without a mask.
        mask: (S, S) uint8 from `segment.fit_mask`; None without a mask.
    """

    item: Item
    vector: npt.NDArray[np.float16]
    patches: npt.NDArray[np.int8] | None = None
    mask: npt.NDArray[np.uint8] | None = None


@dataclass(frozen=True, slots=True)
class Binding:
    """The model whose embeddings a vault holds; written at creation, never changed.

    Attributes:
        sha256: of the model file, lowercase hexadecimal.
        name: what people call the model.
        cls_dim: D, width of a vector.
        patch_dim: P, width of a patch token.
        side: S, side of the model's input and of stored masks, pixels.
        patch_size: side of a patch, pixels; divides S.
    """

    sha256: str
    name: str
    cls_dim: int
    patch_dim: int
    side: int
    patch_size: int

    @property
    def patch_count(self) -> int:
        """Patches of one image, h * w."""
        return (self.side // self.patch_size) ** 2


def quantize_patches(patches: npt.NDArray[np.float32]) -> npt.NDArray[np.int8]:
    """Patch tokens as they are stored: each divided by its length, times 127, rounded.

    Args:
        patches: (h, w, P) float32, finite.

    Returns:
        (h * w, P) int8 in [-127, 127], row-major over the grid. A token of zeros stays zeros.
    """
    rows = patches.reshape(-1, patches.shape[-1]).astype(np.float64)
    lengths = np.sqrt(np.square(rows).sum(axis=1, keepdims=True))
    return np.rint(rows / np.where(lengths == 0, 1.0, lengths) * 127).astype(np.int8)


def restore_patches(stored: npt.NDArray[np.int8]) -> npt.NDArray[np.float32]:
    """Stored patch tokens as unit vectors, each a function of its own bytes alone.

    Args:
        stored: (..., P) int8.

    Returns:
        (M, P) float32, C-contiguous. A token of zeros stays zeros.
    """
    rows = stored.reshape(-1, stored.shape[-1]).astype(np.float32)
    # Whole numbers: their squares and, up to P = 1040, the sum of those are exact in float32.
    squares = np.square(rows).sum(axis=1, keepdims=True, dtype=np.float64)
    rows /= np.sqrt(np.where(squares == 0, 1.0, squares)).astype(np.float32)
    return rows


def encode_text(text: str | None) -> bytes | None:
    """The stored bytes of a label or source: UTF-8, lone surrogates as three bytes each."""
    return None if text is None else text.encode("utf-8", "surrogatepass")


def decode_text(stored: bytes) -> str:
    """The inverse of `encode_text`."""
    return stored.decode("utf-8", "surrogatepass")


def check_label(label: object) -> None:
    """Raises InputError unless `label` is None or a text that can be stored."""
    _check_text(label, "label", MAX_LABEL_CHARACTERS)


def check_source(source: object) -> None:
    """Raises InputError unless `source` is None or a text that can be stored."""
    _check_text(source, "source", MAX_SOURCE_CHARACTERS)


def _check_text(text: object, name: str, limit: int) -> None:
    if text is None:
        return
    if not isinstance(text, str):
        raise InputError(f"{name} is {text!r:.80}, a {type(text).__name__}; wanted a str or None")
    if not text:
        raise InputError(f"{name} is empty, wanted at least one character, or None for no {name}")
    if "\0" in text:
        raise InputError(f"{name} {text!r:.80} contains a null character; remove it")
    if len(text) > limit:
        raise InputError(f"{name} has {len(text)} characters, wanted at most {limit}; shorten it")


def check_id(value: object) -> None:
    """Raises InputError unless `value` is a whole number in [1, 2**63)."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < 2**63:
        raise InputError(f"id is {value!r:.80}, wanted a whole number in [1, 2**63)")


def canonical_bytes(*fields: bytes | None) -> bytes:
    """The stored values of one item as one text, from which all of them can be told again.

    Args:
        fields: each becomes its length (8 bytes, big endian) and itself; None is the length
            2**64 - 1, so that it differs from an empty value.
    """
    return b"".join(
        [_NONE if field is None else len(field).to_bytes(8, "big") + field for field in fields]
    )


def insert(
    connection: sqlite3.Connection, items: Sequence[ItemRow], dense: Sequence[DenseRow]
) -> None:
    """Inserts rows in the transaction that is open."""
    connection.executemany(
        # Bound as bytes, because sqlite3 refuses a str with lone surrogates.
        "INSERT INTO items VALUES (?, ?, CAST(? AS TEXT), CAST(? AS TEXT), ?)",
        items,
    )
    connection.executemany("INSERT INTO dense VALUES (?, ?, ?)", dense)


def write_ledger(
    path: Path, binding: Binding, items: Sequence[ItemRow] = (), dense: Sequence[DenseRow] = ()
) -> None:
    """Writes a new ledger file that holds these rows, durably.

    Raises:
        sqlite3.Error, OSError: it cannot be written; a part may be left.
    """
    connection = sqlite3.connect(":memory:", isolation_level=None)
    try:
        connection.execute(f"PRAGMA page_size={PAGE_BYTES}")
        connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version={FORMAT_VERSION}")
        connection.execute("BEGIN")
        for statement in SCHEMA.values():
            connection.execute(statement)
        connection.executemany("INSERT INTO meta VALUES (?, ?)", _meta(binding).items())
        insert(connection, items, dense)
        connection.execute("COMMIT")
        write_copy(connection, path)
    finally:
        connection.close()


def write_copy(connection: sqlite3.Connection, path: Path) -> None:
    """Writes what a ledger holds to a new file: a function of its rows alone, durably.

    Args:
        connection: to the ledger, outside a transaction.
        path: of the copy; must not exist. Readable by its owner only.

    Raises:
        sqlite3.Error, OSError: it cannot be written; a part may be left.
    """
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    connection.execute("VACUUM INTO CAST(? AS TEXT)", (os.fsencode(path),))
    with path.open("r+b") as file:
        # VACUUM INTO counts this one up from the source's, which would tell how often it was done.
        file.seek(_SCHEMA_COOKIE_AT)
        file.write(_SCHEMA_COOKIE)
        file.flush()
        os.fsync(file.fileno())


def read_checked_binding(connection: sqlite3.Connection, path: Path) -> Binding:
    """Checks that a file is a ledger of this format and reads which model it is bound to.

    Args:
        connection: to the file, fresh; nothing of the file is trusted yet.
        path: for messages.

    Raises:
        VaultFormatError: it is not.
        sqlite3.Error: it is no SQLite file, or damaged.
    """
    connection.execute("PRAGMA trusted_schema=OFF")
    application_id = connection.execute("PRAGMA application_id").fetchone()[0]
    if application_id != APPLICATION_ID:
        raise VaultFormatError(
            f"{path} is not a procmem ledger (application id {application_id:#x}, wanted "
            f"{APPLICATION_ID:#x}); give the folder of a vault, or a new one"
        )
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version != FORMAT_VERSION:
        raise VaultFormatError(
            f"{path} has format version {version}, this procmem reads {FORMAT_VERSION}; "
            "upgrade procmem to open it"
        )
    # A foreign trigger or view could act when we read or write.
    found = connection.execute("SELECT name, sql FROM sqlite_master").fetchall()
    if dict(found) != SCHEMA or len(found) != len(SCHEMA):
        names = ", ".join(sorted(str(name) for name, _ in found)) or "none"
        raise VaultFormatError(
            f"{path} has other tables than a procmem ledger ({names}); restore it from a backup"
        )
    stored: dict[str, Any] = dict(connection.execute("SELECT key, value FROM meta").fetchall())
    try:
        binding = Binding(**stored)
        numbers = (binding.cls_dim, binding.patch_dim, binding.side, binding.patch_size)
        usable = all(isinstance(number, int) and 1 <= number <= 2**20 for number in numbers)
        texts = isinstance(binding.sha256, str) and isinstance(binding.name, str)
        if not usable or not texts or binding.side % binding.patch_size:
            raise ValueError(f"its values are {stored}")
    except (TypeError, ValueError) as error:
        raise VaultFormatError(
            f"{path} does not say which model it belongs to ({error}); restore it from a backup"
        ) from error
    return binding


def _meta(binding: Binding) -> dict[str, Any]:
    return {
        "sha256": binding.sha256,
        "name": binding.name,
        "cls_dim": binding.cls_dim,
        "patch_dim": binding.patch_dim,
        "side": binding.side,
        "patch_size": binding.patch_size,
    }
