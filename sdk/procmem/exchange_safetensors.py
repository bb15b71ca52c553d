"""The safetensors form of an export: arrays that any tool of the field opens.

Used by `exchange.py`. Reads and writes the file itself, because the library has to hold all
tensors in RAM to write them; the format is a length, a JSON header and the tensors' bytes
(https://github.com/huggingface/safetensors#format). Needs no extra.

Never trusts a number of the file before it was checked against the file's size.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from procmem.record import Binding, Item, Record, decode_text, encode_text

_MAX_HEADER_BYTES = 2**20
_MAX_LINE_BYTES = 2**19  # both texts at their longest, twelve bytes of JSON for a character
_DTYPES = {"I64": "<i8", "F16": "<f2", "I8": "i1", "U8": "u1"}

Layout = dict[str, tuple[str, tuple[int, ...]]]


class SafetensorsWriter:
    """Writes records to a file, each tensor's rows to their place.

    Args:
        file: empty, open for writing.
        binding: of the records.
        items: how many there will be.
        masks: how many of them will have patches and mask.
        metadata: as long as the one that `finish` gets, at least.
    """

    def __init__(
        self,
        file: BinaryIO,
        binding: Binding,
        *,
        items: int,
        masks: int,
        metadata: Mapping[str, str],
    ) -> None:
        self._file = file
        self._layout = _layout(binding, items, masks)
        longest = self._header(2**62, metadata)
        self._header_bytes = -(-len(longest) // 8) * 8
        self._at: dict[str, int] = {}
        start = 8 + self._header_bytes
        for name, (dtype, shape) in self._layout.items():
            self._at[name] = start
            start += _size(dtype, shape)
        self._text_start = self._at["text"] = start
        self._rows = 0

    def write(self, records: list[Record]) -> None:
        """Writes the next ones."""
        dense = [
            (self._rows + at, record.patches, record.mask)
            for at, record in enumerate(records)
            if record.patches is not None and record.mask is not None
        ]
        self._append("id", np.array([record.item.id for record in records], dtype="<i8"))
        seconds = [record.item.added_seconds for record in records]
        self._append("added_seconds", np.array(seconds, dtype="<i8"))
        self._append("vector", np.stack([record.vector for record in records]).astype("<f2"))
        if dense:
            self._append("dense_row", np.array([row for row, _, _ in dense], dtype="<i8"))
            self._append("patches", np.stack([patches for _, patches, _ in dense]))
            self._append("mask", np.stack([mask for _, _, mask in dense]))
        self._append("text", b"".join(map(_line, records)))
        self._rows += len(records)

    def finish(self, metadata: Mapping[str, str]) -> None:
        """Writes the header."""
        header = self._header(self._at["text"] - self._text_start, metadata)
        self._file.seek(0)
        self._file.write(self._header_bytes.to_bytes(8, "little"))
        self._file.write(header.ljust(self._header_bytes))

    def close(self) -> None:
        """Does nothing: nothing is held."""

    def _header(self, text_bytes: int, metadata: Mapping[str, str]) -> bytes:
        return _header({**self._layout, "text": ("U8", (text_bytes,))}, metadata)

    def _append(self, name: str, data: bytes | npt.NDArray[Any]) -> None:
        stored = data if isinstance(data, bytes) else data.tobytes()
        self._file.seek(self._at[name])
        self._file.write(stored)
        self._at[name] += len(stored)


class SafetensorsReader:
    """Reads records from a file.

    Args:
        file: open for reading.

    Attributes:
        metadata: of the file.

    Raises:
        ValueError: not a safetensors file; the other methods likewise.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(self._take(0, 8), "little")
        if not 2 <= length <= min(_MAX_HEADER_BYTES, self._size - 8):
            raise ValueError(f"its header would have {length} bytes")
        self._start = 8 + length
        self._header = self._take(8, length)
        try:
            header = json.loads(self._header)
        except RecursionError as error:
            raise ValueError("its header is nested too deeply") from error
        found = header.get("__metadata__", {}) if isinstance(header, dict) else None
        if not isinstance(found, dict) or not all(isinstance(x, str) for x in found.values()):
            raise ValueError("its header has no metadata")
        self.metadata: Mapping[str, str] = found
        self._text_bytes = 0
        text = header.get("text")
        if isinstance(text, dict) and isinstance(text.get("shape"), list) and text["shape"]:
            self._text_bytes = text["shape"][0]

    def open(self, binding: Binding) -> int:
        """Checks the layout for records of this model and returns how many there are."""
        items, masks = int(self.metadata["items"]), int(self.metadata["masks"])
        if not 0 <= masks <= items or type(self._text_bytes) is not int:
            raise ValueError("its counts contradict each other")
        layout = _layout(binding, items, masks)
        layout["text"] = ("U8", (self._text_bytes,))
        # Written by the one function there is: whatever differs was not written by it.
        if _header(layout, self.metadata) != self._header.rstrip(b" "):
            raise ValueError("its header is not that of its items")
        self._at: dict[str, int] = {}
        start = self._start
        for name, (dtype, shape) in layout.items():
            self._at[name] = start
            start += _size(dtype, shape)
        if start != self._size:
            raise ValueError(f"it has {self._size} bytes, wanted {start}")
        self._layout = layout
        return items

    def batches(self, size: int) -> Iterator[list[Record]]:
        """Gives all records, at most `size` at a time; nothing of them is checked."""
        items, masks = self._layout["id"][1][0], self._layout["dense_row"][1][0]
        text, end = self._at["text"], self._size
        used = 0  # rows of the dense tensors
        next_dense = self._rows("dense_row", 0, 1)[0] if masks else -1
        for first in range(0, items, size):
            count = min(size, items - first)
            ids = self._rows("id", first, count).tolist()
            seconds = self._rows("added_seconds", first, count).tolist()
            vectors = self._rows("vector", first, count)
            records = []
            for at in range(count):
                self._file.seek(text)
                line = self._file.readline(min(_MAX_LINE_BYTES, end - text))
                text += len(line)
                label, source = _texts(line)
                item = Item(ids[at], label, source, seconds[at])
                if next_dense == first + at:
                    patches, mask = self._rows("patches", used, 1), self._rows("mask", used, 1)
                    records.append(Record(item, vectors[at], patches[0], mask[0]))
                    used += 1
                    next_dense = self._rows("dense_row", used, 1)[0] if used < masks else -1
                else:
                    records.append(Record(item, vectors[at]))
            yield records
        if used != masks or text != end:
            raise ValueError("it has masks or texts that belong to no item")

    def _rows(self, name: str, first: int, count: int) -> npt.NDArray[Any]:
        dtype, shape = self._layout[name]
        row = _size(dtype, shape[1:])
        stored = self._take(self._at[name] + first * row, count * row)
        return np.frombuffer(stored, dtype=_DTYPES[dtype]).reshape(count, *shape[1:])

    def _take(self, start: int, size: int) -> bytes:
        self._file.seek(start)
        data = self._file.read(size)
        if len(data) != size:
            raise ValueError(f"it ends at byte {start + len(data)}")
        return data


