"""What is remembered of one image, and the bytes that its values become.

Used by `vault.py` and everything that reads items from it; `rows.py` and `ledger.py` store it.
Text comes back as it went in, down to the lone surrogates by which Python names files that are not
UTF-8.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

import numpy as np
import numpy.typing as npt

from procmem.errors import InputError

MAX_LABEL_CHARACTERS = 1_000
MAX_SOURCE_CHARACTERS = 32_767  # the longest path of Windows; other systems allow less

_LENGTH = struct.Struct(">Q").pack
_LENGTH_TOLERANCE = 0.01  # of a unit vector in float16, which rounds each number by 2**-11 at most
NO_VALUE = b"\xff" * 8
"""In `canonical_bytes` the length of a value that is None."""

ItemValues: TypeAlias = tuple[int, bytes, "bytes | None", "bytes | None", int]
"""id, vector, label, source, added_seconds."""
DenseValues: TypeAlias = tuple[int, bytes, bytes]
"""id, patches, mask."""


@dataclass(frozen=True, slots=True)
class Item:
    """One remembered image, without its vector.

    Attributes:
        id: in [1, 2**63).
        label: what it was taught as, or None.
        source: where it came from, or None.
        added_seconds: when it was added, whole seconds since 1970 UTC.
    """

    id: int
    label: str | None
    source: str | None
    added_seconds: int


@dataclass(frozen=True, slots=True, eq=False)
class ItemBatch:
    """Several items as they are stored, without their vectors, column by column.

    Attributes:
        ids: of each.
        labels: of each, stored bytes.
        sources: likewise.
        seconds: when each was added.
        checksum: the sum of what their rows add to the ledger's.
    """

    ids: Sequence[int] | npt.NDArray[np.int64]
    labels: Sequence[bytes | None]
    sources: Sequence[bytes | None]
    seconds: Sequence[int] | npt.NDArray[np.int64]
    checksum: int

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """An item with everything that the ledger stores of it.

    Attributes:
        item: see `Item`.
        vector: (D,) float16, the unit class token.
        patches: (h * w, P) int8 from `quantize_patches`; None without a mask.
        mask: (S, S) uint8 from `segment.fit_mask`; None without a mask.
    """

    item: Item
    vector: npt.NDArray[np.float16]
    patches: npt.NDArray[np.int8] | None = None
    mask: npt.NDArray[np.uint8] | None = None


@dataclass(frozen=True, slots=True)
class Binding:
    """The model whose embeddings a vault holds; written at creation, never changed.

    Attributes:
        sha256: of the model file, lowercase hexadecimal.
        name: what people call the model.
        cls_dim: D, width of a vector.
        patch_dim: P, width of a patch token.
        side: S, side of the model's input and of stored masks, pixels.
        patch_size: side of a patch, pixels; divides S.
    """

    sha256: str
    name: str
    cls_dim: int
    patch_dim: int
    side: int
    patch_size: int

    @property
    def patch_count(self) -> int:
        """Patches of one image, h * w."""
        return (self.side // self.patch_size) ** 2


def quantize_patches(patches: npt.NDArray[np.float32]) -> npt.NDArray[np.int8]:
    """Patch tokens as they are stored: each divided by its largest element, times 127, rounded.

    The length is lost, and with it what would have to be stored beside the direction.

    Args:
        patches: (h, w, P) float32, finite.

    Returns:
        (h * w, P) int8 in [-127, 127], row-major over the grid. A token of zeros stays zeros.
    """
    rows = patches.reshape(-1, patches.shape[-1]).astype(np.float64)
    largest = np.abs(rows).max(axis=1, keepdims=True)
    return np.rint(rows / np.where(largest == 0, 1.0, largest) * 127).astype(np.int8)


def restore_patches(stored: npt.NDArray[np.int8]) -> npt.NDArray[np.float32]:
    """Stored patch tokens as unit vectors, each a function of its own bytes alone.

    Args:
        stored: (..., P) int8.

    Returns:
        (M, P) float32, C-contiguous. A token of zeros stays zeros.
    """
    rows = stored.reshape(-1, stored.shape[-1]).astype(np.float32)
    # Whole numbers: their squares and, up to P = 1040, the sum of those are exact in float32.
    squares = np.square(rows).sum(axis=1, keepdims=True, dtype=np.float64)
    rows /= np.sqrt(np.where(squares == 0, 1.0, squares)).astype(np.float32)
    return rows


def encode_text(text: str | None) -> bytes | None:
    """The stored bytes of a label or source: UTF-8, lone surrogates as three bytes each."""
    return None if text is None else text.encode("utf-8", "surrogatepass")


def decode_text(stored: bytes) -> str:
    """The inverse of `encode_text`."""
    return stored.decode("utf-8", "surrogatepass")


def decode_texts(stored: Sequence[bytes | None]) -> list[str | None]:
    """The same of several; None stays None."""
    if None not in stored:
        # A null character begins and ends no other one, and is in no text that can be added.
        whole = b"\0".join(cast("Sequence[bytes]", stored)).decode("utf-8", "surrogatepass")
        texts = whole.split("\0")
        if len(texts) == len(stored):
            return list(texts)
    return [None if text is None else decode_text(text) for text in stored]


def check_label(label: object) -> None:
    """Raises InputError unless `label` is None or a text that can be stored."""
    _check_text(label, "label", MAX_LABEL_CHARACTERS)


def check_source(source: object) -> None:
    """Raises InputError unless `source` is None or a text that can be stored."""
    _check_text(source, "source", MAX_SOURCE_CHARACTERS)


def _check_text(text: object, name: str, limit: int) -> None:
    if text is None:
        return
    if not isinstance(text, str):
        raise InputError(f"{name} is {text!r:.80}, a {type(text).__name__}; wanted a str or None")
    if not text:
        raise InputError(f"{name} is empty, wanted at least one character, or None for no {name}")
    if "\0" in text:
        raise InputError(f"{name} {text!r:.80} contains a null character; remove it")
    if len(text) > limit:
        raise InputError(f"{name} has {len(text)} characters, wanted at most {limit}; shorten it")


def check_id(value: object) -> None:
    """Raises InputError unless `value` is a whole number in [1, 2**63)."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < 2**63:
        raise InputError(f"id is {value!r:.80}, wanted a whole number in [1, 2**63)")


