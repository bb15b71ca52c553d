"""Whether anything of what was erased is still to be found in a folder's files.

Takes the stored bytes of erased items from `vault.py` and gives counts to `memory.py` for the
`ErasureReport`. It looks at files as an attacker would: raw bytes, without asking SQLite.

The rule. Looked for is every run of 16 bytes (a window) of an erased value: the vector, the patch
tokens, the mask, the label and the source, each exactly as the ledger stored it. Windows of one
repeated byte say nothing and are left out; a value shorter than 16 bytes has no window. A window
that a file holds, at any offset, is a *remain*, unless the vault is entitled to it without the
erased items: unless it also stands inside a stored value of a surviving item (a label that others
share, the folder that two paths have in common, the straight edge of a mask), or in the ledger
that procmem writes for the survivors alone, made anew from their values and not from its pages.

Never writes, never follows symbolic links. It looks for the windows of 2 MiB of values at once,
which takes some 200 MB.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from procmem import _erasure

WINDOW_BYTES = 16

# Secrets, values and files are worked on in pieces of this size.
_PIECE_BYTES = 1 << 21
_FIRST_PIECE_BYTES = 1 << 15
_VALUES_AT_ONCE = 64

_HITS_TO_REBUILD = 8  # one hit for so many windows costs what it does to look for fewer windows

_T = TypeVar("_T", bound=np.generic)

_State: TypeAlias = tuple[int, int, int, int, int]

# Two names for the same 16 bytes. numpy sorts "S16"; it equals byte for byte at full length.
Windows = npt.NDArray[np.bytes_]


@dataclass(frozen=True, slots=True)
class ResidueScan:
    """What a scan saw.

    Attributes:
        files: names of the files that were read, relative to the folder, ascending.
        windows_checked: distinct windows that were looked for.
        windows_found: how many of them are remains.
    """

    files: tuple[str, ...]
    windows_checked: int
    windows_found: int


class Search:
    """A search for what is left of some values.

    Args:
        secrets: the stored bytes of each erased value.

    Attributes:
        finder: of the windows of their first 2 MiB.
    """

    def __init__(self, secrets: Iterable[bytes]) -> None:
        self._rest = _pieces(secrets)
        self._first = windows(next(self._rest, []))
        self.finder = _finder(self._first)
        self._explained = np.zeros(len(self._first), dtype=np.bool_)
        self._looked: dict[Path, tuple[_State, Windows]] = {}

    def explain(self, values: list[bytes]) -> None:
        """Notes what the folder may hold anyway, see the module's rule.

        For who reads values of surviving items in passing: they are not asked for again. It helps
        with the first 2 MiB of secrets.
        """
        self._explained[_found_within(self.finder, values)] = True

    def explain_windows(self, found: npt.NDArray[np.bool_]) -> None:
        """The same of values that somebody else has searched.

        Args:
            found: of each window of `finder`, whether it stands in one of them.
        """
        self._explained |= found

    def look(self, path: Path) -> None:
        """Looks into one file ahead of `scan`, which reads it again only if it has changed since.

        Of more than 2 MiB of secrets it looks for the first. A file that cannot be read is left to
        `scan`, which tells.
        """
        with contextlib.suppress(OSError):
            state = _state(path)
            remains = _find_in_files(self._first, self.finder, [path])
            if _state(path) == state:
                self._looked[path] = state, remains

    def scan(self, folder: Path, *, entitled: Callable[[], Iterable[bytes]] = tuple) -> ResidueScan:
        """Looks for remains in every file under `folder`, once.

        Cost: one pass over the files per 2 MiB of secrets; passes over `entitled()` only if
        something was found that is not explained.

        Args:
            folder: searched with its subfolders.
            entitled: gives the bytes that the folder may hold anyway, see the module's rule. Called
                only if need be, and stopped early once all are explained.

        Raises:
            OSError: a file cannot be read.
        """
        files = sorted(
            path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()
        )
        checked = found = 0
        rest = ((wanted, _finder(wanted)) for wanted in map(windows, self._rest))
        for wanted, finder in chain([(self._first, self.finder)], rest):
            checked += len(wanted)
            if not len(wanted):
                continue
            if wanted is self._first:
                remains = self._first_remains(files)
                remains = np.setdiff1d(remains, wanted[self._explained], assume_unique=True)
            else:
                remains = _find_in_files(wanted, finder, files)
            if len(remains):
                found += len(_unexplained(remains, entitled()))
        names = tuple(path.relative_to(folder).as_posix() for path in files)
        return ResidueScan(files=names, windows_checked=checked, windows_found=found)

    def _first_remains(self, files: Sequence[Path]) -> Windows:
        found, rest = [], []
        for path in files:
            state, remains = self._looked.get(path, (None, self._first[:0]))
            if state == _state(path):
                found.append(remains)
            else:
                rest.append(path)
        return _distinct(np.concatenate([*found, _find_in_files(self._first, self.finder, rest)]))


def scan_folder(
    folder: Path,
    secrets: Iterable[bytes],
    *,
    entitled: Callable[[], Iterable[bytes]] = tuple,
) -> ResidueScan:
    """Looks for remains of `secrets`: see `Search`.

    Raises:
        OSError: a file cannot be read.
    """
    return Search(secrets).scan(folder, entitled=entitled)


def windows(values: Iterable[bytes]) -> Windows:
    """Every window of every value.

    Returns:
        (M,) S16, distinct, in the order of their first places, none of one repeated byte.
    """
    return _erasure.windows([*values]).view(f"S{WINDOW_BYTES}").ravel()


def find(wanted: Windows, data: bytes | memoryview) -> npt.NDArray[np.intp]:
    """Where windows stand in `data`.

    Args:
        wanted: (M,) S16 from `windows`.
        data: the bytes to search.

    Returns:
        For every match its index in `wanted` in column 0 and its offset in `data` in column 1,
        (F, 2), ascending by offset.
    """
    return _finder(wanted).find(data)


def _finder(wanted: Windows) -> _erasure.Finder:
    return _erasure.Finder(wanted.view(np.uint8).reshape(-1, WINDOW_BYTES))


def _find_in_files(wanted: Windows, finder: _erasure.Finder, files: Iterable[Path]) -> Windows:
    """The wanted windows that some file holds, ascending; the finder is of them."""
    seen = np.zeros(len(wanted), dtype=np.bool_)  # of the finder's windows
    remains = []
    for path in files:
        for data in _chunks(path):
            hits = finder.find(data)[:, 0]
            seen[hits] = True
            # What stands in every row, as a folder of all sources does, is looked for no longer.
            if len(hits) > len(seen) // _HITS_TO_REBUILD:
                remains.append(wanted[seen])
                wanted = wanted[~seen]
                finder = _finder(wanted)
                seen = np.zeros(len(wanted), dtype=np.bool_)
    return np.sort(np.concatenate([*remains, wanted[seen]]))


def _unexplained(remains: Windows, values: Iterable[bytes]) -> Windows:
    """The windows that stand in none of the values."""
    # Small pieces first: what stands in many values is then no longer looked for in the rest.
    for piece in _pieces(values, first=_FIRST_PIECE_BYTES):
        remains = np.delete(remains, _found_within(_finder(remains), piece))
        if not len(remains):
            break
    return remains


def _found_within(finder: _erasure.Finder, values: list[bytes]) -> npt.NDArray[np.intp]:
    """Which of a finder's windows stand in one of the values, any number of times each."""
    # Joined, because a search has a fixed cost; a match that crosses two values is no match.
    hits = finder.find(b"".join(values))
    ends = np.cumsum(np.fromiter(map(len, values), dtype=np.intp))
    end = ends[np.searchsorted(ends, hits[:, 1], side="right")]
    found: npt.NDArray[np.intp] = hits[hits[:, 1] + WINDOW_BYTES <= end, 0]
    return found


