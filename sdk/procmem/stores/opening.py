"""From a path or an address to the store that it names.

Takes what people give to `VisualMemory`, gives `opening.py` something that can be asked whether a
memory is there before one is made.

    "photos.vault", Path("photos.vault")            a vault, a folder of this device
    "postgresql://user@host/database?memory=NAME"   PostgreSQL with pgvector, extra `postgres`
    "milvus://host:19530?memory=NAME"               Milvus, extra `milvus`
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from procmem.errors import InputError
from procmem.folder import holds_vault, path_of
from procmem.index import IndexKind
from procmem.record import Binding
from procmem.stores.address import scheme_of
from procmem.stores.contract import Store
from procmem.stores.local import LocalStore
from procmem.stores.table import Table


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """How a store is to be opened; the arguments of `VisualMemory` of the same names.

    Attributes:
        read_only: write nothing.
        key: of a sealed memory.
        index: how neighbors are found.
        purge_limit: with more items left, a deletion from a vault defers the purge.
    """

    read_only: bool
    key: str | os.PathLike[str] | None
    index: IndexKind
    purge_limit: int


class Found(Protocol):
    """A place that a memory may be at."""

    @property
    def place(self) -> str:
        """The folder, absolute, or the address without its password."""
        ...

    def exists(self) -> bool:
        """Whether there is one.

        Raises:
            VaultError: something else is there, or nobody can tell.
        """
        ...

    def open(self, binding: Binding | None) -> Store:
        """Opens it, or makes it if there is none.

        Args:
            binding: the model of a new memory, which one that is there must be bound to; None
                takes whatever that is bound to, and makes none.

        Raises:
            VaultError, EmbedderMismatchError, MissingExtraError: see `VisualMemory`.
        """
        ...

    def close(self) -> None:
        """Ends what `exists` began, if it was not opened."""


@dataclass(frozen=True, slots=True)
class _Folder:
    """A vault of this device."""

    path: Path
    options: StoreOptions

    @property
    def place(self) -> str:
        return str(self.path.absolute())

    def exists(self) -> bool:
        return holds_vault(self.path.absolute())

    def open(self, binding: Binding | None) -> Store:
        options = self.options
        return LocalStore(
            self.path,
            binding=binding,
            read_only=options.read_only,
            key=options.key,
            index=options.index,
            purge_limit=options.purge_limit,
        )

    def close(self) -> None:
        pass


class _Server:
    """A memory on a server. Connects when it is first asked."""

    def __init__(
        self, connect: Callable[[], Table], options: StoreOptions, index: Literal["auto", "exact"]
    ) -> None:
        self._connect, self._options, self._index = connect, options, index
        self._table: Table | None = None

    def _connected(self) -> Table:
        if self._table is None:
            self._table = self._connect()
        return self._table

    @property
    def place(self) -> str:
        return self._connected().place

    def exists(self) -> bool:
        return self._connected().head() is not None

    def open(self, binding: Binding | None) -> Store:
        from procmem.stores.server import ServerStore

        options = self._options
        return ServerStore(
            self._connected(),
            binding=binding,
            read_only=options.read_only,
            key=options.key,
            index=self._index,
        )

    def close(self) -> None:
        if self._table is not None:
            self._table.close()


def find_store(path: str | os.PathLike[str], options: StoreOptions) -> Found:
    """The place that a path or address names; nothing is opened yet.

    Raises:
        InputError: no path, an address of an unknown kind, or an index that no server has.
    """
    scheme = scheme_of(path)
    if scheme is None:
        return _Folder(path_of("path", path), options)
    if scheme not in _SERVERS:
        raise InputError(
            f"{scheme}:// begins no address of a memory; give a folder, or an address that "
            f"begins with {' or '.join(f'{name}://' for name in _SERVERS)}"
        )
    if options.index not in ("auto", "exact"):
        raise InputError(
            f"index is {options.index!r}, which vaults have; on a server it is 'auto' or 'exact'"
        )
    connect, address = _SERVERS[scheme], os.fspath(path)
    return _Server(
        lambda: connect(address, options.read_only),
        options,
        "exact" if options.index == "exact" else "auto",
    )


def _postgres(address: str, read_only: bool) -> Table:
    from procmem.stores.postgres import PostgresTable

    return PostgresTable(address, read_only=read_only)


def _milvus(address: str, read_only: bool) -> Table:
    from procmem.stores.milvus import MilvusTable

    return MilvusTable(address, read_only=read_only)


_SERVERS: dict[str, Callable[[str, bool], Table]] = {
    "postgresql": _postgres,
    "postgres": _postgres,
    "milvus": _milvus,
}
