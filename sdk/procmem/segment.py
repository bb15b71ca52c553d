"""Patch tokens and masks to regions: which pixels are like which taught pixels.

Takes patch tokens from `embedder.py` and masks from the user or the vault, gives `Regions`; the
similarities come from `patchsim.py`. Pure arithmetic on arrays: never loads a model, never touches
a file, and never learns anything. Every rule is a weighted vote of remembered patches, each with
the pixels of its own mask, so that a region is forgotten with its patches.

Geometry: the model sees a whole image squashed to S x S pixels and cuts it into an h x w grid of
p x p patches, S = h * p = w * p. A mask follows the same way, by nearest neighbor; the answer is
stretched back to the image's own (H, W).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from procmem.errors import InputError
from procmem.patchsim import mix, top_k
from procmem.types import Regions

Float32 = npt.NDArray[np.float32]
UInt8 = npt.NDArray[np.uint8]
Grid = tuple[int, int]  # (h, w)

# Bounds the working memory of the resize and of the vote, in array elements.
_ELEMENTS_AT_ONCE = 1 << 22


def fit_mask(mask: npt.ArrayLike, *, image_size: tuple[int, int], side: int) -> UInt8:
    """Checks a user's mask and brings it to the square that the model sees.

    Args:
        mask: (H, W) boolean or integer, values in 0..255; False and True become 0 and 1.
        image_size: (H, W) of the image that the mask belongs to, pixels.
        side: S, pixels.

    Returns:
        (S, S) uint8, every pixel the value of the nearest pixel of `mask`.

    Raises:
        InputError: the mask is not of that shape, type, range or size, or its second value is so
            small that it would vanish.
    """
    try:
        array = np.asarray(mask)
    except ValueError as error:
        raise InputError(f"mask is not an array ({error}); wanted (H, W) integers") from error
    if array.ndim != 2:
        raise InputError(
            f"mask has shape {array.shape}, wanted (H, W): one class value per pixel; "
            "for a color picture pass the class values, not the colors"
        )
    if array.dtype.kind not in "biu":
        raise InputError(
            f"mask has dtype {array.dtype}, wanted boolean or integer class values in 0..255"
        )
    height, width = image_size
    if array.shape != (height, width):
        raise InputError(
            f"mask is {array.shape[0]}x{array.shape[1]} but its image is {height}x{width} "
            "(height x width); resize the mask with nearest neighbor"
        )
    if array.size == 0:
        raise InputError(f"mask is {height}x{width}, wanted at least one pixel")
    smallest, largest = int(array.min()), int(array.max())
    if smallest < 0 or largest > 255:
        raise InputError(
            f"mask has values from {smallest} to {largest}, wanted 0 to 255; renumber the classes"
        )
    rows = _nearest(height, side)
    columns = _nearest(width, side)
    fitted = array[rows[:, None], columns[None, :]].astype(np.uint8)
    if smallest != largest and fitted.min() == fitted.max():
        raise InputError(
            f"mask has values from {smallest} to {largest}, but at {side}x{side} only "
            f"{fitted.min()} is left; paint a larger region"
        )
    return fitted


def mask_patches(mask: UInt8, patch: int) -> UInt8:
    """Cuts a mask into the pixels of each patch.

    Args:
        mask: (S, S) uint8, as `fit_mask` returns it.
        patch: p, side of a patch in pixels; divides S.

    Returns:
        (h * w, p, p) uint8, row-major over the grid, in the order of the patch tokens.

    Raises:
        InputError: the mask is not 2-D uint8, or p does not divide its sides.
    """
    if mask.ndim != 2 or mask.dtype != np.uint8:
        raise InputError(
            f"mask is {mask.dtype} of shape {mask.shape}, wanted uint8 (S, S) as fit_mask returns"
        )
    if patch < 1 or mask.shape[0] % patch or mask.shape[1] % patch:
        raise InputError(f"mask has shape {mask.shape}, wanted sides that patch {patch} divides")
    h, w = mask.shape[0] // patch, mask.shape[1] // patch
    cut = mask.reshape(h, patch, w, patch).transpose(0, 2, 1, 3)  # (h, w, p, p)
    return np.ascontiguousarray(cut).reshape(h * w, patch, patch)


def in_context(
    query: Float32,
    prompts: Sequence[tuple[Float32, UInt8]],
    *,
    size: tuple[int, int],
    protocol: Literal["exact", "paper"] = "exact",
    temperature: float = 0.1,
) -> Regions:
    """Segments an image by a few examples: every patch of every example votes.

    A patch of the query takes the mask pixels of the prompt patches, weighted by a softmax over
    all prompt patches. "exact" weighs by cosine / temperature. "paper" is the published rule
    ("Separating Knowledge and Perception with Procedural Data", in-context segmentation) to the
    letter: (z1 . z2) / P on tokens as they come, where P is their width, 384 for ViT-S.

    Args:
        query: (h, w, P) float32 patch tokens, not normalized.
        prompts: pairs of patch tokens (h, w, P) float32 and mask (S, S) uint8 from `fit_mask`.
        size: (H, W) of the query's image, pixels.
        protocol: "exact" or "paper".
        temperature: of the "exact" softmax; smaller trusts the nearest patches more. The default
            is a convention of contrastive learning, not fitted to any set.

    Returns:
        Regions at (H, W). `labels` are the values in the prompts' masks; equal shares go to the
        smaller value.

    Raises:
        InputError: no prompt, shapes that do not fit, masks with one value only, an unknown
            protocol, or tokens that are not finite.
    """
    if protocol not in ("exact", "paper"):
        raise InputError(f"protocol is {protocol!r}, wanted 'exact' or 'paper'")
    _check_temperature(temperature)
    grid = _check_tokens(query, "query")
    if not prompts:
        raise InputError("prompts are empty, wanted at least one pair of patches and mask")
    patch = _patch_side(prompts[0])
    tokens = []
    pixels = []
    for number, (patches, mask) in enumerate(prompts):
        h, w = _check_tokens(patches, f"prompt {number}")
        if patches.shape[2] != query.shape[2]:
            raise InputError(
                f"prompt {number} has patch tokens of width {patches.shape[2]}, the query "
                f"{query.shape[2]}; embed both with the same model"
            )
        if mask.shape != (h * patch, w * patch):
            raise InputError(
                f"prompt {number} has a mask of shape {mask.shape} for {h}x{w} patches of "
                f"{patch} pixels, wanted {(h * patch, w * patch)}; use fit_mask"
            )
        tokens.append(patches.reshape(h * w, -1))
        pixels.append(mask_patches(mask, patch))
    taught = np.concatenate(pixels)  # (N, p, p)
    labels = np.unique(taught)
    if len(labels) == 1:
        advice = (
            "paint at least one pixel of what to find"
            if labels[0] == 0
            else "leave at least one pixel of what not to find at 0"
        )
        raise InputError(
            f"the prompt's mask has the value {labels[0]} everywhere, so that there is nothing to "
            f"tell apart; {advice}"
        )
    keys = np.ascontiguousarray(np.concatenate(tokens))  # (N, P)
    queries = np.ascontiguousarray(query.reshape(grid[0] * grid[1], -1))  # (Q, P)
    if protocol == "exact":
        keys, queries, scale = _unit_rows(keys), _unit_rows(queries), 1.0 / temperature
    else:
        scale = 1.0 / query.shape[2]
    values = (taught[:, None] == labels[None, :, None, None]).astype(np.float32)  # (N, C, p, p)
    shares = mix(queries, keys, values.reshape(len(keys), -1), scale=scale)
    return _regions(shares.reshape(-1, len(labels), patch, patch), grid, labels, size)


def from_memory(
    query: Float32,
    bank_patches: Float32,
    bank_masks: UInt8,
    *,
    size: tuple[int, int],
    k: int = 30,
    temperature: float = 0.02,
) -> Regions:
    """Segments an image by everything remembered: the k nearest patches of each patch vote.

    The rule and its defaults are those of Hummingbird ("Towards In-context Scene Understanding",
    2023): softmax(cosine / temperature) over the k nearest, each voting with its mask's pixels.
    One pass over the bank; only the k voters of each patch are gathered.

    Args:
        query: (h, w, P) float32 patch tokens, not normalized.
        bank_patches: (M, P) float32 unit vectors, C-contiguous. Their length is not checked.
        bank_masks: (M, p, p) uint8, the mask pixels of each bank patch.
        size: (H, W) of the query's image, pixels.
        k: how many patches vote, at least 1; all of them if the bank has fewer.
        temperature: of the softmax.

    Returns:
        Regions at (H, W). `labels` are the values that got a vote; equal shares go to the smaller
        value.

    Raises:
        InputError: an empty bank, shapes that do not fit, or values that are not finite.
    """
    _check_temperature(temperature)
    grid = _check_tokens(query, "query")
    if (
        bank_masks.ndim != 3
        or bank_masks.dtype != np.uint8
        or bank_masks.shape[1] != bank_masks.shape[2]
        or bank_masks.shape[1] < 1
    ):
        raise InputError(
            f"bank_masks is {bank_masks.dtype} of shape {bank_masks.shape}, wanted uint8 (M, p, p)"
        )
    if len(bank_masks) != len(bank_patches):
        raise InputError(
            f"bank_patches has {len(bank_patches)} rows and bank_masks {len(bank_masks)}, "
            "wanted one mask patch per row"
        )
    if len(bank_patches) == 0:
        raise InputError(
            "the memory holds no masks to segment by; add images with masks, or give a prompt"
        )
    patch = bank_masks.shape[1]
    queries = _unit_rows(np.ascontiguousarray(query.reshape(grid[0] * grid[1], -1)))
    indices, similarities = top_k(queries, bank_patches, k)  # (Q, K) each
    voters = np.unique(indices)
    seen = np.zeros(256, dtype=bool)
    step = max(1, _ELEMENTS_AT_ONCE // (patch * patch))
    for start in range(0, len(voters), step):
        seen[bank_masks[voters[start : start + step]]] = True
    labels = np.flatnonzero(seen).astype(np.uint8)

    # The nearest is first, so that the largest exponent is 0.
    scores = similarities.astype(np.float64) / temperature
    weights = np.exp(scores - scores[:, :1])
    weights = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    shares = np.empty((len(queries), len(labels), patch, patch), dtype=np.float32)
    step = max(1, _ELEMENTS_AT_ONCE // (indices.shape[1] * patch * patch))
    for start in range(0, len(queries), step):
        part = slice(start, start + step)
        votes = bank_masks[indices[part]]  # (q, K, p, p)
        for place, label in enumerate(labels):
            shares[part, place] = np.einsum(
                "qk,qkij->qij", weights[part], (votes == label).astype(np.float32)
            )
    return _regions(shares, grid, labels, size)


def _regions(shares: Float32, grid: Grid, labels: UInt8, size: tuple[int, int]) -> Regions:
    """Assembles (h * w, C, p, p) shares into the grid, stretches them and lets the largest win."""
    h, w = grid
    _, classes, patch, _ = shares.shape
    planes = shares.reshape(h, w, classes, patch, patch).transpose(2, 0, 3, 1, 4)
    planes = planes.reshape(classes, h * patch, w * patch)
    height, width = size
    if height < 1 or width < 1:
        raise InputError(f"size is {height}x{width} (height x width), wanted at least 1x1")
    top, bottom, down = _bilinear(h * patch, height)
    left, right, along = _bilinear(w * patch, width)
    mask = np.empty((height, width), dtype=np.uint8)
    confidence = np.empty((height, width), dtype=np.float32)
    band = max(1, _ELEMENTS_AT_ONCE // max(width, w * patch))
    for start in range(0, height, band):
        rows = slice(start, min(start + band, height))
        best = np.full((rows.stop - start, width), -1.0, dtype=np.float32)
        winner = np.zeros(best.shape, dtype=np.uint8)
        for plane, label in zip(planes, labels, strict=True):
            upper, lower = plane[top[rows]], plane[bottom[rows]]
            lines = upper + (lower - upper) * down[rows, None]
            share = lines[:, left]
            share += (lines[:, right] - share) * along
            # Strictly larger only: labels ascend, so an equal share stays with the smaller value.
            better = share > best
            best[better] = share[better]
            winner[better] = label
        mask[rows], confidence[rows] = winner, np.clip(best, 0.0, 1.0)
    return Regions(mask=mask, labels=tuple(int(label) for label in labels), confidence=confidence)


def _nearest(source: int, target: int) -> npt.NDArray[np.intp]:
    """For each of `target` pixels the one of `source` pixels that its center falls into."""
    return (2 * np.arange(target, dtype=np.intp) + 1) * source // (2 * target)


def _bilinear(
    source: int, target: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], Float32]:
    """The two source pixels around each target pixel's center, and the share of the second."""
    centers = (np.arange(target) + 0.5) * (source / target) - 0.5
    centers = np.clip(centers, 0, source - 1)
    first = np.floor(centers).astype(np.intp)
    second = np.minimum(first + 1, source - 1)
    return first, second, (centers - first).astype(np.float32)


