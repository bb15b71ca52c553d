"""What only Milvus can do wrong: no transactions, late requests, servers that go away or refuse."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import grpc
import numpy as np
import pytest
from pymilvus.grpc_gen import common_pb2, milvus_pb2, milvus_pb2_grpc
from tests.sdk.stores.lite_server import LiteServer
from tests.sdk.stores.memory_table import similarity
from tests.sdk.stores.samples import (
    HEAD,
    WIDTH,
    everything,
    ids_of,
    item,
    mask,
    query_of,
    values,
)

from procmem.errors import (
    InputError,
    MissingExtraError,
    VaultClosedError,
    VaultFormatError,
    VaultLockedError,
    VaultReadOnlyError,
    VaultServerError,
)
from procmem.stores.contract import EVERYTHING
from procmem.stores.milvus import MilvusTable
from procmem.stores.milvus.address import parse_address
from procmem.stores.milvus.client import MilvusConnection

ROOT = Path(__file__).parents[3]
SECRET = "pa:ss@wo/rd#1?"
QUOTED = "pa%3Ass%40wo%2Frd%231%3F"


@pytest.fixture
def connect(milvus_address):
    """A function that opens one more table on the same memory, which is made."""
    tables = []

    def open_(**options):
        tables.append(MilvusTable(milvus_address, **options))
        tables[-1].create(HEAD, width=WIDTH)
        return tables[-1]

    yield open_
    for table in tables:
        table.close()


def stored_rows(table):
    """Ids in the collections themselves, whether they count or not."""
    connection = table._connection
    return [
        sorted(row["id"] for row in connection.query(collection, "id > 0", ["id"]))
        for collection in (table._items, table._pieces)
    ]


# ---- addresses


@pytest.mark.parametrize(
    ("text", "parts", "place"),
    [
        ("milvus://db", ("db", 19530, None, "", "memory", False, "", ""), "milvus://db:19530"),
        (
            f"milvus://me:{QUOTED}@db.example:1/photos?memory=Family_2&secure=true",
            ("db.example", 1, None, "photos", "Family_2", True, "me", SECRET),
            "milvus://db.example:1/photos?memory=Family_2",
        ),
        ("MILVUS://[::1]:5/", ("::1", 5, None, "", "memory", False, "", ""), "milvus://[::1]:5"),
        (
            "milvus:///a%20b/c.db?memory=x",
            ("", 0, Path("/a b/c.db"), "", "x", False, "", ""),
            "milvus:///a b/c.db?memory=x",
        ),
    ],
)
def test_an_address_is_taken_apart(text, parts, place):
    found = parse_address(text)
    assert parts == (
        found.host, found.port, found.path, found.database,
        found.memory, found.secure, found.user, found.password,
    )  # fmt: skip
    assert found.place == place
    assert SECRET not in repr(found)
    assert "me" not in repr(found).replace("memory", "")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("postgresql://db", "begin with milvus://"),
        (f"me:{SECRET}@db", "begin with milvus://"),
        ("milvus:/db", "begin with milvus://"),
        ("milvus://", "ends in .db"),
        ("milvus:///", "ends in .db"),
        ("milvus:///a/vault", "ends in .db"),
        ("milvus:///a%00.db", "ends in .db"),
        ("milvus:///a.db?secure=true", "no connection"),
        (f"milvus://me:{QUOTED}@", "no host"),
        (f"milvus://me:{QUOTED}@:19530", "no host"),
        (f"milvus://me:{QUOTED}@db:port", "port"),
        (f"milvus://me:{QUOTED}@db:99999", "port"),
        (f"milvus://me:{QUOTED}@db:0", "port is 0"),
        (f"milvus://me:{QUOTED}@[::1", "host and port"),
        (f"milvus://me:{QUOTED}@d b", "host is 'd b'"),
        ("milvus://me@db", "user and password go together"),
        (f"milvus://:{QUOTED}@db", "user and password go together"),
        (f"milvus://me:{QUOTED}@db/a/b", "database is 'a/b'"),
        (f"milvus://me:{QUOTED}@db/a-b", "database is 'a-b'"),
        (f"milvus://me:{QUOTED}@db#x", "# part"),
        (f"milvus://me:{QUOTED}@db?memory", "name=value"),
        (f"milvus://me:{QUOTED}@db?memory=", "memory is ''"),
        (f"milvus://me:{QUOTED}@db?memory=2x", "memory is '2x'"),
        (f"milvus://me:{QUOTED}@db?memory=a%22b", "memory is 'a\"b'"),
        (f"milvus://me:{QUOTED}@db?memory=a&memory=b", "given twice"),
        (f"milvus://me:{QUOTED}@db?memori=a", "did you mean 'memory'"),
        (f"milvus://me:{QUOTED}@db?secure=yes", "secure"),
    ],
)
def test_an_address_that_is_none_is_refused_without_its_password(text, match):
    with pytest.raises(InputError) as caught:
        parse_address(text)
    assert match in str(caught.value)
    assert SECRET not in str(caught.value)
    assert QUOTED not in str(caught.value)


# ---- a writer that dies


class DiedError(BaseException):
    """Stands for the end of the process: nothing catches it, nothing is cleaned up."""


class Dying:
    """A connection whose process ends before or after its n-th change on the server."""

    def __init__(self, connection, moment):
        self._connection = connection
        self.left = moment

    def __getattr__(self, name):
        return getattr(self._connection, name)

    def insert(self, collection, rows):
        self._change(self._connection.insert, collection, rows)

    def delete(self, collection, keys):
        if keys:
            self._change(self._connection.delete, collection, keys)

    def delete_where(self, collection, where):
        self._change(self._connection.delete_where, collection, where)

    def _change(self, change, *arguments):
        if self.left == 0:
            raise DiedError
        change(*arguments)
        self.left -= 1
        if self.left == 0:
            raise DiedError


def dying(table, moment):
    connection = Dying(table._connection, moment)
    table._connection = table._journal._connection = table._reader._connection = connection
    return connection


@pytest.mark.parametrize("verb", ["insert", "delete"])
def test_a_writer_that_dies_at_any_step_leaves_all_or_nothing(connect, verb):
    patient = connect(lease_seconds=0.0, wait_seconds=60.0)
    patient.insert([(item(1), mask(1)), (item(2), None)])
    ended = {True: 0, False: 0}
    for moment in range(1, 30):
        before = (everything(patient), patient.masks(0, 9))
        victim = connect()
        connection = dying(victim, moment)
        try:
            if verb == "insert":
                victim.insert([(item(3), mask(3)), (item(4), None), (item(5), mask(5))])
            else:
                victim.delete([1, 2])
        except DiedError:
            pass
        else:
            assert connection.left > 0
            break
        # At once, before anybody has cleaned up:
        now = (everything(patient), patient.masks(0, 9))
        done = now != before
        ended[done] += 1
        wanted = {("insert", True): [1, 2, 3, 4, 5], ("delete", True): []}.get((verb, done), [1, 2])
        assert ids_of(patient) == wanted, f"step {moment}"
        assert [one.id for one in patient.masks(0, 9)] == [id_ for id_ in wanted if id_ % 2]
        assert patient.count() == len(wanted)
        # And afterwards nothing is left of what does not count.
        patient.insert([(item(9), None)])
        patient.delete([9])
        assert (everything(patient), patient.masks(0, 9)) == now
        pieces = 2 * sum(id_ % 2 for id_ in wanted)
        items, parts = stored_rows(patient)
        assert (items, len(parts)) == (wanted, pieces), f"step {moment}"
        if done and verb == "insert":
            patient.delete([3, 4, 5])
        elif done:
            patient.insert([(item(1), mask(1)), (item(2), None)])
    assert ended[True] >= 1
    assert ended[False] >= 3


WORKER = """
import sys
from procmem.stores.milvus import MilvusTable
from tests.sdk.stores.samples import item, mask
address, first = sys.argv[1], int(sys.argv[2])
table = MilvusTable(address)
assert table.head() is not None
print("ready", flush=True)
sys.stdin.readline()
"""


def start(script, *arguments):
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", WORKER + textwrap.dedent(script)]
        + [str(argument) for argument in arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(ROOT)])},
    )


def go(process):
    process.stdin.write("go\n")
    process.stdin.flush()


def lines_of(process):
    lines = process.stdout.read().splitlines()
    process.wait()
    process.stdin.close()
    process.stdout.close()
    return lines


def test_what_was_acknowledged_to_killed_processes_is_there(milvus_address, connect):
    """SIGKILL at random moments; batches of four, of which every second one is deleted again."""
    patient = connect(lease_seconds=0.2, wait_seconds=60.0)
    script = """
        for batch in range(first, first + 10_000, 4):
            ids = range(batch, batch + 4)
            print("+", batch, flush=True)
            table.insert((item(id_), mask(id_)) for id_ in ids)
            print("ok", flush=True)
            if batch % 8 == 1:
                print("-", batch, flush=True)
                table.delete(ids)
                print("ok", flush=True)
    """
    random = np.random.default_rng(5)
    held: set[int] = set()
    processes = [start(script, milvus_address, 1 + 10_000 * number) for number in range(2)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
        go(process)
        time.sleep(random.uniform(0.2, 0.6))
        process.send_signal(signal.SIGKILL)
        doubtful: set[int] = set()
        for line in lines_of(process):
            if line == "ok":
                held ^= doubtful
                doubtful = set()
            else:
                first = int(line.split()[1])
                doubtful = set(range(first, first + 4))
        for _ in range(2):  # at once, and when the next writer has cleaned up
            found = set(ids_of(patient))
            assert found in (held, held ^ doubtful)
            assert {one.id for one in patient.masks(0, 10**6)} == found
            patient.insert([])
        held = found
    assert len(held) > 4


def test_two_processes_that_write_lose_nothing_and_use_no_id_twice(milvus_address, connect):
    table = connect()
    script = """
        from procmem.errors import InputError
        for id_ in range(1, 7):
            own = 1_000 * first + id_
            table.insert([(item(own), None)])
            try:
                table.insert([(item(id_, label=str(first)), mask(id_))])
                print(id_, flush=True)
            except InputError:
                pass
            if id_ % 3 == 0:
                table.delete([own])
    """
    processes = [start(script, milvus_address, number) for number in (1, 2)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        go(process)
    winners = {}
    for number, process in enumerate(processes, 1):
        for line in lines_of(process):
            assert int(line) not in winners
            winners[int(line)] = str(number).encode()
    assert sorted(winners) == list(range(1, 7))
    kept = [1_000 * number + id_ for number in (1, 2) for id_ in range(1, 7) if id_ % 3]
    assert ids_of(table) == [*range(1, 7), *kept]
    assert {one.id: one.label for one in table.fetch(range(1, 7))} == winners
    assert len(table.masks(0, 99)) == 6


def test_a_writer_that_others_took_for_dead_fails_and_leaves_nothing(connect):
    slow, quick = connect(), connect(lease_seconds=0.0, wait_seconds=60.0)

    def standing_still():
        yield item(1, label="slow"), mask(1)
        quick.insert([(item(1, label="quick"), None), (item(2), None)])
        yield item(3), None

    with pytest.raises(VaultServerError, match="others while this process stood still") as caught:
        slow.insert(standing_still())
    assert "nothing was added" in str(caught.value)
    assert everything(slow) == [values(item(1, label="quick")), values(item(2))]
    slow.insert([(item(3), None)])
    assert ids_of(quick) == [1, 2, 3]
    assert stored_rows(slow) == [[1, 2, 3], []]


def test_a_live_writer_is_waited_for_and_not_for_ever(connect):
    first, second = connect(), connect(wait_seconds=0.2)

    def writing():
        yield item(1), None
        with pytest.raises(VaultLockedError, match="nothing was changed: try again"):
            second.insert([(item(2), None)])

    first.insert(writing())
    second.insert([(item(2), None)])
    assert ids_of(first) == [1, 2]


def test_rows_that_arrive_after_their_writer_failed_never_count(connect):
    table = connect(lease_seconds=0.0, wait_seconds=60.0)
    victim = connect()
    late = []
    connection = dying(victim, 100)
    insert = connection.insert

    def keep(collection, rows):
        if collection == victim._journal._collection:
            insert(collection, rows)
        else:
            late.append((collection, rows))
            if collection == victim._items:
                raise DiedError

    connection.insert = keep
    with pytest.raises(DiedError):
        victim.insert([(item(1, label="late"), mask(1)), (item(2), None)])
    table.insert([(item(1), None)])
    for collection, rows in late:
        table._connection.insert(collection, rows)
    assert everything(table) == [values(item(1))]
    assert (table.masks(0, 9), table.count(), table.held([1, 2])) == ([], 1, {1})
    found, _ = table.candidates(query_of(1), 9, EVERYTHING, exact=True)
    assert [values(one) for one in found] == [values(item(1))]
    # A deletion of the id reaches them too.
    table.delete([1])
    assert stored_rows(table) == [[2], []]


def test_a_bound_is_that_of_the_nearest_that_is_left_out(connect):
    table = connect()
    table.insert((item(id_), None) for id_ in range(1, 5))
    for count, left in ((3, 1), (4, 0), (5, 0)):
        found, bound = table.candidates(query_of(9), count, EVERYTHING, exact=True)
        assert len(found) == 4 - left
        if left:
            [other] = {1, 2, 3, 4} - {one.id for one in found}
            wanted = similarity(query_of(9), item(other))
            assert bound == pytest.approx(wanted, abs=table.error_bound())
        else:
            assert bound == -np.inf


def test_a_deletion_leaves_no_row_of_item_or_mask(connect):
    table = connect()
    table.insert((item(id_, source="\U0001f408" * 9_000), mask(id_)) for id_ in range(1, 5))
    table.delete([2, 3])
    items, pieces = stored_rows(table)
    assert items == [1, 4]
    assert set(pieces) == {1, 4}


def test_the_journal_does_not_grow(connect):
    table = connect()
    sizes = set()
    for id_ in range(1, 6):
        table.insert([(item(id_), None)])
        sizes.add(table._connection.count(table._log, "number >= 0"))
    table.delete([1, 2])
    sizes.add(table._connection.count(table._log, "number >= 0"))
    assert sizes == {2}  # the head and the newest entry


def test_rows_that_the_server_lost_are_missed_before_they_count(connect, monkeypatch):
    table = connect()
    insert = MilvusConnection.insert

    def losing(self, collection, rows):
        insert(self, collection, rows[:1])

    monkeypatch.setattr(MilvusConnection, "insert", losing)
    with pytest.raises(VaultServerError, match="1 rows where 2 were sent; nothing was added"):
        table.insert([(item(1), None), (item(2), None)])
    monkeypatch.undo()
    assert everything(table) == []
    table.insert([(item(1), None), (item(2), None)])
    assert stored_rows(table) == [[1, 2], []]


def test_more_ids_than_fit_one_request_are_deleted_at_once(connect, monkeypatch):
    monkeypatch.setattr("procmem.stores.milvus.journal._DOOMED_IDS", 3)
    monkeypatch.setattr("procmem.stores.milvus.table.KEYS_AT_ONCE", 4)
    table, reader = connect(), connect()
    table.insert((item(id_), mask(id_)) for id_ in range(1, 12))
    seen = []
    delete = MilvusConnection.delete

    def watched(self, collection, keys):
        if collection == table._items and self is table._connection:
            seen.append(ids_of(reader))
        delete(self, collection, keys)

    monkeypatch.setattr(MilvusConnection, "delete", watched)
    table.delete(range(2, 12))
    assert len(seen) >= 3
    assert all(ids == [1] for ids in seen)
    assert reader.count() == 1


# ---- what else may stand there


def test_a_foreign_collection_of_the_same_name_is_refused(milvus_address):
    table = MilvusTable(milvus_address)
    table._connection.make(table._log, {"key": "INT64", "vector": "FLOAT_VECTOR 4"})
    for call in (table.head, lambda: table.create(HEAD, width=WIDTH)):
        with pytest.raises(VaultFormatError, match=r"another program's.*use another memory="):
            call()
    table.close()


def test_a_newer_layout_is_refused(milvus_address, monkeypatch):
    table = MilvusTable(milvus_address)
    monkeypatch.setattr("procmem.stores.milvus.table.LAYOUT_VERSION", 2)
    table.create(HEAD, width=WIDTH)
    monkeypatch.undo()
    with pytest.raises(VaultFormatError, match="layout version 2, wanted 1; upgrade procmem"):
        table.head()
    table.close()


ENTRY = '{"step": 0, "counts": %s, "broken": %s, "doomed": %s}'


@pytest.mark.parametrize(
    "text",
    ["{nonsense", "{}", "[]", "7", "null", ENTRY % ('"x"', "[]", "0"),
     ENTRY % ("Infinity", "[]", "0"), ENTRY % ("1", "3", "0"), ENTRY % ("1", '["x or id"]', "0")],
)  # fmt: skip
def test_an_entry_that_makes_no_sense_is_told_with_a_way_out(connect, text):
    table = connect()
    table.insert([(item(1), None)])
    row = {"key": "entry.999.0", "kind": 1, "number": 999, "text": text, "vector": [1.0, 0.0]}
    table._connection.insert(table._log, [row])
    for call in (table.state, table.count, lambda: ids_of(table), lambda: table.delete([1])):
        with pytest.raises(VaultFormatError, match=r"journal is not .* restore it from a backup"):
            call()
    table._connection.delete(table._log, [row["key"]])
    assert ids_of(table) == [1]


@pytest.mark.parametrize(
    "text",
    ["{nonsense", "{}", "[]", "7", "null", '{"layout": 1}', '{"layout": "x"}',
     '{"layout": 1, "width": "x", "head": {}}', '{"layout": 1, "width": 48, "head": [1]}'],
)  # fmt: skip
def test_a_head_that_makes_no_sense_is_told_with_a_way_out(connect, text):
    table = connect()
    row = {"key": "head.0", "kind": 0, "number": -1, "text": text, "vector": [1.0, 0.0]}
    table._connection.insert(table._log, [row])
    with pytest.raises(VaultFormatError, match=r"journal is not .* restore it from a backup"):
        table.head()


@pytest.mark.parametrize("name", ["label", "source", "sealed"])
@pytest.mark.parametrize("text", ["=a", ">many"])
def test_a_text_that_makes_no_sense_is_told_with_a_way_out(connect, name, text):
    table = connect()
    table.insert([(item(1), None)])
    connection = table._connection
    [row] = connection.query(table._items, "id == 1", ["*"])
    connection.delete(table._items, [row["key"]])
    connection.insert(table._items, [{**row, name: text}])
    with pytest.raises(VaultFormatError, match=r"is not .* restore it from a backup|bytes on the"):
        table.fetch([1])


def test_collections_of_another_width_are_refused(milvus_address, connect):
    table = connect()
    table._connection._client.drop_collection(table._items)
    with pytest.raises(VaultFormatError, match="lost its collection"):
        MilvusTable(milvus_address).head()
    table._connection.make(
        table._items,
        {"key": "VARCHAR 64", "id": "INT64", "vector": "FLOAT_VECTOR 7"},
    )
    with pytest.raises(VaultFormatError, match="FLOAT_VECTOR 48"):
        MilvusTable(milvus_address).head()


def test_items_without_their_journal_are_not_taken_over(connect):
    table = connect()
    table.insert([(item(1), None)])
    table._connection._client.drop_collection(table._log)
    assert table.head() is None
    with pytest.raises(VaultFormatError, match="has lost its journal"):
        table.create(HEAD, width=WIDTH)


def test_a_vector_or_mask_that_something_else_changed_is_noticed(connect):
    table = connect()
    table.insert([(item(1), mask(1))])
    connection = table._connection
    [piece] = connection.query(table._pieces, 'part == "mask"', ["key"])
    connection.delete(table._pieces, [piece["key"]])
    with pytest.raises(VaultFormatError, match="mask of id 1 has 0 bytes on the server, 1024"):
        table.masks(0, 9)
    [row] = connection.query(table._items, "id == 1", ["*"])
    connection.delete(table._items, [row["key"]])
    connection.insert(table._items, [{**row, "vector": [0.1] * WIDTH}])
    with pytest.raises(VaultFormatError, match="vector of id 1 is not what was stored"):
        table.fetch([1])


@pytest.mark.parametrize("width", [1, 40_000])
def test_a_width_that_milvus_cannot_keep_is_refused(milvus_address, width):
    table = MilvusTable(milvus_address)
    with pytest.raises(InputError, match="wanted 2 to 32,768"):
        table.create(HEAD, width=width)
    table.close()


# ---- servers that go away or refuse


def test_a_server_that_goes_away_loses_nothing_acknowledged(tmp_path, capfd):
    server = LiteServer(tmp_path / "data")
    table = MilvusTable(server.address("m"), timeout_seconds=1.0)
    table.create(HEAD, width=WIDTH)
    table.insert([(item(1), mask(1)), (item(2), None)])

    def killing():
        yield from ((item(id_), None) for id_ in range(3, 1_100))
        server.kill()

    with pytest.raises(VaultServerError, match=r"does not answer.*nothing was added: try again"):
        table.insert(killing())
    with pytest.raises(VaultServerError, match="does not answer"):
        table.count()
    server.start()
    wanted = [values(item(1)), values(item(2))]
    assert (everything(table), table.masks(0, 9)) == (wanted, [mask(1)])
    table.insert((item(id_), None) for id_ in range(3, 6))
    assert ids_of(table) == [1, 2, 3, 4, 5]
    assert stored_rows(table)[0] == [1, 2, 3, 4, 5]
    table.close()
    server.stop()
    assert capfd.readouterr() == ("", "")  # errors are raised, not printed


@pytest.mark.parametrize("verb", ["insert", "delete"])
def test_an_answer_that_is_lost_is_looked_up(connect, monkeypatch, verb):
    """The entry is written, but its writer is not told so."""
    table = connect()
    table.insert([(item(1), None)])
    insert = MilvusConnection.insert

    def unanswered(self, collection, rows):
        insert(self, collection, rows)
        if rows and str(rows[0]["key"]).startswith("entry"):
            monkeypatch.undo()
            raise VaultServerError("the answer was lost")

    monkeypatch.setattr(MilvusConnection, "insert", unanswered)
    if verb == "insert":
        table.insert([(item(2), mask(2))])
        assert ids_of(table) == [1, 2]
    else:
        table.delete([1])
        assert stored_rows(table) == [[], []]


def test_where_no_server_is_an_error_says_so_in_time():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        port = taken.getsockname()[1]
        began = time.monotonic()
        with pytest.raises(VaultServerError, match=r"does not answer within 0\.5 seconds; check"):
            MilvusTable(f"milvus://127.0.0.1:{port}", timeout_seconds=0.5)
        assert time.monotonic() - began < 30


class Refusing(milvus_pb2_grpc.MilvusServiceServicer):
    """A server that knows no password, or is old."""

    version = ""

    def __init__(self):
        self.peers = []

    def Connect(self, request, context):
        self.peers.append(context.peer())
        if not self.version:
            context.abort(
                grpc.StatusCode.UNAUTHENTICATED,
                f"auth check failure, please check {request.client_info.user} {SECRET}",
            )
        return milvus_pb2.ConnectResponse(
            status=common_pb2.Status(),
            server_info=common_pb2.ServerInfo(build_tags=self.version),
        )

    def GetVersion(self, request, context):
        del request, context
        return milvus_pb2.GetVersionResponse(status=common_pb2.Status(), version=self.version)


@pytest.fixture
def refusing():
    server = grpc.server(ThreadPoolExecutor(max_workers=1))
    servicer = Refusing()
    milvus_pb2_grpc.add_MilvusServiceServicer_to_server(servicer, server)
    servicer.port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield servicer
    server.stop(grace=None).wait()


def test_a_wrong_password_is_said_and_not_shown(refusing, capfd):
    with pytest.raises(VaultServerError, match="refuses user or password; check both") as caught:
        MilvusTable(f"milvus://me:{QUOTED}@127.0.0.1:{refusing.port}", timeout_seconds=5)
    shown = str(caught.value) + repr(caught.value) + "".join(capfd.readouterr())
    assert SECRET not in shown


def test_connections_share_nothing_that_a_server_could_end_for_all(refusing):
    refusing.version = "v2.5.0"
    connections = [
        MilvusConnection(
            parse_address(f"milvus://127.0.0.1:{refusing.port}"),
            read_only=False,
            timeout_seconds=5,
        )
        for _ in range(2)
    ]
    assert len(set(refusing.peers)) == 2  # ports on this side
    for connection in connections:
        connection.close()


@pytest.mark.parametrize("version", ["v2.4.17", "2.3.0", "1.1"])
def test_an_old_server_is_refused(refusing, version):
    refusing.version = version
    with pytest.raises(VaultServerError, match=f"is Milvus {version}, wanted 2.5 or later"):
        MilvusTable(f"milvus://127.0.0.1:{refusing.port}", timeout_seconds=5)


def test_after_closing_it_says_so(connect):
    table = connect()
    table.close()
    for call in (table.count, table.head, lambda: table.insert([(item(1), None)])):
        with pytest.raises(VaultClosedError, match="is closed; open it again"):
            call()


# ---- files of milvus-lite


def test_a_disk_that_is_full_is_told_and_loses_nothing(small_disk, capfd):
    rows = [(item(id_), None) for id_ in range(1, 20_001)]
    with closing(MilvusTable(f"milvus://{small_disk.folder}/items.db")) as table:
        table.create(HEAD, width=WIDTH)
        table.insert(rows[:100])
        with pytest.raises(VaultServerError, match="has no room on its disk; make some there"):
            table.insert(rows[100:])
        assert table.count() == 100
        small_disk.resize(200)
        table.insert(rows[100:300])
        table.delete([1])
        assert table.held(range(1, 400)) == set(range(2, 301))
    with closing(MilvusTable(f"milvus://{small_disk.folder}/items.db")) as table:
        assert table.head() == HEAD
        assert table.count() == 299
    capfd.readouterr()  # milvus-lite prints what happened


@pytest.fixture
def file(tmp_path):
    return tmp_path / "shared memory.db"


def test_a_file_keeps_what_was_acknowledged_and_serves_one_at_a_time(file):
    address = f"milvus://{str(file).replace(' ', '%20')}?memory=m"
    table = MilvusTable(address)
    table.create(HEAD, width=WIDTH)
    table.insert([(item(1), mask(1))])
    assert table.bytes_on_disk() > 4 * WIDTH
    assert stat.S_IMODE(file.stat().st_mode) == 0o700
    with pytest.raises(VaultLockedError, match="open in another process or object; close it"):
        MilvusTable(address)
    table.close()
    again = MilvusTable(address)
    assert again.head() == HEAD
    assert (everything(again), again.masks(0, 9)) == ([values(item(1))], [mask(1)])
    again.close()


def test_a_file_that_cannot_be_is_refused(tmp_path):
    with pytest.raises(VaultFormatError, match="there is no file"):
        MilvusTable(f"milvus://{tmp_path}/none.db", read_only=True)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(VaultReadOnlyError, match="no folder"):
        MilvusTable(f"milvus://{tmp_path}/none/a.db")
    (tmp_path / "old.db").write_bytes(b"SQLite format 3\0")
    with pytest.raises(VaultFormatError, match="of an older milvus-lite or of another program"):
        MilvusTable(f"milvus://{tmp_path}/old.db")
    assert (tmp_path / "old.db").read_bytes() == b"SQLite format 3\0"


WHOLE_PATH = """
import os, pathlib, sys
from procmem.stores.milvus import MilvusTable
from procmem.stores.contract import EVERYTHING
from tests.sdk.stores.samples import HEAD, WIDTH, item, mask, query_of
table = MilvusTable(f"milvus://{sys.argv[1]}")
table.create(HEAD, width=WIDTH)
table.insert([(item(1), mask(1)), (item(2), None)])
table.candidates(query_of(1), 2, EVERYTHING, exact=True)
table.delete([1])
inodes = {str(fd.readlink())[8:-1] for fd in pathlib.Path("/proc/self/fd").iterdir()
          if os.path.islink(fd) and str(fd.readlink()).startswith("socket:")}
