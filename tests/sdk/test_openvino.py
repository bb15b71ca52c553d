"""OpenVINO as an engine: the same answers, the stated precision, and not a word to anybody."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

onnx = pytest.importorskip("onnx", reason="the tests build their model with onnx")
pytest.importorskip("onnxruntime", reason="answers are compared with onnxruntime's")
if find_spec("openvino") is None:  # not importorskip: importing it would tell its maker
    pytest.skip("OpenVINO is not installed", allow_module_level=True)

from tests.sdk.test_devices import change_manifest, noise, write_int8_model  # noqa: E402
from tests.sdk.test_embedder import Recipe, build_model, save_model  # noqa: E402
from tests.tiny_model import write_tiny_model  # noqa: E402

from procmem import Embedder  # noqa: E402  after the skip
from procmem.backends.openvino import import_openvino  # noqa: E402
from procmem.errors import MissingExtraError, ModelIntegrityError  # noqa: E402

ASK = """
import pathlib
import sys
import numpy as np
seen = []
sys.addaudithook(lambda event, args: seen.append(event) if event.startswith("socket.") else None)
from procmem import Embedder
with Embedder(sys.argv[1], device="openvino") as embedder:
    embedding = embedder.embed(np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3))
for entry in pathlib.Path("/proc/self/fd").glob("*"):
    try:
        target = str(entry.readlink())
    except OSError:
        continue
    if target.startswith("socket:"):
        seen.append(target)
seen += [name for name in sys.modules if name.startswith("openvino_telemetry")]
print(seen, embedding.cls.tobytes().hex(), embedding.patches.tobytes().hex())
"""


def ask(model: Path, home: Path) -> list[str]:
    """What a new process saw of sockets, and the bits of its embedding."""
    home.mkdir(exist_ok=True)
    # Engines keep quiet by themselves where they see a continuous-integration machine.
    kept = {k: v for k, v in os.environ.items() if k in ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH")}
    result = subprocess.run(
        [sys.executable, "-B", "-c", ASK, str(model)],
        capture_output=True,
        text=True,
        check=True,
        env=kept | {"HOME": str(home), "TMPDIR": str(home)},
    )
    assert result.stderr == ""
    return result.stdout.split()


def test_nothing_is_sent_and_nothing_is_kept_of_a_person(tmp_path: Path) -> None:
    """Left alone, `import openvino` sends an event and keeps an identifier in ~/intel."""
    home = tmp_path / "home"
    assert ask(write_tiny_model(tmp_path), home)[0] == "[]"
    assert list(home.rglob("*")) == []


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_another_process_gives_the_same_bits(tmp_path: Path, precision: str) -> None:
    write = write_tiny_model if precision == "float32" else write_int8_model
    model = write(tmp_path)
    assert ask(model, tmp_path / "a") == ask(model, tmp_path / "b")


def test_float32_models_are_computed_in_float32() -> None:
    """On processors with bfloat16, the engine's own choice, they differ in the third digit."""
    images = [noise(seed) for seed in range(3)]
    with Embedder(device="cpu") as cpu, Embedder(device="openvino") as openvino:
        expected, found = cpu.embed(images), openvino.embed(images)
    # 12 layers of float32: the two engines' sums of 192 to 768 products differ in their order.
    np.testing.assert_allclose(found.cls, expected.cls, atol=2e-5)
    np.testing.assert_allclose(found.patches, expected.patches, atol=1e-3)


@pytest.mark.parametrize("side", [64, 128, 224, 448])
def test_every_side_is_run(side: int) -> None:
    """Smaller sides shrink the position table, of which the engine leaves out the antialiasing."""
    with (
        Embedder(device="openvino", image_size=side) as openvino,
        Embedder(device="cpu", image_size=side) as cpu,
    ):
        np.testing.assert_allclose(openvino.embed(noise()).cls, cpu.embed(noise()).cls, atol=1e-4)


def test_embeddings_do_not_depend_on_the_number_of_threads() -> None:
    found = set()
    for threads in (1, 2, 3):
        with Embedder(device="openvino", threads=threads) as embedder:
            found.add(embedder.embed(noise()).cls.tobytes())
    assert len(found) == 1


def test_concurrent_calls_give_the_same_bits(tmp_path: Path) -> None:
    images = [noise(seed) for seed in range(6)]
    with Embedder(write_tiny_model(tmp_path), device="openvino") as embedder:
        expected = embedder.embed(images)
        results: dict[int, npt.NDArray[np.float32]] = {}
        threads = [
            threading.Thread(target=lambda at=at: results.update({at: embedder.embed(images).cls}))
            for at in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(results) == [0, 1, 2, 3]
    for result in results.values():
        np.testing.assert_array_equal(result, expected.cls)


def test_an_embedding_does_not_change_when_the_next_image_is_run(tmp_path: Path) -> None:
    with Embedder(write_tiny_model(tmp_path), device="openvino") as embedder:
        first = embedder.embed(noise(1))
        kept = first.cls.tobytes(), first.patches.tobytes()
        embedder.embed(noise(2))
        assert (first.cls.tobytes(), first.patches.tobytes()) == kept


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (Recipe(cls_name="embedding"), r"outputs \['embedding', 'patches'\], wanted"),
        (Recipe(cls_dim=10), r"output cls of tensor\(f32\).*10\].*\[1, 12\]"),
        (Recipe(side=64), r"input images of .*64, 64\].*\[1, 3, 32, 32\]"),
        (Recipe(unit=False), r"class token of length .*, wanted 1"),
        (Recipe(patch_gain=float("nan")), r"class token of length nan"),
    ],
)
def test_a_graph_that_differs_from_its_manifest_is_refused(
    tmp_path: Path, recipe: Recipe, message: str
) -> None:
    path = save_model(tmp_path, build_model(recipe).SerializeToString())
    with pytest.raises(ModelIntegrityError, match=message):
        Embedder(path, device="openvino")


def test_a_graph_that_it_cannot_run_is_refused_in_one_line_and_prints_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = build_model()
    model.graph.node[-1].op_type = "Einsum"  # whose equation is missing
    path = save_model(tmp_path, model.SerializeToString())
    with pytest.raises(
        ModelIntegrityError, match=r"OpenVINO 20.* can run on openvino \(\w"
    ) as caught:
        Embedder(path, device="openvino")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_version_that_resizes_wrongly_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_openvino(), "__version__", "2025.3.0-19807-release")
    with pytest.raises(MissingExtraError, match=r"needs OpenVINO 2025\.4 or newer, found 2025\.3"):
        Embedder(write_tiny_model(tmp_path), device="openvino")


def test_a_float16_graph_is_answered_in_float32(tmp_path: Path) -> None:
    """Precision is of the products inside; what comes out is float32 or refused."""
    path = change_manifest(write_tiny_model(tmp_path), precision="float16")
    with Embedder(path, device="openvino") as embedder:
        assert embedder.embed(noise()).cls.dtype == np.float32
