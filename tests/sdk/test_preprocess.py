"""The one preprocessing: held against a literal computation, and the same for every input form."""

from __future__ import annotations

import hashlib
import io
import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from procmem.errors import InputError
from procmem.image import load_image
from procmem.manifest import Preprocessing
from procmem.preprocess import center_view, decode_min_side, to_tensor, whole_view

SMALL = Preprocessing(resize=32, crop=28, mean=(0.5, 0.4, 0.3), std=(0.5, 0.25, 0.2))
PLAIN = Preprocessing(resize=32, crop=28, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))

# Pillow rounds to 8 bits after each of its two passes. The second pass multiplies the first's
# half level by at most the filter's absolute sum (below 1.5): 0.75 + 0.5, and some slack for
# its 22-bit coefficients.
TWO_ROUNDINGS = 1.3


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def keys_cubic(x: float) -> float:
    """Keys 1981, a = -0.5."""
    x = abs(x)
    if x < 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    if x < 2:
        return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return 0.0


def literal_axis(count: int, start: float, length: float, out: int) -> np.ndarray:
    """(out, count) float64: weight of each source sample for each output sample."""
    scale = length / out
    widened = max(scale, 1.0)
    weights = np.zeros((out, count))
    for i in range(out):
        center = start + (i + 0.5) * scale
        low = max(0, math.floor(center - 2 * widened + 0.5))
        high = min(count, math.floor(center + 2 * widened + 0.5))
        for j in range(low, high):
            weights[i, j] = keys_cubic((j + 0.5 - center) / widened)
    return weights / weights.sum(axis=1, keepdims=True)


def literal_view(image: np.ndarray, box: tuple[float, float, float, float], out: int) -> np.ndarray:
    """(out, out, 3) float64 in [0, 255]: `box` (left, top, width, height), longer axis first."""
    height, width = image.shape[:2]
    if height > width:
        left, top, box_width, box_height = box
        turned = literal_view(image.transpose(1, 0, 2), (top, left, box_height, box_width), out)
        return turned.transpose(1, 0, 2)
    left, top, box_width, box_height = box
    columns = literal_axis(width, left, box_width, out)
    rows = literal_axis(height, top, box_height, out)
    across = np.clip(np.einsum("xw,hwc->hxc", columns, image), 0, 255)
    return np.clip(np.einsum("yh,hxc->yxc", rows, across), 0, 255)


def levels(tensor: np.ndarray) -> np.ndarray:
    """(S, S, 3) in [0, 255] from a tensor made with PLAIN."""
    return tensor.transpose(1, 2, 0).astype(np.float64) * 255


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 1000))
def test_center_view_equals_the_literal_computation(height: int, width: int, seed: int) -> None:
    image = noise(height, width, seed)
    view = levels(center_view(image, PLAIN))
    side = min(height, width) * 28 / 32
    expected = literal_view(image, ((width - side) / 2, (height - side) / 2, side, side), 28)
    np.testing.assert_allclose(view, expected, atol=TWO_ROUNDINGS)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 1000))
def test_whole_view_equals_the_literal_computation(height: int, width: int, seed: int) -> None:
    image = noise(height, width, seed)
    expected = literal_view(image, (0, 0, width, height), 28)
    np.testing.assert_allclose(levels(whole_view(image, PLAIN)), expected, atol=TWO_ROUNDINGS)


