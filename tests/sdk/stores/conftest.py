"""One server for all tests of this folder, and an empty memory on it for each."""

from __future__ import annotations

from itertools import count

import pytest
from tests.sdk.stores.lite_server import LiteServer
from tests.sdk.stores.memory_table import MemoryTable, Rows

from procmem.stores.milvus import MilvusTable

_numbers = count()


@pytest.fixture(scope="session")
def milvus_server(tmp_path_factory):
    server = LiteServer(tmp_path_factory.mktemp("milvus") / "data")
    yield server
    server.stop()


@pytest.fixture
def milvus_address(milvus_server):
    """Of a memory that nobody made yet."""
    return milvus_server.address(f"m{next(_numbers)}")


@pytest.fixture(params=["memory", "milvus"])
def connect(request):
    """A function that opens one more table on the same memory, which nobody made yet."""
    tables = []
    rows = Rows()

    def open_():
        if request.param == "memory":
            tables.append(MemoryTable(rows))
        else:
            tables.append(MilvusTable(request.getfixturevalue("milvus_address")))
        return tables[-1]

    yield open_
    for table in tables:
        table.close()
