"""Which items of a memory are exposed: those whose removal changes an answer.

"Separating Knowledge and Perception with Procedural Data" calls an item non-private if removing it
changes the prediction of at least one query. Its published count uses an approximation, which
under-counts; this is the exact rule, and it needs no more than each query's k + 1 nearest.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from procmem.patchsim import top_k
from procmem.vote import vote

Float32 = npt.NDArray[np.float32]


def exposed_items(
    memory: Float32, labels: Sequence[str], queries: Float32, *, k: int
) -> npt.NDArray[np.bool_]:
    """(N,) whether removing an item changes the prediction of at least one query.

    Removing an item beyond a query's k nearest changes nothing for it; removing one of them lets
    the (k + 1)-th vote instead.

    Args:
        memory: (N, D) unit vectors.
        labels: N of them.
        queries: (Q, D) unit vectors.
        k: neighbors that vote.
    """
    exposed = np.zeros(len(memory), dtype=bool)
    indices, similarities = top_k(queries, memory, min(k + 1, len(memory)))
    for row, values in zip(indices.tolist(), similarities.tolist(), strict=True):
        own = [labels[i] for i in row]
        usual = _winner(values[:k], own[:k])
        for place in range(min(k, len(row))):
            if exposed[row[place]]:
                continue
            rest = [i for i in range(len(row)) if i != place][:k]
            without = _winner([values[i] for i in rest], [own[i] for i in rest])
            exposed[row[place]] = without != usual
    return exposed


def exposed_share(memory: Float32, labels: Sequence[str], queries: Float32, *, k: int) -> float:
    """Percent of the memory's items that are exposed."""
    return 100.0 * float(exposed_items(memory, labels, queries, k=k).mean())


def _winner(values: Sequence[float], labels: Sequence[str]) -> str | None:
    return next(iter(vote(values, labels)), None)
