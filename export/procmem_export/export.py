"""The conductor: checkpoint -> model file + manifest, or an error and no file."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from procmem import Embedder
from procmem.errors import ExportError, InputError, ParityError
from procmem.manifest import (
    Manifest,
    manifest_path,
    sha256_of_bytes,
    write_bytes_atomically,
    write_manifest,
)
from procmem.preprocess import MAX_SIDE, MIN_PATCHES, to_tensor
from procmem.types import Embedding
from procmem_export.formats import find_format
from procmem_export.onnx_format import to_onnx
from procmem_export.parity import ParityReport, compare
from procmem_pretrain.checkpoint import load_perception
from procmem_pretrain.probes import probe_images
from procmem_pretrain.vit import Perception

DEFAULT_PROBES = 32


def gate_sides(manifest: Manifest) -> tuple[int, int, int]:
    """The sides at which parity is measured, pixels: the model's own, about half of it, and twice.

    A smaller grid reads the position table through a wider filter, a larger one between its points.
    """
    own, patch = manifest.preprocessing.crop, manifest.patch_size
    half = max(own // 2 // patch, MIN_PATCHES) * patch
    return own, half, min(2 * own, MAX_SIDE // patch * patch)


def export(
    checkpoint: Path,
    output: Path,
    *,
    format: str = "onnx",
    probes: int = DEFAULT_PROBES,
    force: bool = False,
) -> tuple[Manifest, dict[int, ParityReport]]:
    """Turns a checkpoint into a model file, checks it against the original, writes both files.

    Args:
        checkpoint: `.safetensors` with its manifest, full or compact.
        output: the model file, its suffix that of the format; the manifest goes beside it.
        format: key of `formats.FORMATS`.
        probes: procedural images to compare on, 2 or more.
        force: replace an existing file.

    Returns:
        the manifest, and the parity figures for each of `gate_sides`, the model's own side first.

    Raises:
        CheckpointError: the checkpoint is missing, damaged or of another architecture.
        InputError: unknown format, wrong suffix, too few probes.
        ExportError: the output exists or cannot be written, or the exporter failed.
        ParityError: the file does not answer as the checkpoint does; nothing was written.
        RenderError: no graphics context for the probes.
    """
    wanted = find_format(format)
    if output.suffix != wanted.suffix:
        raise InputError(f"output is {output}, format {format!r} wants the suffix {wanted.suffix}")
    if probes < 2:
        raise InputError(f"probes is {probes}, wanted 2 or more")
    if output.exists() and not force:
        raise ExportError(f"{output} exists; give --force to replace it")
    if not output.parent.is_dir():
        raise ExportError(f"{output.parent} is no folder; create it first")
    source, model = load_perception(checkpoint)
    data = to_onnx(model)
    manifest = dataclasses.replace(
        source,
        kind="onnx",
        file=output.name,
        sha256=sha256_of_bytes(data),
        any_side=True,
        origin=dataclasses.replace(
            source.origin, chain=(*source.origin.chain, ("checkpoint", source.sha256))
        ),
    )
    reports = measure(model, data, manifest, probes=probes)
    for side, report in reports.items():
        if not report.passes(wanted.minimum_cosine):
            raise ParityError(
                f"{output.name} differs from {checkpoint.name} at {side} pixels: class-token "
                f"cosine {report.cls_cosine_min:.6f}, patch-token cosine "
                f"{report.patch_cosine_mean:.6f}, wanted {wanted.minimum_cosine} or more; no file "
                "was written"
            )
    manifest = dataclasses.replace(manifest, parity=figures(reports))
    try:
        # The old manifest goes first: new weights beside an old manifest would be refused, old
        # weights beside none are too, and neither is ever taken for the other.
        manifest_path(output).unlink(missing_ok=True)
        write_bytes_atomically(output, data)
        write_manifest(manifest, output.parent)
    except OSError as error:
        raise ExportError(f"cannot write {output}: {error}") from error
    return manifest, reports


def measure(
    model: Perception, data: bytes, manifest: Manifest, *, probes: int
) -> dict[int, ParityReport]:
    """Runs the original in torch and the copy through the SDK on the same images at each side."""
    images = list(probe_images(probes))
    reports = {}
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / manifest.file
        path.write_bytes(data)
        write_manifest(manifest, path.parent)
        for side in gate_sides(manifest):
            with Embedder(path, image_size=side, device="cpu") as embedder:
                copy = embedder.embed(images)
                views = to_tensor(images, embedder.preprocessing)
            reports[side] = compare(_answers(model, views), copy)
    return reports


def figures(reports: dict[int, ParityReport]) -> dict[str, float]:
    """The figures by name for the manifest: those of the first side plain, others with theirs."""
    (_, own), *others = reports.items()
    named = own.as_dict()
    for side, report in others:
        named |= {f"{name}_at_{side}": value for name, value in report.as_dict().items()}
    return named


@torch.no_grad()
def _answers(model: Perception, views: npt.NDArray[np.float32]) -> Embedding:
    # One at a time: attention over the patches of many large views would need gigabytes.
    parts = [model(torch.from_numpy(view[None])) for view in views]
    cls, patches = (torch.cat(tensors).numpy() for tensors in zip(*parts, strict=True))
    return Embedding(cls, patches)
