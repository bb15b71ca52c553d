"""What is shared arrives whole, at those whom it is for, and from those who are trusted."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import stat
import tracemalloc
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.sdk.sharing import OtherModel, address, contents, filled, opened, retold, stored
from tests.stress import toy

from procmem import bundle, envelope, newfile, receive_items, share_items
from procmem.address import Address, address_of, read_address, read_addresses
from procmem.envelope import CHUNK_BYTES, EnvelopeReader, EnvelopeWriter
from procmem.errors import (
    EmbedderMismatchError,
    ExchangeFormatError,
    InputError,
    ItemNotFoundError,
    NotRecipientError,
    ProcmemError,
    UntrustedSignerError,
    VaultError,
    VaultFormatError,
    VaultReadOnlyError,
)
from procmem.key import read_key
from procmem.residue import find, scan_folder, windows


@pytest.fixture
def mine(tmp_path):
    with filled(tmp_path / "mine") as memory:
        yield memory


@pytest.fixture
def yours(tmp_path):
    with opened(tmp_path / "yours") as memory:
        yield memory


@pytest.fixture
def file(mine, yours, tmp_path):
    path = tmp_path / "items.bundle"
    share_items(mine, path, to=address(yours))
    return path


# ---- what arrives


@pytest.mark.parametrize("sealed", [(), ("yours",), ("mine", "yours")])
def test_what_arrives_is_what_was_shared(tmp_path, sealed):
    keys = {
        name: tmp_path / f"{name}.key" if name in sealed else None for name in ("mine", "yours")
    }
    calls = []
    with (
        filled(tmp_path / "mine", range(1, 230), key=keys["mine"]) as mine,
        opened(tmp_path / "yours", key=keys["yours"]) as yours,
    ):
        path = tmp_path / "items"
        shared = share_items(mine, path, to=address(yours), progress=lambda *at: calls.append(at))
        report = receive_items(
            yours, path, trust=address(mine), progress=lambda *at: calls.append(at)
        )
        assert shared == 229
        assert report.added == tuple(range(1, 230))
        assert report.signer == address(mine)
        assert calls[-1] == (229, 229)
        assert contents(yours) == contents(mine)
        if not sealed:
            assert stored(yours) == stored(mine)


def test_a_received_memory_answers_at_once(mine, yours, file):
    assert yours.neighbors(toy.picture(3)) == ()  # the index is made before
    receive_items(yours, file, trust=address(mine))
    assert yours.neighbors(toy.picture(3), 4) == mine.neighbors(toy.picture(3), 4)


@pytest.mark.parametrize(
    ("choice", "ids"),
    [({"ids": [7, np.int64(2), 7]}, [2, 7]), ({"ids": 3}, [3]), ({"ids": []}, [])],
)
def test_only_the_chosen_items_go(mine, yours, tmp_path, choice, ids):
    assert share_items(mine, tmp_path / "f", to=address(yours), **choice) == len(ids)
    assert receive_items(yours, tmp_path / "f", trust=address(mine)).added == tuple(ids)


def test_the_items_of_a_label_go(mine, yours, tmp_path):
    label = toy.label(6)
    assert label is not None
    share_items(mine, tmp_path / "f", to=address(yours), label=label)
    receive_items(yours, tmp_path / "f", trust=address(mine))
    assert {item.label for item in yours.items()} == {label}
    with pytest.raises(ItemNotFoundError, match="no such label"):
        share_items(mine, tmp_path / "g", to=address(yours), label="no such label")
    with pytest.raises(InputError, match="one of them"):
        share_items(mine, tmp_path / "g", to=address(yours), label=label, ids=[1])
    with pytest.raises(ItemNotFoundError, match="id 99"):
        share_items(mine, tmp_path / "g", to=address(yours), ids=[1, 99])
    assert not (tmp_path / "g").exists()


def test_each_of_several_recipients_can_open_it_and_nobody_else(mine, yours, tmp_path):
    with opened(tmp_path / "third") as third, opened(tmp_path / "fourth") as fourth:
        share_items(mine, tmp_path / "f", to=[address(yours), address(third), address(yours)])
        for memory in (yours, third):
            receive_items(memory, tmp_path / "f", trust=[address(fourth), address(mine)])
            assert contents(memory) == contents(mine)
        with pytest.raises(NotRecipientError, match=address(fourth)):
            receive_items(fourth, tmp_path / "f", trust=address(mine))
        with pytest.raises(NotRecipientError):  # nor the sender
            receive_items(mine, tmp_path / "f", trust=address(mine))


def test_again_changes_nothing(mine, yours, file):
    receive_items(yours, file, trust=address(mine))
    before = stored(yours)
    report = receive_items(yours, file, trust=address(mine))
    assert report.unchanged == tuple(range(1, 13))
    assert (report.added, report.replaced, report.kept) == ((), (), ())
    assert stored(yours) == before


# ---- one id, two contents


def test_what_was_taught_later_stays_whoever_comes_first(mine, tmp_path):
    with opened(tmp_path / "a") as a, opened(tmp_path / "b") as b:
        a._vault.add([retold(4, later=9)])
        b._vault.add([toy.record(4)])
        share_items(a, tmp_path / "from a", to=address(b))
        share_items(b, tmp_path / "from b", to=address(a))
        taken, given = (
            receive_items(b, tmp_path / "from a", trust=address(a)),
            receive_items(a, tmp_path / "from b", trust=address(b)),
        )
        assert (taken.replaced, taken.kept, taken.purged) == ((4,), (), True)
        assert (given.replaced, given.kept, given.purged) == ((), (4,), True)
        assert [item.label for item in b.items()] == ["told anew"]
        assert stored(a) == stored(b)


def test_of_the_same_second_the_same_one_stays(tmp_path):
    with opened(tmp_path / "a") as a, opened(tmp_path / "b") as b:
        a._vault.add([toy.record(6)])
        b._vault.add([retold(6)])
        share_items(a, tmp_path / "from a", to=address(b))
        share_items(b, tmp_path / "from b", to=address(a))
        one = receive_items(b, tmp_path / "from a", trust=address(a))
        other = receive_items(a, tmp_path / "from b", trust=address(b))
        assert {one.replaced, other.replaced} == {(6,), ()}
        assert stored(a) == stored(b)


def test_nothing_is_left_of_what_was_replaced(yours, tmp_path):
    yours._vault.add([toy.record(6), toy.record(7)])
    yours.neighbors(toy.picture(6))
    gone = list(yours._vault.values([6]))
    with opened(tmp_path / "later") as later:
        later._vault.add([retold(6, label="short", later=1)])
        record = next(later._vault.records([6]))
        other = np.roll(record.vector, 1)
        later.delete(6)
        later._vault.add([type(record)(record.item, other)])  # no mask, another vector
        share_items(later, tmp_path / "f", to=address(yours))
        assert receive_items(yours, tmp_path / "f", trust=address(later)).replaced == (6,)
    yours._vault.release_ledger()
    scan = scan_folder(yours.path, gone, entitled=yours._vault.entitled)
    assert scan.windows_checked > 500
    assert scan.windows_found == 0
    assert yours.verify().ok


def test_a_kill_after_a_replacement_leaves_its_purge_to_the_next_opening(yours, tmp_path):
    yours._vault.add([toy.record(6), toy.record(7)])
    gone = toy.secrets(toy.record(6))
    with opened(tmp_path / "later") as later:
        later._vault.add([dataclasses.replace(retold(7, later=1), item=retold(6, later=1).item)])
        share_items(later, tmp_path / "f", to=address(yours))
        with (
            mock.patch.object(yours._vault, "purge", side_effect=KeyboardInterrupt),
            pytest.raises(KeyboardInterrupt),
        ):
            receive_items(yours, tmp_path / "f", trust=address(later))
    assert yours._vault.purge_pending
    yours.close()
    with opened(yours.path) as again:
        assert [item.label for item in again.items()] == ["told anew", toy.label(7)]
        scan = scan_folder(again.path, gone, entitled=again._vault.entitled)
        assert scan.windows_checked > 500
        assert scan.windows_found == 0
        assert not again._vault.purge_pending


# ---- who may


def test_a_signer_who_is_not_named_is_refused_before_anything_is_decrypted(
    mine, yours, file, tmp_path
):
    with opened(tmp_path / "third") as third, mock.patch.object(envelope, "AESGCM") as cipher:
        with pytest.raises(UntrustedSignerError, match="none of those that were named"):
            receive_items(yours, file, trust=[address(yours), address(third)])
        assert not cipher.called
    assert len(yours) == 0


def test_nobody_can_put_his_name_over_a_content_that_he_cannot_read(mine, yours, file, tmp_path):
    with opened(tmp_path / "thief") as thief:
        data = bytearray(file.read_bytes())
        data[12:44] = read_address(address(thief)).signing_key
        file.write_bytes(signed_again(data, thief))
        with pytest.raises(ExchangeFormatError, match=r"chunk 0 is not what was sealed"):
            receive_items(yours, file, trust=address(thief))


def signed_again(data: bytearray, memory) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    digest = hashlib.sha256(data[:-64]).digest()
    key = Ed25519PrivateKey.from_private_bytes(read_key(memory.path).signing_seed)
    return bytes(data[:-64]) + key.sign(b"procmem bundle 1\0" + digest)


def test_a_recipient_cannot_change_what_the_others_get(mine, yours, tmp_path):
    """He has the file's key, but not the sender's."""
    with opened(tmp_path / "third") as third:
        share_items(mine, tmp_path / "f", to=[address(yours), address(third)])
        data = bytearray((tmp_path / "f").read_bytes())
        data[-70] ^= 1
        (tmp_path / "f").write_bytes(signed_again(data, third))
        with pytest.raises(ExchangeFormatError, match="signature"):
            receive_items(yours, tmp_path / "f", trust=address(mine))


def test_a_memory_that_is_only_read_shares_and_takes_nothing_in(mine, yours, file, tmp_path):
    with opened(mine.path, read_only=True) as reader:
        assert address(reader) == address(mine)
        assert share_items(reader, tmp_path / "g", to=address(yours)) == 12
        with pytest.raises(VaultReadOnlyError):
            receive_items(reader, file, trust=address(mine))


def test_without_a_sound_key_nothing_is_shared(mine, yours, tmp_path):
    (mine.path / "KEY").write_bytes(b"x")
    with pytest.raises(VaultFormatError, match="KEY"):
        share_items(mine, tmp_path / "f", to=address(yours))
    assert not (tmp_path / "f").exists()


# ---- addresses


def test_an_address_has_the_key_of_the_receipts_and_stays(mine):
    text = address(mine)
    assert str(read_address(f" {text}\n")) == text
    assert read_address(text).signing_key.hex() == mine.stats().receipt_key
    mine.delete(3)
    assert address(mine) == text


def test_every_slip_in_an_address_is_noticed(mine):
    text = address(mine)
    letters = "abcdefghijklmnopqrstuvwxyz234567"
    for at in range(len(text)):
        for letter in {letters[(letters.find(text[at]) + step) % 32] for step in (1, 7)}:
            with pytest.raises(InputError, match="copied with a mistake"):
                read_address(text[:at] + letter + text[at + 1 :])
    for wrong in ("", "procmem1", text[:-1], text + "a", text.upper(), text[8:], "ä", text * 9):
        with pytest.raises(InputError, match="is not the address of a memory"):
            read_address(wrong)
    with pytest.raises(InputError, match="wanted the text"):
        read_address(7)
    with pytest.raises(InputError, match="names no memory"):
        read_addresses("trust", [])
    with pytest.raises(InputError, match="trust is 7"):
        read_addresses("trust", 7)  # type: ignore[arg-type]


def test_an_address_whose_key_opens_nothing_is_told(mine, tmp_path):
    weak = str(Address(read_address(address(mine)).signing_key, bytes(32)))
    with pytest.raises(InputError, match="opens nothing"):
        share_items(mine, tmp_path / "f", to=weak)
    many = [str(Address(bytes([n]) * 32, bytes([n]) * 32)) for n in range(101)]
    with pytest.raises(InputError, match="wanted 1 to 100"):
        share_items(mine, tmp_path / "f", to=many)
    assert not (tmp_path / "f").exists()


# ---- what shows


def test_a_bundle_shows_nothing_of_the_items(mine, yours, file):
    data = file.read_bytes()
    secrets = [v for id_ in range(1, 13) for v in toy.secrets(toy.record(id_))]
    assert len(find(windows(secrets), data)) == 0
    for id_ in range(1, 13):
        assert id_.to_bytes(8, "big") not in data
    assert yours.stats().embedder_sha256.encode() not in data
    assert read_address(address(yours)).sealing_key not in data
    assert read_address(address(yours)).signing_key not in data
    assert read_address(address(mine)).signing_key in data  # the control: this one shows


def test_a_bundle_shows_its_size_in_whole_chunks_only(mine, yours, tmp_path):
    sizes = set()
    for number, ids in enumerate(([], [1], [1, 2, 3, 4, 5, 7])):
        share_items(mine, tmp_path / str(number), to=address(yours), ids=ids)
        sizes.add((tmp_path / str(number)).stat().st_size)
    assert sizes == {76 + 48 + CHUNK_BYTES + 16 + 64}


def test_two_bundles_of_the_same_have_nothing_in_common_but_the_signer(mine, yours, file, tmp_path):
    share_items(mine, tmp_path / "again", to=address(yours))
    both = [path.read_bytes() for path in (file, tmp_path / "again")]
    equal = np.frombuffer(both[0], np.uint8) == np.frombuffer(both[1], np.uint8)
    assert equal[:44].all()
    assert equal[44:].mean() < 0.01  # one of 256 by chance


# ---- writing


def test_a_bundle_is_for_its_owner_and_replaces_nothing(mine, yours, file, tmp_path):
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    before = file.read_bytes()
    with pytest.raises(InputError, match="exists already"):
        share_items(mine, file, to=address(yours))
    assert file.read_bytes() == before
    for place in (mine.path / "f", tmp_path / "missing" / "f"):
        with pytest.raises(InputError, match="folder"):
            share_items(mine, place, to=address(yours))


@pytest.mark.parametrize("named", [False, True])
def test_a_failed_share_leaves_nothing(mine, yours, tmp_path, monkeypatch, named):
    if named:
        monkeypatch.setattr(newfile, "_unnamed", lambda folder: None)
    (tmp_path / "out").mkdir()

    def fail(*_):
        raise KeyboardInterrupt

    def forget(done, _):
        if done == 1:
            mine.delete(12)

    with pytest.raises(KeyboardInterrupt):
        share_items(mine, tmp_path / "out" / "f", to=address(yours), progress=fail)
    with pytest.raises(VaultError, match="share again"):
        share_items(mine, tmp_path / "out" / "f", to=address(yours), progress=forget)
    assert list((tmp_path / "out").iterdir()) == []


# ---- hostile files


def refused(yours, mine, path, data):
    """That a file is refused with an error that names it, and changes nothing."""
    path.write_bytes(data)
    before = toy.files(yours.path)["ledger.sqlite"]
    with pytest.raises(ProcmemError) as caught:
        receive_items(yours, path, trust=address(mine))
    assert str(path) in str(caught.value)
    assert toy.files(yours.path)["ledger.sqlite"] == before
    return caught.value


def test_no_flipped_byte_goes_unnoticed(mine, yours, file, tmp_path):
    data = file.read_bytes()
    # Every byte of head and signature, and some of the one chunk, which is all of one kind.
    places = [*range(76 + 48), *range(124, len(data) - 64, 997), *range(len(data) - 80, len(data))]
    for at in places:
        changed = bytearray(data)
        changed[at] ^= 1 << at % 8
        error = refused(yours, mine, tmp_path / "changed", bytes(changed))
        assert isinstance(error, UntrustedSignerError if 12 <= at < 44 else ExchangeFormatError)


@pytest.mark.parametrize("signed", [False, True])
def test_no_byte_that_is_not_the_senders_goes_unnoticed_by_the_cipher_either(
    mine, yours, file, tmp_path, signed
):
    """The second line of defense: as if signatures could be forged, by the sender's own hand."""
    data = file.read_bytes()
    for at in [*range(10), *range(44, 124), *range(124, len(data) - 64, 2999)]:
        changed = bytearray(data)
        changed[at] ^= 1 << at % 8
        forged = signed_again(changed, mine) if signed else bytes(changed)
        error = refused(yours, mine, tmp_path / "changed", forged)
        assert isinstance(error, (ExchangeFormatError, NotRecipientError))


