"""Frames to answers: the newest wins, nothing is kept, nothing is lost that was acknowledged."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from tests.tiny_model import write_tiny_model

import procmem
from procmem.errors import ImageError, InputError
from procmem.stream import FrameStream, StreamResult


class Gate:
    """Work that waits until it is let through, and tells when it has begun."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.open = threading.Semaphore(0)
        self.seen: list[object] = []

    def __call__(self, frame: object) -> object:
        self.seen.append(frame)
        self.begun.release()
        self.open.acquire()
        return frame


@contextmanager
def gated(**options: int) -> Iterator[tuple[Gate, FrameStream[object, object]]]:
    gate = Gate()
    stream = FrameStream(gate, **options)
    try:
        yield gate, stream
    finally:
        for _ in range(1000):
            gate.open.release()
        stream.close()


def test_the_newest_frame_is_answered_next_and_the_others_are_dropped() -> None:
    with gated() as (gate, stream):
        assert stream.offer("a") == 0
        gate.begun.acquire()
        assert [stream.offer(name) for name in "bcd"] == [1, 2, 3]
        gate.open.release()
        first = next(stream)
        gate.begun.acquire()
        gate.open.release()
        second = next(stream)
        assert (first.number, first.value, first.dropped) == (0, "a", 0)
        assert (second.number, second.value, second.dropped) == (3, "d", 2)
        assert gate.seen == ["a", "d"]
        counts = stream.statistics()
        assert (counts.offered, counts.answered, counts.dropped, counts.unread) == (4, 2, 2, 0)


def test_a_slow_reader_gets_the_newest_results() -> None:
    with FrameStream(lambda frame: frame, keep=2) as stream:
        done = threading.Event()
        for number in range(5):
            stream.offer(number)
            while stream.statistics().answered <= number:
                done.wait(0.001)
        stream.close()
        assert [result.value for result in stream] == [3, 4]
        assert stream.statistics().unread == 3


def test_a_frame_that_is_no_image_is_a_result_and_the_stream_goes_on(tmp_path: Path) -> None:
    embedder = procmem.Embedder(write_tiny_model(tmp_path), device="cpu")
    with FrameStream(embedder.embed) as stream:
        stream.offer(b"no image")
        bad = next(stream)
        assert isinstance(bad.error, ImageError)
        assert bad.value is None
        stream.offer(np.zeros((40, 60, 3), np.uint8))
        good = next(stream)
        assert good.error is None
        assert good.value is not None
        assert good.value.cls.shape[0] == 1


def test_answers_are_those_of_the_same_call_alone(tmp_path: Path) -> None:
    embedder = procmem.Embedder(write_tiny_model(tmp_path), device="cpu")
    frames = np.random.default_rng(0).integers(0, 256, (6, 50, 70, 3), dtype=np.uint8)
    with FrameStream(embedder.embed) as stream:
        for frame in frames:
            stream.offer(frame)
            result = next(stream)
            assert result.value is not None
            assert result.value.cls.tobytes() == embedder.embed(frame).cls.tobytes()


def test_any_other_error_ends_the_stream_and_is_raised_to_the_reader() -> None:
    def work(frame: int) -> int:
        return 1 // frame

    stream = FrameStream(work, keep=5)
    stream.offer(1)
    assert next(stream).value == 1
    stream.offer(0)
    with pytest.raises(ZeroDivisionError):
        next(stream)
    with pytest.raises(StopIteration):
        next(stream)
    with pytest.raises(InputError, match="the stream is closed"):
        stream.offer(1)
    stream.close()


class Picture:
    """A frame that can be watched."""


@pytest.mark.parametrize("fails", [False, True])
def test_frames_are_freed_once_answered_replaced_or_closed_over(fails: bool) -> None:
    begun, go = threading.Semaphore(0), threading.Semaphore(0)

    def work(frame: Picture) -> int:
        begun.release()
        go.acquire()
        if fails:
            raise InputError("no")
        return 1

    stream = FrameStream(work)
    watched = []
    results: list[StreamResult[int]] = []
    for _ in range(3):
        frame = Picture()
        watched.append(weakref.ref(frame))
        stream.offer(frame)
        del frame
        if len(watched) == 1:
            begun.acquire()
    gc.collect()
    assert watched[0]() is not None, "it is being worked on"
    assert watched[1]() is None, "it was replaced"
    go.release()
    results.append(next(stream))
    begun.acquire()
    assert watched[0]() is None, "it was answered"
    waiting = Picture()
    watched.append(weakref.ref(waiting))
    stream.offer(waiting)
    del waiting
    go.release()
    go.release()
    stream.close()
    results += list(stream)
    gc.collect()
    assert [reference() for reference in watched] == [None] * 4
    assert all((result.error is not None) == fails for result in results)


