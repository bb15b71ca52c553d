"""Perceptual hashes: which images look alike, told from 192 bits of each.

Takes uint8 images of a generator, gives (N, 3) uint64 hashes and the nearest distance in a set of
them to whoever refuses near-duplicates, and to `diversity.py`, which counts them. The distance is
the Hamming distance of two hashes: the one place where smaller is nearer. The three words:

* Frequencies are pHash (Zauner, "Implementation and benchmarking of perceptual image hash
  functions", 2010, section 3.2.1): the grey image averaged to 32 x 32, its 8 x 8 lowest DCT-II
  frequencies, one bit each for being above their median. Bit 0 belongs to the constant term, which
  pHash wastes; here it tells whether the image is lighter than middle grey.
* Places are 8 x 8 means of the grey image, one bit each for being above their median. Stripes and
  gradients have so few frequencies that pHash alone calls them all alike; a lone shape has as few
  places.
* Colors are two thermometer bits for each of B - Y and R - Y in each of 4 x 4 cells: above +6 and
  above -6 levels. So the same structure in other colors is another image, and faint tints are not
  told apart.

Every sum is of integers that floating point holds exactly, so equal pixels have equal hashes on
every machine, whatever the order in which its linear algebra library adds. Never reads a file.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import cast

import numpy as np
import numpy.typing as npt

from procmem.errors import InputError

WORDS = 3
BITS = 64 * WORDS
FARTHEST = BITS + 1
"""More than any distance between two hashes: how far the nearest of no hashes is."""

NEAR_DUPLICATE = 14
"""Images at this distance or below are near-duplicates.

