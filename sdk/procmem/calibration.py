"""How far a confidence can be trusted: what the remembered items say when each is left out.

Takes leave-one-out answers from `memory.py`, gives the probability that an answer of some
confidence is right. A function of the surviving items alone: recomputed after every change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

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
