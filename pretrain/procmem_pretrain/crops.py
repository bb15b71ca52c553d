"""Images -> augmented views, as batched tensor operations on the images' device.

Takes (B, 3, S, S) images of `processes.py`, gives (B, 3, s, s) views to the objectives. The
operations and their order are DINO's (Caron et al. 2021, section 3.2 and its code): random resized
crop, flip, color jitter, grey, blur, solarize. Drawing the random numbers (`draw_views`) is apart
from applying them (`apply_views`), so that each of several processes can draw for the whole batch
and apply its share. Values are never rounded to 8 bits on the way, as a chain of PIL operations is.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from procmem.errors import InputError

Interpolation = Literal["bilinear", "bicubic"]

# ITU-R 601 luma, what PIL calls greyscale.
_LUMA = (0.299, 0.587, 0.114)
_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))
_CROP_TRIES = 10
# PIL inverts 8-bit values of 128 and more.
_SOLARIZE_THRESHOLD = 128 / 255
_MAX_BLUR = 2.0  # standard deviations of the widest blur, pixels
_BLUR_DEVIATIONS = 4  # how far a blur reaches; beyond there is less than 1e-4 of it


@dataclass(frozen=True, slots=True)
class ViewConfig:
    """How one kind of view is made. The defaults are the cheap forms of the operations.

    Attributes:
        side: s, pixels; a multiple of the patch size.
        scale: smallest and largest share of the image's area in the crop (DINO: (0.4, 1) global,
            (0.05, 0.4) local).
        aspect: largest ratio of the crop's sides (torchvision's 4/3).
        flip: chance of a horizontal flip.
        jitter: strength of brightness, contrast, saturation, hue (DINO: 0.4, 0.4, 0.2, 0.1).
        jitter_chance: chance that a view is jittered at all (DINO: 0.8).
        grey: chance of greyscale (DINO: 0.2).
        blur: chance of a Gaussian blur, standard deviation U(0.1, 2) pixels (DINO: 1.0 / 0.1 /
            0.5).
        solarize: chance of inverting values of 128/255 and more (DINO: 0.2 on the second global
            view).
        interpolation: of the crop, antialiased like PIL's (DINO: "bicubic").
        color: "affine" turns hues linearly and in a fixed order, for little time; "torchvision"
            is `ColorJitter`: hues of HSV, in a random order for each image (DINO).
        scale_blur: take the blur's pixels as those of a view of side 224, so that small views are
            blurred less; False: as those of the view itself, whatever its side (DINO).
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
    interpolation: Interpolation = "bilinear"
    color: Literal["affine", "torchvision"] = "affine"
    scale_blur: bool = True

    @property
    def blur_scale(self) -> float:
        """A view's pixels for each of the blur's."""
        return self.side / 224 if self.scale_blur else 1.0

    @property
    def blur_reach(self) -> int:
        """How many pixels to each side the widest blur looks at."""
        return math.ceil(_BLUR_DEVIATIONS * _MAX_BLUR * self.blur_scale)


@dataclass(frozen=True, slots=True)
class ViewParameters:
    """The random choices for one view of each of B images. All arrays have B rows.

    Attributes:
        size: (B, 2) float64, width and height of the crop as shares of the image's side, (0, 1].
        place: (B, 2) float64 in [0, 1), which of the possible left and top edges the crop has.
        flipped: (B,) bool.
        jittered: (B,) bool, whether `factors` apply.
        factors: (B, 4) float64: brightness, contrast and saturation, 1 for no change; hue in turns.
        order: (B, 4) int64, the columns of `factors` in the order of their application.
        grey: (B,) bool.
        blurred: (B,) bool.
        radius: (B,) float64, standard deviations of the blur, pixels of the view.
        solarized: (B,) bool.
    """

    size: npt.NDArray[np.float64]
    place: npt.NDArray[np.float64]
    flipped: npt.NDArray[np.bool_]
    jittered: npt.NDArray[np.bool_]
    factors: npt.NDArray[np.float64]
    order: npt.NDArray[np.int64]
    grey: npt.NDArray[np.bool_]
    blurred: npt.NDArray[np.bool_]
    radius: npt.NDArray[np.float64]
    solarized: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.size)

    def part(self, rows: slice) -> ViewParameters:
        """The choices for some of the images."""
        arrays = {f.name: getattr(self, f.name)[rows] for f in dataclasses.fields(self)}
        return ViewParameters(**arrays)


