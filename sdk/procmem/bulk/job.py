"""What a worker does, whatever engine runs it: one model, and one part after another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from procmem.bulk.dataset import Dataset, Embedded, Failure, Part, id_of
from procmem.bulk.storage import Storage
from procmem.embedder import Embedder
from procmem.errors import EmbedderMismatchError, ImageError, InputError
from procmem.record import quantize_patches


@dataclass(frozen=True, slots=True)
class Job:
    """What all workers are told.

    Attributes:
        source: where the images are.
        destination: where the embeddings go.
        model: name of a bundled model, or path of one that every machine of a cluster has.
        sha256: of the model; a machine with another one is refused.
        image_size: side of the model's input, pixels.
        device: see `Embedder`.
        threads: of one worker; None for the engine's own choice.
        patches: whether they are kept.
    """

    source: str
    destination: str
    model: str
    sha256: str
    image_size: int
    device: str
    threads: int | None
    patches: bool


@dataclass(frozen=True, slots=True)
class PartDone:
    """What became of a part.

    Attributes:
        name: of the part.
        embedded: how many images are embedded.
        failures: the others.
    """

    name: str
    embedded: int
    failures: tuple[Failure, ...]


class PartWorker:
    """A model that is open, and the folders that it reads and writes.

    Args:
        job: see there.

    Raises:
        EmbedderMismatchError: the model of this machine is another one than the job's.
        ProcmemError: as `Embedder` and `Storage`.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._source = Storage(job.source)
        self._dataset = Dataset(Storage(job.destination))
        self._embedder = Embedder(
            job.model, image_size=job.image_size, device=job.device, threads=job.threads
        )
        if self._embedder.sha256 != job.sha256:
            raise EmbedderMismatchError(
                f"{job.model} of this machine has sha256 {self._embedder.sha256}, wanted "
                f"{job.sha256}; copy the model of the first machine here"
            )

    def run(
        self,
        part: Part,
        *,
        deadly: frozenset[int] = frozenset(),
        begin: Callable[[int], None] = lambda _: None,
    ) -> PartDone:
        """Embeds a part and writes its files.

        Args:
            part: which images.
            deadly: positions in it of images at which a worker died; they are not tried.
            begin: called with the position of each image before it is touched.

        Raises:
            OSError: the destination cannot be written.
            ModelError: the engine failed.
        """
        kept, vectors, patches, failures = [], [], [], []
        for position, source in enumerate(part.sources):
            begin(position)
            if position in deadly:
                failures.append(Failure(source, "a worker process died of it, twice"))
                continue
            try:
                embedding = self._embedder.embed(self._source.read_source(source))
            except (ImageError, InputError, OSError) as error:
                failures.append(Failure(source, f"{error!s:.500}"))
                continue
            kept.append(source)
            vectors.append(embedding.cls[0].astype(np.float16))
            if self._job.patches:
                patches.append(quantize_patches(embedding.patches[0]))
        begin(-1)
        width = (len(kept), self._embedder.cls_dim)
        embedded = Embedded(
            ids=np.array([id_of(source) for source in kept], dtype=np.int64),
            sources=tuple(kept),
            vectors=np.array(vectors, dtype=np.float16).reshape(width),
            patches=np.array(patches, dtype=np.int8) if self._job.patches else None,
        )
        self._dataset.write(part, embedded, failures)
        return PartDone(part.name, len(kept), tuple(failures))
