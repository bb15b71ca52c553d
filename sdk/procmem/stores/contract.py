"""What a memory needs of the place that keeps its items: the one interface of all stores.

Between `memory.py`, which people hold, and the stores of this folder. A store keeps records
durably, all or nothing, and finds the nearest of them; it knows no images and no votes.

The same items give the same answers from every store, to the last bit: similarities are computed
here, by one kernel, from the vectors as they are stored, and equal ones are ordered by id. A server
may only choose the candidates, and where its index misses some, its answers miss them.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from procmem.dense import DenseBank
from procmem.record import Binding, Item, Record
from procmem.types import ErasureReport, MigrationStatus, Neighbor


@dataclass(frozen=True, slots=True)
class Where:
    """Which items a search looks at; all, unless said otherwise.

    Attributes:
        label: only those of this label.
        labelled: only those that have a label: the ones that vote.
        first_seconds: only those added at this moment, in seconds since 1970 UTC, or later.
        end_seconds: only those added before this one.
    """

    label: str | None = None
    labelled: bool = False
    first_seconds: float = float("-inf")
    end_seconds: float = float("inf")

    def admits(self, item: Item) -> bool:
        """Whether it looks at an item."""
        if self.labelled and item.label is None:
            return False
        if self.label is not None and item.label != self.label:
            return False
        return self.first_seconds <= item.added_seconds < self.end_seconds


EVERYTHING = Where()


@dataclass(frozen=True, slots=True, eq=False)
class LeftOut:
    """What items met when they were asked themselves: their nearest others.

    Attributes:
        labels: of the n items that were asked.
        shared: whether another item that may answer has the label of each.
        neighbor_labels: of the K nearest others of each, nearest first.
        similarities: (n, K) float32, of these.
        complete: True if no item of the memory was passed over: all could be asked and answer.
    """

    labels: Sequence[str | None]
    shared: Sequence[bool]
    neighbor_labels: Sequence[Sequence[str | None]]
    similarities: npt.NDArray[np.float32]
    complete: bool


class Store(Protocol):
    """Items of one memory. Not safe in threads: `VisualMemory` holds a lock around every call.

    Every call may raise `VaultError`, whose leaves say what became of it; then nothing was changed,
    or the message says otherwise.
    """

    read_only: bool

    @property
    def place(self) -> str:
        """What people call it: a folder's path, or an address without its password."""

    @property
    def binding(self) -> Binding:
        """The model that its items are of."""

    @property
    def sealed(self) -> bool:
        """True if what it keeps of an item is encrypted under a key of the item's own."""

    @property
    def purge_pending(self) -> bool:
        """True if a deletion waits to be finished by the next opening for writing."""

    @property
    def index_kind(self) -> str:
        """How neighbors are found now."""

    # ---- keeping

    def add(self, records: Iterable[Record]) -> None:
        """Keeps all records or none; they are durable when the call returns.

        Raises:
            InputError: an id is in use or given twice, or a value does not fit.
        """

    def erase(self, ids: Sequence[int], *, receipt: bool) -> ErasureReport:
        """Deletes the items of these ids, ascending, all or none, and says what is left of them.

        Args:
            ids: all held; none changes nothing.
            receipt: whether a signed one is wanted, where the store can give it.

        Raises:
            ItemNotFoundError: an id is not held.
        """
        ...

    def held(self, ids: Iterable[int]) -> set[int]:
        """Those of the ids that are in use."""
        ...

    def ids(self, *, dense: bool = False) -> list[int]:
        """Of all items, ascending; only of those with a mask if `dense`."""
        ...

    def items(self, ids: Iterable[int] | None = None) -> Iterator[Item]:
        """Gives items ascending by id; ids that are not held are passed over."""
        ...

    def erasable(self, ids: Iterable[int] | None = None) -> Iterator[Item]:
        """Gives all that a deletion can choose: `items`, and what a migration has left."""
        ...

    def records(self, ids: Iterable[int]) -> Iterator[Record]:
        """Gives items with all that is kept of them, in the order of `ids`."""
        ...

    def count(self) -> int:
        """How many items there are."""
        ...

    def count_dense(self) -> int:
        """How many items have a mask."""
        ...

    def state(self) -> Hashable:
        """A value that is another one after every change, by whomever. Cheap."""
        ...

    def problems(self) -> list[str]:
        """Reads everything and says what is wrong, one sentence each; empty if all is well."""
        ...

    def migration(self) -> MigrationStatus | None:
        """What is under way, or left, of a move to another model; None where there is none."""
        ...

    def bytes_on_disk(self) -> int:
        """Of everything that is kept, with its indexes."""
        ...

    def receipt_key(self) -> str | None:
        """Public key of its receipts in hexadecimal; None where it signs none."""
        ...

    # ---- finding

    def nearest(
        self, queries: npt.NDArray[np.float32], k: int, where: Where = EVERYTHING
    ) -> list[tuple[Neighbor, ...]]:
        """The at most k items nearest to each query.

        Args:
            queries: (Q, D) unit vectors.
            k: at least 1.
            where: which items are looked at.

        Returns:
            Largest cosine first, equal ones by smaller id.
        """
        ...

    def similar(self, query: npt.NDArray[np.float32], least: float) -> list[Item]:
        """All items at least so similar to a query (D,), ascending by id."""
        ...

    def left_out(self, k: int, where: Where) -> LeftOut:
        """Asks the at most 2,000 items of smallest id among those of `where`, each left out."""
        ...

    def vectors(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float16]]:
        """Ids (N,) ascending and vectors (N, D) of all items; do not keep them beyond the lock."""
        ...

    def bank(self) -> DenseBank:
        """Patches with masks; do not keep it beyond the lock.

        A function of the items that have them.
        """
        ...

    # ---- ending

    def check_writable(self) -> None:
        """Raises VaultReadOnlyError or VaultClosedError unless it may be written."""

    def close(self) -> None:
        """Overwrites what working memory holds and gives up the right to write. Again is fine."""
