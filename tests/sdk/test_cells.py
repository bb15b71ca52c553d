"""Graphs over cells must forget as an exact scan does: only what is left counts."""

from __future__ import annotations

import builtins
import threading

import hnswlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.sdk.test_reasons import Model, image

from procmem import VisualMemory
from procmem.cells import Cells, leaves, make_index, spread
from procmem.errors import InputError, MissingExtraError
from procmem.index import Index
from procmem.residue import scan_folder

DIMENSION = 32
SMALL = {"capacity": 300, "least_graph": 40}


def vectors_of(ids, seed=0):
    """(N, D) float16 around 20 centers; the same id has the same vector, every tenth its twin's."""
    centers = np.random.default_rng(seed).normal(size=(20, DIMENSION))
    rows = []
    for id_ in np.asarray(ids).tolist():
        random = np.random.default_rng([seed, id_ - id_ % 10 if id_ % 10 == 1 else id_])
        rows.append(centers[random.integers(20)] + 0.7 * random.normal(size=DIMENSION))
    return np.array(rows, dtype=np.float16).reshape(-1, DIMENSION)


def queries_of(count):
    rows = vectors_of(np.arange(count) + 10**9).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def cells_of(ids, **sizes):
    ids = np.array(ids, dtype=np.int64)
    return Cells(ids, vectors_of(ids), **(SMALL | sizes))


QUERIES = queries_of(40)


@pytest.fixture(scope="module")
def thousand():
    cells = cells_of(range(1, 1001))
    cells.settle()
    yield cells
    cells.clear()


# ---- the answers


def test_settled_cells_have_graphs_and_find_what_an_exact_scan_finds(thousand):
    exact = Index(np.arange(1, 1001), vectors_of(range(1, 1001)))
    assert thousand.settled
    assert len(thousand._cells) > 2
    assert all(cell.graph is not None for cell in thousand._cells.values())
    ids, near = thousand.search(QUERIES, 20)
    true_ids, true_near = exact.search(QUERIES, 20)
    hits = [len(set(a) & set(b)) for a, b in zip(ids.tolist(), true_ids.tolist(), strict=True)]
    assert np.mean(hits) / 20 >= 0.99
    # What is found is compared anew: its similarity is that of the exact scan, to the last bit.
    for row, own in enumerate(ids.tolist()):
        exactly = dict(
            zip(*(part.tolist() for part in exact.search(QUERIES[row], 1000)), strict=True)
        )
        assert near[row].tolist() == [exactly[id_] for id_ in own]
    assert (np.diff(near, axis=1) <= 0).all()
    alone = thousand.search(QUERIES[3], 20)
    assert (alone[0] == ids[3]).all()
    assert (alone[1] == near[3]).all()
    assert (true_near[:, 0] == near[:, 0]).all()


def test_ties_are_broken_by_the_smaller_id(thousand):
    query = vectors_of([11])[0].astype(np.float32)
    query /= np.linalg.norm(query)
    ids, near = thousand.search(query, 2)
    assert ids.tolist() == [10, 11]
    assert near[0] == near[1]


@pytest.mark.parametrize("k", [1, 20, 200, 999, 1000, 5000])
def test_every_k_gives_as_many_as_there_are(thousand, k):
    ids, near = thousand.search(QUERIES, k)
    assert ids.shape == near.shape == (40, min(k, 1000))
    assert all(len(set(row)) == len(row) for row in ids.tolist())


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_only_kept_rows_are_found(thousand, share):
    keep = np.random.default_rng(1).random(1000) < share
    ids, _ = thousand.search(QUERIES, 10, keep=keep)
    assert ids.shape == (40, min(10, keep.sum()))
    assert keep[ids - 1].all()
    exact = Index(np.arange(1, 1001), vectors_of(range(1, 1001))).search(QUERIES, 10, keep=keep)[0]
    assert (ids == exact).mean() >= 0.95 if ids.size else exact.size == 0


def test_leave_one_out_is_exact(thousand):
    exact = Index(np.arange(1, 1001), vectors_of(range(1, 1001)))
    keep = np.arange(1000) % 3 > 0
    for arguments in ({"k": 1}, {"k": 7}, {"k": 5, "keep": keep, "limit": 100}):
        for ours, theirs in zip(
            thousand.others(**arguments), exact.others(**arguments), strict=True
        ):
            assert np.array_equal(ours, theirs)
    assert np.array_equal(thousand.nearest_others(), exact.nearest_others())


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_items_or_none(count):
    cells = cells_of(range(1, count + 1))
    assert cells.search(QUERIES[0], 5)[0].shape == (count,)
    assert len(cells.others(3)[0]) == (count if count > 1 else 0)
    cells.add(np.array([7]), vectors_of([7]))
    cells.remove([7, 99])
    assert len(cells) == count
    cells.clear()
    assert len(cells) == 0
    assert cells.search(QUERIES[0], 5)[0].shape == (0,)


