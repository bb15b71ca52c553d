"""Work that may hang or crash its process, done in child processes.

Used by `user_shaders.py` and by the workers of the stream: a graphics driver may loop for ever,
or end the process, on a program that it does not like. Here such a program costs its own job,
which gives a `Failure`; all other jobs go on.

Promises: results come in the order of the jobs. A child that exceeds the time of a job is killed
and replaced. `close()` kills all children at once, in the middle of a job too; so does the death
of this process, however it dies (on Linux; elsewhere a child ends after its present job). Ctrl-C
reaches only the parent, which decides.

A script that starts workers needs the line `if __name__ == "__main__":`, because children are
spawned (a forked one would share the parent's driver).
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import pickle
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as TimedOut
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context, resource_tracker
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Generic, Literal, TypeVar

from pebble import ProcessExpired, ProcessPool

from procmem.errors import InputError, ProcmemError

T = TypeVar("T")
A = TypeVar("A")

# What a child may take to start, on a slow disk, until it can begin a job: importing torch can
# take half a minute there.
_START_SECONDS = 120.0

# Children that end before they begin the job: the second one is no accident.
_STARTS = 2

_MAX_COUNT = 1024

_PR_SET_PDEATHSIG = 1  # linux/prctl.h

# How much likelier than others a child is to be killed when memory runs out, of 1000.
_OUT_OF_MEMORY_SCORE = 500

_CLOSED = "the workers were closed before this job ended"


@dataclass(frozen=True, slots=True)
class Failure:
    """What a job gives instead of its value.

    Attributes:
        reason: "time-out", "crash" (its process ended) or "error" (it raised an exception).
        message: what happened, for a person.
        error: the exception if it is one of procmem's, with its own type and message; raise it
            where it should end the work.
    """

    reason: Literal["time-out", "crash", "error"]
    message: str
    error: ProcmemError | None = None


class Ticket(Generic[T]):
    """The claim to one job's result."""

    def __init__(self, call: bytes) -> None:
        self._call = call
        self._future: Future[bytes | Failure] = Future()

    def wait(self) -> T | Failure:
        """The job's value, as soon as there is one. Can be asked again.

        A job that the workers' `close()` ended gives a `Failure`.
        """
        answer = self._future.result()
        if isinstance(answer, Failure):
            return answer
        value: T | Failure = pickle.loads(answer)
        return value


