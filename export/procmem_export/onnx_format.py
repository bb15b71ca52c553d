"""Torch module -> one self-contained ONNX file in memory.

Takes `Perception` from `procmem_pretrain.vit`, gives bytes to `export.py`. Never writes a file and
never refers to one: loaders that follow paths out of a model have had traversal flaws.
"""

from __future__ import annotations

import io
import logging

import numpy as np
import onnx
import torch

from procmem.backends.onnxruntime import BATCH, SIDE
from procmem.errors import ExportError
from procmem.preprocess import MAX_SIDE, MIN_PATCHES
from procmem_export.any_side import AnySide
from procmem_pretrain.vit import Perception

OPSET = 18

# Opset 18 needs no newer one, and ONNX Runtime 1.17, the oldest that procmem takes, reads no newer.
IR_VERSION = 9

# Tensors of fewer numbers stay in float32: a cast would cost more than it saves.
_SMALL = 1024

# The only operator domain that a procmem model may use: ONNX itself.
_ALLOWED_DOMAINS = ("", "ai.onnx")


def to_onnx(model: Perception) -> bytes:
    """Exports for square inputs of any side that is a multiple of the patch size, and any batch.

    Args:
        model: in evaluation mode, on the CPU, float32.

    Returns:
        the bytes of a checked ONNX file with the input `images` (N, 3, S, S) and the outputs `cls`
        (N, D) and `patches` (N, h, w, P). N and S are free dimensions of these names: an engine
        that is told both folds everything that depends on them, above all the interpolation of
        the position table, and runs what a file of that one side would hold.

    Raises:
        ExportError: the exporter failed, or its file is not self-contained or not valid.
    """
    patch = int(model.vit.patch_embed.patch_size[0])
    grid = torch.export.Dim("h", min=MIN_PATCHES, max=MAX_SIDE // patch)
    # Neither the table's own grid nor a multiple of it, which tracing could take for a constant.
    example = torch.zeros(2, 3, 10 * patch, 10 * patch)
    quiet = logging.getLogger("torch.onnx")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        program = torch.onnx.export(
            AnySide(model).eval(),
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["images"],
            output_names=["cls", "patches"],
            dynamic_shapes={"images": {0: torch.export.Dim("N"), 2: patch * grid, 3: patch * grid}},
            optimize=True,
            verbose=False,
        )
    except Exception as error:
        raise ExportError(f"torch could not export the model: {error}") from error
    finally:
        quiet.setLevel(level)
    if program is None:
        raise ExportError("torch exported nothing; its version has no dynamo exporter")
    proto = program.model_proto
    proto.ir_version = IR_VERSION
    _strip_build_paths(proto)
    _name_dimensions(proto)
    store_in_half(proto)
    data: bytes = proto.SerializeToString(deterministic=True)
    check_self_contained(data)
    return data


def store_in_half(proto: onnx.ModelProto) -> None:
    """Keeps weights that float16 holds exactly in float16, and casts them back: half the file.

    Compact checkpoints are float16, so nothing is lost; engines fold the casts when they open the
    model and compute in float32 as before. Weights that are not exact stay as they are.
    """
    graph = proto.graph
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        values = onnx.numpy_helper.to_array(tensor)
        if values.size < _SMALL:
            continue
        with np.errstate(over="ignore"):  # what overflows is not equal below
            half = values.astype(np.float16)
        if not np.array_equal(half.astype(np.float32), values):
            continue
        name = tensor.name
        tensor.CopyFrom(onnx.numpy_helper.from_array(half, f"{name}_half"))
        casts.append(
            onnx.helper.make_node("Cast", [f"{name}_half"], [name], to=onnx.TensorProto.FLOAT)
        )
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def check_self_contained(data: bytes) -> None:
    """Checks that ONNX bytes are valid, of allowed domains, and without external data.

    Raises:
        ExportError: what is wrong.
    """
    try:
        proto = onnx.load_model(io.BytesIO(data), load_external_data=False)
        onnx.checker.check_model(proto)
    except Exception as error:
        raise ExportError(f"the exported file is no valid ONNX model: {error}") from error
    foreign = sorted({o.domain for o in proto.opset_import} - set(_ALLOWED_DOMAINS))
    if foreign:
        raise ExportError(f"the exported file uses foreign operator domains: {', '.join(foreign)}")
    outside = [t.name for t in proto.graph.initializer if t.external_data]
    if outside:
        raise ExportError(f"the exported file keeps tensors elsewhere: {', '.join(outside)}")


def _name_dimensions(proto: onnx.ModelProto) -> None:
    """Gives the free dimensions the names that engines are told, instead of the exporter's."""
    names = {
        "images": (BATCH, None, SIDE, SIDE),
        "cls": (BATCH, None),
        "patches": (BATCH, "h", "h", None),
    }
    for value in (*proto.graph.input, *proto.graph.output):
        dimensions = value.type.tensor_type.shape.dim
        for dimension, name in zip(dimensions, names[value.name], strict=True):
            if (name is None) == dimension.HasField("dim_param"):
                raise ExportError(
                    f"torch exported {value.name} with other free dimensions than wanted: "
                    f"{value.type.tensor_type.shape}; this torch cannot export for every side"
                )
            if name is not None:
                dimension.dim_param = name


def _strip_build_paths(proto: onnx.ModelProto) -> None:
    # The exporter records source lines with the paths of the machine that exported.
    del proto.metadata_props[:]
    proto.doc_string = ""
    del proto.graph.metadata_props[:]
    proto.graph.doc_string = ""
    for node in proto.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        del value.metadata_props[:]
    del proto.graph.value_info[:]
    used = {node.domain for node in proto.graph.node}
    kept = [o for o in proto.opset_import if o.domain in used]
    del proto.opset_import[:]
    proto.opset_import.extend(kept)
    del proto.functions[:]
