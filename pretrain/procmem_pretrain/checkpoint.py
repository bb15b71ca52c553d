"""Training state and weights on disk: safetensors and a manifest, written atomically.

A run's folder holds `step-00001200.safetensors` with `step-00001200.json` beside it. The manifest
is written last and pins the file's hash, so that a crash at any point leaves the old state or the
new one. A *compact* checkpoint holds the teacher's weights (float16) and the readout only: what is
exported, kept and carried between machines.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from procmem.errors import CheckpointError, InputError, ModelError
from procmem.manifest import (
    Manifest,
    Origin,
    Preprocessing,
    check_kind,
    manifest_path,
    read_verified,
    sha256_of_bytes,
    write_bytes_atomically,
    write_manifest,
)
from procmem_pretrain.config import TrainConfig
from procmem_pretrain.vit import (
    ARCHITECTURES,
    Perception,
    count_registers,
    make_vit,
    statistics_blocks,
)


def save(
    path: Path,
    tensors: dict[str, Tensor],
    *,
    config: TrainConfig,
    step: int,
    program_set_sha256: str,
    cls_dim: int,
    patch_dim: int,
    chain: tuple[tuple[str, str], ...] = (),
) -> Manifest:
    """Writes tensors and their manifest.

    Args:
        path: `<name>.safetensors`; the manifest goes beside it.
        tensors: by name; any device, stored as they are.
        config: of the run, stored in the manifest.
        step: optimizer steps taken.
        program_set_sha256: of the pool.
        cls_dim: D of the model that export makes of it.
        patch_dim: P.
        chain: hashes of the files that these weights descend from.

    Raises:
        OSError: the folder cannot be written; older checkpoints are untouched.
    """
    data = safetensors.torch.save({k: v.detach().cpu().contiguous() for k, v in tensors.items()})
    manifest = Manifest(
        kind="checkpoint",
        name=config.model,
        file=path.name,
        sha256=sha256_of_bytes(data),
        architecture=ARCHITECTURES[config.model],
        patch_size=16,
        cls_dim=cls_dim,
        patch_dim=patch_dim,
        preprocessing=Preprocessing(),
        origin=Origin(
            process=config.images.process,
            root_seed=config.root_seed,
            program_set_sha256=program_set_sha256,
            code_version=_code_version(),
            steps=step,
            images_seen=step * config.batch,
            chain=chain,
        ),
        config=dataclasses.asdict(config),
    )
    write_bytes_atomically(path, data)
    write_manifest(manifest, path.parent)
    return manifest


def load(path: Path) -> tuple[Manifest, dict[str, Tensor]]:
    """Reads and verifies a checkpoint.

    Raises:
        CheckpointError: missing, damaged, or not a checkpoint; the message says which.
    """
    try:
        manifest, data = read_verified(path)
        check_kind(manifest, "checkpoint")
        return manifest, safetensors.torch.load(data)
    except (ModelError, InputError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"cannot load {path}: {error}") from error


def complete(folder: Path) -> list[Path]:
    """The checkpoints of a run's folder, newest first.

    A file without a manifest is the rest of an interrupted write and is passed over.
    """
    return [path for path in _weights(folder) if manifest_path(path).is_file()]


def without_manifest(folder: Path) -> list[Path]:
    """Weights of a run's folder that have no manifest beside them, latest first."""
    return [path for path in _weights(folder) if not manifest_path(path).is_file()]


def _weights(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.safetensors"), reverse=True)


def check_no_orphan(folder: Path) -> None:
    """Raises CheckpointError if weights of a later step than the first lie there alone.

    Alone are those of the first step if its writing was interrupted; later ones never are, unless
    somebody took their manifest.
    """
    for path in without_manifest(folder):
        if path.stem.removeprefix("step-").strip("0"):
            raise CheckpointError(
                f"{path} has no manifest beside it, {manifest_path(path).name}, without which the "
                "run cannot go on; bring that back, or name a new folder"
            )


def remove_older(folder: Path, newest: Path, before: Path | None) -> None:
    """Deletes all earlier checkpoints of a run but one, and those that a kill left half-written.

    Only for the process that has the folder to itself.

    Args:
        folder: of the run.
        newest: the checkpoint that was just written.
        before: the one that was written or read before it, which stays: what a run can go on from
            if the newest is damaged.
    """
    for rest in folder.glob(".step-*.tmp"):  # `write_bytes_atomically` calls them so
        rest.unlink(missing_ok=True)
    for path in folder.glob("step-*.safetensors"):
        if path.name < newest.name and path != before:
            # The manifest goes first: without it the weights do not count as a checkpoint.
            manifest_path(path).unlink(missing_ok=True)
            path.unlink(missing_ok=True)


def load_teacher(path: Path) -> tuple[Manifest, dict[str, Tensor], Any]:
    """A checkpoint's manifest and tensors, and its teacher's transformer, float32.

    Raises:
        CheckpointError: missing or damaged, without teacher weights, or of an architecture that
            this procmem does not know.
    """
    manifest, tensors = load(path)
    if manifest.name not in ARCHITECTURES:
        raise CheckpointError(
            f"{path} is of architecture {manifest.name!r}, known are {', '.join(ARCHITECTURES)}"
        )
    teacher = {
        name.removeprefix("teacher/"): tensor.float()
        for name, tensor in tensors.items()
        if name.startswith("teacher/")
    }
    vit: Any = make_vit(manifest.name, root_seed=0, registers=count_registers(teacher))
    try:
        vit.load_state_dict(teacher)
    except RuntimeError as error:
        raise CheckpointError(f"{path} does not fit {manifest.name}: {error}") from error
    return manifest, tensors, vit


def load_perception(path: Path) -> tuple[Manifest, Perception]:
    """The exportable model of a checkpoint, full or compact: teacher and readout, float32.

    Raises:
        CheckpointError: as `load_teacher`, or a readout of another form.
    """
    manifest, tensors, vit = load_teacher(path)
    weight, bias = tensors.get("readout/weight"), tensors.get("readout/bias")
    wanted = sum(statistics_blocks(int(vit.embed_dim)))
    if weight is not None and weight.shape[1] != wanted:
        raise CheckpointError(
            f"{path} has a readout of {weight.shape[1]} features, wanted {wanted}: it comes from "
            "an earlier procmem; start a run from it with --init-from"
        )
    return manifest, Perception(
        vit, None if weight is None else weight.float(), None if bias is None else bias.float()
    ).eval()


def compact_tensors(vit: Any, weight: Tensor | None, bias: Tensor | None) -> dict[str, Tensor]:
    """Teacher and readout weights in float16, the bias in float32, as `load_perception` wants."""
    tensors = {f"teacher/{k}": v.to(torch.float16) for k, v in vit.state_dict().items()}
    if weight is not None and bias is not None:
        tensors |= {"readout/weight": weight.to(torch.float16), "readout/bias": bias}
    return tensors


def _code_version() -> str:
    try:
        return importlib.metadata.version("procmem")
    except importlib.metadata.PackageNotFoundError:  # run from a source tree
        return "source"