def test_no_truncation_goes_unnoticed(mine, yours, file, tmp_path):
    data = file.read_bytes()
    sizes = [*range(130), *range(130, len(data), 4001), *range(len(data) - 70, len(data))]
    for size in sizes:
        refused(yours, mine, tmp_path / "short", data[:size])
    for more in (b"\0", bytes(64), bytes(CHUNK_BYTES + 16), data):
        refused(yours, mine, tmp_path / "long", data + more)


@pytest.fixture
def chunked(yours, tmp_path):
    """A bundle of several chunks: its head, its chunks, and who signs."""
    with filled(tmp_path / "large", range(1, 400)) as large:
        share_items(large, tmp_path / "whole", to=address(yours))
        data = (tmp_path / "whole").read_bytes()
        step = CHUNK_BYTES + 16
        chunks = [data[at : at + step] for at in range(124, len(data) - 64, step)]
        assert len(chunks) >= 4
        yield large, data[:124], chunks


@pytest.mark.parametrize(
    "change",
    [
        lambda c: [c[1], c[0], *c[2:]],
        lambda c: [c[0], c[0], *c[1:]],
        lambda c: [c[0], *c[2:]],
        lambda c: c[:-1],
        lambda c: [*c, c[-1]],
        lambda c: [*c[:-1], c[0], c[-1]],
        lambda c: [c[-1]],
        lambda c: c[::-1],
    ],
)
def test_chunks_in_another_order_twice_or_missing_are_noticed(chunked, yours, tmp_path, change):
    """By the cipher alone: signed again by the sender's own hand."""
    large, head, chunks = chunked
    data = bytearray(head + b"".join(change(chunks)) + bytes(64))
    error = refused(yours, large, tmp_path / "changed", signed_again(data, large))
    assert isinstance(error, ExchangeFormatError)
    assert "is not what was sealed" in str(error)


