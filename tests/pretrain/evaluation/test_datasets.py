from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from procmem.errors import ImageError, InputError
from procmem_pretrain.evaluation.datasets import (
    ClassificationSet,
    Labelled,
    SegmentationSet,
    SimilaritySet,
    find_data_sets,
)


def picture(path: Path, *, color: int = 100, mode: str = "RGB", side: int = 20) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (side, side), color if mode != "RGB" else (color, 0, 0)).save(path)
    return path


def classification(folder: Path, *, labels: tuple[str, ...] = ("a", "b")) -> Path:
    for part in ("memory", "query"):
        for label in labels:
            picture(folder / part / label / "0.png")
    return folder


def segmentation(folder: Path) -> Path:
    for name in ("one", "two"):
        picture(folder / "images" / f"{name}.png")
        picture(folder / "masks" / f"{name}.png", mode="L", color=1)
    (folder / "train.txt").write_text("one\n")
    (folder / "val.txt").write_text("two.png\n")
    return folder


def nights(folder: Path, rows: list[str]) -> Path:
    for name in ("ref", "left", "right"):
        picture(folder / f"{name}.png")
    header = "id,left_vote,right_vote,ref_path,left_path,right_path,votes,split"
    (folder / "data.csv").write_text("\n".join([header, *rows]))
    return folder


def medmnist(path: Path, *, labels: int = 2, channels: tuple[int, ...] = ()) -> Path:
    random = np.random.default_rng(0)
    arrays = {}
    for split in ("train", "val", "test"):
        arrays[f"{split}_images"] = random.integers(0, 256, (6, 28, 28, *channels), dtype=np.uint8)
        arrays[f"{split}_labels"] = (np.arange(6) % labels)[:, None]
    np.savez(path, **arrays)
    return path


def test_a_folder_of_data_sets_of_every_layout_is_all_of_them(tmp_path: Path) -> None:
    classification(tmp_path / "things")
    segmentation(tmp_path / "scenes")
    nights(tmp_path / "pairs", ["0,1,0,ref.png,left.png,right.png,6,test"])
    medmnist(tmp_path / "cells.npz")
    (tmp_path / "README.md").write_text("not a data set")
    found = {one.name: one for one in find_data_sets([tmp_path])}
    assert found.keys() == {"things", "scenes", "pairs", "cells"}
    assert isinstance(found["things"], ClassificationSet)
    assert isinstance(found["scenes"], SegmentationSet)
    assert isinstance(found["pairs"], SimilaritySet)


def test_the_order_and_labels_of_a_folder_are_its_own(tmp_path: Path) -> None:
    (found,) = find_data_sets([classification(tmp_path / "things", labels=("b", "a", "c"))])
    assert isinstance(found, ClassificationSet)
    assert found.memory.labels == ("a", "b", "c")
    assert found.validation is None


