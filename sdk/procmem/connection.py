"""The open ledger of a vault: one SQLite connection that follows the file when it is replaced.

Used by `vault.py`, which says what to read and write. Here is how: one call at a time, in this
process only, on the file that the path names at the beginning of the call, with errors of SQLite
turned into ours.

Promises: no read is kept open between calls; a read-only connection writes nothing; the writer
refuses a file that somebody put in place of its own; a child that was forked is refused, and a call
from within a transaction. A call that an exception ends at any moment, Ctrl-C too, leaves a
connection that goes on with the next one.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from procmem.errors import VaultClosedError, VaultError, VaultFormatError, VaultKeyError
from procmem.folder import check_binding, damaged, ledger_error
from procmem.ledger import FORMAT_VERSION, PAGE_BYTES, Head, Seal, read_head, read_version
from procmem.record import Binding
from procmem.rows import PlainRows, Row, Rows
from procmem.seal import KeyPlace, fingerprint

# Of every ledger that is written.
_WRITING = ("journal_mode=TRUNCATE", "synchronous=EXTRA", "secure_delete=ON")

SCHEMA_BESIDE = "beside"
"""And a number: the schema of a further ledger in a transaction."""

_T = TypeVar("_T")


class Connection:
    """See the module. Opens the ledger with the first call, and again after `disconnect`.

    Args:
        ledger: path of the file, absolute.
        read_only: as the vault.
        timeout_seconds: how long a call waits for other processes.
        binding: the model that the ledger must be bound to; None accepts any.
        key_place: where the key of a sealed ledger is; None refuses one.

    Attributes:
        mutex: held during each call; may be held over several.
        head: what the ledger says of itself, once it was opened.
        form: how items stand in its rows, once it was opened.
        changes: openings and commits so far. Counted before a commit, not after it: where a call
            ends in between, the number says too much and never too little.
    """

    head: Head
    form: Rows

    def __init__(
        self,
        ledger: Path,
        *,
        read_only: bool,
        timeout_seconds: float,
        binding: Binding | None,
        key_place: KeyPlace | None,
    ) -> None:
        self.ledger, self.read_only = ledger, read_only
        self.mutex = threading.RLock()
        self.changes = 0
        self._timeout_seconds = timeout_seconds
        self._binding, self._key_place = binding, key_place
        self._process = os.getpid()
        self._open: sqlite3.Connection | None = None
        self._identity = (0, 0)  # device and inode of the file that is open
        self._within = False  # a transaction of ours, see `check_alone`
        self._replacing = False
        self._attached = False  # a transaction's further ledgers
        self._closed = False
        _connections.add(self)

    # ---- calls

    def check_usable(self) -> None:
        """Raises unless this is the process that made it, and it is not closed."""
        if self.is_foreign:
            raise VaultError(
                f"{self.ledger.parent} was opened by process {self._process} and is used in its "
                f"fork {os.getpid()}; open it there anew, with read_only=True while the first has "
                "it"
            )
        if self._closed:
            raise VaultClosedError(f"{self.ledger.parent} is closed; open it again")

    def check_alone(self) -> None:
        """Raises in a call that came out of a transaction, and waits for those of other threads.

        What is called back while one goes on (`progress=`, an iterator that gives records) would
        otherwise end it half-way, or see what may never be.
        """
        with self.mutex:
            if self._within and self._open is not None and self._open.in_transaction:
                raise VaultError(
                    f"{self.ledger.parent} is in the middle of another call, which this one was "
                    "made from (from progress=, or from an iterator that gives records or images); "
                    "call when that has returned"
                )

    @property
    def is_foreign(self) -> bool:
        """True in a forked child, which must touch nothing: it shares the parent's files."""
        return self._process != os.getpid()

    def rows(self, sql: str, parameters: Row = ()) -> list[Row]:
        """All rows of a query on the ledger that is current when the call begins."""
        return self.run(lambda connection: connection.execute(sql, parameters).fetchall())

    def snapshot(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """The result of several queries on one state of the ledger."""

        def within(connection: sqlite3.Connection) -> _T:
            try:  # two of them: what interrupts the inner `finally` leaves the outer one to be run
                try:
                    self._within = True
                    connection.execute("BEGIN")
                    return work(connection)
                finally:
                    self._end_what_was_left(connection)
            finally:
                self._within = False

        with self.mutex:
            self.check_alone()
            return self.run(within)

    def _end_what_was_left(self, connection: sqlite3.Connection) -> None:
        """Undoes a transaction that has not come to its end, and lets go of its ledgers."""
        if self.is_foreign:  # forked off in the middle of it: it is the parent's to end
            return
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        if self._attached:
            for _, schema, _ in connection.execute("PRAGMA database_list").fetchall():
                if schema.startswith(SCHEMA_BESIDE):
                    connection.execute(f"DETACH DATABASE {schema}")
            self._attached = False

    def run(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """The result of `work` on the ledger that is current when the call begins."""
        with self.mutex:
            self.check_usable()
            while True:
                if self._open is not None and self._replaced():
                    # Nobody but the writer may replace the ledger.
                    if not self.read_only and not self._replacing:
                        raise self._moved()
                    self.disconnect()
                with self.errors():
                    if self._open is None:
                        self._open = self._connect()
                    elif not self._within:
                        self._end_what_was_left(self._open)
                    try:
                        return work(self._open)
                    except sqlite3.DatabaseError:
                        # A reader that waited while the writer purged meets the zeroed old file.
                        if not self._replaced():
                            raise

    @contextlib.contextmanager
    def transaction(self, *, along: Sequence[Connection] = ()) -> Iterator[sqlite3.Connection]:
        """Commits what the block does, or undoes all of it. The caller holds the mutex.

        What the block raises is passed on as it is, so that it turns errors of SQLite into ours
        itself, by `errors`.

        Args:
            along: to further ledgers that the block changes, as the schemas `beside0`, `beside1`
                and so on. All of them are changed or none, over a crash too (SQLite's
                super-journal).
        """
        self.check_alone()
        connection = self.run(lambda current: current)
        try:  # see `snapshot`
            try:
                self._within = True
                with self.errors():
                    self._attach(connection, along)
                    connection.execute("BEGIN IMMEDIATE")
                yield connection  # outside `errors`: the block may run what is not ours
                self.check_usable()
                with self.errors():
                    for changed in (self, *along):
                        changed.changes += 1
                    connection.execute("COMMIT")
            finally:
                with self.errors():
                    self._end_what_was_left(connection)
        finally:
            self._within = False

    def _attach(self, connection: sqlite3.Connection, along: Sequence[Connection]) -> None:
        self._attached = bool(along)
        for at, other in enumerate(along):
            uri = f"{other.ledger.as_uri()}?mode=rw"
            connection.execute(f"ATTACH DATABASE ? AS {SCHEMA_BESIDE}{at}", (uri,))
            for pragma in _WRITING:
                connection.execute(f"PRAGMA {SCHEMA_BESIDE}{at}.{pragma}")

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Turns errors of SQLite into ours."""
        try:
            yield
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise ledger_error(
                error,
                self.ledger,
                read_only=self.read_only,
                timeout_seconds=self._timeout_seconds,
            ) from error

    def disconnect(self) -> None:
        """Closes the file until the next call."""
        left, self._open = self._open, None
        if left is not None:
            left.close()

    def expect_replacement(self) -> None:
        """Takes what stands in the file's place from now on for its own, until it is opened."""
        self._replacing = True

    def accept_any_model(self) -> None:
        """Is bound to whatever the ledger is bound to when it is next opened."""
        self._binding = None

    def close(self) -> None:
        """Closes the file; further calls raise."""
        self._closed = True
        self.disconnect()

    # ---- opening

    def _connect(self) -> sqlite3.Connection:
        """Opens the ledger that the path names now, after checking that it is one of ours."""
        while True:
            with _pinned(self.ledger) as self._identity:
                connection = sqlite3.connect(
                    f"{self.ledger.as_uri()}?mode={'ro' if self.read_only else 'rw'}",
                    uri=True,
                    isolation_level=None,
                    check_same_thread=False,
                    timeout=self._timeout_seconds,
                )
                try:
                    head, form = self._checked(connection)
                    if not self.read_only:
                        for pragma in _WRITING:
                            connection.execute(f"PRAGMA {pragma}")
                    # Sorters must not spill private rows into the system's folder for temporaries.
                    connection.execute("PRAGMA temp_store=MEMORY")
                    if not self._replaced():
                        self.head, self.form = head, form
                        self._binding = head.binding
                        self.changes += 1
                        self._replacing = False
                        return connection
                except BaseException as error:
                    connection.close()
                    if isinstance(error, Exception) and self._replaced():
                        continue
                    raise
                connection.close()

    def _checked(self, connection: sqlite3.Connection) -> tuple[Head, Rows]:
        version = read_version(connection, self.ledger)
        if version < FORMAT_VERSION:
            raise VaultFormatError(
                f"{self.ledger} has the older format version {version}; open it once without "
                "read_only=True, which brings it to the present one"
            )
        head = read_head(connection, self.ledger)
        check_binding(self.ledger.parent, head.binding, self._binding)
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        # SQLite notices missing pages, but not a last one that is cut short.
        if self.ledger.stat().st_size < pages * PAGE_BYTES:
            raise damaged(self.ledger, f"it is shorter than its {pages} pages")
        if head.seal is None:
            if self._key_place is not None:
                raise VaultKeyError(
                    f"{self.ledger.parent} is not sealed and needs no key; open it without one. "
                    "To seal what it holds, export it and import that into a new sealed vault"
                )
            return head, PlainRows()
        return head, self._sealed(head.seal, head.binding)

    def _sealed(self, seal: Seal, binding: Binding) -> Rows:
        from procmem.sealed import SealedRows  # cryptography takes a moment to import

        if self._key_place is None:
            raise VaultKeyError(
                f"{self.ledger.parent} is sealed; give its key: key='keystore', or the path of its "
                "key file"
            )
        for key in self._key_place.keys(seal.id):
            if fingerprint(key) == seal.epoch:
                return SealedRows(key, binding.sha256)
        raise VaultKeyError(
            f"the key that is kept for {self.ledger.parent} does not open it: the vault is a copy "
            "from before a deletion, or the key is; nobody can read this copy any more"
        )

    def apart(self) -> Callable[[], sqlite3.Connection]:
        """Gives a function that opens a further connection to the file that is open, to read it.

        It may be called in another thread, while this one is in the middle of a call.

        Raises:
            VaultError: the further one would be to another file.
        """
        self.rows("SELECT 1")

        def connect() -> sqlite3.Connection:
            opened = sqlite3.connect(
                f"{self.ledger.as_uri()}?mode=ro",
                uri=True,
                isolation_level=None,
                timeout=self._timeout_seconds,
            )
            if self._replaced():
                opened.close()
                raise self._moved()
            return opened

        return connect

    def _moved(self) -> VaultError:
        return VaultError(
            f"{self.ledger} was moved, deleted or replaced by someone else while it was open; "
            "close this memory and open it again"
        )

    def _replaced(self) -> bool:
        """True if the path no longer names the file that the connection has open."""
        try:
            status = self.ledger.stat()
        except FileNotFoundError:
            return True
        return (status.st_dev, status.st_ino) != self._identity


_connections: weakref.WeakSet[Connection] = weakref.WeakSet()


def _leave_to_the_parent() -> None:
    """Keeps a forked child from ever closing what it shares with its parent.

    Closing undoes a transaction that is open, on the file from which the parent goes on to commit.
    """
    for connection in list(_connections):
        if connection._open is not None:  # never freed: not when Python ends either
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection._open))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_the_parent)


@contextlib.contextmanager
def _pinned(path: Path) -> Iterator[tuple[int, int]]:
    """Gives a file's device and inode, which no other file gets until the block is left.

    A file system may give a removed file's inode to the next one. Two purges while a reader
    connects would then bring a file's number back, and the reader would take one for the other.
    """
    descriptor = -1
    try:
        # Linux only; elsewhere inodes do not come back so soon. This kind of descriptor, unlike
        # others, drops none of the process's locks on the file when it is closed.
        if hasattr(os, "O_PATH"):
            descriptor = os.open(path, os.O_PATH)
        status = path.stat() if descriptor < 0 else os.fstat(descriptor)
    except FileNotFoundError as error:
        raise VaultFormatError(
            f"{path} is gone: moved or deleted while the vault was open"
        ) from error
    try:
        yield status.st_dev, status.st_ino
    finally:
        if descriptor >= 0:
            os.close(descriptor)
