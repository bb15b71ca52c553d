"""Revocations: deletions that reach the memories which have a copy, and that last.

Takes a selection from the user and erasure receipts, gives a signed list of ids to other memories,
and takes in theirs. A plain `delete` leaves no trace, and so an item may come back with the next
bundle. What is revoked is deleted just as exactly, and its id is remembered for good in `REVOKED`:
the one trace that is wanted, a random number that says nothing of an image.

    revoke(mine, "revoked.json", label="holiday")
    apply_revocations(yours, "revoked.json", trust=vault_address(mine))

A list has ids, the key that signed it, and the signature; no time, no count of anything else.
Promises: a list from a hand that was not named changes nothing; the ids are remembered durably
before anything is deleted, so that after a crash the next opening for writing finishes it.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from procmem.address import read_addresses
from procmem.batch import IdOrIds, plain_ids
from procmem.bundle import reading
from procmem.errors import InputError, ProcmemError, ReceiptError, UntrustedSignerError
from procmem.folder import path_of
from procmem.image import ImageLike
from procmem.key import VaultKey, read_key
from procmem.memory import VisualMemory
from procmem.newfile import check_outside, new_file, open_file
from procmem.receipt import Receipt, check_receipt, public_key_of, read_receipt
from procmem.revoked import ids_of
from procmem.types import RevocationReport

FORMAT = "procmem revocation list 1"
MAX_IDS = 1_000_000
"""Of one list; it has at most 22 bytes for each, and as objects in RAM about 100."""

_MAX_BYTES = 22 * MAX_IDS + 1_000
_MAX_ID_DIGITS = 19  # of 2**63
_KEY_DIGITS, _SIGNATURE_DIGITS = 64, 128


@dataclass(frozen=True, slots=True)
class RevocationList:
    """Ids that a memory has revoked, over its signature.

    Attributes:
        ids: ascending, each once.
        public_key: 32 bytes, Ed25519, of the vault that signed.
        signature: 64 bytes, over the canonical text without it.
    """

    ids: tuple[int, ...]
    public_key: bytes
    signature: bytes


def revoke(
    memory: VisualMemory,
    path: str | os.PathLike[str],
    ids: IdOrIds | None = None,
    *,
    label: str | None = None,
    source: str | os.PathLike[str] | None = None,
    similar_to: ImageLike | None = None,
    min_similarity: float = 0.9,
    added_before: datetime | None = None,
    receipts: Receipt | str | Path | Iterable[Receipt | str | Path] = (),
) -> RevocationReport:
    """Deletes items for good, here and in every memory that takes in the list which it writes.

    The items are deleted as `VisualMemory.delete` deletes them. Beyond that their ids are
    remembered in the vault, which from then on passes them over in whatever others send.

    Args:
        memory: signs the list.
        path: of the list, a new file.
        ids: see `VisualMemory.plan_delete`, as for the others; ids that were revoked before count
            as well, and need not be held.
        label: of all items to revoke.
        source: of all items to revoke.
        similar_to: an image like all items to revoke.
        min_similarity: for `similar_to`.
        added_before: of all items to revoke.
        receipts: one or several of earlier deletions from this memory, or their files; their ids
            are revoked too.

    Returns:
        What was revoked and erased. If nothing fits, nothing is, and no list is written.

    Raises:
        InputError: neither a selector nor a receipt was given, or several selectors; a file of this
            name, or a folder that cannot be written; more than `MAX_IDS` ids.
        ItemNotFoundError: an id, the label or the source is not in the memory.
        ReceiptError: a receipt is damaged, does not hold, or is another memory's.
        VaultFormatError: the vault's key or its revoked ids are missing or damaged.
        VaultReadOnlyError, VaultFullError, VaultLockedError: nothing was revoked, unless the items
            are gone: then they are revoked, and `reissue_revocations` writes the list.
    """
    memory._check_writable()
    target = path_of("path", path).absolute()
    check_outside(memory.path, target)
    key = read_key(memory.path)
    with memory._lock:
        given = [receipts] if isinstance(receipts, (Receipt, str, Path)) else receipts
        wanted = {id_ for receipt in given for id_ in _erased_by(receipt, key)}
        choice = {
            "label": label,
            "source": source,
            "similar_to": similar_to,
            "added_before": added_before,
        }
        if ids is not None:
            named = set(plain_ids(ids))
            again = memory._vault.revoked.among(named)
            wanted |= again
            ids = sorted(named - again)
        if ids is not None or not wanted or any(value is not None for value in choice.values()):
            plan: Any = memory.plan_delete
            chosen = plan(ids, min_similarity=min_similarity, **choice)
            wanted |= {item.id for item in chosen}
        if not wanted:
            return RevocationReport((), (), memory.delete([]))
        report = None
        try:
            with new_file(target) as file:
                file.write(_signed(sorted(wanted), key))
                report = _forget(memory, wanted)
        except ProcmemError as error:
            if report is None:
                raise
            raise type(error)(
                f"{len(report.revoked_ids)} ids are revoked, and what was held of them is deleted, "
                f"but the list was not written: {error}. `procmem revoke LIST --reissue` writes it"
            ) from error
        return report


def reissue_revocations(memory: VisualMemory, path: str | os.PathLike[str]) -> int:
    """Writes a list of everything that is revoked in a memory, for others that missed something.

    That includes what it has taken in from lists of others.

    Args:
        memory: signs the list; may be open for reading only.
        path: of the list, a new file.

    Returns:
        How many ids it has.

    Raises:
        InputError: a file of this name, a folder that cannot be written, or more than `MAX_IDS`.
        VaultFormatError: the vault's key or its revoked ids are missing or damaged.
        VaultFullError: no room on the disk.
    """
    target = path_of("path", path).absolute()
    check_outside(memory.path, target)
    ids = memory._vault.revoked.all().tolist()
    with new_file(target) as file:
        file.write(_signed(ids, read_key(memory.path)))
    return len(ids)


def apply_revocations(
    memory: VisualMemory, path: str | os.PathLike[str], *, trust: str | Iterable[str]
) -> RevocationReport:
    """Takes in a revocation list: deletes what is held of it, and remembers all of it.

    Applying a list again changes nothing.

    Args:
        memory: open for writing.
        path: of the list.
        trust: address of the memory that signed it, or of several of which one did. It can revoke
            whatever it knows the id of, not only what came from it.

    Raises:
        UntrustedSignerError: somebody else signed it; nothing changed.
        ExchangeFormatError: no list, damaged, or of a newer format; nothing changed.
        InputError: no address, or no such file.
        VaultFormatError: the revoked ids are damaged.
        VaultReadOnlyError, VaultFullError, VaultLockedError: as for `revoke`.
    """
    memory._check_writable()
    trusted = {address.signing_key for address in read_addresses("trust", trust)}
    source = path_of("path", path).absolute()
    with open_file(source, written_by="`procmem revoke`") as file, reading(source):
        found = _parse(file.read(_MAX_BYTES + 1))
        if found.public_key not in trusted:
            raise UntrustedSignerError(
                f"signed by the key {found.public_key.hex()}, which is none of those that were "
                "named; take it in only if you know whose it is, and then name that memory's "
                "address"
            )
        if not _is_signed(found):
            raise ValueError("its signature does not fit")
    with memory._lock:
        return _forget(memory, found.ids)


def _forget(memory: VisualMemory, ids: Iterable[int]) -> RevocationReport:
    """Remembers ids as revoked and deletes the items of those that are held."""
    vault = memory._vault
    before, named = vault.revoked.all(), ids_of(ids)
    held = np.intersect1d(named, vault.erasable_ids()).tolist()
    new = np.setdiff1d(named, before)
    if len(new):
        vault.set_revoked(np.union1d(before, named))
    try:
        erasure = memory.delete(held)
    except BaseException:
        # What the ledger says now counts: if the items are still there, nothing was revoked.
        with contextlib.suppress(Exception):
            if len(new) and vault.held(held) == set(held):
                vault.set_revoked(before)
        raise
    return RevocationReport(tuple(named.tolist()), tuple(new.tolist()), erasure)


def _erased_by(receipt: Receipt | str | Path, key: VaultKey) -> tuple[int, ...]:
    """The ids that a receipt of this vault proves to be erased."""
    name = "the receipt" if isinstance(receipt, Receipt) else str(receipt)
    read = receipt if isinstance(receipt, Receipt) else read_receipt(receipt)
    problems = check_receipt(read, public_key=public_key_of(key))
    if problems:
        raise ReceiptError(
            f"{name} does not count here: {problems[0]}; nothing was revoked. The memory that "
            "deleted the items must revoke them"
        )
    return read.erased_ids


# ---- the text form


def _signed(ids: list[int], key: VaultKey) -> bytes:
    """The file of a list."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    if len(ids) > MAX_IDS:
        raise InputError(
            f"{len(ids):,} ids are to be revoked, wanted at most {MAX_IDS:,} in one list; revoke "
            "some at a time"
        )
    private_key = Ed25519PrivateKey.from_private_bytes(key.signing_seed)
    unsigned = RevocationList(tuple(ids), private_key.public_key().public_bytes_raw(), b"")
    signature = private_key.sign(_text(unsigned))
    return _text(RevocationList(unsigned.ids, unsigned.public_key, signature)) + b"\n"


