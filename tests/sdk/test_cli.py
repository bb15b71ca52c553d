"""The command line, driven as a person drives it, on a real model and real files."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from tests.tiny_model import write_tiny_model

from procmem.backends.devices import DEVICES
from procmem.cli import main
from procmem.memory import VisualMemory

ROOT = Path(__file__).parents[2]
COLORS = {"blue": (30, 60, 220), "green": (20, 170, 40), "red": (220, 40, 30)}
COMMANDS = [
    *("demo", "add", "classify", "neighbors", "influence", "segment"),
    *("match", "delete", "stats", "verify", "export", "import"),
    *("address", "share", "receive", "revoke", "apply-revocations"),
    *("migrate", "embed", "evaluate", "doctor"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


def module(name: str) -> ModuleType:
    """A command's module; as an attribute of the package its name is the command."""
    return importlib.import_module(f"procmem.cli.{name}")


def picture(color: tuple[int, int, int], seed: int) -> Image.Image:
    """A noisy plain: the tiny model tells colors apart, the noise makes each its own."""
    random = np.random.default_rng(seed)
    noise = random.integers(-25, 25, (48, 64, 3))
    return Image.fromarray(np.clip(np.array(color) + noise, 0, 255).astype(np.uint8))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three labels with four photos each, and a note that is no photo."""
    folder = tmp_path / "photos"
    for at, (label, color) in enumerate(COLORS.items()):
        (folder / label).mkdir(parents=True)
        for number in range(4):
            picture(color, 10 * at + number).save(folder / label / f"{number}.png")
    (folder / "note.txt").write_text("not a photo")
    return folder


@pytest.fixture
def run(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs a command with the tiny model in a folder of its own."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)

    def run_command(*arguments: object, input: str | None = None) -> Result:
        words = ["--model", str(model), *map(str, arguments)]
        result = CliRunner().invoke(main, words, input=input)
        # SystemExit is how a command says its exit code; anything else is a traceback.
        assert result.exception is None or isinstance(result.exception, SystemExit), (
            result.exception
        )
        return result

    return run_command


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    path = tmp_path / "asked.png"
    picture(COLORS["red"], 99).save(path)
    return path


def test_add_takes_the_label_from_the_folder_and_the_path_as_source(run, photos, model):
    result = run("add", photos)

    assert result.exit_code == 0, result.stderr
    with VisualMemory("procmem-vault", embedder=model, read_only=True) as memory:
        held = {(item.label, item.source) for item in memory.items()}
    assert held == {(path.parent.name, str(path)) for path in photos.rglob("*.png")}


def test_add_reports_bad_files_keeps_the_good_ones_and_fails(run, photos):
    (photos / "red" / "empty.jpg").write_bytes(b"")
    (photos / "blue" / "words.png").write_bytes(b"these are words")

    result = run("add", photos, "--json")

    document = json.loads(result.stdout)
    assert result.exit_code == 1
    assert [Path(entry["source"]).name for entry in document["failed"]] == [
        "words.png",
        "empty.jpg",
    ]
    assert (len(document["added"]), document["items"]) == (12, 12)


def test_add_names_bad_files_with_their_reason_on_stderr(run, photos):
    (photos / "red" / "empty.jpg").write_bytes(b"")

    result = run("add", photos)

    assert "empty.jpg is empty" in result.stderr
    assert "Traceback" not in result.output


def test_a_mask_that_does_not_fit_is_told_with_its_photo(run, photos, tmp_path):
    (tmp_path / "masks").mkdir()
    for name in ("1.png", "3.png"):
        Image.fromarray(np.ones((5, 5), np.uint8)).save(tmp_path / "masks" / name)

    result = run("add", photos / "red", "--masks", tmp_path / "masks")

    assert result.exit_code == 1
    for name in ("1.png", "3.png"):
        assert f"{photos / 'red' / name}: mask is 5x5" in result.stderr


def test_adding_again_adds_nothing(run, photos):
    run("add", photos)

    document = json.loads(run("add", photos, "--json").stdout)

    assert (document["added"], document["already_known"], document["items"]) == ([], 12, 12)


def test_a_relative_path_is_the_same_source_as_an_absolute_one(run, photos, monkeypatch):
    run("add", photos, "--vault", photos.parent / "v")
    monkeypatch.chdir(photos / "red")

    document = json.loads(
        run("add", ".", "../blue", "--vault", photos.parent / "v", "--json").stdout
    )

    assert (len(document["added"]), document["already_known"]) == (0, 8)


def test_one_label_for_all_and_no_label(run, photos):
    run("add", photos / "red", "--label", "warm")
    run("add", photos / "blue", "--no-label")

    document = json.loads(run("stats", "--json").stdout)

    assert (document["labels"], document["items"]) == ({"warm": 4}, 8)


def test_interrupted_add_keeps_whole_steps_and_the_same_command_goes_on(run, photos, monkeypatch):
    monkeypatch.setattr("procmem.teaching.AT_ONCE", 5)
    real_add, calls = VisualMemory.add, []

    def interrupted_add(self, *arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real_add(self, *arguments, **options)

    monkeypatch.setattr(VisualMemory, "add", interrupted_add)
    first = run("add", photos)
    held = json.loads(run("verify", "--json").stdout)
    monkeypatch.setattr(VisualMemory, "add", real_add)
    second = json.loads(run("add", photos, "--json").stdout)

    assert first.exit_code == 130
    assert "run the same command again" in first.stderr
    assert (held["ok"], held["items"]) == (True, 5)
    assert (len(second["added"]), second["already_known"], second["items"]) == (7, 5, 12)


def test_classify_names_a_new_photo(run, photos, asked):
    run("add", photos)

    answer = json.loads(run("classify", asked, "-k", 3, "--json").stdout)["answers"][0]

    assert (answer["label"], len(answer["neighbors"])) == ("red", 3)


def test_classify_goes_on_after_a_bad_photo_and_fails(run, photos, asked):
    run("add", photos)
    bad = asked.with_name("bad.jpg")
    bad.write_bytes(b"no photo")

    result = run("classify", bad, asked)

    assert result.exit_code == 1
    assert "red" in result.stdout
    assert "bad.jpg" in result.stderr


def test_ids_are_text_in_json(run, photos, asked):
    run("add", photos)

    document = json.loads(run("neighbors", asked, "-k", 2, "--json").stdout)

    assert all(isinstance(neighbor["id"], str) for neighbor in document["neighbors"])


def test_classify_says_why(run, photos, asked):
    run("add", photos)
    (answer,) = json.loads(run("classify", asked, "-k", 5, "--why", "--json").output)["answers"]
    assert sum(neighbor["share"] for neighbor in answer["neighbors"]) == pytest.approx(1)
    reason = answer["counterfactual"]
    named = [item["source"] for item in reason["items"]]
    # Four reds vote; without them nothing red is left, and one label more has to win.
    assert named
    assert all(Path(source).parent.name == "red" for source in named)
    assert reason["label_after"] in ("blue", "green")
    text = run("classify", asked, "-k", 5, "--why").output
    assert "vote" in text
    assert f"without {len(named)} item" in text


def test_a_vote_by_rank_spreads_more_evenly(run, photos, asked):
    run("add", photos)
    (by_rank,) = json.loads(run("classify", asked, "--weighting", "rank", "--json").output)[
        "answers"
    ]
    weights = [1 / (2 + rank) for rank in range(1, 13)]
    shares = [neighbor["share"] for neighbor in by_rank["neighbors"]]
    assert shares == pytest.approx([weight / sum(weights) for weight in weights])


def test_influence_names_what_an_answer_hangs_on(run, photos, asked):
    run("add", photos)
    found = json.loads(run("influence", asked, "--by", "label", "--json").output)
    assert found["answers"] == [{"source": str(asked), "label": "red"}]
    assert (found["removable"], found["exposed"]) == (3, 1)
    (change,) = found["changes"]
    assert (change["removed"], change["before"]) == ("red", "red")
    assert change["after"] in ("blue", "green")
    text = run("influence", asked, "--by", "label").output
    assert "1 of 3 labels (33%) would change an answer to 1 photo" in text
    assert len(json.loads(run("stats", "--json").output)["labels"]) == 3  # nothing was deleted


def test_neighbors_draws_a_picture_even_if_a_source_is_gone(run, photos, asked, tmp_path):
    run("add", photos)
    for path in (photos / "red").iterdir():
        path.unlink()

    result = run("neighbors", asked, "-k", 4, "--picture", tmp_path / "out" / "n.png")

    assert result.exit_code == 0, result.stderr
    with Image.open(tmp_path / "out" / "n.png") as drawn:
        gray = np.all(np.asarray(drawn.convert("RGB")) == (200, 200, 200), axis=2).sum()
    assert gray > 4 * 100 * 100  # four gray tiles of 176 x 176, less their notes


@pytest.fixture
def halves(tmp_path: Path) -> tuple[Path, Path]:
    """A photo whose left half is red, and its mask: 7 on the left, 0 on the right."""
    both = np.empty((64, 96, 3), dtype=np.uint8)
    both[:, :48], both[:, 48:] = COLORS["red"], COLORS["blue"]
    mask = np.zeros((64, 96), dtype=np.uint8)
    mask[:, :48] = 7
    photo, painted = tmp_path / "halves.png", tmp_path / "halves-mask.png"
    Image.fromarray(both).save(photo)
    Image.fromarray(mask).save(painted)
    return photo, painted


def test_segment_by_example_finds_the_same_color_elsewhere(run, halves, tmp_path):
    photo, mask = halves
    mirrored = tmp_path / "mirrored.png"
    with Image.open(photo) as picture:
        picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(mirrored)

    result = run(
        "segment", mirrored, "--prompt", photo, "--prompt-mask", mask,
        "--mask-out", tmp_path / "m.png", "--out", tmp_path / "o.png",
    )  # fmt: skip

    assert result.exit_code == 0, result.stderr
    with Image.open(tmp_path / "m.png") as found:
        values = np.asarray(found)
    wanted = np.zeros((64, 96), dtype=np.uint8)
    wanted[:, 48:] = 7
    assert np.mean(values == wanted) > 0.95  # the border falls inside a patch
    assert (tmp_path / "o.png").is_file()


def test_segment_by_example_makes_no_vault(run, halves):
    photo, mask = halves

    run("segment", photo, "--prompt", photo, "--prompt-mask", mask)

    assert not Path("procmem-vault").exists()


def test_segment_by_taught_masks(run, halves, tmp_path):
    photo, mask = halves
    masks = tmp_path / "masks"
    masks.mkdir()
    mask.rename(masks / "halves.png")
    added = run("add", photo, "--masks", masks)

    document = json.loads(run("segment", photo, "--json").stdout)

    assert "1 mask" in added.stdout
    assert [region["value"] for region in document["regions"]] == [0, 7]
    assert [round(region["share"], 1) for region in document["regions"]] == [0.5, 0.5]


def test_a_color_mask_is_refused_with_advice(run, halves):
    photo, _ = halves

    result = run("segment", photo, "--prompt", photo, "--prompt-mask", photo)

    assert result.exit_code == 1
    assert "grayscale" in result.stderr


def test_segment_by_the_published_rule_needs_no_prompt(run, halves, tmp_path):
    photo, mask = halves
    masks = tmp_path / "masks"
    masks.mkdir()
    mask.rename(masks / "halves.png")
    run("add", photo, "--masks", masks)

    exact, paper = (
        json.loads(run("segment", photo, "--protocol", name, "--json").stdout)["regions"]
        for name in ("exact", "paper")
    )

    assert [region["value"] for region in paper] == [0, 7]
    assert [region["confidence"] for region in paper] != [region["confidence"] for region in exact]


def test_segment_by_clusters_finds_both_halves_without_a_memory(run, halves, tmp_path):
    photo, _ = halves

    result = run(
        "segment", photo, "--method", "clusters", "-k", 2, "--json",
        "--mask-out", tmp_path / "m.png", "--out", tmp_path / "o.png",
    )  # fmt: skip

    document = json.loads(result.stdout)
    assert document["method"] == "clusters"
    assert [region["value"] for region in document["regions"]] == [1, 2]
    with Image.open(tmp_path / "m.png") as found:
        values = np.asarray(found)
    assert values.shape == (64, 96)
    left, right = values[:, :40], values[:, 56:]  # the border falls inside a patch
    assert len(np.unique(left)) == len(np.unique(right)) == 1
    assert left[0, 0] != right[0, 0]
    assert (tmp_path / "o.png").is_file()
    assert not Path("procmem-vault").exists()


def test_segment_by_components_draws_two_colors_for_both_halves(run, halves, tmp_path):
    photo, _ = halves

    result = run("segment", photo, "--method", "components", "--out", tmp_path / "o.png", "--json")

    document = json.loads(result.stdout)
    assert (document["method"], document["height"], document["width"]) == ("components", 64, 96)
    with Image.open(document["picture"]) as drawn:
        sheet = np.asarray(drawn.convert("RGB")).astype(int)
    right_panel = sheet[100:200, sheet.shape[1] // 2 + 20 : -20]  # the map
    assert abs(right_panel[0, 0] - right_panel[0, -1]).max() > 200


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (("--method", "components"), "add --out FILE"),
        (("--method", "components", "--out", "o.png", "-k", 3), "-k means nothing to --method"),
        (("--method", "components", "--out", "o.png", "--mask-out", "m.png"), "--mask-out means"),
        (("--method", "clusters", "--protocol", "paper"), "--protocol means nothing"),
        (("-k", 3), "-k means nothing to --method taught"),
        (("--method", "clusters", "-k", 1), "k is 1, wanted 2 or more"),
        (("--method", "clusters", "-k", 197), "k is 197, wanted at most 196: the image has"),
        (("--method", "clusters", "-k", 2, "--mask-out", "m.jpg"), "ending in .png"),
    ],
)
def test_segment_refuses_what_a_method_cannot_do(run, halves, words, advice):
    result = run("segment", halves[0], *words)

    assert (result.exit_code, result.stdout) == (2, "")
    assert advice in result.stderr
    assert not list(Path().iterdir())


def test_match_finds_every_place_of_a_photo_in_itself(run, halves, tmp_path):
    noisy = tmp_path / "noisy.png"
    picture(COLORS["red"], 3).save(noisy)

    result = run("match", noisy, noisy, "--json", "--limit", 5, "--out", tmp_path / "o.png")

    document = json.loads(result.stdout)
    assert len(document["pairs"]) == 5
    assert all(pair["source"] == pair["other"] for pair in document["pairs"])
    assert all(abs(pair["similarity"] - 1) < 1e-5 for pair in document["pairs"])
    assert (tmp_path / "o.png").is_file()
    assert not Path("procmem-vault").exists()


def test_match_prints_a_row_for_each_pair(run, halves, asked):
    result = run("match", halves[0], asked)

    lines = result.stdout.splitlines()
    assert lines[0].split()[:3] == ["similarity", "x", "y"]
    assert len(lines) >= 2
    assert "--out" in result.stderr


def test_an_image_smaller_than_a_patch_has_an_answer_of_its_size(run, tmp_path):
    tiny = tmp_path / "tiny.png"
    Image.fromarray(np.arange(18, dtype=np.uint8).reshape(2, 3, 3)).save(tiny)

    clusters = json.loads(run("segment", tiny, "--method", "clusters", "-k", 2, "--json").stdout)
    matched = json.loads(run("match", tiny, tiny, "--json").stdout)

    assert (clusters["height"], clusters["width"]) == (2, 3)
    assert sum(region["share"] for region in clusters["regions"]) == pytest.approx(1.0)
    for pair in matched["pairs"]:
        assert -0.5 <= pair["source"][0] < 2.5
        assert -0.5 <= pair["source"][1] < 1.5


def test_delete_dry_run_shows_the_plan_and_changes_nothing(run, photos):
    run("add", photos)
    before = Path("procmem-vault", "ledger.sqlite").read_bytes()

    result = run("delete", "--label", "red", "--dry-run")

    assert result.stdout.count("red") >= 4
    assert Path("procmem-vault", "ledger.sqlite").read_bytes() == before


def test_delete_asks_and_no_means_no(run, photos):
    run("add", photos)

    result = run("delete", "--label", "red", input="n\n")

    assert result.exit_code == 1
    assert json.loads(run("stats", "--json").stdout)["items"] == 12


@pytest.mark.parametrize(
    ("how", "left"), [("label", 8), ("source", 11), ("id", 11), ("similar", 11)]
)
def test_delete_forgets_what_was_named(run, photos, how, left):
    added = json.loads(run("add", photos, "--json").stdout)["added"]
    words = {
        "label": ["--label", "red"],
        "source": ["--source", photos / "red" / "0.png"],
        "id": [added[0]["id"]],
        "similar": ["--similar-to", photos / "red" / "0.png", "--min-similarity", 0.999999],
    }[how]

    result = run("delete", *words, "--yes", "--json")

    report = json.loads(result.stdout)["report"]
    assert result.exit_code == 0, result.stderr
    assert (report["remaining"], report["windows_found"], report["purged"]) == (left, 0, True)


def test_a_receipt_is_written_and_holds_without_the_memory(run, photos, tmp_path):
    run("add", photos)
    key = json.loads(run("stats", "--json").output)["receipt_key"]
    file = tmp_path / "receipt.json"
    report = json.loads(
        run("delete", "--label", "red", "--receipt", file, "--yes", "--json").output
    )["report"]
    assert report["receipt"] == json.loads(file.read_text())
    checked = json.loads(
        run("verify", "--receipt", file, "--key", key, "--vault", "none", "--json").output
    )
    assert checked["ok"]
    assert (checked["items_before"], checked["items_after"]) == (12, 8)
    assert checked["erased_ids"] == report["erased_ids"]
    assert "4 items of 12 erased, 8 left" in run("verify", "--receipt", file).output
    assert not Path("none").exists()


def test_a_changed_receipt_or_another_key_fails(run, photos, tmp_path):
    run("add", photos)
    file = tmp_path / "receipt.json"
    run("delete", "--label", "red", "--receipt", file, "--yes")
    other = run("verify", "--receipt", file, "--key", "00" * 32)
    assert other.exit_code == 1
    assert "not by the expected" in other.output
    file.write_text(file.read_text().replace('"windows_found":0', '"windows_found":1'))
    changed = run("verify", "--receipt", file)
    assert changed.exit_code == 1
    assert "the signature does not fit" in changed.output


def test_a_receipt_overwrites_nothing_and_nothing_is_deleted_then(run, photos, tmp_path):
    run("add", photos)
    file = tmp_path / "receipt.json"
    file.write_text("mine")
    for place, advice in ((file, "exists"), (tmp_path / "none" / "r.json", "folder")):
        result = run("delete", "--label", "red", "--receipt", place, "--yes")
        assert result.exit_code == 2
        assert advice in result.stderr
    assert file.read_text() == "mine"
    assert json.loads(run("stats", "--json").output)["items"] == 12


def test_retention_forgets_what_is_older(run, photos, monkeypatch):
    two_days_ago = time.time() - 2 * 86_400
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: two_days_ago)
        run("add", photos / "red")
    run("add", photos / "blue")
    assert "nothing to forget" in run("delete", "--older-than", 3, "--yes").output
    report = json.loads(run("delete", "--older-than", 1, "--yes", "--json").output)["report"]
    assert len(report["erased_ids"]) == 4
    assert json.loads(run("stats", "--json").output)["labels"] == {"blue": 4}


def test_neighbors_of_a_time(run, photos, asked):
    run("add", photos)
    found = json.loads(run("neighbors", asked, "--since", "2020-01-01", "--json").output)
    assert len(found["neighbors"]) == 10
    none = run("neighbors", asked, "--before", "2020-01-01")
    assert "the memory holds no such item" in none.output
    wrong = run("neighbors", asked, "--since", "2020-01-02", "--before", "2020-01-01")
    assert wrong.exit_code == 2
    assert "no moment is between" in wrong.stderr


def test_delete_leaves_no_byte_of_the_source_path(run, photos):
    run("add", photos)
    needle = str(photos / "red" / "0.png").encode()
    before = Path("procmem-vault", "ledger.sqlite").read_bytes()

    run("delete", "--source", photos / "red" / "0.png", "--yes")

    assert needle in before
    assert all(needle not in path.read_bytes() for path in Path("procmem-vault").iterdir())


def test_delete_prints_the_report_in_words(run, photos):
    run("add", photos)

    result = run("delete", "--label", "red", "--yes")

    assert "forgot 4 items; 8 items remain" in result.stdout
    assert "residue: 0 of" in result.stdout
    assert "backups" in result.stdout


@pytest.mark.parametrize("form", ["parquet", "safetensors"])
def test_what_was_exported_can_be_imported_elsewhere(run, photos, asked, form):
    if form == "parquet":
        pytest.importorskip("pyarrow", reason="needs pip install 'procmem[parquet]'")
    run("add", photos)

    exported = run("export", f"items.{form}")
    taken = json.loads(run("import", f"items.{form}", "--vault", "elsewhere", "--json").stdout)

    assert "exported 12 items" in exported.stdout
    assert "does not reach" in exported.stderr
    assert (taken["imported"], taken["items"]) == (12, 12)
    words = ["classify", asked, "--json"]
    assert run(*words).stdout == run(*words, "--vault", "elsewhere").stdout


def test_export_and_import_say_what_is_wrong(run, photos):
    added = json.loads(run("add", photos, "--json").stdout)["added"]
    one = run("export", "one.safetensors", "--id", added[0]["id"], "--json")
    Path("bad.safetensors").write_bytes(b"no export")

    assert json.loads(one.stdout)["items"] == 1
    assert run("export", "one.safetensors").exit_code == 2  # never replaces a file
    assert run("export", "items.csv").exit_code == 2
    assert run("import", "bad.safetensors").exit_code == 1
    again = run("import", "one.safetensors")
    assert (again.exit_code, again.stdout) == (2, "")
    assert "already" in again.stderr


def test_an_import_of_another_models_items_makes_no_memory(run, photos, tmp_path):
    run("add", photos)
    run("export", "items.safetensors")
    elsewhere = ("import", "items.safetensors", "--vault", "elsewhere")

    other = write_tiny_model(tmp_path, name="other", seed=1)
    refused = run(*elsewhere, "--model", other)
    larger = run(*elsewhere, "--image-size", 448)

    assert (refused.exit_code, larger.exit_code) == (1, 1)
    assert "nothing was made: name the file's model with --model" in refused.stderr
    assert "seen at image size 224; nothing was made" in larger.stderr
    assert not Path("elsewhere").exists()
    assert run(*elsewhere).exit_code == 0


def test_evaluate_prints_the_accuracy_for_each_k(run, photos):
    result = run("evaluate", photos, photos, "-k", 1, "-k", 3, "--json")

    document = json.loads(result.stdout)
    assert document["accuracy"]["1"] == 1.0  # every photo is its own nearest
    assert list(document["accuracy"]) == ["1", "3"]
    assert (document["taught"], document["asked"], document["labels"]) == (12, 12, 3)


def test_doctor_names_versions_engine_and_kernel(run):
    document = json.loads(run("doctor", "--json").stdout)

    assert document["versions"]["numpy"] == np.__version__
    assert "CPUExecutionProvider" in document["providers"]
    assert document["kernel_isa"] in ("scalar", "avx2", "avx512", "neon")


def test_doctor_lists_every_device_and_what_it_lacks(run):
    document = json.loads(run("doctor", "--json").stdout)
    devices = {device["name"]: device for device in document["devices"]}

    assert list(devices) == list(DEVICES[1:])
    assert devices["cpu"]["works"]
    for device in devices.values():
        assert device["works"] == (device["why_not"] is None)
        assert "pip install" in device["remedy"]
    assert "runs on" in document["auto"]
    assert document["threads"] >= 1
    assert document["engines"]["folder"].endswith("engines")
    text = run("doctor").stdout
    for name in DEVICES[1:]:
        assert f"device {name}" in text


def test_doctor_makes_no_folder_and_opens_no_model_where_there_is_none(run, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("procmem.embedder._bundled_folder", lambda: tmp_path)
    monkeypatch.setattr(module("doctor"), "_models_folder", lambda: tmp_path)

    result = run("doctor")

    assert result.exit_code == 1
    assert "no device works" in result.stdout
    assert not (tmp_path / "cache").exists()


def test_a_damaged_memory_fails_the_doctor_and_the_check(run, photos):
    run("add", photos)
    ledger = Path("procmem-vault", "ledger.sqlite")
    with ledger.open("r+b") as file:
        file.seek(100)
        file.write(bytes(1900))

    result = run("doctor", "--json")
    (problem,) = json.loads(result.stdout)["problems"]
    assert result.exit_code == 1
    assert "damaged" in problem
    result = run("verify", "--json")
    document = json.loads(result.stdout)
    assert result.exit_code == 1
    assert (document["ok"], document["problems"]) == (False, [problem])
    result = run("verify", "--vault", "nowhere", "--json")
    assert (result.exit_code, result.stdout) == (1, "")


def test_doctor_is_content_with_a_sealed_memory_whose_key_is_not_given(run, photos):
    run("add", photos, "--vault-key", "key")
    result = run("doctor", "--json")
    document = json.loads(result.stdout)
    assert "sealed" in document["memory"]["problem"]
    assert (result.exit_code, document["problems"]) == (0, [])


def test_doctor_finds_a_replaced_model(run, tmp_path, monkeypatch):
    path = write_tiny_model(tmp_path, name="broken")
    path.write_bytes(path.read_bytes() + b"x")
    monkeypatch.setattr("procmem.embedder._bundled_folder", lambda: tmp_path)
    monkeypatch.setattr(module("doctor"), "_models_folder", lambda: tmp_path)

    result = run("doctor")

    assert result.exit_code == 1
    assert "SHA-256" in result.stderr


@pytest.mark.parametrize(
    ("words", "code", "advice"),
    [
        (["stats"], 1, "procmem add"),
        (["classify", "nowhere.jpg"], 1, "does not exist"),
        (["add", "nowhere"], 1, "does not exist"),
        (["delete"], 2, "--label"),
        (["delete", "--label", "x", "--source", "y"], 2, "one way"),
        (["classfy", "x"], 2, "classify"),
        (["segment", "x.png", "--prompt", "y.png"], 2, "--prompt-mask"),
        (["segment", "x.png", "--method", "clusters"], 1, "x.png"),
        (["segment", "x.png", "--method", "components", "--out", "o.png"], 1, "x.png"),
        (["match", "x.png", "y.png"], 1, "x.png"),
    ],
)
def test_misuse_and_failure_give_advice_on_stderr_and_nothing_on_stdout(run, words, code, advice):
    result = run(*words)

    assert (result.exit_code, result.stdout) == (code, "")
    assert advice in result.stderr
    assert "Traceback" not in result.stderr


def test_an_unknown_label_is_an_error_that_says_so(run, photos):
    run("add", photos)

    result = run("delete", "--label", "rde", "--yes")

    assert result.exit_code == 1
    assert "'rde'" in result.stderr


def test_shared_options_may_stand_before_or_after_the_command(run, photos):
    run("add", photos, "--vault", "elsewhere")

    before = run("--vault", "elsewhere", "stats", "--json").stdout
    after = run("stats", "--vault", "elsewhere", "--json").stdout

    assert json.loads(before)["items"] == 12
    assert before == after


def test_demo_on_labelled_folders_tells_the_whole_story(run, photos, tmp_path):
    result = run("demo", photos, "--out", tmp_path / "out", "--json")

    document = json.loads(result.stdout)
    forgotten = document["forgotten"]
    assert result.exit_code == 0, result.stderr
    assert (document["taught"], len(document["answers"])) == (9, 3)
    assert forgotten["before"] != forgotten["after"]
    assert forgotten["report"]["windows_found"] == 0
    assert forgotten["answers_equal_to_a_fresh_memory"] == forgotten["answers_compared"] == 3
    assert len(list((tmp_path / "out").glob("*.png"))) == len(document["pictures"]) == 3


def test_demo_on_single_photos_asks_parts_that_were_not_taught(run, photos, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    for label in COLORS:
        (photos / label / "0.png").rename(flat / f"{label}.png")

    document = json.loads(run("demo", flat, "--out", tmp_path / "out", "--json").stdout)

    assert {answer["label"] for answer in document["answers"]} == set(COLORS)
    assert document["forgotten"]["after"]["label"] != document["forgotten"]["before"]["label"]


def test_demo_refuses_a_memory_that_holds_something(run, photos, tmp_path):
    run("add", photos, "--vault", "mine")

    result = run("demo", photos, "--vault", "mine", "--out", tmp_path / "out")

    assert result.exit_code == 2
    assert json.loads(run("stats", "--vault", "mine", "--json").stdout)["items"] == 12


def test_demo_without_scikit_image_says_how_to_get_it(run, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    result = run("demo")

    assert result.exit_code == 1
    assert "pip install 'procmem[demo]'" in result.stderr


def test_every_command_takes_json():
    assert list(main.commands) == COMMANDS
    assert all(
        any("--json" in option.opts for option in command.params)
        for command in main.commands.values()
    )


def test_help_loads_no_engine():
    code = (
        "import sys\n"
        "from click.testing import CliRunner\n"
        "from procmem.cli import main\n"
        "CliRunner().invoke(main, ['--help'])\n"
        "heavy = {'onnxruntime', 'torch', 'cv2', 'skimage', 'onnx'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


def test_the_page_without_its_extra_says_how_to_get_it(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "procmem.page.server", None)

    result = run("demo", "--page")

    assert result.exit_code == 1
    assert "pip install 'procmem[page]'" in result.stderr


def test_a_port_is_of_the_page_only(run):
    result = run("demo", "--port", "8000")

    assert result.exit_code == 2
    assert "add --page" in result.stderr


# ---- another model


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("other"), name="other", seed=3)


def bare(*words: object) -> Result:
    """Runs a command without `--model` in front of it."""
    return CliRunner().invoke(main, [str(word) for word in words])


def test_migrate_brings_a_memory_to_another_model_and_says_what_it_did(run, photos, other, model):
    run("add", photos)

    result = run("migrate", "--model", other, "--old-model", model, "--json")

    document = json.loads(result.stdout)
    assert result.exit_code == 0, result.stderr
    assert (document["switched"], document["items"], document["left"]) == (True, 12, [])
    assert (document["embedder_name"], document["checked"]) == ("other", True)
    with VisualMemory("procmem-vault", embedder=other, read_only=True) as memory:
        assert len(memory) == 12


def test_migrate_names_what_it_left_and_confirm_erases_it(run, photos, other, model):
    run("add", photos)
    lost = photos / "red" / "2.png"
    lost.unlink()

    moved = run("migrate", "--model", other)
    stats, verified = bare("stats"), bare("verify")
    asked = run("migrate", "--confirm", input="n\n")
    refused = run("migrate", "--confirm", "--json")
    document = json.loads(run("migrate", "--confirm", "--yes", "--json").stdout)

    assert moved.exit_code == 1
    assert f"{lost} does not exist" in moved.stderr
    assert "the old model is not at hand (--old-model)" in moved.stderr
    assert "1 item left under tiny" in stats.stdout
    assert "1 item left under tiny" in verified.stdout
    assert "Forget 1 item left under tiny for ever?" in asked.stderr
    assert (asked.exit_code, refused.exit_code) == (1, 2)
    assert len(document["report"]["erased_ids"]) == 1
    assert document["report"]["windows_found"] == 0
    assert "migration" not in bare("stats").stdout
    assert json.loads(bare("stats", "--json").stdout)["items"] == 11


def test_an_interrupted_migration_says_how_to_go_on_and_can_be_undone(
    run, photos, other, monkeypatch
):
    from procmem.seeing_anew import Run

    monkeypatch.setattr("procmem.seeing_anew.AT_ONCE", 5)
    see, seen = Run._see, []

    def interrupted(self, record):
        seen.append(record.item.id)
        if len(seen) == 8:
            raise KeyboardInterrupt
        return see(self, record)

    run("add", photos)
    before = json.loads(run("stats", "--json").stdout)
    monkeypatch.setattr(Run, "_see", interrupted)
    first = run("migrate", "--model", other)
    monkeypatch.setattr(Run, "_see", see)
    half_way = run("stats", "--json")
    told = run("doctor", "--vault", "procmem-vault")
    photos.rename("unplugged")
    without_photos = run("migrate", "--model", other)
    Path("unplugged").rename(photos)
    undone = run("migrate", "--abort", "--json")

    assert first.exit_code == 130
    assert "run the same command again to go on, or with --abort to undo it" in first.stderr
    assert json.loads(half_way.stdout)["migration"]["items"] == 5
    assert "half-way to other" in told.stdout
    assert without_photos.exit_code == 1
    assert "nothing was changed" in without_photos.stdout
    assert "what an earlier run has embedded is kept" in without_photos.stderr
    assert json.loads(undone.stdout)["report"]["windows_found"] == 0
    after = json.loads(run("stats", "--json").stdout)
    assert {**after, "bytes_on_disk": 0} == {**before, "bytes_on_disk": 0}
    assert run("migrate", "--model", other).exit_code == 0


def test_migrate_refuses_what_does_not_go_together(run, photos, model):
    run("add", photos)
    for words in (
        ("--confirm", "--abort"),
        ("--abort", "--old-model", model),
        ("--yes",),
        ("--model", model),
    ):
        result = run("migrate", *words)
        assert result.exit_code == 2, words
        assert result.stdout == ""
    for words in (("--confirm", "--yes"), ("--abort",)):
        assert "nothing to" in run("migrate", *words).stderr
    missing = run("migrate", "--vault", "nowhere")
    assert (missing.exit_code, Path("nowhere").exists()) == (1, False)


def test_doctor_says_of_a_memory_whose_model_is_not_here_what_to_do(run, photos):
    run("add", photos)
    told = run("doctor").stdout
    assert "procmem-vault is of tiny" in told
    assert "bring the memory to a model that is with `procmem migrate`" in told


@pytest.mark.parametrize(
    "command",
    [
        ("delete", "--label", "blue", "--yes"),
        ("delete", "--label", "blue", "--dry-run"),
        ("revoke", "list.json", "--label", "blue", "--yes"),
        ("apply-revocations", "list.json", "--from", "procmem1nobody"),
        ("classify", "photo.png"),
        ("stats",),
        ("verify",),
    ],
)
def test_only_what_brings_items_makes_a_memory(run, tmp_path, command):
    """Nobody shall believe that something is forgotten because the memory's name was mistyped."""
    picture(COLORS["blue"], 1).save("photo.png")
    Path("list.json").write_text("{}")
    result = run("--vault", tmp_path / "mistyped", *command)
    assert result.exit_code == 1
    assert f"there is no memory at {tmp_path / 'mistyped'}" in result.stderr
    assert not (tmp_path / "mistyped").exists()