class Workers:
    """Child processes that do jobs. Use as a context manager.

    Args:
        count: how many children, 1 to 1024.
        initializer: called once in every new child, before its first job, with `initargs`. If it
            raises, all jobs fail with that error. It must be importable (no lambda), and so must
            all functions of jobs.
        initargs: must pickle.
        timeout_seconds: a job that takes longer gives a `Failure`. The start of the child, with
            its imports and its initializer, does not count (it has 2 minutes of its own).

    Raises:
        InputError: a number out of range.
    """

    def __init__(
        self,
        count: int,
        *,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        timeout_seconds: float = 60.0,
    ) -> None:
        if not 1 <= count <= _MAX_COUNT:
            raise InputError(f"count is {count}, wanted 1 to {_MAX_COUNT} child processes")
        if not 0 < timeout_seconds < float("inf"):
            raise InputError(f"timeout_seconds is {timeout_seconds}, wanted more than 0, finite")
        setup = pickle.dumps((initializer, initargs))
        self._queue: SimpleQueue[Ticket[Any] | None] = SimpleQueue()
        self._closed = False
        # Started here, because its start would undo the signal mask of a thread below.
        resource_tracker.ensure_running()
        self._lanes = [_Lane(setup, timeout_seconds) for _ in range(count)]
        self._threads = [
            threading.Thread(target=_drive, args=(lane, self._queue), daemon=True)
            for lane in self._lanes
        ]
        for thread in self._threads:
            thread.start()
        # Who forgets to close: before the pools' own clean-up, which a lane would take for a crash.
        atexit.register(self.close)

    def submit(self, function: Callable[..., T], /, *args: Any) -> Ticket[T]:
        """Hands out a job: `function(*args)` in a child; the free children take them in order.

        Raises:
            InputError: the workers are closed.
            pickle.PicklingError: the function or an argument cannot be sent to a child.
        """
        if self._closed:
            raise InputError("the workers are closed; make new ones")
        ticket: Ticket[T] = Ticket(pickle.dumps((function, args)))
        self._queue.put(ticket)
        return ticket

    def results(
        self, function: Callable[[A], T], arguments: Iterable[A], *, ahead: int | None = None
    ) -> Iterator[T | Failure]:
        """Values of `function(argument)` for every argument, strictly in order.

        Args:
            function: must be importable.
            arguments: may be endless; read no further ahead than the jobs.
            ahead: jobs handed out and not yet asked for, at most; bounds the memory that waiting
                results take. None is three for each child.

        Yields:
            For each argument the value or a `Failure`.
        """
        if ahead is None:
            ahead = 3 * len(self._lanes)
        elif ahead < 1:
            raise InputError(f"ahead is {ahead}, wanted 1 or more jobs")
        tickets: deque[Ticket[T]] = deque()
        for argument in arguments:
            tickets.append(self.submit(function, argument))
            if len(tickets) > ahead:
                yield tickets.popleft().wait()
        while tickets:
            yield tickets.popleft().wait()

    def close(self) -> None:
        """Kills the children at once; jobs that have not ended give a `Failure`."""
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        for _ in self._threads:
            self._queue.put(None)
        for lane in self._lanes:
            lane.close()
        for thread in self._threads:
            thread.join()
        with contextlib.suppress(Empty):
            while ticket := self._queue.get_nowait():
                ticket._future.set_result(Failure("error", _CLOSED))

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class _Lane:
    """One child at a time, and what replaces it.

    A pool of its own for each child: a pool whose child ends between two jobs, or while it
    starts, breaks as a whole, and takes the jobs of other children with it.
    """

    def __init__(self, setup: bytes, timeout_seconds: float) -> None:
        self._setup = setup
        self._timeout = timeout_seconds
        self._pool: ProcessPool | None = None
        self._future: Future[bytes | Failure] | None = None
        self._closed = False
        self._lock = threading.Lock()  # between the lane's thread and close()

    def run(self, call: bytes) -> bytes | Failure:
        """A job's pickled answer."""
        for _ in range(_STARTS):
            try:
                return self._schedule(call).result(self._timeout + _START_SECONDS)
            except CancelledError:
                return Failure("error", _CLOSED)
            except TimedOut:
                if self._future is not None and not self._future.done():
                    self._end_pool()
                    return Failure(
                        "time-out", f"a child process did not start within {_START_SECONDS:g} s"
                    )
                return Failure("time-out", f"took more than {self._timeout:g} s and was ended")
            except ProcessExpired as error:
                return Failure("crash", f"its process ended with {_ending(error.exitcode)}")
            except (BrokenProcessPool, RuntimeError):
                self._end_pool()
                if self._closed:
                    return Failure("error", _CLOSED)
        return Failure(
            "crash",
            "its process ended before it could begin; the driver may have crashed, or this "
            'script has no line `if __name__ == "__main__":`',
        )

    def _schedule(self, call: bytes) -> Future[bytes | Failure]:
        with self._lock:
            if self._closed:
                raise CancelledError
            if self._pool is None:
                self._pool = ProcessPool(
                    max_workers=1,
                    initializer=_start_child,
                    initargs=(self._setup, os.getpid()),
                    context=get_context("spawn"),
                )
            self._future = self._pool.schedule(_answer, args=(call,), timeout=self._timeout)
            return self._future

    def _end_pool(self) -> None:
        with self._lock:
            if self._pool is not None:
                self._pool.stop()  # type: ignore[no-untyped-call]  # pebble annotates only part
                self._pool.join()
                self._pool = None

    def close(self) -> None:
        self._closed = True
        with self._lock:
            if self._future is not None:
                self._future.cancel()
        self._end_pool()


def _drive(lane: _Lane, queue: SimpleQueue[Ticket[Any] | None]) -> None:
    """A lane's thread. It lives as long as the lane, and so its child: see `_die_with_parent`."""
    if hasattr(signal, "pthread_sigmask"):
        # Children inherit it, so that Ctrl-C does not reach one even while it starts.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    while (ticket := queue.get()) is not None:
        try:
            answer = lane.run(ticket._call)
        except Exception as error:  # a lane that ended here would leave its tickets waiting
            answer = _failure_of(error)
        ticket._future.set_result(answer)


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {-code} ({signal.Signals(-code).name})"
    except ValueError:
        return f"signal {-code}"


# Of a child process: why it cannot do any job.
_unfit: bytes | None = None


def _start_child(setup: bytes, parent: int) -> None:
    # The pool's handler would wait for a driver to return, which a hanging one never does.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _die_with_parent(parent)
    # If a program eats the memory, a child must go and not the parent.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(_OUT_OF_MEMORY_SCORE))
    global _unfit  # one per process, by the pool's design
    try:
        initializer, arguments = pickle.loads(setup)
        if initializer is not None:
            initializer(*arguments)
    except (Exception, SystemExit) as error:
        _unfit = pickle.dumps(_failure_of(error))


def _die_with_parent(parent: int) -> None:
    """Asks Linux to kill this child when the *thread* that started it ends."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above
        os._exit(1)


def _answer(call: bytes) -> bytes:
    """Does a job in the child. Pickles here, so that nothing odd can break the pool's pipe."""
    if _unfit is not None:
        return _unfit
    try:
        function, arguments = pickle.loads(call)
        return pickle.dumps(function(*arguments), protocol=pickle.HIGHEST_PROTOCOL)
    except (Exception, SystemExit) as error:
        return pickle.dumps(_failure_of(error))


def _failure_of(error: BaseException) -> Failure:
    if isinstance(error, ProcmemError):
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            return Failure("error", str(error))
        return Failure("error", str(error), error)
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return Failure("error", f"{type(error).__name__}: {error}{place}")
