"""The vault's promises: durability, one writer, many readers, and clear refusals."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest
from tests.stress.kill import run_kills

from procmem.errors import (
    EmbedderMismatchError,
    InputError,
    ItemNotFoundError,
    VaultClosedError,
    VaultError,
    VaultFormatError,
    VaultFullError,
    VaultLockedError,
    VaultReadOnlyError,
)
from procmem.folder import TEMPORARY
from procmem.ledger import write_copy
from procmem.lock import shred
from procmem.record import Binding, Item, Record
from procmem.rows import DamagedRowError
from procmem.survey import survey
from procmem.vault import Vault

BINDING = Binding("ab" * 32, "toy", cls_dim=48, patch_dim=12, side=32, patch_size=8)
OTHER = Binding("cd" * 32, "other", cls_dim=48, patch_dim=12, side=32, patch_size=8)

# What the processes below need to make records, each a function of its id.
PRELUDE = """
import sys
import numpy as np
from procmem.record import Binding, Item, Record
from procmem.vault import Vault
BINDING = Binding("ab" * 32, "toy", cls_dim=48, patch_dim=12, side=32, patch_size=8)
def record(id_):
    vector = np.random.default_rng(id_).standard_normal(48).astype(np.float16)
    return Record(Item(id_, f"label {id_}", f"/photos/{id_}.jpg", 5), vector)
