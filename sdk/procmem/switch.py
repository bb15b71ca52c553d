"""A vault's way from one model to another: its next ledger grows, takes its place, leaves a rest.

Takes records from `reembedding.py`, which asks the models, and changes what `beside.py` describes.
Each function is a step that is done or not done, whenever the process dies; what stands half-made
in between is known as such by `Vault.settle_beside` when the vault is next opened for writing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from itertools import islice

from procmem.beside import NEXT, PREVIOUS, Beside, make_beside, shred_folder
from procmem.erasure import search_vault
from procmem.errors import EmbedderMismatchError, VaultError
from procmem.folder import folder_error
from procmem.ledger import Head, write_copy
from procmem.purge import replace_ledger
from procmem.record import Binding, Record
from procmem.rows import PlainRows, Rows
from procmem.types import ErasureReport
from procmem.vault import Vault

_RECORDS_AT_ONCE = 100  # with masks, some megabytes


def begin(vault: Vault, binding: Binding) -> Beside:
    """Makes the vault's next ledger, or finds what an earlier run has made of it.

    Args:
        vault: open for writing, of another model, with no `previous`.
        binding: the new model.

    Raises:
        EmbedderMismatchError: a migration to a third model is half-way.
        VaultFullError, VaultReadOnlyError: it cannot be made; nothing changed.
    """
    with vault.mutex, _files(vault):
        if NEXT not in vault.open_beside:
            vault.open_beside[NEXT] = _make(vault, NEXT, binding)
        found = vault.open_beside[NEXT].binding
        if found != binding:
            raise EmbedderMismatchError(
                f"{vault.path} is half-way to {found.name} at {found.side} pixels (SHA-256 "
                f"{found.sha256}), not to {binding.name} at {binding.side} (SHA-256 "
                f"{binding.sha256}); go on to the first, or undo it with `procmem migrate --abort`"
            )
        _drop_strays(vault)
        return vault.open_beside[NEXT]


def _drop_strays(vault: Vault) -> None:
    """Removes what the vault does not hold, or not so.

    Every deletion reaches the next ledger, but for those by an older procmem that knows of none.
    """
    grown = vault.open_beside[NEXT]
    held = {item.id: item for item in vault.items()}
    strays = [item.id for item in grown.items() if held.get(item.id) != item]
    if strays:
        vault.mark()
        with grown.connection.transaction() as connection:
            grown.remove(connection, strays)
        vault.purge()


def grown_of(vault: Vault) -> Beside:
    """The next ledger, after `begin`.

    Raises:
        VaultError: somebody has undone the migration in the meantime.
    """
    grown = vault.open_beside.get(NEXT)
    if grown is None:
        raise VaultError(
            f"the migration of {vault.path} was undone while it went on; the memory is as it was, "
            "and may be migrated anew"
        )
    return grown


def was_removed(vault: Vault, ledger: Beside) -> bool:
    """Whether another thread has removed, and so closed, a ledger that stood beside the vault's.

    Raises:
        VaultClosedError: no: the vault is closed.
    """
    vault.check_writable()
    return ledger not in vault.open_beside.values()


def advance(vault: Vault, records: Sequence[Record]) -> None:
    """Adds items to the next ledger, durably: those that the vault still holds as they were read.

    Args:
        vault: after `begin`.
        records: of items that are not in it, as the new model sees them.
    """
    with vault.mutex, _files(vault):
        held = {item.id: item for item in vault.items([record.item.id for record in records])}
        grown_of(vault).add(
            [record for record in records if held.get(record.item.id) == record.item]
        )


def switch(vault: Vault, left: Sequence[int]) -> bool:
    """Puts the next ledger in the place of the vault's own, and the rest into `previous`.

    Readers are waited for, and meet the new ledger from the rename on. The old one's bytes are
    zeroed; of a sealed vault, the keys that opened it are destroyed.

    Args:
        vault: after `begin`.
        left: the items that stay with the old model.

    Returns:
        False if there are items that are neither in the next ledger nor left; nothing changed then.

    Raises:
        VaultFullError, VaultReadOnlyError, VaultLockedError, VaultError: as far as the vault's
            model is still the old one, nothing changed; it may be tried again.
    """
    with vault.mutex, _files(vault):
        vault.check_writable()
        next_ledger = grown_of(vault)
        held, moving = set(vault.ids()), set(next_ledger.ids())
        staying = sorted(held.intersection(left) - moving)
        if moving.union(staying) != held:
            return False
        next_ledger.check()
        vault.mark()
        try:
            if staying:
                _fill_previous(vault, staying)
            _replace(vault, next_ledger)
        finally:
            vault.settle_beside()
        vault.purge()
        return True


def _fill_previous(vault: Vault, ids: Sequence[int]) -> None:
    previous = _make(vault, PREVIOUS, vault.binding)
    try:
        records = vault.records(ids)
        while batch := list(islice(records, _RECORDS_AT_ONCE)):
            previous.add(batch)
        with previous.connection.errors():
            previous.rewrite()
    finally:
        previous.close()


def _replace(vault: Vault, next_ledger: Beside) -> None:
    old, new = (one.connection.run(lambda current: current) for one in (vault, next_ledger))
    vault.connection.accept_any_model()
    with vault.connection.errors():
        replace_ledger(
            vault.connection.ledger,
            old,
            write=lambda path: write_copy(new, path),
            disconnect=vault.connection.disconnect,
        )


def take_back(vault: Vault, records: Sequence[Record]) -> None:
    """Moves items from `previous` to the vault's own ledger, durably; a purge must follow.

    Args:
        vault: open for writing, with a `previous`.
        records: of items in it, as the vault's model sees them.
    """
    with vault.mutex, _files(vault):
        previous = vault.open_beside.get(PREVIOUS)
        if previous is None:  # erased in the meantime
            return
        held = {item.id: item for item in previous.items([record.item.id for record in records])}
        moved = [record for record in records if held.get(record.item.id) == record.item]
        vault.mark()
        with vault.connection.transaction(along=[previous.connection]) as connection:
            vault.insert(connection, moved)
            previous.remove(connection, [one.item.id for one in moved], schema="beside0")


def undo(vault: Vault) -> ErasureReport:
    """Erases the next ledger; the vault is then one whose migration has never begun.

    Args:
        vault: after `begin`.

    Returns:
        What was searched for, with no erased items.

    Raises:
        VaultError: its files could not be removed or searched.
    """
    with vault.mutex, _files(vault):
        vault.check_writable()
        values = list(grown_of(vault).values())
        vault.mark()
        vault.drop_beside(NEXT)
        purged = vault.purge()
        return search_vault(vault, values, purged=purged)


def _make(vault: Vault, name: str, binding: Binding) -> Beside:
    seal = vault.seal
    rows: Rows = PlainRows()
    if seal is not None:
        from procmem.sealed import SealedRows  # cryptography takes a moment to import

        rows = SealedRows(vault.epoch_key(), binding.sha256)
    folder = vault.path / name
    with vault.connection.errors():
        make_beside(folder, Head(binding, seal), rows)
    try:
        return vault.open_one(name)
    except BaseException:
        shred_folder(folder)
        raise


@contextlib.contextmanager
def _files(vault: Vault) -> Iterator[None]:
    """Turns errors of the file system into ours."""
    try:
        yield
    except OSError as error:
        if isinstance(error, VaultError):
            raise
        raise folder_error(error, vault.path) from error
