"""What others do around a vault, at the worst moment: forks, Ctrl-C, hard links, keys, locks."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from tests.sdk.test_vault import BINDING, OTHER, PRELUDE, record

import procmem.purge
from procmem import lock
from procmem.beside import check_not_beside, make_beside
from procmem.checking import CheckApart
from procmem.erasure import erase
from procmem.errors import (
    VaultError,
    VaultFullError,
    VaultKeyError,
    VaultLockedError,
    VaultReadOnlyError,
)
from procmem.ledger import Head
from procmem.residue import Search
from procmem.rows import PlainRows
from procmem.vault import Vault

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
needs_links = pytest.mark.skipif(os.name == "nt", reason="there, nothing open is replaced")


@pytest.fixture
def vault(tmp_path):
    with_items = Vault(tmp_path / "v", binding=BINDING)
    with_items.add(record(id_) for id_ in range(1, 31))
    yield with_items
    with_items.close()


# ---- forks


@needs_fork
@pytest.mark.parametrize("end", ["sys.exit(0)", "raise ValueError", "pass", "return"])
def test_a_child_forked_in_mid_write_leaves_the_write_to_its_parent(tmp_path, end):
    # So many that SQLite writes pages before the commit, which a child's rollback would undo.
    script = f"""
    {textwrap.indent(PRELUDE, "    ").strip()}
    import os
    def records():
        for id_ in range(1000, 16000):
            yield record(id_)
        child = os.fork()
        if child == 0:
            {end}
        else:
            os.waitpid(child, 0)
        yield record(20000)
    vault = Vault({str(tmp_path / "v")!r}, binding=BINDING)
    vault.add(record(id_) for id_ in range(1, 201))
    parent = os.getpid()
    try:
        vault.add(records())
    except Exception as error:
        assert os.getpid() != parent, error
        print("child:", error)
        sys.exit(0)
    assert os.getpid() == parent, "the child wrote"
    print("parent:", vault.count(), vault.problems(), flush=True)
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert "parent: 15201 []" in done.stdout
    with_items = Vault(tmp_path / "v")
    assert (with_items.count(), with_items.problems()) == (15201, [])
    with_items.close()


@needs_fork
def test_a_sleeping_child_does_not_hold_the_lock(vault):
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(write_end)
        os.read(read_end, 1)
        os._exit(0)
    os.close(read_end)
    try:
        vault.close()
        Vault(vault.path).close()
    finally:
        os.close(write_end)
        os.waitpid(child, 0)


@needs_fork
def test_a_child_that_lets_go_leaves_the_lock_to_its_parent(tmp_path):
    held = lock.WriterLock(tmp_path / "LOCK")
    child = os.fork()
    if child == 0:
        held.release()
        os._exit(0)
    os.waitpid(child, 0)
    with pytest.raises(VaultLockedError, match="by this process"):
        lock.WriterLock(tmp_path / "LOCK")
    held.release()
    lock.WriterLock(tmp_path / "LOCK").release()


# ---- interruptions


@needs_links
def test_what_two_interruptions_left_is_zeroed_by_the_next_purge(vault, monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    vault.delete([3])
    with monkeypatch.context() as patched:
        patched.setattr(procmem.purge, "overwrite_with_zeros", interrupted)
        patched.setattr(lock, "overwrite_with_zeros", interrupted)
        with pytest.raises(KeyboardInterrupt):
            vault.purge()
    left = vault.path / "ledger.sqlite.retired"
    with left.open("rb") as file:
        assert record(5).vector.tobytes() in file.read()
        vault.delete([5])
        assert vault.purge()
        file.seek(0)
        assert not any(file.read())
    assert not left.exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_a_search_that_is_broken_off_keeps_the_old_ledger_from_nothing(vault, error, monkeypatch):
    def broken_off(self, path):
        raise error

    monkeypatch.setattr(Search, "look", broken_off)
    with (vault.path / "ledger.sqlite").open("rb") as file:
        with pytest.raises(error):
            vault.purge(search=Search([b"0123456789abcdef"]))
        assert not any(file.read())
    assert vault.purge_pending
    assert sorted(path.name for path in vault.path.glob("*ledger*")) == ["ledger.sqlite"]
    assert vault.purge()
    assert vault.problems() == []


def test_a_key_file_that_cannot_be_made_durable_is_not_left(tmp_path, monkeypatch):
    def refused(folder):
        raise OSError(errno.ENOSPC, "no room")

    with monkeypatch.context() as full:
        full.setattr("procmem.seal.sync_folder", refused)
        with pytest.raises(VaultKeyError, match="no room"):
            Vault(tmp_path / "v", binding=BINDING, key=tmp_path / "key")
    assert not (tmp_path / "key").exists()
    Vault(tmp_path / "v", binding=BINDING, key=tmp_path / "key").close()


def test_an_old_ledger_that_cannot_be_zeroed_keeps_the_purge_pending(vault, monkeypatch):
    def refused(descriptor):
        raise OSError(errno.EIO, "the disk is broken")

    with monkeypatch.context() as broken:
        broken.setattr("procmem.purge.overwrite_with_zeros", refused)
        assert not vault.purge(search=Search([b"0123456789abcdef"]))
        assert vault.purge_pending
    assert vault.purge()
    assert not vault.purge_pending
    assert vault.problems() == []


def test_an_interruption_between_check_and_copy_stops_nothing_later(vault, monkeypatch):
    stop_by = procmem.checking.stop_by

    def interrupted(connection, flag):
        stop_by(connection, flag)
        if flag is not None:
            raise KeyboardInterrupt

    held = sqlite3.connect(":memory:")
    with CheckApart([]) as check:
        monkeypatch.setattr("procmem.checking.stop_by", interrupted)
        with pytest.raises(KeyboardInterrupt):
            check.copy(held, lambda: None)
    check._failed.set()
    many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 200000)"
    assert held.execute(f"{many} SELECT count(*) FROM n").fetchone() == (200000,)
    held.close()


