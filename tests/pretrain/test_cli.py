import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from procmem_pretrain.cli import main

TINY = """--model vit-tiny --steps 2 --batch 4 --pool.programs 6 --pool.images-per-program 4
--pool.side 64 --pool.root-seed 3 --local-side 32 --kml-side 32 --projection 16
--readout-dimension 8 --readout-images 50 --precision fp32 --local-views 1"""


def test_train_compact_and_inspect_work_from_the_command_line(
    pool_folder: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    pool = ["--pool-folder", str(pool_folder)]
    result = CliRunner().invoke(main, ["train", "--folder", str(run), *TINY.split(), *pool])
    assert result.exit_code == 0, result.output
    assert (run / "vit-tiny.safetensors").is_file()
    small = tmp_path / "small.safetensors"
    full = next(run.glob("step-*.safetensors"))
    result = CliRunner().invoke(main, ["compact", str(full), "--out", str(small), *pool])
    assert result.exit_code == 0, result.output
    assert small.stat().st_size < full.stat().st_size / 5
    result = CliRunner().invoke(main, ["inspect", str(small), "--json"])
    manifest = json.loads(result.stdout)
    assert manifest["origin"]["steps"] == 2
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


def test_render_writes_the_same_images_for_the_same_seed(tmp_path: Path) -> None:
    for name in "ab":
        arguments = ["render", "--n", "2", "--side", "32", "--seed", "5"]
        result = CliRunner().invoke(main, [*arguments, "--out", str(tmp_path / name)])
        assert result.exit_code == 0, result.output
    for first in sorted((tmp_path / "a").iterdir()):
        assert first.read_bytes() == (tmp_path / "b" / first.name).read_bytes()


@pytest.mark.parametrize("command", ["render", "sheet"])
def test_an_unknown_process_is_one_line_and_misuse(command: str, tmp_path: Path) -> None:
    arguments = [command, "--process", "shader", "--n", "2", "--side", "32"]
    result = CliRunner().invoke(main, [*arguments, "--out", str(tmp_path / "x.png")])
    assert result.exit_code == 2
    assert "did you mean 'shaders'" in result.stderr
