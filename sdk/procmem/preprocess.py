"""The one way from pixels to the model's input.

Second step of a photo's walk: takes uint8 (H, W, 3) from `image.py` and gives float32 (3, S, S)
to `embedder.py`. It is the only place that does this: what Python, the exporters and the
benchmarks feed to a model comes from here, so the same bytes give the same tensor everywhere.

A view is resampled by Pillow's bicubic filter (a = -0.5) with antialiasing, over all source
pixels: no `reducing_gap`, no nearest-neighbor shortcut. The longer axis comes first, then the
other, each rounded to 8 bits. Never reads a file, never looks at a pixel's meaning, keeps no state.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from procmem.errors import InputError, unknown_choice
from procmem.manifest import Preprocessing

View: TypeAlias = Literal["center", "whole"]
"""Which part of an image becomes the input: the centered square, or all of it, squashed."""

VIEWS: tuple[View, ...] = ("center", "whole")

DECODE_FACTOR = 2
"""A JPEG is decoded to at least this many times `resize` on its shorter edge. Twice leaves the
frequencies that the bicubic filter keeps almost untouched by the reduced decode."""

MIN_PATCHES = 4
"""Fewest patches along a side: those of the smallest views in training, and one for each of the
4 x 4 cells in which the readout looks for the layout."""

MAX_SIDE = 1024
"""Largest side, pixels. The memory of attention grows with its fourth power, the time nearly so:
the bundled model took 0.3 GB and 3 s for an image on two cores, and 3.6 GB and 45 s at 2048."""

_BICUBIC_SUPPORT = 2.0  # the filter's half width, output pixels when shrinking


def decode_min_side(preprocessing: Preprocessing) -> int:
    """The `min_side` with which every image is loaded for this preprocessing, pixels."""
    return DECODE_FACTOR * preprocessing.resize


def check_image_size(image_size: object, patch_size: int) -> int:
    """The side S that a person asked for, as a Python int.

    Raises:
        InputError: not a whole number, not a multiple of `patch_size`, less than `MIN_PATCHES`
            patches, or more than `MAX_SIDE` pixels.
    """
    least, most = MIN_PATCHES * patch_size, MAX_SIDE - MAX_SIDE % patch_size
    wanted = f"wanted a multiple of {patch_size} from {least} to {most}, in pixels"
    if isinstance(image_size, bool) or not isinstance(image_size, (int, np.integer)):
        raise InputError(
            f"image_size is {image_size!r:.80}, a {type(image_size).__name__}; {wanted}"
        )
    side = int(image_size)
    if least <= side <= most and side % patch_size == 0:
        return side
    nearest = min(max((side + patch_size // 2) // patch_size * patch_size, least), most)
    # Python refuses to write out numbers of thousands of digits.
    got = side if side.bit_length() < 64 else f"a number of {side.bit_length()} bits"
    raise InputError(f"image_size is {got}, {wanted}; the nearest is {nearest}")


def at_side(preprocessing: Preprocessing, side: int) -> Preprocessing:
    """The same view of an image for another side of the model's input.

    `resize` changes in the proportion of `crop`, so that "center" shows the same part of an image
    at every side (to half a pixel of `resize`, which is a whole number); "whole" always shows all.

    Args:
        preprocessing: of the model's manifest.
        side: S, pixels, at least 1.

    Returns:
        It with `crop` S.
    """
    crop, resize = preprocessing.crop, preprocessing.resize
    scaled = (2 * side * resize + crop) // (2 * crop)  # rounded to nearest
    return dataclasses.replace(preprocessing, crop=side, resize=scaled)


def check_view(view: str) -> None:
    """Raises InputError unless `view` is one of `VIEWS`; the message offers the nearest."""
    if view not in VIEWS:
        raise unknown_choice("view", view, VIEWS)


def center_view(
    image: npt.NDArray[np.uint8], preprocessing: Preprocessing
) -> npt.NDArray[np.float32]:
    """The image's centered square, for classification and similarity.

    Equals "shorter edge to `resize`, then the centered `crop`", with the same scale on both axes
    and no rounding of the longer edge: the source square of side
    `min(H, W) * crop / resize` around the center is resampled in one step. So a very long image
    costs no more than a square one.

    Args:
        image: (H, W, 3) uint8 RGB, H and W at least 1.
        preprocessing: see `Preprocessing`.

    Returns:
        (3, S, S) float32, `(pixel / 255 - mean) / std` per channel; S is `crop`.

    Raises:
        InputError: `image` has another shape or dtype, or `preprocessing` is not usable.
    """
    _check(image, preprocessing)
    height, width = image.shape[:2]
    side = min(height, width) * preprocessing.crop / preprocessing.resize
    left, top = (width - side) / 2, (height - side) / 2
    # Cut to the pixels that the filter can reach. This changes no output value; it keeps a
    # panorama's other pixels from being copied, and coordinates small enough for Pillow's float32.
    reach = math.ceil(_BICUBIC_SUPPORT * max(side / preprocessing.crop, 1.0)) + 1
    x, y = max(math.floor(left) - reach, 0), max(math.floor(top) - reach, 0)
    window = image[
        y : min(math.ceil(top + side) + reach, height),
        x : min(math.ceil(left + side) + reach, width),
    ]
    return _resample(window, (left - x, top - y, left - x + side, top - y + side), preprocessing)


def whole_view(
    image: npt.NDArray[np.uint8], preprocessing: Preprocessing
) -> npt.NDArray[np.float32]:
    """The whole image squashed to a square, for segmentation: every pixel gets a patch.

    Args:
        image: (H, W, 3) uint8 RGB, H and W at least 1.
        preprocessing: see `Preprocessing`; `resize` plays no part.

    Returns:
        (3, S, S) float32, `(pixel / 255 - mean) / std` per channel; S is `crop`.

    Raises:
        InputError: `image` has another shape or dtype, or `preprocessing` is not usable.
    """
    _check(image, preprocessing)
    height, width = image.shape[:2]
    return _resample(image, (0.0, 0.0, float(width), float(height)), preprocessing)


def to_tensor(
    images: Iterable[npt.NDArray[np.uint8]],
    preprocessing: Preprocessing,
    *,
    view: View = "center",
) -> npt.NDArray[np.float32]:
    """Preprocesses several decoded images.

    Args:
        images: (H, W, 3) uint8 RGB each, of any sizes.
        preprocessing: see `Preprocessing`.
        view: "center" or "whole".

    Returns:
        (N, 3, S, S) float32 in the order of `images`; (0, 3, S, S) for none.

    Raises:
        InputError: an image has another shape or dtype, `view` is unknown, or `preprocessing` is
            not usable.
    """
    check_view(view)
    one = center_view if view == "center" else whole_view
    tensors = [one(image, preprocessing) for image in images]
    if not tensors:
        return np.empty((0, 3, preprocessing.crop, preprocessing.crop), dtype=np.float32)
    return np.stack(tensors)


def _resample(
    image: npt.NDArray[np.uint8],
    box: tuple[float, float, float, float],
    preprocessing: Preprocessing,
) -> npt.NDArray[np.float32]:
    """Resamples `box` (left, top, right, bottom in source pixels) to S x S and normalizes."""
    side = preprocessing.crop
    left, top, right, bottom = box
    picture = Image.fromarray(np.ascontiguousarray(image))
    # One axis per call, because Pillow orders the two passes by its version and the shape, and
    # the rounding and clipping in between make the order visible. The longer axis first keeps the
    # intermediate picture small.
    for axis in "xy" if picture.width >= picture.height else "yx":
        if axis == "x":
            size, part = (side, picture.height), (left, 0.0, right, float(picture.height))
        else:
            size, part = (picture.width, side), (0.0, top, float(picture.width), bottom)
        picture = picture.resize(size, Image.Resampling.BICUBIC, box=part, reducing_gap=None)
    pixels = np.asarray(picture, dtype=np.float32) / np.float32(255)  # (S, S, 3)
    mean = np.asarray(preprocessing.mean, dtype=np.float32)
    std = np.asarray(preprocessing.std, dtype=np.float32)
    return np.ascontiguousarray(((pixels - mean) / std).transpose(2, 0, 1))


def _check(image: npt.NDArray[np.uint8], preprocessing: Preprocessing) -> None:
    shape, dtype = getattr(image, "shape", None), getattr(image, "dtype", None)
    if shape is None or len(shape) != 3 or shape[2] != 3 or 0 in shape or dtype != np.uint8:
        raise InputError(
            f"image has shape {shape} and dtype {dtype}, wanted (H, W, 3) uint8; "
            "decode it with load_image first"
        )
    if not 1 <= preprocessing.crop <= preprocessing.resize:
        raise InputError(
            f"preprocessing has resize {preprocessing.resize} and crop {preprocessing.crop}, "
            "wanted 1 <= crop <= resize"
        )
    if not all(deviation > 0 for deviation in preprocessing.std):
        raise InputError(f"preprocessing has std {preprocessing.std}, wanted three values above 0")