def _layout(binding: Binding, items: int, masks: int) -> Layout:
    """All tensors but the text, widest numbers first, so that each is aligned."""
    return {
        "id": ("I64", (items,)),
        "added_seconds": ("I64", (items,)),
        "dense_row": ("I64", (masks,)),
        "vector": ("F16", (items, binding.cls_dim)),
        "patches": ("I8", (masks, binding.patch_count, binding.patch_dim)),
        "mask": ("U8", (masks, binding.side, binding.side)),
    }


def _header(layout: Layout, metadata: Mapping[str, str]) -> bytes:
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    start = 0
    for name, (dtype, shape) in layout.items():
        end = start + _size(dtype, shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
        start = end
    return json.dumps(header, separators=(",", ":")).encode()


def _size(dtype: str, shape: tuple[int, ...]) -> int:
    size = np.dtype(_DTYPES[dtype]).itemsize
    for length in shape:
        size *= length
    return size


def _line(record: Record) -> bytes:
    """Label and source as a line of JSON; a text that is not UTF-8 as its bytes in hexadecimal."""
    texts: list[Any] = []
    for text in (record.item.label, record.item.source):
        try:
            if text is not None:
                text.encode()
            texts.append(text)
        except UnicodeEncodeError:
            texts.append({"hex": (encode_text(text) or b"").hex()})
    return json.dumps(texts, separators=(",", ":")).encode() + b"\n"


def _texts(line: bytes) -> tuple[str | None, str | None]:
    try:
        found = json.loads(line)
    except RecursionError as error:
        raise ValueError("a text is nested too deeply") from error
    if not line.endswith(b"\n") or not isinstance(found, list) or len(found) != 2:
        raise ValueError("a line of its texts has no label and source")
    texts: list[str | None] = []
    for value in found:
        if isinstance(value, dict) and isinstance(value.get("hex"), str):
            texts.append(decode_text(bytes.fromhex(value["hex"])))
        elif value is None or isinstance(value, str):
            texts.append(value)
        else:
            raise ValueError("a label or source is no text")
    return texts[0], texts[1]
