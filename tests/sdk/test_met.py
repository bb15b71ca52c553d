"""What is kept of who met whom gives, after any history, what a search of everything gives."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.stress import toy

import procmem.index
from procmem.index import Index
from procmem.memory import VisualMemory
from procmem.met import Met, merged, within
from procmem.stores.contract import EVERYTHING

WIDTH = 24


def row_of(id_):
    """Some rows are the same, so that ties come up."""
    chance = np.random.default_rng(id_ % 40)
    row = chance.standard_normal(WIDTH)
    if id_ % 3 == 0:
        row += 0.1 * np.random.default_rng(id_).standard_normal(WIDTH)
    return (row / np.linalg.norm(row)).astype(np.float16)


def index_of(ids):
    held = np.array(sorted(ids), dtype=np.int64)
    rows = np.array([row_of(i) for i in held.tolist()], dtype=np.float16).reshape(-1, WIDTH)
    return Index(held, rows, "exact")


def same(ours, theirs):
    return all(
        one.shape == other.shape and one.tobytes() == other.tobytes()
        for one, other in zip(ours, theirs, strict=True)
    )


STEPS = st.lists(
    st.tuples(st.sampled_from(["add", "delete", "ask"]), st.sets(st.integers(1, 60), max_size=8)),
    max_size=25,
)


@given(st.sets(st.integers(1, 60), max_size=40), STEPS, st.integers(1, 9), st.integers(1, 30))
@settings(max_examples=300, deadline=None)
def test_it_is_a_function_of_what_is_held(first, steps, k, limit):
    held, lived, met = set(first), index_of(first), Met()
    some, some_met = (lambda: lived.ids % 4 != 0), Met()  # as if the others had no label
    for kind, ids in steps:
        if kind == "add" and ids - held:
            new = np.array(sorted(ids - held), dtype=np.int64)
            lived.add(new, np.array([row_of(i) for i in new.tolist()]))
            held |= ids
        elif kind == "delete":
            lived.remove(ids)
            met.forget(ids)
            some_met.forget(ids)
            held -= ids
        else:
            fresh = index_of(held)
            assert same(lived.others(k, limit=limit, met=met), fresh.others(k, limit=limit))
            ours = lived.others(k, keep=some(), limit=limit, met=some_met)
            assert same(ours, fresh.others(k, keep=some(), limit=limit))


def test_who_was_not_told_of_what_went_starts_anew():
    lived, met = index_of(range(1, 30)), Met()
    lived.others(3, met=met)
    lived.remove([4, 9])
    left = set(range(1, 30)) - {4, 9}
    assert same(lived.others(3, met=met), index_of(left).others(3))


@pytest.fixture
def searched(monkeypatch):
    """(queries, rows looked at) of every search."""
    calls = []
    top_k = procmem.index.top_k

    def noted(queries, memory, k, **options):
        rows = options.get("rows")
        calls.append((len(queries), len(memory) if rows is None else len(rows)))
        return top_k(queries, memory, k, **options)

    monkeypatch.setattr(procmem.index, "top_k", noted)
    return calls


def test_only_what_has_changed_is_searched_for(searched):
    lived, met = index_of(range(1, 60)), Met()
    lived.others(2, limit=20, met=met)
    assert sum(queries * rows for queries, rows in searched) == 20 * 59
    searched.clear()
    lived.add(np.array([500]), row_of(500)[None])
    lived.others(2, limit=20, met=met)
    assert sum(queries * rows for queries, rows in searched) == 20
    searched.clear()
    gone = [int(lived.ids[-2])]
    touched = int(within(met.found, np.array(gone)).any(axis=1).sum())
    lived.remove(gone)
    met.forget(gone)
    lived.others(2, limit=20, met=met)
    assert sum(queries * rows for queries, rows in searched) == touched * 59
    assert touched < 5


def test_nothing_of_what_was_forgotten_is_left():
    lived, met = index_of(range(1, 30)), Met()
    lived.others(3, met=met)
    parts = [met.kept, met.asked, met.found, met.near]
    met.forget([4, 9, 1000])
    assert not any(part.any() for part in parts)
    for part in (met.kept, met.asked, met.found):
        assert not within(part, np.array([4, 9])).any()
    assert len(met.asked) == len(met.found) == len(met.near) > 0
    kept = met.near
    met.clear()
    assert not kept.any()


def test_two_lists_become_one():
    found, near = np.array([[7, 3]]), np.array([[0.5, 0.25]], dtype=np.float32)
    more, more_near = np.array([[9, 5, 4]]), np.array([[0.5, 0.25, 0.0]], dtype=np.float32)
    ids, similarities = merged(found, near, more, more_near, 4)
    assert ids.tolist() == [[7, 9, 3, 5]]
    assert similarities.tolist() == [[0.5, 0.5, 0.25, 0.25]]


def test_a_memory_that_was_changed_answers_as_one_that_was_not(tmp_path):
    chance = np.random.default_rng(0)
    held = set(range(1, 120))
    with (
        VisualMemory(tmp_path / "v", embedder=toy.EMBEDDER) as memory,
        mock.patch("procmem.index.CALIBRATION_ITEMS", 50),
    ):
        add = lambda ids: memory.add(  # noqa: E731
            [toy.picture(i) for i in ids], [toy.label(i) for i in ids], ids=list(ids)
        )
        add(sorted(held))
        for turn in range(6):
            memory.classify(toy.picture(3))
            gone = sorted(chance.choice(sorted(held), 4, replace=False).tolist())
            new = [200 + 3 * turn, 201 + 3 * turn]
            memory.delete(gone, receipt=False)
            held -= set(gone)
            memory.classify(toy.picture(5), weighting="rank")
            add(new)
            held |= set(new)
            with VisualMemory(tmp_path / "v", embedder=toy.EMBEDDER, read_only=True) as fresh:
                for query in (1, 3, 77, 1000):
                    for options in ({}, {"weighting": "rank"}, {"k": 3}):
                        ours = memory.classify(toy.picture(query), **options)
                        assert ours == fresh.classify(toy.picture(query), **options)


def test_what_a_memory_deletes_is_forgotten_at_once_and_may_come_back_as_another(tmp_path):
    ids = list(range(1, 60))
    with VisualMemory(tmp_path / "v", embedder=toy.EMBEDDER) as memory:
        memory.add([toy.picture(i) for i in ids], [f"label {i % 4}" for i in ids], ids=ids)
        memory.classify(toy.picture(3))
        memory.delete([5, 6], receipt=False)
        kept = memory._store.recall._met
        assert len(kept) > 0
        for met in kept.values():
            for part in (met.kept, met.asked, met.found):
                assert len(part) > 0
                assert not np.isin(part, [5, 6]).any()
        memory.add(toy.picture(1005), "label 1", ids=5)
        with VisualMemory(tmp_path / "v", embedder=toy.EMBEDDER, read_only=True) as fresh:
            assert memory.classify(toy.picture(3)) == fresh.classify(toy.picture(3))
            ours, theirs = (m._store.left_out(20, EVERYTHING) for m in (memory, fresh))
            assert ours.similarities.tobytes() == theirs.similarities.tobytes()
