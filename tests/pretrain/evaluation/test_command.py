"""The whole command on small pictures: tables, figures, going on, bad input."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import procmem
from procmem.manifest import read_manifest
from procmem_pretrain.cli import main
from procmem_pretrain.config import TrainConfig
from procmem_pretrain.evaluation.methods import architectures_of
from procmem_pretrain.evaluation.report import Results
from procmem_pretrain.vit import ARCHITECTURES

COLORS = {"red": (200, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 220)}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A classification set and a segmentation set, told apart by color."""
    random = np.random.default_rng(0)
    for part, count in (("memory", 4), ("query", 2)):
        for label, color in COLORS.items():
            folder = tmp_path / "data" / "colors" / part / label
            folder.mkdir(parents=True)
            for number in range(count):
                noise = random.integers(-30, 30, (48, 48, 3))
                image = np.clip(np.array(color) + noise, 0, 255).astype(np.uint8)
                Image.fromarray(image).save(folder / f"{number}.png")
    scenes = tmp_path / "data" / "scenes"
    for name in ("images", "masks"):
        (scenes / name).mkdir(parents=True)
    for number in range(4):
        mask = np.zeros((48, 64), np.uint8)
        mask[:, 16 * number : 16 * number + 32] = 1
        image = np.array([(30, 30, 30), (220, 210, 40)], np.uint8)[mask]
        Image.fromarray(mask).save(scenes / "masks" / f"{number}.png")
        Image.fromarray(image).save(scenes / "images" / f"{number}.png")
    (scenes / "train.txt").write_text("0\n1\n")
    (scenes / "val.txt").write_text("2\n3\n")
    return tmp_path / "data"


def evaluate(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["evaluate", *map(str, arguments)])


