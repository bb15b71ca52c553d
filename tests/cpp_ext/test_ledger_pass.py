"""A pass over a ledger's file sees what SQLite sees, or refuses; it never goes astray."""

from __future__ import annotations

import os
import random
import sqlite3
from contextlib import closing

import numpy as np
import pytest

from procmem import _erasure
from procmem.checking import check_rows
from procmem.committer import Committer
from procmem.ledger import Head, add_checksums, read_checksums, write_ledger
from procmem.record import Binding
from procmem.residue import Search
from procmem.rows import DamagedRowError, PlainRows

FORM = PlainRows()
HEAD = Head(Binding("ab" * 32, "toy", cls_dim=8, patch_dim=8, side=32, patch_size=8))
SECRET = b"only the vault knows"
PAGE = 4096
# Lengths around those where a row leaves its page, and where a chain of pages gets another one.
LENGTHS = [1, 15, 16, 17, 300, 1000, 3980, 4000, 4020, 4061, 4062, 8000, 8200, 20_000, 130_000]


def values(id_, chance):
    text = chance.randbytes
    label = None if chance.random() < 0.3 else text(chance.choice(LENGTHS[:5]))
    source = None if chance.random() < 0.3 else text(chance.choice(LENGTHS))
    vector = text(chance.choice([0, 16, 768, 3900, 4096, 5000]))
    seconds = chance.choice([0, 1, 127, 128, 40_000, -5, 2**31, 2**40, 2**62, -(2**63)])
    dense = None
    if chance.random() < 0.3:
        dense = (id_, text(chance.choice(LENGTHS)), text(chance.choice(LENGTHS)))
    return (id_, vector, label, source, seconds), dense


def fill(path, seed, count=120):
    """A ledger that has been changed again and again, whose tree is far from tidy."""
    chance = random.Random(seed)
    write_ledger(path, HEAD, FORM)
    with closing(sqlite3.connect(path)) as connection:
        held = {}
        for _ in range(4):
            ids = {chance.choice([chance.randrange(1, 300), chance.randrange(1, 2**63)])
                   for _ in range(chance.randrange(count))}  # fmt: skip
            for id_ in ids - set(held):
                held[id_] = FORM.pack(*values(id_, chance))
                item, dense = held[id_]
                connection.execute(FORM.insert_item, item)
                if dense is not None:
                    connection.execute(FORM.insert_dense, dense)
                add_checksums(connection, item[-1], 0 if dense is None else dense[-1])
            for id_ in chance.sample(sorted(held), len(held) // 3):
                item, dense = held.pop(id_)
                for table in ("items", "dense"):
                    connection.execute(f"DELETE FROM {table} WHERE id = ?", (id_,))
                add_checksums(connection, -item[-1], 0 if dense is None else -dense[-1])
        connection.commit()
    return held


def roots(path):
    with closing(sqlite3.connect(path)) as connection:
        return dict(connection.execute("SELECT name, rootpage FROM sqlite_master"))


def go_through(path, pages, **options):
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        size = os.fstat(descriptor).st_size
        found = _erasure.LedgerPass(descriptor, size, pages["items"], pages["dense"], **options)
        while found.step():
            pass
        return found
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("seed", range(12))
def test_it_sees_what_sqlite_sees(tmp_path, seed):
    path = tmp_path / "ledger.sqlite"
    held = fill(path, seed)
    secrets = [value for row, _ in list(held.values())[::4] for value in row[1:4] if value]
    search, other = Search(secrets), Search(secrets)
    committer = Committer(SECRET)
    with closing(sqlite3.connect(path)) as connection:
        check_rows(connection, FORM, committer.take, see=search.explain)
        sums = read_checksums(connection)
    found = go_through(path, roots(path), secret=SECRET, finder=search.finder)
    assert found.checksums() == sums
    for ours, theirs in zip(found.codes(), committer.result(), strict=True):
        assert np.array_equal(ours, theirs)
    other.explain_windows(found.found())
    assert np.array_equal(other._explained, search._explained)
    assert len(held) == len(found.codes()[0]) > 10


def test_a_whole_ledger_of_many_pages_is_read_to_its_end(tmp_path):
    path = tmp_path / "ledger.sqlite"
    rows = [FORM.pack((id_, id_.to_bytes(768, "big"), b"cat", None, id_), None)[0]
            for id_ in range(1, 20_001)]  # fmt: skip
    write_ledger(path, HEAD, FORM, rows)
    found = go_through(path, roots(path), secret=SECRET)
    assert found.codes()[0].tolist() == list(range(1, 20_001))
    assert found.checksums() == (sum(row[-1] for row in rows), 0)


def test_an_empty_ledger_has_nothing(tmp_path):
    write_ledger(tmp_path / "ledger.sqlite", HEAD, FORM)
    found = go_through(tmp_path / "ledger.sqlite", roots(tmp_path / "ledger.sqlite"), secret=b"")
    assert found.checksums() == (0, 0)
    assert found.codes()[1].shape == (0, 32)
    assert found.found().shape == (0,)


def test_a_window_that_crosses_two_texts_stands_in_neither(tmp_path):
    path = tmp_path / "ledger.sqlite"
    texts = [b"0123456789abcdef", b"fedcba9876543210", b"short"]
    rows = [FORM.pack((at + 1, b"", text, None, 0), None)[0] for at, text in enumerate(texts)]
    write_ledger(path, HEAD, FORM, rows)
    search = Search([texts[0] + texts[1]])
    found = go_through(path, roots(path), finder=search.finder).found()
    assert len(found) == 17
    assert found.sum() == 2  # the two texts themselves


@pytest.mark.parametrize("seed", range(4))
def test_no_damage_leads_it_astray(tmp_path, seed):
    """It fails, or sees exactly what was once written: with whatever bytes changed or missing."""
    path = tmp_path / "ledger.sqlite"
    fill(path, seed, count=60)
    whole, pages = path.read_bytes(), roots(path)
    sound = go_through(path, pages, secret=SECRET)
    chance = random.Random(seed)
    failed = 0
    for _ in range(250):
        data = bytearray(whole)
        for _ in range(chance.choice([1, 1, 3, 30])):
            # Most often where pages say what stands in them.
            page = chance.randrange(len(data) // PAGE) * PAGE
            at = page + chance.randrange(chance.choice([12, 100, PAGE]))
            data[at] = chance.choice([0, 1, 5, 13, 0x80, 0xFF, data[at] ^ 1 << chance.randrange(8)])
        if chance.random() < 0.1:
            del data[chance.randrange(len(data)) :]
        path.write_bytes(data)
        try:
            found = go_through(path, pages, secret=SECRET)
        except ValueError:
            failed += 1
            continue
        if found.checksums() == sound.checksums():
            for ours, theirs in zip(found.codes(), sound.codes(), strict=True):
                assert np.array_equal(ours, theirs)
        else:
            failed += 1
    assert failed > 50


def patched(data, at, value):
    return data[:at] + value + data[at + len(value) :]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: b"", "too short"),
        (lambda data: data[:99], "too short"),
        (lambda data: patched(data, 0, b"sqlite"), "another beginning"),
        (lambda data: patched(data, 16, b"\x0f\xff"), "another kind"),
        (lambda data: patched(data, 19, b"\x02"), "another kind"),  # with a write-ahead log
        (lambda data: patched(data, 56, b"\0\0\0\2"), "another kind"),  # UTF-16
        (lambda data: data[: 2 * PAGE], "no table has"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path, change, said):
    path = tmp_path / "ledger.sqlite"
    fill(path, 1)
    pages = roots(path)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=said):
        go_through(path, pages)


