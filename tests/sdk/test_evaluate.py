"""The k-NN protocol, held to a plain twin and to small cases worked out by hand."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.tiny_model import write_tiny_model

from procmem.embedder import Embedder
from procmem.errors import ImageError, InputError
from procmem.evaluate import evaluate_folders
from procmem.image import load_image


def write(folder: Path, label: str, name: str, color: tuple[int, int, int]) -> None:
    (folder / label).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), color).save(folder / label / f"{name}.png")


def mean_color(images: Iterable[object]) -> np.ndarray:
    """The simplest embedding there is: the mean color."""
    rows = [load_image(image).mean(axis=(0, 1)) for image in images]
    return np.array(rows, dtype=np.float32)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    memory, query = tmp_path / "memory", tmp_path / "query"
    random = np.random.default_rng(5)
    for folder, count in ((memory, 7), (query, 5)):
        for at, label in enumerate(("a", "b", "c")):
            for number in range(count):
                color = random.integers(0, 120, 3)
                color[at] += 100
                write(folder, label, str(number), tuple(color.tolist()))
    return memory, query


def twin(folders: tuple[Path, Path], k: int) -> float:
    """The protocol in float64, spelled out."""
    rows, labels = [], []
    for folder in folders:
        files = sorted(folder.rglob("*.png"))
        vectors = mean_color(files).astype(np.float64)
        rows.append(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
        labels.append([file.parent.name for file in files])
    right = 0
    for query, wanted in zip(rows[1], labels[1], strict=True):
        similarities = rows[0] @ query
        votes: dict[str, float] = {}
        for index in np.argsort(-similarities, kind="stable")[:k]:
            label = labels[0][index]
            votes[label] = votes.get(label, 0.0) + np.exp(similarities[index] / 0.07)
        right += max(votes, key=lambda label: votes[label]) == wanted
    return right / len(labels[1])


@pytest.mark.parametrize("k", [1, 3, 20, 1000])
def test_accuracy_is_that_of_the_plain_twin(folders, k):
    result = evaluate_folders(*folders, embed=mean_color, ks=(k,))

    assert result.accuracy == {k: twin(folders, k)}


def test_many_weak_votes_beat_one_strong_one_at_a_larger_k(tmp_path):
    # Angles to the query in degrees: 0 for a, 10 (cosine 0.985) for three of b: a has weight 1,
    # b has 3 * exp((0.985 - 1) / 0.07) = 2.4.
    for number, angle in enumerate((0, 10, 10.1, 10.2)):
        radians = np.deg2rad(angle)
        color = (round(200 * np.cos(radians)), round(200 * np.sin(radians)), 0)
        write(tmp_path / "memory", "b" if number else "a", str(number), color)
    write(tmp_path / "query", "a", "0", (200, 0, 0))

    result = evaluate_folders(tmp_path / "memory", tmp_path / "query", embed=mean_color, ks=(1, 4))

    assert result.accuracy == {1: 1.0, 4: 0.0}


def test_each_label_has_its_own_accuracy(tmp_path):
    write(tmp_path / "memory", "a", "0", (200, 0, 0))
    write(tmp_path / "memory", "b", "0", (0, 200, 0))
    write(tmp_path / "query", "a", "0", (190, 0, 0))
    write(tmp_path / "query", "b", "0", (0, 190, 0))
    write(tmp_path / "query", "b", "1", (190, 10, 0))

    result = evaluate_folders(tmp_path / "memory", tmp_path / "query", embed=mean_color, ks=(1,))

    assert result.by_label == {"a": 1.0, "b": 0.5}
    assert (result.labels, result.taught, result.asked) == (2, 2, 3)


def test_a_bad_file_is_skipped_and_named_and_the_others_count(folders):
    (folders[0] / "a" / "bad.jpg").write_bytes(b"no photo")

    result = evaluate_folders(*folders, embed=mean_color, ks=(1,))

    assert [Path(path).name for path, _ in result.skipped] == ["bad.jpg"]
    assert (result.taught, result.accuracy[1]) == (21, twin(folders, 1))


def test_an_embedder_answers_as_its_own_class_tokens_do(folders, tmp_path):
    with Embedder(write_tiny_model(tmp_path)) as embedder:
        by_object = evaluate_folders(*folders, embed=embedder, ks=(1, 5))
        by_function = evaluate_folders(
            *folders, embed=lambda images: embedder.embed(images).cls, ks=(1, 5)
        )

    assert by_object == by_function


def test_progress_counts_every_photo_of_both_folders(folders):
    seen: list[tuple[int, int | None]] = []

    evaluate_folders(*folders, embed=mean_color, progress=lambda *counts: seen.append(counts))

    assert seen[-1] == (36, 36)


def test_a_folder_without_labels_is_an_error_that_says_what_is_wanted(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "loose.png")

    with pytest.raises(InputError, match="one subfolder for each label"):
        evaluate_folders(tmp_path, tmp_path, embed=mean_color)


def test_a_folder_of_bad_files_is_an_error(folders, tmp_path):
    (tmp_path / "bad" / "a").mkdir(parents=True)
    (tmp_path / "bad" / "a" / "x.png").write_bytes(b"no")

    with pytest.raises(ImageError, match=r"x\.png"):
        evaluate_folders(folders[0], tmp_path / "bad", embed=mean_color)


@pytest.mark.parametrize("ks", [(), (0,), (1, -3), (True,), (1.5,)])
def test_a_bad_k_is_an_error(folders, ks):
    with pytest.raises(InputError, match="ks is"):
        evaluate_folders(*folders, embed=mean_color, ks=ks)


@pytest.mark.parametrize(
    "embed",
    [
        lambda images: np.zeros((1, 3), dtype=np.float32),
        lambda images: np.zeros((len(images), 3), dtype=np.float64),
        lambda images: np.full((len(images), 3), np.nan, dtype=np.float32),
    ],
    ids=["count", "dtype", "nan"],
)
def test_an_embed_function_that_misbehaves_is_an_error(folders, embed):
    with pytest.raises(InputError, match="embed gave"):
        evaluate_folders(*folders, embed=embed)
