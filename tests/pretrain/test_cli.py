import json
import os
import signal
import tarfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from tests.shallow_vit import SHALLOW

from procmem_pretrain.cli import main
from procmem_pretrain.processes import PROCESSES

TINY = f"""--model {SHALLOW} --steps 2 --batch 4 --images.pool-images 24
--images.images-per-program 4 --images.side 64 --images.root-seed 3 --images.mask-side 32
--simdino.local-side 32 --simdino.projection 16 --simdino.local-views 1 --readout-dimension 8
--readout-images 50 --precision fp32 --health-programs 0"""


def test_train_compact_and_inspect_work_from_the_command_line(
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    result = CliRunner().invoke(main, ["train", "--folder", str(run), *TINY.split()])
    assert result.exit_code == 0, result.output
    assert (run / f"{SHALLOW}.safetensors").is_file()
    small = tmp_path / "small.safetensors"
    full = next(run.glob("step-*.safetensors"))
    result = CliRunner().invoke(main, ["compact", str(full), "--out", str(small)])
    assert result.exit_code == 0, result.output
    assert small.stat().st_size < full.stat().st_size / 5
    result = CliRunner().invoke(main, ["inspect", str(small), "--json"])
    manifest = json.loads(result.stdout)
    assert manifest["origin"]["steps"] == 2
    assert manifest["config"]["batch"] == 4


def test_a_run_goes_on_by_its_folder_alone(tmp_path: Path) -> None:
    words = ["train", "--folder", str(tmp_path), *TINY.split(), "--stop-after", "1"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert f"train --folder {tmp_path} goes on from here" in result.output
    result = CliRunner().invoke(main, words[:3])
    assert result.exit_code == 0, result.output
    manifest = json.loads((tmp_path / f"{SHALLOW}.json").read_text())
    assert manifest["origin"]["steps"] == 2
    assert manifest["config"]["batch"] == 4

    result = CliRunner().invoke(main, [*words[:3], "--batch", "8"])
    assert result.exit_code == 1
    assert "another configuration (batch: 4 -> 8)" in result.output
    result = CliRunner().invoke(main, [*words[:3], "--recipe", "fast"])
    assert result.exit_code == 1
    assert "batch: 4 -> 128" in result.output
    assert "--folder alone goes on with it" in result.output


def test_a_run_goes_on_by_its_folder_alone_when_its_newest_checkpoint_is_damaged(
    tmp_path: Path,
) -> None:
    words = ["train", "--folder", str(tmp_path), *TINY.split(), "--stop-after", "1"]
    assert CliRunner().invoke(main, words).exit_code == 0
    (tmp_path / "step-00000001.json").write_text("{")
    result = CliRunner().invoke(main, words[:3])
    assert result.exit_code == 0, result.output
    manifest = json.loads((tmp_path / f"{SHALLOW}.json").read_text())
    assert manifest["config"]["batch"] == 4


def test_a_misspelt_training_option_is_misuse(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["train", "--folder", str(tmp_path), "--stepz", "3"])
    assert result.exit_code == 2


def test_sheet_draws_one_picture_of_all_images(tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    arguments = ["sheet", "--process", "shaders", "--n", "4", "--side", "32", "--out", str(out)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    with Image.open(out) as picture:
        assert picture.size == (68, 68)


def test_sheet_of_all_processes_has_a_row_for_each(tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    arguments = ["sheet", "--process", "all", "--n", "2", "--side", "32", "--out", str(out)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    with Image.open(out) as picture:
        assert picture.height == len(PROCESSES) * 36 - 4
        rows = [
            picture.crop((picture.width - 68, 36 * row, picture.width, 36 * row + 32)).tobytes()
            for row in range(len(PROCESSES))
        ]
    assert len(set(rows)) == len(PROCESSES)


def test_render_writes_the_same_images_for_the_same_seed(tmp_path: Path) -> None:
    for name in "ab":
        arguments = ["render", "--n", "2", "--side", "32", "--seed", "5"]
        result = CliRunner().invoke(main, [*arguments, "--out", str(tmp_path / name)])
        assert result.exit_code == 0, result.output
    assert len(list((tmp_path / "a").glob("*.png"))) == 2
    for first in sorted((tmp_path / "a").iterdir()):
        assert first.read_bytes() == (tmp_path / "b" / first.name).read_bytes()


def test_render_writes_shards_that_hold_every_image(tmp_path: Path) -> None:
    arguments = ["render", "--n", "5", "--side", "32", "--process", "shaders", "--shards"]
    arguments += ["--images-per-shard", "3", "--out", str(tmp_path / "shards")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    names = []
    for shard in sorted((tmp_path / "shards").glob("*.tar")):
        with tarfile.open(shard) as tar:
            names += [name for name in tar.getnames() if name.endswith(".png")]
    assert names == [f"{number:09d}.png" for number in range(5)]


def test_bank_builds_and_verifies(tmp_path: Path) -> None:
    out = tmp_path / "bank.json"
    result = CliRunner().invoke(main, ["bank", "--n", "5", "--seed", "9", "--out", str(out)])
    assert result.exit_code == 0, result.output
    result = CliRunner().invoke(main, ["bank", "--verify", str(out)])
    assert result.exit_code == 0, result.output
    assert "5 programs" in result.output
    out.write_text(out.read_text().replace('"root_seed":9', '"root_seed":8'))
    result = CliRunner().invoke(main, ["bank", "--verify", str(out)])
    assert result.exit_code == 1
    assert "build the bank again" in result.stderr


def test_a_folder_of_shaders_is_drawn_and_the_bad_ones_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = "void mainImage(out vec4 c, in vec2 p) { c = vec4(0.5 + 0.5 * sin(p.x + iTime)); }"
    (tmp_path / "good.glsl").write_text(good)
    (tmp_path / "bad.glsl").write_text("void mainImage(out vec4 c, in vec2 p) {\n c = oops; }")
    arguments = ["sheet", "--n", "4", "--side", "32", "--process", "shaders"]
    arguments += ["--shaders", str(tmp_path), "--out", str(tmp_path / "x.png")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "bad.glsl:2: `oops' undeclared" in caplog.text
    with Image.open(tmp_path / "x.png") as picture:
        assert np.asarray(picture).std() > 20


@pytest.mark.parametrize("command", ["render", "sheet"])
def test_an_unknown_process_is_one_line_and_misuse(command: str, tmp_path: Path) -> None:
    arguments = [command, "--process", "shader", "--n", "2", "--side", "32"]
    result = CliRunner().invoke(main, [*arguments, "--out", str(tmp_path / "x.png")])
    assert result.exit_code == 2
    assert "did you mean 'shaders'" in result.stderr


def test_what_is_there_is_not_written_over(tmp_path: Path) -> None:
    for name in ("precious.safetensors", "precious.json"):
        (tmp_path / name).write_bytes(b"of somebody")
    checkpoint = Path(__file__).parents[2] / "checkpoints" / "vit-tiny.safetensors"
    for command in (
        ["compact", str(checkpoint), "--out", str(tmp_path / "precious.safetensors")],
        ["bank", "--n", "1", "--out", str(tmp_path / "precious.json")],
        ["compact", str(checkpoint), "--out", str(checkpoint)],
        ["compact", str(checkpoint), "--out", str(checkpoint), "--force"],
        ["compact", str(checkpoint), "--out", str(tmp_path / "none" / "a.safetensors")],
        ["sheet", "--out", str(tmp_path / "none" / "a.png")],
        ["sheet", "--out", str(tmp_path / "a.xyz")],
        ["sheet", "--out", str(tmp_path / "a.psd")],  # which Pillow reads
    ):
        before = checkpoint.stat().st_mtime_ns
        result = CliRunner().invoke(main, command)
        assert result.exit_code == 2, (command, result.output)
        assert (
            "exists" in result.output
            or "output is" in result.output
            or ("is missing" in result.output)
        )
        assert checkpoint.stat().st_mtime_ns == before
    assert {file.read_bytes() for file in tmp_path.iterdir()} == {b"of somebody"}


def test_a_disk_that_refuses_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"of somebody")
    result = CliRunner().invoke(main, ["train", "--folder", str(tmp_path / "file")])
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert "error: " in result.output
    assert (tmp_path / "file").read_bytes() == b"of somebody"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--images.mask-side", "4"], "mask_side is 4, wanted 8 to 4_096"),
        (["train", "--images.protocol", "paper", "--images.mask-side", "32"], "paper's is 256"),
        (["render", "--device", "mps", "--out"], "device is 'mps', wanted for example 'cpu'"),
        (["render", "--device", "cuda:77", "--out"], "device is 'cuda:77'"),
    ],
)
def test_what_cannot_begin_claims_no_folder(tmp_path: Path, words: list[str], message: str) -> None:
    folder = tmp_path / "new"
    words = [*words, str(folder)] if words[-1] == "--out" else [*words, "--folder", str(folder)]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2, result.output
    assert message in result.output
    assert result.output.count("\n") < 6
    assert not folder.exists()


def test_a_training_that_a_signal_ends_is_not_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["train", "--folder", str(tmp_path), *TINY.split()]
    monkeypatch.setattr(
        "procmem_pretrain.cli._show_step", lambda _: os.kill(os.getpid(), signal.SIGTERM)
    )
    result = CliRunner().invoke(main, [*words, "--steps", "40"])
    assert result.exit_code == 130, result.output
    assert "goes on from here" in result.output
    result = CliRunner().invoke(main, [*words, "--steps", "40", "--stop-after", "10"])
    assert result.exit_code == 0, result.output  # as it was asked to


@pytest.mark.parametrize("dimension", ["-1", "300", "100000"])
def test_a_readout_that_cannot_be_fitted_is_told_before_training(
    tmp_path: Path, dimension: str
) -> None:
    options = ["--readout-dimension", dimension, "--readout-images", "300"]
    result = CliRunner().invoke(main, ["train", "--folder", str(tmp_path / "run"), *options])
    assert result.exit_code == 2
    assert f"readout_dimension is {dimension}, wanted" in result.output
    assert not (tmp_path / "run").exists()
