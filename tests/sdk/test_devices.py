"""Where a model runs: the table, the rule of "auto", its notice, and what contradicts."""

from __future__ import annotations

import dataclasses
import logging
import sys
import types
import typing
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

onnx = pytest.importorskip("onnx", reason="the tests build their models with onnx")
pytest.importorskip("onnxruntime", reason="the processor runs models with onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402  after the skip
from tests.tiny_model import write_tiny_model  # noqa: E402

from procmem import Embedder  # noqa: E402
from procmem.backends import devices  # noqa: E402
from procmem.backends.devices import DEVICES, TABLE, Device, devices_for, row_of  # noqa: E402
from procmem.errors import (  # noqa: E402
    InputError,
    MissingExtraError,
    ModelError,
    ModelIntegrityError,
)
from procmem.manifest import read_manifest, sha256_of_bytes, write_manifest  # noqa: E402

Ranges = typing.Literal["calibrated", "dynamic"]


@pytest.fixture(autouse=True)
def no_wish(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROCMEM_DEVICE", raising=False)


def change_manifest(path: Path, **changes: object) -> Path:
    manifest = dataclasses.replace(read_manifest(path), **changes)
    write_manifest(manifest, path.parent)
    return path


def write_int8_model(folder: Path, ranges: Ranges = "calibrated") -> Path:
    """The tiny model with int8 filters, its input's range in the file or found while it runs."""
    path = write_tiny_model(folder, name="int8")
    model = onnx.load_model(path)
    constants: list[tuple[str, npt.NDArray[typing.Any]]] = [
        ("input_scale", np.array(2 / 255, np.float32)),
        ("input_zero", np.array(128, np.uint8)),
        ("weight_scale", np.array(1 / 127, np.float32)),
        ("weight_zero", np.array(0, np.int8)),
    ]
    filters = next(t for t in model.graph.initializer if t.name == "filters")
    values = numpy_helper.to_array(filters)
    constants.append(("filters8", np.clip(np.rint(values * 127), -127, 127).astype(np.int8)))
    model.graph.initializer.remove(filters)
    if ranges == "calibrated":
        scale, zero = "input_scale", "input_zero"
        quantize = helper.make_node("QuantizeLinear", ["images", scale, zero], ["images8"])
    else:
        scale, zero = "found_scale", "found_zero"
        quantize = helper.make_node("DynamicQuantizeLinear", ["images"], ["images8", scale, zero])
    nodes = [
        quantize,
        helper.make_node("DequantizeLinear", ["images8", scale, zero], ["rounded"]),
        helper.make_node(
            "DequantizeLinear", ["filters8", "weight_scale", "weight_zero"], ["filters"]
        ),
        *model.graph.node,
    ]
    nodes[3].input[0] = "rounded"
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in constants)
    onnx.checker.check_model(model)
    assert model.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
    data = model.SerializeToString()
    path.write_bytes(data)
    return change_manifest(path, sha256=sha256_of_bytes(data), precision="int8")


def only_processors(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """As if this machine could have the named devices and the processor, and no others."""
    rows = tuple(
        dataclasses.replace(row, fits=lambda fits=row.device in (*names, "cpu"): fits)
        for row in TABLE
    )
    monkeypatch.setattr(devices, "TABLE", rows)


def noise(seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (64, 80, 3), dtype=np.uint8)


# The table


def test_the_table_has_a_row_for_every_device_that_can_be_named() -> None:
    assert set(DEVICES) == set(typing.get_args(Device))
    assert sorted(row.device for row in TABLE) == sorted(set(DEVICES) - {"auto"})


def test_every_precision_ends_on_the_processor() -> None:
    for arithmetic in typing.get_args(devices.Arithmetic):
        assert devices_for(arithmetic)[-1].device == "cpu"


def test_auto_takes_for_a_precision_what_the_rule_says(monkeypatch: pytest.MonkeyPatch) -> None:
    only_processors(monkeypatch, *(row.device for row in TABLE))
    rule = {
        arithmetic: [row.device for row in devices_for(arithmetic)]
        for arithmetic in typing.get_args(devices.Arithmetic)
    }
    assert rule == {
        "float32": ["cuda", "cpu"],
        "float16": ["tensorrt", "cuda", "coreml", "cpu"],
        "bfloat16": ["tensorrt", "cuda", "cpu"],
        "int8": ["tensorrt", "cuda", "qnn", "openvino", "cpu"],
        "int8-dynamic": ["cpu"],
    }


def test_every_device_is_in_the_documentation() -> None:
    page = (Path(__file__).parents[2] / "docs" / "devices.md").read_text(encoding="utf-8")
    for row in TABLE:
        assert f"| `{row.device}` | {row.description}" in page


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.device)
def test_a_device_that_is_named_and_missing_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: devices.DeviceRow
) -> None:
    if row.device == "cpu":
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
    elif devices.missing(row) is None:
        monkeypatch.setitem(sys.modules, row.packages[-1], None)
    with pytest.raises(MissingExtraError) as caught:
        Embedder(write_tiny_model(tmp_path), device=row.device)
    assert row.remedy.split(" &&")[0] in str(caught.value)


# The rule at work


