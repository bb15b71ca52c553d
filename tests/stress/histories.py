"""Random histories of a memory: two that leave the same items must leave the same memory.

A history adds, deletes (by id, label or source), purges, and opens anew, at random. Two of them
with one surviving set must end in byte-identical ledgers and equal answers, and no file may hold a
window of what was deleted on the way. Every third pair asks by signs (`signs.py`), and for
so few rows that even these few items are not all looked at.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol
from unittest import mock

import numpy as np
from tests.stress import toy

from procmem.index import Index, IndexKind
from procmem.memory import VisualMemory
from procmem.residue import scan_folder

K = 20
FEW = 4  # signs are looked at only for a small share of the items
QUERIES = np.random.default_rng(11).standard_normal((1000, toy.CLS)).astype(np.float32)
QUERIES /= np.linalg.norm(QUERIES, axis=1, keepdims=True)


class Searchable(Protocol):
    """What answers: an index, or something that claims to be as good."""

    def search(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids and similarities (Q, K), nearest first."""


def check_same_answers(some: Searchable, other: Searchable, queries: np.ndarray, k: int) -> None:
    """Raises AssertionError unless both give the same ids and similarities, to the last bit."""
    answers, expected = some.search(queries, k), other.search(queries, k)
    assert answers[0].tobytes() == expected[0].tobytes()
    assert answers[1].tobytes() == expected[1].tobytes()


class History:
    """A memory with a model of what it must hold."""

    def __init__(self, folder: Path, seed: int, kind: IndexKind = "exact") -> None:
        self.chance = random.Random(seed)
        self.kind = kind
        self.folder = folder
        self.held: set[int] = set()
        self.deletes = 0
        self.secrets: set[bytes] = set()
        self.memory = self._open()

    def _open(self) -> VisualMemory:
        # With a limit of 0 no delete purges: the next opening does, or the one after.
        limit = self.chance.choice([0, 100_000])
        return VisualMemory(self.folder, embedder=toy.EMBEDDER, purge_limit=limit, index=self.kind)

    def add(self, ids: Iterable[int]) -> None:
        """Adds items, some with masks, in one call."""
        batch = list(ids)
        self.chance.shuffle(batch)
        self.memory.add(
            (toy.picture(id_) for id_ in batch),
            [toy.label(id_) for id_ in batch],
            masks=[toy.mask(id_) if toy.has_mask(id_) else None for id_ in batch],
            sources=[toy.source(id_) for id_ in batch],
            ids=batch,
        )
        self.held |= set(batch)

    def delete(self, id_: int) -> None:
        """Deletes an item, and maybe others with it, by one of the selectors."""
        by = self.chance.choice(["id", "ids", "label", "source"])
        chosen = {id_}
        if by == "label" and toy.label(id_) is not None:
            chosen = {other for other in self.held if toy.label(other) == toy.label(id_)}
            selector = {"label": toy.label(id_)}
        elif by == "source" and toy.source(id_) is not None:
            chosen = {other for other in self.held if toy.source(other) == toy.source(id_)}
            selector = {"source": toy.source(id_)}
        elif by == "ids":
            some = self.chance.sample(sorted(self.held), self.chance.randrange(len(self.held)))
            chosen |= set(some[:5])
            selector = {"ids": sorted(chosen)}
        else:
            selector = {"ids": id_}
        self.secrets |= set(self.memory._vault.values(sorted(chosen)))
        report = self.memory.delete(**selector)
        self.held -= chosen
        self.deletes += len(chosen)
        assert set(report.erased_ids) == chosen
        assert report.windows_found == 0 or not report.purged

    def reopen(self) -> None:
        """Closes the memory and opens it for writing."""
        self.memory.close()
        self.memory = self._open()

    def check_answers(self) -> None:
        """What is answered now is what an index answers that never held anything else."""
        ids = np.array(sorted(self.held), dtype=np.int64)
        vectors = [toy.vector(id_) for id_ in sorted(self.held)]
        fresh = Index(ids, np.array(vectors, dtype=np.float16).reshape(-1, toy.CLS), self.kind)
        for k in (K, FEW):
            check_same_answers(self.memory._recall.index(), fresh, QUERIES, k)
        fresh.clear()

    def wander(self, steps: int, ids: range) -> None:
        """Does `steps` random things to items of `ids`."""
        for _ in range(steps):
            act = self.chance.random()
            free = [id_ for id_ in ids if id_ not in self.held]
            if act < 0.4 and free:
                self.add(self.chance.sample(free, self.chance.randint(1, min(8, len(free)))))
            elif act < 0.75 and self.held:
                self.delete(self.chance.choice(sorted(self.held)))
            elif act < 0.85:
                assert self.memory._vault.purge()
            elif act < 0.95:
                self.check_answers()
            else:
                self.reopen()

    def settle(self, survivors: set[int]) -> None:
        """Leaves exactly `survivors`, purged."""
        while self.held - survivors:
            self.delete(self.chance.choice(sorted(self.held - survivors)))
        if survivors - self.held:
            self.add(survivors - self.held)
        self.check_answers()
        assert self.memory._vault.purge()

    def remains(self) -> tuple[int, int]:
        """Windows looked for and found of all that was deleted and is not held again."""
        held = set(self.memory._vault.values())
        secrets = sorted(self.secrets - held)
        scan = scan_folder(self.folder, secrets, entitled=self.memory._vault.entitled)
        return scan.windows_checked, scan.windows_found


