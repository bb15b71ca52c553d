import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter, ImageOps
from scipy.ndimage import gaussian_filter
from scipy.stats import ks_2samp
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms import functional as reference

from procmem.errors import InputError
from procmem_pretrain.crops import (
    Interpolation,
    ViewConfig,
    adjust_color,
    apply_views,
    draw_views,
    gaussian_blur,
    jitter_color,
    make_view,
    pixel_boxes,
    resized_by_products,
    resized_crop,
    solarize,
)
from procmem_pretrain.seeds import stream

BYTES = stream(0, "images").integers(0, 256, (4, 48, 48, 3)).astype(np.uint8)
IMAGES = torch.from_numpy(BYTES).permute(0, 3, 1, 2).float().div(255).contiguous()
ONE = torch.ones(4, 1)
# left, top, width, height: shrunk, enlarged, one pixel, the whole image.
BOXES = torch.tensor([[3, 5, 40, 33], [20, 8, 9, 11], [47, 47, 1, 1], [0, 0, 48, 48]])
FLIPPED = torch.tensor([False, True, False, True])
PLAIN = ViewConfig(48, flip=0.0, jitter_chance=0.0, grey=0.0, blur=0.0)
EXACT = ViewConfig(
    40, (0.05, 1.0), solarize=0.5, interpolation="bicubic", color="torchvision", scale_blur=False
)


def color(**factors: torch.Tensor) -> torch.Tensor:
    neutral = {"brightness": ONE, "contrast": ONE, "saturation": ONE, "hue": 0 * ONE}
    return adjust_color(IMAGES, **{**neutral, **factors})


def as_bytes(images: torch.Tensor) -> np.ndarray:
    return (images * 255).permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("side", [24, 56])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_the_crop_is_pils_resize_of_the_box(interpolation: Interpolation, side: int) -> None:
    ours = as_bytes(
        resized_crop(IMAGES, BOXES, side=side, interpolation=interpolation, flipped=FLIPPED)
    )
    for picture, view, box, flip in zip(BYTES, ours, BOXES.tolist(), FLIPPED, strict=True):
        left, top, width, height = box
        crop = Image.fromarray(picture).crop((left, top, left + width, top + height))
        crop = crop.resize((side, side), Image.Resampling[interpolation.upper()])
        expected = np.asarray(ImageOps.mirror(crop) if flip else crop).astype(np.float32)
        # PIL rounds to 8 bits after each axis: 1/2 twice, the first weighted by a filter whose
        # absolute weights sum to at most 1.25.
        assert np.abs(view - expected).max() <= 0.5 + 0.5 * 1.25 + 0.01


@pytest.mark.parametrize("side", [24, 56])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_matrix_products_resize_as_the_loop_does(interpolation: Interpolation, side: int) -> None:
    loop = resized_crop(IMAGES, BOXES, side=side, interpolation=interpolation, flipped=FLIPPED)
    products = resized_by_products(IMAGES, BOXES, side, interpolation, FLIPPED)
    assert torch.allclose(products, loop, atol=2e-5)  # positions are float32


def test_a_crop_never_sees_beyond_its_box() -> None:
    changed = IMAGES.clone()
    changed[0, :, :, 43:] = 0
    changed[0, :, :5] = 1
    for interpolation in ("bilinear", "bicubic"):
        for resize in (
            lambda x, i=interpolation: resized_crop(x, BOXES, side=24, interpolation=i),
            lambda x, i=interpolation: resized_by_products(x, BOXES, 24, i, FLIPPED),
        ):
            assert torch.equal(resize(changed)[0], resize(IMAGES)[0])


def test_the_whole_box_is_the_image() -> None:
    whole = torch.tensor([[0, 0, 48, 48]]).repeat(4, 1)
    assert torch.allclose(resized_crop(IMAGES, whole, side=48), IMAGES, atol=1e-6)
    everywhere = torch.ones(4, dtype=torch.bool)
    flipped = resized_crop(IMAGES, whole, side=48, flipped=everywhere)
    assert torch.allclose(flipped, IMAGES.flip(3), atol=1e-6)


