"""What is revoked is gone here, goes wherever the list goes, and does not come back."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import stat
from unittest import mock

import numpy as np
import pytest
from tests.sdk.sharing import address, contents, filled, opened, retold, stored
from tests.stress import toy

from procmem import (
    apply_revocations,
    export_items,
    import_items,
    receive_items,
    reissue_revocations,
    revocation,
    revoke,
    share_items,
    write_receipt,
)
from procmem.errors import (
    ExchangeFormatError,
    InputError,
    ItemNotFoundError,
    ProcmemError,
    ReceiptError,
    UntrustedSignerError,
    VaultError,
    VaultFormatError,
    VaultReadOnlyError,
)
from procmem.key import read_key
from procmem.residue import scan_folder
from procmem.revoked import ids_of, read_revoked, write_revoked


@pytest.fixture
def mine(tmp_path):
    with filled(tmp_path / "mine") as memory:
        yield memory


@pytest.fixture
def yours(tmp_path):
    with filled(tmp_path / "yours") as memory:
        yield memory


def remembered(memory):
    return read_revoked(memory.path).tolist()


# ---- the list's name


@pytest.mark.parametrize("name", ["n" * 300, "missing/list", "a\0b", 5])
def test_a_name_that_is_none_is_told_before_anything_is_deleted(mine, tmp_path, name):
    before = contents(mine)
    path = tmp_path / name if isinstance(name, str) else name
    with pytest.raises(InputError):
        revoke(mine, path, [6])
    assert contents(mine) == before
    assert remembered(mine) == []
    with pytest.raises(InputError):
        reissue_revocations(mine, path)
    with pytest.raises(InputError):
        apply_revocations(mine, path, trust=address(mine))


def test_a_list_that_cannot_get_its_name_says_what_was_done(mine, tmp_path, monkeypatch):
    forget = revocation._forget

    def and_somebody_takes_the_name(memory, ids):
        (tmp_path / "list").write_bytes(b"somebody's")
        return forget(memory, ids)

    monkeypatch.setattr(revocation, "_forget", and_somebody_takes_the_name)
    with pytest.raises(InputError, match=r"1 ids are revoked, .* deleted.*--reissue") as told:
        revoke(mine, tmp_path / "list", [6])
    assert "list" in str(told.value)
    assert remembered(mine) == [6]
    assert 6 not in {item.id for item in mine.items()}
    assert reissue_revocations(mine, tmp_path / "another") == 1


# ---- deletion that goes along


@pytest.mark.parametrize("sealed", [False, True])
def test_what_is_revoked_goes_here_and_there_without_a_trace(tmp_path, sealed):
    keys = [tmp_path / f"key {n}" if sealed else None for n in (1, 2)]
    with (
        filled(tmp_path / "mine", key=keys[0]) as mine,
        filled(tmp_path / "yours", range(5, 20), key=keys[1]) as yours,
    ):
        yours.neighbors(toy.picture(6))
        gone = list(mine._vault.values([6, 7])), list(yours._vault.values([6, 7]))
        done = revoke(mine, tmp_path / "list", [7, np.int64(6), 2])
        heeded = apply_revocations(yours, tmp_path / "list", trust=address(mine))
        assert done.revoked_ids == done.new_ids == done.erasure.erased_ids == (2, 6, 7)
        assert heeded.revoked_ids == heeded.new_ids == (2, 6, 7)
        assert heeded.erasure.erased_ids == (6, 7)
        for memory, values, report in zip((mine, yours), gone, (done, heeded), strict=True):
            assert report.erasure.purged
            assert report.erasure.windows_checked > 1000
            assert report.erasure.windows_found == 0
            assert report.erasure.receipt is not None
            assert "REVOKED" in report.erasure.files_scanned
            entitled = memory._vault.entitled
            assert scan_folder(memory.path, values, entitled=entitled).windows_found == 0
            assert {item.id for item in memory.items()}.isdisjoint({2, 6, 7})
            assert 6 not in {near.id for near in memory.neighbors(toy.picture(6), 50)}
            assert remembered(memory) == [2, 6, 7]
            assert memory.verify().ok


@pytest.mark.parametrize("first", ["list", "bundle"])
def test_an_older_bundle_does_not_bring_it_back(mine, tmp_path, first):
    with opened(tmp_path / "new") as new:
        share_items(mine, tmp_path / "bundle", to=[address(new), address(mine)])
        revoke(mine, tmp_path / "list", 5)
        if first == "bundle":
            receive_items(new, tmp_path / "bundle", trust=address(mine))
        apply_revocations(new, tmp_path / "list", trust=address(mine))
        for memory in (new, mine):
            assert receive_items(memory, tmp_path / "bundle", trust=address(mine)).revoked == (5,)
            assert 5 not in contents(memory)
            assert len(memory) == 11
        assert stored(new) == stored(mine)


def test_nothing_else_brings_it_back_either(mine, tmp_path):
    export_items(mine, tmp_path / "items.safetensors", ids=[5])
    revoke(mine, tmp_path / "list", 5)
    before = contents(mine)
    with pytest.raises(InputError, match=r"id 5 .* was revoked"):
        import_items(mine, tmp_path / "items.safetensors")
    with pytest.raises(InputError, match=r"id 5 .* was revoked"):
        mine.add([toy.picture(50), toy.picture(5)], ids=[50, 5])
    assert contents(mine) == before


def test_again_changes_nothing(mine, yours, tmp_path):
    revoke(mine, tmp_path / "list", [5, 6])
    apply_revocations(yours, tmp_path / "list", trust=address(mine))
    before = stored(yours)
    again = apply_revocations(yours, tmp_path / "list", trust=address(mine))
    assert (again.revoked_ids, again.new_ids, again.erasure.erased_ids) == ((5, 6), (), ())
    assert stored(yours) == before


def test_a_plain_delete_leaves_no_trace_and_a_revocation_just_the_ids(mine, yours, tmp_path):
    with filled(tmp_path / "never", [*range(1, 5), *range(6, 13)]) as never:
        mine.delete(5)
        assert stored(mine) == stored(never)
        revoke(yours, tmp_path / "list", 5)
        revoked = stored(yours)
        body = b"PrMeREV1" + (5).to_bytes(8, "big")
        assert revoked.pop("REVOKED") == body + hashlib.sha256(body).digest()
        assert revoked == stored(never)
    assert stat.S_IMODE((yours.path / "REVOKED").stat().st_mode) == 0o600


def test_the_list_has_ids_and_a_signature_and_nothing_else(mine, tmp_path):
    secrets = [v for id_ in (5, 6) for v in toy.secrets(toy.record(id_))]
    revoke(mine, tmp_path / "list", [6, 5])
    data = (tmp_path / "list").read_bytes()
    document = json.loads(data)
    assert document.pop("signature") not in ("", None)
    assert document == {
        "format": "procmem revocation list 1",
        "ids": ["5", "6"],
        "public_key": mine.stats().receipt_key,
    }
    for secret in secrets:
        assert secret not in data
        assert hashlib.sha256(secret).hexdigest().encode() not in data
    assert stat.S_IMODE((tmp_path / "list").stat().st_mode) == 0o600


def test_the_selectors_are_those_of_delete(mine, tmp_path):
    assert revoke(mine, tmp_path / "1", label=toy.label(6)).revoked_ids == (6,)
    assert revoke(mine, tmp_path / "2", source=toy.source(7)).revoked_ids == (7,)
    similar = revoke(mine, tmp_path / "3", similar_to=toy.picture(9), min_similarity=0.999)
    assert 9 in similar.revoked_ids
    with pytest.raises(InputError, match="wanted exactly one"):
        revoke(mine, tmp_path / "4")
    with pytest.raises(InputError, match="wanted exactly one"):
        revoke(mine, tmp_path / "4", 1, label="x")
    with pytest.raises(ItemNotFoundError, match="id 99"):
        revoke(mine, tmp_path / "4", [1, 99])
    with pytest.raises(ItemNotFoundError, match="no such"):
        revoke(mine, tmp_path / "4", label="no such")
    assert revoke(mine, tmp_path / "4", []).revoked_ids == ()
    assert not (tmp_path / "4").exists()


def test_what_was_revoked_can_be_named_again(mine, tmp_path):
    revoke(mine, tmp_path / "1", 5)
    again = revoke(mine, tmp_path / "2", [5, 6])
    assert (again.revoked_ids, again.new_ids) == ((5, 6), (6,))
    assert again.erasure.erased_ids == (6,)


def test_receipts_of_earlier_deletions_become_a_list(mine, yours, tmp_path):
    write_receipt(mine.delete([5, 6]).receipt, tmp_path / "receipt.json")
    later = mine.delete(8).receipt
    done = revoke(mine, tmp_path / "list", 2, receipts=[tmp_path / "receipt.json", later])
    assert (done.revoked_ids, done.erasure.erased_ids) == ((2, 5, 6, 8), (2,))
    only = revoke(mine, tmp_path / "only", receipts=tmp_path / "receipt.json")
    assert (only.revoked_ids, only.new_ids) == ((5, 6), ())
    heeded = apply_revocations(yours, tmp_path / "list", trust=address(mine))
    assert heeded.erasure.erased_ids == (2, 5, 6, 8)


def test_receipts_of_others_and_changed_ones_do_not_count(mine, yours, tmp_path):
    theirs = yours.delete(5).receipt
    with pytest.raises(ReceiptError, match="not by the expected"):
        revoke(mine, tmp_path / "list", receipts=theirs)
    write_receipt(mine.delete(6).receipt, tmp_path / "receipt.json")
    text = (tmp_path / "receipt.json").read_text().replace('"purged":true', '"purged":false')
    (tmp_path / "receipt.json").write_text(text)
    with pytest.raises(ReceiptError, match="signature"):
        revoke(mine, tmp_path / "list", receipts=[tmp_path / "receipt.json"])
    assert remembered(mine) == []
    assert not (tmp_path / "list").exists()


def test_everything_that_was_revoked_goes_to_those_who_missed_it(mine, yours, tmp_path):
    with opened(tmp_path / "third") as third:
        third._vault.add(map(toy.record, range(1, 30)))
        revoke(third, tmp_path / "theirs", [20, 3])
        apply_revocations(mine, tmp_path / "theirs", trust=address(third))
        revoke(mine, tmp_path / "1", 4)
    with opened(mine.path, read_only=True) as reader:
        assert reissue_revocations(reader, tmp_path / "all") == 3
    apply_revocations(yours, tmp_path / "all", trust=address(mine))
    assert remembered(yours) == [3, 4, 20]
    assert stored(yours) == stored(mine)


def test_an_id_with_another_content_goes_too(mine, tmp_path):
    with opened(tmp_path / "other") as other:
        other._vault.add([retold(5, later=3)])
        revoke(mine, tmp_path / "list", 5)
        apply_revocations(other, tmp_path / "list", trust=address(mine))
        assert len(other) == 0


# ---- who may


def test_a_signer_who_is_not_named_changes_nothing(mine, yours, tmp_path):
    revoke(mine, tmp_path / "list", 5)
    before = stored(yours)
    with opened(tmp_path / "third") as third, pytest.raises(UntrustedSignerError, match="list is"):
        apply_revocations(yours, tmp_path / "list", trust=[address(third), address(yours)])
    with pytest.raises(InputError, match="names no memory"):
        apply_revocations(yours, tmp_path / "list", trust=[])
    assert stored(yours) == before


def test_a_memory_that_is_only_read_revokes_nothing(mine, tmp_path):
    reissue_revocations(mine, tmp_path / "list")
    with opened(mine.path, read_only=True) as reader:
        with pytest.raises(VaultReadOnlyError):
            revoke(reader, tmp_path / "other", 5)
        with pytest.raises(VaultReadOnlyError):
            apply_revocations(reader, tmp_path / "list", trust=address(mine))


# ---- hostile lists


def test_no_changed_byte_and_no_truncation_goes_unnoticed(mine, yours, tmp_path):
    revoke(mine, tmp_path / "list", [5, 6, 7])
    data = (tmp_path / "list").read_bytes()
    before = toy.files(yours.path)
    damaged = tmp_path / "damaged"
    key_at = data.index(b'"public_key":"') + len(b'"public_key":"')
    trusted = address(mine)
    variants = [data[:size] for size in range(len(data))]
    for at in range(len(data)):
        for bit in (1, 4, 32):
            changed = bytearray(data)
            changed[at] ^= bit
            variants.append(bytes(changed))
    variants += [data + b"\n", b" " + data, data * 2, data.replace(b":", b": "), data.upper()]
    for variant in variants:
        damaged.write_bytes(variant)
        with pytest.raises(ProcmemError) as caught:
            apply_revocations(yours, damaged, trust=trusted)
        assert isinstance(caught.value, (ExchangeFormatError, UntrustedSignerError))
        assert str(damaged) in str(caught.value)
        if isinstance(caught.value, UntrustedSignerError):
            assert variant[:key_at] + variant[key_at + 64 :] == data[:key_at] + data[key_at + 64 :]
    assert toy.files(yours.path) == before


def signed_list(memory, **changes):
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.from_private_bytes(read_key(memory.path).signing_seed)
    document = {
        "format": "procmem revocation list 1",
        "ids": ["5"],
        "public_key": key.public_key().public_bytes_raw().hex(),
    } | changes
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    document["signature"] = key.sign(text.encode()).hex()
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def test_the_control_a_list_of_this_form_counts(mine, yours, tmp_path):
    (tmp_path / "list").write_bytes(signed_list(mine))
    report = apply_revocations(yours, tmp_path / "list", trust=address(mine))
    assert report.erasure.erased_ids == (5,)


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "procmem revocation list 2"},
        {"format": "procmem erasure receipt 1"},
        {"ids": ["6", "5"]},
        {"ids": ["5", "5"]},
        {"ids": ["05"]},
        {"ids": ["+5"]},
        {"ids": ["5 "]},
        {"ids": ["\u0665"]},
        {"ids": [5]},
        {"ids": ["0"]},
        {"ids": ["-5"]},
        {"ids": [str(2**63)]},
        {"ids": ["9" * 400]},
        {"ids": ["x"]},
        {"ids": "5"},
        {"ids": {"5": 1}},
        {"ids": None},
        {"more": 1},
        {"public_key": 5},
    ],
)
def test_a_list_that_no_memory_writes_is_refused_though_it_is_signed(
    mine, yours, tmp_path, changes
):
    (tmp_path / "list").write_bytes(signed_list(mine, **changes))
    with pytest.raises((ExchangeFormatError, UntrustedSignerError), match="list"):
        apply_revocations(yours, tmp_path / "list", trust=address(mine))
    assert len(yours) == 12
    assert remembered(yours) == []


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[" * 100_000,
        b'{"format":"procmem revocation list 1","ids":' + b"[" * 100_000,
        b"PrMeBNDL" + bytes(200),
        b"\xff\xfe",
    ],
)
def test_a_foreign_file_is_told(mine, yours, tmp_path, data):
    (tmp_path / "f").write_bytes(data)
    with pytest.raises(ExchangeFormatError, match="nothing changed"):
        apply_revocations(yours, tmp_path / "f", trust=address(mine))
    with pytest.raises(InputError, match="cannot be opened"):
        apply_revocations(yours, tmp_path / "none", trust=address(mine))


def test_a_list_is_not_read_beyond_what_a_list_can_have(mine, yours, tmp_path):
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.write(b'{"format":"procmem revocation list 1","ids":["1","')
        file.truncate(2**40)
    with pytest.raises(ExchangeFormatError, match="more than 22001000 bytes"):
        apply_revocations(yours, path, trust=address(mine))


def test_too_many_ids_for_one_list_are_told(mine, tmp_path, monkeypatch):
    monkeypatch.setattr(revocation, "MAX_IDS", 3)
    with pytest.raises(InputError, match="4 ids are to be revoked, wanted at most 3"):
        revoke(mine, tmp_path / "list", [1, 2, 3, 4])
    assert len(mine) == 12
    revoke(mine, tmp_path / "1", [1, 2])
    revoke(mine, tmp_path / "2", [3, 4])
    with pytest.raises(InputError, match="at most 3 in one list"):
        reissue_revocations(mine, tmp_path / "list")
    assert not (tmp_path / "list").exists()


# ---- what the vault remembers


def test_equal_sets_of_revoked_ids_are_equal_files_whatever_the_order(tmp_path):
    files = set()
    for number, order in enumerate(([9, 2**63 - 1, 4], [4, 9, 2**63 - 1], [2**63 - 1, 4, 9])):
        with filled(tmp_path / str(number), [4, 9, 2**63 - 1]) as memory:
            for at, id_ in enumerate(order):
                revoke(memory, tmp_path / f"{number} {at}", id_)
            files.add((memory.path / "REVOKED").read_bytes())
    assert len(files) == 1


def test_no_changed_byte_of_what_is_remembered_goes_unnoticed(tmp_path):
    write_revoked(tmp_path, ids_of([5, 6, 7, 2**62]))
    path = tmp_path / "REVOKED"
    data = path.read_bytes()
    changed = [data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] for at in range(len(data))]
    for variant in [*changed, *(data[:size] for size in range(len(data))), data + b"\0", data * 2]:
        path.write_bytes(variant)
        with pytest.raises(VaultFormatError, match="REVOKED is damaged"):
            read_revoked(tmp_path)
    for ids in ([6, 5], [5, 5], [0, 5], [-5]):  # well signed, but in no order
        body = b"PrMeREV1" + b"".join(id_.to_bytes(8, "big", signed=True) for id_ in ids)
        path.write_bytes(body + hashlib.sha256(body).digest())
        with pytest.raises(VaultFormatError, match="REVOKED is damaged"):
            read_revoked(tmp_path)


def test_where_it_is_damaged_nothing_is_added_and_everything_can_be_forgotten(mine, tmp_path):
    revoke(mine, tmp_path / "list", 5)
    mine.close()
    (mine.path / "REVOKED").write_bytes(b"x" * 80)
    with opened(mine.path) as memory:
        for add in (
            lambda: memory.add(toy.picture(50)),
            lambda: revoke(memory, tmp_path / "other", 6),
            lambda: apply_revocations(memory, tmp_path / "list", trust=address(memory)),
            lambda: reissue_revocations(memory, tmp_path / "other"),
        ):
            with pytest.raises(VaultFormatError, match="remove it and take in all revocation"):
                add()
        assert memory.delete(6).windows_found == 0
        assert len(memory) == 10
        report = memory.verify()
        assert not report.ok
        assert any("REVOKED is damaged" in problem for problem in report.problems)


def test_a_folder_with_nothing_but_revoked_ids_is_no_new_vault(mine, tmp_path):
    revoke(mine, tmp_path / "list", 5)
    (tmp_path / "other").mkdir()
    for name in ("REVOKED", "REVOKED.tmp"):
        shutil.copy(mine.path / "REVOKED", tmp_path / "other" / name)
        with pytest.raises(VaultFormatError, match="holds no vault but 1 other files"):
            opened(tmp_path / "other")
        (tmp_path / "other" / name).unlink()


# ---- crashes and disks


class Killed:
    """Copies a folder at the n-th wait for the disk, as it would be found after a kill there."""

    def __init__(self, folder, copy, at):
        self._folder, self._copy, self._left = folder, copy, at
        self.happened = False

    def __call__(self, _descriptor):
        self._left -= 1
        if self._left == 0:
            shutil.copytree(self._folder, self._copy)
            self.happened = True


def test_a_kill_at_any_point_leaves_the_memory_before_or_after(tmp_path):
    with filled(tmp_path / "first", range(1, 5)) as memory:
        revoke(memory, tmp_path / "seed", 1)
        share = address(memory)
        before = stored(memory)
    with opened(tmp_path / "first") as memory:
        revoke(memory, tmp_path / "list", 3)
        after = stored(memory)
    shutil.rmtree(tmp_path / "first")
    outcomes = []
    for at in range(1, 60):
        folder, copy = tmp_path / f"v{at}", tmp_path / f"copy{at}"
        with filled(folder, range(1, 5)) as memory:
            revoke(memory, tmp_path / f"seed {at}", 1)
            assert stored(memory) == before
            shutil.copy(tmp_path / "list", tmp_path / f"list {at}")
            killed = Killed(folder, copy, at)
            with mock.patch("os.fsync", killed):
                apply_revocations(memory, tmp_path / f"list {at}", trust=share)
        if not killed.happened:
            break
        (copy / "LOCK").write_bytes(b"")
        with opened(copy) as found:
            assert found.verify().ok
            assert not found._vault.purge_pending
            state = stored(found)
            assert state in (before, after)
            outcomes.append(state == after)
            # Whatever was found, the list makes of it what it would have been.
            apply_revocations(found, tmp_path / "list", trust=share)
            assert stored(found) == after
    assert 4 < len(outcomes) < 59
    assert outcomes == sorted(outcomes)  # and from one point on it is after
    assert outcomes[0] is False
    assert outcomes[-1] is True


@pytest.mark.parametrize("where", ["REVOKED", "delete"])
def test_a_disk_that_refuses_leaves_everything_as_it_was(mine, tmp_path, where):
    revoke(mine, tmp_path / "list", 1)
    before = stored(mine)
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    refusal = (
        mock.patch("procmem.revoked.write_revoked", side_effect=full)
        if where == "REVOKED"
        else mock.patch.object(mine._vault, "delete", side_effect=VaultError("no room"))
    )
    with refusal, pytest.raises(VaultError):
        revoke(mine, tmp_path / "other", 5)
    assert not (tmp_path / "other").exists()
    assert stored(mine) == before
    mine.close()
    with opened(mine.path) as again:
        assert stored(again) == before
        assert 5 in contents(again)


def test_if_the_disk_refuses_to_the_last_the_next_opening_finishes_it(mine, tmp_path):
    """Remembered, not deleted, and not to be unremembered: then it is decided."""
    real = mine._vault.set_revoked
    calls = []

    def once(ids):
        calls.append(ids)
        if len(calls) > 1:
            raise VaultError("no room")
        real(ids)

    with (
        mock.patch.object(mine._vault, "set_revoked", once),
        mock.patch.object(mine._vault, "delete", side_effect=VaultError("no room")),
        pytest.raises(VaultError),
    ):
        revoke(mine, tmp_path / "list", 5)
    assert len(calls) == 2
    mine.delete(6)  # the purge of this one does not forget that something is due
    assert mine._vault.purge_pending
    mine.close()
    with opened(mine.path) as again:
        assert not again._vault.purge_pending
        assert sorted(contents(again)) == [id_ for id_ in range(1, 13) if id_ not in (5, 6)]
        assert remembered(again) == [5]


def test_items_that_were_put_there_in_spite_of_it_are_told(mine, tmp_path):
    revoke(mine, tmp_path / "list", 5)
    with mock.patch.object(mine._vault.revoked, "refuse"):
        mine._vault.add([toy.record(5)])
    report = mine.verify()
    assert not report.ok
    assert any(re.search("1 items are held that were revoked", told) for told in report.problems)


def test_a_list_that_cannot_be_written_is_told_before_anything_is_deleted(mine, tmp_path):
    (tmp_path / "list").write_text("mine")
    for place in (tmp_path / "list", tmp_path / "missing" / "list", mine.path / "list"):
        with pytest.raises(InputError):
            revoke(mine, place, 5)
    assert len(mine) == 12
    assert remembered(mine) == []
    assert (tmp_path / "list").read_text() == "mine"
