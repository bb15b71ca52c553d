"""The steps of one size, each in a process of its own, so that none finds what another left in RAM.

A vault is filled by ascending ids, some thousand items at a time; nothing holds all vectors but the
memory that is measured. Every step leaves the vault as the next one wants it.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from stores.base import Floats
from stores.measure import K, peak_bytes
from stores.memory import GivenVectors, picture
from stores.vectors import BLOCK, Vectors

from procmem import VisualMemory
from procmem.batch import binding_of
from procmem.erasure import erase
from procmem.index import IndexKind
from procmem.record import Item, Record
from procmem.vault import Vault

ASKED, DELETED, SEED = 200, 20, 0
Figures = dict[str, Any]


def vectors_of(count: int) -> Vectors:
    """What a vault of this size holds; 100 items around each center."""
    return Vectors(count, asked=ASKED, doomed=DELETED, per_center=100, seed=SEED)


# ---- steps


def fill(count: int, folder: Path) -> Figures:
    """A new vault, in calls of `BLOCK` items, each durable."""
    shutil.rmtree(folder, ignore_errors=True)
    clock = Clock()
    vault = Vault(folder, binding=binding_of(GivenVectors()))
    for ids, rows in vectors_of(count).blocks():
        records = list(_records(ids * _step(count), rows))
        with clock:
            vault.add(records)
    vault.close()
    return {"fill": clock.spent, "disk_bytes": _disk(folder)}


def add(count: int, folder: Path) -> Figures:  # noqa: ARG001  all steps are called alike
    """`BLOCK` more items in one call; their ids are random, as those that a memory gives."""
    chance = np.random.default_rng([SEED, 7])
    ids = chance.integers(1, 2**62, BLOCK)
    records = list(_records(ids, vectors_of(BLOCK).queries()[np.arange(BLOCK) % ASKED]))
    vault = Vault(folder)
    with Clock() as clock:
        vault.add(records)
    vault.delete(ids.tolist())
    vault.close()
    return {"add": clock.spent}


def purge(count: int, folder: Path) -> Figures:  # noqa: ARG001  the same
    """What is left of the deletion before, by the next opening for writing."""
    with Clock() as clock:
        Vault(folder).close()
    return {"later_purge": clock.spent}


def ask(count: int, folder: Path, kind: IndexKind) -> Figures:
    """A reader: from its constructor to its first answer, then one question after another."""
    queries, seen = vectors_of(count).queries(), GivenVectors()
    before = _status_bytes("VmRSS")
    with Clock() as clock:
        memory = VisualMemory(folder, embedder=seen, index=kind, read_only=True)
        _answer(memory, seen, queries[0])
    opening = peak_bytes()
    answers: list[list[int]] = []
    with Clock() as asking:
        samples = [
            _seconds(lambda query=query: answers.append(_answer(memory, seen, query)))  # type: ignore[misc]
            for query in queries
        ]
    figures = {
        "open": clock.spent,
        "query": [float(np.median(samples)), asking.spent[1] / ASKED],
        "answers": answers,
        "empty_bytes": before,
        "opening_peak_bytes": opening,
        "resident_bytes": _status_bytes("VmRSS"),
    }
    memory.close()
    return figures


def forget(count: int, folder: Path) -> Figures:
    """Deletions: of the row alone, durable; with purge and search."""
    vault = Vault(folder)
    doomed = _some(vault, count, DELETED + 1)
    with Clock() as clock:
        samples = [_seconds(partial(vault.delete, [id_])) for id_ in doomed[1:]]
    figures: Figures = {"delete": [float(np.median(samples)), clock.spent[1] / len(samples)]}
    with Clock() as clock:
        vault.purge()
    figures["purge"] = clock.spent
    with Clock() as clock:
        _erase(vault, doomed[0], receipt=False)
    vault.close()
    return figures | {"erase": clock.spent}


def prove(count: int, folder: Path) -> Figures:
    """The same with a receipt."""
    vault = Vault(folder)
    with Clock() as clock:
        _erase(vault, _some(vault, count, 1)[0], receipt=True)
    vault.close()
    return {"receipt": clock.spent}


def drop(count: int, folder: Path) -> Figures:
    """A deletion by a memory that has answered: rows leave the RAM, the purge is put off."""
    queries, seen = vectors_of(count).queries(), GivenVectors()
    with VisualMemory(folder, embedder=seen, purge_limit=0) as memory:
        _answer(memory, seen, queries[0])
        id_ = next(memory.items()).id
        with Clock() as clock:
            memory.delete(id_, receipt=False)
        return {"drop": clock.spent}


STEPS: dict[str, Callable[[int, Path], Figures]] = {
    "fill": fill,
    "add": add,
    "purge": purge,
    "auto": partial(ask, kind="auto"),
    "exact": partial(ask, kind="exact"),
    "forget": forget,
    "drop": drop,
    "prove": prove,
}
"""In this order."""

MOST_PROVEN = 1_000_000
"""Receipts are left out with more items: they take half a minute of a processor for a million."""


def steps_of(count: int) -> list[str]:
    """The names of those that are taken of a vault of this size."""
    return [name for name in STEPS if name != "prove" or count <= MOST_PROVEN]


def in_own_process(name: str, count: int, folder: Path) -> Figures:
    """The figures of a step, taken in a process that does nothing else.

    Of a step that opens, the one of three with the median time: on a virtual machine the first
    writing of memory costs little or much, as its host has it at hand or not.
    """

    def taken() -> Figures:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            return pool.submit(_take, name, count, folder).result()

    if name not in ("auto", "exact"):
        return taken()
    return sorted((taken() for _ in range(3)), key=lambda figures: figures["open"][0])[1]


# ---- helpers


def _take(name: str, count: int, folder: Path) -> Figures:
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {**STEPS[name](count, folder), "load": load}


class Clock:
    """Adds up what is spent within it: seconds, and seconds of all processors together."""

    def __init__(self) -> None:
        self.spent = [0.0, 0.0]

    def __enter__(self) -> Clock:
        self._start = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *error: object) -> None:
        self.spent[0] += time.perf_counter() - self._start[0]
        self.spent[1] += time.process_time() - self._start[1]


def _step(count: int) -> int:
    """Ids are this far apart, spread over the whole range like random ones."""
    return 2**62 // (count + 1)


def _some(vault: Vault, count: int, wanted: int) -> list[int]:
    """Ids that the vault still holds, spread over all: a step cut short may have deleted some."""
    places = range(1, count + 1, max(1, count // (20 * DELETED)))
    held = sorted(vault.held(at * _step(count) for at in places))
    return held[:: len(held) // wanted][:wanted]


def _erase(vault: Vault, id_: int, *, receipt: bool) -> None:
    erase(vault, [id_], purge_limit=10**9, receipt=receipt, deleted=lambda: None)


def _records(ids: np.ndarray[Any, np.dtype[np.int64]], rows: Floats) -> Iterator[Record]:
    for id_, row in zip(ids.tolist(), rows.astype(np.float16), strict=True):
        at = id_ % 1_000_003
        source = f"/home/someone/photos/{at // 500}/{at}.jpg"
        yield Record(Item(id_, f"label {at % 50}", source, at), row)


def _answer(memory: VisualMemory, seen: GivenVectors, query: Floats) -> list[int]:
    seen.rows = query[None]
    return [neighbor.id for neighbor in memory.neighbors(picture(0), K)]


def _disk(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def _status_bytes(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"this system does not say {key}; run it on Linux")


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
