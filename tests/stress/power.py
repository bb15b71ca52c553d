"""A power cut at any moment: what the disk had not promised to keep may be gone.

Takes the trace that `faults.c` writes of a memory's life: every write with its data, every change
of a name, every fsync. For a cut after event n it rebuilds the folder as a disk may hold it: what
was synced before stays, and of what came later any part, torn anywhere, may be there or not.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.stress import toy
from tests.stress.faults import build_shim, check_folder
from tests.stress.worker import Worker

VARIANTS = ("nothing more", "names only", "data only", "a part", "a part, names in any order")


@dataclass
class File:
    """A file's changes in order, the first `synced` of which are durable."""

    changes: list[tuple[str, int, bytes]] = field(default_factory=list)
    synced: int = 0

    def content(self, chance: random.Random, keep: float, tear: float) -> bytes:
        """What the disk holds if each change since the sync arrives with chance `keep`."""
        data = bytearray()
        for at, (kind, where, new) in enumerate(self.changes):
            durable = at < self.synced
            if not durable and chance.random() >= keep:
                continue
            if kind == "T":
                data[where:] = bytes(max(0, where - len(data)))
                continue
            kept = len(new)
            if not durable and chance.random() < tear:
                kept = chance.randrange(len(new) + 1)
            # A hole that a lost write left reads as zeros.
            data.extend(bytes(max(0, where - len(data))))
            data[where : where + kept] = new[:kept]
        return bytes(data)


@dataclass
class Disk:
    """A folder as the system sees it, and what of that is durable."""

    names: dict[str, File] = field(default_factory=dict)
    open: dict[int, File | None] = field(default_factory=dict)  # None: the folder itself
    changes: list[tuple[str, str, str, File | None]] = field(default_factory=list)
    synced: int = 0

    def apply(self, event: tuple[str, int, int, str, str, bytes]) -> None:
        """Takes in one event of the trace."""
        kind, number, offset, one, two, data = event
        if kind == "O":
            if one == ".":
                self.open[number] = None
                return
            if one not in self.names:
                self._name(("O", one, "", File()))
            self.open[number] = self.names[one]
            if offset and self.names[one].changes:  # O_TRUNC
                self.names[one].changes.append(("T", 0, b""))
        elif kind in "WT":
            file = self.open[number]
            assert file is not None
            file.changes.append((kind, offset, data) if kind == "W" else (kind, offset, b""))
        elif kind == "S":
            file = self.open[number]
            if file is None:
                self.synced = len(self.changes)
            else:
                file.synced = len(file.changes)
        else:
            self._name((kind, one, two, self.names[one]))

    def _name(self, change: tuple[str, str, str, File | None]) -> None:
        self.changes.append(change)
        rename(self.names, change)

    def after_a_cut(self, variant: str, chance: random.Random) -> dict[str, tuple[int, bytes]]:
        """Name -> (which file, content) of a disk whose power was cut now."""
        keep = {"nothing more": 0.0, "names only": 0.0, "data only": 1.0}.get(variant, 0.5)
        tear = 0.3 if "part" in variant else 0.0
        pending = self.changes[self.synced :]
        if variant in ("nothing more", "data only"):
            pending = []
        elif variant == "a part":  # as a file system with a journal does it
            pending = pending[: chance.randint(0, len(pending))]
        elif variant != "names only":
            pending = [change for change in pending if chance.random() < 0.5]
        names: dict[str, File] = {}
        for change in [*self.changes[: self.synced], *pending]:
            rename(names, change)
        contents: dict[int, bytes] = {}
        for file in names.values():
            if id(file) not in contents:
                contents[id(file)] = file.content(chance, keep, tear)
        return {name: (id(file), contents[id(file)]) for name, file in names.items()}


def rename(names: dict[str, File], change: tuple[str, str, str, File | None]) -> None:
    """Applies one change of names; one whose file never arrived under that name does nothing."""
    kind, one, two, file = change
    if kind == "O":
        assert file is not None
        names.setdefault(one, file)
    elif one in names and names[one] is file:
        if kind == "L":
            names.setdefault(two, names[one])
        else:
            moved = names.pop(one)
            if kind == "R":
                names[two] = moved


def read_trace(data: bytes) -> list[tuple[str, int, int, str, str, bytes]]:
    """The events of a trace."""
    events = []
    at = 0
    while at < len(data):
        end = data.index(b"\n", at)
        kind, number, offset, size, one, two = data[at:end].decode().split("\t")
        at = end + 1
        if kind == "W":
            events.append((kind, int(number), int(offset), one, two, data[at : at + int(size)]))
            at += int(size)
        else:
            events.append((kind, int(number), int(offset), one, two, b""))
    return events


def lay_out(folder: Path, files: dict[str, tuple[int, bytes]]) -> None:
    """Writes files, and names that share one as links."""
    folder.mkdir()
    first: dict[int, Path] = {}
    for name, (which, data) in files.items():
        if which in first:
            os.link(first[which], folder / name)
        else:
            first[which] = folder / name
            first[which].write_bytes(data)


def run_power_cuts(
    folder: Path, *, count: int, seed: int = 0, careless: bool = False
) -> dict[str, int]:
    """Cuts the power at `count` random moments in random ways and opens what is left.

    Args:
        folder: for the traced and the rebuilt vaults.
        count: of cuts.
        seed: of the moments and of what each cut leaves.
        careless: trace a memory that never waits for the disk. It must fail: the control.

    Returns:
        Figures: cuts, events of the trace, and how many cuts fell into a call and left the state
        before it, or the state after it.
    """
    shim = build_shim(folder)
    if shim is None:
        raise RuntimeError("the trace needs Linux and a C compiler (cc)")
    path = folder / "traced"
    path.mkdir()
    with Worker(preload=shim) as worker:
        trace = folder / "trace"
        lines, status = worker.run(
            "live", folder=path, shim=shim, at=0, mode=0, trace=trace, careless=careless
        )
    assert status == 0
    assert lines[-1][0] == "calls"
    events = read_trace(trace.read_bytes())
    shutil.rmtree(path)
    chance = random.Random(seed)
    cuts: dict[int, list[str]] = {}
    everywhere = [(at, variant) for at in range(len(events)) for variant in VARIANTS]
    while sum(map(len, cuts.values())) < count:  # again and again if need be: parts are random
        chance.shuffle(everywhere)
        for at, variant in everywhere[: count - sum(map(len, cuts.values()))]:
            cuts.setdefault(at, []).append(variant)
    figures: Counter[str] = Counter()
    disk = Disk()
    before: set[int] = set()
    after: set[int] = set()
    once: set[int] = set()
    with toy.hasty():
        for at, event in enumerate(events):
            if event[0] != "N":
                disk.apply(event)
            else:
                words = json.loads(event[3])
                if words[0] == "begin":
                    before, after = set(words[1]), set(words[2])
                else:
                    before = after
                once |= before
            for variant in cuts.get(at, []):
                left = folder / f"cut-{at}"
                lay_out(left, disk.after_a_cut(variant, chance))
                try:
                    found = check_folder(left, [before, after], once | after)
                except Exception as error:
                    raise AssertionError(
                        f"cut after event {at} of {len(events)} ({event[:5]}), {variant}: {error}"
                    ) from error
                figures["cuts"] += 1
                if before != after:
                    figures["left before" if found == before else "left after"] += 1
                shutil.rmtree(left)
    return {"events": len(events), **figures}
