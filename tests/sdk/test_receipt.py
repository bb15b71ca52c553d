"""A receipt must prove what it says, to anybody, and tell nothing else."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import itertools
import json
import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.sdk.test_reasons import Model, image

from procmem import VisualMemory, _erasure, check_receipt, read_receipt, write_receipt
from procmem.committer import Committer
from procmem.errors import InputError, ReceiptError, VaultFormatError
from procmem.key import VaultKey, make_key, read_key
from procmem.receipt import Commitments, Leaf, receipt_text, sign_receipt
from procmem.record import canonical_values, values_of
from procmem.survey import survey

KEY = VaultKey(commitment_secret=b"s" * 32, signing_seed=b"k" * 32)


def committed(ids, *, changed=()):
    """Commitments to items that are functions of their ids; other ones to those of `changed`."""
    codes = [hashlib.sha256(b"%d %d" % (id_, id_ in changed)).digest() for id_ in ids]
    rows = np.frombuffer(b"".join(codes), dtype=np.uint8).reshape(-1, 32)
    return Commitments(np.array(ids, dtype=np.int64), rows)


def receipt_of(ids, erased, *, key=KEY, found=0, after=None):
    kept = [id_ for id_ in ids if id_ not in erased]
    return sign_receipt(
        key,
        committed(ids),
        committed(kept) if after is None else after,
        erased_ids=sorted(erased),
        erased_seconds=1_700_000_000,
        model_sha256="ab" * 32,
        purged=True,
        windows_checked=17,
        windows_found=found,
        out_of_reach=("backups",),
    )


@pytest.fixture
def memory(tmp_path):
    with VisualMemory(tmp_path / "vault", embedder=Model()) as opened:
        opened.add([image(i) for i in range(20)], "thing", ids=range(10, 210, 10))
        yield opened


# ---- of a memory


def test_a_deletion_gives_a_receipt_that_holds_offline(memory, tmp_path):
    report = memory.delete([50, 60, 200])
    receipt = report.receipt
    assert receipt.erased_ids == (50, 60, 200)
    assert (receipt.before.items, receipt.after.items) == (20, 17)
    assert receipt.model_sha256 == memory.stats().embedder_sha256
    assert receipt.windows_checked == report.windows_checked
    write_receipt(receipt, tmp_path / "receipt.json")
    again = read_receipt(tmp_path / "receipt.json")
    assert again == receipt
    assert check_receipt(again) == ()
    assert check_receipt(again, public_key=bytes.fromhex(memory.stats().receipt_key)) == ()


def test_receipts_of_one_memory_follow_from_each_other(memory):
    first, second = memory.delete(50).receipt, memory.delete(100).receipt
    assert first.after.root == second.before.root
    assert first.public_key == second.public_key
    memory.add(image(99), ids=[77])
    assert memory.delete(77).receipt.after.root == second.after.root


def test_the_last_item_leaves_the_root_of_nothing(memory):
    receipt = memory.delete([item.id for item in memory.items()]).receipt
    assert receipt.after.items == 0
    assert receipt.after.root == hashlib.sha256(b"").digest()
    assert check_receipt(receipt) == ()


def test_no_receipt_while_the_purge_is_pending_and_none_if_not_wanted(tmp_path):
    with VisualMemory(tmp_path / "v", embedder=Model(), purge_limit=0) as memory:
        memory.add([image(1), image(2)], ids=[1, 2])
        assert memory.delete(1).receipt is None
    with VisualMemory(tmp_path / "v", embedder=Model()) as memory:
        assert memory.delete([]).receipt is None
        assert memory.delete(2, receipt=False).receipt is None


@pytest.mark.parametrize("damage", [b"", b"PrMeKEY1", b"x" * 104, None])
def test_without_a_sound_key_deleting_works_and_says_why_there_is_no_receipt(
    memory, damage, caplog
):
    key = memory.path / "KEY"
    key.unlink() if damage is None else key.write_bytes(damage)
    report = memory.delete(50)
    assert report.receipt is None
    assert report.purged
    assert report.windows_found == 0
    assert "no receipt can be made" in caplog.text
    assert memory.stats().receipt_key is None


def test_a_receipt_tells_nothing_of_the_images(memory):
    secrets = [*memory._vault.values([50]), b"thing"]
    text = receipt_text(memory.delete(50).receipt).encode()
    for secret in secrets:
        assert secret not in text
        assert hashlib.sha256(secret).hexdigest().encode() not in text
    assert b"thing" not in text


def test_equal_images_have_unequal_commitments_and_another_vault_other_ones(tmp_path):
    commitments = set()
    for name in ("a", "b"):
        with VisualMemory(tmp_path / name, embedder=Model()) as memory:
            memory.add([image(7), image(7)], "same", ids=[1, 2])
            commitments |= {leaf.commitment for leaf in memory.delete([1, 2]).receipt.before.leaves}
    assert len(commitments) == 4


def test_the_key_is_private_and_survives(memory):
    path = memory.path / "KEY"
    assert path.stat().st_mode & 0o777 == 0o600
    key = memory.stats().receipt_key
    data = path.read_bytes()
    memory.close()
    with VisualMemory(memory.path, embedder=Model()) as again:
        assert again.stats().receipt_key == key
    assert path.read_bytes() == data


def test_an_older_vault_gets_its_key_when_it_is_opened_for_writing(memory):
    memory.close()
    (memory.path / "KEY").unlink()
    with VisualMemory(memory.path, embedder=Model(), read_only=True) as reader:
        assert reader.stats().receipt_key is None
    with VisualMemory(memory.path, embedder=Model()) as again:
        assert check_receipt(again.delete(50).receipt) == ()


# ---- lies


@pytest.mark.parametrize("count", [1, 2, 3, 8, 13])
def test_every_deletion_of_a_small_vault_is_proved(count):
    ids = [3 * at + 1 for at in range(count)]
    for size in (1, 2, count):
        for erased in itertools.combinations(ids, min(size, count)):
            receipt = receipt_of(ids, set(erased))
            assert check_receipt(receipt) == ()
            assert read_receipt(receipt_text(receipt).encode()) == receipt


@pytest.mark.parametrize(
    "after",
    [
        committed([1, 2, 3]),
        committed([1]),
        committed([1, 3, 4]),
        committed([1, 3], changed=[3]),
        committed([]),
    ],
)
def test_a_vault_that_is_not_the_one_before_without_the_items_gets_no_receipt(after):
    with pytest.raises(ReceiptError, match="not the one before"):
        receipt_of([1, 2, 3], {2}, after=after)


@pytest.mark.parametrize("id_", [2, 6])
def test_an_id_that_was_not_there_gets_no_receipt(id_):
    with pytest.raises(ReceiptError, match="not one of those before"):
        receipt_of([1, 3, 5], {id_}, after=committed([1, 3, 5]))


def test_hashes_that_hashlib_does_not_confirm_are_not_signed(monkeypatch):
    right = _erasure.sha256_rows

    def wrong(rows):
        hashes = right(rows)
        hashes[0, 0] ^= 1
        return hashes

    monkeypatch.setattr("procmem.merkle._erasure", SimpleNamespace(sha256_rows=wrong))
    with pytest.raises(ReceiptError, match="the root does not follow from the leaves"):
        receipt_of([1, 2, 3, 4], {2})


def test_commitments_are_codes_under_the_secret_of_the_vault(memory):
    memory.add(image(3), "masked", ids=[15], masks=[np.eye(8, dtype=np.uint8)])
    secret = read_key(memory.path).commitment_secret
    committer = Committer(secret)
    memory._vault.commit(committer)
    ids, codes = committer.result()
    records = list(memory._vault.records(ids.tolist()))
    assert (
        [record.item.id for record in records] == ids.tolist() == sorted([*range(10, 210, 10), 15])
    )
    for record, code in zip(records, codes, strict=True):
        stored = canonical_values(*values_of(record, memory._vault.binding))
        text = record.item.id.to_bytes(8, "big") + stored
        assert code.tobytes() == hmac.digest(secret, text, "sha256")
    leaves = memory.delete([15, 200]).receipt.before.leaves
    assert [leaf.commitment for leaf in leaves] == [codes[1].tobytes(), codes[-1].tobytes()]


def test_some_items_are_committed_to_as_all_are(memory):
    ids = list(range(1000, 1250))  # several queries' worth
    masks = [np.eye(8, dtype=np.uint8) if at % 3 == 0 else None for at in range(len(ids))]
    memory.add([image(3)] * len(ids), "many", ids=ids, masks=masks)
    everything, some = Committer(b"secret"), Committer(b"secret")
    memory._vault.commit(everything)
    memory._vault.commit(some, [5, *ids[:-7], 2**62])  # two are not held
    all_ids, all_codes = everything.result()
    chosen = np.isin(all_ids, ids[:-7])
    assert np.array_equal(some.result()[0], ids[:-7])
    assert np.array_equal(some.result()[1], all_codes[chosen])


@pytest.mark.parametrize(("receipt", "passes"), [(False, 1), (True, 2)])
def test_a_receipt_costs_one_pass_over_the_rows(memory, monkeypatch, receipt, passes):
    done = []

    def counted(*arguments, **named):
        done.append(None)
        return survey(*arguments, **named)

    monkeypatch.setattr("procmem.writer.survey", counted)
    report = memory.delete([20, 40], receipt=receipt)
    assert (report.receipt is not None) == receipt
    assert report.purged
    assert len(done) == passes


def resigned(receipt):
    """As whoever has the key would sign it: only the trees speak against it then."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from procmem.receipt import _signed_bytes

    private_key = Ed25519PrivateKey.from_private_bytes(KEY.signing_seed)
    return dataclasses.replace(receipt, signature=private_key.sign(_signed_bytes(receipt)))


