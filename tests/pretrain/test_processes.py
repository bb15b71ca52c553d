import numpy as np
import pytest
import torch

from procmem.errors import InputError, TrainingError
from procmem_pretrain.kml import kml_mask
from procmem_pretrain.objects import OBJECTS, scenes
from procmem_pretrain.processes import (
    PROCESSES,
    kml,
    make_process,
    mixup,
    shaders,
    to_uint8,
)
from procmem_pretrain.seeds import stream


@pytest.mark.parametrize("name", PROCESSES)
def test_every_process_draws_varied_images_in_range(name: str, pool: torch.Tensor) -> None:
    drawn = make_process(name, pool, mask_side=64)(3, stream(2, "x"))
    assert drawn.shape == (3, 3, 64, 64)
    assert drawn.dtype == torch.float32
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    assert drawn.std(dim=(1, 2, 3)).min() > 0.02
    assert not torch.equal(drawn[0], drawn[1])


@pytest.mark.parametrize("name", PROCESSES)
def test_equal_generators_give_equal_images(name: str, pool: torch.Tensor) -> None:
    source = make_process(name, pool, mask_side=32)
    assert torch.equal(source(2, stream(2, "x")), source(2, stream(2, "x")))
    assert not torch.equal(source(2, stream(2, "x")), source(2, stream(3, "x")))


def test_kml_mixup_is_the_plain_mean_of_two_kml_images(pool: torch.Tensor) -> None:
    mixed = make_process("shaders-kml-mixup", pool, mask_side=64)(3, stream(1, "x"))
    random = stream(1, "x")
    leaves = make_process("shaders-kml", pool, mask_side=64)
    first, second = leaves(3, random), leaves(3, random)
    torch.testing.assert_close(mixed, (first + second) / 2)


def test_mixup_weights_are_uniform_numbers_divided_by_their_sum() -> None:
    # Pure red, green and blue images: the mix's channels are the weights.
    pool = torch.zeros(3, 3, 8, 8, dtype=torch.uint8)
    for channel in range(3):
        pool[channel, channel] = 255
    order = iter(range(3))

    def one_after_the_other(count: int, _: np.random.Generator) -> torch.Tensor:
        return pool[next(order)].float().div(255).repeat(count, 1, 1, 1)

    mixed = mixup(one_after_the_other, images=3)(2, stream(4, "x"))[:, :, 0, 0].numpy()
    drawn = stream(4, "x").uniform(0, 1, (2, 3))
    np.testing.assert_allclose(mixed, drawn / drawn.sum(1, keepdims=True), rtol=1e-6)


@pytest.mark.parametrize("weights", ["uniform", "dirichlet", "equal"])
def test_mixing_equal_images_changes_nothing(weights: str, pool: torch.Tensor) -> None:
    one = pool[:1]
    mixed = mixup(shaders(one), images=6, weights=weights)(2, stream(1, "x"))  # type: ignore[arg-type]
    torch.testing.assert_close(mixed, (one / 255).repeat(2, 1, 1, 1))


def test_images_of_one_color_are_drawn_again_for_the_mask(pool: torch.Tensor) -> None:
    plain = torch.full_like(pool[:1], 90)
    drawn = kml(shaders(torch.cat([plain, plain, pool[:2]])), mask_side=32)(16, stream(1, "x"))
    assert drawn.isfinite().all()
    with pytest.raises(TrainingError, match="images of two colors"):
        kml(shaders(plain), mask_side=32)(2, stream(1, "x"))


def numpy_mask(image: np.ndarray) -> np.ndarray:
    """The published rule, pixel by pixel: (S, S, 3) uint8 -> (S, S), without any resize."""
    side = len(image)
    pixels = image.reshape(-1, 3) / 255.0
    unique = np.unique(image.reshape(-1, 3), axis=0) / 255.0
    centers = np.stack([unique[0], unique[-1]])
    for _ in range(3):
        label = ((pixels[:, None] - centers[None]) ** 2).sum(-1).argmin(1)
        for k in range(2):
            if (label == k).any():
                centers[k] = pixels[label == k].mean(0)
    label = ((pixels[:, None] - centers[None]) ** 2).sum(-1).argmin(1)
    mask = (label == 0).astype(float).reshape(side, side)
    for _ in range(2):
        padded = np.pad(mask, 1, mode="edge")
        mask = sum(padded[i : i + side, j : j + side] for i in range(3) for j in range(3)) / 9
    return mask


def test_masks_equal_the_published_rule(pool: torch.Tensor) -> None:
    masks, plain = kml_mask(pool / 255, side=64)
    assert not plain.any()
    for image, mask in zip(pool, masks, strict=True):
        expected = numpy_mask(image.permute(1, 2, 0).numpy())
        # A pixel at equal distance from both centers may fall to either side.
        assert np.abs(mask[0].numpy() - expected).mean() < 1e-3


def test_a_mask_does_not_depend_on_the_images_beside_it(pool: torch.Tensor) -> None:
    together = kml_mask(pool[:7] / 255, side=48)[0]
    alone = torch.cat([kml_mask(pool[i : i + 1] / 255, side=48)[0] for i in range(7)])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)


def test_frames_show_the_same_objects_elsewhere(pool: torch.Tensor) -> None:
    drawn = scenes(shaders(pool), 12, stream(1, "x"), frames=2)
    assert drawn.images.shape == (12, 2, 3, 64, 64)
    assert drawn.objects.shape == (12, 2, 64, 64)
    assert drawn.objects.max() <= OBJECTS
    present = [{int(v) for v in frame.unique()} - {0} for frame in drawn.objects[:, 0]]
    assert sum(bool(each) for each in present) >= 11  # one object may be covered or tiny
    moved = (drawn.objects[:, 0] != drawn.objects[:, 1]).float().mean(dim=(1, 2))
    assert moved.median() > 0.05


def test_objects_cover_the_background_where_the_map_says(pool: torch.Tensor) -> None:
    drawn = scenes(shaders(pool), 6, stream(1, "x"))
    again = scenes(shaders(255 - pool), 6, stream(1, "x"))
    assert torch.equal(drawn.objects, again.objects)  # shapes do not depend on materials


def test_levels_are_rounded_half_up() -> None:
    values = torch.tensor([0.0, 0.4999 / 255, 0.5 / 255, 1.0, 1.2, -0.1])
    assert to_uint8(values).tolist() == [0, 0, 1, 255, 255, 0]


def test_an_unknown_process_is_refused(pool: torch.Tensor) -> None:
    with pytest.raises(InputError, match="did you mean 'shaders-kml'"):
        make_process("shader-kml", pool)


def test_a_float_pool_is_refused(pool: torch.Tensor) -> None:
    with pytest.raises(InputError, match="uint8"):
        make_process("shaders", pool.float())


def test_the_papers_protocol_refuses_other_masks(pool: torch.Tensor) -> None:
    with pytest.raises(InputError, match="the paper's protocol has 256"):
        make_process("shaders-kml", pool, protocol="paper", mask_side=64)