def make_view(images: Tensor, config: ViewConfig, *, random: np.random.Generator) -> Tensor:
    """One augmented view of every image: `draw_views`, then `apply_views`.

    Args:
        images: (B, 3, S, S) float32 in [0, 1].
        config: what to do.
        random: every choice comes from here.

    Returns:
        (B, 3, s, s) float32 in [0, 1].
    """
    return apply_views(images, draw_views(config, len(images), random), config)


def draw_views(config: ViewConfig, count: int, random: np.random.Generator) -> ViewParameters:
    """The random choices for one view of each of `count` images.

    How many numbers are drawn depends on `count` alone. The crop is that of torchvision's
    `RandomResizedCrop`: area uniform, ratio of sides log-uniform, ten tries to fit into the image,
    else the whole image. Fitting is judged before the sides are rounded to pixels.
    """
    strengths = np.array(config.jitter)
    low, high = -strengths, strengths.copy()
    low[:3], high[:3] = np.maximum(0, 1 - strengths[:3]), 1 + strengths[:3]
    return ViewParameters(
        size=_crop_sizes(config, count, random),
        place=random.random((count, 2)),
        flipped=random.random(count) < config.flip,
        jittered=random.random(count) < config.jitter_chance,
        factors=random.uniform(low, high, (count, 4)),
        order=random.random((count, 4)).argsort(axis=1),
        grey=random.random(count) < config.grey,
        blurred=random.random(count) < config.blur,
        radius=random.uniform(0.1, _MAX_BLUR, count) * config.blur_scale,
        solarized=random.random(count) < config.solarize,
    )


def _crop_sizes(
    config: ViewConfig, count: int, random: np.random.Generator
) -> npt.NDArray[np.float64]:
    tries = (count, _CROP_TRIES)
    area = random.uniform(*config.scale, tries)
    ratio = np.exp(random.uniform(-math.log(config.aspect), math.log(config.aspect), tries))
    sizes = np.sqrt(np.stack([area * ratio, area / ratio], axis=2))  # (B, tries, 2)
    fits = sizes.max(axis=2) <= 1
    first = np.take_along_axis(sizes, fits.argmax(axis=1)[:, None, None], axis=1)[:, 0]
    return np.where(fits.max(axis=1)[:, None], first, 1.0)


def apply_views(images: Tensor, parameters: ViewParameters, config: ViewConfig) -> Tensor:
    """Augments every image by its own choices; no image depends on another.

    Args:
        images: (B, 3, S, S) float32 in [0, 1].
        parameters: B rows.
        config: the one that `parameters` were drawn for.

    Returns:
        (B, 3, s, s) float32 in [0, 1].

    Raises:
        InputError: the images are not square or not as many as `parameters`.
    """
    if images.ndim != 4 or images.shape[2] != images.shape[3] or len(images) != len(parameters):
        raise InputError(
            f"images are {tuple(images.shape)}, wanted ({len(parameters)}, 3, S, S): "
            "square images, and view parameters for each"
        )
    flipped = torch.from_numpy(parameters.flipped).to(images.device)
    views = resized_crop(
        images,
        torch.from_numpy(pixel_boxes(parameters, images.shape[2])).to(images.device),
        side=config.side,
        interpolation=config.interpolation,
        flipped=flipped,
    )
    if config.color == "affine":
        views = _jitter_affinely(views, parameters)
    else:
        views = _jitter_and_grey(views, parameters)
    chosen = _rows(parameters.blurred, views)
    if len(chosen):
        radius = _column(parameters.radius[parameters.blurred], views)
        views[chosen] = gaussian_blur(views[chosen], radius, reach=config.blur_reach)
    if parameters.solarized.any():
        chosen = _rows(parameters.solarized, views)
        views[chosen] = solarize(views[chosen])
    return views


