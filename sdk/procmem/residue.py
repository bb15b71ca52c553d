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

Never writes, never follows symbolic links, and holds a few times 4 MiB at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

WINDOW_BYTES = 16

# Secrets and files are worked on in pieces of this size.
_PIECE_BYTES = 1 << 22
_FIRST_PIECE_BYTES = 1 << 15

_HITS_TO_REBUILD = 8  # one hit for so many windows costs what it does to look for fewer windows

_WORD_BYTES = 8
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio, odd: spreads the high bits

_T = TypeVar("_T", bound=np.generic)

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


def scan_folder(
    folder: Path,
    secrets: Iterable[bytes],
    *,
    entitled: Callable[[], Iterable[bytes]] = tuple,
) -> ResidueScan:
    """Looks for remains of `secrets` in every file under `folder`.

    Cost: one pass over the files per 4 MiB of secrets; passes over `entitled()` only if something
    was found.

    Args:
        folder: searched with its subfolders.
        secrets: the stored bytes of each erased value.
        entitled: gives the bytes that the folder may hold anyway, see the module's rule. Called
            only if a window was found, and stopped early once all are explained.

    Raises:
        OSError: a file cannot be read.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    checked = found = 0
    for piece in _pieces(secrets):
        wanted = windows(piece)
        checked += len(wanted)
        if not len(wanted):
            continue
        remains = _find_in_files(wanted, files)
        if len(remains):
            found += len(_unexplained(remains, entitled()))
    names = tuple(path.relative_to(folder).as_posix() for path in files)
    return ResidueScan(files=names, windows_checked=checked, windows_found=found)


def windows(values: Iterable[bytes]) -> Windows:
    """Every window of every value.

    Returns:
        (M,) S16, distinct, ascending, without windows of one repeated byte.
    """
    parts = [_sliding(value) for value in values if len(value) >= WINDOW_BYTES]
    if not parts:
        return np.empty(0, dtype=f"S{WINDOW_BYTES}")
    rows = np.concatenate(parts)  # (M, 16)
    rows = rows[(rows != rows[:, :1]).any(axis=1)]
    return _distinct(_as_windows(rows))


def find(wanted: Windows, data: bytes) -> npt.NDArray[np.intp]:
    """Where windows stand in `data`.

    Every window covers a whole 8-byte word at a multiple of 8, wherever it begins. So only those
    words are compared with the 8-byte words of the wanted windows, and only around a match are
    the windows themselves compared: the cost per byte is that of a table look-up per word.

    Args:
        wanted: (M,) S16 from `windows`.
        data: the bytes to search.

    Returns:
        For every match its index in `wanted` in column 0 and its offset in `data` in column 1,
        (F, 2), ascending by offset.
    """
    return _Finder(wanted).find(data)


class _Finder:
    """The look-up tables of one set of windows."""

    def __init__(self, wanted: Windows) -> None:
        self.wanted = wanted
        rows = wanted.view(np.uint8).reshape(-1, WINDOW_BYTES)
        starts = range(WINDOW_BYTES - _WORD_BYTES + 1)
        words = [np.ascontiguousarray(rows[:, s : s + _WORD_BYTES]).view("<u8") for s in starts]
        self.words = _distinct(np.concatenate(words).ravel()) if len(rows) else np.empty(0, "<u8")
        self._word_table = _Table(self.words)
        self._window_table = _Table(_mixed(wanted))

    def find(self, data: bytes) -> npt.NDArray[np.intp]:
        if len(data) < WINDOW_BYTES or not len(self.words):
            return np.empty((0, 2), dtype=np.intp)
        words = np.frombuffer(data, dtype="<u8", count=len(data) // _WORD_BYTES)
        at = self._word_table.candidates(words)
        at = at[_position(self.words, words[at]) >= 0]
        # Amid a run of one byte every window is of that byte, and none of those is wanted.
        first = words[at] & np.uint64(0xFF)
        constant = words[at] == first * np.uint64(0x0101010101010101)
        before, after = np.maximum(at - 1, 0), np.minimum(at + 1, len(words) - 1)
        inside = (at > 0) & (at < len(words) - 1)
        at = at[~(constant & inside & (words[before] == words[at]) & (words[after] == words[at]))]
        offsets = (at[:, None] * _WORD_BYTES + np.arange(1 - _WORD_BYTES, 1)).ravel()
        # Ascending and distinct: the windows of one word end where those of the next begin.
        offsets = offsets[(offsets >= 0) & (offsets <= len(data) - WINDOW_BYTES)]
        hits: list[npt.NDArray[np.intp]] = []
        for start in range(0, len(offsets), _PIECE_BYTES // WINDOW_BYTES):
            part = offsets[start : start + _PIECE_BYTES // WINDOW_BYTES]
            found = _as_windows(_sliding(data)[part])
            likely = self._window_table.candidates(_mixed(found))
            position = _position(self.wanted, found[likely])
            match = position >= 0
            hits.append(np.stack([position[match], part[likely[match]]], axis=1))
        if not hits:
            return np.empty((0, 2), dtype=np.intp)
        return np.concatenate(hits)


class _Table:
    """One flag for each value of a hash: which values may be among some, at one look-up each."""

    def __init__(self, values: npt.NDArray[np.uint64]) -> None:
        bits = min(26, max(16, (16 * len(values)).bit_length()))
        self._shift = np.uint64(64 - bits)
        self._flags = np.zeros(1 << bits, dtype=np.bool_)
        self._flags[self._slot(values)] = True

    def candidates(self, values: npt.NDArray[np.uint64]) -> npt.NDArray[np.intp]:
        """Where the values stand that are among those of the table, and a few others."""
        return np.flatnonzero(self._flags[self._slot(values)])

    def _slot(self, values: npt.NDArray[np.uint64]) -> npt.NDArray[np.intp]:
        slots: npt.NDArray[np.intp] = ((values * _MULTIPLIER) >> self._shift).astype(np.intp)
        return slots


def _mixed(values: Windows) -> npt.NDArray[np.uint64]:
    """(M,) one word for both of each window."""
    words = values.view("<u8").reshape(-1, 2)
    mixed: npt.NDArray[np.uint64] = words[:, 0] * _MULTIPLIER ^ words[:, 1]
    return mixed


def _find_in_files(wanted: Windows, files: Iterable[Path]) -> Windows:
    """The wanted windows that some file holds, ascending."""
    finder = _Finder(wanted)
    seen = np.zeros(len(wanted), dtype=np.bool_)  # of the finder's windows
    remains = []
    for path in files:
        for data in _chunks(path):
            hits = finder.find(data)[:, 0]
            seen[hits] = True
            # What stands in every row, as a folder of all sources does, is looked for no longer.
            if len(hits) > len(seen) // _HITS_TO_REBUILD:
                remains.append(finder.wanted[seen])
                finder = _Finder(finder.wanted[~seen])
                seen = np.zeros(len(finder.wanted), dtype=np.bool_)
    return np.sort(np.concatenate([*remains, finder.wanted[seen]]))


def _unexplained(remains: Windows, values: Iterable[bytes]) -> Windows:
    """The windows that stand in none of the values."""
    # Small pieces first: what stands in many values is then no longer looked for in the rest.
    for piece in _pieces(values, first=_FIRST_PIECE_BYTES):
        # Joined, because a search has a fixed cost; a match that crosses two values is no match.
        hits = find(remains, b"".join(piece))
        ends = np.cumsum([len(value) for value in piece])
        end = ends[np.searchsorted(ends, hits[:, 1], side="right")]
        remains = np.delete(remains, hits[hits[:, 1] + WINDOW_BYTES <= end, 0])
        if not len(remains):
            break
    return remains


def _chunks(path: Path) -> Iterator[bytes]:
    """A file's bytes in pieces that overlap, so that every window is whole in one of them."""
    with path.open("rb") as file:
        tail = b""
        while read := file.read(_PIECE_BYTES):
            data = tail + read
            yield data
            tail = data[1 - WINDOW_BYTES :]


