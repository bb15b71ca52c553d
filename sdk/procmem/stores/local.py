"""The store on this device: a vault for the truth, its rows in working memory for the answers.

Takes calls from `memory.py` and gives them to `vault.py`, `recall.py` and `erasure.py`, in the
order that keeps the three in step.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from procmem.dense import DenseBank
from procmem.erasure import erase, receipt_key
from procmem.index import IndexKind
from procmem.recall import Recall
from procmem.record import Binding, Item, Record
from procmem.stores.contract import EVERYTHING, LeftOut, Where
from procmem.types import ErasureReport, MigrationStatus, Neighbor
from procmem.vault import Vault


class LocalStore:
    """See `procmem.stores.contract.Store`.

    Args:
        path: the vault's folder.
        binding: see `Vault`, as for the next two.
        read_only: see there.
        key: see there.
        index: how neighbors are found, see `Index`.
        purge_limit: with more items than this left, a deletion leaves the purge to the next
            opening for writing.

    Attributes:
        vault: the truth.
        recall: its rows in working memory.
        read_only: as given, as is `purge_limit`.

    Raises:
        VaultError, EmbedderMismatchError, MissingExtraError: see `Vault`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        binding: Binding | None,
        read_only: bool,
        key: str | os.PathLike[str] | None,
        index: IndexKind,
        purge_limit: int,
    ) -> None:
        self.vault = Vault(path, binding=binding, read_only=read_only, key=key)
        self.recall = Recall(self.vault, index)
        self.read_only = read_only
        self.purge_limit = purge_limit

    @property
    def place(self) -> str:
        """See `Store`, as for everything below."""
        return str(self.vault.path)

    @property
    def binding(self) -> Binding:
        """The model that the vault is bound to."""
        return self.vault.binding

    @property
    def sealed(self) -> bool:
        """True if the vault's items are encrypted."""
        return self.vault.sealed

    @property
    def purge_pending(self) -> bool:
        """True if deleted items wait for the purge."""
        return self.vault.purge_pending

    @property
    def index_kind(self) -> str:
        """See `Index`: "exact" or "binary"."""
        return self.recall.index().kind

    # ---- keeping

    def add(self, records: Iterable[Record]) -> None:
        """All or none; the rows in working memory follow if all records are at hand."""
        with self.recall.changing():
            self.vault.add(records)
            if isinstance(records, Sequence):
                self.recall.added(records)
            else:
                self.recall.clear()  # the next question reads what came

    def erase(self, ids: Sequence[int], *, receipt: bool) -> ErasureReport:
        """Deleted, purged, searched for, signed."""
        with self.recall.changing():
            return erase(
                self.vault,
                ids,
                purge_limit=self.purge_limit,
                receipt=receipt,
                deleted=lambda: self.recall.deleted(ids),
            )

    def held(self, ids: Iterable[int]) -> set[int]:
        """Those that are in use."""
        return self.vault.held(ids)

    def ids(self, *, dense: bool = False) -> list[int]:
        """Ascending."""
        return self.vault.ids(dense=dense)

    def items(self, ids: Iterable[int] | None = None) -> Iterator[Item]:
        """Ascending by id."""
        return self.vault.items(ids)

    def erasable(self, ids: Iterable[int] | None = None) -> Iterator[Item]:
        """Ascending by id."""
        return self.vault.erasable(ids)

    def records(self, ids: Iterable[int]) -> Iterator[Record]:
        """In the order of `ids`."""
        return self.vault.records(ids)

    def count(self) -> int:
        """Of items."""
        return self.vault.count()

    def count_dense(self) -> int:
        """Of masks."""
        return self.vault.count_dense()

    def state(self) -> tuple[int, int]:
        """Another one after every change."""
        return self.vault.state()

    def problems(self) -> list[str]:
        """One sentence each."""
        return self.vault.problems()

    def migration(self) -> MigrationStatus | None:
        """Of the ledgers beside the vault's own."""
        return self.vault.migration()

    def bytes_on_disk(self) -> int:
        """Of all files of the folder."""
        total = 0
        for folder, _, names in os.walk(self.vault.path):
            for name in names:
                with contextlib.suppress(FileNotFoundError):  # of a writer's, who is through
                    total += Path(folder, name).stat().st_size
        return total

    def receipt_key(self) -> str | None:
        """In hexadecimal; None if there is no sound key."""
        return receipt_key(self.vault)

    # ---- finding

    def nearest(
        self, queries: npt.NDArray[np.float32], k: int, where: Where = EVERYTHING
    ) -> list[tuple[Neighbor, ...]]:
        """Nearest first."""
        self.recall.index()
        return self.recall.nearest(queries, k, where)

    def similar(self, query: npt.NDArray[np.float32], least: float) -> list[Item]:
        """Ascending by id."""
        index = self.recall.index()
        ids, similarities = index.search(query, max(1, len(index)))
        chosen = ids[similarities >= least].tolist()
        return [self.recall.item(id_) for id_ in sorted(chosen)]

    def left_out(self, k: int, where: Where) -> LeftOut:
        """Of at most 2,000."""
        self.recall.index()
        return self.recall.left_out(k, where)

    def vectors(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float16]]:
        """Ascending by id; views."""
        index = self.recall.index()
        return index.ids, index.rows

    def bank(self) -> DenseBank:
        """Of all masks."""
        return self.recall.bank()

    # ---- ending

    def check_writable(self) -> None:
        """Raises unless the vault is open for writing."""
        self.vault.check_writable()

    def close(self) -> None:
        """Zeroes the rows and closes the vault."""
        self.recall.clear()
        self.vault.close()
