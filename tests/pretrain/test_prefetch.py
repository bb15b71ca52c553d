import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from procmem.errors import TrainingError
from procmem_pretrain.prefetch import Prefetch


class Source:
    """Counts to `end`; remembers in which thread, how far, and whether it was closed."""

    def __init__(self, end: int, *, error: Exception | None = None) -> None:
        self.end, self.error = end, error
        self.given, self.closed, self.thread = 0, False, ""

    @contextmanager
    def __call__(self) -> Iterator[Iterator[int]]:
        self.thread = threading.current_thread().name
        try:
            yield self.count()
        finally:
            self.closed = True

    def count(self) -> Iterator[int]:
        for number in range(self.end):
            self.given += 1
            yield number
        if self.error is not None:
            raise self.error


def test_order_is_kept_and_the_source_lives_in_one_other_thread() -> None:
    source = Source(50)
    with Prefetch(source) as numbers:
        assert list(numbers) == list(range(50))
    assert source.thread == "prefetch"
    assert source.closed


def test_only_little_is_made_ahead() -> None:
    source = Source(1000)
    with Prefetch(source) as numbers:
        assert next(numbers) == 0
        time.sleep(0.3)
        assert source.given <= 3
    assert source.closed


def test_an_error_of_the_source_comes_out_in_its_place() -> None:
    with Prefetch(Source(2, error=TrainingError("too large"))) as numbers:
        assert [next(numbers), next(numbers)] == [0, 1]
        for _ in range(2):
            with pytest.raises(TrainingError, match="too large"):
                next(numbers)


def test_an_error_of_the_consumer_closes_the_source() -> None:
    source = Source(1000)

    def consume() -> None:
        with Prefetch(source) as numbers:
            next(numbers)
            raise KeyError

    with pytest.raises(KeyError):
        consume()
    assert source.closed
    assert all(thread.name != "prefetch" for thread in threading.enumerate())
