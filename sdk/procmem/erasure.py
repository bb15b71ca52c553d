"""Erasing items from a vault for good, and finding out that it worked.

Takes ids from `memory.py`, gives it an `ErasureReport`. In this order: commit to what will go
(`committer.py`), delete durably, commit to what stays and rewrite the ledger (`vault.py`), search
all files for remains (`residue.py`), commit to what is there now, sign (`receipt.py`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial

from procmem.alongside import alongside
from procmem.committer import Committer
from procmem.errors import ReceiptError, VaultError, VaultFormatError
from procmem.key import read_key
from procmem.receipt import Commitments, Receipt, public_key_of, sign_receipt
from procmem.residue import ResidueScan, Search
from procmem.types import ErasureReport
from procmem.vault import Vault

OUT_OF_REACH = (
    "blocks that the disk or file system has set aside (flash remapping, copy-on-write, journals)",
    "backups, snapshots and copies of the vault, and freed or swapped-out memory",
    "the images themselves, and whatever other programs know of them",
)

OUT_OF_REACH_SEALED = (
    "copies of the key that were made before, and what the medium that keeps it has set aside",
    "freed or swapped-out memory, and exports",
    "the images themselves, and whatever other programs know of them",
)
"""What deletion from a sealed vault cannot vouch for: its key is all that is left to the medium."""

_log = logging.getLogger(__name__)


def erase(
    vault: Vault,
    ids: Sequence[int],
    *,
    purge_limit: int,
    receipt: bool,
    deleted: Callable[[], None],
) -> ErasureReport:
    """Deletes items, purges, searches for remains and signs what was found.

    Args:
        vault: open for writing.
        ids: ascending, all in the vault; none changes nothing.
        purge_limit: with more items than this left, the purge stays pending.
        receipt: whether one is wanted; one more pass over the vault. There is none without a purge.
        deleted: called as soon as the deletion is durable, to drop the items from working memory.

    Raises:
        ItemNotFoundError: an id is not in the vault; nothing was deleted.
        VaultFullError, VaultReadOnlyError, VaultLockedError: nothing was deleted.
        VaultError: the items are deleted, but the files could not be searched.
    """
    if not ids:
        nothing, purged = ResidueScan((), 0, 0), not vault.purge_pending
        return _report(vault, (), nothing, remaining=vault.count(), purged=purged, receipt=None)
    provable = receipt and vault.count() - len(ids) <= purge_limit
    before = _committed(vault, ids) if provable else None
    with alongside(partial(Search, list(vault.values(ids)))) as begun:
        vault.delete(ids)
        deleted()
        remaining = vault.count()
        search = begun()
    # Survivors are read anyway: what they have in common with what was erased is seen then, and
    # they are committed to, beside the erased ones, as they were before the ledger was rewritten.
    purged = remaining <= purge_limit and vault.purge(search=search, committer=before)
    scan = _scan(vault, search)
    signed = _signed(vault, before, ids, scan) if before is not None and purged else None
    return _report(vault, ids, scan, remaining=remaining, purged=purged, receipt=signed)


def search_vault(vault: Vault, values: Sequence[bytes], *, purged: bool) -> ErasureReport:
    """Searches a vault for what no item's deletion has removed from it: erased embeddings.

    Args:
        vault: open for writing.
        values: what was erased, as it was stored.
        purged: whether the vault was purged since.

    Raises:
        VaultError: the files could not be searched.
    """
    scan = _scan(vault, Search(values))
    return _report(vault, (), scan, remaining=vault.count(), purged=purged, receipt=None)


def receipt_key(vault: Vault) -> str | None:
    """The public key of the vault's receipts in hexadecimal; None if there is no sound key."""
    try:
        return public_key_of(read_key(vault.path)).hex()
    except (VaultError, ImportError):
        return None


def _report(
    vault: Vault,
    ids: Sequence[int],
    scan: ResidueScan,
    *,
    remaining: int,
    purged: bool,
    receipt: Receipt | None,
) -> ErasureReport:
    return ErasureReport(
        erased_ids=tuple(ids),
        remaining=remaining,
        purged=purged,
        files_scanned=scan.files,
        windows_checked=scan.windows_checked,
        windows_found=scan.windows_found,
        out_of_reach=_out_of_reach(vault),
        receipt=receipt,
    )


def _out_of_reach(vault: Vault) -> tuple[str, ...]:
    return OUT_OF_REACH_SEALED if vault.sealed else OUT_OF_REACH


# For want of a receipt no deletion fails: a broken key must not keep anybody's photo.


def _committed(vault: Vault, ids: Sequence[int] | None = None) -> Committer | None:
    """Commitments to items of these ids; None: to all."""
    try:
        committer = Committer(read_key(vault.path).commitment_secret)
        vault.commit(committer, ids)
    except VaultError as error:
        _log.warning("%s: no receipt can be made: %s", vault.path, error)
        return None
    return committer


def _signed(
    vault: Vault, before: Committer, ids: Sequence[int], scan: ResidueScan
) -> Receipt | None:
    after = _committed(vault)
    if after is None:
        return None
    try:
        return sign_receipt(
            read_key(vault.path),
            Commitments(*before.result()),
            Commitments(*after.result()),
            erased_ids=ids,
            erased_seconds=int(time.time()),
            model_sha256=vault.binding.sha256,
            purged=True,
            windows_checked=scan.windows_checked,
            windows_found=scan.windows_found,
            out_of_reach=_out_of_reach(vault),
        )
    except (ReceiptError, VaultFormatError, ImportError) as error:
        _log.warning("%s: no receipt can be made: %s", vault.path, error)
        return None


def _scan(vault: Vault, search: Search) -> ResidueScan:
    vault.release_ledger()
    try:
        return search.scan(vault.path, entitled=vault.entitled)
    except (VaultError, OSError) as error:
        raise VaultError(
            f"the items are deleted from {vault.path}, but its files could not all be read to "
            f"look for remains ({error})"
        ) from error
