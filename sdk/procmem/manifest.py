"""What a checkpoint or model file says of itself, and the check that it tells the truth.

Every file that crosses from one room to the next (checkpoint, ONNX model) has a manifest beside
it, `<name>.json`. It pins the file's SHA-256 and its own, and carries the chain of origins from the
root seed to the file (law 3: no real pixel reaches the weights). Used by all rooms.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from procmem.errors import InputError, ModelIntegrityError, ModelNotFoundError

MANIFEST_VERSION = 4
"""Version 1 did not pin itself, version 2 knew one side only, version 3 one precision only; all are
still read."""

Kind: TypeAlias = Literal["checkpoint", "onnx", "tensorrt"]
"""What a file is: weights to train on or export, a graph for any engine, or a TensorRT engine."""

_OWN_SHA256 = "manifest_sha256"


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How an image becomes the model's input; applied by `preprocess.py` and recorded here.

    Attributes:
        resize: shorter edge after the bicubic resize, pixels.
        crop: side of the centered square that is kept, pixels.
        mean: subtracted from each of the RGB channels after scaling to [0, 1].
        std: divides each channel afterwards. Both are constants, not statistics of real photos.
    """

    resize: int = 256
    crop: int = 224
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the weights come from.

    Attributes:
        process: the procedural process of the training images, e.g. "shaders-kml-mixup".
        root_seed: every random choice of the run derives from it.
        program_set_sha256: hash over the canonical texts of all programs in the order of use.
        code_version: version of procmem that trained.
        steps: optimizer steps taken.
        images_seen: training images consumed (before cropping into views).
            Seed, programs, steps and images are those of the last run, see `runs`.
        trained_on_real_data: always False for weights that procmem ships.
        chain: SHA-256 of each ancestor file, oldest first, as ("checkpoint", "ab12...") pairs.
    """

    process: str
    root_seed: int
    program_set_sha256: str
    code_version: str
    steps: int
    images_seen: int
    trained_on_real_data: bool = False
    chain: tuple[tuple[str, str], ...] = ()

    @property
    def runs(self) -> int:
        """How many training runs made the weights, each from where the one before had ended."""
        return 1 + sum(kind == "start" for kind, _ in self.chain)

    @property
    def training(self) -> str:
        """What the weights were trained on, in words."""
        images = f"{self.images_seen:,} procedural images"
        return images if self.runs == 1 else f"{images} in the last of {self.runs} runs"


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything that must be known of a model or checkpoint file before it is loaded.

    Attributes:
        kind: see `Kind`.
        name: what people call the model, e.g. "vit-tiny".
        file: the file's name, in the same folder as the manifest.
        sha256: of the file's bytes, lowercase hexadecimal.
        architecture: timm's name of the architecture, e.g. "vit_tiny_patch16_224".
        patch_size: side of a patch, pixels.
        cls_dim: D, width of the class-token output.
        patch_dim: P, width of a patch token.
        preprocessing: see `Preprocessing`; its `crop` is the side that is taken unless another is
            asked for.
        origin: see `Origin`.
        parity: figures measured when the file was made from its ancestor.
        config: the full training configuration, for the record.
        any_side: whether the file takes square inputs of every side that is a multiple of
            `patch_size`; else `preprocessing.crop` is the only one.
        precision: of the products inside the model: "float32", "float16", "bfloat16" or "int8".
        input: "views" for float32 (N, 3, S, S) as `preprocess.to_tensor` makes them, "pixels" for
            uint8 (N, H, W, 3) of any size, the preprocessing being part of the graph.
        batch: images per run, None for any number.
        calibration: how the ranges of an int8 model were found; empty for others.
        hardware: what a TensorRT engine was built for: its GPU, driver and TensorRT; else empty.
        manifest_version: of the layout that was read; what is written has the newest.
    """

    kind: Kind
    name: str
    file: str
    sha256: str
    architecture: str
    patch_size: int
    cls_dim: int
    patch_dim: int
    preprocessing: Preprocessing
    origin: Origin
    parity: dict[str, float] = dataclasses.field(default_factory=dict)
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    any_side: bool = False
    precision: str = "float32"
    input: Literal["views", "pixels"] = "views"
    batch: int | None = None
    calibration: dict[str, Any] = dataclasses.field(default_factory=dict)
    hardware: dict[str, str] = dataclasses.field(default_factory=dict)
    manifest_version: int = MANIFEST_VERSION


def manifest_path(file: Path) -> Path:
    """The manifest's path for a model or checkpoint file: `model.onnx` -> `model.json`."""
    return file.parent / f"{file.stem}.json"  # with_suffix raises of "/" and "."