def _unit_rows(rows: Float32) -> Float32:
    """Each row divided by its length; a row of zeros stays zeros, alike to nothing."""
    with np.errstate(invalid="ignore"):  # patchsim refuses what is not finite, and says where
        lengths = np.sqrt(np.square(rows, dtype=np.float64).sum(axis=1, keepdims=True))
        return (rows / np.where(lengths == 0.0, 1.0, lengths)).astype(np.float32)


def _patch_side(prompt: tuple[Float32, UInt8]) -> int:
    """How many of the first prompt's mask pixels make the side of a patch."""
    patches, mask = prompt
    h, _ = _check_tokens(patches, "prompt 0")
    if mask.ndim != 2 or mask.shape[0] < h or mask.shape[0] % h:
        raise InputError(
            f"prompt 0 has a mask of shape {mask.shape} for {h} rows of patches, wanted (S, S) "
            f"with S a multiple of {h}; use fit_mask"
        )
    return int(mask.shape[0]) // h


def _check_tokens(tokens: Float32, name: str) -> Grid:
    if tokens.ndim != 3 or tokens.dtype != np.float32 or 0 in tokens.shape:
        raise InputError(
            f"{name} has patch tokens of dtype {tokens.dtype} and shape {tokens.shape}, "
            "wanted float32 (h, w, P), as Embedding.patches holds them"
        )
    return tokens.shape[0], tokens.shape[1]


def _check_temperature(temperature: float) -> None:
    if not (math.isfinite(temperature) and temperature > 0.0):
        raise InputError(f"temperature is {temperature}, wanted a finite number above 0")