@pytest.mark.parametrize("scale", [(0.05, 0.4), (0.4, 1.0)])
def test_boxes_have_torchvisions_distribution(scale: tuple[float, float]) -> None:
    count, side = 4000, 144
    parameters = draw_views(ViewConfig(64, scale), count, stream(0, "boxes"))
    left, top, width, height = pixel_boxes(parameters, side).T
    assert left.min() >= 0
    assert top.min() >= 0
    # All places are possible, the last included.
    assert (left + width).max() == side
    assert (top + height).max() == side
    image = torch.empty(1, side, side)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        drawn = [
            RandomResizedCrop.get_params(image, list(scale), [3 / 4, 4 / 3]) for _ in range(count)
        ]
    for ours, theirs in zip((top, left, height, width), np.array(drawn).T, strict=True):
        # The critical value of Kolmogorov and Smirnov at 0.1%: 1.95 sqrt(2 / 4000) = 0.044.
        assert ks_2samp(ours, theirs).statistic < 0.044


def test_every_place_of_a_box_is_as_likely() -> None:
    config = ViewConfig(64, (0.25, 0.25), aspect=1.0)  # 4 x 4 of 8 x 8: edges 0 to 4
    left, top, width, height = pixel_boxes(draw_views(config, 5000, stream(0, "b")), 8).T
    assert (width == 4).all()
    assert (height == 4).all()
    for edge in (left, top):
        # 1000 each, with a standard deviation of 28.
        assert np.abs(np.bincount(edge, minlength=5) - 1000).max() < 4 * 28


@pytest.mark.parametrize("factor", [0.4, 1.3])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_affine_factors_agree_with_torchvision(name: str, factor: float) -> None:
    expected = getattr(reference, f"adjust_{name}")(IMAGES, factor)
    # torchvision's greyscale weights have four digits, ours three.
    assert torch.allclose(color(**{name: factor * ONE}), expected, atol=1e-3)


def test_neutral_affine_factors_change_nothing() -> None:
    assert torch.allclose(color(), IMAGES, atol=1e-5)


def test_half_a_turn_of_affine_hue_keeps_the_luma() -> None:
    muted = 0.5 + 0.2 * (IMAGES - 0.5)  # so that nothing is clipped
    turned = adjust_color(
        muted, brightness=ONE, contrast=ONE, saturation=ONE, hue=torch.full((4, 1), 0.5)
    )
    luma = torch.tensor([0.299, 0.587, 0.114])
    before, after = (torch.einsum("bchw,c->bhw", x, luma) for x in (muted, turned))
    assert torch.allclose(before, after, atol=1e-3)
    assert (muted - turned).abs().mean() > 0.01


def test_the_jitter_is_torchvisions_in_each_images_own_order() -> None:
    random = stream(0, "jitter")
    factors = random.uniform([0.6, 0.6, 0.8, -0.1], [1.4, 1.4, 1.2, 0.1], (4, 4))
    factors[3, 3] = -0.5
    order = np.array([[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2], [2, 0, 3, 1]])
    ours = jitter_color(IMAGES, torch.from_numpy(factors.astype(np.float32)), order)
    adjust = [
        reference.adjust_brightness,
        reference.adjust_contrast,
        reference.adjust_saturation,
        reference.adjust_hue,
    ]
    for image, view, row, columns in zip(IMAGES, ours, factors, order, strict=True):
        expected = image
        for column in columns:
            expected = adjust[column](expected, row[column])
        # A greyscale weight differs by 1e-4. Where two channels are nearly equal that can move a
        # hue by more, so nearly all pixels are held to it and the rest to ten times as much.
        difference = (view - expected).abs()
        assert difference.quantile(0.999) < 1e-3
        assert difference.max() < 1e-2


@pytest.mark.parametrize("hue", [-0.5, -0.1, 0.0, 0.07, 0.5])
def test_the_hue_is_torchvisions(hue: float) -> None:
    factors = torch.tensor([[1.0, 1.0, 1.0, hue]]).repeat(4, 1)
    ours = jitter_color(IMAGES, factors, np.tile(np.arange(4), (4, 1)))
    assert torch.allclose(ours, reference.adjust_hue(IMAGES, hue), atol=1e-5)


def test_grey_pixels_have_no_hue_to_turn() -> None:
    grey = IMAGES.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    factors = torch.tensor([[1.0, 1.0, 1.0, 0.3]]).repeat(4, 1)
    assert torch.equal(jitter_color(grey, factors, np.tile(np.arange(4), (4, 1))), grey)


