"""procmem.signs and the index that uses it: fast, nearly exact, and a function of what is left."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.sdk.test_reasons import Model, image

from procmem import VisualMemory, _patchsim, index
from procmem.errors import InputError
from procmem.index import Index
from procmem.patchsim import (
    like_signs,
    like_signs_reference,
    nearest_by_signs,
    nearest_by_signs_reference,
    panels_of,
    sign_lines,
    sign_panels,
    top_k,
)
from procmem.screen import Screen
from procmem.signs import MAX_WIDTH, Signs

Float32 = npt.NDArray[np.float32]
WIDTH = 64


def vectors_of(ids: npt.ArrayLike, seed: int = 0) -> npt.NDArray[np.float16]:
    """(N, D) unit vectors around 20 centers, each of its id alone; every tenth is its twin's."""
    centers = np.random.default_rng(seed).normal(size=(20, WIDTH))
    rows = []
    for id_ in np.asarray(ids).tolist():
        random = np.random.default_rng([seed, id_ - id_ % 10 if id_ % 10 == 1 else id_])
        rows.append(centers[random.integers(20)] + random.normal(size=WIDTH))
    wide = np.array(rows).reshape(-1, WIDTH)
    unit: npt.NDArray[np.float16] = (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(
        np.float16
    )
    return unit


def index_of(ids: Any, kind: Any = "binary") -> Index:
    ids = np.array(ids, dtype=np.int64)
    return Index(ids, vectors_of(ids), kind)


QUERIES: Float32 = vectors_of(np.arange(40) + 10**9).astype(np.float32)
MANY = range(1, 4001)


@pytest.fixture(scope="module")
def large() -> Index:
    return index_of(MANY)


@pytest.fixture(scope="module")
def exact() -> Index:
    return index_of(MANY, "exact")


# ---- the kernel


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    st.integers(1, 3000), st.integers(1, 2200), st.sampled_from([0.0, 0.02, 0.5, 1.0, None]),
    st.integers(1, 400), st.integers(0, 2**32),
)  # fmt: skip
def test_every_path_finds_the_rows_of_like_signs(
    count: int, width: int, share: float | None, wanted: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    width = width if count < 200 else width % 500 + 1
    rows = random.standard_normal((count, width)).astype(np.float32)
    rows[random.integers(count, size=count // 2)] = rows[0]  # equal ones
    query = random.standard_normal(width).astype(np.float32)
    keep = None if share is None else random.random(count) < share
    arguments = (query, sign_panels(rows), count, wanted)
    expected = like_signs_reference(*arguments, keep=keep)
    for isa in _patchsim.available_isas():
        for threads in (1, 3):
            found = _patchsim.like_signs(*arguments, threads, keep=keep, isa=isa)
            np.testing.assert_array_equal(found, expected)


def looks_of(rows: npt.NDArray[np.float16]) -> dict[str, Any]:
    """What `nearest_by_signs` wants to know of rows that are 1 long as they are."""
    screen = Screen(rows, np.ones(len(rows), np.float32))
    return {"signs": sign_panels(rows), "codes": screen.codes, "unit": screen.unit}


@settings(max_examples=120, deadline=None, derandomize=True)
@given(
    st.integers(1, 3000), st.integers(1, 1000), st.sampled_from([0.02, 0.5, 1.0, None]),
    st.integers(1, 60), st.integers(0, 3000), st.sampled_from([0.0, 0.3, 3.0]), st.booleans(),
    st.integers(0, 2**32),
)  # fmt: skip
def test_every_path_finds_the_rows_of_nearest_by_signs(
    count: int, width: int, share: float | None, k: int, more: int, near: float, lies: bool,
    seed: int,
) -> None:  # fmt: skip
    """However near the rows are to the queries; also if bytes are not the rows', so that it shows
    which of them were looked at."""
    random = np.random.default_rng(seed)
    query = random.standard_normal((2, width)).astype(np.float32)
    wide = random.standard_normal((count, width)) + near * query[random.integers(2, size=count)]
    rows = (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float16)
    rows[random.integers(count, size=count // 4)] = rows[0]  # equal ones
    keep = None if share is None else random.random(count) < share
    if keep is not None:
        keep[random.integers(count)] = True
    query /= np.linalg.norm(query, axis=1, keepdims=True)
    query[1, seed % width :] = 0  # few elements, or none
    options = looks_of(rows) | {"likely": k + more, "keep": keep}
    if lies:
        options["codes"] = random.integers(-127, 128, rows.shape, dtype=np.int8)
    expected = nearest_by_signs_reference(query, rows, k, **options)
    arguments = [options[name] for name in ("signs", "codes", "unit", "likely")]
    for isa in _patchsim.available_isas():
        for threads in (1, 3):
            found, similarities = _patchsim.nearest_by_signs(
                query, rows, k, *arguments, threads, keep=keep, isa=isa
            )
            # Similarities within rounding may stand the other way round.
            np.testing.assert_array_equal(np.sort(found), np.sort(expected[0]))
            np.testing.assert_allclose(similarities, expected[1], atol=1e-5)
            exactly, _ = _patchsim.topk(query[:1], rows, k, rows=np.sort(found[0]), isa=isa)
            np.testing.assert_array_equal(found[:1], exactly)


def test_sums_that_fill_a_byte_do_not_overflow() -> None:
    """The first elements alone are large, so that each of them counts three; rows differ in more
    and more of them."""
    query = np.full(384, 0.01, dtype=np.float32)
    query[:120] = 1
    rows = np.tile(query, (121, 1))
    for row in range(121):
        rows[row, :row] = -1
    for isa in _patchsim.available_isas():
        for wanted in range(1, 122):
            found = _patchsim.like_signs(query, sign_panels(rows), 121, wanted, isa=isa)
            assert found.tolist() == list(range(wanted))


def test_many_rows_are_found_whatever_the_sample_says() -> None:
    """The near rows stand where the sample that sets the first limit does not look."""
    random = np.random.default_rng(0)
    rows = random.standard_normal((40_000, 64)).astype(np.float32)
    query = rows[0]
    for near in (slice(600, 3000), slice(0, 512)):
        other = rows.copy()
        other[near] = rows[0]
        arguments = (query, sign_panels(other), 40_000, 900)
        expected = like_signs_reference(*arguments)
        np.testing.assert_array_equal(like_signs(*arguments), expected)


def test_signs_are_one_bit_of_each_element() -> None:
    rows = np.random.default_rng(0).standard_normal((75, 20))
    panels = sign_panels(rows)
    np.testing.assert_array_equal(sign_panels(rows.astype(np.float16)), panels)
    assert panels.shape == (2, 3, 64)
    for row in range(128):
        for element in range(24):
            bit = int(panels[row // 64, element // 8, row % 64]) >> (element % 8) & 1
            assert bit == (row < 75 and element < 20 and bool(rows[row, element] > 0))


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 200])
@pytest.mark.parametrize("width", [1, 2, 48])
def test_panels_give_back_their_lines(count: int, width: int) -> None:
    lines = np.random.default_rng(0).integers(0, 256, (count, width), dtype=np.uint8)
    panels = panels_of(lines)
    assert panels.shape == (-(-count // 64), width, 64)
    np.testing.assert_array_equal(sign_lines(panels, count), lines)
    assert not sign_lines(panels, panels.shape[0] * 64)[count:].any()


@pytest.mark.parametrize(
    ("element", "count"),
    [(0.0, 0), (0.24, 0), (0.26, 1), (-0.74, 1), (0.76, 2), (1.24, 2), (-1.26, 3), (5.0, 3)],
)
def test_a_sign_counts_by_the_size_of_the_query_there(element: float, count: int) -> None:
    """Rows that differ in one sign only, where the query's element is, and in others of known size:
    the row is left out if it counts more than they do."""
    query = np.ones(64, dtype=np.float32)
    query[0], query[1:4] = element, [0.3, 0.8, 1.5]  # they count 1, 2 and 3
    query[4:] = np.sqrt((64 - element**2 - np.square(query[1:4]).sum()) / 60)  # mean square of 1
    rows = np.tile(query, (4, 1))
    for row in range(4):
        rows[row, row] = -query[row] if query[row] else 1
    for wanted in (1, 2, 3):
        found = like_signs(query, sign_panels(rows), 4, wanted)
        limit = sorted([count, 1, 2, 3])[wanted - 1]
        assert found.tolist() == [r for r, own in enumerate([count, 1, 2, 3]) if own <= limit]


QUERY = np.zeros(250, dtype=np.float32)
PANELS = np.zeros((3, 32, 64), dtype=np.uint8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": QUERY[:192]}, r"query has shape \(192,\), and rows have 32 bytes"),
        ({"query": [0, 0]}, "query is a list, wanted float32"),
        ({"query": QUERY.astype(np.float64)}, "query has dtype float64, wanted float32"),
        ({"query": QUERY.astype(">f4")}, "query has dtype >f4, wanted float32"),
        ({"query": np.zeros(500, np.float32)[::2]}, r"query has shape .*C-contiguous"),
        ({"query": QUERY + np.float32(np.nan)}, "query holds .*nan at 0, wanted finite numbers"),
        ({"memory": PANELS.astype(np.int64)}, "memory is int64 of shape"),
        ({"memory": PANELS.astype(np.int8)}, "memory is int8 of shape"),
        ({"memory": PANELS[0]}, "memory is uint8 of shape"),
        ({"memory": PANELS[:, :, :63]}, "memory is uint8 of shape"),
        ({"memory": PANELS.transpose(0, 2, 1)}, "memory is uint8 of shape"),
        ({"memory": PANELS[:, :0]}, "wanted 1 to 2730 bytes"),
        ({"memory": np.zeros((3, 2731, 64), dtype=np.uint8)}, "wanted 1 to 2730 bytes"),
        ({"memory": "panels"}, "memory is a str"),
        ({"count": 193}, "there are 193 rows and memory has shape"),
        ({"count": 128}, "one panel for every 64 rows"),
        ({"count": True}, "count is True, wanted a whole number"),
        ({"wanted": 0}, "wanted is 0"),
        ({"threads": -1}, "threads is -1"),
        ({"keep": np.ones(3, np.bool_)}, "keep has shape"),
    ],
)
def test_wrong_arguments_are_told(change: dict[str, Any], message: str) -> None:
    arguments = {
        "query": QUERY, "memory": PANELS, "count": 150, "wanted": 5, "threads": 0,
    } | change  # fmt: skip
    keep = arguments.pop("keep", None)
    threads = arguments.pop("threads")
    with pytest.raises(InputError, match=message):
        like_signs(**arguments, keep=keep, threads=threads)


ROWS = np.ones((150, 250), dtype=np.float16) / np.float16(16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queries": QUERY}, r"queries has shape \(250,\), wanted 2 dimensions"),
        ({"queries": np.zeros((1, 9), np.float32)}, r"shape \(1, 9\) and rows \(150, 250\)"),
        ({"queries": np.full((2, 250), np.nan, np.float32)}, "queries has a value in row 0 that"),
        ({"rows": ROWS.astype(np.float32)}, "rows has dtype float32, wanted float16"),
        ({"rows": ROWS[:128]}, "one panel for every 64 rows"),
        ({"rows": ROWS * np.float16(np.inf)}, "rows has a value in row 0 that is not finite"),
        ({"signs": PANELS[:, :31].copy()}, "their signs 31 bytes; wanted one for every 8 elements"),
        ({"signs": "panels"}, "signs is a str"),
        ({"codes": np.zeros((150, 249), np.int8)}, r"codes have shape \(150, 249\) and rows"),
        ({"codes": np.zeros((150, 250), np.uint8)}, "codes has dtype uint8, wanted int8"),
        ({"unit": 0.0}, "unit is 0.000000, wanted a number above 0"),
        ({"unit": float("nan")}, "unit is nan, wanted a number above 0"),
        ({"unit": "small"}, "unit is 'small', wanted a number"),
        ({"k": 0}, "k is 0 and likely is 20; wanted 1 <= k <= likely"),
        ({"k": 21}, "k is 21 and likely is 20"),
        ({"likely": 2.5}, "likely is 2.5, wanted a whole number"),
        ({"scales": np.ones(149, np.float32)}, "scales has shape"),
        ({"scales": np.full(150, np.nan, np.float32)}, "scales has a value in row 0 that is not"),
        ({"keep": np.ones(3, np.bool_)}, "keep has shape"),
        ({"threads": -1}, "threads is -1"),
    ],
)
def test_wrong_arguments_of_nearest_by_signs_are_told(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {
        "queries": np.ones((1, 250), np.float32), "rows": ROWS, "k": 3, "signs": PANELS,
        "codes": np.zeros((150, 250), np.int8), "unit": 0.01, "likely": 20,
    } | change  # fmt: skip
    with pytest.raises(InputError, match=message):
        nearest_by_signs(**arguments)


def test_no_queries_and_no_kept_rows_give_nothing() -> None:
    looks: dict[str, Any] = {"signs": PANELS, "codes": np.zeros((150, 250), np.int8), "unit": 0.01}
    none = np.empty((0, 250), np.float32)
    found, similarities = nearest_by_signs(none, ROWS, 3, **looks, likely=20)
    assert found.shape == similarities.shape == (0, 3)
    nobody = np.zeros(150, np.bool_)
    one = np.ones((1, 250), np.float32)
    found, similarities = nearest_by_signs(one, ROWS, 3, **looks, likely=20, keep=nobody)
    assert found.shape == similarities.shape == (1, 0)


def test_threads_that_share_queries_do_not_show() -> None:
    random = np.random.default_rng(0)
    rows = vectors_of(np.arange(3000))
    queries = vectors_of(random.integers(0, 10**9, 400)).astype(np.float32)
    looks = looks_of(rows)
    alone = nearest_by_signs(queries, rows, 5, **looks, likely=200, threads=1)
    for threads in (0, 2, 3, 16):
        among = nearest_by_signs(queries, rows, 5, **looks, likely=200, threads=threads)
        assert [part.tobytes() for part in among] == [part.tobytes() for part in alone]
    queries[301] = np.nan
    with pytest.raises(InputError, match="queries has a value in row 301"):
        nearest_by_signs(queries, rows, 5, **looks, likely=200, threads=3)


def test_vectors_of_few_elements_are_looked_at_in_spite_of_their_signs() -> None:
    """Of such vectors signs tell little: what is expected of normal ones would end the look at
    bytes after the first rows."""
    random = np.random.default_rng(0)
    rows = np.maximum(random.standard_normal((4000, 384)) - 1.3, 0)
    rows[:200] = rows[0] * (random.random((200, 384)) < 0.8)
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
    query = rows[:1].astype(np.float32)
    looks = looks_of(rows)
    like = like_signs(query[0], looks["signs"], 4000, 400)
    found, _ = nearest_by_signs(query, rows, 20, **looks, likely=400)
    expected, _ = top_k(query, rows, 20, rows=like)
    np.testing.assert_array_equal(found, expected)


def test_rows_that_do_not_look_it_are_not_looked_at() -> None:
    """Twins of the query after many rows at a right angle to it: bytes that claim that those are as
    near, and come first, are believed only if signs let them be read."""
    random = np.random.default_rng(0)
    query = random.standard_normal((1, 384)).astype(np.float32)
    query /= np.linalg.norm(query)
    rows = random.standard_normal((4000, 384)).astype(np.float32)
    rows -= (rows @ query.T) * query
    rows[-64:] = query
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
    looks = looks_of(rows)
    codes = looks["codes"].copy()
    codes[:-64] = codes[-1]
    found, _ = nearest_by_signs(query, rows, 20, **looks | {"codes": codes}, likely=2000)
    assert found[0].tolist() == list(range(3936, 3956))


# ---- what is derived from each row alone


@pytest.mark.parametrize("width", [16, 64, 96, 200, 384])
def test_signs_after_a_history_are_those_of_what_is_left(width: int) -> None:
    random = np.random.default_rng(0)
    rows = random.standard_normal((300, width)).astype(np.float32)
    held = np.arange(0, 300, 3)
    signs = Signs(rows[held])
    for _ in range(20):
        free = np.setdiff1d(np.arange(300), held)
        new = np.sort(random.choice(free, random.integers(0, 40), replace=False))
        signs.insert(np.searchsorted(held, new), rows[new])
        held = np.union1d(held, new)
        gone = random.random(len(held)) < 0.2
        signs.remove(gone)
        held = held[~gone]
        assert len(signs) == len(held)
        assert signs.panels.tobytes() == Signs(rows[held]).panels.tobytes()


def test_what_is_removed_is_overwritten() -> None:
    for change in (lambda signs: signs.remove(np.arange(20) == 7), lambda signs: signs.clear()):
        signs = Signs(np.ones((20, 384), dtype=np.float32))
        old = signs.panels
        change(signs)
        assert not old.any()
        assert len(signs) in (19, 0)


# ---- the index


def test_similarities_are_exact_and_nearly_all_neighbors_are_found(
    large: Index, exact: Index
) -> None:
    assert large.kind == "binary"
    ids, near = large.search(QUERIES, 10)
    true_ids, _ = exact.search(QUERIES, 10)
    hits = [len(set(a) & set(b)) for a, b in zip(ids.tolist(), true_ids.tolist(), strict=True)]
    assert np.mean(hits) / 10 >= 0.97
    everything = exact.search(QUERIES, len(exact))
    for row, own in enumerate(ids.tolist()):
        exactly = dict(zip(*(part[row].tolist() for part in everything), strict=True))
        assert near[row].tolist() == [exactly[id_] for id_ in own]
    assert (np.diff(near, axis=1) <= 0).all()


@pytest.mark.parametrize("width", [MAX_WIDTH, MAX_WIDTH + 1])
def test_the_widest_rows_have_signs_and_wider_ones_are_compared_without(width: int) -> None:
    random = np.random.default_rng(0)
    rows = random.standard_normal((600, width), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    wide = Index(np.arange(600), rows.astype(np.float16), "binary")
    ids, near = wide.search(rows[7], 1)
    assert ids.tolist() == [7]
    np.testing.assert_allclose(near, 1.0, atol=1e-3)
    assert (wide._signs is not None) == (width == MAX_WIDTH)


def test_a_query_is_answered_alike_alone_and_among_others(large: Index) -> None:
    ids, near = large.search(QUERIES, 10)
    for at in range(5):
        alone = large.search(QUERIES[at], 10)
        assert alone[0].tobytes() == ids[at].tobytes()
        assert alone[1].tobytes() == near[at].tobytes()


def test_the_index_looks_at_few_rows(large: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []

    def count(queries: Float32, rows: Any, k: int, **options: Any) -> Any:
        for query in queries:
            found = like_signs(query, options["signs"], len(rows), options["likely"])
            looked.append(len(found))
        return nearest_by_signs(queries, rows, k, **options)

    monkeypatch.setattr(index, "nearest_by_signs", count)
    large.search(QUERIES, 5)
    assert len(looked) == 40
    assert max(looked) < 1000


def test_ties_are_broken_by_the_smaller_id(large: Index) -> None:
    ids, near = large.search(vectors_of([2011])[0].astype(np.float32), 2)
    assert ids.tolist() == [2010, 2011]
    assert near[0] == near[1]


@pytest.mark.parametrize("k", [1, 20, 200, 3999, 4000, 5000])
def test_every_k_gives_as_many_as_there_are(large: Index, k: int) -> None:
    ids, near = large.search(QUERIES, k)
    assert ids.shape == near.shape == (40, min(k, 4000))
    assert all(len(set(row)) == len(row) for row in ids.tolist())


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_only_kept_rows_are_found(large: Index, exact: Index, share: float) -> None:
    keep = np.random.default_rng(1).random(4000) < share
    ids, _ = large.search(QUERIES, 10, keep=keep)
    assert ids.shape == (40, min(10, keep.sum()))
    assert keep[ids - 1].all()
    expected = exact.search(QUERIES, 10, keep=keep)[0]
    assert (ids == expected).mean() >= 0.9 if ids.size else expected.size == 0


def test_leave_one_out_is_exact(large: Index, exact: Index) -> None:
    for ours, theirs in zip(large.others(5, limit=50), exact.others(5, limit=50), strict=True):
        assert ours.tobytes() == theirs.tobytes()


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1))
def test_answers_depend_on_the_survivors_alone(seed: int) -> None:
    random = np.random.default_rng(seed)
    everyone = random.permutation(np.arange(1, 2400))
    survivors = np.sort(everyone[: random.integers(1, 2000)])
    visitors = np.sort(everyone[len(survivors) :])
    used = index_of(random.permutation(everyone)[: random.integers(0, 2000)])
    while not np.array_equal(used.ids, survivors):
        missing = np.setdiff1d(survivors, used.ids)
        guests = np.setdiff1d(visitors, used.ids)[: 60 if len(missing) else 0]
        new = random.permutation(np.concatenate([missing[: random.integers(1, 900)], guests]))
        used.add(new, vectors_of(new))
        gone = np.intersect1d(used.ids, visitors)
        used.remove(gone.tolist() if not len(missing) else gone[: random.integers(0, 200)].tolist())
        if random.random() < 0.5:
            used.search(QUERIES, 3)
    fresh = index_of(survivors)
    for k in (1, 10):
        for ours, theirs in zip(used.search(QUERIES, k), fresh.search(QUERIES, k), strict=True):
            assert ours.tobytes() == theirs.tobytes()


def test_auto_takes_signs_for_many_items_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "LEAST_ITEMS", 50)
    some = index_of(range(1, 40), "auto")
    assert some.kind == "exact"
    some.add(np.arange(40, 60), vectors_of(range(40, 60)))
    assert some.kind == "binary"
    some.remove([1, 2, 3, 41, 42, 43, 44, 45, 46, 47])
    assert some.kind == "exact"


def test_a_query_that_is_not_finite_is_told(large: Index) -> None:
    with pytest.raises(InputError, match="queries has a value in row 0 that is not finite"):
        large.search(np.full(WIDTH, np.nan, dtype=np.float32), 3)


def test_a_memory_forgets_with_signs(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "_LIKELY", 1)
    monkeypatch.setattr(index, "_FOR_EACH", 1)
    with VisualMemory(tmp_path / "v", embedder=Model(), index="binary") as memory:
        memory.add([image(i) for i in range(60)], [str(i % 3) for i in range(60)], ids=range(1, 61))
        assert memory.index_kind == "binary"
        assert memory.neighbors(image(5), k=1)[0].id == 6
        memory.delete(6)
        assert 6 not in [one.id for one in memory.neighbors(image(5), k=59)]
        with VisualMemory(tmp_path / "w", embedder=Model(), index="binary") as fresh:
            numbers = [i for i in range(60) if i != 5]
            fresh.add(
                [image(i) for i in numbers],
                [str(i % 3) for i in numbers],
                ids=[i + 1 for i in numbers],
            )
            for number in range(60, 70):
                assert memory.neighbors(image(number), k=3) == fresh.neighbors(image(number), k=3)
                assert memory.classify(image(number)) == fresh.classify(image(number))


def test_an_unknown_index_is_told(tmp_path: Any) -> None:
    with pytest.raises(InputError, match=r"index is 'binray'.*binary"):
        VisualMemory(tmp_path / "v", embedder=Model(), index="binray")  # type: ignore[arg-type]
