import importlib.util
import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from tests.export.checkpoints import write_checkpoint
from timm.layers import resample_abs_pos_embed
from torch.nn import functional

from procmem import Embedder
from procmem.errors import (
    CheckpointError,
    ExportError,
    InputError,
    MissingExtraError,
    ParityError,
)
from procmem.manifest import read_verified, sha256_of_bytes
from procmem.preprocess import center_view
from procmem.types import Embedding
from procmem.weights import compare_weights
from procmem_export import any_side, trace
from procmem_export import export as conductor
from procmem_export.any_side import AnySide
from procmem_export.cli import main
from procmem_export.export import Built, export
from procmem_export.formats import FORMATS, ExportOptions, default_output, plan
from procmem_export.gate import gate_sides
from procmem_export.onnx_format import check_self_contained, store_in_half
from procmem_export.parity import compare
from procmem_pretrain import checkpoint
from procmem_pretrain.vit import Perception, make_vit

# A gate on few images: seconds instead of a minute.
QUICK = ("--probes", "4", "--programs", "2")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), seed=1)


@pytest.fixture(scope="module")
def exported(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The CLI's own export, made once: it takes seconds."""
    output = tmp_path_factory.mktemp("exported") / "vit-tiny.onnx"
    arguments = [str(source), "--out", str(output), *QUICK, "--json"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["path"] == str(output)
    assert document["sha256"] == sha256_of_bytes(output.read_bytes())
    return output


def test_the_exported_model_passes_the_gate_and_says_so(exported: Path) -> None:
    manifest, _ = read_verified(exported)
    assert manifest.parity["cls_cosine_min"] >= 0.9999
    assert manifest.parity["patch_cosine_mean"] >= 0.9999
    assert manifest.parity["nearest_agreement"] == 1.0


def test_the_manifest_chains_the_model_to_its_checkpoint(source: Path, exported: Path) -> None:
    manifest, _ = read_verified(exported)
    assert manifest.kind == "onnx"
    assert manifest.origin.chain[-1] == ("checkpoint", sha256_of_bytes(source.read_bytes()))


def test_a_checkpoint_with_registers_gives_a_model_without_them_in_its_answers(
    tmp_path: Path,
) -> None:
    source = write_checkpoint(tmp_path, seed=4, registers=4)
    output = tmp_path / "registered.onnx"
    result = CliRunner().invoke(main, [str(source), "--out", str(output), *QUICK])
    assert result.exit_code == 0, result.output
    manifest, model = checkpoint.load_perception(source)
    image = np.random.default_rng(4).integers(0, 256, (300, 260, 3), np.uint8)
    embedding = Embedder(output).embed([image])
    with torch.no_grad():
        view = torch.from_numpy(center_view(image, manifest.preprocessing))[None]
        cls, patches = model(view)
    assert embedding.patches.shape == (1, 14, 14, 192)
    # The gate's own bounds on a cosine.
    assert (embedding.cls @ cls.numpy().T).item() >= 0.9999
    cosine = functional.cosine_similarity(torch.from_numpy(embedding.patches), patches, dim=3)
    assert cosine.min().item() >= 0.9999
    comparison = compare_weights(output.read_bytes(), source.read_bytes())
    assert comparison.problem is None
    with_other = write_checkpoint(tmp_path, seed=5, registers=4)
    assert compare_weights(output.read_bytes(), with_other.read_bytes()).problem is not None


def test_the_file_is_self_contained_and_names_no_path_of_this_machine(exported: Path) -> None:
    data = exported.read_bytes()
    check_self_contained(data)
    for told in (str(Path.home()), str(Path(conductor.__file__).parent), "site-packages"):
        assert told.encode() not in data


def test_weights_of_a_compact_checkpoint_are_stored_in_half(exported: Path) -> None:
    proto = onnx.load_model_from_string(exported.read_bytes())
    sizes = {TensorProto.FLOAT: 0, TensorProto.FLOAT16: 0}
    for tensor in proto.graph.initializer:
        if tensor.data_type in sizes:
            sizes[tensor.data_type] += math.prod(tensor.dims)
    assert sizes[TensorProto.FLOAT] < 0.02 * sizes[TensorProto.FLOAT16]


def test_a_weight_that_half_cannot_hold_stays_in_float32() -> None:
    exact = np.arange(2048, dtype=np.float32)
    tensors = {"exact": exact, "inexact": exact + np.float32(1e-4), "huge": exact * 1e5}
    graph = helper.make_graph(
        [helper.make_node("Sum", list(tensors), ["sum"])],
        "three",
        [],
        [helper.make_tensor_value_info("sum", TensorProto.FLOAT, [2048])],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    store_in_half(proto)
    onnx.checker.check_model(proto)
    kinds = {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
    assert kinds == {
        "exact_half": TensorProto.FLOAT16,
        "inexact": TensorProto.FLOAT,
        "huge": TensorProto.FLOAT,
    }
    (total,) = ReferenceEvaluator(proto).run(None, {})
    assert np.array_equal(total, sum(tensors.values()))


def test_torch_and_the_sdk_give_the_same_embedding_of_another_image(
    source: Path, exported: Path
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (224, 300, 3), dtype=np.uint8)
    _, model = checkpoint.load_perception(source)
    with Embedder(exported, device="cpu") as embedder:
        ours = embedder.embed(image)
        view = torch.from_numpy(center_view(image, embedder.manifest.preprocessing))[None]
    with torch.no_grad():
        cls, patches = model(view)
    # float32 through blocks of 192 channels: errors grow to some 1e-5 of the values.
    assert np.abs(cls.numpy() - ours.cls).max() < 1e-4
    assert np.abs(patches.numpy() - ours.patches).max() < 1e-3 * np.abs(ours.patches).max()


def test_a_model_of_other_weights_fails_the_gate_and_leaves_no_file(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write_checkpoint(tmp_path, seed=2)
    foreign = Built(exported.read_bytes())
    monkeypatch.setattr(conductor, "build", lambda *_: foreign)
    before = set(tmp_path.iterdir())
    with pytest.raises(ParityError, match="no file was written"):
        export(other, tmp_path / "other.onnx", probes=2, programs=0)
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("side", [128, 160, 448])
def test_at_another_side_the_model_is_the_one_that_was_trained_at_several(
    source: Path, exported: Path, side: int
) -> None:
    """Parity with timm's own forward pass, whose interpolation of positions training used."""
    image = np.random.default_rng(1).integers(0, 256, (500, 600, 3), dtype=np.uint8)
    _, model = checkpoint.load_perception(source)
    with Embedder(exported, image_size=side, device="cpu") as embedder:
        ours = embedder.embed(image)
        view = torch.from_numpy(center_view(image, embedder.preprocessing))[None]
    assert view.shape == (1, 3, side, side)
    with torch.no_grad():
        cls, patches = model(view)
    report = compare(Embedding(cls.numpy(), patches.numpy()), ours)
    assert report.cls_cosine_min > 1 - 1e-4
    assert report.patch_cosine_min > 1 - 1e-4


@pytest.mark.parametrize("grid", [4, 7, 8, 10, 14, 28])
def test_positions_in_the_graph_are_those_of_training(grid: int) -> None:
    vit = make_vit("vit-tiny", root_seed=3)
    wanted = resample_abs_pos_embed(vit.pos_embed, [grid, grid], num_prefix_tokens=1)
    nothing = torch.zeros(1, 3, 16 * grid, 16 * grid)
    torch.nn.init.zeros_(vit.patch_embed.proj.weight)
    torch.nn.init.zeros_(vit.patch_embed.proj.bias)
    torch.nn.init.zeros_(vit.cls_token)
    tokens = []
    vit.blocks.register_forward_pre_hook(lambda _, arguments: tokens.append(arguments[0]))
    with torch.no_grad():
        AnySide(Perception(vit).eval())(nothing)
    assert torch.allclose(tokens[0], wanted, atol=1e-7)


def test_the_gate_measures_smaller_and_larger_sides_and_writes_them_down(exported: Path) -> None:
    manifest, _ = read_verified(exported)
    assert manifest.any_side
    assert gate_sides(manifest, plan(ExportOptions(), manifest)) == (224, 112, 448)
    for side in (112, 448):
        assert manifest.parity[f"cls_cosine_min_at_{side}"] >= 0.9999
        assert manifest.parity[f"patch_cosine_mean_at_{side}"] >= 0.9999


def test_an_engine_of_several_images_only_is_refused_before_it_is_built(exported: Path) -> None:
    manifest, _ = read_verified(exported)
    for batch in (None, 1, "any"):
        plan(ExportOptions(format="tensorrt", batch=batch), manifest)
    with pytest.raises(InputError, match=r"batch is 8.*take --batch any"):
        plan(ExportOptions(format="tensorrt", batch=8), manifest)


def test_a_model_that_is_right_at_its_own_side_only_fails_the_gate(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Positions from the nearest point of the table: the same at 224, another model at others."""

    def nearest(table: torch.Tensor, size: tuple[int, int], **_: object) -> torch.Tensor:
        return functional.interpolate(table, size=size, mode="nearest")

    monkeypatch.setattr(any_side, "functional", SimpleNamespace(interpolate=nearest))
    monkeypatch.setattr(trace, "_graphs", {})  # which know the code as it is
    with pytest.raises(ParityError, match="at 112 pixels"):
        export(source, tmp_path / "nearest.onnx", probes=2, programs=0)
    assert not list(tmp_path.iterdir())


def test_the_oldest_engine_that_is_taken_can_read_the_file(exported: Path) -> None:
    """ONNX Runtime 1.17 reads IR versions up to 9 and opsets up to 20."""
    proto = onnx.load_model_from_string(exported.read_bytes())
    assert proto.ir_version <= 9
    assert [(opset.domain, opset.version <= 20) for opset in proto.opset_import] == [("", True)]


def test_free_dimensions_have_the_names_that_engines_are_told(exported: Path) -> None:
    proto = onnx.load_model_from_string(exported.read_bytes())
    shapes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*proto.graph.input, *proto.graph.output)
    }
    assert shapes == {
        "images": ["N", 3, "S", "S"],
        "cls": ["N", 32],
        "patches": ["N", "h", "h", 192],
    }


def test_the_engine_folds_the_positions_once_it_is_told_the_side(
    exported: Path, tmp_path: Path
) -> None:
    options = onnxruntime.SessionOptions()
    options.add_free_dimension_override_by_name("N", 1)
    options.add_free_dimension_override_by_name("S", 448)
    options.optimized_model_filepath = str(tmp_path / "folded.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(exported.read_bytes(), options, providers=["CPUExecutionProvider"])
    left = {node.op_type for node in onnx.load(tmp_path / "folded.onnx").graph.node}
    assert not left & {"Resize", "Shape", "Range", "Cast"}


def test_parity_of_a_model_with_itself_is_one(exported: Path) -> None:
    with Embedder(exported, device="cpu") as embedder:
        images = list(np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8))
        embedding = embedder.embed(images)
    report = compare(embedding, embedding)
    assert report.cls_cosine_min == pytest.approx(1.0, abs=1e-6)
    assert report.nearest_agreement == 1.0


def test_an_existing_file_is_kept_without_force(source: Path, exported: Path) -> None:
    before = exported.read_bytes()
    with pytest.raises(ExportError, match="give --force"):
        export(source, exported)
    assert exported.read_bytes() == before


def test_a_misspelt_format_is_offered_the_right_name(source: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'onnx'"):
        export(source, tmp_path / "x.onnx", ExportOptions(format="onxn"))


def test_a_wrong_suffix_is_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"wants the suffix \.onnx"):
        export(source, tmp_path / "model.bin")


def test_a_missing_checkpoint_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, [str(tmp_path / "none.safetensors")])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: cannot load")
    assert result.stderr.count("\n") == 1


def test_a_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, seed=3)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="SHA-256"):
        export(path, tmp_path / "x.onnx")


def test_an_onnx_file_with_tensors_elsewhere_is_refused(exported: Path) -> None:
    proto = onnx.load_model_from_string(exported.read_bytes())
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../etc/passwd"
    with pytest.raises(ExportError):
        check_self_contained(proto.SerializeToString())


def test_an_onnx_file_of_a_foreign_domain_is_refused(exported: Path) -> None:
    proto = onnx.load_model_from_string(exported.read_bytes())
    proto.opset_import.add(domain="com.example", version=1)
    with pytest.raises(ExportError, match=r"com\.example"):
        check_self_contained(proto.SerializeToString())


def test_the_reports_beside_the_file_hold_the_figures_of_its_manifest(exported: Path) -> None:
    manifest, _ = read_verified(exported)
    document = json.loads(exported.with_suffix(".parity.json").read_text())
    assert document["sha256"] == manifest.sha256
    assert document["passed"]
    assert document["parity"]["224"]["cls_cosine_min"] == manifest.parity["cls_cosine_min"]
    assert document["retrieval"]["images"] == 16
    text = exported.with_suffix(".parity.md").read_text()
    assert manifest.sha256 in text
    assert "passed the gate" in text


def test_the_file_says_what_it_takes_to_programs_that_read_no_manifest(
    source: Path, exported: Path
) -> None:
    proto = onnx.load_model_from_string(exported.read_bytes())
    said = {entry.key: entry.value for entry in proto.metadata_props}
    assert said["procmem.mean"] == "0.5 0.5 0.5"
    assert said["procmem.resize"] == "256"
    assert said["procmem.checkpoint_sha256"] == sha256_of_bytes(source.read_bytes())


def test_the_checkpoints_own_manifest_is_never_replaced(tmp_path: Path) -> None:
    checkpoint_file = write_checkpoint(tmp_path, seed=4)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for force in (False, True):
        with pytest.raises(ExportError, match=r"is the manifest of vit-shallow-4\.safetensors"):
            export(checkpoint_file, checkpoint_file.with_suffix(".onnx"), force=force)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_default_names_of_all_formats_differ_and_spare_the_manifest(tmp_path: Path) -> None:
    asked = [
        ExportOptions(format=name, precision=precision, pixels=pixels, batch=batch, dynamic=dynamic)
        for name, kind in FORMATS.items()
        for precision in kind.precisions
        for pixels in (False, True)
        for batch in (None, 4)
        for dynamic in (False, True)
    ]
    names = [default_output(tmp_path / "model.safetensors", options).stem for options in asked]
    assert len(set(names)) == len(names)
    assert "model" not in names


def test_an_unwritable_folder_is_refused_before_any_work(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root may write everywhere, so the refusal is the system call's.
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", refuse)
    monkeypatch.setattr(conductor, "load_source", lambda *_, **__: pytest.fail("worked first"))
    with pytest.raises(ExportError, match="cannot be written \\(Permission denied"):
        export(source, tmp_path / "x.onnx")


def test_a_missing_folder_and_a_folder_as_output_are_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="create it first"):
        export(source, tmp_path / "none" / "x.onnx")
    (tmp_path / "x.onnx").mkdir()
    with pytest.raises(ExportError, match="is a folder"):
        export(source, tmp_path / "x.onnx", force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["x.onnx"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (ExportOptions(precision="int8"), "did you mean|precision of onnx"),
        (ExportOptions(format="onnx-int8", precision="float16"), "precision of onnx-int8"),
        (ExportOptions(image_size=225), "the nearest is 224"),
        (ExportOptions(batch=0), "at least 1, or 'any'"),
        (ExportOptions(dynamic=True), "belongs to --format onnx-int8"),
        (ExportOptions(format="tensorrt", pixels=True), "takes prepared views"),
        (ExportOptions(optimization_level=5), "--optimization-level belongs to --format tensorrt"),
        (ExportOptions(workspace_gib=1.0), "--workspace belongs to --format tensorrt"),
    ],
)
def test_what_a_format_cannot_do_is_refused(
    source: Path, tmp_path: Path, options: ExportOptions, message: str
) -> None:
    suffix = FORMATS[options.format].suffix
    with pytest.raises(InputError, match=message):
        export(source, tmp_path / f"x{suffix}", options)
    assert not list(tmp_path.iterdir())


def test_a_folder_in_the_place_of_a_checkpoint_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder; give the checkpoint's file"):
        default_output(tmp_path, ExportOptions())


def test_tensorrt_without_its_package_says_what_to_install(source: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("tensorrt"):
        pytest.skip("TensorRT is installed here")
    output = tmp_path / "x.engine"
    with pytest.raises(MissingExtraError, match=r"procmem\[tensorrt\]"):
        export(source, output, ExportOptions(format="tensorrt"))


def test_the_command_may_be_named_or_left_out(tmp_path: Path) -> None:
    for command in ([], ["export"]):
        result = CliRunner().invoke(main, [*command, "--format", "onxn", str(tmp_path / "x")])
        assert result.exit_code == 2
        assert "did you mean 'onnx'" in result.stderr
    listed = CliRunner().invoke(main, ["--help"])
    assert listed.exit_code == 0
    assert "export" in listed.stdout