"""


def record(id_, *, label="cat", source=None, dense=False):
    random_ = np.random.default_rng(id_)
    vector = random_.standard_normal(48).astype(np.float16)
    patches = random_.integers(-127, 128, (16, 12)).astype(np.int8) if dense else None
    mask = random_.integers(0, 3, (32, 32)).astype(np.uint8) if dense else None
    return Record(Item(id_, label, source, 1_700_000_000), vector, patches, mask)


def start(script, *arguments):
    """Runs a script in another process, line by line connected to the test."""
    return subprocess.Popen(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(script), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def stop(process):
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


@pytest.fixture
def folder(tmp_path):
    """A closed vault of ten items, four of them with a mask."""
    vault = Vault(tmp_path / "v", binding=BINDING)
    vault.add([record(id_, dense=id_ % 3 == 0, source=f"/p/{id_}.jpg") for id_ in range(1, 13)])
    vault.close()
    return tmp_path / "v"


@pytest.fixture
def vault(folder):
    vault = Vault(folder)
    yield vault
    vault.close()


def ids_of(vault):
    return [item.id for item in vault.items()]


# ---- what is stored


def test_everything_comes_back_as_it_went_in(folder):
    with_dense = [record(id_, dense=True) for id_ in (3, 6, 9, 12)]
    vault = Vault(folder, read_only=True)
    contents = vault.load()
    patches, masks = vault.load_dense()
    vault.close()
    assert tuple(contents.items) == tuple(
        Item(id_, "cat", f"/p/{id_}.jpg", 1_700_000_000) for id_ in range(1, 13)
    )
    expected = np.stack([record(id_).vector for id_ in range(1, 13)])
    assert contents.vectors.tobytes() == expected.tobytes()
    assert patches.tobytes() == b"".join(one.patches.tobytes() for one in with_dense)
    assert masks.tobytes() == b"".join(one.mask.tobytes() for one in with_dense)


def test_the_texts_of_all_items_are_given_in_their_order_however_many_there_are(vault):
    ids = range(100, 4_201)
    texts = {i: (f"l{i}" if i % 3 else None, f"/p/{i}.jpg" if i % 5 else None) for i in ids}
    before = list(vault.texts())
    vault.add(record(i, label=label, source=source) for i, (label, source) in texts.items())
    assert list(vault.texts()) == before + [
        text.encode() for of_one in texts.values() for text in of_one if text
    ]


def make_branches_meet(folder, vault):
    """Makes of a ledger a tree that leads to most of its rows hundreds of times."""
    vault.add(record(id_) for id_ in range(100, 3_000))
    vault.close()
    connection = sqlite3.connect(folder / "ledger.sqlite")
    (root,) = connection.execute(
        "SELECT rootpage FROM sqlite_master WHERE name = 'items'"
    ).fetchone()
    connection.close()
    data = bytearray((folder / "ledger.sqlite").read_bytes())
    page = data[(root - 1) * 4096 : root * 4096]
    assert page[0] == 5  # inside a table's tree, see https://sqlite.org/fileformat2.html
    cells = [int.from_bytes(page[at : at + 2], "big") for at in range(12, 12 + 2 * page[4], 2)]
    branch = int.from_bytes(page[cells[0] : cells[0] + 4], "big")
    data[(branch - 1) * 4096 : branch * 4096] = page  # a second level, below every cell
    for at in cells[1:]:
        place = (root - 1) * 4096 + at
        data[place : place + 4] = branch.to_bytes(4, "big")
        place = (branch - 1) * 4096 + cells[0]
        data[place : place + 4] = page[cells[1] : cells[1] + 4]
    (folder / "ledger.sqlite").write_bytes(data)


def test_a_tree_whose_branches_meet_again_takes_no_memory_for_its_millions(folder, vault):
    make_branches_meet(folder, vault)
    with contextlib.closing(Vault(folder, read_only=True)) as reader:
        assert reader.count() > 100_000
        with pytest.raises(VaultFormatError, match="more items than the file has room for"):
            reader.load()


@pytest.mark.parametrize("source", ["a\udcff.jpg", "\ud800x", "\ud83d\ude00", "日本/é.jpg", "🐈"])
def test_no_character_of_a_file_name_is_lost(vault, source):
    vault.add([record(100, source=source)])
    assert next(iter(vault.items([100]))).source == source
    assert vault.problems() == []


def test_the_smallest_and_the_largest_id_are_kept(vault):
    vault.add([record(2**63 - 1)])
    assert ids_of(vault)[-1] == 2**63 - 1


def test_the_tables_have_no_index_and_no_memory_of_ids(folder):
    connection = sqlite3.connect(folder / "ledger.sqlite")
    names = connection.execute("SELECT type, name FROM sqlite_master ORDER BY name").fetchall()
    connection.close()
    assert names == [("table", "dense"), ("table", "items"), ("table", "meta")]


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_folder_and_files_are_private(vault, folder):
    vault.delete([1])
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert set(modes.values()) == {0o600}, modes
    assert vault.purge()
    assert stat.S_IMODE((folder / "ledger.sqlite").stat().st_mode) == 0o600


# ---- all or nothing


def test_add_of_a_held_id_adds_nothing(vault):
    with pytest.raises(InputError, match="id 5 "):
        vault.add([record(100), record(5)])
    assert vault.count() == 12


def test_add_of_one_id_twice_adds_nothing(vault):
    with pytest.raises(InputError, match="id 100 "):
        vault.add([record(100), record(100)])
    assert vault.count() == 12


@pytest.mark.parametrize(
    "bad",
    [
        Record(Item(0, None, None, 0), np.zeros(48, np.float16)),
        Record(Item(2**63, None, None, 0), np.zeros(48, np.float16)),
        Record(Item(50, "", None, 0), np.zeros(48, np.float16)),
        Record(Item(50, "a\0b", None, 0), np.zeros(48, np.float16)),
        Record(Item(50, None, "s" * 32_768, 0), np.zeros(48, np.float16)),
        Record(Item(50, None, None, 0), np.zeros(47, np.float16)),
        Record(Item(50, None, None, 0), np.full(48, np.inf, np.float16)),
        Record(
            Item(50, None, None, 0),
            np.zeros(48, np.float16),
            np.zeros((16, 12), np.int8),
            np.zeros((31, 32), np.uint8),
        ),
    ],
)
def test_add_of_a_record_that_does_not_fit_adds_nothing(vault, bad):
    with pytest.raises(InputError):
        vault.add([record(100), bad])
    assert vault.count() == 12


def test_delete_of_an_unknown_id_deletes_nothing(vault):
    with pytest.raises(ItemNotFoundError, match="id 77 "):
        vault.delete([1, 77])
    assert vault.count() == 12
    assert not vault.purge_pending


def test_a_full_disk_adds_nothing(vault):
    pages = vault._connection.rows("PRAGMA page_count")[0][0]
    vault._connection.rows(f"PRAGMA max_page_count={pages + 2}")
    with pytest.raises(VaultFullError, match="no room"):
        vault.add([record(id_, dense=True) for id_ in range(100, 200)])
    assert ids_of(vault) == list(range(1, 13))
    assert vault.problems() == []
    vault._connection.rows("PRAGMA max_page_count=1000000")
    vault.add([record(100)])
    assert vault.count() == 13


def test_a_purge_without_room_stays_pending_and_is_finished_later(vault, folder, monkeypatch):
    def no_room(connection, path, *, change):
        raise sqlite3.OperationalError("database or disk is full")

    vault.delete([1, 2])
    with monkeypatch.context() as patched:
        patched.setattr("procmem.writer.write_copy", no_room)
        assert not vault.purge()
    assert vault.purge_pending
    vault.close()
    again = Vault(folder)
    assert not again.purge_pending
    assert ids_of(again) == list(range(3, 13))
    again.close()


# ---- crashes


def test_a_journal_that_was_never_valid_is_zeroed_though_nothing_is_written(folder):
    # As after a kill before SQLite wrote the head of it: it goes back over nothing, and has pages.
    journal = folder / "ledger.sqlite-journal"
    journal.write_bytes(bytes(28) + b"how a page was before" * 100)
    with journal.open("rb") as old:
        vault = Vault(folder)
        assert not journal.exists()
        assert not any(old.read())
    assert ids_of(vault) == list(range(1, 13))
    vault.close()


def test_the_marker_makes_the_next_opening_finish_the_purge(vault, folder):
    secret = record(4).vector.tobytes()
    vault.delete([4])
    raw = folder / "ledger.sqlite"
    # As after a crash between commit and purge: the marker stands, a page still has old bytes.
    vault.close()
    with raw.open("ab") as file:
        file.write(secret)
    assert (folder / "PURGE_PENDING").exists()
    again = Vault(folder)
    again.close()
    assert not (folder / "PURGE_PENDING").exists()
    assert secret not in raw.read_bytes()


@pytest.mark.skipif(os.name == "nt", reason="Windows removes no file that is open")
def test_a_journal_that_cannot_be_removed_fails_no_close(vault, folder, monkeypatch):
    def refuse(path, missing_ok=False):
        raise OSError(errno.EIO, "Input/output error")

    vault.add([record(100)])
    vault.release_ledger()
    assert (folder / "ledger.sqlite-journal").stat().st_size == 0
    with monkeypatch.context() as patched:
        patched.setattr("pathlib.Path.unlink", refuse)
        vault.close()
    Vault(folder).close()
    assert not (folder / "ledger.sqlite-journal").exists()


def test_leftovers_of_a_dead_purge_are_removed(folder):
    for name in (
        "ledger.sqlite.tmp",
        "ledger.sqlite.tmp-journal",
        "ledger.sqlite.retired",
        "KEY.tmp",
    ):
        (folder / name).write_bytes(b"private" * 100)
    Vault(folder).close()
    assert sorted(path.name for path in folder.iterdir()) == ["KEY", "LOCK", "ledger.sqlite"]


@pytest.mark.skipif(os.name == "nt", reason="hard links")
def test_a_leftover_name_of_the_living_ledger_costs_no_item(folder):
    os.link(folder / "ledger.sqlite", folder / "ledger.sqlite.retired")
    vault = Vault(folder)
    assert vault.count() == 12
    assert not (folder / "ledger.sqlite.retired").exists()
    vault.close()


def test_a_creation_that_died_is_begun_anew(tmp_path):
    (tmp_path / "LOCK").write_bytes(b"")
    (tmp_path / "ledger.sqlite.tmp").write_bytes(b"half")
    vault = Vault(tmp_path, binding=BINDING)
    assert vault.count() == 0
    vault.close()


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_sigkill_loses_no_acknowledged_add_and_resurrects_no_delete(tmp_path):
    figures = run_kills(tmp_path, count=100)
    assert figures["killed in a call"] > 0


# ---- one writer, many readers


def test_a_second_writer_in_the_same_process_is_refused(vault, folder):
    with pytest.raises(VaultLockedError, match="this process"):
        Vault(folder)


def test_a_second_writer_in_another_process_is_refused_and_named(folder):
    process = start("vault = Vault(sys.argv[1]); print('ready', flush=True); input()", folder)
    try:
        assert process.stdout.readline() == "ready\n"
        with pytest.raises(VaultLockedError, match=f"process {process.pid};"):
            Vault(folder)
    finally:
        stop(process)
    Vault(folder).close()  # the lock ended with the process


def test_close_gives_the_lock_up(folder):
    Vault(folder).close()
    Vault(folder).close()


def test_a_refused_opening_keeps_no_lock(folder):
    with pytest.raises(EmbedderMismatchError):
        Vault(folder, binding=OTHER)
    Vault(folder).close()


def test_a_reader_in_another_process_sees_a_delete_at_its_next_query(vault, folder):
    script = """
    vault = Vault(sys.argv[1], read_only=True)
    for line in sys.stdin:
        print(*[item.id for item in vault.load().items], flush=True)
    """
    process = start(script, folder)

    def ask():
        process.stdin.write("?\n")
        process.stdin.flush()
        return [int(word) for word in process.stdout.readline().split()]

    try:
        assert ask() == list(range(1, 13))
        vault.delete([1])
        assert ask() == list(range(2, 13))
        assert vault.purge()
        assert ask() == list(range(2, 13))
        vault.delete([2])
        assert vault.purge()
        assert ask() == list(range(3, 13))
        vault.add([record(40)])
        assert ask() == [*range(3, 13), 40]
    finally:
        stop(process)


def test_a_reader_s_state_changes_with_every_change(vault, folder):
    reader = Vault(folder, read_only=True)
    states = {reader.state()}
    vault.add([record(50)])
    states.add(reader.state())
    vault.delete([50])
    states.add(reader.state())
    vault.purge()
    states.add(reader.state())
    assert reader.state() in states
    reader.close()
    assert len(states) == 4


def test_readers_and_a_purging_writer_in_threads_never_fail(vault, folder):
    reader = Vault(folder, read_only=True)
    failures = []
    done = threading.Event()

    def read():
        try:
            while not done.is_set():
                assert set(range(2, 13)) <= set(ids_of(reader))
        except BaseException as error:  # reported by the test's thread
            failures.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    for id_ in (1, 101, 102, 103):
        if id_ > 100:
            vault.add([record(id_)])
        vault.delete([id_])
        assert vault.purge()
    done.set()
    thread.join()
    reader.close()
    assert failures == []


def test_a_reader_that_connects_while_two_purges_go_by_reads_the_last(vault, folder, monkeypatch):
    connect = sqlite3.connect
    purges = []
    readers = []

    def connect_between(name, **options):
        # Only the reader, and not the purges' own check.
        if "mode=ro" not in str(name) or readers:
            return connect(name, **options)
        readers.append(name)
        purges.append(vault.purge())
        connection = connect(name, **options)
        purges.append(vault.purge())  # its file may have the inode of the one before both
        return connection

    expected = ids_of(vault)
    monkeypatch.setattr("procmem.connection.sqlite3.connect", connect_between)
    reader = Vault(folder, read_only=True)
    assert ids_of(reader) == expected
    assert purges == [True, True]
    reader.close()


def test_a_reader_writes_nothing_at_all(folder):
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}
    reader = Vault(folder, read_only=True)
    reader.load()
    assert reader.problems() == []
    for change in (lambda: reader.add([record(50)]), lambda: reader.delete([1]), reader.purge):
        with pytest.raises(VaultReadOnlyError, match="read_only"):
            change()
    reader.close()
    after = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}
    assert after == before


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_can_be_read_but_not_written(folder):
    folder.chmod(0o500)
    (folder / "LOCK").chmod(0o400)
    try:
        with pytest.raises(VaultReadOnlyError, match="read_only=True"):
            Vault(folder)
        reader = Vault(folder, read_only=True)
        assert reader.count() == 12
        reader.close()
    finally:
        folder.chmod(0o700)


def test_a_read_only_file_system_is_named(folder, monkeypatch):
    def refuse(*arguments, **options):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("procmem.lock.os.open", refuse)
    with pytest.raises(VaultReadOnlyError, match="Read-only file system"):
        Vault(folder)


def test_a_hot_journal_is_left_to_the_writer(tmp_path):
    script = """
    vault = Vault(sys.argv[1], binding=BINDING)
    vault.add([record(id_) for id_ in range(1, 2000)])
    connection = vault._connection._open
    connection.execute("PRAGMA cache_size=5")  # so that pages reach the file before the commit
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("UPDATE items SET vector = zeroblob(96)")
    print("ready", flush=True)
    input()
    """
    process = start(script, tmp_path / "v")
    assert process.stdout.readline() == "ready\n"
    stop(process)
    with pytest.raises(VaultReadOnlyError, match="stopped in mid-write"):
        Vault(tmp_path / "v", read_only=True)
    vault = Vault(tmp_path / "v")
    assert vault.load().vectors[0].tobytes() == record(1).vector.tobytes()
    vault.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_is_refused(vault):
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            vault.count()
            os.write(write_end, b"worked")
        except VaultError as error:
            os.write(write_end, str(error).encode())
        finally:
            vault.close()
            os._exit(0)
    os.waitpid(child, 0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        assert b"used in its fork" in pipe.read()
    assert vault.count() == 12
    vault.add([record(60)])


# ---- what is not a vault


def test_use_after_close_is_refused(folder):
    vault = Vault(folder)
    vault.close()
    vault.close()
    for use in (vault.count, vault.load, lambda: vault.add([]), lambda: vault.delete([1])):
        with pytest.raises(VaultClosedError, match="closed"):
            use()


def test_another_model_is_refused_with_both_hashes(folder):
    with pytest.raises(EmbedderMismatchError) as caught:
        Vault(folder, binding=OTHER)
    assert BINDING.sha256 in str(caught.value)
    assert OTHER.sha256 in str(caught.value)


@pytest.mark.parametrize("read_only", [False, True])
def test_a_missing_vault_is_not_made_without_a_model(tmp_path, read_only):
    with pytest.raises(VaultFormatError, match="holds no vault"):
        Vault(tmp_path / "none", read_only=read_only)
    assert not (tmp_path / "none").exists()


def test_a_path_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(VaultFormatError, match="is a file"):
        Vault(tmp_path / "file", binding=BINDING)


def test_a_folder_of_other_files_is_refused_and_left_alone(tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(VaultFormatError, match=r"holiday\.jpg"):
        Vault(tmp_path, binding=BINDING)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]


def test_a_newer_format_is_refused(folder):
    connection = sqlite3.connect(folder / "ledger.sqlite")
    connection.execute("PRAGMA user_version=3")
    connection.close()
    with pytest.raises(VaultFormatError, match=r"format version 3.*upgrade"):
        Vault(folder)


def test_a_foreign_sqlite_file_is_refused(tmp_path):
    connection = sqlite3.connect(tmp_path / "ledger.sqlite")
    connection.execute("CREATE TABLE contacts(name)")
    connection.close()
    with pytest.raises(VaultFormatError, match="not a procmem ledger"):
        Vault(tmp_path, binding=BINDING)


@pytest.mark.parametrize("statement", [
    "CREATE TRIGGER t AFTER DELETE ON items BEGIN INSERT INTO meta VALUES(old.id, old.label); END",
    "CREATE INDEX leak ON items(label)",
    "CREATE VIEW v AS SELECT * FROM items",
    "DROP TABLE dense",
])  # fmt: skip
def test_a_ledger_with_another_schema_is_refused(folder, statement):
    connection = sqlite3.connect(folder / "ledger.sqlite")
    connection.execute(statement)
    connection.commit()
    connection.close()
    with pytest.raises(VaultFormatError, match="other tables"):
        Vault(folder)


@pytest.mark.parametrize("content", [b"", b"x", b"not a database at all" * 500])
def test_garbage_is_refused(folder, content):
    (folder / "ledger.sqlite").write_bytes(content)
    with pytest.raises(VaultFormatError):
        Vault(folder)
    assert (folder / "ledger.sqlite").read_bytes() == content


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.95])
def test_a_truncated_ledger_is_refused(folder, share):
    data = (folder / "ledger.sqlite").read_bytes()
    (folder / "ledger.sqlite").write_bytes(data[: int(share * len(data))])
    with pytest.raises(VaultFormatError, match="damaged"):
        Vault(folder)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE items SET vector = zeroblob(96) WHERE id = 4",
        "UPDATE items SET label = 'dog' WHERE id = 4",
        "UPDATE items SET label = NULL WHERE id = 4",
        "UPDATE items SET label = CAST(label AS BLOB) || source, source = '' WHERE id = 4",
        "UPDATE items SET source = '/p/44.jpg' WHERE id = 4",
        "UPDATE items SET added_seconds = added_seconds + 1 WHERE id = 4",
        "UPDATE items SET added_seconds = 'now' WHERE id = 4",
        "UPDATE items SET checksum = checksum + 1 WHERE id = 4",
        "UPDATE items SET id = 77 WHERE id = 4",
        "DELETE FROM items WHERE id = 4",
        "INSERT INTO items SELECT 77, vector, label, source, added_seconds, checksum FROM items "
        "WHERE id = 4",
        "UPDATE meta SET value = value + 1 WHERE key = 'items_checksum'",
        "DELETE FROM meta WHERE key = 'items_checksum'",
    ],
)
def test_items_that_are_not_what_was_stored_are_refused(folder, change):
    connection = sqlite3.connect(folder / "ledger.sqlite")
    connection.execute(change)
    connection.commit()
    connection.close()
    vault = Vault(folder)
    with pytest.raises(VaultFormatError, match=r"damaged.*backup"):
        vault.load()
    assert vault.problems()
    vault.close()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE dense SET mask = zeroblob(1024) WHERE id = 3",
        "UPDATE dense SET patches = mask, mask = patches WHERE id = 3",
        "UPDATE dense SET id = 4 WHERE id = 3",
        "UPDATE dense SET checksum = 0 WHERE id = 3",
        "DELETE FROM dense WHERE id = 3",
        "UPDATE meta SET value = 0 WHERE key = 'dense_checksum'",
    ],
)
def test_masks_that_are_not_what_was_stored_are_refused(folder, change):
    connection = sqlite3.connect(folder / "ledger.sqlite")
    connection.execute(change)
    connection.commit()
    connection.close()
    vault = Vault(folder)
    with pytest.raises(VaultFormatError, match=r"damaged.*backup"):
        vault.load_dense()
    assert vault.problems()
    vault.close()


def test_a_damaged_item_can_be_deleted(folder):
    connection = sqlite3.connect(folder / "ledger.sqlite")
    connection.execute("UPDATE items SET label = 'dog' WHERE id = 4")
    connection.commit()
    connection.close()
    vault = Vault(folder)
    vault.delete([4])
    assert vault.purge()
    assert vault.problems() == []
    vault.close()


def swap_leaves(path):
    """Exchanges the first and the last leaf page of a table; every row stays sound."""
    data = bytearray(path.read_bytes())
    size = int.from_bytes(data[16:18], "big")
    leaves = [at for at in range(size, len(data), size) if data[at] == 0x0D]  # of a table
    first, last = leaves[-2], leaves[-1]
    data[first : first + size], data[last : last + size] = (
        data[last : last + size],
        data[first : first + size],
    )
    path.write_bytes(data)


def test_sound_rows_in_another_order_are_refused_and_not_written_anew(tmp_path, caplog):
    with contextlib.closing(Vault(tmp_path, binding=BINDING)) as vault:
        vault.add([record(id_) for id_ in range(1, 200)])
    swap_leaves(tmp_path / "ledger.sqlite")
    damaged = (tmp_path / "ledger.sqlite").read_bytes()
    (tmp_path / "PURGE_PENDING").touch()
    with contextlib.closing(Vault(tmp_path)) as vault:
        assert "out of order" in caplog.text
        assert vault.purge_pending
        with pytest.raises(VaultFormatError, match="out of order"):
            vault.load()
        assert any("out of order" in problem for problem in vault.problems())
    assert (tmp_path / "ledger.sqlite").read_bytes() == damaged


def damage(folder, statement):
    """Changes a ledger as no call of a vault does."""
    with contextlib.closing(sqlite3.connect(folder / "ledger.sqlite")) as connection:
        connection.execute(statement)
        connection.commit()


def test_a_damaged_ledger_is_not_purged(folder, caplog):
    damage(folder, "DELETE FROM items WHERE id = 5")
    (folder / "PURGE_PENDING").touch()
    before = (folder / "ledger.sqlite").read_bytes()
    vault = Vault(folder)
    assert vault.purge_pending
    assert "stays pending" in caplog.text
    assert not vault.purge()
    vault.close()
    assert (folder / "ledger.sqlite").read_bytes() == before


OPEN_FILES = Path("/proc/self/fd")


def descriptors_of(path):
    """How many of this process's open files are this one, also after it was replaced."""
    found = 0
    for descriptor in OPEN_FILES.iterdir():
        with contextlib.suppress(OSError):
            found += str(descriptor.readlink()).startswith(str(path))
    return found


