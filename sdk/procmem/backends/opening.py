"""Opens a model where the rule of `devices.py` says, and tells what runs where and why not better.

Called by `embedder.py` with verified bytes. It promises that no engine sees a file before
`onnx_file.py` has; that an explicit device is used or is an error, never replaced; that "auto"
follows the table in its order, never a race; and that a device which does not answer as the
processor does is not used. Never opens a file.
"""

from __future__ import annotations

import importlib
import logging
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from procmem.backends import Session
from procmem.backends.contract import Arrays, probe
from procmem.backends.devices import Arithmetic, Device, DeviceRow, devices_for, missing, row_of
from procmem.backends.onnx_file import check_file
from procmem.backends.processor import usable_threads
from procmem.errors import InputError, MissingExtraError, ModelError, ModelIntegrityError
from procmem.manifest import Manifest

_log = logging.getLogger(__name__)

# Least cosine between a device's answer to the probe and the processor's. Rounding alone: between
# ONNX Runtime and OpenVINO 1.0000 in float32 and 0.9996 or more in int8 (docs/devices.md). It tells
# an engine that rounds otherwise from one that computes something else: a naive float16 ViT in
# TensorRT is at 0.14.
_AGREEMENT: dict[Arithmetic, float] = {
    "float32": 0.9999,
    "float16": 0.999,
    "bfloat16": 0.99,
    "int8": 0.99,
    "int8-dynamic": 0.99,
}


@dataclass(frozen=True, slots=True)
class Opened:
    """An open model.

    Attributes:
        session: runs it.
        notice: what runs where, with what, and why not better; one line for people.
        held_back: whether something better is installed and could not be used.
    """

    session: Session
    notice: str
    held_back: bool


def open_model(
    data: bytes, manifest: Manifest, *, side: int, device: Device, threads: int | None
) -> Opened:
    """Opens a model file's bytes on a device and runs them once.

    Args:
        data: the file's bytes, verified against `manifest.sha256` by the caller.
        manifest: what the model says of itself, of the kind "onnx" or "tensorrt".
        side: S, side of every input, pixels: one that the model can run, see `Manifest.any_side`.
        device: where; "auto" for the rule of `devices.devices_for`.
        threads: processor threads for one image, at least 1; None for `usable_threads`.

    Raises:
        MissingExtraError: the device's engine is not installed.
        InputError: the device does not work here, or cannot run files of this kind.
        ModelIntegrityError: the file is not what its manifest states, or not allowed.
        ModelError: the engine failed on the synthetic input, or does not answer as the processor.
    """
    if manifest.kind == "tensorrt":
        return _open_engine(data, manifest, side=side, device=device, threads=threads)
    arithmetic = arithmetic_of(data, manifest)
    rows = devices_for(arithmetic) if device == "auto" else (row_of(device),)
    passed_over: list[str] = []
    held_back = False
    for row in rows:
        lacks = missing(row)
        if lacks is not None and row is not rows[-1]:
            passed_over.append(f"{row.device} would be better, but {lacks}: {row.remedy}")
            continue
        if lacks is not None and device != "auto" and row.device != "cpu":
            raise MissingExtraError(
                f"device is {row.device!r}, but {lacks}; run {row.remedy}, or use device='cpu'"
            )
        try:
            session = _open_on(row, data, manifest, side=side, threads=threads)
            _check_agreement(session, row, data, manifest, arithmetic, side=side, threads=threads)
        except (InputError, ModelError) as error:
            if row is rows[-1]:
                raise
            held_back = True
            passed_over.append(f"{row.device} is installed but could not be used ({error})")
            continue
        notice = "; ".join([_what_runs(manifest, row, threads), *passed_over])
        return Opened(session, notice, held_back)
    raise AssertionError("every rule ends with the processor")


def arithmetic_of(data: bytes, manifest: Manifest) -> Arithmetic:
    """A model's precision, and for int8 whether its ranges are part of the file.

    Raises:
        ModelIntegrityError: the file holds what no model may, or its manifest knows no such
            precision.
    """
    contents = check_file(data, manifest.file)
    if manifest.precision not in _AGREEMENT:
        raise ModelIntegrityError(
            f"the manifest of {manifest.file} has precision {manifest.precision!r}, wanted "
            "'float32', 'float16', 'bfloat16' or 'int8': export the checkpoint again"
        )
    if manifest.precision == "int8" and contents.finds_ranges_while_running:
        return "int8-dynamic"
    return manifest.precision


def _open_engine(
    data: bytes, manifest: Manifest, *, side: int, device: Device, threads: int | None
) -> Opened:
    """Opens a TensorRT engine: built for one GPU, of no use anywhere else."""
    if device not in ("auto", "tensorrt"):
        raise InputError(
            f"device is {device!r}, but {manifest.file} is a TensorRT engine, which runs on "
            "'tensorrt' only; use device='tensorrt', or open the .onnx file it was built from"
        )
    # By its name, so that its engine is imported for such files only.
    module = importlib.import_module("procmem.backends.tensorrt")
    session: Session = module.open_session(
        data, manifest, side=side, device="tensorrt", threads=threads
    )
    built = ", ".join(f"{what} {value}" for what, value in sorted(manifest.hardware.items()))
    return Opened(session, f"{manifest.name} runs on tensorrt (an engine for {built})", False)


def _open_on(
    row: DeviceRow, data: bytes, manifest: Manifest, *, side: int, threads: int | None
) -> Session:
    module = importlib.import_module(row.module)
    session: Session = module.open_session(
        data, manifest, side=side, device=row.device, threads=threads
    )
    return session


def _check_agreement(
    session: Session,
    row: DeviceRow,
    data: bytes,
    manifest: Manifest,
    arithmetic: Arithmetic,
    *,
    side: int,
    threads: int | None,
) -> None:
    """Raises ModelError if a device answers the probe otherwise than the processor does."""
    cpu = row_of("cpu")
    if row is cpu or missing(cpu) is not None:
        return
    try:
        reference = _open_on(cpu, data, manifest, side=side, threads=threads)
    except ModelError as error:
        # Some precisions run on accelerators only; their parity was gated when they were exported.
        _log.info("%s cannot be compared with the processor: %s", manifest.file, error)
        return
    found = _agreement(session.run(probe(side)), reference.run(probe(side)))
    if not found >= _AGREEMENT[arithmetic]:  # written so that NaN fails, too
        raise ModelError(
            f"{manifest.file} answers otherwise on {row.device} than on the processor (cosine "
            f"{found:.4f}, wanted {_AGREEMENT[arithmetic]} or more); use device='cpu', or a file "
            "of another precision"
        )


def _agreement(one: Arrays, other: Arrays) -> float:
    """The lesser of two cosines: of the class tokens, and of the patch tokens on average."""
    return min(_mean_cosine(a, b) for a, b in zip(one, other, strict=True))


def _mean_cosine(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> float:
    a, b = (array.reshape(-1, array.shape[-1]).astype(np.float64) for array in (one, other))
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    # Two vectors of zeros are alike; one of zeros and another are not.
    equal = (a == b).all(axis=1)
    cosines = np.where(equal, 1.0, (a * b).sum(axis=1) / np.where(lengths > 0, lengths, 1.0))
    return float(cosines.mean())


def _what_runs(manifest: Manifest, row: DeviceRow, threads: int | None) -> str:
    version = importlib.import_module(row.module).version()
    used = threads or usable_threads()
    return (
        f"{manifest.name} ({manifest.precision}) runs on {row.device} ({version}, {used} "
        f"{'thread' if used == 1 else 'threads'})"
    )
