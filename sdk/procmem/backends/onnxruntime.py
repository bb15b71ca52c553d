"""Runs an ONNX model with ONNX Runtime: verified bytes in, arrays out.

Used by `embedder.py`; the only file that imports onnxruntime, and only when a model is opened.
It promises that what runs is exactly the bytes whose hash was checked (a graph that points to
other files is refused), that the graph has the inputs and outputs its manifest states at the side
asked for, and that class tokens are unit vectors. Never opens a file, never sends anything
anywhere, never writes to stdout or stderr.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from procmem.backends import Device
from procmem.errors import InputError, MissingExtraError, ModelError, ModelIntegrityError
from procmem.manifest import Manifest

_log = logging.getLogger(__name__)

INPUT = "images"
CLS = "cls"
PATCHES = "patches"

# Names of the free dimensions of a model for every side: how many images, and their side. Once it
# is told them, the engine sees a graph of fixed shapes, and folds and fuses it as such.
BATCH = "N"
SIDE = "S"

# Where tensors can hide in a model: message -> field number -> message, from onnx.proto.
_NESTED = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14  # fields of a tensor whose values live in another file

# Float32 rounding of a normalization over thousands of dimensions stays below 1e-5.
_UNIT_TOLERANCE = 1e-3


class OnnxSession:
    """An ONNX model that answers one image per call; see `backends.Session`.

    Safe to call from several threads at once.

    Attributes:
        device: where it runs, "cpu" or "cuda".
    """

    def __init__(self, session: Any, manifest: Manifest, side: int) -> None:
        self.device = _device_of(session)
        self._session = session
        self._name = manifest.file
        grid = side // manifest.patch_size
        self._shapes = ((1, manifest.cls_dim), (1, grid, grid, manifest.patch_dim))

    def run(
        self, images: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Runs one preprocessed image.

        Args:
            images: (1, 3, S, S) float32.

        Returns:
            `cls` (1, D) float32 unit vectors and `patches` (1, h, w, P) float32.

        Raises:
            ModelIntegrityError: the outputs are not what the manifest states, or not finite.
            ModelError: the engine failed, for example for lack of memory.
        """
        try:
            cls, patches = self._session.run([CLS, PATCHES], {INPUT: images})
        except Exception as error:  # the engine's errors share no base class but Exception
            raise ModelError(
                f"{self._name} failed while it ran on {self.device} ({error}); "
                "free some memory, or open the model with device='cpu'"
            ) from error
        for output, array, shape in zip((CLS, PATCHES), (cls, patches), self._shapes, strict=True):
            if array.shape != shape or array.dtype != np.float32:
                raise ModelIntegrityError(
                    f"{self._name} gave {output} of shape {array.shape} and dtype {array.dtype}, "
                    f"its manifest says {shape} float32; export the checkpoint again"
                )
        length = float(np.linalg.norm(cls))
        if not abs(length - 1) <= _UNIT_TOLERANCE:  # written so that NaN fails, too
            raise ModelIntegrityError(
                f"{self._name} gave a class token of length {length:g}, wanted 1; "
                "export the checkpoint again"
            )
        if not np.isfinite(patches).all():
            raise ModelIntegrityError(
                f"{self._name} gave patches with NaN or infinite values; export the checkpoint "
                "again"
            )
        return cls, patches


