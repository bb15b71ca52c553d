"""An architecture for tests: as wide as ViT-Ti, of two blocks instead of twelve.

A step, a trace and a checkpoint take their time by the block, and two show all that can go wrong
with them. Training by several processes, and the trained model itself, are tested with all twelve.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer, vit_tiny_patch16_224

from procmem_pretrain.vit import ARCHITECTURES

SHALLOW = "vit-shallow"


@register_model
def vit_shallow_patch16_224(pretrained: bool = False, **options: Any) -> VisionTransformer:
    """timm's ViT-Ti/16 with two blocks."""
    return vit_tiny_patch16_224(pretrained, depth=2, **options)


@contextmanager
def shallow_architecture() -> Iterator[None]:
    """Within it `SHALLOW` is a model that procmem knows, in this process."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(ARCHITECTURES, SHALLOW, vit_shallow_patch16_224.__name__)
        yield
