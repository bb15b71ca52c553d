"""What a server may not read: label, source, patches and mask, each item under a key of its own.

Between `server.py` and the key file (`item_keys.py`). The vector stays in clear, because the server
must compare it, and so do the id, the moment of adding, and whether there are a label and a mask.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from cryptography.exceptions import InvalidTag

from procmem.errors import InputError, VaultError, VaultFormatError
from procmem.record import Binding
from procmem.seal import KEYSTORE
from procmem.sealed import DENSE_NONCE, ITEM_NONCE, open_fields, seal_fields
from procmem.stores.item_keys import KEY_BYTES, ItemKeys
from procmem.stores.table import StoredItem, StoredMask


class Sealing:
    """Encrypts the rows of one memory and opens them again.

    Args:
        key: path of its key file.
        seal_id: of the memory.
        binding: its model, whose hash is authenticated with every row.
        read_only: as the memory.

    Attributes:
        keys: of its items.

    Raises:
        VaultKeyError, VaultLockedError: see `ItemKeys`.
        InputError: `key` is the system's keystore, which has no room for a key of each item.
    """

    def __init__(
        self, key: str | os.PathLike[str], seal_id: str, binding: Binding, *, read_only: bool
    ) -> None:
        self.keys = ItemKeys(_key_file(key), seal_id, read_only=read_only)
        self._model = binding.sha256.encode()

    @staticmethod
    def create(key: str | os.PathLike[str], seal_id: str) -> None:
        """Makes the key file of a new memory; see `ItemKeys.create`."""
        ItemKeys.create(_key_file(key), seal_id)

    def seal(
        self, rows: Sequence[tuple[StoredItem, StoredMask | None]]
    ) -> list[tuple[StoredItem, StoredMask | None]]:
        """New items as the server may have them; their keys are durable before this returns."""
        keys = {item.id: os.urandom(KEY_BYTES) for item, _ in rows}
        found = []
        for item, mask in rows:
            key, fields = keys[item.id], (item.label, item.source)
            sealed = seal_fields(key, ITEM_NONCE, fields, context=self._context(b"items", item.id))
            if mask is not None:
                parts, context = (mask.patches, mask.mask), self._context(b"dense", mask.id)
                text = seal_fields(key, DENSE_NONCE, parts, context=context, fill=False)
                mask = StoredMask(mask.id, text, b"")
            found.append((replace(item, label=None, source=None, sealed=sealed), mask))
        self.keys.put(keys)
        return found

    @staticmethod
    def checked(
        row: tuple[StoredItem, StoredMask | None],
    ) -> tuple[StoredItem, StoredMask | None]:
        """The same row; the last that looks at it before it leaves this device.

        Raises:
            VaultError: something of it is in clear.
        """
        item, mask = row
        clear = item.sealed is None or item.label is not None or item.source is not None
        if clear or (mask is not None and mask.mask):
            raise VaultError(
                f"item {item.id} would have reached the server unsealed, which is a fault of "
                "procmem; nothing was added: report it, and use a vault in the meantime"
            )
        return row

    def open_item(self, item: StoredItem) -> StoredItem:
        """An item in clear.

        Raises:
            VaultKeyError: it has no key here.
            VaultFormatError: it is not what was sealed.
        """
        label, source = self._open(item.id, item.sealed, b"items", ITEM_NONCE)
        return replace(item, label=label, source=source, sealed=None)

    def open_mask(self, mask: StoredMask) -> StoredMask:
        """A mask in clear; raises as `open_item` does."""
        patches, pixels = self._open(mask.id, mask.patches, b"dense", DENSE_NONCE)
        return StoredMask(mask.id, patches or b"", pixels or b"")

    def _open(
        self, id_: int, sealed: bytes | None, table: bytes, nonce: bytes
    ) -> list[bytes | None]:
        context = self._context(table, id_)
        for get in (self.keys.get, self.keys.get_anew):
            try:
                return open_fields(get(id_), nonce, sealed or b"", 2, context=context)
            except (InvalidTag, ValueError) as error:
                failed = error
        raise VaultFormatError(
            f"item {id_} on the server is not what was stored; restore it from a backup"
        ) from failed

    def _context(self, table: bytes, id_: int) -> bytes:
        return b"procmem server 1 " + table + b" " + id_.to_bytes(8, "big") + self._model


def _key_file(key: str | os.PathLike[str]) -> str | os.PathLike[str]:
    if key == KEYSTORE:
        raise InputError(
            "key is 'keystore', wanted the path of a key file: a memory on a server has a key for "
            "each item, which the system's keystore has no room for"
        )
    return key
