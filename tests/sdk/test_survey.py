"""A survey reads a plain ledger from its file, and leaves to SQLite what is not sound there."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import numpy as np
import pytest
from tests.sdk.test_checking import DAMAGES, IDS
from tests.stress import toy

from procmem.checking import Flag, check_rows
from procmem.committer import Committer
from procmem.residue import Search
from procmem.rows import DamagedRowError, PlainRows
from procmem.survey import survey
from procmem.vault import Vault


@pytest.fixture(scope="module")
def ledger(tmp_path_factory):
    """The bytes of a ledger in which some items have masks."""
    folder = tmp_path_factory.mktemp("vault") / "v"
    with closing(Vault(folder, binding=toy.BINDING)) as vault:
        vault.add(map(toy.record, IDS))
    return (folder / "ledger.sqlite").read_bytes()


@pytest.fixture
def path(ledger, tmp_path):
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(ledger)
    return path


@pytest.fixture
def connection(path):
    with closing(sqlite3.connect(path, isolation_level=None)) as opened:
        yield opened


@pytest.fixture
def by_sqlite(monkeypatch):
    """How often rows were read by SQLite."""
    calls = []

    def counted(*arguments, **options):
        calls.append(arguments)
        check_rows(*arguments, **options)

    monkeypatch.setattr("procmem.survey.check_rows", counted)
    return calls


def secrets_of(connection):
    rows = connection.execute("SELECT vector, CAST(source AS BLOB) FROM items WHERE id % 9 = 0")
    return [value for row in rows for value in row if value]


def test_both_ways_give_the_same(path, connection, by_sqlite):
    secrets = secrets_of(connection)
    ways = [(Committer(b"secret"), Search(secrets)) for _ in range(2)]
    survey(connection, path, PlainRows(), committer=ways[0][0], search=ways[0][1])
    assert by_sqlite == []
    check_rows(connection, PlainRows(), ways[1][0].take, see=ways[1][1].explain)
    for ours, theirs in zip(ways[0][0].result(), ways[1][0].result(), strict=True):
        assert np.array_equal(ours, theirs)
    assert ways[0][0].result()[0].tolist() == list(IDS)
    assert np.array_equal(ways[0][1]._explained, ways[1][1]._explained)
    assert ways[0][1]._explained.any()


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_kind_of_damage_is_told_by_sqlite(path, connection, by_sqlite, damage):
    committer = Committer(b"secret")
    survey(connection, path, PlainRows())
    assert connection.execute(damage).rowcount == 1
    with pytest.raises(DamagedRowError):
        survey(connection, path, PlainRows())
    assert len(by_sqlite) == 1
    with pytest.raises(DamagedRowError):
        survey(connection, path, PlainRows(), committer=committer)


def test_what_is_sound_but_of_another_form_is_read_by_sqlite(path, connection, by_sqlite):
    connection.execute("UPDATE items SET label = CAST(label AS BLOB) WHERE id = 4")
    committer = Committer(b"secret")
    survey(connection, path, PlainRows(), committer=committer)
    assert len(by_sqlite) == 1
    assert committer.result()[0].tolist() == list(IDS)  # each of them once


@pytest.mark.parametrize("stop", [False, True])
def test_it_stops_where_it_is_told_to(path, connection, stop):
    rows = [PlainRows().pack((id_, bytes(4000), None, None, 0), None)[0]
            for id_ in range(1000, 4000)]  # fmt: skip
    connection.executemany(PlainRows().insert_item, rows)
    connection.execute("UPDATE meta SET value = value + ? WHERE key = 'items_checksum'",
                       (sum(row[-1] for row in rows),))  # fmt: skip
    flag = Flag()
    if stop:
        flag.set()
        with pytest.raises(sqlite3.OperationalError, match="interrupted"):
            survey(connection, path, PlainRows(), stopped=flag)
    else:
        survey(connection, path, PlainRows(), stopped=flag)


def test_a_deletion_reads_a_plain_ledger_from_its_file(tmp_path, by_sqlite):
    with closing(Vault(tmp_path / "v", binding=toy.BINDING)) as vault:
        vault.add(map(toy.record, IDS))
        vault.delete([5, 6])
        assert vault.purge(committer=Committer(b"secret"))
        vault.commit(Committer(b"secret"))
        vault.check()
    assert by_sqlite == []
