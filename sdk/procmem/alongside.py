"""Work that a thread of its own does while the caller goes on with something else."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_T = TypeVar("_T")


@contextlib.contextmanager
def alongside(work: Callable[[], _T]) -> Iterator[Callable[[], _T]]:
    """Does `work` while the block runs; when the block is left, both have ended.

    Where the system gives no thread, it is done before the block. Only a Ctrl-C in the wait for it
    leaves it going on behind the block.

    Yields:
        A function that waits for the end of `work` and gives its result, or raises what it did.
    """
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="procmem")
    try:
        yield _begun(pool, work).result
    finally:
        pool.shutdown()


def _begun(pool: ThreadPoolExecutor, work: Callable[[], _T]) -> Future[_T]:
    try:
        return pool.submit(work)
    except RuntimeError:
        done: Future[_T] = Future()
        try:
            done.set_result(work())
        except Exception as error:  # as the thread would have kept it
            done.set_exception(error)
        return done
