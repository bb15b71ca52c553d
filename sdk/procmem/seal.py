"""Where the key of a sealed vault is kept: a file of its own, or the operating system's keystore.

Used by `vault.py`. The key is never in the vault's folder. It has two places, so that a purge can
write the key of the next epoch beside the present one before the ledger changes, and destroy the
present one after: a crash in between leaves both, and the ledger says which of them opens it.

Whoever loses the key loses the vault. Whoever copies it keeps the power to read old copies of the
vault, deleted items included: do not back it up together with the vault.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path
from typing import Any, Protocol

from procmem.errors import MissingExtraError, VaultKeyError
from procmem.folder import path_of
from procmem.manifest import sync_folder

KEYSTORE = "keystore"
KEY_BYTES = 32

_MAGIC = b"PrMeSEAL"
_BLOCK_BYTES = 4096  # each place in a block of its own: a torn write spoils one of them
_PLACES = 2
_SERVICE = "procmem"


def new_key() -> bytes:
    """A random epoch key."""
    return secrets.token_bytes(KEY_BYTES)


def fingerprint(key: bytes) -> str:
    """32 hexadecimal digits that name a key and tell nothing else about it."""
    return hashlib.sha256(b"procmem epoch key" + key).hexdigest()[:32]


class KeyPlace(Protocol):
    """Two places for epoch keys of one vault."""

    def create(self, seal_id: str, key: bytes) -> None:
        """Keeps the first key of a new vault, durably.

        Raises:
            VaultKeyError: it cannot, or there is something already.
        """
        ...

    def keys(self, seal_id: str) -> list[bytes]:
        """The sound keys that are there.

        Raises:
            VaultKeyError: the place cannot be read, or belongs to another vault.
        """
        ...

    def put(self, seal_id: str, key: bytes, *, beside: bytes) -> None:
        """Keeps a second key, durably, in the place that `beside` is not in.

        Raises:
            VaultKeyError: it cannot; `beside` is still there.
        """
        ...

    def keep_only(self, seal_id: str, key: bytes) -> None:
        """Destroys the key beside this one, if there is any.

        Raises:
            VaultKeyError: it cannot.
        """
        ...


def key_place(key: str | os.PathLike[str]) -> KeyPlace:
    """What the argument `key` of a memory means.

    Args:
        key: "keystore", or the path of a key file.

    Raises:
        InputError: neither.
        MissingExtraError: "keystore" without the package keyring.
        VaultKeyError: "keystore", and the system has none.
    """
    if isinstance(key, str) and key == KEYSTORE:
        return Keystore()
    return KeyFile(path_of("key", key))


class KeyFile:
    """Keys in a file, mode 0600, that is written in place: what is destroyed is overwritten.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    def create(self, seal_id: str, key: bytes) -> None:
        """See `KeyPlace`."""
        content = _block(_MAGIC + bytes.fromhex(seal_id)) + _block(key) + bytes(_BLOCK_BYTES)
        # A file of its own, that nobody has open already and whose mode nobody has chosen.
        new = self.path.with_name(f"{self.path.name}.{secrets.token_hex(8)}.tmp")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        try:
            if os.path.lexists(self.path):
                raise FileExistsError
            try:
                with open(os.open(new, flags, 0o600), "wb") as file:  # noqa: PTH123  of a descriptor
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                new.rename(self.path)
            except BaseException:
                new.unlink(missing_ok=True)
                raise
            try:
                sync_folder(self.path.parent)
            except OSError:
                self.path.unlink(missing_ok=True)  # no vault has it yet, and the next try may
                raise
        except FileExistsError as error:
            raise VaultKeyError(
                f"{self.path} exists already, and a key file belongs to one vault; give another "
                "path, or the vault that it belongs to"
            ) from error
        except OSError as error:
            raise self._error(error, "made") from error

    def keys(self, seal_id: str) -> list[bytes]:
        """See `KeyPlace`."""
        return [key for key in self._read(seal_id) if key is not None]

    def put(self, seal_id: str, key: bytes, *, beside: bytes) -> None:
        """See `KeyPlace`."""
        self._write(1 - self._read(seal_id).index(beside), _block(key))

    def keep_only(self, seal_id: str, key: bytes) -> None:
        """See `KeyPlace`."""
        other = 1 - self._read(seal_id).index(key)
        # Not only a sound key: also what a crash left half zeroed.
        if any(self._blocks()[1 + other]):
            self._write(other, bytes(_BLOCK_BYTES))

    def _read(self, seal_id: str) -> list[bytes | None]:
        blocks = self._blocks()
        head = _content(blocks[0], len(_MAGIC) + 16) if len(blocks) == 1 + _PLACES else None
        if head is None or head[:8] != _MAGIC:
            raise VaultKeyError(
                f"{self.path} is no sound procmem key file; give the vault's own, or a copy of it"
            )
        if head[8:].hex() != seal_id:
            raise VaultKeyError(
                f"{self.path} belongs to another sealed vault; give this vault's own key file"
            )
        return [_content(block, KEY_BYTES) for block in blocks[1:]]

    def _blocks(self) -> list[bytes]:
        try:
            with self.path.open("rb") as file:
                data = file.read((1 + _PLACES) * _BLOCK_BYTES + 1)
        except FileNotFoundError as error:
            raise VaultKeyError(
                f"{self.path} is missing: without its key nobody can read a sealed vault; give "
                "the path of its key file"
            ) from error
        except OSError as error:
            raise self._error(error, "read") from error
        return [data[at : at + _BLOCK_BYTES] for at in range(0, len(data), _BLOCK_BYTES)]

    def _write(self, place: int, block: bytes) -> None:
        # Unbuffered: a buffer would try again when it is closed after an error, from where the
        # first try left off, and so run into the other key.
        try:
            descriptor = os.open(self.path, os.O_WRONLY | getattr(os, "O_BINARY", 0))
            with open(descriptor, "wb", buffering=0) as file:  # noqa: PTH123  of a descriptor
                file.seek((1 + place) * _BLOCK_BYTES)
                left = memoryview(block)
                while left:
                    left = left[file.write(left) :]
                os.fsync(file.fileno())
        except OSError as error:
            raise self._error(error, "written") from error

    def _error(self, error: OSError, what: str) -> VaultKeyError:
        return VaultKeyError(
            f"the key file {self.path} cannot be {what} ({error.strerror}); check its path and "
            "permissions"
        )


