"""A sealed vault: nothing in clear, and nothing to be read in copies from before a deletion."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import keyring
import keyring.backend
import numpy as np
import pytest
from click.testing import CliRunner
from tests.sdk.sharing import contents
from tests.stress import toy

from procmem.cli import main
from procmem.errors import (
    InputError,
    MissingExtraError,
    VaultFormatError,
    VaultKeyError,
    VaultReadOnlyError,
)
from procmem.memory import VisualMemory
from procmem.residue import scan_folder
from procmem.seal import KeyFile, fingerprint, new_key

IDS = range(1, 25)


@pytest.fixture
def places(tmp_path):
    """Folder of the vault and path of its key file."""
    return tmp_path / "v", tmp_path / "key"


def opened(places, **options):
    return VisualMemory(places[0], embedder=toy.EMBEDDER, key=places[1], **options)


@pytest.fixture
def memory(places):
    made = opened(places)
    made.add(
        [toy.picture(id_) for id_ in IDS],
        [toy.label(id_) for id_ in IDS],
        masks=[toy.mask(id_) if toy.has_mask(id_) else None for id_ in IDS],
        sources=[toy.source(id_) for id_ in IDS],
        ids=list(IDS),
    )
    yield made
    made.close()


def test_a_new_memory_has_no_key_in_its_own_folder(tmp_path, caplog):
    inside = tmp_path / "v" / "keys" / "key"
    with pytest.raises(InputError, match="every copy of it has the key"):
        opened((tmp_path / "v", inside))
    assert not (tmp_path / "v").exists()
    opened((tmp_path / "v", tmp_path / "key")).close()
    moved = (tmp_path / "key").rename(tmp_path / "v" / "key")
    opened((tmp_path / "v", moved)).close()  # nobody is locked out of what there is
    assert "every copy of it has the key" in caplog.text


def secrets_in_clear(memory):
    found = []
    for record in memory._vault.records(memory._vault.ids()):
        found += toy.secrets(record)
    return found


def test_it_answers_as_a_plain_memory_does(memory, tmp_path):
    plain = VisualMemory(tmp_path / "plain", embedder=toy.EMBEDDER)
    for record in memory._vault.records(memory._vault.ids()):
        plain._vault.add([record])
    for id_ in (1, 7, 300):
        assert memory.neighbors(toy.picture(id_), k=30) == plain.neighbors(toy.picture(id_), k=30)
    assert list(memory.items()) == list(plain.items())
    assert memory.stats().sealed
    assert not plain.stats().sealed
    ours, theirs = memory._vault.load_dense(), plain._vault.load_dense()
    assert [part.tobytes() for part in ours] == [part.tobytes() for part in theirs]
    assert contents(memory) == contents(plain)
    plain.close()


def test_no_window_of_a_held_item_stands_in_any_file_in_clear(memory, places):
    scan = scan_folder(places[0], secrets_in_clear(memory))
    assert scan.windows_checked > 5_000
    assert scan.windows_found == 0
    # The control: what is stored is found.
    assert scan_folder(places[0], memory._vault.values()).windows_found > 1000


def test_texts_do_not_show_by_length(places):
    with opened(places) as memory:
        memory.add([toy.picture(1), toy.picture(2)], ["a", "b" * 60], ids=[1, 2])
    connection = sqlite3.connect(places[0] / "ledger.sqlite")
    lengths = {row[0] for row in connection.execute("SELECT length(sealed) FROM items")}
    connection.close()
    assert len(lengths) == 1


def test_it_opens_again_with_its_key_and_for_readers(memory, places):
    items = list(memory.items())
    reader = opened(places, read_only=True)
    assert list(reader.items()) == items
    memory.delete(5)
    assert {item.id for item in reader.items()} == set(IDS) - {5}
    memory.close()
    reader.close()
    with opened(places) as again:
        assert {item.id for item in again.items()} == set(IDS) - {5}
        assert again.verify().ok


def test_a_deletion_leaves_no_key_to_old_copies(memory, places, tmp_path):
    shutil.copytree(places[0], tmp_path / "backup")
    old_key = KeyFile(places[1]).keys(memory._vault._connection.head.seal.id)
    assert memory.delete(5).purged
    with pytest.raises(VaultKeyError, match="does not open it"):
        VisualMemory(tmp_path / "backup", key=places[1], read_only=True)
    raw = places[1].read_bytes()
    assert len(old_key) == 1
    assert old_key[0] not in raw
    assert len(KeyFile(places[1]).keys(memory._vault._connection.head.seal.id)) == 1
    # The control: with a copy of the key the copy of the vault is readable, as documented.
    shutil.copy(places[1], tmp_path / "kept")
    memory.add(toy.picture(900), ids=900)
    shutil.copytree(places[0], tmp_path / "second")
    memory.delete(900)
    with VisualMemory(tmp_path / "second", key=tmp_path / "kept", read_only=True) as old:
        assert 900 in {item.id for item in old.items()}


def test_a_deletion_leaves_nothing_of_the_item_in_the_vault(memory, places):
    gone = list(memory._vault.values([6, 7]))
    assert len(gone) > 8
    report = memory.delete([6, 7])
    assert report.windows_found == 0
    assert report.windows_checked > 1000
    assert scan_folder(places[0], gone, entitled=memory._vault.entitled).windows_found == 0
    assert any("copies of the key" in words for words in report.out_of_reach)
    assert report.receipt is not None


def test_every_key_is_wrapped_anew_by_a_purge(memory, places):
    def columns():
        connection = sqlite3.connect(places[0] / "ledger.sqlite")
        rows = connection.execute("SELECT wrapped, sealed FROM items WHERE id != 5").fetchall()
        epoch = connection.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchone()
        connection.close()
        return [row[0] for row in rows], [row[1] for row in rows], epoch

    before = columns()
    memory.delete(5)
    after = columns()
    assert before[1] == after[1]
    assert not set(before[0]) & set(after[0])
    assert before[2] != after[2]
    keys = set(before[0]) | set(after[0])
    assert len(keys) == 2 * (len(IDS) - 1)


@pytest.mark.parametrize("wrong", ["none", "another vault's", "no key file", "missing", "garbled"])
def test_without_its_key_it_stays_closed(memory, places, tmp_path, wrong):
    memory.close()
    before = toy.files(places[0])
    key = tmp_path / "wrong"
    if wrong == "another vault's":
        VisualMemory(tmp_path / "other", embedder=toy.EMBEDDER, key=key).close()
    elif wrong == "no key file":
        key.write_bytes(b"a picture")
    elif wrong == "garbled":
        data = bytearray(places[1].read_bytes())
        data[4100] ^= 1
        key.write_bytes(data)
    words = {
        "none": "is sealed; give its key",
        "another vault's": "belongs to another",
        "no key file": "no sound procmem key file",
        "missing": "is missing",
        "garbled": "does not open it",
    }
    for read_only in (True, False):
        with pytest.raises(VaultKeyError, match=words[wrong]):
            VisualMemory(places[0], key=None if wrong == "none" else key, read_only=read_only)
    after = toy.files(places[0])
    assert {name: after[name] for name in before} == before
    with opened(places) as again:
        assert len(again) == len(IDS)


def test_a_key_file_belongs_to_one_vault(memory, places, tmp_path):
    with pytest.raises(VaultKeyError, match="exists already"):
        VisualMemory(tmp_path / "second", embedder=toy.EMBEDDER, key=places[1])
    assert memory.verify().ok
    with pytest.raises(VaultKeyError, match="cannot be made"):
        VisualMemory(tmp_path / "third", embedder=toy.EMBEDDER, key=tmp_path / "no" / "key")


def test_a_plain_vault_takes_no_key(tmp_path):
    VisualMemory(tmp_path / "v", embedder=toy.EMBEDDER).close()
    with pytest.raises(VaultKeyError, match="not sealed"):
        VisualMemory(tmp_path / "v", key=tmp_path / "key")


@pytest.mark.parametrize("table", ["items", "dense"])
@pytest.mark.parametrize("act", ["swap", "flip", "move", "drop"])
def test_whoever_changes_a_row_is_noticed(memory, places, table, act):
    memory.close()
    connection = sqlite3.connect(places[0] / "ledger.sqlite")
    connection.text_factory = bytes
    a, b = (6, 12) if table == "dense" else (7, 8)
    one = connection.execute(f"SELECT sealed FROM {table} WHERE id = ?", (a,)).fetchone()[0]
    other = connection.execute(f"SELECT sealed FROM {table} WHERE id = ?", (b,)).fetchone()[0]
    if act == "swap":
        connection.execute(f"UPDATE {table} SET sealed = ? WHERE id = ?", (other, a))
        connection.execute(f"UPDATE {table} SET sealed = ? WHERE id = ?", (one, b))
    elif act == "flip":
        flipped = bytes([one[0] ^ 1]) + one[1:]
        connection.execute(f"UPDATE {table} SET sealed = ? WHERE id = ?", (flipped, a))
    elif act == "move":
        connection.execute(f"UPDATE {table} SET id = 5000 WHERE id = ?", (a,))
    else:
        connection.execute(f"DELETE FROM {table} WHERE id = ?", (a,))
    connection.commit()
    connection.close()
    with opened(places) as again:
        assert not again.verify().ok
        if table == "items":
            with pytest.raises(VaultFormatError, match="damaged"):
                again.neighbors(toy.picture(1))


def test_a_crash_between_the_two_keys_leaves_the_vault_readable(memory, places):
    seal = memory._vault._connection.head.seal
    place = KeyFile(places[1])
    key = place.keys(seal.id)[0]
    assert fingerprint(key) == seal.epoch
    # Died before the new ledger was in place.
    place.put(seal.id, new_key(), beside=key)
    memory.close()
    assert len(place.keys(seal.id)) == 2
    with opened(places) as again:
        assert len(again) == len(IDS)
        assert place.keys(seal.id) == [key]
        # Died after it: the old key is still there.
        again.delete(3)
        new = place.keys(seal.id)[0]
        place.put(seal.id, key, beside=new)
    with opened(places) as again:
        assert len(again) == len(IDS) - 1
        assert place.keys(seal.id) == [new]
    assert key not in places[1].read_bytes()


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_key_file_that_cannot_be_written_leaves_the_purge_pending(memory, places, caplog):
    places[1].chmod(0o400)
    with caplog.at_level(logging.WARNING):
        assert not memory.delete(3).purged
    assert "stays pending" in caplog.text


def test_a_key_place_that_refuses_leaves_the_purge_pending(memory, places, monkeypatch):
    def refuse(*arguments, **options):
        raise VaultKeyError("no")

    with monkeypatch.context() as patched:
        patched.setattr(KeyFile, "put", refuse)
        assert not memory.delete(3).purged
    assert memory.stats().purge_pending
    memory.close()
    with opened(places) as again:
        assert not again.stats().purge_pending
        assert len(again) == len(IDS) - 1


def test_a_reader_in_another_process_follows_every_purge(memory, places):
    script = """
