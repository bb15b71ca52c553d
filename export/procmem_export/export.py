"""The conductor: checkpoint -> model file + manifest, or an error and no file."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import numpy as np
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
from procmem.preprocess import center_view
from procmem.types import Embedding
from procmem_export.formats import find_format
from procmem_export.onnx_format import to_onnx
from procmem_export.parity import ParityReport, compare
from procmem_pretrain.checkpoint import load_perception
from procmem_pretrain.probes import probe_images
from procmem_pretrain.vit import Perception

DEFAULT_PROBES = 32


def export(
    checkpoint: Path,
    output: Path,
    *,
    format: str = "onnx",
    probes: int = DEFAULT_PROBES,
    force: bool = False,
) -> tuple[Manifest, ParityReport]:
    """Turns a checkpoint into a model file, checks it against the original, writes both files.

    Args:
        checkpoint: `.safetensors` with its manifest, full or compact.
        output: the model file, its suffix that of the format; the manifest goes beside it.
        format: key of `formats.FORMATS`.
        probes: procedural images to compare on, 2 or more.
        force: replace an existing file.

    Returns:
        the manifest and the parity figures.

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
    side = source.preprocessing.crop
    data = to_onnx(model, side=side)
    manifest = dataclasses.replace(
        source,
        kind="onnx",
        file=output.name,
        sha256=sha256_of_bytes(data),
        origin=dataclasses.replace(
            source.origin, chain=(*source.origin.chain, ("checkpoint", source.sha256))
        ),
    )
    report = measure(model, data, manifest, probes=probes)
    if not report.passes(wanted.minimum_cosine):
        raise ParityError(
            f"{output.name} differs from {checkpoint.name}: class-token cosine "
            f"{report.cls_cosine_min:.6f}, patch-token cosine {report.patch_cosine_mean:.6f}, "
            f"wanted {wanted.minimum_cosine} or more; no file was written"
        )
    manifest = dataclasses.replace(manifest, parity=report.as_dict())
    try:
        # The old manifest goes first: new weights beside an old manifest would be refused, old
        # weights beside none are too, and neither is ever taken for the other.
        manifest_path(output).unlink(missing_ok=True)
        write_bytes_atomically(output, data)
        write_manifest(manifest, output.parent)
    except OSError as error:
        raise ExportError(f"cannot write {output}: {error}") from error
    return manifest, report


def measure(model: Perception, data: bytes, manifest: Manifest, *, probes: int) -> ParityReport:
    """Runs the original in torch and the copy through the SDK on the same probe images."""
    images = list(probe_images(probes))
    views = np.stack([center_view(image, manifest.preprocessing) for image in images])
    with torch.no_grad():
        cls, patches = model(torch.from_numpy(views))
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / manifest.file
        path.write_bytes(data)
        write_manifest(manifest, path.parent)
        with Embedder(path, device="cpu") as embedder:
            copy = embedder.embed(images)
    return compare(Embedding(cls.numpy(), patches.numpy()), copy)
