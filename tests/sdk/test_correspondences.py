"""Pairs of places: a moved image has moved places, and a plain wall has one."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from procmem.correspondences import correspondences
from procmem.errors import InputError

Float32 = npt.NDArray[np.float32]


def noise(h: int, w: int, width: int = 16, seed: int = 0) -> Float32:
    return np.random.default_rng(seed).standard_normal((h, w, width)).astype(np.float32)


def test_a_shifted_image_gives_the_shifted_places() -> None:
    scene = noise(8, 12, 32)
    one, other = scene[:, :8], scene[1:7, 3:11]  # 1 patch up and 3 to the left
    found = correspondences(one, other, size_a=(80, 80), size_b=(60, 80))
    same = np.abs(found.similarities - 1) <= 32 * 2.0**-24
    assert same.sum() == 6 * 5  # what both show
    moved = found.points_a[same] - found.points_b[same]
    np.testing.assert_array_equal(moved, np.tile([30, 10], (30, 1)))
    assert not same[30:].any()


def test_an_image_with_itself_gives_every_patch_at_its_center() -> None:
    found = correspondences(noise(2, 3), noise(2, 3), size_a=(20, 30), size_b=(40, 60))
    order = np.lexsort((found.points_a[:, 0], found.points_a[:, 1]))
    centers = [[x, y] for y in (4.5, 14.5) for x in (4.5, 14.5, 24.5)]
    np.testing.assert_array_equal(found.points_a[order], centers)
    np.testing.assert_array_equal(found.points_b[order], 2 * np.array(centers) + 0.5)
    assert found.points_a.dtype == found.similarities.dtype == np.float32


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5), st.integers(0, 2**32))
def test_pairs_are_the_mutual_nearest_in_loops(h: int, w: int, width: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    # Small whole numbers, so that many tokens are equal and ties are common.
    one = random.integers(-1, 2, (h, w, width)).astype(np.float32)
    other = random.integers(-1, 2, (w, h + 1, width)).astype(np.float32)
    found = correspondences(one, other, size_a=(h, w), size_b=(w, h + 1))
    first, second = (tokens.reshape(-1, width).astype(np.float64) for tokens in (one, other))
    first /= np.maximum(np.linalg.norm(first, axis=1, keepdims=True), 1e-300)
    second /= np.maximum(np.linalg.norm(second, axis=1, keepdims=True), 1e-300)
    cosines = first @ second.T
    places = np.rint(found.points_a) @ [1, w], np.rint(found.points_b) @ [1, h + 1]
    pairs = list(zip(*(numbers.astype(int).tolist() for numbers in places), strict=True))
    assert pairs
    assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == len(pairs)
    tolerance = (width + 4) * 2.0**-23
    for (i, j), similarity in zip(pairs, found.similarities.tolist(), strict=True):
        assert abs(cosines[i, j] - similarity) <= tolerance
        assert cosines[i, j] >= max(cosines[i].max(), cosines[:, j].max()) - tolerance
    assert (np.diff(found.similarities) <= 0).all()
    # Where the nearest is nearest by more than rounding, the pair must be there.
    for i, j in enumerate(cosines.argmax(axis=1).tolist()):
        rivals = np.concatenate([np.delete(cosines[i], j), np.delete(cosines[:, j], i)])
        if not len(rivals) or cosines[i, j] > rivals.max() + tolerance:
            assert (i, j) in pairs


def test_equal_tokens_give_one_pair() -> None:
    plain = np.ones((4, 4, 4), np.float32)
    found = correspondences(plain, plain, size_a=(8, 8), size_b=(8, 8))
    assert found.points_a.tolist() == found.points_b.tolist() == [[0.5, 0.5]]
    assert found.similarities.tolist() == [1.0]


def test_tokens_of_zeros_give_a_pair_without_a_nan() -> None:
    zeros = np.zeros((2, 2, 3), np.float32)
    found = correspondences(zeros, zeros, size_a=(8, 8), size_b=(8, 8))
    assert found.similarities.tolist() == [0.0]


def test_one_patch_each_is_one_pair_even_if_unlike() -> None:
    one = np.array([[[1, 0]]], np.float32)
    found = correspondences(one, -one, size_a=(16, 16), size_b=(5, 3))
    assert found.similarities.tolist() == [-1.0]
    assert found.points_a.tolist() == [[7.5, 7.5]]
    assert found.points_b.tolist() == [[1.0, 2.0]]


def test_a_limit_keeps_the_best() -> None:
    tokens = noise(5, 5), noise(5, 5, seed=1)
    whole = correspondences(*tokens, size_a=(50, 50), size_b=(50, 50))
    some = correspondences(*tokens, size_a=(50, 50), size_b=(50, 50), limit=3)
    np.testing.assert_array_equal(some.points_a, whole.points_a[:3])
    np.testing.assert_array_equal(some.similarities, whole.similarities[:3])
    many = correspondences(*tokens, size_a=(50, 50), size_b=(50, 50), limit=10**6)
    assert len(many.similarities) == len(whole.similarities)


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (37, 53)])
def test_places_lie_on_the_image_whatever_its_size(size: tuple[int, int]) -> None:
    found = correspondences(noise(14, 14), noise(14, 14), size_a=size, size_b=size)
    pixels = np.rint(found.points_a)
    assert (pixels >= 0).all()
    assert (pixels <= [size[1] - 1, size[0] - 1]).all()


def test_the_memory_layout_of_tokens_does_not_matter() -> None:
    strided = np.asfortranarray(np.repeat(noise(4, 4), 2, axis=2))[:, :, ::2]
    one = correspondences(strided, noise(4, 4, seed=1), size_a=(8, 8), size_b=(8, 8))
    other = correspondences(noise(4, 4), noise(4, 4, seed=1), size_a=(8, 8), size_b=(8, 8))
    np.testing.assert_array_equal(one.points_a, other.points_a)
    np.testing.assert_array_equal(one.similarities, other.similarities)


BAD = noise(3, 3)
BAD[0, 1, 2] = np.inf


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"tokens_a": noise(3, 3).astype(np.float64)}, "tokens_a has patch tokens of dtype float6"),
        ({"tokens_b": noise(3, 3)[0]}, "tokens_b has patch tokens .* shape"),
        ({"tokens_b": noise(3, 3, 8)}, "width 16, tokens_b 8"),
        ({"tokens_b": BAD}, "tokens_b has numbers that are not finite"),
        ({"size_a": (0, 4)}, "size is 0x4"),
        ({"size_b": (4, -1)}, "size is 4x-1"),
        ({"limit": 0}, "limit is 0, wanted 1 or more"),
        ({"limit": 1.5}, "limit is 1.5"),
        ({"limit": True}, "limit is True"),
    ],
)
def test_what_does_not_fit_is_an_input_error(changed: dict[str, Any], words: str) -> None:
    given: dict[str, Any] = {
        "tokens_a": noise(3, 3),
        "tokens_b": noise(3, 3, seed=1),
        "size_a": (9, 9),
        "size_b": (9, 9),
        **changed,
    }
    with pytest.raises(InputError, match=words):
        correspondences(given.pop("tokens_a"), given.pop("tokens_b"), **given)
