"""The perception in a form whose graph runs at every side: what `onnx_format.py` hands to torch.

Takes `Perception` from `procmem_pretrain.vit` and answers as it does, without the two branches on
the side that a traced graph cannot keep: timm's shortcut at the table's own grid, and its test of
the input's size. Positions and the readout's cells become functions of the input's shape, which an
engine that is told the side works out once, when it opens the file.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from procmem_pretrain.vit import Perception


class AnySide(nn.Module):
    """`Perception` for square inputs of every side that is a multiple of the patch size.

    Positions come from the table as in timm's `resample_abs_pos_embed`, with which training sees
    its smaller views: bicubic with antialiasing (a = -0.5), half-pixel centers, taps outside of
    the table left out. At the table's own grid this gives the table itself.

    Args:
        perception: in evaluation mode, on the CPU, float32. Changes to it show here.
    """

    table: Tensor
    start: Tensor

    def __init__(self, perception: Perception) -> None:
        super().__init__()
        self.perception = perception
        vit = perception.vit
        rows, columns = vit.patch_embed.grid_size
        positions = vit.pos_embed.detach()  # (1, 1 + h * w, P), the class token first
        table = positions[:, 1:].reshape(1, rows, columns, -1).permute(0, 3, 1, 2)
        self.register_buffer("table", table.contiguous())  # (1, P, h, w)
        self.register_buffer("start", vit.cls_token.detach() + positions[:, :1])  # (1, 1, P)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """As `Perception.forward`: (B, 3, S, S) to `cls` (B, D) and `patches` (B, h, w, P)."""
        vit = self.perception.vit
        patches = vit.patch_embed.proj(images)  # (B, P, h, w)
        grid = (patches.shape[2], patches.shape[3])
        positions = functional.interpolate(self.table, size=grid, mode="bicubic", antialias=True)
        tokens = (patches + positions).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.start.expand(tokens.shape[0], -1, -1), tokens], dim=1)
        return self.perception.answer(vit.norm(vit.blocks(tokens)), grid)
