"""What a vault holds, as it is searched: rows in working memory, in step with the ledger.

Takes rows from `vault.py`, gives `stores/local.py` neighbors. All of it is a function of the items
that the vault holds now, and is computed anew when they change.

Not safe to use from several threads: `memory.py` holds a lock around every call.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import compress

import numpy as np
import numpy.typing as npt

from procmem.columns import ItemColumns
from procmem.dense import DenseBank, gather_bank
from procmem.index import Index, IndexKind
from procmem.met import Met
from procmem.record import Item, Record
from procmem.stores.contract import EVERYTHING, LeftOut, Where
from procmem.types import Neighbor
from procmem.vault import Vault

Flags = npt.NDArray[np.bool_]

_MET_AT_ONCE = 4  # each takes 8 bytes for every item of the memory


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
        self._met: dict[tuple[int, bool], Met] = {}  # by number of neighbors, and labelled only
        self._outdate()

    # ---- in step with the vault

    def index(self) -> Index:
        """The index of what the vault holds now.

        Raises:
            VaultError: the vault cannot be read.
        """
        state = self._vault.state()
        if self._index is None or state != self._state:
            self._drop_index()  # what another process has deleted leaves this one too
            contents = self._vault.load()
            self._items, self._state = contents.items, state
            self._index = Index(contents.items.ids.copy(), contents.buffer, self._kind)
        return self._index

    def bank(self) -> DenseBank:
        """The patches with masks that the vault holds now; do not keep it beyond the lock.

        Raises:
            VaultError: the vault cannot be read.
        """
        state, binding = self._vault.state(), self._vault.binding
        if self._bank is None or state != self._bank_state:
            self._drop_bank()
            self._bank_state = state
            self._bank = self._vault.read_dense(
                partial(gather_bank, patch=binding.patch_size, width=binding.patch_dim)
            )
        return self._bank

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """Around a change of the vault by this process, with `added` or `deleted` within.

        The rows are those of the vault afterwards only if they were so before and the block came to
        its end. In every other case, whatever ended it and at whatever line, they still count as
        those of before: the next question reads the vault anew.
        """
        before = self._vault.state()
        if self._state != before:
            self._drop_index()
        if self._bank_state != before:
            self._drop_bank()
        yield
        after = self._vault.state()
        if self._index is not None:
            self._state = after
        if self._bank is not None:
            self._bank_state = after

    def added(self, records: Sequence[Record]) -> None:
        """Takes over what this process has just written; within `changing`."""
        if any(record.mask is not None for record in records):
            self._drop_bank()
        if self._index is None or not records:
            return
        ids = np.array([record.item.id for record in records], dtype=np.int64)
        self._index.add(ids, np.stack([record.vector for record in records]))
        self._items.insert(record.item for record in records)
        self._outdate()

    def deleted(self, ids: Iterable[int]) -> None:
        """Drops items that this process has just deleted, zeroes their rows; within `changing`."""
        self._drop_bank()
        gone = list(ids)
        if self._index is not None:
            self._index.remove(gone)
            self._items.remove(gone)
        for met in self._met.values():
            met.forget(gone)
        self._outdate()

    def clear(self) -> None:
        """Zeroes the rows and forgets everything; the next call reads it again."""
        self._drop_bank()
        self._drop_index()

    def _drop_bank(self) -> None:
        bank, self._bank = self._bank, None
        if bank is not None:
            bank.clear()

    def _drop_index(self) -> None:
        index, self._index = self._index, None
        self._items = ItemColumns()
        self._outdate()
        self._forget_met()
        if index is not None:
            index.clear()

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
        asked, rows, similarities = self._known().others(k, keep=flags, met=self._met_by(k, where))
        counts = Counter(labels if flags is None else compress(labels, flags))
        return LeftOut(
            [labels[row] for row in asked.tolist()],
            [counts[labels[row]] > 1 for row in asked.tolist()],
            [[labels[row] for row in own] for own in rows.tolist()],
            similarities,
            complete=flags is None or bool(flags.all()),
        )

    def _met_by(self, k: int, where: Where) -> Met | None:
        """What the calibration of answers asks for again after every change."""
        if where not in (EVERYTHING, Where(labelled=True)):
            return None
        if (k, where.labelled) not in self._met and len(self._met) >= _MET_AT_ONCE:
            self._forget_met()
        return self._met.setdefault((k, where.labelled), Met())

    def _forget_met(self) -> None:
        for met in self._met.values():
            met.clear()
        self._met = {}

    def _known(self) -> Index:
        if self._index is None:
            raise RuntimeError("index() is to be called first, under the same lock")
        return self._index
