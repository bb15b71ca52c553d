"""Images for people who want files: a folder of pictures, or WebDataset shards.

Takes a function that draws images from any position on, gives files. Two forms:

* `write_folder`: `000000000.png`, `000000001.png`, ...
* `write_shards`: `shard-000000.tar`, ...: plain tar files in which `000000000.png` and
  `000000000.json` are one sample, as WebDataset and its readers take them.

Beside them stands `render.json`: the configuration that was asked for and its SHA-256. A folder
with that file is continued if the configuration is equal, and refused if it is not.

What is promised: a file that has its name is whole (written under a temporary name, synced,
renamed), and is never written again. So Ctrl-C, a crash or a full disk leave finished files, and
the same call goes on with the first that is missing, by asking for images from there. Equal images
give equal bytes with one version of Pillow: tar headers hold no time, user or machine. One process
at a time may write to a folder.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from procmem.errors import InputError, unknown_choice
from procmem.manifest import sha256_of_bytes, sync_folder, write_bytes_atomically

ImagesFrom = Callable[[int], Iterator[npt.NDArray[np.uint8]]]
"""Position of an image -> the images from there on, (S, S, 3) uint8 each; may never end."""

Details = Callable[[int], Mapping[str, Any]]
"""Position of an image -> what its JSON file tells of it."""

Progress = Callable[[int, int | None], None]

CONFIGURATION_FILE = "render.json"
LAYOUT_VERSION = 1
MAX_IMAGES = 10**9  # a name has nine digits

_SUFFIXES = {"png": "png", "jpeg": "jpg", "webp": "webp"}
_DEFAULT_QUALITY = {"jpeg": 92, "webp": 90}


@dataclass(frozen=True, slots=True)
class Encoding:
    """How pixels become bytes.

    Attributes:
        format: "png" (exact), "jpeg" or "webp".
        quality: 1 to 100, of jpeg and webp only; None is 92 and 90. The largest files are not
            exact either. JPEG keeps colors at full resolution, because the edges of procedural
            images are often edges of color alone.
    """

    format: Literal["png", "jpeg", "webp"] = "png"
    quality: int | None = None

    def __post_init__(self) -> None:
        if self.format not in _SUFFIXES:
            raise unknown_choice("image format", self.format, _SUFFIXES)
        if self.format == "png":
            if self.quality is not None:
                raise InputError(f"quality is {self.quality}, but png is exact; leave it out")
        elif self.quality is None:
            object.__setattr__(self, "quality", _DEFAULT_QUALITY[self.format])
        elif not 1 <= self.quality <= 100:
            raise InputError(f"quality is {self.quality}, wanted 1 to 100")

    @property
    def suffix(self) -> str:
        """Of file names: "png", "jpg" or "webp"."""
        return _SUFFIXES[self.format]


def write_folder(
    images_from: ImagesFrom,
    folder: Path,
    *,
    count: int,
    configuration: Mapping[str, Any],
    encoding: Encoding | None = None,
    progress: Progress | None = None,
) -> int:
    """Writes images 0 to count - 1 as one file each, or those of them that are missing.

    Args:
        images_from: called with the first missing position, and again after files that exist.
        folder: is made; may hold an earlier, unfinished call's files and nothing else.
        count: images, 1 to a thousand million.
        configuration: all that decides the images, for JSON; kept in `render.json` with the other
            arguments, `count` among them.
        encoding: PNG if not given.
        progress: called with (images there, count) after each file.

    Returns:
        How many files this call wrote; 0 if all were there.

    Raises:
        InputError: a value out of range, an image of another form, too few images, or a folder
            that holds something else.
        OSError: the folder cannot be written; finished files stay.
    """
    encoding = encoding or Encoding()
    _claim(folder, configuration, encoding, count=count, layout={"layout": "folder"})

    def name_of(number: int) -> str:
        return f"{number:09d}.{encoding.suffix}"

    def write(number: int, images: Iterator[npt.NDArray[np.uint8]]) -> None:
        write_bytes_atomically(folder / name_of(number), encode(_next(images, number), encoding))

    tracker = _Progress(progress, count)
    return _write_missing(images_from, folder, name_of, write, count=count, size=1, tracker=tracker)


def write_shards(
    images_from: ImagesFrom,
    folder: Path,
    *,
    count: int,
    configuration: Mapping[str, Any],
    images_per_shard: int = 1000,
    encoding: Encoding | None = None,
    details: Details | None = None,
    progress: Progress | None = None,
) -> int:
    """Writes images 0 to count - 1 as tar files, or those of them that are missing.

    Args:
        images_from: called with the first position of a missing shard.
        folder: is made; may hold an earlier, unfinished call's shards and nothing else.
        count: images, 1 to a thousand million.
        configuration: all that decides the images, for JSON; kept in `render.json` with the other
            arguments, `count` among them.
        images_per_shard: of every shard but the last, 1 to a million.
        encoding: PNG if not given.
        details: what is told of an image in its JSON file, beside its number and the
            configuration's SHA-256; must be a function of the position alone.
        progress: called with (images there, count) after each image.

    Returns:
        How many shards this call wrote; 0 if all were there.

    Raises:
        InputError: a value out of range, an image of another form, too few images, or a folder
            that holds something else.
        OSError: the folder cannot be written; finished shards stay.
    """
    if not 1 <= images_per_shard <= 1_000_000:
        raise InputError(f"images_per_shard is {images_per_shard}, wanted 1 to 1000000")
    encoding = encoding or Encoding()
    layout = {"layout": "shards", "images_per_shard": images_per_shard}
    digest = _claim(folder, configuration, encoding, count=count, layout=layout)
    tracker = _Progress(progress, count)

    def name_of(number: int) -> str:
        return f"shard-{number:06d}.tar"

    def write(number: int, images: Iterator[npt.NDArray[np.uint8]]) -> None:
        first = number * images_per_shard
        with (
            _whole_file(folder / name_of(number)) as file,
            tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as shard,
        ):
            for position in range(first, min(first + images_per_shard, count)):
                told = {"number": position, "configuration_sha256": digest}
                data = encode(_next(images, position), encoding)
                _add(shard, f"{position:09d}.{encoding.suffix}", data)
                _add(shard, f"{position:09d}.json", _told(told, details, position))
                tracker.advance(1)

    return _write_missing(
        images_from, folder, name_of, write, count=count, size=images_per_shard, tracker=tracker
    )


def encode(image: npt.NDArray[np.uint8], encoding: Encoding) -> bytes:
    """One (S, S, 3) uint8 image as the bytes of a file.

    Raises:
        InputError: another shape or type, or a Pillow without this format.
    """
    shape = np.shape(image)
    kind = getattr(image, "dtype", type(image).__name__)
    square = len(shape) == 3 and shape[2] == 3 and shape[0] == shape[1] > 0
    if not square or kind != np.uint8:
        raise InputError(f"image has shape {shape} and type {kind}, wanted (S, S, 3) uint8")
    options: dict[str, Any] = {}
    if encoding.quality is not None:
        options["quality"] = encoding.quality
    if encoding.format == "jpeg":
        options["subsampling"] = 0
    buffer = io.BytesIO()
    try:
        Image.fromarray(image).save(buffer, encoding.format, **options)
    except (KeyError, OSError, ValueError) as error:
        raise InputError(
            f"this Pillow could not write a {shape[0]} px image as {encoding.format} ({error}); "
            "use png"
        ) from error
    return buffer.getvalue()


class _Progress:
    """Counts images that are there and tells the caller."""

    def __init__(self, report: Progress | None, total: int) -> None:
        self._report, self._total, self._done = report, total, 0

    def advance(self, images: int) -> None:
        self._done += images
        if images and self._report is not None:
            self._report(self._done, self._total)


def _write_missing(
    images_from: ImagesFrom,
    folder: Path,
    name_of: Callable[[int], str],
    write: Callable[[int, Iterator[npt.NDArray[np.uint8]]], None],
    *,
    count: int,
    size: int,
    tracker: _Progress,
) -> int:
    """Writes the files, of `size` images each, that do not exist; returns how many."""
    files = -(-count // size)
    with os.scandir(folder) as entries:
        present = {entry.name for entry in entries}
    missing = [number for number in range(files) if name_of(number) not in present]
    absent = sum(min(size, count - number * size) for number in missing)
    tracker.advance(count - absent)
    # Runs of neighbors share one call of `images_from`: a drawer that starts anew may be slow.
    for _, run in itertools.groupby(enumerate(missing), lambda pair: pair[1] - pair[0]):
        numbers = [number for _, number in run]
        images = images_from(numbers[0] * size)
        for number in numbers:
            write(number, images)
            if size == 1:
                tracker.advance(1)
    return len(missing)


def _next(images: Iterator[npt.NDArray[np.uint8]], position: int) -> npt.NDArray[np.uint8]:
    try:
        return next(images)
    except StopIteration:
        raise InputError(
            f"images_from ended before image {position}, which is wanted; let it draw on, or ask "
            "for fewer images"
        ) from None


def _claim(
    folder: Path,
    configuration: Mapping[str, Any],
    encoding: Encoding,
    *,
    count: int,
    layout: Mapping[str, Any],
) -> str:
    """Makes the folder this configuration's, or checks that it is; returns the SHA-256."""
    if not 1 <= count <= MAX_IMAGES:
        raise InputError(f"count is {count}, wanted 1 to {MAX_IMAGES}")
    resolved = {
        "layout_version": LAYOUT_VERSION,
        **layout,
        "count": count,
        "format": encoding.format,
        "quality": encoding.quality,
        "configuration": dict(configuration),
    }
    text = _canonical_json(resolved, "configuration")
    digest = sha256_of_bytes(text)
    path = folder / CONFIGURATION_FILE
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file, wanted a folder; give another name")
    folder.mkdir(parents=True, exist_ok=True)
    if path.exists():
        _check_equal(path, wanted=json.loads(text), digest=digest)
        _remove_temporaries(folder, (*_SUFFIXES.values(), "tar", "json"))
    else:
        _remove_temporaries(folder, ["json"])
        if (other := next(folder.iterdir(), None)) is not None:
            raise InputError(
                f"{folder} holds {other.name!r} but no {CONFIGURATION_FILE}; give a new or empty "
                "folder"
            )
        document = {**resolved, "sha256": digest}
        write_bytes_atomically(path, (json.dumps(document, indent=2) + "\n").encode())
    return digest


