"""Folders and files that others lay out -> data sets of three kinds.

First in the walk of an evaluation. Nothing is decoded here but MedMNIST's arrays; a malformed
layout is told before any model runs.
"""

from __future__ import annotations

import csv
import hashlib
import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from procmem.errors import InputError
from procmem.image import ImageLike, load_image
from procmem.photos import absolute, find_labelled, load_mask

UInt8 = npt.NDArray[np.uint8]

# Votes that a NIGHTS triplet needs to count (the paper: 6 or more).
LEAST_VOTES = 6

# What data sets call pixels without a class, and the index that most of them give these.
_VOID_NAMES = frozenset({"unlabelled", "unlabeled", "void", "ignore"})
_VOID_INDEX = 255

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True, slots=True)
class Labelled:
    """Images with labels.

    Attributes:
        images: paths, or (H, W, 3) uint8.
        labels: one for each.
    """

    images: tuple[ImageLike, ...]
    labels: tuple[str, ...]

    def first(self, count: int | None) -> Labelled:
        """At most `count` of them, evenly spread over the whole, so that no label is lost early."""
        if count is None or len(self.images) <= count:
            return self
        chosen = np.linspace(0, len(self.images) - 1, count).astype(int)
        return Labelled(
            tuple(self.images[i] for i in chosen), tuple(self.labels[i] for i in chosen)
        )


@dataclass(frozen=True, slots=True)
class ClassificationSet:
    """A memory to teach and queries to ask.

    Attributes:
        name: of the folder or file.
        memory: taught.
        query: asked.
        validation: MedMNIST's third split, which the paper asks instead; None elsewhere.
    """

    name: str
    memory: Labelled
    query: Labelled
    validation: Labelled | None = None


@dataclass(frozen=True, slots=True)
class MaskedImage:
    """An image and the class of each of its pixels.

    Attributes:
        name: of the file, without suffix.
        image: (H, W, 3) uint8.
        mask: (H, W) uint8 class indices.
    """

    name: str
    image: UInt8
    mask: UInt8


@dataclass(frozen=True, slots=True)
class SegmentationSet:
    """Images with masks, as files: read one at a time.

    Attributes:
        name: of the folder.
        memory: (image, mask) files that are taught.
        query: those that are asked.
        ignore: mask index that means "unlabelled"; None if every pixel counts.
        known: mask indices that may occur.
    """

    name: str
    memory: tuple[tuple[Path, Path], ...]
    query: tuple[tuple[Path, Path], ...]
    ignore: int | None
    known: frozenset[int]

    def load(self, files: tuple[Path, Path]) -> MaskedImage:
        """Reads one pair.

        Raises:
            ImageError: a file is missing or damaged.
            InputError: mask and image differ in size, or the mask has an unknown index.
        """
        image, mask = load_image(files[0]), load_mask(files[1])
        if image.shape[:2] != mask.shape:
            raise InputError(
                f"{files[1]} is {mask.shape[0]} x {mask.shape[1]}, but its image is "
                f"{image.shape[0]} x {image.shape[1]}; save the mask at the image's size"
            )
        unknown = set(np.unique(mask).tolist()) - self.known
        if unknown:
            raise InputError(
                f"{files[1]} has the indices {sorted(unknown)}, which neither classes.txt nor, "
                "without one, any taught mask has; add them to classes.txt, or name the one that "
                "means unlabelled with --ignore"
            )
        return MaskedImage(files[0].stem, image, mask)


@dataclass(frozen=True, slots=True)
class Triplet:
    """Which of two images people find more like a reference.

    Attributes:
        reference: path or array.
        left: path or array.
        right: path or array.
        left_share: share of the votes for the left one, 0 to 1.
    """

    reference: ImageLike
    left: ImageLike
    right: ImageLike
    left_share: float


@dataclass(frozen=True, slots=True)
class SimilaritySet:
    """Triplets of two-alternative forced choice."""

    name: str
    triplets: tuple[Triplet, ...]


DataSet = ClassificationSet | SegmentationSet | SimilaritySet


