"""Runs a TensorRT engine: verified bytes in, arrays out.

Used by `embedder.py` for files that `procmem_export.tensorrt_format` built, and by that for the
facts of a machine. An engine is machine code for one kind of GPU and one version of TensorRT. So it
promises that no engine is looked at before its manifest fits this machine, that TensorRT may run no
code of an engine on the processor, and that outputs are checked as those of every other engine.
Memory of the GPU is held through NVIDIA's own `cuda.bindings`; TensorRT and these are imported when
an engine is opened. Never opens a model's file, never writes to stdout or stderr.
"""

from __future__ import annotations

import ctypes
import importlib
import math
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from procmem.backends.contract import (
    CLS,
    INPUT,
    PATCHES,
    Port,
    check_answer,
    check_ports,
    input_shapes,
    output_shapes,
    probe,
)
from procmem.errors import InputError, MissingExtraError, ModelError, ModelIntegrityError
from procmem.manifest import Manifest

DEVICE = "tensorrt"

INSTALL = "pip install 'procmem[tensorrt]' on a machine with an NVIDIA GPU (docs/gpu.md)"

# The facts of `describe_machine` that an engine depends on: its code is for one architecture, its
# kernels were chosen by timing them on one GPU, and its layout is that of one TensorRT.
MUST_AGREE = ("gpu", "compute_capability", "tensorrt")

# Where Linux tells the driver's version; elsewhere it is left out, and nothing depends on it.
_DRIVER_VERSION = Path("/sys/module/nvidia/version")


