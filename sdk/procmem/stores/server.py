"""A memory on a server, for many devices: rows there, arithmetic here.

Takes rows from a table (`table.py`), gives `memory.py` what `contract.py` asks of a store; what
only reads is in `server_reader.py`. A search that compares with all rows gives the answers of a
vault with these items, to the last bit, and one by the server's graph those of the rows that the
graph finds.

What does not hold here, and docs/shared-memories.md says so: a deletion is the server's. The rows
are gone from every answer when it returns, and their bytes when the server's vacuum, its logs and
its backups are through with them. Sealed, what was deleted has no key any more.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path

from procmem.errors import (
    VaultFormatError,
    VaultKeyError,
    VaultReadOnlyError,
    VaultServerError,
)
from procmem.folder import check_binding, check_new
from procmem.ledger import binding_from
from procmem.record import (
    Binding,
    Record,
    values_of,
)
from procmem.stores.sealing import Sealing
from procmem.stores.server_reader import MASKS_AT_ONCE, ServerReader
from procmem.stores.table import StoredItem, StoredMask, Table
from procmem.types import ErasureReport

LAYOUT_VERSION = 1
_FORMAT = "procmem memory"
_NUMBERS = ("cls_dim", "patch_dim", "side", "patch_size")
_NUMBER = re.compile(r"[0-9]{1,9}")
_SEAL_ID = re.compile(r"[0-9a-f]{32}")

_OUT_OF_REACH = ("the images themselves, and whatever other programs know of them",)
_OUT_OF_REACH_SEALED = (
    "the vector, which the server must see to search, as long as the server keeps it",
    "copies of the key file that were made before, and what its medium has set aside",
)


class ServerStore(ServerReader):
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
        # One that is no number stays a text, which no model has there.
        numbers = {name: int(head[name]) for name in _NUMBERS if _is(_NUMBER, head.get(name))}
        bound = binding_from({**head, **numbers}, table.place)
        check_binding(table.place, bound, binding)
        seal_id = head.get("seal")
        if seal_id is not None and not _is(_SEAL_ID, seal_id):
            raise VaultFormatError(
                f"{table.place} says that its seal is {seal_id!r:.40}, wanted 32 hexadecimal "
                "digits; restore it from a backup"
            )
        if (seal_id is None) != (key is None):
            raise VaultKeyError(
                f"{table.place} is not sealed; open it without a key"
                if seal_id is None
                else f"{table.place} is sealed; open it with its key file (key=, --vault-key)"
            )
        sealing = None
        if seal_id is not None and key is not None:
            sealing = Sealing(key, seal_id, bound, read_only=read_only)
        super().__init__(table, binding=bound, sealing=sealing, index=index)
        self._changing = threading.RLock()  # rows and keys, which change together
        if sealing is not None and not read_only:
            # Keys of items that a process did not come to add, or had deleted when it died.
            keyed = sealing.keys.ids()
            try:
                sealing.keys.destroy(keyed - self.held(keyed))
            except BaseException:
                sealing.keys.close()
                raise

    @property
    def purge_pending(self) -> bool:
        """Never: what is left to do is the server's."""
        return False

    # ---- keeping

    def add(self, records: Iterable[Record]) -> None:
        """All or none; the keys of a sealed memory first."""
        self.check_writable()
        rows = map(self._stored, records)
        if self._sealing is None:
            self._table.insert(rows)
            return
        keyed: set[int] = set()
        with self._changing:
            try:
                sealed = self._sealed_rows(self._sealing, rows, keyed)
                self._table.insert(map(self._sealing.checked, sealed))
            except BaseException:
                # Where the server cannot be asked, the next opening for writing does this, or the
                # next call that adds the same ids.
                with contextlib.suppress(VaultServerError, VaultFormatError):
                    self._sealing.keys.destroy(keyed - self.held(keyed))
                raise

    def _sealed_rows(
        self,
        sealing: Sealing,
        rows: Iterator[tuple[StoredItem, StoredMask | None]],
        keyed: set[int],
    ) -> Iterator[tuple[StoredItem, StoredMask | None]]:
        """Rows as the server may have them; notes in `keyed` which ids got a key.

        Raises:
            InputError: an id is in use or given twice.
        """
        while part := list(islice(rows, MASKS_AT_ONCE)):
            ids = [item.id for item, _ in part]
            known = [id_ for id_ in ids if id_ in sealing.keys]
            # The key of an item that is held must stay. A key may also outlive its row, where a
            # call failed and the server could not be asked, or another device deleted the row.
            check_new(Counter(ids), keyed.intersection(ids) | self.held(known))
            sealing.keys.destroy(known)
            keyed.update(ids)
            yield from sealing.seal(part)

    def _stored(self, record: Record) -> tuple[StoredItem, StoredMask | None]:
        """What the server keeps of a record, in clear; InputError if a value does not fit."""
        values, dense = values_of(record, self.binding)
        id_, _, label, source, added_seconds = values
        item = StoredItem(id_, record.vector, label, source, label is not None, added_seconds)
        return item, None if dense is None else StoredMask(*dense)

    def erase(self, ids: Sequence[int], *, receipt: bool) -> ErasureReport:  # noqa: ARG002  none here
        """Deleted on the server; then the keys. No receipt: nobody could vouch for the server."""
        self.check_writable()
        with self._changing:
            if ids:
                try:
                    self._table.delete(ids)
                finally:  # also where nobody knows whether it was done
                    self._erasures += 1
                self._drop_bank()
            if self._sealing is not None:
                self._sealing.keys.destroy(ids)
        beyond = (*self._table.out_of_reach(), *_OUT_OF_REACH)
        if self._sealing is not None:
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


def _is(form: re.Pattern[str], text: str | None) -> bool:
    return text is not None and form.fullmatch(text) is not None


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
