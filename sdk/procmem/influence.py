"""Which remembered items an answer hangs on: exact leave-one-out and leave-group-out.

Takes the ranked neighbors of a query from the store by way of `asking.py`, gives what `influence`
and `counterfactual` report. Removing items that are not among a query's k nearest changes nothing,
so that only the groups met there are tried, each at the cost of one vote.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from pathlib import PurePath
from typing import Literal, TypeAlias, TypeVar

from procmem.errors import InputError, unknown_choice
from procmem.record import Item
from procmem.types import Neighbor
from procmem.vote import Weighting, vote

G = TypeVar("G", bound=Hashable)


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
    if not isinstance(by, str) or by not in known:
        raise unknown_choice("by", by, known)
    return known[by]


def checked_group(group: object, item: Item) -> int | str | None:
    """The group of an item; raises InputError if it is neither a text, a number nor None."""
    if group is None or isinstance(group, (int, str)):
        return group
    raise InputError(
        f"by gives {group!r:.80} for item {item.id}, wanted a text, or None for an item that stays"
    )


class Ranking:
    """The voters of one query, nearest first, looked up as far down as they are needed.

    Args:
        fetch: gives the first `count` voters, all if there are fewer.
        expected: how many will probably be needed.
    """

    def __init__(self, fetch: Callable[[int], Sequence[Neighbor]], *, expected: int) -> None:
        self._fetch = fetch
        self._reach(expected)

    def _reach(self, count: int) -> None:
        self._found = self._fetch(count)
        self._complete = len(self._found) < count

    def at(self, place: int) -> Neighbor | None:
        """The voter at a place, from 0; None if there are not so many."""
        while place >= len(self._found) and not self._complete:
            self._reach(2 * place + 1)
        return self._found[place] if place < len(self._found) else None

    def first(
        self, count: int, *, without: Callable[[Neighbor], bool] | None = None
    ) -> list[Neighbor]:
        """The first `count` voters that are not `without`."""
        while True:
            kept = [one for one in self._found if without is None or not without(one)][:count]
            if len(kept) == count or self._complete:
                return kept
            self._reach(2 * len(self._found) + count)


def changed_answers(
    ranking: Ranking,
    group_of: Callable[[Neighbor], G | None],
    k: int,
    *,
    weighting: Weighting = "similarity",
    protocol: Literal["exact", "paper"] = "exact",
) -> dict[G, str | None]:
    """Which groups' removal changes the answer to one query, and to what.

    Args:
        ranking: of the query.
        group_of: items of an equal group are removed together, those of None never.
        k: neighbors that vote.
        weighting: of the vote.
        protocol: "exact" lets the next neighbors move up into the k that vote, as a deletion does.
            "paper" lets the rest of the k vote: an approximation that misses some changes.

    Returns:
        Group -> the label after its removal, None if nobody is left to vote.
    """
    voters = ranking.first(k)
    usual = _winner(voters, weighting)
    changed: dict[G, str | None] = {}
    for group in dict.fromkeys(map(group_of, voters)):
        if group is None:
            continue

        def removed(one: Neighbor, group: G = group) -> bool:
            return group_of(one) == group

        if protocol == "exact":
            left = ranking.first(k, without=removed)
        else:
            left = [one for one in voters if not removed(one)]
        after = _winner(left, weighting)
        if after != usual:
            changed[group] = after
    return changed


def smallest_change(
    ranking: Ranking, k: int, *, weighting: Weighting = "similarity"
) -> tuple[list[Neighbor], str | None]:
    """The fewest items of the answer's own label whose removal changes the answer to one query.

    They go nearest first: a nearer one takes more of the label's vote away than a farther one, and
    lets as many others move up. (Both weightings fall with the place.) Weighed by similarity, no
    fewer items of any labels change it. Weighed by place, they may: without an item of a third
    label everybody behind it moves up, a rival farther than the winner.

    Args:
        ranking: of the query.
        k: neighbors that vote.
        weighting: of the vote.

    Returns:
        Items to remove, nearest first, and the label after that; None if nobody is left to vote.
        Without a voter at all, no items and None.
    """
    voters = ranking.first(k)
    usual = _winner(voters, weighting)
    gone: list[Neighbor] = []
    while voters:
        gone.append(voters.pop(next(at for at, one in enumerate(voters) if one.label == usual)))
        behind = ranking.at(len(voters) + len(gone))  # all that are gone stood before it
        if behind is not None:
            voters.append(behind)
        after = _winner(voters, weighting)
        if after != usual:
            return gone, after
    return gone, None


def _winner(voters: Sequence[Neighbor], weighting: Weighting) -> str | None:
    labels = [one.label or "" for one in voters]
    votes = vote([one.similarity for one in voters], labels, weighting=weighting)
    return next(iter(votes), None)
