"""The conductor: checkpoint -> model file, manifest and parity report, or an error and no file."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from procmem.backends.tensorrt import import_tensorrt
from procmem.errors import ExportError, InputError, ModelError, ParityError
from procmem.manifest import (
    Manifest,
    manifest_path,
    sha256_of_bytes,
    write_bytes_atomically,
    write_manifest,
)
from procmem.preprocess import at_side, to_tensor
from procmem_export.formats import (
    DEFAULT_PROBES,
    DEFAULT_PROGRAMS,
    ExportOptions,
    Plan,
    find_format,
    plan,
)
from procmem_export.gate import GateReport, Progress, measure
from procmem_export.onnx_format import to_bytes, to_onnx, with_pixels
from procmem_export.quantize import CALIBRATION_IMAGES, CALIBRATION_SEED, quantize
from procmem_export.report import as_document, as_json, as_markdown, report_paths
from procmem_export.sources import load_source
from procmem_export.tensorrt_format import build_engine, engine_options
from procmem_pretrain.probes import probe_images
from procmem_pretrain.vit import Perception


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export wrote.

    Attributes:
        file: the model file; its manifest and reports stand beside it.
        manifest: of the file.
        report: of the gate.
    """

    file: Path
    manifest: Manifest
    report: GateReport


def export(
    checkpoint: Path,
    output: Path,
    options: ExportOptions | None = None,
    *,
    architecture: str | None = None,
    normalization: str | None = None,
    probes: int = DEFAULT_PROBES,
    programs: int = DEFAULT_PROGRAMS,
    accept_parity: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> Exported:
    """Turns a checkpoint into a model file, holds it against the original, writes it.

    Args:
        checkpoint: see `sources.load_source`.
        output: the model file, its suffix that of the format. Its manifest and the gate's reports
            go beside it.
        options: what to make; None for the defaults.
        architecture: see `sources.load_source`.
        normalization: see `sources.load_source`.
        probes: procedural images to compare on at each side, 2 or more.
        programs: of the procedural retrieval task, 8 images each; 0 for none.
        accept_parity: write a file that is below the gate, too, and say so in its report.
        force: replace existing files.
        progress: of the comparison, called with (images compared, images in all).

    Raises:
        CheckpointError: the checkpoint is missing, damaged, or not of a ViT that can be exported.
        InputError: an option that is unknown or does not fit the format, a wrong suffix, too few
            probes.
        ExportError: the output exists or cannot be written, or an exporter failed; for TensorRT,
            there is no GPU here.
        MissingExtraError: TensorRT is wanted and not installed.
        ParityError: the file does not answer as the checkpoint does; nothing was written.
        RenderError: no graphics context for the procedural images.
    """
    options = ExportOptions() if options is None else options
    wanted = find_format(options.format)
    if output.suffix != wanted.suffix:
        raise InputError(
            f"output is {output}, format {options.format!r} wants the suffix {wanted.suffix}"
        )
    if probes < 2 or programs == 1 or programs < 0:
        raise InputError(
            f"probes is {probes} and programs is {programs}, wanted 2 probes or more, and 0 "
            "programs or 2 or more"
        )
    _check_writable(output, force=force)
    source, model = load_source(checkpoint, architecture=architecture, normalization=normalization)
    made = plan(options, source)
    if made.kind == "tensorrt":
        import_tensorrt()  # before a minute is spent on what it would build from
    built = build(model, source, made, options)
    data = built.data
    chain = (*source.origin.chain, ("checkpoint", source.sha256), *built.ancestors)
    manifest = dataclasses.replace(
        source,
        kind=made.kind,
        file=output.name,
        sha256=sha256_of_bytes(data),
        any_side=made.side is None,
        preprocessing=at_side(source.preprocessing, made.own_side),
        origin=dataclasses.replace(source.origin, chain=chain),
        precision=made.precision,
        input="pixels" if made.pixels else "views",
        batch=made.batch,
        calibration=built.calibration,
        hardware=built.hardware,
        parity={},
    )
    try:
        report = measure(
            model, data, manifest, made, probes=probes, programs=programs, progress=progress
        )
    except ModelError as error:
        raise ExportError(f"the file that was made does not run: {error}") from error
    if report.failures and not accept_parity:
        raise ParityError(
            f"{output.name} differs from {checkpoint.name}: {'; '.join(report.failures)}; no file "
            "was written (--accept-parity writes it all the same)"
        )
    manifest = dataclasses.replace(manifest, parity=report.figures())
    _write(output, data, manifest, report)
    return Exported(output, manifest, report)


@dataclass(frozen=True, slots=True)
class Built:
    """A model file in memory.

    Attributes:
        data: its bytes.
        calibration: see `Manifest.calibration`.
        hardware: see `Manifest.hardware`.
        ancestors: what stands between the checkpoint and the file, for `Origin.chain`.
    """

    data: bytes
    calibration: dict[str, Any] = dataclasses.field(default_factory=dict)
    hardware: dict[str, str] = dataclasses.field(default_factory=dict)
    ancestors: tuple[tuple[str, str], ...] = ()


def build(model: Perception, source: Manifest, made: Plan, options: ExportOptions) -> Built:
    """Makes a model file in memory; nothing has judged it yet.

    Args:
        model: the original, in evaluation mode, float32.
        source: the manifest of its checkpoint.
        made: what to make.
        options: TensorRT's own, the rest being in `made`.

    Raises:
        ExportError, MissingExtraError, RenderError: see `export`.
    """
    preprocessing = at_side(source.preprocessing, made.own_side)
    calibration: dict[str, Any] = {}
    if made.kind == "tensorrt":
        # The whole any-side graph first: the engine descends from a file that can be made again.
        graph = to_bytes(to_onnx(model, precision=made.precision), {})
        engine = build_engine(
            graph,
            side=made.own_side,
            batch=(1, 1, 32) if made.batch is None else (made.batch,) * 3,
            options=engine_options(
                workspace_gib=options.workspace_gib,
                optimization_level=options.optimization_level,
                timing_cache=options.timing_cache,
            ),
        )
        ancestors = (("onnx", sha256_of_bytes(graph)),)
        return Built(engine.data, hardware=engine.hardware, ancestors=ancestors)
    if made.precision == "int8":
        views = None if made.dynamic else _calibration_views(made, source)
        proto = quantize(to_onnx(model, side=made.own_side, batch=made.batch), views)
        calibration = _calibration(made)
    else:
        proto = to_onnx(model, precision=made.precision, side=made.side, batch=made.batch)
    if made.pixels:
        proto = with_pixels(proto, preprocessing)
    return Built(to_bytes(proto, _metadata(source, made)), calibration)


def _calibration_views(made: Plan, source: Manifest) -> npt.NDArray[np.float32]:
    images = probe_images(CALIBRATION_IMAGES, seed=CALIBRATION_SEED)
    return to_tensor(images, at_side(source.preprocessing, made.own_side))


def _calibration(made: Plan) -> dict[str, Any]:
    if made.dynamic:
        return {"method": "while it runs"}
    return {
        "method": "least and greatest value",
        "images": CALIBRATION_IMAGES,
        "process": "shaders and shaders-kml-mixup",
        "seed": CALIBRATION_SEED,
    }


def _metadata(source: Manifest, made: Plan) -> dict[str, str]:
    """What the file says of itself to programs that read no manifest."""
    preprocessing = at_side(source.preprocessing, made.own_side)
    real = source.origin.trained_on_real_data
    return {
        "procmem.name": source.name,
        "procmem.architecture": source.architecture,
        "procmem.checkpoint_sha256": source.sha256,
        "procmem.precision": made.precision,
        "procmem.input": "uint8 RGB (N, H, W, 3)" if made.pixels else "float32 RGB (N, 3, S, S)",
        "procmem.resize": str(preprocessing.resize),
        "procmem.crop": str(preprocessing.crop),
        "procmem.mean": " ".join(map(str, preprocessing.mean)),
        "procmem.std": " ".join(map(str, preprocessing.std)),
        "procmem.trained_on_real_data": "yes" if real else "no",
    }


def _check_writable(output: Path, *, force: bool) -> None:
    """Raises ExportError if the file could not be written, before minutes are spent on it."""
    if output.exists() and not force:
        raise ExportError(f"{output} exists; give --force to replace it")
    beside = manifest_path(output)
    if beside.exists() and (owner := _owner(beside)) != output.name:
        raise ExportError(
            f"{beside} is the manifest of {owner}, and {output.name} would need that name for its "
            "own; choose another name with --out"
        )
    if output.is_dir():
        raise ExportError(f"{output} is a folder; give the path of a file")
    if not output.parent.is_dir():
        raise ExportError(f"{output.parent} is no folder; create it first")
    trial = output.with_name(f".{output.name}.trial")
    try:
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise ExportError(
            f"{output.parent} cannot be written ({error.strerror}); choose another folder with "
            "--out"
        ) from error


def _owner(manifest: Path) -> str:
    """The file that a manifest stands for, as far as it can be read."""
    try:
        return str(json.loads(manifest.read_bytes())["file"])
    except (OSError, ValueError, KeyError, TypeError):
        return "another file"


def _write(output: Path, data: bytes, manifest: Manifest, report: GateReport) -> None:
    document = as_document(manifest, report, accepted=bool(report.failures))
    for_people, for_programs = report_paths(output)
    try:
        # The old manifest goes first: new weights beside an old manifest would be refused, old
        # weights beside none are too, and neither is ever taken for the other.
        manifest_path(output).unlink(missing_ok=True)
        write_bytes_atomically(output, data)
        write_bytes_atomically(for_people, as_markdown(document).encode())
        write_bytes_atomically(for_programs, as_json(document).encode())
        write_manifest(manifest, output.parent)
    except OSError as error:
        raise ExportError(f"cannot write {output}: {error}") from error
