"""Every shortcut of `influence.py` against the deletion that it stands for."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from procmem.influence import Ranking, changed_answers, smallest_change
from procmem.vote import WEIGHTINGS, vote


@st.composite
def worlds(draw, most=9):
    """Similarities in descending order, some of them equal, with labels."""
    count = draw(st.integers(1, most))
    steps = draw(st.lists(st.sampled_from([0.0, 0.01, 0.05, 0.2]), min_size=count, max_size=count))
    similarities = (0.9 - np.cumsum(steps)).astype(np.float32)
    labels = draw(st.lists(st.sampled_from("abc"), min_size=count, max_size=count))
    return similarities, labels


def ranking_of(similarities, *, expected=1):
    def fetch(count):
        return np.arange(count, dtype=np.intp), similarities[:count]

    return Ranking(fetch, size=len(similarities), expected=min(expected, len(similarities)))


def answer(similarities, labels, k, weighting, without=()):
    kept = [at for at in range(len(labels)) if at not in without][:k]
    votes = vote(
        [float(similarities[at]) for at in kept], [labels[at] for at in kept], weighting=weighting
    )
    return next(iter(votes), None)


@settings(max_examples=300)
@given(worlds(), st.integers(1, 6), st.sampled_from(WEIGHTINGS))
def test_no_smaller_set_of_items_changes_the_answer(world, k, weighting):
    similarities, labels = world
    gone, after = smallest_change(ranking_of(similarities), labels, k, weighting=weighting)
    usual = answer(similarities, labels, k, weighting)
    assert after != usual
    assert answer(similarities, labels, k, weighting, without=gone) == after
    for size in range(len(gone)):
        for fewer in itertools.combinations(range(len(labels)), size):
            assert answer(similarities, labels, k, weighting, without=fewer) == usual


@settings(max_examples=300)
@given(worlds(most=14), st.integers(1, 6), st.sampled_from(WEIGHTINGS), st.data())
def test_the_changes_are_those_of_deleting_each_group(world, k, weighting, data):
    similarities, labels = world
    groups = data.draw(
        st.lists(st.sampled_from(["x", "y", "z", None]), min_size=len(labels), max_size=len(labels))
    )
    usual = answer(similarities, labels, k, weighting)
    wanted = {}
    for group in set(groups) - {None}:
        members = [at for at, own in enumerate(groups) if own == group]
        after = answer(similarities, labels, k, weighting, without=members)
        if after != usual:
            wanted[group] = after
    found = changed_answers(ranking_of(similarities), labels, groups, k, weighting=weighting)
    assert found == wanted


def test_the_papers_count_lets_nobody_move_up():
    similarities = np.array([0.9, 0.8, 0.8, 0.8], dtype=np.float32)
    labels, groups = ["a", "b", "b", "b"], [1, 2, 3, 4]
    # Without 2, item 3 moves up and the answer stays; in the paper's count nobody is left but 1.
    exact = changed_answers(ranking_of(similarities), labels, groups, 2, weighting="rank")
    paper = changed_answers(
        ranking_of(similarities), labels, groups, 2, weighting="rank", protocol="paper"
    )
    assert exact == {1: "b"}
    assert paper == {1: "b"}
    exact = changed_answers(ranking_of(similarities), labels, groups, 1)
    paper = changed_answers(ranking_of(similarities), labels, groups, 1, protocol="paper")
    assert (exact, paper) == ({1: "b"}, {1: None})


def test_a_ranking_looks_no_farther_than_it_must():
    asked = []
    similarities = np.linspace(1, 0, 1000, dtype=np.float32)

    def fetch(count):
        asked.append(count)
        return np.arange(count, dtype=np.intp), similarities[:count]

    ranking = Ranking(fetch, size=1000, expected=5)
    assert ranking.first(5)[0] == [0, 1, 2, 3, 4]
    assert asked == [5]
    assert ranking.first(5, without={0, 2}.__contains__)[0] == [1, 3, 4, 5, 6]
    assert len(asked) == 2
    assert max(asked) <= 20
    assert ranking.first(2000)[0] == list(range(1000))


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_a_label_alone_leaves_nobody(weighting):
    similarities = np.array([0.5, 0.4, 0.3], dtype=np.float32)
    gone, after = smallest_change(ranking_of(similarities), ["a"] * 3, 2, weighting=weighting)
    assert (gone, after) == ([0, 1, 2], None)


def test_nobody_can_change_no_answer():
    empty = np.empty(0, dtype=np.float32)
    assert smallest_change(ranking_of(empty), [], 3) == ([], None)
    assert changed_answers(ranking_of(empty), [], [], 3) == {}
