"""The one object that people hold: teach it images, ask it, and make it forget.

Conducts the rest of a photo's walk and does no arithmetic of its own: `embedder.py` sees, a store
(`stores/`) keeps, finds and forgets, `vote.py` and `segment.py` answer. Opening it is in
`opening.py`, its questions are in `asking.py`, its deletions in `forgetting.py`; here it is taught
and looked at.

    memory = VisualMemory("vault")
    ids = memory.add(["cat.jpg", "dog.jpg"], labels=["cat", "dog"])
    memory.classify("what.jpg").label
    memory.delete(ids)

Promises: `add` and `delete` happen completely or not at all, and are on the disk when they return;
after `delete`, every answer is the one of a memory that never held the items, to the last bit.
Never sends anything anywhere, never writes outside its folder, never changes an image.
"""

from __future__ import annotations

import os
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from types import TracebackType
from typing import Any, TypeVar, cast

import numpy as np

from procmem.asking import Asking
from procmem.batch import Column, IdOrIds, MaskLike, one_or_many, plain_id, source_of
from procmem.errors import ImageError, InputError
from procmem.forgetting import Forgetting
from procmem.image import ImageLike
from procmem.ledger import FORMAT_VERSION
from procmem.projection import project
from procmem.record import Item, Record, check_label, check_source, quantize_patches
from procmem.types import MemoryMap, MemoryStats, VerifyReport

_Memory = TypeVar("_Memory", bound="VisualMemory")


