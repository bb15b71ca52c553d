"""Teaching folders: in durable steps, past bad files, and never a photo twice."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from tests.stress import toy

from procmem.errors import ImageNotFoundError, InputError
from procmem.image import load_image
from procmem.memory import VisualMemory
from procmem.teaching import AT_ONCE, teach


class FromFiles(toy.ToyEmbedder):
    """The stand-in model, for files."""

    def embed(self, images, *, view="center"):  # noqa: ARG002  one view is enough here
        return toy.embedding(load_image(images))


@pytest.fixture
def memory(tmp_path):
    with VisualMemory(tmp_path / "v", embedder=FromFiles()) as opened:
        yield opened


@pytest.fixture
def photos(tmp_path):
    """Forty photos in two folders, one of them no photo."""
    for at in range(40):
        path = tmp_path / "photos" / ("cats" if at % 2 else "dogs") / f"{at:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(toy.picture(at)).save(path)
    (tmp_path / "photos" / "cats" / "21.png").write_bytes(b"no picture")
    return tmp_path / "photos"


def test_a_folder_is_taught_by_the_names_of_its_subfolders(memory, photos):
    taught = list(teach(memory, [photos]))
    assert [one.photo.path.name for one in taught if one.id is None] == ["21.png"]
    bad = next(one for one in taught if one.id is None)
    assert "21.png" in bad.reason
    assert not bad.was_known
    assert memory.stats().labels == {"cats": 19, "dogs": 20}
    assert {one.id for one in taught} - {None} == {item.id for item in memory.items()}


def test_the_same_folder_twice_teaches_nothing_twice(memory, photos):
    first = list(teach(memory, [photos]))
    again = list(teach(memory, [photos]))
    assert len(first) == len(again) == 40
    assert len(memory) == 39
    assert sum(one.was_known for one in again) == 39


def test_what_was_said_to_be_taught_is_there_and_the_rest_comes_with_the_next_call(memory, photos):
    task = teach(memory, [photos])
    for _ in range(3):
        next(task)
    task.close()
    held = AT_ONCE - 1  # the file that is no photo is among the first
    assert len(memory) == held
    assert sum(one.id is not None for one in teach(memory, [photos])) == 39 - held
    assert len(memory) == 39


def test_one_label_or_none_for_all(memory, photos):
    assert {one.label for one in teach(memory, [photos / "cats"], label="tabby")} == {"tabby"}
    assert {one.label for one in teach(memory, [photos / "dogs"], labelled=False)} == {None}
    assert memory.stats().labels == {"tabby": 19}


def test_masks_are_found_by_name(memory, photos, tmp_path):
    (tmp_path / "masks" / "cats").mkdir(parents=True)
    Image.fromarray(np.ones((4, 4), np.uint8)).save(tmp_path / "masks" / "cats" / "03.png")
    Image.fromarray(np.ones((4, 4), np.uint8)).save(tmp_path / "masks" / "04.png")
    Image.fromarray(np.ones((5, 4), np.uint8)).save(tmp_path / "masks" / "06.png")
    taught = list(teach(memory, [photos], masks=tmp_path / "masks"))
    assert {one.photo.path.name for one in taught if one.masked} == {"03.png", "04.png"}
    assert {one.photo.path.name for one in taught if one.reason} == {"06.png", "21.png"}
    assert memory.stats().masks == 2


def test_a_place_without_photos_is_refused_before_anything_is_taught(memory, photos, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no photo"):
        next(teach(memory, [photos, tmp_path / "empty"]))
    with pytest.raises(ImageNotFoundError, match="does not exist"):
        next(teach(memory, [photos, tmp_path / "nowhere"]))
    assert len(memory) == 0
