"""The process "stylegan": images of an untrained StyleGANv2 generator, oriented initialization.

Gives images to `jobs.py`, which fills the pool of the process with them. The procedure is that of
Baradad et al. 2021, "Learning to See by Looking at Noise" (NeurIPS), section 3.4 and its published
settings for "StyleGAN-Oriented": the architecture of StyleGANv2 (Karras et al. 2020) with
rectified linear units; styles are leaky-rectified normal numbers, drawn anew for every layer
instead of mapped from one latent; weights are wavelets that all output channels of a layer share;
biases U(-0.2, 0.2); noise maps are pink and the same for all channels; a new network is drawn every
few hundred images.

Here a network serves one job (eight images, if not told otherwise), which is more often, and has
fewer channels than StyleGANv2's 512, so that it runs on a CPU too. The published code normalizes
colors with statistics of photographs; these are replaced by a symmetric range around middle grey,
so that no real image has a part in it.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

_STYLE = 64
# Of the layers at 4, 8, 16, ... pixels.
_CHANNELS = (64, 64, 64, 48, 32, 24, 16, 12, 8)
_BIAS_RANGE = 0.2
_LEAK = 0.2


@torch.no_grad()
def stylegan_images(
    count: int, random: np.random.Generator, *, side: int, device: torch.device | str = "cpu"
) -> Tensor:
    """Images of one new network.

    Args:
        count: N, 1 or more.
        random: decides weights, styles and noise.
        side: S, pixels; drawn at the next size that four to seven pixels reach by doubling.
        device: where the network runs; another device gives other images.

    Returns:
        (N, 3, S, S) float32 in [0, 1].
    """
    generator = torch.Generator(device).manual_seed(int(random.integers(2**62)))
    doublings = max(0, math.floor(math.log2(side / 4)))
    start = math.ceil(side / 2**doublings)
    images = _synthesize(count, start, doublings, generator)
    if images.shape[-1] != side:
        images = functional.interpolate(images, size=(side, side), mode="bilinear", antialias=True)
    return _normalized(images, generator)


def _synthesize(count: int, start: int, doublings: int, generator: torch.Generator) -> Tensor:
    """(N, 3, S, S) unscaled: constant -> styled convolutions, doubled in size, summed RGB."""
    device = generator.device
    features = torch.randn(1, _CHANNELS[0], start, start, generator=generator, device=device)
    features = features.expand(count, -1, -1, -1)
    rgb = torch.zeros(count, 3, start, start, device=device)
    for stage in range(doublings + 1):
        width = _CHANNELS[min(stage, len(_CHANNELS) - 1)]
        if stage:
            rgb, features = _doubled(rgb), _doubled(features)
            features = _styled_convolution(features, width, generator)
        features = _styled_convolution(features, width, generator)
        # To RGB: a 1 x 1 styled convolution without demodulation (Karras et al. 2020, figure 7).
        weight = torch.randn(3, width, 1, 1, generator=generator, device=device)
        styled = features * _style(count, width, generator)
        # Every scale adds as much as all coarser ones together: the wavelets' edges must show.
        added = _scaled(functional.conv2d(styled, weight / math.sqrt(width)))
        rgb = _scaled(rgb) + added if stage else added
    return rgb


def _doubled(images: Tensor) -> Tensor:
    return functional.interpolate(images, scale_factor=2, mode="bilinear", align_corners=False)


def _styled_convolution(features: Tensor, width: int, generator: torch.Generator) -> Tensor:
    """Modulated 3 x 3 convolution, demodulated, with noise, bias and rectification."""
    count, channels, side, _ = features.shape
    device = features.device
    weight = _wavelets(width, channels, generator)
    style = _style(count, channels, generator)
    # Padding repeats the border: zeros would frame every picture.
    padded = functional.pad(features * style, (1, 1, 1, 1), mode="replicate")
    mixed = functional.conv2d(padded, weight)
    # Demodulation (Karras et al. 2020, equation 3), for each image and output channel.
    energy = torch.einsum("oc,nc->no", weight.square().sum((2, 3)), style[..., 0, 0].square())
    mixed = mixed * (energy + 1e-8).rsqrt()[:, :, None, None]
    strength = 2 * torch.rand(1, 1, 1, 1, generator=generator, device=device)
    mixed = mixed + strength * _pink_noise(count, side, generator)
    bias = torch.rand(1, width, 1, 1, generator=generator, device=device)
    return functional.relu(mixed + (2 * bias - 1) * _BIAS_RANGE) * math.sqrt(2)


def _wavelets(width: int, channels: int, generator: torch.Generator) -> Tensor:
    """(width, channels, 3, 3): every input channel has one oriented wavelet, all outputs share it.

    The wavelet is a smoothing plus a first derivative of a Gaussian at a random angle; outputs
    differ only in its amplitude.
    """
    device = generator.device
    axis = torch.tensor([-1.0, 0.0, 1.0], device=device)
    smooth = torch.exp(-0.5 * (axis[:, None].square() + axis[None, :].square()) / 0.7)
    angle = 2 * math.pi * torch.rand(channels, 1, 1, generator=generator, device=device)
    slope = (angle.cos() * axis[None, None, :] + angle.sin() * axis[None, :, None]) * smooth
    share = 0.4 * torch.rand(channels, 1, 1, generator=generator, device=device)
    wavelet = (
        share * smooth / smooth.norm() + (1 - share) * slope / slope.norm(dim=(1, 2))[:, None, None]
    )
    amplitude = torch.randn(width, channels, 1, 1, generator=generator, device=device)
    return torch.mul(amplitude, wavelet)


def _style(count: int, channels: int, generator: torch.Generator) -> Tensor:
    """(N, channels, 1, 1): an affine map of a leaky-rectified normal style of its own."""
    device = generator.device
    style = torch.randn(count, _STYLE, generator=generator, device=device)
    style = functional.leaky_relu(style, _LEAK)
    weight = torch.randn(channels, _STYLE, generator=generator, device=device)
    return torch.add(functional.linear(style, weight) / math.sqrt(_STYLE), 1)[:, :, None, None]


def _pink_noise(count: int, side: int, generator: torch.Generator) -> Tensor:
    """(N, 1, side, side) noise whose amplitude falls as 1 / frequency; deviation 1."""
    device = generator.device
    white = torch.randn(count, 1, side, side, generator=generator, device=device)
    y = torch.fft.fftfreq(side, device=device)[:, None]
    x = torch.fft.rfftfreq(side, device=device)[None, :]
    frequency = (x.square() + y.square()).sqrt().clamp(min=1 / side)
    pink = torch.fft.irfft2(torch.fft.rfft2(white) / frequency, s=(side, side))
    return torch.div(pink, pink.std(dim=(2, 3), keepdim=True) + 1e-8)


def _scaled(images: Tensor) -> Tensor:
    """Every image at deviation 1."""
    return torch.div(images, images.std(dim=(1, 2, 3), keepdim=True) + 1e-8)


def _normalized(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each channel of each image at a mean and a deviation of its own, held in [0, 1]."""
    mean = images.mean(dim=(2, 3), keepdim=True)
    deviation = images.std(dim=(2, 3), keepdim=True) + 1e-8
    shape, device = mean.shape, images.device
    center = 0.5 + 0.15 * torch.randn(shape, generator=generator, device=device)
    spread = 0.2 + 0.06 * torch.randn(shape, generator=generator, device=device)
    return torch.clamp((images - mean) / deviation * spread + center, 0, 1)
