"""Items and masks out of the collections of Milvus: pages of rows, and the pieces of each.

Between `journal.py`, which says what counts, and `table.py`. What a reader finds in a row
but not in the pieces was deleted a moment ago and is passed over; if it was not, it is damaged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from procmem.errors import VaultFormatError
from procmem.stores.milvus.client import MilvusConnection, understood
from procmem.stores.milvus.journal import MilvusJournal, View
from procmem.stores.milvus.rows import (
    BYTES_AT_ONCE,
    PIECE_FIELDS,
    ROWS_AT_ONCE,
    item_of,
    joined,
    mask_bytes,
    mask_of,
    one_of,
    text_bytes,
)
from procmem.stores.table import StoredItem, StoredMask, batches

T = TypeVar("T")


class MilvusReader:
    """Reads one memory.

    Args:
        connection: to the server.
        journal: of the memory.
        items: name of its collection of items.
        pieces: name of its collection of pieces.
    """

    def __init__(
        self, connection: MilvusConnection, journal: MilvusJournal, *, items: str, pieces: str
    ) -> None:
        self._connection = connection
        self._journal = journal
        self._items = items
        self._pieces = pieces

    def query(self, where: str, fields: Sequence[str]) -> list[dict[str, Any]]:
        """Rows of items that a filter lets through, whether they count or not."""
        return self._connection.query(self._items, where, fields)

    def held(self, ids: Sequence[int], view: View) -> set[int]:
        """Those of the ids that counted then."""
        return {
            int(row["id"])
            for part in batches(ids, ROWS_AT_ONCE)
            for row in self.query(view.filter(one_of("id", part)), ("id",))
        }

    def rows(
        self, after: int, limit: int | None, fields: Sequence[str], conditions: Sequence[str]
    ) -> list[dict[str, Any]]:
        """Rows of ids above `after`, ascending; all if there is no limit."""
        view = self._journal.view()
        rows: list[dict[str, Any]] = []
        while limit is None or len(rows) < limit:
            most = ROWS_AT_ONCE if limit is None else min(limit - len(rows), ROWS_AT_ONCE)
            where = view.filter(f"id > {after}", *conditions)
            page = self._connection.query(self._items, where, fields, limit=most)
            if not page:
                break
            rows += sorted(page, key=lambda row: int(row["id"]))
            after = int(rows[-1]["id"])
        return rows

    def items_of(self, rows: Sequence[Mapping[str, Any]]) -> list[StoredItem]:
        """The items of rows with `ITEM_FIELDS`."""
        return list(self._whole(rows, item_of, text_bytes, ("source", "sealed")))

    def masks_of(self, rows: Sequence[Mapping[str, Any]]) -> list[StoredMask]:
        """The masks of rows with `MASK_FIELDS`."""
        return list(self._whole(rows, mask_of, mask_bytes, ("patches", "mask")))

    def _whole(
        self,
        rows: Sequence[Mapping[str, Any]],
        made: Callable[[Mapping[str, Any], Mapping[tuple[str, str], bytes]], T],
        size: Callable[[Mapping[str, Any]], int],
        parts: Sequence[str],
    ) -> Iterator[T]:
        """What rows and their pieces are, some megabytes of pieces at a time."""
        place = self._connection.place
        with understood(place, "a row of its items"):
            groups = list(_groups(rows, size))
        for group in groups:
            owners = [row["key"] for row in group if size(row)]
            pieces = {}
            if owners:
                where = f"{one_of('owner', owners)} and {one_of('part', parts)}"
                found = self._connection.query(self._pieces, where, PIECE_FIELDS)
                with understood(place, "a row of its pieces"):
                    pieces = joined(found)
            for row in group:
                try:
                    with understood(place, f"the row of id {row['id']}"):
                        one = made(row, pieces)
                except VaultFormatError:
                    # Deleted since the row was read?
                    if self.query(self._journal.view().filter(f'key == "{row["key"]}"'), ("key",)):
                        raise
                else:
                    yield one


def _groups(
    rows: Sequence[Mapping[str, Any]], size: Callable[[Mapping[str, Any]], int]
) -> Iterator[list[Mapping[str, Any]]]:
    """Rows in lists whose pieces fit a message."""
    group: list[Mapping[str, Any]] = []
    total = 0
    for row in rows:
        if group and (len(group) == ROWS_AT_ONCE or total + size(row) > BYTES_AT_ONCE):
            yield group
            group, total = [], 0
        group.append(row)
        total += size(row)
    if group:
        yield group
