"""Do patch tokens know what belongs together? Four measures on images with masks.

Two need no example: how much of the masks three principal components explain (PCA R2), and how well
k-means regions of one image match its classes. Two segment by example: in context (one image), and
by the patches of a whole memory. What is measured is the SDK's: its components, its clusters, its
voting rules.

`ignore` is a mask index that counts nowhere: it is no class, does not vote, and is not asked for.
Scores are in percent. mIoU over a set is the mean, over the classes that its masks hold, of
intersection over union of all pixels of all images.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from procmem.clusters import k_means
from procmem.components import PAPER_SIDE, principal_components
from procmem.components import pca_map as painted
from procmem.errors import InputError, MissingExtraError
from procmem.segment import from_memory, in_context, judged, mask_patches, square_mask
from procmem.tokens import flat_unit
from procmem_pretrain.evaluation.datasets import MaskedImage
from procmem_pretrain.evaluation.methods import Patches

Float32 = npt.NDArray[np.float32]
UInt8 = npt.NDArray[np.uint8]
Protocol = Literal["exact", "paper"]

PATCH = 16
"""Pixels along a patch's side, of every model here."""


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

    Images of one color throughout have no components, and those with one class nothing to explain:
    they are passed over.

    Raises:
        InputError: no image has two labelled classes.
    """
    scores = []
    for image in images:
        mask = square_mask(image.mask, PAPER_SIDE).ravel()
        kept = _labelled(mask, ignore)
        if len(np.unique(mask[kept])) < 2:
            continue
        tokens = patches(image.image, (side, side))
        points = principal_components([tokens], side=PAPER_SIDE)[0].reshape(-1, 3)
        if protocol == "paper":
            low, high = points.min(0), points.max(0)
            points = (points - low) / np.where(high > low, high - low, 1)
        points, classes = points[kept], mask[kept]
        center = points.mean() if protocol == "paper" else points.mean(0)
        within = sum(
            ((points[classes == one] - points[classes == one].mean(0)) ** 2).sum()
            for one in np.unique(classes)
        )
        spread = ((points - center) ** 2).sum()
        if spread > 0:
            scores.append(1 - within / spread)
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

    As many clusters (`procmem.clusters`) as the image has classes, one for each patch; clusters and
    classes are matched one to one so that mIoU is largest (Kuhn 1955).

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


def kmeans_regions(tokens: Float32, *, clusters: int, seed: int = 0) -> npt.NDArray[np.int64]:
    """(h, w) cluster numbers of (h, w, P) patch tokens, of the best of four starts."""
    _, own = k_means(flat_unit(tokens, "tokens"), clusters, seed=seed)
    return own.reshape(tokens.shape[:2])


def in_context_score(
    pairs: Sequence[tuple[MaskedImage, MaskedImage]],
    patches: Patches,
    *,
    side: int,
    ignore: int | None,
    protocol: Protocol = "exact",
) -> Score:
    """Segments the second image of each pair by the first one and its mask.

    "paper" keeps the shape of the images, their shorter edge at `side`, and weighs by
    (z1 . z2) / P; "exact" squashes them to a square, as the SDK does, and weighs by cosine / 0.1.
    Pairs whose prompt has one class only, at that size, are passed over.
    """
    score = Score(ignore)
    for prompt, query in pairs:
        size = _size(prompt.image, side, protocol)
        mask = stretch_nearest(prompt.mask, size)
        if len(np.unique(mask[_labelled(mask, ignore)])) < 2:
            continue
        regions = in_context(
            patches(query.image, _size(query.image, side, protocol)),
            [(patches(prompt.image, size), mask)],
            size=_plain(query.mask.shape),
            protocol=protocol,
            ignore=ignore,
        )
        score.add(query.mask, regions.mask)
    return score


def knn_score(
    memory: Iterable[MaskedImage],
    queries: Iterable[MaskedImage],
    patches: Patches,
    *,
    side: int,
    ignore: int | None,
    protocol: Protocol = "exact",
) -> Score:
    """Segments every query by the patches of all memory images.

    Both rules are `procmem.segment.from_memory`: "exact" that of Hummingbird (Balazevic et al.
    2023), "paper" the published one, here with the length of the memory's tokens. Patches without
    a labelled pixel (for "paper", without a label at their center) are not remembered; pixels
    without a label vote for what most of their patch is.

    Raises:
        InputError: nothing labelled to remember.
    """
    tokens, masks = [], []
    for image in memory:
        cut = mask_patches(square_mask(image.mask, side), PATCH)
        if protocol == "paper":
            cut = cut[:, PATCH // 2 : PATCH // 2 + 1, PATCH // 2 : PATCH // 2 + 1]
        if not _labelled(cut, ignore).any():
            continue
        rows = patches(image.image, (side, side)).reshape(len(cut), -1)
        if ignore is not None:
            rows, cut = judged(rows, cut, ignore)
        masks.append(cut)
        tokens.append(rows)
    if not tokens:
        raise InputError("the memory has no labelled patch; check --ignore and the masks")
    keys, values = np.concatenate(tokens), np.concatenate(masks)
    score = Score(ignore)
    if protocol == "exact":
        keys /= np.maximum(np.linalg.norm(keys, axis=1, keepdims=True), 1e-12)
    for image in queries:
        query = patches(image.image, (side, side))
        size = _plain(image.mask.shape)
        score.add(image.mask, from_memory(query, keys, values, size=size, protocol=protocol).mask)
    return score


def pca_map(image: UInt8, patches: Patches, *, side: int) -> UInt8:
    """(H, W, 3): the map that `procmem.map_components` paints, by any model's patches.

    Colors are of this image only: the same color in another image means nothing.
    """
    return painted(patches(image, (side, side)), size=_plain(image.shape))


def stretch_nearest(picture: UInt8, shape: Sequence[int]) -> UInt8:
    """A small (h, w) or (h, w, 3) picture at another size, by nearest neighbor."""
    size = (shape[1], shape[0])
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.NEAREST))


class Score:
    """Pixels of a set by true and found class.

    Args:
        ignore: a class that is not counted.
    """

    def __init__(self, ignore: int | None) -> None:
        self._ignore = ignore
        self._counts = np.zeros((256, 256), np.int64)

    def add(self, true: UInt8, found: UInt8) -> None:
        """Counts the pixels of one image."""
        kept = _labelled(true, self._ignore)
        pairs = true[kept].astype(np.int64) * 256 + found[kept]
        self._counts += np.bincount(pairs, minlength=256 * 256).reshape(256, 256)

    def miou(self) -> float:
        """Mean over the classes that there are of intersection over union, percent."""
        present = self._present()
        hits = self._counts.diagonal()
        union = self._counts.sum(0) + self._counts.sum(1) - hits
        return 100.0 * float(np.mean(hits[present] / union[present]))

    def accuracy(self) -> float:
        """Share of pixels that got their class, percent."""
        self._present()
        return 100.0 * float(self._counts.trace() / self._counts.sum())

    def _present(self) -> npt.NDArray[np.intp]:
        present = np.flatnonzero(self._counts.sum(1))
        if not len(present):
            raise InputError("no image has a labelled pixel to compare; check --ignore, the masks")
        return present


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