@pytest.mark.parametrize(
    "error",
    [
        sqlite3.OperationalError("no such table: progress"),
        sqlite3.OperationalError("database is locked"),
        UnicodeDecodeError("utf-8", b"\xe9", 0, 1, "of the caller"),
    ],
)
def test_an_error_of_the_caller_is_not_taken_for_the_vaults(vault, error):
    def records():
        yield record(100)
        raise error

    with pytest.raises(type(error)) as caught:
        vault.add(records())
    assert caught.value is error
    assert (vault.count(), vault.problems()) == (30, [])
    vault.add([record(100)])


# ---- one file under several names


@needs_links
def test_a_snapshot_by_hard_links_outlives_a_deletion(vault, tmp_path, caplog):
    vault.close()
    snapshot = tmp_path / "snapshot"
    shutil.copytree(vault.path, snapshot, copy_function=os.link)
    for place in (vault.path, snapshot):  # both may be gone on with
        with caplog.at_level(logging.WARNING):
            opened = Vault(place)
        opened.delete([3])
        assert opened.purge()
        assert (opened.count(), opened.problems()) == (29, [])
        opened.close()
    assert "has further names elsewhere" in caplog.text
    first, second = (place / "ledger.sqlite" for place in (vault.path, snapshot))
    assert not first.samefile(second)
    assert first.read_bytes() == second.read_bytes()
    assert stat.S_IMODE(first.stat().st_mode) == 0o600


@needs_links
def test_a_snapshot_in_the_middle_of_a_migration_outlives_a_deletion(vault, tmp_path):
    make_beside(vault.path / "previous", Head(OTHER), PlainRows())
    vault.open_beside["previous"] = vault.open_one("previous")
    vault.open_beside["previous"].add([record(100), record(101)])
    vault.close()
    snapshot = tmp_path / "snapshot"
    shutil.copytree(vault.path, snapshot, copy_function=os.link)
    opened = Vault(vault.path)
    opened.delete([100])
    assert opened.purge()
    opened.delete([101])
    assert opened.purge()  # which drops a `previous` without items
    opened.close()
    opened = Vault(snapshot)
    assert list(opened.erasable_ids())[-2:] == [100, 101]
    assert opened.problems() == []
    opened.close()


@needs_links
def test_a_snapshot_of_an_open_vault_outlives_a_deletion(vault, tmp_path):
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    os.link(vault.path / "ledger.sqlite", snapshot / "ledger.sqlite")
    vault.delete([3])
    assert vault.purge()
    assert vault.problems() == []
    other = Vault(snapshot)
    assert (other.count(), other.problems()) == (29, [])
    other.close()


@needs_links
def test_a_ledger_beside_is_not_written_through_another_name(vault, tmp_path):
    make_beside(vault.path / "previous", Head(BINDING), PlainRows())
    (tmp_path / "alias").symlink_to(vault.path / "previous")
    for name in (tmp_path / "alias", vault.path / "previous", vault.path / "x" / ".." / "previous"):
        with pytest.raises(VaultReadOnlyError, match="belongs to the memory at"):
            check_not_beside(name)


