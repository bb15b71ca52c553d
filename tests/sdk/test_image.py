"""Every kind of picture becomes complete RGB pixels, or an error that says why not."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import tracemalloc
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile
from tests.raw_png import png

from procmem import image as image_module
from procmem.errors import (
    ImageDecodeError,
    ImageError,
    ImageNotFoundError,
    ImageTooLargeError,
    InputError,
)
from procmem.image import image_name, is_image_like, load_image, size_of

WHITE = (255, 255, 255)


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, channels), dtype=np.uint8)


def smooth(height: int, width: int) -> np.ndarray:
    """A picture that survives lossy compression nearly unchanged."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    planes = [x / max(width - 1, 1), y / max(height - 1, 1), (x + y) / max(width + height - 2, 1)]
    return np.rint(np.stack(planes, axis=2) * 255).astype(np.uint8)


def encode(picture: Image.Image | np.ndarray, kind: str, **options: object) -> bytes:
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture)
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def with_orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


# What is accepted


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_give_the_exact_pixels(kind: str) -> None:
    pixels = noise(11, 17)
    np.testing.assert_array_equal(load_image(encode(pixels, kind)), pixels)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_lossy_formats_give_nearly_the_pixels(kind: str) -> None:
    pixels = smooth(64, 96)
    loaded = load_image(encode(pixels, kind, quality=95))
    assert loaded.shape == pixels.shape
    assert np.abs(loaded.astype(int) - pixels).mean() < 4


def test_path_bytes_pil_and_array_give_the_same_pixels(tmp_path: Path) -> None:
    pixels = noise(9, 7)
    data = encode(pixels, "PNG")
    path = tmp_path / "a.png"
    path.write_bytes(data)
    forms = [path, str(path), data, bytearray(data), memoryview(data), pixels]
    for form in [*forms, Image.open(io.BytesIO(data)), Image.fromarray(pixels)]:
        np.testing.assert_array_equal(load_image(form), pixels)


def test_result_is_contiguous_uint8() -> None:
    loaded = load_image(noise(8, 9)[::-1, ::2])
    assert loaded.flags.c_contiguous
    assert loaded.dtype == np.uint8


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    upright = noise(4, 6)
    turn_back = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }
    stored = np.ascontiguousarray(turn_back[orientation])
    data = encode(stored, "PNG", exif=with_orientation(orientation))
    np.testing.assert_array_equal(load_image(data), upright)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied_once_in_every_format(kind: str) -> None:
    stored = smooth(40, 80)
    data = encode(stored, kind, exif=with_orientation(6))
    loaded = load_image(data)
    assert loaded.shape == (80, 40, 3)
    assert np.abs(loaded.astype(int) - np.rot90(stored, -1)).mean() < 4


def test_exif_orientation_of_a_pil_image_is_applied() -> None:
    data = encode(smooth(4, 8), "PNG", exif=with_orientation(8))
    assert load_image(Image.open(io.BytesIO(data))).shape == (8, 4, 3)


def test_a_damaged_exif_block_does_not_cost_the_photo() -> None:
    exif = b"Exif\x00\x00II*\x00\x08\x00\x00\x00\xff\xff" + b"\x12\x01\x03\x00\xff" * 9
    data = encode(smooth(16, 16), "JPEG", exif=exif)
    assert load_image(data).shape == (16, 16, 3)


def test_gray_is_repeated_over_the_channels() -> None:
    gray = noise(5, 6, 1)[:, :, 0]
    loaded = load_image(encode(gray, "PNG"))
    np.testing.assert_array_equal(loaded, np.stack([gray] * 3, axis=2))


def test_one_bit_becomes_black_and_white() -> None:
    bits = np.array([[True, False], [False, True]])
    loaded = load_image(encode(Image.fromarray(bits), "PNG"))
    np.testing.assert_array_equal(loaded[:, :, 0], [[255, 0], [0, 255]])


def test_palette_colors_are_looked_up() -> None:
    picture = Image.fromarray(np.array([[0, 1]], dtype=np.uint8))
    palette = Image.new("P", (2, 1))
    palette.frombytes(picture.tobytes())
    palette.putpalette([10, 20, 30, 200, 100, 50])
    np.testing.assert_array_equal(
        load_image(encode(palette, "PNG")), [[[10, 20, 30], [200, 100, 50]]]
    )


