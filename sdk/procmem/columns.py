"""The items of a memory without their vectors, as columns: a tenth of the RAM of a million objects.

Filled by `reader.py`, kept by `recall.py` in the order of the index, ascending by id. An `Item` is
made when somebody asks for one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from sys import intern

import numpy as np
import numpy.typing as npt

from procmem.record import Item, ItemBatch, decode_text, decode_texts
from procmem.rowbuffer import RowBuffer


class ItemColumns:
    """Items by their position, ascending by id; an `Item` is made when somebody asks for one.

    Args:
        count: how many items will be appended.
    """

    def __init__(self, count: int = 0) -> None:
        self._id_rows = RowBuffer(np.empty(count, dtype=np.int64))
        self._seconds = RowBuffer(np.empty(count, dtype=np.int64))
        self._labels: list[str | None] = []
        self._sources: list[str | None] = []

    def __len__(self) -> int:
        return len(self._labels)

    @property
    def ids(self) -> npt.NDArray[np.int64]:
        """(N,) ascending. Do not write to it."""
        return self._id_rows.rows[: len(self)]

    def __iter__(self) -> Iterator[Item]:
        return map(self.__getitem__, range(len(self)))

    def append(self, batch: ItemBatch) -> None:
        """Takes in the next items as they are stored.

        Raises:
            UnicodeDecodeError: a text is not one.
            OverflowError: more than 64 bits.
        """
        start, stop = len(self), len(self) + len(batch)
        self._id_rows.rows[start:stop] = batch.ids
        self._seconds.rows[start:stop] = batch.seconds
        # One object for each label, however many items have it.
        known = set(batch.labels)
        texts = {own: None if own is None else intern(decode_text(own)) for own in known}
        self._labels += map(texts.__getitem__, batch.labels)
        self._sources += decode_texts(batch.sources)

    def __getitem__(self, position: int) -> Item:
        return Item(
            int(self.ids[position]),
            self._labels[position],
            self._sources[position],
            int(self._seconds.rows[position]),
        )

    @property
    def labels(self) -> list[str | None]:
        """Of every item. Do not write to it."""
        return self._labels

    @property
    def seconds(self) -> npt.NDArray[np.int64]:
        """(N,) when each was added, seconds since 1970 UTC. Do not write to it."""
        return self._seconds.rows[: len(self)]

    @property
    def sources(self) -> list[str | None]:
        """Of every item. Do not write to it."""
        return self._sources

    def insert(self, items: Iterable[Item]) -> None:
        """Takes in items, none of them held already."""
        new = sorted(items, key=lambda item: item.id)
        at = np.searchsorted(self.ids, [item.id for item in new])
        self._id_rows.insert(at, np.array([item.id for item in new], dtype=np.int64))
        self._seconds.insert(at, np.array([item.added_seconds for item in new], dtype=np.int64))
        labels, sources, start = [], [], 0
        for position, item in zip(at.tolist(), new, strict=True):
            labels += self._labels[start:position]
            sources += self._sources[start:position]
            labels.append(item.label)
            sources.append(item.source)
            start = position
        self._labels = labels + self._labels[start:]
        self._sources = sources + self._sources[start:]

    def remove(self, ids: Iterable[int]) -> None:
        """Drops items; ids that are not held are passed over."""
        gone = np.isin(self.ids, np.fromiter(ids, dtype=np.int64))
        self._id_rows.remove(gone)
        self._seconds.remove(gone)
        for position in np.flatnonzero(gone)[::-1].tolist():
            del self._labels[position], self._sources[position]
