"""What training minimizes: SimDINO's loss and the regression of local descriptors.

Pure functions of tensors; used by `simdino.py`. Batch statistics are those of all processes.
SimDINO (arXiv 2502.10385): the student's embedding of one view should equal the teacher's of
another, and the coding rate of all embeddings should be large, which is what keeps them from
collapsing; no 65,536-way head, no centering, no temperature.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from procmem_pretrain.distributed import mean_across, sum_across, world

# Allowed squared distortion of the coding rate (arXiv 2502.10385, section 3: epsilon^2 = 0.5).
DISTORTION = 0.5


def coding_rate(embeddings: Tensor) -> Tensor:
    """Coding rate of unit vectors, as a share of its maximum.

    R = 1/2 log det(I + d / (n epsilon^2) Z^T Z), arXiv 2502.10385 eq. 6; the maximum is that of
    the isotropic covariance I / d.

    Args:
        embeddings: (n, d) float32 unit vectors.

    Returns:
        a scalar in [0, 1]; 1 if they are spread evenly over all directions. NaN of embeddings that
        are not finite.
    """
    count, width = embeddings.shape
    scale = width / (count * world() * DISTORTION)
    gram = sum_across(embeddings.T @ embeddings) * scale
    identity = torch.eye(width, device=embeddings.device)
    # `cholesky` would raise where the run is to be rolled back, and wait for the GPU to know.
    factor, failed = torch.linalg.cholesky_ex(identity + gram)
    rate: Tensor = torch.where(failed == 0, factor.diagonal(), torch.nan).log().sum()
    return rate / (0.5 * width * math.log(1 + 1 / DISTORTION))


def alignment(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean of 1 - cosine between unit vectors (n, d) of the two networks; a scalar in [0, 2]."""
    return 1 - (student * teacher).sum(dim=1).mean()


def regression(prediction: Tensor, target: Tensor) -> Tensor:
    """Smooth L1 against targets standardized per channel over the batch.

    Args:
        prediction: (..., C) float32.
        target: (..., C) float32, not standardized.

    Returns:
        a scalar; about 0.4 for a prediction of the mean.
    """
    flat = target.flatten(0, -2)
    mean = mean_across(flat.mean(0))
    deviation = mean_across(((flat - mean) ** 2).mean(0)).sqrt()
    standardized = (target - mean) / (deviation + 1e-3)
    return functional.smooth_l1_loss(prediction, standardized)