def test_transparent_palette_entries_become_white() -> None:
    palette = Image.new("P", (2, 1))
    palette.frombytes(b"\x00\x01")
    palette.putpalette([10, 20, 30, 200, 100, 50])
    data = encode(palette, "PNG", transparency=1)
    np.testing.assert_array_equal(load_image(data), [[[10, 20, 30], WHITE]])


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_no_hidden_color_shows_through_full_transparency(kind: str) -> None:
    rgba = noise(8, 8, 4)
    rgba[:, :, 3] = 0
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    loaded = load_image(encode(rgba, kind, **options))
    assert (loaded == 255).all()


def test_half_transparency_is_laid_over_white() -> None:
    rgba = np.array([[[0, 100, 255, 128]]], dtype=np.uint8)
    expected = [255 - 255 * 128 / 255, 255 - 155 * 128 / 255, 255]
    np.testing.assert_allclose(load_image(rgba)[0, 0], expected, atol=1)


def test_gray_with_alpha_is_laid_over_white() -> None:
    picture = Image.new("LA", (2, 1))
    picture.putdata([(40, 255), (40, 0)])
    np.testing.assert_array_equal(load_image(encode(picture, "PNG")), [[[40] * 3, WHITE]])


def test_a_transparent_color_of_rgb_becomes_white() -> None:
    pixels = np.array([[[1, 2, 3], [4, 5, 6]]], dtype=np.uint8)
    data = encode(pixels, "PNG", transparency=(4, 5, 6))
    np.testing.assert_array_equal(load_image(data), [[[1, 2, 3], WHITE]])


def test_16_bit_gray_keeps_its_upper_bits() -> None:
    values = np.array([[0, 255, 256, 0x8000, 0xFFFF]], dtype=np.uint16)
    loaded = load_image(encode(Image.fromarray(values), "PNG"))
    np.testing.assert_array_equal(loaded[0, :, 0], [0, 0, 1, 128, 255])


def test_16_bit_gray_tiff_keeps_its_upper_bits() -> None:
    values = np.array([[0, 0x1234, 0xFFFF]], dtype=np.uint16)
    loaded = load_image(encode(Image.fromarray(values), "TIFF"))
    np.testing.assert_array_equal(loaded[0, :, 1], [0, 0x12, 255])


def test_16_bit_gray_with_a_transparent_value_becomes_white_there() -> None:
    rows = b"\x00" + struct.pack(">HH", 0x1234, 0x4000)
    data = png(2, 1, 16, 0, rows, b"tRNS" + struct.pack(">H", 0x1234))
    np.testing.assert_array_equal(load_image(data)[0, :, 0], [255, 0x40])


@pytest.mark.parametrize(
    ("depth", "color", "rows", "transparent", "seen"),
    [
        (16, 2, struct.pack(">6H", 1, 2, 3, 0x1234, 0x5678, 0x9ABC), (0x1234, 0x5678, 0x9ABC), 0),
        (2, 0, b"\x10", (1,), 0),
        (4, 0, b"\x01", (1,), 0),
        (8, 0, b"\x00\x01", (1,), 0),
        (1, 0, b"\x40", (1,), 0),
    ],
)
def test_a_transparent_color_of_every_depth_becomes_white(
    depth: int, color: int, rows: bytes, transparent: tuple[int, ...], seen: int
) -> None:
    key = b"tRNS" + struct.pack(f">{len(transparent)}H", *transparent)
    data = png(2, 1, depth, color, b"\x00" + rows, key)
    assert load_image(data)[0].tolist() == [[seen] * 3, list(WHITE)]
    with Image.open(io.BytesIO(data)) as picture:
        assert load_image(picture)[0].tolist() == [[seen] * 3, list(WHITE)]


def test_16_bit_rgb_keeps_its_upper_bits() -> None:
    rows = b"\x00" + struct.pack(">HHH", 0x1234, 0x8000, 0xFFFF)
    np.testing.assert_array_equal(load_image(png(1, 1, 16, 2, rows)), [[[0x12, 0x80, 0xFF]]])


