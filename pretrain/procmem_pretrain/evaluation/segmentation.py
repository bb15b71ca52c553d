"""Do patch tokens know what belongs together? Four measures on images with masks.

Two need no example: how much of the masks three principal components explain (PCA R2), and how well
k-means regions of one image match its classes. Two segment by example: in context (one image), and
by the patches of a whole memory. The voting rules are the SDK's (`procmem.segment`).

`ignore` is a mask index that counts nowhere. Scores are in percent. mIoU over a set is the mean,
over the classes that its masks hold, of intersection over union of all pixels of all images.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.nn import functional

from procmem.errors import InputError, MissingExtraError
from procmem.patchsim import mix
from procmem.segment import fit_mask, from_memory, in_context, mask_patches
from procmem_pretrain.evaluation.datasets import MaskedImage
from procmem_pretrain.evaluation.methods import Patches

Float32 = npt.NDArray[np.float32]
UInt8 = npt.NDArray[np.uint8]
Protocol = Literal["exact", "paper"]

PATCH = 16
"""Pixels along a patch's side, of every model here."""

# PCA R2 looks at features and masks at this many positions along a side (the paper's).
_PCA_SIDE = 112

_KMEANS_STARTS = 4


def pca_r2(
    images: Iterable[MaskedImage],
    patches: Patches,
    *,
    side: int,
    ignore: int | None,
    protocol: Protocol = "exact",
) -> float:
    """Share of the variance of three principal components that the classes explain, mean of images.

    Per image: tokens of the image squashed to a square, stretched bilinearly to 112 x 112, three
    principal components of all positions; then, on labelled positions only,
    R2 = 1 - sum over classes ||x - mean of class||^2 / sum ||x - mean||^2. "paper" ("Separating
    Knowledge and Perception with Procedural Data") scales each component to [0, 1] and takes one
    scalar mean for all three, which adds the distance between the components' means to the
    denominator; "exact" takes the components as they are and their vector mean.

    Raises:
        InputError: no image has two labelled classes.
    """
    scores = []
    for image in images:
        mask = fit_mask(image.mask, image_size=image.mask.shape, side=_PCA_SIDE).ravel()
        kept = _labelled(mask, ignore)
        if len(np.unique(mask[kept])) < 2:
            continue
        components = _components(_stretched(patches(image.image, (side, side)), _PCA_SIDE))
        points = components.reshape(-1, 3).astype(np.float64)
        if protocol == "paper":
            low, high = points.min(0), points.max(0)
            points = (points - low) / np.where(high > low, high - low, 1)
        points, classes = points[kept], mask[kept]
        center = points.mean() if protocol == "paper" else points.mean(0)
        within = sum(
            ((points[classes == one] - points[classes == one].mean(0)) ** 2).sum()
            for one in np.unique(classes)
        )
        scores.append(1 - within / ((points - center) ** 2).sum())
    return 100.0 * float(np.mean(_some(scores)))


def kmeans_miou(
    images: Iterable[MaskedImage],
    patches: Patches,
    *,
    side: int,
    ignore: int | None,
    seed: int = 0,
) -> float:
    """Regions of one image against its classes, mean of images.

    Tokens of unit length, as many clusters as the image has classes, the best of four k-means++
    starts; clusters and classes are matched one to one so that mIoU is largest (Kuhn 1955).

    Raises:
        InputError: no image has two labelled classes.
        MissingExtraError: scipy is not installed.
    """
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise _no_scipy() from error
    scores = []
    for image in images:
        kept = _labelled(image.mask, ignore)
        present = np.unique(image.mask[kept])
        if len(present) < 2:
            continue
        tokens = patches(image.image, (side, side))
        regions = kmeans_regions(tokens, clusters=len(present), seed=seed).astype(np.uint8)
        found = stretch_nearest(regions, image.mask.shape)
        overlap = np.array(
            [
                [_iou(kept & (found == region), kept & (image.mask == one)) for one in present]
                for region in range(len(present))
            ]
        )
        scores.append(overlap[linear_sum_assignment(overlap, maximize=True)].mean())
    return 100.0 * float(np.mean(_some(scores)))


