"""Damaged pictures: a whole picture or an `ImageError`, in bounded time and memory.

Valid files of every format that is read are made here, damaged at random (`damage.py`) or where it
hurts (sizes, lengths, orientation), and handed to a memory in a child with a limit of time and
memory. What is refused must leave the memory as it was.
"""

from __future__ import annotations

import io
import itertools
import os
import random
import struct
import time
import traceback
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, features
from tests.stress import toy
from tests.stress.damage import Form, damage
from tests.stress.worker import Say, Worker, bound

from procmem.errors import ImageError, ProcmemError
from procmem.image import _readable_formats, load_image
from procmem.memory import VisualMemory
from procmem.preprocess import decode_min_side, to_tensor

WIDTH, HEIGHT = 67, 45
SECONDS, MEGABYTES = 2, 512
SIZES = (0, 1, 2, 255, 4096, 9000, 13_000, 32_768, 65_500, 65_535, 2**20, 2**31 - 1, 2**32 - 1)
PACKED = (">H", "<H", ">I", "<I")


# ---- in the child


class Decoder(toy.ToyEmbedder):
    """A `Perception` that decodes and prepares as the real one does, and then only looks."""

    def embed(self, images, *, view="center"):
        preprocessing = self.manifest.preprocessing
        pixels = load_image(images, min_side=decode_min_side(preprocessing))
        return toy.embedding(to_tensor([pixels], preprocessing, view=view))


