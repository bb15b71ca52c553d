"""Frames of a camera to answers, always the newest: a thread that works, and a place for one frame.

Stands beside the walk of a photo: gives frames to whatever answers them (`memory.classify`,
`embedder.embed`, a function of both) and results to a loop or to asyncio. It promises that a frame
that waits is replaced by the next one, so that an answer is never about what is long past; that
results come in the order of their frames; and that no frame is kept once it is answered or
replaced. It does not batch: an embedding must not depend on the frames around it (law 1).
"""

from __future__ import annotations

import os
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Generic, TypeVar

from procmem.errors import InputError, ProcmemError

if TYPE_CHECKING:
    import asyncio

Frame = TypeVar("Frame")
Result = TypeVar("Result")

_WINDOW = 120  # results that the figures of `statistics` are taken from


@dataclass(frozen=True, slots=True)
class StreamResult(Generic[Result]):
    """The answer to one frame.

    Attributes:
        number: of the frame, counted from 0 as they were offered.
        value: what the work gave; None if it failed.
        error: why it failed, such as a frame that is no image; else None. The stream goes on.
        dropped: frames between this one and the one answered before it, replaced while they waited.
        waited_seconds: from the offer to the start of the work.
        worked_seconds: of the work.
    """

    number: int
    value: Result | None
    error: ProcmemError | None
    dropped: int
    waited_seconds: float
    worked_seconds: float


@dataclass(frozen=True, slots=True)
class StreamStatistics:
    """How a stream keeps up. Times are those of the last results, 120 at most.

    Attributes:
        offered: frames since the stream was opened.
        answered: results since then, errors among them.
        dropped: frames that were replaced while they waited.
        unread: results that were replaced before anybody took them.
        answers_per_second: between the first and the last of those results; 0 for fewer than two.
        p50_seconds: median time from the offer to the result; 0 without a result.
        p95_seconds: nineteen of twenty took no longer; 0 without a result.
    """

    offered: int
    answered: int
    dropped: int
    unread: int
    answers_per_second: float
    p50_seconds: float
    p95_seconds: float


