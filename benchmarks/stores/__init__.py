"""The stores that `bench_stores.py` compares, one file for each library, and how they are measured.

`vectors.py` gives what is stored, `base.py` says what a store can do, `measure.py` runs one step of
one store in a process of its own. A store's library is imported there and nowhere else.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the table.

    Attributes:
        title: what the table calls it.
        place: module and class of its `Store`.
        package: distribution that it measures.
        module: what that one is imported as.
        deletes: how it deletes, one line.
        largest: with more items the row is left out.
    """

    title: str
    place: tuple[str, str]
    package: str
    module: str
    deletes: str
    largest: int | None = None

    def load(self) -> type[Any]:
        """Imports its library and gives its class."""
        found: type[Any] = getattr(
            importlib.import_module(f"stores.{self.place[0]}"), self.place[1]
        )
        return found

    def missing(self) -> bool:
        """True if its library is not installed."""
        return importlib.util.find_spec(self.module) is None

    def version(self) -> str:
        """Of its library; procmem may run from its source tree."""
        if self.package == "procmem":
            import procmem

            known = not procmem.__version__.startswith("0+")
            return procmem.__version__ if known else "from its source"
        return importlib.metadata.version(self.package)


_PURGED = (
    "`memory.delete(ids)`: rows deleted, ledger written anew, old file zeroed, all files searched"
)

STORES = {
    "procmem-exact": Entry(
        "**procmem**, exact",
        ("memory", "Exact"),
        "procmem",
        "procmem",
        f"{_PURGED}, receipt signed",
    ),
    "procmem-exact-no-receipt": Entry(
        "**procmem**, exact, no receipt",
        ("memory", "ExactWithoutReceipt"),
        "procmem",
        "procmem",
        f"{_PURGED}; `receipt=False`",
    ),
    "procmem-binary": Entry(
        "**procmem**, binary",
        ("memory", "Binary"),
        "procmem",
        "procmem",
        f"{_PURGED}, receipt signed",
    ),
    "procmem-binary-purged-later": Entry(
        "**procmem**, binary, purged later",
        ("memory", "BinaryPurgedLater"),
        "procmem",
        "procmem",
        "`memory.delete(ids)` with `purge_limit=0`: rows deleted and overwritten, all files "
        "searched; the ledger is written anew at the next opening",
    ),
    "faiss": Entry(
        "faiss, IndexFlatIP in IndexIDMap",
        ("flat_faiss", "Flat"),
        "faiss-cpu",
        "faiss",
        "`remove_ids`, `write_index`",
    ),
    "hnswlib": Entry(
        "hnswlib",
        ("graph_hnswlib", "Graph"),
        "hnswlib",
        "hnswlib",
        "`mark_deleted` of each, `save_index`",
    ),
    "hnswlib-one-thread": Entry(
        "hnswlib, built by one thread",
        ("graph_hnswlib", "GraphOfOneThread"),
        "hnswlib",
        "hnswlib",
        "as hnswlib; this graph is a function of what was added, so that only deletions change it",
        largest=100_000,
    ),
    "usearch": Entry(
        "usearch",
        ("graph_usearch", "Graph"),
        "usearch",
        "usearch",
        "`remove(keys)`, `save`",
    ),
    "lancedb": Entry(
        "LanceDB",
        ("table_lancedb", "Table"),
        "lancedb",
        "lancedb",
        "`table.delete(where)`",
    ),
    "lancedb-optimize": Entry(
        "LanceDB, then `optimize`",
        ("table_lancedb", "OptimizedTable"),
        "lancedb",
        "lancedb",
        "`table.delete(where)`, "
        "`table.optimize(cleanup_older_than=timedelta(0), delete_unverified=True)`",
    ),
    "lancedb-optimize-twice": Entry(
        "LanceDB, `optimize` before and after",
        ("table_lancedb", "KeptTable"),
        "lancedb",
        "lancedb",
        "the same, of a table that was optimized once when everything was added",
    ),
    "chroma": Entry(
        "Chroma",
        ("collection_chroma", "Collection"),
        "chromadb",
        "chromadb",
        "`collection.delete(ids)`",
    ),
}
