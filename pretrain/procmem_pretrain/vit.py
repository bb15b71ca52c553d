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


def make_vit(name: str, *, root_seed: int, drop_path: float = 0.0, fixed_side: bool = False) -> Any:
    """A freshly initialized transformer without a classifier.

    Args:
        name: key of `ARCHITECTURES`.
        root_seed: decides the initial weights.
        drop_path: chance of skipping a residual branch in training (DINO: 0.1).
        fixed_side: accept 224 pixels only, which leaves a simpler graph for export. Otherwise all
            multiples of 16 are accepted, and the position embeddings are interpolated.

    Returns:
        a `timm.models.VisionTransformer`; `forward_features` gives (B, 1 + h * w, P), the class
        token first.

    Raises:
        InputError: unknown name.
    """
    if name not in ARCHITECTURES:
        raise unknown_choice("model", name, ARCHITECTURES)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed(root_seed, "init"))
        return timm.create_model(
            ARCHITECTURES[name],
            pretrained=False,
            num_classes=0,
            dynamic_img_size=not fixed_side,
            drop_path_rate=drop_path,
        )


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
        self.register_buffer("readout_weight", weight)  # (D, 3P)
        self.register_buffer("readout_bias", bias)  # (D,)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        tokens = self.vit.forward_features(images)
        patch = self.vit.patch_embed.patch_size[0]
        height, width = images.shape[2] // patch, images.shape[3] // patch
        patches = tokens[:, 1:].reshape(-1, height, width, tokens.shape[2])
        if self.readout_weight is None:
            cls = tokens[:, 0]
        else:
            cls = functional.linear(statistics(tokens), self.readout_weight, self.readout_bias)
        return functional.normalize(cls, dim=1), patches


def statistics(tokens: Tensor) -> Tensor:
    """(B, 1 + h * w, P) tokens -> (B, 3P): class token, mean and deviation of the patch tokens."""
    patches = tokens[:, 1:]
    mean = patches.mean(dim=1)
    # Written out, because torch.std has no exact counterpart in every ONNX version.
    deviation = ((patches - mean.unsqueeze(1)) ** 2).mean(dim=1).add(1e-12).sqrt()
    return torch.cat([tokens[:, 0], mean, deviation], dim=1)
