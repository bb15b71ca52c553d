"""Real servers, started once, and what every test of the contracts opens on them."""

from __future__ import annotations

import itertools
import platform
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.postgres_server import postgres_server
from tests.sdk.stores.lite_server import LiteServer
from tests.sdk.stores.memory_table import MemoryTable, Rows
from tests.toy_embedder import EMBEDDER

from procmem.memory import VisualMemory
from procmem.stores.milvus import MilvusTable
from procmem.stores.postgres import PostgresTable
from procmem.stores.table import Table

_numbers = itertools.count()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Any]:
    """See `postgres_server`."""
    with postgres_server() as server:
        yield server


def memory_address(server: Any, name: str | None = None) -> str:
    """Of a memory of its own on the server."""
    name = name or f"memory_{next(_numbers)}"
    if isinstance(server, LiteServer):
        return server.address(name)
    return f"{server.get_uri()}&memory={name}"


@pytest.fixture(scope="session")
def milvus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiteServer]:
    """A running server."""
    server = LiteServer(tmp_path_factory.mktemp("milvus") / "data")
    yield server
    server.stop()


@pytest.fixture
def milvus_address(milvus: LiteServer) -> str:
    """Of a memory that nobody made yet."""
    return memory_address(milvus)


@pytest.fixture(params=["twin", "postgres", "milvus"])
def connect(request: pytest.FixtureRequest) -> Iterator[Callable[[], Table]]:
    """A function that opens one more table on the same memory, which nobody made yet."""
    tables: list[Table] = []
    rows = Rows()
    kind = request.param
    address = "" if kind == "twin" else memory_address(request.getfixturevalue(kind))

    def open_() -> Table:
        if kind == "postgres":
            tables.append(PostgresTable(address, read_only=False))
        elif kind == "milvus":
            # A busy machine keeps it waiting, and gRPC waits in between where it was sent away.
            tables.append(MilvusTable(address, timeout_seconds=60))
        else:
            tables.append(MemoryTable(rows))
        return tables[-1]

    yield open_
    for table in tables:
        table.close()


@pytest.fixture(
    params=["vault", "vault sealed", "postgres", "postgres sealed", "milvus", "milvus sealed"]
)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """Arguments of `VisualMemory` for a new memory on each kind of store."""
    kind, _, sealed = request.param.partition(" ")
    if kind == "vault":
        where: dict[str, Any] = {"path": tmp_path / "vault"}
    else:
        where = {"path": memory_address(request.getfixturevalue(kind))}
    return where | ({"key": tmp_path / "the.key"} if sealed else {})


@pytest.fixture
def memory(place: dict[str, Any]) -> Iterator[VisualMemory]:
    """A new memory on each kind of store, with the toy model."""
    with VisualMemory(embedder=EMBEDDER, **place) as opened:
        yield opened


@pytest.fixture
def twin(tmp_path: Path) -> Iterator[VisualMemory]:
    """A plain vault beside it."""
    with VisualMemory(tmp_path / "twin", embedder=EMBEDDER) as opened:
        yield opened


@dataclass(frozen=True)
class SmallDisk:
    """A file system with little room.

    Attributes:
        folder: where it is.
    """

    folder: Path

    def resize(self, megabytes: int) -> None:
        """Gives it so much room in all."""
        _mount(self.folder, megabytes, "remount").check_returncode()


@pytest.fixture
def small_disk() -> Iterator[SmallDisk]:
    """With room for two megabytes; skips where none may be mounted."""
    if platform.system() != "Linux":
        pytest.skip("mounts as Linux does")
    # Not below pytest's folder: PostgreSQL runs as another user when the tests run as root.
    folder = Path(tempfile.mkdtemp(prefix="procmem-small-"))
    try:
        if _mount(folder, 2).returncode:
            pytest.skip("may not mount a file system")
        try:
            yield SmallDisk(folder)
        finally:
            subprocess.run(["umount", str(folder)], check=True)
    finally:
        folder.rmdir()


def _mount(folder: Path, megabytes: int, *more: str) -> subprocess.CompletedProcess[bytes]:
    options = ",".join([f"size={megabytes}m", "mode=0777", *more])
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True, check=False)
