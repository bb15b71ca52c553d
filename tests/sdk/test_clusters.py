"""Regions without names: what is equal stays together, what differs parts, always the same way."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from procmem.clusters import _lloyd, cluster_regions, k_means
from procmem.errors import InputError
from procmem.tokens import flat_unit

Float32 = npt.NDArray[np.float32]

KINDS = np.eye(6, dtype=np.float32)


def grid_of(kinds: npt.ArrayLike) -> Float32:
    return KINDS[np.asarray(kinds)]


def noise(h: int, w: int, width: int = 16, seed: int = 0) -> Float32:
    return np.random.default_rng(seed).standard_normal((h, w, width)).astype(np.float32)


def test_an_image_of_two_regions_gives_these_two() -> None:
    tokens = grid_of([[0, 1, 1, 1]] * 4)
    regions = cluster_regions(tokens, 2, size=(64, 64))
    wanted = np.ones((64, 64), np.uint8)
    wanted[:, :16] = 2
    np.testing.assert_array_equal(regions.mask, wanted)
    assert regions.mask.dtype == np.uint8
    assert regions.labels == (1, 2)
    assert regions.confidence.dtype == np.float32
    # Away from the border: a center at cosine 1 against one at cosine 0.
    share = np.exp(10) / (np.exp(10) + 1)
    np.testing.assert_allclose(regions.confidence[:, -1], share, rtol=1e-6)


@pytest.mark.parametrize("seed", range(20))
def test_as_many_kinds_as_regions_are_all_found_whatever_the_start(seed: int) -> None:
    kinds = np.array([[0, 0, 1, 1, 2], [3, 3, 3, 4, 5], [0, 0, 1, 4, 4]])
    regions = cluster_regions(grid_of(kinds), 6, size=(3, 5), seed=seed)
    pairs = set(zip(kinds.ravel().tolist(), regions.mask.ravel().tolist(), strict=True))
    assert len(pairs) == 6
    assert {value for _, value in pairs} == set(range(1, 7))


def test_the_largest_region_is_first_and_equal_ones_in_reading_order() -> None:
    regions = cluster_regions(grid_of([[4, 2, 2], [5, 5, 0]]), 4, size=(2, 3))
    assert regions.mask.tolist() == [[3, 1, 1], [2, 2, 4]]


def test_the_length_of_tokens_does_not_matter() -> None:
    tokens = noise(5, 5)
    lengths = 2.0 ** np.random.default_rng(1).integers(-3, 4, (5, 5, 1))
    plain = cluster_regions(tokens, 4, size=(40, 30))
    scaled = cluster_regions((tokens * lengths).astype(np.float32), 4, size=(40, 30))
    np.testing.assert_array_equal(plain.mask, scaled.mask)
    np.testing.assert_array_equal(plain.confidence, scaled.confidence)


def test_the_same_tokens_give_the_same_regions() -> None:
    first = cluster_regions(noise(14, 14), 5, size=(33, 47))
    again = cluster_regions(noise(14, 14), 5, size=(33, 47))
    np.testing.assert_array_equal(first.mask, again.mask)
    np.testing.assert_array_equal(first.confidence, again.confidence)


@pytest.mark.parametrize("value", [0.0, 1.0, -2.5])
def test_equal_tokens_are_one_region_without_a_nan(value: float) -> None:
    regions = cluster_regions(np.full((4, 4, 7), value, np.float32), 3, size=(10, 11))
    assert regions.labels == (1,)
    assert (regions.mask == 1).all()
    assert (regions.confidence == 1).all()


def test_equal_directions_of_any_length_are_one_region() -> None:
    # Dividing by the length rounds, so that the unit tokens differ in their last bits.
    direction = noise(1, 1, 192)[0, 0]
    lengths = np.random.default_rng(2).uniform(0.1, 30, (6, 6, 1))
    tokens = (direction * lengths).astype(np.float32)
    assert len(np.unique(flat_unit(tokens, "tokens"), axis=0)) > 1
    assert cluster_regions(tokens, 5, size=(6, 6)).labels == (1,)


def test_fewer_kinds_than_regions_give_fewer_regions() -> None:
    regions = cluster_regions(grid_of([[0, 1], [1, 0], [0, 0]]), 5, size=(3, 2))
    assert regions.labels == (1, 2)
    assert regions.mask.tolist() == [[1, 2], [2, 1], [1, 1]]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(2, 40), st.integers(1, 12), st.integers(1, 40), st.integers(0, 2**32))
def test_every_cluster_has_a_point_and_equal_points_share_one(
    count: int, width: int, k: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    kinds = random.standard_normal((max(1, count // 2), 1, width)).astype(np.float32)
    chosen = random.integers(0, len(kinds), count)
    points = flat_unit(kinds[chosen], "points")
    centers, own = k_means(points, min(k, count))
    assert len(centers) <= min(k, count)
    assert set(own.tolist()) == set(range(len(centers)))
    for kind in np.unique(chosen):
        assert len(set(own[chosen == kind].tolist())) == 1
    sizes = np.bincount(own)
    assert (np.diff(sizes) <= 0).all()


def test_points_are_in_the_cluster_of_their_nearest_center() -> None:
    points = flat_unit(noise(14, 14, 24), "points")
    centers, own = k_means(points, 7)
    cosines = points.astype(np.float64) @ centers.astype(np.float64).T
    best = cosines.max(axis=1)
    assert (best - cosines[np.arange(196), own]).max() <= 24 * 2.0**-23
    np.testing.assert_allclose(np.linalg.norm(centers, axis=1), 1, rtol=1e-6)


def test_a_cluster_that_loses_all_points_starts_again_at_the_least_alike() -> None:
    points = flat_unit(grid_of([[0, 0, 0, 1, 1, 5]]), "points")
    # Of two equal centers the second gets no point.
    centers, own = _lloyd(points, points[[0, 0, 3]])
    assert own.tolist() == [0, 0, 0, 2, 2, 1]
    np.testing.assert_array_equal(centers, points[[0, 5, 3]])


def test_as_many_regions_as_patches_is_each_its_own() -> None:
    regions = cluster_regions(noise(3, 3), 9, size=(3, 3))
    assert sorted(regions.mask.ravel().tolist()) == list(range(1, 10))


@pytest.mark.parametrize("size", [(1, 1), (37, 53), (5, 300)])
def test_regions_have_the_size_of_the_image(size: tuple[int, int]) -> None:
    regions = cluster_regions(noise(4, 3), 3, size=size)
    assert regions.mask.shape == regions.confidence.shape == size


def test_the_memory_layout_of_tokens_does_not_matter() -> None:
    tokens = noise(6, 6)
    strided = np.asfortranarray(np.repeat(tokens, 2, axis=2))[:, :, ::2]
    one = cluster_regions(strided, 3, size=(9, 9))
    np.testing.assert_array_equal(one.mask, cluster_regions(tokens, 3, size=(9, 9)).mask)


@pytest.mark.parametrize(
    ("k", "words"),
    [
        (1, "k is 1, wanted 2 or more: one region is the whole image"),
        (0, "k is 0"),
        (-3, "k is -3"),
        (10, "k is 10, wanted at most 9: the image has 9 patches"),
        (2.5, "k is 2.5, wanted a whole number"),
        (True, "k is True"),
        ("3", "k is '3'"),
    ],
)
def test_a_k_out_of_range_is_an_input_error(k: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        cluster_regions(noise(3, 3), k, size=(9, 9))


def test_one_patch_cannot_be_divided() -> None:
    with pytest.raises(InputError, match="the image has 1 patches"):
        cluster_regions(noise(1, 1), 2, size=(16, 16))


def test_more_regions_than_a_mask_has_values_is_an_input_error() -> None:
    with pytest.raises(InputError, match="at most 255: a mask has 255 values beside 0"):
        cluster_regions(noise(20, 20, 4), 256, size=(20, 20))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_an_input_error(bad: float) -> None:
    tokens = noise(3, 3)
    tokens[2, 0, 5] = bad
    with pytest.raises(InputError, match="not finite, the first in the patch at row 2, column 0"):
        cluster_regions(tokens, 2, size=(9, 9))


@pytest.mark.parametrize(
    ("tokens", "size", "words"),
    [
        (noise(3, 3).astype(np.float16), (9, 9), "dtype float16"),
        (noise(3, 3)[..., None], (9, 9), r"shape \(3, 3, 16, 1\)"),
        (None, (9, 9), "tokens is a NoneType"),
        (noise(3, 3), (9, 0), "size is 9x0"),
    ],
)
def test_what_is_no_patch_tokens_is_an_input_error(tokens: Any, size: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        cluster_regions(tokens, 2, size=size)
