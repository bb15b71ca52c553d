"""Items from one memory to others: a file that only they can open, and that shows who made it.

Takes records from one vault and gives them to another; `envelope.py` seals and signs the file,
`merging.py` says what of it changes the receiver. docs/formats.md has the bytes, docs/sync.md the
whole story.

    share_items(mine, "holiday.procmem", to=vault_address(yours), label="holiday")
    receive_items(yours, "holiday.procmem", trust=vault_address(mine))

A bundle is a copy that a deletion does not reach; a revocation (`revocation.py`) reaches whoever
takes it in.

Promises: a bundle appears complete or not at all; it is taken in completely or not at all; who
signed it is checked before anything of it is decrypted. Both ways keep a few records in RAM at a
time, whatever the file says of itself.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from procmem.address import read_addresses
from procmem.batch import IdOrIds, plain_ids
from procmem.beside import PREVIOUS
from procmem.errors import (
    EmbedderMismatchError,
    ExchangeFormatError,
    InputError,
    ItemNotFoundError,
    SharingError,
    VaultError,
)
from procmem.exchange import metadata_of
from procmem.folder import path_of
from procmem.key import read_key
from procmem.memory import VisualMemory
from procmem.merging import Tally, winners, without_revoked
from procmem.newfile import check_outside, new_file, open_file
from procmem.record import (
    MAX_LABEL_CHARACTERS,
    MAX_SOURCE_CHARACTERS,
    NO_VALUE,
    Binding,
    Record,
    canonical_values,
    check_record,
    dense_fits,
    dense_of,
    item_of,
    values_of,
    vector_of,
)
from procmem.reseeing import seen_again
from procmem.types import ReceiveReport

if TYPE_CHECKING:
    from procmem.envelope import EnvelopeReader

BUNDLE_VERSION = 1

Progress = Callable[[int, "int | None"], None]

_FORMAT = "procmem-bundle"
_MAX_HEAD_BYTES = 2**12
_MAX_DENSE_BYTES = 2**26  # of the patches or the mask of one item, whichever model saw it
_LARGEST_CODE_POINT_BYTES = 4


def share_items(
    memory: VisualMemory,
    path: str | os.PathLike[str],
    *,
    to: str | Iterable[str],
    ids: IdOrIds | None = None,
    label: str | None = None,
    progress: Progress | None = None,
) -> int:
    """Writes items for other memories to a new file that nobody else can open.

    With an item go its vector, label, source, time, and its patches and mask, but not the image.
    The file is a copy that `delete` does not reach.

    Args:
        memory: may be open for reading only; signs the file.
        path: of the file. Any name.
        to: the address of a memory, as its `vault_address` gives it, or several, at most 100.
        ids: of the items; None for all. What a migration has left is not among them: no memory of
            the present model could compare it.
        label: only items of this label; not together with `ids`.
        progress: called after every few items with (done, total).

    Returns:
        How many items were written.

    Raises:
        InputError: no address, both `ids` and `label`, a file of this name, or a folder that cannot
            be written.
        ItemNotFoundError: an id or the label is not held, or only under the previous model.
        VaultFormatError: the vault's key is missing or damaged, or an item is.
        VaultFullError: no room on the disk.
        VaultError: the memory changed while it was read.
        In every case there is no file.
    """
    from procmem.envelope import EnvelopeWriter

    recipients = read_addresses("to", to)
    target = path_of("path", path).absolute()
    vault = memory._vault
    state, binding = vault.state(), vault.binding
    chosen = _chosen(memory, ids, label)
    check_outside(memory.path, target)
    key = read_key(memory.path)
    done = 0
    with new_file(target) as file:
        envelope = EnvelopeWriter(file, key, recipients)
        head = _head(binding, len(chosen))
        envelope.write(len(head).to_bytes(4, "big") + head)
        for record in vault.records(chosen):
            item, dense = values_of(record, binding)
            envelope.write(item[0].to_bytes(8, "big") + canonical_values(item, dense))
            done += 1
            if progress is not None:
                progress(done, len(chosen))
        if done != len(chosen) or vault.state() != state:
            raise VaultError(
                f"{memory.path} was changed while it was read; nothing was written: share again"
            )
        envelope.finish()
    return done


def receive_items(
    memory: VisualMemory,
    path: str | os.PathLike[str],
    *,
    trust: str | Iterable[str],
    reembed: bool = False,
    progress: Progress | None = None,
) -> ReceiveReport:
    """Takes in the items of a file that another memory has shared: all, or on any error none.

    Items keep their ids, labels, sources and times. What is held already stays as it is; where an
    id is held with another content, the one that was taught later stays. What was revoked here is
    passed over. Taking in files in any order, and again, gives the same memory. Other processes
    cannot read the memory while this runs.

    Args:
        memory: the file must be for it.
        path: of the file.
        trust: address of the memory that signed it, or of several of which one did.
        reembed: if the items were seen by another model, look at their sources again, as far as
            they are files here: same id, label, source and time, and the same mask, resampled if
            the image size is another one. Nothing tells whether such a file is still the image
            that it was, nor whether it is the sender's.
        progress: called after every few items with (done, total).

    Returns:
        What changed, by id.

    Raises:
        UntrustedSignerError: somebody else signed it; nothing was decrypted.
        NotRecipientError: it is for other memories.
        EmbedderMismatchError: its items were seen by another model, or at another image size.
        ExchangeFormatError: no bundle, damaged, or of a newer format.
        InputError: no address, or no such file.
        VaultFormatError: the vault's key or its revoked ids are missing or damaged.
        VaultFullError, VaultReadOnlyError, VaultLockedError: it cannot be written.
    """
    from procmem.envelope import EnvelopeReader

    memory._check_writable()
    trusted = read_addresses("trust", trust)
    source, vault = path_of("path", path).absolute(), memory._vault
    key, tally = read_key(memory.path), Tally()
    with open_file(source, written_by="`procmem share`") as file, memory._lock:
        with reading(source):
            envelope = EnvelopeReader(file, key, trusted)
            binding, total = _read_head(envelope)
        foreign = (binding.sha256, binding.side) != (vault.binding.sha256, vault.binding.side)
        if foreign and not reembed:
            raise _of_another_model(source, binding, vault.binding)
        records = _records(envelope, source, binding, total, progress)
        records = without_revoked(records, vault, tally)
        if foreign:
            records = seen_again(records, memory, tally)
        vault.put(winners(records, vault, tally))
        memory._recall.clear()
        purged = not tally.replaced
        if tally.replaced and vault.count() <= memory._local.purge_limit:
            purged = vault.purge()
    return ReceiveReport(
        signer=str(envelope.signer),
        added=tuple(tally.added),
        replaced=tuple(tally.replaced),
        kept=tuple(tally.kept),
        unchanged=tuple(tally.unchanged),
        revoked=tuple(tally.revoked),
        not_seen=tuple(tally.not_seen),
        purged=purged,
    )


@contextlib.contextmanager
def reading(source: Path) -> Iterator[None]:
    """Turns what is wrong with a file of another memory into an error that names the file."""
    try:
        yield
    except SharingError as error:
        raise type(error)(f"{source} is {error}") from error
    except (ValueError, OSError, MemoryError) as error:
        raise ExchangeFormatError(
            f"{source} cannot be taken in ({error}); nothing changed: ask the sender for it again"
        ) from error


def _chosen(memory: VisualMemory, ids: IdOrIds | None, label: str | None) -> list[int]:
    held = memory._vault.ids()
    if label is not None:
        if ids is not None:
            raise InputError("ids and label given, wanted one of them, or none for all items")
        # A deletion chooses what a migration has left, too, which no present model has seen.
        chosen = sorted({item.id for item in memory.plan_delete(label=label)}.intersection(held))
        if not chosen:
            raise _left_behind(memory, f"all that has the label {label!r:.80}")
        return chosen
    if ids is None:
        return held
    chosen = sorted(set(plain_ids(ids)))
    missing = sorted(set(chosen).difference(held))
    if missing:
        left = next(memory._vault.erasable(missing), None)
        if left is not None:
            raise _left_behind(memory, f"item {left.id}")
        raise ItemNotFoundError(
            f"{memory.place} holds no item with id {missing[0]} (and {len(missing) - 1} more); "
            "nothing was shared"
        )
    return chosen


def _left_behind(memory: VisualMemory, what: str) -> ItemNotFoundError:
    return ItemNotFoundError(
        f"{what} stands in {memory.path / PREVIOUS}, as the previous model saw it; nothing was "
        "shared: bring the images back and run `procmem migrate` again, which takes them over, or "
        "erase what was left with `procmem migrate --confirm`"
    )


# ---- the contents


def _head(binding: Binding, items: int) -> bytes:
    head = {
        "format": _FORMAT,
        "format_version": str(BUNDLE_VERSION),
        "items": str(items),
        **metadata_of(binding),
    }
    return json.dumps(head, sort_keys=True, separators=(",", ":")).encode()


def _read_head(envelope: EnvelopeReader) -> tuple[Binding, int]:
    """The model of a bundle's items, and how many there are."""
    size = int.from_bytes(envelope.take(4), "big")
    if size > _MAX_HEAD_BYTES:
        raise ValueError(f"its head would have {size} bytes")
    data = envelope.take(size)
    try:
        head = json.loads(data)
        numbers = [int(head[key]) for key in ("cls_dim", "patch_dim", "side", "patch_size")]
        binding = Binding(head["model_sha256"], head["model_name"], *numbers)
        items = int(head["items"])
        version = head["format_version"]
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError("its head cannot be read") from error
    if version != str(BUNDLE_VERSION):
        raise ValueError(
            f"its contents have version {version!r:.20}, this procmem reads {BUNDLE_VERSION}: "
            "upgrade it"
        )
    # Written by the one function there is: whatever differs was not written by it.
    if items < 0 or min(numbers) < 1 or _head(binding, items) != data:
        raise ValueError("its head is not as it is written")
    if max(binding.patch_count * binding.patch_dim, binding.side**2) > _MAX_DENSE_BYTES:
        raise ValueError(f"its model would have images of {binding.side} pixels")
    if max(numbers) > 2**20:
        raise ValueError(f"its model would have sizes of {max(numbers)}")
    return binding, items


