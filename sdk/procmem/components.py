"""Patch tokens to colors: the three directions in which the patches of images differ most.

Takes patch tokens from `embedder.py`, gives RGB maps. Nothing is taught and nothing is kept: like
colors are patches that the model finds alike, and a color by itself has no name. Colors compare
within the images of one call only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from procmem.errors import InputError
from procmem.tokens import bilinear, check_finite, check_size, check_tokens, stretch

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
UInt8 = npt.NDArray[np.uint8]

COMPONENTS = 3

PAPER_SIDE = 112
"""Positions along a side at which the published procedure looks at features."""

# A direction with less than this share of the largest variance holds rounding and nothing else.
_NOISE = 1e-12
_GRAY = 0.5
_ELEMENTS_AT_ONCE = 1 << 22


def pca_map(tokens: Float32, *, size: tuple[int, int]) -> UInt8:
    """Paints an image by the first three principal components of its patch tokens.

    The published procedure ("Separating Knowledge and Perception with Procedural Data", PCA maps):
    tokens stretched bilinearly to 112 x 112 (or to their grid, if that is finer), components of
    all these positions, each scaled from its smallest value to its largest. The sign of a component
    is the one that makes the largest weight of its direction positive.

    Args:
        tokens: (h, w, P) float32 patch tokens, of any memory layout.
        size: (H, W) of the image, pixels.

    Returns:
        (H, W, 3) uint8: first component red, second green, third blue. A component in which the
        patches do not differ is 128 everywhere, so that equal tokens give one gray.

    Raises:
        InputError: no patch tokens, numbers that are not finite, or a size below 1x1.
    """
    return pca_maps([tokens], sizes=[size])[0]


def pca_maps(tokens: Sequence[Float32], *, sizes: Sequence[tuple[int, int]]) -> tuple[UInt8, ...]:
    """Paints several images in one space of colors: like colors are like patches in all of them.

    Components and their smallest and largest values are those of all images together; else as
    `pca_map`, also in what is raised.

    Args:
        tokens: of each image, (h, w, P) float32, all of one model.
        sizes: (H, W) of each image, pixels.

    Returns:
        A map for each image, in their order.

    Raises:
        InputError: no image, tokens of different widths, or not one size for each.
    """
    if not tokens or len(tokens) != len(sizes):
        raise InputError(
            f"{len(tokens)} images with {len(sizes)} sizes, wanted at least one image and a size "
            "for each"
        )
    for number, (one, size) in enumerate(zip(tokens, sizes, strict=True)):
        name = f"tokens[{number}]" if len(tokens) > 1 else "tokens"
        check_tokens(one, name)
        check_finite(one, name)
        check_size(size)
        if one.shape[2] != tokens[0].shape[2]:
            raise InputError(
                f"{name} has patch tokens of width {one.shape[2]}, the first image "
                f"{tokens[0].shape[2]}; embed all with the same model"
            )
    side = max(PAPER_SIDE, *(max(one.shape[:2]) for one in tokens))
    projected = principal_components(tokens, side=side)
    low = np.min([one.min(axis=(0, 1)) for one in projected], axis=0)
    high = np.max([one.max(axis=(0, 1)) for one in projected], axis=0)
    span = np.where(high > low, high - low, 1.0)
    return tuple(
        _painted(np.where(high > low, (one - low) / span, _GRAY), size)
        for one, size in zip(projected, sizes, strict=True)
    )


def principal_components(tokens: Sequence[Float32], *, side: int) -> list[Float64]:
    """Projects features on the three directions of largest variance over all of them.

    Features are patch tokens stretched bilinearly to side x side positions, all of which count.

    Args:
        tokens: (h, w, P) float32 each, finite, at least one, all of one width.
        side: positions along a side.

    Returns:
        (side, side, 3) each, with mean 0 over all images, the direction of largest variance first.
        A direction that is missing (P below 3) or has no variance beyond rounding is exactly 0.
    """
    width = tokens[0].shape[2]
    # Powers of two change no digit, and keep what is largest or smallest in float32 from leaving
    # the range of float64 in products.
    largest = max(float(np.abs(one).max()) for one in tokens)
    scale = 2.0 ** -float(np.frexp(largest)[1])

    wide = [scale * one.astype(np.float64) for one in tokens]
    # Stretching is linear: sums over side x side positions are sums over the tokens, weighted.
    operators = [(_stretching(one.shape[0], side), _stretching(one.shape[1], side)) for one in wide]
    mean = sum(
        np.einsum("i,j,ijp->p", down.mean(axis=0), along.mean(axis=0), one)
        for one, (down, along) in zip(wide, operators, strict=True)
    ) / len(wide)
    scatter = np.zeros((width, width))
    for one, (down, along) in zip(wide, operators, strict=True):
        centered = one - mean
        weighted = np.tensordot(down.T @ down, centered, axes=1)  # (h, w, P)
        weighted = (along.T @ along) @ weighted
        scatter += centered.reshape(-1, width).T @ weighted.reshape(-1, width)
    variances, vectors = np.linalg.eigh(scatter)  # ascending
    directions = np.zeros((width, COMPONENTS))
    for number in range(min(width, COMPONENTS)):
        if variances[-1 - number] > _NOISE * max(variances[-1], _NOISE * width):
            direction = vectors[:, -1 - number]
            directions[:, number] = direction * np.sign(direction[np.argmax(np.abs(direction))])
    return [stretch((one - mean) @ directions / scale, (side, side)) for one in wide]


def _stretching(source: int, target: int) -> Float64:
    """(target, source): the matrix of `tokens.stretch` along one axis."""
    first, second, share = bilinear(source, target)
    matrix = np.zeros((target, source))
    rows = np.arange(target)
    np.add.at(matrix, (rows, first), 1.0 - share.astype(np.float64))
    np.add.at(matrix, (rows, second), share.astype(np.float64))
    return matrix


def _painted(colors: Float64, size: tuple[int, int]) -> UInt8:
    """(h, w, 3) in [0, 1] as pixels of an image of that size, in bands of bounded memory."""
    height, width = size
    painted = np.empty((height, width, COMPONENTS), dtype=np.uint8)
    band = max(1, _ELEMENTS_AT_ONCE // (COMPONENTS * max(width, colors.shape[1])))
    for start in range(0, height, band):
        rows = slice(start, min(start + band, height))
        painted[rows] = np.floor(255 * stretch(colors, size, rows=rows) + 0.5)
    return painted
