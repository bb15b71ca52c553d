"""Commits to the items of a vault while they are read, in any order, by whoever reads them.

Given to `reader.py` and to the passes over all rows (`survey.py`), which pass items on; gives
`receipt.py` what the trees of an erasure receipt stand on.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from procmem import _erasure
from procmem.merkle import HASH_BYTES
from procmem.record import DenseValues, ItemValues


class Committer:
    """The commitment of every item that it was given: 40 bytes for each.

    It is the HMAC-SHA256, under the vault's secret, of an item's id (8 bytes, big endian) and its
    `record.canonical_values`: 32 bytes that tell nothing to whoever lacks the secret. Without the
    id, two items with equal bytes would be seen to be equal.

    Attributes:
        secret: of the vault's key, at most 64 bytes.
    """

    def __init__(self, secret: bytes) -> None:
        self.secret = secret
        self._ids = [np.empty(0, dtype=np.int64)]
        self._codes = [np.empty((0, HASH_BYTES), dtype=np.uint8)]

    def take(self, values: list[ItemValues], dense: list[DenseValues | None]) -> None:
        """Commits to some items; a `checking.Use`.

        Args:
            values: what is stored of each.
            dense: what is stored of the mask of each, None where there is none.
        """
        self._ids.append(np.array([item[0] for item in values], dtype=np.int64))
        self._codes.append(_erasure.commit(values, dense, self.secret))

    def add(self, ids: npt.NDArray[np.int64], codes: npt.NDArray[np.uint8]) -> None:
        """Takes commitments that were made elsewhere under the same secret.

        Args:
            ids: (N,) of the items.
            codes: (N, 32), the commitment of each.
        """
        self._ids.append(ids)
        self._codes.append(codes)

    def result(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
        """The ids, (N,) int64 ascending, and the commitment of each, (N, 32) uint8."""
        ids, codes = np.concatenate(self._ids), np.concatenate(self._codes)
        order = np.argsort(ids, kind="stable")
        return ids[order], codes[order]
