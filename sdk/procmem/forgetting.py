"""The half of a `VisualMemory` that forgets: which items, and then without a trace.

Takes a selection from the user, gives it to the store and returns its report.
"""

from __future__ import annotations

import os
from datetime import datetime
from typing import cast

import numpy as np

from procmem.batch import IdOrIds, plain_ids, seconds_between, source_of
from procmem.errors import InputError, ItemNotFoundError
from procmem.folder import not_held, path_of
from procmem.image import ImageLike
from procmem.opening import OpenMemory
from procmem.record import Item
from procmem.types import ErasureReport


class Forgetting(OpenMemory):
    """The deletions of a `VisualMemory`."""

    def plan_delete(
        self,
        ids: IdOrIds | None = None,
        *,
        label: str | None = None,
        source: str | os.PathLike[str] | None = None,
        similar_to: ImageLike | None = None,
        min_similarity: float = 0.9,
        added_before: datetime | None = None,
    ) -> tuple[Item, ...]:
        """Says what `delete` with the same arguments would erase, and changes nothing.

        Args:
            ids: one or several; an empty iterable selects nothing.
            label: all items of this label.
            source: all items of this source: the text as it was stored, or else the path that
                it is from here, made absolute as `add` does.
            similar_to: all items at least `min_similarity` like this image; maybe none. Not those
                that a migration has left under the previous model, which sees otherwise.
            min_similarity: in [-1, 1]. Of a taught image with itself it is 1 but for the rounding
                of what is stored: 0.999 finds it, 1 may not.
            added_before: all items that were added before this moment, to the second; maybe none.
                One without a time zone is in local time. `datetime.now() - timedelta(days=30)`
                keeps what was taught in the last 30 days.

        Returns:
            The items, ascending by id.

        Raises:
            InputError: not exactly one way to select was given, or a value does not fit.
            ItemNotFoundError: an id, the label or the source is not in the memory.
            ImageError: `similar_to` cannot be used.
        """
        given = {
            "ids": ids,
            "label": label,
            "source": source,
            "similar_to": similar_to,
            "added_before": added_before,
        }
        names = [name for name, value in given.items() if value is not None]
        if len(names) != 1:
            raise InputError(
                f"{' and '.join(names) or 'nothing'} given, wanted exactly one of ids, label, "
                "source, similar_to and added_before; delete one after the other"
            )
        self._check_open()
        if similar_to is not None:
            return self._similar(similar_to, min_similarity)
        with self._lock:
            if ids is not None:
                return self._by_id(ids)
            items = list(self._store.erasable())
        if added_before is not None:
            _, end = seconds_between(None, added_before)
            return tuple(item for item in items if item.added_seconds < end)
        if label is not None:
            chosen = tuple(item for item in items if item.label == label)
        else:
            path_of("source", source)
            text = os.fsdecode(cast("str | os.PathLike[str]", source))
            chosen = tuple(item for item in items if item.source == text)
            if not chosen:
                chosen = tuple(item for item in items if item.source == source_of(text))
        if not chosen:
            raise ItemNotFoundError(self._unknown(names[0], given[names[0]]))
        return chosen

    def delete(
        self,
        ids: IdOrIds | None = None,
        *,
        label: str | None = None,
        source: str | os.PathLike[str] | None = None,
        similar_to: ImageLike | None = None,
        min_similarity: float = 0.9,
        added_before: datetime | None = None,
        receipt: bool = True,
    ) -> ErasureReport:
        """Erases items: all that are selected, or on any error none.

        When it returns, the items are gone from every later answer, here and in processes that
        have the vault open for reading; the vault's file has been written anew without them and
        the old one zeroed; and all files of the vault have been searched for remains.

        Args:
            ids: see `plan_delete`, as for the others.
            label: of all items to erase.
            source: of all items to erase.
            similar_to: an image like all items to erase.
            min_similarity: for `similar_to`.
            added_before: of all items to erase (retention).
            receipt: False saves a pass over the memory and gives a report without a receipt.

        Returns:
            What was erased and what was checked. If nothing is similar or old enough, or `ids` is
            empty, nothing is erased and checked. `purged` is False if more than `purge_limit` items
            are left or the system refused the purge (the log says why); then remains may be
            found, and the next opening for writing finishes it.

        Raises:
            InputError: not exactly one selector, or a value does not fit.
            ItemNotFoundError: an id, the label or the source is not in the memory.
            VaultReadOnlyError, VaultFullError, VaultLockedError: nothing was deleted.
        """
        self._check_writable()
        with self._lock:
            chosen = self.plan_delete(
                ids,
                label=label,
                source=source,
                similar_to=similar_to,
                min_similarity=min_similarity,
                added_before=added_before,
            )
            return self._store.erase([item.id for item in chosen], receipt=receipt)

    def _by_id(self, ids: IdOrIds) -> tuple[Item, ...]:
        wanted = set(plain_ids(ids))
        chosen = tuple(self._store.erasable(wanted))
        missing = sorted(wanted.difference(item.id for item in chosen))
        if missing:
            raise not_held(self.place, missing)
        return chosen

    def _similar(self, image: ImageLike, min_similarity: float) -> tuple[Item, ...]:
        least: object = min_similarity
        number = isinstance(least, (float, int, np.floating)) and not isinstance(least, bool)
        if not number or not -1 <= min_similarity <= 1:
            raise InputError(f"min_similarity is {least!r:.80}, wanted a number in [-1, 1]")
        query = self._embed(image).cls[0]
        with self._lock:
            return tuple(self._store.similar(query, float(min_similarity)))