def test_a_file_that_changes_between_the_check_and_the_reading_is_noticed(chunked, yours, tmp_path):
    large, _, _ = chunked
    path = tmp_path / "whole"
    check = EnvelopeReader._check_signature

    def check_another(self, *arguments):
        check(self, *arguments)
        return bytes(32)  # of another file, which lay here while the signature was checked

    with (
        mock.patch.object(EnvelopeReader, "_check_signature", check_another),
        pytest.raises(ExchangeFormatError, match="changed while it was read"),
    ):
        receive_items(yours, path, trust=address(large))
    assert len(yours) == 0


def written(path, mine, yours, payload):
    with path.open("wb") as file:
        writer = EnvelopeWriter(file, read_key(mine.path), [read_address(address(yours))])
        writer.write(payload)
        writer.finish()


def head(**changes):
    good = json.loads(bundle._head(toy.BINDING, 1)) | changes
    data = json.dumps(good, sort_keys=True, separators=(",", ":")).encode()
    return len(data).to_bytes(4, "big") + data


def record_bytes(id_=1, **fields):
    values = {
        "vector": toy.vector(1).tobytes(),
        "label": b"l",
        "source": b"s",
        "seconds": bytes(8),
        "patches": None,
        "mask": None,
    } | fields
    return id_.to_bytes(8, "big", signed=True) + bundle_bytes(values.values())


