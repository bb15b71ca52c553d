"""What deletion leaves behind: nothing. Looks at the files' raw bytes."""

from __future__ import annotations

import os
import sqlite3
import threading

import numpy as np
import pytest

from procmem import purge, residue
from procmem.erasure import erase
from procmem.record import Binding, Item, Record, encode_text
from procmem.residue import ResidueScan, Search, scan_folder, windows
from procmem.vault import Vault

BINDING = Binding("ab" * 32, "toy", cls_dim=48, patch_dim=12, side=32, patch_size=8)


def record(id_, *, label="shared label of many", dense=True):
    """A record that is a function of its id."""
    random = np.random.default_rng(id_)
    label = f"{label} {'of its own ' * (id_ % 60)}" if id_ % 3 else label
    patches = random.integers(-127, 128, (16, 12)).astype(np.int8) if dense else None
    mask = random.integers(0, 256, (32, 32)).astype(np.uint8) if dense else None
    source = f"/home/somebody/photos/{random.integers(10**12)}/image.jpg"
    item = Item(id_, label.strip(), source, added_seconds=1_700_000_000 + id_)
    return Record(item, random.standard_normal(48).astype(np.float16), patches, mask)


def stored_values(of):
    """The bytes of which no window may stay, told by the test and not by the vault."""
    values = [of.vector.tobytes(), encode_text(of.item.label), encode_text(of.item.source)]
    if of.patches is not None:
        values += [of.patches.tobytes(), of.mask.tobytes()]
    return values


class HastyVault(Vault):
    """Does not wait for the disk, which changes when bytes arrive there but not which."""

    def _connect(self):
        connection = super()._connect()
        connection.execute("PRAGMA synchronous=OFF")
        return connection


