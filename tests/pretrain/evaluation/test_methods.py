from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from procmem.embedder import Embedder
from procmem.errors import ProcmemError
from procmem_export.export import export
from procmem_pretrain.evaluation.methods import (
    Embed,
    checkpoint_methods,
    hog,
    hog_words,
    rgb_histogram,
    rgb_pixels,
)


def pictures() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    small = random.integers(0, 256, (5, 6, 6, 3), dtype=np.uint8)
    return [np.asarray(Image.fromarray(one).resize((60, 40))) for one in small]


@pytest.mark.parametrize("embed", [rgb_histogram, rgb_pixels, hog, hog_words])
def test_descriptors_are_unit_vectors_of_one_image_at_a_time(embed: Embed) -> None:
    images = pictures()
    rows = embed(images)
    assert rows.dtype == np.float32
    assert np.linalg.norm(rows, axis=1) == pytest.approx(1.0, abs=1e-5)
    assert np.array_equal(rows[3:4], embed(images[3:4]))
    # Every image is nearest to itself, and the same pixels give the same row.
    assert (rows @ rows.T).argmax(1).tolist() == list(range(len(images)))


def test_a_histogram_sees_colors_and_not_places(tmp_path: Path) -> None:
    (image,) = pictures()[:1]
    turned = np.ascontiguousarray(image[::-1, ::-1])
    same, other = rgb_histogram([image, turned]), rgb_pixels([image, turned])
    assert same[0] @ same[1] == pytest.approx(1.0, abs=1e-6)
    assert other[0] @ other[1] < 0.9
    path = tmp_path / "image.png"
    Image.fromarray(image).save(path)
    assert np.array_equal(rgb_histogram([path]), same[:1])


def test_a_checkpoint_gives_its_class_token_and_its_readout(untrained: Path) -> None:
    plain, read_out = checkpoint_methods(untrained)
    images = pictures()
    assert plain.embed(images).shape == (5, 192)
    assert read_out.embed(images).shape == (5, 16)
    assert plain.key != read_out.key
    # Batches and repetition change nothing that a table could show.
    again = np.concatenate([plain.embed([image]) for image in images])
    assert np.array_equal(again, plain.embed(images))
    assert plain.patches is not None
    assert plain.patches(images[0], (32, 64)).shape == (2, 4, 192)


def test_the_readout_is_that_of_the_exported_model(untrained: Path, tmp_path: Path) -> None:
    export(untrained, tmp_path / "model.onnx", probes=2, programs=0)
    images = pictures()
    ours = checkpoint_methods(untrained)[1].embed(images)
    theirs = Embedder(tmp_path / "model.onnx").embed(images).cls
    assert np.abs(ours - theirs).max() < 2e-3


def test_a_damaged_checkpoint_is_told(untrained: Path, tmp_path: Path) -> None:
    for name in (untrained.name, untrained.with_suffix(".json").name):
        (tmp_path / name).write_bytes((untrained.parent / name).read_bytes())
    path = tmp_path / untrained.name
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ProcmemError):
        checkpoint_methods(path)
    with pytest.raises(ProcmemError):
        checkpoint_methods(tmp_path / "missing.safetensors")
