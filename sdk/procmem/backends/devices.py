"""The one table of devices: what each is, how to see whether it is there, when "auto" takes it.

Read by `opening.py`, the command line, `procmem doctor` and the documentation. A new engine is a
row here and a module beside it. Looks for packages, drivers and providers; never opens a model.

The rule of "auto" is fixed by the model's precision and by what is installed, never by a race: two
engines round differently, and the bits of an embedding must not depend on chance.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from procmem.errors import MissingExtraError, unknown_choice

Device: TypeAlias = Literal["auto", "cpu", "cuda", "tensorrt", "openvino", "coreml", "qnn"]
"""Where a model runs; "auto" follows the rule of `devices_for`."""

Arithmetic: TypeAlias = Literal["float32", "float16", "bfloat16", "int8", "int8-dynamic"]
"""A model's precision; "int8-dynamic" finds the ranges of each input while it runs."""

DEVICE_VARIABLE = "PROCMEM_DEVICE"
"""Environment variable that decides for "auto"; an explicit device is never overridden."""


# Signs of an NVIDIA driver: on machines, in containers that were given a GPU, and on Jetson boards.
_NVIDIA_SIGNS = ("/proc/driver/nvidia/version", "/dev/nvidiactl", "/etc/nv_tegra_release")


def _nvidia() -> bool:
    return shutil.which("nvidia-smi") is not None or any(Path(p).exists() for p in _NVIDIA_SIGNS)


def _x86_64() -> bool:
    return platform.machine().lower() in ("x86_64", "amd64")


def _apple() -> bool:
    return sys.platform == "darwin"


def _qualcomm() -> bool:
    arm = platform.machine().lower() in ("arm64", "aarch64")
    return arm and (sys.platform == "win32" or Path("/dev/fastrpc-cdsp").exists())


def _any() -> bool:
    return True


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """One device.

    Attributes:
        device: its name, as people write it.
        description: what runs there, one line for people.
        module: of this package that opens models on it.
        packages: modules that must be installed, the first the engine itself.
        provider: ONNX Runtime's name for it; None for an engine of its own.
        remedy: what to do where it is missing.
        automatic: arithmetic of the models for which "auto" takes it.
        fits: whether this machine could have it, by a look that costs nothing.
        is_plugin: whether the last of `packages` brings the provider, not ONNX Runtime itself.
    """

    device: Device
    description: str
    module: str
    packages: tuple[str, ...]
    provider: str | None
    remedy: str
    automatic: frozenset[Arithmetic]
    fits: Callable[[], bool]
    is_plugin: bool = False


_ORT = "procmem.backends.onnxruntime"
_ALL: frozenset[Arithmetic] = frozenset(("float32", "float16", "bfloat16", "int8", "int8-dynamic"))

TABLE: tuple[DeviceRow, ...] = (
    DeviceRow(
        device="tensorrt",
        description="TensorRT on an NVIDIA GPU, through ONNX Runtime, or an engine file by itself",
        module=_ORT,
        packages=("onnxruntime", "tensorrt"),
        provider="TensorrtExecutionProvider",
        remedy="pip uninstall onnxruntime && pip install 'procmem[tensorrt]' on a machine with an "
        "NVIDIA GPU",
        # Not float32: ONNX Runtime cannot keep TensorRT from rounding its products to TF32.
        automatic=frozenset(("float16", "bfloat16", "int8")),
        fits=_nvidia,
    ),
    DeviceRow(
        device="cuda",
        description="ONNX Runtime on an NVIDIA GPU",
        module=_ORT,
        packages=("onnxruntime",),
        provider="CUDAExecutionProvider",
        remedy="pip uninstall onnxruntime && pip install 'procmem[gpu]' on a machine with an "
        "NVIDIA GPU",
        # Not int8-dynamic: CUDA has no DynamicQuantizeLinear, the graph would go to and fro.
        automatic=frozenset(("float32", "float16", "bfloat16", "int8")),
        fits=_nvidia,
    ),
    DeviceRow(
        device="coreml",
        description="Core ML on an Apple device, through ONNX Runtime",
        module=_ORT,
        packages=("onnxruntime",),
        provider="CoreMLExecutionProvider",
        remedy="pip install 'procmem[cpu]' on macOS, whose ONNX Runtime has it built in",
        # Its neural engine computes in float16 whatever a model says.
        automatic=frozenset(("float16",)),
        fits=_apple,
    ),
    DeviceRow(
        device="qnn",
        description="Qualcomm's neural processor, through ONNX Runtime",
        module=_ORT,
        packages=("onnxruntime", "onnxruntime_qnn"),
        provider="QNNExecutionProvider",
        remedy="pip install 'procmem[qnn]' on a device with a Snapdragon processor",
        automatic=frozenset(("int8",)),
        fits=_qualcomm,
        is_plugin=True,
    ),
    DeviceRow(
        device="openvino",
        description="OpenVINO on the processor",
        module="procmem.backends.openvino",
        packages=("openvino",),
        provider=None,
        remedy="pip install 'procmem[openvino]'",
        # Measured (docs/devices.md): int8 0.2 to 0.7 of ONNX Runtime's time, float32 0.85 of it,
        # which is not worth other last bits for whoever installs a package.
        automatic=frozenset(("int8",)),
        fits=_x86_64,
    ),
    DeviceRow(
        device="cpu",
        description="ONNX Runtime on the processor",
        module=_ORT,
        packages=("onnxruntime",),
        provider="CPUExecutionProvider",
        remedy="pip install 'procmem[cpu]'",
        automatic=_ALL,
        fits=_any,
    ),
)
"""In the order in which "auto" looks."""

DEVICES: tuple[Device, ...] = ("auto", *(row.device for row in reversed(TABLE)))


def row_of(device: Device) -> DeviceRow:
    """The table's row of a device other than "auto"."""
    return next(row for row in TABLE if row.device == device)


def devices_for(arithmetic: Arithmetic) -> tuple[DeviceRow, ...]:
    """The rule of "auto": where models of this arithmetic run, best first, the processor last.

    The first that is installed and works is taken. Where this machine cannot have a device, its row
    is left out.
    """
    return tuple(row for row in TABLE if arithmetic in row.automatic and row.fits())


def missing(row: DeviceRow) -> str | None:
    """What a device lacks on this machine, as part of a sentence; None if nothing is seen to lack.

    A device that lacks nothing may still fail, for example for want of a driver; opening tells.
    """
    for package in row.packages:
        if not _is_installed(package):
            return f"the package {package} is not installed"
    if row.provider is None or row.is_plugin:
        return None
    # Here, so that looking at the table imports no engine.
    from procmem.backends.onnxruntime import import_onnxruntime

    try:
        providers = import_onnxruntime().get_available_providers()
    except MissingExtraError as error:
        return str(error.__cause__ or error)
    if row.provider not in providers:
        return f"the installed onnxruntime only has {', '.join(providers)}"
    return None


def resolve_device(device: str) -> Device:
    """The wanted device, after the environment has had its say about "auto".

    Raises:
        InputError: the argument or the environment variable names no device; the message offers
            the nearest.
    """
    wanted = _known_device(device, "device")
    if wanted == "auto" and os.environ.get(DEVICE_VARIABLE):
        return _known_device(os.environ[DEVICE_VARIABLE], f"environment variable {DEVICE_VARIABLE}")
    return wanted


def _known_device(value: str, origin: str) -> Device:
    for device in DEVICES:
        if value == device:
            return device
    raise unknown_choice(origin, value, DEVICES)


def _is_installed(package: str) -> bool:
    if package in sys.modules:
        return sys.modules[package] is not None
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False
