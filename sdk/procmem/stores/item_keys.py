"""The keys of a sealed memory on a server: a file of this device, one slot for each item.

Used by `server.py`. A server keeps what was deleted until its vacuum, and its logs and backups for
longer. So what it keeps of an item's label, source, patches and mask is encrypted under a key of
the item's own, the key stands here alone, and deleting the item overwrites it in place: the file
is the only thing that has to forget.

    64 bytes   "PrMeITEM", id of the memory 16, SHA-256 of these 24 bytes 32, filling
    64 bytes   one slot each: id 8, key 32, first 24 bytes of their SHA-256; zeros where none is

Whoever loses the file loses what is sealed. One process at a time may write with it, whichever of
its names it is given; others read, and see new keys when they first need one. A slot never crosses
a sector of a disk, so that a crash leaves it as it was or as it is to be; one that is neither is
taken for none.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from procmem.errors import VaultError, VaultKeyError, VaultLockedError
from procmem.lock import TAKEN, WriterLock, lock_file, unlock_file
from procmem.manifest import sync_folder

KEY_BYTES = 32

_MAGIC = b"PrMeITEM"
_SLOT_BYTES = 64
_EMPTY = bytes(_SLOT_BYTES)


class ItemKeys:
    """The keys of one memory, also in working memory as long as this is open.

    Args:
        path: of the file.
        seal_id: of the memory, 32 hexadecimal digits.
        read_only: take no lock and change nothing.

    Raises:
        VaultKeyError: it is missing, no such file, another memory's, or cannot be opened.
        VaultLockedError: another process writes with it.
    """

    def __init__(self, path: str | os.PathLike[str], seal_id: str, *, read_only: bool) -> None:
        # Through a link it is the file itself: its other names shall meet the same lock.
        self.path = Path(os.path.realpath(path))
        self._seal_id = seal_id
        self._data = bytearray()
        self._places: dict[int, int] = {}
        self._empty: list[int] = []
        self._lock: WriterLock | None = None
        self._file_lock: _FileLock | None = None
        try:
            if not self.path.is_file():
                raise VaultKeyError(
                    f"{self.path} is missing: without its keys nobody can read a sealed memory; "
                    "give the path of its key file"
                )
            if not read_only:
                self._lock = WriterLock(self.path.with_name(f"{self.path.name}.lock"))
                self._file_lock = _FileLock(self.path)
            self._read()
        except OSError as error:
            self.close()
            if isinstance(error, VaultError):
                raise
            raise self._error(error, "opened") from error
        except BaseException:
            self.close()
            raise

    @staticmethod
    def create(path: str | os.PathLike[str], seal_id: str) -> None:
        """Makes the file of a new memory, readable by its owner only, durably.

        Raises:
            VaultKeyError: there is a file already, or none can be made.
        """
        target = Path(path).absolute()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        try:
            with os.fdopen(os.open(target, flags, 0o600), "wb") as file:
                file.write(_head(seal_id))
                file.flush()
                os.fsync(file.fileno())
            sync_folder(target.parent)
        except FileExistsError as error:
            raise VaultKeyError(
                f"{target} exists already, and a key file belongs to one memory; give another "
                "path, or the memory that it belongs to"
            ) from error
        except OSError as error:
            raise VaultKeyError(
                f"the key file {target} cannot be made ({error.strerror}); check its folder and "
                "permissions"
            ) from error

    def ids(self) -> set[int]:
        """The items that have a key."""
        return set(self._places)

    def __contains__(self, id_: int) -> bool:
        return id_ in self._places

    def get(self, id_: int) -> bytes:
        """An item's key.

        Raises:
            VaultKeyError: there is none.
        """
        if id_ not in self._places and self._lock is None:
            self._read()  # another process may have added it
        at = self._places.get(id_)
        if at is None:
            raise VaultKeyError(
                f"{self.path} has no key for item {id_}: it is an older copy of the key file; give "
                "the one that this memory is written with"
            )
        return bytes(self._data[at + 8 : at + 8 + KEY_BYTES])

    def get_anew(self, id_: int) -> bytes:
        """An item's key as the file has it now; for one that does not open what it should.

        Raises:
            VaultKeyError: there is none, or the file cannot be read.
        """
        if self._lock is None:  # who writes knows them all
            self._read()  # another process may have deleted the item and added it again
        return self.get(id_)

    def put(self, keys: Mapping[int, bytes]) -> None:
        """Keeps keys of new items, durably.

        Raises:
            VaultKeyError: they cannot be written.
        """
        places = {}
        for id_, key in keys.items():
            at = self._empty.pop() if self._empty else len(self._data)
            if at == len(self._data):
                self._data += _EMPTY
            self._data[at : at + _SLOT_BYTES] = _slot(id_, key)
            places[id_] = at
        self._places |= places
        try:
            self._write(places.values())
        except VaultKeyError:
            self._drop(places)
            raise

    def destroy(self, ids: Iterable[int]) -> None:
        """Overwrites the keys of items, durably; ids without one are passed over.

        Raises:
            VaultKeyError: they cannot be overwritten.
        """
        places = {id_: self._places[id_] for id_ in ids if id_ in self._places}
        self._drop(places)
        self._write(places.values())

    def close(self) -> None:
        """Overwrites the keys in working memory and gives up the lock. Again is fine."""
        self._data[:] = bytes(len(self._data))
        self._places.clear()
        if self._file_lock is not None:
            self._file_lock.release()
            self._file_lock = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _drop(self, places: Mapping[int, int]) -> None:
        for id_, at in places.items():
            self._data[at : at + _SLOT_BYTES] = _EMPTY
            self._empty.append(at)
            del self._places[id_]

    def _read(self) -> None:
        try:
            data = bytearray(self.path.read_bytes())
        except OSError as error:
            raise self._error(error, "read") from error
        head = _head(self._seal_id)
        if bytes(data[:8]) != _MAGIC or len(data) < len(head):
            raise VaultKeyError(
                f"{self.path} is no key file of a memory on a server; give the memory's own"
            )
        if data[: len(head)] != head:
            raise VaultKeyError(
                f"{self.path} belongs to another memory, or is damaged; give this memory's own "
                "key file"
            )
        data = data[: len(data) // _SLOT_BYTES * _SLOT_BYTES]
        if data == self._data:
            return
        self._data[:] = bytes(len(self._data))
        self._data = data
        self._places, self._empty = {}, []
        for at in range(len(head), len(self._data), _SLOT_BYTES):
            slot = bytes(self._data[at : at + _SLOT_BYTES])
            id_ = int.from_bytes(slot[:8], "big")
            if slot != _EMPTY and slot == _slot(id_, slot[8 : 8 + KEY_BYTES]):
                self._places[id_] = at
            else:
                self._empty.append(at)

    def _write(self, places: Iterable[int]) -> None:
        try:
            descriptor = os.open(self.path, os.O_WRONLY | getattr(os, "O_BINARY", 0))
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                for at in sorted(places):
                    file.seek(at)
                    file.write(self._data[at : at + _SLOT_BYTES])
                os.fsync(file.fileno())
        except OSError as error:
            raise self._error(error, "written") from error

    def _error(self, error: OSError, what: str) -> VaultKeyError:
        return VaultKeyError(
            f"the key file {self.path} cannot be {what} ({error.strerror or error}); check its "
            "path and permissions"
        )


class _FileLock:
    """A lock on the key file itself, which a second name (a hard link) meets too.

    Raises:
        VaultLockedError: it is open for writing under another name.
        OSError: it cannot be opened for writing, or the file system knows no locks.
    """

    def __init__(self, path: Path) -> None:
        self._process = os.getpid()
        self._descriptor = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
        try:
            lock_file(self._descriptor)
        except OSError as error:
            os.close(self._descriptor)
            if error.errno not in TAKEN:
                raise
            raise VaultLockedError(
                f"{path} is open for writing elsewhere, by another of its names; close it there, "
                "or open it here with read_only=True"
            ) from error

    def release(self) -> None:
        if self._process == os.getpid():  # a fork only lets go of its own descriptor
            with contextlib.suppress(OSError):
                unlock_file(self._descriptor)
        os.close(self._descriptor)


def _head(seal_id: str) -> bytes:
    start = _MAGIC + bytes.fromhex(seal_id)
    return (start + hashlib.sha256(start).digest()).ljust(_SLOT_BYTES, b"\0")


def _slot(id_: int, key: bytes) -> bytes:
    start = id_.to_bytes(8, "big") + key
    return start + hashlib.sha256(start).digest()[: _SLOT_BYTES - len(start)]
