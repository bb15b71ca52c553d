"""Patch tokens and masks to regions: which pixels are like which taught pixels.

Takes patch tokens from `embedder.py` and masks from the user or the vault, gives `Regions`; the
similarities come from `patchsim.py`, the geometry from `tokens.py`. These are the methods that are
taught; what can be seen without masks is in `components.py`, `clusters.py`, `correspondences.py`.
Pure arithmetic on arrays: never loads a model, never touches a file, and never learns anything.
Every rule is a weighted vote of remembered patches, each with the pixels of its own mask, so that a
region is forgotten with its patches.

A mask follows its image: squashed to S x S by nearest neighbor, S = h * p = w * p, and cut into the
p x p pixels of each patch. The answer is stretched back to the image's own (H, W).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from procmem.errors import InputError, unknown_choice
from procmem.patchsim import mix, top_k
from procmem.tokens import check_tokens, nearest, regions_of, unit_rows
from procmem.types import Regions

Float32 = npt.NDArray[np.float32]
UInt8 = npt.NDArray[np.uint8]

PROTOCOLS = ("exact", "paper")
"""The default rules, and the published ones to the letter."""

# Bounds the working memory of the vote, in array elements.
_ELEMENTS_AT_ONCE = 1 << 22


def check_protocol(protocol: str) -> None:
    """Raises InputError unless `protocol` is one of `PROTOCOLS`; the message offers the nearest."""
    if protocol not in PROTOCOLS:
        raise unknown_choice("protocol", protocol, PROTOCOLS)


def square_mask(mask: UInt8, side: int) -> UInt8:
    """An (H, W) mask at (side, side), every pixel the value of the nearest one of `mask`."""
    rows, columns = (nearest(length, side) for length in mask.shape)
    square: UInt8 = mask[rows[:, None], columns[None, :]]
    return square


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
    fitted = square_mask(array.astype(np.uint8), side)
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
    ignore: int | None = None,
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
        ignore: a mask value that nobody judged. Patches of nothing else do not vote; in the others
            its pixels take the patch's most frequent judged value, of equals the smaller.

    Returns:
        Regions at (H, W). `labels` are the other values in the prompts' masks; equal shares go to
        the smaller value.

    Raises:
        InputError: no prompt, shapes that do not fit, masks with one value only, an unknown
            protocol, or tokens that are not finite.
    """
    check_protocol(protocol)
    _check_temperature(temperature)
    grid = check_tokens(query, "query")
    if not prompts:
        raise InputError("prompts are empty, wanted at least one pair of patches and mask")
    patch = _patch_side(prompts[0])
    tokens = []
    pixels = []
    for number, (patches, mask) in enumerate(prompts):
        h, w = check_tokens(patches, f"prompt {number}")
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
    keys = np.concatenate(tokens)  # (N, P)
    if ignore is not None:
        keys, taught = judged(keys, taught, ignore)
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
    keys = np.ascontiguousarray(keys)
    queries = np.ascontiguousarray(query.reshape(grid[0] * grid[1], -1))  # (Q, P)
    if protocol == "exact":
        keys, queries, scale = unit_rows(keys), unit_rows(queries), 1.0 / temperature
    else:
        scale = 1.0 / query.shape[2]
    shares = _mixed_pixels(queries, keys, taught, labels, scale=scale)
    return regions_of(shares, grid, labels, size)


def judged(keys: Float32, pixels: UInt8, ignore: int) -> tuple[Float32, UInt8]:
    """The patches that hold a value other than `ignore`, and only such values.

    Args:
        keys: (N, P).
        pixels: (N, p, p), of each of them.
        ignore: what counts nowhere, 0 to 255.

    Returns:
        (n, P) and (n, p, p); pixels of `ignore` have become the value that most of the others in
        their patch have.

    Raises:
        InputError: no such value, or nothing is left.
    """
    whole = isinstance(ignore, (int, np.integer)) and not isinstance(ignore, bool)
    if not whole or not 0 <= ignore <= 255:
        raise InputError(f"ignore is {ignore!r}, wanted a mask value from 0 to 255")
    useful = (pixels != ignore).any(axis=(1, 2))
    if not useful.any():
        raise InputError(
            f"the prompt's masks are {ignore} everywhere, which is ignored; paint what to find and "
            "what not to find"
        )
    keys, pixels = keys[useful], pixels[useful]
    values = np.setdiff1d(pixels, ignore)
    counts = np.stack([(pixels == value).sum(axis=(1, 2)) for value in values], axis=1)
    usual = values[counts.argmax(axis=1)]  # of equals the first, which is the smaller
    return keys, np.where(pixels == ignore, usual[:, None, None], pixels)


