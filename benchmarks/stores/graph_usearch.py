"""usearch: a graph in memory, saved as one file."""

from __future__ import annotations

from typing import Any

import numpy as np
from usearch.index import Index

from stores.base import BREADTHS, Floats, Ids, Store, sync
from stores.vectors import WIDTH


class Graph(Store):
    """A graph of float32 vectors, linked as those of hnswlib are here."""

    breadths = BREADTHS

    def _empty(self) -> Index:
        return Index(
            ndim=WIDTH, metric="ip", dtype="f32", connectivity=16, expansion_add=100, multi=False
        )

    def create(self) -> None:
        self.folder.mkdir()
        self._index: Any = self._empty()

    def add(self, ids: Ids, rows: Floats) -> None:
        self._index.add(ids.astype(np.uint64), rows, threads=self.threads)

    def save(self) -> None:
        path = self.folder / "index.usearch"
        self._index.save(path)
        sync(path)

    def open(self) -> None:
        self._index = self._empty()
        self._index.load(self.folder / "index.usearch")

    def search_with(self, breadth: int) -> None:
        self._index.expansion_search = breadth

    def query(self, vector: Floats, k: int) -> list[int]:
        found: list[int] = self._index.search(vector, k, threads=1).keys.tolist()
        return found

    def delete(self, ids: list[int]) -> None:
        self._index.remove(np.array(ids, dtype=np.uint64))
        self.save()
