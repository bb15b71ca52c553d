"""Folders on disk to lists of photos with labels, and mask files to class values.

Used by `evaluate.py` and the command line; stands beside the photo's walk, before `image.py`. It
promises the same order for the same folders on every system. Never opens a photo, never follows
links to folders (a loop would not end), never looks into hidden folders.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from procmem.errors import ImageDecodeError, ImageNotFoundError, InputError

# HEIC files are listed although Pillow alone cannot read them: a person must hear that they were
# left out.
PHOTO_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
    | {".ppm", ".pgm", ".pnm", ".avif", ".heic", ".heif"}
)
"""Endings, in lower case, of the files that are taken from a folder."""

_MASK_MODES = frozenset({"1", "L", "P"})


@dataclass(frozen=True, slots=True)
class Photo:
    """A photo's file and what its place says of it.

    Attributes:
        path: the file, absolute, without "." and "..", as `VisualMemory.add` notes a source.
        label: the name of the folder that it lies in.
        relative: its path below the folder that was given; only the name for a single file.
    """

    path: Path
    label: str
    relative: Path


def find_photos(paths: Iterable[Path]) -> tuple[Photo, ...]:
    """Lists the photos among files and, recursively, in folders.

    A file is taken whatever its ending, because somebody named it. From folders come the files
    that end in one of `PHOTO_SUFFIXES`; names that begin with a dot are passed over.

    Args:
        paths: files and folders.

    Returns:
        Each file once, in the order of `paths`; within a folder sorted by path.

    Raises:
        ImageNotFoundError: a path does not exist.
        InputError: a folder holds no photo.
    """
    found: dict[Path, Photo] = {}
    for path in paths:
        if path.is_dir():
            files = files_below(path)
            if not files:
                raise InputError(
                    f"{path} holds no photo (a file ending in {', '.join(sorted(PHOTO_SUFFIXES))});"
                    " give the folder that the photos are in"
                )
        elif path.exists():
            files = [path]
        else:
            raise ImageNotFoundError(f"{path} does not exist; check the path")
        for file in files:
            real = _absolute(file)
            relative = file.relative_to(path) if path.is_dir() else Path(file.name)
            found.setdefault(real, Photo(path=real, label=real.parent.name, relative=relative))
    return tuple(found.values())


def find_labelled(folder: Path) -> tuple[Photo, ...]:
    """Lists the photos of a folder with one subfolder for each label.

    Args:
        folder: the photos are `folder/<label>/**`; files directly in `folder` have no label and
            are passed over.

    Returns:
        Sorted by label and path. `Photo.label` is the first folder below `folder`.

    Raises:
        InputError: `folder` is no folder, or no subfolder holds a photo.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give one with a subfolder for each label")
    photos = [
        Photo(
            path=_absolute(file),
            label=file.relative_to(folder).parts[0],
            relative=file.relative_to(folder),
        )
        for file in files_below(folder)
        if file.parent != folder
    ]
    if not photos:
        raise InputError(
            f"{folder} has no subfolder with photos in it; make one subfolder for each label"
        )
    return tuple(sorted(photos, key=lambda photo: (photo.label, photo.relative.as_posix())))


def load_mask(path: Path) -> npt.NDArray[np.uint8]:
    """Reads a mask file: one class value per pixel.

    Args:
        path: a picture in black and white, grayscale or palette mode; of a palette the indices
            count, not the colors.

    Returns:
        (H, W) uint8. Black and white become 0 and 1.

    Raises:
        ImageNotFoundError: no file at the path.
        ImageDecodeError: not a picture, damaged, or in color.
    """
    try:
        with Image.open(path) as picture:
            if picture.mode not in _MASK_MODES:
                raise ImageDecodeError(
                    f"mask {path} has the color mode {picture.mode}, wanted grayscale or palette "
                    "(one class value per pixel); save it as a grayscale PNG"
                )
            return np.array(picture).astype(np.uint8)
    except FileNotFoundError as error:
        raise ImageNotFoundError(f"mask {path} does not exist; check the path") from error
    except ImageDecodeError:
        raise
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError) as error:
        raise ImageDecodeError(
            f"mask {path} cannot be read ({error}); save it as a grayscale PNG"
        ) from error


def _absolute(path: Path) -> Path:
    return Path(os.path.normpath(path.absolute()))


def files_below(folder: Path) -> list[Path]:
    """The photos in a folder and below it, sorted; none if there are none."""
    files = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [
            Path(parent, name)
            for name in names
            if not name.startswith(".") and Path(name).suffix.lower() in PHOTO_SUFFIXES
        ]
    return sorted(files, key=lambda file: file.relative_to(folder).as_posix())