def _pieces(values: Iterable[bytes], *, first: int = _PIECE_BYTES) -> Iterator[list[bytes]]:
    """Groups values, and cuts long ones with an overlap, into lists of about 4 MiB.

    Lists of small values begin with about `first` bytes and grow to that.
    """
    group: list[bytes] = []
    size, limit = 0, first
    step = _PIECE_BYTES - WINDOW_BYTES + 1
    for value in values:
        if len(value) <= _PIECE_BYTES:  # as nearly all are, of which there may be many
            parts = [value]
        else:
            starts = range(0, len(value) - WINDOW_BYTES + 1, step)
            parts = [value[start : start + _PIECE_BYTES] for start in starts]
        for part in parts:
            if group and size + len(part) > limit:
                yield group
                group, size, limit = [], 0, min(2 * limit, _PIECE_BYTES)
            group.append(part)
            size += len(part)
    if group:
        yield group


def _distinct(values: npt.NDArray[_T]) -> npt.NDArray[_T]:
    """Each value once, ascending. Sorting, because the hash table of `np.unique` is slower here."""
    ordered = np.sort(values)
    return ordered[np.append(True, ordered[1:] != ordered[:-1])] if len(ordered) else ordered


def _sliding(data: bytes) -> npt.NDArray[np.uint8]:
    """(n - 15, 16) view of all windows of `data`; no copy."""
    return np.lib.stride_tricks.sliding_window_view(np.frombuffer(data, np.uint8), WINDOW_BYTES)


def _as_windows(rows: npt.NDArray[np.uint8]) -> Windows:
    """(M, 16) uint8 as (M,) S16."""
    return np.ascontiguousarray(rows).view(f"S{WINDOW_BYTES}").ravel()


def _position(ascending: npt.NDArray, values: npt.NDArray) -> npt.NDArray[np.intp]:  # type: ignore[type-arg]  # numpy types of two kinds, checked by the callers
    """For each value its index in `ascending`, or -1."""
    at = np.minimum(np.searchsorted(ascending, values), len(ascending) - 1)
    position: npt.NDArray[np.intp] = np.where(ascending[at] == values, at, -1)
    return position