import sys
from tests.stress import toy
from procmem.memory import VisualMemory
reader = VisualMemory(sys.argv[1], embedder=toy.EMBEDDER, key=sys.argv[2], read_only=True)
print("ready", flush=True)
for line in sys.stdin:
    print(sum(1 for _ in reader.items()), len(reader.neighbors(toy.picture(1), k=99)), flush=True)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script, *map(str, places)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path.cwd()), *sys.path])},
    )
    try:
        assert process.stdout.readline() == "ready\n"
        for done, id_ in enumerate(range(1, 9), start=1):
            memory.delete(id_)
            process.stdin.write("\n")
            process.stdin.flush()
            left = len(IDS) - done
            assert process.stdout.readline() == f"{left} {left}\n"
    finally:
        process.kill()
        process.communicate()


def test_a_sealed_reader_writes_nothing(memory, places):
    memory.close()
    before = toy.files(places[0]), places[1].read_bytes()
    with opened(places, read_only=True) as reader:
        reader.neighbors(toy.picture(1))
        with pytest.raises(VaultReadOnlyError):
            reader.delete(1)
    assert (toy.files(places[0]), places[1].read_bytes()) == before


# ---- the system's keystore


class Shelf(keyring.backend.KeyringBackend):
    """A keystore in working memory."""

    priority = 1

    def __init__(self):
        super().__init__()
        self.kept = {}

    def get_password(self, service, username):
        return self.kept.get((service, username))

    def set_password(self, service, username, password):
        self.kept[service, username] = password

    def delete_password(self, service, username):
        del self.kept[service, username]


