"""Models that attack, or are broken: all refused with one clear error, none executed.

An attacker is given everything but the code: model and manifest are theirs, so every hash fits
unless the attack is that it does not.
"""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
import pickle
import tempfile
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="the tests build their files with onnx")

from hypothesis import given, settings  # noqa: E402  after the skip
from hypothesis import strategies as st  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from tests.tiny_model import write_tiny_model  # noqa: E402

from procmem import Embedder  # noqa: E402
from procmem.backends import onnxruntime as engine  # noqa: E402
from procmem.backends import openvino as other_engine  # noqa: E402
from procmem.backends.onnx_file import ALLOWED_DOMAINS, MAX_NODES, check_file  # noqa: E402
from procmem.backends.operators import ALLOWED_OPERATORS  # noqa: E402
from procmem.errors import ModelIntegrityError, ProcmemError  # noqa: E402
from procmem.manifest import Manifest, read_manifest, sha256_of_bytes, write_manifest  # noqa: E402

Model = Any  # an onnx.ModelProto
Attack = Callable[[Model], "Model | bytes | None"]


def external(model: Model, location: str, **more: str) -> None:
    """Moves the first weights to a place outside of the file."""
    move(model.graph.initializer[0], location, **more)


def move(tensor: Any, location: str, **more: str) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **more}.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value


def outside(location: str = "/etc/hostname") -> Any:
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), "stolen")
    move(tensor, location)
    return tensor


def add_node(model: Model, *arguments: Any, **attributes: Any) -> None:
    model.graph.node.insert(0, helper.make_node(*arguments, **attributes))


def branch(inner: Any) -> Any:
    graph = helper.make_graph([inner], "inner", [], [])
    return helper.make_node("If", ["c"], ["y"], then_branch=graph, else_branch=graph)


def external_without_entries(model: Model) -> None:
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL


def external_entries_only(model: Model) -> None:
    entry = model.graph.initializer[0].external_data.add()
    entry.key, entry.value = "location", "../weights.bin"


def external_in_a_constant(model: Model) -> None:
    add_node(model, "Constant", [], ["stolen"], value=outside())


def external_in_a_branch(model: Model) -> None:
    model.graph.node.append(branch(helper.make_node("Constant", [], ["s"], value=outside())))


def external_in_a_list_of_tensors(model: Model) -> None:
    node = helper.make_node("Constant", [], ["s"])
    attribute = node.attribute.add(name="values", type=onnx.AttributeProto.TENSORS)
    attribute.tensors.append(outside())
    model.graph.node.append(node)


def external_in_a_training_graph(model: Model) -> None:
    model.training_info.add().initialization.initializer.append(outside())


def sparse(model: Model, values: Any) -> None:
    indices = numpy_helper.from_array(np.arange(4, dtype=np.int64), "indices")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [8]))


def function(model: Model) -> None:
    node = helper.make_node("Add", ["a", "a"], ["b"])
    opset = helper.make_opsetid("", 18)
    model.functions.append(helper.make_function("", "Relu", ["a"], ["b"], [node], [opset]))


def domain(model: Model, name: str) -> None:
    model.graph.node[0].domain = name


def imported(model: Model, name: str) -> None:
    model.opset_import.append(helper.make_opsetid(name, 1))


def claim(model: Model, *dimensions: int) -> None:
    model.graph.initializer[0].dims[:] = dimensions


def huge_typed(model: Model) -> None:
    tensor = TensorProto(name="huge", data_type=TensorProto.FLOAT, dims=[1 << 30])
    tensor.float_data.extend([0.0] * 4)
    model.graph.initializer.append(tensor)


def empty_huge(model: Model) -> None:
    tensor = TensorProto(name="huge", data_type=TensorProto.FLOAT, dims=[1 << 40])
    model.graph.initializer.append(tensor)


def texts(model: Model) -> None:
    tensor = helper.make_tensor("texts", TensorProto.STRING, [1], [b"rm"])
    model.graph.initializer.append(tensor)


def many_nodes(model: Model) -> None:
    model.graph.node.extend([helper.make_node("Identity", ["a"], ["b"])] * (MAX_NODES + 1))


