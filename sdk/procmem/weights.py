"""Whether the numbers in an ONNX file are those of a checkpoint, read without either's library.

Called by `provenance.py`. A manifest can claim any checkpoint; what a model knows is in its
tensors. Every tensor of the file must be one of the checkpoint's, as it is, transposed, or in one
of the two ways in which `procmem_export/any_side.py` stores positions; and every tensor of the
checkpoint must be in the file. What the graph does with them is not looked at. Never runs anything.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from procmem.backends.onnx_file import Field, varint, walk
from procmem.errors import ModelIntegrityError

# Fields of a tensor and of an attribute, from onnx.proto.
_DIMS, _DATA_TYPE, _TENSOR_NAME, _RAW_DATA = 1, 2, 8, 9
_TENSOR_DATA = (4, 5, 6, 7, _RAW_DATA, 10, 11)
_ATTRIBUTE_NAME = 1
_ATTRIBUTE_DATA = (2, 3, 4, 7, 8, 9)

_ONNX_FLOATS = {1: "<f4", 10: "<f2"}
_SAFETENSORS_FLOATS = {"F32": "<f4", "F16": "<f2"}

# A graph needs constants of its own: axes, shapes, epsilons. One of fewer bytes than this passes;
# all of them together (4 KB in the ViT-Ti that comes with procmem) may not hold weights either.
_SMALL_BYTES = 256
_ALL_SMALL_BYTES = 2**15

_MAX_HEADER_BYTES = 2**24


@dataclass(frozen=True, slots=True)
class Comparison:
    """What `compare_weights` found.

    Attributes:
        equal: how many tensors of the model are the checkpoint's.
        numbers: how many numbers are in them.
        small_bytes: of the graph's own constants.
        foreign: names of the model's tensors that are not the checkpoint's.
        missing: names of the checkpoint's tensors that are not in the model.
    """

    equal: int
    numbers: int
    small_bytes: int
    foreign: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def problem(self) -> str | None:
        """What is wrong, in words; None if the weights are the checkpoint's."""
        if self.foreign:
            return f"{_some(self.foreign)} of the model are not in the checkpoint"
        if self.missing:
            return f"{_some(self.missing)} of the checkpoint are not in the model"
        if self.small_bytes > _ALL_SMALL_BYTES:
            return (
                f"the model holds {self.small_bytes:,} bytes of small constants, wanted at most "
                f"{_ALL_SMALL_BYTES:,}"
            )
        return None


def compare_weights(model: bytes, checkpoint: bytes) -> Comparison:
    """Compares every tensor, to the last bit of its value as float32.

    Args:
        model: an ONNX file that `backends.onnx_file.check_file` allows.
        checkpoint: a safetensors file with the teacher and, if it has one, the readout.

    Raises:
        ModelIntegrityError: one of the two cannot be read.
    """
    wanted = {_digest(values): name for name, values in _exported_forms(checkpoint)}
    found: set[str] = set()
    foreign: list[str] = []
    equal = numbers = small_bytes = 0
    for name, size, values in _stored(model):
        source = None if values is None else wanted.get(_digest(values))
        if source is not None and values is not None:
            found.add(source)
            equal += 1
            numbers += values.size
        elif size < _SMALL_BYTES:
            small_bytes += size
        else:
            foreign.append(name or "a tensor without a name")
    missing = sorted(set(wanted.values()) - found)
    return Comparison(equal, numbers, small_bytes, tuple(foreign), tuple(missing))


def _stored(data: bytes) -> Iterator[tuple[str, int, npt.NDArray[np.float32] | None]]:
    """Name, bytes and, if they are floats as the exporter writes them, values of all constants."""
    try:
        for (message, _), fields in itertools.groupby(walk(data), key=lambda f: (f[0], f[1])):
            if message == "tensor":
                yield _tensor(data, list(fields))
            elif message == "attribute":
                held = list(fields)
                size = sum(f.end - f.start for f in held if f.number in _ATTRIBUTE_DATA)
                yield _text(data, held, _ATTRIBUTE_NAME), size, None
    except (IndexError, KeyError) as error:
        raise ModelIntegrityError(
            "the model's bytes do not parse; restore it, or export the checkpoint again"
        ) from error