def bundle_bytes(values):
    from procmem.record import canonical_bytes

    return canonical_bytes(*values)


HUGE = (2**62).to_bytes(8, "big")


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b"", "cannot be taken in"),
        (b"\xff\xff\xff\xff", "4294967295 bytes"),
        (b"\0\0\0\2{}", "head"),
        (b"\0\0\0\1[", "cannot be taken in"),
        (head(format="else"), "not as it is written"),
        (head(format_version="2"), "upgrade"),
        (head(items="-1"), "not as it is written"),
        (head(items="01"), "not as it is written"),
        (head(cls_dim=str(2**40)), "sizes of"),
        (head(side=str(2**20), patch_size=str(2**20)), "pixels"),
        (head(patch_size="0"), "cannot be taken in"),
        (head(more="1"), "not as it is written"),
        (head(items=str(10**15)), "cannot be taken in"),
        (head() + record_bytes() + b"\1", "more in it"),
        (head() + record_bytes() + bytes(CHUNK_BYTES), "more in it"),
        (head(items="2") + record_bytes(2) + record_bytes(1), "out of order"),
        (head(items="2") + record_bytes(2) + record_bytes(2), "out of order"),
        (head() + record_bytes(0), "id is 0"),
        (head() + record_bytes(-5), "id is -5"),
        (head() + record_bytes(vector=None), "lacks a value"),
        (head() + record_bytes(seconds=None), "lacks a value"),
        (head() + record_bytes(seconds=b"\1"), "lacks a value"),
        (head() + record_bytes(seconds=b"\xff" * 8), "added_seconds"),
        (head() + record_bytes(vector=b"\0" * 96), "length 0"),
        (head() + record_bytes(vector=b"\0\x7e" * 48), "length nan"),
        (head() + record_bytes(vector=b"\0" * 94), "shape"),
        (head() + record_bytes(vector=b"\0" * 95), "cannot be taken in"),
        (head() + record_bytes(label=b""), "label is empty"),
        (head() + record_bytes(label=b"x" * 1001), "1001 characters"),
        (head() + record_bytes(label=b"\xff"), "cannot be taken in"),
        (head() + record_bytes(source=b"a\0b"), "null character"),
        (head() + record_bytes(mask=bytes(32 * 32)), "another size"),
        (head() + record_bytes(patches=bytes(192), mask=b"\1"), "another size"),
        (head() + record_bytes(patches=b"\x80" * 192, mask=bytes(1024)), "below -127"),
        (head() + bytes(7) + b"\1" + HUGE, "at most 96"),
    ],
)
def test_contents_that_no_memory_writes_are_refused(mine, yours, tmp_path, payload, words):
    """A sender who is trusted may still be mistaken, or worse."""
    written(tmp_path / "f", mine, yours, payload)
    error = refused(yours, mine, tmp_path / "f", (tmp_path / "f").read_bytes())
    assert isinstance(error, ExchangeFormatError)
    assert words in str(error)


