"""What a vault remembers of items that were revoked: their ids, and nothing else.

    <vault>/REVOKED    mode 0600, there once something was revoked; docs/formats.md has the bytes

Used by `vault.py`, which refuses items of these ids for good, so that no older copy of such an
item comes back. A function of the set of ids alone: equal sets give equal files, in whatever order
they came. An id is a random number and says nothing of an image.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from procmem.errors import InputError, VaultError, VaultFormatError
from procmem.folder import REVOKED, TEMPORARY_REVOKED, folder_error
from procmem.manifest import sync_folder

_MAGIC = b"PrMeREV1"
_HASH_BYTES = 32

_T = TypeVar("_T")
Ids: TypeAlias = npt.NDArray[np.int64]
"""Ascending, each once."""


class RevokedIds:
    """The revoked ids of one open vault.

    Args:
        folder: of the vault.
        read_only: read the file at every call, because another process may change it.
    """

    def __init__(self, folder: Path, *, read_only: bool) -> None:
        self._folder, self._read_only = folder, read_only
        self._known: Ids | None = None

    def all(self) -> Ids:
        """All of them. Do not write to it.

        Raises:
            VaultFormatError: the file is damaged.
            VaultError: it cannot be read.
        """
        if self._known is not None:
            return self._known
        found = self._run(lambda: read_revoked(self._folder))
        if not self._read_only:
            self._known = found
        return found

    def among(self, ids: Iterable[int]) -> set[int]:
        """Which of some ids are revoked. Raises as `all`."""
        revoked = self.all()
        return set(np.intersect1d(revoked, ids_of(ids)).tolist()) if len(revoked) else set()

    def refuse(self, ids: Iterable[int]) -> None:
        """Raises InputError if one of these ids is revoked, and as `all`."""
        refused = self.among(ids)
        if refused:
            raise InputError(
                f"id {min(refused)} (and {len(refused) - 1} more) was revoked in {self._folder} "
                "and never comes back; nothing was added: leave it out (of a file to import: "
                "delete it where that comes from, and export again), or give the image another id"
            )

    def replace(self, ids: Ids) -> None:
        """Remembers exactly these, durably.

        Raises:
            VaultError: they cannot be written; nothing changed.
        """
        self._known = None  # an error leaves the old file or the new one
        self._run(lambda: write_revoked(self._folder, ids))
        self._known = None if self._read_only else ids

    def _run(self, work: Callable[[], _T]) -> _T:
        try:
            return work()
        except OSError as error:
            if isinstance(error, VaultError):
                raise
            raise folder_error(error, self._folder) from error


def read_revoked(folder: Path) -> Ids:
    """The revoked ids of a vault; none if nothing was ever revoked.

    Raises:
        VaultFormatError: the file is damaged.
        OSError: it cannot be read.
    """
    path = folder / REVOKED
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return np.empty(0, dtype=np.int64)
    body, checksum = data[:-_HASH_BYTES], data[-_HASH_BYTES:]
    sound = body.startswith(_MAGIC) and len(body) % 8 == 0
    if sound and hashlib.sha256(body).digest() == checksum:
        ids = np.frombuffer(body, dtype=">i8", offset=len(_MAGIC)).astype(np.int64)
        if (np.diff(ids, prepend=0) > 0).all():
            return ids
    raise VaultFormatError(
        f"{path} is damaged or of a newer procmem, and without it nothing can be added, for it "
        "might have been revoked; restore it from a backup, or remove it and take in all "
        "revocation lists again"
    )


def write_revoked(folder: Path, ids: Ids) -> None:
    """Puts a set of ids in the place of the one that is remembered, durably.

    Args:
        folder: of the vault.
        ids: all of them; none removes the file.

    Raises:
        OSError: it cannot be written; the old one is still there.
    """
    path, temporary = folder / REVOKED, folder / TEMPORARY_REVOKED
    if not len(ids):
        path.unlink(missing_ok=True)
        sync_folder(folder)
        return
    body = _MAGIC + ids.astype(">i8").tobytes()
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0)
    try:
        with open(os.open(temporary, flags, 0o600), "wb") as file:  # noqa: PTH123  of a descriptor
            file.write(body + hashlib.sha256(body).digest())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync_folder(folder)


def ids_of(ids: Iterable[int]) -> Ids:
    """Whole numbers in [1, 2**63), in any order, as ids."""
    return np.unique(np.fromiter(ids, dtype=np.int64))
