"""The vote's shares, its ties, and the novelty test against their plain definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from procmem.errors import InputError
from procmem.vote import is_novel, novelty_p_value, vote, vote_shares

SIMILARITIES = st.lists(st.floats(-1, 1, width=32), max_size=30)


@given(SIMILARITIES, st.data())
def test_shares_are_the_normalized_sums_of_exponentials(similarities, data):
    labels = [data.draw(st.sampled_from("abc")) for _ in similarities]
    votes = vote(similarities, labels)
    weights = np.exp(np.array(similarities, dtype=np.float64) / 0.07)
    for label in set(labels):
        wanted = weights[[own == label for own in labels]].sum() / weights.sum()
        assert votes[label] == pytest.approx(wanted, rel=1e-9, abs=1e-12)
    assert set(votes) == set(labels)


@given(SIMILARITIES.filter(bool))
def test_shares_sum_to_one(similarities):
    votes = vote(similarities, [str(at % 4) for at in range(len(similarities))])
    assert math.fsum(votes.values()) == pytest.approx(1.0, abs=1e-12)


def test_shares_are_sorted_largest_first():
    assert list(vote([0.9, 0.8, 0.8], ["b", "a", "a"])) == ["b", "a"]


def test_equal_shares_keep_the_order_of_the_nearest_neighbor():
    assert list(vote([0.5, 0.5], ["z", "a"])) == ["z", "a"]


def test_a_tiny_temperature_overflows_nothing():
    assert vote([1.0, -1.0], ["a", "b"], temperature=1e-6) == {"a": 1.0, "b": 0.0}


def test_nobody_votes_for_nothing():
    assert vote([], []) == {}


def test_a_label_too_few_is_refused():
    with pytest.raises(InputError, match="2 similarities and 1 labels"):
        vote([0.1, 0.2], ["a"])


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_a_temperature_that_is_not_above_zero_is_refused(temperature):
    with pytest.raises(InputError, match="temperature"):
        vote([0.1], ["a"], temperature=temperature)


@given(SIMILARITIES, st.data())
def test_a_place_weighs_by_one_over_two_plus_rank(similarities, data):
    labels = [data.draw(st.sampled_from("abc")) for _ in similarities]
    votes = vote(similarities, labels, weighting="rank")
    weights = 1 / (2 + np.arange(1, len(similarities) + 1))
    for label in set(labels):
        wanted = weights[[own == label for own in labels]].sum() / weights.sum()
        assert votes[label] == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("weighting", ["similarity", "rank"])
def test_the_shares_of_neighbors_make_the_shares_of_labels(weighting):
    similarities, labels = [0.9, 0.85, 0.8], ["a", "b", "a"]
    shares = vote_shares(similarities, weighting=weighting)
    votes = vote(similarities, labels, weighting=weighting)
    assert votes["a"] == pytest.approx(shares[0] + shares[2])
    assert shares == tuple(sorted(shares, reverse=True))


def test_an_unknown_weighting_is_refused_with_the_nearest():
    with pytest.raises(InputError, match="did you mean 'rank'"):
        vote([0.1], ["a"], weighting="ranks")


def test_the_p_value_counts_what_is_at_most_as_near():
    calibration = np.array([0.1, 0.5, 0.5, 0.9], dtype=np.float32)
    assert novelty_p_value(0.5, calibration) == pytest.approx(4 / 5)
    assert novelty_p_value(0.0, calibration) == pytest.approx(1 / 5)
    assert novelty_p_value(1.0, calibration) == 1.0


def test_rounding_makes_nothing_novel():
    calibration = np.ones(20, dtype=np.float32)
    assert novelty_p_value(0.9999994, calibration) == 1.0
    assert novelty_p_value(0.999, calibration) == pytest.approx(1 / 21)


def test_an_empty_memory_makes_everything_novel():
    assert is_novel(None, np.empty(0, dtype=np.float32))


@pytest.mark.parametrize(("count", "novel"), [(0, False), (18, False), (19, True)])
def test_nineteen_items_are_needed_to_call_something_novel(count, novel):
    assert is_novel(-1.0, np.full(count, 0.5, dtype=np.float32)) is novel


def test_what_is_as_near_as_the_others_is_not_novel():
    assert not is_novel(0.5, np.full(100, 0.5, dtype=np.float32))