# ---- history


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_settled_answers_depend_on_the_survivors_alone(seed):
    random = np.random.default_rng(seed)
    everyone = random.permutation(np.arange(1, 1200))
    survivors = np.sort(everyone[: random.integers(1, 900)])
    visitors = everyone[len(survivors) :]
    first = random.permutation(everyone)[: random.integers(0, 1100)]
    used = cells_of(first)
    while not np.array_equal(used.ids, survivors):
        missing = np.setdiff1d(survivors, used.ids)
        guests = np.setdiff1d(visitors, used.ids)
        guests = (
            random.permutation(guests)[: random.integers(0, 60)] if len(missing) else guests[:0]
        )
        new = random.permutation(np.concatenate([missing[: random.integers(1, 500)], guests]))
        used.add(new, vectors_of(new))
        if random.random() < 0.3:
            used.settle()
        gone = np.intersect1d(used.ids, visitors)
        used.remove(random.permutation(gone)[: random.integers(0, len(gone) + 1)].tolist())
        if random.random() < 0.3:
            used.search(QUERIES, 3)
        if not len(missing):
            used.remove(gone.tolist())
    fresh = cells_of(survivors)
    used.settle()
    fresh.settle()
    assert used._cells.keys() == fresh._cells.keys()
    for k in (1, 10):
        for ours, theirs in zip(used.search(QUERIES, k), fresh.search(QUERIES, k), strict=True):
            assert np.array_equal(ours, theirs)
    used.clear()
    fresh.clear()


def test_an_id_that_comes_back_with_another_image_is_the_other_image():
    cells = cells_of(range(1, 601))
    cells.settle()
    cells.remove([5])
    other = vectors_of([987_654])
    cells.add(np.array([5]), other)
    cells.settle()
    query = other[0].astype(np.float32)
    query /= np.linalg.norm(query)
    ids, near = cells.search(query, 1)
    assert (ids[0], near[0]) == (5, pytest.approx(1.0))
    cells.clear()


def test_tombstones_would_be_noticed(tmp_path):
    """The control: a graph that marks items as deleted fails both checks above."""
    ids = np.arange(1, 601)
    rows = vectors_of(ids).astype(np.float32)
    graph = hnswlib.Index(space="ip", dim=DIMENSION)
    graph.init_index(max_elements=600, M=4, ef_construction=10, random_seed=1)
    graph.add_items(rows, ids, num_threads=1)
    gone = ids[::2]
    for id_ in gone.tolist():
        graph.mark_deleted(id_)
    fresh = hnswlib.Index(space="ip", dim=DIMENSION)
    fresh.init_index(max_elements=300, M=4, ef_construction=10, random_seed=1)
    fresh.add_items(rows[1::2], ids[1::2], num_threads=1)
    graph.set_ef(10)
    fresh.set_ef(10)
    queries = queries_of(300)
    assert not np.array_equal(
        graph.knn_query(queries, 10, num_threads=1)[0],
        fresh.knn_query(queries, 10, num_threads=1)[0],
    )
    graph.save_index(str(tmp_path / "graph.bin"))
    scan = scan_folder(tmp_path, [rows[0].tobytes()])
    assert scan.windows_found == scan.windows_checked > 100


# ---- memory and threads


def test_a_removed_row_is_zeros_in_rows_and_graph():
    cells = cells_of(range(1, 201), capacity=1000)
    cells.settle()
    (cell,) = cells._cells.values()
    rows, graph = cell.rows.rows, cell.graph
    assert np.any(np.array(graph.get_items([7])))
    cells.remove([7])
    assert not rows.any()
    assert not np.any(np.array(graph.get_items([7])))
    assert np.any(np.array(graph.get_items([8])))
    cells.clear()


def test_a_graph_that_is_being_built_is_zeroed_and_thrown_away():
    cells = cells_of(range(1, 1501), capacity=10_000)
    (cell,) = cells._cells.values()
    while cell.unfinished is None and cell.graph is None:
        pass
    with cell.lock:
        graph = cell.unfinished or cell.graph
        held = graph.get_ids_list()[0]
    cells.remove([held])
    assert not np.any(np.array(graph.get_items([held])))
    cells.settle()
    assert cells.search(QUERIES, 1500)[0].shape == (40, 1499)
    assert held not in cells._cells[0, 0].graph.get_ids_list()
    cells.clear()