def kmeans_regions(tokens: Float32, *, clusters: int, seed: int = 0) -> npt.NDArray[np.int_]:
    """(h, w) cluster numbers of (h, w, P) patch tokens, of the best of four starts.

    Raises:
        MissingExtraError: scipy is not installed.
    """
    try:
        from scipy.cluster.vq import kmeans2
    except ImportError as error:
        raise _no_scipy() from error
    points = tokens.reshape(-1, tokens.shape[2]).astype(np.float64)
    points /= np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-12)
    best, least = np.zeros(len(points), np.int_), np.inf
    for start in range(_KMEANS_STARTS):
        random = np.random.default_rng((seed, start))
        with np.errstate(invalid="ignore", divide="ignore"):  # equal tokens leave no distance
            centers, own = kmeans2(points, _plus_plus(points, clusters, random), minit="matrix")
        spread = float(((points - centers[own]) ** 2).sum())
        if spread < least:
            best, least = own, spread
    found: npt.NDArray[np.int_] = best.reshape(tokens.shape[:2])
    return found


def in_context_miou(
    pairs: Sequence[tuple[MaskedImage, MaskedImage]],
    patches: Patches,
    *,
    side: int,
    ignore: int | None,
    protocol: Protocol = "exact",
) -> float:
    """Segments the second image of each pair by the first one and its mask.

    "paper" keeps the shape of the images, their shorter edge at `side`, and weighs by
    (z1 . z2) / P; "exact" squashes them to a square, as the SDK does, and weighs by cosine / 0.1.

    Raises:
        InputError: no pair's prompt has two classes.
    """
    score = _Score(ignore)
    for prompt, query in pairs:
        size = _size(prompt.image, side, protocol)
        mask = stretch_nearest(prompt.mask, size)
        if len(np.unique(mask)) < 2:
            continue
        regions = in_context(
            patches(query.image, _size(query.image, side, protocol)),
            [(patches(prompt.image, size), mask)],
            size=_plain(query.mask.shape),
            protocol=protocol,
        )
        score.add(query.mask, regions.mask)
    return score.miou()


def knn_miou(
    memory: Iterable[MaskedImage],
    queries: Iterable[MaskedImage],
    patches: Patches,
    *,
    side: int,
    ignore: int | None,
    protocol: Protocol = "exact",
) -> float:
    """Segments every query by the patches of all memory images.

    "paper": one class per patch (the mask at the grid's size), softmax over all memory patches of
    z . z / sqrt(P), shares stretched bilinearly. "exact": the SDK's rule, that of Hummingbird
    (Balazevic et al. 2023), k = 30 and softmax(cosine / 0.02), each patch with the pixels of its
    mask. Patches without a labelled pixel are not remembered.

    Raises:
        InputError: nothing labelled to remember, or no query with a labelled pixel.
    """
    tokens, masks = [], []
    for image in memory:
        mask = fit_mask(image.mask, image_size=image.mask.shape, side=side)
        cut = mask_patches(mask, PATCH)
        if protocol == "paper":
            cut = cut[:, PATCH // 2 : PATCH // 2 + 1, PATCH // 2 : PATCH // 2 + 1]
        useful = _labelled(cut, ignore).any(axis=(1, 2))
        masks.append(cut[useful])
        rows = patches(image.image, (side, side))
        tokens.append(rows.reshape(len(cut), -1)[useful])
    if not tokens or not sum(map(len, tokens)):
        raise InputError("the memory has no labelled patch; check --ignore and the masks")
    keys, values = np.concatenate(tokens), np.concatenate(masks)
    score = _Score(ignore)
    if protocol == "exact":
        keys /= np.maximum(np.linalg.norm(keys, axis=1, keepdims=True), 1e-12)
    classes = np.unique(values[_labelled(values, ignore)])
    for image in queries:
        query = patches(image.image, (side, side))
        if protocol == "exact":
            found = from_memory(query, keys, values, size=_plain(image.mask.shape)).mask
        else:
            shares = mix(
                np.ascontiguousarray(query.reshape(-1, query.shape[2])),
                keys,
                (values.reshape(-1, 1) == classes).astype(np.float32),
                scale=float(query.shape[2]) ** -0.5,
            )
            planes = torch.from_numpy(shares).reshape(*query.shape[:2], -1).permute(2, 0, 1)
            size = _plain(image.mask.shape)
            large = functional.interpolate(planes[None], size=size, mode="bilinear")[0]
            found = classes[large.argmax(0).numpy()]
        score.add(image.mask, found)
    return score.miou()


def pca_map(image: UInt8, patches: Patches, *, side: int) -> UInt8:
    """(H, W, 3): the first three principal components of the patch tokens as red, green and blue.

    Colors are of this image only: the same color in another image means nothing.
    """
    tokens = patches(image, (side, side))
    points = _components(tokens)
    low, high = np.percentile(points, [1, 99], axis=(0, 1))
    scaled = np.clip((points - low) / np.where(high > low, high - low, 1), 0, 1)
    return stretch_nearest((255 * scaled).round().astype(np.uint8), image.shape[:2])


def stretch_nearest(picture: UInt8, shape: Sequence[int]) -> UInt8:
    """A small (h, w) or (h, w, 3) picture at another size, by nearest neighbor."""
    size = (shape[1], shape[0])
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.NEAREST))


