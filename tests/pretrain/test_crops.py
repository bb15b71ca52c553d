import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torchvision.transforms import functional as reference

from procmem_pretrain.crops import ViewConfig, adjust_color, gaussian_blur, make_view, resized_crop
from procmem_pretrain.seeds import stream

IMAGES = torch.from_numpy(stream(0, "images").random((4, 3, 48, 48)).astype(np.float32))
ONE = torch.ones(4, 1)


def color(**factors: torch.Tensor) -> torch.Tensor:
    neutral = {"brightness": ONE, "contrast": ONE, "saturation": ONE, "hue": 0 * ONE}
    return adjust_color(IMAGES, **{**neutral, **factors})


def test_neutral_factors_change_nothing() -> None:
    assert torch.allclose(color(), IMAGES, atol=1e-5)


@pytest.mark.parametrize("factor", [0.4, 1.3])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_color_factors_agree_with_torchvision(name: str, factor: float) -> None:
    expected = getattr(reference, f"adjust_{name}")(IMAGES, factor)
    # torchvision's greyscale weights have four digits, ours three.
    assert torch.allclose(color(**{name: factor * ONE}), expected, atol=1e-3)


def test_half_a_turn_of_hue_keeps_the_luma() -> None:
    muted = 0.5 + 0.2 * (IMAGES - 0.5)  # so that nothing is clipped
    turned = adjust_color(
        muted, brightness=ONE, contrast=ONE, saturation=ONE, hue=torch.full((4, 1), 0.5)
    )
    luma = torch.tensor([0.299, 0.587, 0.114])
    before, after = (torch.einsum("bchw,c->bhw", x, luma) for x in (muted, turned))
    assert torch.allclose(before, after, atol=1e-3)
    assert (muted - turned).abs().mean() > 0.01


def test_the_blur_is_scipys_gaussian() -> None:
    blurred = gaussian_blur(IMAGES, torch.tensor([[0.5], [1.0], [1.5], [2.0]])).numpy()
    for image, ours, sigma in zip(IMAGES.numpy(), blurred, (0.5, 1.0, 1.5, 2.0), strict=True):
        expected = np.stack(
            [gaussian_filter(c.astype(np.float64), sigma, mode="mirror", radius=4) for c in image]
        )
        assert np.abs(ours - expected).max() < 1e-5


def test_the_whole_box_is_the_image() -> None:
    whole = torch.tensor([[0.5, 0.5, 1.0, 1.0]]).repeat(4, 1)
    assert torch.allclose(resized_crop(IMAGES, whole, side=48), IMAGES, atol=1e-5)


def test_a_negative_width_flips() -> None:
    flipped = torch.tensor([[0.5, 0.5, -1.0, 1.0]]).repeat(4, 1)
    assert torch.allclose(resized_crop(IMAGES, flipped, side=48), IMAGES.flip(3), atol=1e-5)


def test_a_quarter_box_is_that_quarter() -> None:
    corner = torch.tensor([[0.25, 0.75, 0.5, 0.5]]).repeat(4, 1)
    assert torch.allclose(resized_crop(IMAGES, corner, side=24), IMAGES[:, :, 24:, :24], atol=1e-5)


def test_solarize_inverts_bright_values() -> None:
    plain = {"flip": 0.0, "jitter_chance": 0.0, "grey": 0.0, "blur": 0.0}
    config = ViewConfig(48, **plain)
    before = make_view(IMAGES, config, random=stream(1, "v"))
    after = make_view(IMAGES, ViewConfig(48, **plain, solarize=1.0), random=stream(1, "v"))
    assert torch.equal(after, torch.where(before >= 0.5, 1 - before, before))


def test_grey_views_have_equal_channels() -> None:
    view = make_view(IMAGES, ViewConfig(48, grey=1.0), random=stream(1, "v"))
    assert (view - view.mean(dim=1, keepdim=True)).abs().max() < 1e-5


def test_views_are_reproducible_and_in_range() -> None:
    config = ViewConfig(32, (0.05, 0.4), solarize=0.5)
    first, again = (make_view(IMAGES, config, random=stream(1, "v")) for _ in "ab")
    assert torch.equal(first, again)
    assert first.shape == (4, 3, 32, 32)
    assert first.min() >= 0
    assert first.max() <= 1
