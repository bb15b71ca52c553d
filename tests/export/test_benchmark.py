import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from click.testing import CliRunner
from tests.tiny_model import write_tiny_model

from procmem.errors import InputError
from procmem_export import benchmark_report
from procmem_export.benchmark import Row, benchmark
from procmem_export.cli import main

SMALL = "test_vit"  # six blocks of 64 channels


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    """One quick run of everything that runs here, with a foreign model beside."""
    folder = tmp_path_factory.mktemp("benchmark")
    peer = write_tiny_model(folder)
    broken = folder / "broken.onnx"
    broken.write_bytes(b"no graph")
    # Of timm's own for tests: each candidate's process must know the architecture, too.
    torch.manual_seed(1)
    weights = folder / "small.pth"
    torch.save(timm.create_model(SMALL, num_classes=0).state_dict(), weights)
    return benchmark(
        weights,
        architecture=SMALL,
        image_size=64,
        images=10,
        rounds=1,
        throughput_seconds=0.2,
        probes=2,
        compiled=False,
        peers=(peer, broken),
    )


def test_every_format_is_measured_on_the_processor(rows: list[Row]) -> None:
    ran = {row.name for row in rows if row.device == "cpu" and not row.not_run}
    assert {"torch, eager", "onnx float32", "onnx-int8", "onnx-int8-dynamic"} <= ran
    for row in rows:
        if not row.not_run:
            assert row.p50_milliseconds is not None
            assert row.p95_milliseconds is not None
            assert 0 < row.p50_milliseconds <= row.p95_milliseconds
            assert row.images_per_second is not None
            assert row.images_per_second > 0


def test_likeness_is_measured_against_torch(rows: list[Row]) -> None:
    by_name = {row.name: row for row in rows if row.device == "cpu"}
    assert by_name["torch, eager"].cls_cosine_min == pytest.approx(1, abs=1e-6)
    assert by_name["onnx float32"].cls_cosine_min == pytest.approx(1, abs=1e-5)
    int8 = by_name["onnx-int8"]
    assert int8.cls_cosine_min is not None
    assert 0.9 < int8.cls_cosine_min < 0.999999


def test_a_peer_has_a_time_and_no_likeness(rows: list[Row]) -> None:
    (peer,) = [row for row in rows if row.file_megabytes is not None and row.cls_cosine_min is None]
    assert peer.p50_milliseconds is not None


def test_what_does_not_run_is_a_row_with_its_reason(rows: list[Row]) -> None:
    (broken,) = [row for row in rows if row.name == "broken.onnx"]
    assert broken.not_run
    assert broken.p50_milliseconds is None


def test_the_reports_show_every_row(rows: list[Row], tmp_path: Path) -> None:
    text = benchmark_report.as_markdown(rows)
    table, reasons = text.split("\nNot run:\n")
    assert table.count("\n| ") == sum(not row.not_run for row in rows)
    assert reasons.count("\n- ") == sum(bool(row.not_run) for row in rows)
    assert len(json.loads(benchmark_report.as_json(rows))) == len(rows)
    benchmark_report.plot(rows, tmp_path / "plot.png", title="test")
    from PIL import Image

    with Image.open(tmp_path / "plot.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert pixels.shape[1] > 800
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": 3}, "images is 3"),
        ({"rounds": 0}, "rounds is 0"),
        ({"peers": (Path("none.onnx"),)}, r"none\.onnx does not exist"),
    ],
)
def test_bad_numbers_and_missing_peers_are_refused(
    tmp_path: Path, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        benchmark(tmp_path / "x.safetensors", **arguments)  # type: ignore[arg-type]


def test_a_plot_that_is_no_png_is_refused_before_any_work(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["benchmark", str(tmp_path / "x"), "--plot", "x.svg"])
    assert result.exit_code == 2
    assert "ends in .png" in result.stderr