class _Score:
    """Counts pixels by true and found class."""

    def __init__(self, ignore: int | None) -> None:
        self._ignore = ignore
        self._counts = np.zeros((256, 256), np.int64)

    def add(self, true: UInt8, found: UInt8) -> None:
        kept = _labelled(true, self._ignore)
        pairs = true[kept].astype(np.int64) * 256 + found[kept]
        self._counts += np.bincount(pairs, minlength=256 * 256).reshape(256, 256)

    def miou(self) -> float:
        present = np.flatnonzero(self._counts.sum(1))
        if not len(present):
            raise InputError("no image has a labelled pixel to compare; check --ignore, the masks")
        hits = self._counts.diagonal()
        union = self._counts.sum(0) + self._counts.sum(1) - hits
        return 100.0 * float(np.mean(hits[present] / union[present]))


def _plus_plus(
    points: npt.NDArray[np.float64], clusters: int, random: np.random.Generator
) -> npt.NDArray[np.float64]:
    """k-means++ (Arthur and Vassilvitskii 2007): far points are likelier to be centers."""
    chosen = [points[random.integers(len(points))]]
    far = np.full(len(points), np.inf)
    for _ in range(clusters - 1):
        far = np.minimum(far, ((points - chosen[-1]) ** 2).sum(1))
        if not far.any():  # fewer different points than clusters
            break
        chosen.append(points[random.choice(len(points), p=far / far.sum())])
    return np.array(chosen)


def _components(tokens: Float32) -> Float32:
    """(h, w, P) -> (h, w, 3): projections on the directions of largest variance."""
    points = tokens.reshape(-1, tokens.shape[2])
    centered = (points - points.mean(0)).astype(np.float64)
    _, vectors = np.linalg.eigh(centered.T @ centered)  # ascending
    projected: Float32 = (centered @ vectors[:, :-4:-1]).astype(np.float32)
    return projected.reshape(*tokens.shape[:2], 3)


def _stretched(tokens: Float32, side: int) -> Float32:
    planes = torch.from_numpy(tokens).permute(2, 0, 1)[None]
    large = functional.interpolate(planes, size=(side, side), mode="bilinear")[0]
    stretched: Float32 = large.permute(1, 2, 0).numpy()
    return stretched


def _size(image: UInt8, side: int, protocol: Protocol) -> tuple[int, int]:
    if protocol == "exact":
        return side, side
    height, width = image.shape[:2]
    grain = side / min(height, width) / PATCH  # patches per pixel
    return max(1, round(height * grain)) * PATCH, max(1, round(width * grain)) * PATCH


def _labelled(mask: UInt8, ignore: int | None) -> npt.NDArray[np.bool_]:
    return np.ones(mask.shape, bool) if ignore is None else mask != ignore


def _iou(first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_]) -> float:
    return float((first & second).sum() / max(1, (first | second).sum()))


def _some(scores: list[float]) -> list[float]:
    if not scores:
        raise InputError("no image has two labelled classes; check --ignore and the masks")
    return scores


def _plain(shape: tuple[int, ...]) -> tuple[int, int]:
    return shape[0], shape[1]


def _no_scipy() -> MissingExtraError:
    return MissingExtraError("k-means regions need scipy; pip install 'procmem[evaluate]'")
