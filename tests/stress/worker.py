"""Processes that are made to die: each a fork of one that has everything imported.

    worker = Worker()                      # or Worker(preload=shim), see faults.c
    lines, status = worker.run("churn", folder=..., seed=..., seconds=0.1)

The parent side is `Worker`; `python -m tests.stress.worker` is the other. A job says over a pipe
what it begins and what has returned; `seconds` after its first word it is killed, if that is given.
Jobs are functions of `JOBS`, or of a module beside this one: "mutations.examine_vault".
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import json
import logging
import os
import random
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


class Worker:
    """A process that forks one child per job.

    Args:
        preload: a shared library that stands before the C library in it.
        modules: what it imports before the first fork, so that no child need.
    """

    def __init__(self, *, preload: Path | None = None, modules: Sequence[str] = ()) -> None:
        paths = [str(ROOT), *sys.path]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "OPENBLAS_NUM_THREADS": "1",
        }
        if preload is not None:
            environment["LD_PRELOAD"] = str(preload)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.stress.worker", *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=ROOT,
        )

    def run(
        self, job: str, *, seconds: float | None = None, **arguments: Any
    ) -> tuple[list[Any], int]:
        """Runs a job in a child.

        Returns:
            What it said, one value per line, and its exit status as `os.waitpid` gives it.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        command = {"job": job, "seconds": seconds, "arguments": arguments}
        self._process.stdin.write(json.dumps(command, default=str) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return answer["lines"], answer["status"]

    def close(self) -> None:
        """Ends the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.wait()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


Say = Callable[..., None]


def churn(say: Say, folder: str, first: int, seed: int) -> None:
    """Adds, deletes and purges without end. Says ("begin", verb, ids) and ("done",)."""
    from tests.stress import toy

    from procmem.vault import Vault

    chance = random.Random(seed)
    say("ready")
    vault = Vault(folder, binding=toy.BINDING)
    held = [item.id for item in vault.items()]
    while True:
        act = chance.random()
        if act < 0.5 or len(held) < 3:
            ids = list(range(first, first + chance.randint(1, 5)))
            first += len(ids)
            say("begin", "add", ids)
            vault.add([toy.record(id_) for id_ in ids])
            held += ids
        elif act < 0.8:
            ids = chance.sample(held, chance.randint(1, 3))
            say("begin", "delete", ids)
            vault.delete(ids)
            held = [id_ for id_ in held if id_ not in ids]
        else:
            say("begin", "purge", [])
            vault.purge()
        say("done")


# What a fault may hit: a memory's whole life in few calls. ("add" | "delete", ids).
LIFE = (
    ("add", (1, 2, 3, 5, 6)),
    ("add", (8, 9, 11, 12)),
    ("delete", (2, 6)),
    ("add", (18, 20)),
    ("delete", (8, 1)),
    ("add", (2, 24)),
    ("delete", (12,)),
)


def live(
    say: Say,
    folder: str,
    shim: str,
    at: int,
    mode: int,
    trace: str,
    careless: bool = False,
    key: str | None = None,
) -> None:
    """Goes through `LIFE` while call number `at` fails; `careless` waits for no disk.

    With a `key` the vault is sealed, and the calls are those below the folder around both.

    Says ("begin", ids before, ids after), ("done",) or ("raised", type and message, is it ours),
    then ("state", ids); at last ("calls", number of calls that could have failed).
    """
    from tests.stress import toy

    from procmem.errors import ProcmemError
    from procmem.memory import VisualMemory

    haste = contextlib.ExitStack()
    if careless:
        haste.enter_context(toy.hasty())
    library = ctypes.CDLL(shim)
    library.fault_calls.restype = ctypes.c_long
    around = folder if key is None else str(Path(folder).parent)
    library.fault_arm(around.encode(), ctypes.c_long(at), mode, trace.encode())

    def step(before: set[int], after: set[int], act: Callable[[], Any]) -> Any:
        words = ("begin", sorted(before), sorted(after))
        library.fault_note(json.dumps(words).encode())
        say(*words)
        try:
            result = act()
        except Exception as error:  # told to the parent, which judges
            ours = isinstance(error, ProcmemError)
            say("raised", f"{type(error).__name__}: {error}", ours)
            return None
        library.fault_note(b'["done"]')
        say("done")
        return result

    def opened() -> Any:
        return step(set(), set(), lambda: VisualMemory(folder, embedder=toy.EMBEDDER, key=key))

    memory = opened() or opened()
    if memory is None:
        return
    held: set[int] = set()
    for verb, ids in LIFE:
        if verb == "add":
            images = [toy.picture(id_) for id_ in ids]
            labels, sources = [toy.label(id_) for id_ in ids], [toy.source(id_) for id_ in ids]
            masks = [toy.mask(id_) if toy.has_mask(id_) else None for id_ in ids]
            columns = {"labels": labels, "masks": masks, "ids": ids, "sources": sources}
            wanted = held.union(ids)
            if wanted - held == set(ids):
                step(held, wanted, lambda: memory.add(images, **columns))  # noqa: B023  runs now
        elif held.intersection(ids):
            gone = held.intersection(ids)
            step(held, held - gone, lambda: memory.delete(gone))  # noqa: B023  runs now
        try:
            held = {item.id for item in memory.items()}
            # What is answered from is what is held, also after a call that failed.
            say("state", sorted(held), memory._recall.index().ids.tolist())
        except ProcmemError as error:
            say("raised", f"{type(error).__name__}: {error}", True)
            break
    step(held, held, memory.close)
    say("calls", library.fault_calls())


JOBS: dict[str, Callable[..., None]] = {"churn": churn, "live": live}


def bound(*, seconds: float, megabytes: int) -> None:
    """Gives this process a limit of processor time and of memory beyond what it has now (Linux).

    More processor time ends it (SIGPROF), and so does a wait of thirty times as long (SIGALRM). Of
    memory it gets no more, which is a MemoryError where it is asked for with care.
    """
    import resource

    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, 30 * seconds)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    most = pages * resource.getpagesize() + megabytes * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _job(name: str) -> Callable[..., None]:
    module, _, function = name.rpartition(".")
    if not module:
        return JOBS[name]
    job: Callable[..., None] = getattr(importlib.import_module(f"tests.stress.{module}"), function)
    return job


def _say(pipe: int, *words: Any) -> None:
    os.write(pipe, (json.dumps(words) + "\n").encode())


def _serve() -> None:
    logging.disable()  # a purge that stays pending is no news here
    from tests.stress import toy

    from procmem import memory, vault  # noqa: F401  so that a fork need not

    for module in sys.argv[1:]:
        importlib.import_module(module)

    for line in sys.stdin:
        command = json.loads(line)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.close(reading)
                from types import SimpleNamespace

                memory.time = SimpleNamespace(time=lambda: toy.SECONDS)

                say = functools.partial(_say, writing)
                _job(command["job"])(say, **command["arguments"])
                status = 0
            finally:
                if status:
                    sys.excepthook(*sys.exc_info())
                os._exit(status)
        os.close(writing)
        said = b""
        if command["seconds"] is not None:
            said = os.read(reading, 1 << 16)  # its first word: it is at work
            select.select([], [], [], command["seconds"])
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        while data := os.read(reading, 1 << 16):
            said += data
        os.close(reading)
        status = os.waitpid(child, 0)[1]
        lines = [json.loads(word) for word in said.decode().splitlines()]
        print(json.dumps({"lines": lines, "status": status}), flush=True)  # noqa: T201


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        _serve()