def examine(say: Say, folder: str, file: str) -> None:
    """Loads a picture and has a memory remember it.

    Says ("picture" | "refused" | "foreign", what) of both, ("same",) if the memory is as it was or
    has just one item more, and ("cost", processor milliseconds, megabytes).
    """
    import resource

    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff speaks there
    with toy.hasty(), VisualMemory(folder, embedder=Decoder()) as memory:
        before = memory._vault.state(), list(memory.items())
        data = Path(file).read_bytes()
        bound(seconds=SECONDS, megabytes=MEGABYTES)
        begun, resident = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        added = []
        for act in (lambda: _checked(data), lambda: added.append(memory.add(file, "new"))):
            try:
                act()
                say("picture", "")
            except ImageError as error:
                say("refused", f"{type(error).__name__}: {error!s:.300}")
            except Exception as error:  # told to the parent, for which it is the end
                ours = isinstance(error, ProcmemError) and "ours, but no ImageError: "
                say("foreign", f"{ours or ''}{traceback.format_exc()[-3000:]}")
        milliseconds = round(1000 * (time.process_time() - begun))
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident
        if added:
            assert len(memory) == len(before[1]) + 1
            memory.delete(added[0], receipt=False)
            assert list(memory.items()) == before[1]
        else:
            assert before == (memory._vault.state(), list(memory.items()))
        say("cost", milliseconds, grown // 1024)


def _checked(data: bytes) -> None:
    pixels = load_image(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(data), formats=_readable_formats()) as picture:
            sizes = (picture.size, picture.size[::-1])
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    assert pixels.shape[1::-1] in sizes, f"{pixels.shape}, its file says {sizes}"
    assert pixels.flags.c_contiguous


# ---- what is damaged


def make_images() -> dict[str, bytes]:
    """A valid file of every kind, by name."""
    chance = np.random.default_rng(5)
    ramp = np.add.outer(np.arange(HEIGHT) * 2, np.arange(WIDTH))[..., None] + [0, 40, 90]
    pixels = (ramp + chance.integers(0, 24, ramp.shape)).astype(np.uint8)
    rgb = Image.fromarray(pixels)
    rgba = rgb.convert("RGBA")
    rgba.putalpha(rgb.convert("L"))
    palette, gray = rgb.quantize(50), rgb.convert("L")
    deep = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    turned = Image.Exif()
    turned[0x0112], turned[0x010F] = 6, "somebody"
    many = {"save_all": True, "append_images": [rgb.rotate(90), rgb.rotate(180)]}
    images = {
        "jpeg": _saved(rgb, "JPEG", quality=80),
        "jpeg full color": _saved(rgb, "JPEG", quality=95, subsampling=0, restart_marker_blocks=3),
        "jpeg progressive": _saved(rgb, "JPEG", progressive=True),
        "jpeg gray": _saved(gray, "JPEG", progressive=True, icc_profile=bytes(200)),
        "jpeg cmyk": _saved(rgb.convert("CMYK"), "JPEG"),
        "jpeg turned": _saved(rgb, "JPEG", exif=turned, comment=b"hello"),
        "mpo": _saved(rgb, "MPO", **many),
        "png": _saved(rgb, "PNG", exif=turned, dpi=(72, 72)),
        "png 1 bit": _saved(rgb.convert("1"), "PNG"),
        "png 16 bit": _saved(deep, "PNG"),
        "png palette": _saved(palette, "PNG", transparency=bytes(range(50)), bits=8),
        "png alpha": _saved(rgba, "PNG"),
        "png gray alpha": _saved(rgba.convert("LA"), "PNG"),
        "png animated": _saved(rgb, "PNG", **many),
        "png interlaced": _interlaced_png(pixels),
        "png interlaced 16 bit": _interlaced_png(pixels.astype(np.uint16) * 257),
        "gif": _saved(palette, "GIF", transparency=3),
        "gif animated": _saved(rgb, "GIF", duration=50, loop=0, **many),
        "bmp": _saved(rgb, "BMP"),
        "bmp palette": _saved(palette, "BMP"),
        "bmp 1 bit": _saved(rgb.convert("1"), "BMP"),
        "bmp alpha": _saved(rgba, "BMP"),
        "tiff": _saved(rgb, "TIFF", exif=turned),
        "tiff pages": _saved(rgb, "TIFF", **many),
        "tiff 16 bit": _saved(deep, "TIFF"),
        "tiff float": _saved(Image.fromarray(pixels[..., 0] / np.float32(255)), "TIFF"),
        "ppm": _saved(rgb, "PPM"),
        "pgm 16 bit": _saved(deep, "PPM"),
        "pbm": _saved(rgb.convert("1"), "PPM"),
        "ppm in words": b"P3 67 45 255\n" + b" ".join(b"%d" % v for v in pixels.flat),
    }
    if features.check("libtiff"):
        for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
            images[f"tiff {compression}"] = _saved(rgb, "TIFF", compression=compression)
        for compression in ("group3", "group4"):
            images[f"tiff {compression}"] = _saved(
                rgb.convert("1"), "TIFF", compression=compression
            )
        images["tiff cmyk"] = _saved(rgb.convert("CMYK"), "TIFF", compression="tiff_lzw")
    if features.check("webp"):
        images["webp"] = _saved(rgb, "WEBP", exif=turned)
        images["webp lossless"] = _saved(rgba, "WEBP", lossless=True)
        images["webp alpha"] = _saved(rgba, "WEBP", quality=50)
        images["webp animated"] = _saved(rgb, "WEBP", **many)
    if features.check("avif"):
        images["avif"] = _saved(rgb, "AVIF", exif=turned, max_threads=1)
        images["avif alpha"] = _saved(rgba, "AVIF", max_threads=1)
    return images


def _saved(picture: Image.Image, format_: str, **options) -> bytes:
    file = io.BytesIO()
    # Of copies: saving as JPEG leaves settings in a picture that upset other formats.
    if "append_images" in options:
        options["append_images"] = [page.copy() for page in options["append_images"]]
    picture.copy().save(file, format_, **options)
    return file.getvalue()


def _interlaced_png(pixels: np.ndarray) -> bytes:
    """(H, W, 3) uint8 or uint16 in the seven passes of Adam7, which Pillow reads but writes not."""
    starts = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2))
    rows = b""
    for x, y, right, down in (*starts, (0, 1, 1, 2)):
        part = pixels[y::down, x::right]
        rows += b"".join(b"\0" + row.astype(row.dtype.newbyteorder(">")).tobytes() for row in part)
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8 * pixels.itemsize, 2, 0, 0, 1)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_png_chunk(*chunk) for chunk in chunks)


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    checked = kind + content
    return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))


def _heads(data: bytes) -> list[int]:
    """Where something begins that says how to read on."""
    if data.startswith(b"\xff\xd8"):
        return [at for at in range(len(data) - 1) if data[at] == 255 and 0 < data[at + 1] < 255]
    if data.startswith(b"\x89PNG"):
        return [0, *(at for at, _ in _chunks(data, ">I", 4))]
    if data.startswith(b"RIFF"):
        return [0, *(at for at, _ in _chunks(data, "<I", 0))]
    if data.startswith(b"II*\0") and len(data) >= 8:
        return [0, min(struct.unpack("<I", data[4:8])[0], len(data) - 1)]
    return [0]


def _chunks(data: bytes, length: str, after: int) -> Iterator[tuple[int, int]]:
    """(offset, length) of the chunks of a PNG or RIFF file; `after` bytes follow the content."""
    at = 8 if after else 12
    while at + 8 <= len(data):
        size = struct.unpack(length, data[at : at + 4] if after else data[at + 4 : at + 8])[0]
        yield at, size
        at += 8 + size + after + (0 if after else size % 2)


