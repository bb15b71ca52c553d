"""A checkpoint of whatever origin -> a `Perception` and what its manifest shall say.

Takes a path, gives both to `export.py`. procmem's own checkpoints carry a manifest, which is
verified. Of others it is known only what they hold: the weights of a ViT as timm names them, or as
DINO, DINOv2 and their like saved them. Those are marked as trained on real data, and are never
bundled. Never runs code out of a checkpoint: pickles are read with torch's `weights_only`.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

import safetensors.torch
import timm
import torch
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor

from procmem.errors import CheckpointError, InputError, unknown_choice
from procmem.manifest import Manifest, Origin, Preprocessing, manifest_path, sha256_of_bytes
from procmem_pretrain.checkpoint import load_perception
from procmem_pretrain.vit import Perception

Normalization: TypeAlias = Literal["imagenet", "half"]
"""Mean and deviation of the pixels that a model was trained with."""

NORMALIZATIONS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}

# timm's name by (width, blocks), for checkpoints that name no architecture. The patch size and the
# grid are read off their tensors.
_SIZES = {
    (192, 12): "vit_tiny_patch16_224",
    (384, 12): "vit_small_patch16_224",
    (768, 12): "vit_base_patch16_224",
    (1024, 24): "vit_large_patch16_224",
}

# Keys under which training programs keep the weights of the model, the teacher's first.
_WRAPPERS = ("teacher", "ema", "model_ema", "state_dict", "model", "student")
_PREFIXES = ("module.", "_orig_mod.", "backbone.", "encoder.")

# What a checkpoint may hold beside a perception: classifiers and training heads.
_HEADS = ("head.", "head_dist.", "fc_norm.", "dino_head.", "ibot_head.", "attn_pool.", "mask_token")


def load_source(
    path: Path, *, architecture: str | None = None, normalization: str | None = None
) -> tuple[Manifest, Perception]:
    """Reads a checkpoint for export.

    Args:
        path: procmem's `.safetensors` with its manifest beside it; or any `.safetensors`, `.pth`,
            `.pt` or `.bin` with the state dict of a ViT, plain or wrapped as DINO's are.
        architecture: timm's name, for a checkpoint without a manifest; None to read it off the
            tensors, which works for plain ViTs.
        normalization: key of `NORMALIZATIONS`, for a checkpoint without a manifest; None for
            "imagenet", with which DINO and most others were trained.

    Returns:
        the manifest of the checkpoint, and the model in evaluation mode, float32, on the CPU.

    Raises:
        CheckpointError: missing, damaged, or not the weights of such a ViT.
        InputError: an architecture or normalization was given for a checkpoint that states its
            own, or is unknown.
    """
    if _is_ours(path):
        if architecture is not None or normalization is not None:
            raise InputError(
                f"{path} has a manifest, which states its architecture and normalization; leave "
                "--architecture and --normalization out"
            )
        return load_perception(path)
    if normalization is not None and normalization not in NORMALIZATIONS:
        raise unknown_choice("normalization", normalization, NORMALIZATIONS)
    data = _read(path)
    state = _unwrap(_parse(path, data))
    vit, name = _build(path, state, architecture)
    mean, std = NORMALIZATIONS[normalization or "imagenet"]
    patch = int(vit.patch_embed.patch_size[0])
    crop = 224 // patch * patch
    width = int(vit.embed_dim)
    return Manifest(
        kind="checkpoint",
        name=path.stem,
        file=path.name,
        sha256=sha256_of_bytes(data),
        architecture=name,
        patch_size=patch,
        cls_dim=width,
        patch_dim=width,
        preprocessing=Preprocessing(resize=crop * 8 // 7, crop=crop, mean=mean, std=std),
        origin=Origin(
            process="unknown",
            root_seed=0,
            program_set_sha256="",
            code_version="",
            steps=0,
            images_seen=0,
            trained_on_real_data=True,
        ),
    ), Perception(vit).eval()


def _is_ours(path: Path) -> bool:
    """Whether a checkpoint has a manifest; a missing file counts, for `load_perception`'s error."""
    return path.suffix == ".safetensors" and (manifest_path(path).exists() or not path.exists())


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"cannot load {path}: {error.strerror}; give the path of a checkpoint file"
        ) from error


def _parse(path: Path, data: bytes) -> Any:
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load(data)
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch's and safetensors' errors share no base class
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else repr(error)
        raise CheckpointError(
            f"cannot load {path}: it is no checkpoint of plain tensors ({reason}); save the "
            "model's state_dict with torch.save or safetensors"
        ) from error