Measured by `benchmarks/bench_diversity.py` on 1,000 programs of the first generator. Of images that
got noise of deviation 6 levels, 10% more or less brightness, JPEG quality 60, or half the size and
back, 99% or more stay within 14; of those cut by 3% of their width, 95%; by 6%, 61%. Of 499,500
pairs of different programs one is within 14, 1% within 55, half within 91.
"""

_GRID = 32
_FREQUENCIES = 8
_PLACES = 8
_CELLS = 4
_GREY_STEPS = 16  # integer steps of one grey level in the 32 x 32 grid
_COSINE_STEPS = 4096
_TINT_LEVELS = 6
# What is above the median by no more is noise, and counts as equal to it: for a coefficient, a
# cosine of 1/16 level; for a mean, 2 levels.
_DEAD_ZONE_COEFFICIENT = 16
_DEAD_ZONE_MEAN = 2
_MAX_SIDE = 8192
_CHUNK = 64  # images
_BLOCK = 8192  # hashes

Hashes = npt.NDArray[np.uint64]


def check_images(images: npt.NDArray[np.uint8], *, least_side: int) -> None:
    """Raises InputError unless images are (N, S, S, 3) uint8 with S of `least_side` to 8192."""
    shape = np.shape(images)
    square = len(shape) == 4 and shape[1] == shape[2] and shape[3] == 3
    if not square or getattr(images, "dtype", None) != np.uint8:
        raise InputError(
            f"images have shape {shape} and type {getattr(images, 'dtype', type(images).__name__)},"
            " wanted (N, S, S, 3) uint8; crop them to squares"
        )
    if not least_side <= shape[1] <= _MAX_SIDE:
        raise InputError(
            f"images are {shape[1]} pixels wide, wanted {least_side} to {_MAX_SIDE}; resize them"
        )


def perceptual_hash(images: npt.NDArray[np.uint8]) -> Hashes:
    """Hashes images.

    Args:
        images: (N, S, S, 3) uint8, S from 8 to 8192.

    Returns:
        (N, 3) uint64 in the images' order: frequencies, places, colors.

    Raises:
        InputError: another shape, type or size.
    """
    check_images(images, least_side=_FREQUENCIES)
    hashes = np.empty((len(images), WORDS), np.uint64)
    for first in range(0, len(images), _CHUNK):
        grid = _average(images[first : first + _CHUNK])  # (n, 32, 32, 3)
        luma = np.rint(grid @ np.array([299.0, 587.0, 114.0]) / 1000)  # BT.601
        bits = np.concatenate([_frequency_bits(luma), _place_bits(luma), _color_bits(grid)], axis=1)
        packed = np.packbits(bits, axis=1, bitorder="little")  # (n, 24)
        hashes[first : first + _CHUNK] = packed.view("<u8")
    return hashes


def distance(a: Hashes, b: Hashes) -> npt.NDArray[np.int64]:
    """Hamming distances, 0 to 192: (..., 3) and (..., 3), broadcast over all but the last axis."""
    different = _count_bits(np.bitwise_xor(a, b))
    return np.asarray(different.sum(axis=-1, dtype=np.int64))


class HashIndex:
    """A growing set of hashes that knows the exact distance to its nearest.

    A search is one pass over all hashes: 0.2 ms for 100,000 of them.

        >>> index = HashIndex()
        >>> index.nearest(np.zeros(3, np.uint64)) == FARTHEST
        True
        >>> index.add(np.array([[7, 0, 0], [0, 1, 0]], np.uint64))
        >>> index.nearest(np.zeros(3, np.uint64))
        1
    """

    def __init__(self) -> None:
        self._count = 0
        # Words are rows, so that a search reads memory in order; room is doubled when it is full.
        self._words = np.empty((WORDS, 1024), np.uint64)

    def __len__(self) -> int:
        return self._count

    @property
    def hashes(self) -> Hashes:
        """(N, 3) uint64, a copy, in the order of adding: to be saved and added again."""
        return np.ascontiguousarray(self._words[:, : self._count].T)

    def add(self, hashes: Hashes) -> None:
        """Adds one hash (3,) or many (N, 3).

        Raises:
            InputError: another shape or type.
        """
        new = _check_hashes(hashes).reshape(-1, WORDS)
        total = self._count + len(new)
        if total > self._words.shape[1]:
            room = np.empty((WORDS, max(total, 2 * self._words.shape[1])), np.uint64)
            room[:, : self._count] = self._words[:, : self._count]
            self._words = room
        self._words[:, self._count : total] = new.T
        self._count = total

    def nearest(self, hash_: Hashes) -> int:
        """The distance to the nearest hash added, 0 to 192; `FARTHEST` if there is none.

        Args:
            hash_: (3,) uint64.

        Raises:
            InputError: another shape or type.
        """
        wanted = _check_hashes(hash_)
        if wanted.ndim != 1:
            raise InputError(f"hash has shape {wanted.shape}, wanted ({WORDS},); ask one at a time")
        if self._count == 0:
            return FARTHEST
        least = FARTHEST
        # In blocks whose intermediate results stay in the processor's cache.
        for first in range(0, self._count, _BLOCK):
            block = self._words[:, first : min(first + _BLOCK, self._count)]
            counts = _count_bits(np.bitwise_xor(block, wanted[:, None]))
            # 192 bits at most, so the sum fits a byte.
            least = min(least, int((counts[0] + counts[1] + counts[2]).min()))
        return least


def _check_hashes(hashes: Hashes) -> Hashes:
    if hashes.dtype != np.uint64 or hashes.ndim not in (1, 2) or hashes.shape[-1] != WORDS:
        raise InputError(
            f"hashes have shape {hashes.shape} and type {hashes.dtype}, wanted ({WORDS},) or "
            f"(N, {WORDS}) uint64, as perceptual_hash gives them"
        )
    return hashes


def _average(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """(n, S, S, 3) uint8 -> (n, 32, 32, 3) area means in whole sixteenths of a level."""
    count, side = images.shape[:2]
    # In units of 1/32 pixel, shortened by what both share, pixel i covers [32 i, 32 i + 32) and
    # cell j covers [S j, S j + S): overlaps are whole numbers that sum to S in a cell.
    shared = math.gcd(_GRID, side)
    pixel, cell = _GRID // shared, side // shared
    starts, cells = np.arange(side) * pixel, np.arange(_GRID)[:, None] * cell
    overlap = np.minimum(starts + pixel, cells + cell) - np.maximum(starts, cells)
    # A cell's sum is below 255 (S / shared)**2: exact in float32 for the usual sides.
    exact = np.float32 if 255 * cell * cell < 2**24 else np.float64
    weights = np.maximum(overlap, 0).astype(exact)  # (32, S)
    rows = weights @ images.reshape(count, side, side * 3).astype(exact)
    sums = np.matmul(weights, rows.reshape(count * _GRID, side, 3)).astype(np.float64)
    return cast(
        npt.NDArray[np.float64],
        np.rint(sums.reshape(count, _GRID, _GRID, 3) * (_GREY_STEPS / (cell * cell))),
    )


def _frequency_bits(luma: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """(n, 32, 32) whole numbers -> (n, 64): 8 x 8 DCT-II coefficients against their median."""
    places = np.arange(_GRID) * 2 + 1
    angles = np.pi / (2 * _GRID) * np.arange(_FREQUENCIES)[:, None] * places
    cosines = np.rint(_COSINE_STEPS * np.cos(angles))  # (8, 32)
    centered = luma - 127 * _GREY_STEPS
    # Twelve bits of luma, twice twelve of cosines, twice five of summing: below 2**53, so exact.
    coefficients = (cosines @ centered @ cosines.T).reshape(len(luma), -1)
    median = np.median(coefficients[:, 1:], axis=1, keepdims=True)
    one_level = float(_COSINE_STEPS * _COSINE_STEPS * _GREY_STEPS)
    bits = coefficients > median + _DEAD_ZONE_COEFFICIENT * one_level
    bits[:, 0] = coefficients[:, 0] > 0
    return cast(npt.NDArray[np.bool_], bits)


def _place_bits(luma: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """(n, 32, 32) whole numbers -> (n, 64): means of 8 x 8 cells against their median."""
    size = _GRID // _PLACES
    sums = luma.reshape(len(luma), _PLACES, size, _PLACES, size).sum(axis=(2, 4))
    sums = sums.reshape(len(luma), -1)
    dead_zone = size * size * _GREY_STEPS * _DEAD_ZONE_MEAN
    return cast(npt.NDArray[np.bool_], sums > np.median(sums, axis=1, keepdims=True) + dead_zone)


def _color_bits(grid: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """(n, 32, 32, 3) whole numbers -> (n, 64): tints of 4 x 4 cells, coarsely."""
    size = _GRID // _CELLS
    cells = grid.reshape(len(grid), _CELLS, size, _CELLS, size, 3).sum(axis=(2, 4))
    luma = cells @ np.array([299.0, 587.0, 114.0])  # in thousandths, so that it is whole
    limit = 1000.0 * size * size * _GREY_STEPS * _TINT_LEVELS
    tints = 1000 * cells[..., [2, 0]] - luma[..., None]  # (n, 4, 4, 2): B - Y and R - Y
    return np.stack([tints > limit, tints > -limit], axis=-1).reshape(len(grid), -1)


@functools.cache
def _bits_of_16() -> npt.NDArray[np.uint8]:
    numbers = np.arange(2**16, dtype=np.uint16)
    bits = np.unpackbits(numbers.view(np.uint8).reshape(-1, 2), axis=1)  # (65536, 16)
    return np.asarray(bits.sum(axis=1, dtype=np.uint8))


def _count_bits_by_table(words: Hashes) -> npt.NDArray[np.uint8]:
    """What `numpy.bitwise_count` does in numpy 2, for numpy 1: a table of 16-bit numbers."""
    quarters = _bits_of_16().take(np.ascontiguousarray(words).view(np.uint16))  # (..., 4 N) bytes
    # The product adds a word's four bytes up in the top one.
    total = (quarters.view(np.uint32) * np.uint32(0x01010101)) >> np.uint32(24)
    return cast(npt.NDArray[np.uint8], total.astype(np.uint8))


_count_bits: Callable[[Hashes], npt.NDArray[np.uint8]] = getattr(
    np, "bitwise_count", _count_bits_by_table
)
