import doctest

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from procmem.errors import InputError
from procmem_pretrain import perceptual_hash as module
from procmem_pretrain.perceptual_hash import (
    BITS,
    FARTHEST,
    NEAR_DUPLICATE,
    HashIndex,
    distance,
    perceptual_hash,
)

HASHES = arrays.arrays(np.uint64, st.tuples(st.integers(1, 40), st.just(3)))


def scenes(count: int, *, side: int = 96, seed: int = 0) -> np.ndarray:
    """Colored soft noise of a few octaves: independent pictures with structure."""
    random = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        total = np.zeros((side, side, 3))
        for cells in (3, 6, 12, 24):
            levels = random.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
            total += np.asarray(Image.fromarray(levels).resize((side, side)), np.float64) / cells
        low, high = total.min(), total.max()
        images.append((255 * (total - low) / (high - low)).astype(np.uint8))
    return np.stack(images)


def plain_distance(a: np.ndarray, b: np.ndarray) -> int:
    return sum(bin(int(x) ^ int(y)).count("1") for x, y in zip(a, b, strict=True))


def plain_frequencies(image: np.ndarray) -> np.ndarray:
    """The 64 frequency bits in plain floating point, one sum at a time."""
    side = len(image) // 32
    grey = image @ np.array([0.299, 0.587, 0.114])
    small = grey.reshape(32, side, 32, side).mean(axis=(1, 3)) - 127
    k = np.arange(32)
    bits = np.zeros((8, 8))
    for u in range(8):
        for v in range(8):
            wave = np.cos(np.pi * (2 * k + 1) * u / 64)[:, None]
            bits[u, v] = (small * wave * np.cos(np.pi * (2 * k + 1) * v / 64)).sum()
    flat = bits.ravel()
    found = flat > np.median(flat[1:]) + 16
    found[0] = flat[0] > 0
    return found


def test_the_first_word_is_the_sign_of_low_frequencies_against_their_median() -> None:
    images = scenes(20)
    words = perceptual_hash(images)[:, 0]
    for image, word in zip(images, words, strict=True):
        expected = plain_frequencies(image.astype(np.float64))
        found = (int(word) >> np.arange(64).astype(object)) & 1
        # Coefficients within the rounding of the grid may fall on either side.
        assert (found != expected).sum() <= 1


def test_the_second_word_is_the_means_of_places_against_their_median() -> None:
    images = scenes(20)
    words = perceptual_hash(images)[:, 1]
    for image, word in zip(images, words, strict=True):
        means = (image @ np.array([0.299, 0.587, 0.114])).reshape(8, 12, 8, 12).mean(axis=(1, 3))
        expected = means.ravel() > np.median(means) + 2
        found = (int(word) >> np.arange(64).astype(object)) & 1
        assert (found != expected).sum() <= 1


@given(HASHES, HASHES)
def test_distance_counts_the_bits_that_differ(a: np.ndarray, b: np.ndarray) -> None:
    found = distance(a[:, None], b[None])
    assert found.shape == (len(a), len(b))
    for i, j in np.ndindex(found.shape):
        assert found[i, j] == plain_distance(a[i], b[j])


@given(HASHES)
def test_both_ways_to_count_bits_agree(words: np.ndarray) -> None:
    by_table = module._count_bits_by_table(words)
    assert by_table.shape == words.shape
    assert by_table.ravel().tolist() == [bin(int(word)).count("1") for word in words.ravel()]
    assert module._count_bits(words).tolist() == by_table.tolist()


@pytest.mark.parametrize("block", [1, 3, 8192])
@settings(max_examples=30)
@given(HASHES, HASHES, st.data())
def test_the_index_finds_the_exact_nearest(
    block: int, hashes: np.ndarray, queries: np.ndarray, data: st.DataObject
) -> None:
    index = HashIndex()
    split = data.draw(st.integers(0, len(hashes)))
    index.add(hashes[:split])
    for one in hashes[split:]:
        index.add(one)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK", block)
        for query in queries:
            assert index.nearest(query) == min(plain_distance(query, h) for h in hashes)
    assert len(index) == len(hashes)
    assert np.array_equal(index.hashes, hashes)


def test_the_index_is_exact_after_it_has_grown() -> None:
    random = np.random.default_rng(1)
    hashes = random.integers(0, 2**64, (5000, 3), dtype=np.uint64)
    index = HashIndex()
    for first in range(0, 5000, 7):
        index.add(hashes[first : first + 7])
    assert np.array_equal(index.hashes, hashes)
    query = random.integers(0, 2**64, 3, dtype=np.uint64)
    assert index.nearest(query) == distance(hashes, query).min()
    assert all(index.nearest(hashes[i]) == 0 for i in (0, 1023, 1024, 4999))


def test_an_empty_index_is_farther_than_any_hash() -> None:
    zero = np.zeros(3, np.uint64)
    assert HashIndex().nearest(zero) == FARTHEST > distance(zero, ~zero) == BITS


def test_equal_images_have_equal_hashes_in_any_batch() -> None:
    images = scenes(130)
    alone = np.concatenate([perceptual_hash(image[None]) for image in images])
    assert np.array_equal(perceptual_hash(images), alone)
    strided = np.ascontiguousarray(images[:, :, ::-1])[:, :, ::-1]
    assert np.array_equal(perceptual_hash(strided), alone)


