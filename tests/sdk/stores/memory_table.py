"""A `Table` in working memory: what the others are compared with, in the plainest words.

Rows of one "server" are a `Rows`; every `MemoryTable` on it is a client of its own.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from procmem.errors import InputError, ItemNotFoundError
from procmem.record import encode_text
from procmem.stores.table import StoredItem, StoredMask


@dataclass
class Rows:
    """What the server of one memory holds."""

    head: dict[str, str] | None = None
    width: int = 0
    items: dict[int, StoredItem] = field(default_factory=dict)
    masks: dict[int, StoredMask] = field(default_factory=dict)
    changes: int = 0


class MemoryTable:
    has_graph = False

    def __init__(self, rows: Rows | None = None) -> None:
        self.rows = Rows() if rows is None else rows
        self.place = "memory"

    def head(self):
        return None if self.rows.head is None else dict(self.rows.head)

    def create(self, head, *, width):
        if self.rows.head is None:
            self.rows.head, self.rows.width = dict(head), width

    def state(self):
        return self.rows.changes

    def count(self, *, dense=False):
        return len(self.rows.masks if dense else self.rows.items)

    def held(self, ids):
        return set(ids) & self.rows.items.keys()

    def insert(self, items):
        new = list(items)
        for item, _ in new:
            if item.vector.shape != (self.rows.width,):
                raise InputError(f"the vector of id {item.id} has shape {item.vector.shape}")
        times = Counter(item.id for item, _ in new)
        used = {id_ for id_, count in times.items() if count > 1 or id_ in self.rows.items}
        if used:
            raise InputError(f"id {min(used)} is in use or given twice; nothing was added")
        for item, mask in new:
            self.rows.items[item.id] = item
            if mask is not None:
                self.rows.masks[item.id] = mask
        self.rows.changes += bool(new)

    def delete(self, ids):
        missing = set(ids) - self.rows.items.keys()
        if missing:
            raise ItemNotFoundError(f"id {min(missing)} is not held; nothing was deleted")
        for id_ in set(ids):
            del self.rows.items[id_]
            self.rows.masks.pop(id_, None)
        self.rows.changes += bool(len(ids))

    def fetch(self, ids):
        return [self.rows.items[id_] for id_ in set(ids) if id_ in self.rows.items]

    def walk(self, after, limit, where):
        return [item for item in self._seen(where) if item.id > after][:limit]

    def masks(self, after, limit):
        return [mask for id_, mask in sorted(self.rows.masks.items()) if id_ > after][:limit]

    def fetch_masks(self, ids):
        return [self.rows.masks[id_] for id_ in set(ids) if id_ in self.rows.masks]

    def candidates(self, query, count, where, *, exact):
        del exact
        near = sorted(self._seen(where), key=lambda item: -similarity(query, item))
        left = near[count:]
        return near[:count], similarity(query, left[0]) if left else -math.inf

    def error_bound(self):
        return 1e-12

    def bytes_on_disk(self):
        return sum(item.vector.nbytes for item in self.rows.items.values())

    def out_of_reach(self):
        return ()

    def close(self):
        pass

    def _seen(self, where):
        label = encode_text(where.label)
        return [
            item
            for _, item in sorted(self.rows.items.items())
            if (label is None or item.label == label)
            and (item.labelled or not where.labelled)
            and where.first_seconds <= item.added_seconds < where.end_seconds
        ]


def similarity(query, item):
    """Cosine of a query and an item, in float64."""
    vector = item.vector.astype(np.float64)
    lengths = np.linalg.norm(query.astype(np.float64)) * np.linalg.norm(vector)
    return float(query.astype(np.float64) @ vector / lengths) if lengths else 0.0
