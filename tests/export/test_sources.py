from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from tests.export.checkpoints import write_checkpoint

from procmem import Embedder
from procmem.errors import CheckpointError, ExportError, InputError
from procmem_export.export import export
from procmem_export.formats import ExportOptions
from procmem_export.onnx_format import to_onnx
from procmem_export.sources import load_source

NAME = "vit_tiny_patch16_224"


def make(name: str = NAME, **options: Any) -> Any:
    torch.manual_seed(5)
    return timm.create_model(name, num_classes=0, dynamic_img_size=True, **options).eval()


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def assert_same(vit: Any, path: Path, **options: Any) -> None:
    _, model = load_source(path, **options)
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = vit.forward_features(images)
        cls, patches = model(images)
    assert torch.equal(cls, torch.nn.functional.normalize(wanted[:, 0], dim=1))
    assert torch.equal(patches.flatten(1, 2), wanted[:, vit.num_prefix_tokens :])


def test_a_state_dict_of_timm_is_that_model(tmp_path: Path) -> None:
    vit = make()
    assert_same(vit, saved(tmp_path / "plain.pth", vit.state_dict()))


def test_safetensors_without_a_manifest_are_read_too(tmp_path: Path) -> None:
    vit = make()
    path = tmp_path / "plain.safetensors"
    safetensors.torch.save_file(vit.state_dict(), path)
    assert_same(vit, path)


def test_the_teacher_is_taken_out_of_a_checkpoint_of_dino(tmp_path: Path) -> None:
    """As facebookresearch/dino saves it: student and teacher, wrapped twice, heads beside."""
    teacher, student = make(), make()
    torch.nn.init.normal_(student.cls_token)

    def wrapped(vit: Any) -> dict[str, torch.Tensor]:
        named = {f"module.backbone.{k}": v for k, v in vit.state_dict().items()}
        return {**named, "module.head.mlp.0.weight": torch.zeros(8, 192)}

    content = {"student": wrapped(student), "teacher": wrapped(teacher), "epoch": 7}
    assert_same(teacher, saved(tmp_path / "dino.pth", content))


def test_a_classifier_beside_the_perception_is_left_out(tmp_path: Path) -> None:
    vit = timm.create_model(NAME, num_classes=10).eval()
    path = saved(tmp_path / "classifier.pth", {"state_dict": vit.state_dict()})
    assert_same(vit.train(False), path) if vit.dynamic_img_size else load_source(path)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vit_small_patch14_reg4_dinov2", {"img_size": 112}),  # registers, layer scale
        ("deit3_small_patch16_224", {}),  # no position for the class token
        ("vit_small_patch8_224", {}),
        ("vit_small_patch16_224", {"img_size": 96}),  # a table of another size
    ],
)
def test_relatives_of_the_plain_vit_answer_as_in_timm(
    tmp_path: Path, name: str, options: dict[str, Any]
) -> None:
    vit = make(name, **options)
    path = saved(tmp_path / "relative.pth", vit.state_dict())
    manifest, model = load_source(path, architecture=name)
    patch = manifest.patch_size
    images = torch.randn(1, 3, 4 * patch, 4 * patch, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = vit.forward_features(images)
        cls, patches = model(images)
    assert torch.equal(cls, torch.nn.functional.normalize(wanted[:, 0], dim=1))
    assert torch.equal(patches.flatten(1, 2), wanted[:, vit.num_prefix_tokens :])
    # And so does the graph, at a side that its table of positions was not made for; of two blocks,
    # which say as much as twelve.
    model.vit.blocks = model.vit.blocks[:2]
    from onnx.reference import ReferenceEvaluator

    side = 5 * patch
    images = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(2))
    answers = ReferenceEvaluator(to_onnx(model, side=side, batch=1)).run(
        None, {"images": images.numpy()}
    )
    with torch.no_grad():
        expected = model(images)
    for got, want in zip(answers, expected, strict=True):
        np.testing.assert_allclose(got, want.numpy(), atol=2e-3 * want.abs().max().item())


