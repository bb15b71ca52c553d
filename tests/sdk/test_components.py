"""Colors of patch tokens: like patches like colors, nothing invented where there is nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from procmem import components
from procmem.components import pca_map, pca_maps, principal_components
from procmem.errors import InputError
from procmem.tokens import stretch

Float32 = npt.NDArray[np.float32]


def noise(h: int, w: int, width: int = 16, seed: int = 0) -> Float32:
    return np.random.default_rng(seed).standard_normal((h, w, width)).astype(np.float32)


def two_regions(h: int = 4, w: int = 6) -> Float32:
    tokens = np.zeros((h, w, 5), np.float32)
    tokens[:, : w // 2] = [3, 1, 0, 0, 2]
    tokens[:, w // 2 :] = [-1, 1, 4, 0, 2]
    return tokens


def test_two_regions_have_two_colors_and_no_third_is_made_of_rounding() -> None:
    shown = pca_map(two_regions(), size=(40, 60))
    left, right = shown[:, :20].reshape(-1, 3), shown[:, 40:].reshape(-1, 3)
    assert len(np.unique(left, axis=0)) == len(np.unique(right, axis=0)) == 1
    assert {int(left[0, 0]), int(right[0, 0])} == {0, 255}
    assert (shown[..., 1:] == 128).all()  # two points span one direction


def test_the_largest_weight_of_a_direction_is_positive() -> None:
    # The direction between the regions is (4, 0, -4, 0, 0) or its negative: the first largest wins.
    shown = pca_map(two_regions(), size=(4, 6))
    assert shown[0, 0, 0] == 255
    assert shown[0, -1, 0] == 0


def test_the_map_is_the_published_procedure_step_by_step() -> None:
    tokens = noise(5, 7)
    points = stretch(tokens, (112, 112)).reshape(-1, 16)
    points = points - points.mean(axis=0)
    _, _, directions = np.linalg.svd(points, full_matrices=False)
    scores = points @ directions[:3].T
    flipped = [one[np.argmax(np.abs(one))] < 0 for one in directions[:3]]
    scores = np.where(flipped, -scores, scores)
    scaled = (scores - scores.min(axis=0)) / np.ptp(scores, axis=0)

    shown = pca_map(tokens, size=(112, 112))

    # Half a level of rounding; SVD and eigenvectors differ far below that.
    assert np.abs(shown.reshape(-1, 3) - 255 * scaled).max() <= 0.5 + 1e-6


def test_several_images_share_one_space_of_colors() -> None:
    one, other = two_regions(), two_regions()[:, ::-1]
    alone = pca_map(one[:, :3], size=(8, 8))
    both = pca_maps([one, np.ascontiguousarray(other)], sizes=[(8, 12), (8, 12)])
    np.testing.assert_array_equal(both[0], both[1][:, ::-1])
    # The left half alone has nothing to differ from; beside the right half it has a color.
    parts = pca_maps([one[:, :3], one[:, 3:]], sizes=[(8, 8), (3, 5)])
    assert (alone == 128).all()
    assert (parts[0] == [255, 128, 128]).all()
    assert (parts[1] == [0, 128, 128]).all()
    assert parts[1].shape == (3, 5, 3)


@pytest.mark.parametrize("value", [0.0, 1.0, -0.3, 3e38])
def test_equal_tokens_are_one_gray(value: float) -> None:
    tokens = np.full((3, 3, 8), value, np.float32)
    assert (pca_map(tokens, size=(17, 5)) == 128).all()


def test_one_patch_is_gray() -> None:
    assert (pca_map(noise(1, 1), size=(30, 40)) == 128).all()


def test_the_largest_numbers_of_float32_give_a_map() -> None:
    tokens = noise(4, 4)
    huge = (tokens / np.abs(tokens).max() * np.float32(3e38)).astype(np.float32)
    small = tokens / np.abs(tokens).max()
    assert np.abs(pca_map(huge, size=(9, 9)).astype(int) - pca_map(small, size=(9, 9))).max() <= 1


@pytest.mark.parametrize("width", [1, 2])
def test_narrow_tokens_leave_the_missing_components_gray(width: int) -> None:
    shown = pca_map(noise(4, 4, width), size=(112, 112))
    assert (shown[..., width:] == 128).all()
    assert shown[..., :width].min() == 0


@pytest.mark.parametrize("size", [(1, 1), (37, 53), (224, 224), (500, 3)])
def test_the_map_has_the_size_of_the_image(size: tuple[int, int]) -> None:
    shown = pca_map(noise(3, 5), size=size)
    assert shown.shape == (*size, 3)
    assert shown.dtype == np.uint8


def test_a_grid_finer_than_the_published_one_is_taken_as_it_is() -> None:
    assert pca_map(noise(2, 120, 4), size=(2, 120)).shape == (2, 120, 3)


def test_a_large_map_is_made_in_bands_without_seams(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pca_map(noise(6, 6), size=(90, 70))
    monkeypatch.setattr(components, "_ELEMENTS_AT_ONCE", 3 * 112 * 4)
    np.testing.assert_array_equal(pca_map(noise(6, 6), size=(90, 70)), whole)


def test_the_memory_layout_of_tokens_does_not_matter() -> None:
    tokens = noise(6, 6)
    strided = np.asfortranarray(np.repeat(tokens, 2, axis=2))[:, :, ::2]
    assert not strided.flags.c_contiguous
    np.testing.assert_array_equal(pca_map(strided, size=(9, 9)), pca_map(tokens, size=(9, 9)))


def test_sums_over_stretched_positions_are_those_of_the_stretched_features() -> None:
    tokens = [noise(3, 4, 6, seed) for seed in (0, 1)]
    points = np.concatenate([stretch(one, (20, 20)).reshape(-1, 6) for one in tokens])
    points -= points.mean(axis=0)
    found = np.concatenate([one.reshape(-1, 3) for one in principal_components(tokens, side=20)])
    variances = np.linalg.eigvalsh(points.T @ points)[::-1][:3]
    np.testing.assert_allclose(np.square(found).sum(axis=0), variances, rtol=1e-12)
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-12)


BAD = noise(3, 3)
BAD[1, 2, 0] = np.nan


@pytest.mark.parametrize(
    ("tokens", "size", "words"),
    [
        (BAD, (8, 8), "not finite, the first in the patch at row 1, column 2"),
        (noise(3, 3).astype(np.float64), (8, 8), "dtype float64"),
        (noise(3, 3)[0], (8, 8), r"shape \(3, 16\)"),
        (noise(3, 3)[:0], (8, 8), r"shape \(0, 3, 16\)"),
        ([[1.0]], (8, 8), "tokens is a list"),
        (noise(3, 3), (0, 8), "size is 0x8"),
    ],
)
def test_what_is_no_patch_tokens_is_an_input_error(tokens: Any, size: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        pca_map(tokens, size=size)


@pytest.mark.parametrize(
    ("tokens", "sizes", "words"),
    [
        ([], [], "0 images"),
        ([noise(2, 2)], [], "1 images with 0 sizes"),
        ([noise(2, 2), noise(2, 2, 8)], [(4, 4)] * 2, r"tokens\[1\] has patch tokens of width 8"),
    ],
)
def test_images_that_do_not_go_together_are_input_errors(
    tokens: Any, sizes: Any, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        pca_maps(tokens, sizes=sizes)
