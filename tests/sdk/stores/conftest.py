"""A real PostgreSQL, started once, and the memories that every test of the contract opens."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.postgres_server import postgres_server
from tests.toy_embedder import EMBEDDER

from procmem.memory import VisualMemory

_numbers = itertools.count()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Any]:
    """See `postgres_server`."""
    with postgres_server() as server:
        yield server


def memory_address(server: Any, name: str | None = None) -> str:
    """Of a memory of its own on the server."""
    return f"{server.get_uri()}&memory={name or f'memory_{next(_numbers)}'}"


@pytest.fixture(params=["vault", "vault sealed", "postgres", "postgres sealed"])
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
