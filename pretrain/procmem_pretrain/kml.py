"""K-Means Leaves: one image cuts two others along its colors.

Takes float images of a source in `processes.py`, gives soft masks and mixed images to it. The rule
is the paper's ("Separating Knowledge and Perception with Procedural Data", ICML 2025, section 3
and appendix), batched on the CPU and on a GPU.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

MASK_SIDE = 256
"""Side of the image that K-means sees (paper)."""

ITERATIONS = 3
"""Lloyd iterations (paper)."""

# Pixels that K-means sees at a time on the CPU: they and their labels stay in a core's cache, and
# are enough that calling an operation costs little beside it. On a GPU all go at once.
_CPU_PIXELS = 2**16


def kml_mask(images: Tensor, *, side: int = MASK_SIDE) -> tuple[Tensor, Tensor]:
    """Soft masks from K-means in color space.

    Resize to side x side (bilinear with antialiasing, as PIL does); K = 2 in RGB in [0, 1],
    initial centroids the lexicographically first and last color of the 8-bit image, three Lloyd
    iterations; mask = (label 0); 3 x 3 box blur; bilinear resize to the images' size; 3 x 3 box
    blur.

    Args:
        images: (B, 3, S, S) float32 in [0, 1].
        side: where K-means runs, pixels.

    Returns:
        masks (B, 1, S, S) float32 in [0, 1], and (B,) bool: True for images of one color, whose
        mask is 1 everywhere.
    """
    step = len(images)
    if images.device.type == "cpu":
        step = max(1, _CPU_PIXELS // side**2)
    parts = [_masks(part, side) for part in torch.split(images, step)]
    return torch.cat([mask for mask, _ in parts]), torch.cat([plain for _, plain in parts])


def _masks(images: Tensor, side: int) -> tuple[Tensor, Tensor]:
    count, _, height, width = images.shape
    pixels, key = _pixels(images, side)
    first, last = key.argmin(dim=1), key.argmax(dim=1)
    rows = torch.arange(count, device=images.device)
    low, high = pixels[rows, :, first], pixels[rows, :, last]  # (B, 3) each
    plain = key[rows, first] == key[rows, last]
    total, size = pixels.sum(dim=2), pixels.shape[2]
    for _ in range(ITERATIONS):
        label = _nearer_low(pixels, low, high)  # (B, P) 1.0 or 0.0
        # A product and a sum: on the CPU five times as fast as a batched matrix product.
        sum_low = (pixels * label.unsqueeze(1)).sum(dim=2)  # (B, 3)
        weight = label.sum(dim=1, keepdim=True)
        # An empty cluster keeps its centroid; the other cluster is what is left of the total.
        low = torch.where(weight > 0, sum_low / weight.clamp(min=1), low)
        high = torch.where(weight < size, (total - sum_low) / (size - weight).clamp(min=1), high)
    mask = _box_blur(_nearer_low(pixels, low, high).reshape(count, 1, side, side))
    if (side, side) != (height, width):
        mask = functional.interpolate(mask, size=(height, width), mode="bilinear")
    return _box_blur(mask), plain


def _pixels(images: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Pixels (B, 3, P) float32 at K-means' size, and their colors (B, P) in lexicographic order."""
    if images.shape[-2:] != (side, side):
        images = functional.interpolate(
            images, size=(side, side), mode="bilinear", antialias=True, align_corners=False
        )
    # 8 bits a channel, as a resized picture has. A float32 holds the 24 bits of a color exactly.
    levels = (images.flatten(2) * 255).round_().clamp_(0, 255)
    key = levels[:, 0] * 65536 + levels[:, 1] * 256 + levels[:, 2]
    return levels.div_(255), key


def _nearer_low(pixels: Tensor, low: Tensor, high: Tensor) -> Tensor:
    # |x - a|^2 <= |x - b|^2 is a half-space test: one product instead of two distances.
    direction = (high - low).unsqueeze(1)  # (B, 1, 3)
    middle = ((high * high).sum(1) - (low * low).sum(1)).unsqueeze(1) / 2  # (B, 1)
    return (torch.bmm(direction, pixels).squeeze(1) <= middle).to(pixels.dtype)


def _box_blur(mask: Tensor) -> Tensor:
    # Separable; the border repeats its pixels.
    padded = functional.pad(mask, (1, 1, 1, 1), mode="replicate")
    rows = padded[:, :, :-2] + padded[:, :, 1:-1]
    rows += padded[:, :, 2:]
    blurred = rows[..., :-2] + rows[..., 1:-1]
    blurred += rows[..., 2:]
    return blurred.mul_(1 / 9)