def pixel_boxes(parameters: ViewParameters, side: int) -> npt.NDArray[np.int64]:
    """(B, 4) left, top, width, height in whole pixels of images of so many pixels a side."""
    size = np.clip(np.rint(parameters.size * side), 1, side)
    corner = np.floor(parameters.place * (side - size + 1))
    return np.concatenate([corner, size], axis=1).astype(np.int64)


def resized_crop(
    images: Tensor,
    boxes: Tensor,
    *,
    side: int,
    interpolation: Interpolation = "bilinear",
    flipped: Tensor | None = None,
) -> Tensor:
    """Cuts a box out of every image and resizes it to side x side, antialiased, as PIL does.

    On the CPU one image after the other, by torch's antialiased interpolation; elsewhere all images
    at once, each axis as a product with a matrix of filter weights for each image.

    Args:
        images: (B, 3, S, S) float32.
        boxes: (B, 4) left, top, width, height, pixels; within the images.
        side: s, pixels.
        interpolation: "bicubic" results are clamped to [0, 1], as PIL's are to 8 bits.
        flipped: (B,) bool, which crops to flip left to right; none if not given.

    Returns:
        (B, 3, s, s) float32.
    """
    if flipped is None:
        flipped = torch.zeros(len(images), dtype=torch.bool, device=images.device)
    if images.device.type == "cpu":
        return _resized_by_one(images, boxes, side, interpolation, flipped)
    return resized_by_products(images, boxes, side, interpolation, flipped)


def _resized_by_one(
    images: Tensor, boxes: Tensor, side: int, interpolation: Interpolation, flipped: Tensor
) -> Tensor:
    # A third of the work of the dense products, whose weights are nearly all zero.
    views = images.new_empty(*images.shape[:2], side, side)
    for image, view, box, flip in zip(images, views, boxes.tolist(), flipped.tolist(), strict=True):
        left, top, width, height = box
        crop = image[None, :, top : top + height, left : left + width]
        if interpolation == "bicubic":
            # PIL keeps 8 bits between the axes.
            crop = _interpolated(crop, (height, side), interpolation).clamp_(0, 1)
        crop = _interpolated(crop, (side, side), interpolation)[0]
        view.copy_(crop.flip(2) if flip else crop)
    return views.clamp_(0, 1) if interpolation == "bicubic" else views


def _interpolated(image: Tensor, size: tuple[int, int], interpolation: Interpolation) -> Tensor:
    return functional.interpolate(
        image, size, mode=interpolation, antialias=True, align_corners=False
    )


def resized_by_products(
    images: Tensor, boxes: Tensor, side: int, interpolation: Interpolation, flipped: Tensor
) -> Tensor:
    """`resized_crop` as two batched matrix products, the way of all devices but the CPU."""
    count, channels, size, _ = images.shape
    corner, length = boxes.to(images.dtype).T.flatten().chunk(2)  # (2B,): all x, then all y
    mirrored = torch.cat([flipped, torch.zeros_like(flipped)])
    weights = _resize_weights(corner, length, mirrored, size, side, interpolation)
    across, down = weights.chunk(2)  # (B, s, S)
    rows = images.reshape(count, channels * size, size)
    rows = torch.bmm(rows, across.mT).reshape(count, channels, size, side)
    if interpolation == "bicubic":
        rows.clamp_(0, 1)
    views = torch.matmul(down[:, None], rows)  # (B, 1, s, S) x (B, 3, S, s)
    return views.clamp_(0, 1) if interpolation == "bicubic" else views


