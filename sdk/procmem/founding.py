"""The first ledger of a vault: written under a temporary name, with its key if it is sealed.

Used by `vault.py`, which holds the lock and gives the file its name. A sealed ledger is there
before its key, and the key before the name: a crash in between leaves both, and the next opening
finds them by `has_key`.
"""

from __future__ import annotations

import secrets
import sqlite3
from pathlib import Path

from procmem.errors import VaultFormatError, VaultKeyError
from procmem.ledger import Head, Seal, read_head, write_ledger
from procmem.record import Binding
from procmem.rows import PlainRows
from procmem.seal import KeyPlace, fingerprint, new_key


def write_first_ledger(path: Path, binding: Binding, place: KeyPlace | None) -> None:
    """Writes a ledger without items, durably, and makes its key.

    Args:
        path: where there is no file.
        binding: the model that it is bound to.
        place: of the key; None for a ledger that is not sealed.

    Raises:
        VaultKeyError: the key cannot be made; there is no ledger either.
        sqlite3.Error, OSError: it cannot be written.
    """
    if place is None:
        write_ledger(path, Head(binding), PlainRows())
        return
    from procmem.sealed import SealedRows  # cryptography takes a moment to import

    key = new_key()
    seal = Seal(secrets.token_hex(16), fingerprint(key))
    write_ledger(path, Head(binding, seal), SealedRows(key, binding.sha256))
    try:
        place.create(seal.id, key)
    except VaultKeyError:
        path.unlink()
        raise


def has_key(path: Path, place: KeyPlace | None) -> bool:
    """Whether a process died when it had made a sealed ledger and its key."""
    if place is None or not path.exists():
        return False
    connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
    try:
        seal = read_head(connection, path).seal
        keys = [] if seal is None else place.keys(seal.id)
        return seal is not None and seal.epoch in map(fingerprint, keys)
    except (sqlite3.Error, VaultFormatError, VaultKeyError):
        return False
    finally:
        connection.close()
