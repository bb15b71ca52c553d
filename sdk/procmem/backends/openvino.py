"""Runs an ONNX model with OpenVINO on the processor: verified bytes in, arrays out.

Used by `opening.py`; the only file that imports openvino, and only when a model is opened. It
promises the arithmetic that the model states (no silent bfloat16), the same bits from run to run,
and a graph held to its manifest like any engine's. Never opens a file, never sends anything
anywhere. Its GPU and NPU devices are not used: none was at hand to hold them to that promise.
"""

from __future__ import annotations

import importlib
import logging
import sys
import threading
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
from procmem.backends.processor import usable_threads
from procmem.errors import MissingExtraError, ModelError, ModelIntegrityError
from procmem.manifest import Manifest

_log = logging.getLogger(__name__)

_TELEMETRY = "openvino_telemetry"

# Before, its operation after Pillow resizes position tables wrongly; see `_smooth_resizes`.
_OLDEST = (2025, 4)


class OpenvinoSession:
    """A compiled model that answers one image per call; see `backends.Session`.

    Safe to call from several threads at once; they take turns.

    Attributes:
        device: "openvino".
    """

    device = "openvino"

    def __init__(self, compiled: Any, manifest: Manifest, side: int) -> None:
        self._request = compiled.create_infer_request()
        self._turn = threading.Lock()  # a request can hold one image at a time
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
            with self._turn:
                found = self._request.infer({INPUT: images})
                # Copies: the request's own memory is overwritten by the next image.
                cls, patches = np.array(found[CLS]), np.array(found[PATCHES])
        except Exception as error:  # the engine's errors share no base class but Exception
            raise ModelError(
                f"{self._name} failed while it ran on openvino ({error}); free some memory, or "
                "open the model with device='cpu'"
            ) from error
        check_answer((cls, patches), self._shapes, self._name)
        return cls, patches


def open_session(
    data: bytes, manifest: Manifest, *, side: int, device: str, threads: int | None
) -> OpenvinoSession:
    """Compiles a model, checks it against its manifest and runs it once on a synthetic input.

    Args:
        data: the ONNX file's bytes, checked by `onnx_file.check_file`.
        manifest: what the model says of itself.
        side: S, side of every input, pixels: one that the model can run, see `Manifest.any_side`.
        device: "openvino"; there is no other here.
        threads: processor threads for one image, at least 1; None for `usable_threads`.

    Raises:
        MissingExtraError: openvino is not installed.
        ModelIntegrityError: the bytes are no ONNX graph, or differ from the manifest.
        ModelError: the engine failed on the synthetic input.
    """
    openvino = import_openvino()
    try:
        core = openvino.Core()
        model = core.read_model(data, b"")  # from memory: no path to look for other files in
        _check_graph(openvino, model, manifest, side)
        model.reshape({INPUT: [1, 3, side, side]})
        _smooth_resizes(model)
        compiled = core.compile_model(model, "CPU", _options(threads))
    except ModelIntegrityError:
        raise
    except Exception as error:  # the engine's errors share no base class but Exception
        raise ModelIntegrityError(
            f"{manifest.file} is not an ONNX graph that {version()} can run on {device} "
            f"({_reason(error)}); use device='cpu', or export the checkpoint again"
        ) from error
    opened = OpenvinoSession(compiled, manifest, side)
    opened.run(probe(side))
    return opened


def import_openvino() -> Any:
    """Imports the engine without its telemetry: nothing may leave the device.

    `import openvino` sends an event to its maker through Google Analytics and keeps an identifier
    of the user in `~/intel`, by the package openvino-telemetry, unless somebody opted out. The
    engine works without that package and has a stand-in that sends nothing for where it is missing;
    while the engine is imported, it is missing.

    Raises:
        MissingExtraError: openvino is not installed, or too old.
    """
    if "openvino" in sys.modules and _TELEMETRY in sys.modules:
        _log.warning(
            "openvino was imported before procmem could switch its telemetry off; run "
            "opt_in_out --opt_out, or open the model before anything else imports openvino"
        )
    absent = object()
    before = sys.modules.get(_TELEMETRY, absent)
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # the documented way to hide a module
    try:
        import openvino
    except ImportError as error:
        raise MissingExtraError(
            f"device 'openvino' needs OpenVINO, which cannot be imported ({error}); run "
            "pip install 'procmem[openvino]', or use device='cpu'"
        ) from error
    finally:
        if before is absent:
            sys.modules.pop(_TELEMETRY, None)
        else:
            sys.modules[_TELEMETRY] = before  # type: ignore[assignment]  # as it was
    found = str(openvino.__version__)
    if tuple(int(part) for part in found.split(".")[:2]) < _OLDEST:
        raise MissingExtraError(
            f"device 'openvino' needs OpenVINO {_OLDEST[0]}.{_OLDEST[1]} or newer, found {found}; "
            "run pip install 'procmem[openvino]', or use device='cpu'"
        )
    return openvino


def version() -> str:
    """The engine and its version, for people."""
    return f"OpenVINO {str(import_openvino().__version__).split('-')[0]}"


def _options(threads: int | None) -> dict[str, Any]:
    return {
        # Left alone, the engine takes bfloat16 wherever the processor has it.
        "INFERENCE_PRECISION_HINT": "f32",
        "EXECUTION_MODE_HINT": "ACCURACY",
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads or usable_threads(),
    }


def _smooth_resizes(model: Any) -> None:
    """Gives bicubic resizes the antialiasing that the graph asks for and the engine leaves out.

    Models for every side resize their position table by it. Without it, the bundled model's class
    tokens at 64 pixels have a cosine of 0.9988 to the right ones, with it 1.0000. The engine's
    operation after Pillow is the same filter: antialiased, taps outside of the table left out.
    """
    operations = importlib.import_module("openvino.opset11")
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Interpolate":
            continue
        attributes = node.get_attributes()
        if attributes["mode"] != "cubic" or not attributes["antialias"]:
            continue
        height, width = list(node.output(0).shape)[2:]  # all shapes are fixed by now
        resize = operations.interpolate(
            node.input_value(0),
            operations.constant(np.array([height, width], dtype=np.int64)),
            mode="bicubic_pillow",
            shape_calculation_mode="sizes",
            axes=operations.constant(np.array([2, 3], dtype=np.int64)),
            cube_coeff=attributes["cube_coeff"],
        )
        node.output(0).replace(resize.output(0))
    model.validate_nodes_and_infer_types()


def _check_graph(openvino: Any, model: Any, manifest: Manifest, side: int) -> None:
    file = manifest.file
    check_ports("input", _ports(openvino, model.inputs), input_shapes(side), file)
    check_ports("output", _ports(openvino, model.outputs), output_shapes(manifest, side), file)


def _ports(openvino: Any, ports: list[Any]) -> list[Port]:
    return [
        Port(
            name=port.any_name,
            kind=f"tensor({port.element_type.get_type_name()})",
            is_float32=port.element_type == openvino.Type.f32,
            shape=tuple(
                dimension.get_length() if dimension.is_static else str(dimension)
                for dimension in port.partial_shape
            ),
        )
        for port in ports
    ]


def _reason(error: Exception) -> str:
    """The engine's reason in one line: its messages start with places in its own source."""
    lines = [line.strip() for line in str(error).splitlines()]
    details = [line.lstrip("- ") for line in lines if line.startswith("--")]
    reasons = [line for line in lines if line and not line.startswith(("Exception from", "Check "))]
    return (details or reasons or [type(error).__name__])[0].rstrip(".:")
