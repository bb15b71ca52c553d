"""Items and masks for tables, each a function of its id, and what is compared of them."""

from __future__ import annotations

import numpy as np

from procmem.record import encode_text
from procmem.stores.contract import EVERYTHING
from procmem.stores.table import StoredItem, StoredMask

WIDTH = 48
HEAD = {"sha256": "ab" * 32, "name": 'toy "quoted" \u00e9', "cls_dim": "48"}
LARGEST = 2**63 - 1


def item(id_, *, label="cat", source=None, seconds=1_700_000_000, sealed=None, labelled=None):
    vector = np.random.default_rng(id_).standard_normal(WIDTH).astype(np.float16)
    return StoredItem(
        id_,
        vector,
        encode_text(label),
        encode_text(source),
        label is not None if labelled is None else labelled,
        seconds,
        sealed,
    )


def mask(id_, *, patches=16 * 12, side=32):
    random = np.random.default_rng(id_)
    return StoredMask(id_, random.bytes(patches), random.bytes(side * side))


def values(stored):
    """All of an item, its vector as the bytes that it is."""
    return (
        stored.id, stored.vector.tobytes(), str(stored.vector.dtype), stored.vector.shape,
        stored.label, stored.source, stored.labelled, stored.added_seconds, stored.sealed,
    )  # fmt: skip


def everything(table):
    return [values(one) for one in table.walk(0, 1_000_000, EVERYTHING)]


def ids_of(table):
    return [one.id for one in table.walk(0, 1_000_000, EVERYTHING)]


def query_of(id_):
    vector = item(id_).vector.astype(np.float32)
    return vector / np.linalg.norm(vector)
