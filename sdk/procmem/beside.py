"""The ledgers that may stand beside a vault's own while its items go over to another model.

    <vault>/next/ledger.sqlite       items that are embedded by the new model already; a part of
                                     the vault's own, until it takes its place
    <vault>/previous/ledger.sqlite   items that the new model could not be shown, as the old one
                                     saw them; none of them is in the vault's own

Used by `vault.py`, which has the lock, the marker and the key of all three, and by `switch.py`,
which makes them come and go. A deletion reaches all of them in one transaction, a purge rewrites
all of them, and a sealed vault's are wrapped under one epoch key.

Which of them count is told from the models that the ledgers are bound to, so that the one rename
that switches a vault to another model settles it:

    next of another model than the vault   a migration is half-way; a `previous` beside it is one
                                           that was being made
    next of the vault's model              it has taken its place: a left-over
    previous, without such a next          waits to be confirmed
"""

from __future__ import annotations

import contextlib
import heapq
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from procmem.committer import Committer
from procmem.connection import Connection
from procmem.errors import (
    EmbedderMismatchError,
    VaultError,
    VaultFormatError,
    VaultReadOnlyError,
)
from procmem.folder import LEFTOVERS, RETIRED, TEMPORARY
from procmem.ledger import Head, write_ledger
from procmem.lock import shred
from procmem.manifest import sync_folder
from procmem.purge import leave_further_names, remove_empty_journal, remove_leftovers
from procmem.record import Item, Record
from procmem.rows import Rows
from procmem.seal import KeyPlace
from procmem.types import MigrationStatus
from procmem.writer import LedgerWriter

NEXT, PREVIOUS = "next", "previous"
BESIDE = (NEXT, PREVIOUS)

_LEDGER = "ledger.sqlite"

_T = TypeVar("_T")


class Beside(LedgerWriter):
    """An open ledger beside a vault's own.

    Args:
        folder: of the ledger, in the vault's.
        read_only: as the vault.
        timeout_seconds: as the vault.
        key_place: of the vault.

    Attributes:
        folder: as given.
    """

    def __init__(
        self, folder: Path, *, read_only: bool, timeout_seconds: float, key_place: KeyPlace | None
    ) -> None:
        self.folder = folder
        self._opened = _file_of(folder)
        connection = Connection(
            folder / _LEDGER,
            read_only=read_only,
            timeout_seconds=timeout_seconds,
            binding=None,
            key_place=key_place,
        )
        super().__init__(connection)
        connection.rows("SELECT 1")  # connects, and brings back what a crash left half written

    @property
    def is_gone(self) -> bool:
        """True if a writer has removed the file that was opened, or put another in its place."""
        return _file_of(self.folder) != self._opened

    def add(self, records: Sequence[Record]) -> None:
        """Adds all records or none, durably; their ids are new."""
        with self._connection.transaction() as connection:
            self.insert(connection, records)

    def release(self) -> None:
        """Closes the file until the next call needs it."""
        self._connection.disconnect()

    def close(self) -> None:
        """Closes the file; further calls raise."""
        self._connection.close()
        if not self._connection.read_only:
            remove_empty_journal(self._ledger)


