"""What people may hand to `memory.py`, in its several forms, and what it needs of a model.

Takes arguments apart before anything is done with them: one value for all images or one for each,
one prompt or several, an id from numpy. Never reads an image and never touches a vault.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence, Set, Sized
from datetime import datetime
from typing import Any, Protocol, TypeAlias, cast, runtime_checkable

import numpy as np
import numpy.typing as npt

from procmem.errors import InputError
from procmem.folder import path_of
from procmem.image import ImageLike, is_image_like
from procmem.manifest import Manifest
from procmem.preprocess import View, check_image_size
from procmem.record import Binding, check_id
from procmem.types import Embedding

MaskLike: TypeAlias = npt.ArrayLike
Prompt: TypeAlias = "tuple[ImageLike, MaskLike]"
IdOrIds: TypeAlias = "int | np.integer[Any] | Iterable[int | np.integer[Any]]"


@runtime_checkable
class Perception(Protocol):
    """What a memory needs of an `Embedder`; see there for the meaning of each."""

    @property
    def sha256(self) -> str:
        """Of the model."""

    @property
    def manifest(self) -> Manifest:
        """Its manifest."""

    @property
    def cls_dim(self) -> int:
        """D."""

    @property
    def patch_dim(self) -> int:
        """P."""

    @property
    def side(self) -> int:
        """S, pixels."""

    def embed(self, images: ImageLike, *, view: View = "center") -> Embedding:
        """Embeds one image."""
        ...

    def close(self) -> None:
        """Frees the model."""


def one_or_many(
    images: ImageLike | Iterable[ImageLike],
) -> tuple[Iterable[ImageLike], bool]:
    """The images to go through, and whether it is only one and was not given in an iterable.

    Raises:
        InputError: neither an image nor an iterable.
    """
    if is_image_like(images) and not (isinstance(images, np.ndarray) and images.ndim == 4):
        return [images], True
    if hasattr(images, "read"):
        raise InputError(f"images is a {type(images).__name__}; give its content, file.read()")
    if not isinstance(images, Iterable):
        raise InputError(
            f"images is a {type(images).__name__}, wanted a path, bytes, a PIL image, an array, "
            "or an iterable of them"
        )
    return cast(Iterable[ImageLike], images), False


def binding_of(embedder: Perception) -> Binding:
    """What a vault notes of its model."""
    return Binding(
        sha256=embedder.sha256,
        name=embedder.manifest.name,
        cls_dim=embedder.cls_dim,
        patch_dim=embedder.patch_dim,
        side=embedder.side,
        patch_size=embedder.manifest.patch_size,
    )


def check_embedder(embedder: object, image_size: object) -> Perception:
    """The open model that an argument is.

    Raises:
        InputError: it is none, or is asked for another side than it has.
    """
    if not isinstance(embedder, Perception):
        raise InputError(
            f"embedder is {embedder!r:.80}, wanted an Embedder, the name of a bundled model, or "
            "the path of an .onnx file"
        )
    if image_size is None:
        return embedder
    side = check_image_size(image_size, embedder.manifest.patch_size)
    if side != embedder.side:
        raise InputError(
            f"image_size is {side}, but the embedder that was given runs at {embedder.side}; "
            f"make it with Embedder(..., image_size={side})"
        )
    return embedder


class Column:
    """One value per image, from whatever form it was given in.

    Args:
        name: of the argument, for messages.
        values: None or a value of `everywhere` goes to every image; an iterable gives one each.
        total: how many images there are, None if not known.
        everywhere: types of which one value is meant for all.

    Raises:
        InputError: another kind of value, or a count that cannot be right.
    """

    def __init__(
        self, name: str, values: Any, total: int | None, *, everywhere: tuple[type, ...] = ()
    ) -> None:
        self._name = name
        self._constant = values is None or isinstance(values, everywhere)
        self._value = values
        if self._constant:
            return
        scalar = isinstance(values, np.ndarray) and not values.ndim
        if isinstance(values, (str, bytes)) or scalar or not isinstance(values, Iterable):
            raise InputError(
                f"{name} is {values!r:.80}, a {type(values).__name__}; wanted one per image"
            )
        if isinstance(values, (Set, Mapping)):
            raise InputError(
                f"{name} is a {type(values).__name__}, which has no order to go by; wanted a list, "
                "one per image"
            )
        if total is not None and isinstance(values, Sized) and len(values) != total:
            raise InputError(
                f"{name} has {len(values)} entries for {total} images, wanted one per image; "
                "nothing was added"
            )
        self._values = iter(values)
        self._given = 0

    def next(self) -> Any:
        """The value of the next image; raises InputError if there is none left."""
        if self._constant:
            return self._value
        try:
            value = next(self._values)
        except StopIteration as error:
            raise InputError(
                f"{self._name} has {self._given} entries and there are more images, wanted one "
                "per image; nothing was added"
            ) from error
        self._given += 1
        return value

    def end(self, total: int) -> None:
        """Raises InputError if there are more values than images."""
        nothing = object()
        if not self._constant and next(self._values, nothing) is not nothing:
            raise InputError(
                f"{self._name} has more than {total} entries for {total} images, wanted one per "
                "image; nothing was added"
            )


def seconds_between(since: datetime | None, before: datetime | None) -> tuple[float, float]:
    """Two moments in seconds since 1970 UTC, minus and plus infinity where there is none.

    Args:
        since: the first moment that counts; one without a time zone is in local time.
        before: the first moment that does not.

    Raises:
        InputError: not a datetime, of a year without a count of seconds, or `before` is not after
            `since`.
    """
    for name, value in (("since", since), ("before", before)):
        if value is not None and not isinstance(value, datetime):
            raise InputError(
                f"{name} is {value!r:.80}, wanted a datetime, for example "
                "datetime.now() - timedelta(days=30)"
            )
    try:
        first = float("-inf") if since is None else since.timestamp()
        end = float("inf") if before is None else before.timestamp()
    except (ValueError, OverflowError, OSError) as error:
        raise InputError(
            f"since ({since}) or before ({before}) is too far from now ({error}); give a year from "
            "1970 on"
        ) from error
    if not first < end:
        raise InputError(f"before ({before}) is not after since ({since}): no moment is between")
    return first, end


def source_of(path: str | os.PathLike[str]) -> str:
    """The source that `add` gives to an image at a path: absolute, without "." and ".."."""
    return os.path.normpath(path_of("image", path).absolute())


def plain_ids(ids: Any) -> list[int]:
    """One id or several, as Python ints; raises InputError if one is none, see `plain_id`."""
    single = isinstance(ids, (str, bytes)) or not isinstance(ids, Iterable)
    if isinstance(ids, np.ndarray) and not ids.ndim:
        ids, single = ids[()], True
    return [plain_id(id_) for id_ in ([ids] if single else ids)]


def plain_id(id_: Any) -> int:
    """The id as a Python int; raises InputError if it is none in [1, 2**63)."""
    plain = int(id_) if isinstance(id_, np.integer) else id_
    check_id(plain)
    return cast(int, plain)


def pairs_of(prompt: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """One example or several, as a list of pairs."""
    if isinstance(prompt, tuple) and len(prompt) == 2 and is_image_like(prompt[0]):
        return [cast(Prompt, prompt)]
    several = list(cast("Sequence[Prompt]", prompt)) if isinstance(prompt, Sequence) else []
    if not several or not all(isinstance(pair, tuple) and len(pair) == 2 for pair in several):
        raise InputError(
            f"prompt is {prompt!r:.80}, wanted a pair (image, mask) or a list of such pairs"
        )
    return several