def _records(
    envelope: EnvelopeReader,
    source: Path,
    binding: Binding,
    total: int,
    progress: Progress | None,
) -> Iterator[Record]:
    """The records of a bundle as far as they are sound; raises at the latest after the last one.

    Whatever takes them must undo everything if this raises.
    """
    last = 0
    for done in range(1, total + 1):
        with reading(source):
            record = _record(envelope, binding)
            check_record(record, binding)
            if record.item.id <= last:
                raise ValueError(f"item {record.item.id} stands out of order")
        last = record.item.id
        yield record
        if progress is not None:
            progress(done, total)
    with reading(source):
        envelope.finish()


def _record(envelope: EnvelopeReader, binding: Binding) -> Record:
    id_ = int.from_bytes(envelope.take(8), "big", signed=True)
    vector = _field(envelope, 2 * binding.cls_dim)
    label = _field(envelope, _LARGEST_CODE_POINT_BYTES * MAX_LABEL_CHARACTERS)
    source = _field(envelope, _LARGEST_CODE_POINT_BYTES * MAX_SOURCE_CHARACTERS)
    seconds = _field(envelope, 8)
    patches = _field(envelope, binding.patch_count * binding.patch_dim)
    mask = _field(envelope, binding.side**2)
    if vector is None or seconds is None or len(seconds) != 8:
        raise ValueError(f"item {id_} lacks a value")
    added_seconds = int.from_bytes(seconds, "big", signed=True)
    item = item_of((id_, vector, label, source, added_seconds))
    if patches is None and mask is None:
        return Record(item, vector_of(vector))
    dense = (id_, patches or b"", mask or b"")
    if not dense_fits(dense, binding):
        raise ValueError(f"patches or mask of item {id_} have another size than its model's")
    return Record(item, vector_of(vector), *dense_of(dense, binding))


def _field(envelope: EnvelopeReader, largest: int) -> bytes | None:
    """The next value of `canonical_bytes`."""
    size = envelope.take(8)
    if size == NO_VALUE:
        return None
    length = int.from_bytes(size, "big")
    if length > largest:
        raise ValueError(f"a value would have {length} bytes, wanted at most {largest}")
    return envelope.take(length)


def _of_another_model(source: Path, found: Binding, wanted: Binding) -> EmbedderMismatchError:
    return EmbedderMismatchError(
        f"{source} holds items that {found.name} (SHA-256 {found.sha256}) saw at image size "
        f"{found.side}, and this memory is of {wanted.name} (SHA-256 {wanted.sha256}) at "
        f"{wanted.side}; take them into a memory of the first, or with reembed=True (--reembed) "
        "look at those images again that are files here"
    )
