"""procmem.patchsim: the extension behind its checks agrees with the twins and refuses clearly."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from procmem import patchsim
from procmem.errors import InputError

Float32 = npt.NDArray[np.float32]
EPS = float(np.finfo(np.float32).eps)
property_test = settings(max_examples=60, deadline=None, derandomize=True)


def unit_rows(seed: int, rows: int, width: int) -> Float32:
    array = np.random.default_rng(seed).standard_normal((rows, width))
    array /= np.linalg.norm(array, axis=1, keepdims=True)
    return array.astype(np.float32)


@property_test
@given(
    st.integers(0, 20), st.integers(0, 90), st.integers(2, 50), st.integers(1, 100),
    st.integers(0, 2**32),
)  # fmt: skip
def test_top_k_finds_the_rows_of_the_twin(q: int, n: int, d: int, k: int, seed: int) -> None:
    queries, memory = unit_rows(seed, q, d), unit_rows(seed + 1, n, d)
    indices, similarities = patchsim.top_k(queries, memory, k)
    expected, expected_similarities = patchsim.top_k_reference(queries, memory, k)
    assert indices.shape == expected.shape == (q, min(k, n))
    # Unit rows: sum |q_d m_d| <= 1, so that a similarity is off by D eps at most.
    assert np.all(np.abs(similarities - expected_similarities) <= d * EPS)
    exact = queries.astype(np.float64) @ memory.astype(np.float64).T
    swapped = indices != expected
    gap = np.take_along_axis(exact, indices, 1) - np.take_along_axis(exact, expected, 1)
    assert np.all(np.abs(gap[swapped]) <= 2 * d * EPS)


@property_test
@given(
    st.integers(0, 20), st.integers(1, 90), st.integers(2, 50), st.integers(0, 40),
    st.floats(0.0, 50.0), st.integers(0, 2**32),
)  # fmt: skip
def test_mix_agrees_with_the_twin(q: int, n: int, d: int, v: int, scale: float, seed: int) -> None:
    queries, memory = unit_rows(seed, q, d), unit_rows(seed + 1, n, d)
    values = np.random.default_rng(seed + 2).random((n, v), dtype=np.float32)
    mixed = patchsim.mix(queries, memory, values, scale=scale)
    expected = patchsim.mix_reference(queries, memory, values, scale=scale)
    # Exponents are off by delta; values are in [0, 1]; sums in a block add n eps.
    delta = scale * (d + 2) * EPS + 4 * EPS
    assert mixed.shape == (q, v)
    assert np.all(np.abs(mixed - expected) <= np.expm1(2 * delta) + (n + 8) * EPS)


def test_the_twins_break_ties_by_the_smaller_index() -> None:
    memory = np.array([[1.0], [2.0], [2.0], [0.0], [2.0]], dtype=np.float32)
    for function in (patchsim.top_k, patchsim.top_k_reference):
        indices, similarities = function(np.ones((1, 1), np.float32), memory, 4)
        assert indices.tolist() == [[1, 2, 4, 0]]
        assert similarities.tolist() == [[2.0, 2.0, 2.0, 1.0]]


def test_k_beyond_the_memory_gives_all_rows_and_no_sentinel() -> None:
    memory = unit_rows(0, 3, 4)
    indices, similarities = patchsim.top_k(memory, memory, 2**62)
    assert sorted(indices[0].tolist()) == [0, 1, 2]
    assert similarities.shape == (3, 3)


def test_empty_queries_and_empty_memories_give_empty_answers() -> None:
    rows = unit_rows(0, 3, 4)
    assert patchsim.top_k(rows[:0], rows, 2)[0].shape == (0, 2)
    assert patchsim.top_k(rows, rows[:0], 2)[1].shape == (3, 0)
    assert patchsim.mix(rows[:0], rows, rows, scale=1.0).shape == (0, 4)


def test_arguments_are_left_as_they_were() -> None:
    queries, memory = unit_rows(0, 5, 7), unit_rows(1, 40, 7)
    before = queries.tobytes(), memory.tobytes()
    patchsim.top_k(queries, memory, 3)
    patchsim.mix(queries, memory, memory, scale=2.0)
    assert (queries.tobytes(), memory.tobytes()) == before


def test_read_only_arrays_are_accepted() -> None:
    memory = unit_rows(0, 5, 7)
    memory.flags.writeable = False
    assert patchsim.top_k(memory, memory, 1)[0][:, 0].tolist() == [0, 1, 2, 3, 4]


def test_calls_from_several_threads_do_not_disturb_each_other() -> None:
    memory = unit_rows(0, 900, 32)
    expected = patchsim.top_k(memory, memory, 5)[0]
    found: list[npt.NDArray[np.int64]] = []

    def ask() -> None:
        for _ in range(5):
            found.append(patchsim.top_k(memory, memory, 5)[0])

    workers = [threading.Thread(target=ask) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(found) == 15
    assert all(np.array_equal(indices, expected) for indices in found)


ROWS = unit_rows(0, 4, 8)


@pytest.mark.parametrize(
    ("queries", "memory", "words"),
    [
        (ROWS.astype(np.float64), ROWS, "queries has dtype float64, wanted float32"),
        (ROWS, ROWS.T, "memory with shape (8, 4) is not C-contiguous"),
        (ROWS, ROWS[0], "memory has shape (8,), wanted 2 dimensions"),
        (ROWS, ROWS.tolist(), "memory is a list"),
        (ROWS, np.ones((4, 9), np.float32), "(4, 8) and memory (4, 9)"),
        (ROWS, np.full((4, 8), np.nan, np.float32), "memory has a value in row 0"),
    ],
)
def test_arrays_that_do_not_fit_are_input_errors(queries: Any, memory: Any, words: str) -> None:
    with pytest.raises(InputError) as caught:
        patchsim.top_k(queries, memory, 1)
    assert words in str(caught.value)
    with pytest.raises(InputError) as caught:
        patchsim.mix(queries, memory, ROWS, scale=1.0)
    assert words in str(caught.value)


@pytest.mark.parametrize("k", [0, -5, 2.0, "3", None, True, 2**63])
def test_a_k_that_is_no_count_is_an_input_error(k: Any) -> None:
    with pytest.raises(InputError, match=r"^k is "):
        patchsim.top_k(ROWS, ROWS, k)


def test_numpy_integers_are_counts() -> None:
    assert patchsim.top_k(ROWS, ROWS, np.int32(2))[0].shape == (4, 2)


@pytest.mark.parametrize("threads", [-1, 1.5, False])
def test_threads_that_are_no_count_are_an_input_error(threads: Any) -> None:
    with pytest.raises(InputError, match=r"^threads is "):
        patchsim.top_k(ROWS, ROWS, 1, threads=threads)


@pytest.mark.parametrize("scale", [np.nan, np.inf, 1e39, "1", None, True])
def test_a_scale_that_is_no_finite_number_is_an_input_error(scale: Any) -> None:
    with pytest.raises(InputError, match=r"^scale is "):
        patchsim.mix(ROWS, ROWS, ROWS, scale=scale)


def test_scaled_rows_and_listed_ones_answer_to_the_bit_as_their_copies() -> None:
    random = np.random.default_rng(0)
    queries, halves = unit_rows(1, 3, 24), unit_rows(2, 90, 24).astype(np.float16)
    scales = random.uniform(0.5, 2.0, 90).astype(np.float32)
    wide = halves.astype(np.float32) * scales[:, None]
    listed = np.flatnonzero(random.random(90) < 0.3)
    for rows, copies in ((None, np.arange(90)), (listed, listed)):
        found, near = patchsim.top_k(queries, halves, 7, rows=rows, scales=scales)
        expected, similarities = patchsim.top_k(queries, np.ascontiguousarray(wide[copies]), 7)
        assert np.array_equal(found, copies[expected])
        assert np.array_equal(near.view(np.uint32), similarities.view(np.uint32))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_scale_must_be_finite_where_its_row_is_looked_at(bad: float) -> None:
    halves, scales = unit_rows(2, 9, 4).astype(np.float16), np.ones(9, np.float32)
    scales[5] = bad
    with pytest.raises(InputError, match=r"scales holds .* at 5"):
        patchsim.top_k(unit_rows(1, 1, 4), halves, 2, scales=scales)
    with pytest.raises(InputError, match=r"scales holds .* at 5"):
        patchsim.top_k(unit_rows(1, 1, 4), halves, 2, scales=scales, rows=np.array([2, 5]))
    others = np.array([0, 4, 6])
    found, _ = patchsim.top_k(unit_rows(1, 1, 4), halves, 2, scales=scales, rows=others)
    assert set(found[0].tolist()) <= set(others.tolist())


def test_mixing_nothing_is_an_input_error() -> None:
    with pytest.raises(InputError, match="nothing to mix"):
        patchsim.mix(ROWS, ROWS[:0], ROWS[:0], scale=1.0)


def test_a_forced_path_that_does_not_exist_is_an_input_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PROCMEM_ISA", "sse9")
    for call in (patchsim.isa, lambda: patchsim.top_k(ROWS, ROWS, 1)):
        with pytest.raises(InputError, match="PROCMEM_ISA is 'sse9', this processor can run: scal"):
            call()
