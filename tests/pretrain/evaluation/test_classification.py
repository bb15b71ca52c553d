import itertools

import numpy as np
import pytest

from procmem.errors import InputError
from procmem_pretrain.evaluation.classification import (
    knn_accuracy,
    linear_accuracy,
    predictions,
)
from procmem_pretrain.evaluation.methods import unit
from procmem_pretrain.evaluation.privacy import exposed_items, exposed_share


def clusters(count: int, *, spread: float, seed: int) -> tuple[np.ndarray, list[str]]:
    random = np.random.default_rng(seed)
    centers = np.eye(3, 8, dtype=np.float32)
    which = np.arange(count) % 3
    rows = centers[which] + spread * random.standard_normal((count, 8))
    return unit(rows.astype(np.float32)), [f"class {i}" for i in which]


def test_separate_clusters_are_all_right() -> None:
    memory, labels = clusters(60, spread=0.05, seed=0)
    queries, wanted = clusters(30, spread=0.05, seed=1)
    assert knn_accuracy(memory, labels, queries, wanted) == 100.0
    assert linear_accuracy(memory, labels, queries, wanted) == 100.0


def test_wrong_labels_are_all_wrong() -> None:
    memory, labels = clusters(60, spread=0.05, seed=0)
    assert knn_accuracy(memory, labels, memory, ["other"] * 60) == 0.0


def test_the_vote_is_the_papers_weighted_sum() -> None:
    memory, labels = clusters(40, spread=0.8, seed=2)
    queries, _ = clusters(25, spread=0.8, seed=3)
    for k in (1, 7, 40, 100):
        found = predictions(memory, labels, queries, k=k)
        for query, answer in zip(queries.astype(np.float64), found, strict=True):
            similarity = memory.astype(np.float64) @ query
            nearest = np.argsort(-similarity)[:k]
            shares = dict.fromkeys(labels, 0.0)
            for i in nearest:
                shares[labels[i]] += np.exp(similarity[i] / 0.07)
            assert answer == max(shares, key=lambda label: shares[label])


def test_the_best_of_several_k_is_reported() -> None:
    memory, labels = clusters(30, spread=0.8, seed=2)
    queries, wanted = clusters(30, spread=0.8, seed=3)
    single = [knn_accuracy(memory, labels, queries, wanted, ks=(k,)) for k in (1, 5, 30)]
    assert knn_accuracy(memory, labels, queries, wanted, ks=(1, 5, 30)) == max(single)


def test_a_linear_classifier_finds_what_neighbors_cannot() -> None:
    # One informative direction under loud noise in the others.
    random = np.random.default_rng(0)
    rows = random.standard_normal((400, 30)).astype(np.float32)
    rows[:, 0] = 0.3 * np.sign(rows[:, 0])
    labels = ["left" if value < 0 else "right" for value in rows[:, 0]]
    rows = unit(rows)
    arguments = (rows[:300], labels[:300], rows[300:], labels[300:])
    assert linear_accuracy(*arguments) > 95
    assert knn_accuracy(*arguments) < 90


def test_the_linear_classifier_is_deterministic_and_never_sees_the_answers() -> None:
    memory, labels = clusters(60, spread=0.5, seed=0)
    queries, wanted = clusters(30, spread=0.5, seed=1)
    score = linear_accuracy(memory, labels, queries, wanted)
    assert score == linear_accuracy(memory, labels, queries, wanted)
    # Other wanted labels change the score and nothing else: 100 minus the share still right.
    turned = linear_accuracy(memory, labels, queries, wanted[1:] + wanted[:1])
    assert score > 80 > 20 > turned


def test_no_query_is_an_error() -> None:
    memory, labels = clusters(6, spread=0.1, seed=0)
    with pytest.raises(InputError, match="no query"):
        knn_accuracy(memory, labels, memory[:0], [])


@pytest.mark.parametrize(("k", "seed"), list(itertools.product([1, 4, 9, 30], range(3))))
def test_exposed_items_are_those_that_brute_force_finds(k: int, seed: int) -> None:
    memory, labels = clusters(24, spread=0.9, seed=seed)
    queries, _ = clusters(15, spread=0.9, seed=100 + seed)
    usual = predictions(memory, labels, queries, k=k)
    slow = []
    for left_out in range(len(memory)):
        kept = [i for i in range(len(memory)) if i != left_out]
        others = predictions(memory[kept], [labels[i] for i in kept], queries, k=k)
        slow.append(others != usual)
    found = exposed_items(memory, labels, queries, k=k)
    assert found.tolist() == slow
    assert exposed_share(memory, labels, queries, k=k) == pytest.approx(100 * np.mean(slow))


def test_a_memory_of_one_item_is_exposed() -> None:
    row = unit(np.ones((1, 4), np.float32))
    assert exposed_items(row, ["only"], row, k=20).tolist() == [True]
