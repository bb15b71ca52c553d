"""Patch tokens to regions without names: which patches of an image belong together.

Takes patch tokens from `embedder.py`, gives `Regions` whose values are numbers of clusters. Nothing
is taught and nothing is kept; the same tokens give the same regions, always.
"""

from __future__ import annotations

import operator
from typing import SupportsIndex

import numpy as np
import numpy.typing as npt

from procmem.errors import InputError
from procmem.patchsim import top_k
from procmem.tokens import check_size, check_tokens, flat_unit, regions_of, unit_rows
from procmem.types import Regions

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

MAX_CLUSTERS = 255
"""As many values as a mask has beside 0."""

_STARTS = 4
_STEPS = 100
# Of the softmax over centers: the one with which `segment.in_context` weighs patches.
_TEMPERATURE = 0.1


def cluster_regions(
    tokens: Float32, k: SupportsIndex, *, size: tuple[int, int], seed: int = 0
) -> Regions:
    """Divides an image into k regions of patches that the model finds alike.

    Spherical k-means (Dhillon and Modha, "Concept decompositions for large sparse text data using
    clustering", 2001): k-means of unit tokens whose centers have unit length too, so that nearness
    is the cosine. The best of four k-means++ starts. For the pixels every center votes by
    softmax(cosine / 0.1), stretched bilinearly; the largest share wins.

    Args:
        tokens: (h, w, P) float32 patch tokens, of any memory layout.
        k: how many regions, from 2 to the number of patches and at most 255.
        size: (H, W) of the image, pixels.
        seed: of the starts. The default is as good as another.

    Returns:
        Regions at (H, W). `labels` are 1 to the number of clusters, the one with the most patches
        first, of equal ones the one that comes first in reading order; 0 is never used. There are
        fewer than k if fewer tokens than k differ in direction.

    Raises:
        InputError: k out of range, no patch tokens, numbers that are not finite, or a size below
            1x1.
    """
    grid = check_tokens(tokens, "tokens")
    check_size(size)
    wanted = _check_clusters(k, grid[0] * grid[1])
    points = flat_unit(tokens, "tokens")
    centers, _ = k_means(points, wanted, seed=seed)
    scores = points.astype(np.float64) @ centers.astype(np.float64).T / _TEMPERATURE  # (Q, C)
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    labels = np.arange(1, len(centers) + 1, dtype=np.uint8)
    return regions_of(shares[:, :, None, None], grid, labels, size)


def k_means(points: Float32, k: int, *, seed: int = 0) -> tuple[Float32, Int64]:
    """Spherical k-means of unit vectors: the best of four starts.

    Equal points are in the same cluster, wherever they stand. At most 100 steps a start.

    Args:
        points: (Q, P) float32 unit vectors, C-contiguous, finite.
        k: how many clusters, at least 1.
        seed: of the starts.

    Returns:
        Unit centers (C, P) float32 and the number of each point's cluster, (Q,) int64, in the
        order of `cluster_regions`. Every cluster has a point; C is below k if fewer points differ
        by more than the rounding of a cosine.
    """
    best: tuple[Float32, Int64] | None = None
    largest = -np.inf
    for start in range(_STARTS):
        random = np.random.default_rng((seed, start))
        centers, own = _lloyd(points, _plus_plus(points, k, random))
        nearness = float(np.einsum("qp,qp->", points, centers[own], dtype=np.float64))
        if nearness > largest:
            best, largest = (centers, own), nearness
    assert best is not None
    centers, own = best
    counts = np.bincount(own, minlength=len(centers))
    first = np.array([np.argmax(own == number) for number in range(len(centers))])
    order = np.lexsort((first, -counts))
    place = np.argsort(order)
    return centers[order], place[own]


def _plus_plus(points: Float32, k: int, random: np.random.Generator) -> Float32:
    """k-means++ (Arthur and Vassilvitskii, 2007): far points are likelier to be centers.

    Gives fewer than k centers if fewer points differ by more than the rounding of a cosine.
    """
    chosen = [int(random.integers(len(points)))]
    wide = points.astype(np.float64)
    far = np.full(len(points), np.inf)
    for _ in range(k - 1):
        # Squared distance of unit vectors: 2 - 2 cosine.
        far = np.minimum(far, np.square(wide - wide[chosen[-1]]).sum(axis=1))
        far[far <= 2 * _rounding(points)] = 0.0
        if not far.any():
            break
        chosen.append(int(random.choice(len(points), p=far / far.sum())))
    return points[chosen]


def _lloyd(points: Float32, centers: Float32) -> tuple[Float32, Int64]:
    """Lloyd's steps until no point changes its cluster.

    A cluster that loses all points starts again at the point that is least like its own center.
    patchsim and not a BLAS product: its similarity of two rows does not depend on where they stand,
    so that equal points never part.
    """
    own = np.full(len(points), -1, dtype=np.int64)
    centers = centers.copy()
    for _ in range(_STEPS):
        indices, similarities = top_k(points, centers, 1)  # (Q, 1) each
        nearest, cosines = indices[:, 0], similarities[:, 0]
        if np.array_equal(nearest, own):
            break
        own = nearest
        for number in range(len(centers)):
            inside = own == number
            if inside.any():
                total = points[inside].sum(axis=0, dtype=np.float64)
                centers[number] = unit_rows(total[None])[0]
            elif cosines.min() < 1.0 - _rounding(points):
                centers[number] = points[cosines.argmin()]
                cosines[(points == centers[number]).all(axis=1)] = 1.0
    kept, numbers = np.unique(own, return_inverse=True)
    return centers[kept], numbers.astype(np.int64)


def _rounding(points: Float32) -> float:
    """How far from 1 patchsim's cosine of two equal directions may be."""
    width: int = points.shape[1]
    return 2.0 * width * 2.0**-24


def _check_clusters(k: SupportsIndex, patches: int) -> int:
    try:
        wanted = operator.index(k)
    except TypeError as error:
        raise InputError(f"k is {k!r}, wanted a whole number of regions") from error
    if isinstance(k, (bool, np.bool_)):
        raise InputError(f"k is {k!r}, wanted a whole number of regions")
    if wanted < 2:
        raise InputError(f"k is {wanted}, wanted 2 or more: one region is the whole image")
    most = min(patches, MAX_CLUSTERS)
    if wanted > most:
        raise InputError(
            f"k is {wanted}, wanted at most {most}: "
            + (
                f"the image has {patches} patches"
                if patches < MAX_CLUSTERS
                else f"a mask has {MAX_CLUSTERS} values beside 0"
            )
        )
    return wanted