def test_closing_waits_for_the_work_that_runs_and_drops_what_waits() -> None:
    with gated() as (gate, stream):
        stream.offer("a")
        gate.begun.acquire()
        stream.offer("b")
        closer = threading.Thread(target=stream.close)
        closer.start()
        while stream.statistics().dropped == 0:
            pass
        assert closer.is_alive()
        gate.open.release()
        closer.join()
        assert [result.value for result in stream] == ["a"]
        assert gate.seen == ["a"]
        stream.close()


def test_a_reader_that_waits_is_let_go_when_another_thread_closes() -> None:
    stream: FrameStream[int, int] = FrameStream(lambda frame: frame)
    found: list[list[StreamResult[int]]] = []
    reader = threading.Thread(target=lambda: found.append(list(stream)))
    reader.start()
    stream.close()
    reader.join()
    assert found == [[]]


def test_work_may_close_its_own_stream() -> None:
    stream: FrameStream[int, int]

    def work(frame: int) -> int:
        stream.close()
        return frame

    stream = FrameStream(work)
    stream.offer(7)
    assert [result.value for result in stream] == [7]


@pytest.mark.parametrize("seed", range(20))
def test_many_producers_and_random_pauses_keep_the_order_and_the_counts(seed: int) -> None:
    choices = random.Random(seed)
    pauses = [choices.choice([0, 0, 0, 1e-4, 1e-3]) for _ in range(400)]
    taken: list[StreamResult[int]] = []
    pause = threading.Event()
    with FrameStream(lambda frame: frame * 2, keep=choices.choice([1, 3, 1000])) as stream:

        def produce(part: list[float]) -> None:
            for seconds in part:
                stream.offer(1)
                pause.wait(seconds)

        producers = [threading.Thread(target=produce, args=(pauses[n::4],)) for n in range(4)]
        reader = threading.Thread(target=lambda: taken.extend(stream))
        for thread in (*producers, reader):
            thread.start()
        for thread in producers:
            thread.join()
        stream.close()
        reader.join()
    numbers = [result.number for result in taken]
    counts = stream.statistics()
    assert numbers == sorted(set(numbers))
    assert counts.offered == 400
    assert counts.answered + counts.dropped == counts.offered
    assert len(taken) + counts.unread == counts.answered


def test_results_come_to_asyncio_and_the_loop_stays_free() -> None:
    async def main() -> tuple[list[object], int]:
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counter = asyncio.create_task(count())
        values: list[object] = []
        with gated(keep=9) as (gate, stream):
            stream.offer("a")
            while turns < 50:  # nobody answers, and the loop turns
                await asyncio.sleep(0)
            gate.open.release()
            async for result in stream:
                values.append(result.value)
                if len(values) == 2:
                    break
                stream.offer("b")
                gate.open.release()
        counter.cancel()
        return values, turns

    values, turns = asyncio.run(main())
    assert values == ["a", "b"]
    assert turns >= 50


def test_a_cancelled_wait_loses_no_result() -> None:
    async def main() -> object:
        with gated() as (gate, stream):
            waiting = asyncio.ensure_future(stream.__anext__())
            await asyncio.sleep(0)
            stream.offer("a")
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            gate.open.release()
            assert not stream._wakers
            return (await stream.__anext__()).value

    assert asyncio.run(main()) == "a"


def test_async_with_ends_the_iteration() -> None:
    async def main() -> list[object]:
        async with FrameStream(lambda frame: frame) as stream:
            stream.offer("a")
            first = await stream.__anext__()
        return [first.value, *[result.value async for result in stream]]

    assert asyncio.run(main()) == ["a"]


def test_a_loop_that_was_closed_does_not_end_the_stream() -> None:
    with gated() as (gate, stream):

        async def give_up() -> None:
            task = asyncio.ensure_future(stream.__anext__())
            await asyncio.sleep(0)
            stream._wakers.add((asyncio.get_running_loop(), asyncio.Event()))
            task.cancel()

        asyncio.run(give_up())
        stream.offer("a")
        gate.open.release()
        assert next(stream).value == "a"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_is_told_to_open_its_own() -> None:
    with FrameStream(lambda frame: frame) as stream:
        child = os.fork()
        if child == 0:
            for call in (lambda: stream.offer(1), lambda: next(stream)):
                try:
                    call()
                except InputError as error:
                    if "is its fork" in str(error):
                        continue
                os._exit(1)
            stream.close()
            os._exit(0)
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


@pytest.mark.parametrize("keep", [0, -1, True, 1.5, None])
def test_a_bad_number_of_results_to_keep_is_refused(keep: object) -> None:
    with pytest.raises(InputError, match="keep is"):
        FrameStream(lambda frame: frame, keep=keep)  # type: ignore[arg-type]


def test_an_unused_stream_leaves_no_thread() -> None:
    before = threading.active_count()
    with FrameStream(lambda frame: frame):
        assert threading.active_count() == before + 1
    assert threading.active_count() == before