def deep(model: Model) -> None:
    node = helper.make_node("Identity", ["a"], ["b"])
    for _ in range(6):  # each holds the one before twice
        node = branch(node)
    model.graph.node.append(node)


def varint(number: int) -> bytes:
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*parts, number))


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def two_graphs(model: Model) -> bytes:
    """Protobuf merges them: what a checker reads first is not what an engine runs."""
    hidden = helper.make_graph([], "hidden", [], [], [outside()])
    return bytes(model.SerializeToString() + field(7, hidden.SerializeToString()))


def two_harmless_graphs(model: Model) -> bytes:
    return bytes(model.SerializeToString() + field(7, model.graph.SerializeToString()))


def merged_tensor(model: Model) -> bytes:
    """One attribute with two tensors, which merge into one that claims far more numbers."""
    small = numpy_helper.from_array(np.zeros(1 << 10, np.float32)).SerializeToString()
    attribute = field(1, b"value") + field(5, small) + field(5, small)
    node = field(2, b"c") + field(4, b"Constant") + field(5, attribute)
    return bytes(model.SerializeToString() + field(7, field(1, node)))


def second_domain(model: Model) -> bytes:
    """A node with two domains, of which the last one counts: or, for another parser, the first."""
    node = model.graph.node.pop(0).SerializeToString()
    node += field(7, b"com.example") + field(7, b"ai.onnx")
    graph = field(1, node) + model.graph.SerializeToString()
    model.ClearField("graph")
    return bytes(model.SerializeToString() + field(7, graph))


