"""Tokens made from the masks must score full marks; tokens that know nothing must not."""

import zlib

import numpy as np
import pytest

from procmem.errors import InputError
from procmem_pretrain.evaluation.datasets import MaskedImage
from procmem_pretrain.evaluation.methods import rgb_patches
from procmem_pretrain.evaluation.segmentation import (
    Score,
    in_context_score,
    kmeans_miou,
    kmeans_regions,
    knn_score,
    pca_map,
    pca_r2,
)

SIDE = 64
COLORS = np.array([[200, 30, 40], [20, 180, 60], [30, 60, 220], [128, 128, 128]], np.uint8)


def scene(number: int, *, classes: int = 3, unlabelled: bool = False) -> MaskedImage:
    """Vertical bands of whole patches, one color and one class each, in random order."""
    random = np.random.default_rng(number)
    order = random.permutation(classes)
    bands = np.repeat(order[np.arange(4) % classes], 16)
    mask = np.repeat(bands[None], SIDE, axis=0).astype(np.uint8)
    image = COLORS[mask]
    if unlabelled:
        mask = mask.copy()
        mask[:16] = 255
    return MaskedImage(f"scene {number}", image, mask)


def knowing(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Tokens that are the mean color of their patch, so that classes are exactly apart."""
    height, width = size
    rows = np.arange(height // 16) * image.shape[0] * 16 // height
    columns = np.arange(width // 16) * image.shape[1] * 16 // width
    picked = image[rows[:, None], columns[None]].astype(np.float32)
    return np.concatenate([picked, np.ones((*picked.shape[:2], 1), np.float32)], axis=2)


def ignorant(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    random = np.random.default_rng(zlib.crc32(image.tobytes()))
    return random.standard_normal((size[0] // 16, size[1] // 16, 4)).astype(np.float32)


SCENES = [scene(number) for number in range(8)]


@pytest.mark.parametrize("protocol", ["exact", "paper"])
def test_principal_components_of_class_colors_explain_almost_all(protocol: str) -> None:
    good = pca_r2(SCENES, knowing, side=SIDE, ignore=255, protocol=protocol)
    bad = pca_r2(SCENES, ignorant, side=SIDE, ignore=255, protocol=protocol)
    # Bilinear stretching mixes neighbors at the borders of bands.
    assert good > 75
    assert bad < 40


@pytest.mark.parametrize("protocol", ["exact", "paper"])
def test_what_has_no_label_does_not_vote(protocol: str) -> None:
    # Two halves of one color each; of the example only some pixels of a patch of each have a label.
    colors = np.where(np.arange(SIDE)[None, :, None] < SIDE // 2, COLORS[0], COLORS[1])
    image = np.repeat(colors, SIDE, axis=0).astype(np.uint8)
    truth = np.repeat(np.where(np.arange(SIDE) < SIDE // 2, 0, 1)[None], SIDE, axis=0)
    painted = np.full((SIDE, SIDE), 255, np.uint8)
    painted[7:10, 7:10], painted[7:10, 55:58] = 0, 1
    example = MaskedImage("example", image, painted)
    asked = MaskedImage("asked", image, truth.astype(np.uint8))

    def tokens(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        return knowing(picture, size) * 10  # so that a softmax without a norm decides, too

    found = in_context_score([(example, asked)], tokens, side=SIDE, ignore=255, protocol=protocol)
    assert found.miou() == 100.0
    found = knn_score([example], [asked], tokens, side=SIDE, ignore=255, protocol=protocol)
    assert found.miou() == 100.0
    one_class = MaskedImage("one", image, np.where(painted == 1, 255, painted))
    with pytest.raises(InputError, match="no image has a labelled pixel"):
        in_context_score([(one_class, asked)], tokens, side=SIDE, ignore=255).miou()


def test_an_object_that_vanishes_at_the_measured_size_costs_its_image_only() -> None:
    mask = np.zeros((512, 512), np.uint8)
    mask[3, 3] = 1
    small = MaskedImage("small", np.full((512, 512, 3), 7, np.uint8), mask)
    assert pca_r2([small, *SCENES], knowing, side=SIDE, ignore=None) == pca_r2(
        SCENES, knowing, side=SIDE, ignore=None
    )
    assert knn_score([small, *SCENES[:4]], SCENES[4:], knowing, side=SIDE, ignore=None).miou() > 60


@pytest.mark.parametrize("protocol", ["exact", "paper"])
def test_a_picture_of_one_color_has_no_components_to_explain(protocol: str) -> None:
    blank = MaskedImage("blank", np.zeros((SIDE, SIDE, 3), np.uint8), SCENES[0].mask)
    whole = pca_r2(SCENES, knowing, side=SIDE, ignore=None, protocol=protocol)
    assert pca_r2([blank, *SCENES], knowing, side=SIDE, ignore=None, protocol=protocol) == whole


def test_r2_on_points_without_borders_is_the_closed_form() -> None:
    # Two classes, one patch row each, so that stretching mixes only across their one border.
    random = np.random.default_rng(0)
    tokens = random.standard_normal((112, 112, 5)).astype(np.float32)
    mask = (np.arange(112 * 112).reshape(112, 112) % 3).astype(np.uint8)
    image = MaskedImage("noise", np.zeros((112, 112, 3), np.uint8), mask)
    found = pca_r2([image], lambda _image, _size: tokens, side=112, ignore=None)
    points = tokens.reshape(-1, 5).astype(np.float64)
    points -= points.mean(0)
    _, _, vectors = np.linalg.svd(points, full_matrices=False)
    points = points @ vectors[:3].T
    between = sum(
        (mask.ravel() == one).sum() * (points[mask.ravel() == one].mean(0) ** 2).sum()
        for one in range(3)
    )
    assert found == pytest.approx(100 * between / (points**2).sum(), abs=1e-3)


def test_the_papers_scalar_mean_counts_the_distance_of_component_means() -> None:
    exact = pca_r2(SCENES, knowing, side=SIDE, ignore=255, protocol="exact")
    paper = pca_r2(SCENES, knowing, side=SIDE, ignore=255, protocol="paper")
    assert paper != pytest.approx(exact, abs=0.1)


def test_k_means_finds_the_bands() -> None:
    assert kmeans_miou(SCENES, knowing, side=SIDE, ignore=255) == 100.0
    assert kmeans_miou(SCENES, ignorant, side=SIDE, ignore=255) < 60


def test_k_means_of_equal_tokens_is_one_region() -> None:
    regions = kmeans_regions(np.ones((4, 4, 3), np.float32), clusters=3)
    assert len(np.unique(regions)) == 1


@pytest.mark.parametrize("protocol", ["exact", "paper"])
def test_one_example_segments_the_same_classes(protocol: str) -> None:
    pairs = list(zip(SCENES[:4], SCENES[4:], strict=True))
    # The paper's softmax divides by the width and sees lengths: colors in 0..255 make it sharp.
    assert in_context_score(pairs, knowing, side=SIDE, ignore=255, protocol=protocol).miou() > 60
    assert in_context_score(pairs, ignorant, side=SIDE, ignore=255, protocol=protocol).miou() < 45


def test_the_papers_view_keeps_the_shape_of_the_image() -> None:
    wide = MaskedImage("wide", np.repeat(SCENES[0].image, 2, axis=1), np.tile(SCENES[0].mask, 2))
    seen: list[tuple[int, int]] = []

    def recording(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        seen.append(size)
        return knowing(image, size)

    in_context_score([(wide, wide)], recording, side=SIDE, ignore=None, protocol="paper").miou()
    assert set(seen) == {(64, 128)}
    seen.clear()
    in_context_score([(wide, wide)], recording, side=SIDE, ignore=None, protocol="exact").miou()
    assert set(seen) == {(64, 64)}


@pytest.mark.parametrize("protocol", ["exact", "paper"])
def test_a_memory_of_patches_segments_the_same_classes(protocol: str) -> None:
    good = knn_score(
        SCENES[:4], SCENES[4:], knowing, side=SIDE, ignore=255, protocol=protocol
    ).miou()
    bad = knn_score(
        SCENES[:4], SCENES[4:], ignorant, side=SIDE, ignore=255, protocol=protocol
    ).miou()
    assert good > 85
    assert bad < good - 25


def test_unlabelled_pixels_count_nowhere() -> None:
    memory = [scene(number, unlabelled=True) for number in range(4)]
    queries = [scene(number, unlabelled=True) for number in range(4, 8)]
    assert kmeans_miou(queries, knowing, side=SIDE, ignore=255) == 100.0
    assert knn_score(memory, queries, knowing, side=SIDE, ignore=255).miou() > 85
    # Counted as a class of its own they cannot be told from the bands they lie on.
    assert kmeans_miou(queries, knowing, side=SIDE, ignore=None) < 90


@pytest.mark.parametrize("measure", [pca_r2, kmeans_miou])
def test_images_without_two_classes_are_an_error(measure: object) -> None:
    plain = MaskedImage("plain", SCENES[0].image, np.zeros((SIDE, SIDE), np.uint8))
    with pytest.raises(InputError, match="two labelled classes"):
        measure([plain], knowing, side=SIDE, ignore=255)  # type: ignore[operator]


def test_a_memory_without_labels_is_an_error() -> None:
    blank = MaskedImage("blank", SCENES[0].image, np.full((SIDE, SIDE), 255, np.uint8))
    with pytest.raises(InputError, match="no labelled patch"):
        knn_score([blank], SCENES, knowing, side=SIDE, ignore=255).miou()


def test_the_map_has_the_images_size_and_a_color_for_each_class() -> None:
    shown = pca_map(SCENES[0].image, knowing, side=SIDE)
    assert shown.shape == SCENES[0].image.shape
    # The fourth band is of the class of the first one. Stretching mixes colors at the borders.
    first, second, third, again = (shown[8, column].astype(int) for column in (8, 24, 40, 56))
    assert abs(first - again).max() < 32
    assert min(abs(one - other).max() for one, other in ((first, second), (second, third))) > 64


def test_scores_count_pixels_and_classes() -> None:
    score = Score(ignore=255)
    true = np.array([[0, 0, 0, 1], [1, 2, 255, 255]], dtype=np.uint8)
    found = np.array([[0, 0, 1, 1], [0, 2, 7, 0]], dtype=np.uint8)
    score.add(true, found)
    assert score.accuracy() == pytest.approx(100 * 4 / 6)
    assert score.miou() == pytest.approx(100 * np.mean([2 / 4, 1 / 3, 1 / 1]))
    with pytest.raises(InputError, match="no image has a labelled pixel"):
        Score(ignore=None).accuracy()


def test_patches_of_pixels_are_the_pixels_of_the_patches() -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    grid = rgb_patches(image, (32, 48))
    assert grid.shape == (2, 3, 768)
    patch = np.rint((grid[1, 2].reshape(16, 16, 3) + 1) * 127.5)
    np.testing.assert_array_equal(patch, image[16:, 32:])