def test_a_file_that_claims_to_be_huge_takes_no_memory(mine, yours, tmp_path):
    claims = [
        head(items=str(10**15)),
        head() + bytes(7) + b"\1" + HUGE,
        b"\xff\xff\xff\xff",
        head(cls_dim=str(2**19), model_sha256="ee" * 32) + bytes(7) + b"\1" + HUGE,
    ]
    paths = [tmp_path / str(number) for number in range(len(claims))]
    for path, payload in zip(paths, claims, strict=True):
        written(path, mine, yours, payload)
    tracemalloc.start()
    for path in paths:
        with pytest.raises(ExchangeFormatError):
            receive_items(yours, path, trust=address(mine), reembed=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 2**20


def test_a_bundle_of_any_size_is_read_and_written_in_little_memory(yours, tmp_path):
    peaks = []
    with filled(tmp_path / "large", range(1, 3001)) as large:
        for number, ids in enumerate((range(1, 301), range(1, 3001))):
            path = tmp_path / str(number)
            tracemalloc.start()
            share_items(large, path, to=address(yours), ids=ids)
            receive_items(yours, path, trust=address(large))
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert path.stat().st_size > 20 * CHUNK_BYTES
    # Ids and little else for each item: ten times as many of them take less than 1 MB more.
    assert peaks[1] - peaks[0] < 2**20


@pytest.mark.parametrize("data", [b"", b"PrMeBNDL", b"words" * 40, b"{}", bytes(2000)])
def test_a_foreign_file_is_told(mine, yours, tmp_path, data):
    assert isinstance(refused(yours, mine, tmp_path / "f", data), ExchangeFormatError)


def test_no_file_and_no_regular_file_are_told(mine, yours, tmp_path):
    with pytest.raises(InputError, match="cannot be opened"):
        receive_items(yours, tmp_path / "none", trust=address(mine))
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(InputError, match="not a file"):
            receive_items(yours, path, trust=address(mine))


MANY = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@MANY
@given(data=st.data())
def test_contents_that_are_changed_by_chance_are_refused_or_as_sound_as_others(
    mine, yours, tmp_path, data
):
    """Under a good signature: only the reader of the contents is asked."""
    good = head() + record_bytes(6, patches=bytes(192), mask=bytes(1024))
    changed = bytearray(good)
    for at in data.draw(st.lists(st.integers(0, len(good) - 1), min_size=1, max_size=3)):
        changed[at] ^= data.draw(st.integers(1, 255))
    if data.draw(st.booleans()):
        del changed[data.draw(st.integers(0, len(changed))) :]
    written(tmp_path / "f", mine, yours, bytes(changed))
    try:
        report = receive_items(yours, tmp_path / "f", trust=address(mine))
    except (ExchangeFormatError, EmbedderMismatchError) as error:
        told = str(error)
        assert str(tmp_path / "f") in told
        assert len(yours) == 0
    else:
        assert yours.verify().ok
        assert len(report.added) == len(yours) == 1
        yours.delete(list(report.added))


# ---- another model


@pytest.fixture
def photos(tmp_path):
    """Photos in files, taught to a memory of another model; the toy sees files through `load`."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(4):
        Image.fromarray(toy.picture(number)).save(folder / f"{number}.png")
    (folder / "3.png").write_bytes(b"words")
    return folder


class FromFiles(toy.ToyEmbedder):
    """The toy, for images in files."""

    def embed(self, images, *, view="center"):
        from procmem.image import load_image

        return super().embed(load_image(images), view=view)


def test_items_of_another_model_are_refused_with_both_ways_out(mine, tmp_path):
    with opened(tmp_path / "other", embedder=OtherModel()) as other:
        share_items(mine, tmp_path / "f", to=address(other))
        with pytest.raises(EmbedderMismatchError) as caught:
            receive_items(other, tmp_path / "f", trust=address(mine))
        assert len(other) == 0
    for words in ("ab" * 32, "cd" * 32, "a memory of the first", "reembed=True"):
        assert words in str(caught.value)


def test_items_of_another_model_are_seen_again_where_their_photos_are(photos, tmp_path, caplog):
    sources = [str(photos / f"{number}.png") for number in range(4)]
    sources += [None, "/no/such/file.png", "/" + "x" * 300]  # of the last the system says an error
    masks = {1: toy.mask(1)}
    with (
        opened(tmp_path / "theirs", embedder=OtherModel()) as theirs,
        opened(tmp_path / "ours", embedder=FromFiles()) as ours,
        opened(tmp_path / "twin", embedder=FromFiles()) as twin,
    ):
        for id_, source in enumerate(sources, start=1):
            theirs.add(
                toy.picture(id_ - 1),
                f"label {id_}",
                ids=id_,
                masks=masks.get(id_),
                **({} if source is None else {"sources": source}),
            )
        for id_ in (1, 2, 3):
            twin.add(
                sources[id_ - 1],  # type: ignore[arg-type]
                f"label {id_}",
                ids=id_,
                masks=masks.get(id_),
            )
        share_items(theirs, tmp_path / "f", to=address(ours))
        with mock.patch.object(ours._local, "purge_limit", 10**6):
            report = receive_items(ours, tmp_path / "f", trust=address(theirs), reembed=True)
        assert (report.added, report.not_seen) == ((1, 2, 3), (4, 5, 6, 7))
        assert "/no/such/file.png" in caplog.text
        assert "x" * 300 in caplog.text
        times = {item.id: item.added_seconds for item in theirs.items()}
        assert all(item.added_seconds == times[item.id] for item in ours.items())
        for one, other in zip(
            ours._vault.records([1, 2, 3]), twin._vault.records([1, 2, 3]), strict=True
        ):
            assert (one.item.label, one.item.source) == (other.item.label, other.item.source)
            assert one.vector.tobytes() == other.vector.tobytes()
            assert (one.mask is None) == (other.mask is None)
        one, other = (next(memory._vault.records([1])) for memory in (ours, twin))
        assert np.array_equal(one.mask, other.mask)
        assert np.array_equal(one.patches, other.patches)
        again = receive_items(ours, tmp_path / "f", trust=address(theirs), reembed=True)
        assert (again.added, again.unchanged, again.not_seen) == ((), (1, 2, 3), (4, 5, 6, 7))


def test_a_mask_goes_along_to_another_image_size(photos, tmp_path):
    class Smaller(FromFiles):
        side = 16

        def embed(self, images, *, view="center"):
            seen = super().embed(images, view=view)
            return type(seen)(seen.cls, seen.patches[:, :2, :2])

    mask = np.zeros((4, 4), dtype=np.uint8)
    mask[:2, :] = 7
    with (
        opened(tmp_path / "theirs", embedder=FromFiles()) as theirs,
        opened(tmp_path / "ours", embedder=Smaller()) as ours,
    ):
        theirs.add(photos / "0.png", masks=mask, ids=1)
        share_items(theirs, tmp_path / "f", to=address(ours))
        with pytest.raises(EmbedderMismatchError, match="image size 32"):
            receive_items(ours, tmp_path / "f", trust=address(theirs))
        receive_items(ours, tmp_path / "f", trust=address(theirs), reembed=True)
        record = next(ours._vault.records([1]))
        assert record.mask is not None
        assert record.patches is not None
        assert record.patches.shape == (4, 12)
        assert np.array_equal(record.mask, np.repeat([[7], [0]], 8, axis=0) * np.ones((1, 16)))


def test_the_key_of_bundles_is_not_the_key_of_signatures(mine):
    key = read_key(mine.path)
    assert address_of(key).signing_key != address_of(key).sealing_key
    assert key.signing_seed not in (address_of(key).signing_key, address_of(key).sealing_key)
