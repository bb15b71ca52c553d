"""Teaching folders: in durable steps, past bad files, and never a photo twice."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.raw_png import png
from tests.stress import toy

from procmem.errors import ImageDecodeError, ImageNotFoundError, InputError
from procmem.image import load_image
from procmem.memory import VisualMemory
from procmem.photos import Photo, find_labelled, load_mask
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


def closed_to_all_but_its_owner(folder, monkeypatch):
    """As somebody else sees a folder; root, who may run these tests, may read every one."""
    listed = os.scandir

    def scandir(path):
        if Path(path) == folder:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)


def test_a_folder_that_may_not_be_read_is_told_and_the_others_are_taught(
    memory, photos, monkeypatch
):
    closed_to_all_but_its_owner(photos / "dogs", monkeypatch)
    taught = list(teach(memory, [photos]))
    failed = [one for one in taught if one.reason is not None]
    assert [one.photo.path for one in failed] == [photos / "cats" / "21.png", photos / "dogs"]
    assert "is a folder" in failed[1].reason
    assert len(memory) == 19
    closed_to_all_but_its_owner(photos, monkeypatch)
    (alone,) = teach(memory, [photos])
    assert alone.photo.path == photos
    assert alone.reason is not None


def test_a_label_folder_that_may_not_be_read_is_left_out_and_told(memory, photos, monkeypatch):
    closed_to_all_but_its_owner(photos / "dogs", monkeypatch)
    found = find_labelled(photos)
    assert [(one.path, one.label) for one in found if one.path.is_dir()] == [
        (photos / "dogs", "dogs")
    ]
    closed_to_all_but_its_owner(photos, monkeypatch)
    with pytest.raises(InputError, match="may not be read"):
        find_labelled(photos)


def test_a_photo_in_no_folder_has_no_label(memory, photos, monkeypatch):
    one = Photo(photos / "cats" / "01.png", "", Path("01.png"))
    monkeypatch.setattr("procmem.teaching.find_photos", lambda _: (one,))
    (taught,) = teach(memory, [one.path])
    assert taught.reason is None
    assert [item.label for item in memory.items()] == [None]


@pytest.mark.parametrize("path", ["x" * 300, "a\0b"])
def test_a_path_that_no_system_has_is_an_image_error(memory, photos, path):
    with pytest.raises(ImageDecodeError, match="check the path"):
        list(teach(memory, [path]))
    with pytest.raises(InputError, match=r"is no folder|without null"):
        next(teach(memory, [photos], masks=path))
    assert len(memory) == 0


def gray_png(depth, values):
    """Class values, one row of them, in a gray PNG of this depth."""
    bits = "".join(f"{value:0{depth}b}" for value in values)
    bits += "0" * (-len(bits) % 8)
    row = bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits), 8))
    return png(len(values), 1, depth, 0, b"\0" + row)


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_class_values_are_those_of_the_file_at_every_depth(tmp_path, depth):
    values = [0, 1, 2, 3, 1] if depth > 1 else [0, 1, 1, 0, 1]
    (tmp_path / "mask.png").write_bytes(gray_png(depth, values))
    assert load_mask(tmp_path / "mask.png").tolist() == [values]


def test_a_mask_that_would_fill_the_memory_is_a_reason_and_no_end(memory, photos, tmp_path):
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "01.png").write_bytes(png(30_000, 30_000, 8, 0, b""))
    taught = list(teach(memory, [photos], masks=tmp_path / "masks"))
    failed = {one.photo.path.name: one.reason for one in taught if one.reason is not None}
    assert sorted(failed) == ["01.png", "21.png"]
    assert "scale it down" in failed["01.png"].lower()


def test_one_path_needs_no_list(memory, photos, monkeypatch):
    monkeypatch.chdir(photos.parent)
    assert len(list(teach(memory, "photos"))) == 40
    assert all(one.was_known or one.reason for one in teach(memory, photos))
    with pytest.raises(ImageNotFoundError, match="missing does not exist"):
        next(teach(memory, "missing"))


@pytest.mark.parametrize("paths", [None, 5, [b"photos"], [None], [""]])
def test_what_is_no_path_is_named(memory, paths):
    with pytest.raises(InputError, match="wanted the path of a file or folder"):
        next(teach(memory, paths))


def test_a_missing_folder_of_masks_teaches_nothing(memory, photos):
    with pytest.raises(InputError, match="no-such-folder, which is no folder; nothing was taught"):
        next(teach(memory, photos, masks=photos / "no-such-folder"))
    assert len(memory) == 0
