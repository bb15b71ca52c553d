"""A memory on a server, for many devices: rows there, arithmetic here.

Takes rows from a table (`table.py`), gives `memory.py` what `contract.py` asks of a store. The
server chooses candidates; which of them are nearest, and in which order, is computed here by the
kernel that a vault uses, from the same bits. So a search that compares with all rows gives the
answers of a vault with these items, to the last bit, and one by the server's graph those of the
rows that the graph finds.

What does not hold here, and docs/shared-memories.md says so: a deletion is the server's. The rows
are gone from every answer when it returns, and their bytes when the server's vacuum, its logs and
its backups are through with them. Sealed, what was deleted has no key any more.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from procmem.dense import DenseBank, gather_bank
from procmem.errors import (
    VaultClosedError,
    VaultError,
    VaultFormatError,
    VaultKeyError,
    VaultReadOnlyError,
    VaultServerError,
)
from procmem.folder import check_binding
from procmem.index import CALIBRATION_ITEMS, LEAST_ITEMS, Index
from procmem.ledger import binding_from
from procmem.record import (
    Binding,
    Item,
    Record,
    decode_text,
    dense_fits,
    dense_of,
    values_of,
)
from procmem.stores.contract import EVERYTHING, LeftOut, Where
from procmem.stores.sealing import Sealing
from procmem.stores.table import StoredItem, StoredMask, Table, batches
from procmem.types import ErasureReport, MigrationStatus, Neighbor

LAYOUT_VERSION = 1
_FORMAT = "procmem memory"

_ROWS_AT_ONCE = 1_000
_MASKS_AT_ONCE = 50  # of some hundred kilobytes
_SPARE = 16  # candidates beyond those wanted, which mostly settles what the server's rounding may

_OUT_OF_REACH = ("the images themselves, and whatever other programs know of them",)
_OUT_OF_REACH_SEALED = (
    "the vector, which the server must see to search, as long as the server keeps it",
    "copies of the key file that were made before, and what its medium has set aside",
)


class ServerStore:
    """See `procmem.stores.contract.Store`.

    Args:
        table: on the server.
        binding: the model of a new memory, which one that is there must be bound to; None takes
            whatever that is bound to, and makes none.
        read_only: write nothing.
        key: path of the key file of a sealed memory, made with a new one; None for a plain one.
        index: "exact" compares with all rows; "auto" asks the server's graph from 50,000 items on.

    Raises:
        VaultFormatError: no memory there and none is to be made; or another format.
        VaultKeyError: sealed and the key is missing or another one's, or it is not sealed.
        VaultServerError: the server cannot be reached, or refuses.
        EmbedderMismatchError: bound to another model.
    """

    def __init__(
        self,
        table: Table,
        *,
        binding: Binding | None,
        read_only: bool,
        key: str | os.PathLike[str] | None,
        index: str,
    ) -> None:
        self._table = table
        self._index = index
        self._sealing: Sealing | None = None
        self._bank: DenseBank | None = None
        self._bank_state = -1
        self._closed = False
        self.read_only = read_only
        head = table.head()
        if head is None:
            if read_only or binding is None:
                raise VaultFormatError(
                    f"there is no memory at {table.place}; check the address, or open it for "
                    "writing with a model to make one"
                )
            head = _created(table, binding, key)
        if (head.get("format"), head.get("version")) != (_FORMAT, str(LAYOUT_VERSION)):
            raise VaultFormatError(
                f"{table.place} holds {head.get('format', 'something else')!r:.40} of version "
                f"{head.get('version')!r:.20}, this procmem reads {_FORMAT!r} of version "
                f"{LAYOUT_VERSION}; upgrade procmem, or give another address"
            )
        numbers = ("cls_dim", "patch_dim", "side", "patch_size")
        meta = {name: int(head[name]) if name in numbers else head[name] for name in head}
        self.binding = binding_from(meta, table.place)
        check_binding(table.place, self.binding, binding)
        seal_id = head.get("seal")
        if (seal_id is None) != (key is None):
            raise VaultKeyError(
                f"{table.place} is not sealed; open it without a key"
                if seal_id is None
                else f"{table.place} is sealed; open it with its key file (key=, --vault-key)"
            )
        if seal_id is not None and key is not None:
            self._sealing = Sealing(key, seal_id, self.binding, read_only=read_only)
            if not read_only:
                # Keys of items that a process did not come to add, or had deleted when it died.
                keyed = self._sealing.keys.ids()
                try:
                    self._sealing.keys.destroy(keyed - self.held(keyed))
                except BaseException:
                    self._sealing.keys.close()
                    raise

    @property
    def place(self) -> str:
        """See `Store`, as for everything below."""
        return self._table.place

    @property
    def sealed(self) -> bool:
        """True if labels, sources, patches and masks are encrypted."""
        return self._sealing is not None

    @property
    def purge_pending(self) -> bool:
        """Never: what is left to do is the server's."""
        return False

    @property
    def index_kind(self) -> str:
        """Whether all rows are compared with, "exact", or the server's graph is asked, "hnsw"."""
        return "exact" if self._is_exact() else "hnsw"

    def _is_exact(self) -> bool:
        if self._index == "exact" or not self._table.has_graph:
            return True
        return self.count() < LEAST_ITEMS

    # ---- keeping

    def add(self, records: Iterable[Record]) -> None:
        """All or none; the keys of a sealed memory first."""
        self.check_writable()
        if self._sealing is None:
            self._table.insert(map(self._stored, records))
            return
        sealing, keyed = self._sealing, set[int]()

        def sealed_rows() -> Iterator[tuple[StoredItem, StoredMask | None]]:
            rest = map(self._stored, records)
            while rows := list(islice(rest, _MASKS_AT_ONCE)):
                # An id that is in use has a key, which must stay; the server refuses such a row.
                ids = [item.id for item, _ in rows]
                refused = [id_ in sealing.keys or id_ in ids[:at] for at, id_ in enumerate(ids)]
                fresh = [row for row, no in zip(rows, refused, strict=True) if not no]
                keyed.update(item.id for item, _ in fresh)
                sealed = iter(sealing.seal(fresh))
                yield from (
                    row if no else next(sealed) for row, no in zip(rows, refused, strict=True)
                )

        try:
            self._table.insert(sealed_rows())
        except BaseException:
            # Where the server cannot be asked, the next opening for writing does this.
            with contextlib.suppress(VaultServerError):
                sealing.keys.destroy(keyed - self.held(keyed))
            raise

    def _stored(self, record: Record) -> tuple[StoredItem, StoredMask | None]:
        """What the server keeps of a record, in clear; InputError if a value does not fit."""
        values, dense = values_of(record, self.binding)
        id_, _, label, source, added_seconds = values
        item = StoredItem(id_, record.vector, label, source, label is not None, added_seconds)
        return item, None if dense is None else StoredMask(*dense)

    def erase(self, ids: Sequence[int], *, receipt: bool) -> ErasureReport:  # noqa: ARG002  none here
        """Deleted on the server; then the keys. No receipt: nobody could vouch for the server."""
        self.check_writable()
        if ids:
            self._table.delete(ids)
            self._drop_bank()
        beyond = (*self._table.out_of_reach(), *_OUT_OF_REACH)
        if self._sealing is not None:
            self._sealing.keys.destroy(ids)
            beyond = (*_OUT_OF_REACH_SEALED, *_OUT_OF_REACH)
        return ErasureReport(
            erased_ids=tuple(ids),
            remaining=self.count(),
            purged=False,
            files_scanned=(),
            windows_checked=0,
            windows_found=0,
            out_of_reach=beyond,
            on_server=True,
        )

    def held(self, ids: Iterable[int]) -> set[int]:
        """Those that are in use."""
        return {id_ for part in batches(ids, _ROWS_AT_ONCE) for id_ in self._table.held(part)}

    def ids(self, *, dense: bool = False) -> list[int]:
        """Ascending. Cost: reads all rows."""
        return [mask.id for mask in self._masks()] if dense else [item.id for item in self._walk()]

    def items(self, ids: Iterable[int] | None = None) -> Iterator[Item]:
        """Ascending by id, some hundreds at a time."""
        if ids is None:
            yield from map(self._item, self._walk())
            return
        for part in batches(sorted(set(ids)), _ROWS_AT_ONCE):
            yield from map(self._item, sorted(self._table.fetch(part), key=lambda one: one.id))

    def erasable(self, ids: Iterable[int] | None = None) -> Iterator[Item]:
        """All items: no migration leaves anything on a server."""
        return self.items(ids)

    def records(self, ids: Iterable[int]) -> Iterator[Record]:
        """In the order of `ids`."""
        for part in batches(ids, _MASKS_AT_ONCE):
            items = {one.id: one for one in self._table.fetch(part)}
            masks = {one.id: one for one in self._table.fetch_masks(part)}
            for id_ in part:
                if id_ not in items:
                    continue
                record = Record(self._item(items[id_]), items[id_].vector)
                if id_ in masks:
                    patches, mask = self._dense(masks[id_])
                    record = replace(record, patches=patches, mask=mask)
                yield record

    def count(self) -> int:
        """Of items."""
        self._check_open()
        return self._table.count()

    def count_dense(self) -> int:
        """Of masks."""
        return self._table.count(dense=True)

    def state(self) -> int:
        """Another one after every change."""
        self._check_open()
        return self._table.state()

    def problems(self) -> list[str]:
        """Reads all rows; what a server's own checks see is not seen here."""
        found: list[str] = []
        last, items, masked = 0, set[int](), 0
        for one in self._walk():
            if one.id <= last:
                found.append(f"item {one.id} stands out of order")
            if one.vector.shape != (self.binding.cls_dim,) or not np.isfinite(one.vector).all():
                found.append(f"the vector of item {one.id} is not one of its model")
            last = one.id
            items.add(one.id)
            try:
                self._item(one)
            except (VaultError, ValueError) as error:
                found.append(str(error))
        for mask in self._masks():
            masked += 1
            if mask.id not in items:
                found.append(f"the mask of item {mask.id} belongs to no item")
            else:
                try:
                    self._dense(mask)
                except VaultError as error:
                    found.append(str(error))
        counted = self._table.count(), self._table.count(dense=True)
        if counted != (len(items), masked):
            found.append(
                f"there are {len(items)} items and {masked} masks, the server counts {counted[0]} "
                f"and {counted[1]}"
            )
        return found

    def migration(self) -> MigrationStatus | None:
        """None: a memory on a server is not migrated."""
        return None

    def bytes_on_disk(self) -> int:
        """As the server says."""
        return self._table.bytes_on_disk()

    def receipt_key(self) -> str | None:
        """None: no receipt is signed for what a server does."""
        return None

    # ---- finding

    def nearest(
        self, queries: npt.NDArray[np.float32], k: int, where: Where = EVERYTHING
    ) -> list[tuple[Neighbor, ...]]:
        """Nearest first. Cost: a question to the server for each query."""
        self._check_open()
        exact = self._is_exact()
        return [self._nearest(query, k, where, exact) for query in queries]

    def _nearest(
        self, query: npt.NDArray[np.float32], k: int, where: Where, exact: bool
    ) -> tuple[Neighbor, ...]:
        count = k + _SPARE
        while True:
            items, bound = self._candidates(query, count, where, exact)
            ids, similarities = self._index_of(items).search(query, k)
            full = len(ids) == k
            if bound == -np.inf and (exact or full):
                break
            # What the server left out is farther than the last one that is taken, for certain.
            if full and (not exact or similarities[-1] > bound + self._table.error_bound()):
                break
            exact = exact or bound == -np.inf  # its graph has nothing more to say, its rows may
            count *= 4
        by_id = {one.id: one for one in items}
        found = [self._item(by_id[id_]) for id_ in ids.tolist()]
        return tuple(
            Neighbor(item.id, item.label, near, item.source)
            for item, near in zip(found, similarities.tolist(), strict=True)
        )

    def _candidates(
        self, query: npt.NDArray[np.float32], count: int, where: Where, exact: bool
    ) -> tuple[list[StoredItem], float]:
        if self._sealing is None or where.label is None:
            return self._table.candidates(query, count, where, exact=exact)
        # The server cannot read sealed labels.
        theirs = replace(where, label=None, labelled=True)
        items, bound = self._table.candidates(query, count, theirs, exact=exact)
        return [one for one in items if where.admits(self._item(one))], bound

    def similar(self, query: npt.NDArray[np.float32], least: float) -> list[Item]:
        """Ascending by id; always of all rows."""
        count = _ROWS_AT_ONCE
        while True:
            items, bound = self._table.candidates(query, count, EVERYTHING, exact=True)
            if bound + self._table.error_bound() < least:
                break
            count *= 4
        ids, similarities = self._index_of(items).search(query, max(1, len(items)))
        chosen = set(ids[similarities >= least].tolist())
        return [
            self._item(one) for one in sorted(items, key=lambda one: one.id) if one.id in chosen
        ]

    def left_out(self, k: int, where: Where) -> LeftOut:
        """Of at most 2,000. Cost: all vectors up to 50,000 items; above, 2,000 questions."""
        total = self.count()
        if total < LEAST_ITEMS:
            items = list(self._walk(where))
            index = self._index_of(items)
            asked, rows, similarities = index.others(k)
            labels = [self._item(one).label for one in items]
            return LeftOut(
                [labels[row] for row in asked.tolist()],
                [[labels[row] for row in own] for own in rows.tolist()],
                similarities,
                complete=len(items) == total,
            )
        sample = self._table.walk(0, CALIBRATION_ITEMS, where)
        queries = self._index_of(sample).units()
        found = []
        for one, query in zip(sample, queries, strict=True):
            near = self._nearest(query, k + 1, where, self._index == "exact")
            found.append([other for other in near if other.id != one.id][:k])
        width = min(map(len, found), default=0)
        values = [[other.similarity for other in others[:width]] for others in found]
        return LeftOut(
            [self._item(one).label for one in sample],
            [[other.label for other in others[:width]] for others in found],
            np.array(values, dtype=np.float32).reshape(len(found), width),
            complete=where == EVERYTHING,
        )

    def vectors(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float16]]:
        """Ascending by id. Cost: reads all rows."""
        index = self._index_of(list(self._walk()))
        return index.ids, index.rows

    def bank(self) -> DenseBank:
        """Of all masks, kept until the memory changes."""
        state = self.state()
        if self._bank is None or state != self._bank_state:
            self._drop_bank()
            self._bank = gather_bank(
                map(self._dense, self._masks()),
                patch=self.binding.patch_size,
                width=self.binding.patch_dim,
            )
            self._bank_state = state
        return self._bank

    # ---- ending

    def check_writable(self) -> None:
        """Raises unless it is open for writing."""
        self._check_open()
        if self.read_only:
            raise VaultReadOnlyError(
                f"{self.place} was opened with read_only=True; open it without, to change it"
            )

    def close(self) -> None:
        """Ends the connection; the keys leave working memory."""
        self._closed = True
        self._drop_bank()
        if self._sealing is not None:
            self._sealing.keys.close()
        self._table.close()

    # ---- rows

    def _check_open(self) -> None:
        if self._closed:
            raise VaultClosedError(f"the memory at {self.place} is closed; open it again")

    def _walk(self, where: Where = EVERYTHING) -> Iterator[StoredItem]:
        self._check_open()
        read = partial(self._table.walk, where=where)
        last = 0
        while part := read(last, _ROWS_AT_ONCE):
            yield from part
            last = part[-1].id

    def _masks(self) -> Iterator[StoredMask]:
        self._check_open()
        last = 0
        while part := self._table.masks(last, _MASKS_AT_ONCE):
            yield from part
            last = part[-1].id

    def _item(self, stored: StoredItem) -> Item:
        if self._sealing is not None:
            stored = self._sealing.open_item(stored)
        try:
            texts = [None if text is None else decode_text(text) for text in _texts(stored)]
        except UnicodeDecodeError as error:
            raise VaultFormatError(f"a text of item {stored.id} at {self.place} is none") from error
        return Item(stored.id, texts[0], texts[1], stored.added_seconds)

    def _dense(self, stored: StoredMask) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.uint8]]:
        if self._sealing is not None:
            stored = self._sealing.open_mask(stored)
        values = (stored.id, stored.patches, stored.mask)
        if not dense_fits(values, self.binding):
            raise VaultFormatError(
                f"patches or mask of item {stored.id} at {self.place} have another size than "
                f"{self.binding.name} gives them"
            )
        return dense_of(values, self.binding)

    def _index_of(self, items: Sequence[StoredItem]) -> Index:
        """These rows as a vault would search them."""
        rows = [one.vector for one in items]
        nothing = np.empty((0, self.binding.cls_dim), dtype=np.float16)
        ids = np.array([one.id for one in items], dtype=np.int64)
        return Index(ids, np.stack(rows) if rows else nothing, "exact")

    def _drop_bank(self) -> None:
        if self._bank is not None:
            self._bank.clear()
        self._bank = None


def _texts(stored: StoredItem) -> tuple[bytes | None, bytes | None]:
    return stored.label, stored.source


def _created(
    table: Table, binding: Binding, key: str | os.PathLike[str] | None
) -> Mapping[str, str]:
    """Makes a memory, sealed if there is a key, and says what then stands on the server."""
    head = {"format": _FORMAT, "version": str(LAYOUT_VERSION)}
    head |= {name: str(value) for name, value in asdict(binding).items()}
    if key is not None:
        head["seal"] = secrets.token_hex(16)
        Sealing.create(key, head["seal"])
    try:
        table.create(head, width=binding.cls_dim)
    finally:
        # Where the server refused, or another process was as quick, the key file opens nothing.
        found = table.head() or {}
        if key is not None and found.get("seal") != head["seal"]:
            Path(key).unlink()
    return found
