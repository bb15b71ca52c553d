"""Seeing without a vault: images of any kind and size in, answers of their size out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.tiny_model import write_tiny_model

import procmem
from procmem.errors import ImageNotFoundError, InputError, ModelError
from procmem.image import load_image

RED, BLUE = (220, 40, 30), (30, 60, 220)


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory):
    with procmem.Embedder(write_tiny_model(tmp_path_factory.mktemp("model"))) as opened:
        yield opened


def halves(height: int = 64, width: int = 96, *, left=RED, right=BLUE) -> np.ndarray:
    image = np.empty((height, width, 3), dtype=np.uint8)
    image[:, : width // 2], image[:, width // 2 :] = left, right
    return image


def textured(height: int, width: int) -> np.ndarray:
    """Blocks of random color, one to a patch, so that every place is its own."""
    blocks = np.random.default_rng(0).integers(0, 256, (14, 14, 3))
    rows, columns = np.arange(height) * 14 // height, np.arange(width) * 14 // width
    return blocks[rows[:, None], columns].astype(np.uint8)


def test_a_map_paints_two_halves_in_two_colors(embedder):
    (shown,) = procmem.map_components(embedder, halves())
    assert shown.shape == (64, 96, 3)
    assert shown.dtype == np.uint8
    assert abs(int(shown[32, 5, 0]) - int(shown[32, 90, 0])) == 255


def test_maps_of_one_call_share_their_colors(embedder):
    first, second = procmem.map_components(embedder, [halves(), halves(40, 30)[:, ::-1]])
    assert second.shape == (40, 30, 3)
    # Red is on the left in the first image and on the right in the second.
    np.testing.assert_allclose(first[0, 0].astype(int), second[0, -1], atol=1)
    assert abs(first[0, 0].astype(int) - second[0, 0]).max() > 200


def test_regions_of_two_halves_are_the_halves(embedder):
    regions = procmem.find_regions(embedder, halves(), 2)
    assert regions.mask.shape == (64, 96)
    assert len(np.unique(regions.mask[:, :40])) == len(np.unique(regions.mask[:, 56:])) == 1
    assert regions.mask[0, 0] != regions.mask[0, -1]


def test_regions_are_the_same_for_a_file_and_its_pixels(embedder, tmp_path):
    Image.fromarray(textured(50, 70)).save(tmp_path / "photo.png")
    from_file = procmem.find_regions(embedder, tmp_path / "photo.png", 3)
    from_pixels = procmem.find_regions(embedder, textured(50, 70), 3)
    np.testing.assert_array_equal(from_file.mask, from_pixels.mask)


def test_a_photo_matches_its_larger_copy_place_by_place(embedder):
    found = procmem.match_patches(embedder, textured(224, 224), textured(672, 448))
    away = np.abs((found.points_a + 0.5) * [2, 3] - (found.points_b + 0.5)).max(axis=1)
    # Squashing the copy mixes neighboring colors; no more than a few of 196 may suffer by it.
    assert (away < 1e-3).sum() >= 186


def test_a_limit_keeps_the_best_pairs(embedder):
    found = procmem.match_patches(embedder, textured(64, 64), textured(64, 64), limit=3)
    assert found.points_a.shape == found.points_b.shape == (3, 2)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (17, 300), (225, 223)])
def test_any_size_of_image_has_answers_of_its_size(embedder, shape):
    image = np.random.default_rng(1).integers(0, 256, (*shape, 3)).astype(np.uint8)
    assert procmem.map_components(embedder, image)[0].shape == (*shape, 3)
    assert procmem.find_regions(embedder, image, 2).mask.shape == shape
    found = procmem.match_patches(embedder, image, image)
    assert (np.rint(found.points_a) >= 0).all()
    assert (np.rint(found.points_a) < [shape[1], shape[0]]).all()


def test_an_image_of_one_color_has_one_region_and_one_gray(embedder):
    plain = np.full((48, 48, 3), 90, np.uint8)
    assert (procmem.map_components(embedder, plain)[0] == 128).all()
    assert procmem.find_regions(embedder, plain, 4).labels == (1,)
    assert len(procmem.match_patches(embedder, plain, plain).similarities) == 1


def test_a_missing_file_is_an_image_error_that_names_its_place(embedder):
    with pytest.raises(ImageNotFoundError, match=r"missing\.png"):
        procmem.find_regions(embedder, Path("missing.png"), 2)
    with pytest.raises(ImageNotFoundError, match=r"images\[1\]"):
        procmem.map_components(embedder, [halves(), "missing.png"])


@pytest.mark.parametrize("images", [[], 7, None])
def test_no_images_are_an_input_error(embedder, images):
    with pytest.raises(InputError, match="images"):
        procmem.map_components(embedder, images)


def test_a_model_that_gives_nan_is_a_model_error(embedder, monkeypatch):
    seen = embedder.embed(halves(), view="whole")
    seen.patches[0, 3, 4, 5] = np.nan
    monkeypatch.setattr(embedder, "embed", lambda *_images, **_view: seen)
    with pytest.raises(ModelError, match="tiny gave numbers that are not finite"):
        procmem.find_regions(embedder, halves(), 2)


def test_more_regions_than_patches_are_an_input_error(embedder):
    with pytest.raises(InputError, match="at most 196: the image has 196 patches"):
        procmem.find_regions(embedder, halves(), 197)


def test_a_large_jpeg_is_seen_as_the_embedder_sees_it(embedder, tmp_path, monkeypatch):
    Image.fromarray(textured(1600, 1600)).save(tmp_path / "photo.jpg", quality=60)
    expected = embedder.embed(tmp_path / "photo.jpg", view="whole").patches[0]
    other = embedder.embed(load_image(tmp_path / "photo.jpg"), view="whole").patches[0]
    assert not np.array_equal(expected, other)  # or this would show nothing
    seen = []

    def noted(tokens, k, *, size):
        seen.append((tokens, size))

    monkeypatch.setattr("procmem.untaught.cluster_regions", noted)
    procmem.find_regions(embedder, tmp_path / "photo.jpg", 2)
    assert np.array_equal(seen[0][0], expected)
    assert seen[0][1] == (1600, 1600)
