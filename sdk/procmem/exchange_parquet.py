"""The Parquet form of an export: one row per item, for pandas, DuckDB, Polars and the like.

Used by `exchange.py`, which imports it only when it is needed: needs pip install
'procmem[parquet]'. Every page has a checksum, and a batch of records is one row group.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from procmem.record import Binding, Item, Record, decode_text, encode_text

_MAX_METADATA_BYTES = 2**26


class ParquetWriter:
    """Writes records to a file.

    Args:
        file: empty, open for writing.
        binding: of the records.
    """

    def __init__(self, file: BinaryIO, binding: Binding) -> None:
        self._schema = _schema(binding)
        self._writer = pq.ParquetWriter(
            file,
            self._schema,
            compression="zstd",
            use_dictionary=["label"],
            write_statistics=False,
            write_page_checksum=True,
        )

    def write(self, records: list[Record]) -> None:
        """Writes the next ones."""
        items = [record.item for record in records]
        labels, label_bytes = _text_columns([item.label for item in items])
        sources, source_bytes = _text_columns([item.source for item in items])
        vectors = np.stack([record.vector for record in records])
        columns = {
            "id": [item.id for item in items],
            "label": labels,
            "label_bytes": label_bytes,
            "source": sources,
            "source_bytes": source_bytes,
            "added_seconds": [item.added_seconds for item in items],
            "vector": vectors.ravel(),
            "patches": [None if r.patches is None else r.patches.tobytes() for r in records],
            "mask": [None if r.mask is None else r.mask.tobytes() for r in records],
        }
        arrays = []
        for name, values in columns.items():
            kind = self._schema.field(name).type
            if name == "vector":
                flat = pa.array(values, type=pa.float16())
                arrays.append(pa.FixedSizeListArray.from_arrays(flat, type=kind))
            else:
                arrays.append(pa.array(values, type=kind))
        self._writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=self._schema))

    def finish(self, metadata: Mapping[str, str]) -> None:
        """Writes the footer."""
        self._writer.add_key_value_metadata(dict(metadata))
        self._writer.close()

    def close(self) -> None:
        """Ends the writer, which would end itself later, when the file is closed already."""
        self._writer.close()


class ParquetReader:
    """Reads records from a file.

    Args:
        file: open for reading.

    Attributes:
        metadata: of the file.

    Raises:
        ValueError: not a Parquet file; the other methods likewise.
    """

    def __init__(self, file: BinaryIO) -> None:
        with _arrow_errors():
            self._file = pq.ParquetFile(
                file,
                page_checksum_verification=True,
                pre_buffer=False,
                thrift_string_size_limit=_MAX_METADATA_BYTES,
                thrift_container_size_limit=_MAX_METADATA_BYTES,
            )
            stored = self._file.metadata.metadata or {}
            found = {key.decode(): value.decode() for key, value in stored.items()}
        found.pop("ARROW:schema", None)
        self.metadata: Mapping[str, str] = found

    def open(self, binding: Binding) -> int:
        """Checks the layout for records of this model and returns how many there are."""
        with _arrow_errors():
            schema = self._file.schema_arrow
            wanted = _schema(binding)
            if not schema.equals(wanted):
                names = ", ".join(f"{field.name}: {field.type}" for field in schema)
                raise ValueError(f"its columns are not those of its model: {names}"[:1_000])
            self._binding = binding
            return int(self.metadata["items"])

    def batches(self, size: int) -> Iterator[list[Record]]:
        """Gives all records, at most `size` at a time; nothing of them is checked."""
        with _arrow_errors():
            batches = self._file.iter_batches(batch_size=size, use_threads=False)
        while True:
            with _arrow_errors():
                batch = next(batches, None)
                if batch is None:
                    return
                batch.validate(full=True)
                records = self._records(batch)
            yield records

    def _records(self, batch: Any) -> list[Record]:
        binding = self._binding
        for name in ("id", "added_seconds", "vector"):
            if batch.column(name).null_count:
                raise ValueError(f"a {name} is missing")
        numbers = batch.column("vector").flatten()
        if numbers.null_count:
            raise ValueError("a number of a vector is missing")
        vectors = numbers.to_numpy(zero_copy_only=False).reshape(-1, binding.cls_dim)
        names = ("id", "added_seconds", "label", "label_bytes", "source", "source_bytes")
        columns = [batch.column(name).to_pylist() for name in (*names, "patches", "mask")]
        records = []
        for row, vector in zip(zip(*columns, strict=True), vectors, strict=True):
            id_, seconds, label, label_bytes, source, source_bytes, patches, mask = row
            item = Item(id_, _text(label, label_bytes), _text(source, source_bytes), seconds)
            if (patches is None) != (mask is None):
                raise ValueError(f"item {id_} has a mask without patches, or patches without")
            if patches is None:
                records.append(Record(item, vector))
                continue
            tokens = np.frombuffer(patches, dtype=np.int8)
            pixels = np.frombuffer(mask, dtype=np.uint8)
            grid = (binding.patch_count, binding.patch_dim)
            square = (binding.side, binding.side)
            records.append(Record(item, vector, tokens.reshape(grid), pixels.reshape(square)))
        return records


def _schema(binding: Binding) -> Any:
    number = pa.field("element", pa.float16(), nullable=False)
    return pa.schema(
        [
            pa.field("id", pa.int64(), nullable=False),
            pa.field("label", pa.string()),
            pa.field("label_bytes", pa.binary()),
            pa.field("source", pa.string()),
            pa.field("source_bytes", pa.binary()),
            pa.field("added_seconds", pa.int64(), nullable=False),
            pa.field("vector", pa.list_(number, binding.cls_dim), nullable=False),
            pa.field("patches", pa.binary(binding.patch_count * binding.patch_dim)),
            pa.field("mask", pa.binary(binding.side**2)),
        ]
    )


def _text_columns(texts: list[str | None]) -> tuple[list[str | None], list[bytes | None]]:
    """Texts, and the bytes of those that are not UTF-8, which Parquet's texts must be."""
    plain: list[str | None] = []
    raw: list[bytes | None] = []
    for text in texts:
        try:
            if text is not None:
                text.encode()
            plain.append(text)
            raw.append(None)
        except UnicodeEncodeError:
            plain.append(None)
            raw.append(encode_text(text))
    return plain, raw


def _text(plain: str | None, raw: bytes | None) -> str | None:
    if plain is not None and raw is not None:
        raise ValueError("a text stands in it twice")
    return plain if raw is None else decode_text(raw)


@contextlib.contextmanager
def _arrow_errors() -> Iterator[None]:
    """Turns whatever pyarrow raises about a file into ValueError."""
    try:
        yield
    except (pa.ArrowException, KeyError, TypeError, OverflowError) as error:
        raise ValueError(str(error).partition("\n")[0]) from error
