"""The examples run alone, on the public-domain photos and on a person's folder."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image
from tests.export.checkpoints import write_checkpoint
from tests.shallow_vit import SHALLOW, shallow_architecture
from tests.tiny_model import write_tiny_model

EXAMPLES = Path(__file__).parents[2] / "examples"
COURSE = sorted(path.stem for path in EXAMPLES.glob("[0-9]*.py"))
# Those that take a folder of photos; what is not here has a test of its own only.
WITH_PHOTOS = [name for name in COURSE if name[:2] in {"01", "02", "03", "04", "05", "07"}]


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_model(tmp_path_factory.mktemp("model")))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two labels of two photos each."""
    for label, color in (("blue", (30, 60, 220)), ("red", (220, 40, 30))):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(2):
            noise = np.random.default_rng(number).integers(-25, 25, (48, 64, 3))
            pixels = np.clip(np.array(color) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / label / f"{label}-{number}.png")
    return tmp_path / "photos"


def test_teach_and_ask_names_the_photos_that_were_kept_back(photos, model, capsys):
    load("01_teach_and_ask").main(photos, model)

    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "taught 2 photos with 2 labels"
    assert lines[1].startswith("blue-0.png: blue")
    assert lines[2].startswith("red-0.png: red")


def test_forget_shows_that_nothing_is_left(photos, model, capsys):
    load("02_forget").main(photos, model)

    out = capsys.readouterr().out
    assert "forgot 1 photo, 3 remain" in out
    assert "found 0" in out
    assert "never held it: True" in out


def test_segment_writes_pictures_by_example_and_by_memory(photos, model, tmp_path, monkeypatch):
    load("03_segment").main(photos, model, tmp_path / "out")

    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["by-example-0.png", "by-example-1.png", "by-example-2.png", "by-memory.png"]


def test_scikit_learn_forgets_exactly(photos, model, capsys):
    pytest.importorskip("sklearn", reason="needs pip install 'procmem[sklearn]'")
    for file in list(photos.glob("*/*.png")):
        for number in range(2):
            (file.parent / f"{file.stem}-{number}.png").write_bytes(file.read_bytes())

    load("07_scikit_learn").main(photos, model)

    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "12 images, 2 labels: 100% right of 3 folds"
    assert lines[1:3] == ["the first image is: blue", "forgot blue; the first image is now: red"]
    assert lines[3].endswith("True")


@pytest.mark.parametrize("name", WITH_PHOTOS)
def test_without_a_folder_the_public_domain_photos_are_used(
    name, model, tmp_path, monkeypatch, capsys
):
    pytest.importorskip("skimage", reason="needs pip install 'procmem[demo]'")
    if name == "07_scikit_learn":
        pytest.importorskip("sklearn", reason="needs pip install 'procmem[sklearn]'")
    monkeypatch.chdir(tmp_path)

    load(name).main(None, model=model)

    assert capsys.readouterr().out


def test_a_private_folder_is_taught_once_and_sealed(photos, model, capsys):
    (photos / "red" / "broken.jpg").write_bytes(b"\xff\xd8 stops here")

    load("04_private_photo_folder").main(photos, model)

    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [
        "taught 4 of 5 photos, left out 1",
        "taught 0 of 5 photos, left out 1",
    ]
    assert "broken.jpg" in lines[2]
    assert "is sealed" in lines[3]
    assert lines[4].startswith("like blue-0.png: blue-0.png blue-1.png")
    assert lines[5:] == [
        "forgot blue-0.png: 0 pieces of it are left",
        "older than 30 days: 0 of 3",
    ]


def test_duplicates_are_grouped_and_nothing_else(tmp_path, capsys):
    for number, angle in enumerate((0.0, 0.7, 1.4)):
        y, x = np.mgrid[:96, :96]
        wave = 127 + 120 * np.sin((x * np.cos(angle) + y * np.sin(angle)) / (3 + 4 * number))
        picture = Image.fromarray(np.stack([wave, wave[::-1], wave.T], -1).astype(np.uint8))
        picture.save(tmp_path / f"{number}.png")
        if number < 2:
            picture.save(tmp_path / f"{number}-again.jpg", quality=80)

    load("05_find_duplicates").main(tmp_path)

    assert capsys.readouterr().out.splitlines() == [
        "5 photos, 2 groups of at least 0.95 alike",
        "  0-again.jpg = 0.png",
        "  1-again.jpg = 1.png",
    ]


def test_the_alarm_sounds_when_something_new_crosses_the_scene(capsys):
    load("06_novelty_alarm").main(None)

    first, last = capsys.readouterr().out.splitlines()
    assert 8.0 <= float(first.split()[0]) <= 10.0
    assert last == "120 frames, the first 50 taught; 1 alarm(s)"


def test_exported_files_answer_as_their_checkpoint_does(tmp_path, capsys):
    with shallow_architecture():
        checkpoint = write_checkpoint(tmp_path, seed=1)
        load("08_export_for_a_device").main(checkpoint, probes=2, programs=0)

    out = capsys.readouterr().out
    assert re.search(r"onnx: 2\.\d MiB, cosine to the checkpoint 1\.00000", out)
    assert "onnx-int8: " in out
    assert "-> this file" in out


def test_a_tiny_model_is_pretrained_and_used(capsys):
    example = load("09_pretrain_a_tiny_model")
    with shallow_architecture():
        example.main(steps=10, config=dataclasses.replace(example.SMALL, model=SHALLOW))

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("step 10: loss ")
    assert lines[1:] == ["160 procedural images seen, real ones: none", lines[-1]]
    assert lines[-1].startswith("asked a bright picture: ")


def test_the_course_is_listed_with_what_each_needs():
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")

    assert [name for name in COURSE if f"]({name}.py)" not in text] == []


@pytest.mark.parametrize(("name", "most"), [*((name, 79) for name in COURSE), ("camera_demo", 400)])
def test_an_example_is_short_enough_to_be_read_at_once(name, most):
    text = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")

    assert len(text.splitlines()) <= most
