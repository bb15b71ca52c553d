"""What the page's routes and connections do with the memory, as JSON values.

Takes decoded requests from `routes.py` and `live.py`; blocks, so they call it from threads. Besides
the memory it holds thumbnails of what was taught, if the person asked for them: in RAM only, a
bounded number of bytes, each dropped in the call that forgets its item.
"""

from __future__ import annotations

import base64
import io
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
from PIL import Image

from procmem.cli.text import answer_as_json
from procmem.embedder import Embedder
from procmem.errors import InputError, ItemNotFoundError
from procmem.image import load_image, size_of
from procmem.memory import VisualMemory
from procmem.preprocess import decode_min_side
from procmem.record import Item
from procmem.types import Answer, ErasureReport, Regions
from procmem.untaught import match_patches

UInt8 = npt.NDArray[np.uint8]

K = 10
"""Neighbors that vote and are shown."""

IGNORED = 255
"""Value of pixels that nobody painted, in a marked frame's mask."""

MAX_MAP_ITEMS = 5000
"""Most dots of the map; of more items every n-th is drawn."""

_MAX_PIXELS = 64_000_000  # of a photo: 192 MB as RGB
_THUMBNAIL_SIDE = 320
_MAX_THUMBNAIL_BYTES = 64 * 2**20  # of all together
_MATCHES = 16
_REGION_SIDE = 320
_REGION_COLOR = (86, 180, 233, 150)  # sky blue of the palette of Okabe and Ito


class Selection(TypedDict, total=False):
    """What to forget: exactly one of them."""

    ids: list[int]
    label: str
    similar_to: UInt8
    min_similarity: float


class Mark:
    """One frame on which a person has painted what to find.

    Args:
        picture: the frame, encoded.
        mask: PNG of one channel, of the same size: 1, 0, or `IGNORED`.

    Raises:
        ImageError: one of the two cannot be decoded.
        InputError: the sizes differ, or not both what to find and what not to find were painted.
    """

    def __init__(self, picture: bytes, mask: bytes) -> None:
        self.picture, size = picture, size_of(picture, max_pixels=_MAX_PIXELS)
        # Gray comes out as three equal channels.
        pixels = load_image(mask, max_pixels=_MAX_PIXELS)
        self.mask = np.ascontiguousarray(pixels[..., 0])
        if self.mask.shape != size:
            raise InputError(f"the mask is {self.mask.shape}, its frame {size}; wanted the same")
        missing = {0, 1} - set(np.unique(self.mask).tolist())
        if missing:
            what = "what to find" if 1 in missing else "some of the rest"
            raise InputError(f"nothing of {what} is painted; a short stroke will do")


