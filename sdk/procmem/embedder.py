"""Images to embeddings: the model, opened once and asked many times.

Third step of a photo's walk: decodes by `image.py`, prepares by `preprocess.py`, runs a session
from `backends/`, and gives an `Embedding` to `memory.py`. It promises that an image's embedding
depends on that image, the model file and the device alone, never on what else is in the call.
Never downloads anything; never runs a file whose hash differs from its manifest; imports no
engine until a model is opened.
"""

from __future__ import annotations

import difflib
import importlib.resources
import logging
from collections.abc import Callable, Iterable, Sized
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from procmem.backends import Session, resolve_device
from procmem.errors import (
    ImageError,
    InputError,
    ModelError,
    ModelIntegrityError,
    ModelNotFoundError,
)
from procmem.image import ImageLike, is_image_like, load_image
from procmem.manifest import Manifest, read_manifest, read_verified
from procmem.preprocess import (
    View,
    at_side,
    check_image_size,
    check_view,
    decode_min_side,
    to_tensor,
)
from procmem.types import Embedding

DEFAULT_MODEL = "vit-tiny"
"""The bundled model that is opened when none is named."""

_log = logging.getLogger(__name__)

_SUFFIXES = (".onnx", ".engine")  # of model files, by which a text is a path and no name

_MAX_CONSTANT = 1e6  # of a normalization; beyond, float32 runs out of digits or of range

Progress = Callable[[int, "int | None"], None]
"""Called with the number of images done and the number of all, None if that is not known."""


