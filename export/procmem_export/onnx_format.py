"""Torch module -> one self-contained ONNX file in memory.

Takes `Perception` from `procmem_pretrain.vit`, gives a graph to `quantize.py` and bytes to
`export.py`. Never writes a file and never refers to one: loaders that follow paths out of a model
have had traversal flaws.
"""

from __future__ import annotations

import copy
import io

import numpy as np
import onnx
import torch

from procmem.backends.contract import BATCH, CLS, INPUT, PATCHES, SIDE
from procmem.backends.onnxruntime import import_onnxruntime
from procmem.errors import ExportError
from procmem.manifest import Preprocessing
from procmem.preprocess import MAX_SIDE, MIN_PATCHES
from procmem_export.any_side import AnySide
from procmem_export.fixed_side import fix_side
from procmem_export.formats import Precision
from procmem_export.pixels import FromPixels
from procmem_export.trace import OPSET, strip_build_paths, trace
from procmem_pretrain.vit import Perception

# The first in which every operator of a ViT takes bfloat16; no processor engine runs such files.
BFLOAT16_OPSET = 22

_DTYPES: dict[Precision, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}

# Tensors of fewer numbers stay in float32: a cast would cost more than it saves.
_SMALL = 1024

# The only operator domain that a procmem model may use: ONNX itself.
_ALLOWED_DOMAINS = ("", "ai.onnx")


def to_onnx(
    model: Perception,
    *,
    precision: Precision = "float32",
    side: int | None = None,
    batch: int | None = None,
) -> onnx.ModelProto:
    """Exports for square inputs.

    Args:
        model: in evaluation mode, on the CPU, float32.
        precision: of the products inside the blocks, any but "int8", which `quantize.py` makes of
            float32.
        side: S, the only side that the file takes, pixels; None for every multiple of the patch
            size.
        batch: images per run; None for any number.

    Returns:
        a model with the input `images` (N, 3, S, S) and the outputs `cls` (N, D) and `patches`
        (N, h, w, P), all float32. Where they are free, N and S are dimensions of these names: an
        engine that is told both folds everything that depends on them, above all the interpolation
        of the position table, and runs what a file of that one side would hold.

    Raises:
        ExportError: the exporter failed.
    """
    patch = int(model.vit.patch_embed.patch_size[0])
    grid = torch.export.Dim("h", min=MIN_PATCHES, max=MAX_SIDE // patch)
    # Neither the table's own grid nor a multiple of it, which tracing could take for a constant.
    example = torch.zeros(2, 3, 10 * patch, 10 * patch)
    proto = trace(
        AnySide(model, _DTYPES[precision]).eval(),
        example,
        inputs=(INPUT,),
        outputs=(CLS, PATCHES),
        free={0: torch.export.Dim("N"), 2: patch * grid, 3: patch * grid},
        opset=BFLOAT16_OPSET if precision == "bfloat16" else OPSET,
    )
    _name_dimensions(
        proto,
        {INPUT: (BATCH, None, SIDE, SIDE), CLS: (BATCH, None), PATCHES: (BATCH, "h", "h", None)},
    )
    if side is None:
        return proto if batch is None else _fix_batch(proto, batch)
    return onnx.load_model_from_string(fix_side(proto.SerializeToString(), side=side, batch=batch))


def with_pixels(proto: onnx.ModelProto, preprocessing: Preprocessing) -> onnx.ModelProto:
    """Puts the preprocessing in front of a model.

    Args:
        proto: of `to_onnx` for the side of `preprocessing.crop`.
        preprocessing: at that side.

    Returns:
        a model with the input `images` (N, H, W, 3) uint8 for every H and W, and the same outputs.

    Raises:
        ExportError: the exporter failed, or the parts do not fit.
    """
    free = {
        0: torch.export.Dim("N"),
        1: torch.export.Dim("H", min=2),
        2: torch.export.Dim("W", min=2),
    }
    front = trace(
        FromPixels(preprocessing).eval(),
        torch.zeros(2, 301, 203, 3, dtype=torch.uint8),
        inputs=(INPUT,),
        outputs=("views",),
        free=free,
        opset=_opset(proto),
    )
    _name_dimensions(front, {INPUT: (BATCH, "H", "W", None), "views": (BATCH, None, None, None)})
    batch = proto.graph.input[0].type.tensor_type.shape.dim[0]
    if batch.HasField("dim_value"):
        front.graph.input[0].type.tensor_type.shape.dim[0].dim_value = batch.dim_value
    try:
        joined = onnx.compose.merge_models(
            onnx.compose.add_prefix(front, "pixels/"),
            onnx.compose.add_prefix(proto, "model/", rename_inputs=True, rename_outputs=True),
            io_map=[("pixels/views", f"model/{INPUT}")],
        )
    except Exception as error:  # onnx raises what its parts raise
        raise ExportError(f"the preprocessing does not fit the model: {error}") from error
    _rename(joined, {f"pixels/{INPUT}": INPUT, f"model/{CLS}": CLS, f"model/{PATCHES}": PATCHES})
    return joined


def to_bytes(proto: onnx.ModelProto, metadata: dict[str, str]) -> bytes:
    """The file of a model: checked, self-contained, with nothing of the machine that exported.

    Args:
        proto: of `to_onnx` or of what was made from it.
        metadata: written into the file for programs that read no manifest.

    Raises:
        ExportError: it is not valid, uses foreign operators, or keeps tensors elsewhere.
    """
    strip_build_paths(proto)
    store_in_half(proto)
    proto.producer_name, proto.producer_version = "procmem", ""
    for key in sorted(metadata):
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, metadata[key]
    data: bytes = proto.SerializeToString(deterministic=True)
    check_self_contained(data)
    return data


def simplified(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A model of fixed shapes with fewer nodes, by onnxslim: what quantizes and runs best.

    Raises:
        ExportError: onnxslim failed.
    """
    import_onnxruntime()  # before onnxslim does it, with its telemetry switched off
    import onnxslim

    try:
        slim = onnxslim.slim(copy.deepcopy(proto), verbose=False)
    except Exception as error:  # it raises what its passes raise
        raise ExportError(f"onnxslim could not simplify the graph: {error}") from error
    slim.ir_version = proto.ir_version
    return slim


def _fix_batch(proto: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch
    return proto


def _opset(proto: onnx.ModelProto) -> int:
    return next(int(o.version) for o in proto.opset_import if o.domain in _ALLOWED_DOMAINS)


def _rename(proto: onnx.ModelProto, names: dict[str, str]) -> None:
    graph = proto.graph
    for value in (*graph.input, *graph.output):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        for field in (node.input, node.output):
            field[:] = [names.get(name, name) for name in field]


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


def _name_dimensions(proto: onnx.ModelProto, names: dict[str, tuple[str | None, ...]]) -> None:
    """Gives the free dimensions the names that engines are told, instead of the exporter's."""
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
