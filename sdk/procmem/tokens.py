"""Patch tokens as a grid: checked, of unit length, stretched to the pixels of an image.

Takes (h, w, P) patch tokens from `embedder.py`; serves the taught methods (`segment.py`) and the
untaught ones (`components.py`, `clusters.py`, `correspondences.py`). Plain arithmetic; never knows
what a class or a cluster is.

Geometry: the model sees a whole image squashed to S x S pixels, as an h x w grid of square patches.
Every patch stands for the rectangle of the image that was squashed into it, of H / h by W / w
pixels. Pixels and patches are areas, so that stretching aligns the borders of both grids and not
the centers of their corners.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from procmem.errors import InputError
from procmem.types import Regions

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
UInt8 = npt.NDArray[np.uint8]
Grid = tuple[int, int]  # (h, w)

# Bounds the working memory of the stretching, in array elements.
_ELEMENTS_AT_ONCE = 1 << 22


def check_tokens(tokens: Float32, name: str) -> Grid:
    """The (h, w) of patch tokens.

    Args:
        tokens: (h, w, P) float32; any memory layout.
        name: of the argument, for the message.

    Raises:
        InputError: another kind of array, none at all, or no patch.
    """
    if not isinstance(tokens, np.ndarray):
        raise InputError(
            f"{name} is a {type(tokens).__name__}, wanted patch tokens: a float32 array (h, w, P), "
            "as Embedding.patches holds them"
        )
    if tokens.ndim != 3 or tokens.dtype != np.float32 or 0 in tokens.shape:
        raise InputError(
            f"{name} has patch tokens of dtype {tokens.dtype} and shape {tokens.shape}, "
            "wanted float32 (h, w, P), as Embedding.patches holds them"
        )
    return tokens.shape[0], tokens.shape[1]


def check_finite(tokens: Float32, name: str) -> None:
    """Raises InputError if a token holds NaN or an infinity; the message says where."""
    bad = np.argwhere(~np.isfinite(tokens))
    if len(bad):
        row, column, _ = bad[0].tolist()
        raise InputError(
            f"{name} has numbers that are not finite, the first in the patch at row {row}, column "
            f"{column}; embed the image again, or check the model with `procmem doctor`"
        )


def check_size(size: tuple[int, int]) -> None:
    """Raises InputError unless `size` is (H, W) of at least one pixel."""
    height, width = size
    if height < 1 or width < 1:
        raise InputError(f"size is {height}x{width} (height x width), wanted at least 1x1")


def unit_rows(rows: npt.NDArray[np.floating]) -> Float32:
    """Each row divided by its length; a row of zeros stays zeros, alike to nothing."""
    with np.errstate(invalid="ignore"):  # patchsim refuses what is not finite, and says where
        lengths = np.sqrt(np.square(rows, dtype=np.float64).sum(axis=1, keepdims=True))
        unit: Float32 = (rows / np.where(lengths == 0.0, 1.0, lengths)).astype(np.float32)
    return unit


def flat_unit(tokens: Float32, name: str) -> Float32:
    """(h, w, P) tokens of any layout as (h * w, P) unit vectors, C-contiguous, row-major.

    Raises:
        InputError: see `check_tokens` and `check_finite`.
    """
    check_tokens(tokens, name)
    check_finite(tokens, name)
    return unit_rows(np.ascontiguousarray(tokens.reshape(-1, tokens.shape[2])))


def nearest(source: int, target: int) -> npt.NDArray[np.intp]:
    """For each of `target` pixels the one of `source` pixels that its center falls into."""
    return (2 * np.arange(target, dtype=np.intp) + 1) * source // (2 * target)


def bilinear(
    source: int, target: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], Float32]:
    """The two source pixels around each target pixel's center, and the share of the second."""
    centers = (np.arange(target) + 0.5) * (source / target) - 0.5
    centers = np.clip(centers, 0, source - 1)
    first = np.floor(centers).astype(np.intp)
    second = np.minimum(first + 1, source - 1)
    return first, second, (centers - first).astype(np.float32)


def stretch(
    planes: npt.NDArray[np.floating], size: tuple[int, int], *, rows: slice = slice(None)
) -> Float64:
    """(h, w, C) values at another size (H, W, C), bilinear, in float64.

    Equal neighbors stay exactly equal in between. `rows` gives only these of the H rows, so that
    a large image can be made in bands.
    """
    top, bottom, down = bilinear(planes.shape[0], size[0])
    left, right, along = bilinear(planes.shape[1], size[1])
    upper, lower = planes[top[rows]].astype(np.float64), planes[bottom[rows]]
    lines = upper + (lower - upper) * down[rows, None, None]
    first = lines[:, left]
    stretched: Float64 = first + (lines[:, right] - first) * along[:, None]
    return stretched


def regions_of(shares: Float32, grid: Grid, labels: UInt8, size: tuple[int, int]) -> Regions:
    """Assembles shares into the grid, stretches them and lets the largest win.

    Args:
        shares: (h * w, C, p, p) float32 in [0, 1], of each class in the p x p cells of each patch.
        grid: (h, w).
        labels: (C,) uint8, the values of the classes, ascending; equal shares go to the first.
        size: (H, W) of the image, pixels.

    Returns:
        Regions at (H, W); `confidence` is the share that won.

    Raises:
        InputError: `size` is below 1x1.
    """
    h, w = grid
    _, classes, patch, _ = shares.shape
    planes = shares.reshape(h, w, classes, patch, patch).transpose(2, 0, 3, 1, 4)
    planes = planes.reshape(classes, h * patch, w * patch)
    height, width = size
    check_size(size)
    top, bottom, down = bilinear(h * patch, height)
    left, right, along = bilinear(w * patch, width)
    mask = np.empty((height, width), dtype=np.uint8)
    confidence = np.empty((height, width), dtype=np.float32)
    best = np.full((height, width), -1.0, dtype=np.float32)
    band = max(1, _ELEMENTS_AT_ONCE // max(width, w * patch))
    for plane, label in zip(planes, labels, strict=True):
        # Along the rows first: picking columns is what costs, and there are no more rows yet.
        lines = plane[:, left]
        lines += (plane[:, right] - lines) * along
        for start in range(0, height, band):
            rows = slice(start, min(start + band, height))
            upper = lines[top[rows]]
            share = upper + (lines[bottom[rows]] - upper) * down[rows, None]
            # Strictly larger only: labels ascend, so an equal share stays with the smaller value.
            better = share > best[rows]
            best[rows][better] = share[better]
            mask[rows][better] = label
    np.clip(best, 0.0, 1.0, out=confidence)
    return Regions(mask=mask, labels=tuple(int(label) for label in labels), confidence=confidence)
