"""Reads a memory on a server: its rows become items, records, and neighbors.

The reading half of `server.py`, for items, vectors, masks, and what is asked about all of them. The
server chooses candidates; which of them are nearest, and in which order, is computed here by the
kernel that a vault uses, from the same bits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt

from procmem.dense import DenseBank, gather_bank
from procmem.errors import VaultClosedError, VaultError, VaultFormatError
from procmem.index import CALIBRATION_ITEMS, LEAST_ITEMS, Index
from procmem.record import Binding, Item, Record, decode_text, dense_fits, dense_of
from procmem.stores.contract import EVERYTHING, LeftOut, Where
from procmem.stores.sealing import Sealing
from procmem.stores.table import StoredItem, StoredMask, Table, batches
from procmem.types import MigrationStatus, Neighbor

_ROWS_AT_ONCE = 1_000
MASKS_AT_ONCE = 50  # of some hundred kilobytes
_SPARE = 16  # candidates beyond those wanted, which mostly settles what the server's rounding may


class ServerReader:
    """Everything that can be asked; see `procmem.stores.contract.Store`.

    Args:
        table: on the server.
        binding: the model that the memory is bound to.
        sealing: of a sealed memory; None of a plain one.
        index: "exact" compares with all rows; "auto" asks the server's graph from 50,000 items on.
    """

    def __init__(
        self, table: Table, *, binding: Binding, sealing: Sealing | None, index: str
    ) -> None:
        self.binding = binding
        self._table = table
        self._sealing = sealing
        self._index = index
        self._bank: DenseBank | None = None
        self._bank_state = -1
        self._erasures = 0  # calls so far: a walk sees by them that what it has read may be gone
        self._closed = False

    @property
    def place(self) -> str:
        """See `Store`, as for everything below."""
        return self._table.place

    @property
    def sealed(self) -> bool:
        """True if labels, sources, patches and masks are encrypted."""
        return self._sealing is not None

    @property
    def index_kind(self) -> str:
        """Whether all rows are compared with, "exact", or the server's graph is asked, "hnsw"."""
        return "exact" if self._is_exact() else "hnsw"

    def _is_exact(self) -> bool:
        if self._index == "exact" or not self._table.has_graph:
            return True
        return self.count() < LEAST_ITEMS

    # ---- reading

    def held(self, ids: Iterable[int]) -> set[int]:
        """Those that are in use."""
        return {id_ for part in batches(ids, _ROWS_AT_ONCE) for id_ in self._table.held(part)}

    def ids(self, *, dense: bool = False) -> list[int]:
        """Ascending. Cost: reads all rows."""
        return [mask.id for mask in self._masks()] if dense else [item.id for item in self._walk()]

    def items(self, ids: Iterable[int] | None = None) -> Iterator[Item]:
        """Ascending by id, some hundreds at a time."""
        if ids is None:
            yield from map(self._item, self._walk())
            return
        for part in batches(sorted(set(ids)), _ROWS_AT_ONCE):
            yield from map(self._item, sorted(self._table.fetch(part), key=lambda one: one.id))

    def erasable(self, ids: Iterable[int] | None = None) -> Iterator[Item]:
        """All items: no migration leaves anything on a server."""
        return self.items(ids)

    def records(self, ids: Iterable[int]) -> Iterator[Record]:
        """In the order of `ids`."""
        for part in batches(ids, MASKS_AT_ONCE):
            items = {one.id: one for one in self._table.fetch(part)}
            masks = {one.id: one for one in self._table.fetch_masks(part)}
            for id_ in part:
                if id_ not in items:
                    continue
                record = Record(self._item(items[id_]), items[id_].vector)
                if id_ in masks:
                    patches, mask = self._dense(masks[id_])
                    record = replace(record, patches=patches, mask=mask)
                yield record

    def count(self) -> int:
        """Of items."""
        self._check_open()
        return self._table.count()

    def count_dense(self) -> int:
        """Of masks."""
        return self._table.count(dense=True)

    def state(self) -> int:
        """Another one after every change."""
        self._check_open()
        return self._table.state()

    def problems(self) -> list[str]:
        """Reads all rows; what a server's own checks see is not seen here."""
        found: list[str] = []
        last, items, masked = 0, set[int](), 0
        for one in self._walk():
            if one.id <= last:
                found.append(f"item {one.id} stands out of order")
            if one.vector.shape != (self.binding.cls_dim,) or not np.isfinite(one.vector).all():
                found.append(f"the vector of item {one.id} is not one of its model")
            last = one.id
            items.add(one.id)
            try:
                self._item(one)
            except (VaultError, ValueError) as error:
                found.append(str(error))
        for mask in self._masks():
            masked += 1
            if mask.id not in items:
                found.append(f"the mask of item {mask.id} belongs to no item")
            else:
                try:
                    self._dense(mask)
                except VaultError as error:
                    found.append(str(error))
        counted = self._table.count(), self._table.count(dense=True)
        if counted != (len(items), masked):
            found.append(
                f"there are {len(items)} items and {masked} masks, the server counts {counted[0]} "
                f"and {counted[1]}"
            )
        return found

    def migration(self) -> MigrationStatus | None:
        """None: a memory on a server is not migrated."""
        return None

    def bytes_on_disk(self) -> int:
        """As the server says."""
        return self._table.bytes_on_disk()

    def receipt_key(self) -> str | None:
        """None: no receipt is signed for what a server does."""
        return None

    # ---- finding

    def nearest(
        self, queries: npt.NDArray[np.float32], k: int, where: Where = EVERYTHING
    ) -> list[tuple[Neighbor, ...]]:
        """Nearest first. Cost: a question to the server for each query."""
        self._check_open()
        exact = self._is_exact()
        return [self._nearest(query, k, where, exact) for query in queries]

    def _nearest(
        self, query: npt.NDArray[np.float32], k: int, where: Where, exact: bool
    ) -> tuple[Neighbor, ...]:
        count = k + _SPARE
        while True:
            items, bound = self._candidates(query, count, where, exact)
            ids, similarities = self._index_of(items).search(query, k)
            full = len(ids) == k
            if bound == -np.inf and (exact or full):
                break
            # What the server left out is farther than the last one that is taken, for certain.
            if full and (not exact or similarities[-1] > bound + self._table.error_bound()):
                break
            exact = exact or bound == -np.inf  # its graph has nothing more to say, its rows may
            count *= 4
        by_id = {one.id: one for one in items}
        found = [self._item(by_id[id_]) for id_ in ids.tolist()]
        return tuple(
            Neighbor(item.id, item.label, near, item.source)
            for item, near in zip(found, similarities.tolist(), strict=True)
        )

    def _candidates(
        self, query: npt.NDArray[np.float32], count: int, where: Where, exact: bool
    ) -> tuple[list[StoredItem], float]:
        if self._sealing is None or where.label is None:
            return self._table.candidates(query, count, where, exact=exact)
        # The server cannot read sealed labels.
        theirs = replace(where, label=None, labelled=True)
        items, bound = self._table.candidates(query, count, theirs, exact=exact)
        return [one for one in items if where.admits(self._item(one))], bound

    def similar(self, query: npt.NDArray[np.float32], least: float) -> list[Item]:
        """Ascending by id; always of all rows."""
        count = _ROWS_AT_ONCE
        while True:
            items, bound = self._table.candidates(query, count, EVERYTHING, exact=True)
            if bound + self._table.error_bound() < least:
                break
            count *= 4
        ids, similarities = self._index_of(items).search(query, max(1, len(items)))
        chosen = set(ids[similarities >= least].tolist())
        return [
            self._item(one) for one in sorted(items, key=lambda one: one.id) if one.id in chosen
        ]

    def left_out(self, k: int, where: Where) -> LeftOut:
        """Of at most 2,000. Cost: all vectors up to 50,000 items; above, 2,000 questions."""
        total = self.count()
        if total < LEAST_ITEMS:
            items = list(self._walk(where))
            index = self._index_of(items)
            asked, rows, similarities = index.others(k)
            labels = [self._item(one).label for one in items]
            counts = Counter(labels)
            return LeftOut(
                [labels[row] for row in asked.tolist()],
                [counts[labels[row]] > 1 for row in asked.tolist()],
                [[labels[row] for row in own] for own in rows.tolist()],
                similarities,
                complete=len(items) == total,
            )
        sample = self._table.walk(0, CALIBRATION_ITEMS, where)
        queries = self._index_of(sample).units()
        found = []
        for one, query in zip(sample, queries, strict=True):
            near = self._nearest(query, k + 1, where, self._index == "exact")
            found.append([other for other in near if other.id != one.id][:k])
        width = min(map(len, found), default=0)
        values = [[other.similarity for other in others[:width]] for others in found]
        labels = [self._item(one).label for one in sample]
        return LeftOut(
            labels,
            self._shared(labels),
            [[other.label for other in others[:width]] for others in found],
            np.array(values, dtype=np.float32).reshape(len(found), width),
            complete=where == EVERYTHING,
        )

    def _shared(self, labels: Sequence[str | None]) -> list[bool]:
        """Whether several items have the label of each. A question for each that is there once."""
        counts = Counter(labels)
        for label in [label for label, count in counts.items() if count == 1]:
            # The server cannot look for labels that it cannot read: these count as shared.
            if self._sealing is not None or len(self._table.walk(0, 2, Where(label=label))) > 1:
                counts[label] += 1
        return [counts[label] > 1 for label in labels]

    def vectors(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float16]]:
        """Ascending by id. Cost: reads all rows."""
        index = self._index_of(list(self._walk()))
        return index.ids, index.rows

    def bank(self) -> DenseBank:
        """Of all masks, kept until the memory changes."""
        state = self.state()
        if self._bank is None or state != self._bank_state:
            self._drop_bank()
            self._bank = gather_bank(
                map(self._dense, self._masks()),
                patch=self.binding.patch_size,
                width=self.binding.patch_dim,
            )
            self._bank_state = state
        return self._bank

    # ---- rows

    def _check_open(self) -> None:
        if self._closed:
            raise VaultClosedError(f"the memory at {self.place} is closed; open it again")

    def _walk(self, where: Where = EVERYTHING) -> Iterator[StoredItem]:
        self._check_open()
        read = partial(self._table.walk, where=where)
        last = 0
        while True:
            erasures = self._erasures
            part = read(last, _ROWS_AT_ONCE)
            if not part:
                break
            for one in part:
                yield one
                last = one.id
                if self._erasures != erasures:  # of what was read, some is not to be given
                    break

    def _masks(self) -> Iterator[StoredMask]:
        self._check_open()
        last = 0
        while part := self._table.masks(last, MASKS_AT_ONCE):
            yield from part
            last = part[-1].id

    def _item(self, stored: StoredItem) -> Item:
        if self._sealing is not None:
            stored = self._sealing.open_item(stored)
        try:
            texts = [None if text is None else decode_text(text) for text in _texts(stored)]
        except UnicodeDecodeError as error:
            raise VaultFormatError(f"a text of item {stored.id} at {self.place} is none") from error
        return Item(stored.id, texts[0], texts[1], stored.added_seconds)

    def _dense(self, stored: StoredMask) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.uint8]]:
        if self._sealing is not None:
            stored = self._sealing.open_mask(stored)
        values = (stored.id, stored.patches, stored.mask)
        if not dense_fits(values, self.binding):
            raise VaultFormatError(
                f"patches or mask of item {stored.id} at {self.place} have another size than "
                f"{self.binding.name} gives them"
            )
        return dense_of(values, self.binding)

    def _index_of(self, items: Sequence[StoredItem]) -> Index:
        """These rows as a vault would search them."""
        rows = [one.vector for one in items]
        nothing = np.empty((0, self.binding.cls_dim), dtype=np.float16)
        ids = np.array([one.id for one in items], dtype=np.int64)
        return Index(ids, np.stack(rows) if rows else nothing, "exact")

    def _drop_bank(self) -> None:
        if self._bank is not None:
            self._bank.clear()
        self._bank = None


def _texts(stored: StoredItem) -> tuple[bytes | None, bytes | None]:
    return stored.label, stored.source
