import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from procmem.calibration import LEAST_ANSWERS, fit_reliability


def answers(count, *, seed=0):
    """Confidences whose answers are right with the confidence squared as their probability."""
    random = np.random.default_rng(seed)
    confidences = random.random(count)
    return confidences, random.random(count) < confidences**2


def test_the_staircase_finds_the_true_probability():
    reliability = fit_reliability(*answers(4000))
    for confidence in (0.2, 0.5, 0.8, 0.95):
        assert reliability.at(confidence) == pytest.approx(confidence**2, abs=0.08)


@given(st.lists(st.tuples(st.sampled_from(np.linspace(0, 1, 9)), st.booleans()), min_size=20))
def test_it_rises_and_never_promises_anything(pairs):
    reliability = fit_reliability(*zip(*pairs, strict=True))
    shares = [reliability.at(confidence) for confidence in np.linspace(-1, 2, 40)]
    assert all(0 < share < 1 for share in shares)
    assert shares == sorted(shares)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=20, max_size=60), st.randoms())
def test_the_order_of_the_answers_is_no_matter(pairs, random):
    first = fit_reliability(*zip(*pairs, strict=True))
    random.shuffle(pairs)
    second = fit_reliability(*zip(*pairs, strict=True))
    assert np.array_equal(first.starts, second.starts)
    assert np.array_equal(first.shares, second.shares)


def test_right_answers_of_low_confidence_are_pooled_with_wrong_ones_of_high():
    # Confidence tells nothing here: 10 right at 0.2, 10 wrong at 0.8.
    reliability = fit_reliability([0.2] * 10 + [0.8] * 10, [True] * 10 + [False] * 10)
    assert reliability.at(0.2) == reliability.at(0.8) == pytest.approx(0.5)


def test_few_answers_say_nothing():
    confidences, right = answers(LEAST_ANSWERS)
    assert fit_reliability(confidences[1:], right[1:]) is None
    assert fit_reliability(confidences, right) is not None