def test_16_bit_netpbm_keeps_its_upper_bits() -> None:
    data = b"P5 3 1 65535\n" + struct.pack(">HHH", 0, 0x1234, 0xFFFF)
    np.testing.assert_array_equal(load_image(data)[0, :, 0], [0, 0x12, 255])


def test_cmyk_becomes_rgb() -> None:
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))  # no cyan: red
    red, green, blue = load_image(encode(cmyk, "TIFF"))[0, 0]
    assert (red, green, blue) == (255, 0, 0)


def test_adobe_inverted_cmyk_jpeg_is_not_a_negative() -> None:
    cmyk = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    data = encode(cmyk, "JPEG", quality=95)
    assert b"Adobe" in data  # stored inverted, as this marker announces
    np.testing.assert_allclose(load_image(data)[8, 8], [255, 0, 0], atol=12)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_animations_give_their_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in [(255, 0, 0), (0, 0, 255)]]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    np.testing.assert_array_equal(load_image(data)[4, 4], [255, 0, 0])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM"])
def test_one_pixel_is_a_picture(kind: str) -> None:
    assert load_image(encode(noise(1, 1), kind), min_side=64).shape == (1, 1, 3)


# Arrays


@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 1), (3, 5, 3)])
def test_arrays_of_every_accepted_shape_keep_their_values(shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    expected = np.broadcast_to(array.reshape(3, 5, -1), (3, 5, 3))
    np.testing.assert_array_equal(load_image(array), expected)


@pytest.mark.parametrize("byte_order", ["<u2", ">u2"])
def test_uint16_arrays_keep_their_upper_bits(byte_order: str) -> None:
    array = np.array([[0, 0x1234, 0xFFFF]], dtype=byte_order)
    np.testing.assert_array_equal(load_image(array)[0, :, 2], [0, 0x12, 255])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_float_arrays_are_scaled_and_rounded(dtype: type) -> None:
    array = np.array([[0.0, 0.5, 1.0]], dtype=dtype)
    np.testing.assert_array_equal(load_image(array)[0, :, 0], [0, 128, 255])


def test_bool_arrays_become_black_and_white() -> None:
    np.testing.assert_array_equal(load_image(np.array([[True, False]]))[0, :, 0], [255, 0])


def test_the_given_array_is_not_changed() -> None:
    array = noise(4, 4, 4)
    before = array.copy()
    load_image(array)
    np.testing.assert_array_equal(array, before)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((2, 4, 4, 3), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((4, 4), np.int32),
        np.zeros((4, 4), np.complex64),
        np.full((4, 4), "a"),
    ],
)
def test_a_refused_array_is_named_by_shape_and_dtype(array: np.ndarray) -> None:
    with pytest.raises(ImageDecodeError) as caught:
        load_image(array)
    assert str(array.shape) in str(caught.value)
    assert str(array.dtype) in str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused(value: float) -> None:
    with pytest.raises(ImageDecodeError, match="NaN or infinite"):
        load_image(np.full((2, 2, 3), value, dtype=np.float32))


def test_floats_beyond_one_are_refused_with_their_range() -> None:
    with pytest.raises(ImageDecodeError, match=r"from 0 to 255.*wanted float in \[0, 1\]"):
        load_image(np.array([[0.0, 255.0]]))


@pytest.mark.parametrize("shape", [(0, 5, 3), (5, 0, 3), (0, 0)])
def test_zero_sized_arrays_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageDecodeError, match="at least one pixel"):
        load_image(np.zeros(shape, np.uint8))


def test_a_zero_sized_pil_image_is_refused() -> None:
    with pytest.raises(ImageDecodeError, match="at least one pixel"):
        load_image(Image.new("RGB", (0, 5)))


def test_32_bit_integers_have_no_defined_white_and_are_refused() -> None:
    with pytest.raises(ImageDecodeError, match="int32"):
        load_image(Image.new("I", (2, 2), 70000))


# What is refused


def test_a_missing_path_is_an_image_not_found(tmp_path: Path) -> None:
    with pytest.raises(ImageNotFoundError, match=r"nothing\.png does not exist"):
        load_image(tmp_path / "nothing.png")


def test_a_folder_is_called_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ImageDecodeError, match="is a folder"):
        load_image(tmp_path)


