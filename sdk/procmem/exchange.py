"""A memory's items as one file, and back: Parquet for tables, safetensors for arrays.

Stands beside the photo's walk, over any store: takes records from one memory and gives them to
another of the same model. `exchange_parquet.py` and `exchange_safetensors.py` have the two forms,
docs/formats.md describes their bytes.

    export_items(memory, "items.parquet")
    import_items(other, "items.parquet")

An export is a copy: deleting from the memory does not reach it. Whoever must be forgotten must be
removed from every export too, by deleting the file.

Promises: a file appears complete or not at all, readable by its owner only, and never replaces
another; an import happens completely or not at all, and checks every bit by the SHA-256 of the
contents. Both keep some megabytes in RAM at a time, whatever the size of the memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Protocol

from procmem.batch import IdOrIds, plain_ids
from procmem.errors import (
    ExchangeFormatError,
    InputError,
    ItemNotFoundError,
    MissingExtraError,
    VaultError,
    unknown_choice,
)
from procmem.exchange_safetensors import SafetensorsReader, SafetensorsWriter
from procmem.folder import check_binding, path_of
from procmem.memory import VisualMemory
from procmem.newfile import check_outside, new_file, open_file
from procmem.record import Binding, Record, check_record, encode_text
from procmem.stores.local import LocalStore

EXCHANGE_VERSION = 1
SUFFIXES = (".parquet", ".safetensors")

Progress = Callable[[int, "int | None"], None]

_FORMAT = "procmem-items"
_BYTES_AT_ONCE = 8 * 2**20
_MAX_RECORDS_AT_ONCE = 1_000


class Writer(Protocol):
    """A form of file that takes records."""

    def write(self, records: list[Record]) -> None:
        """Writes the next ones."""

    def finish(self, metadata: Mapping[str, str]) -> None:
        """Writes what is left; the file is complete then."""

    def close(self) -> None:
        """Frees what the writer holds, finished or not; the file stays open."""


class Reader(Protocol):
    """A form of file that gives records; raises ValueError about what is not as it must be."""

    metadata: Mapping[str, str]
    """As given to `Writer.finish`; empty if it has none."""

    def open(self, binding: Binding) -> int:
        """Checks the layout for records of this model and returns how many there are."""
        ...

    def batches(self, size: int) -> Iterator[list[Record]]:
        """Gives all records, at most `size` at a time; nothing of them is checked."""
        ...


def export_items(
    memory: VisualMemory,
    path: str | os.PathLike[str],
    *,
    ids: IdOrIds | None = None,
    progress: Progress | None = None,
) -> int:
    """Writes items with their vectors, patches and masks to a new file.

    The file is a copy that `delete` does not reach.

    Args:
        memory: may be open for reading only.
        path: ends in ".parquet" (needs pip install 'procmem[parquet]') or ".safetensors".
        ids: one or several; None for all.
        progress: called after every few items with (done, total).

    Returns:
        How many items were written. They stand ascending by id; equal items give equal contents.

    Raises:
        InputError: another ending, a file of this name, or a folder that cannot be written.
        ItemNotFoundError: an id is not held.
        MissingExtraError: pyarrow is not installed.
        VaultFullError: no room on the disk.
        VaultError: the memory changed while it was read.
        In every case there is no file.
    """
    target = path_of("path", path).absolute()
    form = _form_of(target)
    store = memory._store
    state = store.state()
    held = store.ids()
    chosen = held if ids is None else sorted(set(plain_ids(ids)))
    missing = sorted(set(chosen).difference(held)) if ids is not None else []
    if missing:
        raise ItemNotFoundError(
            f"{memory.place} holds no item with id {missing[0]} (and {len(missing) - 1} more); "
            "nothing was exported"
        )
    if isinstance(store, LocalStore):
        check_outside(memory.path, target)
    binding = store.binding
    masks = len(set(store.ids(dense=True)).intersection(chosen))
    size = _records_at_once(binding, dense=masks > 0)
    contents = _Contents(binding)
    done = 0
    with new_file(target) as file, contextlib.ExitStack() as ends:
        writer = _open_writer(form, file, binding, items=len(chosen), masks=masks)
        ends.callback(writer.close)
        records = store.records(chosen)
        while batch := list(islice(records, size)):
            for record in batch:
                contents.add(record)
            writer.write(batch)
            done += len(batch)
            if progress is not None:
                progress(done, len(chosen))
        if done != len(chosen) or store.state() != state:
            raise VaultError(
                f"{memory.place} was changed while it was exported; nothing was written: export "
                "again"
            )
        writer.finish(_metadata(binding, contents.digest(), items=done, masks=masks))
    return done


def import_items(
    memory: VisualMemory, path: str | os.PathLike[str], *, progress: Progress | None = None
) -> list[int]:
    """Remembers the items of a file that `export_items` wrote: all, or on any error none.

    Items keep their ids, labels, sources and times of adding. Other processes cannot read the
    memory while this runs.

    Args:
        memory: of the same model.
        path: ends in ".parquet" (needs pip install 'procmem[parquet]') or ".safetensors".
        progress: called after every few items with (done, total).

    Returns:
        The ids, in the order of the file; `memory.delete(ids)` takes the import back.

    Raises:
        EmbedderMismatchError: the items were seen by another model.
        ExchangeFormatError: not an export, damaged, or of a newer format.
        InputError: another ending, no such file, or an id is in use.
        MissingExtraError: pyarrow is not installed.
        VaultFullError, VaultReadOnlyError, VaultLockedError: it cannot be written.
    """
    memory._check_writable()
    source = path_of("path", path).absolute()
    with _opened(source) as (reader, binding):
        check_binding(source, binding, memory._store.binding)
        own = memory._store.binding
        if dataclasses.replace(binding, name=own.name) != own:
            raise _broken(source, "the model's sizes are not those of the model that it names")
        with _reading(source):
            total = reader.open(binding)
        ids: list[int] = []
        memory._add_records(_checked_records(memory, reader, source, binding, total, ids, progress))
    return ids


def model_of(path: str | os.PathLike[str]) -> Binding:
    """The model that the items of a file were seen by. Only the file's metadata are read.

    Raises:
        ExchangeFormatError, InputError, MissingExtraError: as `import_items`.
    """
    with _opened(path_of("path", path).absolute()) as (_, binding):
        return binding


def _checked_records(
    memory: VisualMemory,
    reader: Reader,
    source: Path,
    binding: Binding,
    total: int,
    ids: list[int],
    progress: Progress | None,
) -> Iterator[Record]:
    """The records of a file as far as they are sound; raises at the latest after the last one.

    Whatever takes them must undo everything if this raises.
    """
    contents = _Contents(binding)
    seen: set[int] = set()
    batches = reader.batches(_records_at_once(binding, dense=True))
    while True:
        with _reading(source):
            batch = next(batches, None)
            if batch is None:
                break
            for record in batch:
                check_record(record, binding)
                contents.add(record)
        new = [record.item.id for record in batch]
        twice = seen.intersection(new) or len(set(new)) < len(new)
        if twice:
            raise _broken(source, "an id stands in it twice")
        taken = memory._store.held(new)
        if taken:
            raise InputError(
                f"id {min(taken)} of {source} is in the memory already (imported before?); nothing "
                "was imported: delete it first, or import into a new memory"
            )
        seen.update(new)
        ids += new
        yield from batch
        if progress is not None:
            progress(len(ids), total)
    if len(ids) != total or contents.digest() != reader.metadata["content_sha256"]:
        raise _broken(source, "its contents do not have the SHA-256 that it states")


# ---- metadata


class _Contents:
    """The SHA-256 of binding and records, the same in every form of file."""

    def __init__(self, binding: Binding) -> None:
        text = json.dumps(metadata_of(binding), sort_keys=True)
        self._hash = hashlib.sha256(text.encode())

    def add(self, record: Record) -> None:
        item = record.item
        self._hash.update(struct.pack("<qq", item.id, item.added_seconds))
        for value in (
            encode_text(item.label),
            encode_text(item.source),
            record.vector.astype("<f2", copy=False).tobytes(),
            None if record.patches is None else record.patches.tobytes(),
            None if record.mask is None else record.mask.tobytes(),
        ):
            self._hash.update(struct.pack("<q", -1 if value is None else len(value)))
            self._hash.update(value or b"")

    def digest(self) -> str:
        return self._hash.hexdigest()


def metadata_of(binding: Binding) -> dict[str, str]:
    """What a file says of the model that its items were seen by."""
    return {
        "model_name": binding.name,
        "model_sha256": binding.sha256,
        "cls_dim": str(binding.cls_dim),
        "patch_dim": str(binding.patch_dim),
        "side": str(binding.side),
        "patch_size": str(binding.patch_size),
    }


def _metadata(binding: Binding, digest: str, *, items: int, masks: int) -> dict[str, str]:
    return {
        "format": _FORMAT,
        "format_version": str(EXCHANGE_VERSION),
        "items": str(items),
        "masks": str(masks),
        "content_sha256": digest,
        **metadata_of(binding),
    }


def _checked_binding(metadata: Mapping[str, str], source: Path) -> Binding:
    """The model that a file's metadata name."""
    if metadata.get("format") != _FORMAT:
        raise ExchangeFormatError(
            f"{source} is not an export of a memory; make one with `procmem export`, or teach "
            "images with `procmem add`"
        )
    version = metadata.get("format_version", "")
    if version != str(EXCHANGE_VERSION):
        raise ExchangeFormatError(
            f"{source} has export format version {version!r:.20}, this procmem reads "
            f"{EXCHANGE_VERSION}; upgrade procmem, or export again with this one"
        )
    try:
        numbers = [int(metadata[key]) for key in ("cls_dim", "patch_dim", "side", "patch_size")]
        binding = Binding(metadata["model_sha256"], metadata["model_name"], *numbers)
        if _metadata(
            binding,
            metadata["content_sha256"],
            items=int(metadata["items"]),
            masks=int(metadata["masks"]),
        ) != dict(metadata):
            raise ValueError("they are not as they were written")
    except (KeyError, ValueError) as error:
        raise _broken(source, f"its metadata cannot be read: {error}") from error
    return binding


