"""Which remembered items an answer hangs on: exact leave-one-out and leave-group-out.

Takes the ranked neighbors of a query from `index.py` by way of `memory.py`, gives what `influence`
and `counterfactual` report. Removing items that are not among a query's k nearest changes nothing,
so that only the groups met there are tried, each at the cost of one vote.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from pathlib import PurePath
from typing import Literal, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from procmem.errors import unknown_choice
from procmem.record import Item
from procmem.vote import Weighting, vote

G = TypeVar("G", bound=Hashable)

Fetch = Callable[[int], "tuple[npt.NDArray[np.intp], npt.NDArray[np.float32]]"]


GroupBy: TypeAlias = "Literal['item', 'label', 'folder'] | Callable[[Item], str | None]"
"""Which items are left out together."""


def grouping(by: GroupBy) -> Callable[[Item], int | str | None]:
    """The function from an item to its group.

    Raises:
        InputError: `by` is neither a known name nor callable.
    """
    if callable(by):
        return by
    known: dict[str, Callable[[Item], int | str | None]] = {
        "item": lambda item: item.id,
        "label": lambda item: item.label,
        "folder": lambda item: None if item.source is None else str(PurePath(item.source).parent),
    }
    if by not in known:
        raise unknown_choice("by", by, known)
    return known[by]


class Ranking:
    """The voters of one query by similarity, looked up as far down as they are needed.

    Args:
        fetch: gives rows and similarities of the first `count` voters, all if there are fewer.
        size: how many voters there are.
        expected: how many will probably be needed.
    """

    def __init__(self, fetch: Fetch, *, size: int, expected: int) -> None:
        self._fetch, self._size = fetch, size
        self._rows: list[int] = []
        self._similarities: list[float] = []
        self._reach(expected)

    def _reach(self, count: int) -> None:
        rows, similarities = self._fetch(min(count, self._size))
        self._rows, self._similarities = rows.tolist(), similarities.tolist()

    def first(
        self, count: int, *, without: Callable[[int], bool] | None = None
    ) -> tuple[list[int], list[float]]:
        """Rows and similarities of the first `count` voters that are not `without`."""
        while True:
            places = [
                at for at, row in enumerate(self._rows) if without is None or not without(row)
            ][:count]
            if len(places) == count or len(self._rows) >= self._size:
                return [self._rows[at] for at in places], [self._similarities[at] for at in places]
            self._reach(2 * len(self._rows) + count)

    def similarity(self, row: int) -> float:
        """Of a row that was looked up."""
        return self._similarities[self._rows.index(row)]


def changed_answers(
    ranking: Ranking,
    labels: Sequence[str],
    groups: Sequence[G | None],
    k: int,
    *,
    weighting: Weighting = "similarity",
    protocol: Literal["exact", "paper"] = "exact",
) -> dict[G, str | None]:
    """Which groups' removal changes the answer to one query, and to what.

    Args:
        ranking: of the query.
        labels: of all rows.
        groups: of all rows; rows of an equal group are removed together, None never.
        k: neighbors that vote.
        weighting: of the vote.
        protocol: "exact" lets the next neighbors move up into the k that vote, as a deletion does.
            "paper" lets the rest of the k vote: an approximation that misses some changes.

    Returns:
        Group -> the label after its removal, None if nobody is left to vote.
    """
    rows, similarities = ranking.first(k)
    usual = _winner(rows, similarities, labels, weighting)
    changed: dict[G, str | None] = {}
    for group in dict.fromkeys(groups[row] for row in rows):
        if group is None:
            continue
        if protocol == "exact":
            left = ranking.first(k, without=lambda row, group=group: groups[row] == group)  # type: ignore[misc]  # binds the loop's value
        else:
            places = [at for at, row in enumerate(rows) if groups[row] != group]
            left = [rows[at] for at in places], [similarities[at] for at in places]
        after = _winner(*left, labels, weighting)
        if after != usual:
            changed[group] = after
    return changed


def smallest_change(
    ranking: Ranking, labels: Sequence[str], k: int, *, weighting: Weighting = "similarity"
) -> tuple[list[int], str | None]:
    """The fewest items whose removal changes the answer to one query.

    Only items of the winning label need to go, nearest first: a nearer one takes more of its vote
    away than a farther one, and lets as many others move up. (Both weightings fall with the place.)

    Args:
        ranking: of the query.
        labels: of all rows.
        k: neighbors that vote.
        weighting: of the vote.

    Returns:
        Rows to remove, nearest first, and the label after that; None if nobody is left to vote.
        Without a voter at all, no rows and None.
    """
    rows, similarities = ranking.first(k)
    usual = _winner(rows, similarities, labels, weighting)
    gone: list[int] = []
    while rows:
        gone.append(next(row for row in rows if labels[row] == usual))
        rows, similarities = ranking.first(k, without=set(gone).__contains__)
        after = _winner(rows, similarities, labels, weighting)
        if after != usual:
            return gone, after
    return gone, None


def _winner(
    rows: Sequence[int],
    similarities: Sequence[float],
    labels: Sequence[str],
    weighting: Weighting,
) -> str | None:
    votes = vote(similarities, [labels[row] for row in rows], weighting=weighting)
    return next(iter(votes), None)
