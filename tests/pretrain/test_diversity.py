import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from procmem.errors import InputError
from procmem_pretrain import diversity
from procmem_pretrain.diversity import Spread, describe, distances, summarize

IMAGES = arrays.arrays(np.uint8, st.tuples(st.integers(2, 5), st.just(32), st.just(32), st.just(3)))


def power_law(exponent: float, *, count: int = 20, side: int = 128) -> np.ndarray:
    """Grey noise whose amplitude is 1/f^exponent."""
    random = np.random.default_rng(0)
    frequencies = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side))
    frequencies[0, 0] = 1
    white = np.fft.fft2(random.normal(size=(count, side, side)))
    noise = np.fft.ifft2(white * frequencies**-exponent).real
    noise -= noise.mean(axis=(1, 2), keepdims=True)
    levels = 127 + 35 * noise / noise.std(axis=(1, 2), keepdims=True)
    return np.repeat(np.clip(np.rint(levels), 0, 255).astype(np.uint8)[..., None], 3, axis=-1)


def plain(color: tuple[int, int, int], *, count: int = 2, side: int = 32) -> np.ndarray:
    return np.full((count, side, side, 3), color, np.uint8)


@pytest.mark.parametrize("side", [64, 128])
@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 1.5, 2.0])
def test_the_slope_of_power_law_noise_is_its_exponent(exponent: float, side: int) -> None:
    found = describe(power_law(exponent, side=side))
    # The mean of 20 has a deviation of 0.02 at 128 px and of 0.04 at 64 px, by measurement.
    assert abs(found.slope.mean() - exponent) < 2.5 * {128: 0.02, 64: 0.04}[side]
    assert found.residual.mean() < 0.08


def test_one_color_has_neither_slope_nor_structure() -> None:
    found = describe(plain((200, 30, 90)))
    for name in ("contrast", "slope", "residual", "edges", "orientations", "greys"):
        assert np.allclose(getattr(found, name), 0, atol=1e-9), name
    assert np.all(found.flat == 1)


def test_a_periodic_pattern_strays_from_a_power_law() -> None:
    x = np.arange(128)
    wave = (127 + 100 * np.sin(x / 2)).astype(np.uint8)
    stripes = np.broadcast_to(wave[:, None, None], (1, 128, 128, 3))
    assert describe(stripes).residual[0] > 5 * describe(power_law(1.0)).residual.mean()


@pytest.mark.parametrize(
    ("color", "lightness", "chroma"),
    # Ottosson 2020 and the CSS Color 4 sample values of sRGB's primaries in Oklab.
    [
        ((255, 255, 255), 1.0, (0.0, 0.0)),
        ((255, 0, 0), 0.6280, (0.2249, 0.1258)),
        ((0, 255, 0), 0.8664, (-0.2339, 0.1795)),
        ((0, 0, 255), 0.4520, (-0.0324, -0.3115)),
        ((0, 0, 0), 0.0, (0.0, 0.0)),
    ],
)
def test_oklab_of_the_primaries_is_the_published(
    color: tuple[int, int, int], lightness: float, chroma: tuple[float, float]
) -> None:
    lab = diversity._oklab(plain(color))[0, 0, 0]
    assert np.allclose(lab, [lightness, *chroma], atol=2e-4)
    assert np.allclose(describe(plain(color)).lightness, lightness, atol=2e-4)


def test_colorfulness_is_the_formula_of_hasler_and_suesstrunk() -> None:
    image = plain((0, 0, 0), count=1)
    image[0, :16] = (255, 0, 0)
    image[0, 16:] = (0, 0, 255)
    # R - G is 255 or 0, (R + G) / 2 - B is 127.5 or -255.
    deviation = np.hypot(255 / 2, 382.5 / 2)
    mean = np.hypot(255 / 2, -127.5 / 2)
    assert describe(image).colorfulness[0] == pytest.approx(deviation + 0.3 * mean)
    assert describe(plain((90, 90, 90))).colorfulness[0] == pytest.approx(0)


def test_greys_share_one_color_whatever_the_noise() -> None:
    random = np.random.default_rng(1)
    noisy = np.clip(random.normal(130, 2, (1, 64, 64, 3)), 0, 255).astype(np.uint8)
    assert describe(noisy).colors.max() > 0.99