def _state(path: Path) -> _State:
    """What is another one after every change to a file, by whichever means."""
    status = path.stat()
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def _chunks(path: Path) -> Iterator[memoryview]:
    """A file's bytes in pieces that overlap, so that every window is whole in one of them.

    A piece is gone when the next one is asked for.
    """
    overlap = WINDOW_BYTES - 1
    buffer = memoryview(bytearray(overlap + _PIECE_BYTES))
    held = 0  # bytes at the beginning that were in the piece before
    with path.open("rb", buffering=0) as file:
        while read := file.readinto(buffer[held : held + _PIECE_BYTES]):
            end = held + read
            yield buffer[:end]
            held = min(overlap, end)
            buffer[:held] = bytes(buffer[end - held : end])


def _pieces(values: Iterable[bytes], *, first: int = _PIECE_BYTES) -> Iterator[list[bytes]]:
    """Groups values, and cuts long ones with an overlap, into lists of about 2 MiB.

    Lists of small values begin with about `first` bytes and grow to that.
    """
    group: list[bytes] = []
    size, limit = 0, first
    rest = iter(values)
    while some := list(islice(rest, _VALUES_AT_ONCE)):
        total = sum(map(len, some))
        if size + total <= limit:  # as of nearly all, of which there may be many
            group += some
            size += total
            continue
        for part in _parts(some):
            if group and size + len(part) > limit:
                yield group
                group, size, limit = [], 0, min(2 * limit, _PIECE_BYTES)
            group.append(part)
            size += len(part)
    if group:
        yield group


def _parts(values: Iterable[bytes]) -> Iterator[bytes]:
    """The values, long ones in parts that overlap, so that every window is whole in one of them."""
    step = _PIECE_BYTES - WINDOW_BYTES + 1
    for value in values:
        if len(value) <= _PIECE_BYTES:
            yield value
        else:
            for start in range(0, len(value) - WINDOW_BYTES + 1, step):
                yield value[start : start + _PIECE_BYTES]


def _distinct(values: npt.NDArray[_T]) -> npt.NDArray[_T]:
    """Each value once, ascending. Sorting, because the hash table of `np.unique` is slower here."""
    ordered = np.sort(values)
    return ordered[np.append(True, ordered[1:] != ordered[:-1])] if len(ordered) else ordered