# Refused by what their bytes or manifests say: no engine is asked.
BEFORE_ANY_ENGINE: dict[str, Attack] = {
    "external data beside the model": lambda m: external(m, "weights.bin"),
    "external data one folder up": lambda m: external(m, "../weights.bin"),
    "external data by traversal": lambda m: external(m, "../../../../etc/passwd"),
    "external data by an absolute path": lambda m: external(m, "/etc/passwd", length="16"),
    "external data by a file url": lambda m: external(m, "file:///etc/passwd"),
    "external data on a share": lambda m: external(m, "\\\\host\\share\\x"),
    "external data by a null byte": lambda m: external(m, "a.bin\0/../../etc/passwd"),
    "external data at a memory address": lambda m: external(
        m, "*/_ORT_MEM_ADDR_/*", offset="4096", length="64"
    ),
    "external data of the process": lambda m: external(m, "/proc/self/mem"),
    "external data that never ends": lambda m: external(m, "/dev/zero", length=str(1 << 40)),
    "external without entries": external_without_entries,
    "entries without external": external_entries_only,
    "external in a constant": external_in_a_constant,
    "external in a branch": external_in_a_branch,
    "external in a list of tensors": external_in_a_list_of_tensors,
    "external in a training graph": external_in_a_training_graph,
    "external in a sparse tensor": lambda m: sparse(m, outside()),
    "a sparse tensor": lambda m: sparse(
        m, numpy_helper.from_array(np.ones(4, np.float32), "values")
    ),
    "external in a second graph": two_graphs,
    "a second graph": two_harmless_graphs,
    "two tensors where one belongs": merged_tensor,
    "an operator of ONNX Runtime's": lambda m: domain(m, "com.microsoft"),
    "an operator of classical learning": lambda m: domain(m, "ai.onnx.ml"),
    "an operator of training": lambda m: domain(m, "ai.onnx.preview.training"),
    "an operator of somebody's": lambda m: domain(m, "com.example"),
    "a domain that looks like ONNX's": lambda m: domain(m, "ai.onnx "),
    "a domain in capitals": lambda m: domain(m, "AI.ONNX"),
    "a domain with a null byte": lambda m: domain(m, "ai.onnx\0com.example"),
    "a second domain on a node": second_domain,
    "an imported domain that nothing uses": lambda m: imported(m, "com.example"),
    "a function that replaces an operator": function,
    "a loop": lambda m: add_node(
        m,
        "Loop",
        ["", "c"],
        ["l"],
        body=helper.make_graph([], "body", [], []),
    ),
    "a scan": lambda m: add_node(
        m, "Scan", ["images"], ["s"], body=helper.make_graph([], "b", [], []), num_scan_inputs=1
    ),
    "branches in branches": deep,
    "random numbers": lambda m: add_node(m, "RandomNormal", [], ["r"], shape=[4]),
    "random numbers like others": lambda m: add_node(m, "Bernoulli", ["images"], ["r"]),
    "a text operator": lambda m: add_node(m, "StringNormalizer", ["images"], ["r"]),
    "a sequence": lambda m: add_node(m, "SequenceEmpty", [], ["s"]),
    "an image decoder": lambda m: add_node(m, "ImageDecoder", ["images"], ["s"]),
    "an operator that does not exist": lambda m: add_node(m, "Exec", ["images"], ["s"]),
    "a training graph": lambda m: m.training_info.add().algorithm.CopyFrom(m.graph),
    "texts for weights": texts,
    "weights that claim a terabyte": lambda m: claim(m, 1 << 20, 1 << 18),
    "weights whose claim overflows": lambda m: claim(m, 1 << 32, 1 << 32, 4),
    "weights of a negative dimension": lambda m: claim(m, -1, 3, 16, 16),
    "weights that claim fewer than they hold": lambda m: claim(m, 1),
    "typed weights that claim more": huge_typed,
    "weights that claim and hold nothing": empty_huge,
    "weights of an unknown type": lambda m: setattr(m.graph.initializer[0], "data_type", 99),
    "weights of no type": lambda m: setattr(m.graph.initializer[0], "data_type", 0),
    "more operators than any model": many_nodes,
    "an empty file": lambda m: b"",
    "half a file": lambda m: m.SerializeToString()[: len(m.SerializeToString()) // 2],
    "all but the last byte": lambda m: m.SerializeToString()[:-1],
    "text": lambda m: b"this is a model, honestly\n" * 40,
    "a compressed model": lambda m: gzip.compress(m.SerializeToString()),
    "a pickle": lambda m: pickle.dumps({"weights": [1, 2, 3]}),
    "a zip archive": lambda m: zipped(m.SerializeToString()),
    "an OpenVINO model": lambda m: b'<?xml version="1.0"?><net name="m" version="11"></net>',
    "a length beyond the file": lambda m: m.SerializeToString() + b"\x3a\xff\xff\xff\x7f",
    "a number that never ends": lambda m: m.SerializeToString() + b"\x08" + b"\xff" * 40,
    "a group": lambda m: m.SerializeToString() + b"\x3b\x3c",
}


def zipped(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("model.onnx", data)
    return buffer.getvalue()


def output(model: Model, *arguments: Any) -> None:
    model.graph.output.append(helper.make_tensor_value_info(*arguments))


def divided_by(model: Model, value: float) -> None:
    """The class token without its length, and so of another."""
    (last,) = [node for node in model.graph.node if node.output[0] == "cls"]
    model.graph.initializer.append(numpy_helper.from_array(np.float32(value), "length2"))
    last.input[1] = "length2"


def swapped(model: Model) -> None:
    names = {"cls": "patches", "patches": "cls"}
    for node in model.graph.node:
        for ports in (node.input, node.output):
            ports[:] = [names.get(name, name) for name in ports]


def cyclic(model: Model) -> None:
    model.graph.node[0].input[0] = "cls"


def twice(model: Model) -> None:
    model.graph.node.append(model.graph.node[0])


def doubles(model: Model) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE


def wider(model: Model) -> None:
    """Filters for four channels: the graph contradicts itself."""
    values = numpy_helper.to_array(model.graph.initializer[0])
    wide = np.concatenate([values, values[:, :1]], axis=1)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(wide, "filters"))


# Such as only an engine finds out, by loading the graph or by running it on the probe.
BY_THE_ENGINE: dict[str, Attack] = {
    "no patch tokens": lambda m: m.graph.output.pop(),
    "a third output": lambda m: output(m, "mean", TensorProto.FLOAT, None),
    "outputs of swapped names": swapped,
    "a second input": lambda m: m.graph.input.append(
        helper.make_tensor_value_info("more", TensorProto.FLOAT, [1])
    ),
    "an input of doubles": doubles,
    "class tokens of NaN": lambda m: divided_by(m, float("nan")),
    "class tokens that are infinite": lambda m: divided_by(m, 0.0),
    "class tokens of another length": lambda m: divided_by(m, 1e-3),
    "a graph that feeds itself": cyclic,
    "an output that is made twice": twice,
    "an input that nothing makes": lambda m: m.graph.node.pop(0),
    "weights of the wrong shape": wider,
    "an operator set of the future": lambda m: setattr(m.opset_import[0], "version", 999),
    "an encoding of the future": lambda m: setattr(m, "ir_version", 999),
    "no graph": lambda m: m.ClearField("graph"),
    "no operator set": lambda m: m.opset_import.pop(),
}


def write(folder: Path, attack: Attack, **manifest: Any) -> Path:
    """A tiny model after an attack, with a manifest that fits it."""
    data, sound = tiny()
    model = onnx.load_model_from_string(data)
    changed = attack(model)
    data = changed if isinstance(changed, bytes) else model.SerializeToString()
    path = folder / sound.file
    path.write_bytes(data)
    stated = {"sha256": sha256_of_bytes(data), **manifest}
    write_manifest(dataclasses.replace(sound, **stated), folder)
    return path


@cache
def tiny() -> tuple[bytes, Manifest]:
    """A sound model and its manifest."""
    with tempfile.TemporaryDirectory() as folder:
        path = write_tiny_model(Path(folder))
        return path.read_bytes(), read_manifest(path)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The engines that were asked to open a file."""
    names: list[str] = []
    for module in (engine, other_engine):

        def spy(*arguments: Any, name: str = module.__name__, **named: Any) -> Any:
            names.append(name)
            raise AssertionError("an engine was given the file")

        monkeypatch.setattr(module, "open_session", spy)
    return names


def refusal(path: Path, **options: Any) -> ProcmemError:
    """The error that opening gives: one line that names the file."""
    with pytest.raises(ProcmemError) as found:
        Embedder(path, **options)
    text = str(found.value)
    assert path.name in text
    assert len(text.splitlines()[0]) > 40
    return found.value


@pytest.mark.parametrize("attack", BEFORE_ANY_ENGINE.values(), ids=BEFORE_ANY_ENGINE.keys())
def test_it_is_refused_before_any_engine_sees_it(
    tmp_path: Path, asked: list[str], attack: Attack
) -> None:
    path = write(tmp_path, attack)
    error = refusal(path, device="cpu")
    assert isinstance(error, ModelIntegrityError)
    assert asked == []


@pytest.mark.parametrize("device", ["auto", "openvino", "cuda", "tensorrt"])
def test_it_is_refused_on_every_device(tmp_path: Path, asked: list[str], device: str) -> None:
    path = write(tmp_path, lambda model: external(model, "/etc/passwd"))
    assert isinstance(refusal(path, device=device), ModelIntegrityError)
    assert asked == []


@pytest.mark.parametrize("attack", BY_THE_ENGINE.values(), ids=BY_THE_ENGINE.keys())
def test_a_broken_graph_gives_no_embedder(tmp_path: Path, attack: Attack) -> None:
    refusal(write(tmp_path, attack), device="cpu")


def test_the_spy_sees_a_sound_model(tmp_path: Path, asked: list[str]) -> None:
    with pytest.raises(AssertionError, match="an engine was given"):
        Embedder(write(tmp_path, lambda model: None), device="cpu")
    assert asked


MANIFESTS: dict[str, dict[str, Any]] = {
    "another hash": {"sha256": "0" * 64},
    "no hash": {"sha256": ""},
    "a checkpoint's kind": {"kind": "checkpoint"},
    "an engine's kind": {"kind": "tensorrt"},
    "an unknown kind": {"kind": "pickle"},
    "an unknown precision": {"precision": "float4"},
    "a wider class token": {"cls_dim": 49},
    "a narrower patch token": {"patch_dim": 3},
    "a class token of nothing": {"cls_dim": 0},
    "patches of another size": {"patch_size": 8},
    "patches of no size": {"patch_size": 0},
    "a negative patch": {"patch_size": -16},
    "pixels for views": {"input": "pixels"},
    "eight images at a time": {"batch": 8},
}


@pytest.mark.parametrize("stated", MANIFESTS.values(), ids=MANIFESTS.keys())
def test_a_manifest_that_does_not_fit_its_file_is_refused(
    tmp_path: Path, stated: dict[str, Any]
) -> None:
    refusal(write(tmp_path, lambda model: None, **stated), device="cpu")


@pytest.mark.parametrize("change", ["newer", "edited", "other file", "no object", "not JSON"])
def test_a_manifest_that_was_tampered_with_is_refused(tmp_path: Path, change: str) -> None:
    path = write(tmp_path, lambda model: None)
    manifest = path.with_suffix(".json")
    fields = json.loads(manifest.read_text())
    if change == "newer":
        fields["manifest_version"] = 99
    elif change == "edited":
        fields["cls_dim"] += 1
    elif change == "other file":
        fields["file"] = "../tiny.onnx"
    text = {"no object": "[]", "not JSON": "{"}.get(change) or json.dumps(fields)
    manifest.write_text(text)
    with pytest.raises(ModelIntegrityError, match=r"tiny\.json"):
        Embedder(path, device="cpu")


def test_a_model_made_for_one_side_is_not_run_at_another(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path, any_side=False)
    write_manifest(dataclasses.replace(read_manifest(path), any_side=True), tmp_path)
    refusal(path, device="cpu", image_size=448)


def test_there_are_more_than_fifty_attacks() -> None:
    assert len(BEFORE_ANY_ENGINE) + len(BY_THE_ENGINE) + len(MANIFESTS) > 80


def holds_what_is_forbidden(model: Model) -> bool:
    """The same rules by the real protobuf classes: the check's twin."""
    tensors = list(model.graph.initializer)
    nodes = list(model.graph.node)
    if model.functions or model.training_info or model.graph.sparse_initializer:
        return True
    if any(opset.domain not in ALLOWED_DOMAINS for opset in model.opset_import):
        return True
    for node in nodes:
        if node.domain not in ALLOWED_DOMAINS or node.op_type not in {*ALLOWED_OPERATORS, ""}:
            return True
        for attribute in node.attribute:
            if attribute.HasField("g") or attribute.graphs or attribute.HasField("sparse_tensor"):
                return True
            tensors += [*attribute.tensors, *([attribute.t] if attribute.HasField("t") else [])]
    return any(tensor.external_data or tensor.data_location for tensor in tensors)


ATTACKED = [
    attack
    for name, attack in BEFORE_ANY_ENGINE.items()
    if "file" not in name and "more operators" not in name
]


@settings(max_examples=1500, deadline=None)
@given(data=st.data())
def test_what_protobuf_reads_as_forbidden_is_refused_however_it_is_written(
    data: st.DataObject,
) -> None:
    """Checks are evaded where two parsers of one file differ: so bytes are moved at random."""
    model = onnx.load_model_from_string(tiny()[0])
    # Small weights, so that random changes meet structure and not numbers.
    del model.graph.initializer[:]
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(2, np.float32), "filters"))
    changed = data.draw(st.sampled_from([lambda m: None, *ATTACKED]))(model)
    mutable = bytearray(changed if isinstance(changed, bytes) else model.SerializeToString())
    for _ in range(data.draw(st.integers(0, 4))):
        if not mutable:
            break
        at = data.draw(st.integers(0, len(mutable) - 1))
        kind = data.draw(st.sampled_from(["set", "flip", "delete", "insert", "copy"]))
        if kind == "set":
            mutable[at] = data.draw(st.integers(0, 255))
        elif kind == "flip":
            mutable[at] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == "delete":
            del mutable[at : at + data.draw(st.integers(1, 20))]
        elif kind == "insert":
            mutable[at:at] = data.draw(st.binary(min_size=1, max_size=6))
        else:
            mutable[at:at] = mutable[at : at + data.draw(st.integers(1, 60))]
    try:
        parsed = onnx.load_model_from_string(bytes(mutable))
    except Exception:  # then an engine cannot read it either
        return
    if holds_what_is_forbidden(parsed):
        with pytest.raises(ModelIntegrityError):
            check_file(bytes(mutable), "mutated.onnx")