def test_edges_and_orientations_of_a_checkerboard_and_stripes() -> None:
    x = np.arange(64)
    stripes = np.where(x // 8 % 2, 255, 0).astype(np.uint8)
    vertical = np.broadcast_to(stripes[None, :, None], (64, 64, 3))
    found = describe(np.stack([vertical, vertical.transpose(1, 0, 2)]))
    # Seven edges, two pixels wide, of 62 columns inside the border; all else is flat.
    assert np.allclose(found.edges, 14 / 62)
    assert np.allclose(found.flat, 48 / 62)
    assert np.allclose(found.orientations, 0)
    assert np.allclose(found.greys, 1)
    board = ((x[:, None] // 8 + x // 8) % 2 * 255).astype(np.uint8)
    both = describe(np.repeat(board[None, ..., None], 3, axis=-1))
    assert 0.2 < both.orientations[0] < 0.6  # two of sixteen, and the corners


@settings(max_examples=25)
@given(IMAGES)
def test_every_number_is_in_its_range(images: np.ndarray) -> None:
    found = describe(images)
    for field in dataclasses.fields(found):
        values = getattr(found, field.name)
        assert values.shape[0] == len(images), field.name
        assert np.all(np.isfinite(values)), field.name
    assert np.allclose(found.colors.sum(axis=1), 1)
    for name in ("lightness", "edges", "flat", "orientations"):
        values = getattr(found, name)
        assert values.min() >= 0, name
        assert values.max() <= 1 + 1e-6, name
    report = summarize(images)
    assert 1 - 1e-9 <= report.palette <= 100
    assert 0 <= report.near_duplicates < 1


@settings(max_examples=25)
@given(IMAGES, IMAGES)
def test_the_distance_is_symmetric_and_zero_for_the_same(a: np.ndarray, b: np.ndarray) -> None:
    first, second = describe(a), describe(b)
    there, back = distances(first, second), distances(second, first)
    assert there.shape == (len(a), len(b))
    assert np.allclose(there, back.T)
    # The root of a rounded difference of squares: the square root of some eps.
    assert np.allclose(np.diag(distances(first, first)), 0, atol=1e-6)


def test_distances_are_the_written_formula() -> None:
    images = np.concatenate([power_law(1.0, count=3, side=64), plain((9, 200, 40), side=64)])
    found = describe(images)
    fast = distances(found, found)
    for i, j in np.ndindex(fast.shape):
        squares = [
            ((getattr(found, name)[i] - getattr(found, name)[j]) / scale) ** 2
            for name, scale in diversity.DISTANCE_SCALES.items()
        ]
        roots = np.sqrt(found.colors[i]) - np.sqrt(found.colors[j])
        squares.append((roots**2).sum() / 2)
        assert fast[i, j] == pytest.approx(np.sqrt(np.mean(squares)), abs=1e-6)


def test_a_batch_is_measured_as_its_images_are() -> None:
    images = power_law(1.0, count=70, side=32)
    together = describe(images)
    alone = [describe(image[None]) for image in images]
    for field in dataclasses.fields(together):
        parts = np.concatenate([getattr(one, field.name) for one in alone])
        assert np.allclose(getattr(together, field.name), parts), field.name


def test_the_report_holds_plain_means_over_pairs_and_neighbors() -> None:
    images = np.concatenate([power_law(e, count=4, side=32) for e in (0.2, 1.0, 1.8)])
    found, report = describe(images), summarize(images)
    apart = distances(found, found)
    others = ~np.eye(len(images), dtype=bool)
    assert report.distance == pytest.approx(apart[others].mean(), rel=1e-6)
    nearest = np.where(others, apart, np.inf).min(axis=1)
    assert report.neighbor_distance == pytest.approx(nearest.mean(), rel=1e-6)
    assert report.slope == Spread(
        pytest.approx(found.slope.mean()), pytest.approx(found.slope.std())
    )
    assert (report.images, report.side) == (12, 32)


def test_neighbors_are_sought_in_groups_of_one_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diversity, "NEIGHBORS_AMONG", 4)
    points = np.array([0.0, 1, 3, 7, 100, 110, 130, 170, 171])[:, None]
    # Groups (0 1 3 7) and (100 110 130 170); the ninth has no group.
    assert diversity._mean_neighbor_distance(points) == pytest.approx(
        np.mean([1, 1, 2, 4, 10, 10, 20, 40])
    )


def test_more_varied_images_are_farther_apart() -> None:
    same = power_law(1.0, count=10, side=64)
    varied = np.concatenate([power_law(e, count=5, side=64) for e in (0.0, 2.0)])
    assert summarize(varied).distance > 2 * summarize(same).distance


def test_copies_are_near_duplicates_and_their_first_is_not() -> None:
    images = power_law(1.0, count=5, side=64)
    assert summarize(images).near_duplicates == 0
    assert summarize(np.concatenate([images, images[:3]])).near_duplicates == 3 / 8


def test_a_set_of_two_colors_has_a_palette_of_two() -> None:
    both = np.concatenate([plain((255, 0, 0), count=1), plain((0, 0, 255), count=1)])
    assert summarize(both).palette == pytest.approx(2)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((1, 32, 32, 3), np.uint8), "2 or more"),
        (np.zeros((2, 31, 31, 3), np.uint8), "31 pixels"),
        (np.zeros((2, 32, 32, 3)), "uint8"),
        (np.zeros((2, 32, 64, 3), np.uint8), "squares"),
    ],
)
def test_sets_that_cannot_be_measured_are_refused(images: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        summarize(images)
