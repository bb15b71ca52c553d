import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter

from procmem.errors import InputError
from procmem_pretrain.pool import Pool
from procmem_pretrain.processes import PROCESSES, draw, kml_mask, mixup
from procmem_pretrain.seeds import stream


@pytest.fixture(scope="session")
def images(pool: Pool) -> torch.Tensor:
    return torch.from_numpy(pool.images).permute(0, 3, 1, 2)


def literal_kml_mask(image: np.ndarray) -> np.ndarray:
    """The paper's procedure in plain numpy for a (256, 256, 3) image in [0, 1]."""
    pixels = image.reshape(-1, 3)
    unique = np.unique(pixels, axis=0)  # sorted lexicographically
    centroids = np.stack([unique[0], unique[-1]])
    for _ in range(3):
        distances = ((pixels[:, None] - centroids[None]) ** 2).sum(axis=2)
        label = distances.argmin(axis=1)
        centroids = np.stack([pixels[label == k].mean(axis=0) for k in (0, 1)])
    label = ((pixels[:, None] - centroids[None]) ** 2).sum(axis=2).argmin(axis=1)
    mask = (label == 0).reshape(256, 256).astype(np.float64)
    mask = uniform_filter(mask, 3, mode="nearest")
    return uniform_filter(mask, 3, mode="nearest")


def test_the_kml_mask_is_the_papers(images: torch.Tensor) -> None:
    side = 256  # so that both of the paper's resizes are the identity
    large = torch.nn.functional.interpolate(images[:4].float() / 255, size=(side, side))
    ours = kml_mask(large)[:, 0].numpy()
    for image, mask in zip(large, ours, strict=True):
        expected = literal_kml_mask(image.permute(1, 2, 0).numpy().astype(np.float64))
        # A pixel exactly between two centroids may fall on either side in float32.
        assert np.mean(np.abs(mask - expected) > 1e-4) < 1e-3


def test_a_one_color_image_gives_a_mask_of_ones() -> None:
    assert torch.equal(kml_mask(torch.full((1, 3, 32, 32), 0.3)), torch.ones(1, 1, 32, 32))


def test_mixup_weights_sum_to_one() -> None:
    groups = torch.ones(5, 6, 3, 4, 4)
    assert torch.allclose(mixup(groups, random=stream(0, "mix")), torch.ones(5, 3, 4, 4))


def test_kml_mixup_is_the_mean_of_two_kml_images(images: torch.Tensor) -> None:
    pair = draw("shaders-kml", images, 6, random=stream(1, "x"), kml_side=64)
    mixed = draw("shaders-kml-mixup", images, 3, random=stream(1, "x"), kml_side=64)
    assert torch.equal(mixed, 0.5 * (pair[:3] + pair[3:]))


@pytest.mark.parametrize("process", PROCESSES)
def test_every_process_gives_varied_images_in_range(process: str, images: torch.Tensor) -> None:
    drawn = draw(process, images, 3, random=stream(2, "x"), kml_side=64)
    assert drawn.shape == (3, 3, 64, 64)
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    assert drawn.flatten(1).std(dim=1).min() > 0.01


@pytest.mark.parametrize("process", PROCESSES)
def test_equal_streams_give_equal_images(process: str, images: torch.Tensor) -> None:
    first, again = (draw(process, images, 2, random=stream(2, "x"), kml_side=32) for _ in "ab")
    assert torch.equal(first, again)


def test_a_misspelt_process_is_offered_the_right_name(images: torch.Tensor) -> None:
    with pytest.raises(InputError, match="did you mean 'shaders-kml'"):
        draw("shader-kml", images, 2, random=stream(2, "x"))


def test_a_float_pool_is_refused(images: torch.Tensor) -> None:
    with pytest.raises(InputError, match="uint8"):
        draw("shaders", images.float(), 2, random=stream(2, "x"))
