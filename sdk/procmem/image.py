"""Any picture a person can hand over, as RGB pixels.

First step of a photo's walk: takes a path, bytes, a PIL image or an array, and gives uint8
(H, W, 3) to `preprocess.py`. It promises a complete picture or an `ImageError` that says why not:
sizes are checked against the header before a pixel is decoded, a file that stops early is refused
and not filled up with gray (unless the application has told Pillow to, by
`ImageFile.LOAD_TRUNCATED_IMAGES`), and whatever a decoder throws comes out as one of our errors.

How pictures are read, once and for every caller:

* EXIF orientation is applied. ICC profiles are ignored: the numbers in the file are the colors.
* Transparent pixels are laid over white, so a color hidden under full transparency never shows.
* 16-bit samples keep their upper 8 bits. CMYK is converted as Pillow does it.
* Animations give their first frame. A PIL image gives the frame that it stands at.

Never touches the network, never changes a setting of Pillow, never writes to what it was given.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias, TypeGuard

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from procmem.errors import (
    ImageDecodeError,
    ImageError,
    ImageNotFoundError,
    ImageTooLargeError,
    InputError,
)

ImageLike: TypeAlias = (
    str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | npt.NDArray[Any]
)
"""One picture: a path, the content of an image file, a PIL image, or an array (H, W[, C])."""

MAX_PIXELS = 178_956_970
"""Most pixels that are decoded: 512 MiB as RGB, the size at which Pillow itself refuses."""

MAX_FILE_BYTES = 256 * 2**20
"""Largest image file that is read, bytes."""

# HEIF is readable once an application has registered a plugin for it; Pillow brings none.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "HEIF")

# Decoders that never warn while they decode; the others run under the lock of `_quiet`.
_SILENT_DECODERS = frozenset({"JPEG", "MPO", "PNG", "WEBP"})

_JPEG_FORMATS = ("JPEG", "MPO")
_ORIENTATION_TAG = 0x0112
_LEAST_ON_ITS_SIDE = 5  # orientations of 5 to 8 swap width and height
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_warnings_lock = threading.Lock()


def is_image_like(value: object) -> TypeGuard[ImageLike]:
    """True if `value` is of a type that stands for one picture; its content is not looked at."""
    kinds = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image, np.ndarray)
    return isinstance(value, kinds)


def image_name(image: ImageLike) -> str:
    """What messages call a picture: its path, "bytes (12345 bytes)", "array (480, 640, 3) uint8".

    Raises:
        InputError: `image` is of no type that stands for a picture.
    """
    if isinstance(image, np.ndarray):
        return f"array {image.shape} {image.dtype}"
    if isinstance(image, Image.Image):
        return f"PIL image {image.width}x{image.height} {image.mode}"
    if isinstance(image, (bytes, bytearray, memoryview)):
        size = image.nbytes if isinstance(image, memoryview) else len(image)
        return f"bytes ({size} bytes)"
    if isinstance(image, (str, os.PathLike)):
        return os.fsdecode(image)
    raise InputError(
        f"{image!r:.80} is a {type(image).__name__}, not an image; "
        "give a path, bytes, a PIL image or an array"
    )


def load_image(
    image: ImageLike, *, min_side: int | None = None, max_pixels: int = MAX_PIXELS
) -> npt.NDArray[np.uint8]:
    """Decodes one picture to RGB.

    Args:
        image: a path, the content of an image file, a PIL image, or an array of shape (H, W),
            (H, W, 1), (H, W, 3) or (H, W, 4): uint8, uint16, bool, or float in [0, 1].
        min_side: if given, a JPEG file may be decoded at 1/2, 1/4 or 1/8 of its size (in its
            frequency domain, several times faster) as long as its shorter edge stays at least
            this long, pixels. The choice depends on nothing but the file's bytes and this number.
            PIL images and arrays are already decoded and keep their size.
        max_pixels: larger pictures are refused. Pillow's own limit applies too.

    Returns:
        (H, W, 3) uint8, C-contiguous. It may share memory with an array that was given: read it,
        do not write to it.

    Raises:
        ImageNotFoundError: no file at the path.
        ImageDecodeError: not a picture, damaged, cut off, empty, or of an unsupported kind.
        ImageTooLargeError: more than `max_pixels` pixels or `MAX_FILE_BYTES` bytes.
        InputError: `image` is of no type that stands for a picture, or a limit is below 1.
    """
    for limit_name, limit in (("min_side", min_side), ("max_pixels", max_pixels)):
        if limit is not None and (not isinstance(limit, (int, np.integer)) or limit < 1):
            raise InputError(f"{limit_name} is {limit!r:.80}, wanted a whole number of at least 1")
    name = image_name(image)
    if isinstance(image, np.ndarray):
        return _from_array(image, name, max_pixels)
    if isinstance(image, Image.Image):
        return _from_pil(image, name, max_pixels)
    data = read_image_file(image) if isinstance(image, (str, os.PathLike)) else bytes(image)
    return _from_bytes(data, name, min_side, max_pixels)


def size_of(image: ImageLike, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(height, width) of what `load_image` gives, without decoding a JPEG.

    Args:
        image: as `load_image`.
        max_pixels: likewise.

    Raises:
        ImageError, InputError: as `load_image`; a JPEG's pixels are not looked at.
    """
    name = image_name(image)
    if isinstance(image, (np.ndarray, Image.Image)):
        pixels = load_image(image, max_pixels=max_pixels)
        return pixels.shape[0], pixels.shape[1]
    data = read_image_file(image) if isinstance(image, (str, os.PathLike)) else bytes(image)
    with opened(data, name, max_pixels) as picture:
        if picture.format not in _JPEG_FORMATS:
            decode(picture)  # the orientation may stand behind the pixels
        size = picture.height, picture.width
        return size if _orientation(picture) < _LEAST_ON_ITS_SIDE else size[::-1]


