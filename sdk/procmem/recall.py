"""What a memory holds, as it is searched: rows in working memory, in step with the ledger.

Takes rows from `vault.py`, gives `memory.py` neighbors and what answers are judged by. All of it
is a function of the items that the vault holds now, and is computed anew when they change.

Not safe to use from several threads: `memory.py` holds a lock around every call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import partial

import numpy as np
import numpy.typing as npt

from procmem.calibration import Reliability, fit_reliability
from procmem.columns import ItemColumns
from procmem.dense import DenseBank, gather_bank
from procmem.errors import InputError
from procmem.index import Index, IndexKind
from procmem.influence import Ranking
from procmem.record import Item, Record
from procmem.types import Neighbor
from procmem.vault import Vault
from procmem.vote import Weighting, vote

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
        self._calibration: npt.NDArray[np.float32] | None = None
        self._reliabilities: dict[tuple[int, Weighting], Reliability | None] = {}

    # ---- after index(), for the same items

    def item(self, id_: int) -> Item:
        """The item of an id that the index holds."""
        return self._items[int(np.searchsorted(self._items.ids, id_))]

    def neighbor(self, id_: int, similarity: float) -> Neighbor:
        """An item as a neighbor."""
        item = self.item(id_)
        return Neighbor(id_, item.label, similarity, item.source)

    def nearest(
        self, queries: npt.NDArray[np.float32], k: int, keep: Flags | None = None
    ) -> list[tuple[Neighbor, ...]]:
        """The at most k items nearest to each of (Q, D), among those of `keep` (N,) if given."""
        ids, similarities = self._known().search(queries, k, keep=keep)
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

    def where(self, keep: Callable[[Item], bool]) -> Flags:
        """(N,) which rows of the index hold such items."""
        return np.fromiter(map(keep, self._items), dtype=np.bool_, count=len(self._known()))

    def labelled(self) -> Flags:
        """(N,) which rows of the index have a label: those that vote."""
        if self._voters is None:
            flags = (label is not None for label in self._items.labels)
            self._voters = np.fromiter(flags, dtype=np.bool_, count=len(self._known()))
        return self._voters

    def labels(self) -> list[str]:
        """The label of every row, "" for none."""
        return [label or "" for label in self._items.labels]

    def ranking(self, query: npt.NDArray[np.float32], k: int) -> Ranking:
        """The items with a label by similarity to a query (D,), read as far as needed."""
        index, voting = self._known(), self.labelled()

        def fetch(count: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float32]]:
            ids, similarities = index.search(query, max(1, count), keep=voting)
            return np.searchsorted(index.ids, ids), similarities

        return Ranking(fetch, size=int(voting.sum()), expected=k + 1)

    def calibrated(
        self, k: int, weighting: Weighting
    ) -> tuple[npt.NDArray[np.float32], Reliability | None]:
        """What answers are judged by: items asked with themselves left out.

        Returns:
            (n,) similarities of items to their nearest others, for novelty; and how far the
            confidence of a vote of k can be trusted, None with too few labelled items.
        """
        key = (k, weighting)
        if key not in self._reliabilities:
            index, voting, labels = self._known(), self.labelled(), self.labels()
            asked, rows, similarities = index.others(k, keep=voting)
            if voting.all() and len(asked):
                self._calibration = similarities[:, 0].copy()
            winners = [
                next(iter(vote(near, [labels[row] for row in own], weighting=weighting).items()))
                for own, near in zip(rows.tolist(), similarities.tolist(), strict=True)
            ]
            right = [labels[row] == label for row, (label, _) in zip(asked, winners, strict=True)]
            self._reliabilities[key] = fit_reliability([share for _, share in winners], right)
        if self._calibration is None:
            self._calibration = self._known().nearest_others()
        return self._calibration, self._reliabilities[key]

    def _known(self) -> Index:
        if self._index is None:
            raise RuntimeError("index() is to be called first, under the same lock")
        return self._index


def taught_between(
    since: datetime | None, before: datetime | None
) -> Callable[[Item], bool] | None:
    """A test of when items were added, to the second, or None if both ends are open.

    Args:
        since: the first moment that counts; one without a time zone is in local time.
        before: the first moment that does not.

    Raises:
        InputError: not a datetime, or `before` is not after `since`.
    """
    for name, value in (("since", since), ("before", before)):
        if value is not None and not isinstance(value, datetime):
            raise InputError(
                f"{name} is {value!r:.80}, wanted a datetime, for example "
                "datetime.now() - timedelta(days=30)"
            )
    if since is None and before is None:
        return None
    first = float("-inf") if since is None else since.timestamp()
    end = float("inf") if before is None else before.timestamp()
    if not first < end:
        raise InputError(f"before ({before}) is not after since ({since}): no moment is between")
    return lambda item: first <= item.added_seconds < end