def run_histories(folder: Path, *, count: int, seed: int = 0) -> dict[str, int]:
    """Runs `count` histories in pairs of one surviving set.

    Returns:
        Figures: histories, deletes, comparisons of answers, windows looked for.
    """
    figures = {"histories": 0, "by signs": 0, "deletes": 0, "queries compared": 0, "windows": 0}
    with toy.hasty(), mock.patch.multiple("procmem.index", _LIKELY=1, _FOR_EACH=1):
        for pair in range((count + 1) // 2):
            chance = random.Random(f"{seed} {pair}")
            ids = range(1, chance.choice([6, 40, 120]))
            survivors = set(chance.sample(ids, chance.randrange(len(ids))))
            ledgers = []
            for side in range(2):
                path = folder / f"{pair}-{side}"
                kind: IndexKind = "binary" if pair % 3 == 0 else "exact"
                history = History(path, seed=2 * pair + side, kind=kind)
                history.wander(chance.randrange(3, 16), ids)
                history.settle(survivors)
                checked, found = history.remains()
                history.memory.close()
                assert found == 0, f"pair {pair}, side {side}: {found} windows"
                left = toy.files(path)
                assert set(left) - {"KEY"} == {"LOCK", "ledger.sqlite"}
                ledgers.append(left["ledger.sqlite"])
                figures["histories"] += 1
                figures["by signs"] += kind == "binary"
                figures["deletes"] += history.deletes
                figures["queries compared"] += len(QUERIES)
                figures["windows"] += checked
            assert ledgers[0] == ledgers[1], f"pair {pair}"
    return figures


def run_churn(folder: Path, *, count: int, seed: int = 0) -> dict[str, int]:
    """Deletes at least `count` items of variable length, and looks for their bytes at the end."""
    with toy.hasty():
        history = History(folder / "churned", seed)
        fresh = 1
        while history.deletes < count:
            batch = range(fresh, fresh + history.chance.randint(1, 60))
            fresh = batch.stop
            history.add(batch)
            while len(history.held) > 150:
                doomed = history.chance.sample(sorted(history.held), 20)
                history.secrets |= set(history.memory._vault.values(doomed))
                history.memory._vault.delete(doomed)
                history.memory._recall.deleted(doomed)
                history.held -= set(doomed)
                history.deletes += len(doomed)
            if history.chance.random() < 0.05:
                assert history.memory._vault.purge()
        history.settle(set(list(history.held)[:100]))
        checked, found = history.remains()
        history.memory.close()
    assert found == 0
    return {"deletes": history.deletes, "windows": checked, "windows found": found}