def _resize_weights(
    start: Tensor,
    length: Tensor,
    mirrored: Tensor,
    size: int,
    side: int,
    interpolation: Interpolation,
) -> Tensor:
    """(n, s, S): what each input pixel gives to each output pixel along one axis.

    The filter is as wide as an output pixel where the box is shrunk, and as an input pixel where it
    is enlarged. The rows sum to 1 over the box's pixels; the others have no weight.
    """
    outputs = torch.arange(side, device=start.device, dtype=start.dtype).expand(len(start), -1)
    outputs = torch.where(mirrored[:, None], side - 1 - outputs, outputs)
    step = (length / side)[:, None]
    centers = start[:, None] + (outputs + 0.5) * step  # (n, s)
    pixels = torch.arange(size, device=start.device, dtype=start.dtype) + 0.5
    inside = (pixels > start[:, None]) & (pixels < (start + length)[:, None])  # (n, S)
    width = step.clamp(min=1)[:, :, None]
    distance = (pixels - centers[:, :, None]).abs_()  # (n, s, S)
    if interpolation == "bilinear":
        weights = torch.sub(width, distance, out=distance).relu_()
    else:
        weights = _cubic(distance.div_(width))
    weights.mul_(inside[:, None])
    return weights.div_(weights.sum(dim=2, keepdim=True))


def _cubic(distance: Tensor) -> Tensor:
    """Keys' cubic convolution kernel with a = -1/2 (Keys 1981, eq. 15), what PIL calls bicubic."""
    distance = distance.clamp_(max=2)
    inner = (1.5 * distance - 2.5) * distance * distance + 1
    outer = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance < 1, inner, outer)


