"""A source to a destination: lists, plans, and has an engine do what is left."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from procmem.backends.processor import usable_threads
from procmem.bulk.dataset import VERSION, Dataset, Failure, Head
from procmem.bulk.job import Job
from procmem.bulk.on_ray import run_ray
from procmem.bulk.processes import run_processes
from procmem.bulk.storage import Storage
from procmem.embedder import DEFAULT_MODEL, Embedder
from procmem.errors import InputError, ProcmemError, VaultLockedError, unknown_choice
from procmem.folder import folder_error
from procmem.lock import WriterLock

Engine: TypeAlias = Literal["processes", "ray"]
ENGINES: tuple[Engine, ...] = ("processes", "ray")

PART_IMAGES = 1024
"""How many images are a part: what is lost when a run is killed, for each worker."""


@dataclass(frozen=True, slots=True)
class BulkReport:
    """What stands in a destination after a run, and what the run did.

    Attributes:
        images: how many the source has had so far.
        embedded: of these, how many are embedded.
        failures: the others: each source and why, in the order of the parts.
        new: how many this run embedded.
    """

    images: int
    embedded: int
    failures: tuple[Failure, ...]
    new: int


def embed_images(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    engine: Engine = "processes",
    workers: int | None = None,
    model: str | Path = DEFAULT_MODEL,
    image_size: int | None = None,
    device: str = "auto",
    patches: bool = False,
    address: str | None = None,
    part_images: int = PART_IMAGES,
    progress: Callable[[int, int | None], None] | None = None,
) -> BulkReport:
    """Embeds all images of a folder or object store into Parquet, each exactly once.

    A run that was interrupted or killed is gone on with by the same call; so are images that came
    to the source since. An image that cannot be read is noted with the reason and stops nothing.

    Args:
        source: a folder, or an address such as "s3://bucket/photos" of which pyarrow knows the
            kind; everything below that ends as a photo does.
        destination: a folder or address; one run at a time.
        engine: "processes" on this machine, or "ray" (extra `ray`).
        workers: how many processes or actors, each with a model; None for one for each core. They
            are spawned, so that a script calls this below `if __name__ == "__main__":`.
        model: see `Embedder`.
        image_size: see `Embedder`.
        device: see `Embedder`; with "ray", one that is not a processor takes a GPU per actor.
        patches: keep patch tokens too, some 75 kB for each image.
        address: of a Ray cluster; every machine must see source, destination and model alike.
        part_images: see `PART_IMAGES`; a destination keeps the number that it was begun with.
        progress: called as parts are done, with (images done, images in all).

    Returns:
        What stands in the destination now. Its layout: `bulk/dataset.py`, docs/bulk.md.

    Raises:
        InputError: a bad argument, no such folder, or it holds no images.
        EmbedderMismatchError: the destination holds embeddings by another model.
        MissingExtraError: the engine is not installed.
        VaultLockedError: another run is writing to the destination.
        VaultReadOnlyError, VaultFullError: the destination cannot be written.
        WorkerDiedError: workers die, and not of certain images.
    """
    if engine not in ENGINES:
        raise unknown_choice("engine", engine, ENGINES)
    if address is not None and engine != "ray":
        raise InputError(f"address is {address!r}, which is for engine 'ray'; leave it out")
    cores = usable_threads()
    for name, value in (("workers", workers), ("part_images", part_images)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise InputError(f"{name} is {value!r}, wanted a whole number of at least 1")
    count = cores if workers is None else workers
    storage = Storage(source)
    dataset = Dataset(Storage(destination))
    with _writing(dataset.storage):
        with Embedder(model, image_size=image_size, device=device) as embedder:
            head = Head(
                version=VERSION,
                model=embedder.manifest.name,
                sha256=embedder.sha256,
                image_size=embedder.side,
                cls_dim=embedder.cls_dim,
                patch_shape=(*embedder.grid, embedder.patch_dim) if patches else None,
                part_images=part_images,
            )
        found = storage.images()
        if not found and dataset.head() is None:
            raise InputError(f"{storage.place} holds no photo; give the folder that they are in")
        dataset.begin(head)
        dataset.extend(found)
        parts, done = dataset.parts(), dataset.done()
        left = [part for part in parts if part.name not in done]
        total = sum(len(part.sources) for part in parts)
        finished = total - sum(len(part.sources) for part in left)
        job = Job(
            source=storage.place,
            destination=dataset.storage.place,
            model=os.fspath(model),
            sha256=head.sha256,
            image_size=head.image_size,
            device=device,
            threads=None if address else max(1, cores // count),
            patches=patches,
        )
        new = 0
        if left:
            if engine == "ray":
                task = run_ray(job, left, workers=count, address=address)
            else:
                task = run_processes(job, left, workers=count)
            with contextlib.closing(task):
                for one in task:
                    new += one.embedded
                    finished += one.embedded + len(one.failures)
                    if progress is not None:
                        progress(finished, total)
        failures = tuple(dataset.failures())
    return BulkReport(total, total - len(failures), failures, new)


@contextmanager
def _writing(storage: Storage) -> Iterator[None]:
    """Keeps other runs out where there are locks, and tells what a disk refuses."""
    lock = None
    try:
        if storage.is_local:
            storage.folder.mkdir(parents=True, exist_ok=True)
            lock = WriterLock(storage.folder / "LOCK")
        yield
    except VaultLockedError as error:
        raise VaultLockedError(
            f"{storage.place} is being written by another run; wait until it has ended, or use "
            "another destination"
        ) from error
    except ProcmemError:
        raise
    except OSError as error:
        raise folder_error(error, storage.folder) from error
    finally:
        if lock is not None:
            lock.release()