def sha256_of_bytes(data: bytes) -> str:
    """SHA-256 of `data` in lowercase hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def write_bytes_atomically(path: Path, data: bytes) -> None:
    """Writes a file so that a crash leaves the old content or the new, never a part.

    Args:
        path: the file; its folder must exist.
        data: the whole content.

    Raises:
        OSError: the folder cannot be written; nothing was changed.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes renames and new files in `folder` durable. Does nothing where the OS cannot."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_manifest(manifest: Manifest, folder: Path) -> Path:
    """Writes the manifest beside its file and returns its path.

    Raises:
        OSError: the folder cannot be written.
    """
    path = manifest_path(folder / manifest.file)
    fields = {**dataclasses.asdict(manifest), "manifest_version": MANIFEST_VERSION}
    fields[_OWN_SHA256] = _digest(fields)
    text = json.dumps(fields, indent=2, sort_keys=True) + "\n"
    write_bytes_atomically(path, text.encode())
    return path


def read_manifest(file: Path) -> Manifest:
    """Reads the manifest that stands beside a model or checkpoint file.

    Args:
        file: the model or checkpoint file (not the manifest).

    Raises:
        ModelNotFoundError: the file or its manifest does not exist.
        ModelIntegrityError: the manifest is not one, was changed, is of a newer layout, or names
            another file.
    """
    path = manifest_path(file)
    for wanted in (file, path):
        if not wanted.is_file():
            what = "is a folder" if wanted.is_dir() else "does not exist"
            raise ModelNotFoundError(
                f"{wanted} {what}; a model is two files side by side, {file.name or 'NAME.onnx'} "
                f"and {path.name if file.stem else 'NAME.json'}, as procmem-export writes them"
            )
    try:
        fields = json.loads(path.read_bytes())
        version = fields["manifest_version"]
        if version > MANIFEST_VERSION:
            raise ModelIntegrityError(
                f"{path} has manifest version {version}, this procmem reads up to "
                f"{MANIFEST_VERSION}; upgrade procmem"
            )
        own = fields.pop(_OWN_SHA256, None)
        if (version != 1 or own is not None) and own != _digest(fields):
            raise ModelIntegrityError(
                f"{path} was damaged or edited after it was written (its {_OWN_SHA256} does not "
                "fit); restore it from where the model came from, or export the checkpoint again"
            )
        preprocessing = fields["preprocessing"]
        origin = fields["origin"]
        origin["chain"] = tuple((role, digest) for role, digest in origin["chain"])
        preprocessing["mean"] = tuple(preprocessing["mean"])
        preprocessing["std"] = tuple(preprocessing["std"])
        fields["preprocessing"] = Preprocessing(**preprocessing)
        fields["origin"] = Origin(**origin)
        manifest = Manifest(**fields)
    except ModelIntegrityError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelIntegrityError(
            f"{path} is not a procmem manifest ({error}); restore it from where the model came "
            "from, or export the checkpoint again"
        ) from error
    if manifest.file != file.name:
        raise ModelIntegrityError(
            f"{path} describes {manifest.file!r}, not {file.name!r}; keep the two files' names"
        )
    return manifest


def read_verified(file: Path) -> tuple[Manifest, bytes]:
    """Reads a model or checkpoint file with its manifest and checks the pinned SHA-256.

    The bytes that were hashed are the bytes returned, so that nothing can change in between.

    Raises:
        ModelNotFoundError: the file or its manifest does not exist.
        ModelIntegrityError: the manifest is invalid, or the hash differs.
    """
    manifest = read_manifest(file)
    data = file.read_bytes()
    digest = sha256_of_bytes(data)
    if digest != manifest.sha256:
        raise ModelIntegrityError(
            f"{file} has SHA-256 {digest[:16]}..., its manifest says {manifest.sha256!s:.16}...; "
            "the file is damaged or was replaced: restore it or export the checkpoint again"
        )
    return manifest, data


def _digest(fields: dict[str, Any]) -> str:
    """SHA-256 over what a manifest says, however its JSON is laid out."""
    said = json.loads(json.dumps(fields))  # so that keys are texts and tuples are lists
    return sha256_of_bytes(json.dumps(said, sort_keys=True, separators=(",", ":")).encode())


def check_kind(manifest: Manifest, kind: Kind) -> None:
    """Raises InputError unless the manifest is of the wanted kind."""
    if manifest.kind != kind:
        raise InputError(f"{manifest.file} is a {manifest.kind}, wanted a {kind}")