@pytest.mark.skipif(not OPEN_FILES.exists(), reason="counts open files as Linux does")
def test_a_purge_that_was_refused_leaves_nothing_locked_or_open(folder, caplog):
    damage(folder, "UPDATE items SET checksum = checksum + 1 WHERE id = 5")
    vault = Vault(folder)
    gc.disable()  # which would close what nobody can reach any more
    try:
        assert not vault.purge()
        assert "item 5 does not match its checksum" in caplog.text
        vault.add([record(100)])
        vault.close()
        assert descriptors_of(folder / "ledger.sqlite") == 0
        with contextlib.closing(sqlite3.connect(folder / "ledger.sqlite", timeout=0)) as other:
            other.execute("BEGIN EXCLUSIVE")
    finally:
        gc.enable()


def test_a_ledger_that_is_damaged_is_not_copied_to_its_end(folder, vault, monkeypatch, caplog):
    make_branches_meet(folder, vault)
    failed = threading.Event()
    sizes = []

    def check(*arguments, **options):
        try:
            survey(*arguments, **options)
        except DamagedRowError:
            failed.set()
            raise

    def copy(connection, path, **options):
        connection.execute("SELECT 1")
        assert failed.wait(60)
        try:
            write_copy(connection, path, **options)
        finally:
            sizes.append(path.stat().st_size)

    monkeypatch.setattr("procmem.writer.survey", check)
    monkeypatch.setattr("procmem.writer.write_copy", copy)
    before = (folder / "ledger.sqlite").read_bytes()
    with contextlib.closing(Vault(folder)) as damaged:
        assert not damaged.purge()
    assert "out of order" in caplog.text
    assert len(sizes) == 1
    assert sizes[0] < len(before)  # it would be a hundred times that
    assert (folder / "ledger.sqlite").read_bytes() == before
    assert not (folder / TEMPORARY).exists()


