"""Preprocessing as part of the graph: uint8 pixels of any size in, what `preprocess.py` gives out.

A graph that takes pixels runs the same in any language, without this package. `onnx_format.py`
puts it in front of a model. It is `preprocess.center_view` to the letter of its arithmetic but for
one thing: the axes always go x first, which can move a value by a rounding (one of 255 steps, two
in images of a few pixels).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from procmem.manifest import Preprocessing

_A = -0.5  # of Pillow's bicubic filter
_SUPPORT = 2.0  # its half width


class FromPixels(nn.Module):
    """`preprocess.to_tensor` with the view "center" as tensor operations.

    Each axis is a product with a matrix that the image's shape alone decides: as many operations
    as 224 pixels per row and column cost, not fewer for an image that is little larger.

    Args:
        preprocessing: of the model at its side.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.crop = preprocessing.crop
        self.share = preprocessing.crop / preprocessing.resize
        self.register_buffer("mean", torch.tensor(preprocessing.mean).reshape(1, 3, 1, 1))
        self.register_buffer("deviation", torch.tensor(preprocessing.std).reshape(1, 3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, H, W, 3) uint8 RGB -> (N, 3, S, S) float32, normalized."""
        # The shape as numbers of the graph: symbolic sizes allow no min of two in every exporter.
        height = torch.ones_like(pixels[0, :, 0, 0], dtype=torch.float32).sum()
        width = torch.ones_like(pixels[0, 0, :, 0], dtype=torch.float32).sum()
        side = torch.minimum(height, width) * self.share
        image = pixels.permute(0, 3, 1, 2).float()  # (N, 3, H, W)
        columns = self._weights(width, side, pixels.shape[2])  # (S, W)
        rows = self._weights(height, side, pixels.shape[1])  # (S, H)
        image = _to_8_bits(image @ columns.T)  # (N, 3, H, S)
        image = _to_8_bits(rows @ image)  # (N, 3, S, S)
        return (image / 255 - self.mean) / self.deviation

    def _weights(self, length: Tensor, side: Tensor, count: int) -> Tensor:
        """(S, count): the weight of each source pixel in each output pixel, as Pillow's.

        Args:
            length: pixels along this axis, as a tensor.
            side: of the source square, pixels.
            count: the same as `length`, as the shape's own number.
        """
        scale = side / self.crop  # source pixels per output pixel
        widening = torch.clamp(scale, min=1.0)  # of the filter, where the image shrinks
        start = (length - side) / 2
        centers = start + (torch.arange(self.crop, dtype=torch.float32) + 0.5) * scale
        sources = torch.arange(count, dtype=torch.float32)
        # Pillow's window: whole pixels whose centers lie within the support, half up.
        low = torch.floor(centers - _SUPPORT * widening + 0.5)[:, None]
        high = torch.floor(centers + _SUPPORT * widening + 0.5)[:, None]
        distance = torch.abs(sources[None] + 0.5 - centers[:, None]) / widening
        near = ((_A + 2) * distance - (_A + 3)) * distance * distance + 1
        far = ((distance - 5) * distance + 8) * distance * _A - 4 * _A
        weights = torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))
        weights = torch.where((sources[None] >= low) & (sources[None] < high), weights, 0.0)
        return weights / weights.sum(dim=1, keepdim=True)


def _to_8_bits(image: Tensor) -> Tensor:
    """As Pillow stores a picture between its two passes."""
    return torch.floor(image + 0.5).clamp(0.0, 255.0)