def read_image_file(path: str | os.PathLike[str]) -> bytes:
    """The content of a picture's file, for whoever decodes it more than once.

    Raises:
        ImageNotFoundError: no file at the path.
        ImageDecodeError: a folder, a device, or not readable.
        ImageTooLargeError: more than `MAX_FILE_BYTES` bytes.
    """
    name = image_name(path)
    try:
        file = Path(os.fsdecode(path))
        status = file.stat()
        if stat.S_ISDIR(status.st_mode):
            why = "not an image" if os.access(file, os.R_OK | os.X_OK) else "and may not be read"
            raise ImageDecodeError(f"{name or '.'} is a folder, {why}; give the files in it")
        # A pipe or a device could block for ever or never end.
        if not stat.S_ISREG(status.st_mode):
            raise ImageDecodeError(f"{name} is not a regular file; give an image file or bytes")
        _check_bytes(status.st_size, name)
        return file.read_bytes()
    except ImageError:
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ImageNotFoundError(f"{name} does not exist; check the path") from error
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise ImageDecodeError(
            f"{name!r} cannot be read ({error}); check the path and its permissions"
        ) from error


def _from_bytes(
    data: bytes, name: str, min_side: int | None, max_pixels: int
) -> npt.NDArray[np.uint8]:
    with opened(data, name, max_pixels) as picture:
        if min_side is not None and picture.format in _JPEG_FORMATS:
            picture.draft(None, (min_side, min_side))
        return _pixels(picture, name)