@pytest.mark.parametrize("config", [ViewConfig(48, grey=1.0), dataclasses.replace(EXACT, grey=1.0)])
def test_grey_views_have_equal_channels(config: ViewConfig) -> None:
    view = make_view(IMAGES, config, random=stream(1, "v"))
    assert (view - view.mean(dim=1, keepdim=True)).abs().max() < 1e-5


def test_grey_is_pils_luma() -> None:
    whole = dataclasses.replace(PLAIN, scale=(1.0, 1.0), aspect=1.0)
    for mode in ("affine", "torchvision"):
        config = dataclasses.replace(whole, grey=1.0, color=mode)
        ours = as_bytes(make_view(IMAGES, config, random=stream(1, "v")))[..., 0]
        for picture, view in zip(BYTES, ours, strict=True):
            expected = np.asarray(Image.fromarray(picture).convert("L")).astype(np.float32)
            assert np.abs(view - expected).max() < 0.51


def test_the_blur_is_scipys_gaussian() -> None:
    sigmas = (0.1, 0.5, 1.0, 2.0)
    blurred = gaussian_blur(IMAGES, torch.tensor(sigmas)[:, None]).numpy()
    for image, ours, sigma in zip(IMAGES.numpy(), blurred, sigmas, strict=True):
        expected = np.stack(
            [gaussian_filter(c.astype(np.float64), sigma, mode="nearest", radius=8) for c in image]
        )
        assert np.abs(ours - expected).max() < 1e-5


def test_the_blur_approximates_pils() -> None:
    sigmas = (0.5, 1.0, 1.5, 2.0)
    blurred = as_bytes(gaussian_blur(IMAGES, torch.tensor(sigmas)[:, None]))
    for picture, ours, sigma in zip(BYTES, blurred, sigmas, strict=True):
        expected = np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(sigma)))
        # Its three box blurs are the approximation; on white noise, the hardest picture for it,
        # they are within 3 of 255 on average.
        assert np.abs(ours - expected).mean() < 3


def test_the_blur_is_in_pixels_of_the_view_unless_scaled() -> None:
    exact = draw_views(EXACT, 4, stream(1, "v"))
    scaled = draw_views(dataclasses.replace(EXACT, scale_blur=True), 4, stream(1, "v"))
    assert np.allclose(scaled.radius, exact.radius * EXACT.side / 224)


def test_solarize_is_torchvisions_at_128() -> None:
    expected = torch.stack([reference.solarize(image, 128 / 255) for image in IMAGES])
    assert torch.equal(solarize(IMAGES), expected)
    before = make_view(IMAGES, PLAIN, random=stream(1, "v"))
    after = make_view(IMAGES, dataclasses.replace(PLAIN, solarize=1.0), random=stream(1, "v"))
    assert torch.equal(after, solarize(before))


@pytest.mark.parametrize("config", [ViewConfig(32, solarize=0.5), EXACT])
def test_views_are_reproducible_and_in_range(config: ViewConfig) -> None:
    first, again = (make_view(IMAGES, config, random=stream(1, "v")) for _ in "ab")
    assert torch.equal(first, again)
    assert first.shape == (4, 3, config.side, config.side)
    assert first.min() >= 0
    assert first.max() <= 1
    assert not torch.equal(first, make_view(IMAGES, config, random=stream(2, "v")))


@pytest.mark.parametrize("config", [ViewConfig(32, solarize=0.5), EXACT])
def test_a_part_of_the_views_is_the_views_of_the_part(config: ViewConfig) -> None:
    images = IMAGES.repeat(4, 1, 1, 1)
    parameters = draw_views(config, 16, stream(3, "v"))
    whole = apply_views(images, parameters, config)
    for part in (slice(0, 8), slice(8, 16), slice(5, 6)):
        views = apply_views(images[part], parameters.part(part), config)
        assert torch.allclose(views, whole[part], atol=1e-6)


def test_applying_leaves_the_images_as_they_are() -> None:
    before = IMAGES.clone()
    make_view(IMAGES, EXACT, random=stream(1, "v"))
    assert torch.equal(IMAGES, before)


def test_parameters_for_other_images_are_refused() -> None:
    with pytest.raises(InputError, match=r"wanted \(3, 3, S, S\)"):
        apply_views(IMAGES, draw_views(PLAIN, 3, stream(0, "v")), PLAIN)
