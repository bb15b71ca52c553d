"""How varied a set of images is, in numbers that natural photographs can be put beside.

Takes uint8 images of any generator or folder, gives a `DiversityReport` to the benchmark
`bench_diversity.py`. What the columns say of one image:

* its colors: shares of 100 cells of Oklab (Ottosson 2020), lightness, colorfulness (Hasler and
  Süsstrunk, "Measuring colourfulness in natural images", 2003, section 7);
* its spectrum: the exponent a of amplitude ~ 1/f^a, about 1 to 1.2 in photographs (Field 1987;
  Tolhurst, Tadmor and Chao 1992), and how far the spectrum strays from that line;
* its structure: share of edges and of flat area, how evenly edges spread over orientations, and
  entropy of the grey levels.

And of the set: how much these numbers spread, how far apart two images are, how many look like one
that came before. Numbers are for reading: nothing here selects, trains or calibrates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt

from procmem.errors import InputError
from procmem_pretrain.perceptual_hash import (
    NEAR_DUPLICATE,
    HashIndex,
    check_images,
    perceptual_hash,
)

LEAST_SIDE = 32
NEIGHBORS_AMONG = 100
"""Nearest neighbors are sought in groups of this many, so that sets of any size compare."""

# Lightness is cut in 4; a and b in 5 with the middle one around grey, so that greys share a cell.
_LIGHTNESS_EDGES = np.array([0.25, 0.5, 0.75])
_TINT_EDGES = np.array([-0.1, -0.03, 0.03, 0.1])
_COLOR_CELLS = 4 * 5 * 5
_ORIENTATIONS = 16
# On the scale of Sobel's 3 x 3 sums, eight times the change per pixel in grey levels.
_EDGE, _FLAT = 100.0, 8.0
# Cycles per image below which the window leaks, and the share of the Nyquist frequency above which
# files that were compressed or resized hold little of the scene.
_LOWEST_CYCLES, _HIGHEST_SHARE = 3, 0.7
_CHUNK = 64

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Descriptors:
    """What is measured of N images; every field but `colors` is (N,) float64.

    Attributes:
        colors: (N, 100) float64, shares of Oklab cells; each row sums to 1.
        lightness: mean Oklab lightness, 0 to 1.
        contrast: deviation of Oklab lightness over the pixels, 0 to 0.5.
        colorfulness: 0 is grey; the source calls 33 moderate, 59 quite, 109 extremely colorful.
        slope: a of amplitude ~ 1/f^a; white noise has 0. An image of one color has 0.
        residual: root mean square of log10 amplitude about the line; 0 is exactly a power law.
        edges: share of pixels whose Sobel magnitude is 100 or more, 0 to 1.
        flat: share of pixels that change by less than one grey level per pixel, 0 to 1.
        orientations: entropy of edge directions, 0 (one, or no edge) to 1 (all 16 equally).
        greys: entropy of the 256 grey levels, 0 to 8 bits.
    """

    colors: Floats
    lightness: Floats
    contrast: Floats
    colorfulness: Floats
    slope: Floats
    residual: Floats
    edges: Floats
    flat: Floats
    orientations: Floats
    greys: Floats


# What counts as 1 in the distance between two images: the length of each number's useful range.
# Round constants from the definitions above, fitted to no set of images.
DISTANCE_SCALES = {
    "lightness": 1.0,
    "contrast": 0.5,
    "colorfulness": 109.0,
    "slope": 2.0,
    "residual": 0.5,
    "edges": 1.0,
    "flat": 1.0,
    "orientations": 1.0,
    "greys": 8.0,
}


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and standard deviation of one number over the images of a set."""

    mean: float
    deviation: float


@dataclass(frozen=True, slots=True)
class DiversityReport:
    """Figures of a set of images.

    Attributes:
        images: N.
        side: S, pixels. Edges, flat area and slope depend on it: compare sets of one side.
        lightness, contrast, colorfulness, slope, residual, edges, flat, orientations, greys: mean
            and deviation over the images of what `Descriptors` says.
        palette: effective number of colors of the whole set, 1 to 100: two to the entropy of its
            mean color shares.
        distance: mean over all pairs of images of `distances`.
        neighbor_distance: mean distance to the nearest of 99 others, in groups of
            `NEIGHBORS_AMONG` taken in order; of all others if there are fewer. Shuffle what lies
            in an order.
        near_duplicates: share of the images that look like one before them (perceptual hashes
            within `NEAR_DUPLICATE`). Grows with N.
    """

    images: int
    side: int
    lightness: Spread
    contrast: Spread
    colorfulness: Spread
    slope: Spread
    residual: Spread
    edges: Spread
    flat: Spread
    orientations: Spread
    greys: Spread
    palette: float
    distance: float
    neighbor_distance: float
    near_duplicates: float


