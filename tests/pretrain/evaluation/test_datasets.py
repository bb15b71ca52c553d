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
        (lambda folder: folder, "does not exist"),
    ],
)
def test_what_cannot_be_measured_on_is_told_before_a_model_runs(
    tmp_path: Path, make: object, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        find_data_sets([make(tmp_path / "set")])  # type: ignore[operator]


def test_two_sets_of_one_name_are_told_apart_or_refused(tmp_path: Path) -> None:
    paths = [classification(tmp_path / where / "things") for where in ("here", "there")]
    with pytest.raises(InputError, match="give each another name"):
        find_data_sets(paths)