def _check_equal(path: Path, *, wanted: dict[str, Any], digest: str) -> None:
    try:
        found = json.loads(path.read_bytes())
        found_digest = found.pop("sha256")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise InputError(
            f"{path} is damaged ({error}); delete the folder, or give another"
        ) from error
    if found_digest != sha256_of_bytes(_canonical_json(found, "configuration")):
        raise InputError(
            f"{path} was edited: its SHA-256 differs; delete the folder, or restore it"
        )
    if found_digest == digest:
        return
    there, asked = _flat(found), _flat(wanted)
    # Not by ==, for which 1, 1.0 and True are one value.
    names = sorted(there | asked)
    different = [name for name in names if repr(there.get(name, ...)) != repr(asked.get(name, ...))]
    name = different[0]
    raise InputError(
        f"{path.parent} was begun with {name} = {there.get(name, 'absent')!r}, wanted "
        f"{asked.get(name, 'absent')!r} ({len(different)} values differ); give another folder, or "
        "the values it was begun with"
    )


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, with dotted names."""
    if not isinstance(tree, dict) or not tree:
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}.{name}" if prefix else name)
    return flat


def _canonical_json(value: Mapping[str, Any], what: str) -> bytes:
    """One spelling for equal values, so that their SHA-256 are equal."""
    try:
        text = json.dumps(value, sort_keys=True, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{what} cannot be written as JSON ({error}); use numbers, texts, lists and dicts"
        ) from error
    return text.encode()


def _told(told: dict[str, Any], details: Details | None, position: int) -> bytes:
    """What an image's JSON file holds."""
    if details is not None:
        more = details(position)
        if taken := told.keys() & more.keys():
            raise InputError(f"details has {min(taken)!r}, which is set already; rename it")
        told = {**told, **more}
    return _canonical_json(told, "details")


def _add(shard: tarfile.TarFile, name: str, data: bytes) -> None:
    header = tarfile.TarInfo(name)  # its defaults are no time, no user, mode 644
    header.size = len(data)
    shard.addfile(header, io.BytesIO(data))


def _temporary_name(path: Path) -> Path:
    # The form of `procmem.manifest.write_bytes_atomically`, so that one rule finds both.
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _remove_temporaries(folder: Path, suffixes: Iterable[str]) -> None:
    """Removes what a killed process left behind."""
    for suffix in suffixes:
        for leftover in folder.glob(f".*.{suffix}.[0-9]*.tmp"):
            leftover.unlink()


@contextlib.contextmanager
def _whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to that gets its name once it is whole and on the disk."""
    temporary = _temporary_name(path)
    try:
        with temporary.open("wb") as file:
            yield cast(IO[bytes], file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)
