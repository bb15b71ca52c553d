"""Torch module -> ONNX graph, by torch's exporter, once for each module.

Used by `onnx_format.py`. A trace of a ViT takes ten seconds and more, and one run may want the same
several times: every format of a benchmark, 8 bits beside float32. So the last graphs are kept in
memory under the hash of all that they are made from.
"""

from __future__ import annotations

import hashlib
import io
import logging
from typing import Any

import onnx
import torch

from procmem.errors import ExportError

OPSET = 18

# Opset 18 needs no newer one, and ONNX Runtime 1.17, the oldest that procmem takes, reads no newer.
_IR_VERSION = 9

_GRAPHS_KEPT = 4  # of 30 MB each, for a ViT-Ti
_graphs: dict[str, bytes] = {}


def trace(
    module: torch.nn.Module,
    example: torch.Tensor,
    *,
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    free: dict[int, Any],
    opset: int,
) -> onnx.ModelProto:
    """The graph of a module of one input, a new copy at each call.

    Args:
        module: in evaluation mode, on the CPU.
        example: an input, whose sizes in the free dimensions shall not be special.
        inputs: name of the input.
        outputs: names of the outputs.
        free: dimension of the input -> `torch.export.Dim`, or a multiple of one.
        opset: of ONNX.

    Raises:
        ExportError: the exporter failed.
    """
    options = {
        "opset_version": opset,
        "input_names": list(inputs),
        "output_names": list(outputs),
        "dynamic_shapes": (free,),
    }
    key = _hash_of(module, f"{tuple(example.shape)} {example.dtype} {options}")
    if key in _graphs:
        return onnx.load_model_from_string(_graphs[key])
    proto = _exported(module, example, options)
    proto.ir_version = _IR_VERSION if opset <= OPSET else proto.ir_version
    strip_build_paths(proto)
    while len(_graphs) >= _GRAPHS_KEPT:
        del _graphs[next(iter(_graphs))]
    _graphs[key] = proto.SerializeToString()
    return proto


def strip_build_paths(proto: onnx.ModelProto) -> None:
    """Takes out what the exporter tells of the machine: source lines with their paths, types."""
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


def _hash_of(module: torch.nn.Module, form: str) -> str:
    """Of everything that a graph is made from: the attributes and tensors of a module, and more."""
    saved = io.BytesIO()
    torch.save(module, saved)
    return hashlib.sha256(form.encode() + saved.getbuffer()).hexdigest()


def _exported(
    module: torch.nn.Module, example: torch.Tensor, options: dict[str, Any]
) -> onnx.ModelProto:
    """What torch's exporter gives, quietly."""
    quiet = logging.getLogger("torch.onnx")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        program = torch.onnx.export(
            module, (example,), dynamo=True, optimize=True, verbose=False, **options
        )
    except Exception as error:
        raise ExportError(f"torch could not export the model: {error}") from error
    finally:
        quiet.setLevel(level)
    if program is None:
        raise ExportError("torch exported nothing; its version has no dynamo exporter")
    return program.model_proto