def _mixed_pixels(
    queries: Float32, keys: Float32, pixels: UInt8, labels: UInt8, *, scale: float
) -> Float32:
    """Shares (Q, C, p, p) of the pixels (N, p, p) of all keys, by softmax(scale * query . key).

    Most patches are of one class throughout: those vote once for it. What is left of the vote goes
    to the others, among which it is shared pixel by pixel.
    """
    count, classes, patch = len(keys), len(labels), pixels.shape[1]
    flat = pixels.reshape(count, patch * patch)
    is_split = (flat != flat[:, :1]).any(axis=1)
    votes = np.zeros((count, classes + 1), dtype=np.float32)
    votes[np.arange(count), np.where(is_split, classes, np.searchsorted(labels, flat[:, 0]))] = 1
    mixed = mix(queries, keys, votes, scale=scale)  # (Q, C + 1)
    shares = np.repeat(mixed[:, :classes, None], patch * patch, axis=2)
    if is_split.any():
        split = np.ascontiguousarray(keys[is_split])
        values = (flat[is_split][:, None] == labels[:, None]).astype(np.float32)  # (n, C, p * p)
        within = mix(queries, split, values.reshape(len(split), -1), scale=scale)
        shares += mixed[:, classes:, None] * within.reshape(shares.shape)
    return shares.reshape(-1, classes, patch, patch)


def from_memory(
    query: Float32,
    bank_patches: Float32 | npt.NDArray[np.float16],
    bank_masks: UInt8,
    *,
    size: tuple[int, int],
    protocol: Literal["exact", "paper"] = "exact",
    bank_length: float = 1.0,
    k: int = 30,
    temperature: float = 0.02,
) -> Regions:
    """Segments an image by everything remembered.

    "exact" and its defaults are the rule of Hummingbird ("Towards In-context Scene Understanding",
    2023): softmax(cosine / temperature) over the k nearest patches, each voting with its mask's
    pixels. "paper" is the published rule ("Separating Knowledge and Perception with Procedural
    Data", k-NN segmentation): softmax of (z . z') / sqrt(P) over all remembered patches, P = 384
    for ViT-S, with one class per patch (a mask of h x w) and the shares stretched bilinearly.
    One pass over the bank.

    Args:
        query: (h, w, P) float32 patch tokens, not normalized.
        bank_patches: (M, P) float32 or float16, C-contiguous. For "exact" unit vectors, which is
            not checked; for "paper" tokens as they come, or unit vectors and `bank_length`.
        bank_masks: (M, p, p) uint8, the mask pixels of each bank patch. "paper" looks only at the
            one at the center: a mask of h x w, by nearest neighbor.
        size: (H, W) of the query's image, pixels.
        protocol: "exact" or "paper".
        bank_length: by which the bank's patches are to be multiplied, see `mean_length`. Only for
            "paper".
        k: how many patches vote, at least 1; all of them if the bank has fewer. Only for "exact".
        temperature: of the softmax. Only for "exact".

    Returns:
        Regions at (H, W). `labels` are the values that got a vote; equal shares go to the smaller
        value.

    Raises:
        InputError: an empty bank, shapes that do not fit, an unknown protocol, or values that are
            not finite.
    """
    check_protocol(protocol)
    _check_temperature(temperature)
    grid = check_tokens(query, "query")
    _check_bank(bank_patches, bank_masks)
    queries = np.ascontiguousarray(query.reshape(grid[0] * grid[1], -1))
    if protocol == "exact":
        shares, labels = _nearest_vote(
            unit_rows(queries), bank_patches, bank_masks, k=k, temperature=temperature
        )
    else:
        center = bank_masks.shape[1] // 2
        classes = bank_masks[:, center, center]  # (M,)
        labels = np.unique(classes)
        values = (classes[:, None] == labels).astype(np.float32)  # (M, C)
        scale = bank_length / math.sqrt(query.shape[2])
        mixed = mix(queries, bank_patches, values, scale=scale)
        shares = mixed[:, :, None, None]
    return regions_of(shares, grid, labels, size)


def mean_length(tokens: Float32) -> float:
    """The mean length of patch tokens (h, w, P).

    A vault keeps the direction of a token and not its length. A final layer norm makes the lengths
    of all tokens of a model nearly equal (standard deviation 1.4% of the mean for the bundled
    model), so that the query's mean stands for those of what is remembered.

    Raises:
        InputError: not patch tokens.
    """
    check_tokens(tokens, "query")
    return float(np.sqrt(np.square(tokens, dtype=np.float64).sum(axis=2)).mean())