def test_purged_vaults_of_equal_contents_are_byte_identical_whatever_their_history(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    survivors = [record(id_, dense=id_ % 4 == 0) for id_ in range(1000, 1025)]
    ledgers = set()
    for seed in range(30):
        random = np.random.default_rng(seed)
        visitors = [record(int(i), dense=i % 2 == 0) for i in random.permutation(900)[:12] + 1]
        everyone = survivors + visitors
        vault = HastyVault(tmp_path / str(seed), binding=BINDING)
        try:
            order = random.permutation(len(everyone))
            for part in np.array_split(order, random.integers(1, 5)):
                vault.add([everyone[at] for at in part])
                if random.random() < 0.3:
                    assert vault.purge()
            for part in np.array_split(random.permutation(len(visitors)), random.integers(1, 4)):
                vault.delete([visitors[at].item.id for at in part])
                if random.random() < 0.3:
                    assert vault.purge()
            if random.random() < 0.5:  # a survivor that left and came back
                vault.delete([survivors[3].item.id])
                vault.add([survivors[3]])
            for _ in range(random.integers(1, 3)):
                assert vault.purge()
        finally:
            vault.close()
        names = sorted(path.name for path in (tmp_path / str(seed)).iterdir())
        assert names == ["KEY", "LOCK", "ledger.sqlite"]
        ledgers.add((tmp_path / str(seed) / "ledger.sqlite").read_bytes())
    assert len(ledgers) == 1


def test_a_vault_emptied_again_is_the_vault_that_was_never_used(tmp_path):
    used = Vault(tmp_path / "used", binding=BINDING)
    used.add([record(id_) for id_ in range(1, 20)])
    used.delete(range(1, 20))
    assert used.purge()
    used.close()
    Vault(tmp_path / "fresh", binding=BINDING).close()
    ledgers = [(tmp_path / name / "ledger.sqlite").read_bytes() for name in ("used", "fresh")]
    assert ledgers[0] == ledgers[1]


def test_delete_and_purge_leave_no_window_in_any_file(tmp_path):
    records = [record(id_) for id_ in range(1, 60)]
    vault = Vault(tmp_path / "v", binding=BINDING)
    vault.add(records)
    gone, kept = records[10:25], records[:10] + records[25:]
    secrets = [value for one in gone for value in stored_values(one)]
    entitled = [value for one in kept for value in stored_values(one)]
    before = scan_folder(vault.path, secrets, entitled=lambda: entitled)
    vault.delete([one.item.id for one in gone])
    assert vault.purge()
    vault.close()
    after = scan_folder(vault.path, secrets, entitled=lambda: entitled)
    # The scan can see: before, it found nearly every window that survivors do not share.
    assert before.windows_found > 0.9 * before.windows_checked > 10_000
    assert after.windows_found == 0
    assert after.windows_checked == before.windows_checked
    assert after.files == ("KEY", "LOCK", "ledger.sqlite")


def test_the_scan_finds_what_a_plain_delete_leaves(tmp_path):
    records = [record(id_) for id_ in range(1, 30)]
    vault = Vault(tmp_path / "v", binding=BINDING)
    vault.add(records)
    vault.close()
    connection = sqlite3.connect(tmp_path / "v" / "ledger.sqlite", isolation_level=None)
    connection.execute("PRAGMA secure_delete=OFF")
    connection.execute("DELETE FROM items WHERE id = 7")
    connection.execute("DELETE FROM dense WHERE id = 7")
    connection.close()
    vault = Vault(tmp_path / "v", binding=BINDING)
    scan = scan_folder(vault.path, stored_values(records[6]), entitled=vault.entitled)
    vault.close()
    assert scan.windows_found > 0.5 * scan.windows_checked


def test_purge_zeroes_the_old_file(tmp_path):
    vault = Vault(tmp_path / "v", binding=BINDING)
    vault.add([record(id_) for id_ in range(1, 30)])
    with (tmp_path / "v" / "ledger.sqlite").open("rb") as old:
        vault.delete([5])
        assert vault.purge()
        old.seek(0)
        data = old.read()
    vault.close()
    assert len(data) > 30_000
    assert not any(data)


@pytest.mark.parametrize("offset", range(17))
@pytest.mark.parametrize("place", ["start", "middle", "end"])
def test_a_window_is_found_at_every_offset_of_file_and_secret(tmp_path, offset, place):
    random = np.random.default_rng(offset)
    secret = random.bytes(100)
    window = secret[offset * 5 : offset * 5 + 16]
    around = random.bytes(200 + offset)
    left = {"start": 0, "middle": 77 + offset, "end": len(around)}[place]
    (tmp_path / "file").write_bytes(around[:left] + window + around[left:])
    assert scan_folder(tmp_path, [secret]).windows_found == 1


def test_a_window_across_two_reads_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(residue, "_PIECE_BYTES", 64)
    random = np.random.default_rng(0)
    secret = random.bytes(500)
    for start in range(40, 80):
        (tmp_path / "file").write_bytes(random.bytes(start) + secret[300:316] + random.bytes(90))
        assert scan_folder(tmp_path, [secret]).windows_found == 1, start


@pytest.mark.parametrize("piece", [512, 1 << 22])
def test_the_scan_equals_a_search_by_hand(tmp_path, monkeypatch, piece):
    """Also in pieces, after each of which what was found is looked for no longer."""
    monkeypatch.setattr(residue, "_PIECE_BYTES", piece)
    random = np.random.default_rng(3)
    for round_ in range(20):
        # Few byte values make runs, repeats and near misses.
        secrets = [random.integers(0, 2, 60, dtype=np.uint8).tobytes() for _ in range(3)]
        data = random.integers(0, 2, 3000, dtype=np.uint8).tobytes()
        data = secrets[0] + data[:1500] + secrets[1] + data[1500:]
        kept = secrets[0][:30] + data[:120] + secrets[1][20:] + data[1300:1600]
        (tmp_path / "file").write_bytes(data)
        scan = scan_folder(tmp_path, secrets, entitled=lambda kept=kept: [kept[:150], kept[150:]])
        windows = {s[at : at + 16] for s in secrets for at in range(len(s) - 15)}
        windows = {window for window in windows if len(set(window)) > 1}
        held = {w for w in windows if w in data and w not in kept[:150] and w not in kept[150:]}
        assert (scan.windows_checked, scan.windows_found) == (len(windows), len(held)), round_


def test_windows_that_survivors_hold_are_no_remains(tmp_path):
    (tmp_path / "file").write_bytes(b"..../home/somebody/photos/b.jpg")
    secret = b"/home/somebody/photos/a.jpg"
    assert scan_folder(tmp_path, [secret]).windows_found > 0
    entitled = [b"/home/somebody/photos/b.jpg"]
    assert scan_folder(tmp_path, [secret], entitled=lambda: entitled).windows_found == 0


def test_the_end_of_one_value_and_the_start_of_the_next_entitle_to_nothing(tmp_path):
    secret = b"0123456789abcdef"
    (tmp_path / "file").write_bytes(secret)
    halves = [secret[:8], secret[8:]]
    assert scan_folder(tmp_path, [secret], entitled=lambda: halves).windows_found == 1


def test_what_was_explained_is_not_asked_for(tmp_path):
    (tmp_path / "file").write_bytes(b"..../home/somebody/photos/b.jpg")
    search = Search([b"/home/somebody/photos/a.jpg"])
    search.explain([b"another"])
    search.explain([b"another", b"/home/somebody/photos/c.jpg", b""])
    scan = search.scan(tmp_path, entitled=lambda: pytest.fail("asked"))
    assert scan.windows_found == 0
    assert scan.windows_checked == 27 - 15


def test_what_was_explained_in_part_is_asked_for_and_found(tmp_path):
    secret = b"0123456789abcdefghij"
    (tmp_path / "file").write_bytes(secret)
    search = Search([secret])
    search.explain([secret[:8], secret[8:], secret[2:18]])  # not across two values
    asked = []
    scan = search.scan(tmp_path, entitled=lambda: asked.append(True) or [secret[:17]])
    assert asked
    assert scan.windows_found == 5 - 2 - 1


@pytest.mark.parametrize("piece", [64, 1 << 21])
def test_of_many_secrets_those_that_are_not_explained_are_asked_for(tmp_path, monkeypatch, piece):
    monkeypatch.setattr(residue, "_PIECE_BYTES", piece)
    random = np.random.default_rng(4)
    secrets = [random.bytes(40) for _ in range(30)]
    (tmp_path / "file").write_bytes(b"-".join(secrets))
    search = Search(secrets)
    search.explain(secrets[:10])
    assert search.scan(tmp_path, entitled=lambda: secrets[5:25]).windows_found == 5 * (40 - 15)


@pytest.fixture
def read(monkeypatch):
    """The files that are searched, in order."""
    paths = []
    chunks = residue._chunks

    def noted(path):
        paths.append(path.name)
        return chunks(path)

    monkeypatch.setattr(residue, "_chunks", noted)
    return paths


def test_what_was_looked_into_ahead_is_not_read_again_and_counts(tmp_path, read):
    (tmp_path / "one").write_bytes(b"....0123456789abcdef....")
    (tmp_path / "two").write_bytes(b"....0123456789abcdefg...")
    search = Search([b"0123456789abcdefgh"])
    search.look(tmp_path / "one")
    assert read == ["one"]
    scan = search.scan(tmp_path)
    assert read == ["one", "two"]
    assert scan == ResidueScan(("one", "two"), 3, 2)


@pytest.mark.parametrize("change", ["bytes", "another file"])
def test_what_has_changed_since_it_was_looked_into_is_read_again(tmp_path, read, change):
    path = tmp_path / "one"
    path.write_bytes(b"................")
    search = Search([b"0123456789abcdef"])
    search.look(path)
    times = path.stat()
    if change == "bytes":
        path.write_bytes(b"0123456789abcdef")
    else:
        (tmp_path / "new").write_bytes(b"0123456789abcdef")
        (tmp_path / "new").replace(path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert search.scan(tmp_path).windows_found == 1
    assert read == ["one", "one"]


def test_a_file_that_goes_is_no_remain_and_one_that_cannot_be_read_no_error_yet(tmp_path):
    search = Search([b"0123456789abcdef"])
    search.look(tmp_path / "missing")
    (tmp_path / "one").write_bytes(b"0123456789abcdef")
    search.look(tmp_path / "one")
    (tmp_path / "one").unlink()
    assert search.scan(tmp_path) == ResidueScan((), 1, 0)


@pytest.mark.parametrize("key", [False, True])
def test_a_deletion_searches_while_the_old_ledger_is_zeroed(tmp_path, read, monkeypatch, key):
    vault = Vault(tmp_path / "v", binding=BINDING, key=tmp_path / "key" if key else None)
    vault.add([record(id_) for id_ in range(1, 40)])
    looked = threading.Event()
    zero, look = purge.overwrite_with_zeros, Search.look

    def zero_later(descriptor):
        assert looked.wait(60)
        assert not (tmp_path / "v" / "ledger.sqlite").samefile(f"/proc/self/fd/{descriptor}")
        zero(descriptor)

    def look_first(self, path):
        look(self, path)
        looked.set()

    monkeypatch.setattr(purge, "overwrite_with_zeros", zero_later)
    monkeypatch.setattr(Search, "look", look_first)
    report = erase(vault, [3, 7], purge_limit=1000, receipt=False, deleted=lambda: None)
    assert report.purged
    assert report.windows_found == 0
    assert read.count("ledger.sqlite") == 1
    assert "ledger.sqlite" in report.files_scanned


def test_nothing_erased_needs_no_explanation(tmp_path):
    (tmp_path / "file").write_bytes(b"0123456789abcdef")
    search = Search([b"short", b""])
    search.explain([b"0123456789abcdef"])
    assert search.scan(tmp_path) == ResidueScan(("file",), 0, 0)


@pytest.mark.parametrize("key", [False, True])
def test_a_deletion_reads_the_texts_that_survive_once(tmp_path, monkeypatch, key):
    vault = Vault(tmp_path / "v", binding=BINDING, key=tmp_path / "key" if key else None)
    vault.add([record(id_) for id_ in range(1, 40)])
    monkeypatch.setattr(vault, "entitled", lambda: pytest.fail("read again"))
    report = erase(vault, [3, 7], purge_limit=1000, receipt=False, deleted=lambda: None)
    assert report.purged
    assert report.remaining == vault.count() == 37
    assert report.windows_checked > 1000
    assert report.windows_found == 0
    vault.close()


@pytest.mark.parametrize("first", [1, 100, 1 << 15])
def test_whatever_survivors_hold_is_explained_and_nothing_else(tmp_path, monkeypatch, first):
    """The search begins with small pieces of what survivors hold, and goes on with larger ones."""
    monkeypatch.setattr("procmem.residue._FIRST_PIECE_BYTES", first)
    random = np.random.default_rng(3)
    survivors = [random.bytes(int(size)) for size in random.integers(0, 300, 200)]
    survivors.append(random.bytes(200_000))
    remains = [random.bytes(50) for _ in range(20)]
    shared = [survivors[at] for at in (0, 7, 199, 200)]
    (tmp_path / "file").write_bytes(b"".join([*shared, *remains]))
    scan = scan_folder(tmp_path, [*shared, *remains], entitled=lambda: survivors)
    assert scan.windows_found == 20 * (50 - 15)
    assert scan.windows_checked == scan.windows_found + len(windows(shared))


def test_files_in_subfolders_are_searched(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "copy").write_bytes(b"xx0123456789abcdefyy")
    assert scan_folder(tmp_path, [b"0123456789abcdef"]).windows_found == 1


def test_a_twin_made_from_values_equals_the_purged_ledger(tmp_path):
    vault = Vault(tmp_path / "v", binding=BINDING)
    vault.add([record(id_) for id_ in range(1, 40)])
    vault.delete(range(5, 15))
    assert vault.purge()
    *_, twin = vault.entitled()
    vault.close()
    assert twin == (tmp_path / "v" / "ledger.sqlite").read_bytes()