def test_a_foreign_checkpoint_is_exported_and_marked_as_trained_on_real_data(
    tmp_path: Path,
) -> None:
    path = saved(tmp_path / "foreign.pth", make().state_dict())
    output = tmp_path / "foreign.onnx"
    export(path, output, probes=2, programs=0)
    with Embedder(output, device="cpu") as embedder:
        assert embedder.manifest.origin.trained_on_real_data
        assert embedder.manifest.preprocessing.mean == (0.485, 0.456, 0.406)
        assert embedder.manifest.architecture == NAME


def test_the_normalization_can_be_chosen(tmp_path: Path) -> None:
    path = saved(tmp_path / "half.pth", make().state_dict())
    manifest, _ = load_source(path, normalization="half")
    assert manifest.preprocessing.mean == (0.5, 0.5, 0.5)
    with pytest.raises(InputError, match="did you mean 'imagenet'"):
        load_source(path, normalization="imagenett")


def test_options_for_foreign_checkpoints_are_refused_for_procmems_own(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, seed=1)
    with pytest.raises(InputError, match="states its architecture"):
        load_source(path, architecture=NAME)


class Evil:
    """A pickle that would run a command when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return (Path.touch, (self.marker,))


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    path = saved(tmp_path / "evil.pth", {"state_dict": make().state_dict(), "x": Evil(marker)})
    with pytest.raises(CheckpointError, match="no checkpoint of plain tensors"):
        load_source(path)
    assert not marker.exists()


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04", b"\x80\x02."])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".bin"])
def test_a_file_that_is_no_checkpoint_is_refused(
    tmp_path: Path, content: bytes, suffix: str
) -> None:
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="cannot load"):
        load_source(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.pth", tmp_path, tmp_path / "none.safetensors"):
        with pytest.raises(CheckpointError, match="cannot load"):
            load_source(path)


def test_weights_that_are_no_vit_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "cnn.pth", {"conv1.weight": torch.zeros(8, 3, 3, 3)})
    with pytest.raises(CheckpointError, match="holds no ViT"):
        load_source(path)
    assert load_source.__doc__
    empty = saved(tmp_path / "list.pth", [torch.zeros(3)])
    with pytest.raises(CheckpointError, match="holds no ViT"):
        load_source(empty)


def test_missing_foreign_and_misshapen_tensors_are_named(tmp_path: Path) -> None:
    state = make().state_dict()
    del state["blocks.3.attn.qkv.weight"]
    with pytest.raises(CheckpointError, match=r"1 missing, such as blocks\.3\.attn\.qkv\.weight"):
        load_source(saved(tmp_path / "missing.pth", state))
    state = {**make().state_dict(), "extra.weight": torch.zeros(3)}
    with pytest.raises(CheckpointError, match=r"1 not in it, such as extra\.weight"):
        load_source(saved(tmp_path / "extra.pth", state))
    state = {**make().state_dict(), "norm.bias": torch.zeros(3)}
    with pytest.raises(CheckpointError, match=r"of another shape, such as norm\.bias"):
        load_source(saved(tmp_path / "shape.pth", state))


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    state = {**make().state_dict(), "norm.bias": torch.full((192,), float("nan"))}
    with pytest.raises(CheckpointError, match="NaN or infinite"):
        load_source(saved(tmp_path / "nan.pth", state))


def test_an_architecture_of_another_size_must_be_named(tmp_path: Path) -> None:
    vit = make("vit_little_patch16_reg4_gap_256")
    path = saved(tmp_path / "little.pth", vit.state_dict())
    with pytest.raises(CheckpointError, match="--architecture"):
        load_source(path)
    with pytest.raises(InputError, match="wanted a name that timm"):
        load_source(path, architecture="vit_tinny")
    with pytest.raises(CheckpointError, match=r"cannot build resnet18 .* name a plain ViT"):
        load_source(path, architecture="resnet18")


def test_a_vit_without_a_class_token_says_so(tmp_path: Path) -> None:
    vit = make("vit_little_patch16_reg4_gap_256")
    path = saved(tmp_path / "little.pth", vit.state_dict())
    with pytest.raises(ExportError, match="has not a class token"):
        export(
            path,
            tmp_path / "x.onnx",
            ExportOptions(),
            architecture="vit_little_patch16_reg4_gap_256",
            programs=0,
        )
    assert not (tmp_path / "x.onnx").exists()
