"""Hand-made local descriptors that the student learns to predict: orientations and colors.

Takes views of `crops.py`, gives regression targets to `losses.py`. With a small budget of images
an invariance objective alone learns slowly; a dense target teaches every patch in every step.
The idea of regressing histograms of oriented gradients is MaskFeat's (Wei et al. 2022, section 3);
the descriptor is HOG's (Dalal and Triggs 2005) without block overlap.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

ORIENTATIONS = 9
CHANNELS = ORIENTATIONS + 1 + 3  # histogram, log energy, mean color
CELL = 8

# Pixels that are described at a time on the CPU: all that is known of them stays in a core's cache,
# which halves the time.
_CPU_PIXELS = 2**18


def cell_descriptors(views: Tensor) -> Tensor:
    """Describes every 8 x 8 cell.

    Args:
        views: (B, 3, s, s) float32 in [0, 1], s a multiple of 8.

    Returns:
        (B, 13, s / 8, s / 8) float32: nine unsigned orientations (shares of the cell's gradient
        energy), its logarithm, mean RGB.
    """
    if views.device.type != "cpu":
        return _described(views)
    step = max(1, _CPU_PIXELS // (views.shape[2] * views.shape[3]))
    return torch.cat([_described(part) for part in torch.split(views, step)])


def _described(views: Tensor) -> Tensor:
    grey = views.mean(dim=1, keepdim=True)
    padded = functional.pad(grey, (1, 1, 1, 1), mode="replicate")
    dx = padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]
    dy = padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]
    # With the gradient at angle u and length m: m cos 2u and m sin 2u without a trigonometric
    # function. Each bin is a cosine lobe, cut at zero, around its orientation.
    length = (dx * dx + dy * dy + 1e-12).sqrt()
    doubled = torch.cat([(dx * dx - dy * dy) / length, 2 * dx * dy / length], dim=1)
    angles = torch.arange(ORIENTATIONS, device=views.device) * (2 * math.pi / ORIENTATIONS)
    lobes = torch.stack([angles.cos(), angles.sin()], dim=1)  # (9, 2)
    # A convolution of 1 x 1 says the same, and takes four times as long on a CPU.
    votes = (lobes @ doubled.flatten(2)).view(-1, ORIENTATIONS, *doubled.shape[2:]).relu_()
    histogram = functional.avg_pool2d(votes, CELL)
    energy = histogram.sum(dim=1, keepdim=True)
    color = functional.avg_pool2d(views, CELL)
    return torch.cat([histogram / (energy + 0.01), (energy + 0.01).log() / 2, color], dim=1)


def patch_targets(cells: Tensor) -> Tensor:
    """(B, 13, 2h, 2w) cells -> (B, h * w, 52): the four cells of every 16 x 16 patch."""
    return functional.pixel_unshuffle(cells, 2).flatten(2).transpose(1, 2)


def layout_targets(cells: Tensor, *, grid: int = 4) -> Tensor:
    """(B, 13, 2h, 2w) cells -> (B, 13 * grid * grid): what is where in the whole view."""
    return functional.adaptive_avg_pool2d(cells, grid).flatten(1)
