"""The examples run alone, on the public-domain photos and on a person's folder."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image
from tests.tiny_model import write_tiny_model

EXAMPLES = Path(__file__).parents[2] / "examples"
NUMBERED = ["01_teach_and_ask", "02_forget", "03_segment"]
SMALL = [*NUMBERED, "scikit_learn"]


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

    load("scikit_learn").main(photos, model)

    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "12 images, 2 labels: 100% right of 3 folds"
    assert lines[1:3] == ["the first image is: blue", "forgot blue; the first image is now: red"]
    assert lines[3].endswith("True")


@pytest.mark.parametrize("name", SMALL)
def test_without_a_folder_the_public_domain_photos_are_used(
    name, model, tmp_path, monkeypatch, capsys
):
    pytest.importorskip("skimage", reason="needs pip install 'procmem[demo]'")
    if name == "scikit_learn":
        pytest.importorskip("sklearn", reason="needs pip install 'procmem[sklearn]'")
    monkeypatch.chdir(tmp_path)

    load(name).main(None, model)

    assert capsys.readouterr().out


@pytest.mark.parametrize(("name", "most"), [*((name, 80) for name in SMALL), ("camera_demo", 300)])
def test_an_example_is_short_enough_to_be_read_at_once(name, most):
    text = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")

    assert len(text.splitlines()) <= most
