"""How far a confidence can be trusted: what the remembered items say when each is left out.

Takes leave-one-out answers from a store, gives `asking.py` the probability that an answer of some
confidence is right, and what a novel image is unlike. A function of the surviving items alone:
recomputed after every change.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from procmem.stores.contract import EVERYTHING, LeftOut, Store, Where
from procmem.vote import Weighting, vote

LEAST_ANSWERS = 20
"""With fewer answers to learn from, nothing is said."""


@dataclass(frozen=True, slots=True, eq=False)
class Reliability:
    """A rising staircase from confidence to the share of right answers.

    Attributes:
        starts: (m,) ascending, the least confidence of each step.
        shares: (m,) ascending, in (0, 1).
    """

    starts: npt.NDArray[np.float64]
    shares: npt.NDArray[np.float64]

    def at(self, confidence: float) -> float:
        """The probability that an answer of this confidence is right."""
        step = int(np.searchsorted(self.starts, confidence, side="right")) - 1
        return float(self.shares[max(step, 0)])


def fit_reliability(confidences: Sequence[float], right: Sequence[bool]) -> Reliability | None:
    """Isotonic regression by pooling adjacent violators (Zadrozny and Elkan 2002).

    Each step's share counts one right and one wrong answer more than there were (Laplace), so that
    no few answers make a probability of 0 or 1.

    Args:
        confidences: of n answers, in any order.
        right: whether each was right.

    Returns:
        None with fewer than `LEAST_ANSWERS` answers.
    """
    if len(confidences) < LEAST_ANSWERS:
        return None
    # One step for each distinct confidence, then steps that fall are merged with the one before.
    distinct, of = np.unique(np.asarray(confidences, dtype=np.float64), return_inverse=True)
    hits = np.bincount(of, weights=np.asarray(right, dtype=np.float64))
    counts = np.bincount(of).astype(np.float64)
    steps: list[list[float]] = []  # [start, hits, count]
    for start, hit, count in zip(distinct, hits, counts, strict=True):
        steps.append([float(start), float(hit), float(count)])
        while len(steps) > 1 and steps[-2][1] * steps[-1][2] >= steps[-1][1] * steps[-2][2]:
            _, more_hits, more = steps.pop()
            steps[-1][1] += more_hits
            steps[-1][2] += more
    table = np.array(steps)
    shares = (table[:, 1] + 1) / (table[:, 2] + 2)
    return Reliability(table[:, 0], np.maximum.accumulate(shares))


@dataclass(frozen=True, slots=True, eq=False)
class Standards:
    """What the answers of a memory are judged by.

    Attributes:
        nearest: (n,) similarities of items to their nearest others, for novelty.
        reliability: of votes; None with too few labelled items.
        all_vote: whether every item has a label.
    """

    nearest: npt.NDArray[np.float32]
    reliability: Reliability | None
    all_vote: bool


class Calibration:
    """The standards of a memory, kept until it changes.

    Args:
        store: of the memory.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._state: Hashable = None
        self._all_vote = False
        self._nearest: npt.NDArray[np.float32] | None = None
        self._reliabilities: dict[tuple[int, Weighting], Reliability | None] = {}

    def standards(self, k: int, weighting: Weighting) -> Standards:
        """For votes of k. The first call after a change asks up to 2,000 items."""
        state = self._store.state()
        if state != self._state:
            self.clear()
            self._state = state
        key = (k, weighting)
        if key not in self._reliabilities:
            left_out = self._store.left_out(k, Where(labelled=True))
            self._reliabilities[key] = _reliability_of(left_out, weighting)
            self._all_vote = left_out.complete
            if left_out.complete:
                self._nearest = left_out.similarities[:, :1].ravel()
        if self._nearest is None:
            self._nearest = self._store.left_out(1, EVERYTHING).similarities.ravel()
        return Standards(self._nearest, self._reliabilities[key], self._all_vote)

    def clear(self) -> None:
        """Forgets them."""
        self._state, self._all_vote, self._nearest = None, False, None
        self._reliabilities = {}


def _reliability_of(left_out: LeftOut, weighting: Weighting) -> Reliability | None:
    shares, right = [], []
    rows = zip(
        left_out.labels,
        left_out.shared,
        left_out.neighbor_labels,
        left_out.similarities.tolist(),
        strict=True,
    )
    for label, shared, neighbors, near in rows:
        if not shared:  # with itself left out nobody could have said it
            continue
        votes = vote(near, [one or "" for one in neighbors], weighting=weighting)
        winner, share = next(iter(votes.items()))
        shares.append(share)
        right.append(winner == label)
    return fit_reliability(shares, right)