def test_tables_that_share_pages_are_not_walked_for_ever(tmp_path):
    path = tmp_path / "ledger.sqlite"
    rows = [FORM.pack((id_, bytes(3000), None, None, 0), None)[0] for id_ in range(1, 800)]
    write_ledger(path, HEAD, FORM, rows)
    pages = roots(path)
    data = bytearray(path.read_bytes())
    root = (pages["items"] - 1) * PAGE
    assert data[root] == 5  # inside a tree, see https://sqlite.org/fileformat2.html
    cells = int.from_bytes(data[root + 3 : root + 5], "big")
    for cell in range(cells):  # each of them leads back
        at = root + int.from_bytes(data[root + 12 + 2 * cell : root + 14 + 2 * cell], "big")
        data[at : at + 4] = pages["items"].to_bytes(4, "big")
    path.write_bytes(data)
    with pytest.raises(ValueError, match="meet again"):
        go_through(path, pages)


def test_rows_that_share_pages_are_not_walked_for_ever(tmp_path):
    path = tmp_path / "ledger.sqlite"
    write_ledger(path, HEAD, FORM, [FORM.pack((1, bytes(50_000), None, None, 0), None)[0]])
    pages = roots(path)
    data = bytearray(path.read_bytes())
    places = {page: page * PAGE for page in range(3, len(data) // PAGE)}
    chain = next(page for page, at in places.items()
                 if data[at : at + 4] == (page + 2).to_bytes(4, "big"))  # fmt: skip
    data[places[chain] : places[chain] + 4] = (chain + 1).to_bytes(4, "big")  # leads to itself
    path.write_bytes(data)
    # It ends with the row, whose bytes are then others, or with the pages that there are.
    with pytest.raises(ValueError, match=r"checksum|share pages"):
        go_through(path, pages)


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    path = tmp_path / "ledger.sqlite"
    fill(path, 1)
    pages = roots(path)
    descriptor = os.open(path, os.O_WRONLY)
    with pytest.raises(ValueError, match="cannot be read"):
        _erasure.LedgerPass(descriptor, path.stat().st_size, pages["items"], pages["dense"])
    os.close(descriptor)


def test_a_secret_must_fit(tmp_path):
    with pytest.raises(ValueError, match="64 at most"):
        _erasure.LedgerPass(-1, 0, 2, 3, secret=bytes(65))


@pytest.mark.parametrize("page", [0, 1, 2**32 - 1])
def test_a_table_must_begin_somewhere(tmp_path, page):
    path = tmp_path / "ledger.sqlite"
    fill(path, 1)
    with pytest.raises(ValueError, match="no table has"):
        go_through(path, {**roots(path), "items": page})


def test_what_sqlite_refuses_is_refused_too(tmp_path):
    path = tmp_path / "ledger.sqlite"
    fill(path, 3)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE items SET added_seconds = added_seconds + 0.5")
        connection.commit()
        with pytest.raises(DamagedRowError):
            check_rows(connection, FORM)
    with pytest.raises(ValueError, match="whole number"):
        go_through(path, roots(path))