for kind in ("tcp", "tcp6", "udp", "udp6"):
    for line in pathlib.Path(f"/proc/self/net/{kind}").read_text().splitlines()[1:]:
        if line.split()[9] in inodes:
            print(kind, line)
table.close()
"""


@pytest.mark.skipif(not Path("/proc/self/net/tcp").exists(), reason="needs Linux's /proc")
def test_a_file_is_served_through_no_port_and_nothing_is_written_elsewhere(tmp_path):
    folders = [tmp_path / name for name in ("home", "work", "tmp")]
    for folder in folders:
        folder.mkdir()
    ended = subprocess.run(
        [sys.executable, "-c", WHOLE_PATH, str(tmp_path / "a.db")],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join([*sys.path, str(ROOT)]),
            "HOME": str(folders[0]),
            "TMPDIR": str(folders[2]),
        },
        cwd=folders[1],
        capture_output=True,
        text=True,
    )
    assert (ended.stdout, ended.stderr, ended.returncode) == ("", "", 0)
    assert [path for folder in folders for path in folder.iterdir()] == []


# ---- without the packages


def test_without_pymilvus_the_command_that_installs_it_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'procmem\[milvus\]'"):
        MilvusTable("milvus://db")


def test_without_milvus_lite_a_file_says_how_to_get_it(monkeypatch, file):
    monkeypatch.setitem(sys.modules, "milvus_lite", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'procmem\[milvus\]' milvus-lite"):
        MilvusTable(f"milvus://{str(file).replace(' ', '%20')}")
    assert not file.exists()


def test_the_module_is_imported_without_its_client():
    script = (
        "import sys, procmem.stores.milvus; "
        "print(sorted({'pymilvus', 'grpc', 'pandas', 'milvus_lite'} & sys.modules.keys()))"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ended.stdout == "[]\n"
