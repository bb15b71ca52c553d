"""A graph for every side -> the same graph for one side, its arithmetic on shapes worked out.

Takes the bytes that `onnx_format.py` makes, gives bytes to `tensorrt_format.py`. TensorRT's parser
knows no antialiased `Resize`, with which the position table is read at a side that is not its own
(`any_side.py`); at one side that result is a constant, and so is everything else that hangs on the
side alone. What hangs on the images keeps its operators, order and types: nothing is fused, and no
cast is put in, so that a strongly typed graph stays the one that was written.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from procmem.backends.onnxruntime import BATCH, INPUT, SIDE, import_onnxruntime
from procmem.errors import ExportError, InputError

# Each round folds what the shapes found by the last one allow; procmem's graphs need three.
_MAX_ROUNDS = 10

# What gives other values for the same inputs must run where it stands.
_RANDOM = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli"}


def fix_side(data: bytes, *, side: int, batch: int | None = None) -> bytes:
    """The model for inputs of one side only, without arithmetic on shapes.

    Args:
        data: an ONNX model with the input `images` (N, 3, S, S), N and S free or already these.
        side: S, pixels.
        batch: N, or None to leave it free; it is then still called "N".

    Returns:
        the bytes of an ONNX model whose outputs are, for every such input, those of `data`.

    Raises:
        InputError: the model has another side or batch, or takes other inputs.
        ExportError: the bytes are no model, or ONNX Runtime cannot work out its constants.
    """
    try:
        proto = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's errors share no base class with onnx's
        raise ExportError(f"{len(data)} bytes are no ONNX model ({error})") from error
    _set_input(proto.graph, side=side, batch=batch)
    for _ in range(_MAX_ROUNDS):
        try:
            proto = onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
        except onnx.shape_inference.InferenceError as error:
            raise ExportError(
                f"the model has no consistent shapes at side {side}: {error}"
            ) from error
        if not _fold(proto):
            break
    _remove_unused(proto.graph)
    del proto.graph.value_info[:]
    fixed: bytes = proto.SerializeToString(deterministic=True)
    return fixed


def _set_input(graph: onnx.GraphProto, *, side: int, batch: int | None) -> None:
    """Writes the wanted numbers into the input's shape, and takes the outputs' stale ones away."""
    dimensions = list(graph.input[0].type.tensor_type.shape.dim) if len(graph.input) == 1 else []
    if len(dimensions) != 4 or graph.input[0].name != INPUT:
        raise InputError(
            f"the model takes {', '.join(i.name for i in graph.input)}, wanted one input "
            f"{INPUT} (N, 3, S, S)"
        )
    for name, dimension, wanted in zip(
        (BATCH, "channels", SIDE, SIDE), dimensions, (batch, 3, side, side), strict=True
    ):
        if dimension.HasField("dim_value"):
            if wanted is not None and dimension.dim_value != wanted:
                raise InputError(
                    f"the model's {INPUT} has {name} = {dimension.dim_value}, wanted {wanted}; "
                    "export it for every side and batch"
                )
        elif wanted is not None:
            dimension.dim_value = wanted
    del graph.value_info[:]
    for output in graph.output:
        shape = output.type.tensor_type.shape.dim
        if batch is not None and shape[0].dim_param == BATCH:
            shape[0].dim_value = batch
        for free in (d for d in shape if d.dim_param not in ("", BATCH)):
            free.Clear()  # inference writes the number


def _fold(proto: onnx.ModelProto) -> bool:
    """Replaces nodes of constant inputs by their values; False when there was none."""
    graph = proto.graph
    shapes = dict(_shapes(graph))
    constants = {tensor.name for tensor in graph.initializer}
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    types |= {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.output)}
    values: dict[str, npt.NDArray[np.generic]] = {}
    folded, kept = [], []
    for node in graph.node:
        shape = _known_shape(node, shapes)
        if shape is not None:
            values[node.output[0]] = shape
        elif not _is_constant(node, constants | set(values), types):
            kept.append(node)
            continue
        else:
            folded.append(node)
        constants.update(node.output)
    if not folded and not values:
        return False
    needed = {name for node in kept for name in node.input} | {o.name for o in graph.output}
    wanted = [name for node in folded for name in node.output if name in needed]
    values |= _evaluate(proto, folded, values, wanted)
    graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in values.items() if name in needed
    )
    del graph.node[:]
    graph.node.extend(kept)
    _remove_unused(graph)
    return True


def _is_constant(node: onnx.NodeProto, constants: set[str], types: dict[str, int]) -> bool:
    """Whether the node's outputs follow from constants alone, in types that can be stored here."""
    if node.op_type == "Constant":
        return True
    if node.op_type in _RANDOM or any(a.type == onnx.AttributeProto.GRAPH for a in node.attribute):
        return False
    names = [name for name in (*node.input, *node.output) if name]
    # numpy has no bfloat16, and ONNX Runtime's processor kernels for it are few.
    if any(types.get(name) == TensorProto.BFLOAT16 for name in names):
        return False
    return bool(names) and all(name in constants for name in node.input if name)


def _known_shape(
    node: onnx.NodeProto, shapes: dict[str, tuple[int | None, ...]]
) -> npt.NDArray[np.int64] | None:
    """What a `Shape` node gives, where all of it is known; else None."""
    if node.op_type != "Shape" or node.input[0] not in shapes:
        return None
    ends = {attribute.name: attribute.i for attribute in node.attribute}
    asked = shapes[node.input[0]][ends.get("start", 0) : ends.get("end")]
    if any(number is None for number in asked):
        return None
    return np.array(asked, dtype=np.int64)


def _shapes(graph: onnx.GraphProto) -> Iterator[tuple[str, tuple[int | None, ...]]]:
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        if tensor.HasField("shape"):
            yield (
                value.name,
                tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim),
            )
    for initializer in graph.initializer:
        yield initializer.name, tuple(initializer.dims)


def _evaluate(
    proto: onnx.ModelProto,
    nodes: list[onnx.NodeProto],
    values: dict[str, npt.NDArray[np.generic]],
    wanted: list[str],
) -> dict[str, npt.NDArray[np.generic]]:
    """Runs the nodes once with ONNX Runtime, the engine that every other format is measured by."""
    if not wanted:
        return {}
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "constants",
        [],
        [helper.make_empty_tensor_value_info(name) for name in wanted],
        [
            *(tensor for tensor in proto.graph.initializer if tensor.name in used),
            *(numpy_helper.from_array(value, name) for name, value in values.items()),
        ],
    )
    model = helper.make_model(graph, opset_imports=proto.opset_import, ir_version=proto.ir_version)
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return dict(zip(wanted, session.run(wanted, {}), strict=True))
    except Exception as error:  # the engine's errors share no base class but Exception
        raise ExportError(f"ONNX Runtime cannot work out the model's constants: {error}") from error


def _remove_unused(graph: onnx.GraphProto) -> None:
    """Drops nodes and weights that no output hangs on."""
    needed = {output.name for output in graph.output}
    nodes = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            nodes.append(node)
            needed.update(node.input)
    del graph.node[:]
    graph.node.extend(reversed(nodes))
    tensors = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(tensors)
