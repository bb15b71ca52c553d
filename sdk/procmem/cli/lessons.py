"""What `procmem demo` teaches and asks: photos of a folder, or crops of single photos.

Gives files to `demo.py`. Nothing here looks at an answer, and no random number is drawn: the same
photos give the same lessons.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from procmem.errors import ImageError, InputError, MissingExtraError
from procmem.image import load_image
from procmem.photos import Photo, find_photos

UInt8 = npt.NDArray[np.uint8]
T = TypeVar("T")

# Photos inside the scikit-image package that its documentation states to be in the public domain
# or under CC0.
_PUBLIC_DOMAIN = {
    "astronaut": "astronaut.png",
    "brick": "brick.png",
    "camera": "camera.png",
    "cat": "chelsea.png",
    "cell": "cell.png",
    "clock": "clock_motion.png",
    "coffee": "coffee.png",
    "grass": "grass.png",
    "gravel": "gravel.png",
    "hubble": "hubble_deep_field.jpg",
    "retina": "retina.jpg",
    "rocket": "rocket.jpg",
}

# Crops as (left, top, right, bottom) in shares of the photo. All taught ones end at 0.64, the
# unseen part begins there: the two share no pixel.
_TAUGHT = (
    (0.00, 0.00, 0.62, 0.62),
    (0.00, 0.38, 0.62, 1.00),
    (0.04, 0.12, 0.64, 0.88),
    (0.00, 0.00, 0.64, 1.00),
)
_ROTATED = (0.11, 0.24, 0.53, 0.76)
_COMPRESSED = (0.04, 0.05, 0.60, 0.95)
_UNSEEN = (0.64, 0.00, 1.00, 1.00)
_TURN_DEGREES = 20
_SMALL_SIDE, _LOW_QUALITY = 160, 20
_LARGEST_SIDE = 1024  # crops of larger photos would only cost time

# Bounds that keep the demo within half a minute on two cores.
_MOST_SINGLE = 16
_MOST_TAUGHT, _MOST_ASKED = 96, 36

# The cup and saucer of coffee.png, painted by hand: ellipses as center and radii, in pixels.
_CUP = ((278, 228, 200, 152), (262, 212, 186, 150), (287, 128, 120, 112))


@dataclass(frozen=True, slots=True)
class Lesson:
    """One file to teach or to ask.

    Attributes:
        path: the file.
        label: what it shows.
        name: what the output calls it.
        kind: how it differs from what is taught, e.g. "rotated"; "" for a photo of its own.
    """

    path: Path
    label: str
    name: str
    kind: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """A painted example, and the photo in which its like is to be found.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) uint8, 1 where the thing is.
        thing: what it is called.
        title: what the output calls the example.
        asked: (H2, W2, 3) uint8 RGB.
        asked_title: what the output calls the asked photo.
        truth: (H2, W2) uint8, where the thing is in it; None if nobody knows.
    """

    image: UInt8
    mask: UInt8
    thing: str
    title: str
    asked: UInt8
    asked_title: str
    truth: UInt8 | None


@dataclass(frozen=True, slots=True, eq=False)
class Lessons:
    """All that the demo needs.

    Attributes:
        title: what the photos are, in words.
        taught: taught in this order.
        asked: asked in this order; no file of it is taught.
        example: for segmentation.
        whole_labels: True if a label stands for one photo, so that forgetting it means the label.
        skipped: reasons why files were left out.
    """

    title: str
    taught: tuple[Lesson, ...]
    asked: tuple[Lesson, ...]
    example: Example
    whole_labels: bool
    skipped: tuple[str, ...]


def public_domain_lessons(folder: Path) -> Lessons:
    """Crops of the photos inside the scikit-image package, written into `folder`.

    Raises:
        MissingExtraError: scikit-image is not installed, or has none of the photos any more.
    """
    # find_spec, not import: the files are all that is needed of it.
    spec = importlib.util.find_spec("skimage")
    places = (spec.submodule_search_locations or []) if spec is not None else []
    photos = {
        label: Path(place, "data", name)
        for place in places
        for label, name in _PUBLIC_DOMAIN.items()
        if Path(place, "data", name).is_file()
    }
    if len(photos) < 2:
        raise MissingExtraError(
            "the demo's photos come with scikit-image, which is not installed; run "
            "pip install 'procmem[demo]', or give a folder of your own: procmem demo PHOTOS"
        )
    title = f"{len(photos)} public-domain photos from scikit-image"
    lessons = _from_single_photos(photos, folder, title)
    if "coffee" in photos:
        return replace(lessons, example=_cup_example(load_image(photos["coffee"])))
    return lessons


def folder_lessons(photos: Path, folder: Path) -> Lessons:
    """Lessons from a person's folder: with subfolders each is a label, else each photo is one.

    Args:
        photos: the folder.
        folder: for crops, if any have to be made.

    Raises:
        InputError: not a folder, or too few labels or photos.
    """
    if not photos.is_dir():
        raise InputError(f"{photos} is not a folder; give a folder of photos")
    found = find_photos([photos])
    if all(len(photo.relative.parts) == 1 for photo in found):
        chosen = _spread(found, _MOST_SINGLE)
        names = _unique_names(chosen)
        title = f"{len(chosen)} photos of {photos}" + _of(len(found), len(chosen))
        return _from_single_photos(
            {name: photo.path for name, photo in zip(names, chosen, strict=True)}, folder, title
        )
    return _from_labelled(photos, [photo for photo in found if len(photo.relative.parts) > 1])


def _from_single_photos(photos: Mapping[str, Path], folder: Path, title: str) -> Lessons:
    taught: list[Lesson] = []
    asked: list[Lesson] = []
    skipped: list[str] = []
    first: tuple[str, UInt8] | None = None
    for label, path in photos.items():
        try:
            pixels = load_image(path, min_side=_LARGEST_SIDE)
        except ImageError as error:
            skipped.append(str(error))
            continue
        picture = Image.fromarray(pixels)
        picture.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE))
        first = first or (label, np.asarray(picture))
        place = folder / label
        place.mkdir()
        for number, box in enumerate(_TAUGHT, start=1):
            file = place / f"part-{number}.png"
            _crop(picture, box).save(file)
            taught.append(Lesson(file, label, f"{label}, part {number}"))
        for kind, file, crop, quality in (
            ("rotated", place / "rotated.png", _turned(picture), None),
            ("compressed", place / "compressed.jpg", _small(picture), _LOW_QUALITY),
            ("unseen part", place / "unseen.png", _crop(picture, _UNSEEN), None),
        ):
            if quality is None:
                crop.save(file)
            else:
                crop.save(file, quality=quality)
            asked.append(Lesson(file, label, f"{label}, {kind}", kind))
    if first is None or len(taught) < 2 * len(_TAUGHT):
        raise InputError(_too_few(title, skipped))
    label, pixels = first
    return Lessons(
        title=title,
        taught=tuple(taught),
        asked=tuple(asked),
        example=_middle_example(pixels, np.asarray(_turned(Image.fromarray(pixels))), label, label),
        whole_labels=True,
        skipped=tuple(skipped),
    )


def _from_labelled(folder: Path, photos: Sequence[Photo]) -> Lessons:
    by_label: dict[str, list[Photo]] = {}
    skipped = []
    for photo in photos:
        by_label.setdefault(photo.relative.parts[0], []).append(photo)
    usable = {label: group for label, group in by_label.items() if len(group) >= 2}
    for label in by_label.keys() - usable.keys():
        skipped.append(f"{label}: one photo only, so that nothing is left to ask")
    labels = _spread(sorted(usable), _MOST_ASKED)
    if len(labels) < 2:
        raise InputError(
            f"{folder} has {len(labels)} subfolders with two photos or more, wanted at least 2; "
            "make one subfolder for each label, or put the photos into one folder without any"
        )
    asked_each = max(1, _MOST_ASKED // len(labels))
    taught_each = max(1, _MOST_TAUGHT // len(labels))
    taught: list[Lesson] = []
    asked: list[Lesson] = []
    for label in labels:
        good = []
        for photo in _spread(usable[label], asked_each + taught_each):
            try:
                load_image(photo.path, min_side=64)
            except ImageError as error:
                skipped.append(str(error))
                continue
            good.append(photo)
        # A quarter is kept back; one photo alone is taught.
        most = min(asked_each, max(1, len(good) // 4)) if len(good) > 1 else 0
        held_out = _spread(good, most) if most else []
        for photo in good:
            lesson = Lesson(photo.path, label, photo.relative.as_posix())
            (asked if photo in held_out else taught).append(lesson)
    if not taught or not asked:
        raise InputError(_too_few(str(folder), skipped))
    query = asked[0]
    example = next((lesson for lesson in taught if lesson.label == query.label), taught[0])
    return Lessons(
        title=f"{len(taught) + len(asked)} photos of {folder}"
        + _of(len(photos) - len(skipped), len(taught) + len(asked)),
        taught=tuple(taught),
        asked=tuple(asked),
        example=_middle_example(
            load_image(example.path, min_side=_LARGEST_SIDE),
            load_image(query.path, min_side=_LARGEST_SIDE),
            example.name,
            query.name,
        ),
        whole_labels=False,
        skipped=tuple(skipped),
    )


def _cup_example(coffee: UInt8) -> Example:
    """The painted cup, and the same photo mirrored, turned and cut, with the truth known."""
    mask = np.zeros(coffee.shape[:2], dtype=np.uint8)
    for cx, cy, rx, ry in _CUP:
        mask |= _ellipse(coffee.shape[:2], cx, cy, rx, ry)

    def moved(pixels: UInt8, resample: Image.Resampling) -> UInt8:
        picture = Image.fromarray(pixels).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        turned = picture.rotate(12, resample=resample)
        return np.asarray(_crop(turned, (0.12, 0.1, 0.95, 0.9)))

    return Example(
        image=coffee,
        mask=mask,
        thing="cup",
        title="coffee, the cup painted by hand",
        asked=moved(coffee, Image.Resampling.BICUBIC),
        asked_title="mirrored, turned and cut",
        truth=moved(mask, Image.Resampling.NEAREST),
    )


def _middle_example(image: UInt8, asked: UInt8, title: str, asked_title: str) -> Example:
    height, width = image.shape[:2]
    return Example(
        image=image,
        mask=_ellipse((height, width), width / 2, height / 2, width * 0.3, height * 0.3),
        thing="like the middle",
        title=f"{title}, its middle marked",
        asked=asked,
        asked_title=asked_title,
        truth=None,
    )


def _ellipse(shape: tuple[int, ...], cx: float, cy: float, rx: float, ry: float) -> UInt8:
    y, x = np.mgrid[: shape[0], : shape[1]]
    inside = ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 < 1
    return np.asarray(inside, dtype=np.uint8)


def _crop(picture: Image.Image, box: tuple[float, float, float, float]) -> Image.Image:
    width, height = picture.size
    left, top = int(box[0] * width), int(box[1] * height)
    right, bottom = int(box[2] * width), int(box[3] * height)
    return picture.crop((left, top, max(right, left + 1), max(bottom, top + 1)))


def _turned(picture: Image.Image) -> Image.Image:
    width, height = picture.size
    center = (0.5 * (_ROTATED[0] + _ROTATED[2]) * width, 0.5 * height)
    turned = picture.rotate(_TURN_DEGREES, resample=Image.Resampling.BICUBIC, center=center)
    return _crop(turned, _ROTATED)


def _small(picture: Image.Image) -> Image.Image:
    crop = _crop(picture, _COMPRESSED)
    crop.thumbnail((_SMALL_SIDE, _SMALL_SIDE))
    return crop


def _spread(things: Sequence[T], most: int) -> list[T]:
    """At most `most` of the things, evenly spread, in their order."""
    if len(things) <= most:
        return list(things)
    return [things[at * len(things) // most] for at in range(most)]


def _unique_names(photos: Sequence[Photo]) -> list[str]:
    """The files' names without ending, or with it where two would be the same."""
    stems = [photo.path.stem for photo in photos]
    return [
        photo.path.name if stems.count(stem) > 1 else stem
        for photo, stem in zip(photos, stems, strict=True)
    ]


def _of(all_of_them: int, used: int) -> str:
    return f" (of {all_of_them}, to keep it short)" if all_of_them > used else ""


def _too_few(title: str, skipped: Sequence[str]) -> str:
    reason = f"; the first problem: {skipped[0]}" if skipped else ""
    return f"{title}: too few photos could be read, wanted at least two{reason}"