def test_a_ledger_put_in_the_place_of_a_damaged_one_is_still_refused(folder):
    damage(folder, "DELETE FROM items WHERE id = 5")
    vault = Vault(folder)
    assert not vault.purge()
    shutil.copy(folder / "ledger.sqlite", folder / "another")
    (folder / "another").replace(folder / "ledger.sqlite")
    with pytest.raises(VaultError, match="replaced by someone else"):
        vault.add([record(100)])
    vault.close()


# ---- older formats


def older(folder):
    """Turns a vault into one of format version 1, as it was written then."""
    path = folder / "ledger.sqlite"
    now = sqlite3.connect(path)
    meta = dict(now.execute("SELECT * FROM meta"))
    items = now.execute(
        "SELECT id, vector, CAST(label AS BLOB), CAST(source AS BLOB), added_seconds FROM items"
    ).fetchall()
    dense = now.execute("SELECT id, patches, mask FROM dense").fetchall()
    now.close()
    path.unlink()
    old = sqlite3.connect(path)
    for statement in (
        "PRAGMA application_id=0x50724D65",
        "PRAGMA user_version=1",
        "CREATE TABLE dense(id INTEGER PRIMARY KEY, patches BLOB, mask BLOB)",
        "CREATE TABLE items(id INTEGER PRIMARY KEY, vector BLOB, label TEXT, source TEXT, "
        "added_seconds INTEGER)",
        "CREATE TABLE meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID",
    ):
        old.execute(statement)
    names = ("sha256", "name", "cls_dim", "patch_dim", "side", "patch_size")
    old.executemany("INSERT INTO meta VALUES (?, ?)", [(name, meta[name]) for name in names])
    old.executemany("INSERT INTO items VALUES (?, ?, CAST(? AS TEXT), CAST(? AS TEXT), ?)", items)
    old.executemany("INSERT INTO dense VALUES (?, ?, ?)", dense)
    old.commit()
    old.close()