@pytest.mark.parametrize("shape", [(64, 64), (64, 96), (128, 64), (32, 32)])
def test_center_view_is_resize_then_crop_to_the_bit(shape: tuple[int, int]) -> None:
    picture = Image.fromarray(noise(*shape))
    scale = min(shape) // 32
    wide, tall = (shape[1] // scale, shape[0]), (shape[1], shape[0] // scale)
    final = (wide[0], tall[1])
    for size in (wide, final) if shape[1] >= shape[0] else (tall, final):
        picture = picture.resize(size, Image.Resampling.BICUBIC)
    left, top = (picture.width - 28) // 2, (picture.height - 28) // 2
    cropped = np.asarray(picture.crop((left, top, left + 28, top + 28)), dtype=np.float32)
    view = center_view(noise(*shape), PLAIN)
    np.testing.assert_array_equal(view, (cropped / np.float32(255)).transpose(2, 0, 1))


@pytest.mark.parametrize("view", ["center", "whole"])
def test_turned_images_give_turned_views(view: str) -> None:
    image = noise(57, 90)
    turned = to_tensor([np.ascontiguousarray(image.transpose(1, 0, 2))], PLAIN, view=view)
    expected = to_tensor([image], PLAIN, view=view).transpose(0, 1, 3, 2)
    np.testing.assert_array_equal(turned, expected)


def test_pixels_beyond_the_filters_reach_change_no_bit() -> None:
    image = noise(48, 300)
    side = 48 * 28 / 32
    reach = math.ceil((300 + side) / 2 + 2 * side / 28)
    changed = image.copy()
    changed[:, reach:] = 0
    np.testing.assert_array_equal(center_view(changed, PLAIN), center_view(image, PLAIN))


def test_normalization_is_per_channel_after_scaling_to_one() -> None:
    image = np.empty((40, 40, 3), dtype=np.uint8)
    image[:] = (0, 51, 255)
    view = center_view(image, SMALL)
    expected = [(0 - 0.5) / 0.5, (0.2 - 0.4) / 0.25, (1 - 0.3) / 0.2]
    np.testing.assert_allclose(view.mean(axis=(1, 2)), expected, rtol=1e-6)


def test_mirrored_images_give_mirrored_views() -> None:
    image = noise(64, 100)  # an exact scale: no rounding of coordinates on either side
    mirrored = center_view(np.ascontiguousarray(image[:, ::-1]), PLAIN)
    np.testing.assert_array_equal(mirrored, center_view(image, PLAIN)[:, :, ::-1])


@pytest.mark.parametrize("view", ["center", "whole"])
def test_path_bytes_pil_and_array_give_the_same_tensor(view: str, tmp_path: Path) -> None:
    pixels = noise(150, 211)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    path = tmp_path / "a.png"
    path.write_bytes(file.getvalue())
    forms = [path, file.getvalue(), Image.open(io.BytesIO(file.getvalue())), pixels]
    loaded = [load_image(form, min_side=decode_min_side(SMALL)) for form in forms]
    tensors = to_tensor(loaded, SMALL, view=view)
    for other in tensors[1:]:
        np.testing.assert_array_equal(other, tensors[0])


def test_the_reduced_decode_moves_the_tensor_by_little() -> None:
    y, x = np.mgrid[0:480, 0:640]
    waves = np.stack([np.sin(x / 17), np.cos(y / 23), np.sin((x + y) / 31)], axis=2)
    file = io.BytesIO()
    Image.fromarray(np.rint(127.5 + 127 * waves).astype(np.uint8)).save(file, "JPEG", quality=95)
    full = load_image(file.getvalue())
    reduced = load_image(file.getvalue(), min_side=decode_min_side(PLAIN))
    assert reduced.shape == (120, 160, 3)
    difference = levels(center_view(full, PLAIN)) - levels(center_view(reduced, PLAIN))
    assert np.abs(difference).mean() < 1  # levels of 255


def test_the_tensor_of_a_fixed_image_never_changes() -> None:
    y, x = np.mgrid[0:301, 0:407]
    image = np.stack([x * 7 + y, x + y * 5, x * y], axis=2).astype(np.uint8)
    tensor = center_view(image, Preprocessing())
    digest = hashlib.sha256(tensor.astype("<f4").tobytes()).hexdigest()
    # Vaults in the field hold vectors made from such tensors: a new value here orphans them.
    assert digest == "feed20a0c3965a7fa7f9e155ff530c071ad8001aa41424e8554cc5711d1455fa"


@pytest.mark.parametrize("shape", [(1, 10_000), (10_000, 1), (2, 500_000), (500_000, 2)])
@pytest.mark.parametrize("view", ["center", "whole"])
def test_extreme_aspect_ratios_cost_little_memory(shape: tuple[int, int], view: str) -> None:
    image = noise(*shape)
    tracemalloc.start()
    tensor = to_tensor([image], Preprocessing(), view=view)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert tensor.shape == (1, 3, 224, 224)
    assert np.isfinite(tensor).all()
    assert peak < 8_000_000 + 3 * image.nbytes


def test_a_center_view_of_a_long_image_sees_its_center() -> None:
    image = np.zeros((1, 10_000, 3), dtype=np.uint8)
    image[:, 4_995:5_005] = 255
    assert center_view(image, PLAIN).min() == 1.0


def test_one_pixel_fills_the_view() -> None:
    pixel = np.array([[[10, 20, 30]]], dtype=np.uint8)
    for view in ("center", "whole"):
        tensor = to_tensor([pixel], PLAIN, view=view)[0]
        np.testing.assert_array_equal(levels(tensor)[0, 0].round(), [10, 20, 30])
        assert np.ptp(tensor, axis=(1, 2)).max() == 0


def test_whole_view_shows_the_corners_that_center_view_leaves_out() -> None:
    image = np.zeros((40, 120, 3), dtype=np.uint8)
    image[:, :20] = 255
    assert center_view(image, PLAIN).max() == 0
    assert whole_view(image, PLAIN)[0, 14, 0] == 1.0


def test_tensors_are_contiguous_float32() -> None:
    tensor = center_view(noise(50, 50), SMALL)
    assert tensor.dtype == np.float32
    assert tensor.flags.c_contiguous


def test_no_images_give_an_empty_tensor() -> None:
    assert to_tensor([], SMALL).shape == (0, 3, 28, 28)


def test_the_given_image_is_not_changed() -> None:
    image = noise(33, 44)
    before = image.copy()
    to_tensor([image], SMALL)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
        "a.jpg",
    ],
)
def test_anything_but_decoded_rgb_is_refused(image: object) -> None:
    with pytest.raises(InputError, match=r"wanted \(H, W, 3\) uint8"):
        center_view(image, SMALL)


def test_an_unknown_view_is_refused_and_the_nearest_offered() -> None:
    with pytest.raises(InputError, match=r"view is 'centre'.*did you mean 'center'"):
        to_tensor([], SMALL, view="centre")


@pytest.mark.parametrize(
    "preprocessing",
    [Preprocessing(resize=20, crop=28), Preprocessing(crop=0), Preprocessing(std=(1.0, 0.0, 1.0))],
)
def test_unusable_preprocessing_is_refused(preprocessing: Preprocessing) -> None:
    with pytest.raises(InputError, match="preprocessing has"):
        center_view(noise(8, 8), preprocessing)
