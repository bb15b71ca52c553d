"""The engine "ray": Ray Data on this machine or a cluster, each actor with a model of its own.

Ray hands out parts and starts actors anew; what makes an image stand in the result once is that a
part's file is written whole, by whichever actor. Needs pip install 'procmem[ray]'.
"""

from __future__ import annotations

import base64
import json
import logging
import pickle
from collections.abc import Generator, Sequence
from typing import Any, cast

from procmem.bulk.dataset import Failure, Part
from procmem.bulk.job import Job, PartDone, PartWorker
from procmem.errors import InputError, MissingExtraError, ProcmemError, WorkerDiedError


class _Actor:
    """What Ray keeps in every worker. What goes to and fro are rows of plain values."""

    def __init__(self) -> None:
        self._worker: PartWorker | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            if self._worker is None:  # here, so that its error is told and not tried again
                self._worker = PartWorker(pickle.loads(row["job"]))
            done = self._worker.run(Part(row["name"], tuple(row["sources"])))
        except (ProcmemError, OSError) as error:
            return {"name": row["name"], "done": "", "error": base64.b64encode(pickle.dumps(error))}
        failures = [[one.source, one.reason] for one in done.failures]
        return {"name": done.name, "done": json.dumps([done.embedded, failures]), "error": b""}


def run_ray(
    job: Job, parts: Sequence[Part], *, workers: int, address: str | None
) -> Generator[PartDone, None, None]:
    """Embeds parts; gives each when it is done.

    Args:
        job: what the actors are told. Its folders and its model must be the same for every machine.
        parts: which.
        workers: how many actors.
        address: of a cluster's head, for example "auto" or "ray://head:10001"; None starts Ray on
            this machine and ends it afterwards.

    Raises:
        MissingExtraError: Ray is not installed.
        InputError: no cluster answers at the address.
        ProcmemError: what an actor raised.
        WorkerDiedError: Ray did not start on this machine, or actors kept dying.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingExtraError(
            "engine 'ray' needs Ray Data; install it with pip install 'procmem[ray]', or take "
            "engine 'processes'"
        ) from error
    begun = not ray.is_initialized()
    on_gpu = job.device not in ("auto", "cpu")
    if begun:
        try:
            ray.init(
                address=address or "local",
                num_cpus=None if address else workers + 1,  # one for Ray Data itself
                include_dashboard=None if address else False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except Exception as error:  # Ray raises the bare class when its start takes too long
            if address is None:
                raise WorkerDiedError(
                    f"Ray did not start on this machine ({error}); what was embedded before "
                    "stays: try again when the machine has less to do, or take engine 'processes'"
                ) from error
            raise InputError(
                f"no Ray cluster at address {address!r}: {error}; give the address that `ray "
                "start --head` printed, or none for this machine"
            ) from error
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        # In the rows and not as an argument of the actors, which would not outlive its owner.
        told = pickle.dumps(job)
        items = [{"name": part.name, "sources": list(part.sources), "job": told} for part in parts]
        dataset = ray.data.from_items(items, override_num_blocks=len(items)).map(
            cast("Any", _Actor),  # Ray's types know functions only
            compute=ray.data.ActorPoolStrategy(size=min(workers, len(parts))),
            num_cpus=0 if on_gpu else 1,
            num_gpus=1 if on_gpu else 0,
        )
        for row in dataset.iter_rows():
            if row["error"]:
                raise pickle.loads(base64.b64decode(row["error"]))  # from our own actor
            embedded, failures = json.loads(row["done"])
            yield PartDone(row["name"], embedded, tuple(Failure(*one) for one in failures))
    except ray.exceptions.RayError as error:
        raise WorkerDiedError(f"Ray gave up: {error!s:.500}") from error
    finally:
        if begun:
            ray.shutdown()
