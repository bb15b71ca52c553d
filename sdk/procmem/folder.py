"""What a vault's folder may hold, and what it means when the disk or SQLite refuses.

Used by `vault.py`, which opens, writes and replaces the files. Only looks and explains: never
opens or changes a file.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from procmem.errors import (
    EmbedderMismatchError,
    InputError,
    ItemNotFoundError,
    VaultError,
    VaultFormatError,
    VaultFullError,
    VaultLockedError,
    VaultReadOnlyError,
)
from procmem.lock import is_no_room
from procmem.record import Binding

TEMPORARY = "ledger.sqlite.tmp"  # on its way to be the ledger, or a twin of it
RETIRED = "ledger.sqlite.retired"  # was the ledger, not yet zeroed
KEY = "KEY"  # made after the ledger: alone in a folder it is somebody else's
TEMPORARY_KEY = "KEY.tmp"
REVOKED = "REVOKED"  # likewise
TEMPORARY_REVOKED = "REVOKED.tmp"
LEFTOVERS = (TEMPORARY, f"{TEMPORARY}-journal", RETIRED, TEMPORARY_KEY, TEMPORARY_REVOKED)


def path_of(name: str, value: object) -> Path:
    """The path that an argument is; raises InputError if it can be none.

    Args:
        name: of the argument, for the message.
        value: a text, or what stands for a path.
    """
    if isinstance(value, (str, os.PathLike)):
        text = os.fsdecode(value)
        if text and "\0" not in text:
            return Path(text)
    raise InputError(f"{name} is {value!r:.80}, wanted a path without null characters")


def holds_vault(path: Path) -> bool:
    """Whether there is a vault in a folder; False if the folder is missing or empty.

    Raises:
        VaultFormatError: the path is a file, or the folder holds something else.
        VaultError: nobody may look what it is.
    """
    try:
        names = {entry.name for entry in path.iterdir()}
    except FileNotFoundError:
        return False
    except NotADirectoryError as error:
        raise VaultFormatError(
            f"{path} is a file, or lies in one, wanted a folder; give the vault's folder"
        ) from error
    except OSError as error:
        raise VaultError(
            f"{path} cannot be looked into ({error.strerror}); check the path and its permissions"
        ) from error
    if "ledger.sqlite" in names:
        return True
    later = {TEMPORARY_KEY, TEMPORARY_REVOKED}
    foreign = sorted(names - {"LOCK", *LEFTOVERS} | names & later)
    if foreign:
        raise VaultFormatError(
            f"{path} holds no vault but {len(foreign)} other files ({foreign[0]!r}, for example); "
            "give the folder of a vault, or a new or empty one"
        )
    return False


def check_binding(place: Path | str, found: Binding, wanted: Binding | None) -> None:
    """Raises EmbedderMismatchError if a vault is bound to another model or side than wanted."""
    if wanted is None:
        return
    if found.sha256 != wanted.sha256:
        raise EmbedderMismatchError(
            f"{place} holds embeddings of {found.name} (SHA-256 {found.sha256}), not of "
            f"{wanted.name} (SHA-256 {wanted.sha256}); open it with the first, or "
            "bring it to the second with `procmem migrate`, which embeds its images anew"
        )
    check_side(place, found, wanted.side)


def check_side(place: Path | str, found: Binding, side: int) -> None:
    """Raises EmbedderMismatchError if a vault was made at another image size than `side`."""
    if found.side != side:
        raise EmbedderMismatchError(
            f"{place} holds embeddings of {found.name} at image size {found.side}, not {side}; use "
            f"it with image_size={found.side} (--image-size {found.side}), or bring it to {side} "
            f"with `procmem migrate --image-size {side}`"
        )


def folder_error(error: OSError, path: Path) -> VaultError:
    """What an error of the file system means to the person who called."""
    if is_no_room(error):
        return VaultFullError(f"{path}: no room on the disk; nothing changed. Free some")
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return VaultReadOnlyError(
            f"{path} may not be written ({error.strerror}); check its permissions, or open it "
            "with read_only=True"
        )
    return VaultError(f"{path}: {error}; check the path and the disk")


def ledger_error(
    error: Exception, ledger: Path, *, read_only: bool, timeout_seconds: float
) -> VaultError:
    """What an error of SQLite means to the person who called."""
    text = str(error)
    if "disk is full" in text:
        return VaultFullError(f"{ledger.parent}: no room on the disk; nothing changed. Free some")
    if "readonly" in text and read_only:
        return VaultReadOnlyError(
            f"{ledger}: its last writer stopped in mid-write, and read_only=True may "
            "not repair that; open the vault once for writing"
        )
    if "readonly" in text:
        return VaultReadOnlyError(f"{ledger} may not be written; check its permissions")
    if "locked" in text:
        return VaultLockedError(
            f"{ledger} was busy in another process for {timeout_seconds:g} "
            "seconds; nothing changed, try again"
        )
    if "interrupted" in text:
        return VaultError(f"{ledger}: the call was interrupted; try again")
    if "unable to open" in text or "disk I/O" in text:
        return VaultError(f"{ledger}: {text}; check its permissions and the disk")
    return damaged(ledger, text)


def damaged(ledger: Path, what: str) -> VaultFormatError:
    """The error for a ledger that is one, but not sound."""
    return VaultFormatError(f"{ledger} is damaged ({what}); restore it from a backup")


def check_new(uses: Mapping[int, int], held: set[int]) -> None:
    """Raises InputError if items that are to be added have ids that are in use, or share one.

    Args:
        uses: id -> how many of the items have it.
        held: the ids that are in use.
    """
    taken = held.union(id_ for id_, count in uses.items() if count > 1)
    if taken:
        raise InputError(
            f"id {min(taken)} (and {len(taken) - 1} more) is in the memory already or "
            "given twice; nothing was added: use other ids, or give none"
        )


def not_held(place: Path | str, ids: Sequence[int]) -> ItemNotFoundError:
    """The error for ids, at least one, that were to be deleted and are not in the vault."""
    more = f" and {len(ids) - 1} more" if len(ids) > 1 else ""
    return ItemNotFoundError(
        f"{place} holds no item with id {ids[0]}{more} to erase; nothing was deleted"
    )