class VisualMemory(Asking, Forgetting):
    """Remembered images, in a folder or on a server, that can be asked and can forget.

    Safe to use from several threads. Works as a context manager; `close` gives up the right to
    write, which only one object may hold at a time.

    Args:
        path: the vault's folder; made, with its parents, if it is missing. Or the address of a
            memory on a server, "postgresql://...": docs/shared-memories.md says what differs.
        embedder: the model: an `Embedder`, a bundled model's name or a model file's path. None
            takes the bundled one that the vault was made with, and opens it when it is first
            needed; looking, counting and deleting need no model at all. A new vault is bound to
            its model and image size for good.
        image_size: S, side of the square that the model sees of an image, pixels, for a model that
            is opened here; see `Embedder`. None takes the side that the vault was made with, and
            the model's own for a new vault. One that is given must be the vault's.
        device: where a model that is opened here runs; see `Embedder`.
        read_only: write nothing and take no lock; changes by another process show at the next
            call.
        purge_limit: with more items left than this, `delete` defers the purge.
        key: makes a new vault sealed, and opens a sealed one: the path of a key file, which a new
            vault makes, or "keystore" for the operating system's (extra `sealed`). Every item is
            then encrypted under a key of its own, and deleting destroys that key, in old copies of
            the vault too; see docs/laws.md. Whoever loses the key loses the memory.
        index: how neighbors are found: "exact"; "binary", which compares signs first, is faster in
            a large memory and finds nearly all; "auto" takes it from 50,000 items on. On a server
            "exact", or "auto", which asks the server's graph from 50,000 items on.
        create: False refuses a place where no memory is, instead of making one there.

    Attributes:
        place: the folder, absolute, or the address without its password.
        read_only: as given.

    Raises:
        VaultLockedError: another process or object has it open for writing.
        VaultFormatError: not a vault, damaged, or of a newer format; or none is there and none is
            to be made.
        VaultReadOnlyError, VaultFullError: the folder cannot be written.
        VaultKeyError: the vault is sealed and the key is missing or another one's, or it is not.
        EmbedderMismatchError: the vault was made with another model or image size.
        ModelError: the model cannot be opened.
        InputError: an argument has a wrong value, or `embedder` runs at another image size.
    """

    # ---- teaching

    def add(
        self,
        images: ImageLike | Iterable[ImageLike],
        labels: str | Iterable[str | None] | None = None,
        *,
        masks: MaskLike | Iterable[MaskLike | None] | None = None,
        ids: IdOrIds | None = None,
        sources: str | Iterable[str | None] | None = None,
        progress: Callable[[int, int | None], None] | None = None,
    ) -> list[int]:
        """Remembers images: all of them, or on any error none.

        Args:
            images: one image (path, bytes, PIL image, array), or any iterable of them; an array
                (N, H, W, C) counts as N. Read one at a time.
            labels: one for all, or one (or None) per image; at most 1,000 characters each.
            masks: (H, W) class values in 0..255 at the image's own size (after EXIF rotation), one
                (or None) per image. `segment` needs them; nothing else does.
            ids: in [1, 2**63) and not in use; random if None, which tells nothing about order.
            sources: where the images come from, one for all or one (or None) per image. Unless
                given, an image that is a path has its absolute path as source.
            progress: called after each image with (done, total), total None if not known.

        Returns:
            The ids, in the order of the images. Cost: one run of the model per image, a second
            one per mask.

        Raises:
            ImageError: an image cannot be used; the message names its position.
            InputError: a label, mask, id or source does not fit, or the counts differ.
            VaultFullError, VaultReadOnlyError, VaultLockedError: it cannot be written.
            EmbedderMismatchError: the model is not the vault's.
        """
        self._check_writable()
        batch, alone = one_or_many(images)
        if alone and _is_mask(masks):
            masks = [cast(MaskLike, masks)]
        if alone and isinstance(ids, (int, np.integer)):
            ids = [ids]
        total = len(batch) if isinstance(batch, Sized) else None
        columns = {
            "labels": Column("labels", labels, total, everywhere=(str,)),
            "masks": Column("masks", masks, total),
            "ids": Column("ids", ids, total),
            "sources": Column("sources", sources, total, everywhere=(str,)),
        }
        records: list[Record] = []
        taken: set[int] = set()
        now = int(time.time())
        for at, image in enumerate(batch):
            row = {name: column.next() for name, column in columns.items()}
            try:
                item = self._new_item(image, row, taken, now)
                records.append(self._see(image, item, row["masks"]))
            except (ImageError, InputError) as error:
                if alone:
                    raise
                raise type(error)(f"images[{at}]: {error}") from error
            if progress is not None:
                progress(at + 1, total)
        for column in columns.values():
            column.end(len(records))
        with self._lock:
            self._store.add(records)
        return [record.item.id for record in records]

    def _new_item(
        self, image: ImageLike, row: Mapping[str, Any], taken: set[int], now: int
    ) -> Item:
        label, id_, source = row["labels"], row["ids"], row["sources"]
        check_label(label)
        if source is None and isinstance(image, (str, os.PathLike)):
            source = source_of(image)
        check_source(source)
        if id_ is not None:
            id_ = plain_id(id_)
            if id_ in taken or self._store.held([id_]):
                raise InputError(
                    f"id {id_} is in use; nothing was added: give another, or none for a random one"
                )
        else:
            (id_,) = self._free_ids(1)
        taken.add(id_)
        return Item(id_, label, source, now)

    def _free_ids(self, count: int) -> list[int]:
        """Random ids that are not in use: they tell nothing of an image, order or source."""
        free: set[int] = set()
        while len(free) < count:
            drawn = {secrets.randbits(63) for _ in range(count - len(free))} - {0}
            free |= drawn - self._store.held(drawn)
        return list(free)

    def _see(self, image: ImageLike, item: Item, mask: MaskLike | None) -> Record:
        """Embeds an image that is to be remembered, with patches if there is a mask."""
        vector = self._embed(image).cls[0].astype(np.float16)
        if mask is None:
            return Record(item, vector)
        fitted = self._fit(image, mask)
        patches = self._embed(image, view="whole").patches[0]  # (h, w, P)
        return Record(item, vector, quantize_patches(patches), fitted)

    def _add_records(self, records: Iterable[Record]) -> None:
        """Remembers what a memory of the same model saw, all or nothing; for `exchange.py`."""
        self._check_writable()
        with self._lock:
            self._store.add(records)

    # ---- looking

    @property
    def index_kind(self) -> str:
        """How neighbors are found now: "exact", "binary", or on a server "hnsw"."""
        with self._lock:
            self._check_open()
            return self._store.index_kind

    def items(self) -> Iterator[Item]:
        """Gives all items ascending by id, some hundreds read at a time.

        What is deleted here in the meantime is not given any more; what is added, or changed by
        other processes, may show or not.
        """
        self._check_open()
        return self._store.items()

    def map(self) -> MemoryMap:
        """Lays the items out in two dimensions, by principal components of their vectors.

        Computed when called and never stored; one pass over the vectors. Its axes change with what
        the memory holds.

        Raises:
            VaultClosedError, VaultError: the vault is closed or cannot be read.
        """
        self._check_open()
        with self._lock:
            ids, rows = self._store.vectors()
            points, explained = project(rows)
            return MemoryMap(tuple(ids.tolist()), points, explained)

    def stats(self) -> MemoryStats:
        """Counts what there is. One pass over the vault."""
        self._check_open()
        store = self._store
        labels = Counter(item.label for item in store.items() if item.label is not None)
        return MemoryStats(
            items=store.count(),
            labels=dict(sorted(labels.items())),
            masks=store.count_dense(),
            bytes_on_disk=store.bytes_on_disk(),
            embedder_name=store.binding.name,
            embedder_sha256=store.binding.sha256,
            image_size=store.binding.side,
            format_version=FORMAT_VERSION,
            sealed=store.sealed,
            purge_pending=store.purge_pending,
            receipt_key=store.receipt_key(),
            migration=store.migration(),
        )

    def verify(self) -> VerifyReport:
        """Reads the whole vault and checks it: SQLite's own check, sizes, ids, numbers, model.

        Raises:
            VaultLockedError: another process is writing all the time.
        """
        self._check_open()
        problems = self._store.problems()
        if problems:
            return VerifyReport(ok=False, problems=tuple(problems), items=0, masks=0)
        items, masks = self._store.count(), self._store.count_dense()
        return VerifyReport(ok=True, problems=(), items=items, masks=masks)

    def __len__(self) -> int:
        self._check_open()
        return self._store.count()

    def __repr__(self) -> str:
        if self._closed:
            return f"VisualMemory({self.place!r}, closed)"
        name = self._store.binding.name
        return f"VisualMemory({self.place!r}, embedder={name!r}, read_only={self.read_only})"

    def __enter__(self: _Memory) -> _Memory:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _is_mask(masks: Any) -> bool:
    """Whether it is one mask and not one for each of several images."""
    try:
        return masks is not None and np.ndim(masks) == 2
    except ValueError as error:
        raise InputError(
            f"masks has rows of unequal length ({error}); wanted (H, W) class values"
        ) from error