@pytest.fixture
def shelf():
    before = keyring.get_keyring()
    made = Shelf()
    keyring.set_keyring(made)
    yield made
    keyring.set_keyring(before)


def test_the_keystore_keeps_one_key_and_changes_it_with_every_purge(tmp_path, shelf):
    with VisualMemory(tmp_path / "v", embedder=toy.EMBEDDER, key="keystore") as memory:
        memory.add([toy.picture(1), toy.picture(2)], ids=[1, 2])
        first = set(shelf.kept.values())
        memory.delete(1)
        second = set(shelf.kept.values())
    assert len(first) == len(second) == 1
    assert first != second
    with VisualMemory(tmp_path / "v", embedder=toy.EMBEDDER, key="keystore") as memory:
        assert [item.id for item in memory.items()] == [2]
    shelf.kept.clear()
    with pytest.raises(VaultKeyError, match="does not open it"):
        VisualMemory(tmp_path / "v", key="keystore")


def test_a_keystore_that_refuses_is_told(tmp_path, shelf, monkeypatch):
    def refuse(*arguments):
        raise keyring.errors.KeyringLocked("locked")

    monkeypatch.setattr(shelf, "set_password", refuse)
    with pytest.raises(VaultKeyError, match="refused"):
        VisualMemory(tmp_path / "v", embedder=toy.EMBEDDER, key="keystore")