def test_what_was_removed_is_in_no_answer_while_graphs_come_and_go():
    cells = cells_of(range(1, 1001), capacity=200)
    lock, gone, wrong = threading.Lock(), set(), []
    stop = threading.Event()

    def ask():
        while not stop.is_set():
            with lock:  # as `memory.py` holds one
                before = set(gone)
                found = cells.search(QUERIES[:4], 50)[0]
            wrong.extend(before & set(found.ravel().tolist()))

    asking = [threading.Thread(target=ask) for _ in range(3)]
    for thread in asking:
        thread.start()
    random = np.random.default_rng(0)
    for at, id_ in enumerate(random.permutation(np.arange(1, 1001))[:120].tolist()):
        with lock:
            cells.remove([id_])
            gone.add(id_)
            if at % 3 == 0:
                cells.add(np.array([5000 + at]), vectors_of([5000 + at]))
    stop.set()
    for thread in asking:
        thread.join()
    assert wrong == []
    cells.settle()
    assert cells.settled
    cells.clear()


def test_closing_while_graphs_are_built_returns():
    cells = cells_of(range(1, 1501), capacity=10_000)
    cells.clear()
    assert len(cells) == 0


# ---- cells


def test_cells_are_small_and_cover_everything():
    hashes = spread(np.arange(1, 5001))
    found = leaves(hashes, 300)
    assert sorted(np.concatenate([own for _, own in found]).tolist()) == list(range(5000))
    assert max(len(own) for _, own in found) <= 300
    for (bits, value), own in found:
        assert (hashes[own] >> np.uint64(64 - bits) == value).all()


def test_a_cell_that_fits_into_its_parent_is_joined_again():
    cells = cells_of(range(1, 1001))
    many = len(cells._cells)
    cells.remove(range(200, 1001))
    assert many > len(cells._cells) == 1
    cells.clear()


# ---- choosing


def test_auto_takes_graphs_for_many_items_only(monkeypatch):
    monkeypatch.setattr("procmem.cells.LEAST_ITEMS", 50)
    few, many = np.arange(1, 40), np.arange(1, 60)
    assert make_index(few, vectors_of(few)).kind == "exact"
    assert make_index(many, vectors_of(many)).kind == "hnsw"
    assert make_index(many, vectors_of(many), "exact").kind == "exact"
    assert make_index(few, vectors_of(few), "hnsw").kind == "hnsw"


def test_without_hnswlib_auto_is_exact_and_hnsw_says_how_to_get_it(monkeypatch, tmp_path):
    real = builtins.__import__

    def without(name, *rest):
        if name == "hnswlib":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.setattr("procmem.cells.LEAST_ITEMS", 1)
    ids = np.arange(1, 40)
    assert make_index(ids, vectors_of(ids)).kind == "exact"
    with pytest.raises(MissingExtraError, match=r"procmem\[hnsw\]"):
        VisualMemory(tmp_path / "v", embedder=Model(), index="hnsw")
    assert not (tmp_path / "v").exists()


def test_a_memory_with_graphs_forgets(tmp_path, monkeypatch):
    monkeypatch.setattr("procmem.cells._LEAST_GRAPH", 10)
    with VisualMemory(tmp_path / "v", embedder=Model(), index="hnsw") as memory:
        memory.add([image(i) for i in range(60)], [str(i % 3) for i in range(60)], ids=range(1, 61))
        memory.settle()
        assert memory.index_kind == "hnsw"
        assert memory.neighbors(image(5), k=1)[0].id == 6
        memory.delete(6)
        memory.settle()
        assert 6 not in [one.id for one in memory.neighbors(image(5), k=59)]
        with VisualMemory(tmp_path / "w", embedder=Model(), index="hnsw") as fresh:
            numbers = [i for i in range(60) if i != 5]
            fresh.add(
                [image(i) for i in numbers],
                [str(i % 3) for i in numbers],
                ids=[i + 1 for i in numbers],
                sources=None,
            )
            fresh.settle()
            for number in range(60, 70):
                assert memory.neighbors(image(number)) == fresh.neighbors(image(number))
                assert memory.classify(image(number)) == fresh.classify(image(number))


def test_an_unknown_index_is_told(tmp_path):
    with pytest.raises(InputError, match=r"index is 'hsnw'.*hnsw"):
        VisualMemory(tmp_path / "v", embedder=Model(), index="hsnw")


@pytest.mark.parametrize("query", [np.zeros(3, np.float32), np.zeros((1, 1, 32), np.float32)])
def test_a_query_of_another_model_is_told(thousand, query):
    with pytest.raises(InputError, match="embed it with the model"):
        thousand.search(query, 1)


def test_a_wrong_filter_is_told(thousand):
    with pytest.raises(InputError, match="keep is"):
        thousand.search(QUERIES[0], 1, keep=np.ones(3, dtype=np.bool_))