def _tensor(data: bytes, fields: list[Field]) -> tuple[str, int, npt.NDArray[np.float32] | None]:
    name = _text(data, fields, _TENSOR_NAME)
    held = [field for field in fields if field.number in _TENSOR_DATA]
    size = sum(field.end - field.start for field in held)
    # Of a field that stands twice, readers take the last.
    kind = next((f.value for f in reversed(fields) if f.number == _DATA_TYPE), 0)
    if kind not in _ONNX_FLOATS or [f.number for f in held] != [_RAW_DATA]:
        return name, size, None
    stored = np.frombuffer(data[held[0].start : held[0].end], np.uint8)
    dtype = np.dtype(_ONNX_FLOATS[kind])
    if size != math.prod(_dims(data, fields)) * dtype.itemsize:
        return name, size, None
    return name, size, stored.view(dtype).astype(np.float32)


def _dims(data: bytes, fields: list[Field]) -> Iterator[int]:
    """The lengths of a tensor's axes, written one by one or packed."""
    for field in fields:
        if field.number != _DIMS:
            continue
        if field.wire_type == 0:
            yield field.value
        at = field.start
        while field.wire_type == 2 and at < field.end:
            value, at = varint(data, at)
            yield value


def _text(data: bytes, fields: list[Field], number: int) -> str:
    spans = (data[f.start : f.end] for f in fields if f.number == number and f.wire_type == 2)
    return next(spans, b"").decode(errors="replace")


def _exported_forms(checkpoint: bytes) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    """What each tensor of the perception may look like in an exported graph."""
    tensors = read_safetensors(checkpoint)
    for name, values in tensors.items():
        if not name.startswith(("teacher/", "readout/")):
            continue  # a full training state also holds the student and the optimizer
        if name in ("teacher/cls_token", "teacher/reg_token") and "teacher/pos_embed" in tensors:
            continue  # stored together: with the position, or as the tokens before the patches
        if name == "teacher/pos_embed" and values.ndim == 3 and "teacher/reg_token" in tensors:
            yield name, values[0].T  # with registers, positions are the patches' alone
            front = [tensors[f"teacher/{kind}_token"] for kind in ("cls", "reg")]
            yield "teacher/cls_token", np.concatenate(front, axis=1)
            continue
        if name == "teacher/pos_embed" and values.ndim == 3 and "teacher/cls_token" in tensors:
            yield name, values[0, 1:].T  # the table of positions, (P, h * w)
            yield "teacher/cls_token", tensors["teacher/cls_token"] + values[:, :1]
            continue
        yield name, values
        if values.ndim == 2:
            yield name, values.T


def read_safetensors(data: bytes) -> dict[str, npt.NDArray[np.float32]]:
    """The float16 and float32 tensors of a safetensors file, as float32.

    Raises:
        ModelIntegrityError: not a safetensors file.
    """
    try:
        length = int.from_bytes(data[:8], "little")
        if not 2 <= length <= min(_MAX_HEADER_BYTES, len(data) - 8):
            raise ValueError(f"its header would have {length} bytes")
        header = json.loads(data[8 : 8 + length])
        body = memoryview(data)[8 + length :]
        return {
            name: _safetensor(body, entry)
            for name, entry in header.items()
            if name != "__metadata__" and entry["dtype"] in _SAFETENSORS_FLOATS
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelIntegrityError(
            f"the checkpoint is not a safetensors file ({error}); restore it from where it came "
            "from"
        ) from error


def _safetensor(body: memoryview, entry: dict[str, Any]) -> npt.NDArray[np.float32]:
    start, end = entry["data_offsets"]
    if not 0 <= start <= end <= len(body):
        raise ValueError(f"a tensor ends at byte {end} of {len(body)}")
    stored = np.frombuffer(body[start:end], np.dtype(_SAFETENSORS_FLOATS[entry["dtype"]]))
    values: npt.NDArray[np.float32] = stored.reshape(entry["shape"]).astype(np.float32)
    return values


def _digest(values: npt.NDArray[np.float32]) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(values, dtype="<f4").tobytes()).digest()


def _some(names: tuple[str, ...]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
