"""hnswlib: a graph in memory, saved as one file."""

from __future__ import annotations

import hnswlib

from stores.base import BREADTHS, Floats, Ids, Store, sync
from stores.vectors import WIDTH


class Graph(Store):
    """A graph as hnswlib makes it with all threads."""

    breadths = BREADTHS

    def _builders(self) -> int:
        return self.threads

    def create(self) -> None:
        self.folder.mkdir()
        self._index = hnswlib.Index(space="ip", dim=WIDTH)
        self._index.init_index(max_elements=self.count, M=16, ef_construction=100, random_seed=1)

    def add(self, ids: Ids, rows: Floats) -> None:
        self._index.add_items(rows, ids, num_threads=self._builders())

    def save(self) -> None:
        path = self.folder / "index.bin"
        self._index.save_index(str(path))
        sync(path)

    def open(self) -> None:
        self._index = hnswlib.Index(space="ip", dim=WIDTH)
        self._index.load_index(str(self.folder / "index.bin"))

    def search_with(self, breadth: int) -> None:
        self._index.set_ef(breadth)

    def query(self, vector: Floats, k: int) -> list[int]:
        found: list[int] = self._index.knn_query(vector, k, num_threads=1)[0][0].tolist()
        return found

    def delete(self, ids: list[int]) -> None:
        for id_ in ids:
            self._index.mark_deleted(id_)
        self.save()


class GraphOfOneThread(Graph):
    """The same built by one thread, which makes it a function of what was added in what order."""

    def _builders(self) -> int:
        return 1
