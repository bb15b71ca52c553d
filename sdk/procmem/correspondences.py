"""Patch tokens of two images to pairs of places: what in one image is what in the other.

Takes patch tokens from `embedder.py`, gives `Correspondences`; the similarities come from
`patchsim.py`. Nothing is taught and nothing is kept. Knows no geometry: pairs need not agree on a
motion.
"""

from __future__ import annotations

import operator
from typing import SupportsIndex

import numpy as np
import numpy.typing as npt

from procmem.errors import InputError
from procmem.patchsim import top_k
from procmem.tokens import Grid, check_size, check_tokens, flat_unit
from procmem.types import Correspondences

Float32 = npt.NDArray[np.float32]


def correspondences(
    tokens_a: Float32,
    tokens_b: Float32,
    *,
    size_a: tuple[int, int],
    size_b: tuple[int, int],
    limit: SupportsIndex | None = None,
) -> Correspondences:
    """Pairs the patches of two images that are each other's nearest.

    A patch of equals has the first of them in reading order as its nearest, so that a plain wall
    gives one pair and not a bundle.

    Args:
        tokens_a: (h, w, P) float32 patch tokens of the one image, of any memory layout.
        tokens_b: of the other; the grids may differ.
        size_a: (H, W) of the one image, pixels.
        size_b: of the other.
        limit: at most so many pairs, at least 1; None for all.

    Returns:
        See `Correspondences`; largest cosine first, equal ones in reading order of the one image.
        At least one pair.

    Raises:
        InputError: no patch tokens, tokens of different widths, numbers that are not finite, a
            size below 1x1, or a limit below 1.
    """
    grid_a, grid_b = check_tokens(tokens_a, "tokens_a"), check_tokens(tokens_b, "tokens_b")
    if tokens_a.shape[2] != tokens_b.shape[2]:
        raise InputError(
            f"tokens_a has patch tokens of width {tokens_a.shape[2]}, tokens_b "
            f"{tokens_b.shape[2]}; embed both with the same model"
        )
    check_size(size_a)
    check_size(size_b)
    most = _check_limit(limit)
    rows_a, rows_b = flat_unit(tokens_a, "tokens_a"), flat_unit(tokens_b, "tokens_b")
    there, cosines = top_k(rows_a, rows_b, 1)  # (h * w, 1)
    back, _ = top_k(rows_b, rows_a, 1)
    mutual = np.flatnonzero(back[there[:, 0], 0] == np.arange(len(rows_a)))
    order = mutual[np.argsort(-cosines[mutual, 0], kind="stable")][:most]
    return Correspondences(
        points_a=_centers(order, grid_a, size_a),
        points_b=_centers(there[order, 0], grid_b, size_b),
        # Rounding may take a product of unit vectors just past 1.
        similarities=np.clip(cosines[order, 0], -1.0, 1.0),
    )


def _centers(patches: npt.NDArray[np.integer], grid: Grid, size: tuple[int, int]) -> Float32:
    """(K, 2) x and y of the patches' centers, on the image; whole numbers are centers of pixels."""
    h, w = grid
    rows, columns = np.divmod(patches, w)
    x = (columns + 0.5) * (size[1] / w) - 0.5
    y = (rows + 0.5) * (size[0] / h) - 0.5
    return np.stack([x, y], axis=1).astype(np.float32)


def _check_limit(limit: SupportsIndex | None) -> int | None:
    if limit is None:
        return None
    try:
        number = operator.index(limit)
    except TypeError as error:
        raise InputError(f"limit is {limit!r}, wanted a whole number or None") from error
    if isinstance(limit, (bool, np.bool_)) or number < 1:
        raise InputError(f"limit is {limit!r}, wanted 1 or more, or None for all")
    return number