def test_a_ledger_of_the_first_format_becomes_one_of_the_present(vault, folder):
    vault.add([Record(Item(50, "caf\udce9", None, 5), record(50).vector)])
    assert vault.purge()
    vault.close()
    before = (folder / "ledger.sqlite").read_bytes()
    older(folder)
    with pytest.raises(VaultFormatError, match="older format version 1; open it once without"):
        Vault(folder, read_only=True)
    Vault(folder).close()
    assert (folder / "ledger.sqlite").read_bytes() == before
    assert {path.name for path in folder.iterdir()} == {"ledger.sqlite", "LOCK", "KEY"}
    Vault(folder, read_only=True).close()


def test_a_damaged_ledger_of_the_first_format_is_left_as_it_is(folder):
    older(folder)
    connection = sqlite3.connect(folder / "ledger.sqlite")
    connection.execute("UPDATE items SET added_seconds = 'now' WHERE id = 4")
    connection.commit()
    connection.close()
    before = (folder / "ledger.sqlite").read_bytes()
    with pytest.raises(VaultFormatError, match="damaged"):
        Vault(folder)
    assert (folder / "ledger.sqlite").read_bytes() == before


def full(descriptor, data):
    """`os.write` of a full disk: what takes room already may be overwritten."""
    at = os.lseek(descriptor, 0, os.SEEK_CUR)
    with contextlib.suppress(OSError):  # in the hole at the end
        if os.lseek(descriptor, at, os.SEEK_DATA) == at:
            written = os.pwrite(descriptor, data, at)
            os.lseek(descriptor, at + written, os.SEEK_SET)
            return written
    raise OSError(errno.ENOSPC, "No space left on device")