# ---- files


def _form_of(path: Path) -> str:
    form = path.suffix.lower()
    if form not in SUFFIXES:
        raise unknown_choice(f"the ending of {path}", form or "nothing", SUFFIXES)
    return form


def _open_writer(form: str, file: BinaryIO, binding: Binding, *, items: int, masks: int) -> Writer:
    if form == ".safetensors":
        # The header's length must be known before its contents are.
        longest = _metadata(binding, "0" * 64, items=items, masks=masks)
        return SafetensorsWriter(file, binding, items=items, masks=masks, metadata=longest)
    with _with_pyarrow():
        from procmem.exchange_parquet import ParquetWriter
    return ParquetWriter(file, binding)


@contextlib.contextmanager
def _opened(source: Path) -> Iterator[tuple[Reader, Binding]]:
    """A file's reader, and the model that its metadata name; the records are still unread."""
    form = _form_of(source)
    with open_file(source, written_by="`procmem export`") as file:
        with _reading(source):
            reader = _open_reader(form, file)
        yield reader, _checked_binding(reader.metadata, source)


def _open_reader(form: str, file: BinaryIO) -> Reader:
    if form == ".safetensors":
        return SafetensorsReader(file)
    with _with_pyarrow():
        from procmem.exchange_parquet import ParquetReader
    return ParquetReader(file)


@contextlib.contextmanager
def _with_pyarrow() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise MissingExtraError(
            "Parquet needs pyarrow; install it with pip install 'procmem[parquet]', or give a "
            "file that ends in .safetensors"
        ) from error


def _records_at_once(binding: Binding, *, dense: bool) -> int:
    size = 2 * binding.cls_dim + 200
    if dense:
        size += binding.patch_count * binding.patch_dim + binding.side**2
    return max(1, min(_MAX_RECORDS_AT_ONCE, _BYTES_AT_ONCE // size))


@contextlib.contextmanager
def _reading(source: Path) -> Iterator[None]:
    """Turns what a reader says into an error that names the file."""
    try:
        yield
    except (ValueError, OSError, MemoryError) as error:
        # MissingExtraError is none of these.
        raise _broken(source, str(error)) from error


def _broken(source: Path, what: str) -> ExchangeFormatError:
    return ExchangeFormatError(
        f"{source} is damaged ({what}); nothing was imported: export it again, or get another copy"
    )
