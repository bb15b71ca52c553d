"""One process writes, eight ask: nobody gets an error, and nobody an item that is deleted.

The writer keeps a journal beside the vault: when each add returned, when each delete began and
when it returned. A reader takes the time before it asks, reads the journal after it was answered,
and judges what it was told: by `time.monotonic_ns`, which is one clock for all processes.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.stress import toy
from tests.stress.worker import Say, Worker

from procmem.memory import VisualMemory

READERS = 8
MOST_ITEMS = 120
FEWEST_DELETES = 3
"""The writer goes on until it has done as many, however slow the machine is."""


# ---- in the children


class Journal:
    """What the writer has done so far, as far as it was read.

    Attributes:
        added: when the add of an id had returned, nanoseconds.
        deleting: the ids whose delete has begun.
        deleted: when the delete of an id had returned.
        ended: whether the writer is through.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._rest = b""
        self.added: dict[int, int] = {}
        self.deleting: set[int] = set()
        self.deleted: dict[int, int] = {}
        self.ended = False

    def read(self) -> None:
        """Takes over what was written since."""
        *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
        for line in lines:
            verb, ids, when = json.loads(line)
            if verb == "added":
                self.added.update(dict.fromkeys(ids, when))
            elif verb == "deleting":
                self.deleting.update(ids)
            elif verb == "deleted":
                self.deleted.update(dict.fromkeys(ids, when))
            else:
                self.ended = True


def write(folder: Path, journal: Path, seconds: float, seed: int) -> dict[str, int]:
    """Adds, deletes, purges and opens anew at random for so long, or longer; gives figures."""
    figures = Counter(adds=0, deletes=0, purges=0, openings=0)
    chance = random.Random(seed)
    held: list[int] = []
    first = 1
    end = time.monotonic() + seconds
    with journal.open("ab", buffering=0) as file, contextlib.ExitStack() as stack:

        def note(verb: str, ids: list[int]) -> None:
            file.write(json.dumps([verb, ids, time.monotonic_ns()]).encode() + b"\n")

        def opened() -> VisualMemory:
            stack.close()
            if chance.random() < 0.8:
                stack.enter_context(toy.hasty())  # more calls in the time; the others wait
            figures["openings"] += 1
            limit = chance.choice((0, 1000))
            memory = VisualMemory(folder, embedder=toy.EMBEDDER, purge_limit=limit)
            return stack.enter_context(memory)

        try:
            memory = opened()
            while time.monotonic() < end or figures["deletes"] < FEWEST_DELETES:
                act = chance.random()
                if len(held) < 5 or (act < 0.4 and len(held) < MOST_ITEMS):
                    ids = list(range(first, first + chance.randint(1, 6)))
                    first = ids[-1] + 1
                    masks = [toy.mask(id_) if toy.has_mask(id_) else None for id_ in ids]
                    labels = [toy.label(id_) for id_ in ids]
                    images = [toy.picture(id_) for id_ in ids]
                    memory.add(images, labels, masks=masks, ids=ids)
                    note("added", ids)
                    held += ids
                    figures["adds"] += 1
                elif act < 0.85:
                    ids = chance.sample(held, chance.randint(1, min(8, len(held))))
                    note("deleting", ids)
                    report = memory.delete(ids, receipt=chance.random() < 0.3)
                    note("deleted", ids)
                    held = [id_ for id_ in held if id_ not in ids]
                    figures["deletes"] += 1
                    figures["purges"] += report.purged
                elif act < 0.98:
                    assert memory._vault.purge()
                    figures["purges"] += 1
                else:
                    memory = opened()
        finally:
            note("ended", [])
    return dict(figures)


def read(folder: Path, journal: Path, seed: int) -> dict[str, int]:
    """Asks until the writer is through; gives figures. AssertionError for a wrong answer."""
    figures = Counter(answers=0, items=0)
    chance = random.Random(seed)
    known = Journal(journal)

    def opened() -> VisualMemory:
        return VisualMemory(folder, embedder=toy.EMBEDDER, read_only=True)

    memory, parent = opened(), os.getppid()
    while not known.ended and os.getppid() == parent:
        act = chance.choice(("neighbors", "items", "classify"))
        if chance.random() < 0.01:
            memory.close()
            memory = opened()
        picture = toy.picture(chance.randrange(1, 1 + max(known.added, default=1)))
        begun = time.monotonic_ns()
        if act == "items":
            found = {item.id for item in memory.items()}
        elif act == "neighbors":
            near = memory.neighbors(picture, k=chance.choice((1, 10, 2 * MOST_ITEMS)))
            found = {neighbor.id for neighbor in near}
        else:
            found = {neighbor.id for neighbor in memory.classify(picture).neighbors}
        known.read()
        late = [id_ for id_ in found if known.deleted.get(id_, begun) < begun]
        assert not late, f"{act} gave {late}, whose delete had returned"
        if act == "items":
            due = {id_ for id_, when in known.added.items() if when < begun} - known.deleting
            assert due <= found, f"items lacks {sorted(due - found)}, whose add had returned"
        # So that the journal's sets stay as small as the memory.
        for id_ in [id_ for id_ in known.deleted if id_ in known.added]:
            del known.added[id_]
        figures["answers"] += 1
        figures["items"] += len(found)
    memory.close()
    return dict(figures)


def crowd(say: Say, folder: str, duration_seconds: float, seed: int, readers: int) -> None:
    """Forks readers and writes beside them; says the figures of each."""
    vault, journal = Path(folder) / "vault", Path(folder) / "journal"
    VisualMemory(vault, embedder=toy.EMBEDDER).close()
    journal.touch()
    children = []
    try:
        for reader in range(readers):
            child = os.fork()
            if child == 0:
                try:
                    say("reader", read(vault, journal, 1000 * seed + reader))
                    os._exit(0)
                except BaseException as error:
                    say("failed", f"reader {reader}: {type(error).__name__}: {error!s:.1000}")
                    os._exit(1)
            children.append(child)
        say("writer", write(vault, journal, duration_seconds, seed))
    finally:
        for child in children:
            os.waitpid(child, 0)
    with VisualMemory(vault, embedder=toy.EMBEDDER) as memory:
        say("problems", memory.verify().problems)


# ---- in the parent


def run_readers(folder: Path, *, count: int, seed: int = 0) -> dict[str, int]:
    """Lets one process write and eight ask for `count` seconds.

    Returns:
        Figures: adds, deletes, purges, openings by the writer; answers, items in them.
    """
    figures: Counter[str] = Counter()
    with Worker() as worker:
        arguments: dict[str, Any] = {"duration_seconds": count, "seed": seed, "readers": READERS}
        lines, status = worker.run("readers.crowd", folder=folder, **arguments)
    failed = [words[1] for words in lines if words[0] == "failed"]
    assert not failed, failed
    assert status == 0, f"the writer ended with status {status}, having said {lines}"
    for kind, said in lines:
        if kind == "problems":
            assert not said, said
        else:
            figures.update(said)
    return dict(figures)
