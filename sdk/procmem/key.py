"""What a vault signs its receipts with and hides its items behind: two secrets in one file.

    <vault>/KEY    mode 0600, 104 bytes; docs/formats.md has them

Made by `vault.py`, used by `receipt.py`. Random, made once, never changed, and so independent of
what the vault holds or held. A vault works without it; only receipts need it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from procmem.errors import VaultError, VaultFormatError
from procmem.folder import KEY, TEMPORARY_KEY
from procmem.manifest import sync_folder

SECRET_BYTES = 32
_MAGIC = b"PrMeKEY1"
_FILE_BYTES = len(_MAGIC) + 3 * SECRET_BYTES


@dataclass(frozen=True, slots=True, repr=False)
class VaultKey:
    """The secrets of one vault; not to be printed or logged.

    Attributes:
        commitment_secret: 32 bytes. Whoever lacks it cannot tell whether a receipt is about a
            photo that they have.
        signing_seed: 32 bytes, an Ed25519 private key as RFC 8032 has it.
    """

    commitment_secret: bytes
    signing_seed: bytes


def make_key(folder: Path) -> None:
    """Writes a new random key durably, unless there is one, sound or not.

    Raises:
        OSError: the folder cannot be written; nothing was changed.
    """
    if os.path.lexists(folder / KEY):
        return
    body = _MAGIC + secrets.token_bytes(2 * SECRET_BYTES)
    temporary = folder / TEMPORARY_KEY
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        with open(os.open(temporary, flags, 0o600), "wb") as file:  # noqa: PTH123  of a descriptor
            file.write(body + hashlib.sha256(body).digest())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(folder / KEY)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync_folder(folder)


def read_key(folder: Path) -> VaultKey:
    """Reads and checks the key of a vault.

    Raises:
        VaultFormatError: it is missing or damaged.
        VaultError: it cannot be read.
    """
    path = folder / KEY
    try:
        with path.open("rb") as file:
            data = file.read(_FILE_BYTES + 1)
    except FileNotFoundError as error:
        raise VaultFormatError(
            f"{path} is missing, and receipts need it; close the vault and open it for writing, "
            "which makes a new one"
        ) from error
    except OSError as error:
        raise VaultError(
            f"{path} cannot be read ({error.strerror}), and receipts need it; check its permissions"
        ) from error
    body, checksum = data[:-SECRET_BYTES], data[-SECRET_BYTES:]
    sound = len(data) == _FILE_BYTES and hashlib.sha256(body).digest() == checksum
    if not sound or not data.startswith(_MAGIC):
        raise VaultFormatError(
            f"{path} is damaged or of a newer procmem, and receipts need it; restore it from a "
            "backup, or remove it: the next opening for writing makes a new one, with another "
            "public key. Everything but receipts works without it"
        )
    return VaultKey(body[8:40], body[40:72])
