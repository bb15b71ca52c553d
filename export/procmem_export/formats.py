"""The one table of formats: what `--format` accepts, how exact each is, what each can be asked.

`cli.py`, `export.py`, `benchmark.py` and the documentation read it. A person's wishes
(`ExportOptions`) become a `Plan` here, in which nothing is left open, before any work is done.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from procmem.errors import InputError, unknown_choice
from procmem.manifest import Kind, Manifest
from procmem.preprocess import check_image_size

Precision: TypeAlias = Literal["float32", "float16", "bfloat16", "int8"]
"""Of the products inside a model. What is not a product (normalizations, residual sums, the
readout) stays in float32 in all of them."""

MINIMUM_COSINE: dict[Precision, float] = {
    "float32": 0.9999,
    "float16": 0.999,
    "bfloat16": 0.99,
    "int8": 0.99,
}
"""Least cosine allowed between the original's output and the file's, for the class token of every
probe and for the patch tokens on average."""

MINIMUM_AGREEMENT = 0.99
"""Least share of images that a k-NN classifier labels alike with the original and with the file."""

DEFAULT_PROBES = 32
DEFAULT_PROGRAMS = 64


@dataclass(frozen=True, slots=True)
class Format:
    """One kind of model file.

    Attributes:
        kind: of the manifest.
        suffix: of the file's name.
        precisions: that it can have, the default first.
        any_side: whether one file may take every side; else it is made for one.
        batch: images per run unless asked otherwise, None for any number.
        description: one line for people.
    """

    kind: Kind
    suffix: str
    precisions: tuple[Precision, ...]
    any_side: bool
    batch: int | None
    description: str


FORMATS: dict[str, Format] = {
    "onnx": Format(
        "onnx",
        ".onnx",
        ("float32", "float16"),
        any_side=True,
        batch=None,
        description="one self-contained file for every engine, any side and batch",
    ),
    "onnx-int8": Format(
        "onnx",
        ".onnx",
        ("int8",),
        any_side=False,
        batch=1,
        description="8-bit products, calibrated on procedural images: the fastest on processors",
    ),
    "tensorrt": Format(
        "tensorrt",
        ".engine",
        ("float16", "bfloat16", "float32"),
        any_side=False,
        batch=1,
        description="built for the GPU of the machine that exports",
    ),
}


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What a person may ask of an export; what is None is the format's own.

    Attributes:
        format: key of `FORMATS`.
        precision: of the products; one of the format's.
        image_size: S, the only side that the file takes, pixels; None for every side where the
            format can, else for the model's own.
        batch: images per run, "any" for any number.
        pixels: whether the graph takes uint8 pixels of any size and prepares them itself.
        dynamic: int8 only: find each product's range while it runs instead of calibrating.
        workspace_gib: TensorRT only, see `tensorrt_format.engine_options`.
        optimization_level: TensorRT only, likewise.
        timing_cache: TensorRT only, likewise.
    """

    format: str = "onnx"
    precision: str | None = None
    image_size: int | None = None
    batch: int | Literal["any"] | None = None
    pixels: bool = False
    dynamic: bool = False
    workspace_gib: float = 4.0
    optimization_level: int = 3
    timing_cache: Path | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be made: an `ExportOptions` checked against the model, with nothing left open.

    Attributes:
        format: see `ExportOptions`.
        kind: of the manifest.
        precision: of the products.
        side: S, the only side, pixels; None for every side.
        own_side: the side that is taken unless another is asked for, pixels; S if there is one.
        batch: images per run, None for any number.
        pixels: see `ExportOptions`.
        dynamic: see `ExportOptions`.
    """

    format: str
    kind: Kind
    precision: Precision
    side: int | None
    own_side: int
    batch: int | None
    pixels: bool
    dynamic: bool

    @property
    def minimum_cosine(self) -> float:
        """See `MINIMUM_COSINE`."""
        return MINIMUM_COSINE[self.precision]


def plan(options: ExportOptions, manifest: Manifest) -> Plan:
    """Checks what was asked against the format and the model.

    Args:
        options: what was asked.
        manifest: of the checkpoint: its patch size and own side.

    Raises:
        InputError: an unknown format or precision, or a wish that the format cannot fulfill.
    """
    wanted = find_format(options.format)
    name = options.format
    precision = wanted.precisions[0] if options.precision is None else options.precision
    if precision not in wanted.precisions:
        raise unknown_choice(f"precision of {name}", precision, wanted.precisions)
    own = manifest.preprocessing.crop
    side = options.image_size
    if side is not None:
        side = check_image_size(side, manifest.patch_size)
    elif options.pixels or not wanted.any_side:
        side = own
    if options.pixels and wanted.kind == "tensorrt":
        raise InputError(
            "a TensorRT engine takes prepared views, not pixels; leave --pixels out and prepare "
            "images with procmem.preprocess, or take --format onnx"
        )
    _check_only_tensorrt(options, wanted)
    batch = _batch(options.batch, wanted)
    if wanted.kind == "tensorrt" and batch not in (None, 1):
        raise InputError(
            f"batch is {batch}, and a TensorRT engine is checked and run with one image too; take "
            "--batch any, or 1"
        )
    if options.dynamic and precision != "int8":
        raise InputError(f"--dynamic belongs to --format onnx-int8, the format is {name}")
    return Plan(
        format=name,
        kind=wanted.kind,
        precision=precision,
        side=side,
        own_side=side or own,
        batch=batch,
        pixels=options.pixels,
        dynamic=options.dynamic,
    )


def _check_only_tensorrt(options: ExportOptions, wanted: Format) -> None:
    own = ExportOptions()
    for name in ("workspace_gib", "optimization_level", "timing_cache"):
        if wanted.kind != "tensorrt" and getattr(options, name) != getattr(own, name):
            option = "workspace" if name == "workspace_gib" else name.replace("_", "-")
            raise InputError(
                f"--{option} belongs to --format tensorrt, the format is {options.format}"
            )


def find_format(name: str) -> Format:
    """The format of this name.

    Raises:
        InputError: unknown name; the message offers the nearest.
    """
    if name not in FORMATS:
        raise unknown_choice("format", name, FORMATS)
    return FORMATS[name]


def default_output(checkpoint: Path, options: ExportOptions) -> Path:
    """Where an export goes if nothing else is said: beside the checkpoint, named by what it is.

    Never the checkpoint's own name: a model file's manifest would take the place of its manifest.

    Raises:
        InputError: unknown format, or the checkpoint is a folder.
    """
    if checkpoint.is_dir():
        raise InputError(f"{checkpoint} is a folder; give the checkpoint's file")
    wanted = find_format(options.format)
    parts = [checkpoint.stem]
    if wanted.kind == "tensorrt":
        parts.append("tensorrt")
    parts.append(options.precision or wanted.precisions[0])
    if options.dynamic:
        parts.append("dynamic")
    if options.image_size is not None:
        parts.append(str(options.image_size))
    if options.batch is not None:
        parts.append(f"batch-{options.batch}")
    if options.pixels:
        parts.append("pixels")
    return checkpoint.with_name("-".join(parts) + wanted.suffix)


def _batch(asked: object, wanted: Format) -> int | None:
    if asked is None:
        return wanted.batch
    if asked == "any":
        return None
    if isinstance(asked, bool) or not isinstance(asked, int) or asked < 1:
        raise InputError(f"batch is {asked!r}, wanted a whole number of at least 1, or 'any'")
    return asked
