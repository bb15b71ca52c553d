"""The extension itself: every compiled path against its twin, its bits, and what it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from procmem import _patchsim
from procmem.patchsim import mix_reference, top_k_reference

Float32 = npt.NDArray[np.float32]
ISAS = _patchsim.available_isas()
EPS = float(np.finfo(np.float32).eps)

every_isa = pytest.mark.parametrize("isa", ISAS)
property_test = settings(max_examples=40, deadline=None, derandomize=True)
# Around the tile (1, 4, 5, 6, 14) and panel (8, 16, 32) sizes of all paths, and their remainders.
query_counts = st.sampled_from([0, 1, 2, 3, 4, 5, 6, 7, 13, 14, 15, 20, 29])
row_counts = st.sampled_from([0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 65, 130])
widths = st.sampled_from([1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 64, 70])


def matrix(seed: int, rows: int, columns: int) -> Float32:
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)


def all_products(queries: Float32, memory: Float32, isa: str, threads: int = 1) -> Float32:
    """Every similarity, (Q, N), as the kernel gives it with k = N."""
    indices, similarities = _patchsim.topk(queries, memory, len(memory), threads, isa=isa)
    products = np.empty_like(similarities)
    np.put_along_axis(products, indices, similarities, axis=1)
    return products


def product_bound(queries: Float32, memory: Float32) -> npt.NDArray[np.float64]:
    """|error| of a float32 dot product: D eps sum |q_d m_d| (Higham, section 3.1; eps = 2u)."""
    magnitudes = np.abs(queries).astype(np.float64) @ np.abs(memory).astype(np.float64).T
    return np.asarray(queries.shape[1] * EPS * magnitudes + 1e-37)


@every_isa
@property_test
@given(query_counts, row_counts, widths, st.integers(1, 40), st.integers(0, 2**32))
def test_topk_of_distinct_rows_is_within_rounding_of_the_twin(
    isa: str, q: int, n: int, d: int, k: int, seed: int
) -> None:
    queries, memory = matrix(seed, q, d), matrix(seed + 1, n, d)
    indices, similarities = _patchsim.topk(queries, memory, k, 2, isa=isa)
    assert indices.shape == similarities.shape == (q, min(k, n))
    assert indices.dtype == np.int64
    assert similarities.dtype == np.float32
    if q == 0 or n == 0:
        return
    exact = queries.astype(np.float64) @ memory.astype(np.float64).T
    bound = product_bound(queries, memory)
    chosen = np.take_along_axis(exact, indices, axis=1)
    tolerance = np.take_along_axis(bound, indices, axis=1)
    assert np.all(np.abs(similarities - chosen) <= tolerance)
    # Rank by rank the chosen similarity is the true one, although near ties may swap their rows.
    ranked = -np.sort(-exact, axis=1)[:, : min(k, n)]
    assert np.all(np.abs(ranked - chosen) <= 2 * bound.max(axis=1, keepdims=True))
    assert all(len(set(row)) == len(row) for row in indices.tolist())


@every_isa
@property_test
@given(query_counts, row_counts, st.integers(1, 40), st.integers(1, 3), st.integers(0, 2**32))
def test_ties_go_to_the_smaller_index(
    isa: str, q: int, n: int, k: int, threads: int, seed: int
) -> None:
    # Small integers: products are exact in float32, and most of them are equal to another.
    rng = np.random.default_rng(seed)
    queries = rng.integers(-1, 2, (q, 3)).astype(np.float32)
    memory = rng.integers(-1, 2, (n, 3)).astype(np.float32)
    indices, similarities = _patchsim.topk(queries, memory, k, threads, isa=isa)
    products = queries.astype(np.int64) @ memory.astype(np.int64).T
    order = np.argsort(-products, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(indices, order)
    np.testing.assert_array_equal(similarities, np.take_along_axis(products, order, axis=1))


@every_isa
def test_ties_across_blocks_and_threads_go_to_the_smaller_index(isa: str) -> None:
    memory = np.ones((6000, 64), dtype=np.float32)  # several blocks: one holds 1024 rows at most
    for threads in (1, 2, 5):
        indices, _ = _patchsim.topk(memory[:7], memory, 9, threads, isa=isa)
        np.testing.assert_array_equal(indices, np.tile(np.arange(9), (7, 1)))


@every_isa
@property_test
@given(st.integers(1, 29), st.integers(1, 130), widths, st.integers(0, 2**32))
def test_a_product_is_one_chain_of_sums_in_the_order_of_the_width(
    isa: str, q: int, n: int, d: int, seed: int
) -> None:
    # 11-bit numbers times powers of two: their products are exact in float32, so that a fused and
    # an unfused chain agree to the bit, while any other order of the sums rounds differently.
    rng = np.random.default_rng(seed)
    queries = np.ldexp(rng.integers(-2000, 2001, (q, d)), rng.integers(-6, 7, (q, d)))
    memory = np.ldexp(rng.integers(-2000, 2001, (n, d)), rng.integers(-6, 7, (n, d)))
    queries, memory = queries.astype(np.float32), memory.astype(np.float32)
    chain = np.zeros((q, n), dtype=np.float32)
    for column in range(d):
        chain += queries[:, column, None] * memory[:, column]
    np.testing.assert_array_equal(all_products(queries, memory, isa), chain)


@every_isa
@property_test
@given(st.integers(1, 29), st.integers(1, 130), widths, st.integers(1, 4), st.integers(0, 2**32))
def test_a_product_keeps_its_bits_wherever_its_rows_stand(
    isa: str, q: int, n: int, d: int, threads: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    queries, memory = matrix(seed, q, d), matrix(seed + 1, n, d)
    whole = all_products(queries, memory, isa).view(np.uint32)

    row_order, query_order = rng.permutation(n), rng.permutation(q)
    kept_rows = np.sort(rng.permutation(n)[: rng.integers(1, n + 1)])
    kept_queries = np.sort(rng.permutation(q)[: rng.integers(1, q + 1)])
    permuted = all_products(queries[query_order], memory[row_order], isa, threads)
    truncated = all_products(queries[kept_queries], memory[kept_rows], isa, threads)
    np.testing.assert_array_equal(permuted.view(np.uint32), whole[np.ix_(query_order, row_order)])
    np.testing.assert_array_equal(truncated.view(np.uint32), whole[np.ix_(kept_queries, kept_rows)])


@every_isa
def test_a_product_keeps_its_bits_in_a_memory_of_many_blocks(isa: str) -> None:
    queries, memory = matrix(0, 15, 97), matrix(1, 5000, 97)
    whole = all_products(queries, memory, isa, 2).view(np.uint32)
    for start, stop in ((0, 1), (1023, 1025), (677, 4321), (4999, 5000)):
        part = all_products(queries[3:4], np.ascontiguousarray(memory[start:stop]), isa)
        np.testing.assert_array_equal(part.view(np.uint32), whole[3:4, start:stop])


@every_isa
def test_a_product_is_symmetric_to_the_bit(isa: str) -> None:
    a, b = matrix(0, 21, 51), matrix(1, 37, 51)
    np.testing.assert_array_equal(
        all_products(a, b, isa).view(np.uint32), all_products(b, a, isa).view(np.uint32).T
    )


@pytest.mark.skipif("avx512" not in ISAS, reason="this processor has no AVX-512")
def test_avx2_and_avx512_give_equal_bits() -> None:
    a, b = matrix(0, 31, 133), matrix(1, 300, 133)
    np.testing.assert_array_equal(
        all_products(a, b, "avx2").view(np.uint32), all_products(a, b, "avx512").view(np.uint32)
    )


@every_isa
def test_threads_and_groups_of_queries_do_not_show_in_the_result(isa: str) -> None:
    queries, memory = matrix(0, 1100, 16), matrix(1, 3000, 16)  # more than one group of 1024
    expected = _patchsim.topk(queries, memory, 10, 1, isa=isa)
    for threads in (0, 2, 3, 7):
        found = _patchsim.topk(queries, memory, 10, threads, isa=isa)
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1].view(np.uint32), expected[1].view(np.uint32))


@every_isa
def test_removing_a_row_leaves_the_answers_of_a_memory_that_never_held_it(isa: str) -> None:
    queries, memory = matrix(0, 9, 48), matrix(1, 2500, 48)
    gone = 1200
    before, similarity_before = _patchsim.topk(queries, memory, 2500, 2, isa=isa)
    survivors = np.ascontiguousarray(np.delete(memory, gone, axis=0))
    after, similarity_after = _patchsim.topk(queries, survivors, 2500, 2, isa=isa)
    renumbered = after + (after >= gone)
    np.testing.assert_array_equal(renumbered, before[before != gone].reshape(9, -1))
    np.testing.assert_array_equal(
        similarity_after, similarity_before[before != gone].reshape(9, -1)
    )


@every_isa
@property_test
@given(
    query_counts, st.integers(1, 130), widths, st.sampled_from([0, 1, 3, 16, 31, 32, 33, 70]),
    st.sampled_from([-3.0, 0.0, 0.1, 1.0, 20.0]), st.integers(0, 2**32),
)  # fmt: skip
def test_mix_is_within_rounding_of_the_twin(
    isa: str, q: int, n: int, d: int, v: int, scale: float, seed: int
) -> None:
    queries, memory, values = matrix(seed, q, d), matrix(seed + 1, n, d), matrix(seed + 2, n, v)
    mixed = _patchsim.mix(queries, memory, values, scale, 2, isa=isa)
    assert mixed.shape == (q, v)
    assert mixed.dtype == np.float32
    check_mix(mixed, queries, memory, values, scale)


def check_mix(
    mixed: Float32, queries: Float32, memory: Float32, values: Float32, scale: float
) -> None:
    """Errors of the exponents move each weight by e^(2 delta) - 1; exp and the sums add N eps."""
    if mixed.size == 0:
        return
    products = np.abs(queries.astype(np.float64)) @ np.abs(memory.astype(np.float64)).T
    # delta: the product's own error, two more roundings of the score, and exp's 4 eps.
    delta = abs(scale) * (product_bound(queries, memory) + 2 * EPS * products).max() + 4 * EPS
    relative = np.expm1(2 * delta) + (min(len(memory), 1024) + 8) * EPS
    expected = mix_reference(queries, memory, values, scale=scale)
    assert np.abs(mixed - expected).max() <= relative * np.abs(values).max()


@every_isa
def test_mix_over_many_blocks_follows_the_twin(isa: str) -> None:
    queries, memory, values = matrix(0, 17, 24), matrix(1, 5000, 24), matrix(2, 5000, 40)
    # Ascending length: the running maximum has to move in every block.
    memory *= np.linspace(0.1, 2.0, 5000, dtype=np.float32)[:, None]
    mixed = _patchsim.mix(queries, memory, values, 1.0, 2, isa=isa)
    check_mix(mixed, queries, memory, values, 1.0)


@every_isa
def test_mix_has_the_same_bits_for_any_thread_count_and_any_company_of_queries(isa: str) -> None:
    queries, memory, values = matrix(0, 60, 40), matrix(1, 3000, 40), matrix(2, 3000, 33)
    expected = _patchsim.mix(queries, memory, values, 0.5, 1, isa=isa).view(np.uint32)
    for threads in (0, 2, 3, 9):
        mixed = _patchsim.mix(queries, memory, values, 0.5, threads, isa=isa)
        np.testing.assert_array_equal(mixed.view(np.uint32), expected)
    for query in (0, 13, 59):
        alone = _patchsim.mix(queries[query : query + 1], memory, values, 0.5, 2, isa=isa)
        np.testing.assert_array_equal(alone.view(np.uint32)[0], expected[query])


@every_isa
def test_mix_survives_scores_far_beyond_the_range_of_exp(isa: str) -> None:
    queries = np.array([[1000.0], [-1000.0]], dtype=np.float32)
    memory = np.array([[-1.0], [0.5], [1.0]], dtype=np.float32)
    values = np.array([[10.0, 0.0], [20.0, 0.0], [30.0, 1.0]], dtype=np.float32)
    mixed = _patchsim.mix(queries, memory, values, 100.0, 1, isa=isa)
    np.testing.assert_array_equal(mixed, [[30.0, 1.0], [10.0, 0.0]])


@every_isa
def test_mix_of_one_value_is_that_value(isa: str) -> None:
    queries, memory = matrix(0, 5, 8), matrix(1, 700, 8)
    values = np.full((700, 3), 0.25, dtype=np.float32)
    mixed = _patchsim.mix(queries, memory, values, 1.0, 1, isa=isa)
    assert np.abs(mixed - 0.25).max() <= 1024 * EPS * 0.25  # a block sums 1024 terms at most


def int8_matrix(seed: int, rows: int, columns: int) -> npt.NDArray[np.int8]:
    return np.random.default_rng(seed).integers(-128, 128, (rows, columns)).astype(np.int8)


@every_isa
@property_test
@given(
    query_counts, row_counts, widths, st.integers(1, 40), st.integers(1, 3), st.booleans(),
    st.integers(0, 2**32),
)  # fmt: skip
def test_int8_is_exact_and_equal_on_every_path(
    isa: str, q: int, n: int, d: int, k: int, threads: int, all_kept: bool, seed: int
) -> None:
    queries, memory = int8_matrix(seed, q, d), int8_matrix(seed + 1, n, d)
    keep = None if all_kept else np.random.default_rng(seed).random(n) < 0.6
    indices, similarities = _patchsim.topk(queries, memory, k, threads, keep=keep, isa=isa)
    expected, expected_similarities = top_k_reference(queries, memory, k, keep=keep)
    np.testing.assert_array_equal(indices, expected)
    np.testing.assert_array_equal(similarities, expected_similarities)
    assert similarities.dtype == np.int32


@every_isa
def test_int8_over_many_blocks_and_groups_is_exact(isa: str) -> None:
    queries, memory = int8_matrix(0, 1100, 12), int8_matrix(1, 5000, 12)
    keep = np.random.default_rng(2).random(5000) < 0.7
    expected = top_k_reference(queries, memory, 30, keep=keep)
    for threads in (1, 2, 5):
        found = _patchsim.topk(queries, memory, 30, threads, keep=keep, isa=isa)
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])


@every_isa
@property_test
@given(query_counts, row_counts, widths, st.integers(1, 40), st.integers(0, 2**32))
def test_float16_rows_answer_as_their_float32_copies(
    isa: str, q: int, n: int, d: int, k: int, seed: int
) -> None:
    queries, memory = matrix(seed, q, d), matrix(seed + 1, n, d).astype(np.float16)
    found = _patchsim.topk(queries, memory, k, 2, isa=isa)
    expected = _patchsim.topk(queries, memory.astype(np.float32), k, 2, isa=isa)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1].view(np.uint32), expected[1].view(np.uint32))


@every_isa
def test_every_finite_float16_is_widened_exactly(isa: str) -> None:
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    halves = np.ascontiguousarray(halves[np.isfinite(halves)])[:, None]
    products = all_products(np.ones((1, 1), np.float32), halves, isa)
    np.testing.assert_array_equal(products[0], halves[:, 0].astype(np.float32))


@every_isa
@property_test
@given(
    query_counts, row_counts, widths, st.sampled_from([0.0, 0.02, 0.5, 0.98, 1.0]),
    st.sampled_from([np.float32, np.float16]), st.integers(1, 3), st.integers(0, 2**32),
)  # fmt: skip
def test_a_row_that_is_left_out_leaves_the_answers_of_a_memory_that_never_held_it(
    isa: str, q: int, n: int, d: int, share: float, kind: type, threads: int, seed: int
) -> None:
    queries, memory = matrix(seed, q, d), matrix(seed + 1, n, d).astype(kind)
    keep = np.random.default_rng(seed).random(n) < share
    survivors = np.flatnonzero(keep)
    found = _patchsim.topk(queries, memory, 9, threads, keep=keep, isa=isa)
    expected = _patchsim.topk(queries, memory[keep], 9, 1, isa=isa)
    np.testing.assert_array_equal(found[0], survivors[expected[0]])
    np.testing.assert_array_equal(found[1].view(np.uint32), expected[1].view(np.uint32))
    if len(survivors) > 0:
        values = matrix(seed + 2, n, 5)
        mixed = _patchsim.mix(queries, memory, values, 1.5, threads, keep=keep, isa=isa)
        alone = _patchsim.mix(queries, memory[keep], values[keep], 1.5, 1, isa=isa)
        np.testing.assert_array_equal(mixed.view(np.uint32), alone.view(np.uint32))


@every_isa
def test_leaving_rows_out_of_many_blocks_does_not_show_either(isa: str) -> None:
    queries, memory, values = matrix(0, 33, 24), matrix(1, 7000, 24), matrix(2, 7000, 3)
    keep = np.ones(7000, dtype=np.bool_)
    keep[700:2900] = False  # whole blocks
    keep[5000:6000:3] = False
    survivors = np.flatnonzero(keep)
    expected = _patchsim.topk(queries, memory[keep], 15, 1, isa=isa)
    alone = _patchsim.mix(queries, memory[keep], values[keep], 1.0, 1, isa=isa)
    for threads in (1, 2, 5):
        found = _patchsim.topk(queries, memory, 15, threads, keep=keep, isa=isa)
        np.testing.assert_array_equal(found[0], survivors[expected[0]])
        np.testing.assert_array_equal(found[1].view(np.uint32), expected[1].view(np.uint32))
        mixed = _patchsim.mix(queries, memory, values, 1.0, threads, keep=keep, isa=isa)
        np.testing.assert_array_equal(mixed.view(np.uint32), alone.view(np.uint32))


@every_isa
@property_test
@given(query_counts, st.integers(1, 130), widths, st.integers(0, 2**32))
def test_mix_of_narrow_rows_answers_as_that_of_their_float32_copies(
    isa: str, q: int, n: int, d: int, seed: int
) -> None:
    queries, values = matrix(seed, q, d), matrix(seed + 2, n, 7)
    for memory in (matrix(seed + 1, n, d).astype(np.float16), int8_matrix(seed + 1, n, d)):
        mixed = _patchsim.mix(queries, memory, values, 0.01, 2, isa=isa)
        wide = _patchsim.mix(queries, memory.astype(np.float32), values, 0.01, 1, isa=isa)
        np.testing.assert_array_equal(mixed.view(np.uint32), wide.view(np.uint32))


def test_a_memory_mapped_file_is_read_as_it_is(tmp_path: Path) -> None:
    for memory in (matrix(0, 300, 9), matrix(0, 300, 9).astype(np.float16), int8_matrix(0, 300, 9)):
        queries = memory[:4] if memory.dtype == np.int8 else memory[:4].astype(np.float32)
        memory.tofile(tmp_path / "rows")
        mapped = np.memmap(tmp_path / "rows", dtype=memory.dtype, mode="r", shape=memory.shape)
        found, expected = _patchsim.topk(queries, mapped, 5), _patchsim.topk(queries, memory, 5)
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])


GOOD = matrix(0, 4, 8)
ODD_BYTES = np.frombuffer(b"\0" + GOOD.tobytes(), dtype=np.uint8)[1:]
NAN, INFINITE = GOOD.copy(), GOOD.copy()
NAN[2, 5], INFINITE[3, 0] = np.nan, -np.inf


@pytest.mark.parametrize("name", ["queries", "memory", "values"])
@pytest.mark.parametrize(
    ("bad", "error", "words"),
    [
        ([[1.0]], TypeError, "list, wanted a 2-D float32"),
        (GOOD.astype(np.float64), TypeError, "dtype float64, wanted float32"),
        (GOOD.astype(np.int16), TypeError, "dtype int16, wanted float32"),
        (GOOD.astype(">f4"), TypeError, "dtype >f4, wanted float32"),
        (GOOD[0], ValueError, r"shape \(8,\), wanted 2 dimensions"),
        (GOOD[None], ValueError, r"shape \(1, 4, 8\), wanted 2 dimensions"),
        (np.asfortranarray(GOOD), ValueError, "not C-contiguous"),
        (matrix(0, 8, 8)[::2], ValueError, "not C-contiguous"),
        (ODD_BYTES.view(np.float32).reshape(4, 8), ValueError, "not aligned"),
        (NAN, ValueError, "in row 2 that is not finite"),
        (INFINITE, ValueError, "in row 3 that is not finite"),
    ],
)
def test_an_array_that_would_need_conversion_is_refused_by_name(
    name: str, bad: object, error: type[Exception], words: str
) -> None:
    arrays: dict[str, object] = {"queries": GOOD, "memory": GOOD, "values": GOOD, name: bad}
    with pytest.raises(error, match=f"^{name} .*{words}"):
        _patchsim.mix(*arrays.values(), 1.0)  # type: ignore[arg-type]  # wrong on purpose
    if name != "values":
        del arrays["values"]
        with pytest.raises(error, match=f"^{name} .*{words}"):
            _patchsim.topk(*arrays.values(), 2)  # type: ignore[arg-type]  # wrong on purpose


@every_isa
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_found_in_every_place(isa: str, bad: float) -> None:
    for row, column in ((0, 0), (37, 16), (64, 34), (69, 5), (31, 33)):
        memory = matrix(0, 70, 35)
        memory[row, column] = bad
        with pytest.raises(ValueError, match=f"^memory has a value in row {row} "):
            _patchsim.topk(memory[:2] * 0 if row > 1 else matrix(1, 2, 35), memory, 3, isa=isa)


def test_products_that_could_overflow_are_refused() -> None:
    large = np.full((2, 4), 1e19, dtype=np.float32)
    with pytest.raises(ValueError, match="normalize the rows"):
        _patchsim.topk(large, large, 1)
    with pytest.raises(ValueError, match="at scale 1000"):
        _patchsim.mix(large, np.full((2, 4), 1e17, np.float32), GOOD[:2], 1000.0)
    with pytest.raises(ValueError, match="scale them down"):
        _patchsim.mix(GOOD, GOOD, np.full((4, 1), 1e38, np.float32), 1.0)


@pytest.mark.parametrize(
    ("queries", "memory", "words"),
    [
        (GOOD.astype(np.float16), GOOD, "queries has dtype float16, wanted float32 or int8"),
        (GOOD.astype(np.int8), GOOD, "memory has dtype float32, wanted int8"),
        (GOOD, GOOD.astype(np.int8), "memory has dtype int8, wanted float32 or float16"),
    ],
)
def test_elements_that_do_not_go_together_are_refused(
    queries: Any, memory: Any, words: str
) -> None:
    with pytest.raises(TypeError, match=words):
        _patchsim.topk(queries, memory, 1)


def test_int8_rows_whose_sums_could_overflow_are_refused() -> None:
    widest = np.full((1, 65_536), -128, dtype=np.int8)
    for isa in ISAS:
        assert _patchsim.topk(widest, widest, 1, isa=isa)[1].tolist() == [[2**30]]
    wider = np.zeros((1, 65_537), dtype=np.int8)
    with pytest.raises(ValueError, match="at most 65536"):
        _patchsim.topk(wider, wider, 1)


@pytest.mark.parametrize(
    ("keep", "error", "words"),
    [
        ([True] * 4, TypeError, "keep is a list, wanted None or bool of shape \\(4,\\)"),
        (np.ones(4, np.uint8), TypeError, "keep has dtype uint8"),
        (np.ones(3, np.bool_), ValueError, "keep has shape \\(3,\\), wanted bool of shape \\(4,"),
        (np.ones((4, 1), np.bool_), ValueError, "keep has shape \\(4, 1\\)"),
        (np.ones(8, np.bool_)[::2], ValueError, "C-contiguous"),
        (np.full(4, 2, np.uint8).view(np.bool_), ValueError, "keep holds the byte 2"),
    ],
)
def test_flags_that_do_not_fit_are_refused(keep: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        _patchsim.topk(GOOD, GOOD, 1, keep=keep)
    with pytest.raises(error, match=words):
        _patchsim.mix(GOOD, GOOD, GOOD, 1.0, keep=keep)


def test_mixing_nothing_that_is_kept_is_refused() -> None:
    with pytest.raises(ValueError, match="0 kept rows; wanted at least 1"):
        _patchsim.mix(GOOD, GOOD, GOOD, 1.0, keep=np.zeros(4, np.bool_))


def test_asking_for_rows_when_none_is_kept_gives_none() -> None:
    indices, similarities = _patchsim.topk(GOOD, GOOD, 3, keep=np.zeros(4, np.bool_))
    assert indices.shape == similarities.shape == (4, 0)


@every_isa
def test_a_row_that_is_left_out_is_not_even_looked_at(isa: str) -> None:
    memory = GOOD.copy()
    memory[2] = np.nan
    keep = np.array([True, True, False, True])
    for stored in (memory, memory.astype(np.float16)):
        assert 2 not in _patchsim.topk(GOOD, stored, 4, keep=keep, isa=isa)[0]
        assert np.isfinite(_patchsim.mix(GOOD, stored, memory, 1.0, keep=keep, isa=isa)).all()
        with pytest.raises(ValueError, match=r"^memory has a value in row 2"):
            _patchsim.topk(GOOD, stored, 4, isa=isa)
        with pytest.raises(ValueError, match=r"^memory has a value in row 2"):
            _patchsim.mix(GOOD, stored, GOOD, 1.0, isa=isa)


@pytest.mark.parametrize("k", [0, -1])
def test_k_below_one_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match=f"k is {k}, wanted at least 1"):
        _patchsim.topk(GOOD, GOOD, k)


def test_negative_threads_are_refused() -> None:
    with pytest.raises(ValueError, match="threads is -1, wanted 0"):
        _patchsim.topk(GOOD, GOOD, 1, -1)


def test_widths_that_differ_are_refused_with_both_shapes() -> None:
    with pytest.raises(ValueError, match=r"\(4, 8\) and memory \(4, 7\)"):
        _patchsim.topk(GOOD, matrix(0, 4, 7), 1)


def test_a_width_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="width of at least 1"):
        _patchsim.topk(GOOD[:, :0].copy(), GOOD[:, :0].copy(), 1)


def test_values_for_another_memory_are_refused_with_both_shapes() -> None:
    with pytest.raises(ValueError, match=r"\(3, 8\) and memory \(4, 8\)"):
        _patchsim.mix(GOOD, GOOD, GOOD[:3], 1.0)


def test_mixing_an_empty_memory_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 row"):
        _patchsim.mix(GOOD, GOOD[:0], GOOD[:0], 1.0)


@pytest.mark.parametrize("scale", [np.nan, np.inf, 1e300])
def test_a_scale_that_is_not_a_finite_float32_is_refused(scale: float) -> None:
    with pytest.raises(ValueError, match=r"scale is .* finite float32"):
        _patchsim.mix(GOOD, GOOD, GOOD, scale)


def test_the_fastest_path_is_used_unless_another_is_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROCMEM_ISA", raising=False)
    assert _patchsim.isa() == ISAS[-1]
    for name in ISAS:
        monkeypatch.setenv("PROCMEM_ISA", name)
        assert _patchsim.isa() == name


def test_scalar_is_always_available() -> None:
    assert ISAS[0] == "scalar"


def test_an_unknown_path_is_refused_with_those_that_are_possible(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PROCMEM_ISA", "AVX2")
    with pytest.raises(ValueError, match=f"PROCMEM_ISA is 'AVX2', .* run: {', '.join(ISAS)};"):
        _patchsim.isa()
    with pytest.raises(ValueError, match="isa is 'mmx'"):
        _patchsim.topk(GOOD, GOOD, 1, isa="mmx")


def test_the_environment_forces_the_path_of_a_new_process() -> None:
    script = "from procmem import _patchsim; print(_patchsim.isa())"
    environment = {**os.environ, "PROCMEM_ISA": "scalar", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "scalar"