def find_data_sets(paths: Sequence[Path], *, ignore: int | None = None) -> tuple[DataSet, ...]:
    """Recognizes data sets by their layout.

    - `memory/<label>/*` and `query/<label>/*`: classification.
    - `images/*`, `masks/*` (class-index PNG of the same names), `train.txt` and `val.txt` (names,
      one a line), `classes.txt` ("index name" lines; optional): segmentation.
    - `data.csv` with NIGHTS' columns and the pictures it names: similarity.
    - a MedMNIST file `*.npz`: classification.
    - a folder of such folders and files: all of them.

    Args:
        paths: folders and files.
        ignore: mask index without a class; None takes the one that classes.txt calls unlabelled or
            void, else 255.

    Raises:
        InputError: a path does not exist or has no known layout, a set has one class only or none
            that is both taught and asked, or names files that are not there.
    """
    found: list[DataSet] = []
    for path in map(absolute, paths):  # or "." would name a set ""
        if not path.exists():
            raise InputError(f"{path} does not exist; name a data set's folder or .npz file")
        single = _recognize(path, ignore)
        if single is not None:
            found.append(single)
            continue
        inner = [_recognize(p, ignore) for p in sorted(path.iterdir())] if path.is_dir() else []
        known = [one for one in inner if one is not None]
        if not known:
            raise InputError(
                f"{path} is no data set: wanted memory/ and query/ with a folder for each label, "
                "images/ and masks/ with train.txt and val.txt, data.csv (NIGHTS), a MedMNIST "
                ".npz, or a folder of these"
            )
        found += known
    names = [one.name for one in found]
    if len(set(names)) < len(names):
        raise InputError(f"data sets are named {names}; give each another name")
    return tuple(found)


def _recognize(path: Path, ignore: int | None) -> DataSet | None:
    if path.suffix == ".npz" and path.is_file():
        return _medmnist(path)
    if (path / "memory").is_dir() and (path / "query").is_dir():
        return _checked(
            ClassificationSet(path.name, _labelled(path / "memory"), _labelled(path / "query")),
            path,
        )
    if (path / "images").is_dir() and (path / "masks").is_dir():
        return _segmentation(path, ignore)
    if (path / "data.csv").is_file():
        return _nights(path)
    return None


def fingerprint(data: DataSet) -> str:
    """A text that is another one if what a number depends on may be another.

    These are labels, votes and indices, the contents of arrays, and of files the name, the size
    and the time of the last change.
    """
    parts: list[object] = [data.name]
    if isinstance(data, ClassificationSet):
        for split in (data.memory, data.query, data.validation):
            if split is not None:
                parts += [split.labels, *map(_trace, split.images)]
    elif isinstance(data, SegmentationSet):
        parts += [data.ignore, sorted(data.known)]
        for files in (data.memory, data.query):
            parts += [len(files), *(_trace(file) for pair in files for file in pair)]
    else:
        for one in data.triplets:
            parts += [one.left_share, *map(_trace, (one.reference, one.left, one.right))]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _trace(image: ImageLike) -> tuple[object, ...]:
    if isinstance(image, np.ndarray):
        return image.shape, hashlib.sha256(image.tobytes()).hexdigest()
    assert isinstance(image, (str, Path))
    status = Path(image).stat()
    return Path(image).name, status.st_size, status.st_mtime_ns


def _labelled(folder: Path) -> Labelled:
    for entry in sorted(folder.iterdir()):
        if entry.is_symlink() and entry.is_dir():
            raise InputError(
                f"{entry} is a link to a folder, and those are not followed; put the folder there, "
                "or links to its files"
            )
    photos = find_labelled(folder)
    return Labelled(tuple(p.path for p in photos), tuple(p.label for p in photos))


def _checked(data: ClassificationSet, path: Path) -> ClassificationSet:
    taught, asked = set(data.memory.labels), set(data.query.labels)
    if len(taught) < 2:
        raise InputError(f"{path} teaches the labels {sorted(taught)}, wanted two or more")
    if not taught & asked:
        raise InputError(f"{path} asks for none of the labels that it teaches; use equal names")
    return data


def _medmnist(path: Path) -> ClassificationSet:
    try:
        # Opened here, because numpy leaves a file open that it cannot make out.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            parts = {
                split: _medmnist_split(arrays[f"{split}_images"], arrays[f"{split}_labels"])
                for split in ("train", "val", "test")
            }
    # An empty file is an EOFError, an .npy under another name a TypeError.
    except (
        *(OSError, KeyError, ValueError, IndexError, TypeError, OverflowError, EOFError),
        zipfile.BadZipFile,
    ) as error:
        raise InputError(
            f"{path} is no MedMNIST file ({error}); wanted train_, val_ and test_images and _labels"
        ) from error
    data = ClassificationSet(path.stem, parts["train"], parts["test"], parts["val"])
    return _checked(data, path)


