"""Every row of a ledger is read, in order, and what was changed behind SQLite's back is noticed."""

from __future__ import annotations

import sqlite3
import threading

import pytest
from tests.stress import toy

from procmem import checking
from procmem.checking import alongside, check_rows
from procmem.rows import DamagedRowError, PlainRows
from procmem.vault import Vault

IDS = range(1, 131)


@pytest.fixture(scope="module")
def ledger(tmp_path_factory):
    """The bytes of a ledger in which some items have masks."""
    folder = tmp_path_factory.mktemp("vault") / "v"
    vault = Vault(folder, binding=toy.BINDING)
    vault.add(map(toy.record, IDS))
    vault.close()
    return (folder / "ledger.sqlite").read_bytes()


@pytest.fixture
def connection(ledger, tmp_path):
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(ledger)
    opened = sqlite3.connect(path, isolation_level=None)
    yield opened
    opened.close()


def masked(connection):
    return {row[0]: row[1:3] for row in connection.execute("SELECT * FROM dense")}


@pytest.mark.parametrize("at_once", [1, 7, 1000])
def test_all_items_are_given_in_order_each_with_its_mask(connection, monkeypatch, at_once):
    monkeypatch.setattr(checking, "_ROWS_AT_ONCE_WITH_MASKS", at_once)
    found = []
    sizes = []

    def use(items, masks):
        sizes.append(len(items))
        found.extend(zip(items, masks, strict=True))

    check_rows(connection, PlainRows(), use)
    assert [item[0] for item, _ in found] == list(IDS)
    expected = masked(connection)
    assert 0 < len(expected) < len(IDS)
    assert {item[0]: mask[1:] for item, mask in found if mask is not None} == expected
    assert all(mask is None or mask[0] == item[0] for item, mask in found)
    assert max(sizes) == min(at_once, len(IDS))


@pytest.mark.parametrize("use", [None, lambda items, masks: None])
@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE items SET vector = zeroblob(length(vector)) WHERE id = 130",
        "UPDATE items SET label = 'another' WHERE id = 64",
        "UPDATE items SET added_seconds = added_seconds + 1 WHERE id = 1",
        "UPDATE items SET checksum = checksum + 1 WHERE id = 2",
        "UPDATE items SET checksum = NULL WHERE id = 2",
        "UPDATE items SET id = -5 WHERE id = 2",
        "DELETE FROM items WHERE id = 77",
        "INSERT INTO items SELECT 500, vector, label, source, added_seconds, checksum FROM items "
        "WHERE id = 3",
        "UPDATE dense SET mask = zeroblob(length(mask)) WHERE id = (SELECT max(id) FROM dense)",
        "DELETE FROM dense WHERE id = (SELECT min(id) FROM dense)",
        "UPDATE dense SET id = 500 WHERE id = (SELECT max(id) FROM dense)",
        "UPDATE meta SET value = value + 1 WHERE key = 'items_checksum'",
        "UPDATE meta SET value = value + 1 WHERE key = 'dense_checksum'",
        "DELETE FROM meta WHERE key = 'items_checksum'",
    ],
)
def test_every_kind_of_damage_is_noticed(connection, damage, use):
    check_rows(connection, PlainRows(), use)
    assert connection.execute(damage).rowcount == 1
    with pytest.raises(DamagedRowError):
        check_rows(connection, PlainRows(), use)


def test_work_alongside_is_done_in_another_thread_and_its_result_waited_for():
    begun, go_on = threading.Event(), threading.Event()

    def work():
        begun.set()
        assert go_on.wait(60)
        return threading.get_ident()

    with alongside(work) as result:
        assert begun.wait(60)
        go_on.set()
        assert result() != threading.get_ident()


def test_a_block_that_fails_ends_after_the_work_and_with_its_own_error():
    done = []
    go_on = threading.Event()

    def fail():
        with alongside(lambda: (go_on.wait(60), done.append(1))):
            go_on.set()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert done == [1]


def test_what_fails_alongside_is_raised_where_it_is_waited_for():
    with alongside(lambda: 1 // 0) as result, pytest.raises(ZeroDivisionError):
        result()


def test_without_a_thread_the_work_is_done_when_it_is_waited_for(monkeypatch):
    def refused(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    with alongside(threading.get_ident) as result:
        assert result() == threading.get_ident()
