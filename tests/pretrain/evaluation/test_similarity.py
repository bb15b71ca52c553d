from collections.abc import Iterable

import numpy as np
import pytest

from procmem_pretrain.evaluation.datasets import SimilaritySet, Triplet
from procmem_pretrain.evaluation.methods import Method
from procmem_pretrain.evaluation.similarity import (
    generated_triplets,
    pairwise_choice,
    psnr,
    ssim,
)
from procmem_pretrain.evaluation.suite import Options, cells


@pytest.fixture(scope="module")
def generated() -> SimilaritySet:
    return generated_triplets(24, side=64)


def test_colors_alone_do_not_tell_the_nearer_image(generated: SimilaritySet) -> None:
    for triplet in generated.triplets:
        left, right = (np.asarray(one, float) for one in (triplet.left, triplet.right))
        assert np.abs(left.mean((0, 1)) - right.mean((0, 1))).max() < 30
    assert 30 <= pairwise_choice(generated, psnr) <= 85


def test_sides_are_random_and_the_same_each_time(generated: SimilaritySet) -> None:
    shares = [triplet.left_share for triplet in generated.triplets]
    assert 4 < sum(shares) < 20
    again = generated_triplets(24, side=64)
    for first, second in zip(generated.triplets, again.triplets, strict=True):
        assert np.array_equal(first.left, second.left)
        assert np.array_equal(first.reference, second.reference)


def test_a_tie_is_worth_a_half() -> None:
    image = np.full((32, 32, 3), 7, np.uint8)
    data = SimilaritySet("tie", (Triplet(image, image, image, 1.0),))
    assert pairwise_choice(data, psnr) == 50.0


def test_a_split_vote_is_worth_its_share() -> None:
    dark, bright = (np.full((32, 32, 3), value, np.uint8) for value in (10, 200))
    left_is_nearer = Triplet(dark, dark, bright, 0.75)
    right_is_nearer = Triplet(dark, bright, dark, 0.75)
    assert pairwise_choice(SimilaritySet("one", (left_is_nearer,)), psnr) == 75.0
    assert pairwise_choice(SimilaritySet("two", (right_is_nearer,)), psnr) == 25.0


def test_psnr_and_ssim_of_equal_images_are_the_largest() -> None:
    random = np.random.default_rng(0)
    image, other = random.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    assert psnr(image, image) == 100.0
    assert psnr(image, image ^ 1) == pytest.approx(48.13, abs=0.01)  # 20 log10(255)
    assert ssim(image, image) == pytest.approx(1.0)
    assert ssim(image, other) < 0.2


def test_a_limit_is_kept() -> None:
    dark, bright = (np.full((32, 32, 3), value, np.uint8) for value in (10, 200))
    right, wrong = Triplet(dark, dark, bright, 1.0), Triplet(dark, dark, bright, 0.0)
    data = SimilaritySet("some", (right, right, wrong, wrong))

    def brightness(images: Iterable[np.ndarray]) -> np.ndarray:
        angles = np.array([image.mean() / 255 for image in images], np.float32)
        return np.stack([np.cos(angles), np.sin(angles)], axis=1)

    method = Method("brightness", "1", brightness)
    for limit, share in ((2, 100.0), (None, 50.0)):
        options = Options("exact", 1, limit, 64)
        found = {
            cell.method: cell.score() for cell in cells([data], [method], options, tasks=["2afc"])
        }
        assert found == {"brightness": share, "PSNR": share, "SSIM": share}
