"""A store and the model that it is bound to, opened together and closed again.

Takes a folder or an address from the user, gives `asking.py`, `forgetting.py` and `memory.py` what
all of them need: the store, the model's eyes, what answers are judged by, and one lock around them.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from procmem.batch import MaskLike, Perception, Prompt, binding_of, check_embedder, one_or_many
from procmem.calibration import Calibration
from procmem.embedder import DEFAULT_MODEL, Embedder, bundled_models, model_manifest
from procmem.errors import (
    ImageError,
    InputError,
    ModelError,
    VaultClosedError,
    VaultFormatError,
    unknown_choice,
)
from procmem.folder import check_binding, check_side
from procmem.image import ImageLike, size_of
from procmem.index import INDEX_KINDS, IndexKind
from procmem.preprocess import View, check_image_size
from procmem.segment import fit_mask
from procmem.stores.local import LocalStore
from procmem.stores.opening import StoreOptions, find_store
from procmem.types import Embedding

if TYPE_CHECKING:
    from procmem.recall import Recall
    from procmem.vault import Vault

PURGE_LIMIT = 100_000
"""With more items than this left, `delete` leaves the purge to the next opening for writing."""


class OpenMemory:
    """What every call of a `VisualMemory` starts from; its arguments are described there."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        embedder: Perception | str | Path | None = None,
        image_size: int | None = None,
        device: str = "auto",
        read_only: bool = False,
        purge_limit: int = PURGE_LIMIT,
        key: str | os.PathLike[str] | None = None,
        index: IndexKind = "auto",
        create: bool = True,
    ) -> None:
        if index not in INDEX_KINDS:
            raise unknown_choice("index", index, INDEX_KINDS)
        self._lock = threading.RLock()
        self._closed = False
        self._device = device
        _check_purge_limit(purge_limit)
        self._owned = embedder is None or isinstance(embedder, (str, Path))
        self._embedder: Perception | None = None
        self.read_only = read_only
        options = StoreOptions(read_only, key, index, purge_limit)
        named = embedder if isinstance(embedder, (str, Path)) else None
        found = find_store(path, options)
        try:
            if not create and not found.exists():
                raise VaultFormatError(
                    f"there is no memory at {found.place}; check the path or address, or teach "
                    "a new one first (`procmem add PHOTOS`)"
                )
            if named is None and embedder is not None:
                self._embedder = check_embedder(embedder, image_size)
            elif create and not read_only and not found.exists():
                self._embedder = Embedder(
                    DEFAULT_MODEL if named is None else named, image_size=image_size, device=device
                )
            binding = None if self._embedder is None else binding_of(self._embedder)
            self._store = found.open(binding)
        except BaseException:
            self._close_embedder()
            found.close()
            raise
        try:
            self._bind(named, image_size)
        except BaseException:
            self._store.close()
            self._close_embedder()
            raise
        self._calibration = Calibration(self._store)

    @property
    def place(self) -> str:
        """The folder, absolute, or the address without its password."""
        return self._store.place

    @property
    def path(self) -> Path:
        """The folder, absolute.

        Raises:
            InputError: the memory is on a server.
        """
        return self._vault.path

    @property
    def _vault(self) -> Vault:
        return self._local.vault

    @property
    def _recall(self) -> Recall:
        return self._local.recall

    @property
    def _local(self) -> LocalStore:
        """For what only a vault of this device can do."""
        if not isinstance(self._store, LocalStore):
            raise InputError(
                f"{self.place} is on a server, and this needs the folder of a vault; export the "
                "items and import them into one (procmem export, procmem import)"
            )
        return self._store

    def _bind(self, named: str | Path | None, image_size: int | None) -> None:
        """Holds the vault that was opened to what was asked for, before anything is done with it.

        Only the vault knows its side, so that a model by name is opened after it.
        """
        if self._embedder is None and named is not None:
            self._embedder = self._open_bound(named)
        if image_size is not None:
            bound = self._store.binding
            check_side(self.place, bound, check_image_size(image_size, bound.patch_size))

    def _open_bound(self, model: str | Path) -> Embedder:
        """Opens a model at the vault's side; EmbedderMismatchError if it is not the vault's."""
        bound = self._store.binding
        side = bound.side if model_manifest(model).sha256 == bound.sha256 else None
        embedder = Embedder(model, image_size=side, device=self._device)
        try:
            check_binding(self.place, bound, binding_of(embedder))
        except BaseException:
            embedder.close()
            raise
        return embedder

    def close(self) -> None:
        """Zeroes the index, closes the vault and gives up the right to write. Again is fine."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._calibration.clear()
            self._store.close()
            self._close_embedder()

    # ---- seeing

    def _queries(
        self, image: ImageLike | Iterable[ImageLike]
    ) -> tuple[npt.NDArray[np.float32], bool]:
        """Class tokens (Q, D), and whether it was one image and not an iterable of them."""
        images, alone = one_or_many(image)
        rows = []
        for at, one in enumerate(images):
            try:
                rows.append(self._embed(one).cls[0])
            except (ImageError, InputError) as error:
                if alone:
                    raise
                raise type(error)(f"images[{at}]: {error}") from error
        if not rows:
            return np.empty((0, self._store.binding.cls_dim), dtype=np.float32), alone
        return np.stack(rows), alone

    def _embed(self, image: ImageLike, *, view: View = "center") -> Embedding:
        with self._lock:
            self._check_open()
            if self._embedder is None:
                # A name that is not bundled falls back to the default, whose hash then differs.
                name = self._store.binding.name
                known = name if name in bundled_models() else DEFAULT_MODEL
                self._embedder = self._open_bound(known)
            seen_by = self._embedder
        embedding = seen_by.embed(image, view=view)
        if not (np.isfinite(embedding.cls).all() and np.isfinite(embedding.patches).all()):
            raise ModelError(f"{seen_by.manifest.name} gave numbers that are not finite")
        return embedding

    def _fit(self, image: ImageLike, mask: MaskLike) -> npt.NDArray[np.uint8]:
        """A mask of the image's own size, fitted to the model's square."""
        height, width = size_of(image)
        return fit_mask(mask, image_size=(height, width), side=self._store.binding.side)

    def _prompt(self, pair: Prompt) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
        image, mask = pair
        fitted = self._fit(image, mask)
        return self._embed(image, view="whole").patches[0], fitted

    def _unknown(self, what: str, value: object) -> str:
        return f"{self.place} holds no item with {what} {value!r:.200}; nothing was changed"

    def _check_open(self) -> None:
        if self._closed:
            raise VaultClosedError(f"the memory at {self.place} is closed; open it again")

    def _check_writable(self) -> None:
        self._check_open()
        self._store.check_writable()

    def _close_embedder(self) -> None:
        if self._owned and self._embedder is not None:
            self._embedder.close()
        self._embedder = None


def _check_purge_limit(limit: object) -> None:
    if isinstance(limit, bool) or not isinstance(limit, Integral) or limit < 0:
        raise InputError(f"purge_limit is {limit!r:.80}, wanted a whole number of items, 0 or more")