# ---- no room


def test_a_deletion_without_room_for_the_search_says_what_is_so(vault, monkeypatch, caplog):
    vault.add([record(100, source="/a/long/path/of/its/own")])
    (vault.path / "notes.txt").write_text("look at /a/long/path/of/its/own")

    def no_room(_):
        raise VaultFullError("no room on the disk; nothing changed")

    monkeypatch.setattr(Vault, "twin", no_room)
    report = erase(vault, [100], purge_limit=0, receipt=False, deleted=lambda: None)
    assert report.erased_ids == (100,)
    assert report.windows_found > 0
    assert "may be nothing but chance" in caplog.text


# ---- keys


def test_a_key_file_is_made_anew_and_for_its_owner_only(tmp_path):
    (tmp_path / "photos.key.tmp").write_text("somebody's")
    (tmp_path / "photos.key.tmp").chmod(0o666)
    Vault(tmp_path / "v", binding=BINDING, key=tmp_path / "photos.key").close()
    assert (tmp_path / "photos.key.tmp").read_text() == "somebody's"
    assert os.name == "nt" or stat.S_IMODE((tmp_path / "photos.key").stat().st_mode) == 0o600
    assert {path.name for path in tmp_path.iterdir()} == {"v", "photos.key", "photos.key.tmp"}


def test_an_older_key_that_came_back_is_named_and_the_vault_stays(tmp_path):
    key = tmp_path / "photos.key"
    sealed = Vault(tmp_path / "v", binding=BINDING, key=key)
    sealed.add(record(id_) for id_ in range(1, 11))
    old = key.read_bytes()
    sealed.delete([1])
    assert sealed.purge()
    assert sealed.count() == 9  # opens it, with the present key
    present = key.read_bytes()
    key.write_bytes(old)
    sealed.delete([2])
    assert not sealed.purge()
    assert sealed.purge_pending
    with pytest.raises(VaultKeyError, match="no longer the one that opens it"):
        sealed.epoch_key()
    key.write_bytes(present)
    assert sealed.purge()
    assert (sealed.ids(), sealed.problems()) == (list(range(3, 11)), [])
    sealed.close()


# ---- locks and power


@needs_links
def test_a_file_system_without_locks_is_not_called_a_second_writer(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("procmem.lock.fcntl.flock", no_locks)
    with pytest.raises(VaultError, match="No locks available") as caught:
        Vault(tmp_path / "v", binding=BINDING)
    assert not isinstance(caught.value, VaultLockedError)


class Trace:
    """Which folders and files were synced, and what was renamed, in order."""

    def __init__(self, monkeypatch):
        self.events = []
        sync, replace = os.fsync, Path.replace

        def synced(descriptor):
            self.events.append(("sync", str(Path(f"/proc/self/fd/{descriptor}").readlink())))
            sync(descriptor)

        def replaced(path, target):
            self.events.append(("rename", str(target)))
            return replace(path, target)

        monkeypatch.setattr(os, "fsync", synced)
        monkeypatch.setattr(Path, "replace", replaced)

    def at(self, kind, path):
        return self.events.index((kind, str(path)))


needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@needs_proc
def test_a_ledger_that_goes_loses_its_name_for_good_before_its_bytes(vault, monkeypatch):
    previous = vault.path / "previous"
    make_beside(previous, Head(BINDING), PlainRows())
    vault.open_beside["previous"] = vault.open_one("previous")
    trace = Trace(monkeypatch)
    vault.drop_beside("previous")
    retired = previous / "ledger.sqlite.retired"
    assert trace.at("rename", retired) < trace.at("sync", previous) < trace.at("sync", retired)


@needs_proc
def test_what_a_kill_left_loses_its_name_for_good_before_its_bytes(vault, monkeypatch):
    vault.close()
    shutil.copy(vault.path / "ledger.sqlite", vault.path / "ledger.sqlite.retired")
    trace = Trace(monkeypatch)
    Vault(vault.path).close()
    retired = vault.path / "ledger.sqlite.retired"
    assert trace.at("sync", vault.path) < trace.at("sync", retired)


@needs_proc
def test_every_folder_on_the_way_to_a_new_vault_is_synced(tmp_path, monkeypatch):
    trace = Trace(monkeypatch)
    Vault(tmp_path / "a" / "b" / "v", binding=BINDING).close()
    synced = {path for kind, path in trace.events if kind == "sync"}
    assert {str(tmp_path), str(tmp_path / "a"), str(tmp_path / "a" / "b")} <= synced
