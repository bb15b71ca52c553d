"""Every shortcut of `influence.py` against the deletion that it stands for."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from procmem.influence import Ranking, changed_answers, smallest_change
from procmem.types import Neighbor
from procmem.vote import WEIGHTINGS, vote


@st.composite
def worlds(draw, most=9):
    """Similarities in descending order, some of them equal, with labels."""
    count = draw(st.integers(1, most))
    steps = draw(st.lists(st.sampled_from([0.0, 0.01, 0.05, 0.2]), min_size=count, max_size=count))
    similarities = (0.9 - np.cumsum(steps)).astype(np.float32)
    labels = draw(st.lists(st.sampled_from("abc"), min_size=count, max_size=count))
    return similarities, labels


def ranking_of(similarities, labels, *, expected=1):
    """Of items whose ids are their places."""
    voters = [
        Neighbor(at, label, float(near), None)
        for at, (near, label) in enumerate(zip(similarities, labels, strict=True))
    ]
    return Ranking(lambda count: voters[:count], expected=expected)


def group_of(groups):
    return lambda one: groups[one.id]


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
    gone, after = smallest_change(ranking_of(similarities, labels), k, weighting=weighting)
    usual = answer(similarities, labels, k, weighting)
    gone = [one.id for one in gone]
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
    ranking = ranking_of(similarities, labels)
    found = changed_answers(ranking, group_of(groups), k, weighting=weighting)
    assert found == wanted


def test_the_papers_count_lets_nobody_move_up():
    similarities = np.array([0.9, 0.8, 0.8, 0.8], dtype=np.float32)
    ranking = ranking_of(similarities, ["a", "b", "b", "b"])
    groups = group_of([1, 2, 3, 4])
    # Without 2, item 3 moves up and the answer stays; in the paper's count nobody is left but 1.
    exact = changed_answers(ranking, groups, 2, weighting="rank")
    paper = changed_answers(ranking, groups, 2, weighting="rank", protocol="paper")
    assert exact == {1: "b"}
    assert paper == {1: "b"}
    exact = changed_answers(ranking, groups, 1)
    paper = changed_answers(ranking, groups, 1, protocol="paper")
    assert (exact, paper) == ({1: "b"}, {1: None})


def test_a_ranking_looks_no_farther_than_it_must():
    asked = []
    voters = [Neighbor(at, "a", 1 - at / 1000, None) for at in range(1000)]

    def fetch(count):
        asked.append(count)
        return voters[:count]

    ranking = Ranking(fetch, expected=5)
    assert ranking.first(5) == voters[:5]
    assert asked == [5]
    assert [one.id for one in ranking.first(5, without=lambda one: one.id in {0, 2})] == [
        *(1, 3, 4, 5, 6)
    ]
    assert len(asked) == 2
    assert max(asked) <= 20
    assert ranking.first(2000) == voters


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_a_label_alone_leaves_nobody(weighting):
    similarities = np.array([0.5, 0.4, 0.3], dtype=np.float32)
    ranking = ranking_of(similarities, ["a"] * 3)
    gone, after = smallest_change(ranking, 2, weighting=weighting)
    assert ([one.id for one in gone], after) == ([0, 1, 2], None)


def test_nobody_can_change_no_answer():
    nobody = ranking_of([], [])
    assert smallest_change(nobody, 3) == ([], None)
    assert changed_answers(nobody, group_of([]), 3) == {}


@settings(max_examples=300)
@given(worlds(most=12), st.integers(6, 9), st.sampled_from(WEIGHTINGS))
def test_no_fewer_items_of_the_answers_own_label_change_it(world, k, weighting):
    similarities, labels = world
    gone, after = smallest_change(ranking_of(similarities, labels), k, weighting=weighting)
    usual = answer(similarities, labels, k, weighting)
    assert answer(similarities, labels, k, weighting, without=[one.id for one in gone]) == after
    assert {one.label for one in gone} == {usual}
    own = [at for at, label in enumerate(labels) if label == usual]
    for fewer in itertools.combinations(own, len(gone) - 1):
        assert answer(similarities, labels, k, weighting, without=fewer) == usual


def test_weighed_by_place_one_item_of_a_third_label_may_do_more():
    # So that nobody promises the fewest of all: without "c" in front, everybody moves up.
    places = "cb.b.b.a...abaaaaaa.a.aa.aaa.b.b"
    labels = [str(at) if one == "." else one for at, one in enumerate(places)]
    similarities = np.linspace(0.9, 0.5, len(labels), dtype=np.float32)
    gone, after = smallest_change(ranking_of(similarities, labels), 30, weighting="rank")
    assert (answer(similarities, labels, 30, "rank"), after, len(gone)) == ("a", "b", 2)
    assert answer(similarities, labels, 30, "rank", without=[0]) == "b"


def test_a_long_way_costs_one_vote_for_each_step(monkeypatch):
    asked = []
    voters = [Neighbor(at, "a", 1 - at / 10**6, None) for at in range(5000)]

    def fetch(count):
        asked.append(count)
        return voters[:count]

    gone, after = smallest_change(Ranking(fetch, expected=6), 5)
    assert (len(gone), after) == (5000, None)
    assert len(asked) < 20
