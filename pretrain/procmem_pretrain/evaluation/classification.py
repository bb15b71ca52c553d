"""k-NN classification of embeddings, and a linear classifier on them.

The vote is the SDK's (`procmem.vote`), the search its exact kernel; vectors in, shares out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from procmem.errors import InputError
from procmem.patchsim import top_k
from procmem.vote import vote

Float32 = npt.NDArray[np.float32]

K = 20
PAPER_KS = (10, 20, 100, 200)
"""The paper reports the best of these ("Separating Knowledge and Perception", k-NN protocol)."""

MEDMNIST_KS = (1, 3, 5, 10, 20, 50, 100, 150, 200)
"""On MedMNIST the paper reports the best of nine on the validation split; it does not name them."""

# Weight decays of the linear classifier, chosen among on a fifth of the memory.
_PENALTIES = (1e-6, 1e-4, 1e-2, 1.0)


def predictions(
    memory: Float32, labels: Sequence[str], queries: Float32, *, k: int
) -> tuple[str, ...]:
    """What the k nearest of the memory vote each query to be, weights exp(similarity / 0.07).

    Args:
        memory: (N, D) unit vectors.
        labels: N of them.
        queries: (Q, D) unit vectors.
        k: neighbors; more than N means all.
    """
    indices, similarities = top_k(queries, memory, min(k, len(memory)))
    return tuple(
        next(iter(vote(similarities[row].tolist(), [labels[i] for i in indices[row]])))
        for row in range(len(queries))
    )


def knn_accuracy(
    memory: Float32,
    labels: Sequence[str],
    queries: Float32,
    wanted: Sequence[str],
    *,
    ks: Sequence[int] = (K,),
) -> float:
    """Share of queries with the right label in percent, for the best of `ks`."""
    if not len(queries):
        raise InputError("there is no query to classify")
    return max(
        100.0 * float(np.mean(np.array(predictions(memory, labels, queries, k=k)) == wanted))
        for k in ks
    )


def linear_accuracy(
    memory: Float32, labels: Sequence[str], queries: Float32, wanted: Sequence[str]
) -> float:
    """Accuracy in percent of multinomial logistic regression on frozen embeddings.

    Features are standardized by the memory's mean and deviation. The penalty is the best of four
    on every fifth item of each label, held out; then all of the memory is fitted. Deterministic.
    """
    names = sorted(set(labels))
    index = {name: i for i, name in enumerate(names)}
    mean, deviation = memory.mean(0), memory.std(0) + 1e-6
    x = torch.from_numpy((memory - mean) / deviation)
    y = torch.tensor([index[label] for label in labels])
    held = torch.from_numpy(_every_fifth(labels))
    best = _PENALTIES[-1]
    if held.any():
        scores = [
            (_correct(_fit(x[~held], y[~held], len(names), penalty), x[held], y[held]), penalty)
            for penalty in _PENALTIES
        ]
        best = max(scores)[1]
    weights = _fit(x, y, len(names), best)
    asked = torch.from_numpy((queries - mean) / deviation)
    found = torch.cat([asked, torch.ones(len(asked), 1)], dim=1) @ weights
    chosen = [names[i] for i in found.argmax(1).tolist()]
    return 100.0 * float(np.mean(np.array(chosen) == np.array(wanted)))


def _every_fifth(labels: Sequence[str]) -> npt.NDArray[np.bool_]:
    seen: dict[str, int] = {}
    held = np.zeros(len(labels), dtype=bool)
    for row, label in enumerate(labels):
        seen[label] = seen.get(label, 0) + 1
        held[row] = seen[label] % 5 == 0
    return held


def _fit(x: Tensor, y: Tensor, classes: int, penalty: float) -> Tensor:
    """(D + 1, C) weights, the bias in the last row."""
    inputs = torch.cat([x, torch.ones(len(x), 1)], dim=1)
    weights = torch.zeros(inputs.shape[1], classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = functional.cross_entropy(inputs @ weights, y)
        loss = loss + penalty * weights[:-1].square().sum() / 2
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it so
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return weights.detach()


def _correct(weights: Tensor, x: Tensor, y: Tensor) -> float:
    found = torch.cat([x, torch.ones(len(x), 1)], dim=1) @ weights
    return float((found.argmax(1) == y).float().mean())
