"""What a sealed memory on a server keeps to itself, whatever failed before or others did."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from tests.sdk.stores.memory_table import MemoryTable
from tests.toy_embedder import CLS, EMBEDDER, GRID, SIDE, WIDTH

from procmem.batch import binding_of
from procmem.errors import (
    InputError,
    VaultError,
    VaultFormatError,
    VaultKeyError,
    VaultLockedError,
    VaultServerError,
)
from procmem.record import Item, Record
from procmem.stores.contract import EVERYTHING
from procmem.stores.item_keys import ItemKeys
from procmem.stores.sealing import Sealing
from procmem.stores.server import ServerStore

SEAL = "ab" * 16


def record(id_, *, masked=True):
    random = np.random.default_rng(id_)
    vector = random.standard_normal(CLS)
    unit = (vector / np.linalg.norm(vector)).astype(np.float16)
    item = Item(id_, f"secret label {id_}", f"/secret/{id_}.jpg", 77)
    if not masked:
        return Record(item, unit)
    patches = random.integers(-128, 128, (GRID * GRID, WIDTH)).astype(np.int8)
    mask = random.integers(0, 3, (SIDE, SIDE)).astype(np.uint8)
    return Record(item, unit, patches, mask)


def open_store(table, key, *, read_only=False):
    return ServerStore(
        table, binding=binding_of(EMBEDDER), read_only=read_only, key=key, index="exact"
    )


def kept(table):
    """All that the server has of texts, patches and masks, where all of it is sealed."""
    items, masks = table.walk(0, 10_000, EVERYTHING), table.masks(0, 10_000)
    for item in items:
        assert (item.label, item.source) == (None, None)
        assert item.sealed
    assert all(mask.mask == b"" for mask in masks)
    return b"".join([*(item.sealed for item in items), *(mask.patches for mask in masks)])


def readable(store, ids):
    found = list(store.records(ids))
    assert [one.item for one in found] == [record(id_).item for id_ in ids]
    assert all(
        one.mask is None or np.array_equal(one.mask, record(one.item.id).mask) for one in found
    )


# ---- no row in clear


class LeavingTable(MemoryTable):
    """A server that goes away while it is given rows, for as long as `leaving` is set."""

    leaving = away = False

    def insert(self, items):
        new = list(items)
        if self.leaving:
            self.away = True
            raise VaultServerError("the server went away; nothing was added")
        super().insert(new)

    def held(self, ids):
        if self.away:
            raise VaultServerError("the server is still away")
        return super().held(ids)


def test_what_failed_with_the_server_is_sealed_when_it_is_added_again(tmp_path):
    table, key = LeavingTable(), tmp_path / "k"
    with closing(open_store(table, key)) as store:
        table.leaving = True
        with pytest.raises(VaultServerError, match="went away"):
            store.add(map(record, (1, 2, 3)))
        assert store._sealing.keys.ids() == {1, 2, 3}  # since nobody could ask what is held
        table.leaving = table.away = False
        store.add(map(record, (1, 2, 3, 4)))
        assert b"secret" not in kept(table)
        readable(store, [1, 2, 3, 4])
        assert store.problems() == []
    assert key.stat().st_size == 64 * 5  # the keys of before are overwritten


def test_what_another_device_deleted_is_sealed_when_it_is_added_again(connect, tmp_path):
    table = connect()
    with closing(open_store(table, tmp_path / "k")) as store:
        store.add(map(record, (1, 2, 3)))
        before = kept(table)
        other = connect()
        assert other.head()
        other.delete([1, 2])
        store.add(record(id_, masked=id_ == 1) for id_ in (1, 2, 9))
        after = kept(table)
        assert b"secret" not in before + after
        assert before[:64] not in after  # under another key
        readable(store, [1, 2, 3, 9])
        assert store.problems() == []


def test_an_id_that_is_held_keeps_its_key_and_one_given_twice_gets_none(connect, tmp_path):
    table = connect()
    with closing(open_store(table, tmp_path / "k")) as store:
        store.add([record(1)])
        for ids in ([2, 1], [*range(2, 80), 3], [2, 2]):
            with pytest.raises(InputError, match="nothing was added"):
                store.add(map(record, ids))
            assert store._sealing.keys.ids() == {1}
            assert store.count() == 1
        readable(store, [1])


@pytest.mark.parametrize("clear", ["all", "label", "mask"])
def test_a_row_that_is_not_sealed_never_leaves_the_device(tmp_path, monkeypatch, clear):
    table = MemoryTable()
    seal = Sealing.seal

    def forgetful(self, rows):
        if clear == "all":
            return rows
        sealed = seal(self, rows)
        if clear == "mask":
            return [(item, mask) for (item, _), (_, mask) in zip(sealed, rows, strict=True)]
        return [(replace(item, label=b"cat"), mask) for item, mask in sealed]

    monkeypatch.setattr(Sealing, "seal", forgetful)
    with closing(open_store(table, tmp_path / "k")) as store:
        with pytest.raises(VaultError, match="item 1 would have reached the server unsealed"):
            store.add([record(1)])
        assert (table.rows.items, table.rows.masks) == ({}, {})


# ---- who reads while another writes


def test_a_reader_opens_what_came_back_under_the_id_of_what_it_knew(connect, tmp_path):
    table, key = connect(), tmp_path / "k"
    with closing(open_store(table, key)) as writer:
        writer.add(map(record, (1, 2)))
        with closing(open_store(connect(), key, read_only=True)) as reader:
            readable(reader, [1, 2])
            writer.erase([1, 2], receipt=False)
            writer.add(map(record, (1, 2)))
            readable(reader, [1, 2])
            writer.erase([2], receipt=False)
            writer.add([record(2)])
            assert len(list(reader._masks())) == 2
            assert reader.problems() == []


def test_what_the_server_changed_is_told_to_readers_and_writers(tmp_path):
    table, key = MemoryTable(), tmp_path / "k"
    with closing(open_store(table, key)) as writer:
        writer.add([record(1)])
        table.rows.items[1] = replace(table.rows.items[1], sealed=b"\0" * 80)
        with closing(open_store(table, key, read_only=True)) as reader:
            for store in (writer, reader):
                with pytest.raises(VaultFormatError, match="not what was stored"):
                    list(store.items())


# ---- the names of a key file


@pytest.mark.parametrize("link", ["symlink_to", "hardlink_to"])
def test_a_key_file_has_one_writer_whatever_its_names(tmp_path, link):
    path, other = tmp_path / "k", tmp_path / "elsewhere" / "name"
    other.parent.mkdir()
    ItemKeys.create(path, SEAL)
    getattr(other, link)(path)
    for first, second in ((path, other), (other, path)):
        with closing(ItemKeys(first, SEAL, read_only=False)) as keys:
            with pytest.raises(VaultLockedError, match="open for writing elsewhere"):
                ItemKeys(second, SEAL, read_only=False)
            keys.put({5: b"k" * 32})
            with closing(ItemKeys(second, SEAL, read_only=True)) as reader:
                assert reader.get(5) == b"k" * 32
            # What was closed since had the same file open.
            with pytest.raises(VaultLockedError):
                ItemKeys(second, SEAL, read_only=False)
            keys.destroy([5])
        assert not any(path.read_bytes()[64:])


def test_a_child_that_closes_a_key_file_leaves_it_to_its_parent(tmp_path):
    path, other = tmp_path / "k", tmp_path / "name"
    ItemKeys.create(path, SEAL)
    other.hardlink_to(path)
    with closing(ItemKeys(path, SEAL, read_only=False)) as keys:
        child = os.fork()
        if child == 0:
            try:
                keys.close()
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        with pytest.raises(VaultLockedError):
            ItemKeys(other, SEAL, read_only=False)
    ItemKeys(other, SEAL, read_only=False).close()


def test_a_key_file_that_went_away_is_told(tmp_path):
    path = tmp_path / "k"
    ItemKeys.create(path, SEAL)
    with closing(ItemKeys(path, SEAL, read_only=True)) as keys:
        path.unlink()
        with pytest.raises(VaultKeyError, match="cannot be read"):
            keys.get(5)


# ---- what a server says of the memory


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("cls_dim", "x", "does not say which model"),
        ("side", "-32", "does not say which model"),
        ("patch_size", "\u0668", "does not say which model"),
        ("patch_dim", "9" * 5_000, "does not say which model"),
        ("patch_size", "0", "does not say which model"),
        ("seal", "zz", "32 hexadecimal digits"),
        ("seal", "", "32 hexadecimal digits"),
    ],
)
def test_a_head_that_makes_no_sense_is_no_memory(tmp_path, name, value, message):
    table, key = MemoryTable(), tmp_path / "k"
    open_store(table, key).close()
    table.rows.head[name] = value
    with pytest.raises(VaultFormatError, match=f"{message}.*restore it from a backup"):
        open_store(table, key)