class Desk:
    """A memory as the page sees it. Safe to use from several threads.

    Args:
        memory: open for writing; closed by whoever opened it.
        embedder: that the memory uses.
    """

    def __init__(self, memory: VisualMemory, embedder: Embedder) -> None:
        self.memory, self.embedder = memory, embedder
        self._lock = threading.Lock()
        # So that no thumbnail is kept of an item that is forgotten just after it was taught.
        self._changing = threading.Lock()
        self._thumbnails: OrderedDict[int, bytes] = OrderedDict()
        self._thumbnail_bytes = 0
        self._version = 0

    # ---- seeing

    def state(self) -> dict[str, Any]:
        """What the memory holds, and what sees."""
        stats = self.memory.stats()
        manifest = self.embedder.manifest
        return {
            "items": stats.items,
            "labels": dict(stats.labels),
            "bytes_on_disk": stats.bytes_on_disk,
            "sealed": stats.sealed,
            "vault": self.memory.place,
            "model": manifest.name,
            "training": manifest.origin.training,
            "device": self.embedder.device,
            "version": self._version,
            "thumbnails": len(self._thumbnails),
        }

    def items(self, *, start: int, limit: int) -> dict[str, Any]:
        """A part of the items, the newest first, and how many there are."""
        items = sorted(self.memory.items(), key=lambda item: (-item.added_seconds, item.id))
        return {
            "total": len(items),
            "version": self._version,
            "items": [self._item(item) for item in items[start : start + limit]],
        }

    def map(self) -> dict[str, Any]:
        """The items in two dimensions, at most `MAX_MAP_ITEMS` of them."""
        labels = {item.id: item.label for item in self.memory.items()}
        seen = self.memory.map()
        step = max(1, -(-len(seen.ids) // MAX_MAP_ITEMS))
        dots = [
            {"id": str(id_), "label": labels.get(id_), "x": float(x), "y": float(y)}
            for id_, (x, y) in zip(seen.ids[::step], seen.points[::step], strict=True)
            if id_ in labels  # one may have been forgotten between the two lines above
        ]
        return {"total": len(seen.ids), "explained": list(seen.explained), "dots": dots}

    def thumbnail(self, id_: int) -> bytes:
        """A JPEG of a remembered item.

        Raises:
            ItemNotFoundError: none was kept.
        """
        with self._lock:
            if id_ not in self._thumbnails:
                raise ItemNotFoundError(f"no thumbnail of item {id_} was kept")
            return self._thumbnails[id_]

    def drop_thumbnails(self) -> int:
        """Drops all thumbnails and says how many there were."""
        with self._lock:
            count = len(self._thumbnails)
            self._thumbnails.clear()
            self._thumbnail_bytes = 0
            self._version += 1
        return count

    def decode(self, picture: bytes) -> UInt8:
        """A picture from the browser as (H, W, 3) RGB, as the embedder decodes it itself (law 4).

        A large JPEG comes smaller than it is.

        Raises:
            ImageError: it cannot be decoded or has more than 64 million pixels.
        """
        least = decode_min_side(self.embedder.preprocessing)
        return load_image(picture, min_side=least, max_pixels=_MAX_PIXELS)

    # ---- asking

    def ask(self, picture: bytes, *, mark: Mark | None = None, match: bool = False) -> Any:
        """What a picture shows, why, and how long each step took.

        Raises:
            ImageError: it cannot be used.
        """
        times = _Times()
        pixels = self.decode(picture)
        times.note("decode")
        answer = self.memory.classify(pixels, K)
        times.note("answer")
        document = self._answer(answer)
        document["size"] = [*size_of(picture)[::-1]]
        if match:
            document["matches"] = self._matches(pixels, answer)
            times.note("match")
        if mark is not None:
            regions = self.memory.segment(pixels, prompt=(mark.picture, mark.mask), ignore=IGNORED)
            document["region"] = _draw_region(regions)
            times.note("find")
        document["milliseconds"] = times.milliseconds
        document["version"] = self._version
        return document

    # ---- changing

    def teach(self, picture: bytes, label: str, *, keep: bool) -> dict[str, Any]:
        """Remembers a picture, and its thumbnail in RAM if `keep`.

        Raises:
            ImageError: it cannot be used.
            InputError: a label that cannot be stored.
            VaultError: the vault cannot be written.
        """
        pixels = self.decode(picture)
        with self._changing:
            (id_,) = self.memory.add([pixels], labels=[label.strip()])
            with self._lock:
                self._version += 1
                if keep:
                    self._keep(id_, _thumbnail(pixels))
        return {"id": str(id_), "label": label.strip(), "items": len(self.memory)}

    def plan(self, selection: Selection) -> dict[str, Any]:
        """What `forget` with the same selection would erase; changes nothing."""
        items = self.memory.plan_delete(**selection)
        return {"count": len(items), "items": [self._item(item) for item in items[:200]]}

    def forget(self, selection: Selection) -> ErasureReport:
        """Erases items, their thumbnails with them."""
        with self._changing:
            report = self.memory.delete(**selection)
            with self._lock:
                self._version += 1
                for id_ in report.erased_ids:
                    self._drop(id_)
        return report

    def _item(self, item: Item) -> dict[str, Any]:
        return {
            "id": str(item.id),
            "label": item.label,
            "added_seconds": item.added_seconds,
            "thumbnail": item.id in self._thumbnails,
        }

    def _answer(self, answer: Answer) -> dict[str, Any]:
        document = answer_as_json(answer)
        for shown, neighbor in zip(document["neighbors"], answer.neighbors, strict=True):
            shown["thumbnail"] = neighbor.id in self._thumbnails
        return {**document, "items": len(self.memory)}

    def _matches(self, pixels: UInt8, answer: Answer) -> dict[str, Any] | None:
        """Places that the picture and its nearest neighbor's thumbnail share; None without one."""
        with self._lock:
            near = next((n for n in answer.neighbors if n.id in self._thumbnails), None)
            kept = None if near is None else self._thumbnails[near.id]
        if near is None or kept is None:
            return None
        other = load_image(kept)
        found = match_patches(self.embedder, pixels, other, limit=_MATCHES)
        height, width = pixels.shape[:2]
        return {
            "id": str(near.id),
            # Shares of width and height, so that the page may draw them at any size.
            "here": _shares(found.points_a, width, height),
            "there": _shares(found.points_b, other.shape[1], other.shape[0]),
            "similarities": [round(float(value), 4) for value in found.similarities],
        }

    def _keep(self, id_: int, picture: bytes) -> None:
        self._thumbnails[id_] = picture
        self._thumbnail_bytes += len(picture)
        while self._thumbnail_bytes > _MAX_THUMBNAIL_BYTES:
            self._drop(next(iter(self._thumbnails)))

    def _drop(self, id_: int) -> None:
        self._thumbnail_bytes -= len(self._thumbnails.pop(id_, b""))


class _Times:
    """How long the steps of one answer took."""

    def __init__(self) -> None:
        self.milliseconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def note(self, step: str) -> None:
        now = time.perf_counter()
        self.milliseconds[step] = round(1000 * (now - self._last), 2)
        self._last = now


def selection_of(document: Any) -> Selection:
    """What a request wants forgotten: `{"ids": ["12", ...]}` or `{"label": "cup"}`.

    Raises:
        InputError: it is neither.
    """
    if isinstance(document, Mapping) and set(document) == {"label"}:
        if isinstance(document["label"], str):
            return {"label": document["label"]}
    elif isinstance(document, Mapping) and set(document) == {"ids"}:
        ids = document["ids"]
        if isinstance(ids, list) and ids and all(_is_id(id_) for id_ in ids):
            return {"ids": [int(id_) for id_ in ids]}
    raise InputError('wanted {"ids": ["12", ...]}, ids as text, or {"label": "cup"}')


def _is_id(value: Any) -> bool:
    is_number = isinstance(value, str) and value.isascii() and value.isdecimal()
    return is_number and len(value) <= 19 and 1 <= int(value) < 2**63


def _thumbnail(pixels: UInt8) -> bytes:
    picture = Image.fromarray(pixels)
    picture.thumbnail((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85)
    return file.getvalue()


def _draw_region(regions: Regions) -> str:
    """What was found, as the address of a PNG that is clear elsewhere."""
    height, width = regions.mask.shape
    step = max(1, -(-max(height, width) // _REGION_SIDE))
    found = regions.mask[::step, ::step] == 1
    colors = np.where(found[..., None], np.array(_REGION_COLOR, np.uint8), np.uint8(0))
    file = io.BytesIO()
    Image.fromarray(colors.astype(np.uint8)).save(file, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _shares(points: npt.NDArray[np.float32], width: int, height: int) -> list[list[float]]:
    shares = (points + 0.5) / np.array([width, height], dtype=np.float32)
    return [[round(float(x), 4), round(float(y), 4)] for x, y in shares]
