"""Replaces a vault's ledger by another file and makes the old one's bytes vanish.

Used by `vault.py` for the purge and for the change to a new format. The order of the steps is
what makes a crash at any point leave a sound ledger; docs/formats.md tells why.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path

from procmem.alongside import alongside
from procmem.folder import LEFTOVERS, RETIRED, TEMPORARY
from procmem.lock import overwrite_with_zeros, shred
from procmem.manifest import sync_folder

_log = logging.getLogger(__name__)


def replace_ledger(
    ledger: Path,
    connection: sqlite3.Connection,
    *,
    write: Callable[[Path], None],
    disconnect: Callable[[], None],
    meanwhile: Callable[[], None] | None = None,
) -> None:
    """Puts a new ledger in the place of the present one, whose bytes are then zeros.

    Args:
        ledger: path of the present one.
        connection: to it, outside a transaction.
        write: makes the new one, durably, at a path that does not exist. If it raises, nothing else
            happens than that what it made goes.
        disconnect: closes `connection`; called in any other case, and from another thread.
        meanwhile: is called with the new one in its place, while the old one's bytes are zeroed;
            not everywhere.

    Raises:
        sqlite3.Error, OSError: the present ledger is still there, or the new one is.
    """
    folder = ledger.parent
    copy, retired = folder / TEMPORARY, folder / RETIRED
    if copy.exists() or retired.exists():  # of a purge that was broken off since the opening
        remove_leftovers(ledger)
    try:
        write(copy)
    except BaseException:
        remove_leftovers(ledger)
        raise
    descriptor = -1
    try:
        # A second name keeps the old bytes in reach until they are zeroed, even over a crash.
        # Where the file system has no links, the open descriptor must do.
        with contextlib.suppress(OSError):
            os.link(ledger, retired)
        if os.name == "nt":
            disconnect()  # Windows replaces no file that is open
        else:
            # No reader is inside while this is held, and none gets in before the bytes are
            # zeroed. The descriptor is closed after the connection: closing it drops the lock.
            connection.execute("BEGIN EXCLUSIVE")
            descriptor = os.open(ledger, os.O_RDWR)
        copy.replace(ledger)
        sync_folder(folder)
        if descriptor >= 0:
            # Its own from here on: nobody may close what another thread writes to.
            forget, descriptor = partial(_forget, descriptor, retired, disconnect), -1
            with alongside(forget) as forgotten:
                if meanwhile is not None:
                    meanwhile()
                forgotten()
    finally:
        disconnect()
        if descriptor >= 0:
            os.close(descriptor)
        remove_leftovers(ledger)
        remove_empty_journal(ledger)


def _forget(descriptor: int, retired: Path, disconnect: Callable[[], None]) -> None:
    """Zeroes the old ledger, which is open, and lets go of it; that takes as long again."""
    try:
        if os.fstat(descriptor).st_nlink <= 1:  # or the file is somebody else's too
            overwrite_with_zeros(descriptor)
        retired.unlink(missing_ok=True)
    finally:
        disconnect()  # first, see `replace_ledger`
        os.close(descriptor)


def remove_leftovers(ledger: Path) -> None:
    """Removes what a process that died in mid-purge left, and zeroes it first."""
    # First the names: a zeroed file that still had the name of the ledger would be all there is.
    if any((ledger.parent / name).exists() for name in LEFTOVERS):
        sync_folder(ledger.parent)
    for path in (ledger.parent / name for name in LEFTOVERS):
        # A second name of the living ledger: only the name is too much.
        if path.exists() and ledger.exists() and path.samefile(ledger):
            path.unlink()
        else:
            shred(path)
    sync_folder(ledger.parent)


def leave_further_names(ledger: Path) -> None:
    """Puts a copy in the place of a ledger whose file has names in other folders too.

    Snapshots by hard links have them. What is written and zeroed here would change those.

    Args:
        ledger: path; nobody has it open, and no leftovers are beside it.
    """
    if ledger.stat().st_nlink <= 1:
        return
    _log.warning("%s has further names elsewhere, which keep what it holds now", ledger)
    new = ledger.with_name(TEMPORARY)
    with ledger.open("rb") as source, new.open("xb") as copy:
        new.chmod(0o600)
        shutil.copyfileobj(source, copy)
        copy.flush()
        os.fsync(copy.fileno())
    new.replace(ledger)
    sync_folder(ledger.parent)


def remove_empty_journal(ledger: Path) -> None:
    """Removes SQLite's journal if it is empty; one that is not is the way back from a crash."""
    journal = ledger.with_name(f"{ledger.name}-journal")
    # An empty one says nothing and harms nothing: a disk that refuses to remove it fails no call.
    with contextlib.suppress(OSError):
        if journal.stat().st_size == 0:
            journal.unlink()
