"""One writer: an operating-system lock on a file of the vault, and files that vanish for good.

Used by `vault.py`. The lock belongs to the open file, so it ends with the process, however that
dies, and a second opening in the same process is refused too. Knows nothing of SQLite.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from procmem.errors import VaultLockedError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_ZEROS = bytes(1 << 20)

# What a system says of a lock that somebody else has; others mean that it has no locks to give.
TAKEN = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)

# Windows locks bytes, not files; this one lies behind all that is ever written.
_LOCKED_BYTE = 1 << 30


class WriterLock:
    """The right to write, held from construction to `release`.

    Args:
        path: the lock file; made if missing, readable by its owner only, and left in place.

    Raises:
        VaultLockedError: someone else holds it. The message has the process id that the holder
            left in the file.
        OSError: the file cannot be opened for writing, or the file system knows no locks.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._process = path, os.getpid()
        self._descriptor = self._locked()
        # A lock on a file that was removed in the meantime keeps nobody out.
        while not self._names_it():
            os.close(self._descriptor)
            self._descriptor = self._locked()

    def _locked(self) -> int:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                lock_file(descriptor)
            except OSError as error:
                if error.errno not in TAKEN:
                    raise
                holder = self._path.read_text(encoding="ascii", errors="replace")[:20].strip()
                who = "this process" if holder == str(os.getpid()) else f"process {holder or '?'}"
                raise VaultLockedError(
                    f"{self._path.parent} is open for writing elsewhere, probably by {who}; close "
                    "it there, or open it here with read_only=True"
                ) from error
            os.truncate(descriptor, 0)
            os.write(descriptor, str(os.getpid()).encode())
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _names_it(self) -> bool:
        try:
            return os.path.samestat(self._path.stat(), os.fstat(self._descriptor))
        except FileNotFoundError:
            return False

    def remove(self) -> None:
        """Removes the file, while it is still locked; where the system refuses, it stays."""
        with contextlib.suppress(OSError):
            self._path.unlink()

    def release(self) -> None:
        """Gives the right up. Again is fine."""
        if self._descriptor >= 0:
            if self._process == os.getpid():  # a fork only lets go of its own descriptor
                with contextlib.suppress(OSError):
                    os.truncate(self._descriptor, 0)
                with contextlib.suppress(OSError):
                    unlock_file(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1


def lock_file(descriptor: int) -> None:
    """Locks an open file against all other openings; OSError with one of `TAKEN` if it is."""
    if sys.platform == "win32":
        os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def unlock_file(descriptor: int) -> None:
    """Gives the lock up, also for a forked child that has the same opening."""
    # By closing alone it would stay locked until a forked child has closed it too.
    if sys.platform != "win32":
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def overwrite_with_zeros(descriptor: int) -> None:
    """Overwrites a file's bytes in place and waits until the disk has them."""
    _zero(descriptor, [(0, os.fstat(descriptor).st_size)])


def shred(path: Path) -> None:
    """Zeroes a file and removes it. One that is not there is fine.

    Of a link only the link goes, and of a file with further names only this name.

    On a full disk, which a part of a copy may have filled, only what takes room is zeroed. Where
    that wants room too, the file system writes elsewhere than over the bytes that were there, which
    nothing then reaches; the file goes all the same, and gives its room back.
    """
    if path.is_file() and not path.is_symlink():
        descriptor = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
        try:
            if os.fstat(descriptor).st_nlink <= 1:
                overwrite_with_zeros(descriptor)
        except OSError as error:
            if not is_no_room(error):
                raise
            try:
                _zero(descriptor, _stretches(descriptor))
            except OSError as again:
                if not is_no_room(again):
                    raise
        finally:
            os.close(descriptor)
    path.unlink(missing_ok=True)


def is_no_room(error: OSError) -> bool:
    """Whether the disk is full, or somebody's share of it."""
    return error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))


def _zero(descriptor: int, stretches: Iterable[tuple[int, int]]) -> None:
    for start, end in stretches:
        os.lseek(descriptor, start, os.SEEK_SET)
        while start < end:
            start += os.write(descriptor, _ZEROS[: end - start])
    os.fsync(descriptor)


def _stretches(descriptor: int) -> Iterator[tuple[int, int]]:
    """Beginning and end of what takes room in a file; nothing where the system does not tell."""
    end, size = 0, os.fstat(descriptor).st_size
    while hasattr(os, "SEEK_DATA") and end < size:
        try:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:  # a hole is all that comes
                raise
            return
        end = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, end
