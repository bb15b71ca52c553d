"""Merkle trees must be those of RFC 6962, and no proof may show anything but the truth."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from procmem.merkle import Tree, leaf_hash, leaf_hashes, root_from, root_of_nothing


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def rfc_root(entries: list[bytes]) -> bytes:
    """MTH of RFC 6962, section 2.1, as it is written there."""
    if not entries:
        return sha256(b"")
    if len(entries) == 1:
        return sha256(b"\x00" + entries[0])
    split = 1
    while split * 2 < len(entries):
        split *= 2
    return sha256(b"\x01" + rfc_root(entries[:split]) + rfc_root(entries[split:]))


def rfc_path(at: int, entries: list[bytes]) -> list[bytes]:
    """PATH of RFC 6962, section 2.1.1, as it is written there."""
    if len(entries) == 1:
        return []
    split = 1
    while split * 2 < len(entries):
        split *= 2
    if at < split:
        return [*rfc_path(at, entries[:split]), rfc_root(entries[split:])]
    return [*rfc_path(at - split, entries[split:]), rfc_root(entries[:split])]


def entries_of(count: int) -> list[bytes]:
    return [bytes([at]) * (at % 5) for at in range(count)]


def tree_of(hashes: list[bytes]) -> Tree:
    return Tree(np.frombuffer(b"".join(hashes), dtype=np.uint8).reshape(-1, 32))


@pytest.mark.parametrize("count", range(40))
def test_root_and_paths_are_those_of_the_rfc(count):
    entries = entries_of(count)
    tree = tree_of([leaf_hash(entry) for entry in entries])
    assert tree.root == rfc_root(entries)
    for at in range(count):
        assert tree.prove([at]) == rfc_path(at, entries)


def test_the_roots_published_for_certificate_transparency():
    # The test vectors of Google's certificate-transparency project, also used by Trillian.
    leaves = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657"]
    leaves.append("606162636465666768696a6b6c6d6e6f")
    tree = tree_of([leaf_hash(bytes.fromhex(leaf)) for leaf in leaves])
    assert tree.root.hex() == "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"
    assert root_of_nothing().hex().startswith("e3b0c44298fc1c14")


@given(st.integers(1, 70), st.data())
def test_a_proof_of_several_leaves_gives_the_root_and_nothing_else_does(count, data):
    hashes = [leaf_hash(entry) for entry in entries_of(count)]
    tree = tree_of(hashes)
    chosen = data.draw(st.sets(st.integers(0, count - 1), min_size=1))
    proof = tree.prove(chosen)
    leaves = {at: hashes[at] for at in chosen}
    assert root_from(count, leaves, proof) == tree.root
    at = data.draw(st.sampled_from(sorted(chosen)))
    assert root_from(count, leaves | {at: leaf_hash(b"another")}, proof) != tree.root
    for at in range(len(proof)):
        changed = [*proof[:at], sha256(proof[at]), *proof[at + 1 :]]
        assert root_from(count, leaves, changed) != tree.root
    with pytest.raises(ValueError, match="too many"):
        root_from(count, leaves, [*proof, proof[0] if proof else hashes[0]])
    if proof:
        with pytest.raises(ValueError, match="too few"):
            root_from(count, leaves, proof[:-1])


@pytest.mark.parametrize(("size", "leaves"), [(3, {}), (3, {3: b"0" * 32}), (3, {-1: b"0" * 32})])
def test_positions_outside_the_tree_are_refused(size, leaves):
    with pytest.raises(ValueError, match="outside the tree"):
        root_from(size, leaves, [])


@pytest.mark.parametrize(("count", "size"), [(0, 5), (1, 0), (3, 40), (200, 65)])
def test_many_leaves_have_the_hashes_of_each(count, size):
    rows = np.random.default_rng(count).integers(0, 256, (count, size), dtype=np.uint8)
    assert [*map(bytes, leaf_hashes(rows))] == [leaf_hash(bytes(row)) for row in rows]


def test_a_node_is_no_leaf():
    pair = [leaf_hash(b"a"), leaf_hash(b"b")]
    inner = tree_of(pair).root
    assert leaf_hash(pair[0] + pair[1]) != inner
