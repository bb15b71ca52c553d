"""What a vault holds, as it is searched: rows in working memory, in step with the ledger.

Takes rows from `vault.py`, gives `stores/local.py` neighbors. All of it is a function of the items
that the vault holds now, and is computed anew when they change.

Not safe to use from several threads: `memory.py` holds a lock around every call.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from procmem.columns import ItemColumns
from procmem.dense import DenseBank, gather_bank
from procmem.index import Index, IndexKind
from procmem.record import Item, Record
from procmem.stores.contract import EVERYTHING, LeftOut, Where
from procmem.types import Neighbor
from procmem.vault import Vault

Flags = npt.NDArray[np.bool_]


class Recall:
    """The items of a vault and their index; read at the first call that needs them.

    Args:
        vault: open.
        kind: of the index, see `Index`.
    """

    def __init__(self, vault: Vault, kind: IndexKind = "auto") -> None:
        self._vault, self._kind = vault, kind
        self._state = (0, 0)  # of the vault, when the index was made
        self._index: Index | None = None
        self._items = ItemColumns()
        self._bank: DenseBank | None = None
        self._bank_state = (0, 0)
        self._outdate()

    # ---- in step with the vault

    def index(self) -> Index:
        """The index of what the vault holds now.

        Raises:
            VaultError: the vault cannot be read.
        """
        state = self._vault.state()
        if self._index is None or state != self._state:
            self.clear()  # what another process has deleted leaves this one too
            contents = self._vault.load()
            self._items = contents.items
            self._index = Index(contents.items.ids.copy(), contents.buffer, self._kind)
            self._state = state
        return self._index

    def bank(self) -> DenseBank:
        """The patches with masks that the vault holds now; do not keep it beyond the lock.

        Raises:
            VaultError: the vault cannot be read.
        """
        state, binding = self._vault.state(), self._vault.binding
        if self._bank is None or state != self._bank_state:
            self._drop_bank()
            self._bank = self._vault.read_dense(
                partial(gather_bank, patch=binding.patch_size, width=binding.patch_dim)
            )
            self._bank_state = state
        return self._bank

    def _drop_bank(self) -> None:
        if self._bank is not None:
            self._bank.clear()
        self._bank = None

    def added(self, records: Sequence[Record]) -> None:
        """Takes over what this process has just written."""
        if any(record.mask is not None for record in records):
            self._drop_bank()
        elif self._bank is not None:
            self._bank_state = self._vault.state()
        if self._index is None:
            return
        if records:
            ids = np.array([record.item.id for record in records], dtype=np.int64)
            self._index.add(ids, np.stack([record.vector for record in records]))
            self._items.insert(record.item for record in records)
            self._outdate()
        self._state = self._vault.state()

    def deleted(self, ids: Iterable[int]) -> None:
        """Drops items that this process has just deleted, and zeroes their rows."""
        self._drop_bank()
        if self._index is not None:
            self._index.remove(ids)
            self._items.remove(ids)
        self._outdate()

    def purged(self) -> None:
        """The vault's file is another one, with the same items."""
        if self._bank is not None:
            self._bank_state = self._vault.state()
        if self._index is not None:
            self._state = self._vault.state()

    def clear(self) -> None:
        """Zeroes the rows and forgets everything; the next call reads it again."""
        self._drop_bank()
        if self._index is not None:
            self._index.clear()
        self._index = None
        self._items = ItemColumns()
        self._outdate()

    def _outdate(self) -> None:
        """Forgets what was computed from all items as they were."""
        self._voters: Flags | None = None

    # ---- after index(), for the same items

    def item(self, id_: int) -> Item:
        """The item of an id that the index holds."""
        return self._items[int(np.searchsorted(self._items.ids, id_))]

    def neighbor(self, id_: int, similarity: float) -> Neighbor:
        """An item as a neighbor."""
        item = self.item(id_)
        return Neighbor(id_, item.label, similarity, item.source)

    def nearest(
        self, queries: npt.NDArray[np.float32], k: int, where: Where = EVERYTHING
    ) -> list[tuple[Neighbor, ...]]:
        """The at most k items nearest to each of (Q, D)."""
        ids, similarities = self._known().search(queries, k, keep=self.flags(where))
        at = np.searchsorted(self._items.ids, ids)
        labels, sources = self._items.labels, self._items.sources
        return [
            tuple(
                [
                    Neighbor(id_, labels[row], near, sources[row])
                    for id_, row, near in zip(*found, strict=True)
                ]
            )
            for found in zip(ids.tolist(), at.tolist(), similarities.tolist(), strict=True)
        ]

    def flags(self, where: Where) -> Flags | None:
        """(N,) which rows of the index hold such items; None for all."""
        flags: Flags | None = None
        if where.label is not None:
            same = (label == where.label for label in self._items.labels)
            flags = np.fromiter(same, dtype=np.bool_, count=len(self._known()))
        elif where.labelled and not self._labelled().all():
            flags = self._labelled()
        if where.first_seconds > -math.inf or where.end_seconds < math.inf:
            added = self._items.seconds
            within = (where.first_seconds <= added) & (added < where.end_seconds)
            flags = within if flags is None else flags & within
        return flags

    def _labelled(self) -> Flags:
        """(N,) which rows of the index have a label: those that vote."""
        if self._voters is None:
            labels = (label is not None for label in self._items.labels)
            self._voters = np.fromiter(labels, dtype=np.bool_, count=len(self._known()))
        return self._voters

    def left_out(self, k: int, where: Where) -> LeftOut:
        """Items of smallest id among those of `where`, each asked with itself left out."""
        labels, flags = self._items.labels, self.flags(where)
        asked, rows, similarities = self._known().others(k, keep=flags)
        return LeftOut(
            [labels[row] for row in asked.tolist()],
            [[labels[row] for row in own] for own in rows.tolist()],
            similarities,
            complete=flags is None or bool(flags.all()),
        )

    def _known(self) -> Index:
        if self._index is None:
            raise RuntimeError("index() is to be called first, under the same lock")
        return self._index
