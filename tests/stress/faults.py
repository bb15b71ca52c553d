"""Every call that changes a file fails once: the memory is then the one before or the one after.

`faults.c` stands before the C library of a worker that goes through a memory's whole life, and
makes call number n refuse, tear or kill. Then the folder is opened as by a person who comes back.
"""

from __future__ import annotations

import functools
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.stress import toy
from tests.stress.worker import LIFE, Worker

from procmem.memory import VisualMemory
from procmem.residue import scan_folder

MODES = {
    "refused (EIO)": 1,
    "refused (ENOSPC)": 2,
    "killed before": 3,
    "killed after": 4,
    "torn and killed": 5,
    "torn (EIO)": 6,
    "refused from then on": 7,
}
EVERYONE = sorted({id_ for _, ids in LIFE for id_ in ids})


def build_shim(folder: Path) -> Path | None:
    """Compiles `faults.c`; None where there is no compiler, or no Linux."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if sys.platform != "linux" or compiler is None:
        return None
    library = folder / "faults.so"
    source = Path(__file__).with_name("faults.c")
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


def teach(memory: VisualMemory, ids: list[int]) -> None:
    """Adds items as the worker does."""
    memory.add(
        [toy.picture(id_) for id_ in ids],
        [toy.label(id_) for id_ in ids],
        masks=[toy.mask(id_) if toy.has_mask(id_) else None for id_ in ids],
        sources=[toy.source(id_) for id_ in ids],
        ids=ids,
    )


@functools.cache
def fresh_ledger(ids: tuple[int, ...]) -> tuple[bytes, dict[int, tuple[bytes, ...]]]:
    """The ledger of a memory that never held anything else, and the stored values by id."""
    with tempfile.TemporaryDirectory() as folder:
        memory = VisualMemory(Path(folder) / "v", embedder=toy.EMBEDDER)
        teach(memory, list(ids))
        assert memory._vault.purge()
        values = {id_: tuple(memory._vault.values([id_])) for id_ in ids}
        memory.close()
        return (Path(folder) / "v" / "ledger.sqlite").read_bytes(), values


def check_folder(
    folder: Path, allowed: list[set[int]], once: set[int], key: Path | None = None
) -> set[int]:
    """Opens what a fault left and checks everything that is promised of it.

    Args:
        folder: of the vault.
        allowed: the sets of ids that it may hold: before and after the call that was hit.
        once: ids that were held at some time; no window of those that are gone may be left.
        key: of a sealed vault.

    Returns:
        The ids that it holds.
    """
    everything = fresh_ledger(tuple(EVERYONE))[1]
    memory = VisualMemory(folder, embedder=toy.EMBEDDER, key=key)
    try:
        assert memory.verify().problems == ()
        found = {item.id for item in memory.items()}
        assert found in allowed, f"holds {sorted(found)}, wanted one of {allowed}"
        assert not memory._vault.purge_pending
        secrets = [value for id_ in sorted(once - found) for value in everything[id_]]
        scan = scan_folder(folder, secrets, entitled=memory._vault.entitled)
        assert scan.windows_found == 0, f"{scan.windows_found} windows of what was deleted"
        # It works on, and in the end nothing tells what it went through.
        missing = [id_ for id_ in EVERYONE if id_ not in found][:2]
        teach(memory, missing)
        assert memory.delete(missing).windows_found == 0 or not missing
        assert memory._vault.purge()
    finally:
        memory.close()
    left = toy.files(folder)
    assert set(left) - {"KEY"} == {"LOCK", "ledger.sqlite"}, sorted(left)
    if key is None:
        assert left["ledger.sqlite"] == fresh_ledger(tuple(sorted(found)))[0]
    return found


def judge(lines: list[list], folder: Path, key: Path | None = None) -> Counter[str]:
    """Checks what a worker said of its life, and then what it left."""
    figures: Counter[str] = Counter()
    before: set[int] = set()
    after: set[int] = set()
    once: set[int] = set()
    for words in lines:
        if words[0] == "begin":
            before, after = set(words[1]), set(words[2])
        elif words[0] == "done":
            once |= before
            before = after
        elif words[0] == "raised":
            assert words[2], f"not an error of ours: {words[1]}"
            figures["calls that raised"] += 1
        elif words[0] == "state":
            held = set(words[1])
            assert held in (before, after), f"{held} is neither {before} nor {after}"
            assert words[2] == words[1], "answers from another state than it holds"
            figures["raised, yet done"] += before != after and held == after
            before = after = held
            once |= held
    check_folder(folder, [before, after], once | before, key)
    return figures


def run_faults(folder: Path, *, count: int, seed: int = 0, sealed: bool = False) -> dict[str, int]:
    """Hits `count` pairs of call number and mode, at random; all of them if there are no more.

    Of a `sealed` vault the calls that change its key file count too.
    """
    shim = build_shim(folder)
    if shim is None:
        raise RuntimeError("faults are injected on Linux only, and need a C compiler (cc)")
    figures: Counter[str] = Counter()
    with Worker(preload=shim) as worker, toy.hasty():

        def live(at: int, mode: int) -> tuple[list, int, Path]:
            path = folder / f"{at}-{mode}"
            places = {"folder": path / "v", "key": path / "key"} if sealed else {"folder": path}
            places["folder"].mkdir(parents=True)
            lines, status = worker.run("live", **places, shim=shim, at=at, mode=mode, trace="")
            return lines, status, path

        lines, _, path = live(0, 0)
        assert lines[-1][0] == "calls"
        calls = lines[-1][1]
        shutil.rmtree(path)
        pairs = [(at, name) for at in range(1, calls + 1) for name in MODES]
        random.Random(seed).shuffle(pairs)
        for at, name in pairs[:count]:
            lines, status, path = live(at, MODES[name])
            try:
                assert status == (9 << 8 if "killed" in name else 0), status
                figures += judge(lines, path / "v", path / "key") if sealed else judge(lines, path)
            except Exception as error:
                raise AssertionError(f"call {at} {name}: {error}; it said {lines}") from error
            shutil.rmtree(path)
            figures["faults"] += 1
    return {"calls": calls, "pairs": len(pairs), **figures}