@pytest.mark.skipif(
    devices.missing(row_of("openvino")) is not None, reason="OpenVINO is not installed"
)
def test_auto_runs_calibrated_int8_on_openvino_and_everything_else_on_the_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_processors(monkeypatch, "openvino")
    with Embedder(write_int8_model(tmp_path)) as embedder:
        assert embedder.device == "openvino"
        assert "int8 (int8) runs on openvino (OpenVINO 20" in embedder.notice
    with Embedder(write_int8_model(tmp_path, "dynamic")) as embedder:
        assert embedder.device == "cpu"
    with Embedder(write_tiny_model(tmp_path)) as embedder:
        assert embedder.device == "cpu"


def test_what_would_be_better_is_told_without_an_alarm_where_it_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    only_processors(monkeypatch, "openvino")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with caplog.at_level(logging.INFO), Embedder(write_int8_model(tmp_path)) as embedder:
        assert embedder.device == "cpu"
    assert "openvino would be better" in embedder.notice
    assert "pip install 'procmem[openvino]'" in embedder.notice
    assert "\n" not in embedder.notice
    record = next(r for r in caplog.records if r.getMessage() == embedder.notice)
    assert record.levelno == logging.INFO


def test_nothing_is_recommended_that_this_machine_cannot_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_processors(monkeypatch)
    with Embedder(write_int8_model(tmp_path)) as embedder:
        assert "would be better" not in embedder.notice


@pytest.mark.skipif(
    devices.missing(row_of("openvino")) is not None, reason="OpenVINO is not installed"
)
def test_a_device_that_answers_otherwise_than_the_processor_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from procmem.backends.openvino import OpenvinoSession

    real = OpenvinoSession.run

    def broken(self: OpenvinoSession, images: npt.NDArray[np.float32]) -> typing.Any:
        cls, patches = real(self, images)
        return np.roll(cls, 1, axis=1), patches

    monkeypatch.setattr(OpenvinoSession, "run", broken)
    only_processors(monkeypatch, "openvino")
    path = write_int8_model(tmp_path)
    with caplog.at_level(logging.WARNING), Embedder(path) as embedder:
        assert embedder.device == "cpu"
    assert "openvino is installed but could not be used" in embedder.notice
    assert embedder.notice in caplog.messages
    with pytest.raises(ModelError, match="answers otherwise on openvino than on the processor"):
        Embedder(path, device="openvino")


def test_the_notice_counts_threads(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path)
    with Embedder(path, device="cpu", threads=1) as one, Embedder(path, threads=3) as three:
        assert "1 thread)" in one.notice
        assert "3 threads)" in three.notice


def test_an_unknown_precision_is_refused(tmp_path: Path) -> None:
    path = change_manifest(write_tiny_model(tmp_path), precision="int4")
    with pytest.raises(ModelIntegrityError, match="precision 'int4', wanted 'float32'"):
        Embedder(path)


# Files for other programs and engines


def test_a_file_that_takes_pixels_is_refused_with_the_way_out(tmp_path: Path) -> None:
    path = change_manifest(write_tiny_model(tmp_path), input="pixels")
    with pytest.raises(InputError, match="open or export the model without that"):
        Embedder(path)


def test_a_file_for_batches_is_refused_with_the_way_out(tmp_path: Path) -> None:
    path = change_manifest(write_tiny_model(tmp_path), batch=8)
    with pytest.raises(InputError, match=r"takes 8 images at a time, wanted 1.*batch 1, or any"):
        Embedder(path)


def test_a_file_for_one_image_at_a_time_is_taken(tmp_path: Path) -> None:
    with Embedder(change_manifest(write_tiny_model(tmp_path), batch=1)) as embedder:
        assert embedder.embed(noise()).cls.shape == (1, 48)


def write_engine(folder: Path) -> Path:
    """What stands beside an engine; the engine itself is no more than a name here."""
    path = folder / "tiny.engine"
    path.write_bytes(b"no engine")
    write_tiny_model(folder)
    manifest = read_manifest(folder / "tiny.onnx")
    digest = sha256_of_bytes(b"no engine")
    changed = dataclasses.replace(manifest, kind="tensorrt", file=path.name, sha256=digest)
    write_manifest(changed, folder)
    return path


@pytest.mark.parametrize("device", ["auto", "tensorrt"])
def test_an_engine_file_goes_to_tensorrt_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    asked: list[object] = []

    def open_session(data: bytes, manifest: object, **options: object) -> typing.NoReturn:
        asked.append((data, options))
        raise ModelError("no TensorRT here")

    stand_in = types.ModuleType("procmem.backends.tensorrt")
    vars(stand_in)["open_session"] = open_session
    monkeypatch.setitem(sys.modules, "procmem.backends.tensorrt", stand_in)
    with pytest.raises(ModelError, match="no TensorRT here"):
        Embedder(str(write_engine(tmp_path)), device=device, threads=2)
    assert asked == [(b"no engine", {"side": 224, "device": "tensorrt", "threads": 2})]


@pytest.mark.parametrize("device", ["cpu", "cuda", "openvino"])
def test_an_engine_file_is_refused_on_any_other_device(tmp_path: Path, device: str) -> None:
    with pytest.raises(InputError, match="which runs on 'tensorrt' only"):
        Embedder(write_engine(tmp_path), device=device)


def test_an_engine_that_was_changed_reaches_no_engine(tmp_path: Path) -> None:
    path = write_engine(tmp_path)
    path.write_bytes(b"other")
    with pytest.raises(ModelIntegrityError, match="SHA-256"):
        Embedder(path)
