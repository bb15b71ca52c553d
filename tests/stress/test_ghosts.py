"""That the residue scan and the comparison of histories can fail: here they meet a store that lies.

An hnswlib graph keeps what it is told to delete, in its bytes and in the paths that a search takes.
"""

from __future__ import annotations

import numpy as np
import pytest
from tests.stress import histories, toy
from tests.stress.histories import check_same_answers

from procmem import index
from procmem.residue import scan_folder

hnswlib = pytest.importorskip("hnswlib", reason="the control is an hnswlib graph")

COUNT, DELETED, K = 2_000, 7, 10
IDS = np.arange(1, COUNT + 1)


class RawGraph:
    """hnswlib by itself, built by one thread from a fixed seed; searched as an index here is."""

    def __init__(self, ids, rows):
        self.graph = hnswlib.Index(space="ip", dim=rows.shape[1])
        self.graph.init_index(max_elements=len(ids), M=16, ef_construction=100, random_seed=1)
        self.graph.add_items(rows, ids, num_threads=1)
        self.graph.set_ef(32)

    def search(self, query, k):
        ids, distances = self.graph.knn_query(query, k, num_threads=1)
        return ids.astype(np.int64), 1 - distances


def unit(count, seed):
    rows = np.random.default_rng(seed).standard_normal((count, toy.CLS), dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def rows():
    return unit(COUNT, 1)


@pytest.fixture
def marked(rows):
    """A graph of all, one of them marked as deleted."""
    graph = RawGraph(IDS, rows)
    graph.graph.mark_deleted(DELETED)
    return graph


def test_the_scan_finds_a_vector_that_a_saved_graph_only_marks(tmp_path, rows, marked):
    marked.graph.save_index(str(tmp_path / "index.bin"))
    secret = rows[DELETED - 1].tobytes()
    scan = scan_folder(tmp_path, [secret])
    assert scan.windows_found == scan.windows_checked == len(secret) - 15


def test_the_scan_finds_nothing_in_a_graph_that_never_held_the_vector(tmp_path, rows):
    fresh = RawGraph(np.delete(IDS, DELETED - 1), np.delete(rows, DELETED - 1, axis=0))
    fresh.graph.save_index(str(tmp_path / "index.bin"))
    assert scan_folder(tmp_path, [rows[DELETED - 1].tobytes()]).windows_found == 0


def test_the_comparison_tells_a_graph_that_marks_from_one_that_never_held_the_item(rows, marked):
    fresh = RawGraph(np.delete(IDS, DELETED - 1), np.delete(rows, DELETED - 1, axis=0))
    queries = unit(200, 2)
    assert DELETED not in marked.search(queries, K)[0]
    with pytest.raises(AssertionError):
        check_same_answers(marked, fresh, queries, K)


def test_the_comparison_holds_for_two_graphs_with_one_history(rows):
    queries = unit(200, 2)
    check_same_answers(RawGraph(IDS, rows), RawGraph(IDS, rows), queries, K)


def test_histories_ask_by_signs_and_not_only_the_rows(tmp_path, monkeypatch):
    asked = 0
    search = index.nearest_by_signs

    def count(queries, *arguments, **options):
        nonlocal asked
        asked += len(queries)
        return search(queries, *arguments, **options)

    monkeypatch.setattr(index, "nearest_by_signs", count)
    figures = histories.run_histories(tmp_path, count=8)
    assert figures["by signs"] > 2
    assert asked >= 4 * 1000
