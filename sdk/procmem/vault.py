"""The durable truth: what is remembered, in one SQLite ledger inside one private folder.

Takes records from `memory.py`, gives rows sorted by id to `index.py` and the bytes of erased
values to `residue.py`. Everything else procmem knows is derived from here (law 2).

    <vault>/ledger.sqlite    the ledger; `rows.py` has its tables, docs/formats.md its bytes
    <vault>/KEY              what receipts are signed with; `key.py` makes and reads it
    <vault>/REVOKED          ids that never come back; `revoked.py` writes and reads it
    <vault>/LOCK             locked by the one writer as long as it has the vault open
    <vault>/PURGE_PENDING    empty; there from before a delete until its purge is through
    <vault>/next, previous   while its items go over to another model; `beside.py`

The rows may be sealed, see `sealed.py`; the key that opens them is then kept elsewhere, `seal.py`.

Promises: a call that returned is on the disk, a call that raised changed nothing, and a process
that dies leaves one or the other (law 6). One writer, any number of readers in other processes.
After `purge` a plain ledger is byte for byte the one of a vault that never held the deleted items,
written by the same SQLite (law 1); a sealed one is of new random bytes. Never keeps a read open
between calls, never writes when opened read-only, and stores nothing about the order in which
items came or went.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from procmem.beside import NEXT, PREVIOUS, Beside, WithBeside, check_not_beside
from procmem.checking import CheckApart, Flag
from procmem.committer import Committer
from procmem.connection import SCHEMA_BESIDE, Connection
from procmem.errors import (
    InputError,
    VaultError,
    VaultFormatError,
    VaultFullError,
    VaultKeyError,
    VaultReadOnlyError,
)
from procmem.folder import (
    TEMPORARY,
    check_new,
    folder_error,
    holds_vault,
    not_held,
)
from procmem.founding import has_key, write_first_ledger
from procmem.key import make_key
from procmem.ledger import FORMAT_VERSION, read_version
from procmem.lock import WriterLock
from procmem.manifest import sync_folder
from procmem.migration import write_migrated
from procmem.purge import (
    leave_further_names,
    remove_empty_journal,
    remove_leftovers,
    replace_ledger,
)
from procmem.record import Binding, Record, check_id
from procmem.residue import Search
from procmem.revoked import Ids, RevokedIds
from procmem.seal import KeyFile, fingerprint, key_place, new_key
from procmem.writer import LedgerWriter

_RECORDS_AT_ONCE = 100  # with masks, some megabytes

_log = logging.getLogger(__name__)


class Vault(WithBeside):
    """An open vault. Safe in threads; refuses to be used in a forked child.

    Args:
        path: the folder. It and its parents are made if missing.
        binding: the model to bind a new vault to, or that an existing one must be bound to. None
            accepts whatever an existing vault is bound to, and makes none.
        read_only: take no lock and write nothing; see other processes' changes at the next call.
        timeout_seconds: how long a call waits for readers or for the writer in mid-call.
        key: of a sealed vault, "keystore" or the path of a key file; makes a new vault sealed.

    Attributes:
        path: the folder, absolute.
        read_only: as given.
        revoked: ids of which nothing is taken in.
        mutex: held during each call; may be held over several.

    Raises:
        VaultLockedError: another writer has the vault open.
        VaultFormatError: no vault there, a foreign folder or file, damaged, or of a newer format.
        VaultReadOnlyError: the folder may not be written.
        VaultFullError: no room.
        VaultKeyError: the vault is sealed and the key does not open it, or it is not sealed.
        MissingExtraError: "keystore" without the package keyring.
        EmbedderMismatchError: bound to another model.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        binding: Binding | None = None,
        read_only: bool = False,
        timeout_seconds: float = 10.0,
        key: str | os.PathLike[str] | None = None,
    ) -> None:
        self.path = Path(path).absolute()
        self.read_only = read_only
        if not read_only:
            check_not_beside(self.path)
        self._made_folder = False
        self._marker = self.path / "PURGE_PENDING"
        self._key_place = None if key is None else key_place(key)
        self._lock: WriterLock | None = None
        self.revoked = RevokedIds(self.path, read_only=read_only)
        connection = Connection(
            self.path / "ledger.sqlite",
            read_only=read_only,
            timeout_seconds=timeout_seconds,
            binding=binding,
            key_place=self._key_place,
        )
        super().__init__(connection, timeout_seconds=timeout_seconds)
        self.mutex = connection.mutex
        try:
            new = not holds_vault(self.path)
            if isinstance(self._key_place, KeyFile):
                self._check_key_is_elsewhere(self._key_place.path, new=new)
            if new and (read_only or binding is None):
                raise VaultFormatError(
                    f"{self.path} holds no vault; check the path, or open it for writing with a "
                    "model to make one"
                )
            if not read_only:
                self._open_for_writing(binding)
            self._connection.rows("SELECT 1")  # connects, which tells the head
            if not read_only:
                self._make_key()
                self.settle_beside()
                self._drop_other_keys()
            if not read_only and self.purge_pending:
                if self._revocation_is_due():
                    self.delete(self.held_though_revoked())
                self.purge()
        except BaseException as error:
            self._leave_no_empty_folder()
            self.close()
            if isinstance(error, OSError) and not isinstance(error, VaultError):
                raise folder_error(error, self.path) from error
            raise

    # ---- reading

    @property
    def purge_pending(self) -> bool:
        """True if deleted items may have left remains that the next purge removes."""
        return self._marker.exists()

    def entitled(self) -> Iterator[bytes]:
        """Gives all bytes that the vault may hold: every value, and a ledger built from them.

        The latter is written beside the ledger from the values that were read, not from its
        pages, and removed again. With this the residue scan tells a remain from a coincidence.
        What nearly all coincidences are comes first: folders and labels that others share.
        """
        yield from self.texts()
        yield from self.values()
        with self.mutex:
            self.check_writable()
            for ledger in self._ledgers():
                try:
                    yield ledger.twin()
                except VaultFullError as error:
                    _log.warning(
                        "%s: what was found may be nothing but chance: %s", self.path, error
                    )

    # ---- writing

    def add(self, records: Iterable[Record]) -> None:
        """Adds all records or none. They are on the disk when the call returns.

        Args:
            records: taken some at a time; if they raise, nothing was added. Other processes may
                have to wait until the last one.

        Raises:
            InputError: an id is held already, given twice or revoked, or a value does not fit.
            VaultFullError, VaultReadOnlyError, VaultLockedError: nothing was added.
        """
        self._write(records, replace=False)

    def put(self, records: Iterable[Record]) -> None:
        """As `add`, but a record takes the place of the item of its id, if one is held.

        What was replaced, in the ledgers beside the vault's own too, is due for a purge.
        """
        self._write(records, replace=True)

    def _write(self, records: Iterable[Record], *, replace: bool) -> None:
        with self.mutex:
            self.check_writable()
            rest = iter(records)
            others = list(self.open_beside.values()) if replace else []
            with self._transaction(others) as connection:
                while batch := list(islice(rest, _RECORDS_AT_ONCE)):
                    for record in batch:
                        check_id(record.item.id)
                    uses = Counter(record.item.id for record in batch)
                    self.revoked.refuse(uses)
                    held = self.held(uses)
                    if replace and held:
                        self.mark()
                        self._remove_everywhere(connection, others, sorted(held))
                    check_new(uses, set() if replace else held)
                    self.insert(connection, batch)

    def delete(self, ids: Iterable[int]) -> None:
        """Deletes all items of these ids or none, and marks the vault as due for a purge.

        From the ledgers beside the vault's own too.

        SQLite zeroes the rows (secure_delete), but pages that were split or merged before may
        keep copies; `purge` removes those.

        Raises:
            ItemNotFoundError: an id is not held.
            VaultFullError, VaultReadOnlyError, VaultLockedError: nothing was deleted.
        """
        wanted = sorted(set(ids))
        with self.mutex:
            self.check_writable()
            missing = sorted(set(wanted) - self.held(wanted))
            if missing:
                raise not_held(self.path, missing)
            # The mark stays if the delete fails: whether a commit went through that did not
            # return is not known here, and a purge too many at the next opening costs nothing.
            self.mark()
            others = [other for other in self.open_beside.values() if other.held(wanted)]
            with self._transaction(others) as connection:
                self._remove_everywhere(connection, others, wanted)

    def _transaction(
        self, others: Sequence[Beside]
    ) -> contextlib.AbstractContextManager[sqlite3.Connection]:
        return self._connection.transaction(along=[other.connection for other in others])

    def _remove_everywhere(
        self, connection: sqlite3.Connection, others: Sequence[Beside], ids: Sequence[int]
    ) -> None:
        """Removes items from the vault's own ledger and those that a transaction has attached."""
        self.remove(connection, ids)
        for at, other in enumerate(others):
            other.remove(connection, ids, schema=f"{SCHEMA_BESIDE}{at}")

    def set_revoked(self, ids: Ids) -> None:
        """Remembers exactly these ids as revoked, durably: no item of theirs is taken in again.

        Those that are held are to be deleted next. If that does not come about, the next opening
        for writing does it: a purge is due from before this on.

        Raises:
            VaultFullError, VaultReadOnlyError: nothing changed.
        """
        with self.mutex:
            self.check_writable()
            if len(np.intersect1d(ids, self.erasable_ids())):
                self.mark()
            self.revoked.replace(ids)

    def held_though_revoked(self) -> list[int]:
        """The ids of items that a crash left between `set_revoked` and the deletion, ascending."""
        if not len(self.revoked.all()):
            return []  # without reading all ids
        return sorted(self.revoked.among(self.erasable_ids()))

    def problems(self) -> list[str]:
        """See `LedgerReader.problems`; looks at the revoked ids too."""
        found = super().problems()
        try:
            left = self.held_though_revoked()
        except VaultError as error:
            return found if str(error) in found else [*found, str(error)]
        if left and not self.purge_pending:
            found.append(f"{len(left)} items are held that were revoked; delete them")
        return found

    def purge(self, *, search: Search | None = None, committer: Committer | None = None) -> bool:
        """Rewrites the ledger from what it holds, replaces the old file and zeroes its bytes.

        Those beside it too; a `previous` without items goes. Cost: reads the whole vault twice,
        writes it, and waits for readers that are in mid-query.

        Args:
            search: learns what labels and sources are held, as they are read, in another thread;
                as far as they are stored in clear, and not all if it fails. Looks into the new
                ledgers while the old ones are zeroed.
            committer: is given likewise all items that are held, but not those of `next`.

        Returns:
            True if done. False if the system refused (no room for the copy, readers that do not
            leave) or the ledger is damaged, of which nothing must be lost: the log says why, the
            vault is as it was, and the purge stays pending.

        Raises:
            VaultReadOnlyError, VaultClosedError: the vault is not open for writing.
        """
        with self.mutex:
            self.check_writable()
            try:
                self.mark()
                checks = [
                    self._check_apart(ledger, search, committer) for ledger in self._ledgers()
                ]
                # Meanwhile the copy is written: both take long, and need different things.
                with self._connection.errors(), CheckApart(checks) as check:
                    self._rewrite(check, search)
                if PREVIOUS in self.open_beside and not self.open_beside[PREVIOUS].count():
                    self.drop_beside(PREVIOUS)
                if not self._revocation_is_due():
                    self._unmark()
            except (VaultError, OSError) as error:
                _log.warning("%s: the purge stays pending: %s", self.path, error)
                return False
            return True

    def release_ledger(self) -> None:
        """Closes the ledger until the next call needs it, so that its file may be read raw.

        POSIX drops all of a process's locks on a file when it closes any descriptor to it.
        """
        with self.mutex:
            for ledger in self._ledgers():
                ledger.connection.disconnect()

    def close(self) -> None:
        """Closes the ledger and gives up the lock. Further calls raise; closing again is fine."""
        # A fork's copy of the connection must not be touched: it shares the parent's files.
        if self._connection.is_foreign:
            return
        with self.mutex:
            try:
                self._connection.close()
                for other in self.open_beside.values():
                    other.close()
                if self._lock is not None:
                    remove_empty_journal(self._ledger)
            finally:
                if self._lock is not None:
                    self._lock.release()
                    self._lock = None

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()

    def check_writable(self) -> None:
        """Raises unless the vault is open for writing; in the middle of a change too."""
        self._connection.check_usable()
        self._connection.check_alone()
        if self.read_only:
            raise VaultReadOnlyError(
                f"{self.path} was opened with read_only=True; open it without, to change it"
            )

    # ---- opening

    def _open_for_writing(self, binding: Binding | None) -> None:
        if not self.path.exists():
            made = [self.path, *self.path.parents]
            made = made[: next(at for at, folder in enumerate(made) if folder.exists())]
            self.path.mkdir(mode=0o700, parents=True)
            self._made_folder = True
            for folder in made:
                sync_folder(folder.parent)
        self._lock = WriterLock(self.path / "LOCK")
        new = self.path / TEMPORARY
        if not self._ledger.exists() and has_key(new, self._key_place):
            self._take_new_ledger()
        remove_leftovers(self._ledger)
        if self._ledger.exists():
            leave_further_names(self._ledger)
            self._migrate()
        elif binding is not None:
            self.path.chmod(0o700)
            with self._connection.errors():
                write_first_ledger(new, binding, self._key_place)
            self._take_new_ledger()

    def _leave_no_empty_folder(self) -> None:
        """Removes a folder that was made for a vault that could not be made in it."""
        if self._lock is None or not self._made_folder:
            return
        with contextlib.suppress(OSError):  # somebody else has begun one there, or removed it
            if [*self.path.iterdir()] == [self.path / "LOCK"]:
                self._lock.remove()
                self.path.rmdir()

    def _take_new_ledger(self) -> None:
        (self.path / TEMPORARY).replace(self._ledger)
        sync_folder(self.path)

    def _migrate(self) -> None:
        """Brings a ledger of an older format to the present one."""
        with self._connection.errors():
            # It is closed in the thread that zeroes the old file.
            old = sqlite3.connect(self._ledger, isolation_level=None, check_same_thread=False)
            try:
                if read_version(old, self._ledger) == FORMAT_VERSION:
                    return
                _log.info("%s: brought to format version %d", self.path, FORMAT_VERSION)
                replace_ledger(
                    self._ledger,
                    old,
                    write=lambda path: write_migrated(old, self._ledger, path),
                    disconnect=old.close,
                )
            finally:
                old.close()

    def _check_key_is_elsewhere(self, key: Path, *, new: bool) -> None:
        """Every copy of the folder would have the key in it, and so could still be read."""
        if self.path.resolve() not in key.resolve().parents:
            return
        problem = f"{key} lies in the vault's own folder, so that every copy of it has the key"
        if new:
            raise InputError(f"{problem}; give a path in another folder")
        _log.warning("%s; move it, and give the new path", problem)

    def _make_key(self) -> None:
        # Only receipts need it: a vault on a disk without room must still open and forget.
        try:
            make_key(self.path)
        except OSError as error:
            _log.warning("%s: no key could be made, so no receipts: %s", self.path, error)

    def _drop_other_keys(self) -> None:
        """Destroys the key of an epoch that a crash left beside the present one."""
        seal = self._connection.head.seal
        if seal is None or self._key_place is None:
            return
        try:
            with self._connection.errors():
                self._bring_to_one_epoch()
            self._key_place.keep_only(seal.id, self.epoch_key())
        except (VaultError, OSError) as error:
            _log.warning("%s: an old key could not be destroyed: %s", self.path, error)

    # ---- purging

    def _ledgers(self) -> list[LedgerWriter]:
        return [self, *self.open_beside.values()]

    def _check_apart(
        self, ledger: LedgerWriter, search: Search | None, committer: Committer | None
    ) -> Callable[[Flag], None]:
        # What stands in `next` are the same items, as another model sees them.
        again = ledger is self.open_beside.get(NEXT)
        return ledger.check_apart(None if again else committer, search=search)

    def _rewrite(self, check: CheckApart, search: Search | None) -> None:
        """Puts copies of all ledgers in their places; of sealed ones under a new epoch key."""
        seal, place = self.seal, self._key_place
        if seal is None or place is None:
            for ledger in self._ledgers():
                ledger.rewrite(check=check, search=search)
            return
        check.result()  # first, for keys change with what follows
        self._bring_to_one_epoch()
        new = new_key()
        place.put(seal.id, new, beside=self.epoch_key())
        for ledger in self._ledgers():
            ledger.rewrite(new, search=search)
        place.keep_only(seal.id, new)

    def _revocation_is_due(self) -> bool:
        try:
            return bool(self.held_though_revoked())
        except VaultFormatError as error:
            # Damage there must not keep what was deleted from being purged.
            _log.warning("%s", error)
            return False

    def _bring_to_one_epoch(self) -> None:
        """Wraps the items of a ledger that a purge did not come to under the vault's own key."""
        for other in self.open_beside.values():
            if other.seal != self.seal:
                other.rewrite(self.epoch_key())

    def epoch_key(self) -> bytes:
        """The key that a sealed vault's own ledger is wrapped under.

        Raises:
            VaultKeyError: somebody has put another one in its place.
        """
        seal, place = self.seal, self._key_place
        assert seal is not None
        assert place is not None
        for key in place.keys(seal.id):
            if fingerprint(key) == seal.epoch:
                return key
        raise VaultKeyError(
            f"the key that is kept for {self.path} is no longer the one that opens it; put that "
            "back, or close this memory: without it nobody can read what it holds"
        )

    def mark(self) -> None:
        """Makes the next opening for writing purge, unless a purge comes before it."""
        try:
            self._marker.touch(mode=0o600)
            sync_folder(self.path)
        except OSError as error:
            raise folder_error(error, self.path) from error

    def _unmark(self) -> None:
        self._marker.unlink(missing_ok=True)
        sync_folder(self.path)