def test_tables_and_figures_of_every_task(data: Path, untrained: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ["--side", 64, "--triplets", 4, "--k", 3, "--out", out]
    result = evaluate(data, "--checkpoint", untrained, "--no-baselines", *options)
    assert result.exit_code == 0, result.output
    table = (out / "results.md").read_text()
    assert table in result.output
    for task in ("knn", "linear", "privacy", "2afc", "pca", "kmeans", "in-context"):
        assert f"## {task}\n" in table
    cells = json.loads((out / "results.json").read_bytes())["cells"]
    scores = {(cell["task"], cell["data"], cell["method"]): cell["score"] for cell in cells}
    name = f"{untrained.parent.name}/{untrained.stem}"
    assert scores["knn", "colors", f"{name}, readout"] == 100.0
    # A network without a readout for patches segments once, a descriptor not at all.
    assert ("pca", "scenes", f"{name}, readout") not in scores
    assert scores["knn-segmentation", "scenes", f"{name}, class token"] > 60
    for figure in ("neighbors-colors.png", "pca-scenes.png"):
        with Image.open(out / figure) as picture:
            assert min(picture.size) > 100
            assert len(picture.convert("RGB").getcolors(1 << 24) or ()) > 10


def test_a_second_run_measures_nothing_again(
    data: Path, untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--checkpoint", untrained, "--no-baselines", "--triplets", 0, "--task", "knn"]
    first = evaluate(data / "colors", *options, "--out", tmp_path / "out")
    assert first.exit_code == 0, first.output

    def refuse(*_arguments: object, **_options: object) -> float:
        raise AssertionError("measured again")

    monkeypatch.setattr("procmem_pretrain.evaluation.suite.classification.knn_accuracy", refuse)
    second = evaluate(data / "colors", *options, "--out", tmp_path / "out")
    assert second.exit_code == 0, second.output
    assert second.output == first.output
    # Other options are other numbers, and so are those of another measure.
    third = evaluate(data / "colors", *options, "--k", 1, "--out", tmp_path / "out")
    assert isinstance(third.exception, AssertionError)
    monkeypatch.setattr("procmem_pretrain.evaluation.suite.MEASURES", 1)
    fourth = evaluate(data / "colors", *options, "--out", tmp_path / "out")
    assert isinstance(fourth.exception, AssertionError)


def test_other_data_and_another_ignored_index_are_measured_again(
    data: Path, untrained: Path, tmp_path: Path
) -> None:
    options = ["--no-baselines", "--triplets", 0, "--k", 3, "--side", 64]

    def scores(out: Path, *more: object) -> object:
        result = evaluate(data, "--checkpoint", untrained, *options, *more, "--out", out)
        assert result.exit_code == 0, result.output
        return (out / "results.md").read_text()

    tasks = ["--task", "knn", "--task", "knn-segmentation"]
    first = scores(tmp_path / "out", *tasks)
    query = data / "colors" / "query"
    (query / "red").rename(query / "other")
    (query / "green").rename(query / "red")
    (query / "other").rename(query / "green")
    second = scores(tmp_path / "out", *tasks)
    assert second != first
    assert second == scores(tmp_path / "fresh", *tasks)
    third = scores(tmp_path / "out", *tasks, "--ignore", 0)
    assert third == scores(tmp_path / "fresh 0", *tasks, "--ignore", 0)


def test_two_checkpoints_of_one_name_are_told(data: Path, untrained: Path, tmp_path: Path) -> None:
    result = evaluate(
        data, "--checkpoint", untrained, "--checkpoint", untrained, "--no-baselines",
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert result.exit_code == 2
    assert "2 checkpoints are called" in result.output


@pytest.mark.parametrize("device", ["cuda:7", "mps", "foo"])
def test_a_device_that_is_not_there_is_told(data: Path, tmp_path: Path, device: str) -> None:
    result = evaluate(data, "--device", device, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "device is" in result.output


def test_a_folder_for_results_that_cannot_be_is_one_line(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("of somebody")
    result = evaluate(data, "--no-baselines", "--out", tmp_path / "file")
    assert result.exit_code in (1, 2)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert (tmp_path / "file").read_text() == "of somebody"


def test_numbers_found_before_an_interruption_are_kept(
    data: Path, untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_arguments: object, **_options: object) -> float:
        raise KeyboardInterrupt

    options = [data / "colors", "--checkpoint", untrained, "--no-baselines", "--triplets", 0]
    with monkeypatch.context() as patch:
        patch.setattr("procmem_pretrain.evaluation.suite.privacy.exposed_share", interrupted)
        assert evaluate(*options, "--out", tmp_path / "out").exit_code != 0
    cells = json.loads((tmp_path / "out" / "results.json").read_bytes())["cells"]
    assert [cell["task"] for cell in cells] == ["knn", "linear"]
    assert evaluate(*options, "--out", tmp_path / "out").exit_code == 0


def test_the_papers_protocol_is_another_number_for_one_table(
    data: Path, untrained: Path, tmp_path: Path
) -> None:
    options = ["--checkpoint", untrained, "--no-baselines", "--triplets", 0, "--side", 64]
    scores = []
    for protocol in ("exact", "paper"):
        out = tmp_path / protocol
        result = evaluate(data / "scenes", *options, "--protocol", protocol, "--out", out)
        assert result.exit_code == 0, result.output
        cells = json.loads((out / "results.json").read_bytes())["cells"]
        scores.append({cell["task"]: cell["score"] for cell in cells})
    assert scores[0]["kmeans"] == scores[1]["kmeans"]
    assert scores[0]["pca"] != scores[1]["pca"]


def test_the_random_baseline_is_of_the_checkpoints_architecture(untrained: Path) -> None:
    onnx = Path(procmem.__file__).parent / "models" / "vit-tiny.onnx"
    assert architectures_of([]) == ["vit-tiny"]
    assert architectures_of([onnx, onnx]) == ["vit-tiny"]
    name = read_manifest(untrained).name
    assert name in ARCHITECTURES
    assert architectures_of([untrained, onnx]) == list(dict.fromkeys([name, "vit-tiny"]))


def test_baselines_stand_in_the_same_table(
    data: Path, small_fit: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("procmem_pretrain.evaluation.methods.BASELINE", small_fit)
    out = tmp_path / "out"
    result = evaluate(data / "colors", "--task", "knn", "--triplets", 0, "--k", 3, "--out", out)
    assert result.exit_code == 0, result.output
    table = (out / "results.md").read_text()
    for name in (
        "random vit-tiny, class token",
        "random vit-tiny, readout",
        "RGB histogram",
        "RGB pixels",
        "HOG |",
        "HOG bag of 256 words",
    ):
        assert name in table
    assert "| RGB histogram | 100.0 | 100.0 |" in table


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "knm"], "did you mean 'knn'"),
        (["--side", "100"], "wanted a multiple of 16"),
        (["--k", "0"], "k is 0"),
        (["--limit", "0"], "limit is 0"),
        (["--checkpoint", "missing.safetensors"], "missing.safetensors"),
        (["missing-folder"], "missing-folder does not exist"),
    ],
)
def test_bad_options_are_told_before_anything_is_measured(
    data: Path, untrained: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    out = tmp_path / "out"
    options = ["--checkpoint", untrained, "--no-baselines", "--triplets", 0, "--out", out]
    result = evaluate(data / "colors", *arguments, *options)
    assert result.exit_code in (1, 2)
    assert message in result.output
    assert not (out / "results.json").exists()


def test_nothing_to_measure_is_told(data: Path, tmp_path: Path) -> None:
    options = ["--no-baselines", "--triplets", 0, "--out", tmp_path / "out"]
    result = evaluate(data / "colors", *options)
    assert result.exit_code == 2
    assert "name a --checkpoint" in result.output
    result = evaluate("--triplets", 0, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "name DATA" in result.output


def test_a_mask_with_an_unknown_index_is_told(data: Path, untrained: Path, tmp_path: Path) -> None:
    mask = np.full((48, 64), 37, np.uint8)
    Image.fromarray(mask).save(data / "scenes" / "masks" / "3.png")
    options = ["--checkpoint", untrained, "--no-baselines", "--triplets", 0, "--side", 64]
    result = evaluate(data / "scenes", *options, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "3.png has the indices [37]" in result.output
    assert "--ignore" in result.output
    ignoring = evaluate(data / "scenes", *options, "--ignore", 37, "--out", tmp_path / "out")
    assert ignoring.exit_code == 0, ignoring.output


def test_results_of_another_program_are_not_overwritten(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "results.json").write_text("[1, 2]")
    result = evaluate(data / "colors", "--task", "knn", "--triplets", 0, "--out", out)
    assert result.exit_code == 2
    assert "not of this program" in result.output
    assert (out / "results.json").read_text() == "[1, 2]"


def test_one_evaluation_at_a_time_writes_into_a_folder(
    data: Path, untrained: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = [data, "--checkpoint", untrained, "--task", "knn", "--triplets", 0, "--out", out]
    with Results(out):
        result = evaluate(*options)
        assert result.exit_code != 0
        assert "another evaluation writes into" in result.output
        assert not (out / "results.json").exists()
    assert evaluate(*options, "--no-baselines").exit_code == 0
    assert "LOCK" not in {path.name for path in out.iterdir()}