@pytest.mark.parametrize("side", [8, 31, 32, 33, 100, 128, 224])
def test_the_side_does_not_change_which_picture_it_is(side: int) -> None:
    large = scenes(12, side=256)
    small = np.stack(
        [np.asarray(Image.fromarray(i).resize((side, side), Image.Resampling.BOX)) for i in large]
    )
    between = distance(perceptual_hash(small), perceptual_hash(large))
    # Eight pixels hold seven frequencies and a half: the last ones differ.
    assert between.max() <= (24 if side < 32 else NEAR_DUPLICATE)


@pytest.mark.parametrize("side", [64, 96, 509])  # 509 is prime: its sums need 64-bit floats
def test_area_means_are_exact(side: int) -> None:
    images = np.random.default_rng(2).integers(0, 256, (2, side, side, 3), dtype=np.uint8)
    # Each pixel 32 times, so that cells are whole: plain integers. One column of cells is enough.
    column = np.repeat(images[:, :, :32].astype(np.int64), 32, axis=1)
    rows = column.reshape(2, 32, side, 32, 3).sum(axis=2)  # 1/32-pixel sums down the column
    wide = np.repeat(images, 32, axis=1).reshape(2, 32, side, side, 3).sum(axis=2, dtype=np.int64)
    assert np.array_equal(wide[:, :, :32], rows)
    cells = np.repeat(wide, 32, axis=2).reshape(2, 32, 32, side, 3).sum(axis=3)
    exact = np.rint(cells * (16 / (side * side)))
    assert np.array_equal(module._average(images), exact)


def test_small_changes_stay_near_duplicates() -> None:
    images = scenes(100)
    hashes = perceptual_hash(images)
    levels = images.astype(np.float64)
    noise = np.random.default_rng(3).normal(0, 6, levels.shape)
    for changed in (levels + noise, levels * 1.1, levels * 0.9):
        copies = np.clip(np.rint(changed), 0, 255).astype(np.uint8)
        near = distance(perceptual_hash(copies), hashes) <= NEAR_DUPLICATE
        assert near.mean() >= 0.98


def test_independent_pictures_are_no_near_duplicates() -> None:
    hashes = perceptual_hash(scenes(200))
    first, second = np.triu_indices(200, 1)
    assert distance(hashes[first], hashes[second]).min() > NEAR_DUPLICATE


@pytest.mark.parametrize("channels", [(1, 2, 0), (2, 1, 0)])
def test_the_same_structure_in_other_colors_is_another_picture(
    channels: tuple[int, int, int],
) -> None:
    grey = scenes(20)[..., :1].astype(np.float64)
    orange = np.rint(grey * np.array([1.0, 0.6, 0.2])).astype(np.uint8)
    other = np.ascontiguousarray(orange[..., list(channels)])
    assert distance(perceptual_hash(orange), perceptual_hash(other)).min() > NEAR_DUPLICATE


def test_a_negative_is_another_picture() -> None:
    images = scenes(20)
    assert distance(perceptual_hash(images), perceptual_hash(255 - images)).min() > 3 * 16


@pytest.mark.parametrize("period", [32, 48, 96])
def test_stripes_are_told_from_turned_and_shifted_ones(period: int) -> None:
    y = np.arange(96)[:, None]
    waves = [127 + 100 * np.sin(2 * np.pi * y / period + phase) for phase in (0.3, 1.9, 3.4)]
    stripes = [np.broadcast_to(wave, (96, 96)).astype(np.uint8) for wave in waves]
    images = np.stack([*stripes, *(stripe.T for stripe in stripes)])
    hashes = perceptual_hash(np.repeat(images[..., None], 3, axis=-1))
    first, second = np.triu_indices(len(images), 1)
    assert distance(hashes[first], hashes[second]).min() > NEAR_DUPLICATE


def test_a_lone_shape_is_told_from_the_same_elsewhere() -> None:
    images = np.full((2, 96, 96, 3), 30, np.uint8)
    images[0, 10:40, 10:40] = images[1, 50:80, 50:80] = 220
    hashes = perceptual_hash(images)
    assert distance(hashes[0], hashes[1]) > NEAR_DUPLICATE


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 32, 32, 3), np.float32),
        np.zeros((2, 32, 40, 3), np.uint8),
        np.zeros((32, 32, 3), np.uint8),
        np.zeros((2, 32, 32, 4), np.uint8),
        np.zeros((2, 7, 7, 3), np.uint8),
    ],
)
def test_images_of_another_form_are_refused(images: np.ndarray) -> None:
    with pytest.raises(InputError, match="wanted"):
        perceptual_hash(images)


def test_no_images_have_no_hashes() -> None:
    assert perceptual_hash(np.zeros((0, 32, 32, 3), np.uint8)).shape == (0, 3)


@pytest.mark.parametrize(
    "hashes", [np.zeros(3, np.int64), np.zeros(2, np.uint64), np.zeros((1, 1, 3), np.uint64)]
)
def test_hashes_of_another_form_are_refused(hashes: np.ndarray) -> None:
    index = HashIndex()
    with pytest.raises(InputError, match="perceptual_hash"):
        index.add(hashes)
    with pytest.raises(InputError, match="wanted"):
        index.nearest(hashes)
    assert len(index) == 0


def test_the_documented_example_runs() -> None:
    found = doctest.testmod(module)
    assert found.attempted > 0
    assert found.failed == 0
