from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.tiny_model import write_tiny_model

from procmem.errors import ExportError, InputError
from procmem_export.fixed_side import fix_side

BUNDLED = Path(__file__).parents[2] / "sdk/procmem/models/vit-tiny.onnx"


def answers(data: bytes, images: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    cls, patches = session.run(["cls", "patches"], {"images": images})
    return [cls, patches]


def operators(data: bytes) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load_model_from_string(data).graph.node)


@pytest.mark.parametrize("side", [64, 224, 448])
@pytest.mark.parametrize("batch", [2, None])
def test_the_fixed_graph_answers_as_the_free_one(side: int, batch: int | None) -> None:
    free = BUNDLED.read_bytes()
    images = np.random.default_rng(0).uniform(-1, 1, (2, 3, side, side)).astype(np.float32)
    fixed = fix_side(free, side=side, batch=batch)
    onnx.checker.check_model(onnx.load_model_from_string(fixed), full_check=True)
    for got, wanted in zip(answers(fixed, images), answers(free, images), strict=True):
        # Both compute the same products; what may differ is how the engine sums them.
        np.testing.assert_allclose(got, wanted, atol=2e-5)


def test_what_tensorrt_cannot_parse_is_gone_and_what_sees_the_image_is_kept() -> None:
    free = BUNDLED.read_bytes()
    fixed = operators(fix_side(free, side=224, batch=1))
    assert operators(free)["Resize"] == 1
    assert not fixed.keys() & {"Resize", "Shape", "Range", "Constant", "Cast", "ConstantOfShape"}
    blocks = 12
    assert fixed["LayerNormalization"] == 2 * blocks + 1
    assert fixed["Softmax"] == fixed["Erf"] == blocks
    assert fixed["Conv"] == 1


def test_a_free_batch_keeps_its_name() -> None:
    graph = onnx.load_model_from_string(fix_side(BUNDLED.read_bytes(), side=224)).graph
    for value in (*graph.input, *graph.output):
        first, *others = value.type.tensor_type.shape.dim
        assert first.dim_param == "N"
        assert all(other.HasField("dim_value") for other in others)


def test_types_of_a_strongly_typed_graph_are_not_touched() -> None:
    half = numpy_helper.from_array(np.ones((1, 3, 1, 1), np.float16), "half")
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["images"], ["low"], to=TensorProto.FLOAT16),
            helper.make_node("Mul", ["low", "half"], ["product"]),
            helper.make_node("Cast", ["product"], ["patches"], to=TensorProto.FLOAT),
        ],
        "typed",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, "S", "S"])],
        [helper.make_tensor_value_info("patches", TensorProto.FLOAT, ["N", 3, "S", "S"])],
        [half],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    fixed = onnx.load_model_from_string(fix_side(model.SerializeToString(), side=64, batch=1))
    assert [node.op_type for node in fixed.graph.node] == ["Cast", "Mul", "Cast"]
    assert [tensor.data_type for tensor in fixed.graph.initializer] == [TensorProto.FLOAT16]


def test_bfloat16_weights_stay_as_they_are() -> None:
    weight = helper.make_tensor("weight", TensorProto.FLOAT, [3, 1, 1], [0.5, 1.0, 2.0])
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["weight"], ["low"], to=TensorProto.BFLOAT16),
            helper.make_node("Cast", ["images"], ["lower"], to=TensorProto.BFLOAT16),
            helper.make_node("Mul", ["lower", "low"], ["product"]),
            helper.make_node("Cast", ["product"], ["patches"], to=TensorProto.FLOAT),
        ],
        "typed",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, "S", "S"])],
        [helper.make_tensor_value_info("patches", TensorProto.FLOAT, ["N", 3, "S", "S"])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    fixed = onnx.load_model_from_string(fix_side(model.SerializeToString(), side=64))
    assert [node.op_type for node in fixed.graph.node] == ["Cast", "Cast", "Mul", "Cast"]


def test_a_model_of_another_side_is_refused_with_both_sides(tmp_path: Path) -> None:
    data = write_tiny_model(tmp_path, any_side=False).read_bytes()
    with pytest.raises(InputError, match="images has S = 224, wanted 448"):
        fix_side(data, side=448)


def test_bytes_that_are_no_model_are_an_error() -> None:
    with pytest.raises(ExportError, match="no ONNX model"):
        fix_side(b"\xff" * 40, side=224)
