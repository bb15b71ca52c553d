"""What is measured: perceptions and simple descriptors, each as functions of images.

A method turns images into unit vectors; a perception gives patch tokens as well. Baselines tell how
much of a score needs no learning: random weights, colors, histograms of gradients.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from procmem.embedder import Embedder
from procmem.errors import MissingExtraError
from procmem.image import ImageLike, load_image
from procmem.manifest import Preprocessing, read_manifest
from procmem.photos import absolute
from procmem.preprocess import center_view, decode_min_side
from procmem_pretrain.checkpoint import load_perception
from procmem_pretrain.compact import procedural_readout
from procmem_pretrain.config import TrainConfig
from procmem_pretrain.stream import StreamConfig, generate
from procmem_pretrain.vit import ARCHITECTURES, make_vit, statistics, without_registers

Float32 = npt.NDArray[np.float32]
UInt8 = npt.NDArray[np.uint8]

Embed = Callable[[Iterable[ImageLike]], Float32]
Patches = Callable[[UInt8, tuple[int, int]], Float32]

BASELINE = TrainConfig(images=StreamConfig(side=144, mask_side=64, pool_images=2048))
"""Whose images the readout of random weights is fitted on, and how; a trained model has its own."""

_BATCH = 16
_HOG_SIDE, _WORDS = 128, 256


@dataclass(frozen=True, slots=True)
class Method:
    """One row of the tables.

    Attributes:
        name: in the tables.
        key: changes whenever the method's answers could; cells are kept by it.
        embed: (N, D) unit vectors of N images.
        patches: (h, w, P) patch tokens of an image squashed to (height, width), multiples of 16
            pixels; None for descriptors.
    """

    name: str
    key: str
    embed: Embed
    patches: Patches | None = None


@dataclass(slots=True)
class Perceiver:
    """A transformer with and without its readout; each image runs through it once.

    Attributes:
        vit: accepts every multiple of 16 pixels.
        readout: weight (D, 19P) and bias (D,), or None.
        preprocessing: of the checkpoint.
        device: of the model.
    """

    vit: Any
    readout: tuple[torch.Tensor, torch.Tensor] | None
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    device: str = "cpu"
    _seen: dict[str, Float32] = field(default_factory=dict)

    def class_token(self, images: Iterable[ImageLike]) -> Float32:
        """The plain class token: the paper's embedding."""
        return unit(self.token_statistics(images)[:, : self.vit.embed_dim])

    def read_out(self, images: Iterable[ImageLike]) -> Float32:
        """The class token after the readout: what procmem's memory holds."""
        if self.readout is None:
            return self.class_token(images)
        weight, bias = (part.numpy() for part in self.readout)
        return unit(self.token_statistics(images) @ weight.T + bias)

    @torch.no_grad()
    def patches(self, image: UInt8, size: tuple[int, int]) -> Float32:
        """(h, w, P) tokens of the whole image, squashed to (height, width) pixels."""
        height, width = size
        picture = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
        mean = np.array(self.preprocessing.mean, np.float32)
        view = (np.asarray(picture, np.float32) / 255 - mean) / np.array(
            self.preprocessing.std, np.float32
        )
        batch = torch.from_numpy(view).permute(2, 0, 1)[None].to(self.device)
        tokens = without_registers(self.vit, self.vit.forward_features(batch))[0, 1:]
        found: Float32 = tokens.reshape(height // 16, width // 16, -1).cpu().numpy()
        return found

    @torch.no_grad()
    def token_statistics(self, images: Iterable[ImageLike]) -> Float32:
        """(N, 19P): what the readout reads."""
        keys, new = [], []
        for image in images:
            keys.append(_key(image))
            if keys[-1] not in self._seen:
                new.append((keys[-1], image))
        least = decode_min_side(self.preprocessing)
        for first in range(0, len(new), _BATCH):
            part = new[first : first + _BATCH]
            views = [
                center_view(load_image(image, min_side=least), self.preprocessing)
                for _, image in part
            ]
            batch = torch.from_numpy(np.stack(views)).to(self.device)
            tokens = without_registers(self.vit, self.vit.forward_features(batch))
            grid = (batch.shape[2] // 16, batch.shape[3] // 16)
            for (key, _), row in zip(part, statistics(tokens, grid).cpu().numpy(), strict=True):
                self._seen[key] = row
        return np.stack([self._seen[key] for key in keys])


def checkpoint_methods(path: Path, *, device: str = "cpu") -> tuple[Method, ...]:
    """A checkpoint's class token, and its readout if it has one.

    Raises:
        CheckpointError: damaged, or of an architecture that this procmem does not know.
    """
    manifest, model = load_perception(path)
    readout = None
    if model.readout_weight is not None and model.readout_bias is not None:
        readout = (model.readout_weight, model.readout_bias)
    perceiver = Perceiver(model.vit.to(device), readout)
    perceiver.preprocessing, perceiver.device = manifest.preprocessing, device
    return _rows(f"{_folder_name(path)}/{path.stem}", manifest.sha256, perceiver)


def model_methods(path: Path) -> tuple[Method, ...]:
    """An exported model as the SDK runs it, for what needs no patches.

    Raises:
        ModelError: damaged, or not exported by procmem-export.
    """
    embedder = Embedder(path)
    name = f"{_folder_name(path)}/{path.name}"

    def embed(images: Iterable[ImageLike]) -> Float32:
        return unit(embedder.embed(images).cls)

    return (Method(name, f"{embedder.sha256} {path.suffix}", embed),)


def _folder_name(path: Path) -> str:
    return absolute(path).parent.name


def methods_of(path: Path, *, device: str = "cpu") -> tuple[Method, ...]:
    """A checkpoint (`.safetensors`) or an exported model (any other suffix)."""
    if path.suffix == ".safetensors":
        return checkpoint_methods(path, device=device)
    return model_methods(path)


def architectures_of(paths: Sequence[Path]) -> list[str]:
    """The known architectures of checkpoints and exported models; of none the smallest."""
    names = [read_manifest(path).name for path in paths]
    return list(dict.fromkeys(name for name in names if name in ARCHITECTURES)) or ["vit-tiny"]


def random_methods(model: str, *, device: str = "cpu") -> tuple[Method, ...]:
    """The same architecture untrained, with a readout fitted on the same procedural images."""
    vit = make_vit(model, root_seed=0)
    readout = procedural_readout(vit, BASELINE)
    perceiver = Perceiver(vit.eval().to(device), readout, device=device)
    return _rows(f"random {model}", f"random {model} {BASELINE}", perceiver)


def _rows(name: str, key: str, perceiver: Perceiver) -> tuple[Method, ...]:
    plain = Method(f"{name}, class token", f"{key} cls", perceiver.class_token, perceiver.patches)
    if perceiver.readout is None:
        return (plain,)
    return plain, Method(f"{name}, readout", f"{key} readout", perceiver.read_out)


def descriptor_methods() -> tuple[Method, ...]:
    """Baselines without a network: color histogram, small pixels, HOG, HOG bag of words.

    Raises:
        MissingExtraError: scikit-image is not installed.
    """
    version = "1"
    return (
        Method("RGB histogram", f"rgb-histogram {version}", rgb_histogram),
        Method("RGB pixels, 16 x 16", f"rgb-pixels {version}", rgb_pixels, rgb_patches),
        Method("HOG", f"hog {version}", hog),
        Method(f"HOG bag of {_WORDS} words", f"hog-words {version}", hog_words),
    )


def rgb_histogram(images: Iterable[ImageLike]) -> Float32:
    """Square roots of 8 x 8 x 8 color shares: dot products are Bhattacharyya coefficients."""
    rows = []
    for image in images:
        bins = load_image(image).reshape(-1, 3).astype(int) // 32
        counts = np.bincount((bins[:, 0] * 8 + bins[:, 1]) * 8 + bins[:, 2], minlength=512)
        rows.append(np.sqrt(counts / counts.sum()))
    return unit(np.array(rows, np.float32))


def rgb_pixels(images: Iterable[ImageLike]) -> Float32:
    """The image at 16 x 16 pixels, its mean taken off."""
    rows = [_resized(image, 16).astype(np.float32).ravel() for image in images]
    return unit(np.stack([row - row.mean() for row in rows]))


def rgb_patches(image: UInt8, size: tuple[int, int]) -> Float32:
    """(h, w, 768): the pixels of each patch in [-1, 1], of an image squashed to (height, width)."""
    height, width = size
    picture = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
    pixels = np.asarray(picture, np.float32) / 127.5 - 1
    cut = pixels.reshape(height // 16, 16, width // 16, 16, 3).transpose(0, 2, 1, 3, 4)
    return np.ascontiguousarray(cut).reshape(height // 16, width // 16, -1)


def hog(images: Iterable[ImageLike]) -> Float32:
    """Dalal and Triggs 2005, scikit-image's: 128 x 128 grey, 16-pixel cells, 2 x 2 blocks."""
    return unit(np.stack([_hog_blocks(image, cell=16).ravel() for image in images]))


def hog_words(images: Iterable[ImageLike]) -> Float32:
    """Square roots of how often each of 256 words occurs among the image's 8-pixel HOG blocks."""
    words = _codebook()
    rows = []
    for image in images:
        counts = np.bincount(_nearest_word(_blocks(image), words), minlength=len(words))
        rows.append(np.sqrt(counts / counts.sum()))
    return unit(np.array(rows, np.float32))


@cache
def _codebook() -> Float32:
    """K-means of HOG blocks of procedural images: no real image forms a word (law 3)."""
    pictures = generate(
        StreamConfig(process="shaders-kml-mixup", root_seed=1, side=_HOG_SIDE, pool_images=512), 256
    )
    blocks = np.concatenate([_blocks(p) for p in pictures.permute(0, 2, 3, 1).numpy()])
    random = np.random.default_rng(0)
    words: Float32 = blocks[random.choice(len(blocks), _WORDS, replace=False)]
    for _ in range(10):
        nearest = _nearest_word(blocks, words)
        for word in range(_WORDS):
            if (nearest == word).any():
                words[word] = blocks[nearest == word].mean(0)
    return words


def _nearest_word(blocks: Float32, words: Float32) -> npt.NDArray[np.intp]:
    nearest: npt.NDArray[np.intp] = (blocks @ words.T - (words**2).sum(1) / 2).argmax(1)
    return nearest


def _blocks(image: ImageLike) -> Float32:
    blocks = _hog_blocks(image, cell=8)
    return blocks.reshape(-1, int(np.prod(blocks.shape[2:])))


def _hog_blocks(image: ImageLike, *, cell: int) -> Float32:
    try:
        from skimage.feature import hog as skimage_hog
    except ImportError as error:
        raise MissingExtraError(
            "HOG needs scikit-image; pip install 'procmem[evaluate]'"
        ) from error
    grey = _resized(image, _HOG_SIDE) @ np.array([0.299, 0.587, 0.114])
    found = skimage_hog(
        grey,
        orientations=9,
        pixels_per_cell=(cell, cell),
        cells_per_block=(2, 2),
        feature_vector=False,
    )
    return np.asarray(found, np.float32)


def _resized(image: ImageLike, side: int) -> UInt8:
    picture = Image.fromarray(load_image(image))
    return np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC))


def unit(rows: Float32) -> Float32:
    """Rows scaled to unit length; a row of zeros stays."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.ascontiguousarray(rows / np.where(lengths > 0, lengths, 1), dtype=np.float32)


def _key(image: ImageLike) -> str:
    if isinstance(image, (str, Path)):
        return str(image)
    return hashlib.sha256(load_image(image).tobytes()).hexdigest()
