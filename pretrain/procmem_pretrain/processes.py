"""Images from images: the procedural processes, as small pieces that compose.

Takes a pool of uint8 images of `jobs.py`, gives float images in [0, 1] to `stream.py`. A source
draws images; `mixup` and `kml` make a source out of another. Names and rules of the published ones
are those of "Separating Knowledge and Perception with Procedural Data" (ICML 2025, section 3 and
its appendix); `objects` is our own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from procmem.errors import InputError, TrainingError, unknown_choice
from procmem_pretrain.kml import MASK_SIDE, kml_mask
from procmem_pretrain.objects import scenes

Source = Callable[[int, np.random.Generator], Tensor]
"""(count, random) -> (count, 3, S, S) float32 in [0, 1]. Equal generators, equal images."""

Weights = Literal["uniform", "dirichlet", "equal"]

PROCESSES = (
    "shaders",
    "shaders-mixup",
    "shaders-kml",
    "shaders-kml-mixup",
    "stylegan",
    "objects",
)

# Those whose images are pool images as they are.
UNMIXED = ("shaders", "stylegan")

# Chances that a source of real variety gives one-color images this often in a row are nil.
_MAX_REDRAWS = 20


def make_process(
    name: str,
    pool: Tensor,
    *,
    protocol: Literal["exact", "paper"] = "exact",
    mask_side: int | None = None,
) -> Source:
    """A process by its name.

    Args:
        name: one of `PROCESSES`.
        pool: (P, 3, S, S) uint8 images to draw from: of programs, or for "stylegan" of untrained
            generators.
        protocol: "paper" is the published procedure to the letter and refuses other mask sides.
        mask_side: where K-means runs, pixels; None is the paper's 256, less is faster.

    Raises:
        InputError: unknown process, or a pool of another form.
    """
    if pool.ndim != 4 or pool.shape[1] != 3 or pool.dtype != torch.uint8 or not len(pool):
        raise InputError(
            f"pool has shape {tuple(pool.shape)} and {pool.dtype}, wanted (P, 3, S, S) uint8"
        )
    side = MASK_SIDE if mask_side is None else mask_side
    if side < 8:
        raise InputError(f"mask side is {side}, wanted 8 or more")
    if protocol == "paper" and side != MASK_SIDE:
        raise InputError(f"mask side is {side}, but the paper's protocol has {MASK_SIDE}")
    images = shaders(pool)
    if name in ("shaders", "stylegan"):  # they differ in what fills the pool
        return images
    if name == "shaders-mixup":
        return mixup(images, images=6)
    if name == "shaders-kml":
        return kml(images, mask_side=side)
    if name == "shaders-kml-mixup":
        return mixup(kml(images, mask_side=side), images=2, weights="equal")
    if name == "objects":
        return objects(images)
    raise unknown_choice("process", name, PROCESSES)


def shaders(pool: Tensor) -> Source:
    """Images of the pool, with replacement (paper, Shaders: one random program an image)."""

    def draw(count: int, random: np.random.Generator) -> Tensor:
        chosen = random.integers(0, len(pool), count)
        if pool.device.type != "cpu":
            return pool[torch.from_numpy(chosen).to(pool.device)].float().div_(255)
        images = torch.empty(count, *pool.shape[1:])
        for image, number in zip(images, chosen.tolist(), strict=True):
            image.copy_(pool[number]).div_(255)  # while it is in the cache
        return images

    return draw


def mixup(source: Source, *, images: int = 6, weights: Weights = "uniform") -> Source:
    """Weighted sums of several images (paper, Shaders Mixup: six, weights U(0, 1) normalized).

    Args:
        source: what is mixed.
        images: how many, 1 or more.
        weights: "uniform" are U(0, 1) divided by their sum, "dirichlet" are Dirichlet(1), "equal"
            is the plain mean.
    """
    if images < 1:
        raise InputError(f"images is {images}, wanted 1 or more")
    if weights not in ("uniform", "dirichlet", "equal"):
        raise unknown_choice("weights", weights, ("uniform", "dirichlet", "equal"))

    def draw(count: int, random: np.random.Generator) -> Tensor:
        shares = _shares(weights, count, images, random)
        total = None
        for column in shares.T:
            part = source(count, random)
            share = torch.from_numpy(column).to(part.device)[:, None, None, None]
            total = part.mul_(share) if total is None else total.addcmul_(part, share)
        assert total is not None
        return total

    return draw


def kml(source: Source, *, mask_side: int = MASK_SIDE) -> Source:
    """M * s2 + (1 - m) * s3, m the K-means mask of s1 (paper, Shaders KML).

    s1, s2 and s3 are drawn with replacement; an s1 of one color, which has no two clusters, is
    drawn again.

    Raises (when drawn from):
        TrainingError: the source gives images of one color only.
    """

    def draw(count: int, random: np.random.Generator) -> Tensor:
        mask, plain = kml_mask(source(count, random), side=mask_side)
        for _ in range(_MAX_REDRAWS):
            again = int(plain.sum())
            if again == 0:
                break
            mask[plain], still = kml_mask(source(again, random), side=mask_side)
            plain = plain.masked_scatter(plain, still)
        else:
            raise TrainingError("K-means needs images of two colors, the source gives one only")
        inside, outside = source(count, random), source(count, random)
        return torch.lerp(outside, inside, mask)

    return draw


def objects(source: Source) -> Source:
    """Scenes of whole objects whose parts differ and move together (ours; see `objects.py`)."""

    def draw(count: int, random: np.random.Generator) -> Tensor:
        return scenes(source, count, random).images[:, 0]

    return draw


def to_uint8(images: Tensor) -> Tensor:
    """Floats in [0, 1] to levels, rounded half up."""
    return (images * 255).add_(0.5).clamp_(0, 255).to(torch.uint8)


def _shares(
    weights: Weights, count: int, images: int, random: np.random.Generator
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    if weights == "equal":
        return np.full((count, images), 1 / images, np.float32)
    if weights == "dirichlet":
        return random.dirichlet(np.ones(images), count).astype(np.float32)
    drawn = random.uniform(0.0, 1.0, (count, images))
    return np.asarray(drawn / drawn.sum(axis=1, keepdims=True), np.float32)
