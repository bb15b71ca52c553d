"""Remembered patches with the pixels of their masks: what segmentation by the memory compares with.

Takes rows from the vault, gives arrays to `segment.py`. Bounded: of a memory with more patches than
fit, every item and every class in it gives equally many, chosen by a rule that looks at nothing but
the items that are held now (law 1).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from procmem.record import restore_patches
from procmem.segment import mask_patches

BANK_PATCHES = 1 << 18
"""At most so many patches are compared with: those of 1,337 pictures of 14 x 14."""

Int = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class DenseBank:
    """Patches and their pixels, row for row.

    Attributes:
        patches: (M, P) float16 unit vectors.
        pixels: (M, p, p) uint8, the mask's class values.
    """

    patches: npt.NDArray[np.float16]
    pixels: npt.NDArray[np.uint8]

    def clear(self) -> None:
        """Overwrites both with zeros."""
        self.patches.fill(0)
        self.pixels.fill(0)


@dataclass
class _Gathered:
    """What of each item is kept so far; ranks are the order of sacrifice, highest first."""

    patch: int
    limit: int
    patches: list[npt.NDArray[np.float16]] = field(default_factory=list)
    pixels: list[npt.NDArray[np.uint8]] = field(default_factory=list)
    ranks: list[Int] = field(default_factory=list)
    count: int = 0
    share: int | None = None  # ranks that any class of any item may give; None: all

    def take(self, tokens: npt.NDArray[np.int8], mask: npt.NDArray[np.uint8]) -> None:
        cut = mask_patches(mask, self.patch)
        ranks = sampling_ranks(patch_classes(cut))
        kept = ranks < (len(cut) if self.share is None else self.share)
        self.patches.append(restore_patches(tokens[kept]).astype(np.float16))
        self.pixels.append(cut[kept])
        self.ranks.append(ranks[kept])
        self.count += len(self.ranks[-1])
        if self.count > self.limit + self.limit // 4:
            self.shrink()

    def shrink(self) -> None:
        """Drops the patches of highest rank, from all items alike, until they fit."""
        if self.count <= self.limit:
            return
        held = np.bincount(np.concatenate(self.ranks)).cumsum()  # patches of rank r or less
        self.share = max(1, int(np.searchsorted(held, self.limit, side="right")))
        for number, own in enumerate(self.ranks):
            kept = own < self.share
            if not kept.all():
                self.patches[number] = self.patches[number][kept]
                self.pixels[number] = self.pixels[number][kept]
                self.ranks[number] = own[kept]
        self.count = sum(map(len, self.ranks))


def gather_bank(
    rows: Iterable[tuple[npt.NDArray[np.int8], npt.NDArray[np.uint8]]],
    *,
    patch: int,
    width: int,
    limit: int = BANK_PATCHES,
) -> DenseBank:
    """Keeps as much of the items with a mask as fits.

    Args:
        rows: patch tokens (h * w, P) int8 and mask (S, S) uint8 of every item, ascending by id.
        patch: p, side of a patch in pixels; divides S.
        width: P.
        limit: M at most. If even one patch of each class of each item is more, the items of
            smallest id give theirs; ids are random.

    Returns:
        A function of the items and of nothing else, neither of their past nor of those that left.
    """
    gathered = _Gathered(patch, limit)
    for tokens, mask in rows:
        gathered.take(tokens, mask)
    gathered.shrink()
    none = np.empty((0, width), np.float16), np.empty((0, patch, patch), np.uint8)
    patches = np.concatenate([none[0], *gathered.patches])
    pixels = np.concatenate([none[1], *gathered.pixels])
    for rows in (patches, pixels):
        rows[limit:] = 0  # stays in memory behind the view that the bank is and clears
    return DenseBank(patches[:limit], pixels[:limit])


def patch_classes(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The most frequent class of each patch (M, p, p), the smallest of equally frequent ones."""
    flat = pixels.reshape(len(pixels), -1)
    classes = np.unique(flat)
    counts = np.stack([(flat == one).sum(axis=1) for one in classes], axis=1)
    frequent: npt.NDArray[np.uint8] = classes[counts.argmax(axis=1)]
    return frequent


def sampling_ranks(classes: npt.NDArray[np.uint8]) -> Int:
    """In which order an item gives its patches (M,), class by class.

    The r + 1 patches of rank at most r of a class are spread evenly over that class in raster
    order: position i comes at the mirrored bits of i (van der Corput's sequence).
    """
    ranks = np.empty(len(classes), dtype=np.intp)
    for one in np.unique(classes):
        own = np.flatnonzero(classes == one)
        ranks[own] = _mirrored_order(len(own))
    return ranks


def _mirrored_order(count: int) -> Int:
    """(count,) the place of each position when they are sorted by their mirrored bits."""
    bits = max(1, int(count - 1).bit_length())
    positions = np.arange(count)
    mirrored = np.zeros(count, dtype=np.intp)
    for bit in range(bits):
        mirrored |= ((positions >> bit) & 1) << (bits - 1 - bit)
    order = np.empty(count, dtype=np.intp)
    order[np.argsort(mirrored, kind="stable")] = positions
    return order
