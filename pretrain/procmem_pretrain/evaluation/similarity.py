"""Two-alternative forced choice: is the image that people find more alike also nearer here?

NIGHTS' protocol (Fu et al. 2023): a triplet scores the share of people who agree, a tie one half.
The generated triplets need no download and no people: of two copies of a procedural image, each
with the same kinds of changes, the one with the weaker changes is the nearer by construction.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from procmem.errors import MissingExtraError
from procmem.image import ImageLike, load_image
from procmem_pretrain.evaluation.datasets import SimilaritySet, Triplet
from procmem_pretrain.evaluation.methods import Embed
from procmem_pretrain.seeds import stream
from procmem_pretrain.stream import StreamConfig, generate

UInt8 = npt.NDArray[np.uint8]

# How much stronger every change of the farther copy is.
STRONGER = 2.5

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
    """Triplets of procedural images whose answer is known.

    Args:
        count: how many.
        root_seed: decides images and changes.
        side: pixels.
    """
    config = StreamConfig(
        process="objects", root_seed=root_seed, side=side, pool_images=max(256, count)
    )
    images = generate(config, count).permute(0, 2, 3, 1).numpy()
    triplets = []
    for number, image in enumerate(images):
        random = stream(root_seed, "triplet", number)
        strength = random.uniform(0.15, 0.4)
        kinds = random.permutation(len(_CHANGES))[:2]
        seed = int(random.integers(2**31))
        near, far = (
            _changed(image, kinds, amount, np.random.default_rng(seed))
            for amount in (strength, STRONGER * strength)
        )
        left_is_near = bool(random.integers(2))
        left, right = (near, far) if left_is_near else (far, near)
        triplets.append(Triplet(image, left, right, float(left_is_near)))
    return SimilaritySet(f"procedural-2afc-{count}", tuple(triplets))


def _changed(
    image: UInt8, kinds: npt.NDArray[np.int_], amount: float, random: np.random.Generator
) -> UInt8:
    for kind in kinds:
        image = _CHANGES[kind](image, amount, random)
    return image


def _blurred(image: UInt8, amount: float, random: np.random.Generator) -> UInt8:
    radius = amount * image.shape[0] / random.uniform(24, 48)
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)))


def _noisy(image: UInt8, amount: float, random: np.random.Generator) -> UInt8:
    noise = random.standard_normal(image.shape) * 60 * amount
    return (image + noise).clip(0, 255).astype(np.uint8)


def _tinted(image: UInt8, amount: float, random: np.random.Generator) -> UInt8:
    tint = random.standard_normal(3)
    added = 80 * amount * tint / np.abs(tint).max()
    tinted: UInt8 = (image + added).clip(0, 255).astype(np.uint8)
    return tinted


def _shifted(image: UInt8, amount: float, random: np.random.Generator) -> UInt8:
    angle = random.uniform(0, 2 * np.pi)
    reach = amount * image.shape[0] / 4
    x, y = reach * np.cos(angle), reach * np.sin(angle)
    moved = Image.fromarray(image).transform(
        (image.shape[1], image.shape[0]),
        Image.Transform.AFFINE,
        (1, 0, x, 0, 1, y),
        Image.Resampling.BILINEAR,
    )
    return np.asarray(moved)


def _turned(image: UInt8, amount: float, random: np.random.Generator) -> UInt8:
    degrees = 60 * amount * (1 if random.integers(2) else -1)
    return np.asarray(Image.fromarray(image).rotate(degrees, Image.Resampling.BILINEAR))


_CHANGES = (_blurred, _noisy, _tinted, _shifted, _turned)


def _agreement(
    data: SimilaritySet, left: npt.NDArray[np.floating], right: npt.NDArray[np.floating]
) -> float:
    shares = np.array([triplet.left_share for triplet in data.triplets])
    scores = np.where(left > right, shares, np.where(left < right, 1 - shares, 0.5))
    return 100.0 * float(scores.mean())


def _squashed(image: ImageLike) -> UInt8:
    picture = Image.fromarray(load_image(image))
    return np.asarray(picture.resize((_PAIR_SIDE, _PAIR_SIDE), Image.Resampling.BICUBIC))
