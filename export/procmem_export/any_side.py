"""The perception in a form that can be traced: what `onnx_format.py` hands to torch.

Takes `Perception` from `procmem_pretrain.vit` and answers as it does, without the two branches on
the side that a traced graph cannot keep: timm's shortcut at the table's own grid, and its test of
the input's size. Positions and the readout's cells become functions of the input's shape, which an
engine that is told the side works out once, when it opens the file. Products can be lowered to 16
bits; all else stays in float32.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from procmem.errors import ExportError
from procmem_pretrain.vit import Perception


class AnySide(nn.Module):
    """`Perception` for square inputs of every side that is a multiple of the patch size.

    Positions come from the table as in timm's `resample_abs_pos_embed`, with which training sees
    its smaller views: bicubic with antialiasing (a = -0.5), half-pixel centers, taps outside of
    the table left out. At the table's own grid this gives the table itself.

    Args:
        perception: in evaluation mode, on the CPU, float32. In float32, changes to it show here.
        dtype: of the products inside the transformer's blocks.

    Raises:
        ExportError: the transformer has no learned absolute positions, or no class token.
    """

    table: Tensor
    start: Tensor

    def __init__(self, perception: Perception, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        _check(perception.vit)
        self.perception = perception if dtype == torch.float32 else _lowered(perception, dtype)
        vit = self.perception.vit
        rows, columns = vit.patch_embed.grid_size
        positions = vit.pos_embed.detach()  # (1, h * w, P), behind those of the tokens in front
        tokens = [vit.cls_token.detach()]
        if vit.reg_token is not None:
            tokens.append(vit.reg_token.detach())
        start = torch.cat(tokens, dim=1)  # (1, tokens in front, P)
        if not vit.no_embed_class:
            count = start.shape[1]
            start, positions = start + positions[:, :count], positions[:, count:]
        table = positions.reshape(1, rows, columns, -1).permute(0, 3, 1, 2)
        self.register_buffer("table", table.contiguous())  # (1, P, h, w)
        self.register_buffer("start", start)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """As `Perception.forward`: (B, 3, S, S) to `cls` (B, D) and `patches` (B, h, w, P)."""
        vit = self.perception.vit
        patches = vit.patch_embed.proj(images)  # (B, P, h, w)
        grid = (patches.shape[2], patches.shape[3])
        positions = functional.interpolate(self.table, size=grid, mode="bicubic", antialias=True)
        tokens = vit.patch_embed.norm(patches.flatten(2).transpose(1, 2))
        tokens = tokens + positions.flatten(2).transpose(1, 2)
        tokens = torch.cat([self.start.expand(tokens.shape[0], -1, -1), tokens], dim=1)
        return self.perception.answer(vit.norm(vit.blocks(vit.norm_pre(tokens))), grid)


class _Lowered(nn.Module):
    """A branch of a block, computed in another type; takes and gives float32.

    The sums of a ViT's residual stream outgrow 16 bits, and a normalization over them breaks:
    entirely in float16 a ViT's embeddings have cosine 0.14 to their originals.
    """

    def __init__(self, branch: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.branch = branch.to(dtype)
        self.dtype = dtype

    def forward(self, tokens: Tensor, **options: Any) -> Tensor:
        answer: Tensor = self.branch(tokens.to(self.dtype), **options)
        return answer.float()


def _lowered(perception: Perception, dtype: torch.dtype) -> Perception:
    lowered = copy.deepcopy(perception)
    vit = lowered.vit
    vit.patch_embed.proj = _Lowered(vit.patch_embed.proj, dtype)
    for block in vit.blocks:
        block.attn = _Lowered(block.attn, dtype)
        block.mlp = _Lowered(block.mlp, dtype)
    return lowered.eval()


def _check(vit: Any) -> None:
    for what, there in (
        ("a class token", vit.cls_token is not None),
        ("learned absolute positions", vit.pos_embed is not None),
        ("a plain patch embedding", hasattr(vit.patch_embed, "proj")),
    ):
        if not there:
            raise ExportError(
                f"the architecture has not {what}, which procmem's models have; export a ViT of "
                "timm's `VisionTransformer` with a class token, such as vit_small_patch16_224"
            )
