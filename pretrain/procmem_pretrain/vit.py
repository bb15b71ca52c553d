"""The perception model: timm's vision transformer and the fixed readout behind it.

Used by `train.py` (the transformer alone) and by procmem-export (with the readout).
"""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from procmem.errors import unknown_choice
from procmem_pretrain.seeds import torch_seed

# procmem's name -> timm's architecture
ARCHITECTURES = {
    "vit-tiny": "vit_tiny_patch16_224",
    "vit-small": "vit_small_patch16_224",
    "vit-base": "vit_base_patch16_224",
}


# As timm begins position embeddings: registers differ from each other from the first step on.
_REGISTER_DEVIATION = 0.02


def make_vit(name: str, *, root_seed: int, drop_path: float = 0.0, registers: int = 0) -> Any:
    """A freshly initialized transformer without a classifier.

    Args:
        name: key of `ARCHITECTURES`.
        root_seed: decides the initial weights.
        drop_path: chance of skipping a residual branch in training (DINO: 0.1).
        registers: R, learned tokens beside the class token that belong to no patch (Darcet et al.
            2024, arXiv 2309.16588). All other weights begin as they do without registers.

    Returns:
        a `timm.models.VisionTransformer`; `forward_features` gives (B, 1 + R + h * w, P), the class
        token first. It takes every side that is a multiple of 16 and interpolates its position
        embeddings from 224 pixels (timm's `resample_abs_pos_embed`: bicubic, antialiased).

    Raises:
        InputError: unknown name.
    """
    if name not in ARCHITECTURES:
        raise unknown_choice("model", name, ARCHITECTURES)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed(root_seed, "init"))
        vit = _created(name, drop_path=drop_path)
        if registers:
            weights = with_registers(vit.state_dict(), registers, root_seed=root_seed)
            vit = _created(name, drop_path=drop_path, reg_tokens=registers, no_embed_class=True)
            vit.load_state_dict(weights)
        return vit


def _created(name: str, *, drop_path: float, **options: Any) -> Any:
    return timm.create_model(
        ARCHITECTURES[name],
        pretrained=False,
        num_classes=0,
        dynamic_img_size=True,
        drop_path_rate=drop_path,
        **options,
    )


def with_registers(
    weights: dict[str, Tensor], registers: int, *, root_seed: int
) -> dict[str, Tensor]:
    """The weights of a transformer without registers, and R new ones.

    The class token's position embedding becomes a part of the class token: with registers only
    patches have positions (Darcet et al. 2024, section 2.2). What the class token and the patches
    are before the first block stays the same.

    Args:
        weights: of `make_vit` without registers.
        registers: R, 1 or more.
        root_seed: decides the new tokens.
    """
    token, positions = weights["cls_token"], weights["pos_embed"]
    random = torch.Generator().manual_seed(torch_seed(root_seed, "registers"))
    new = torch.randn(1, registers, token.shape[2], generator=random) * _REGISTER_DEVIATION
    return weights | {
        "cls_token": token + positions[:, :1],
        "pos_embed": positions[:, 1:],
        "reg_token": new.to(token),
    }


def count_registers(weights: dict[str, Tensor]) -> int:
    """R of a transformer with these weights."""
    return weights["reg_token"].shape[1] if "reg_token" in weights else 0


def without_registers(vit: Any, tokens: Tensor) -> Tensor:
    """(B, 1 + R + n, P) tokens of a transformer -> (B, 1 + n, P), the class token first."""
    prefix = int(vit.num_prefix_tokens)
    if prefix == 1:
        return tokens
    return torch.cat([tokens[:, :1], tokens[:, prefix:]], dim=1)


def normalized(views: Tensor) -> Tensor:
    """Views in [0, 1] as the transformer takes them, in [-1, 1] (`manifest.Preprocessing`)."""
    return (views - 0.5) / 0.5


# Cells of the layout along each side: the coarsest grid that tells the parts of a face or a letter
# apart, and fine enough that a 7 x 7 grid of tokens (112 pixels) still has several in each.
LAYOUT = 4


class Perception(nn.Module):
    """What is exported: transformer, readout, normalization.

    Takes (B, 3, S, S) preprocessed images, gives `cls` (B, D) unit vectors and `patches`
    (B, h, w, P) patch tokens after the final norm.

    The readout is affine: D numbers from `statistics` of the tokens. Without one (`weight` None)
    D = P and `cls` is the normalized class token, the paper's protocol.
    """

    readout_weight: Tensor | None
    readout_bias: Tensor | None

    def __init__(self, vit: Any, weight: Tensor | None = None, bias: Tensor | None = None) -> None:
        super().__init__()
        self.vit = vit
        self.register_buffer("readout_weight", weight)  # (D, 19P)
        self.register_buffer("readout_bias", bias)  # (D,)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        patch = self.vit.patch_embed.patch_size[0]
        grid = (images.shape[2] // patch, images.shape[3] // patch)
        return self.answer(self.vit.forward_features(images), grid)

    def answer(self, tokens: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """What `forward` gives for the transformer's tokens on a grid (h, w).

        Args:
            tokens: (B, 1 + R + h * w, P): the class token, R registers (they are left out), the
                patches row by row.
            grid: (h, w).
        """
        tokens = without_registers(self.vit, tokens)
        patches = tokens[:, 1:].reshape(-1, *grid, tokens.shape[2])
        if self.readout_weight is None:
            cls = tokens[:, 0]
        else:
            features = statistics(tokens, grid)
            cls = functional.linear(features, self.readout_weight, self.readout_bias)
        return functional.normalize(cls, dim=1), patches


def statistics(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """What the readout reads.

    Args:
        tokens: (B, 1 + h * w, P), the class token first.
        grid: (h, w).

    Returns:
        (B, 19P): class token, mean and deviation of the patch tokens, and their mean in each of
        4 x 4 cells of the image, row by row.
    """
    patches = tokens[:, 1:]
    mean = patches.mean(dim=1)
    # Written out, because torch.std has no exact counterpart in every ONNX version.
    deviation = ((patches - mean.unsqueeze(1)) ** 2).mean(dim=1).add(1e-12).sqrt()
    cells = layout_weights(grid).to(tokens.device, tokens.dtype) @ patches  # (B, 16, P)
    return torch.cat([tokens[:, 0], mean, deviation, cells.flatten(1)], dim=1)


def statistics_blocks(width: int) -> tuple[int, ...]:
    """How many of `statistics`' 19P numbers belong to each of its four parts."""
    return (width, width, width, LAYOUT**2 * width)


def layout_weights(grid: tuple[int, int]) -> Tensor:
    """(16, h * w): each row averages one cell; a token on a border counts by its share of area."""
    rows, columns = (_overlaps(count) for count in grid)
    return torch.einsum("ry,cx->rcyx", rows, columns).reshape(LAYOUT**2, grid[0] * grid[1])


def _overlaps(count: int) -> Tensor:
    """(4, count): the share of each quarter of a line that each of `count` equal parts covers."""
    edges = torch.arange(count + 1, dtype=torch.float64) * LAYOUT / count
    cells = torch.arange(LAYOUT, dtype=torch.float64)[:, None]
    overlap = torch.minimum(edges[1:], cells + 1) - torch.maximum(edges[:-1], cells)
    return overlap.clamp_min(0).float()
