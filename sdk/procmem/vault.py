"""The durable truth: what is remembered, in one SQLite ledger inside one private folder.

Takes records from `memory.py`, gives rows sorted by id to `index.py` and the bytes of erased
values to `residue.py`. Everything else procmem knows is derived from here (law 2).

    <vault>/ledger.sqlite    the ledger; `ledger.py` has its tables, docs/formats.md its bytes
    <vault>/KEY              what receipts are signed with; `key.py` makes and reads it
    <vault>/LOCK             locked by the one writer as long as it has the vault open
    <vault>/PURGE_PENDING    empty; there from before a delete until its purge is through

Promises: a call that returned is on the disk, a call that raised changed nothing, and a process
that dies leaves one or the other (law 6). One writer, any number of readers in other processes.
After `purge` the ledger is byte for byte the one of a vault that never held the deleted items,
written by the same SQLite (law 1). Never keeps a read open between calls, never writes when
opened read-only, and stores nothing about the order in which items came or went.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from procmem.errors import (
    InputError,
    VaultClosedError,
    VaultError,
    VaultFormatError,
    VaultReadOnlyError,
)
from procmem.folder import (
    LEFTOVERS,
    RETIRED,
    TEMPORARY,
    check_binding,
    damaged,
    folder_error,
    holds_vault,
    ledger_error,
    not_held,
)
from procmem.key import make_key
from procmem.ledger import (
    PAGE_BYTES,
    canonical_bytes,
    check_id,
    check_label,
    check_source,
    decode_text,
    encode_text,
    insert,
    read_checked_binding,
    write_copy,
    write_ledger,
)
from procmem.ledger import Binding as Binding
from procmem.ledger import Item as Item
from procmem.ledger import Record as Record
from procmem.lock import WriterLock, overwrite_with_zeros, shred
from procmem.manifest import sync_folder

_ROWS_AT_ONCE = 500
_RECORDS_AT_ONCE = 100  # with masks, some megabytes

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, eq=False)
class Contents:
    """All items of a vault at one moment.

    Attributes:
        items: ascending by id.
        vectors: (N, D) float16 in the same order, finite.
    """

    items: tuple[Item, ...]
    vectors: npt.NDArray[np.float16]


class Vault:
    """An open vault. Safe in threads; refuses to be used in a forked child.

    Args:
        path: the folder. It and its parents are made if missing.
        binding: the model to bind a new vault to, or that an existing one must be bound to. None
            accepts whatever an existing vault is bound to, and makes none.
        read_only: take no lock and write nothing; see other processes' changes at the next call.
        timeout_seconds: how long a call waits for readers or for the writer in mid-call.

    Attributes:
        path: the folder, absolute.
        binding: of the vault.
        read_only: as given.

    Raises:
        VaultLockedError: another writer has the vault open.
        VaultFormatError: no vault there, a foreign folder or file, damaged, or of a newer format.
        VaultReadOnlyError: the folder may not be written.
        VaultFullError: no room.
        EmbedderMismatchError: bound to another model.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        binding: Binding | None = None,
        read_only: bool = False,
        timeout_seconds: float = 10.0,
    ) -> None:
        self.path = Path(path).absolute()
        self.read_only = read_only
        self._ledger = self.path / "ledger.sqlite"
        self._journal = self.path / "ledger.sqlite-journal"
        self._marker = self.path / "PURGE_PENDING"
        self._timeout_seconds = timeout_seconds
        self._process = os.getpid()
        self._mutex = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._identity = (0, 0)  # device and inode of the file that the connection has open
        self._changes = 0  # connections opened and commits made: part of `state`
        self._lock: WriterLock | None = None
        self._wanted_binding = binding
        self._closed = False
        try:
            if not holds_vault(self.path) and (read_only or binding is None):
                raise VaultFormatError(
                    f"{self.path} holds no vault; check the path, or open it for writing with a "
                    "model to make one"
                )
            if not read_only:
                self._open_for_writing()
            self._rows("SELECT 1")  # connects, which sets `binding`
            if not read_only:
                self._make_key()
            if not read_only and self.purge_pending:
                self.purge()
        except BaseException as error:
            self.close()
            if isinstance(error, OSError) and not isinstance(error, VaultError):
                raise folder_error(error, self.path) from error
            raise

    # ---- reading

    @property
    def purge_pending(self) -> bool:
        """True if deleted items may have left remains that the next purge removes."""
        return self._marker.exists()

    def state(self) -> tuple[int, int]:
        """A value that is another one after every change, by whichever process. Cheap."""
        version = self._rows("PRAGMA data_version")[0][0]
        return self._changes, int(version)

    def load(self) -> Contents:
        """Reads all items and vectors in one consistent pass over the vault.

        Raises:
            VaultFormatError: a row is damaged.
        """
        rows = self._rows("SELECT id, label, source, added_seconds, vector FROM items ORDER BY id")
        self._check_rows(rows)
        stored = b"".join([row[4] for row in rows])
        vectors = np.frombuffer(stored, dtype="<f2").reshape(-1, self.binding.cls_dim)
        broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(broken):
            raise self._damaged(f"the vector of item {rows[broken[0]][0]} is not finite")
        return Contents(
            items=tuple([Item(id_, label, source, added) for id_, label, source, added, _ in rows]),
            vectors=vectors.astype(np.float16, copy=False),
        )

    def load_dense(self) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.uint8]]:
        """Reads patch tokens and masks of the items that have them, in one pass, by id.

        Returns:
            (M, h * w, P) int8 and (M, S, S) uint8.

        Raises:
            VaultFormatError: a row is damaged.
        """
        rows = self._rows("SELECT id, patches, mask FROM dense ORDER BY id")
        for row in rows:
            if not self._dense_fits(row):
                raise self._damaged(f"patches or mask of item {row[0]} have another size")
        side, shape = self.binding.side, (self.binding.patch_count, self.binding.patch_dim)
        patches = np.frombuffer(b"".join(row[1] for row in rows), dtype=np.int8)
        masks = np.frombuffer(b"".join(row[2] for row in rows), dtype=np.uint8)
        return patches.reshape(-1, *shape), masks.reshape(-1, side, side)

    def count(self) -> int:
        """How many items are held. Reads every page of them."""
        return int(self._rows("SELECT count(*) FROM items")[0][0])

    def count_dense(self) -> int:
        """How many items have a mask."""
        return int(self._rows("SELECT count(*) FROM dense")[0][0])

    def items(self, ids: Iterable[int] | None = None) -> Iterator[Item]:
        """Gives items ascending by id, some hundreds at a time; holds no lock in between.

        Args:
            ids: only these; None for all. Ids that are not held are passed over.
        """
        columns = "SELECT id, label, source, added_seconds FROM items"
        if ids is not None:
            for id_ in sorted(set(ids)):
                yield from (Item(*row) for row in self._rows(f"{columns} WHERE id = ?", (id_,)))
            return
        yield from (Item(*row) for row in self._walk("items", "label, source, added_seconds"))

    def ids(self, *, dense: bool = False) -> list[int]:
        """The ids of all items, ascending; only of those with a mask if `dense`."""
        table = "dense" if dense else "items"
        return [row[0] for row in self._rows(f"SELECT id FROM {table} ORDER BY id")]

    def records(self, ids: Iterable[int]) -> Iterator[Record]:
        """Gives items with all that is stored of them, one at a time, in the order of `ids`.

        Ids that are not held are passed over.

        Raises:
            VaultFormatError: a row is damaged.
        """
        grid = (self.binding.patch_count, self.binding.patch_dim)
        square = (self.binding.side, self.binding.side)
        sql = (
            "SELECT items.id, label, source, added_seconds, vector, patches, mask, dense.id "
            "FROM items LEFT JOIN dense ON items.id = dense.id WHERE items.id = ?"
        )
        for row in (row for id_ in ids for row in self._rows(sql, (id_,))):
            self._check_rows([row[:5]])
            vector = np.frombuffer(row[4], dtype="<f2").astype(np.float16, copy=False)
            if not np.isfinite(vector).all():
                raise self._damaged(f"the vector of item {row[0]} is not finite")
            item = Item(*row[:4])
            if row[7] is None:
                yield Record(item, vector)
                continue
            if not self._dense_fits((row[0], *row[5:7])):
                raise self._damaged(f"patches or mask of item {row[0]} have another size")
            patches = np.frombuffer(row[5], dtype=np.int8).reshape(grid)
            mask = np.frombuffer(row[6], dtype=np.uint8).reshape(square)
            yield Record(item, vector, patches, mask)

    def values(self, ids: Sequence[int] | None = None) -> Iterator[bytes]:
        """Gives the stored bytes of vectors, labels, sources, patches and masks.

        Args:
            ids: of these items; None for all. Ids that are not held are passed over.
        """
        tables = (("items", "vector, label, source"), ("dense", "patches, mask"))
        for table, columns in tables:
            if ids is None:
                rows = self._walk(table, columns)
            else:
                sql = f"SELECT id, {columns} FROM {table} WHERE id = ?"
                rows = (row for id_ in ids for row in self._rows(sql, (id_,)))
            for row in rows:
                for value in row[1:]:
                    stored = encode_text(value) if isinstance(value, str) else value
                    if stored is not None:
                        yield stored

    def canonical(self) -> Iterator[tuple[int, bytes]]:
        """Gives (id, canonical stored bytes) of all items ascending by id, in one pass.

        The bytes are `canonical_bytes` of vector, label, source, added_seconds (8 bytes, big
        endian, signed), patches and mask.

        Raises:
            VaultFormatError: a row is damaged.
        """
        last = 0
        sql = (
            "SELECT items.id, vector, CAST(label AS BLOB), CAST(source AS BLOB), added_seconds, "
            "patches, mask FROM items LEFT JOIN dense ON dense.id = items.id "
            f"WHERE items.id > ? ORDER BY items.id LIMIT {_ROWS_AT_ONCE}"
        )
        while rows := self._rows(sql, (last,)):
            for id_, vector, label, source, added, patches, mask in rows:
                try:
                    seconds = added.to_bytes(8, "big", signed=True)
                    stored = canonical_bytes(vector, label, source, seconds, patches, mask)
                except (AttributeError, TypeError) as error:
                    raise self._damaged(f"a column of item {id_} has another type") from error
                yield id_, stored
            last = rows[-1][0]

    def entitled(self) -> Iterator[bytes]:
        """Gives all bytes that the vault may hold: every value, and a ledger built from them.

        The latter is written beside the ledger from the values that were read, not from its
        pages, and removed again. With this the residue scan tells a remain from a coincidence.
        """
        yield from self.values()
        with self._mutex:
            self.check_writable()
            twin = self.path / TEMPORARY
            items = [
                (row[0], row[1], encode_text(row[2]), encode_text(row[3]), row[4])
                for row in self._rows("SELECT * FROM items ORDER BY id")
            ]
            dense = [(row[0], row[1], row[2]) for row in self._rows("SELECT * FROM dense")]
            try:
                with self._errors():
                    write_ledger(twin, self.binding, items, dense)
                data = twin.read_bytes()
            finally:
                shred(twin)
        yield data

    def problems(self) -> list[str]:
        """Reads everything and says what is wrong, one sentence each; empty if all is well."""
        found: list[str] = []
        try:
            checked = [str(row[0]) for row in self._rows("PRAGMA integrity_check")]
            found += [f"SQLite: {line}" for line in checked if line != "ok"]
            self.load()
            self.load_dense()
            low = self._rows("SELECT count(*) FROM items WHERE id < 1")[0][0]
            if low:
                found.append(f"{low} items have an id below 1")
            orphans = self._rows("SELECT id FROM dense EXCEPT SELECT id FROM items")
            if orphans:
                found.append(f"{len(orphans)} masks belong to no item")
        except VaultFormatError as error:
            found.append(str(error))
        return found

    # ---- writing

    def add(self, records: Iterable[Record]) -> None:
        """Adds all records or none. They are on the disk when the call returns.

        Args:
            records: taken some at a time; if they raise, nothing was added. Other processes may
                have to wait until the last one.

        Raises:
            InputError: an id is held already or given twice, or a value does not fit.
            VaultFullError, VaultReadOnlyError, VaultLockedError: nothing was added.
        """
        with self._mutex:
            self.check_writable()
            rest = iter(records)
            with self._transaction() as connection:
                while batch := list(islice(rest, _RECORDS_AT_ONCE)):
                    self._insert(connection, batch)

    def _insert(self, connection: sqlite3.Connection, records: Sequence[Record]) -> None:
        items = [self._item_row(record) for record in records]
        dense = [
            self._dense_row(record, record.patches, record.mask)
            for record in records
            if record.patches is not None and record.mask is not None
        ]
        uses = Counter(row[0] for row in items)
        taken = self.held(uses).union(id_ for id_, count in uses.items() if count > 1)
        if taken:
            raise InputError(
                f"id {min(taken)} (and {len(taken) - 1} more) is in the memory already or "
                "given twice; nothing was added: use other ids, or give none"
            )
        insert(connection, items, dense)

    def delete(self, ids: Iterable[int]) -> None:
        """Deletes all items of these ids or none, and marks the vault as due for a purge.

        SQLite zeroes the rows (secure_delete), but pages that were split or merged before may
        keep copies; `purge` removes those.

        Raises:
            ItemNotFoundError: an id is not held.
            VaultFullError, VaultReadOnlyError, VaultLockedError: nothing was deleted.
        """
        wanted = sorted(set(ids))
        with self._mutex:
            self.check_writable()
            missing = sorted(set(wanted) - self.held(wanted))
            if missing:
                raise not_held(self.path, missing)
            # The mark stays if the delete fails: whether a commit went through that did not
            # return is not known here, and a purge too many at the next opening costs nothing.
            self._mark()
            with self._transaction() as connection:
                for table in ("items", "dense"):
                    connection.executemany(
                        f"DELETE FROM {table} WHERE id = ?", [(id_,) for id_ in wanted]
                    )

    def held(self, ids: Iterable[int]) -> set[int]:
        """Those of the ids that the vault holds."""
        sql = "SELECT id FROM items WHERE id = ?"
        return {row[0] for id_ in ids for row in self._rows(sql, (id_,))}

    def purge(self) -> bool:
        """Rewrites the ledger from what it holds, replaces the old file and zeroes its bytes.

        Cost: reads and writes the whole vault, and waits for readers that are in mid-query.

        Returns:
            True if done. False if the system refused (no room for the copy, readers that do not
            leave): the log says why, the vault is as it was, and the purge stays pending.

        Raises:
            VaultReadOnlyError, VaultClosedError: the vault is not open for writing.
        """
        with self._mutex:
            self.check_writable()
            try:
                self._mark()
                with self._errors():
                    self._replace_ledger()
                self._unmark()
            except (VaultError, OSError) as error:
                _log.warning("%s: the purge stays pending: %s", self.path, error)
                return False
            return True

    def release_ledger(self) -> None:
        """Closes the ledger until the next call needs it, so that its file may be read raw.

        POSIX drops all of a process's locks on a file when it closes any descriptor to it.
        """
        with self._mutex:
            self._disconnect()

    def close(self) -> None:
        """Closes the ledger and gives up the lock. Further calls raise; closing again is fine."""
        # A fork's copy of the connection must not be touched: it shares the parent's files.
        if self._process != os.getpid():
            return
        with self._mutex:
            self._closed = True
            try:
                self._disconnect()
                if self._lock is not None:
                    self._remove_empty_journal()
            finally:
                if self._lock is not None:
                    self._lock.release()
                    self._lock = None

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()

    # ---- opening

    def _open_for_writing(self) -> None:
        if not self.path.exists():
            self.path.mkdir(mode=0o700, parents=True)
            sync_folder(self.path.parent)
        self._lock = WriterLock(self.path / "LOCK")
        self._remove_leftovers()
        if self._ledger.exists() or self._wanted_binding is None:
            return
        self.path.chmod(0o700)
        with self._errors():
            write_ledger(self.path / TEMPORARY, self._wanted_binding)
        (self.path / TEMPORARY).replace(self._ledger)
        sync_folder(self.path)

    def _make_key(self) -> None:
        # Only receipts need it: a vault on a disk without room must still open and forget.
        try:
            make_key(self.path)
        except OSError as error:
            _log.warning("%s: no key could be made, so no receipts: %s", self.path, error)

    def _remove_leftovers(self) -> None:
        """Removes what a process that died in mid-purge left, and zeroes it first."""
        for path in (self.path / name for name in LEFTOVERS):
            # A second name of the living ledger: only the name is too much.
            if path.exists() and self._ledger.exists() and path.samefile(self._ledger):
                path.unlink()
            else:
                shred(path)
        sync_folder(self.path)

    def _connect(self) -> sqlite3.Connection:
        """Opens the ledger that the path names now, after checking that it is one of ours."""
        while True:
            try:
                status = self._ledger.stat()
            except FileNotFoundError as error:
                raise VaultFormatError(
                    f"{self._ledger} is gone: moved or deleted while the vault was open"
                ) from error
            connection = sqlite3.connect(
                f"{self._ledger.as_uri()}?mode={'ro' if self.read_only else 'rw'}",
                uri=True,
                isolation_level=None,
                check_same_thread=False,
                timeout=self._timeout_seconds,
            )
            try:
                connection.text_factory = decode_text
                self._identity = (status.st_dev, status.st_ino)
                binding = read_checked_binding(connection, self._ledger)
                check_binding(self.path, binding, self._wanted_binding)
                pages = connection.execute("PRAGMA page_count").fetchone()[0]
                # SQLite notices missing pages, but not a last one that is cut short.
                if self._ledger.stat().st_size < pages * PAGE_BYTES:
                    raise self._damaged(f"it is shorter than its {pages} pages")
                if not self.read_only:
                    for pragma in (
                        "journal_mode=TRUNCATE",
                        "synchronous=EXTRA",
                        "secure_delete=ON",
                    ):
                        connection.execute(f"PRAGMA {pragma}")
                # Sorters must not spill private rows into the system's folder for temporaries.
                connection.execute("PRAGMA temp_store=MEMORY")
                if not self._replaced():
                    self.binding = self._wanted_binding = binding
                    self._changes += 1
                    return connection
            except BaseException as error:
                connection.close()
                if isinstance(error, Exception) and self._replaced():
                    continue
                raise
            connection.close()

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _replaced(self) -> bool:
        """True if the path no longer names the file that the connection has open."""
        try:
            status = self._ledger.stat()
        except FileNotFoundError:
            return True
        return (status.st_dev, status.st_ino) != self._identity

    # ---- running

    def _check_usable(self) -> None:
        if self._process != os.getpid():
            raise VaultError(
                f"{self.path} was opened by process {self._process} and is used in its fork "
                f"{os.getpid()}; open it there anew, with read_only=True while the first has it"
            )
        if self._closed:
            raise VaultClosedError(f"{self.path} is closed; open it again")

    def check_writable(self) -> None:
        """Raises unless the vault is open for writing."""
        self._check_usable()
        if self.read_only:
            raise VaultReadOnlyError(
                f"{self.path} was opened with read_only=True; open it without, to change it"
            )

    def _rows(self, sql: str, parameters: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query on the ledger that is current when the call begins."""
        return self._run(lambda connection: connection.execute(sql, parameters).fetchall())

    def _walk(self, table: str, columns: str) -> Iterator[tuple[Any, ...]]:
        """All rows of a table by id, in queries of `_ROWS_AT_ONCE` rows, id first."""
        last = 0
        sql = f"SELECT id, {columns} FROM {table} WHERE id > ? ORDER BY id LIMIT {_ROWS_AT_ONCE}"
        while rows := self._rows(sql, (last,)):
            yield from rows
            last = rows[-1][0]

    def _run(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        with self._mutex:
            self._check_usable()
            while True:
                if self._connection is not None and self._replaced():
                    # Nobody but the writer may replace the ledger.
                    if not self.read_only:
                        raise VaultError(
                            f"{self._ledger} was moved, deleted or replaced by someone else "
                            "while it was open; close this memory and open it again"
                        )
                    self._disconnect()
                with self._errors():
                    if self._connection is None:
                        self._connection = self._connect()
                    try:
                        return work(self._connection)
                    except sqlite3.DatabaseError:
                        # A reader that waited while the writer purged meets the zeroed old file.
                        if not self._replaced():
                            raise

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Commits what the block does, or undoes all of it. The mutex is held by the caller."""
        connection = self._run(lambda current: current)
        with self._errors():
            try:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        self._changes += 1

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turns errors of SQLite into ours."""
        try:
            yield
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise ledger_error(
                error,
                self._ledger,
                read_only=self.read_only,
                timeout_seconds=self._timeout_seconds,
            ) from error

    # ---- purging

    def _replace_ledger(self) -> None:
        connection = self._run(lambda current: current)
        copy, retired = self.path / TEMPORARY, self.path / RETIRED
        descriptor = -1
        try:
            write_copy(connection, copy)
            # A second name keeps the old bytes in reach until they are zeroed, even over a crash.
            # Where the file system has no links, the open descriptor must do.
            with contextlib.suppress(OSError):
                os.link(self._ledger, retired)
            if os.name == "nt":
                self._disconnect()  # Windows replaces no file that is open
            else:
                # No reader is inside while this is held, and none gets in before the bytes are
                # zeroed. The descriptor is closed after the connection: closing it drops the lock.
                connection.execute("BEGIN EXCLUSIVE")
                descriptor = os.open(self._ledger, os.O_RDWR)
            copy.replace(self._ledger)
            sync_folder(self.path)
            if descriptor >= 0:
                overwrite_with_zeros(descriptor)
                retired.unlink(missing_ok=True)
        finally:
            self._disconnect()
            if descriptor >= 0:
                os.close(descriptor)
            self._remove_leftovers()
            self._remove_empty_journal()

    def _mark(self) -> None:
        try:
            self._marker.touch(mode=0o600)
            sync_folder(self.path)
        except OSError as error:
            raise folder_error(error, self.path) from error

    def _unmark(self) -> None:
        self._marker.unlink(missing_ok=True)
        sync_folder(self.path)

    def _remove_empty_journal(self) -> None:
        # One that is not empty is the way back from a crash. An empty one says nothing and harms
        # nothing, so that a disk which refuses to remove it fails no call.
        with contextlib.suppress(OSError):
            if self._journal.stat().st_size == 0:
                self._journal.unlink()

    # ---- checking

    def _item_row(self, record: Record) -> tuple[int, bytes, bytes | None, bytes | None, int]:
        item, vector = record.item, record.vector
        check_id(item.id)
        check_label(item.label)
        check_source(item.source)
        if vector.shape != (self.binding.cls_dim,) or not np.isfinite(vector).all():
            raise InputError(
                f"the vector of item {item.id} has shape {vector.shape}, wanted "
                f"({self.binding.cls_dim},) finite numbers: embed with {self.binding.name}"
            )
        stored = vector.astype("<f2").tobytes()
        label, source = encode_text(item.label), encode_text(item.source)
        return item.id, stored, label, source, item.added_seconds

    def _dense_row(
        self, record: Record, patches: npt.NDArray[np.int8], mask: npt.NDArray[np.uint8]
    ) -> tuple[int, bytes, bytes]:
        row = (record.item.id, patches.tobytes(), mask.tobytes())
        if not self._dense_fits(row):
            raise InputError(
                f"item {record.item.id} has patches {patches.shape} and a mask {mask.shape}, "
                f"which are not those of {self.binding.name}: embed with it"
            )
        return row

    def _dense_fits(self, row: tuple[Any, ...]) -> bool:
        patches, mask = row[1:]
        sizes = (self.binding.patch_count * self.binding.patch_dim, self.binding.side**2)
        both = isinstance(patches, bytes) and isinstance(mask, bytes)
        return both and (len(patches), len(mask)) == sizes

    def _check_rows(self, rows: Sequence[tuple[Any, ...]]) -> None:
        size, texts = 2 * self.binding.cls_dim, (str, type(None))
        for id_, label, source, added_seconds, vector in rows:
            if (
                type(label) not in texts
                or type(source) not in texts
                or type(added_seconds) is not int
            ):
                raise self._damaged(f"a column of item {id_} has another type")
            if type(vector) is not bytes or len(vector) != size:
                raise self._damaged(f"the vector of item {id_} has another size")

    def _damaged(self, what: str) -> VaultFormatError:
        return damaged(self._ledger, what)