def test_even_the_owner_of_the_key_cannot_prove_what_is_not_so():
    honest = receipt_of([1, 4, 6, 9], {4})
    replace = dataclasses.replace
    kept = committed([1, 4, 6, 9])
    lies = {
        "id 4 is not in": replace(honest, after=replace(kept.prove([0, 2]), items=3)),
        "would leave 3, not 4": replace(honest, after=kept.prove([0, 2])),
        "no id is named": replace(honest, before=replace(honest.before, leaves=())),
        "tree before is not proved": replace(
            honest,
            before=replace(honest.before, leaves=(Leaf(5, 1, honest.before.leaves[0].commitment),)),
        ),
        "not in order": replace(
            honest, before=replace(honest.before, leaves=honest.before.leaves * 2)
        ),
        "not purged": replace(honest, purged=False),
        "were still found": replace(honest, windows_found=3),
        "tree after is not proved": replace(honest, after=replace(honest.after, root=b"r" * 32)),
    }
    for sentence, lie in lies.items():
        problems = check_receipt(resigned(lie))
        assert problems, sentence
        assert "signature" not in " ".join(problems)
    assert any(
        "were still found" in problem
        for problem in check_receipt(resigned(lies["were still found"]))
    )


def test_another_key_is_noticed():
    other = VaultKey(commitment_secret=b"s" * 32, signing_seed=b"o" * 32)
    receipt = receipt_of([1, 2, 3], {2}, key=other)
    assert check_receipt(receipt) == ()
    wanted = receipt_of([1, 2, 3], {2}).public_key
    (problem,) = check_receipt(receipt, public_key=wanted)
    assert "not by the expected" in problem
    stolen = dataclasses.replace(receipt, public_key=wanted)
    assert any("signature" in problem for problem in check_receipt(stolen))
    with pytest.raises(InputError, match="wanted 32"):
        check_receipt(receipt, public_key=b"short")