def with_holes(path):
    """A file of which only a stretch in the middle takes room; False where there are no holes."""
    with path.open("wb") as file:
        file.seek(4 << 20)
        file.write(b"x" * (3 << 20))
        file.truncate(12 << 20)
        file.flush()
        return os.lseek(file.fileno(), 0, os.SEEK_DATA) == 4 << 20


@pytest.mark.skipif(not hasattr(os, "SEEK_DATA"), reason="the system does not tell holes")
def test_a_copy_that_filled_the_disk_is_zeroed_and_removed(folder, vault, tmp_path, monkeypatch):
    """As one is whose pages SQLite did not write in order: it takes less room than it is long."""
    if not with_holes(tmp_path / "sparse"):
        pytest.skip("the file system has no holes")

    seen = []

    def fill_disk(connection, path, *, change):
        with_holes(path)
        seen.append(path.open("rb"))
        raise sqlite3.OperationalError("database or disk is full")

    vault.delete([1, 2])
    with monkeypatch.context() as patched:
        patched.setattr("procmem.writer.write_copy", fill_disk)
        patched.setattr("procmem.lock.os.write", full)
        assert not vault.purge()
    assert not (folder / TEMPORARY).exists()
    with seen[0] as file:
        assert not any(file.read())
    assert vault.purge_pending
    assert vault.purge()