def open_session(
    data: bytes, manifest: Manifest, *, side: int, device: Device, threads: int | None
) -> OnnxSession:
    """Loads a model, checks it against its manifest and runs it once on a synthetic input.

    Args:
        data: the ONNX file's bytes, verified against `manifest.sha256` by the caller.
        manifest: what the model says of itself.
        side: S, side of every input, pixels: one that the model can run, see `Manifest.any_side`.
        device: "cpu", "cuda", or "auto" for CUDA if it is usable.
        threads: processor threads for one image, at least 1; None for one per physical core.

    Raises:
        MissingExtraError: onnxruntime is not installed, or `device` is "cuda" and the installed
            one cannot use CUDA.
        InputError: `device` is "cuda" and no CUDA device works.
        ModelIntegrityError: the bytes are no ONNX graph, point to other files, or differ from the
            manifest.
        ModelError: the engine failed on the synthetic input.
    """
    onnxruntime = import_onnxruntime()
    _refuse_external_data(data, manifest.file)
    session = None
    options = _options(onnxruntime, threads)
    if manifest.any_side:
        options.add_free_dimension_override_by_name(BATCH, 1)
        options.add_free_dimension_override_by_name(SIDE, side)
    if device != "cpu" and _cuda_is_built_in(onnxruntime, device):
        session = _open_on_cuda(onnxruntime, data, options, device=device)
    if session is None:
        session = _open_on_cpu(onnxruntime, data, options, manifest.file)
    _check_graph(session, manifest, side)
    opened = OnnxSession(session, manifest, side)
    opened.run(_probe(side))
    return opened


def import_onnxruntime() -> Any:
    """Imports the engine with its telemetry switched off: nothing may leave the device.

    From version 1.29 on, ONNX Runtime's official builds send usage data to their maker by default
    and keep an identifier of the device in the user's cache folder. ORT_DISABLE_TELEMETRY=1, set
    before the engine starts, prevents both (its pull requests 27379 and 29843); the call that
    older versions and Windows have comes too late for the first event.

    Raises:
        MissingExtraError: onnxruntime is not installed.
    """
    started = "onnxruntime" in sys.modules
    if os.environ.get("ORT_DISABLE_TELEMETRY") != "1":
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"
        if started:
            _log.warning(
                "onnxruntime was imported before procmem could switch its telemetry off; set "
                "ORT_DISABLE_TELEMETRY=1 in the environment of this program"
            )
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError(
            f"a model needs ONNX Runtime, which cannot be imported ({error}); run "
            "pip install 'procmem[cpu]', or pip install 'procmem[gpu]' on a machine with CUDA"
        ) from error
    if hasattr(onnxruntime, "disable_telemetry_events"):
        onnxruntime.disable_telemetry_events()
    return onnxruntime


def _cuda_is_built_in(onnxruntime: Any, device: Device) -> bool:
    providers = onnxruntime.get_available_providers()
    if "CUDAExecutionProvider" in providers:
        return True
    if device == "cuda":
        raise MissingExtraError(
            f"device is 'cuda', but the installed onnxruntime only has {', '.join(providers)}; run "
            "pip uninstall onnxruntime && pip install 'procmem[gpu]', or use device='cpu'"
        )
    return False


def _open_on_cuda(onnxruntime: Any, data: bytes, options: Any, *, device: Device) -> Any:
    """A session on CUDA; None if `device` is "auto" and there is no CUDA device that works."""
    # TF32 would round every product to 10 bits and break the parity with the processor.
    cuda = ("CUDAExecutionProvider", {"use_tf32": "0", "cudnn_conv_algo_search": "DEFAULT"})
    reason: Exception | None = None
    try:
        session = _open(onnxruntime, data, [cuda, "CPUExecutionProvider"], options)
        if _device_of(session) == "cuda":
            return session
    except Exception as error:  # the engine's errors share no base class but Exception
        reason = error
    if device == "cuda":
        raise InputError(
            f"device is 'cuda', but no CUDA device could be used "
            f"({reason or 'the CUDA libraries did not load'}); check nvidia-smi and the CUDA "
            "version that onnxruntime-gpu wants, or use device='cpu'"
        ) from reason
    return None


def _open_on_cpu(onnxruntime: Any, data: bytes, options: Any, name: str) -> Any:
    try:
        return _open(onnxruntime, data, ["CPUExecutionProvider"], options)
    except Exception as error:  # the engine's errors share no base class but Exception
        raise ModelIntegrityError(
            f"{name} is not an ONNX graph that ONNX Runtime {onnxruntime.__version__} can run "
            f"({error}); export the checkpoint again"
        ) from error