def test_a_limit_keeps_every_label_while_it_can() -> None:
    many = Labelled(tuple(str(i) for i in range(100)), tuple("abcd"[i // 25] for i in range(100)))
    few = many.first(8)
    assert len(few.images) == len(few.labels) == 8
    assert set(few.labels) == set("abcd")
    assert many.first(None) is many


@pytest.mark.parametrize("channels", [(), (3,)])
def test_medmnist_is_read_grey_and_in_color(tmp_path: Path, channels: tuple[int, ...]) -> None:
    (found,) = find_data_sets([medmnist(tmp_path / "m.npz", channels=channels)])
    assert isinstance(found, ClassificationSet)
    assert np.shape(found.memory.images[0]) == (28, 28, 3)
    assert found.query.labels == ("0", "1", "0", "1", "0", "1")
    assert found.validation is not None


def test_votes_become_shares_and_few_votes_do_not_count(tmp_path: Path) -> None:
    rows = [
        "0,2,6,ref.png,left.png,right.png,8,test",
        "1,1,0,ref.png,left.png,right.png,7,test",
        "2,1,0,ref.png,left.png,right.png,5,test",
        "3,1,0,ref.png,left.png,right.png,9,train",
    ]
    (found,) = find_data_sets([nights(tmp_path / "pairs", rows)])
    assert isinstance(found, SimilaritySet)
    assert [triplet.left_share for triplet in found.triplets] == [0.25, 1.0]


def test_a_mask_of_another_size_is_told(tmp_path: Path) -> None:
    folder = segmentation(tmp_path / "scenes")
    picture(folder / "masks" / "two.png", mode="L", color=1, side=21)
    (found,) = find_data_sets([folder])
    assert isinstance(found, SegmentationSet)
    with pytest.raises(InputError, match=r"two\.png is 21 x 21, but its image is 20 x 20"):
        found.load(found.query[0])


def test_a_mask_in_color_is_told(tmp_path: Path) -> None:
    folder = segmentation(tmp_path / "scenes")
    picture(folder / "masks" / "two.png")
    (found,) = find_data_sets([folder])
    assert isinstance(found, SegmentationSet)
    with pytest.raises(ImageError, match="color mode RGB"):
        found.load(found.query[0])


def one_class(folder: Path) -> Path:
    return classification(folder, labels=("a",))


def other_labels(folder: Path) -> Path:
    classification(folder)
    for label in ("a", "b"):
        (folder / "query" / label).rename(folder / "query" / f"not-{label}")
    return folder


def no_images(folder: Path) -> Path:
    for part in ("memory", "query"):
        (folder / part / "a").mkdir(parents=True)
    return folder


def unknown_layout(folder: Path) -> Path:
    (folder / "photos").mkdir(parents=True)
    return folder


def missing_mask(folder: Path) -> Path:
    segmentation(folder)
    (folder / "masks" / "one.png").unlink()
    return folder


def empty_list(folder: Path) -> Path:
    segmentation(folder)
    (folder / "val.txt").write_text("")
    return folder


def missing_picture(folder: Path) -> Path:
    return nights(folder, ["0,1,0,gone.png,left.png,right.png,6,test"])


def other_columns(folder: Path) -> Path:
    folder.mkdir()
    (folder / "data.csv").write_text("a,b\n1,2\n")
    return folder


def truncated_file(folder: Path) -> Path:
    path = medmnist(folder.with_suffix(".npz"))
    path.write_bytes(path.read_bytes()[:-300])
    return path


def many_labels_an_image(folder: Path) -> Path:
    path = folder.with_suffix(".npz")
    part = {"images": np.zeros((2, 28, 28), np.uint8), "labels": np.zeros((2, 14), int)}
    splits = ("train", "val", "test")
    np.savez(path, **{f"{split}_{name}": v for split in splits for name, v in part.items()})
    return path


def file_of_images(*shape: int) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder.with_suffix(".npz")
        part = {"images": np.zeros(shape, np.uint8), "labels": np.zeros((shape[0], 1), int)}
        splits = ("train", "val", "test")
        np.savez(path, **{f"{split}_{name}": v for split in splits for name, v in part.items()})
        return path

    return make


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (one_class, "teaches the labels .*wanted two or more"),
        (other_labels, "none of the labels"),
        (no_images, "no subfolder with photos"),
        (unknown_layout, "is no data set"),
        (missing_mask, "no image or no mask"),
        (empty_list, r"val\.txt is empty"),
        (missing_picture, r"gone\.png, which is not there"),
        (other_columns, "not laid out as NIGHTS"),
        (truncated_file, "no MedMNIST file"),
        (many_labels_an_image, "14 labels an image"),
        (file_of_images(2, 28, 28, 28), r"set\.npz is no MedMNIST file .*\(2, 28, 28, 28\)"),
        (file_of_images(2, 3, 28, 28), r"set\.npz is no MedMNIST file .*wanted \(N, H, W\)"),
        (file_of_images(2, 0, 28), r"set\.npz is no MedMNIST file"),
        (lambda folder: folder, "does not exist"),
    ],
)
def test_what_cannot_be_measured_on_is_told_before_a_model_runs(
    tmp_path: Path, make: object, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        find_data_sets([make(tmp_path / "set")])  # type: ignore[operator]


def test_a_set_named_by_where_somebody_stands_has_its_folders_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(classification(tmp_path / "things"))
    assert [one.name for one in find_data_sets([Path()])] == ["things"]


def test_two_sets_of_one_name_are_told_apart_or_refused(tmp_path: Path) -> None:
    paths = [classification(tmp_path / where / "things") for where in ("here", "there")]
    with pytest.raises(InputError, match="give each another name"):
        find_data_sets(paths)


def test_names_with_spaces_dots_and_a_mark_at_the_beginning_are_found(tmp_path: Path) -> None:
    for name in ("a 1", "b.2"):
        picture(tmp_path / "images" / f"{name}.png")
        picture(tmp_path / "masks" / f"{name}.png", mode="L", color=1)
    (tmp_path / "train.txt").write_text("\ufeffa 1\n", encoding="utf-8")
    (tmp_path / "val.txt").write_text("b.2\n")
    (found,) = find_data_sets([tmp_path])
    assert isinstance(found, SegmentationSet)
    assert [image.stem for image, _ in (*found.memory, *found.query)] == ["a 1", "b.2"]


def test_a_link_to_a_folder_of_a_label_is_told(tmp_path: Path) -> None:
    classification(tmp_path / "set")
    (tmp_path / "set" / "query" / "b").rename(tmp_path / "b")
    (tmp_path / "set" / "query" / "b").symlink_to(tmp_path / "b")
    with pytest.raises(InputError, match="b is a link to a folder"):
        find_data_sets([tmp_path / "set"])


@pytest.mark.parametrize(
    "row",
    [
        "0,nan,1,ref.png,left.png,right.png,6,test",
        "0,-1,7,ref.png,left.png,right.png,6,test",
        "0,1,0,ref.png,left.png,right.png,inf,test",
        "0,0,0,ref.png,left.png,right.png,6,test",
        "0,1",
        "0," + "1" * 200_000,
    ],
)
def test_votes_that_nobody_can_have_given_are_told(tmp_path: Path, row: str) -> None:
    with pytest.raises(InputError, match="not laid out as NIGHTS"):
        find_data_sets([nights(tmp_path, [row])])


def test_a_picture_that_is_missing_is_told_as_that(tmp_path: Path) -> None:
    row = "0,1,0,ref.png,left.png,none.png,6,test"
    with pytest.raises(InputError, match=r"names .*none\.png") as caught:
        find_data_sets([nights(tmp_path, [row])])
    assert "laid out" not in str(caught.value)


@pytest.mark.parametrize("content", ["nothing", "an array", "labels of inf", "labels of halves"])
def test_files_that_are_no_medmnist_are_told(tmp_path: Path, content: str) -> None:
    path = tmp_path / "set.npz"
    if content == "nothing":
        path.write_bytes(b"")
    elif content == "an array":
        np.save(tmp_path / "set.npy", np.zeros(3))
        (tmp_path / "set.npy").rename(path)
    else:
        medmnist(path)
        with np.load(path) as known:
            arrays = dict(known)
        labels = arrays["test_labels"].astype(float)
        arrays["test_labels"] = labels + (np.inf if "inf" in content else 0.5)
        np.savez(path, **arrays)
    with pytest.raises(InputError, match="is no MedMNIST file"):
        find_data_sets([path])


@pytest.mark.parametrize("name", ["train.txt", "classes.txt"])
def test_lists_that_are_no_text_are_told(tmp_path: Path, name: str) -> None:
    segmentation(tmp_path)
    (tmp_path / name).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=f"{name} is not UTF-8 text"):
        find_data_sets([tmp_path])
