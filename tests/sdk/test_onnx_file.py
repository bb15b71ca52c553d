"""What no model file may hold, found in its bytes before an engine sees them."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="the tests build their files with onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402  after the skip
from tests.tiny_model import write_tiny_model  # noqa: E402

from procmem import Embedder  # noqa: E402
from procmem.backends.onnx_file import check_file, read_contents  # noqa: E402
from procmem.errors import ModelIntegrityError  # noqa: E402
from procmem.manifest import read_manifest, sha256_of_bytes, write_manifest  # noqa: E402


def tiny(folder: Path) -> onnx.ModelProto:
    return onnx.load_model(write_tiny_model(folder))


def foreign_node(domain: str = "com.microsoft") -> onnx.NodeProto:
    return helper.make_node("Gelu", ["raw"], ["foreign"], domain=domain)


def inside_a_branch(node: onnx.NodeProto) -> onnx.NodeProto:
    inner = helper.make_graph([node], "inner", [], [])
    return helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)


def test_a_model_of_onnxs_own_operators_is_allowed(tmp_path: Path) -> None:
    contents = check_file(tiny(tmp_path).SerializeToString(), "tiny.onnx")
    assert contents.domains <= {"", "ai.onnx"}
    assert {"Conv", "ReduceL2", "Div"} <= contents.operators
    assert not contents.finds_ranges_while_running


@pytest.mark.parametrize("place", ["node", "import", "branch", "branch in a branch", "training"])
@pytest.mark.parametrize("domain", ["com.microsoft", "ai.onnx.ml", "ai.onnx ", "custom"])
def test_another_operator_domain_is_refused_wherever_it_stands(
    tmp_path: Path, place: str, domain: str
) -> None:
    model = tiny(tmp_path)
    if place == "import":
        model.opset_import.append(helper.make_opsetid(domain, 1))
    elif place == "training":
        model.training_info.add().algorithm.node.append(foreign_node(domain))
    else:
        node = foreign_node(domain)
        for _ in range(place.count("branch")):
            node = inside_a_branch(node)
        model.graph.node.append(node)
    with pytest.raises(ModelIntegrityError, match=f"operators of the domain '{domain}', wanted"):
        check_file(model.SerializeToString(), "tiny.onnx")


@pytest.mark.parametrize("domain", ["", "ai.onnx", "custom"])
def test_functions_are_refused_even_in_onnxs_own_domain(tmp_path: Path, domain: str) -> None:
    """One named like an operator would take its place."""
    model = tiny(tmp_path)
    model.functions.append(
        helper.make_function(
            domain,
            "Relu",
            ["x"],
            ["y"],
            [helper.make_node("Identity", ["x"], ["y"])],
            [helper.make_opsetid("", 18)],
        )
    )
    with pytest.raises(ModelIntegrityError, match="defines operators of its own"):
        check_file(model.SerializeToString(), "tiny.onnx")


@pytest.mark.parametrize("place", ["initializer", "branch", "sparse", "training"])
def test_a_tensor_in_another_file_is_refused_wherever_it_stands(tmp_path: Path, place: str) -> None:
    model = tiny(tmp_path)
    tensor = TensorProto(name="outside", data_type=TensorProto.FLOAT, dims=[1])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="secret.bin")
    if place == "initializer":
        model.graph.initializer.append(tensor)
    elif place == "sparse":
        model.graph.sparse_initializer.add().values.CopyFrom(tensor)
    elif place == "training":
        model.training_info.add().initialization.initializer.append(tensor)
    else:
        constant = helper.make_node("Constant", [], ["outside"], value=tensor)
        model.graph.node.append(inside_a_branch(constant))
    with pytest.raises(ModelIntegrityError, match="keeps tensors in other files"):
        check_file(model.SerializeToString(), "tiny.onnx")


def test_a_graph_that_finds_its_ranges_while_running_is_known_by_its_operators(
    tmp_path: Path,
) -> None:
    model = tiny(tmp_path)
    model.graph.node.append(helper.make_node("DynamicQuantizeLinear", ["raw"], ["a", "b", "c"]))
    assert read_contents(model.SerializeToString()).finds_ranges_while_running


def test_every_cut_of_a_file_is_refused_or_read_but_never_another_error(tmp_path: Path) -> None:
    data = tiny(tmp_path).SerializeToString()
    for end in range(0, len(data), 97):
        try:
            check_file(data[:end], "tiny.onnx")
        except ModelIntegrityError:
            continue


def test_no_engine_sees_a_file_that_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_tiny_model(tmp_path)
    model = onnx.load_model(path)
    model.graph.node.append(foreign_node())
    data = model.SerializeToString()
    path.write_bytes(data)
    manifest = read_manifest(path)
    write_manifest(dataclasses.replace(manifest, sha256=sha256_of_bytes(data)), tmp_path)
    for engine in ("onnxruntime", "openvino"):
        monkeypatch.setitem(sys.modules, engine, None)  # whoever imports one gets another error
    for device in ("auto", "cpu", "openvino"):
        with pytest.raises(ModelIntegrityError, match=r"domain 'com\.microsoft'"):
            Embedder(path, device=device)


def test_the_bundled_model_is_allowed() -> None:
    from procmem.embedder import _bundled_folder

    for path in _bundled_folder().glob("*.onnx"):
        check_file(path.read_bytes(), path.name)


def test_values_of_tensors_are_not_read_as_structure(tmp_path: Path) -> None:
    """Weights whose bytes look like a foreign node are weights."""
    model = tiny(tmp_path)
    node = foreign_node().SerializeToString()
    tensor = numpy_helper.from_array(np.frombuffer(node, dtype=np.uint8), "bytes")
    model.graph.initializer.append(tensor)
    check_file(model.SerializeToString(), "tiny.onnx")