def test_a_null_character_in_a_path_is_an_image_error() -> None:
    with pytest.raises(ImageError, match="cannot be read"):
        load_image("a\0b.png")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ImageDecodeError, match="not a regular file"):
        load_image(tmp_path / "pipe")


def test_an_empty_file_is_called_empty(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    with pytest.raises(ImageDecodeError, match=r"a\.jpg is empty \(0 bytes\)"):
        load_image(tmp_path / "a.jpg")


def test_bytes_that_are_no_image_are_told_the_readable_formats() -> None:
    with pytest.raises(ImageDecodeError, match=r"bytes \(19 bytes\) is not .*JPEG, PNG, WEBP"):
        load_image(b"this is not a photo")


@pytest.mark.parametrize("kind", ["ICO", "PDF", "PCX", "TGA"])
def test_formats_outside_the_list_are_refused(kind: str) -> None:
    with pytest.raises(ImageDecodeError, match="is not a readable image"):
        load_image(encode(noise(16, 16), kind))


@pytest.mark.parametrize("min_side", [None, 32])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("WEBP", {}),
        ("GIF", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("PPM", {}),
    ],
)
def test_a_truncated_file_never_gives_half_a_picture(
    kind: str, options: dict[str, object], share: float, min_side: int | None
) -> None:
    data = encode(noise(128, 128), kind, **options)
    with pytest.raises(ImageDecodeError):
        load_image(data[: int(len(data) * share)], min_side=min_side)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "PPM"])
def test_damaged_bytes_raise_nothing_but_image_errors(kind: str) -> None:
    data = encode(noise(32, 32), kind)
    rng = np.random.default_rng(1)
    for _ in range(50):
        damaged = bytearray(data)
        for at in rng.integers(0, len(data), 6):
            damaged[at] = rng.integers(256)
        with contextlib.suppress(ImageError):  # a flipped pixel may well still be a picture
            load_image(bytes(damaged))


