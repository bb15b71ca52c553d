"""A small stand-in for the model, and pictures that it tells apart."""

from __future__ import annotations

import numpy as np
from PIL import Image

from procmem.image import load_image
from procmem.manifest import Manifest, Origin, Preprocessing
from procmem.types import Embedding

SIDE, PATCH, GRID, CLS, WIDTH = 32, 8, 4, 40, 12


class ToyEmbedder:
    """Random projections of the pixels: like images are near, and equal ones equal."""

    def __init__(self, sha256="ab" * 32, name="toy"):
        self.sha256 = sha256
        self.manifest = Manifest(
            kind="onnx",
            name=name,
            file="toy.onnx",
            sha256=sha256,
            architecture="toy",
            patch_size=PATCH,
            cls_dim=CLS,
            patch_dim=WIDTH,
            preprocessing=Preprocessing(resize=SIDE, crop=SIDE),
            origin=Origin("none", 0, "", "0", 0, 0),
        )
        self.cls_dim, self.patch_dim, self.side, self.grid = CLS, WIDTH, SIDE, (GRID, GRID)
        self.seen = 0
        self.closed = False
        random = np.random.default_rng(17)
        self._cls = random.standard_normal((SIDE * SIDE * 3, CLS)).astype(np.float32)
        self._patch = random.standard_normal((PATCH * PATCH * 3, WIDTH)).astype(np.float32)

    def embed(self, images, *, view="center"):  # noqa: ARG002  squashes for both views
        self.seen += 1
        picture = Image.fromarray(load_image(images)).resize((SIDE, SIDE))
        pixels = np.asarray(picture, dtype=np.float32) / 255 - 0.5
        cls = pixels.reshape(1, -1) @ self._cls
        cells = pixels.reshape(GRID, PATCH, GRID, PATCH, 3).transpose(0, 2, 1, 3, 4)
        patches = cells.reshape(1, GRID, GRID, -1) @ self._patch
        return Embedding(cls=cls / np.linalg.norm(cls), patches=patches)

    def close(self):
        self.closed = True


EMBEDDER = ToyEmbedder()


def picture(seed, *, like=None, change=0.2, size=(40, 48)):
    """A noise image that is a function of its seed, or a changed one of another's."""
    noise = np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.float64)
    if like is not None:
        noise = (1 - change) * like.astype(np.float64) + change * noise
    return noise.astype(np.uint8)


CAT, DOG = picture(1), picture(2)


def a_mask(seed=0, size=(40, 48)):
    """Left 0, right 1, with noise of more values below."""
    mask = np.zeros(size, dtype=np.uint8)
    mask[:, size[1] // 2 :] = 1
    mask[size[0] // 2 :] += (
        np.random.default_rng(seed).integers(0, 3, size)[: size[0] // 2].astype(np.uint8)
    )
    return mask
