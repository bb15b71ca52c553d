import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
import torch
from PIL import Image
from tests.export.checkpoints import write_checkpoint

from procmem import Embedder
from procmem.errors import InputError
from procmem.image import load_image
from procmem.manifest import Preprocessing, read_verified
from procmem.preprocess import at_side, center_view, decode_min_side
from procmem_export.export import export
from procmem_export.formats import ExportOptions
from procmem_export.pixels import FromPixels
from procmem_pretrain.checkpoint import load_perception
from procmem_pretrain.probes import probe_images


def photo(height: int, width: int, *, seed: int = 0) -> npt.NDArray[np.uint8]:
    """A procedural image of the size, with edges and noise."""
    (image, _) = probe_images(2, side=256, seed=seed)
    picture = Image.fromarray(image).resize((width, height), Image.Resampling.NEAREST)
    noise = np.random.default_rng(seed).integers(0, 40, (height, width, 3))
    return np.clip(np.asarray(picture, dtype=np.int64) + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("height", "width"),
    [(256, 256), (480, 640), (640, 480), (100, 130), (224, 1000), (1, 5), (37, 2), (900, 700)],
)
@pytest.mark.parametrize("side", [224, 112])
def test_the_graphs_view_is_pillows_to_a_rounding(height: int, width: int, side: int) -> None:
    preprocessing = at_side(Preprocessing(), side)
    image = photo(height, width, seed=height)
    wanted = center_view(image, preprocessing)
    with torch.no_grad():
        got = FromPixels(preprocessing)(torch.from_numpy(image[None]))[0].numpy()
    steps = np.abs(got - wanted) * 127.5
    # A step where a sum falls on the other side of a half, or the order of the axes shows: two in
    # a strip of two columns.
    assert steps.max() < 2.01
    assert steps.mean() < (0.3 if min(height, width) < 10 else 0.12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, its model for views and its model for pixels."""
    folder = tmp_path_factory.mktemp("pixels")
    source = write_checkpoint(folder, seed=7)
    export(source, folder / "views.onnx", probes=2, programs=0)
    pixels = ExportOptions(pixels=True)
    export(source, folder / "pixels.onnx", pixels, probes=2, programs=0)
    return folder


@pytest.mark.parametrize(("height", "width"), [(333, 500), (720, 480), (256, 256)])
def test_the_same_jpeg_gives_the_same_embedding_in_torch_onnx_and_in_graph(
    folder: Path, height: int, width: int
) -> None:
    buffer = io.BytesIO()
    Image.fromarray(photo(height, width)).save(buffer, format="JPEG", quality=90)
    data = buffer.getvalue()
    manifest, model = load_perception(folder / "vit-shallow-7.safetensors")
    image = load_image(data, min_side=decode_min_side(manifest.preprocessing))
    with torch.no_grad():
        cls, patches = model(torch.from_numpy(center_view(image, manifest.preprocessing))[None])
    with Embedder(folder / "views.onnx", device="cpu") as embedder:
        ours = embedder.embed(data)
    session = onnxruntime.InferenceSession(
        folder / "pixels.onnx", providers=["CPUExecutionProvider"]
    )
    in_graph = session.run(["cls", "patches"], {"images": image[None]})
    for got in ((ours.cls, ours.patches), in_graph):
        assert (got[0] * cls.numpy()).sum() >= 0.9999
        flat, wanted = got[1].reshape(-1, 192), patches.numpy().reshape(-1, 192)
        cosines = (flat * wanted).sum(1)
        cosines /= np.linalg.norm(flat, axis=1) * np.linalg.norm(wanted, axis=1)
        assert cosines.mean() >= 0.9999


def test_the_manifest_says_that_it_takes_pixels_and_the_sdk_says_what_to_open(
    folder: Path,
) -> None:
    manifest, _ = read_verified(folder / "pixels.onnx")
    assert (manifest.input, manifest.batch, manifest.any_side) == ("pixels", None, False)
    with pytest.raises(InputError, match="takes pixels"):
        Embedder(folder / "pixels.onnx")


def test_several_images_of_a_size_are_one_run(folder: Path) -> None:
    session = onnxruntime.InferenceSession(
        folder / "pixels.onnx", providers=["CPUExecutionProvider"]
    )
    images = np.stack([photo(120, 160, seed=1), photo(120, 160, seed=2)])
    (both,) = session.run(["cls"], {"images": images})
    for image, row in zip(images, both, strict=True):
        (one,) = session.run(["cls"], {"images": image[None]})
        assert (one[0] * row).sum() > 0.99999
