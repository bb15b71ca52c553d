"""Folders on disk to lists of photos with labels, and mask files to class values.

Used by `evaluate.py` and the command line; stands beside the photo's walk, before `image.py`. It
promises the same order for the same folders on every system. Never opens a photo, never follows
links to folders (a loop would not end), never looks into hidden folders.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from procmem.errors import ImageDecodeError, ImageNotFoundError, InputError
from procmem.image import decode, gray_stretch, opened, read_image_file

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
    that end in one of `PHOTO_SUFFIXES`; names that begin with a dot are passed over. A folder that
    may not be read is listed like a photo that cannot be.

    Args:
        paths: files and folders.

    Returns:
        Each file once, in the order of `paths`; within a folder sorted by path.

    Raises:
        ImageNotFoundError: a path does not exist.
        ImageDecodeError: nobody may look whether it does.
        InputError: a folder holds no photo.
    """
    found: dict[Path, Photo] = {}
    for path in paths:
        is_folder = _is_folder(path)
        if is_folder:
            files = files_below(path)
            if not files:
                raise InputError(
                    f"{path} holds no photo (a file ending in {', '.join(sorted(PHOTO_SUFFIXES))});"
                    " give the folder that the photos are in"
                )
        else:
            files = [path]
        for file in files:
            real = absolute(file)
            relative = file.relative_to(path) if is_folder else Path(file.name)
            found.setdefault(real, Photo(path=real, label=real.parent.name, relative=relative))
    return tuple(found.values())


def find_labelled(folder: Path) -> tuple[Photo, ...]:
    """Lists the photos of a folder with one subfolder for each label.

    Args:
        folder: the photos are `folder/<label>/**`; files directly in `folder` have no label and
            are passed over. A folder that may not be read is listed as by `find_photos`.

    Returns:
        Sorted by label and path. `Photo.label` is the first folder below `folder`.

    Raises:
        InputError: `folder` is no folder, may not be read, or no subfolder holds a photo.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give one with a subfolder for each label")
    files = files_below(folder)
    if folder in files:
        raise InputError(f"{folder} may not be read; check its permissions")
    photos = [
        Photo(
            path=absolute(file),
            label=file.relative_to(folder).parts[0],
            relative=file.relative_to(folder),
        )
        for file in files
        if file.parent != folder or file.is_dir()
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
        (H, W) uint8, as they stand in the file. Black and white become 0 and 1.

    Raises:
        ImageNotFoundError: no file at the path.
        ImageDecodeError: not a picture, damaged, or in color.
        ImageTooLargeError: see `load_image`.
    """
    name = f"mask {path}"
    with opened(read_image_file(path), name) as picture:
        if picture.mode not in _MASK_MODES:
            raise ImageDecodeError(
                f"{name} has the color mode {picture.mode}, wanted grayscale or palette (one class "
                "value per pixel); save it as a grayscale PNG"
            )
        stretched = gray_stretch(picture)
        decode(picture)
        values: npt.NDArray[np.uint8] = np.array(picture).astype(np.uint8) // np.uint8(stretched)
    return values


def absolute(path: Path) -> Path:
    """A path from the root without "." and "..", links not followed."""
    return Path(os.path.normpath(path.absolute()))


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ImageNotFoundError(f"{path} does not exist; check the path") from error
    except (OSError, ValueError) as error:  # ValueError: a null character
        raise ImageDecodeError(
            f"{path} cannot be looked at ({error}); check the path and its permissions"
        ) from error


def files_below(folder: Path) -> list[Path]:
    """The photos in a folder and below it, sorted; none if there are none.

    Folders that may not be read are among them, so that whoever opens them tells.
    """
    files: list[Path] = []
    unreadable: list[OSError] = []
    for parent, folders, names in os.walk(folder, onerror=unreadable.append):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [
            Path(parent, name)
            for name in names
            if not name.startswith(".") and Path(name).suffix.lower() in PHOTO_SUFFIXES
        ]
    files += [Path(error.filename) for error in unreadable]
    return sorted(files, key=lambda file: file.relative_to(folder).as_posix())
