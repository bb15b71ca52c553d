"""A memory's rows on Milvus: a cluster, a standalone server, or a file of milvus-lite.

Made of `address.py` (where), `client.py` (calls), `rows.py` (what a row looks
like), `journal.py` (what counts: read its beginning first) and `reader.py`. Three
collections::

    procmem_NAME_items    a row per item
    procmem_NAME_pieces   patches, masks and long texts, in pieces of 48,000 bytes
    procmem_NAME_journal  the head, whose turn it is, and what counts

What holds, and what does not:

- An insert or delete is all or nothing, whatever dies when: it appears with one row of the journal.
  What a dead writer left is invisible and is removed by the next one that writes.
- Writers take turns, however many processes and machines there are, so no id is used twice.
- A reader sees what was done when its call began. While more than 5,000 items are being deleted, a
  query that began before that may miss some of them already.
- What arrives after its writer failed never counts, but stays until the next failed writer is
  cleaned up after, or its id is deleted.
- `insert` and `delete` return when the server has acknowledged every row. A server with its
  default write-ahead log has them on disk then; milvus-lite hands them to the operating system, so
  they survive a killed process, but not a power cut.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from procmem.errors import (
    InputError,
    ItemNotFoundError,
    VaultError,
    VaultFormatError,
    VaultServerError,
)
from procmem.record import encode_text
from procmem.stores.contract import Where
from procmem.stores.milvus.address import parse_address
from procmem.stores.milvus.client import KEYS_AT_ONCE, MilvusConnection, understood
from procmem.stores.milvus.journal import JOURNAL_LAYOUT, MilvusJournal, Turn
from procmem.stores.milvus.reader import MilvusReader
from procmem.stores.milvus.rows import (
    ITEM_FIELDS,
    ROWS_AT_ONCE,
    condition,
    item_layout,
    one_of,
    packed,
    piece_layout,
)
from procmem.stores.table import StoredItem, StoredMask, batches

T = TypeVar("T")

LAYOUT_VERSION = 1
_MOST_HITS = 16_384  # the largest limit of a search on Milvus
_MASK_FIELDS = ("key", "id", "patches_bytes", "mask_bytes")


class MilvusTable:
    """Rows of one memory; see `Table`.

    Args:
        address: see `address.py`.
        read_only: make no file; what else is written is the caller's to refuse.
        timeout_seconds: of each call to the server.
        lease_seconds: after which a writer that shows no sign of life is taken for dead.
        wait_seconds: how long a change waits for other writers; twice the lease unless given.

    Raises:
        InputError: a malformed address.
        MissingExtraError: pymilvus is not installed.
        VaultServerError: the server cannot be reached or refuses, or is too old.
        VaultLockedError: a milvus-lite file that is open elsewhere.
        VaultFormatError: a file that is another program's, or none where none is to be made.
    """

    has_graph = False

    def __init__(
        self,
        address: str,
        *,
        read_only: bool = False,
        timeout_seconds: float = 10.0,
        lease_seconds: float = 40.0,
        wait_seconds: float | None = None,
    ) -> None:
        where = parse_address(address)
        self.place = where.place
        self._items, self._pieces, self._log = (
            f"procmem_{where.memory}_{part}" for part in ("items", "pieces", "journal")
        )
        self._connection = MilvusConnection(
            where, read_only=read_only, timeout_seconds=timeout_seconds
        )
        self._journal = MilvusJournal(
            self._connection,
            self._log,
            lease_seconds=lease_seconds,
            wait_seconds=2 * lease_seconds if wait_seconds is None else wait_seconds,
        )
        self._reader = MilvusReader(
            self._connection, self._journal, items=self._items, pieces=self._pieces
        )
        self._width = 0

    # ---- the memory

    def head(self) -> Mapping[str, str] | None:
        """Says what was given to `create`; None if there is no such memory."""
        if not self._connection.holds(self._log, JOURNAL_LAYOUT):
            return None
        self._connection.load(self._log)
        head = self._journal.head()
        if head is None:
            return None
        with understood(self.place, "the head of its journal"):
            version = int(head["layout"])
        if version != LAYOUT_VERSION:
            raise VaultFormatError(
                f"{self.place} has layout version {version}, wanted {LAYOUT_VERSION}; "
                "upgrade procmem on the machine where it is older"
            )
        with understood(self.place, "the head of its journal"):
            self._width = int(head["width"])
            said = {str(name): str(value) for name, value in head["head"].items()}
        for collection, layout in self._layouts(self._width):
            if not self._connection.holds(collection, layout):
                raise VaultFormatError(
                    f"{self.place} has lost its collection {collection}; restore it from a backup"
                )
            self._connection.load(collection)
        return said

    def create(self, head: Mapping[str, str], *, width: int) -> None:
        """Makes an empty memory, if there is none yet."""
        if not 2 <= width <= 32_768:
            raise InputError(f"vectors have width {width}, wanted 2 to 32,768 for Milvus")
        if self.head() is not None:
            return
        self._connection.make(self._log, JOURNAL_LAYOUT)
        self._connection.load(self._log)
        with self._turn() as turn:
            if self._journal.head() is None:
                for collection, layout in self._layouts(width):
                    self._connection.holds(collection, layout)
                    self._connection.make(collection, layout)
                    self._connection.load(collection)
                if self._connection.count(self._items, "id > 0"):
                    raise VaultFormatError(
                        f"{self.place} has items of a memory that has lost its journal; restore "
                        "it from a backup, or use another memory="
                    )
                content = {"layout": LAYOUT_VERSION, "width": width, "head": dict(head)}
                self._journal.write_head(content, turn)
        self.head()

    def _layouts(self, width: int) -> list[tuple[str, dict[str, str]]]:
        return [(self._items, item_layout(width)), (self._pieces, piece_layout())]

    def state(self) -> int:
        """Is larger after every change, by whomever."""
        return self._journal.view().state

    def bytes_on_disk(self) -> int:
        """Of a file, what it takes up; of a server, an estimate from the rows."""
        found = self._connection.bytes_on_disk()
        if found is not None:
            return found
        rows = self._connection.count(self._items, "id > 0")
        pieces = self._connection.count(self._pieces, "position >= 0")
        entries = self._connection.count(self._log, "number >= 0")
        # Vectors and their copy in the index, texts as they are kept.
        return rows * (8 * self._width + 256) + pieces * 64_000 + entries * 256

    def error_bound(self) -> float:
        """How far a similarity of the server is from the true one at most."""
        # A sum of D products and two lengths in float32, in any order: |error| <= (D + 8) u, twice
        # for the division (Higham, "Accuracy and Stability of Numerical Algorithms", section 3.1).
        return 4 * (self._width + 8) * 2.0**-24

    def out_of_reach(self) -> tuple[str, ...]:
        """Where the server may still have what was deleted."""
        return (
            "rows stay in the server's segments, in object storage and in memory, until its "
            "compaction and garbage collection remove them",
            "rows stay in the server's write-ahead log or message queue until that is cut off",
            "backups, snapshots and replicas of the server keep what they copied",
        )

    def close(self) -> None:
        """Ends the connection. Again is fine."""
        self._connection.close()

    # ---- reading

    def count(self, *, dense: bool = False) -> int:
        """How many items there are; how many masks if `dense`."""
        only = ("patches_bytes >= 0",) if dense else ()
        return self._connection.count(self._items, self._journal.view().filter(*only))

    def held(self, ids: Sequence[int]) -> set[int]:
        """Those of the ids that are in use."""
        return self._reader.held(ids, self._journal.view())

    def fetch(self, ids: Sequence[int]) -> list[StoredItem]:
        """The items of these ids, in any order."""
        view = self._journal.view()
        items: list[StoredItem] = []
        for part in batches(ids, ROWS_AT_ONCE):
            items += self._reader.items_of(
                self._reader.query(view.filter(one_of("id", part)), ITEM_FIELDS)
            )
        return items

    def walk(self, after: int, limit: int, where: Where) -> list[StoredItem]:
        """At most `limit` items with ids above `after`, ascending."""
        conditions = condition(where, encode_text(where.label))
        return self._reader.items_of(self._reader.rows(after, limit, ITEM_FIELDS, conditions))

    def masks(self, after: int, limit: int) -> list[StoredMask]:
        """At most `limit` masks with ids above `after`, ascending."""
        return self._reader.masks_of(
            self._reader.rows(after, limit, _MASK_FIELDS, ["patches_bytes >= 0"])
        )

    def fetch_masks(self, ids: Sequence[int]) -> list[StoredMask]:
        """The masks of these items, in any order."""
        view = self._journal.view()
        masks: list[StoredMask] = []
        for part in batches(ids, ROWS_AT_ONCE):
            found = view.filter(one_of("id", part), "patches_bytes >= 0")
            masks += self._reader.masks_of(self._reader.query(found, _MASK_FIELDS))
        return masks

    def candidates(
        self, query: npt.NDArray[np.float32], count: int, where: Where, *, exact: bool
    ) -> tuple[list[StoredItem], float]:
        """The nearest items, compared with all of them whatever `exact` is: FLAT misses none."""
        del exact
        conditions = condition(where, encode_text(where.label))
        if count >= _MOST_HITS:
            rows = self._reader.rows(0, None, ITEM_FIELDS, conditions)
            return self._reader.items_of(rows), -np.inf
        # One more than is wanted: it tells how near those are that are left out.
        hits = self._connection.search(
            self._items,
            query,
            self._journal.view().filter(*conditions),
            ITEM_FIELDS,
            limit=count + 1,
        )
        bound = hits[count][0] if len(hits) > count else -np.inf
        return self._reader.items_of([row for _, row in hits[:count]]), bound

    # ---- writing

    def insert(self, items: Iterable[tuple[StoredItem, StoredMask | None]]) -> None:
        """Adds all or none."""
        turn = None
        try:
            with self._turn() as turn:
                if self._store(items, turn):
                    self._journal.commit(turn)
        except VaultServerError as error:
            if turn is None or not turn.steps:
                raise VaultServerError(f"{error}; nothing was added: try again") from error
            self._decide(turn, error, "added")

    def delete(self, ids: Sequence[int]) -> None:
        """Deletes all or none, with their masks."""
        wanted = sorted({int(id_) for id_ in ids})
        if not wanted:
            return
        turn = None
        try:
            with self._turn() as turn:
                missing = sorted(set(wanted) - self._reader.held(wanted, turn.view))
                if missing:
                    raise ItemNotFoundError(
                        f"{self.place} does not hold id {missing[0]} (and {len(missing) - 1} more "
                        f"of {len(wanted)}); nothing was deleted"
                    )
                self._journal.commit(turn, doomed=wanted)
                self._remove(wanted, turn)
                self._journal.commit(turn)
        except VaultServerError as error:
            if turn is None or not turn.steps:
                raise VaultServerError(f"{error}; nothing was deleted: try again") from error
            # The turn that finds out also removes what this one left.
            self._decide(turn, error, "deleted")

    def _store(self, items: Iterable[tuple[StoredItem, StoredMask | None]], turn: Turn) -> bool:
        """Stores rows that do not count yet; False if there were none."""
        taken: set[int] = set()
        stored = pieces = 0
        groups = packed(self._alive(items, turn), turn.number, width=self._width)
        for rows, parts in groups:
            ids = [row["id"] for row in rows]
            used = taken.intersection(ids) | self._reader.held(ids, turn.view)
            used |= {id_ for id_, times in Counter(ids).items() if times > 1}
            if used:
                raise InputError(
                    f"id {min(used)} (and {len(used) - 1} more) is in the memory already or "
                    "given twice; nothing was added: use other ids, or give none"
                )
            taken.update(ids)
            turn.stored = True
            self._connection.insert(self._pieces, parts)
            self._connection.insert(self._items, rows)
            stored, pieces = stored + len(rows), pieces + len(parts)
        # pymilvus repeats a call that it got no answer to; a row may stand there twice then.
        for collection, wanted in ((self._items, stored), (self._pieces, pieces)):
            if wanted:
                found = self._connection.count(collection, f"batch == {turn.number}")
                if found != wanted:
                    raise VaultServerError(
                        f"{self.place} holds {found} rows where {wanted} were sent"
                    )
        return stored > 0

    def _alive(self, items: Iterable[T], turn: Turn) -> Iterator[T]:
        """The same, while others are shown that the writer is at work."""
        for item in items:
            self._journal.renew(turn)
            yield item

    def _remove(self, ids: Sequence[int], turn: Turn) -> None:
        """Deletes all rows of these ids, those that never counted too."""
        for part in batches(ids, KEYS_AT_ONCE):
            where = one_of("id", part)
            self._connection.delete(
                self._items, [row["key"] for row in self._reader.query(where, ("key",))]
            )
            self._connection.delete_where(self._items, where)
            self._connection.delete_where(self._pieces, where)
            self._journal.renew(turn)

    @contextmanager
    def _turn(self) -> Iterator[Turn]:
        """The right to write, when what dead writers left is gone."""
        turn = self._journal.take()
        try:
            self._settle(turn)
            yield turn
        except BaseException as error:
            # After a call without an answer, whatever it asked for may still be done.
            answered = isinstance(error, Exception) and not isinstance(error, VaultServerError)
            if not answered or not self._undone(turn):
                self._journal.give_up(turn)
            raise
        try:
            self._journal.give_back(turn)
        except VaultServerError:
            self._journal.give_up(turn)

    def _settle(self, turn: Turn) -> None:
        """Finishes what dead writers began: deletes what they doomed, removes what they stored."""
        if turn.view.doomed:
            self._remove(turn.view.doomed, turn)
        if turn.failed and self._width:
            self._forget([*turn.view.broken, *turn.failed])
        if turn.view.doomed or turn.failed:
            self._journal.settle(turn)

    def _undone(self, turn: Turn) -> bool:
        """Removes what a turn stored and ends it; False if the server does not let it."""
        try:
            if turn.stored:
                self._forget([turn.number])
            self._journal.give_back(turn)
        except VaultServerError:
            return False
        return True

    def _forget(self, numbers: Sequence[int]) -> None:
        for collection in (self._items, self._pieces):
            self._connection.delete_where(collection, one_of("batch", numbers))

    def _decide(self, turn: Turn, error: VaultServerError, done: str) -> None:
        """Finds out whether a turn that ended in the dark counts; raises unless it does."""
        try:
            with self._turn() as now:
                counts = now.view.counts >= turn.number and turn.number not in now.view.broken
                if not counts and turn.stored:
                    self._forget([turn.number])
        except VaultError:
            raise VaultServerError(
                f"{error}; whether the items were {done} is not known: look which ids are held "
                "when the server answers again"
            ) from error
        if not counts:
            raise VaultServerError(f"{error}; nothing was {done}: try again") from error