# ---- mutations


TEXT = receipt_text(receipt_of(range(1, 40), {3, 4, 20, 39})).encode()


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, len(TEXT) - 1), st.integers(1, 255))
def test_no_changed_byte_goes_unnoticed(at, difference):
    changed = bytearray(TEXT)
    changed[at] ^= difference
    try:
        receipt = read_receipt(bytes(changed))
    except ReceiptError:
        return
    assert check_receipt(receipt)


def test_changes_of_several_bytes_end_in_an_error_or_a_problem():
    source = random.Random(1)
    for _ in range(500):
        changed = bytearray(TEXT)
        kind = source.randrange(4)
        at = source.randrange(len(changed))
        if kind == 0:
            del changed[at : at + source.randrange(1, 200)]
        elif kind == 1:
            changed[at:at] = source.randbytes(source.randrange(1, 20))
        elif kind == 2:
            size = source.randrange(1, 40)
            changed[at : at + size] = source.randbytes(size)
        else:
            changed = changed[:at]
        try:
            receipt = read_receipt(bytes(changed))
        except ReceiptError:
            continue
        assert check_receipt(receipt)


def mutated(**changes):
    return json.dumps(json.loads(TEXT) | changes, sort_keys=True, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "no receipt"),
        (b"[" * 100_000, "no receipt"),
        (b"null\n", "not a JSON object"),
        (b'{"format": 3}', "not a JSON object with a format"),
        (b"\xff\xfe", "no receipt"),
        (mutated(format="procmem erasure receipt 2"), "wanted 'procmem erasure receipt 1'"),
        (mutated(purged=1) + b"\n", "purged"),
        (mutated(erased_seconds=1.5) + b"\n", "whole number"),
        (mutated(erased_seconds=True) + b"\n", "whole number"),
        (mutated(extra=1) + b"\n", "canonical"),
        (mutated(), "canonical"),
        (b" " + TEXT, "canonical"),
        (mutated(signature="AB" * 64) + b"\n", "canonical"),
        (mutated(windows_found=float("nan")) + b"\n", "whole number"),
    ],
)
def test_what_is_no_receipt_is_told(data, why):
    with pytest.raises(ReceiptError, match=why):
        read_receipt(data)


def test_a_missing_file_and_an_unwritable_folder_are_told(tmp_path):
    with pytest.raises(ReceiptError, match="check the path"):
        read_receipt(tmp_path / "none.json")
    with pytest.raises(ReceiptError, match="check the folder"):
        write_receipt(receipt_of([1], {1}), tmp_path / "none" / "receipt.json")


# ---- keys


def test_a_key_is_made_once(tmp_path):
    make_key(tmp_path)
    first = read_key(tmp_path)
    make_key(tmp_path)
    assert read_key(tmp_path) == first
    assert first.commitment_secret != first.signing_seed
    assert "commitment" not in repr(first)


def test_every_damaged_key_is_noticed(tmp_path: Path):
    make_key(tmp_path)
    data = (tmp_path / "KEY").read_bytes()
    for at in range(len(data)):
        (tmp_path / "KEY").write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(VaultFormatError, match="damaged"):
            read_key(tmp_path)
    for size in (0, 50, len(data) - 1):
        (tmp_path / "KEY").write_bytes(data[:size])
        with pytest.raises(VaultFormatError, match="damaged"):
            read_key(tmp_path)