def summarize(images: npt.NDArray[np.uint8]) -> DiversityReport:
    """Measures a set of images; 2 ms for an image of 128 px, and N x N distances.

    Args:
        images: (N, S, S, 3) uint8, N of 2 or more, S of 32 or more (spectra of less mean little).

    Raises:
        InputError: another shape, type, count or size.
    """
    check_images(images, least_side=LEAST_SIDE)
    if len(images) < 2:
        raise InputError(f"there is {len(images)} image, wanted 2 or more; diversity is of a set")
    measured = describe(images)
    points = _points(measured)
    spreads = {
        name: Spread(float(values.mean()), float(values.std()))
        for name, values in ((name, getattr(measured, name)) for name in DISTANCE_SCALES)
    }
    return DiversityReport(
        images=len(images),
        side=images.shape[1],
        **spreads,
        palette=float(2 ** _entropy(measured.colors.mean(axis=0))),
        distance=_mean_distance(points),
        neighbor_distance=_mean_neighbor_distance(points),
        near_duplicates=_share_of_near_duplicates(images),
    )


def describe(images: npt.NDArray[np.uint8]) -> Descriptors:
    """Measures each image by itself.

    Args:
        images: (N, S, S, 3) uint8, N of 1 or more, S of 32 or more.

    Raises:
        InputError: another shape, type or size, or no image.
    """
    check_images(images, least_side=LEAST_SIDE)
    if len(images) == 0:
        raise InputError("there are 0 images, wanted 1 or more")
    parts = [_describe(images[i : i + _CHUNK]) for i in range(0, len(images), _CHUNK)]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Descriptors(**joined)


def distances(a: Descriptors, b: Descriptors) -> Floats:
    """How unlike images are: (N, M) float64, 0 for equal descriptors, at most about 1.

    The root of the mean square of ten differences: each number's, divided by its
    `DISTANCE_SCALES`, and Hellinger's distance of the color shares.
    """
    return _euclidean(_points(a), _points(b))


def _describe(images: npt.NDArray[np.uint8]) -> dict[str, Floats]:
    lab = _oklab(images)  # (n, S, S, 3)
    rgb = images.astype(np.float64)
    grey = rgb @ np.array([0.299, 0.587, 0.114])  # (n, S, S), levels; BT.601
    slope, residual = _spectrum(grey)
    lightness = lab[..., 0]
    return {
        "colors": _color_shares(lab),
        "lightness": lightness.mean(axis=(1, 2)),
        "contrast": lightness.std(axis=(1, 2)),
        "colorfulness": _colorfulness(rgb),
        "slope": slope,
        "residual": residual,
        **_gradients(grey),
        "greys": _grey_entropy(grey),
    }


def _oklab(images: npt.NDArray[np.uint8]) -> Floats:
    """From sRGB to Oklab (Ottosson, "A perceptual color space for image processing", 2020)."""
    levels = np.arange(256) / 255
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    cones = linear[images] @ np.array(
        [
            [0.4122214708, 0.2119034982, 0.0883024619],
            [0.5363325363, 0.6806995451, 0.2817188376],
            [0.0514459929, 0.1073969566, 0.6299787005],
        ]
    )
    return cast(
        Floats,
        np.cbrt(cones)
        @ np.array(
            [
                [0.2104542553, 1.9779984951, 0.0259040371],
                [0.7936177850, -2.4285922050, 0.7827717662],
                [-0.0040720468, 0.4505937099, -0.8086757660],
            ]
        ),
    )


def _color_shares(lab: Floats) -> Floats:
    lightness = np.digitize(lab[..., 0], _LIGHTNESS_EDGES)
    a, b = (np.digitize(lab[..., channel], _TINT_EDGES) for channel in (1, 2))
    return _shares((lightness * 5 + a) * 5 + b, _COLOR_CELLS)


def _colorfulness(rgb: Floats) -> Floats:
    """Hasler and Süsstrunk 2003, section 7, the efficient metric M3."""
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    opponents = np.stack([red - green, 0.5 * (red + green) - blue])  # (2, n, S, S)
    deviation = np.sqrt((opponents.std(axis=(2, 3)) ** 2).sum(axis=0))
    mean = np.sqrt((opponents.mean(axis=(2, 3)) ** 2).sum(axis=0))
    return cast(Floats, deviation + 0.3 * mean)


