"""faiss: rows in memory, compared with all of them, saved as one file."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from stores.base import Floats, Ids, Store, sync
from stores.vectors import WIDTH


class Flat(Store):
    """An exact index by inner product, under ids."""

    def create(self) -> None:
        self.folder.mkdir()
        self._index: Any = faiss.IndexIDMap(faiss.IndexFlatIP(WIDTH))

    def add(self, ids: Ids, rows: Floats) -> None:
        self._index.add_with_ids(rows, ids)

    def save(self) -> None:
        path = self.folder / "index.faiss"
        faiss.write_index(self._index, str(path))
        sync(path)

    def open(self) -> None:
        self._index = faiss.read_index(str(self.folder / "index.faiss"))

    def query(self, vector: Floats, k: int) -> list[int]:
        found: list[int] = self._index.search(vector[None], k)[1][0].tolist()
        return found

    def delete(self, ids: list[int]) -> None:
        self._index.remove_ids(np.array(ids, dtype=np.int64))
        self.save()