def _text(found: RevocationList) -> bytes:
    """A list as JSON in its canonical form (RFC 8785), without an empty signature."""
    document: dict[str, Any] = {
        "format": FORMAT,
        "ids": [str(id_) for id_ in found.ids],
        "public_key": found.public_key.hex(),
    }
    if found.signature:
        document["signature"] = found.signature.hex()
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _is_signed(found: RevocationList) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    unsigned = RevocationList(found.ids, found.public_key, b"")
    try:
        public_key = Ed25519PublicKey.from_public_bytes(found.public_key)
        public_key.verify(found.signature, _text(unsigned))
    except (InvalidSignature, ValueError):  # ValueError: not a point of the curve
        return False
    return True


def _parse(data: bytes) -> RevocationList:
    """The list of a file's bytes; ValueError unless they are the one canonical form of it."""
    if len(data) > _MAX_BYTES:
        raise ValueError(f"it has more than {_MAX_BYTES} bytes, and no list has")
    # Before it is parsed: other JSON of this size could take much more RAM than a list.
    if not data.startswith(f'{{"format":"{FORMAT}","ids":['.encode()):
        raise ValueError(f"it is no {FORMAT!r}")
    try:
        document = json.loads(data)
        ids = tuple(map(_id, document["ids"]))
        found = RevocationList(
            ids,
            _bytes(document["public_key"], _KEY_DIGITS),
            _bytes(document["signature"], _SIGNATURE_DIGITS),
        )
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError("its members are not those of a list") from error
    if any(left >= right for left, right in pairwise(ids)) or _text(found) + b"\n" != data:
        raise ValueError("it is not in the one form that a list has")
    return found


def _id(text: Any) -> int:
    if not isinstance(text, str) or not 1 <= len(text) <= _MAX_ID_DIGITS:
        raise ValueError("an id is no text of digits")
    id_ = int(text)
    if not 1 <= id_ < 2**63:
        raise ValueError(f"id {id_} is not in [1, 2**63)")
    return id_


def _bytes(text: Any, digits: int) -> bytes:
    if not isinstance(text, str) or len(text) != digits:
        raise ValueError(f"{text!r:.40} is not {digits} hexadecimal digits")
    return bytes.fromhex(text)