def _jitter_affinely(views: Tensor, parameters: ViewParameters) -> Tensor:
    neutral = np.array([1.0, 1.0, 1.0, 0.0])
    factors = np.where(parameters.jittered[:, None], parameters.factors, neutral)
    factors[parameters.grey, 2:] = 0  # no saturation is greyscale, and has no hue
    brightness, contrast, saturation, hue = (_column(column, views) for column in factors.T)
    return adjust_color(
        views, brightness=brightness, contrast=contrast, saturation=saturation, hue=hue
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
    images = _contrast(
        _brightness(images, brightness[:, :, None, None]), contrast[:, :, None, None]
    )
    identity = torch.eye(3, device=images.device)
    to_grey = torch.tensor(_LUMA, device=images.device).expand(3, 3)
    saturate = saturation[:, :, None] * identity + (1 - saturation[:, :, None]) * to_grey
    matrix = torch.bmm(_hue_matrix(hue[:, 0]), saturate)  # (B, 3, 3)
    return torch.bmm(matrix, images.flatten(2)).clamp_(0, 1).reshape(images.shape)


def _hue_matrix(hue: Tensor) -> Tensor:
    """(B,) turns -> (B, 3, 3): RGB -> YIQ, a turn of (I, Q), -> RGB."""
    to_yiq = torch.tensor(_YIQ, device=hue.device)
    # Inverted on the CPU: on a GPU it would wait for everything before it.
    to_rgb = torch.tensor(np.linalg.inv(_YIQ), dtype=torch.float32, device=hue.device)
    cosine, sine = torch.cos(2 * math.pi * hue), torch.sin(2 * math.pi * hue)
    turn = torch.zeros(len(hue), 3, 3, device=hue.device)
    turn[:, 0, 0] = 1
    turn[:, 1, 1], turn[:, 1, 2], turn[:, 2, 1], turn[:, 2, 2] = cosine, -sine, sine, cosine
    return to_rgb @ turn @ to_yiq


def _jitter_and_grey(views: Tensor, parameters: ViewParameters) -> Tensor:
    if parameters.jittered.any():
        chosen = _rows(parameters.jittered, views)
        factors = torch.from_numpy(parameters.factors[parameters.jittered].astype(np.float32))
        views[chosen] = jitter_color(
            views[chosen], factors.to(views.device), parameters.order[parameters.jittered]
        )
    if parameters.grey.any():
        chosen = _rows(parameters.grey, views)
        views[chosen] = _greyscale(views[chosen]).expand(-1, 3, -1, -1)
    return views


def jitter_color(images: Tensor, factors: Tensor, order: npt.NDArray[np.int64]) -> Tensor:
    """The `ColorJitter` of torchvision, with an order of its own for every image.

    Args:
        images: (B, 3, H, W) float32 in [0, 1].
        factors: (B, 4) float32: brightness, contrast, saturation; hue in turns.
        order: (B, 4), which column comes first, second, third, last.

    Returns:
        (B, 3, H, W) float32 in [0, 1].
    """
    images = images.clone()
    operations = (_brightness, _contrast, _saturation, _hue)
    for slot in order.T:
        for column, operation in enumerate(operations):
            chosen = _rows(slot == column, images)
            if len(chosen):
                factor = factors[chosen, column][:, None, None, None]
                images[chosen] = operation(images[chosen], factor)
    return images


def _brightness(images: Tensor, factor: Tensor) -> Tensor:
    return (images * factor).clamp_(0, 1)


def _contrast(images: Tensor, factor: Tensor) -> Tensor:
    luma = torch.tensor(_LUMA, device=images.device)
    mean = (images.mean(dim=(2, 3)) @ luma)[:, None, None, None]
    return (images * factor).add_(mean * (1 - factor)).clamp_(0, 1)


def _saturation(images: Tensor, factor: Tensor) -> Tensor:
    return (images * factor).add_(_greyscale(images) * (1 - factor)).clamp_(0, 1)


def _hue(images: Tensor, factor: Tensor) -> Tensor:
    """Turns the hue of HSV (Smith 1978) and keeps saturation and value."""
    red, green, blue = images.unbind(1)
    value = images.amax(dim=1)
    chroma = value - images.amin(dim=1)
    divisor = torch.where(chroma == 0, 1, chroma)
    # In sixths of a turn from red, through yellow, green, cyan, blue, magenta.
    hue = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    hue = hue + 6 * factor[:, 0]
    # A channel has none of the chroma subtracted within a sixth of its own hue, all of it beyond
    # two sixths; the offsets put that interval at [0, 4] for red, green, blue.
    offsets = torch.tensor([5.0, 3.0, 1.0], device=images.device)[:, None, None]
    phase = torch.remainder(hue[:, None] + offsets, 6)  # (B, 3, H, W)
    taken = torch.minimum(phase, 4 - phase).clamp_(0, 1)
    return value[:, None] - chroma[:, None] * taken


def _greyscale(images: Tensor) -> Tensor:
    """(B, 3, H, W) -> (B, 1, H, W) luma."""
    luma = torch.tensor(_LUMA, device=images.device)
    return torch.matmul(luma, images.flatten(2)).reshape(len(images), 1, *images.shape[2:])


def gaussian_blur(
    images: Tensor, radius: Tensor, *, reach: int = _BLUR_DEVIATIONS * int(_MAX_BLUR)
) -> Tensor:
    """Separable Gaussian blur with a standard deviation for each image.

    Beyond the edge there are copies of the edge pixel, as in PIL, whose three box blurs approach
    this Gaussian.

    Args:
        images: (B, 3, H, W) float32.
        radius: (B, 1) standard deviations, pixels, at most a quarter of `reach`.
        reach: how many pixels to each side are looked at; fewer take less time.

    Returns:
        (B, 3, H, W) float32.
    """
    count, channels, height, width = images.shape
    offsets = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-0.5 * (offsets / radius) ** 2)  # (B, 17)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)  # (3B, 17)
    groups = count * channels
    flat = images.reshape(1, groups, height, width)
    flat = functional.pad(flat, (reach, reach, reach, reach), mode="replicate")
    flat = functional.conv2d(flat, kernel[:, None, None, :], groups=groups)
    flat = functional.conv2d(flat, kernel[:, None, :, None], groups=groups)
    return flat.reshape(images.shape)


def solarize(images: Tensor) -> Tensor:
    """Inverts values of 128/255 and more."""
    return torch.where(images >= _SOLARIZE_THRESHOLD, 1 - images, images)


def _rows(chosen: npt.NDArray[np.bool_], like: Tensor) -> Tensor:
    return torch.from_numpy(np.flatnonzero(chosen)).to(like.device)


def _column(values: npt.NDArray[Any], like: Tensor) -> Tensor:
    return torch.from_numpy(np.asarray(values, np.float32))[:, None].to(like.device)