def _nearest_vote(
    queries: Float32,
    bank_patches: Float32 | npt.NDArray[np.float16],
    bank_masks: UInt8,
    *,
    k: int,
    temperature: float,
) -> tuple[Float32, UInt8]:
    """Shares (Q, C, p, p) of the k nearest, and the values (C,) that got a vote, ascending.

    Most patches are of one class throughout; only the others are looked at pixel by pixel.
    """
    patch = bank_masks.shape[1]
    indices, similarities = top_k(queries, bank_patches, k)  # (Q, K) each
    # The nearest is first, so that the largest exponent is 0.
    scores = similarities.astype(np.float64) / temperature
    weights = np.exp(scores - scores[:, :1])
    weights /= weights.sum(axis=1, keepdims=True)

    voters, voices = np.unique(indices, return_inverse=True)
    voices = voices.reshape(indices.shape)  # (Q, K) into `pixels`
    pixels = bank_masks[voters].reshape(len(voters), patch * patch)
    is_whole = (pixels == pixels[:, :1]).all(axis=1)
    seen = np.zeros(256, dtype=bool)
    seen[pixels[is_whole, 0]] = True
    seen[pixels[~is_whole]] = True
    labels = np.flatnonzero(seen).astype(np.uint8)
    classes_of = (np.cumsum(seen) - 1)[pixels]  # places among `labels`

    shares = np.empty((len(queries), len(labels), patch * patch), dtype=np.float32)
    step = max(1, _ELEMENTS_AT_ONCE // (indices.shape[1] * patch * patch))
    for start in range(0, len(queries), step):
        part = slice(start, start + step)
        shares[part] = _votes(
            voices[part], weights[part], classes_of, is_whole, classes=len(labels)
        )
    return shares.reshape(len(queries), len(labels), patch, patch), labels


def _votes(
    voices: npt.NDArray[np.intp],
    weights: npt.NDArray[np.float64],
    classes_of: npt.NDArray[np.intp],
    is_whole: npt.NDArray[np.bool_],
    *,
    classes: int,
) -> npt.NDArray[np.float64]:
    """The votes of voters (Q, K) for each class at each pixel, (Q, C, p * p).

    Args:
        voices: (Q, K) rows of `classes_of`.
        weights: (Q, K).
        classes_of: (V, p * p) in 0..C - 1.
        is_whole: (V,) which of these rows have one class only.
        classes: C.
    """
    count, size = len(voices), classes_of.shape[1]
    one, several = np.nonzero(is_whole[voices]), np.nonzero(~is_whole[voices])
    chosen = one[0] * classes + classes_of[voices[one], 0]
    whole = np.bincount(chosen, weights[one], minlength=count * classes)
    chosen = (several[0][:, None] * classes + classes_of[voices[several]]) * size
    chosen += np.arange(size)
    split = np.bincount(
        chosen.ravel(), np.repeat(weights[several], size), minlength=count * classes * size
    )
    votes = whole.reshape(count, classes, 1) + split.reshape(count, classes, size)
    return np.asarray(votes, dtype=np.float64)


def _patch_side(prompt: tuple[Float32, UInt8]) -> int:
    """How many of the first prompt's mask pixels make the side of a patch."""
    patches, mask = prompt
    h, _ = check_tokens(patches, "prompt 0")
    if mask.ndim != 2 or mask.shape[0] < h or mask.shape[0] % h:
        raise InputError(
            f"prompt 0 has a mask of shape {mask.shape} for {h} rows of patches, wanted (S, S) "
            f"with S a multiple of {h}; use fit_mask"
        )
    return int(mask.shape[0]) // h


def _check_temperature(temperature: float) -> None:
    if not (math.isfinite(temperature) and temperature > 0.0):
        raise InputError(f"temperature is {temperature}, wanted a finite number above 0")


def _check_bank(patches: npt.NDArray[np.floating], masks: UInt8) -> None:
    if (
        masks.ndim != 3
        or masks.dtype != np.uint8
        or masks.shape[1] != masks.shape[2]
        or masks.shape[1] < 1
    ):
        raise InputError(
            f"bank_masks is {masks.dtype} of shape {masks.shape}, wanted uint8 (M, p, p)"
        )
    if len(masks) != len(patches):
        raise InputError(
            f"bank_patches has {len(patches)} rows and bank_masks {len(masks)}, "
            "wanted one mask patch per row"
        )
    if len(patches) == 0:
        raise InputError(
            "the memory holds no masks to segment by; add images with masks, or give a prompt"
        )