def test_a_file_is_removed_though_zeroing_it_wants_room(tmp_path, monkeypatch):
    """As where a file system writes new blocks and leaves the old ones as they are."""

    def refuse(descriptor, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "file").write_bytes(b"x" * 100)
    monkeypatch.setattr("procmem.lock.os.write", refuse)
    shred(tmp_path / "file")
    assert not (tmp_path / "file").exists()


@pytest.mark.parametrize("full_first", [False, True])
def test_a_file_that_cannot_be_zeroed_is_kept(tmp_path, monkeypatch, full_first):
    errors = [(errno.EIO, "Input/output error")]
    if full_first and hasattr(os, "SEEK_DATA"):
        errors.append((errno.ENOSPC, "No space left on device"))

    def refuse(descriptor, data):
        raise OSError(*errors.pop())

    (tmp_path / "file").write_bytes(b"x" * 100)
    monkeypatch.setattr("procmem.lock.os.write", refuse)
    with pytest.raises(OSError, match="Input/output"):
        shred(tmp_path / "file")
    assert (tmp_path / "file").exists()


def test_a_migration_that_cannot_be_written_leaves_the_old_ledger(folder, monkeypatch):
    older(folder)
    before = (folder / "ledger.sqlite").read_bytes()

    def refuse(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("procmem.vault.write_migrated", refuse)
        with pytest.raises(VaultFullError):
            Vault(folder)
    assert (folder / "ledger.sqlite").read_bytes() == before
    vault = Vault(folder)
    assert vault.problems() == []
    vault.close()


def test_a_damaged_row_is_named(folder):
    connection = sqlite3.connect(folder / "ledger.sqlite")
    connection.execute("UPDATE items SET vector = zeroblob(95) WHERE id = 4")
    connection.commit()
    connection.close()
    vault = Vault(folder)
    with pytest.raises(VaultFormatError, match="item 4"):
        vault.load()
    assert any("item 4" in problem for problem in vault.problems())
    vault.close()


def test_text_that_is_no_text_is_named_as_damage(folder):
    connection = sqlite3.connect(folder / "ledger.sqlite")
    connection.execute("UPDATE items SET label = CAST(x'ff' AS TEXT) WHERE id = 4")
    connection.commit()
    connection.close()
    vault = Vault(folder)
    with pytest.raises(VaultFormatError, match="damaged"):
        list(vault.items())
    vault.close()


def test_a_ledger_replaced_behind_the_writer_s_back_is_noticed(vault, folder):
    shutil.copy(folder / "ledger.sqlite", folder / "copy")
    (folder / "copy").replace(folder / "ledger.sqlite")
    with pytest.raises(VaultError, match="replaced by someone else"):
        vault.add([record(99)])
