"""Runs an ONNX model with ONNX Runtime: verified bytes in, arrays out.

Used by `opening.py`; the only file that imports onnxruntime, and only when a model is opened. It
promises that the graph has the inputs and outputs its manifest states at the side asked for, that
it runs on the device asked for or not at all, and that class tokens are unit vectors. Never opens a
file, never sends anything anywhere, never writes to stdout or stderr.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from procmem.backends import engine_cache
from procmem.backends.contract import BATCH as BATCH
from procmem.backends.contract import (
    CLS,
    PATCHES,
    Port,
    check_answer,
    check_ports,
    input_shapes,
    output_shapes,
    probe,
)
from procmem.backends.contract import INPUT as INPUT
from procmem.backends.contract import SIDE as SIDE
from procmem.backends.devices import TABLE, Device, row_of
from procmem.backends.processor import usable_threads
from procmem.backends.providers import Provider, providers_for
from procmem.errors import InputError, MissingExtraError, ModelError, ModelIntegrityError
from procmem.manifest import Manifest

_log = logging.getLogger(__name__)


class OnnxSession:
    """An ONNX model that answers one image per call; see `backends.Session`.

    Safe to call from several threads at once.

    Attributes:
        device: where it runs, one of the table's devices with a provider.
    """

    def __init__(self, session: Any, manifest: Manifest, side: int) -> None:
        self.device = _device_of(session)
        self._session = session
        self._name = manifest.file
        self._shapes = output_shapes(manifest, side)

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
        check_answer((cls, patches), self._shapes, self._name)
        return cls, patches


def open_session(
    data: bytes, manifest: Manifest, *, side: int, device: Device, threads: int | None
) -> OnnxSession:
    """Loads a model, checks it against its manifest and runs it once on a synthetic input.

    Args:
        data: the ONNX file's bytes, checked by `onnx_file.check_file`.
        manifest: what the model says of itself.
        side: S, side of every input, pixels: one that the model can run, see `Manifest.any_side`.
        device: one of the table's devices with a provider.
        threads: processor threads for one image, at least 1; None for `usable_threads`.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        InputError: the device does not work here.
        ModelIntegrityError: the bytes are no ONNX graph, or differ from the manifest.
        ModelError: the engine failed on the synthetic input, or the folder for engines is unsafe.
    """
    onnxruntime = import_onnxruntime()
    options = _options(onnxruntime, threads)
    if manifest.any_side:
        options.add_free_dimension_override_by_name(BATCH, 1)
        options.add_free_dimension_override_by_name(SIDE, side)
    if device == "cpu":
        session = _open_on_cpu(onnxruntime, data, options, manifest.file)
    else:
        session = _open_on(onnxruntime, data, options, manifest, side=side, device=device)
    check_ports("input", _ports(session.get_inputs()), input_shapes(side), manifest.file)
    outputs = output_shapes(manifest, side)
    check_ports("output", _ports(session.get_outputs()), outputs, manifest.file)
    opened = OnnxSession(session, manifest, side)
    opened.run(probe(side))
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


def version() -> str:
    """The engine and its version, for people."""
    return f"ONNX Runtime {import_onnxruntime().__version__}"


def _open_on(
    onnxruntime: Any, data: bytes, options: Any, manifest: Manifest, *, side: int, device: Device
) -> Any:
    """A session on a device other than the processor.

    Raises:
        InputError: the engine failed there, or would have run elsewhere in silence.
    """
    engines = None
    if device == "tensorrt":
        engines = _engines_folder(onnxruntime, manifest, side)
    if device in ("cuda", "tensorrt") and hasattr(onnxruntime, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
            onnxruntime.preload_dlls()  # finds the CUDA libraries of pip's packages
    providers = providers_for(device, manifest, side=side, engines=engines)
    reason: Exception | None = None
    try:
        row = row_of(device)
        if row.is_plugin:
            session = _open_on_plugin(onnxruntime, data, providers[0], options, row.packages[-1])
        else:
            session = _open(onnxruntime, data, providers, options)
        if _device_of(session) == device:
            return session
    except Exception as error:  # the engine's errors share no base class but Exception
        reason = error
    raise InputError(
        f"device is {device!r}, but it does not work here "
        f"({reason or 'its libraries did not load'}); check its driver and the versions that "
        f"onnxruntime {onnxruntime.__version__} wants, or use device='cpu'"
    ) from reason


def _engines_folder(onnxruntime: Any, manifest: Manifest, side: int) -> Path | None:
    """The private folder for this model's engines; None if this machine's GPU cannot be named."""
    gpus = engine_cache.nvidia_gpus()
    if gpus is None:
        _log.warning("nvidia-smi names no GPU: TensorRT's engine is built anew at each opening")
        return None
    # Its libraries lie in its Python package, and are found once that is imported.
    tensorrt = importlib.import_module("tensorrt")
    return engine_cache.engine_folder(
        engine_cache.EngineKey(
            model_sha256=manifest.sha256,
            side=side,
            gpu=gpus[0],
            driver=gpus[1],
            tensorrt=str(tensorrt.__version__),
            runtime=str(onnxruntime.__version__),
        )
    )


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
    options.intra_op_num_threads = threads or usable_threads()
    options.use_deterministic_compute = True
    # Threads that wait for the next image spin by default, while this one decodes it: 77 ms of
    # processor time for an image instead of 48, at the same latency (ViT-Ti, 2 cores).
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def _open(onnxruntime: Any, data: bytes, providers: list[Any], options: Any) -> Any:
    # Without this, the engine answers some failures with print() and a silent change of device.
    return onnxruntime.InferenceSession(
        data, sess_options=options, providers=providers, enable_fallback=0
    )


def _open_on_plugin(
    onnxruntime: Any, data: bytes, provider: Provider, options: Any, package: str
) -> Any:
    """A session on a provider that a package of its own brings (ONNX Runtime 1.23 or newer)."""
    name, settings = provider
    if name not in onnxruntime.get_available_providers():  # a second time is an error
        library = importlib.import_module(package).get_library_path()
        onnxruntime.register_execution_provider_library(name, library)
    devices = [found for found in onnxruntime.get_ep_devices() if found.ep_name == name]
    options.add_provider_for_devices(devices[:1], settings)
    return onnxruntime.InferenceSession(data, sess_options=options, enable_fallback=0)


def _device_of(session: Any) -> Device:
    """The first device of the table whose provider the session has: those behind only help."""
    providers = session.get_providers()
    return next((row.device for row in TABLE if row.provider in providers), "cpu")


def _ports(ports: list[Any]) -> list[Port]:
    return [
        Port(port.name, port.type, port.type == "tensor(float)", tuple(port.shape))
        for port in ports
    ]