def _options(onnxruntime: Any, threads: int | None) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # fatal only; everything else comes back as an exception
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.inter_op_num_threads = 1
    options.intra_op_num_threads = threads or 0  # 0: one per physical core
    options.use_deterministic_compute = True
    return options


def _open(onnxruntime: Any, data: bytes, providers: list[Any], options: Any) -> Any:
    # Without this, the engine answers some failures with print() and a silent change of device.
    return onnxruntime.InferenceSession(
        data, sess_options=options, providers=providers, enable_fallback=0
    )


def _device_of(session: Any) -> str:
    return "cuda" if "CUDAExecutionProvider" in session.get_providers() else "cpu"


def _probe(side: int) -> npt.NDArray[np.float32]:
    """A fixed non-constant input (1, 3, S, S) in [-1, 1]; warms the engine up as well."""
    ramp = np.linspace(-1, 1, 3 * side * side, dtype=np.float32)
    return ramp.reshape(1, 3, side, side)


def _check_graph(session: Any, manifest: Manifest, side: int) -> None:
    grid = side // manifest.patch_size
    inputs: dict[str, tuple[int, ...]] = {INPUT: (1, 3, side, side)}
    outputs: dict[str, tuple[int, ...]] = {
        CLS: (1, manifest.cls_dim),
        PATCHES: (1, grid, grid, manifest.patch_dim),
    }
    _check_ports("input", session.get_inputs(), inputs, manifest.file)
    _check_ports("output", session.get_outputs(), outputs, manifest.file)


def _check_ports(
    role: str, ports: list[Any], wanted: dict[str, tuple[int, ...]], file: str
) -> None:
    found = {port.name: port for port in ports}
    if set(found) != set(wanted):
        raise ModelIntegrityError(
            f"{file} has the {role}s {sorted(found)}, wanted {sorted(wanted)}; "
            "export the checkpoint with procmem-export"
        )
    for name, shape in wanted.items():
        port = found[name]
        # A dimension that is a word or None is free; the run on the probe settles it.
        fits = len(port.shape) == len(shape) and all(
            not isinstance(have, int) or have == want
            for have, want in zip(port.shape, shape, strict=True)
        )
        if port.type != "tensor(float)" or not fits:
            raise ModelIntegrityError(
                f"{file} has the {role} {name} of {port.type} {port.shape}, its manifest says "
                f"tensor(float) {list(shape)}; export the checkpoint again"
            )


def _refuse_external_data(data: bytes, file: str) -> None:
    """Raises ModelIntegrityError if any tensor of the model lives outside `data`.

    Such a tensor names a path (or, in some versions of the engine, a memory address) that is read
    while the model loads, and that no hash covers.
    """
    try:
        external = _has_external_data(data)
    except (IndexError, KeyError) as error:
        raise ModelIntegrityError(
            f"{file} is not an ONNX file (its {len(data)} bytes do not parse); "
            "restore it, or export the checkpoint again"
        ) from error
    if external:
        raise ModelIntegrityError(
            f"{file} keeps tensors in other files, wanted one self-contained file; "
            "export the checkpoint with procmem-export"
        )


def _has_external_data(data: bytes) -> bool:
    """Walks the protobuf encoding; raises IndexError or KeyError where it is damaged."""
    pending = [("model", 0, len(data))]
    while pending:
        message, at, end = pending.pop()
        while at < end:
            key, at = _varint(data, at)
            field, wire_type = key >> 3, key & 7
            if wire_type == 0:
                value, at = _varint(data, at)
                if message == "tensor" and field == _DATA_LOCATION and value != 0:
                    return True
                continue
            if wire_type == 2:
                size, at = _varint(data, at)
            else:
                size = {1: 8, 5: 4}[wire_type]
            if at + size > end:
                raise IndexError(at)
            if message == "tensor" and field == _EXTERNAL_DATA:
                return True
            nested = _NESTED[message].get(field)
            if nested is not None and wire_type == 2:
                pending.append((nested, at, at + size))
            at += size
    return False


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise IndexError(at)
