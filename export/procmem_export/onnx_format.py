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

from procmem.errors import ExportError
from procmem_pretrain.vit import Perception

OPSET = 18

# Tensors of fewer numbers stay in float32: a cast would cost more than it saves.
_SMALL = 1024

# The only operator domain that a procmem model may use: ONNX itself.
_ALLOWED_DOMAINS = ("", "ai.onnx")


def to_onnx(model: Perception, *, side: int) -> bytes:
    """Exports for inputs of one size and any batch.

    Args:
        model: in evaluation mode, on the CPU, float32.
        side: S of the input `images` (N, 3, S, S), a multiple of the patch size.

    Returns:
        the bytes of a checked ONNX file with outputs `cls` (N, D) and `patches` (N, h, w, P).

    Raises:
        ExportError: the exporter failed, or its file is not self-contained or not valid.
    """
    example = torch.zeros(2, 3, side, side)
    quiet = logging.getLogger("torch.onnx")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        program = torch.onnx.export(
            model,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["images"],
            output_names=["cls", "patches"],
            dynamic_shapes={"images": {0: torch.export.Dim("N")}},
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
    _strip_build_paths(proto)
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