def test_the_decoders_own_error_is_chained() -> None:
    data = encode(noise(64, 64), "JPEG")
    with pytest.raises(ImageDecodeError) as caught:
        load_image(data[: len(data) // 2])
    assert isinstance(caught.value.__cause__, OSError)


def bomb() -> bytes:
    """A true 30,000 x 30,000 PNG of one bit per pixel, in a few kilobytes."""
    packer = zlib.compressobj(9)
    row = b"\x00" * (1 + 30_000 // 8)
    body = b"".join(packer.compress(row * 100) for _ in range(300)) + packer.flush()
    whole = png(30_000, 30_000, 1, 0, b"")
    start = whole.index(b"IDAT") - 4
    chunk = struct.pack(">I", len(body)) + b"IDAT" + body
    return whole[:start] + chunk + struct.pack(">I", zlib.crc32(b"IDAT" + body)) + whole[-12:]


def test_a_decompression_bomb_is_refused_by_pixels_and_limit() -> None:
    with pytest.raises(ImageTooLargeError, match=r"900000000.*178956970"):
        load_image(bomb())


def test_a_decompression_bomb_costs_no_memory() -> None:
    resource = pytest.importorskip("resource", reason="peak memory is read through getrusage")
    data = bomb()
    assert len(data) < 200_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    with pytest.raises(ImageTooLargeError):
        load_image(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert peak < 5_000_000
    assert grown < 50_000  # KiB; decoded, it would be 900,000 as 8-bit gray


def test_the_pixel_limit_counts_for_every_kind_of_input() -> None:
    pixels = noise(10, 11)
    for form in (pixels, Image.fromarray(pixels), encode(pixels, "PNG")):
        assert load_image(form, max_pixels=110).shape == (10, 11, 3)
        with pytest.raises(ImageTooLargeError, match=r"11x10 = 110 pixels, the limit is 109"):
            load_image(form, max_pixels=109)


def test_a_file_over_the_byte_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.jpg"
    with path.open("wb") as file:
        file.truncate(image_module.MAX_FILE_BYTES + 1)  # sparse: takes no room on the disk
    tracemalloc.start()
    with pytest.raises(ImageTooLargeError, match="268435457 bytes, the limit is 268435456"):
        load_image(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


@pytest.mark.parametrize("value", [None, 5, 2.5, [1, 2]])
def test_what_stands_for_no_picture_is_an_input_error(value: object) -> None:
    assert not is_image_like(value)
    with pytest.raises(InputError, match=f"is a {type(value).__name__}, not an image"):
        load_image(value)


@pytest.mark.parametrize("limits", [{"min_side": 0}, {"max_pixels": 0}])
def test_limits_below_one_are_refused(limits: dict[str, int]) -> None:
    with pytest.raises(InputError, match="is 0, wanted a whole number of at least 1"):
        load_image(noise(2, 2), **limits)


# The reduced decode


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize(("min_side", "height"), [(801, 801), (401, 801), (400, 401), (100, 101)])
def test_a_jpeg_is_reduced_but_never_below_min_side(
    min_side: int, height: int, progressive: bool
) -> None:
    data = encode(smooth(801, 1000), "JPEG", progressive=progressive)
    assert load_image(data, min_side=min_side).shape[0] == height


def test_a_phones_multi_picture_jpeg_gives_its_first_picture_reduced() -> None:
    pixels = smooth(400, 600)
    other = Image.new("RGB", (600, 400))
    data = encode(pixels, "MPO", save_all=True, append_images=[other], quality=95)
    reduced = load_image(data, min_side=100)
    assert np.abs(reduced.astype(int) - np.asarray(Image.fromarray(pixels).reduce(4))).mean() < 3


def test_a_reduced_jpeg_is_the_same_picture() -> None:
    pixels = smooth(400, 600)
    reduced = load_image(encode(pixels, "JPEG", quality=95), min_side=100)
    box = Image.fromarray(pixels).reduce(4)
    assert np.abs(reduced.astype(int) - np.asarray(box)).mean() < 3


def test_the_reduced_decode_is_a_function_of_the_bytes() -> None:
    data = encode(noise(300, 400), "JPEG")
    first = load_image(data, min_side=100)
    np.testing.assert_array_equal(first, load_image(data, min_side=100))


def test_only_jpeg_files_are_reduced() -> None:
    pixels = noise(64, 64)
    for form in (pixels, encode(pixels, "PNG"), Image.fromarray(pixels)):
        assert load_image(form, min_side=8).shape == (64, 64, 3)


# Manners


def test_no_setting_of_pillow_is_changed() -> None:
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters))
    load_image(encode(noise(8, 8), "TIFF"))
    with pytest.raises(ImageError):
        load_image(b"nonsense")
    after = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters))
    assert after == before


def test_large_pictures_below_the_limit_warn_nobody(recwarn: pytest.WarningsRecorder) -> None:
    # Pillow warns above half its limit; this header says 10,000 x 10,000 and the data ends there.
    with pytest.raises(ImageDecodeError):
        load_image(png(10_000, 10_000, 1, 0, b""))
    assert not recwarn.list


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("photos/a.jpg", "photos/a.jpg"),
        (Path("b.png"), "b.png"),
        (b"12345", "bytes (5 bytes)"),
        (np.zeros((480, 640, 3), np.uint8), "array (480, 640, 3) uint8"),
        (Image.new("L", (4, 3)), "PIL image 4x3 L"),
    ],
)
def test_every_kind_of_picture_has_a_name_for_messages(image: object, name: str) -> None:
    assert image_name(image) == name


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_the_size_is_that_of_the_decoded_picture(
    kind: str, orientation: int, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / "picture"
    Image.new("RGB", (30, 20)).save(file, kind, exif=exif)
    with Image.open(file) as picture:
        for image in (file, file.read_bytes(), picture, np.zeros((4, 6, 3), np.uint8)):
            assert size_of(image) == load_image(image).shape[:2]


def test_the_size_is_under_the_same_limits(tmp_path: Path) -> None:
    with pytest.raises(ImageNotFoundError):
        size_of(tmp_path / "missing.jpg")
    with pytest.raises(ImageTooLargeError):
        size_of(encode(Image.new("RGB", (30, 20)), "JPEG"), max_pixels=599)
    with pytest.raises(ImageDecodeError, match="not a readable image"):
        size_of(b"no picture")


def test_floats_a_little_beyond_one_are_told_from_one() -> None:
    with pytest.raises(ImageDecodeError, match=r"to 1\.000000.*clip it"):
        load_image(np.full((4, 4, 3), np.float32(1) + np.float32(1.2e-7)))
