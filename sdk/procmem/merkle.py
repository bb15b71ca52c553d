"""Merkle trees as RFC 6962, section 2.1 defines them: one hash that stands for a list of leaves.

Used by `receipt.py`; knows only bytes. With the root of a list of n leaves and a proof of about
log2(n) hashes, anybody can check which leaf stands at which position, without the other leaves.
One proof may cover several positions: hashes that follow from others are not in it. For one
position it is the audit path of RFC 6962, section 2.1.1, to the letter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from procmem import _erasure

HASH_BYTES = 32

# Leaves and nodes are hashed apart, or else a node could be passed off as a leaf.
_LEAF, _NODE = b"\x00", b"\x01"


def leaf_hash(data: bytes) -> bytes:
    """The hash of one leaf, 32 bytes."""
    return hashlib.sha256(_LEAF + data).digest()


def leaf_hashes(rows: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The hashes of leaves of equal size, (N, M) uint8, as (N, 32) uint8."""
    return _erasure.sha256_rows(np.insert(rows, 0, _LEAF[0], axis=1))


class Tree:
    """The hashes over a list of leaves: 64 bytes for each leaf, about one hash to compute.

    Args:
        leaves: the hashes of the leaves in order, (N, 32) uint8, from `leaf_hashes`; may be none.
    """

    def __init__(self, leaves: npt.NDArray[np.uint8]) -> None:
        # Pairs from the left, an odd last one moves up unchanged: this is the tree of the RFC,
        # which splits n leaves at the largest power of two below n.
        self._levels = [leaves]
        while len(level := self._levels[-1]) > 1:
            even = len(level) // 2 * 2
            pairs = level[:even].reshape(-1, 2 * HASH_BYTES)
            above = _erasure.sha256_rows(np.insert(pairs, 0, _NODE[0], axis=1))
            self._levels.append(np.concatenate([above, level[even:]]))

    def __len__(self) -> int:
        return len(self._levels[0])

    @property
    def root(self) -> bytes:
        """The root, 32 bytes; of no leaves the SHA-256 of nothing."""
        return self._levels[-1][0].tobytes() if len(self) else root_of_nothing()

    def prove(self, positions: Iterable[int]) -> list[bytes]:
        """The hashes by which `root_from` gets the root from the leaves at these positions.

        Args:
            positions: in [0, n); none gives an empty proof.

        Returns:
            From the leaves up, in each level from left to right.
        """
        known = set(positions)
        proof: list[bytes] = []
        for level in self._levels:
            siblings = sorted({at ^ 1 for at in known} - known)
            proof += [level[at].tobytes() for at in siblings if at < len(level)]
            known = {at // 2 for at in known}
        return proof


def root_of_nothing() -> bytes:
    """The root of a tree without leaves."""
    return hashlib.sha256(b"").digest()


def root_from(size: int, leaves: Mapping[int, bytes], proof: Sequence[bytes]) -> bytes:
    """The root that follows from some leaves and a proof.

    Args:
        size: how many leaves the tree has, at least 1.
        leaves: position in [0, size) -> hash of the leaf; at least one.
        proof: from `Tree.prove` with the same positions.

    Raises:
        ValueError: a position is not in the tree, or the proof has too few or too many hashes.
    """
    if not leaves or not 0 <= min(leaves) <= max(leaves) < size:
        raise ValueError(f"no leaf, or one outside the tree of {size} leaves")
    level = dict(leaves)
    rest = iter(proof)
    while size > 1:
        above = {}
        for at, value in sorted(level.items()):
            if at // 2 in above:
                continue  # the right one of a pair whose left one is known too
            sibling = at ^ 1
            if sibling >= size:
                above[at // 2] = value
                continue
            other = level[sibling] if sibling in level else next(rest, None)
            if other is None:
                raise ValueError("the proof has too few hashes")
            above[at // 2] = _node(value, other) if at < sibling else _node(other, value)
        level, size = above, (size + 1) // 2
    if next(rest, None) is not None:
        raise ValueError("the proof has too many hashes")
    return level[0]


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(_NODE + left + right).digest()
