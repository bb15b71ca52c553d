"""The next batch is made in a thread while the present one is learned from.

On the CPU the networks' small matrix products leave a core partly idle; drawing and mixing fill it.
Order and pixels are those of the stream itself. Used by `train.py`.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Generic, TypeVar

import torch

T = TypeVar("T")

# How often a waiting thread looks whether the other side has gone.
_POLL_SECONDS = 0.5


class Prefetch(Generic[T]):
    """An iterator that another thread fills, one element ahead. Use as a context manager.

    Args:
        make: opens the source, in the thread, since a graphics context belongs to the thread that
            made it. What it raises, and what the source raises, comes out of `__next__`.
    """

    def __init__(self, make: Callable[[], AbstractContextManager[Iterator[T]]]) -> None:
        self._make = make
        self._ready: queue.Queue[T | BaseException] = queue.Queue(maxsize=1)
        self._ended: BaseException | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)

    def _run(self) -> None:
        torch.set_num_threads(1)  # of this thread: the networks have the others
        try:
            with self._make() as source:
                for element in source:
                    self._give(element)
                    if self._closing.is_set():
                        return
            self._give(StopIteration())
        except BaseException as error:
            self._give(error)

    def _give(self, element: T | BaseException) -> None:
        while not self._closing.is_set():
            try:
                self._ready.put(element, timeout=_POLL_SECONDS)
                return
            except queue.Full:
                continue

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        if self._ended is None:
            element = self._ready.get()
            if not isinstance(element, BaseException):
                return element
            self._ended = element
        raise self._ended

    def __enter__(self) -> Prefetch[T]:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing.set()
        self._thread.join()