def _medmnist_split(images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int_]) -> Labelled:
    pictures = images.ndim == 3 or (images.ndim == 4 and images.shape[3] in (1, 3, 4))
    if images.dtype != np.uint8 or not pictures or not images.size:
        raise ValueError(
            f"images of shape {images.shape} and type {images.dtype}, wanted (N, H, W) or "
            "(N, H, W, 3) uint8"
        )
    if images.ndim == 3:
        images = np.repeat(images[..., None], 3, axis=3)
    flat = np.asarray(labels).reshape(len(images), -1)
    if flat.shape[1] != 1:
        raise ValueError(f"{flat.shape[1]} labels an image: only one is evaluated")
    whole = [int(label) for label in flat[:, 0]]
    if (flat[:, 0] != whole).any():
        raise ValueError("labels that are not whole numbers")
    return Labelled(tuple(images), tuple(map(str, whole)))


def _segmentation(path: Path, ignore: int | None) -> SegmentationSet:
    images = {p.stem: p for p in (path / "images").iterdir() if p.suffix.lower() in _IMAGE_SUFFIXES}
    parts = []
    for name in ("train.txt", "val.txt"):
        if not (path / name).is_file():
            raise InputError(f"{path} has no {name}; list the names of its images, one a line")
        files = []
        for line in filter(None, map(str.strip, _text(path / name).splitlines())):
            stem = line if line in images else Path(line).stem
            mask = path / "masks" / f"{stem}.png"
            if stem not in images or not mask.is_file():
                raise InputError(f"{path / name} names {line}, which has no image or no mask")
            files.append((images[stem], mask))
        if not files:
            raise InputError(f"{path / name} is empty; list the names of its images, one a line")
        parts.append(tuple(files))
    names = _class_names(path / "classes.txt")
    if ignore is None:
        void = [index for index, name in names.items() if name.lower() in _VOID_NAMES]
        ignore = void[0] if void else _VOID_INDEX
    taught = names or {int(i) for _, mask in parts[0] for i in np.unique(load_mask(mask))}
    return SegmentationSet(path.name, parts[0], parts[1], ignore, frozenset({*taught, ignore}))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")  # some editors begin a file with a mark
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text; save it as that") from error


def _class_names(path: Path) -> dict[int, str]:
    """Lines "index name", or one name a line counted from 0; empty without the file."""
    names: dict[int, str] = {}
    if not path.is_file():
        return names
    for number, line in enumerate(_text(path).splitlines()):
        first, _, rest = line.strip().partition(" ")
        if not first:
            continue
        index, name = (int(first), rest.strip()) if first.isdecimal() else (number, line.strip())
        if not 0 <= index <= 255 or index in names:
            raise InputError(
                f"{path} names index {index} twice or beyond 255; number them 0 to 255"
            )
        names[index] = name
    return names


def _nights(path: Path) -> SimilaritySet:
    triplets = []
    try:
        with (path / "data.csv").open(newline="", encoding="utf-8-sig") as file:
            for row in csv.DictReader(file):
                votes = int(float(row["votes"]))
                if row.get("split", "test") != "test" or votes < LEAST_VOTES:
                    continue
                left, right = float(row["left_vote"]), float(row["right_vote"])
                if not (left >= 0 and right >= 0 and 0 < left + right < math.inf):
                    raise ValueError(f"votes of {left} and {right}")
                reference, first, second = (
                    _picture(path / row[f"{which}_path"]) for which in ("ref", "left", "right")
                )
                triplets.append(Triplet(reference, first, second, left / (left + right)))
    except InputError:
        raise
    except (KeyError, ValueError, TypeError, OverflowError, csv.Error) as error:
        raise InputError(
            f"{path / 'data.csv'} is not laid out as NIGHTS ({error!r:.200})"
        ) from error
    if not triplets:
        raise InputError(f"{path / 'data.csv'} has no test triplet of {LEAST_VOTES} or more votes")
    return SimilaritySet(path.name, tuple(triplets))


def _picture(path: Path) -> Path:
    if not path.is_file():
        raise InputError(f"data.csv names {path}, which is not there; unpack all of the pictures")
    return path