def _unwrap(loaded: Any) -> dict[str, Tensor]:
    """The state dict inside of what was saved, its names without the wrappers' prefixes."""
    while isinstance(loaded, Mapping):
        inner = next(
            (loaded[key] for key in _WRAPPERS if isinstance(loaded.get(key), Mapping)), None
        )
        if inner is None:
            break
        loaded = inner
    if not isinstance(loaded, Mapping):
        return {}
    state = {str(k): v for k, v in loaded.items() if isinstance(v, Tensor)}
    while state:
        prefix = next((p for p in _PREFIXES if any(k.startswith(p) for k in state)), None)
        if prefix is None:
            break
        # What has not the prefix stands beside the model: a training head, a loss's state.
        state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    return state


def _build(path: Path, state: dict[str, Tensor], architecture: str | None) -> tuple[Any, str]:
    """A model of timm with these weights, and its name there."""
    weight, positions = state.get("patch_embed.proj.weight"), state.get("pos_embed")
    if weight is None or weight.ndim != 4 or weight.shape[2] != weight.shape[3]:
        raise CheckpointError(
            f"{path} holds no ViT as timm or DINO name its tensors (no square "
            f"patch_embed.proj.weight among {len(state)}); convert it to timm's names first"
        )
    name = architecture or _guess(path, state, int(weight.shape[0]))
    if not timm.is_model(name):
        raise InputError(
            f"architecture is {name!r}, wanted a name that timm {timm.__version__} knows, such as "
            "vit_small_patch16_224; timm.list_models('vit_*') lists them"
        )
    options: dict[str, Any] = {}
    if architecture is None:
        options["patch_size"] = int(weight.shape[2])
        if any(name.endswith("ls1.gamma") for name in state):
            options["init_values"] = 1e-5
    try:
        vit: Any = timm.create_model(
            name, pretrained=False, num_classes=0, dynamic_img_size=True, **options
        )
    except Exception as error:  # whatever an architecture's own constructor raises
        raise CheckpointError(
            f"timm cannot build {name} for {path} ({error}); name a plain ViT with a class token, "
            "such as vit_small_patch16_224"
        ) from error
    if not isinstance(vit, VisionTransformer):
        raise CheckpointError(
            f"{name} is a {type(vit).__name__}, wanted a plain ViT: one of timm's "
            "VisionTransformer with a class token, such as vit_small_patch16_224"
        )
    side = _side(vit, positions)
    if side is not None and side != vit.patch_embed.img_size[0]:
        # The table keeps its own grid: nothing is resampled before the first image is seen.
        vit = timm.create_model(
            name, pretrained=False, num_classes=0, dynamic_img_size=True, img_size=side, **options
        )
    _fill(path, name, vit, state)
    return vit.eval(), name


def _side(vit: Any, positions: Tensor | None) -> int | None:
    """Pixels along a side of the images for which a table of positions was learned."""
    if positions is None:
        return None
    count = positions.shape[1] - (0 if vit.no_embed_class else vit.num_prefix_tokens)
    grid = math.isqrt(max(count, 0))
    if grid < 1 or grid * grid != count:
        grid = math.isqrt(positions.shape[1])  # DINOv2 with registers: one entry for the class
    return grid * int(vit.patch_embed.patch_size[0])


def _fill(path: Path, name: str, vit: Any, state: dict[str, Tensor]) -> None:
    wanted = vit.state_dict()
    try:
        fitted = checkpoint_filter_fn({k: v.float() for k, v in state.items()}, vit)
    except Exception as error:  # it indexes what a foreign state dict may not have
        raise CheckpointError(f"{path} does not fit {name}: {error}") from error
    fitted = {k: v for k, v in fitted.items() if k in wanted or not k.startswith(_HEADS)}
    missing = sorted(wanted.keys() - fitted.keys())
    beyond = sorted(fitted.keys() - wanted.keys())
    other = [k for k in wanted.keys() & fitted.keys() if wanted[k].shape != fitted[k].shape]
    if missing or beyond or other:
        parts = (("missing", missing), ("not in it", beyond), ("of another shape", sorted(other)))
        said = "; ".join(
            f"{len(names)} {what}, such as {names[0]}" for what, names in parts if names
        )
        raise CheckpointError(
            f"{path} does not fit {name} ({said}); name the checkpoint's architecture with "
            "--architecture"
        )
    if not all(bool(torch.isfinite(tensor).all()) for tensor in fitted.values()):
        raise CheckpointError(f"{path} has weights that are NaN or infinite; export another")
    vit.load_state_dict(fitted)


def _guess(path: Path, state: dict[str, Tensor], width: int) -> str:
    blocks = {int(k.split(".")[1]) for k in state if k.startswith("blocks.") and k.count(".") > 1}
    name = _SIZES.get((width, len(blocks)))
    if name is None:
        raise CheckpointError(
            f"{path} is a ViT of width {width} with {len(blocks)} blocks, which procmem knows no "
            "name of; give timm's with --architecture"
        )
    return name
