"""Images to embeddings through a real, small ONNX model made here."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

onnx = pytest.importorskip("onnx", reason="the tests build their model with onnx")
pytest.importorskip("onnxruntime", reason="the embedder runs on onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402  after the skip

from procmem import embedder as embedder_module  # noqa: E402
from procmem.backends.onnxruntime import OnnxSession  # noqa: E402
from procmem.embedder import DEFAULT_MODEL, Embedder, bundled_models  # noqa: E402
from procmem.errors import (  # noqa: E402
    ImageDecodeError,
    ImageNotFoundError,
    InputError,
    MissingExtraError,
    ModelError,
    ModelIntegrityError,
    ModelNotFoundError,
)
from procmem.image import load_image  # noqa: E402
from procmem.manifest import (  # noqa: E402
    Manifest,
    Origin,
    Preprocessing,
    sha256_of_bytes,
    write_manifest,
)
from procmem.preprocess import decode_min_side, to_tensor  # noqa: E402

SIDE, PATCH, CLS_DIM, PATCH_DIM = 32, 8, 12, 6
GRID = SIDE // PATCH
PREPROCESSING = Preprocessing(resize=36, crop=SIDE)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What can be varied in the model; the defaults make a correct one."""

    side: int | str = SIDE
    patch_dim: int = PATCH_DIM
    cls_dim: int = CLS_DIM
    unit: bool = True
    cls_name: str = "cls"
    patches_name: str = "patches"
    dtype: int = TensorProto.FLOAT
    patch_gain: float = 1.0
    mixes_batch: bool = False  # adds the batch's mean image to every image


def weights() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """The patch embedding (P, 3, 8, 8) and the readout (2P, D)."""
    rng = np.random.default_rng(7)
    kernel = rng.standard_normal((PATCH_DIM, 3, PATCH, PATCH)).astype(np.float32) / PATCH
    readout = rng.standard_normal((2 * PATCH_DIM, CLS_DIM)).astype(np.float32)
    return kernel, readout


