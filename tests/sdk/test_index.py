"""The exact scan: against brute force, and as a pure function of the survivors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from procmem.errors import InputError
from procmem.index import Index

WIDTH = 24


def vectors_of(ids):
    """Float16 unit vectors, each a function of its id."""
    rows = [np.random.default_rng(int(id_)).standard_normal(WIDTH) for id_ in ids]
    rows = np.array(rows).reshape(-1, WIDTH)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


def index_of(ids):
    ids = np.array(ids, dtype=np.int64)
    return Index(ids, vectors_of(ids))


def unit_rows(ids):
    """The same, as long as they are meant to be."""
    wide = vectors_of(ids).astype(np.float64)
    return (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32)


QUERY = unit_rows([10**9])[0]


def test_search_finds_what_brute_force_finds():
    ids = np.arange(1, 200)
    found, similarities = index_of(ids).search(QUERY, 10)
    products = unit_rows(ids) @ QUERY
    order = np.argsort(-products)[:10]
    assert found.tolist() == ids[order].tolist()
    # Two float32 dot products of unit vectors differ by at most D * 2**-24 each.
    np.testing.assert_allclose(similarities, products[order], rtol=0, atol=2 * WIDTH * 2**-24)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 60), unique=True, max_size=30),
    st.lists(st.integers(61, 90), unique=True, max_size=15),
    st.randoms(use_true_random=False),
)
def test_answers_do_not_depend_on_history(survivors, visitors, random):
    everyone = survivors + visitors
    random.shuffle(everyone)
    cut = len(everyone) // 2
    lived = index_of(everyone[:cut])
    lived.add(np.array(everyone[cut:], dtype=np.int64), vectors_of(everyone[cut:]))
    lived.remove(visitors)
    fresh = index_of(sorted(survivors))
    for ours, theirs in zip(lived.search(QUERY, 40), fresh.search(QUERY, 40), strict=True):
        assert ours.tobytes() == theirs.tobytes()
    assert lived.nearest_others().tobytes() == fresh.nearest_others().tobytes()


def test_ties_are_broken_by_the_smaller_id():
    ids = np.array([7, 3, 5], dtype=np.int64)
    index = Index(ids, np.repeat(vectors_of([1]), 3, axis=0))
    assert index.search(QUERY, 3)[0].tolist() == [3, 5, 7]


def test_more_than_there_are_gives_all():
    ids, similarities = index_of([1, 2, 3]).search(QUERY, 100)
    assert ids.shape == similarities.shape == (3,)


def test_an_empty_index_finds_nothing():
    assert index_of([]).search(QUERY, 5)[0].shape == (0,)


def test_a_filter_hides_rows_as_if_they_were_not_there():
    ids = np.arange(1, 50)
    even = ids % 2 == 0
    filtered = index_of(ids).search(QUERY, 10, keep=even)
    alone = index_of(ids[even]).search(QUERY, 10)
    assert filtered[0].tolist() == alone[0].tolist()
    assert filtered[1].tobytes() == alone[1].tobytes()


def test_several_queries_get_the_answers_of_each():
    index = index_of(range(1, 30))
    queries = unit_rows([1001, 1002])
    ids, similarities = index.search(queries, 5)
    for at, query in enumerate(queries):
        one = index.search(query, 5)
        assert one[0].tolist() == ids[at].tolist()
        assert one[1].tobytes() == similarities[at].tobytes()


def test_removal_zeroes_the_arrays_in_memory():
    index = index_of(range(1, 10))
    gone = index._rows[3].tobytes()
    held = index._vector_rows._memory
    index.remove([4])
    assert index._vector_rows._memory is held
    assert gone not in held.tobytes()
    assert not held[len(index) :].any()


def test_nearest_others_are_the_leave_one_out_maxima():
    rows = unit_rows(range(1, 40))
    products = rows @ rows.T
    np.fill_diagonal(products, -np.inf)
    np.testing.assert_allclose(
        index_of(range(1, 40)).nearest_others(), products.max(axis=1), rtol=0, atol=1e-5
    )


def test_nearest_others_of_duplicates_is_one():
    ids = np.array([1, 2, 3], dtype=np.int64)
    index = Index(ids, np.repeat(vectors_of([1]), 3, axis=0))
    np.testing.assert_allclose(index.nearest_others(), 1.0, atol=1e-6)


def test_one_item_has_no_other():
    assert index_of([1]).nearest_others().shape == (0,)


@pytest.mark.parametrize("k", [0, -1, 1.5, "3", None, True])
def test_a_k_that_is_no_count_is_refused(k):
    with pytest.raises(InputError, match="k is"):
        index_of([1]).search(QUERY, k)


def test_a_query_of_another_width_is_refused():
    with pytest.raises(InputError, match="query has shape"):
        index_of([1]).search(QUERY[:-1], 1)