class Keystore:
    """Keys in the operating system's keystore, through the package keyring.

    Raises:
        MissingExtraError: keyring is not installed.
    """

    def __init__(self) -> None:
        try:
            import keyring
            import keyring.errors
        except ImportError as error:
            raise MissingExtraError(
                "key='keystore' needs keyring; install it with: pip install 'procmem[sealed]', "
                "or give the path of a key file"
            ) from error
        self._keyring: Any = keyring

    def create(self, seal_id: str, key: bytes) -> None:
        """See `KeyPlace`."""
        self._set(seal_id, 0, key)
        if self._read(seal_id)[0] != key:
            raise VaultKeyError(
                "the system's keystore did not keep the key; give the path of a key file instead"
            )

    def keys(self, seal_id: str) -> list[bytes]:
        """See `KeyPlace`."""
        return [key for key in self._read(seal_id) if key is not None]

    def put(self, seal_id: str, key: bytes, *, beside: bytes) -> None:
        """See `KeyPlace`."""
        self._set(seal_id, 1 - self._read(seal_id).index(beside), key)

    def keep_only(self, seal_id: str, key: bytes) -> None:
        """See `KeyPlace`."""
        kept = self._read(seal_id)
        other = 1 - kept.index(key)
        if kept[other] is not None:
            self._call("delete_password", _SERVICE, f"{seal_id}.{other}")

    def _read(self, seal_id: str) -> list[bytes | None]:
        names = (f"{seal_id}.{place}" for place in range(_PLACES))
        found = [self._call("get_password", _SERVICE, name) for name in names]
        try:
            return [None if text is None else bytes.fromhex(text) for text in found]
        except ValueError as error:
            raise VaultKeyError(
                "the system's keystore holds something else under this vault's name"
            ) from error

    def _set(self, seal_id: str, place: int, key: bytes) -> None:
        self._call("set_password", _SERVICE, f"{seal_id}.{place}", key.hex())

    def _call(self, name: str, *arguments: str) -> Any:
        try:
            return getattr(self._keyring, name)(*arguments)
        except self._keyring.errors.KeyringError as error:
            raise VaultKeyError(
                f"the system's keystore refused ({error}); unlock it, or give the path of a key "
                "file to a new vault"
            ) from error


def _block(content: bytes) -> bytes:
    """Content and its SHA-256, filled up to a block."""
    return (content + hashlib.sha256(content).digest()).ljust(_BLOCK_BYTES, b"\0")


def _content(block: bytes, size: int) -> bytes | None:
    """The content of a block, None if it is empty or damaged."""
    content = block[:size]
    return content if block == _block(content) else None
