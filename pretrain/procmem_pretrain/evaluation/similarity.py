"""Two-alternative forced choice: is the image that people find more alike also nearer here?

NIGHTS' protocol (Fu et al. 2023): a triplet scores the share of people who agree, a tie one half.
The generated triplets need no download and no people: the nearer image shows the same objects.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from procmem.errors import InputError, MissingExtraError
from procmem.image import ImageLike, load_image
from procmem_pretrain.evaluation.datasets import SimilaritySet, Triplet
from procmem_pretrain.evaluation.methods import Embed
from procmem_pretrain.objects import scenes
from procmem_pretrain.seeds import stream
from procmem_pretrain.stream import StreamConfig, generate

UInt8 = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]

_MATERIALS = 512
_SCENES_AT_ONCE = 32
_PAIR_SIDE = 224


def forced_choice(data: SimilaritySet, embed: Embed) -> float:
    """Mean agreement in percent, by the cosine of embeddings."""
    columns = [
        embed([getattr(triplet, name) for triplet in data.triplets])
        for name in ("reference", "left", "right")
    ]
    left = (columns[0] * columns[1]).sum(1)
    right = (columns[0] * columns[2]).sum(1)
    return _agreement(data, left, right)


def pairwise_choice(data: SimilaritySet, similarity: Callable[[UInt8, UInt8], float]) -> float:
    """Mean agreement in percent, by a measure of two images (PSNR, SSIM)."""
    values = [
        [similarity(_squashed(t.reference), _squashed(other)) for other in (t.left, t.right)]
        for t in data.triplets
    ]
    left, right = np.array(values).T
    return _agreement(data, left, right)


def psnr(first: UInt8, second: UInt8) -> float:
    """Peak signal-to-noise ratio in decibels, 100 for equal images."""
    error = np.mean((first.astype(np.float64) - second) ** 2)
    return 100.0 if error == 0 else float(10 * np.log10(255**2 / error))


def ssim(first: UInt8, second: UInt8) -> float:
    """Structural similarity (Wang et al. 2004), scikit-image's, in [-1, 1].

    Raises:
        MissingExtraError: scikit-image is not installed.
    """
    try:
        from skimage.metrics import structural_similarity
    except ImportError as error:
        raise MissingExtraError(
            "SSIM needs scikit-image; pip install 'procmem[evaluate]'"
        ) from error
    return float(structural_similarity(first, second, channel_axis=2))


def generated_triplets(count: int, *, root_seed: int = 0, side: int = 224) -> SimilaritySet:
    """Triplets whose answer is known: the same objects seen again, or others in the same colors.

    The reference and the nearer image are two frames of one procedural scene (`objects.py`): all
    objects have moved, turned and deformed, and half of the scenes have another background. The
    farther image is a frame of another scene, each channel shifted and scaled to the mean and
    deviation of the nearer one, so that colors alone do not tell.

    Args:
        count: how many, 2 or more.
        root_seed: decides everything.
        side: pixels.

    Raises:
        InputError: `count` is too small.
    """
    if count < 2:
        raise InputError(f"triplets are {count}, wanted 2 or more: one scene is another's far side")
    config = StreamConfig(process="shaders", root_seed=root_seed, side=side, pool_images=_MATERIALS)
    materials = generate(config, _MATERIALS)
    triplets: list[Triplet] = []
    random = stream(root_seed, "triplets")

    def source(number: int, random: np.random.Generator) -> Tensor:
        return materials[torch.from_numpy(random.integers(0, len(materials), number))] / 255

    while len(triplets) < count:
        some = min(_SCENES_AT_ONCE, count - len(triplets) + 1)
        drawn = scenes(source, some, random, frames=2).images.permute(0, 1, 3, 4, 2)
        first, second = (255 * drawn).round().numpy().swapaxes(0, 1)
        for number in range(some - 1):
            near, far = second[number], _recolored(second[number + 1], like=second[number])
            left_is_near = bool(random.integers(2))
            pair = (near, far) if left_is_near else (far, near)
            left, right = (np.ascontiguousarray(one, np.uint8) for one in pair)
            reference = np.ascontiguousarray(first[number], np.uint8)
            triplets.append(Triplet(reference, left, right, float(left_is_near)))
    return SimilaritySet(f"procedural-2afc-{count}", tuple(triplets))


def _recolored(image: Float32, *, like: Float32) -> Float32:
    """The image with the mean and deviation of another in each channel."""
    axes = (0, 1)
    scale = like.std(axes) / np.maximum(image.std(axes), 1)
    recolored: Float32 = ((image - image.mean(axes)) * scale + like.mean(axes)).clip(0, 255).round()
    return recolored


def _agreement(
    data: SimilaritySet, left: npt.NDArray[np.floating], right: npt.NDArray[np.floating]
) -> float:
    shares = np.array([triplet.left_share for triplet in data.triplets])
    scores = np.where(left > right, shares, np.where(left < right, 1 - shares, 0.5))
    return 100.0 * float(scores.mean())


def _squashed(image: ImageLike) -> UInt8:
    picture = Image.fromarray(load_image(image))
    return np.asarray(picture.resize((_PAIR_SIDE, _PAIR_SIDE), Image.Resampling.BICUBIC))
