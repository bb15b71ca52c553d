"""SIGKILL at random moments of a process that adds, deletes and purges."""

from __future__ import annotations

import random
from pathlib import Path

from tests.stress import toy
from tests.stress.worker import Worker

from procmem.residue import scan_folder
from procmem.vault import Vault

MEAN_SECONDS = 0.08
"""Some calls of the worker on a disk that waits, hundreds on one that does not."""


def run_kills(folder: Path, *, count: int, seed: int = 0) -> dict[str, int]:
    """Kills a worker `count` times and opens what it left.

    Returns:
        Figures: kills, calls that were acknowledged, kills in the middle of a call, purges that
        the opening finished.
    """
    chance = random.Random(seed)
    figures = {"kills": 0, "acknowledged": 0, "killed in a call": 0, "purges finished": 0}
    path = folder / "killed"
    held: set[int] = set()
    first = 1
    deleted: dict[int, None] = {}
    with Worker() as worker:
        for cycle in range(count):
            moment = chance.expovariate(1 / MEAN_SECONDS)
            lines, status = worker.run(
                "churn", seconds=moment, folder=path, first=first, seed=chance.getrandbits(32)
            )
            assert status == 9, f"cycle {cycle}: the worker ended by itself, status {status}"
            doubtful: set[int] = set()
            for words in lines:
                if words[0] == "begin":
                    _, verb, ids = words
                    doubtful = set(ids)
                    first = max([first, *(id_ + 1 for id_ in ids)])
                elif words[0] == "done":
                    if verb != "purge":
                        held ^= doubtful
                        deleted.update(dict.fromkeys(doubtful - held))
                    doubtful, verb = set(), ""
                    figures["acknowledged"] += 1
            figures["kills"] += 1
            figures["killed in a call"] += lines[-1][0] == "begin"
            figures["purges finished"] += (path / "PURGE_PENDING").exists()
            vault = Vault(path, binding=toy.BINDING)
            found = {item.id for item in vault.items()}
            assert vault.problems() == [], f"cycle {cycle}"
            assert not vault.purge_pending
            assert found in (held, held ^ doubtful), f"cycle {cycle}: neither before nor after"
            deleted.update(dict.fromkeys(held - found))
            gone = deleted if cycle == count - 1 else list(deleted)[-40:]
            secrets = [value for id_ in gone for value in toy.secrets(toy.record(id_))]
            held = found
            # So that cycles stay equally fast.
            if len(held) > 200:
                oldest = sorted(held)[:150]
                vault.delete(oldest)
                assert vault.purge()
                deleted.update(dict.fromkeys(oldest))
                held -= set(oldest)
            scan = scan_folder(path, secrets, entitled=vault.entitled)
            vault.close()
            assert scan.windows_found == 0, f"cycle {cycle}: {scan.windows_found} windows"
    return figures
