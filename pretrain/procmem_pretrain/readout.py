"""A fixed affine layer after the transformer, fitted on procedural images only (law 3).

PCA whitening of the token statistics: it removes the few directions that dominate every image's
embedding and hide what tells images apart. Takes (N, F) statistics of `vit.py`, gives the weight
and bias of `Perception`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from procmem.errors import InputError

# Share of the mean eigenvalue added to each, so that directions of mere noise are not blown up.
RIDGE = 0.01


def fit_readout(
    features: Tensor, *, dimension: int, blocks: Sequence[int], ridge: float = RIDGE
) -> tuple[Tensor, Tensor]:
    """Fits z = W (x - mean), which whitens the largest principal directions.

    Each block of features is first scaled to the same total variance, so that none (the layout has
    sixteen times the numbers of the class token) outvotes the others. With eigenvalues v and
    eigenvectors e of the scaled features' covariance, a row of W is e * scale / sqrt(v + ridge).

    Args:
        features: (N, F) float, N above `dimension`.
        dimension: D, how many principal directions are kept, at most F.
        blocks: lengths of consecutive groups of features, in all F.
        ridge: share of the mean eigenvalue.

    Returns:
        weight (D, F) and bias (D,), float32; the weight is exact in float16.

    Raises:
        InputError: too few samples, too large a dimension, or blocks of another length.
    """
    count, width = features.shape
    if not 1 <= dimension <= width:
        raise InputError(f"readout dimension is {dimension}, wanted 1 to {width}")
    if count <= dimension:
        raise InputError(f"readout needs more than {dimension} images, got {count}")
    if sum(blocks) != width:
        raise InputError(f"blocks are {tuple(blocks)}, wanted a sum of {width}")
    wide = features.double()
    mean = wide.mean(dim=0)
    parts = torch.split(wide - mean, list(blocks), dim=1)
    scales = torch.cat(
        [(p.square().sum() / count).clamp_min(1e-12).rsqrt().expand(p.shape[1]) for p in parts]
    )
    centered = (wide - mean) * scales
    values, vectors, total = _principal(centered)
    values, vectors = values[:dimension], vectors[:, :dimension]
    # An eigenvector's sign is arbitrary; the largest entry is made positive so that fits agree.
    largest = vectors.abs().argmax(dim=0)
    vectors = vectors * vectors[largest, torch.arange(dimension)].sign()
    weight = (vectors / (values + ridge * total / width).sqrt()).T * scales
    # Embeddings are scaled to unit length in the end: a common factor keeps float16 in range.
    weight = (weight / weight.abs().max()).half().double()
    return weight.float(), (-weight @ mean).float()


def _principal(centered: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Eigenvalues of the covariance of (N, F) rows, largest first; eigenvectors (F, .); trace.

    There are min(N, F) of them; with fewer rows than features the others are zero.
    """
    count, width = centered.shape
    if count >= width:
        covariance = centered.T @ centered / count
        values, vectors = torch.linalg.eigh(covariance)  # ascending
        return values.flip(0), vectors.flip(1), covariance.trace()
    # The products of rows have the same eigenvalues, and are the smaller matrix by far.
    products = centered @ centered.T / count
    values, mixtures = torch.linalg.eigh(products)
    vectors = functional.normalize(centered.T @ mixtures, dim=0)
    return values.flip(0).clamp_min(0), vectors.flip(1), products.trace()
