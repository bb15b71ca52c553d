"""Erasure receipts: what a vault says, signed, of something that it has forgotten.

Takes ids and commitments from `vault.py`, gives a `Receipt` to `memory.py` and to the command
line. Anybody can check a receipt offline, with nothing but the file.

A vault is seen as a list of leaves, one per item, ascending by id, under the root of a Merkle
tree (`merkle.py`). A leaf is the id and a commitment: an HMAC-SHA256 of the item's stored bytes
under a secret that never leaves the vault (`key.py`). The receipt has the roots before and after,
a proof that each erased id was in the tree before, and a proof that it is not in the one after:
the two leaves between which it would stand, side by side. All of it is signed with Ed25519.

Promises: a receipt holds nothing about any image, not even for somebody who has the photo and the
model; without the secret a commitment is noise, and equal images have unequal ones. Every change
of one bit is noticed. Never reads a vault's files, never writes, asks nobody.

What a receipt cannot prove: that the program which wrote it was honest, or that no copy exists
elsewhere. It binds whoever holds the vault's key to a statement that can be checked for
contradictions, later roots included.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from procmem.errors import InputError, ReceiptError
from procmem.folder import path_of
from procmem.key import VaultKey
from procmem.manifest import write_bytes_atomically
from procmem.merkle import (
    HASH_BYTES,
    Tree,
    leaf_hash,
    leaf_hashes,
    root_from,
    root_of_nothing,
)

FORMAT = "procmem erasure receipt 1"
MAX_RECEIPT_BYTES = 1 << 28
"""A larger file is not read. With all paths, 100,000 erased items take about 40 MB at most."""

_MAX_NUMBER = 2**53 - 1  # larger ones lose digits in many JSON readers; ids are text
_MAX_ID_DIGITS = 19  # of 2**63
_ID_BYTES = 8
_PUBLIC_KEY_BYTES = 32
_SIGNATURE_BYTES = 64


@dataclass(frozen=True, slots=True)
class Leaf:
    """One item as a tree knows it.

    Attributes:
        id: of the item.
        position: in the tree, which is the number of items with a smaller id.
        commitment: 32 bytes, see `committer.Committer`.
    """

    id: int
    position: int
    commitment: bytes


@dataclass(frozen=True, slots=True)
class TreeProof:
    """A tree over all items of a vault, and proof that some leaves stand in it.

    Attributes:
        items: how many leaves the tree has.
        root: 32 bytes.
        leaves: those that are proved, ascending by id.
        path: 32 bytes each, the hashes that lead from them to the root, see `merkle.Tree.prove`.
    """

    items: int
    root: bytes
    leaves: tuple[Leaf, ...]
    path: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Receipt:
    """Signed proof that ids were in a memory and are no longer.

    Attributes:
        erased_seconds: when, whole seconds since 1970 UTC by the clock of the device.
        before: the tree before the deletion; its leaves are the erased items.
        after: the tree of the purged vault; its leaves are the neighbors of each erased id.
        model_sha256: of the model file that the vault is bound to, lowercase hexadecimal.
        purged: True if the vault was rewritten without the items.
        windows_checked: how many 16-byte windows of the erased data were looked for.
        windows_found: how many were found; 0 unless something is wrong.
        out_of_reach: what no software can vouch for, in words.
        public_key: 32 bytes, Ed25519; the same in all receipts of a vault.
        signature: 64 bytes, over all of the above; see `receipt_text`.
    """

    erased_seconds: int
    before: TreeProof
    after: TreeProof
    model_sha256: str
    purged: bool
    windows_checked: int
    windows_found: int
    out_of_reach: tuple[str, ...]
    public_key: bytes
    signature: bytes

    @property
    def erased_ids(self) -> tuple[int, ...]:
        """The ids that were erased, ascending."""
        return tuple(leaf.id for leaf in self.before.leaves)


class Commitments:
    """All items of a vault at one moment, as leaves under a root; about 100 bytes for each.

    Args:
        ids: (N,) int64, ascending.
        codes: (N, 32) uint8, the commitment of each; both are from a `Committer`.
    """

    def __init__(self, ids: npt.NDArray[np.int64], codes: npt.NDArray[np.uint8]) -> None:
        self.ids, self.codes = ids, codes
        self._tree = Tree(_hashes_of(ids, codes))

    def prove(self, positions: Iterable[int]) -> TreeProof:
        """Proof of the leaves at these positions, in [0, n)."""
        wanted = sorted(set(positions))
        return TreeProof(
            items=len(self._tree),
            root=self._tree.root,
            leaves=tuple(Leaf(int(self.ids[at]), at, self.codes[at].tobytes()) for at in wanted),
            path=tuple(self._tree.prove(wanted)),
        )


def sign_receipt(
    key: VaultKey,
    before: Commitments,
    after: Commitments,
    *,
    erased_ids: Sequence[int],
    erased_seconds: int,
    model_sha256: str,
    purged: bool,
    windows_checked: int,
    windows_found: int,
    out_of_reach: tuple[str, ...],
) -> Receipt:
    """Makes the receipt of one deletion and signs it.

    Args:
        key: of the vault.
        before: the vault's items with those that were erased.
        after: the vault's items once they were erased, read anew.
        erased_ids: ascending, at least one.
        erased_seconds: see `Receipt`, as for the others.
        model_sha256: see there.
        purged: see there.
        windows_checked: see there.
        windows_found: see there.
        out_of_reach: see there.

    Raises:
        ReceiptError: `after` is not `before` without the erased items, or what would be signed
            does not prove it.
        ImportError: the package `cryptography` is missing.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    erased = np.array(erased_ids, dtype=np.int64)
    kept = ~np.isin(before.ids, erased)
    if np.count_nonzero(~kept) != len(erased):
        raise ReceiptError("an id that was erased is not one of those before")
    same = np.array_equal(before.ids[kept], after.ids)
    if not same or not np.array_equal(before.codes[kept], after.codes):
        raise ReceiptError("the vault after the deletion is not the one before without the items")
    gaps = np.unique(np.searchsorted(after.ids, erased)).tolist()
    around = {at for gap in gaps for at in (gap - 1, gap) if 0 <= at < len(after.ids)}
    private_key = Ed25519PrivateKey.from_private_bytes(key.signing_seed)
    fields: dict[str, Any] = {
        "erased_seconds": erased_seconds,
        "before": before.prove(np.searchsorted(before.ids, erased).tolist()),
        "after": after.prove(around),
        "model_sha256": model_sha256,
        "purged": purged,
        "windows_checked": windows_checked,
        "windows_found": windows_found,
        "out_of_reach": out_of_reach,
        "public_key": private_key.public_key().public_bytes_raw(),
    }
    unsigned = Receipt(**fields, signature=b"")
    problems = _unproved(unsigned)
    if problems:
        raise ReceiptError(f"the trees do not prove the deletion: {'; '.join(problems)}")
    return Receipt(**fields, signature=private_key.sign(_signed_bytes(unsigned)))


