"""Images -> augmented views, as batched tensor operations on the images' device.

Takes (B, 3, S, S) images of `processes.py`, gives (B, 3, s, s) views to `train.py`. The set of
operations is DINO's (Caron et al. 2021): random resized crop, flip, color jitter, grey, blur,
solarize. Every random number comes from the generator passed in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

# ITU-R 601 luma, what PIL and torchvision call greyscale.
_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True, slots=True)
class ViewConfig:
    """How one kind of view is made.

    Attributes:
        side: s, pixels; a multiple of the patch size.
        scale: smallest and largest share of the image's area in the crop (DINO: (0.4, 1) global,
            (0.05, 0.4) local).
        aspect: largest ratio of the crop's sides (torchvision's 4/3).
        flip: chance of a horizontal flip.
        jitter: strength of brightness, contrast, saturation, hue (DINO: 0.4, 0.4, 0.2, 0.1).
        jitter_chance: chance that a view is jittered at all (DINO: 0.8).
        grey: chance of greyscale (DINO: 0.2).
        blur: chance of a Gaussian blur, radius U(0.1, 2) pixels at 224 (DINO: 1.0 / 0.1 / 0.5).
        solarize: chance of inverting values above 1/2 (DINO: 0.2 on the second global view).
    """

    side: int
    scale: tuple[float, float] = (0.4, 1.0)
    aspect: float = 4 / 3
    flip: float = 0.5
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1)
    jitter_chance: float = 0.8
    grey: float = 0.2
    blur: float = 0.5
    solarize: float = 0.0


def make_view(images: Tensor, config: ViewConfig, *, random: np.random.Generator) -> Tensor:
    """One augmented view of every image.

    Args:
        images: (B, 3, S, S) float32 in [0, 1].
        config: what to do.
        random: every choice comes from here, in a fixed order.

    Returns:
        (B, 3, s, s) float32 in [0, 1].
    """
    count = len(images)
    views = resized_crop(images, _crop_boxes(config, count, random), side=config.side)
    jittered = random.random(count) < config.jitter_chance
    brightness, contrast, saturation, hue = (
        random.uniform(-strength, strength, count) * jittered for strength in config.jitter
    )
    grey = random.random(count) < config.grey
    views = adjust_color(
        views,
        brightness=_column(1 + brightness, views),
        contrast=_column(1 + contrast, views),
        saturation=_column(np.where(grey, 0.0, 1 + saturation), views),
        hue=_column(np.where(grey, 0.0, hue), views),
    )
    blurred = random.random(count) < config.blur
    radius = random.uniform(0.1, 2.0, count) * config.side / 224
    if blurred.any():
        chosen = torch.from_numpy(np.flatnonzero(blurred)).to(views.device)
        views[chosen] = gaussian_blur(views[chosen], _column(radius[blurred], views))
    solarized = torch.from_numpy(random.random(count) < config.solarize).to(views.device)
    return torch.where(solarized[:, None, None, None] & (views >= 0.5), 1 - views, views)


def resized_crop(images: Tensor, boxes: Tensor, *, side: int) -> Tensor:
    """Cuts a box out of every image and samples it to side x side, bilinear.

    Args:
        images: (B, 3, S, S) float32.
        boxes: (B, 4) float32: center x, center y, width, height as shares of the image in [0, 1];
            a negative width flips.
        side: s, pixels.

    Returns:
        (B, 3, s, s) float32.
    """
    x, y, width, height = boxes.unbind(1)
    zero = torch.zeros_like(x)
    # affine_grid's coordinates run from -1 to 1 over the image, hence the factor on the center.
    theta = torch.stack(
        [
            torch.stack([width, zero, 2 * x - 1], dim=1),
            torch.stack([zero, height, 2 * y - 1], dim=1),
        ],
        dim=1,
    ).to(images.device)
    grid = functional.affine_grid(theta, [len(images), 3, side, side], align_corners=False)
    return functional.grid_sample(
        images, grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )


def adjust_color(
    images: Tensor, *, brightness: Tensor, contrast: Tensor, saturation: Tensor, hue: Tensor
) -> Tensor:
    """Brightness, contrast, saturation, hue, in this order, each as one affine map of RGB.

    Brightness multiplies; contrast and saturation blend with the mean grey and with each pixel's
    grey (torchvision's definitions); hue turns the chroma plane of YIQ.

    Args:
        images: (B, 3, H, W) float32 in [0, 1].
        brightness: (B, 1) factors; 1 changes nothing.
        contrast: (B, 1) factors.
        saturation: (B, 1) factors; 0 is greyscale.
        hue: (B, 1) turns; 0.5 is the opposite hue.

    Returns:
        (B, 3, H, W) float32 in [0, 1].
    """
    luma = torch.tensor(_LUMA, device=images.device)
    images = (images * brightness[:, :, None, None]).clamp(0, 1)
    mean = torch.einsum("bchw,c->b", images, luma) / (images.shape[2] * images.shape[3])
    factor = contrast[:, :, None, None]
    images = (images * factor + (1 - factor) * mean[:, None, None, None]).clamp(0, 1)
    identity = torch.eye(3, device=images.device)
    to_grey = luma.expand(3, 3)
    saturate = saturation[:, :, None] * identity + (1 - saturation[:, :, None]) * to_grey
    matrix = torch.bmm(_hue_matrix(hue, images), saturate)
    return torch.einsum("bij,bjhw->bihw", matrix, images).clamp(0, 1)


def _hue_matrix(hue: Tensor, images: Tensor) -> Tensor:
    to_yiq = torch.tensor(
        [[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]],
        device=images.device,
    )
    cosine, sine = torch.cos(2 * math.pi * hue[:, 0]), torch.sin(2 * math.pi * hue[:, 0])
    turn = torch.zeros(len(hue), 3, 3, device=images.device)
    turn[:, 0, 0] = 1
    turn[:, 1, 1], turn[:, 1, 2], turn[:, 2, 1], turn[:, 2, 2] = cosine, -sine, sine, cosine
    matrix: Tensor = torch.linalg.inv(to_yiq) @ turn @ to_yiq
    return matrix


def gaussian_blur(images: Tensor, radius: Tensor) -> Tensor:
    """Separable Gaussian blur with a standard deviation for each image.

    Args:
        images: (B, 3, H, W) float32.
        radius: (B, 1) standard deviations, pixels, at most 2.

    Returns:
        (B, 3, H, W) float32.
    """
    count, channels, height, width = images.shape
    reach = 4  # two standard deviations of the widest blur
    offsets = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-0.5 * (offsets / radius) ** 2)  # (B, 9)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)  # (3B, 9)
    flat = images.reshape(1, count * channels, height, width)
    flat = functional.pad(flat, (reach, reach, reach, reach), mode="reflect")
    groups = count * channels
    flat = functional.conv2d(flat, kernel[:, None, None, :], groups=groups)
    flat = functional.conv2d(flat, kernel[:, None, :, None], groups=groups)
    return flat.reshape(images.shape)


def _crop_boxes(config: ViewConfig, count: int, random: np.random.Generator) -> Tensor:
    area = random.uniform(*config.scale, count)
    ratio = np.exp(random.uniform(-math.log(config.aspect), math.log(config.aspect), count))
    width = np.minimum(np.sqrt(area * ratio), 1.0)
    height = np.minimum(np.sqrt(area / ratio), 1.0)
    x = random.uniform(width / 2, 1 - width / 2)
    y = random.uniform(height / 2, 1 - height / 2)
    sign = np.where(random.random(count) < config.flip, -1.0, 1.0)
    return torch.from_numpy(np.stack([x, y, sign * width, height], 1).astype(np.float32))


def _column(values: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(np.asarray(values, np.float32))[:, None].to(like.device)
