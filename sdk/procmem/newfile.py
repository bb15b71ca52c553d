"""Files that leave a vault: whole or not at all, readable by their owner, never over another.

Used by `exchange.py`, `bundle.py` and `revocation.py`. Knows nothing of what the files hold.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from procmem.errors import InputError, VaultError, VaultFullError
from procmem.lock import is_no_room, shred
from procmem.manifest import sync_folder


def check_outside(vault: Path, target: Path) -> None:
    """Raises InputError if a file would lie in a vault's folder."""
    folder = target.parent.resolve()
    if vault.resolve() in (folder, *folder.parents):
        raise InputError(
            f"{target} lies in the vault's own folder, whose files a deletion searches for "
            "remains; give another folder"
        )


def open_file(source: Path, *, written_by: str) -> BinaryIO:
    """Opens a file for reading.

    Args:
        source: its path.
        written_by: the command that writes such files, for the message.

    Raises:
        InputError: there is none, or it may not be read.
    """
    try:
        # Not to wait for ever at a pipe.
        if not stat.S_ISREG(source.stat().st_mode):
            raise InputError(f"{source} is not a file; give one that {written_by} wrote")
        return source.open("rb")
    except OSError as error:
        raise InputError(
            f"{source} cannot be opened ({error.strerror}); check the path and its permissions"
        ) from error


@contextlib.contextmanager
def new_file(target: Path) -> Iterator[BinaryIO]:
    """A file without a name that gets this one if the block ends well, and else is gone.

    Readable by its owner only, and durable before it has the name.

    Where the system has no files without a name, it has a name with a dot until then, and a process
    that is killed leaves it; the next try at the same place removes it.

    Raises:
        InputError: there is something of this name, or it cannot be written.
        VaultFullError: no room on the disk.
    """
    named: Path | None = None
    try:
        # Before anything else is done, so that a name that is none, a longer one than files have
        # for example, is told before it.
        with contextlib.suppress(FileNotFoundError):
            target.lstat()
            raise InputError(f"{target} exists already; give another name, or remove it first")
        descriptor = _unnamed(target.parent)
        if descriptor is None:
            named = target.with_name(f".{target.name}.part")
            shred(named)
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
            descriptor = os.open(named, flags, 0o600)
        try:
            with os.fdopen(descriptor, "w+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
                if named is None:
                    _name(file.fileno(), target)
            if named is not None:
                _rename(named, target)
            sync_folder(target.parent)
        finally:
            if named is not None:
                shred(named)
    except OSError as error:
        if isinstance(error, VaultError):
            raise
        if is_no_room(error):
            raise VaultFullError(
                f"{target}: no room on the disk; nothing was written. Free some"
            ) from error
        raise InputError(
            f"{target} cannot be written ({error.strerror or error}); give a file in a folder that "
            "exists and that you may write"
        ) from error


def _unnamed(folder: Path) -> int | None:
    """A new file without a name in this folder; None where the system has none."""
    flag = getattr(os, "O_TMPFILE", 0)
    if not flag or not Path("/proc/self/fd").is_dir():
        return None
    try:
        return os.open(folder, flag | os.O_RDWR, 0o600)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
            return None
        raise


def _name(descriptor: int, target: Path) -> None:
    """Gives a file without a name one that is not in use."""
    # With a folder given, Python calls linkat(AT_SYMLINK_FOLLOW), which this needs.
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        link = f"/proc/self/fd/{descriptor}"
        os.link(link, target.name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=True)
    finally:
        os.close(folder)


def _rename(named: Path, target: Path) -> None:
    """Gives a file another name that is not in use, as far as the system can tell."""
    try:
        os.link(named, target)
        named.unlink()
    except OSError as error:
        if isinstance(error, FileExistsError) or os.path.lexists(target):
            raise
        named.rename(target)