def test_without_keyring_the_keystore_is_named_as_an_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "keyring", None)
    with pytest.raises(MissingExtraError, match=r"procmem\[sealed\]"):
        VisualMemory(tmp_path / "v", embedder=toy.EMBEDDER, key="keystore")


# ---- on the command line


def test_the_command_line_makes_opens_and_refuses(memory, places):
    memory.close()
    run = CliRunner().invoke
    shown = run(main, ["stats", "--vault", str(places[0]), "--vault-key", str(places[1]), "--json"])
    assert json.loads(shown.output)["sealed"]
    by_variable = {"PROCMEM_VAULT_KEY": str(places[1])}
    shown = run(main, ["stats", "--vault", str(places[0])], env=by_variable)
    assert "sealed" in shown.output
    refused = run(main, ["stats", "--vault", str(places[0])])
    assert refused.exit_code == 1
    assert "is sealed; give its key" in refused.output


def test_the_counters_of_sqlite_are_no_remains_of_a_mask(places):
    # Fifteen times 0 and then 2: what the edge of a mask and a counter in the file's head share.
    mask = np.zeros((4, 4), dtype=np.uint8)
    mask[:, 2:] = 2
    with opened(places) as memory:
        memory.add([toy.picture(1), toy.picture(2)], masks=[mask, None], ids=[1, 2])
        assert memory.delete(1).windows_found == 0
