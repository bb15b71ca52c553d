"""procmem by its public calls, with a model that sees the vectors that are given.

An image is a few bytes that say which of the given vectors it stands for: the time of a real model
is in no figure.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from procmem import Embedding, VisualMemory
from procmem.index import IndexKind
from stores.base import Floats, Ids, Store
from stores.vectors import WIDTH


def picture(at: int) -> npt.NDArray[np.uint8]:
    """(1, 4, 3) uint8, the image of the given vector at a position."""
    return np.frombuffer(at.to_bytes(12, "big"), np.uint8).reshape(1, 4, 3)


class GivenVectors:
    """A stand-in for an `Embedder`: the vector at the position that `picture` wrote down."""

    sha256, cls_dim, patch_dim, side = "ab" * 32, WIDTH, 1, 1
    manifest: Any = SimpleNamespace(name="given", patch_size=1)
    _patches = np.zeros((1, 1, 1, 1), dtype=np.float32)

    def __init__(self) -> None:
        self.rows: Floats = np.empty((0, WIDTH), dtype=np.float32)

    def embed(self, images: Any, *, view: str = "center") -> Embedding:  # noqa: ARG002  one view
        at = int.from_bytes(images.tobytes(), "big")
        return Embedding(cls=self.rows[at : at + 1], patches=self._patches)

    def close(self) -> None:
        pass


class Exact(Store):
    """A memory with the exact index."""

    kind: ClassVar[IndexKind] = "exact"
    receipt: ClassVar[bool] = True
    purges: ClassVar[bool] = True

    def create(self) -> None:
        self.open()

    def open(self) -> None:
        self._seen = GivenVectors()
        # By default a memory of more than 100,000 items purges at its next opening.
        limit = self.count if self.purges else 0
        self._memory = VisualMemory(
            self.folder, embedder=self._seen, index=self.kind, purge_limit=limit
        )

    def add(self, ids: Ids, rows: Floats) -> None:
        self._seen.rows = rows
        self._memory.add((picture(at) for at in range(len(rows))), ids=ids.tolist())

    def query(self, vector: Floats, k: int) -> list[int]:
        self._seen.rows = vector[None]
        return [neighbor.id for neighbor in self._memory.neighbors(picture(0), k)]

    def delete(self, ids: list[int]) -> None:
        report = self._memory.delete(ids, receipt=self.receipt)
        signed = report.receipt is not None
        if report.purged != self.purges or report.windows_found or signed != self.receipt:
            raise RuntimeError(f"the deletion is not what is to be measured: {report}")

    def close(self) -> None:
        self._memory.close()


class ExactWithoutReceipt(Exact):
    """The same, and nothing is signed when it deletes."""

    receipt = False


class Binary(Exact):
    """A memory that compares signs first."""

    kind = "binary"


class BinaryPurgedLater(Binary):
    """The same, whose deletion leaves the purge, and so the receipt, to the next opening."""

    purges, receipt = False, False