class WithBeside(LedgerWriter):
    """A ledger of a vault that knows of those beside it, in what is asked about all of them.

    Attributes:
        path: the vault's folder.
        read_only: as the vault. Who only reads opens the others for every call, because they
            come and go; who writes keeps them open.
    """

    path: Path
    read_only: bool
    _key_place: KeyPlace | None

    def __init__(self, connection: Connection, *, timeout_seconds: float) -> None:
        super().__init__(connection)
        self._timeout_seconds = timeout_seconds
        self.open_beside: dict[str, Beside] = {}

    @contextlib.contextmanager
    def beside(self) -> Iterator[dict[str, Beside]]:
        """Gives the ledgers that count, by name."""
        if not self.read_only:
            yield self.open_beside
            return
        found: dict[str, Beside] = {}
        try:
            for name in BESIDE:
                while name not in found and (there := _file_of(self.path / name)) is not None:
                    try:
                        found[name] = self.open_one(name)
                    except VaultError:
                        if _file_of(self.path / name) == there:
                            raise  # it did not go away while it was being opened
            yield {name: found[name] for name in self._counting(found)}
        finally:
            for ledger in found.values():
                ledger.close()

    def open_one(self, name: str) -> Beside:
        """Opens the ledger of this name, which is there."""
        return Beside(
            self.path / name,
            read_only=self.read_only,
            timeout_seconds=self._timeout_seconds,
            key_place=self._key_place,
        )

    def settle_beside(self) -> None:
        """Opens those that count, and leaves nothing of the others; for who writes."""
        self._connection.rows("SELECT 1")  # the vault's own may be another one than before
        for name in BESIDE:
            folder = self.path / name
            if name in self.open_beside or not folder.is_dir():
                continue
            remove_leftovers(folder / _LEDGER)
            if not (folder / _LEDGER).exists():
                shred_folder(folder)
                continue
            leave_further_names(folder / _LEDGER)
            try:
                self.open_beside[name] = self.open_one(name)
            except VaultFormatError as error:
                if name == PREVIOUS:
                    raise
                raise VaultFormatError(
                    f"{error}; or remove {folder}, which holds nothing but what a migration has "
                    "embedded so far, and begin it again"
                ) from error
        for name in set(self.open_beside).difference(self._counting(self.open_beside)):
            self.drop_beside(name)
        # All ledgers have been opened, so that a transaction that died is over in each of them.
        # What it left says nothing but how pages were before.
        for ledger in (self, *self.open_beside.values()):
            journal = ledger.connection.ledger.with_name(f"{_LEDGER}-journal")
            if journal.exists():
                ledger.connection.disconnect()  # which might go on in a file without a name
                shred(journal)
                ledger.connection.rows("SELECT 1")
        for left in self.path.glob(f"{_LEDGER}-mj*"):
            shred(left)

    def drop_beside(self, name: str) -> None:
        """Zeroes and removes one that has been open."""
        self.open_beside.pop(name).close()
        shred_folder(self.path / name)

    def _counting(self, found: dict[str, Beside]) -> list[str]:
        """The names of those that count, see the module."""
        if NEXT in found and found[NEXT].binding != self.binding:
            return [NEXT]
        return [name for name in found if name == PREVIOUS]

    # ---- asked about all of them

    def held(self, ids: Iterable[int]) -> set[int]:
        """Those of the ids that are in use: in the vault's own ledger, or beside it."""
        wanted = list(ids)
        found = super().held(wanted)
        return found.union(
            *self._asked(lambda others: [other.held(wanted) for other in others.values()])
        )

    def erasable(self, ids: Iterable[int] | None = None) -> Iterator[Item]:
        """Gives all items that a deletion can choose: also those of `previous`.

        Args:
            ids: as `items`.
        """
        wanted = None if ids is None else sorted(set(ids))
        left = self._asked(
            lambda others: list(others[PREVIOUS].items(wanted)) if PREVIOUS in others else []
        )
        return heapq.merge(super().items(wanted), left, key=lambda item: item.id)

    def erasable_ids(self) -> list[int]:
        """The ids of all items that a deletion can choose, ascending."""
        left = self._asked(lambda others: others[PREVIOUS].ids() if PREVIOUS in others else [])
        return sorted({*self.ids(), *left}) if left else self.ids()

    def commit(self, committer: Committer, ids: Sequence[int] | None = None) -> None:
        """As `LedgerReader`, of all items that a deletion can choose: also those of `previous`."""
        with self.beside() as others:
            super().commit(committer, ids)
            if PREVIOUS in others:
                others[PREVIOUS].commit(committer, ids)

    def values(self, ids: Sequence[int] | None = None) -> Iterator[bytes]:
        """As `LedgerReader`, of all ledgers of the vault."""
        yield from super().values(ids)
        with self.beside() as others:
            for other in others.values():
                yield from other.values(ids)

    def problems(self) -> list[str]:
        """As `LedgerReader`, of all ledgers of the vault."""

        def told(others: dict[str, Beside]) -> list[str]:
            problems = {name: other.problems() for name, other in others.items()}
            if any(problems.values()) and self._gone(others):
                raise VaultFormatError(f"{self.path} was changed while it was looked at")
            return [f"{name}: {one}" for name, ones in problems.items() for one in ones]

        found = super().problems()
        try:
            found += self._asked(told)
        except VaultError as error:
            found.append(str(error))
        return found

    def migration(self) -> MigrationStatus | None:
        """What stands beside the vault's own ledger; None if there is nothing."""

        def status(others: dict[str, Beside]) -> MigrationStatus | None:
            for name, other in others.items():
                binding = other.binding
                return MigrationStatus(
                    phase="half-way" if name == NEXT else "unconfirmed",
                    items=other.count(),
                    embedder_name=binding.name,
                    embedder_sha256=binding.sha256,
                    image_size=binding.side,
                )
            return None

        return self._asked(status)

    def _asked(self, ask: Callable[[dict[str, Beside]], _T]) -> _T:
        """What `ask` makes of the ledgers that count; asked again if one goes away meanwhile."""
        while True:
            with self.beside() as others:
                try:
                    return ask(others)
                except (VaultError, EmbedderMismatchError):
                    if not self._gone(others):
                        raise

    def _gone(self, others: dict[str, Beside]) -> bool:
        """Whether the writer has removed one of them; none of those that a writer has open.

        Another migration may have put another one in its place since.
        """
        return self.read_only and any(other.is_gone for other in others.values())


def _file_of(folder: Path) -> tuple[int, int] | None:
    """Device and inode of the ledger in a folder; None if there is none."""
    try:
        status = (folder / _LEDGER).stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_dev, status.st_ino


def make_beside(folder: Path, head: Head, rows: Rows) -> None:
    """Makes a folder with an empty ledger, durably; there is none of this name."""
    folder.mkdir(mode=0o700, exist_ok=True)
    try:
        write_ledger(folder / TEMPORARY, head, rows)
        (folder / TEMPORARY).replace(folder / _LEDGER)
        sync_folder(folder)
        sync_folder(folder.parent)
    except BaseException:
        shred_folder(folder)
        raise


def shred_folder(folder: Path) -> None:
    """Zeroes and removes the files of a ledger, and the folder unless somebody put more into it."""
    # Under this name it is known as a left-over, also one that is half zeroed.
    with contextlib.suppress(FileNotFoundError):
        (folder / _LEDGER).replace(folder / RETIRED)
        sync_folder(folder)
    for name in (f"{_LEDGER}-journal", *LEFTOVERS):
        shred(folder / name)
    with contextlib.suppress(OSError):
        folder.rmdir()
    sync_folder(folder.parent)


def check_not_beside(folder: Path) -> None:
    """Raises VaultReadOnlyError about a ledger beside another, which only its vault may change."""
    folder = folder.resolve()
    beside = (folder.parent / name for name in BESIDE)  # by another name too, on some systems
    is_one = any(one.exists() and folder.exists() and one.samefile(folder) for one in beside)
    if (is_one or folder.name in BESIDE) and os.path.lexists(folder.parent / _LEDGER):
        raise VaultReadOnlyError(
            f"{folder} belongs to the memory at {folder.parent}, with its lock and its key: open "
            "it with read_only=True to ask it, and delete from that memory, which reaches both"
        )
