"""procmem.screen: whatever the rows and queries, its answers are those of a scan, to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from procmem import screen
from procmem.errors import InputError
from procmem.index import Index
from procmem.patchsim import top_k
from procmem.screen import ROWS_PER_QUERY, Screen

Float32 = npt.NDArray[np.float32]
property_test = settings(max_examples=60, deadline=None, derandomize=True)


def unit(rows: npt.NDArray[np.float64]) -> Float32:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.where(lengths == 0, 1, lengths)).astype(np.float32)


def rows_of(kind: str, seed: int, count: int, width: int) -> Float32:
    random = np.random.default_rng(seed)
    if kind == "equal":  # nothing can be ruled out
        return unit(np.repeat(random.standard_normal((3, width)), count // 3 + 1, axis=0)[:count])
    if kind == "one-hot":  # beyond what a byte stands for
        return np.eye(width, dtype=np.float32)[random.integers(width, size=count)]
    if kind == "zero":
        return unit(random.standard_normal((count, width)) * (random.random((count, 1)) < 0.5))
    if kind == "near":  # differences far below a step of the bytes
        center = random.standard_normal(width)
        return unit(center + 1e-4 * random.standard_normal((count, width)))
    return unit(random.standard_normal((count, width)))


def check(rows: Float32, queries: Float32, k: int, keep: npt.NDArray[np.bool_] | None) -> None:
    positions, similarities = Screen(rows).nearest(queries, rows, k, keep=keep)
    expected, expected_similarities = top_k(queries, rows, k, keep=keep)
    np.testing.assert_array_equal(positions, expected)
    np.testing.assert_array_equal(
        similarities.view(np.uint32), expected_similarities.view(np.uint32)
    )


@property_test
@given(
    st.sampled_from(["random", "equal", "one-hot", "zero", "near"]),
    st.integers(1, 5), st.integers(1, 12), st.sampled_from([1, 2, 16, 61, 384]),
    st.sampled_from([0.0, 0.01, 0.5, 1.0]), st.sampled_from([0.0, 0.1, 1.0, 1e6]),
    st.integers(0, 2**32),
)  # fmt: skip
def test_answers_are_those_of_a_scan(
    kind: str, q: int, k: int, width: int, share: float, noise: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    rows = rows_of(kind, seed, 2500, width)
    queries = rows[:q] + (noise * random.standard_normal((q, width))).astype(np.float32)
    check(rows, queries, k, None)
    check(rows, queries, k, random.random(len(rows)) < share)


def test_rows_that_round_to_equal_bytes_are_told_apart() -> None:
    # One step of a byte is 7 / sqrt(D) / 127; these rows differ by hundredths of it.
    random = np.random.default_rng(0)
    center = random.standard_normal(64)
    rows = unit(center + 1e-5 * random.standard_normal((4000, 64)))
    codes = Screen(rows).codes
    assert len(np.unique(codes, axis=0)) < 40
    check(rows, rows[:8], 5, None)


def test_the_bound_holds_for_the_worst_that_rounding_does() -> None:
    # Half a step off in every element, all on the side of the query's sign.
    width = 16
    step = screen._SPREADS / np.sqrt(width) / screen._LEVELS
    levels = np.random.default_rng(0).integers(-9, 10, (3000, width))
    signs = np.where(np.random.default_rng(1).random((3000, width)) < 0.5, -1, 1)
    rows = ((levels + 0.499 * signs) * step).astype(np.float32)
    keepers = np.linalg.norm(rows, axis=1) <= 1
    rows = np.ascontiguousarray(rows[keepers])
    assert len(rows) > 1000
    check(rows, unit(signs[:20].astype(np.float64)), 5, None)


def test_most_rows_of_an_ordinary_memory_are_ruled_out(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rows_of("random", 0, 20_000, 384)
    asked: list[int] = []

    def counted(queries: Float32, memory: Float32, k: int, **options: Any) -> object:
        asked.append(len(memory) if options.get("rows") is None else len(options["rows"]))
        return top_k(queries, memory, k, **options)  # type: ignore[call-overload]  # passes on

    whole = Screen(rows)
    monkeypatch.setattr(screen, "top_k", counted)
    whole.nearest(rows[:1], rows, 5)
    assert asked[0] == 20_000  # bytes
    assert max(asked[1:]) < 2000  # of the rows themselves


def test_a_changed_screen_is_the_screen_of_what_it_holds() -> None:
    rows = rows_of("random", 0, 3000, 32)
    changed = Screen(rows[::2].copy())
    changed.insert(np.arange(1, 1501), rows[1::2])
    gone = np.random.default_rng(0).random(3000) < 0.3
    changed.remove(gone)
    fresh = Screen(rows[~gone].copy())
    np.testing.assert_array_equal(changed.codes, fresh.codes)
    np.testing.assert_array_equal(changed._errors, fresh._errors)
    assert changed._worst == fresh._worst


def test_what_is_removed_is_overwritten() -> None:
    whole = Screen(rows_of("random", 0, 100, 32))
    left = whole.codes[50:].copy()
    held, errors = whole.codes, whole._errors
    whole.remove(np.arange(100) < 50)
    assert np.array_equal(held[:50], left)
    assert not held[50:].any()
    assert not errors[50:].any()


def test_an_index_answers_alike_with_and_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    vectors = rows_of("random", 0, 2 * ROWS_PER_QUERY + 500, 48).astype(np.float16)
    ids = random.permutation(10 * len(vectors))[: len(vectors)].astype(np.int64)
    queries = rows_of("random", 1, 2, 48)
    screened = Index(ids[:6200], vectors[:6200])
    screened.search(queries, 3)
    screened.add(ids[6200:], vectors[6200:])
    screened.remove(ids[100:140].tolist())
    left = ~np.isin(ids, ids[100:140])
    with monkeypatch.context() as patched:
        patched.setattr("procmem.index.ROWS_PER_QUERY", 10**9)
        plain = Index(ids[left], vectors[left])
        expected = plain.search(queries, 7)
    assert plain._screen is None
    found = screened.search(queries, 7)
    assert screened._screen is not None
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


def test_queries_that_are_not_finite_are_refused_as_by_a_scan() -> None:
    rows = rows_of("random", 0, 3000, 8)
    with pytest.raises(InputError, match="queries has a value in row 0"):
        Screen(rows).nearest(np.full((1, 8), np.nan, np.float32), rows, 1)


@pytest.mark.filterwarnings("error")
def test_a_query_beyond_all_bounds_is_answered_or_refused_as_by_a_scan() -> None:
    rows = rows_of("random", 0, 3000, 8)
    check(rows, np.full((1, 8), 1e25, np.float32), 3, None)
    with pytest.raises(InputError, match="normalize the rows"):
        Screen(rows).nearest(np.full((1, 8), 3e38, np.float32), rows, 1)
