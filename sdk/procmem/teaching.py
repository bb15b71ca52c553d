"""Teaching whole folders: in steps that are durable, past bad files, and never a photo twice.

    for taught in teach(memory, ["photos"]):
        print(taught.photo.path, taught.id or taught.reason)

Stands before `memory.py`, which adds a batch or refuses it as a whole. Photos are found when the
first is asked for and opened one at a time, so that folders may be of any size.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import cast

from procmem.batch import MaskLike
from procmem.errors import ImageError, ImageNotFoundError, InputError
from procmem.folder import path_of
from procmem.memory import VisualMemory
from procmem.photos import Photo, find_photos, load_mask

AT_ONCE = 16
"""Photos of one durable step: an interruption loses at most the work on these."""


@dataclass(frozen=True, slots=True)
class Taught:
    """What became of one photo.

    Attributes:
        photo: its file.
        label: what it was taught as; None without one.
        id: of the item; None if it was not taught.
        reason: why it could not be taught, for people to read; None if it was, or if the memory
            held it already.
        masked: True if it was taught with a mask.
    """

    photo: Photo
    label: str | None
    id: int | None
    reason: str | None = None
    masked: bool = False

    @property
    def was_known(self) -> bool:
        """True if the memory held it already, by its path."""
        return self.id is None and self.reason is None


def teach(
    memory: VisualMemory,
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    label: str | None = None,
    labelled: bool = True,
    masks: str | os.PathLike[str] | None = None,
) -> Iterator[Taught]:
    """Teaches photos and says of each what became of it.

    What was said to be taught is on the disk. Whoever stops, or is stopped, goes on with the same
    call: photos that the memory holds, by their absolute path, are passed over.

    Args:
        memory: open for writing.
        paths: a file, a folder with everything below it, or several; see `find_photos`.
        label: one for all, instead of the name of each photo's folder.
        labelled: False to teach without labels.
        masks: folder of masks for `segment`: PNG files of class values with the photo's name, in
            the same subfolder or directly in it.

    Raises:
        ImageNotFoundError: a path does not exist.
        ImageDecodeError: nobody may look whether it does.
        InputError: a folder holds no photo, `masks` is no folder, or something is no path.
        VaultFullError, VaultReadOnlyError, VaultLockedError: it cannot be written; what was said
            to be taught stays.
    """
    found = find_photos(_paths_of(paths))
    known = {item.source for item in memory.items()}
    folder = None if masks is None else path_of("masks", masks)
    if folder is not None and not os.path.isdir(folder):  # noqa: PTH112  no name makes it raise
        raise InputError(f"masks is {folder}, which is no folder; nothing was taught")
    rest = iter(found)
    while step := list(islice(rest, AT_ONCE)):
        new = [photo for photo in step if str(photo.path) not in known]
        # A photo directly in the root of a file system lies in no folder that has a name.
        own = [(photo.label or None) if label is None else label for photo in new]
        labels = own if labelled else [None] * len(new)
        taught = dict(zip(new, _teach(memory, new, labels, folder), strict=True))
        for photo in step:
            yield taught.get(photo, Taught(photo, None, None))


def _paths_of(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[Path]:
    # A text is an iterable too, of letters, among which "/" is a path.
    alone = isinstance(paths, (str, os.PathLike)) or not isinstance(paths, Iterable)
    several = [paths] if alone else list(cast("Iterable[object]", paths))
    for path in several:
        if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
            raise InputError(f"paths has {path!r:.80}, wanted the path of a file or folder")
    return [Path(os.fsdecode(cast("str", path))) for path in several]


def _teach(
    memory: VisualMemory, photos: Sequence[Photo], labels: Sequence[str | None], masks: Path | None
) -> list[Taught]:
    if not photos:
        return []
    try:
        fitting = [_mask_of(photo, masks) for photo in photos]
        ids = memory.add(
            [photo.path for photo in photos],
            labels=labels,
            masks=fitting if any(mask is not None for mask in fitting) else None,
            sources=[str(photo.path) for photo in photos],
        )
    except (ImageError, InputError) as error:
        if len(photos) == 1:
            reason = str(error).removeprefix("images[0]: ")
            return [Taught(photos[0], labels[0], None, reason)]
        # A step is taken as a whole or not at all; the bad photo shows when they go one by one.
        alone = zip(photos, labels, strict=True)
        return [one for photo, label in alone for one in _teach(memory, [photo], [label], masks)]
    return [
        Taught(photo, label, id_, masked=mask is not None)
        for photo, label, id_, mask in zip(photos, labels, ids, fitting, strict=True)
    ]


def _mask_of(photo: Photo, masks: Path | None) -> MaskLike | None:
    if masks is None:
        return None
    for name in (photo.relative, Path(photo.relative.name)):
        with contextlib.suppress(ImageNotFoundError):
            return load_mask(masks / name.with_suffix(".png"))
    return None
