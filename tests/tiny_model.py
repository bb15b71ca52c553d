"""A real model of a few kilobytes for tests: ONNX file and manifest, made in a moment.

It is what a perception must be and no more: fixed random filters over 16x16 patches, their
rectified mean and spread as the class token. It tells colors and coarse textures apart, so a
memory built on it answers sensibly; the same seed gives the same file to the last bit.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from procmem.manifest import Manifest, Origin, Preprocessing, sha256_of_bytes, write_manifest

SIDE, PATCH, WIDTH = 224, 16, 24


def write_tiny_model(
    folder: Path, *, name: str = "tiny", seed: int = 0, any_side: bool = True
) -> Path:
    """Writes `<name>.onnx` and `<name>.json` into `folder` and returns the model's path.

    Without `any_side` the graph takes 224 pixels only, as procmem 0.1 exported models.
    """
    random = np.random.default_rng(seed)
    filters = random.standard_normal((WIDTH, 3, PATCH, PATCH)).astype(np.float32) / PATCH
    # Half of the filters see only the mean color of a patch, the other half its texture.
    half = WIDTH // 2
    filters[:half] = random.standard_normal((half, 3, 1, 1)).astype(np.float32) / PATCH**2
    bias = random.uniform(-0.3, 0.3, WIDTH).astype(np.float32)
    constants = {
        "filters": filters,
        "bias": bias,
        "grid_axes": np.array([1, 2], dtype=np.int64),
        "vector_axis": np.array([1], dtype=np.int64),
        "tiny": np.array(1e-6, dtype=np.float32),
    }
    nodes = [
        helper.make_node(
            "Conv",
            ["images", "filters", "bias"],
            ["raw"],
            kernel_shape=[PATCH, PATCH],
            strides=[PATCH, PATCH],
        ),
        helper.make_node("Transpose", ["raw"], ["patches"], perm=[0, 2, 3, 1]),
        helper.make_node("Relu", ["patches"], ["active"]),
        helper.make_node("ReduceMean", ["active", "grid_axes"], ["mean"], keepdims=1),
        helper.make_node("Sub", ["active", "mean"], ["centered"]),
        helper.make_node("Mul", ["centered", "centered"], ["squared"]),
        helper.make_node("ReduceMean", ["squared", "grid_axes"], ["variance"], keepdims=1),
        helper.make_node("Sqrt", ["variance"], ["spread"]),
        helper.make_node("Concat", ["mean", "spread"], ["both"], axis=3),
        helper.make_node("Squeeze", ["both", "grid_axes"], ["vector"]),
        helper.make_node("Add", ["vector", "tiny"], ["shifted"]),
        helper.make_node("ReduceL2", ["shifted", "vector_axis"], ["length"], keepdims=1),
        helper.make_node("Div", ["shifted", "length"], ["cls"]),
    ]
    side, grid = ("S", "h") if any_side else (SIDE, SIDE // PATCH)
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, side, side])],
        [
            helper.make_tensor_value_info("cls", TensorProto.FLOAT, ["N", 2 * WIDTH]),
            helper.make_tensor_value_info("patches", TensorProto.FLOAT, ["N", grid, grid, WIDTH]),
        ],
        [numpy_helper.from_array(value, key) for key, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    data = model.SerializeToString()
    path = folder / f"{name}.onnx"
    path.write_bytes(data)
    write_manifest(
        Manifest(
            kind="onnx",
            name=name,
            file=path.name,
            sha256=sha256_of_bytes(data),
            architecture="fixed-random-filters",
            patch_size=PATCH,
            cls_dim=2 * WIDTH,
            patch_dim=WIDTH,
            preprocessing=Preprocessing(),
            origin=Origin(
                process="none",
                root_seed=seed,
                program_set_sha256="",
                code_version="test",
                steps=0,
                images_seen=0,
            ),
            any_side=any_side,
        ),
        folder,
    )
    return path