def check_record(record: Record, binding: Binding) -> None:
    """Raises ValueError about a value that no memory holds, in a record from elsewhere."""
    item, vector = record.item, record.vector
    check_id(item.id)
    check_label(item.label)
    check_source(item.source)
    if item.added_seconds < 0:
        raise ValueError(f"added_seconds of item {item.id} is {item.added_seconds}")
    if vector.shape != (binding.cls_dim,):
        raise ValueError(f"the vector of item {item.id} has shape {vector.shape}")
    length = float(np.sqrt(np.square(vector.astype(np.float64)).sum()))
    if not abs(length - 1.0) <= _LENGTH_TOLERANCE:
        raise ValueError(f"the vector of item {item.id} has length {length:.3g}, wanted 1")
    if record.patches is not None and (record.patches == -128).any():
        raise ValueError(f"patches of item {item.id} are below -127")


def canonical_bytes(*fields: bytes | None) -> bytes:
    """The stored values of one item as one text, from which all of them can be told again.

    Args:
        fields: each becomes its length (8 bytes, big endian) and itself; None is the length
            2**64 - 1, so that it differs from an empty value.
    """
    return b"".join(
        [NO_VALUE if field is None else _LENGTH(len(field)) + field for field in fields]
    )


def canonical_values(item: ItemValues, dense: DenseValues | None) -> bytes:
    """`canonical_bytes` of all that is stored of an item but its id.

    These are vector, label, source, added_seconds (8 bytes, big endian, signed), patches, mask.
    """
    _, vector, label, source, added_seconds = item
    patches, mask = (None, None) if dense is None else dense[1:]
    seconds = added_seconds.to_bytes(8, "big", signed=True)
    return canonical_bytes(vector, label, source, seconds, patches, mask)


def values_of(record: Record, binding: Binding) -> tuple[ItemValues, DenseValues | None]:
    """What is stored of a record, after checking that it can be.

    Raises:
        InputError: an id, a text or a shape does not fit.
    """
    item, vector = record.item, record.vector
    check_id(item.id)
    check_label(item.label)
    check_source(item.source)
    if vector.shape != (binding.cls_dim,) or not np.isfinite(vector).all():
        raise InputError(
            f"the vector of item {item.id} has shape {vector.shape}, wanted ({binding.cls_dim},) "
            f"finite numbers: embed with {binding.name}"
        )
    stored = vector.astype("<f2").tobytes()
    texts = (encode_text(item.label), encode_text(item.source))
    values = (item.id, stored, *texts, item.added_seconds)
    if record.patches is None or record.mask is None:
        return values, None
    dense = (item.id, record.patches.tobytes(), record.mask.tobytes())
    if not dense_fits(dense, binding):
        raise InputError(
            f"item {item.id} has patches {record.patches.shape} and a mask {record.mask.shape}, "
            f"which are not those of {binding.name}: embed with it"
        )
    return values, dense


def vector_of(stored: bytes) -> npt.NDArray[np.float16]:
    """(D,) float16 of the stored bytes of a vector; ValueError if they are an odd number."""
    return np.frombuffer(stored, dtype="<f2").astype(np.float16, copy=False)


def item_of(values: ItemValues) -> Item:
    """The item of stored values.

    Raises:
        UnicodeDecodeError: a text is not one.
    """
    id_, _, label, source, added_seconds = values
    return Item(
        id_,
        None if label is None else decode_text(label),
        None if source is None else decode_text(source),
        added_seconds,
    )


def dense_fits(values: DenseValues, binding: Binding) -> bool:
    """Whether patches and mask have the sizes that the model gives them."""
    sizes = (binding.patch_count * binding.patch_dim, binding.side**2)
    return (len(values[1]), len(values[2])) == sizes


def dense_of(
    values: DenseValues, binding: Binding
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.uint8]]:
    """Patches (h * w, P) and mask (S, S) of stored values that fit."""
    patches = np.frombuffer(values[1], dtype=np.int8)
    mask = np.frombuffer(values[2], dtype=np.uint8)
    grid = (binding.patch_count, binding.patch_dim)
    return patches.reshape(grid), mask.reshape(binding.side, binding.side)