def build_model(recipe: Recipe = Recipe()) -> onnx.ModelProto:
    """Patches by a strided convolution; class token from their mean and maximum."""
    kernel, readout = weights()
    kernel = np.resize(kernel, (recipe.patch_dim, 3, PATCH, PATCH)) * np.float32(recipe.patch_gain)
    readout = np.resize(readout, (2 * recipe.patch_dim, recipe.cls_dim))
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["company"], axes=[0], keepdims=1),
        helper.make_node("Add", ["images", "company"], ["mixed"]),
        helper.make_node(
            "Conv",
            ["mixed" if recipe.mixes_batch else "images", "kernel"],
            ["grid"],
            strides=[PATCH, PATCH],
        ),
        helper.make_node("Transpose", ["grid"], [recipe.patches_name], perm=[0, 2, 3, 1]),
        helper.make_node("ReduceMean", ["grid"], ["mean"], axes=[2, 3], keepdims=0),
        helper.make_node("ReduceMax", ["grid"], ["max"], axes=[2, 3], keepdims=0),
        helper.make_node("Concat", ["mean", "max"], ["both"], axis=1),
        helper.make_node("MatMul", ["both", "readout"], ["raw"]),
        helper.make_node("ReduceL2", ["raw"], ["length"], axes=[1], keepdims=1),
        helper.make_node("Div", ["raw", "length" if recipe.unit else "two"], [recipe.cls_name]),
    ]
    side = recipe.side
    patches_shape = (
        ["N", None, None, recipe.patch_dim]
        if isinstance(side, str)
        else ["N", side // PATCH, side // PATCH, recipe.patch_dim]
    )
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", recipe.dtype, ["N", 3, side, side])],
        [
            helper.make_tensor_value_info(recipe.cls_name, recipe.dtype, ["N", recipe.cls_dim]),
            helper.make_tensor_value_info(recipe.patches_name, recipe.dtype, patches_shape),
        ],
        [
            numpy_helper.from_array(
                array.astype(helper.tensor_dtype_to_np_dtype(recipe.dtype)), name
            )
            for name, array in [("kernel", kernel), ("readout", readout), ("two", np.full(1, 2.0))]
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def save_model(folder: Path, data: bytes, **changes: object) -> Path:
    """Writes bytes as a model with a manifest that pins them; returns the model's path."""
    manifest = Manifest(
        kind="onnx",
        name="tiny",
        file="tiny.onnx",
        sha256=sha256_of_bytes(data),
        architecture="test",
        patch_size=PATCH,
        cls_dim=CLS_DIM,
        patch_dim=PATCH_DIM,
        preprocessing=PREPROCESSING,
        origin=Origin("none", 0, "0" * 64, "0.1.0", 0, 0),
    )
    manifest = dataclasses.replace(manifest, **changes)
    folder.mkdir(exist_ok=True)
    (folder / "tiny.onnx").write_bytes(data)
    write_manifest(manifest, folder)
    return folder / "tiny.onnx"


def noise(height: int = 50, width: int = 70, seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encode(pixels: npt.NDArray[np.uint8], kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"), build_model().SerializeToString())


@pytest.fixture(scope="module")
def tiny(model_path: Path) -> Iterator[Embedder]:
    with Embedder(model_path, device="cpu", threads=1) as embedder:
        yield embedder


@pytest.fixture
def bundled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands in for the one with the bundled models; empty at first."""
    folder = tmp_path / "models"
    folder.mkdir()
    monkeypatch.setattr(embedder_module, "_bundled_folder", lambda: folder)
    return folder


# What an embedding is


def test_embedding_equals_the_models_arithmetic(tiny: Embedder) -> None:
    image = noise()
    kernel, readout = weights()
    x = to_tensor([image], PREPROCESSING)[0].astype(np.float64)
    cells = x.reshape(3, GRID, PATCH, GRID, PATCH)
    patches = np.einsum("chiwj,pcij->hwp", cells, kernel.astype(np.float64))
    raw = np.concatenate([patches.mean(axis=(0, 1)), patches.max(axis=(0, 1))]) @ readout
    embedding = tiny.embed(image)
    np.testing.assert_allclose(embedding.patches[0], patches, atol=1e-5)
    np.testing.assert_allclose(embedding.cls[0], raw / np.linalg.norm(raw), atol=1e-5)


def test_class_tokens_are_float32_unit_vectors(tiny: Embedder) -> None:
    embedding = tiny.embed([noise(seed=seed) for seed in range(4)])
    assert embedding.cls.dtype == embedding.patches.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embedding.cls, axis=1), 1, atol=1e-6)


def test_attributes_come_from_the_verified_file(tiny: Embedder, model_path: Path) -> None:
    assert tiny.sha256 == sha256_of_bytes(model_path.read_bytes())
    assert (tiny.cls_dim, tiny.patch_dim, tiny.side, tiny.grid) == (12, 6, 32, (4, 4))
    assert tiny.device == "cpu"
    assert tiny.manifest.name == "tiny"


@pytest.mark.parametrize("mixes_batch", [False, True])
def test_an_embedding_does_not_depend_on_its_company(tmp_path: Path, mixes_batch: bool) -> None:
    # The model that mixes its batch makes any run of more than one image visible.
    path = save_model(tmp_path, build_model(Recipe(mixes_batch=mixes_batch)).SerializeToString())
    first, second = noise(seed=1), noise(seed=2)
    with Embedder(path, device="cpu") as embedder:
        alone, together = embedder.embed([first]), embedder.embed([first, second])
    assert together.cls[0].tobytes() == alone.cls[0].tobytes()
    assert together.patches[0].tobytes() == alone.patches[0].tobytes()


def test_order_is_kept(tiny: Embedder) -> None:
    images = [noise(seed=seed) for seed in range(5)]
    singles = np.concatenate([tiny.embed(image).cls for image in images])
    np.testing.assert_array_equal(tiny.embed(images).cls, singles)


def test_views_see_different_parts(tiny: Embedder) -> None:
    image = noise(40, 120)
    changed = image.copy()
    changed[:, :30] = 0
    center, whole = tiny.embed([image, changed]), tiny.embed([image, changed], view="whole")
    np.testing.assert_array_equal(center.cls[0], center.cls[1])
    assert not np.array_equal(whole.cls[0], whole.cls[1])


def test_prepared_tensors_give_the_same_embedding(tiny: Embedder) -> None:
    data = encode(noise(300, 400), "JPEG")
    pixels = load_image(data, min_side=decode_min_side(PREPROCESSING))
    by_stage = tiny.embed_tensors(to_tensor([pixels], PREPROCESSING))
    np.testing.assert_array_equal(by_stage.cls, tiny.embed(data).cls)
    np.testing.assert_array_equal(by_stage.patches, tiny.embed(data).patches)


def test_concurrent_calls_give_the_same_bits(tiny: Embedder) -> None:
    images = [noise(seed=seed) for seed in range(6)]
    expected = tiny.embed(images).cls
    results: dict[int, npt.NDArray[np.float32]] = {}
    threads = [
        threading.Thread(target=lambda at=at: results.update({at: tiny.embed(images).cls}))
        for at in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [0, 1, 2, 3]
    for result in results.values():
        np.testing.assert_array_equal(result, expected)


# What counts as one image and what as many


def test_every_form_of_one_image_is_one_image(tiny: Embedder, tmp_path: Path) -> None:
    pixels = noise()
    data = encode(pixels)
    path = tmp_path / "a.png"
    path.write_bytes(data)
    expected = tiny.embed([pixels]).cls
    picture = Image.fromarray(pixels)
    for form in (path, str(path), data, bytearray(data), memoryview(data), picture, pixels):
        np.testing.assert_array_equal(tiny.embed(form).cls, expected)


def test_every_iterable_is_many_images(tiny: Embedder) -> None:
    images = [noise(seed=1), noise(seed=2)]
    expected = tiny.embed(images).cls
    assert expected.shape == (2, CLS_DIM)
    for form in (tuple(images), iter(images), (image for image in images), np.stack(images)):
        np.testing.assert_array_equal(tiny.embed(form).cls, expected)


@pytest.mark.parametrize("empty", [[], (), iter(()), np.zeros((0, 4, 4, 3), np.uint8)])
def test_no_images_give_empty_arrays_of_the_right_width(tiny: Embedder, empty: object) -> None:
    embedding = tiny.embed(empty)
    assert embedding.cls.shape == (0, CLS_DIM)
    assert embedding.patches.shape == (0, GRID, GRID, PATCH_DIM)
    assert embedding.cls.dtype == embedding.patches.dtype == np.float32


def test_an_iterable_is_read_one_image_at_a_time(tiny: Embedder) -> None:
    events: list[str] = []

    def pictures() -> Iterator[npt.NDArray[np.uint8]]:
        for seed in range(3):
            events.append("read")
            yield noise(seed=seed)

    tiny.embed(pictures(), progress=lambda *_: events.append("done"))
    assert events == ["read", "done"] * 3


def test_progress_counts_with_the_total_where_it_is_known(tiny: Embedder) -> None:
    calls: list[tuple[int, int | None]] = []
    images = [noise(), noise()]
    for form in (images, iter(images), images[0]):
        tiny.embed(form, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 2), (2, 2), (1, None), (2, None), (1, 1)]


# Bad input


def test_a_bad_image_in_a_list_is_named_by_its_position(tiny: Embedder) -> None:
    with pytest.raises(ImageDecodeError, match=r"images\[1\]: bytes \(0 bytes\) is empty"):
        tiny.embed([noise(), b""])


def test_a_missing_image_is_an_image_not_found(tiny: Embedder, tmp_path: Path) -> None:
    with pytest.raises(ImageNotFoundError, match=r"none\.png does not exist"):
        tiny.embed(tmp_path / "none.png")


@pytest.mark.parametrize("value", [None, 3])
def test_what_is_neither_image_nor_iterable_is_refused(tiny: Embedder, value: object) -> None:
    with pytest.raises(InputError, match=f"images is a {type(value).__name__}"):
        tiny.embed(value)


def test_a_list_of_anything_else_is_refused(tiny: Embedder) -> None:
    with pytest.raises(InputError, match=r"images\[0\]: 3 is a int, not an image"):
        tiny.embed([3])


def test_an_unknown_view_is_refused(tiny: Embedder) -> None:
    with pytest.raises(InputError, match="did you mean 'whole'"):
        tiny.embed([], view="hole")


@pytest.mark.parametrize(
    "tensors",
    [
        np.zeros((1, 3, 16, 16), np.float32),
        np.zeros((3, SIDE, SIDE), np.float32),
        np.zeros((1, 3, SIDE, SIDE), np.float64),
    ],
)
def test_tensors_of_another_shape_or_dtype_are_refused(
    tiny: Embedder, tensors: npt.NDArray[np.float32]
) -> None:
    with pytest.raises(InputError, match=r"wanted \(N, 3, 32, 32\) float32"):
        tiny.embed_tensors(tensors)


def test_a_closed_embedder_says_so(model_path: Path) -> None:
    with Embedder(model_path, device="cpu") as embedder:
        pass
    embedder.close()
    with pytest.raises(ModelError, match="is closed"):
        embedder.embed(noise())


@pytest.mark.parametrize("threads", [0, -1, 1.5, "two"])
def test_a_bad_thread_count_is_refused(model_path: Path, threads: object) -> None:
    with pytest.raises(InputError, match="wanted an integer of at least 1"):
        Embedder(model_path, threads=threads)


# Names, paths and files


def test_a_bundled_model_is_opened_by_name(bundled: Path) -> None:
    save_model(bundled, build_model().SerializeToString())
    assert bundled_models() == ("tiny",)
    with Embedder("tiny", device="cpu") as embedder:
        assert embedder.embed(noise()).cls.shape == (1, CLS_DIM)


def test_an_unknown_name_lists_the_bundled_ones(bundled: Path) -> None:
    save_model(bundled, build_model().SerializeToString())
    with pytest.raises(
        ModelNotFoundError, match=r"'tinny'; bundled are: tiny; did you mean 'tiny'"
    ):
        Embedder("tinny")


def test_an_installation_without_models_says_so(bundled: Path) -> None:
    assert bundled_models() == ()
    with pytest.raises(ModelNotFoundError, match="bundled are: none"):
        Embedder(DEFAULT_MODEL)


def test_a_model_without_a_manifest_is_not_bundled(bundled: Path) -> None:
    (bundled / "half.onnx").write_bytes(b"x")
    assert bundled_models() == ()


def test_the_bundled_folder_is_the_packages() -> None:
    folder = embedder_module._bundled_folder()
    assert folder.name == "models"
    assert folder.parent == Path(embedder_module.__file__).parent


def test_a_missing_path_is_a_model_not_found(tmp_path: Path) -> None:
    for wanted in (tmp_path / "none.onnx", str(tmp_path / "none.onnx"), str(tmp_path / "none")):
        with pytest.raises(ModelNotFoundError, match=r"none.*does not exist"):
            Embedder(wanted)


@pytest.mark.parametrize("model", ["", None, 3, b"vit-tiny"])
def test_what_names_no_model_is_refused(model: object) -> None:
    with pytest.raises(InputError, match="wanted a bundled model's name or a path"):
        Embedder(model)


def test_one_flipped_byte_is_refused(tmp_path: Path) -> None:
    path = save_model(tmp_path, build_model().SerializeToString())
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ModelIntegrityError, match="SHA-256"):
        Embedder(path)


def test_a_checkpoint_is_refused(tmp_path: Path) -> None:
    path = save_model(tmp_path, build_model().SerializeToString(), kind="checkpoint")
    with pytest.raises(InputError, match="is a checkpoint, wanted a model"):
        Embedder(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"patch_size": 5},
        {"patch_size": 0},
        {"cls_dim": -1},
        {"preprocessing": Preprocessing(resize=16, crop=32)},
        {"preprocessing": Preprocessing(resize="256", crop=SIDE)},
        {"preprocessing": Preprocessing(resize=36, crop=SIDE, mean=(0.5, 0.5))},
        {"preprocessing": Preprocessing(resize=36, crop=SIDE, mean=(0.5, 0.5, "0.5"))},
        {"preprocessing": Preprocessing(resize=36, crop=SIDE, std=(0.5, 0.5, 0.0))},
        {"preprocessing": Preprocessing(resize=36, crop=SIDE, std=(0.5, 0.5, float("nan")))},
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    path = save_model(tmp_path, build_model().SerializeToString(), **changes)
    with pytest.raises(ModelIntegrityError, match=r"the manifest of tiny\.onnx has"):
        Embedder(path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"resize": 36', b'"resize": 37'),
        (b"0.5", b"0.4"),
        (b'"manifest_version": 4', b'"manifest_version": 0'),
        (b'"any_side": false', b'"any_side": true'),
        (b'"manifest_sha256": "', b'"manifest_sha257": "'),
        (b'"process": "none"', b'"process": "nune"'),
    ],
)
def test_a_manifest_that_was_changed_is_refused(tmp_path: Path, old: bytes, new: bytes) -> None:
    path = save_model(tmp_path, build_model().SerializeToString())
    manifest = path.with_suffix(".json")
    changed = manifest.read_bytes().replace(old, new, 1)
    assert changed != manifest.read_bytes()
    manifest.write_bytes(changed)
    with pytest.raises(ModelIntegrityError, match="was damaged or edited"):
        Embedder(path)


def test_a_manifest_nested_too_deeply_is_refused(tmp_path: Path) -> None:
    path = save_model(tmp_path, build_model().SerializeToString())
    path.with_suffix(".json").write_bytes(b"[" * 100_000)
    with pytest.raises(ModelIntegrityError, match="is not a procmem manifest"):
        Embedder(path)


def test_a_manifest_laid_out_anew_and_one_of_version_1_are_read(tmp_path: Path) -> None:
    path = save_model(tmp_path, build_model().SerializeToString())
    manifest = path.with_suffix(".json")
    fields = json.loads(manifest.read_bytes())
    manifest.write_bytes(json.dumps(dict(reversed(fields.items()))).encode())
    Embedder(path).close()
    del fields["manifest_sha256"]
    fields["manifest_version"] = 1
    manifest.write_bytes(json.dumps(fields).encode())
    Embedder(path).close()


# Graphs that are not what they must be


@pytest.mark.parametrize("data", [b"", b"not a graph at all", b"\x00" * 100, b"\xff" * 100])
def test_bytes_that_are_no_graph_are_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ModelIntegrityError, match=r"tiny\.onnx is not an ONNX"):
        Embedder(save_model(tmp_path, data), device="cpu")


def test_a_cut_graph_is_refused(tmp_path: Path) -> None:
    data = build_model().SerializeToString()
    for share in (0.3, 0.6, 0.9):
        path = save_model(tmp_path, data[: int(len(data) * share)])
        with pytest.raises(ModelIntegrityError):
            Embedder(path, device="cpu")


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (Recipe(cls_name="embedding"), r"outputs \['embedding', 'patches'\], wanted"),
        (Recipe(cls_dim=10), r"output cls of tensor\(float\) \['N', 10\].*\[1, 12\]"),
        (Recipe(patch_dim=5), r"output patches of .*\['N', 4, 4, 5\].*\[1, 4, 4, 6\]"),
        (Recipe(side=64), r"input images of .*\['N', 3, 64, 64\].*\[1, 3, 32, 32\]"),
        (Recipe(dtype=TensorProto.FLOAT16), r"input images of tensor\(float16\)"),
        (Recipe(unit=False), r"class token of length .*, wanted 1"),
        (Recipe(patch_gain=float("nan")), r"class token of length nan"),
    ],
)
def test_a_graph_that_differs_from_its_manifest_is_refused(
    tmp_path: Path, recipe: Recipe, message: str
) -> None:
    path = save_model(tmp_path, build_model(recipe).SerializeToString())
    with pytest.raises(ModelIntegrityError, match=message):
        Embedder(path, device="cpu")


def test_free_dimensions_are_settled_by_a_run(tmp_path: Path) -> None:
    data = build_model(Recipe(side="S")).SerializeToString()
    assert Embedder(save_model(tmp_path / "right", data), device="cpu").grid == (4, 4)
    wrong = save_model(tmp_path / "wrong", data, patch_size=16)
    with pytest.raises(ModelIntegrityError, match=r"gave patches of shape \(1, 4, 4, 6\)"):
        Embedder(wrong, device="cpu")


@pytest.mark.parametrize("place", ["initializer", "constant", "subgraph"])
def test_a_graph_that_points_to_another_file_is_refused(tmp_path: Path, place: str) -> None:
    model = build_model()
    outside = numpy_helper.from_array(np.ones(1, np.float32), "outside")
    outside.ClearField("raw_data")
    outside.data_location = TensorProto.EXTERNAL
    location = outside.external_data.add()
    location.key, location.value = "location", "secret.bin"
    if place == "initializer":
        model.graph.initializer.append(outside)
    else:
        node = helper.make_node("Constant", [], ["outside"], value=outside)
        if place == "subgraph":
            inner = helper.make_graph([node], "inner", [], [])
            node = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
        model.graph.node.append(node)
    path = save_model(tmp_path, model.SerializeToString())
    with pytest.raises(ModelIntegrityError, match="keeps tensors in other files"):
        Embedder(path, device="cpu")


def test_a_refused_graph_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = build_model()
    model.graph.node[-1].op_type = "NoSuchOperator"
    with pytest.raises(ModelIntegrityError, match="NoSuchOperator"):
        Embedder(save_model(tmp_path, model.SerializeToString()), device="cpu")
    assert capfd.readouterr() == ("", "")


def test_a_graph_that_the_engine_would_warn_about_prints_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = build_model()
    model.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "unused"))
    Embedder(save_model(tmp_path, model.SerializeToString()), device="cpu").embed(noise())
    assert capfd.readouterr() == ("", "")


class FakeSession:
    """Stands where the engine's session stands, to fail on demand."""

    def __init__(self, outputs: list[npt.NDArray[np.float32]] | Exception) -> None:
        self._outputs = outputs

    def get_providers(self) -> list[str]:
        return ["CPUExecutionProvider"]

    def run(self, *_: object) -> list[npt.NDArray[np.float32]]:
        if isinstance(self._outputs, Exception):
            raise self._outputs
        return self._outputs


def test_patches_that_are_not_finite_are_refused(tiny: Embedder) -> None:
    cls = np.eye(1, CLS_DIM, dtype=np.float32)
    patches = np.full((1, GRID, GRID, PATCH_DIM), np.inf, dtype=np.float32)
    session = OnnxSession(FakeSession([cls, patches]), tiny.manifest, SIDE)
    with pytest.raises(ModelIntegrityError, match="patches with NaN or infinite values"):
        session.run(np.zeros((1, 3, SIDE, SIDE), np.float32))


def test_an_engine_that_fails_while_it_runs_is_a_model_error(tiny: Embedder) -> None:
    session = OnnxSession(FakeSession(MemoryError("no room")), tiny.manifest, SIDE)
    with pytest.raises(ModelError, match=r"tiny\.onnx failed while it ran on cpu \(no room\)"):
        session.run(np.zeros((1, 3, SIDE, SIDE), np.float32))


# Devices and extras


def test_an_unknown_device_is_refused_and_the_nearest_offered(model_path: Path) -> None:
    with pytest.raises(InputError, match=r"device is 'cudda'.*did you mean 'cuda'"):
        Embedder(model_path, device="cudda")


def test_the_environment_decides_for_auto(
    model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROCMEM_DEVICE", "cpu")
    assert Embedder(model_path).device == "cpu"


def test_the_environment_does_not_override_a_device(
    model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROCMEM_DEVICE", "cuda")
    assert Embedder(model_path, device="cpu").device == "cpu"


def test_a_bad_environment_variable_is_named(
    model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROCMEM_DEVICE", "gpu")
    with pytest.raises(InputError, match=r"environment variable PROCMEM_DEVICE is 'gpu'"):
        Embedder(model_path)


def test_cuda_without_its_provider_names_the_command(
    model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(MissingExtraError, match=r"pip install 'procmem\[gpu\]'"):
        Embedder(model_path, device="cuda")


@pytest.mark.parametrize("failure", ["falls back in silence", "raises"])
def test_cuda_that_does_not_work_is_an_error_when_asked_for_and_the_processor_when_not(
    model_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    failure: str,
) -> None:
    import onnxruntime

    real = onnxruntime.InferenceSession

    def session(data: bytes, providers: list[object], **options: object) -> object:
        if len(providers) > 1 and failure == "raises":
            raise RuntimeError("CUDA driver version is insufficient")
        return real(data, providers=["CPUExecutionProvider"], **options)

    everything = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: everything)
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr("procmem.backends.devices._NVIDIA_SIGNS", ("/",))
    monkeypatch.delenv("PROCMEM_DEVICE", raising=False)
    with caplog.at_level("WARNING"):
        embedder = Embedder(model_path, device="auto")
    assert embedder.device == "cpu"
    assert "cuda is installed but could not be used" in embedder.notice
    assert embedder.notice in caplog.messages
    with pytest.raises(InputError, match="device is 'cuda', but it does not work here"):
        Embedder(model_path, device="cuda")


def test_a_missing_engine_names_the_command(
    model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'procmem\[cpu\]'"):
        Embedder(model_path)


def test_importing_the_embedder_imports_no_engine() -> None:
    code = (
        "import sys, procmem.embedder, procmem.backends; "
        "sys.exit(any(m in sys.modules for m in ('onnxruntime', 'onnx', 'torch', 'cv2')))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert (
        subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
    )


def test_weights_of_several_runs_say_that_their_figures_are_of_the_last():
    origin = Origin("shaders", 1, "0" * 64, "0.1.0", steps=10, images_seen=1280)
    assert (origin.runs, origin.training) == (1, "1,280 procedural images")
    ends = [("training state", "1" * 64), ("start", "2" * 64)]
    chain = (*ends, *ends, ("training state", "3" * 64), ("checkpoint", "4" * 64))
    origin = dataclasses.replace(origin, chain=chain)
    assert (origin.runs, origin.training) == (3, "1,280 procedural images in the last of 3 runs")