def _resized(data: bytes, chance: random.Random) -> bytes:
    """Puts another number where a width or height, or any number of a header, stands."""
    form = chance.choice(PACKED)
    bytes_ = struct.calcsize(form)
    spots = []
    for side in (WIDTH, HEIGHT, WIDTH - 1, HEIGHT - 1):
        stored, at = struct.pack(form, side), -1
        while (at := data.find(stored, at + 1)) >= 0:
            spots.append(at)
    spots = [at for at in spots if at < 1000] or [chance.choice(_heads(data))]
    changed = data
    for at in chance.sample(spots, min(len(spots), chance.choice((1, 2, 9)))):
        size = chance.choice(SIZES) % 256**bytes_
        changed = changed[:at] + struct.pack(form, size) + changed[at + bytes_ :]
    if data[:1] == b"P":
        sizes = b"%d %d" % (chance.choice(SIZES), chance.choice(SIZES))
        changed = data.replace(b"67 45", sizes, 1)
    return changed


def _misturned(data: bytes, chance: random.Random) -> bytes:
    """Makes garbage of an EXIF orientation: its kind, count or value."""
    spots = [data.find(tag) for tag in (b"\x01\x12", b"\x12\x01") if tag in data]
    if not spots:
        return _resized(data, chance)
    at, length = chance.choice(spots) + chance.choice((2, 4, 8)), chance.choice((1, 2, 4))
    return data[:at] + chance.randbytes(length) + data[at + length :]


def _mislengthened(data: bytes, chance: random.Random) -> bytes:
    """Puts another length where a part of the file says its own."""
    at = chance.choice(_heads(data)) + chance.choice((0, 2, 4, 8))
    form = chance.choice(PACKED)
    near = (len(data) - at, len(data), 1, 3, chance.randrange(300))
    number = abs(chance.choice((*SIZES, *near))) % 256 ** struct.calcsize(form)
    return data[:at] + struct.pack(form, number) + data[at + struct.calcsize(form) :]


def _checksums_fitted(data: bytes) -> bytes:
    """A PNG with checksums that fit, so that damage gets further than to those."""
    changed = data
    for at, size in itertools.islice(_chunks(data, ">I", 4), 1000):
        end = at + 8 + size
        if end + 4 <= len(data):
            checksum = struct.pack(">I", zlib.crc32(changed[at + 4 : end]))
            changed = changed[:end] + checksum + changed[end + 4 :]
    return changed


def spoil(data: bytes, other: bytes, chance: random.Random) -> tuple[str, bytes]:
    """Damages a picture's file; says how."""
    aimed = {"sizes": _resized, "orientation": _misturned, "lengths": _mislengthened}
    damaged = data
    while damaged == data:
        if chance.random() < 0.4:
            what = chance.choice(list(aimed))
            damaged = aimed[what](data, chance)
        else:
            what, damaged = damage(data, other, Form(64, _heads, 24), chance)
        if data.startswith(b"\x89PNG") and chance.random() < 0.8:
            damaged = _checksums_fitted(damaged)
    return what, damaged


# ---- in the parent


def run_images(folder: Path, *, count: int, seed: int = 0) -> dict[str, int]:
    """Damages `count` pictures and has each remembered.

    Returns:
        Figures: how many were whole and how many refused, the most processor milliseconds and the
        most megabytes that one took.
    """
    figures: Counter[str] = Counter()
    images = make_images()
    names = list(images)
    vault, file = folder / "vault", folder / "picture"
    most = {"slowest, milliseconds": 0, "largest, megabytes": 0}
    modules = ("tests.stress.images", *(f"PIL.{name}ImagePlugin" for name in ("Tiff", "WebP")))
    with Worker(modules=modules) as worker:

        def examine(data: bytes) -> tuple[str, dict[str, int]]:
            file.write_bytes(data)
            lines, status = worker.run("images.examine", folder=vault, file=file)
            assert status == 0, f"the child ended with status {status}, having said {lines}"
            (first, one), (second, two), cost = lines
            assert "foreign" not in (first, second), f"{one} {two}"
            # Both or neither: nothing is remembered of which only a part can be read.
            outcome = first if first == second else f"{first} whole, {second} reduced"
            return outcome, dict(zip(most, cost[1:], strict=True))

        with toy.hasty(), VisualMemory(vault, embedder=Decoder()) as memory:
            memory.add([toy.picture(id_) for id_ in range(1, 4)], "old")
        for name, data in images.items():
            outcome, _ = examine(data)
            assert outcome == "picture", f"{name}: {outcome}"
        for at in range(count):
            chance = random.Random(f"{seed} {at}")
            name = chance.choice(names)
            what, data = spoil(images[name], images[chance.choice(names)], chance)
            try:
                outcome, cost = examine(data)
            except AssertionError as error:
                raise AssertionError(f"seed {seed}, file {at}: {name}, {what}: {error}") from error
            figures["pictures"] += 1
            figures[outcome] += 1
            for figure, value in cost.items():
                most[figure] = max(most[figure], value)
    return {**figures, **most}
