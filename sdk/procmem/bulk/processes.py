"""The engine "processes": workers on this machine, each with a model of its own.

A worker that dies takes nothing with it but its part, which another one begins anew. An image at
which two workers died is left out and reported.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections import Counter, deque
from collections.abc import Generator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from multiprocessing.sharedctypes import Synchronized
from typing import Any

from procmem.bulk.dataset import Part
from procmem.bulk.job import Job, PartDone, PartWorker
from procmem.errors import ProcmemError, WorkerDiedError

_DEATHS = 2  # of workers at one image before it is left out
_GRACE_SECONDS = 5.0


def run_processes(
    job: Job, parts: Sequence[Part], *, workers: int
) -> Generator[PartDone, None, None]:
    """Embeds parts; gives each when it is done. Stopping early ends the workers.

    Args:
        job: what they are told.
        parts: which.
        workers: how many processes.

    Raises:
        WorkerDiedError: a worker died before it could begin with an image, or of every image.
        ProcmemError, OSError: what a worker raised.
    """
    waiting = deque(parts)
    deaths: Counter[tuple[str, int]] = Counter()
    pool: list[_Worker] = []
    try:
        pool += [_Worker(job) for _ in range(min(workers, len(parts)))]
        while waiting or any(worker.part is not None for worker in pool):
            for worker in pool:
                if worker.part is None and waiting and worker.ready:
                    worker.begin(waiting.popleft(), deaths)
            for worker in _heard(pool):
                answer = worker.answer()
                if answer is not None:
                    if isinstance(answer, PartDone):
                        yield answer
                    continue
                lost, position = worker.part, worker.position
                if lost is None or position < 0:
                    raise WorkerDiedError(
                        f"a worker ended with exit code {worker.exit_code} when it was touching no "
                        "image; too little memory for so many workers? give fewer. A script that "
                        'calls this must do so below `if __name__ == "__main__":`, since its '
                        "workers read it too"
                    )
                deaths[lost.name, position] += 1
                waiting.appendleft(lost)
                pool[pool.index(worker)] = _Worker(job)
                worker.end()
    finally:
        for worker in pool:
            worker.end()


class _Worker:
    """A process, and the part that it has."""

    def __init__(self, job: Job) -> None:
        context = multiprocessing.get_context("spawn")
        self.part: Part | None = None
        self.ready = False
        self._pipe, theirs = context.Pipe()
        self._position: Synchronized[int] = context.Value("q", -1)
        self._process: SpawnProcess = context.Process(
            target=_work, args=(job, theirs, self._position), daemon=True
        )
        self._process.start()
        theirs.close()

    @property
    def position(self) -> int:
        """Of the image that it is touching; -1 for none."""
        return int(self._position.value)

    @property
    def exit_code(self) -> int | None:
        """Of a process that has ended."""
        self._process.join(_GRACE_SECONDS)
        return self._process.exitcode

    @property
    def handles(self) -> list[Any]:
        """What becomes ready when there is something to hear."""
        return [self._pipe, self._process.sentinel]

    def begin(self, part: Part, deaths: Counter[tuple[str, int]]) -> None:
        """Gives it a part."""
        deadly = {
            at for (name, at), times in deaths.items() if name == part.name and times >= _DEATHS
        }
        self.part = part
        with contextlib.suppress(OSError):  # it died; its sentinel says so
            self._pipe.send((part, frozenset(deadly)))

    def answer(self) -> PartDone | str | None:
        """What it says: a part that is done, "ready", or None if it has died.

        Raises what it raised.
        """
        try:
            said = self._pipe.recv() if self._pipe.poll() else None
        except (EOFError, OSError):
            said = None
        if isinstance(said, BaseException):
            raise said
        if isinstance(said, PartDone):
            self.part = None
        if said == "ready":
            self.ready = True
        return said

    def end(self) -> None:
        """Ends it, whatever it is at: a part's file is whole or not there."""
        self._pipe.close()
        self._process.kill()
        self._process.join()


def _heard(pool: Sequence[_Worker]) -> list[_Worker]:
    owners = {id(handle): worker for worker in pool for handle in worker.handles}
    ready = wait([handle for worker in pool for handle in worker.handles])
    return list({id(owners[id(one)]): owners[id(one)] for one in ready}.values())


def _work(job: Job, pipe: Connection, position: Synchronized[int]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it

    def begin(at: int) -> None:
        position.value = at

    try:
        worker = PartWorker(job)
        pipe.send("ready")
        while True:
            part, deadly = pipe.recv()
            pipe.send(worker.run(part, deadly=deadly, begin=begin))
    except (EOFError, BrokenPipeError):
        return  # the parent is gone
    except (ProcmemError, OSError) as error:
        with contextlib.suppress(OSError):
            pipe.send(error)