class TensorRTSession:
    """An engine that answers one image per call; see `backends.Session`.

    Calls from several threads are answered one after another: a context has one set of buffers.

    Attributes:
        device: "tensorrt".
    """

    def __init__(
        self, engine: Any, cuda: Any, manifest: Manifest, side: int, *, owners: tuple[Any, ...] = ()
    ) -> None:
        self.device = DEVICE
        self._name = manifest.file
        self._owners = (*owners, engine)  # must live as long as the context
        self._cuda = cuda
        self._lock = threading.Lock()
        self._input = input_shapes(side)[INPUT]
        self._shapes = output_shapes(manifest, side)
        self._context = engine.create_execution_context()
        if self._context is None:
            raise ModelError(
                f"{self._name} got no execution context; free some of the GPU's memory"
            )
        if not self._context.set_input_shape(INPUT, self._input):
            raise ModelIntegrityError(
                f"{self._name} does not take one image of {side} pixels; export it again with a "
                "batch that starts at 1"
            )
        self._stream = _checked(
            cuda, cuda.cudaStreamCreateWithFlags(cuda.cudaStreamNonBlocking), self._name
        )
        self._pointers: dict[str, int] = {}
        # Before the first allocation, so that what was taken is given back if a later one fails.
        weakref.finalize(self, _release, cuda, self._stream, self._pointers)
        for name, shape in {INPUT: self._input, **self._shapes}.items():
            pointer = int(_checked(cuda, cuda.cudaMalloc(4 * math.prod(shape)), self._name))
            self._pointers[name] = pointer
            if not self._context.set_tensor_address(name, pointer):
                raise ModelError(f"{self._name} does not take memory for {name}; export it again")

    def run(
        self, images: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Runs one preprocessed image.

        Args:
            images: (1, 3, S, S) float32.

        Returns:
            `cls` (1, D) float32 unit vectors and `patches` (1, h, w, P) float32.

        Raises:
            InputError: images of another shape or type.
            ModelIntegrityError: the outputs are not what the manifest states, or not finite.
            ModelError: the GPU failed, for example for lack of memory.
        """
        if images.shape != self._input or images.dtype != np.float32:
            # Bytes are copied by their number, so nothing else may pass.
            raise InputError(
                f"images have shape {images.shape} and dtype {images.dtype}, wanted "
                f"{self._input} float32"
            )
        images = np.ascontiguousarray(images)
        cls, patches = (np.empty(self._shapes[name], np.float32) for name in (CLS, PATCHES))
        with self._lock:
            self._copy(self._pointers[INPUT], images.ctypes.data, images.nbytes, "HostToDevice")
            if not self._context.execute_async_v3(int(self._stream)):
                raise ModelError(
                    f"{self._name} failed while it ran on TensorRT; free some of the GPU's memory, "
                    "or open the .onnx file it was built from"
                )
            for name, array in ((CLS, cls), (PATCHES, patches)):
                self._copy(array.ctypes.data, self._pointers[name], array.nbytes, "DeviceToHost")
            _checked(self._cuda, self._cuda.cudaStreamSynchronize(self._stream), self._name)
        check_answer((cls, patches), self._shapes, self._name)
        return cls, patches

    def _copy(self, target: int, source: int, size_bytes: int, way: str) -> None:
        kind = getattr(self._cuda.cudaMemcpyKind, f"cudaMemcpy{way}")
        answer = self._cuda.cudaMemcpyAsync(target, source, size_bytes, kind, self._stream)
        _checked(self._cuda, answer, self._name)


def open_session(
    data: bytes, manifest: Manifest, *, side: int, device: str, threads: int | None
) -> TensorRTSession:
    """Loads an engine on the first GPU, checks it, and runs it once on a synthetic input.

    CUDA_VISIBLE_DEVICES decides which GPU is the first.

    Args:
        data: the engine file's bytes, verified against `manifest.sha256` by the caller.
        manifest: what the engine says of itself; its `hardware` is compared with this machine
            before TensorRT sees a byte.
        side: S, side of every input, pixels: the one that the engine was built for.
        device: "tensorrt" or "auto".
        threads: processor threads; an engine needs none, so every value means the same.

    Raises:
        MissingExtraError: TensorRT or `cuda.bindings` is not installed.
        InputError: another device, or no NVIDIA GPU that CUDA can use.
        ModelIntegrityError: the bytes are no engine, or differ from the manifest.
        ModelError: the engine is for another GPU or TensorRT, or failed on the synthetic input.
    """
    del threads
    if device not in ("auto", DEVICE):
        raise InputError(
            f"device is {device!r}, but {manifest.file} is a TensorRT engine, which runs on "
            f"{DEVICE!r} only; use device={DEVICE!r}, or open the .onnx file it was built from"
        )
    tensorrt, cuda = import_tensorrt(), import_cuda()
    check_hardware(manifest, describe_machine(tensorrt, cuda))
    log = message_log(tensorrt)
    runtime = start_runtime(tensorrt, log)
    engine = runtime.deserialize_cuda_engine(data)
    if engine is None:
        raise ModelIntegrityError(
            f"{manifest.file} is no engine that TensorRT {tensorrt.__version__} can load "
            f"({log.text()}); export the checkpoint again on this machine"
        )
    check_engine(tensorrt, engine, manifest, side)
    opened = TensorRTSession(engine, cuda, manifest, side, owners=(log, runtime))
    opened.run(probe(side))
    return opened


def version() -> str:
    """The engine's name and version, for people.

    Raises:
        MissingExtraError: TensorRT is not installed.
    """
    return f"TensorRT {import_tensorrt().__version__}"


def import_tensorrt() -> Any:
    """Imports TensorRT.

    Raises:
        MissingExtraError: it is not installed, or one of its libraries does not load.
    """
    return _import("tensorrt", "TensorRT")


def import_cuda() -> Any:
    """Imports NVIDIA's bindings of the CUDA runtime; they bring the runtime with them.

    Raises:
        MissingExtraError: they are not installed.
    """
    return _import("cuda.bindings.runtime", "NVIDIA's cuda.bindings")


def _import(module: str, name: str) -> Any:
    try:
        return importlib.import_module(module)
    # A library that is missing is an OSError on some platforms.
    except (ImportError, OSError) as error:
        raise MissingExtraError(
            f"a TensorRT engine needs {name}, which cannot be imported ({error}); run {INSTALL}"
        ) from error


def describe_machine(tensorrt: Any, cuda: Any) -> dict[str, str]:
    """What an engine built here is for, as `Manifest.hardware` keeps it.

    Args:
        tensorrt: the module, see `import_tensorrt`.
        cuda: the module, see `import_cuda`.

    Returns:
        `gpu`, its name; `compute_capability`, such as "9.0"; `cuda`, the newest that the driver
        can run; `driver`, its version, where it can be told; `tensorrt`, its version.

    Raises:
        InputError: CUDA finds no GPU, or its driver does not work.
    """
    status, count = cuda.cudaGetDeviceCount()
    if status != cuda.cudaError_t.cudaSuccess or not count:
        reason = _name_of(cuda, status) if status != cuda.cudaError_t.cudaSuccess else "0 GPUs"
        raise InputError(
            f"TensorRT needs an NVIDIA GPU, and CUDA finds none here ({reason}); check nvidia-smi "
            "and CUDA_VISIBLE_DEVICES, or run this on a machine with a GPU (docs/gpu.md)"
        )
    properties = _checked(cuda, cuda.cudaGetDeviceProperties(0), "the GPU")
    newest = _checked(cuda, cuda.cudaDriverGetVersion(), "the GPU's driver")
    facts = {
        "gpu": properties.name.split(b"\0")[0].decode(),
        "compute_capability": f"{properties.major}.{properties.minor}",
        "cuda": f"{newest // 1000}.{newest % 1000 // 10}",
        "tensorrt": str(tensorrt.__version__),
    }
    if _DRIVER_VERSION.is_file():
        facts["driver"] = _DRIVER_VERSION.read_text().strip()
    return facts


def check_hardware(manifest: Manifest, here: dict[str, str]) -> None:
    """Raises unless an engine was built for this machine.

    Args:
        manifest: the engine's.
        here: see `describe_machine`.

    Raises:
        ModelIntegrityError: the manifest does not say what the engine is for.
        ModelError: it is for another GPU or another TensorRT; the message has both.
    """
    lacking = [fact for fact in MUST_AGREE if fact not in manifest.hardware]
    if lacking:
        raise ModelIntegrityError(
            f"the manifest of {manifest.file} does not say its {', '.join(lacking)}, which every "
            "TensorRT engine is bound to; export the checkpoint again"
        )
    if all(manifest.hardware[fact] == here[fact] for fact in MUST_AGREE):
        return
    built, found = (
        f"{facts['gpu']} (compute capability {facts['compute_capability']}) with TensorRT "
        f"{facts['tensorrt']}"
        for facts in (manifest.hardware, here)
    )
    raise ModelError(
        f"{manifest.file} was built for {built}, but this machine has {found}; export the "
        "checkpoint again on this machine (procmem-export CHECKPOINT --format tensorrt --out "
        f"{manifest.file} --force), or open the .onnx file"
    )


def start_runtime(tensorrt: Any, log: Any) -> Any:
    """A `tensorrt.Runtime` that works, and that runs no code of an engine on the processor.

    Args:
        tensorrt: the module.
        log: see `message_log`; must have no errors yet.

    Raises:
        ModelError: TensorRT does not start here, in its own words.
    """
    runtime = create(tensorrt.Runtime, log)
    if runtime is None:
        raise ModelError(
            f"TensorRT {tensorrt.__version__} does not start ({log.text()}); check with nvidia-smi "
            "that there is a GPU, and that its driver can run the CUDA version of this TensorRT"
        )
    runtime.engine_host_code_allowed = False  # the default, and what the law on models wants
    return runtime


def create(make: Callable[[Any], Any], log: Any) -> Any:
    """`tensorrt.Runtime` or `tensorrt.Builder`, or None where TensorRT does not start.

    Args:
        make: the class.
        log: see `message_log`; must have no errors yet, and has the reason for None.
    """
    try:
        made = make(log)
    except TypeError:  # how most versions say that they got no object
        return None
    if not log.has_errors():
        return made
    # TensorRT 11.4 gives an object of nothing, and ends the process when it is used or dropped.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(made))
    return None


def check_engine(tensorrt: Any, engine: Any, manifest: Manifest, side: int) -> None:
    """Raises ModelIntegrityError unless an engine has the tensors that its manifest implies."""
    ports: dict[str, list[Port]] = {"input": [], "output": []}
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        is_input = engine.get_tensor_mode(name) == tensorrt.TensorIOMode.INPUT
        ports["input" if is_input else "output"].append(
            port(tensorrt, name, engine.get_tensor_dtype(name), engine.get_tensor_shape(name))
        )
    check_ports("input", ports["input"], input_shapes(side), manifest.file)
    check_ports("output", ports["output"], output_shapes(manifest, side), manifest.file)


def port(tensorrt: Any, name: str, dtype: Any, shape: Any) -> Port:
    """A tensor of an engine or a network in the words of the contract; -1 is a free dimension."""
    return Port(
        name=name,
        kind=f"tensor({str(dtype).rpartition('.')[2].lower()})",
        is_float32=dtype == tensorrt.DataType.FLOAT,
        shape=tuple(None if number < 0 else int(number) for number in shape),
    )


def message_log(tensorrt: Any) -> Any:
    """A logger for TensorRT that keeps its errors for an exception's text and prints nothing.

    Returns:
        a `tensorrt.ILogger` with `text()`, all errors so far, `has_errors()` and `clear()`.
    """

    class MessageLog(tensorrt.ILogger):  # type: ignore[misc]  # the module has no types
        """Keeps errors; forgets warnings and less."""

        def __init__(self) -> None:
            tensorrt.ILogger.__init__(self)
            self._errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            """Called by TensorRT, from any of its threads."""
            if severity in (tensorrt.ILogger.INTERNAL_ERROR, tensorrt.ILogger.ERROR):
                self._errors.append(message.strip())

        def has_errors(self) -> bool:
            """Whether there was an error since the last `clear()`."""
            return bool(self._errors)

        def text(self) -> str:
            """The errors so far, oldest first, in one line."""
            return "; ".join(" ".join(error.split()) for error in self._errors) or "it says nothing"

        def clear(self) -> None:
            """Forgets the errors so far."""
            self._errors.clear()

    return MessageLog()


def _checked(cuda: Any, answer: tuple[Any, ...], name: str) -> Any:
    """The value of a call of the CUDA runtime; raises ModelError if it failed."""
    status, *values = answer
    if status != cuda.cudaError_t.cudaSuccess:
        raise ModelError(
            f"{name} failed on the GPU ({_name_of(cuda, status)}); free some of its memory, or "
            "open the .onnx file on the processor"
        )
    return values[0] if values else None


def _name_of(cuda: Any, status: Any) -> str:
    _, text = cuda.cudaGetErrorString(status)
    return text.decode() if isinstance(text, bytes) else str(text)


def _release(cuda: Any, stream: Any, pointers: dict[str, int]) -> None:
    """Gives back what a session held; errors cannot help anybody any more."""
    cuda.cudaStreamSynchronize(stream)
    for pointer in pointers.values():
        cuda.cudaFree(pointer)
    cuda.cudaStreamDestroy(stream)
