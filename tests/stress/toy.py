"""What the stress runs remember: items that are a function of their id, seen by a stand-in model.

Nothing here is learned or decoded, so that a run spends its time in the vault.
"""

from __future__ import annotations

import contextlib
import random
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np

from procmem.connection import Connection
from procmem.manifest import Manifest, Origin, Preprocessing
from procmem.record import Binding, Item, Record, encode_text
from procmem.types import Embedding

SIDE, PATCH, GRID, CLS, WIDTH = 32, 8, 4, 48, 12
BINDING = Binding("ab" * 32, "toy", cls_dim=CLS, patch_dim=WIDTH, side=SIDE, patch_size=PATCH)
SECONDS = 1_700_000_000


def picture(id_: int) -> np.ndarray:
    """(4, 4, 3) uint8 that differs for every id."""
    return np.frombuffer(random.Random(id_).randbytes(48), np.uint8).reshape(4, 4, 3)


def mask(id_: int) -> np.ndarray:
    """(4, 4) uint8 class values."""
    return np.frombuffer(random.Random(-id_).randbytes(16), np.uint8).reshape(4, 4)


def embedding(image: np.ndarray) -> Embedding:
    """Near one of eight centers, with some exact doubles, so that ties come up."""
    seed = zlib.crc32(image.tobytes())
    chance = np.random.default_rng(seed - seed % 3 if seed % 5 == 0 else seed)
    center = np.random.default_rng(seed % 8).standard_normal(CLS)
    cls = (center + 0.4 * chance.standard_normal(CLS)).astype(np.float32)
    patches = chance.standard_normal((1, GRID, GRID, WIDTH)).astype(np.float32)
    return Embedding(cls=(cls / np.linalg.norm(cls))[None], patches=patches)


class ToyEmbedder:
    """A `Perception` that takes `picture(id)` and nothing else."""

    sha256, cls_dim, patch_dim, side = BINDING.sha256, CLS, WIDTH, SIDE
    manifest = Manifest(
        kind="onnx",
        name="toy",
        file="toy.onnx",
        sha256=BINDING.sha256,
        architecture="toy",
        patch_size=PATCH,
        cls_dim=CLS,
        patch_dim=WIDTH,
        preprocessing=Preprocessing(resize=SIDE, crop=SIDE),
        origin=Origin("none", 0, "", "0", 0, 0),
    )

    def embed(self, images, *, view="center"):  # noqa: ARG002  one view is enough here
        return embedding(images)

    def close(self):
        pass


EMBEDDER = ToyEmbedder()


def label(id_: int) -> str | None:
    """None, a label that many share, or one of its own of up to some hundred characters."""
    chance = random.Random(id_ * 7 + 1)
    if id_ % 5 == 0:
        return None
    if id_ % 5 == 1:
        return f"a family of many {id_ % 7}"
    return f"{id_} " + "".join(chance.choices("abcdefghij äöü", k=chance.randrange(1, 400)))


def source(id_: int) -> str | None:
    """None, or a path in one of a few folders; some ids share one."""
    if id_ % 4 == 0:
        return None
    shared = id_ - id_ % 16 if id_ % 16 == 1 else id_
    return f"/home/somebody/album {shared % 3}/{random.Random(shared).randrange(10**9)}.jpg"


def has_mask(id_: int) -> bool:
    """Whether `record` and the histories give this id a mask."""
    return id_ % 6 == 0


def vector(id_: int) -> np.ndarray:
    """(D,) float16 as stored."""
    return embedding(picture(id_)).cls[0].astype(np.float16)


def record(id_: int) -> Record:
    """What the vault is given of an id."""
    chance = np.random.default_rng(id_)
    item = Item(id_, label(id_), source(id_), SECONDS)
    if not has_mask(id_):
        return Record(item, vector(id_))
    patches = chance.integers(-127, 128, (GRID * GRID, WIDTH)).astype(np.int8)
    values = chance.integers(0, 256, (SIDE, SIDE)).astype(np.uint8)
    return Record(item, vector(id_), patches, values)


def secrets(record_: Record) -> list[bytes]:
    """The bytes of a record of which no window may stay, told here and not by the vault."""
    item = record_.item
    values = [record_.vector.tobytes(), encode_text(item.label), encode_text(item.source)]
    if record_.patches is not None and record_.mask is not None:
        values += [record_.patches.tobytes(), record_.mask.tobytes()]
    return [value for value in values if value is not None]


@contextlib.contextmanager
def hasty() -> Iterator[None]:
    """Waits for no disk: that changes when bytes arrive there, but not which."""
    connect = Connection._connect

    def connect_hastily(opened):
        connection = connect(opened)
        connection.execute("PRAGMA synchronous=OFF")
        return connection

    with (
        mock.patch("os.fsync", return_value=None),
        mock.patch.object(Connection, "_connect", connect_hastily),
        mock.patch("procmem.memory.time", SimpleNamespace(time=lambda: SECONDS)),
    ):
        yield


def files(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, whole."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}
