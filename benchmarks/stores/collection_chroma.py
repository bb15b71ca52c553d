"""Chroma: a persistent client, which keeps a graph and an SQLite file."""

from __future__ import annotations

from typing import Any

import chromadb
from chromadb.config import Settings

from stores.base import BREADTHS, Floats, Ids, Store


class Collection(Store):
    """A collection without documents, linked with Chroma's own figures: those of the others."""

    breadths = BREADTHS

    def _connect(self) -> Any:
        settings = Settings(anonymized_telemetry=False)
        self._client: Any = chromadb.PersistentClient(str(self.folder), settings=settings)
        return self._client

    def create(self) -> None:
        # Given no embedding function, it would get one that downloads a model when it is used.
        self._collection = self._connect().create_collection(
            "items", configuration={"hnsw": {"space": "ip"}}, embedding_function=None
        )

    def add(self, ids: Ids, rows: Floats) -> None:
        at_once = self._client.get_max_batch_size()
        for start in range(0, len(ids), at_once):
            part = slice(start, start + at_once)
            self._collection.add(ids=[str(id_) for id_ in ids[part]], embeddings=rows[part])

    def open(self) -> None:
        self._collection = self._connect().get_collection("items", embedding_function=None)

    def search_with(self, breadth: int) -> None:
        # Of a graph that is loaded already nothing changes.
        self._collection.modify(configuration={"hnsw": {"ef_search": breadth}})
        self._client.close()
        self.open()

    def query(self, vector: Floats, k: int) -> list[int]:
        found = self._collection.query(query_embeddings=vector[None], n_results=k, include=[])
        return [int(id_) for id_ in found["ids"][0]]

    def delete(self, ids: list[int]) -> None:
        self._collection.delete(ids=[str(id_) for id_ in ids])

    def close(self) -> None:
        self._client.close()
