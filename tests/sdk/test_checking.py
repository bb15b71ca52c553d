"""Every row of a ledger is read, in order, and what was changed behind SQLite's back is noticed."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing

import pytest
from tests.stress import toy

from procmem import checking
from procmem.checking import CheckApart, check_rows, stop_by
from procmem.rows import DamagedRowError, PlainRows
from procmem.vault import Vault

IDS = range(1, 131)
ENDLESS = (
    "WITH RECURSIVE one(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM one) SELECT sum(n) FROM one"
)

DAMAGES = [
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
]


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
@pytest.mark.parametrize("damage", DAMAGES)
def test_every_kind_of_damage_is_noticed(connection, damage, use):
    check_rows(connection, PlainRows(), use)
    assert connection.execute(damage).rowcount == 1
    with pytest.raises(DamagedRowError):
        check_rows(connection, PlainRows(), use)


@pytest.mark.parametrize("damaged", [False, True])
def test_no_statement_is_left_open_whatever_happens(connection, damaged):
    if damaged:
        connection.execute("UPDATE items SET checksum = checksum + 1 WHERE id = 5")
    try:
        check_rows(connection, PlainRows())
    except DamagedRowError as error:
        kept = error  # and with it every frame that it came through
        assert damaged
        assert kept.__traceback__ is not None
    connection.execute("VACUUM")  # which SQLite refuses while a statement is going on


def test_a_mask_of_no_item_is_passed_over(connection):
    connection.execute("UPDATE dense SET id = 500 WHERE id = (SELECT max(id) FROM dense)")
    given = []
    with pytest.raises(DamagedRowError):
        check_rows(connection, PlainRows(), lambda items, masks: given.extend(masks))
    assert len([mask for mask in given if mask]) == len(masked(connection)) - 1


@pytest.mark.parametrize("use", [None, lambda items, masks: None])
def test_all_texts_are_seen(connection, use):
    seen = []
    check_rows(connection, PlainRows(), use, see=seen.extend)
    rows = connection.execute(
        "SELECT CAST(label AS BLOB), CAST(source AS BLOB) FROM items ORDER BY id"
    )
    assert seen == [text for row in rows for text in row if text]
    assert len(seen) > len(IDS)


# ---- in a thread of its own


def test_the_check_is_done_in_another_thread_and_waited_for():
    go_on = threading.Event()
    idents = []

    def check(stopped):
        assert go_on.wait(60)
        idents.append(threading.get_ident())

    with CheckApart([check, check]) as apart:
        assert idents == []
        go_on.set()
        apart.result()
        assert len(idents) == 2
        apart.result()
    assert threading.get_ident() not in idents


def test_a_block_that_fails_stops_the_check_and_ends_after_it(connection, tmp_path):
    begun = threading.Event()
    ended = []

    def check(stopped):
        with closing(sqlite3.connect(":memory:")) as endless:
            stop_by(endless, stopped)
            begun.set()
            try:
                endless.execute(ENDLESS)
            except sqlite3.OperationalError as error:
                ended.append(str(error))
                raise

    def fail():
        with CheckApart([check]):
            assert begun.wait(60)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert ended == ["interrupted"]


def test_a_check_that_fails_stops_the_copy_and_says_why():
    begun = threading.Event()

    def check(stopped):
        assert begun.wait(60)
        raise DamagedRowError("item 5 is another one")

    def copy(connection):
        begun.set()
        connection.execute(ENDLESS)

    with closing(sqlite3.connect(":memory:")) as connection:
        with pytest.raises(DamagedRowError, match="item 5"), CheckApart([check]) as apart:
            apart.copy(connection, lambda: copy(connection))
        assert connection.execute("SELECT 1").fetchone() == (1,)  # not stopped any more


def test_a_copy_that_fails_by_itself_says_so():
    with closing(sqlite3.connect(":memory:")) as connection:

        def copy():
            connection.execute("SELECT * FROM missing")

        with (
            pytest.raises(sqlite3.OperationalError, match="no such table"),
            CheckApart([]) as apart,
        ):
            apart.copy(connection, copy)


def test_a_check_that_fails_after_the_copy_is_told():
    copied = threading.Event()

    def check(stopped):
        assert copied.wait(60)
        raise DamagedRowError("item 5 is another one")

    with (
        closing(sqlite3.connect(":memory:")) as connection,
        CheckApart([check]) as apart,
        pytest.raises(DamagedRowError, match="item 5"),
    ):
        apart.copy(connection, copied.set)


def test_without_a_thread_the_check_is_done_before_the_block(monkeypatch):
    def refused(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    idents = []
    with CheckApart([lambda stopped: idents.append(threading.get_ident())]) as apart:
        assert idents == [threading.get_ident()]
        apart.result()
    assert len(idents) == 1

    def damaged(stopped):
        raise DamagedRowError("item 5 is another one")

    with pytest.raises(DamagedRowError), CheckApart([damaged]):
        pytest.fail("the block was begun")
