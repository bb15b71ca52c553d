"""LanceDB: a table of columns in files, compared with all rows; no vector index is made."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import lancedb
import pyarrow

from stores.base import Floats, Ids, Store
from stores.vectors import WIDTH

_SCHEMA = pyarrow.schema(
    [("id", pyarrow.int64()), ("vector", pyarrow.list_(pyarrow.float32(), WIDTH))]
)


class Table(Store):
    """A table that deletes as it does by itself."""

    def create(self) -> None:
        self._table: Any = lancedb.connect(self.folder).create_table("items", schema=_SCHEMA)

    def add(self, ids: Ids, rows: Floats) -> None:
        vectors = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(rows.ravel()), WIDTH)
        self._table.add(pyarrow.Table.from_arrays([pyarrow.array(ids), vectors], schema=_SCHEMA))

    def open(self) -> None:
        self._table = lancedb.connect(self.folder).open_table("items")

    def query(self, vector: Floats, k: int) -> list[int]:
        nearest = self._table.search(vector).distance_type("dot").limit(k)
        found: list[int] = nearest.select(["id", "_distance"]).to_arrow()["id"].to_pylist()
        return found

    def delete(self, ids: list[int]) -> None:
        self._table.delete(f"id IN ({', '.join(map(str, ids))})")


class OptimizedTable(Table):
    """The same, cleaned up afterwards as thoroughly as it offers."""

    def delete(self, ids: list[int]) -> None:
        super().delete(ids)
        self._optimize()

    def _optimize(self) -> None:
        self._table.optimize(cleanup_older_than=timedelta(0), delete_unverified=True)


class KeptTable(OptimizedTable):
    """The same, after it was cleaned up once before: its rows are in one piece already.

    Pieces that are to be joined are written anew, without what was deleted. A large one is not,
    unless it has lost a tenth of its rows.
    """

    def save(self) -> None:
        self._optimize()