@contextlib.contextmanager
def opened(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """The picture of an image file, its head read and checked, its pixels not decoded yet.

    Args:
        data: the file's content.
        name: what messages call it.
        max_pixels: see `load_image`.

    Raises:
        ImageDecodeError, ImageTooLargeError: see `load_image`; also for whatever a decoder throws
            in the block.
    """
    if not data:
        raise ImageDecodeError(f"{name} is empty (0 bytes); copy the picture again")
    _check_bytes(len(data), name)
    with _decoder_errors(name):
        with _quiet():
            picture = Image.open(io.BytesIO(data), formats=_readable_formats())
        with picture:
            _check_size(picture.width, picture.height, name, max_pixels)
            yield picture


def decode(picture: Image.Image) -> None:
    """Decodes the pixels of a picture; Pillow's warnings about the rest of it are not shown."""
    with contextlib.nullcontext() if picture.format in _SILENT_DECODERS else _quiet():
        picture.load()


def gray_stretch(picture: Image.Image) -> int:
    """By what Pillow multiplies gray of two or four bits, 85 or 17, to fill eight; 1 of others.

    To be asked before the picture is decoded; Pillow does not know it any more then.
    """
    return {"L;2": 85, "L;4": 17}.get(_raw_mode(picture), 1)


def _raw_mode(picture: Image.Image) -> str:
    """How the samples of a picture stand in its file, in Pillow's words; "" once it is decoded."""
    tiles = getattr(picture, "tile", None)  # of pictures from files only
    arguments = tiles[0][3] if tiles else ""
    found = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return found if isinstance(found, str) else ""


def _from_pil(picture: Image.Image, name: str, max_pixels: int) -> npt.NDArray[np.uint8]:
    _check_size(picture.width, picture.height, name, max_pixels)
    with _decoder_errors(name):
        return _pixels(picture, name)


def _pixels(picture: Image.Image, name: str) -> npt.NDArray[np.uint8]:
    """Decodes, converts to RGB and turns upright."""
    stretched, wide = gray_stretch(picture), _raw_mode(picture).startswith("RGB;16")
    decode(picture)
    orientation = _orientation(picture)  # after load: some formats store it behind the pixels
    key = picture.info.get("transparency")
    # Pillow compares the color that stands for "transparent" with samples of eight bits.
    if isinstance(key, int) and stretched > 1:
        picture = _with_key(picture, key * stretched)
    elif isinstance(key, tuple) and wide:
        picture = _with_key(picture, tuple(sample >> 8 for sample in key))
    rgb = _to_rgb(picture, name)
    if orientation in _UPRIGHT:
        rgb = rgb.transpose(_UPRIGHT[orientation])
    return np.array(rgb, dtype=np.uint8)


def _with_key(picture: Image.Image, key: int | tuple[int, ...]) -> Image.Image:
    """A copy of which pixels of another color are transparent."""
    copy = picture.copy()
    copy.info["transparency"] = key
    return copy


def _orientation(picture: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 if there is none or it cannot be read."""
    # Damaged metadata must not cost a person the photo: any failure means "as stored".
    with _quiet(), contextlib.suppress(Exception):
        return int(picture.getexif().get(_ORIENTATION_TAG, 1))
    return 1


def _to_rgb(picture: Image.Image, name: str) -> Image.Image:
    mode = picture.mode
    # Netpbm files with more than 8 bits (and 16-bit PNG in older Pillow) come as 32-bit
    # integers up to 65535. Any other 32-bit picture has no defined white.
    if mode.startswith("I;16") or (mode == "I" and picture.format in ("PNG", "PPM")):
        return Image.fromarray(_from_gray16(picture))
    if mode in ("I", "F"):
        return Image.fromarray(_from_array(np.asarray(picture), name, MAX_PIXELS))
    if mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        return _over_white(picture.convert("RGBA"))
    if mode == "RGB":
        return picture
    return picture.convert("RGB")


def _from_gray16(picture: Image.Image) -> npt.NDArray[np.uint8]:
    gray = np.asarray(picture)
    eight = _upper_bits(gray)
    transparent = picture.info.get("transparency")
    if isinstance(transparent, int):
        eight[gray == transparent] = 255
    return _gray_to_rgb(eight)


def _over_white(rgba: Image.Image) -> Image.Image:
    white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, rgba).convert("RGB")


def _gray_to_rgb(gray: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.repeat(gray[:, :, None], 3, axis=2)


def _from_array(array: npt.NDArray[Any], name: str, max_pixels: int) -> npt.NDArray[np.uint8]:
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.ndim not in (2, 3) or channels not in (1, 3, 4):
        raise ImageDecodeError(
            f"{name} is not one image; wanted (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)"
        )
    _check_size(array.shape[1], array.shape[0], name, max_pixels)
    eight = _to_uint8(array, name)
    if channels == 4:
        return np.array(_over_white(Image.fromarray(np.ascontiguousarray(eight))), dtype=np.uint8)
    if channels == 1:
        return _gray_to_rgb(eight.reshape(eight.shape[:2]))
    return np.ascontiguousarray(eight)


def _to_uint8(array: npt.NDArray[Any], name: str) -> npt.NDArray[np.uint8]:
    kind, width = array.dtype.kind, array.dtype.itemsize
    if kind == "u" and width == 1:
        return np.asarray(array, dtype=np.uint8)
    if kind == "u" and width == 2:
        return _upper_bits(array)
    if kind == "b":
        white: npt.NDArray[np.uint8] = array.astype(np.uint8) * np.uint8(255)
        return white
    if kind != "f":
        raise ImageDecodeError(
            f"{name} has dtype {array.dtype}; wanted uint8, uint16, bool or float in [0, 1]"
        )
    if not np.isfinite(array).all():
        raise ImageDecodeError(f"{name} has NaN or infinite values; wanted float in [0, 1]")
    low, high = float(array.min()), float(array.max())
    if low < 0 or high > 1:
        raise ImageDecodeError(
            f"{name} has values from {low:.9g} to {high:.9g}; wanted float in [0, 1]: clip it, "
            "scale it, or cast it to uint8 if it is in [0, 255]"
        )
    scaled = np.rint(array.astype(np.float32) * np.float32(255))
    return np.asarray(scaled, dtype=np.uint8)


def _upper_bits(array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    upper: npt.NDArray[np.uint8] = (array >> 8).astype(np.uint8)
    return upper


def _check_size(width: int, height: int, name: str, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise ImageDecodeError(f"{name} is {width}x{height} pixels; it needs at least one pixel")
    if width * height > max_pixels:
        raise ImageTooLargeError(
            f"{name} is {width}x{height} = {width * height} pixels, the limit is {max_pixels}; "
            "scale it down first"
        )


def _check_bytes(size: int, name: str) -> None:
    if size > MAX_FILE_BYTES:
        raise ImageTooLargeError(
            f"{name} has {size} bytes, the limit is {MAX_FILE_BYTES}; scale the picture down first"
        )


def _readable_formats() -> list[str]:
    """The allowed formats that this Pillow can read."""
    # Image.preinit() knows only some of them; naming the others here avoids Image.init(), which
    # imports the plugins of forty formats that are never used.
    from PIL import TiffImagePlugin, WebPImagePlugin  # noqa: F401  registers the formats

    with contextlib.suppress(ImportError):  # Pillow before 11.3 has no AVIF
        from PIL import AvifImagePlugin  # noqa: F401  registers the format
    Image.preinit()
    return [name for name in _FORMATS if name in Image.OPEN]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences Pillow's warnings about metadata, which no caller can act on."""
    # catch_warnings swaps process-wide state; the lock keeps our threads from interleaving.
    with _warnings_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _decoder_errors(name: str) -> Iterator[None]:
    """Turns whatever a decoder raises into an ImageError."""
    try:
        yield
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageTooLargeError(f"{name} is too large: {error} Scale it down first.") from error
    except MemoryError as error:
        raise ImageTooLargeError(
            f"{name} does not fit into this machine's free memory; scale it down first"
        ) from error
    except UnidentifiedImageError as error:
        raise ImageDecodeError(
            f"{name} is not a readable image; readable are {', '.join(_readable_formats())}"
        ) from error
    # Damaged bytes make decoders raise OSError, SyntaxError, struct.error, ValueError, EOFError
    # and more; which one is an accident of the format.
    except Exception as error:
        raise ImageDecodeError(
            f"{name} cannot be decoded completely ({error}); it is cut off, damaged or of an "
            "unsupported kind: copy it again, or save it as PNG"
        ) from error
