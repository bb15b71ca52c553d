"""What a server must be able to do to keep a memory: the few calls that `server.py` is made of.

`postgres` and `milvus` are the two that are here; a third one needs nothing but this file. A
table stores rows and proposes candidates. It knows nothing of models, keys, votes or exactness:
that is in `server.py`, once for all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from procmem.stores.contract import Where


@dataclass(frozen=True, slots=True, eq=False)
class StoredItem:
    """One item as a server keeps it.

    Attributes:
        id: in [1, 2**63).
        vector: (D,) float16, finite.
        label: bytes of `record.encode_text`; None for none, and in a sealed memory.
        source: likewise.
        labelled: whether it has a label, sealed or not.
        added_seconds: whole seconds since 1970 UTC.
        sealed: label and source, encrypted; None in a memory that is not sealed.
    """

    id: int
    vector: npt.NDArray[np.float16]
    label: bytes | None
    source: bytes | None
    labelled: bool
    added_seconds: int
    sealed: bytes | None = None


@dataclass(frozen=True, slots=True)
class StoredMask:
    """Patches and mask of an item as a server keeps them.

    Attributes:
        id: of the item.
        patches: of `record.DenseValues`; encrypted together with the mask in a sealed memory.
        mask: likewise; empty in a sealed memory.
    """

    id: int
    patches: bytes
    mask: bytes


class Table(Protocol):
    """Rows of one memory on a server.

    Opening it connects; a lost connection is made anew by the next call. All calls raise
    `VaultServerError` when the server cannot be reached or refuses, with what is known of whether
    the call was done. What `insert` and `delete` returned from is durable as the server promises.
    """

    has_graph: bool
    """Whether `candidates` may miss some when it need not be exact."""

    @property
    def place(self) -> str:
        """Address without password, for messages."""

    def head(self) -> Mapping[str, str] | None:
        """What was given to `create`; None if the server holds no such memory.

        Raises:
            VaultFormatError: something else stands there, or of another layout version.
        """
        ...

    def create(self, head: Mapping[str, str], *, width: int) -> None:
        """Makes an empty memory, if there is none yet; another process may be as quick.

        Args:
            head: what is to be known of it, some short texts.
            width: D.
        """

    def state(self) -> int:
        """Counts the changes, by whomever."""
        ...

    def count(self, *, dense: bool = False) -> int:
        """How many items there are; how many masks if `dense`."""
        ...

    def held(self, ids: Sequence[int]) -> set[int]:
        """Those of the ids that are in use."""
        ...

    def insert(self, items: Iterable[tuple[StoredItem, StoredMask | None]]) -> None:
        """Adds all or none.

        Raises:
            InputError: an id is in use or given twice.
        """

    def delete(self, ids: Sequence[int]) -> None:
        """Deletes all or none, with their masks.

        Raises:
            ItemNotFoundError: an id is not held.
        """

    def fetch(self, ids: Sequence[int]) -> list[StoredItem]:
        """The items of these ids, in any order; ids that are not held are passed over."""
        ...

    def walk(self, after: int, limit: int, where: Where) -> list[StoredItem]:
        """At most `limit` items with ids above `after`, ascending.

        In a sealed memory `where.label` is None.
        """
        ...

    def masks(self, after: int, limit: int) -> list[StoredMask]:
        """At most `limit` masks with ids above `after`, ascending."""
        ...

    def fetch_masks(self, ids: Sequence[int]) -> list[StoredMask]:
        """The masks of these items, in any order."""
        ...

    def candidates(
        self, query: npt.NDArray[np.float32], count: int, where: Where, *, exact: bool
    ) -> tuple[list[StoredItem], float]:
        """The items that the server finds nearest.

        Args:
            query: (D,) unit vector.
            count: how many are wanted; fewer only if fewer are found.
            where: which items are looked at; in a sealed memory `label` is None.
            exact: compare with all of them; False may use an index that misses some.

        Returns:
            The items in any order, and a similarity that none of those left out is above, by the
            server's own arithmetic; -inf if none was left out.
        """
        ...

    def error_bound(self) -> float:
        """How far the server's similarity of an exact search is from the true one at most."""
        ...

    def bytes_on_disk(self) -> int:
        """Of rows and indexes."""
        ...

    def out_of_reach(self) -> tuple[str, ...]:
        """Where the server may still have what was deleted, in words."""
        ...

    def close(self) -> None:
        """Ends the connection. Again is fine."""


def batches(ids: Iterable[int], size: int) -> Iterator[list[int]]:
    """Ids in lists of at most `size`."""
    part: list[int] = []
    for id_ in ids:
        part.append(id_)
        if len(part) == size:
            yield part
            part = []
    if part:
        yield part