@pytest.mark.parametrize("command", [("import",), ("receive", "--from", "procmem1nobody")])
def test_a_file_that_is_missing_makes_no_memory(run, tmp_path, command):
    result = run("--vault", tmp_path / "new", *command, "missing.parquet")
    assert result.exit_code != 0
    assert "missing.parquet" in result.stderr
    assert "does not exist" in result.stderr
    assert not (tmp_path / "new").exists()


def test_influence_names_a_bad_file_and_asks_about_the_rest(run, photos, asked, tmp_path):
    run("add", photos)
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no picture")
    result = run("influence", asked, bad, "--by", "label", "--json")
    document = json.loads(result.stdout)
    assert result.exit_code == 1
    assert [one["source"] for one in document["failed"]] == [str(bad)]
    assert [one["source"] for one in document["answers"]] == [str(asked)]
    assert document["weighting"] == "similarity"
    text = run("influence", asked, bad)
    assert (text.exit_code, "1 photo" in text.stdout) == (1, True)
    assert "left out" in text.stderr


@pytest.mark.parametrize("closed", ["1>&-", "2>&-", "1>&- 2>&-"])
def test_closed_streams_stop_nothing(closed, photos, model, tmp_path):
    vault = tmp_path / "vault"
    command = f"{sys.executable} -m procmem --model {model} --vault {vault} add {photos} {closed}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    with VisualMemory(vault, embedder=model, read_only=True) as memory:
        assert len(memory) == 12


def test_segment_sees_a_large_photo_as_an_app_does(run, tmp_path, model):
    noise = np.random.default_rng(0).integers(0, 256, (180, 180, 3)).astype(np.uint8)
    large = tmp_path / "large.jpg"
    Image.fromarray(noise).resize((1800, 1800), Image.Resampling.BICUBIC).save(large, quality=50)
    mask = np.zeros((1800, 1800), np.uint8)
    mask[:900] = 1
    Image.fromarray(mask).save(tmp_path / "mask.png")
    out = tmp_path / "out.png"
    words = ["--prompt", large, "--prompt-mask", tmp_path / "mask.png", "--mask-out", out]
    assert run("segment", large, *words).exit_code == 0
    with VisualMemory(tmp_path / "v", embedder=model) as memory:
        expected = memory.segment(large, prompt=(large, mask)).mask
    assert np.array_equal(np.asarray(Image.open(out)), expected)
