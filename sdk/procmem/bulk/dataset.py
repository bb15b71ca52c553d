"""What stands in the destination: which images there are, their embeddings, and what failed.

    dataset.json                  the model, the side of its input, whether patches are kept
    plan/0000.parquet             sources in the order of the parts; one file for each run that
                                  found new ones
    embeddings/0000-000000.parquet  of one part: id, source, vector, patches
    failures/0000-000000.parquet  the images of that part that could not be embedded, and why

A part is some images, the same for good, and its file in `embeddings` is written whole and last.
Therefore an image stands in one part only, and a part that has that file is done.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from procmem.bulk.storage import Storage
from procmem.errors import EmbedderMismatchError, InputError, VaultFormatError
from procmem.memory import VisualMemory
from procmem.record import Item, Record

VERSION = 1
DATASET = "dataset.json"


@dataclass(frozen=True, slots=True)
class Head:
    """What all embeddings of a dataset have in common.

    Attributes:
        version: of the layout.
        model: name of the model.
        sha256: of the model file.
        image_size: side of the model's input, pixels.
        cls_dim: D, width of a vector.
        patch_shape: (h, w, P) of an image's patches; None if they are not kept.
        part_images: how many images are a part.
    """

    version: int
    model: str
    sha256: str
    image_size: int
    cls_dim: int
    patch_shape: tuple[int, int, int] | None
    part_images: int


@dataclass(frozen=True, slots=True)
class Part:
    """Some images that are embedded together.

    Attributes:
        name: of its files, without the ending.
        sources: of its images.
    """

    name: str
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Failure:
    """An image that could not be embedded, and why."""

    source: str
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class Embedded:
    """Images of one part.

    Attributes:
        ids: (N,) int64, `id_of` each source.
        sources: N of them.
        vectors: (N, D) float16, unit class tokens, as a memory stores them.
        patches: (N, h * w, P) int8 as `record.quantize_patches` gives them; None if not kept.
    """

    ids: npt.NDArray[np.int64]
    sources: tuple[str, ...]
    vectors: npt.NDArray[np.float16]
    patches: npt.NDArray[np.int8] | None


def id_of(source: str) -> int:
    """An image's id in a dataset, in [1, 2**63): leading bits of the SHA-256 of its source.

    Two of ten million images share one with a probability of 5e-6. A memory gives ids of its own:
    whoever sees one of these, in a receipt for example, can find out whether a path that he guesses
    is its source.
    """
    digest = hashlib.sha256(source.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") >> 1 or 1


class Dataset:
    """The destination.

    Args:
        storage: its folder.
    """

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    # ---- the head and the plan

    def head(self) -> Head | None:
        """What the dataset holds; None if it is new.

        Raises:
            InputError: the folder holds something else, or a newer layout.
        """
        data = self.storage.read(DATASET)
        if data is None:
            return None
        try:
            found = json.loads(data)
            shape = found["patch_shape"]
            head = Head(**{**found, "patch_shape": None if shape is None else tuple(shape)})
        except (ValueError, KeyError, TypeError) as error:
            raise self._damaged(DATASET, str(error)) from error
        if head.version != VERSION:
            raise InputError(
                f"{self.storage.place} has layout version {head.version}, this procmem reads "
                f"{VERSION}; use another destination or another release"
            )
        return head

    def begin(self, head: Head) -> None:
        """Notes what the dataset will hold, or checks that it holds such embeddings already.

        Raises:
            EmbedderMismatchError: it holds embeddings by another model.
            InputError: it holds others in another way, or something else.
        """
        held = self.head()
        if held is None:
            self.storage.write(DATASET, json.dumps(asdict(head), indent=1).encode())
            return
        if (held.sha256, held.image_size) != (head.sha256, head.image_size):
            raise EmbedderMismatchError(
                f"{self.storage.place} holds embeddings by {held.model} (sha256 {held.sha256}, "
                f"{held.image_size} pixels), this run is with {head.model} (sha256 {head.sha256}, "
                f"{head.image_size} pixels); use the same model, or another destination"
            )
        if held.patch_shape != head.patch_shape:
            kept = "with" if held.patch_shape is not None else "without"
            raise InputError(
                f"{self.storage.place} was begun {kept} patches; go on in the same way, or use "
                "another destination"
            )

    def parts(self) -> list[Part]:
        """All parts, in their order."""
        head = self.head()
        size = 1 if head is None else head.part_images
        found = []
        for name in self.storage.names("plan"):
            table = self._table(f"plan/{name}")
            sources = table.column("source").to_pylist()
            run = name.removesuffix(".parquet")
            found += [
                Part(f"{run}-{at // size:06d}", tuple(sources[at : at + size]))
                for at in range(0, len(sources), size)
            ]
        return found

    def extend(self, sources: Sequence[str]) -> int:
        """Plans the sources that are in no part yet; says how many these are."""
        known = {source for part in self.parts() for source in part.sources}
        new = [source for source in sources if source not in known]
        if new:
            runs = len(self.storage.names("plan"))
            table = pa.table({"source": pa.array(new, pa.string())})
            self.storage.write(f"plan/{runs:04d}.parquet", _bytes_of(table))
        return len(new)

    def done(self) -> set[str]:
        """Names of the parts that are done."""
        return {name.removesuffix(".parquet") for name in self.storage.names("embeddings")}

    # ---- parts

    def write(self, part: Part, embedded: Embedded, failures: Sequence[Failure]) -> None:
        """Writes the files of a part, the one that makes it done last."""
        if failures:
            table = pa.table(
                {
                    "id": pa.array([id_of(one.source) for one in failures], pa.int64()),
                    "source": pa.array([one.source for one in failures], pa.string()),
                    "reason": pa.array([one.reason for one in failures], pa.string()),
                }
            )
            self.storage.write(f"failures/{part.name}.parquet", _bytes_of(table))
        vectors, patches = embedded.vectors, embedded.patches
        flat = pa.array(np.ascontiguousarray(vectors).ravel(), pa.float16())
        columns = {
            "id": pa.array(embedded.ids, pa.int64()),
            "source": pa.array(embedded.sources, pa.string()),
            "vector": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]),
        }
        if patches is not None:
            columns["patches"] = pa.array([one.tobytes() for one in patches], pa.binary())
        self.storage.write(f"embeddings/{part.name}.parquet", _bytes_of(pa.table(columns)))

    def read(self, name: str) -> Embedded:
        """The embeddings of a part that is done.

        Raises:
            VaultFormatError: its file is damaged.
        """
        head = self.head()
        path = f"embeddings/{name}.parquet"
        table = self._table(path)
        try:
            count = len(table)
            column = table.column("vector").combine_chunks()
            flat = column.flatten() if count else pa.array([], pa.float16())
            vectors = flat.to_numpy(zero_copy_only=False).astype(np.float16, copy=False)
            patches = None
            if head is not None and head.patch_shape is not None:
                h, w, width = head.patch_shape
                data = b"".join(table.column("patches").to_pylist())
                patches = np.frombuffer(data, dtype=np.int8).reshape(count, h * w, width)
            return Embedded(
                ids=table.column("id").to_numpy(),
                sources=tuple(table.column("source").to_pylist()),
                vectors=vectors.reshape(count, -1 if count else (head.cls_dim if head else 0)),
                patches=patches,
            )
        except (KeyError, ValueError, pa.ArrowException) as error:
            raise self._damaged(path, str(error)) from error

    def failures(self) -> list[Failure]:
        """All images that could not be embedded, of parts that are done."""
        done = self.done()
        found = []
        for name in self.storage.names("failures"):
            if name.removesuffix(".parquet") in done:
                rows = self._table(f"failures/{name}").to_pylist()
                found += [Failure(row["source"], row["reason"]) for row in rows]
        return found

    def _table(self, name: str) -> pa.Table:
        data = self.storage.read(name)
        if data is None:
            raise self._damaged(name, "it is missing")
        try:
            # Without threads of Arrow's: one that lets go of an object of Python while the process
            # ends takes the process down with it.
            with pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True) as file:
                return file.read(use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(name, str(error)) from error

    def _damaged(self, name: str, why: str) -> VaultFormatError:
        return VaultFormatError(
            f"{self.storage.place}/{name} is damaged: {why}; delete that file and run again"
        )


def _bytes_of(table: pa.Table) -> bytes:
    file = io.BytesIO()
    pq.write_table(table, file, compression="zstd", write_page_checksum=True)
    return file.getvalue()


# ---- for those who use it


def read_embeddings(place: str | os.PathLike[str]) -> Iterator[Embedded]:
    """The embeddings that stand in a destination, a part at a time.

    Args:
        place: as given to `embed_images`.

    Raises:
        InputError: nothing was embedded there.
        VaultFormatError: a file is damaged.
    """
    dataset = Dataset(Storage(place))
    if dataset.head() is None:
        raise InputError(f"{os.fspath(place)} holds no embeddings; make them with procmem embed")
    for name in sorted(dataset.done()):
        yield dataset.read(name)


def import_embeddings(
    memory: VisualMemory, place: str | os.PathLike[str], *, label_from_folder: bool = True
) -> int:
    """Remembers the images of a destination, durably part by part, each once.

    Args:
        memory: of the same model and image size. Sources that it holds already are passed over, so
            that an interrupted import is gone on with by calling again. Ids are random, as those
            of `VisualMemory.add`, and not those of the dataset, which tell of the sources.
        place: as given to `embed_images`.
        label_from_folder: the name of the folder that an image lies in becomes its label.

    Returns:
        How many items are new.

    Raises:
        InputError: nothing was embedded there.
        EmbedderMismatchError: by another model than the memory's.
        VaultError: as `VisualMemory.add`.
    """
    dataset = Dataset(Storage(place))
    head = _head_of(dataset, place)
    binding = memory._store.binding
    if (head.sha256, head.image_size) != (binding.sha256, binding.side):
        raise EmbedderMismatchError(
            f"{os.fspath(place)} holds embeddings by {head.model} (sha256 {head.sha256}, "
            f"{head.image_size} pixels), {memory.place} is bound to {binding.name} (sha256 "
            f"{binding.sha256}, {binding.side} pixels); embed the images with that model"
        )
    held = {item.source for item in memory.items()}
    added = 0
    for name in sorted(dataset.done()):
        part = dataset.read(name)
        new = [at for at, source in enumerate(part.sources) if source not in held]
        now = int(time.time())
        records = []
        for id_, at in zip(memory._free_ids(len(new)), new, strict=True):
            source = part.sources[at]
            label = _label(source) if label_from_folder else None
            records.append(Record(Item(id_, label, source, now), part.vectors[at]))
        memory._add_records(records)
        added += len(records)
    return added


def model_of_embeddings(place: str | os.PathLike[str]) -> tuple[str, str, int]:
    """Name, SHA-256 and image size of the model that a destination's embeddings are of.

    Raises:
        InputError: nothing was embedded there.
    """
    head = _head_of(Dataset(Storage(place)), place)
    return head.model, head.sha256, head.image_size


def _head_of(dataset: Dataset, place: str | os.PathLike[str]) -> Head:
    head = dataset.head()
    if head is None:
        raise InputError(f"{os.fspath(place)} holds no embeddings; make them with procmem embed")
    return head


def _label(source: str) -> str | None:
    return source.rpartition("/")[0].rpartition("/")[2] or None
