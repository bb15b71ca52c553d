"""What can be seen in images without being taught anything: the functions that people call.

Beside `memory.py`, which answers from what it was taught: these need a model and images, no vault.
They conduct `embedder.py` and `components.py`, `clusters.py`, `correspondences.py`, hold no
mathematics and remember nothing. All look at the whole image.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import SupportsIndex

import numpy as np
import numpy.typing as npt

from procmem.batch import Perception, one_or_many
from procmem.clusters import cluster_regions
from procmem.components import pca_maps
from procmem.correspondences import correspondences
from procmem.errors import ImageError, InputError, ModelError
from procmem.image import ImageLike, size_of
from procmem.types import Correspondences, Regions

Float32 = npt.NDArray[np.float32]
UInt8 = npt.NDArray[np.uint8]


def map_components(
    embedder: Perception, images: ImageLike | Iterable[ImageLike]
) -> tuple[UInt8, ...]:
    """Paints images so that patches which the model finds alike have like colors.

    The first three principal components of the patch tokens as red, green and blue; the procedure
    is in `components.pca_map`. The components are those of all images of the call together, so that
    a color means the same in all of them and nothing in another call.

    Args:
        embedder: the model.
        images: one image (a path, bytes, a PIL image, an array), or an iterable of them.

    Returns:
        (H, W, 3) uint8 RGB for each image, in their order and of their size.

    Raises:
        ImageError: an image cannot be used. In an iterable, the message names its position.
        InputError: `images` is of no usable kind, or empty.
        ModelError: the model failed.
    """
    several, alone = one_or_many(images)
    tokens, sizes = [], []
    for at, image in enumerate(several):
        try:
            seen, size = _see(embedder, image)
        except (ImageError, InputError) as error:
            if alone:
                raise
            raise type(error)(f"images[{at}]: {error}") from error
        tokens.append(seen)
        sizes.append(size)
    if not tokens:
        raise InputError("images are empty, wanted at least one")
    return pca_maps(tokens, sizes=sizes)


def find_regions(embedder: Perception, image: ImageLike, k: SupportsIndex) -> Regions:
    """Divides an image into k regions of patches that the model finds alike.

    The procedure is in `clusters.cluster_regions`. Regions have numbers, not names: to say what a
    region is, teach a memory (`VisualMemory.segment`).

    Args:
        embedder: the model.
        image: path, bytes, PIL image or array.
        k: how many regions, from 2 to the number of patches (196 for the bundled model).

    Returns:
        See `Regions`, at the image's own size; the values are 1 to k, the largest region first.

    Raises:
        ImageError: the image cannot be used.
        InputError: k is out of range.
        ModelError: the model failed.
    """
    tokens, size = _see(embedder, image)
    return cluster_regions(tokens, k, size=size)


def match_patches(
    embedder: Perception,
    image_a: ImageLike,
    image_b: ImageLike,
    *,
    limit: SupportsIndex | None = None,
) -> Correspondences:
    """Finds the places of two images that are each other's nearest.

    The procedure is in `correspondences.correspondences`. A place is the center of a patch, so that
    it is as exact as a patch is large (1/14 of the image for the bundled model).

    Args:
        embedder: the model.
        image_a: path, bytes, PIL image or array.
        image_b: likewise; the sizes may differ.
        limit: at most so many pairs; None for all.

    Returns:
        See `Correspondences`; the pair of largest cosine first.

    Raises:
        ImageError: an image cannot be used.
        InputError: `limit` is below 1.
        ModelError: the model failed.
    """
    tokens_a, size_a = _see(embedder, image_a)
    tokens_b, size_b = _see(embedder, image_b)
    return correspondences(tokens_a, tokens_b, size_a=size_a, size_b=size_b, limit=limit)


def _see(embedder: Perception, image: ImageLike) -> tuple[Float32, tuple[int, int]]:
    """Patch tokens (h, w, P) of the whole image, and its (H, W)."""
    size = size_of(image)
    tokens = embedder.embed(image, view="whole").patches[0]
    if not np.isfinite(tokens).all():
        raise ModelError(f"{embedder.manifest.name} gave numbers that are not finite")
    return tokens, size
