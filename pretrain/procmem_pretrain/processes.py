"""Images from images: the procedural processes of the paper, batched on any torch device.

Takes uint8 images of a `pool.py`, gives float images in [0, 1] to `crops.py`. Names and rules are
those of "Separating Knowledge and Perception with Procedural Data" (ICML 2025, section 3 and its
appendix): `shaders`, `shaders-mixup`, `shaders-kml`, `shaders-kml-mixup`.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from procmem.errors import InputError, unknown_choice

PROCESSES = ("shaders", "shaders-mixup", "shaders-kml", "shaders-kml-mixup")

# Paper: "Shaders Mixup" is a weighted sum of six images.
MIXUP_IMAGES = 6
# Paper: masks come from K-means with K = 2 on a 256 x 256 image, three Lloyd iterations.
KML_SIDE = 256
KML_ITERATIONS = 3


def draw(
    process: str,
    images: Tensor,
    count: int,
    *,
    random: np.random.Generator,
    kml_side: int = KML_SIDE,
) -> Tensor:
    """Draws `count` images of a process from a pool.

    Args:
        process: one of `PROCESSES`.
        images: (P, 3, S, S) uint8 pool, on any device.
        count: B, 1 or more.
        random: decides which pool images and which weights; nothing else is random.
        kml_side: side at which K-means runs; 256 is the paper's, smaller is faster.

    Returns:
        (B, 3, S, S) float32 in [0, 1] on the pool's device.

    Raises:
        InputError: unknown process, count below 1, or a pool of another form.
    """
    if process not in PROCESSES:
        raise unknown_choice("process", process, PROCESSES)
    if count < 1:
        raise InputError(f"count is {count}, wanted 1 or more")
    if images.ndim != 4 or images.shape[1] != 3 or images.dtype != torch.uint8 or not len(images):
        raise InputError(
            f"pool has shape {tuple(images.shape)} and {images.dtype}, wanted (P, 3, S, S) uint8"
        )
    if process == "shaders":
        return _take(images, count, random)
    if process == "shaders-mixup":
        return mixup(_groups(images, count, MIXUP_IMAGES, random), random=random)
    if process == "shaders-kml":
        return _draw_kml(images, count, random, kml_side)
    # Paper: "Shaders KML Mixup" is the plain mean of two KML images.
    pair = _draw_kml(images, 2 * count, random, kml_side)
    return 0.5 * (pair[:count] + pair[count:])


def mixup(groups: Tensor, *, random: np.random.Generator) -> Tensor:
    """Weighted sum over a group, weights U(0, 1) normalized to sum 1 (paper, Shaders Mixup).

    Args:
        groups: (B, M, 3, S, S) float32.
        random: draws the weights.

    Returns:
        (B, 3, S, S) float32.
    """
    drawn = random.uniform(0.0, 1.0, groups.shape[:2]).astype(np.float32)
    weights = torch.from_numpy(drawn / drawn.sum(axis=1, keepdims=True)).to(groups.device)
    return torch.einsum("bm,bmchw->bchw", weights, groups)


def kml_mask(images: Tensor, *, side: int = KML_SIDE) -> Tensor:
    """Soft masks from K-means in color space (paper, K-Means Leaves).

    Resize to side x side; K = 2 in RGB in [0, 1], initial centroids the lexicographically first
    and last color, three Lloyd iterations; mask = (label 0); 3 x 3 box blur; bilinear resize to
    the images' size; 3 x 3 box blur.

    Args:
        images: (B, 3, S, S) float32 in [0, 1]. An image of one color gives a mask of ones.
        side: where K-means runs, pixels.

    Returns:
        (B, 1, S, S) float32 in [0, 1].
    """
    count, _, height, width = images.shape
    small = functional.interpolate(
        images, size=(side, side), mode="bilinear", antialias=True, align_corners=False
    )
    pixels = small.clamp(0, 1).flatten(2)  # (B, 3, side * side)
    # A color as one integer orders colors lexicographically; 8 bits a channel, as in the files
    # that the paper's procedure reads.
    levels = (pixels * 255).round().to(torch.int32)
    key = (levels[:, 0] << 16) + (levels[:, 1] << 8) + levels[:, 2]  # (B, side * side)
    first, last = key.argmin(dim=1), key.argmax(dim=1)
    rows = torch.arange(count, device=images.device)
    low, high = pixels[rows, :, first], pixels[rows, :, last]  # (B, 3) each
    for _ in range(KML_ITERATIONS):
        nearer_low = _nearer(pixels, low, high)
        weight = nearer_low.to(pixels.dtype).unsqueeze(1)  # (B, 1, side * side)
        low = _mean_where(pixels, weight, low)
        high = _mean_where(pixels, 1 - weight, high)
    mask = _nearer(pixels, low, high).to(images.dtype).reshape(count, 1, side, side)
    mask = _box_blur(mask)
    mask = functional.interpolate(mask, size=(height, width), mode="bilinear", align_corners=False)
    return _box_blur(mask)


def _nearer(pixels: Tensor, low: Tensor, high: Tensor) -> Tensor:
    # |x - a|^2 <= |x - b|^2 is a half-space test: one product instead of two distances.
    direction = (high - low).unsqueeze(1)  # (B, 1, 3)
    middle = ((high * high).sum(1) - (low * low).sum(1)).unsqueeze(1) / 2  # (B, 1)
    return torch.bmm(direction, pixels).squeeze(1) <= middle


def _mean_where(pixels: Tensor, weight: Tensor, fallback: Tensor) -> Tensor:
    total = weight.sum(dim=2)  # (B, 1)
    mean = (pixels * weight).sum(dim=2) / total.clamp(min=1)
    return torch.where(total > 0, mean, fallback)  # an empty cluster keeps its centroid


def _box_blur(mask: Tensor) -> Tensor:
    return functional.avg_pool2d(functional.pad(mask, (1, 1, 1, 1), mode="replicate"), 3, stride=1)


def _take(images: Tensor, count: int, random: np.random.Generator) -> Tensor:
    chosen = torch.from_numpy(random.integers(0, len(images), count)).to(images.device)
    return images[chosen].float().div_(255)


def _groups(images: Tensor, count: int, size: int, random: np.random.Generator) -> Tensor:
    taken = _take(images, count * size, random)
    return taken.reshape(count, size, *taken.shape[1:])


def _draw_kml(images: Tensor, count: int, random: np.random.Generator, side: int) -> Tensor:
    # Paper: s2 and s3 are drawn with replacement. The pool holds no image of one color, so that
    # the redraw of a one-color s1 has happened when the pool was rendered.
    leaves = _groups(images, count, 3, random)  # (B, 3 images, 3, S, S)
    mask = kml_mask(leaves[:, 0], side=side)
    return mask * leaves[:, 1] + (1 - mask) * leaves[:, 2]