class FrameStream(Generic[Frame, Result]):
    """A thread that answers the newest frame, one after another.

    Offer frames from any thread; take results from one place, by `for` or `async for`, which end
    when the stream is closed. Works as a context manager, also of `async with`::

        with procmem.FrameStream(memory.classify) as stream:
            camera.on_frame(stream.offer)
            for result in stream:
                print(result.number, result.value)

    Args:
        work: answers a frame, on the stream's own thread. A `ProcmemError` becomes the `error` of
            its result; any other exception closes the stream and is raised where results are taken.
        keep: results held for whoever takes them, 1 or more; of more, the oldest are dropped.

    Raises:
        InputError: `keep` is below 1.
    """

    def __init__(self, work: Callable[[Frame], Result], *, keep: int = 1) -> None:
        if isinstance(keep, bool) or not isinstance(keep, int) or keep < 1:
            raise InputError(f"keep is {keep!r}, wanted a whole number of at least 1")
        self._work = work
        self._keep = keep
        self._process = os.getpid()
        self._changed = threading.Condition()
        self._waiting: tuple[int, float, Frame] | None = None
        self._results: deque[StreamResult[Result]] = deque()
        self._wakers: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()
        self._failure: BaseException | None = None
        self._closed = False
        self._ended = False  # the thread gives no more results
        self._offered = self._answered = self._dropped = self._unread = 0
        self._dropped_since = 0
        # (moment of the result, time from the offer to it)
        self._times: deque[tuple[float, float]] = deque(maxlen=_WINDOW)
        self._thread = threading.Thread(target=self._run, name="procmem-stream", daemon=True)
        self._thread.start()

    def offer(self, frame: Frame) -> int:
        """Gives a frame, in the place of one that still waits. Returns at once.

        Args:
            frame: what `work` takes. An array must not be written to until its result is there, or
                another frame is offered.

        Returns:
            the frame's number, which its result will have if it is answered.

        Raises:
            InputError: the stream is closed, or belongs to another process.
        """
        self._check_process()
        with self._changed:
            if self._closed:
                raise InputError("the stream is closed; open another one")
            number = self._offered
            self._offered += 1
            if self._waiting is not None:
                self._dropped += 1
                self._dropped_since += 1
            self._waiting = (number, time.monotonic(), frame)
            self._changed.notify_all()
        return number

    def statistics(self) -> StreamStatistics:
        """How the stream keeps up until now."""
        with self._changed:
            times = list(self._times)
            counts = (self._offered, self._answered, self._dropped, self._unread)
        latencies = sorted(latency for _, latency in times)
        span = times[-1][0] - times[0][0] if len(times) > 1 else 0.0
        return StreamStatistics(
            *counts,
            answers_per_second=(len(times) - 1) / span if span > 0 else 0.0,
            p50_seconds=_quantile(latencies, 0.5),
            p95_seconds=_quantile(latencies, 0.95),
        )

    def close(self) -> None:
        """Ends the stream: a frame that waits is dropped, one that is worked on is waited for.

        Results that are held can still be taken. May be called from any thread and again.
        """
        with self._changed:
            self._closed = True
            if self._waiting is not None:
                self._waiting = None
                self._dropped += 1
            self._changed.notify_all()
        if self._process == os.getpid() and threading.current_thread() is not self._thread:
            self._thread.join()

    def __iter__(self) -> FrameStream[Frame, Result]:
        return self

    def __next__(self) -> StreamResult[Result]:
        """The next result; waits for it.

        Raises:
            StopIteration: the stream is closed and no result is left.
            Exception: what ended the stream.
        """
        self._check_process()
        with self._changed:
            while not self._results and not self._ended:
                self._changed.wait()
            return self._take(StopIteration)

    def __aiter__(self) -> FrameStream[Frame, Result]:
        return self

    async def __anext__(self) -> StreamResult[Result]:
        """As `__next__`, without blocking the loop. A cancelled wait loses no result."""
        import asyncio  # here, because it takes longer to import than all of procmem

        self._check_process()
        waker = (asyncio.get_running_loop(), asyncio.Event())
        try:
            while True:
                with self._changed:
                    if self._results or self._ended:
                        return self._take(StopAsyncIteration)
                    self._wakers.add(waker)
                await waker[1].wait()
                waker[1].clear()
        finally:
            with self._changed:
                self._wakers.discard(waker)

    def __enter__(self) -> FrameStream[Frame, Result]:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> FrameStream[Frame, Result]:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # The work that runs may take its time; the loop goes on meanwhile.
        import asyncio

        await asyncio.get_running_loop().run_in_executor(None, self.close)

    def _take(self, end: type[Exception]) -> StreamResult[Result]:
        if self._results:
            return self._results.popleft()
        failure, self._failure = self._failure, None
        raise end if failure is None else failure

    def _run(self) -> None:
        try:
            while self._answer_next():
                pass
        except BaseException as error:  # raised where results are taken
            traceback.clear_frames(error.__traceback__)
            self._failure = error
        with self._changed:
            self._closed = self._ended = True
            self._waiting = None
            self._wake()

    def _answer_next(self) -> bool:
        """Waits for a frame and answers it; False once the stream is closed."""
        with self._changed:
            while self._waiting is None:
                if self._closed:
                    return False
                self._changed.wait()
            number, offered, frame = self._waiting
            self._waiting = None
            dropped, self._dropped_since = self._dropped_since, 0
        started = time.monotonic()
        value: Result | None = None
        failed: ProcmemError | None = None
        try:
            value = self._work(frame)
        except ProcmemError as error:
            failed = error
            _forget_locals(error)  # which hold the frame
        del frame
        done = time.monotonic()
        result = StreamResult(number, value, failed, dropped, started - offered, done - started)
        with self._changed:
            self._answered += 1
            self._times.append((done, done - offered))
            if len(self._results) == self._keep:
                self._results.popleft()
                self._unread += 1
            self._results.append(result)
            self._wake()
        return True

    def _wake(self) -> None:
        self._changed.notify_all()
        for loop, event in self._wakers:
            # A loop that was closed has nobody who waits.
            if not loop.is_closed():
                loop.call_soon_threadsafe(event.set)

    def _check_process(self) -> None:
        if self._process != os.getpid():
            raise InputError(
                f"the stream was opened by process {self._process}, this is its fork "
                f"{os.getpid()}, which has no thread of it; open one there"
            )


def _forget_locals(error: BaseException | None) -> None:
    """Empties the frames of the calls that an error passed through, and of its causes."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _quantile(ascending: list[float], share: float) -> float:
    if not ascending:
        return 0.0
    return ascending[min(int(share * len(ascending)), len(ascending) - 1)]