def public_key_of(key: VaultKey) -> bytes:
    """The public key with which receipts under this key are checked, 32 bytes.

    Raises:
        ImportError: the package `cryptography` is missing.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(key.signing_seed).public_key().public_bytes_raw()


def check_receipt(receipt: Receipt, *, public_key: bytes | None = None) -> tuple[str, ...]:
    """Checks a receipt by itself, offline: signature, both trees, and what it says was found.

    Args:
        receipt: from `read_receipt` or an `ErasureReport`.
        public_key: 32 bytes, the key that the vault is known by. None takes the receipt's own:
            then the receipt is whole, but anybody could have written it.

    Returns:
        What is wrong, one sentence each; empty if the receipt proves what it says.

    Raises:
        InputError: `receipt` is none, or `public_key` is not 32 bytes.
        ImportError: the package `cryptography` is missing.
    """
    if not isinstance(receipt, Receipt):
        raise InputError(f"receipt is a {type(receipt).__name__}, wanted one of read_receipt")
    if public_key is not None and not isinstance(public_key, bytes):
        raise InputError(
            f"public_key is {public_key!r:.80}, wanted {_PUBLIC_KEY_BYTES} bytes: bytes.fromhex of "
            "what `procmem stats` shows"
        )
    if public_key is not None and len(public_key) != _PUBLIC_KEY_BYTES:
        raise InputError(
            f"public_key has {len(public_key)} bytes, wanted {_PUBLIC_KEY_BYTES}: give the key "
            "that another receipt of the vault names"
        )
    problems = []
    if public_key is not None and public_key != receipt.public_key:
        problems.append(
            f"it is signed by the key {receipt.public_key.hex()}, not by the expected "
            f"{public_key.hex()}"
        )
    if not _is_signed(receipt):
        problems.append("the signature does not fit: the receipt was changed or is not a vault's")
    problems += _unproved(receipt)
    if not receipt.purged:
        problems.append("the vault was not purged: bytes of the items may have been left")
    if receipt.windows_found:
        problems.append(
            f"{receipt.windows_found} of {receipt.windows_checked} windows of the erased data "
            "were still found"
        )
    return tuple(problems)


# ---- the text form


def receipt_text(receipt: Receipt) -> str:
    """A receipt as JSON in its canonical form (RFC 8785) and a line feed.

    The signature is over the UTF-8 bytes of the same without the member "signature" and without
    the line feed.
    """
    signed = json.loads(_signed_bytes(receipt))
    return _canonical(signed | {"signature": receipt.signature.hex()}) + "\n"


def write_receipt(receipt: Receipt, path: str | Path) -> None:
    """Writes a receipt to a file, whole or not at all.

    Raises:
        InputError: no path.
        ReceiptError: it cannot be written there.
    """
    try:
        write_bytes_atomically(path_of("path", path), receipt_text(receipt).encode())
    except OSError as error:
        raise ReceiptError(
            f"the receipt cannot be written to {path} ({error.strerror}); check the folder"
        ) from error


def read_receipt(source: str | Path | bytes) -> Receipt:
    """Reads a receipt. Only its form is checked: `check_receipt` says whether it is true.

    Args:
        source: the path of a file, or the file's bytes.

    Raises:
        ReceiptError: it cannot be read, is no receipt, is of a newer format, or is not in the one
            canonical form.
        InputError: neither path nor bytes.
    """
    where = "the receipt" if isinstance(source, bytes) else str(source)
    data = source if isinstance(source, bytes) else _read(path_of("source", source))
    if len(data) > MAX_RECEIPT_BYTES:
        raise ReceiptError(f"{where} is larger than {MAX_RECEIPT_BYTES} bytes: not a receipt")
    try:
        receipt = _parse(json.loads(data.decode("utf-8")))
        canonical = receipt_text(receipt).encode()
    except RecursionError as error:
        raise ReceiptError(f"{where} is no receipt (nested too deeply)") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ReceiptError(
            f"{where} is no receipt, or damaged ({error!s:.200}); ask for the original file"
        ) from error
    if canonical != data:
        raise ReceiptError(
            f"{where} is not in the canonical form of a receipt: it was edited or damaged; ask "
            "for the original file"
        )
    return receipt


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_RECEIPT_BYTES + 1)
    except OSError as error:
        raise ReceiptError(f"{path} cannot be read ({error.strerror}); check the path") from error


def _signed_bytes(receipt: Receipt) -> bytes:
    document = {
        "format": FORMAT,
        "erased_seconds": receipt.erased_seconds,
        "before": _proof_as_json(receipt.before),
        "after": _proof_as_json(receipt.after),
        "model_sha256": receipt.model_sha256,
        "purged": receipt.purged,
        "windows_checked": receipt.windows_checked,
        "windows_found": receipt.windows_found,
        "out_of_reach": list(receipt.out_of_reach),
        "public_key": receipt.public_key.hex(),
    }
    return _canonical(document).encode()


def _canonical(document: dict[str, Any]) -> str:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _proof_as_json(proof: TreeProof) -> dict[str, Any]:
    return {
        "items": proof.items,
        "root": proof.root.hex(),
        "leaves": [[str(leaf.id), leaf.position, leaf.commitment.hex()] for leaf in proof.leaves],
        "path": [node.hex() for node in proof.path],
    }


def _parse(document: Any) -> Receipt:
    """The receipt of a JSON document; what it does not look at, `read_receipt` finds changed."""
    if not isinstance(document, dict) or not isinstance(document.get("format"), str):
        raise ValueError("not a JSON object with a format")
    if document["format"] != FORMAT:
        raise ValueError(f"format {document['format']!r:.60}, wanted {FORMAT!r}")
    if type(document["purged"]) is not bool:
        raise ValueError("purged is not true or false")
    texts = _list(document["out_of_reach"])
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("out_of_reach is not a list of texts")
    return Receipt(
        erased_seconds=_number(document["erased_seconds"]),
        before=_parse_proof(document["before"]),
        after=_parse_proof(document["after"]),
        model_sha256=_bytes(document["model_sha256"], HASH_BYTES).hex(),
        purged=document["purged"],
        windows_checked=_number(document["windows_checked"]),
        windows_found=_number(document["windows_found"]),
        out_of_reach=tuple(texts),
        public_key=_bytes(document["public_key"], _PUBLIC_KEY_BYTES),
        signature=_bytes(document["signature"], _SIGNATURE_BYTES),
    )


def _parse_proof(document: Any) -> TreeProof:
    if not isinstance(document, dict):
        raise ValueError("a tree is not an object")
    leaves = []
    for leaf in _list(document["leaves"]):
        id_, position, commitment = _list(leaf)
        if not isinstance(id_, str) or not 1 <= len(id_) <= _MAX_ID_DIGITS:
            raise ValueError("an id is not a text of digits")
        leaves.append(Leaf(int(id_), _number(position), _bytes(commitment, HASH_BYTES)))
    return TreeProof(
        items=_number(document["items"]),
        root=_bytes(document["root"], HASH_BYTES),
        leaves=tuple(leaves),
        path=tuple(_bytes(node, HASH_BYTES) for node in _list(document["path"])),
    )


def _number(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= _MAX_NUMBER:
        raise ValueError(f"{value!r:.40} is not a whole number in [0, 2**53)")
    return value


def _bytes(value: Any, length: int) -> bytes:
    if not isinstance(value, str) or len(value) != 2 * length:
        raise ValueError(f"{value!r:.40} is not {2 * length} hexadecimal digits")
    return bytes.fromhex(value)


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{value!r:.40} is not a list")
    return value


# ---- checking


def _hash_of(id_: int, commitment: bytes) -> bytes:
    return leaf_hash(id_.to_bytes(_ID_BYTES, "big") + commitment)


def _hashes_of(ids: npt.NDArray[np.int64], codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """`_hash_of` each item, (N, 32) uint8."""
    names = ids.astype(">i8").view(np.uint8).reshape(-1, _ID_BYTES)
    return leaf_hashes(np.concatenate([names, codes], axis=1))


def _is_signed(receipt: Receipt) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        public_key = Ed25519PublicKey.from_public_bytes(receipt.public_key)
        public_key.verify(receipt.signature, _signed_bytes(receipt))
    except (InvalidSignature, ValueError):  # ValueError: not a point of the curve
        return False
    return True


def _unproved(receipt: Receipt) -> list[str]:
    """What the two trees do not prove, hashed anew from the leaves."""
    problems = []
    for name, proof in (("before", receipt.before), ("after", receipt.after)):
        problem = _tree_problem(proof)
        if problem:
            problems.append(f"the tree {name} is not proved: {problem}")
    return problems + _absence_problems(receipt)


def _tree_problem(proof: TreeProof) -> str | None:
    """Why the leaves do not stand under the root, or None if they do."""
    ids = [leaf.id for leaf in proof.leaves]
    positions = [leaf.position for leaf in proof.leaves]
    if any(not 1 <= id_ < 2**63 for id_ in ids):
        return "an id is out of range"
    for values in (ids, positions):
        if any(left >= right for left, right in pairwise(values)):
            return "its leaves are not in order"
    if not proof.items:
        empty = not proof.leaves and not proof.path and proof.root == root_of_nothing()
        return None if empty else "it has no items, but leaves or a root"
    leaves = {leaf.position: _hash_of(leaf.id, leaf.commitment) for leaf in proof.leaves}
    try:
        root = root_from(proof.items, leaves, proof.path)
    except ValueError as error:
        return str(error)
    return None if root == proof.root else "the root does not follow from the leaves"


def _absence_problems(receipt: Receipt) -> list[str]:
    """Whether every erased id would stand between two neighbors, or at an end, of the tree after.

    An id that i erased ones precede, at position p before, would stand at p - i after.
    """
    before, after = receipt.before, receipt.after
    if not before.leaves:
        return ["no id is named as erased"]
    if after.items != before.items - len(before.leaves):
        return [
            f"{len(before.leaves)} erased of {before.items} items would leave "
            f"{before.items - len(before.leaves)}, not {after.items}"
        ]
    id_at = {leaf.position: leaf.id for leaf in after.leaves}
    for earlier, leaf in enumerate(before.leaves):
        gap = leaf.position - earlier
        left = id_at.get(gap - 1) if gap > 0 else 0
        right = id_at.get(gap) if gap < after.items else 2**63
        if left is None or right is None or not left < leaf.id < right:
            return [f"it is not proved that id {leaf.id} is not in the tree after"]
    return []