class Embedder:
    """A perception model, ready to be asked.

    Safe to use from several threads at once. Holds the model in memory until `close()`; works as
    a context manager.

    Args:
        model: the name of a bundled model (see `bundled_models`), or the path of an `.onnx` or
            `.engine` file with its manifest beside it.
        image_size: S, side of the square that every image becomes, pixels: a multiple of the
            patch size of at least 4 patches and at most 1024. None for the model's own, 224. Larger
            sees finer detail and costs more, see docs/results/resolutions.md. Embeddings of one
            image at two sides are alike only in part (cosine about 0.8) and must not be mixed.
        device: "cpu", "cuda", "tensorrt", "openvino", "coreml", "qnn", or "auto": the environment
            variable PROCMEM_DEVICE if it is set, else the best that works for the model's precision
            by the fixed rule of docs/devices.md. One that is named is used or is an error.
        threads: processor threads for one image, at least 1; None for one per physical core that
            this process may use, within its quota.

    Attributes:
        manifest: what the model says of itself.
        preprocessing: how an image becomes the model's input, at this side; for `to_tensor`.
        sha256: of the model file; a memory is bound to it.
        device: where it runs, one of those above but "auto".
        notice: what runs where, with what, and why not better; one line for people. Also logged,
            as a warning if something better is installed and could not be used.
        cls_dim: D, width of a class token.
        patch_dim: P, width of a patch token.
        side: S, side of the model's input, pixels.
        grid: (h, w), patches per column and per row.

    Raises:
        InputError: a bad argument, a side that the model cannot run, a device that does not work,
            or a file that is no model for this class: a checkpoint, or one that takes pixels or
            batches.
        ModelNotFoundError: no such bundled model, or no file or manifest at the path.
        ModelIntegrityError: the file is not what its manifest states.
        MissingExtraError: the engine is not installed.
        ModelError: the engine failed on its first input, or answers otherwise than the processor.
    """

    def __init__(
        self,
        model: str | Path = DEFAULT_MODEL,
        *,
        image_size: int | None = None,
        device: str = "auto",
        threads: int | None = None,
    ) -> None:
        wanted = resolve_device(device)
        if threads is not None and (not isinstance(threads, int) or threads < 1):
            raise InputError(f"threads is {threads!r}, wanted an integer of at least 1, or None")
        file = _model_file(model)
        manifest, data = _read(file)
        _check_use(manifest)
        _check_manifest(manifest)
        side = _side(manifest, image_size)
        # Here, so that importing this module is as quick as can be.
        from procmem.backends.opening import open_model

        opened = open_model(data, manifest, side=side, device=wanted, threads=threads)
        _log.log(logging.WARNING if opened.held_back else logging.INFO, "%s", opened.notice)
        session = opened.session
        self.manifest = manifest
        self.preprocessing = at_side(manifest.preprocessing, side)
        self.sha256 = manifest.sha256
        self.device = session.device
        self.notice = opened.notice
        self.cls_dim = manifest.cls_dim
        self.patch_dim = manifest.patch_dim
        self.side = side
        self.grid = (self.side // manifest.patch_size, self.side // manifest.patch_size)
        self._session: Session | None = session

    def embed(
        self,
        images: ImageLike | Iterable[ImageLike],
        *,
        view: View = "center",
        progress: Progress | None = None,
    ) -> Embedding:
        """Embeds one image or many.

        Args:
            images: one image (a path, bytes, a PIL image, an array), or any iterable of them. An
                array of four dimensions (N, H, W, C) counts as N images. An iterable is decoded
                one image at a time, so a generator of a million paths needs no more memory than
                its embeddings.
            view: "center" for the centered square, "whole" for all of the image, squashed.
            progress: called after each image with (done, total).

        Returns:
            `cls` (N, D) and `patches` (N, h, w, P) in the order of `images`. N is 1 for one image
            and 0 for an empty iterable. Cost: one run of the model per image.

        Raises:
            ImageError: an image cannot be used; the leaves say why. In an iterable, the message
                names its position.
            InputError: `images` or `view` is not of a usable kind.
            ModelError: the engine failed, or the embedder is closed.
        """
        check_view(view)
        if is_image_like(images) and not (isinstance(images, np.ndarray) and images.ndim == 4):
            return self._embed_all([self._prepare(images, view)], 1, progress)
        if hasattr(images, "read"):
            raise InputError(f"images is a {type(images).__name__}; give its content, file.read()")
        if not isinstance(images, Iterable):
            raise InputError(
                f"images is a {type(images).__name__}, wanted a path, bytes, a PIL image, an "
                "array, or an iterable of them"
            )
        total = len(images) if isinstance(images, Sized) else None
        several = cast(Iterable[ImageLike], images)
        prepared = (self._prepare_at(at, image, view) for at, image in enumerate(several))
        return self._embed_all(prepared, total, progress)

    def embed_tensors(self, tensors: npt.NDArray[np.float32]) -> Embedding:
        """Embeds images that `preprocess.to_tensor` has prepared for this model.

        Args:
            tensors: (N, 3, S, S) float32.

        Returns:
            `cls` (N, D) and `patches` (N, h, w, P), as `embed` gives them.

        Raises:
            InputError: another shape or dtype.
            ModelError: the engine failed, or the embedder is closed.
        """
        if not isinstance(tensors, np.ndarray):
            raise InputError(f"tensors is a {type(tensors).__name__}, wanted an array of to_tensor")
        wanted = (3, self.side, self.side)
        if tensors.ndim != 4 or tensors.shape[1:] != wanted or tensors.dtype != np.float32:
            raise InputError(
                f"tensors has shape {tensors.shape} and dtype {tensors.dtype}, wanted "
                f"(N, 3, {self.side}, {self.side}) float32; prepare images with to_tensor and this "
                "embedder's preprocessing"
            )
        return self._embed_all(tensors, len(tensors), None)

    def close(self) -> None:
        """Frees the model. Calls that are running finish; later ones raise ModelError."""
        self._session = None

    def __enter__(self) -> Embedder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return (
            f"Embedder({self.manifest.name!r}, image_size={self.side}, device={self.device!r}, "
            f"sha256={self.sha256!r})"
        )

    def _prepare(self, image: ImageLike, view: View) -> npt.NDArray[np.float32]:
        """One image as (3, S, S)."""
        preprocessing = self.preprocessing
        pixels = load_image(image, min_side=decode_min_side(preprocessing))
        return cast(npt.NDArray[np.float32], to_tensor([pixels], preprocessing, view=view)[0])

    def _prepare_at(self, at: int, image: ImageLike, view: View) -> npt.NDArray[np.float32]:
        try:
            return self._prepare(image, view)
        except (ImageError, InputError) as error:
            raise type(error)(f"images[{at}]: {error}") from error

    def _embed_all(
        self,
        tensors: Iterable[npt.NDArray[np.float32]],
        total: int | None,
        progress: Progress | None,
    ) -> Embedding:
        # A local name, so that close() in another thread cannot pull the model away midway.
        session = self._session
        if session is None:
            raise ModelError("the embedder is closed; open another one")
        cls: list[npt.NDArray[np.float32]] = []
        patches: list[npt.NDArray[np.float32]] = []
        for tensor in tensors:
            # A batch of one, on purpose. An engine splits its sums by the size of the batch, so
            # the last bits of a vector would depend on the images next to it, and forgetting one
            # of them could not leave the others as if it had never been there (law 1).
            one_cls, one_patches = session.run(tensor[None])
            cls.append(one_cls)
            patches.append(one_patches)
            if progress is not None:
                progress(len(cls), total)
        if not cls:
            return Embedding(
                cls=np.empty((0, self.cls_dim), dtype=np.float32),
                patches=np.empty((0, *self.grid, self.patch_dim), dtype=np.float32),
            )
        return Embedding(cls=np.concatenate(cls), patches=np.concatenate(patches))


def bundled_models() -> tuple[str, ...]:
    """The names of the models that came with procmem, ascending."""
    folder = _bundled_folder()
    files = folder.glob("*.onnx") if folder.is_dir() else ()
    return tuple(sorted(file.stem for file in files if file.with_suffix(".json").is_file()))


def model_manifest(model: str | Path) -> Manifest:
    """What a bundled model, or the model at a path, says of itself; opens neither it nor an engine.

    Raises:
        InputError, ModelNotFoundError, ModelIntegrityError: as `Embedder`.
    """
    return read_manifest(_model_file(model))


def _bundled_folder() -> Path:
    # procmem has a compiled module, so it is always installed as files, never inside a zip.
    return Path(str(importlib.resources.files("procmem").joinpath("models")))


def _model_file(model: Any) -> Path:
    """The file that a name or a path stands for."""
    if isinstance(model, Path):
        return model
    if not isinstance(model, str) or not model:
        raise InputError(f"model is {model!r}, wanted a bundled model's name or a path")
    if model.endswith(_SUFFIXES) or "/" in model or "\\" in model:
        return Path(model)
    names = bundled_models()
    if model not in names:
        nearest = difflib.get_close_matches(model, names, n=1)
        raise ModelNotFoundError(
            f"no bundled model is called {model!r}; bundled are: {', '.join(names) or 'none'}"
            + (f"; did you mean {nearest[0]!r}?" if nearest else ".")
            + " A model of your own is given by the path of its .onnx file."
        )
    return _bundled_folder() / f"{model}.onnx"


def _read(file: Path) -> tuple[Manifest, bytes]:
    try:
        return read_verified(file)
    except ModelError:
        raise
    except OSError as error:
        raise ModelError(f"{file} cannot be read ({error}); check its permissions") from error


def _side(manifest: Manifest, image_size: int | None) -> int:
    """The side to run at, pixels."""
    own = manifest.preprocessing.crop
    if image_size is None:
        return own
    side = check_image_size(image_size, manifest.patch_size)
    if side != own and not manifest.any_side:
        raise InputError(
            f"image_size is {side}, but {manifest.file} was exported for {own} pixels only; open "
            f"it without image_size, or export its checkpoint anew: procmem-export CHECKPOINT "
            f"--out {manifest.file} --force"
        )
    return side


def _check_use(manifest: Manifest) -> None:
    """Raises InputError unless the file is a model that takes one prepared image at a time."""
    file = manifest.file
    if manifest.kind not in ("onnx", "tensorrt"):
        raise InputError(f"{file} is a {manifest.kind}, wanted a model: onnx or tensorrt")
    if manifest.input != "views":
        raise InputError(
            f"{file} takes {manifest.input} and prepares them inside its graph, which is for other "
            "programs; open or export the model without that: one that takes views"
        )
    if manifest.batch not in (None, 1):
        raise InputError(
            f"{file} takes {manifest.batch} images at a time, wanted 1: an embedding must not "
            "depend on the images next to it; export the checkpoint with batch 1, or any"
        )


def _check_manifest(manifest: Manifest) -> None:
    """Raises ModelIntegrityError where the manifest contradicts itself."""
    preprocessing, patch_size = manifest.preprocessing, manifest.patch_size
    crop, resize = preprocessing.crop, preprocessing.resize
    numbers = (patch_size, manifest.cls_dim, manifest.patch_dim, crop, resize)
    usable = all(isinstance(number, int) and number >= 1 for number in numbers)
    if not usable or crop % patch_size or crop > resize:
        raise ModelIntegrityError(
            f"the manifest of {manifest.file} has patch_size {patch_size}, cls_dim "
            f"{manifest.cls_dim}, patch_dim {manifest.patch_dim}, crop {crop} and "
            f"resize {resize}; wanted whole numbers above 0 with crop a multiple of "
            "patch_size and at most resize: export the checkpoint again"
        )
    mean, std = preprocessing.mean, preprocessing.std
    usable = len(mean) == len(std) == 3 and all(
        isinstance(number, (int, float)) and abs(number) < _MAX_CONSTANT for number in (*mean, *std)
    )
    if not usable or not all(number > 1 / _MAX_CONSTANT for number in std):
        raise ModelIntegrityError(
            f"the manifest of {manifest.file} has mean {mean} and std {std}, wanted three numbers "
            "each, those of std above 0: export the checkpoint again"
        )
