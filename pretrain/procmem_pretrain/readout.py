"""A fixed affine layer after the transformer, fitted on procedural images only (law 3).

PCA whitening of the token statistics: it removes the few directions that dominate every image's
embedding and hide what tells images apart. Takes (N, F) statistics of `vit.py`, gives the weight
and bias of `Perception`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from procmem.errors import InputError

# Share of the mean eigenvalue added to each, so that directions of mere noise are not blown up.
RIDGE = 0.01


def fit_readout(features: Tensor, *, dimension: int, ridge: float = RIDGE) -> tuple[Tensor, Tensor]:
    """Fits z = W (x - mean) with W = (eigenvalue + ridge)^(-1/2) * eigenvector, largest first.

    Args:
        features: (N, F) float, N above F for a full-rank covariance.
        dimension: D, how many principal directions are kept, at most F.
        ridge: share of the mean eigenvalue.

    Returns:
        weight (D, F) and bias (D,), float32.

    Raises:
        InputError: too few samples or too large a dimension.
    """
    count, width = features.shape
    if not 1 <= dimension <= width:
        raise InputError(f"readout dimension is {dimension}, wanted 1 to {width}")
    if count <= dimension:
        raise InputError(f"readout needs more than {dimension} images, got {count}")
    wide = features.double()
    mean = wide.mean(dim=0)
    covariance = (wide - mean).T @ (wide - mean) / count
    values, vectors = torch.linalg.eigh(covariance)  # ascending
    values, vectors = values.flip(0)[:dimension], vectors.flip(1)[:, :dimension]
    # An eigenvector's sign is arbitrary; the largest entry is made positive so that fits agree.
    largest = vectors.abs().argmax(dim=0)
    vectors = vectors * vectors[largest, torch.arange(dimension)].sign()
    weight = (vectors / (values + ridge * covariance.trace() / width).sqrt()).T
    return weight.float(), (-weight @ mean).float()
