"""A float32 graph -> one with 8-bit products, by ONNX Runtime's quantizer.

Takes a graph of one side from `onnx_format.py`, gives one to `export.py`. Ranges come from
procedural images only, drawn on the spot (law 3). What becomes int8 are the linear layers of the
blocks, nine tenths of the work, but for one or two that are found to cost the most likeness. All
else stays in float32, for what it costs and saves: least and mean cosine of class tokens on 32
procedural images, and time on one thread (the bundled ViT-Ti at 224 pixels, ONNX Runtime)

    linear layers but the most sensitive    0.9997  0.9998  7.8 ms
    linear layers                           0.9957  0.9994  7.5 ms
    and products of attention               0.9935  0.9991  8.0 ms
    and the patch embedding                 0.9791  0.9986  8.0 ms
    the same, symmetric around zero         0.9812  0.9960  8.2 ms
    and the readout                         0.8238  0.9417  8.0 ms

The readout divides by the small variances of a whitening, which blows rounding up.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from procmem.backends.contract import CLS, INPUT
from procmem.backends.onnxruntime import import_onnxruntime
from procmem.errors import ExportError
from procmem_export.onnx_format import simplified

CALIBRATION_SEED = 2**61 - 3
"""Of the images that find the ranges: neither those of the parity gate nor any that trained."""

CALIBRATION_IMAGES = 64

SENSITIVITY_IMAGES = 16
MOST_KEPT = 2
LEAST_GAIN = 0.25

_LINEAR = ("MatMul", "Gemm")


def quantize(proto: onnx.ModelProto, views: npt.NDArray[np.float32] | None) -> onnx.ModelProto:
    """Quantizes the linear layers of a graph: weights per output channel, activations per tensor.

    Args:
        proto: of one side, float32.
        views: (N, 3, S, S) float32 procedural images that find the ranges, the same for every
            image from then on; None to find each layer's range while it runs.

    Returns:
        a graph of QuantizeLinear and DequantizeLinear around each product, or of
        DynamicQuantizeLinear and MatMulInteger, in ONNX's own domain.

    Raises:
        ExportError: ONNX Runtime's quantizer failed.
    """
    import_onnxruntime()
    from onnxruntime import quantization

    slim = simplified(proto)
    _name_nodes(slim)
    kept = [*_readout(slim), *_products_of_activations(slim)]
    kept += [f"{name}_MatMul" for name in kept]  # what the dynamic quantizer makes of a Gemm
    with tempfile.TemporaryDirectory() as folder, _quiet():
        source, target = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        onnx.save_model(slim, str(source))
        try:
            if views is None:
                quantization.quantize_dynamic(
                    str(source),
                    str(target),
                    op_types_to_quantize=list(_LINEAR),
                    per_channel=True,
                    weight_type=quantization.QuantType.QInt8,
                    nodes_to_exclude=kept,
                )
            else:
                _static(source, target, views, kept)
                trial = onnx.load_model(str(target), load_external_data=False)
                sensitive = most_sensitive(slim, trial, views[:SENSITIVITY_IMAGES])
                if sensitive:
                    _static(source, target, views, [*kept, *sensitive])
            quantized = onnx.load_model(str(target), load_external_data=False)
        except Exception as error:  # the quantizer raises what its parts raise
            raise ExportError(f"ONNX Runtime could not quantize the graph: {error}") from error
    _drop_unused_domains(quantized)
    quantized.ir_version = proto.ir_version
    return quantized


def most_sensitive(
    original: onnx.ModelProto, quantized: onnx.ModelProto, views: npt.NDArray[np.float32]
) -> list[str]:
    """The layers whose rounded inputs cost the most likeness, which had better stay in float32.

    Each layer in turn is given its input as it was before rounding. Often one layer causes most of
    the loss: in the bundled model the first block's first, 70 % of it, which only shows in what
    the blocks behind make of it, not in the range of its input.

    Args:
        original: the float32 graph.
        quantized: the same with QuantizeLinear and DequantizeLinear before each layer.
        views: (N, 3, S, S) float32.

    Returns:
        names of at most `MOST_KEPT` layers without whose rounding the loss (one minus the cosine of
        class tokens, on average) falls by `LEAST_GAIN` of it or more, the largest gain first.
    """
    batch = _batch(original)
    reference = _class_tokens(original, views, batch)
    makers = {output: node for node in quantized.graph.node for output in node.output}
    loss = _loss(reference, _class_tokens(quantized, views, batch))
    gains: list[tuple[float, str]] = []
    for node in quantized.graph.node:
        dequantize = makers.get(node.input[0]) if node.op_type in _LINEAR else None
        if dequantize is None or dequantize.op_type != "DequantizeLinear":
            continue
        rounded = node.input[0]
        node.input[0] = makers[dequantize.input[0]].input[0]
        gains.append((loss - _loss(reference, _class_tokens(quantized, views, batch)), node.name))
        node.input[0] = rounded
    worth = sorted((gain for gain in gains if gain[0] >= LEAST_GAIN * loss), reverse=True)
    return [name for _, name in worth[:MOST_KEPT]]


def _class_tokens(
    proto: onnx.ModelProto, views: npt.NDArray[np.float32], batch: int
) -> npt.NDArray[np.float64]:
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    runs = _Reader(views, batch)
    rows = [session.run([CLS], feed)[0] for feed in iter(runs.get_next, None)]
    return np.concatenate(rows)[: len(views)].astype(np.float64)


def _loss(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> float:
    return float(1 - (one * other).sum(axis=1).mean())


def _static(source: Path, target: Path, views: npt.NDArray[np.float32], kept: list[str]) -> None:
    from onnxruntime import quantization

    quantization.quantize_static(
        str(source),
        str(target),
        _Reader(views, _batch(onnx.load_model(str(source)))),
        quant_format=quantization.QuantFormat.QDQ,
        op_types_to_quantize=list(_LINEAR),
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        nodes_to_exclude=kept,
        calibrate_method=quantization.CalibrationMethod.MinMax,
        extra_options={
            "ActivationSymmetric": False,
            "WeightSymmetric": True,
            # What a layer gives goes on in float32: it is summed or normalized next.
            "OpTypesToExcludeOutputQuantization": list(_LINEAR),
        },
    )


class _Reader:
    """Views in runs of the graph's batch, as ONNX Runtime's calibration asks for them.

    The last run is filled up with the last view, which widens no range.
    """

    def __init__(self, views: npt.NDArray[np.float32], batch: int) -> None:
        missing = -len(views) % batch
        filled = np.concatenate([views, np.repeat(views[-1:], missing, axis=0)])
        self._runs: Iterator[npt.NDArray[np.float32]] = iter(
            filled.reshape(-1, batch, *views.shape[1:])
        )

    def get_next(self) -> dict[str, npt.NDArray[np.float32]] | None:
        run = next(self._runs, None)
        return None if run is None else {INPUT: run}

    def set_range(self, start_index: int, end_index: int) -> None:
        """Asked of readers that stride; this one reads all."""

    def __len__(self) -> int:
        return 0


def _batch(proto: onnx.ModelProto) -> int:
    dimension = proto.graph.input[0].type.tensor_type.shape.dim[0]
    return int(dimension.dim_value) if dimension.HasField("dim_value") else 1


def _name_nodes(proto: onnx.ModelProto) -> None:
    """Gives every node a name, by which the quantizer can be told to leave it alone."""
    for number, node in enumerate(proto.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"


def _readout(proto: onnx.ModelProto) -> list[str]:
    """The products on which the class token hangs but no patch token does: those of the readout."""
    makers = {output: node for node in proto.graph.node for output in node.output}

    def ancestors(name: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        pending = [name]
        while pending:
            node = makers.get(pending.pop())
            if node is not None and node.output[0] not in found:
                found[node.output[0]] = node
                pending.extend(node.input)
        return found

    outputs = [value.name for value in proto.graph.output]
    shared: set[str] = set()
    for name in outputs:
        if name != CLS:
            shared |= ancestors(name).keys()
    return [
        node.name
        for output, node in ancestors(CLS).items()
        if output not in shared and node.op_type in _LINEAR
    ]


def _products_of_activations(proto: onnx.ModelProto) -> list[str]:
    """The products that hold no weight: those of attention."""
    weights = {tensor.name for tensor in proto.graph.initializer}
    return [
        node.name
        for node in proto.graph.node
        if node.op_type in _LINEAR and weights.isdisjoint(node.input)
    ]


def _drop_unused_domains(proto: onnx.ModelProto) -> None:
    used = {node.domain for node in proto.graph.node}
    kept = [opset for opset in proto.opset_import if opset.domain in used]
    del proto.opset_import[:]
    proto.opset_import.extend(kept)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the quantizer's advice, which is for people who call it by hand."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(level)
