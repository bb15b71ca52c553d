from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from tests.export.checkpoints import write_checkpoint

from procmem import Embedder
from procmem.errors import ParityError
from procmem.manifest import read_verified
from procmem_export import quantize as module
from procmem_export import trace
from procmem_export.export import Exported, export
from procmem_export.formats import ExportOptions
from procmem_export.onnx_format import to_onnx
from procmem_export.quantize import quantize
from procmem_pretrain.checkpoint import load_perception
from procmem_pretrain.probes import PROBE_SEED

BUNDLED = Path(__file__).parents[2] / "checkpoints/vit-tiny.safetensors"


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The trained model in 8 bits, at a small side: random weights would round too kindly."""
    output = tmp_path_factory.mktemp("int8") / "int8.onnx"
    options = ExportOptions(format="onnx-int8", image_size=96)
    return export(BUNDLED, output, options, probes=8, programs=12)


def test_the_trained_model_passes_the_gate_in_8_bits(int8: Exported) -> None:
    report = int8.report.parity[96]
    assert report.cls_cosine_min >= 0.99
    assert report.patch_cosine_mean >= 0.99
    assert int8.report.retrieval is not None
    assert int8.report.retrieval.label_agreement >= 0.99
    assert report.cls_cosine_min < 0.999999, "nothing was rounded"


def test_the_linear_layers_are_int8_and_the_readout_and_attention_are_not(int8: Exported) -> None:
    proto = onnx.load(int8.file)
    weights = [t for t in proto.graph.initializer if t.data_type == onnx.TensorProto.INT8]
    matrices = [tuple(t.dims) for t in weights if len(t.dims) == 2]
    # 12 blocks of 4 layers, but for those that cost the most likeness.
    assert 48 - module.MOST_KEPT <= len(matrices) <= 48
    assert not any(19 * 192 in dims for dims in matrices)
    operators = Counter(node.op_type for node in proto.graph.node)
    assert operators["QuantizeLinear"] >= len(matrices) // 2
    assert {node.domain for node in proto.graph.node} <= {"", "ai.onnx"}


def test_weights_have_a_scale_for_each_output_channel(int8: Exported) -> None:
    proto = onnx.load(int8.file)
    tensors = {t.name: t for t in proto.graph.initializer}
    scales = [
        tensors[node.input[1]].dims
        for node in proto.graph.node
        if node.op_type == "DequantizeLinear"
        and node.input[0] in tensors
        and len(tensors[node.input[0]].dims) == 2
    ]
    assert scales
    assert all(len(dims) == 1 and dims[0] >= 192 for dims in scales)


def test_the_manifest_tells_the_calibration_and_that_no_real_image_took_part(
    int8: Exported,
) -> None:
    manifest, _ = read_verified(int8.file)
    assert manifest.precision == "int8"
    assert manifest.calibration["images"] == module.CALIBRATION_IMAGES
    assert manifest.calibration["process"].startswith("shaders")
    assert manifest.calibration["seed"] == module.CALIBRATION_SEED != PROBE_SEED


def test_the_sdk_opens_it_at_its_one_side(int8: Exported) -> None:
    with Embedder(int8.file, device="cpu") as embedder:
        assert embedder.side == 96
        image = np.random.default_rng(0).integers(0, 256, (100, 120, 3), dtype=np.uint8)
        assert embedder.embed(image).patches.shape == (1, 6, 6, 192)


def test_ranges_found_while_running_need_no_images(tmp_path: Path) -> None:
    _, model = load_perception(BUNDLED)
    dynamic = quantize(to_onnx(model, side=64, batch=1), None)
    operators = Counter(node.op_type for node in dynamic.graph.node)
    assert operators["DynamicQuantizeLinear"] > 0
    assert operators["MatMulInteger"] == 48
    assert {node.domain for node in dynamic.graph.node} <= {"", "ai.onnx"}


@pytest.mark.parametrize("batch", [1, 5, 16, 64, 100])
def test_all_images_find_the_ranges_whatever_the_graphs_batch(batch: int) -> None:
    views = np.random.default_rng(0).standard_normal((64, 3, 4, 4)).astype(np.float32)
    runs = [feed["images"] for feed in iter(module._Reader(views, batch).get_next, None)]
    assert {run.shape for run in runs} == {(batch, 3, 4, 4)}
    seen = np.concatenate(runs)
    assert np.array_equal(seen[:64], views)
    assert (seen[64:] == views[-1]).all()


def test_a_graph_of_a_large_batch_is_quantized() -> None:
    _, model = load_perception(BUNDLED)
    views = np.random.default_rng(0).standard_normal((20, 3, 64, 64)).astype(np.float32)
    quantized = quantize(to_onnx(model, side=64, batch=32), views)
    assert any(node.op_type == "QuantizeLinear" for node in quantized.graph.node)


def test_the_layer_that_costs_most_likeness_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """One layer is given an input with an outlier, which leaves few steps for all else."""
    generator = np.random.default_rng(0)
    weights = [generator.standard_normal((8, 8)).astype(np.float32) for _ in range(3)]
    # Everything the second layer reads is small but for one number, which its weights ignore.
    weights[0][:, 0] = 0
    bias = np.zeros(8, np.float32)
    bias[0] = 3000
    weights[1][0] = 0
    h = onnx.helper
    nodes, name = [], "images"
    nodes.append(h.make_node("ReduceMean", [name, "axes"], ["flat"], keepdims=0))
    name = "flat"
    for number in range(3):
        nodes.append(
            h.make_node(
                "Gemm", [name, f"w{number}", f"b{number}"], [f"y{number}"], f"layer{number}"
            )
        )
        name = f"y{number}"
    nodes.append(h.make_node("LpNormalization", [name], ["cls"], axis=1))
    tensors = {f"w{n}": w for n, w in enumerate(weights)}
    tensors |= {"b0": bias, "b1": np.zeros(8, np.float32), "b2": np.zeros(8, np.float32)}
    tensors["axes"] = np.array([1, 3], np.int64)
    graph = h.make_graph(
        nodes,
        "layers",
        [h.make_tensor_value_info("images", 1, [1, 3, 8, 8])],
        [h.make_tensor_value_info("cls", 1, [1, 8])],
        [onnx.numpy_helper.from_array(v, k) for k, v in tensors.items()],
    )
    proto = h.make_model(graph, opset_imports=[h.make_opsetid("", 18)], ir_version=9)
    views = generator.standard_normal((16, 3, 8, 8)).astype(np.float32)
    seen: list[list[str]] = []
    monkeypatch.setattr(module, "simplified", lambda given: given)
    monkeypatch.setattr(module, "_readout", lambda given: [])
    find = module.most_sensitive

    def spy(*arguments: object) -> list[str]:
        seen.append(find(*arguments))  # type: ignore[arg-type]
        return seen[-1]

    monkeypatch.setattr(module, "most_sensitive", spy)
    quantized = quantize(proto, views)
    assert seen[0][0] == "layer1"
    makers = {output for node in quantized.graph.node for output in node.output}
    (layer,) = [node for node in quantized.graph.node if node.name == "layer1"]
    assert layer.input[0] == "y0"
    assert layer.input[0] in makers


def test_a_model_that_rounding_ruins_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The readout in 8 bits is such a case; kept as asked, the report says so."""
    monkeypatch.setattr(module, "_readout", lambda proto: [])
    monkeypatch.setattr(module, "most_sensitive", lambda *_: [])
    options = ExportOptions(format="onnx-int8", image_size=64, dynamic=True)
    output = tmp_path / "ruined.onnx"
    with pytest.raises(ParityError, match="--accept-parity"):
        export(BUNDLED, output, options, probes=4, programs=0)
    assert not list(tmp_path.iterdir())
    done = export(BUNDLED, output, options, probes=4, programs=0, accept_parity=True)
    assert done.report.failures
    text = output.with_suffix(".parity.md").read_text()
    assert "did not pass the gate; it was kept because that was asked for" in text
    assert "Below the gate: at 64 pixels" in text


def test_the_same_checkpoint_gives_the_same_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_checkpoint(tmp_path, seed=1)
    options = ExportOptions(format="onnx-int8", image_size=64)
    files = []
    for name in ("one", "two"):
        monkeypatch.setattr(trace, "_graphs", {})  # traced each time
        made = export(source, tmp_path / f"{name}.onnx", options, probes=2, programs=0)
        files.append(made.file.read_bytes())
    assert files[0] == files[1]