def _spectrum(grey: Floats) -> tuple[Floats, Floats]:
    """Exponent and residual of the radial amplitude spectrum, (n,) each.

    Fitted to ring means from 3 cycles per image to 0.7 of the Nyquist frequency, with weights 1/f:
    every octave counts the same.
    """
    side = grey.shape[1]
    window = np.hanning(side + 2)[1:-1]
    window = window[:, None] * window
    # The window's own mean is taken off, so that the constant term does not leak into ring 1.
    mean = (grey * window).sum(axis=(1, 2), keepdims=True) / window.sum()
    power = np.abs(np.fft.rfft2((grey - mean) * window)) ** 2  # (n, S, S // 2 + 1)
    vertical, horizontal = np.fft.fftfreq(side) * side, np.fft.rfftfreq(side) * side
    rings = np.rint(np.hypot(vertical[:, None], horizontal)).astype(np.int64)
    frequencies = np.arange(_LOWEST_CYCLES, int(_HIGHEST_SHARE * side / 2) + 1)
    inside = rings.ravel() <= frequencies[-1]
    places = rings.ravel()[inside]
    counts = np.bincount(places)
    means = np.stack(
        [np.bincount(places, weights=image.ravel()[inside]) / counts for image in power]
    )[:, _LOWEST_CYCLES:]
    # Rounding to 8 bits is noise of variance 1/12: what lies below it is no structure. It also
    # gives an image of one color a spectrum, the flat one.
    amplitude = 0.5 * np.log10(means + (window**2).sum() / 12)  # (n, rings)
    x = np.log10(frequencies)
    weights = (1 / frequencies) / (1 / frequencies).sum()
    x = x - weights @ x
    y = amplitude - (amplitude @ weights)[:, None]
    gradient = (y * x) @ weights / (weights @ x**2)
    residual = np.sqrt((y - gradient[:, None] * x) ** 2 @ weights)
    return -gradient, residual


def _gradients(grey: Floats) -> dict[str, Floats]:
    """Edges, flat and orientations from Sobel's filter inside the border."""
    # [1, 2, 1] across, [-1, 0, 1] along; cut to (n, S - 2, S - 2).
    down = grey[:, :-2] + 2 * grey[:, 1:-1] + grey[:, 2:]
    right = grey[:, :, :-2] + 2 * grey[:, :, 1:-1] + grey[:, :, 2:]
    dx, dy = down[:, :, 2:] - down[:, :, :-2], right[:, 2:] - right[:, :-2]
    magnitude = np.hypot(dx, dy)
    # An edge and its opposite have one orientation. The half bin puts 0 and 90 degrees, the most
    # frequent ones, into the middle of their bins.
    turn = np.arctan2(dy, dx) / np.pi * _ORIENTATIONS + 0.5
    bins = np.floor(turn).astype(np.int64) % _ORIENTATIONS
    shares = _shares(bins, _ORIENTATIONS, weights=magnitude)
    return {
        "edges": (magnitude >= _EDGE).mean(axis=(1, 2)),
        "flat": (magnitude < _FLAT).mean(axis=(1, 2)),
        "orientations": _entropy(shares) / np.log2(_ORIENTATIONS),
    }


def _grey_entropy(grey: Floats) -> Floats:
    return _entropy(_shares(np.rint(grey).astype(np.int64), 256))


def _shares(bins: npt.NDArray[np.int64], count: int, *, weights: Floats | None = None) -> Floats:
    """(n, ...) bin numbers -> (n, count) shares; a row whose weights are all zero stays zero."""
    rows = np.arange(len(bins)).reshape(-1, *[1] * (bins.ndim - 1)) * count
    flat = None if weights is None else weights.ravel()
    counts = np.bincount((bins + rows).ravel(), flat, minlength=len(bins) * count)
    table = counts.reshape(len(bins), count).astype(np.float64)
    total = table.sum(axis=1, keepdims=True)
    return table / np.where(total > 0, total, 1)


def _entropy(shares: Floats) -> Floats:
    """Bits, over the last axis."""
    logarithms = np.log2(shares, out=np.zeros_like(shares), where=shares > 0)
    return cast(Floats, np.abs((shares * logarithms).sum(axis=-1)))


def _points(descriptors: Descriptors) -> Floats:
    """(N, 9 + 100): coordinates in which the Euclidean distance is that of `distances`."""
    numbers = [getattr(descriptors, name) / scale for name, scale in DISTANCE_SCALES.items()]
    colors = np.sqrt(descriptors.colors / 2)  # Euclidean distances of these are Hellinger's
    return cast(Floats, np.column_stack([*numbers, colors]) / np.sqrt(len(numbers) + 1))


def _euclidean(a: Floats, b: Floats) -> Floats:
    squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * (a @ b.T)
    return cast(Floats, np.sqrt(np.maximum(squares, 0)))


def _mean_distance(points: Floats) -> float:
    count, total = len(points), 0.0
    for first in range(0, count, 1000):
        block = _euclidean(points[first : first + 1000], points)
        # An image's distance to itself is 0 but for rounding.
        block[np.arange(len(block)), first + np.arange(len(block))] = 0
        total += float(block.sum())
    return total / (count * (count - 1))


def _mean_neighbor_distance(points: Floats) -> float:
    group = min(NEIGHBORS_AMONG, len(points))
    nearest = []
    for first in range(0, len(points) - group + 1, group):  # a last, smaller group is left out
        block = _euclidean(points[first : first + group], points[first : first + group])
        np.fill_diagonal(block, np.inf)
        nearest.append(block.min(axis=1))
    return float(np.concatenate(nearest).mean())


def _share_of_near_duplicates(images: npt.NDArray[np.uint8]) -> float:
    index, found = HashIndex(), 0
    for image_hash in perceptual_hash(images):
        found += index.nearest(image_hash) <= NEAR_DUPLICATE
        index.add(image_hash)
    return found / len(images)
