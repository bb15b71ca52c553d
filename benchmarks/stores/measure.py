"""The steps of one row, each in a process of its own, so that none finds what another left warm.

`build` fills a store, `scan` searches its files for the vectors that are going to be deleted, `use`
opens, asks and deletes, `scan` again, `ask` answers once more. Then a store that never held the
deleted items is built and asked the same.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from stores import STORES
from stores.base import Floats, Store
from stores.vectors import Vectors

K = 20
WANTED_RECALL = 0.99
_WARM_UP = 3
_GRACE_SECONDS = 30.0
_PIECE_BYTES = 1 << 25

Figures = dict[str, Any]


class StepError(Exception):
    """A step of a row failed; the message says which one and why."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do with one store.

    Attributes:
        name: of a function below.
        store: key in `STORES`.
        folder: of the store.
        vectors: all of them.
        threads: for the store.
        survivors: build without the items that are deleted.
        breadth: to search with, see `Store.breadths`; None for no choice.
        truth: for `use`, what the nearest are.
    """

    name: str
    store: str
    folder: Path
    vectors: Vectors
    threads: int
    survivors: bool = False
    breadth: int | None = None
    truth: tuple[tuple[int, ...], ...] = ()

    def run(self, *, limit_seconds: float) -> Figures:
        """Takes the step in a process of its own.

        Raises:
            StepError: it failed, died or took longer than the limit.
        """
        context = multiprocessing.get_context("spawn")
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_take, args=(self, sender))
        process.start()
        sender.close()
        try:
            if not receiver.poll(limit_seconds):
                raise StepError(f"{self.name} took longer than {limit_seconds:.0f} s")
            figures: Figures = receiver.recv()
            # Threads of a library can keep a process alive that has told all.
            process.join(_GRACE_SECONDS)
        except EOFError as error:
            process.join(_GRACE_SECONDS)
            raise StepError(f"{self.name} died with exit code {process.exitcode}") from error
        finally:
            process.kill()
            process.join()
        if "error" in figures:
            raise StepError(f"{self.name}: {figures['error']}")
        return figures


def _take(step: Step, sender: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it
    try:
        figures = _STEPS[step.name](step)
        figures["peak_bytes"] = peak_bytes()
    except Exception as error:
        figures = {"error": f"{type(error).__name__}: {error}"[:300]}
    sender.send(figures)
    sender.close()


def peak_bytes() -> int:
    """The most memory that this process has had in use."""
    if sys.platform == "linux":
        # The figure of getrusage may be that of the parent, from before this program was loaded.
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return 1024 * int(line.split()[1])
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


# ---- steps


def truth(step: Step) -> Figures:
    """The nearest items of each query, exactly."""
    return {"nearest": step.vectors.nearest(K)}


def build(step: Step) -> Figures:
    vectors = step.vectors
    count = vectors.count - vectors.doomed * step.survivors
    store = _store(step, count)
    empty_bytes = peak_bytes()
    store.create()
    spent = 0.0
    for ids, rows in vectors.survivors() if step.survivors else vectors.blocks():
        spent += _seconds(partial(store.add, ids, rows))
    spent += _seconds(store.save)
    store.close()
    return {"add_seconds": spent, "empty_bytes": empty_bytes}


def scan(step: Step) -> Figures:
    """In how many of the deleted vectors some 16 bytes stand in some file, and how large all are.

    Both as float32 and as float16. Unlike procmem's own report, this allows for no coincidence.
    """
    from procmem.residue import find, windows

    rows = step.vectors.deleted_rows()
    owners = {
        window: owner
        for owner, row in enumerate(rows)
        for window in windows([row.tobytes(), row.astype(np.float16).tobytes()]).tolist()
    }
    wanted = np.array(sorted(owners), dtype="S16")
    found: set[int] = set()
    size = 0
    for path in sorted(path for path in step.folder.rglob("*") if path.is_file()):
        size += path.stat().st_size
        for data in _pieces(path):
            hits = np.unique(find(wanted, data)[:, 0])
            found.update(owners[window] for window in wanted[hits].tolist())
    return {"found": len(found), "disk_bytes": size}


def use(step: Step) -> Figures:
    store = _store(step, step.vectors.count)
    queries = step.vectors.queries()

    def first_answer() -> None:
        store.open()
        store.query(queries[0], K)

    reopened = _seconds(first_answer)
    breadth = None
    for breadth in store.breadths:
        store.search_with(breadth)
        if _recall(_answers(store, queries), step.truth) >= WANTED_RECALL:
            break
    _answers(store, queries[:_WARM_UP])
    samples = [_seconds(partial(store.query, query, K)) for query in queries]
    recall = _recall(_answers(store, queries), step.truth)
    doomed = step.vectors.deleted()
    deleted = _seconds(partial(store.delete, doomed))
    store.close()
    return {
        "reopen_seconds": reopened,
        "breadth": breadth,
        "query_seconds": float(np.median(samples)),
        "recall": recall,
        "delete_seconds": deleted,
    }


def ask(step: Step) -> Figures:
    store = _store(step, step.vectors.count)
    store.open()
    if step.breadth is not None:
        store.search_with(step.breadth)
    answers = _answers(store, step.vectors.queries())
    return {"answers": answers, "close_seconds": _seconds(store.close)}


_STEPS: dict[str, Callable[[Step], Figures]] = {
    step.__name__: step for step in (truth, build, scan, use, ask)
}


# ---- helpers


def _store(step: Step, count: int) -> Store:
    kind: type[Store] = STORES[step.store].load()
    return kind(step.folder, count=count, threads=step.threads)


def _answers(store: Store, queries: Floats) -> list[list[int]]:
    return [store.query(query, K) for query in queries]


def _recall(found: list[list[int]], wanted: tuple[tuple[int, ...], ...]) -> float:
    hits = [len(set(a) & set(b)) for a, b in zip(found, wanted, strict=True)]
    return sum(hits) / (K * len(hits))


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _pieces(path: Path) -> Iterator[bytes]:
    """A file's bytes in pieces that overlap by less than a window."""
    with path.open("rb") as file:
        tail = b""
        while data := file.read(_PIECE_BYTES):
            yield tail + data
            tail = (tail + data)[-15:]
