"""The vectors: clustered, of unit length, and a function of the seed, a block at a time.

Centers at random, and noise of the same size around them, which is kinder to graphs than
independent vectors and nearer to what embeddings are. (Where a center has fewer items than are
asked for, the other neighbors are as good as independent.) Ids are 1 to N. Made anew wherever they
are needed, so that no process holds more of them than one block and what its store keeps.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from stores.base import Floats, Ids

WIDTH = 384
BLOCK = 5_000  # one batch of `add`; some stores take no more


@dataclass(frozen=True, slots=True)
class Vectors:
    """All vectors of one table.

    Attributes:
        count: N.
        asked: how many queries.
        doomed: how many items are deleted.
        per_center: how many items a center has, in the mean.
        seed: of everything.
    """

    count: int
    asked: int
    doomed: int
    per_center: int
    seed: int

    def blocks(self) -> Iterator[tuple[Ids, Floats]]:
        """Ids (M,) and rows (M, D) of all items, ascending."""
        for start in range(0, self.count, BLOCK):
            size = min(BLOCK, self.count - start)
            yield np.arange(start + 1, start + size + 1), self._rows(size, 1, start)

    def survivors(self) -> Iterator[tuple[Ids, Floats]]:
        """The same without the items that are deleted."""
        gone = np.array(self.deleted())
        for ids, rows in self.blocks():
            keep = ~np.isin(ids, gone)
            yield ids[keep], rows[keep]

    def queries(self) -> Floats:
        """(Q, D)."""
        return self._rows(self.asked, 2, 0)

    def deleted(self) -> list[int]:
        """Ids of the items that are deleted, ascending."""
        chance = np.random.default_rng([self.seed, 3])
        return sorted((chance.choice(self.count, self.doomed, replace=False) + 1).tolist())

    def deleted_rows(self) -> Floats:
        """Their vectors, in the same order."""
        gone = np.array(self.deleted())
        return np.concatenate([rows[np.isin(ids, gone)] for ids, rows in self.blocks()])

    def nearest(self, k: int) -> list[list[int]]:
        """For each query the ids of its k nearest items, exactly."""
        queries = self.queries()
        best_ids = np.empty((self.asked, 0), dtype=np.int64)
        best = np.empty((self.asked, 0), dtype=np.float32)
        for ids, rows in self.blocks():
            near = np.concatenate([best, queries @ rows.T], axis=1)
            names = np.concatenate([best_ids, np.broadcast_to(ids, (self.asked, len(ids)))], axis=1)
            order = np.argsort(-near, axis=1, kind="stable")[:, :k]
            best = np.take_along_axis(near, order, axis=1)
            best_ids = np.take_along_axis(names, order, axis=1)
        found: list[list[int]] = best_ids.tolist()
        return found

    def _rows(self, size: int, kind: int, start: int) -> Floats:
        centers = _centers(self.seed, self.count // self.per_center)
        chance = np.random.default_rng([self.seed, kind, start])
        rows = centers[chance.integers(0, len(centers), size)]
        rows += chance.standard_normal(rows.shape, dtype=np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return rows


@functools.lru_cache(maxsize=1)
def _centers(seed: int, count: int) -> Floats:
    chance = np.random.default_rng([seed, 0])
    centers: Floats = chance.standard_normal((count, WIDTH), dtype=np.float32)
    return centers
