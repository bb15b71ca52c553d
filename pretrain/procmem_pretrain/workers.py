"""Jobs in order: drawn in this process, or ahead of time in child processes.

Takes `jobs.py`'s jobs and `isolation.py`'s children, gives images to `stream.py`, strictly by
number. A job that a driver hangs or crashes is drawn again with another program, and the run goes
on.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import count as numbers_from

import numpy as np
import numpy.typing as npt

from procmem.errors import TrainingError
from procmem_pretrain.isolation import Failure, Workers
from procmem_pretrain.jobs import JobConfig, Jobs, make_jobs
from procmem_pretrain.render import make_renderer
from procmem_pretrain.user_shaders import UserShader

# A job takes well under a second; a driver that takes this long hangs.
TIMEOUT_SECONDS = 60.0

_MAX_ATTEMPTS = 3

_log = logging.getLogger(__name__)

_jobs: Jobs | None = None  # of a child process


class JobRunner:
    """Gives the images of job `first`, `first` + 1, ... one call after the other.

    Args:
        config: what the jobs draw.
        renderer: see `render.make_renderer`.
        shaders: of the configuration's folder, those that can be drawn.
        workers: child processes; 0 draws in this one.
        first: number of the first job.
        timeout_seconds: after which a child's job counts as hanging.
        device: where torch draws; see `render.make_renderer`.

    Raises:
        RenderError: nothing here can draw.
        BankError, InputError: the configuration's programs cannot be used.
    """

    def __init__(
        self,
        config: JobConfig,
        *,
        renderer: str = "auto",
        shaders: tuple[UserShader, ...] = (),
        workers: int = 0,
        first: int = 0,
        timeout_seconds: float = TIMEOUT_SECONDS,
        device: str | None = None,
    ) -> None:
        self._next = first
        self._jobs: Jobs | None = None
        self._workers: Workers | None = None
        self._results: Iterator[npt.NDArray[np.uint8] | Failure] = iter(())
        if workers == 0:
            self._jobs = make_jobs(config, make_renderer(renderer, device), shaders)
            return
        self._workers = Workers(
            workers,
            initializer=_start_child,
            initargs=(config, renderer, shaders, device),
            timeout_seconds=timeout_seconds,
        )
        jobs = ((number, 0) for number in numbers_from(first))
        self._results = self._workers.results(_draw, jobs)

    def next(self) -> npt.NDArray[np.uint8]:
        """The next job's images, (K, S, S, 3) uint8.

        Raises:
            TrainingError: the job failed with program after program.
            ProcmemError: what the job itself raised.
        """
        job = self._next
        self._next += 1
        if self._jobs is not None:
            return self._jobs.images(job)
        assert self._workers is not None
        result = next(self._results)
        for attempt in range(1, _MAX_ATTEMPTS + 1):
            if not isinstance(result, Failure):
                return result
            if result.error is not None:
                raise result.error
            _log.warning("job %d is drawn with another program: %s", job, result.message)
            result = self._workers.submit(_draw, (job, attempt)).wait()
        raise TrainingError(
            f"job {job} failed {_MAX_ATTEMPTS + 1} times with different programs; "
            "draw with --renderer torch"
        )

    def close(self) -> None:
        """Ends the children at once."""
        if self._workers is not None:
            self._workers.close()
        if self._jobs is not None:
            self._jobs.close()


def _start_child(
    config: JobConfig,
    renderer: str,
    shaders: tuple[UserShader, ...],
    device: str | None = None,
) -> None:
    import torch

    torch.set_num_threads(1)  # the children are the parallelism
    global _jobs  # one for each process, made once for all its jobs
    _jobs = make_jobs(config, make_renderer(renderer, device), shaders)


def _draw(job: tuple[int, int]) -> npt.NDArray[np.uint8]:
    assert _jobs is not None
    number, attempt = job
    return _jobs.images(number, attempt=attempt)
