"""Neighbors to an answer: which label, how sure, and whether the image is unlike all known ones.

Takes similarities and labels from `index.py` by way of `memory.py`, gives the shares of an
`Answer`. Pure arithmetic on small arrays: the same neighbors give the same answer to the last bit,
whatever else the memory ever held.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from procmem.errors import InputError, unknown_choice

TEMPERATURE = 0.07
"""Of the vote's weights, as in the k-NN protocol of "Separating Knowledge and Perception with
Procedural Data" (ICML 2025), which takes it from DINO."""

RANK_OFFSET = 2.0
"""Of the rank's weights: the larger, the more equal they are."""

Weighting: TypeAlias = Literal["similarity", "rank"]
"""How much a neighbor's vote weighs: by its similarity, or by its place."""

WEIGHTINGS: tuple[Weighting, ...] = ("similarity", "rank")

SAME_SIMILARITY = 1e-4
"""So near, two similarities are equal: stored vectors are rounded to float16, sums to float32."""

NOVELTY_LEVEL = 0.05
"""An image of a remembered kind is called novel this often, at most."""


def vote(
    similarities: Sequence[float],
    labels: Sequence[str],
    *,
    weighting: Weighting = "similarity",
    temperature: float = TEMPERATURE,
) -> dict[str, float]:
    """Lets neighbors vote for their labels, each with the weight that `vote_shares` gives it.

    Args:
        similarities: of the K neighbors to the query, largest first, finite.
        labels: one per neighbor.
        weighting: see `vote_shares`.
        temperature: see `vote_shares`.

    Returns:
        Every label's share of the vote, largest first; the shares sum to 1 within rounding. Equal
        shares stand in the order of each label's nearest neighbor. Empty without neighbors.

    Raises:
        InputError: the two sequences differ in length, the temperature is not above 0, or the
            weighting is unknown.
    """
    if len(similarities) != len(labels):
        raise InputError(
            f"{len(similarities)} similarities and {len(labels)} labels, wanted one label each"
        )
    by_label: dict[str, list[float]] = {}
    shares = vote_shares(similarities, weighting=weighting, temperature=temperature)
    for label, share in zip(labels, shares, strict=True):
        by_label.setdefault(label, []).append(share)
    sums = {label: math.fsum(own) for label, own in by_label.items()}
    # sorted() is stable: labels of equal share stay in the order of their first neighbor.
    return dict(sorted(sums.items(), key=lambda entry: -entry[1]))


def vote_shares(
    similarities: Sequence[float],
    *,
    weighting: Weighting = "similarity",
    temperature: float = TEMPERATURE,
) -> tuple[float, ...]:
    """Each neighbor's share of the vote.

    Args:
        similarities: of the K neighbors to the query, largest first, finite.
        weighting: "similarity" for exp(similarity / temperature), the k-NN protocol of the paper;
            "rank" for 1 / (2 + rank), ranks from 1, which is steady when k grows (RankVoting,
            Geirhos et al., "Towards flexible perception with visual memory", arXiv 2408.08172).
        temperature: above 0; smaller trusts the nearest more.

    Returns:
        K numbers, largest first, that sum to 1 within rounding.

    Raises:
        InputError: the temperature is not above 0, or the weighting is unknown.
    """
    if not temperature > 0:
        raise InputError(f"temperature is {temperature}, wanted a number above 0")
    check_weighting(weighting)
    if not len(similarities):
        return ()
    if weighting == "rank":
        weights = [1.0 / (RANK_OFFSET + rank) for rank in range(1, len(similarities) + 1)]
    else:
        # The largest exponent becomes 0, so that no weight overflows and their sum is at least 1.
        largest = max(similarities)
        weights = [math.exp((similarity - largest) / temperature) for similarity in similarities]
    total = math.fsum(weights)
    return tuple(weight / total for weight in weights)


def check_weighting(weighting: str) -> None:
    """Raises InputError unless it is one of `WEIGHTINGS`; the message offers the nearest."""
    if weighting not in WEIGHTINGS:
        raise unknown_choice("weighting", weighting, WEIGHTINGS)


def novelty_p_value(similarity: float, calibration: npt.NDArray[np.float32]) -> float:
    """How usual it is for a remembered item to be as far from its nearest as the query is.

    The conformal p-value (Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World",
    2005): (1 + how many calibration values are at most `similarity`) / (n + 1). If the query is
    drawn like the remembered images, it is at most p with probability p. Values within
    `SAME_SIMILARITY` count as equal: a photo that is remembered twice is as near as its copy.

    Args:
        similarity: of the query to its nearest remembered item.
        calibration: (n,) of remembered items to their nearest other item, from
            `Index.nearest_others`; n may be 0.

    Returns:
        In (0, 1]. Never below 1 / (n + 1).
    """
    as_far = np.count_nonzero(calibration <= similarity + SAME_SIMILARITY)
    return float(1 + as_far) / (len(calibration) + 1)


def is_novel(
    similarity: float | None,
    calibration: npt.NDArray[np.float32],
    *,
    level: float = NOVELTY_LEVEL,
) -> bool:
    """Whether an image is less like its nearest neighbor than remembered ones are to theirs.

    With fewer than 19 calibration values the p-value cannot come down to 0.05, and nothing is
    called novel but an image that meets an empty memory.

    Args:
        similarity: of the query to its nearest remembered item; None if the memory is empty.
        calibration: (n,), see `novelty_p_value`.
        level: the largest p-value that counts as novel.
    """
    return similarity is None or novelty_p_value(similarity, calibration) <= level
