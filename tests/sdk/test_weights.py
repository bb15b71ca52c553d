"""Whether a model's numbers are its checkpoint's, whatever the manifests claim."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

onnx = pytest.importorskip("onnx", reason="the tests build their files with onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402  after the skip
from tests.tiny_model import write_tiny_model  # noqa: E402

from procmem.errors import ModelIntegrityError  # noqa: E402
from procmem.weights import compare_weights, read_safetensors  # noqa: E402

Array = npt.NDArray[np.float32]


def safetensors(tensors: dict[str, npt.NDArray[np.generic]]) -> bytes:
    """A safetensors file of float16 and float32 tensors."""
    header, body = {}, b""
    for name, values in tensors.items():
        data = values.tobytes()
        kind = {"float16": "F16", "float32": "F32"}[values.dtype.name]
        offsets = [len(body), len(body) + len(data)]
        header[name] = {"dtype": kind, "shape": list(values.shape), "data_offsets": offsets}
        body += data
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    return len(text).to_bytes(8, "little") + text + body


def model_of(tensors: list[onnx.TensorProto], *nodes: onnx.NodeProto) -> bytes:
    graph = helper.make_graph(list(nodes), "g", [], [], tensors)
    data: bytes = helper.make_model(graph).SerializeToString()
    return data


def stored(name: str, values: npt.NDArray[np.generic]) -> onnx.TensorProto:
    return numpy_helper.from_array(np.ascontiguousarray(values), name)


def numbers(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float16).astype(np.float32)


def test_a_model_of_the_checkpoints_tensors_is_its_own(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path)
    held = {t.name: numpy_helper.to_array(t) for t in onnx.load_model(path).graph.initializer}
    checkpoint = {f"teacher/{name}": held[name] for name in ("filters", "bias")}
    student = {"student/filters": numbers(40, 40)}  # of a full training state
    found = compare_weights(path.read_bytes(), safetensors({**checkpoint, **student}))
    assert found.problem is None
    assert (found.equal, found.numbers) == (2, 24 * 3 * 16 * 16 + 24)
    assert (found.foreign, found.missing) == ((), ())
    assert 0 < found.small_bytes < 256


def test_weights_may_be_transposed_and_in_half() -> None:
    weight, readout = numbers(40, 30), numbers(20, 50, seed=1)
    model = model_of([stored("w", weight.T.astype(np.float16)), stored("r", readout)])
    half = {"teacher/w": weight.astype(np.float16), "readout/weight": readout.astype(np.float16)}
    assert compare_weights(model, safetensors(half)).problem is None


def test_positions_may_be_stored_as_a_table_and_a_start() -> None:
    token, positions = numbers(1, 1, 100), numbers(1, 1 + 9, 100, seed=1)
    table = positions[:, 1:].reshape(1, 3, 3, 100).transpose(0, 3, 1, 2)
    checkpoint = safetensors({"teacher/cls_token": token, "teacher/pos_embed": positions})
    start = token + positions[:, :1]
    model = model_of([stored("table", table), stored("start", start)])
    assert compare_weights(model, checkpoint).problem is None
    other = model_of([stored("table", table), stored("start", token)])
    assert compare_weights(other, checkpoint).foreign == ("start",)
    assert compare_weights(other, checkpoint).missing == ("teacher/cls_token",)


def _changed(values: Array) -> Array:
    changed = values.copy()
    changed[3, 3] = np.nextafter(changed[3, 3], np.float32(9))
    return changed


FOREIGN = {
    "one bit of one weight": [stored("w", _changed(numbers(40, 30)))],
    "another tensor": [stored("w", numbers(40, 30)), stored("more", numbers(8, 8, seed=9))],
    "bytes": [stored("w", numbers(40, 30)), stored("more", np.arange(256, dtype=np.uint8))],
    "not raw": [
        stored("w", numbers(40, 30)),
        helper.make_tensor("more", TensorProto.FLOAT, [64], numbers(64, seed=9).tolist()),
    ],
    "another shape than its bytes": [
        TensorProto(
            name="w", dims=[41, 30], data_type=TensorProto.FLOAT, raw_data=numbers(40, 30).tobytes()
        )
    ],
}


@pytest.mark.parametrize("tensors", FOREIGN.values(), ids=list(FOREIGN))
def test_a_tensor_that_is_not_the_checkpoints_is_found(tensors: list[onnx.TensorProto]) -> None:
    found = compare_weights(model_of(tensors), safetensors({"teacher/w": numbers(40, 30)}))
    assert found.foreign == (tensors[-1].name,)
    assert found.problem is not None
    assert "are not in the checkpoint" in found.problem


def inside_a_branch(node: onnx.NodeProto) -> onnx.NodeProto:
    inner = helper.make_graph([node], "inner", [], [])
    return helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)


@pytest.mark.parametrize("branches", [0, 2])
@pytest.mark.parametrize(
    "constant",
    [
        {"value": stored("hidden", numbers(64, seed=9))},
        {"value_floats": numbers(64, seed=9).tolist()},
        {"value_ints": [10**15] * 64},
        {"value_string": b"x" * 256},
    ],
    ids=lambda constant: next(iter(constant)),
)
def test_a_tensor_that_is_hidden_in_a_node_is_found(constant: dict, branches: int) -> None:
    node = helper.make_node("Constant", [], ["c"], **constant)
    for _ in range(branches):
        node = inside_a_branch(node)
    model = model_of([stored("w", numbers(40, 30))], node)
    found = compare_weights(model, safetensors({"teacher/w": numbers(40, 30)}))
    assert set(found.foreign) <= {"hidden", *constant}
    assert found.foreign


def test_many_small_constants_may_not_hold_weights_either() -> None:
    pieces = [stored(f"p{n}", numbers(60, seed=n)) for n in range(1, 150)]
    model = model_of([stored("w", numbers(40, 30)), *pieces])
    problem = compare_weights(model, safetensors({"teacher/w": numbers(40, 30)})).problem
    assert problem == "the model holds 35,760 bytes of small constants, wanted at most 32,768"


def test_a_tensor_that_the_model_lacks_is_named() -> None:
    checkpoint = {f"teacher/{n}": numbers(9, 9, seed=n) for n in range(5)}
    model = model_of([stored("0", checkpoint["teacher/0"])])
    found = compare_weights(model, safetensors(checkpoint))
    assert found.problem == (
        "teacher/1, teacher/2, teacher/3 and 1 more of the checkpoint are not in the model"
    )


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x05\0\0\0\0\0\0\0{",
        (2**40).to_bytes(8, "little") + b"{}",
        b"\x02\0\0\0\0\0\0\0[]",
        b"\x02\0\0\0\0\0\0\0}{",
        safetensors({"teacher/w": numbers(40, 30)})[:-1],
        safetensors({"teacher/w": numbers(40, 30)}).replace(b"[40, 30]", b"[40, 31]"),
        safetensors({"teacher/w": numbers(40, 30)}).replace(b"[0, 4800]", b"[-9, 480]"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_told(data: bytes) -> None:
    with pytest.raises(ModelIntegrityError, match="not a safetensors file"):
        read_safetensors(data)


def test_a_model_that_does_not_parse_is_told() -> None:
    with pytest.raises(ModelIntegrityError, match="do not parse"):
        compare_weights(model_of([stored("w", numbers(9, 9))])[:-9], safetensors({}))
