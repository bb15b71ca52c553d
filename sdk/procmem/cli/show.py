"""Pictures that explain an answer: neighbors side by side, regions over a photo, matching places.

Takes decoded images and what `memory.py` answered, gives PIL pictures to the commands. Uses
Pillow alone and its built-in font, so that the same input gives the same picture everywhere. Never
reads a photo, never opens a window.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from procmem.cli.text import in_ascii
from procmem.errors import InputError
from procmem.manifest import write_bytes_atomically
from procmem.types import Correspondences

UInt8 = npt.NDArray[np.uint8]
Color = tuple[int, int, int]

PALETTE: tuple[Color, ...] = (
    (86, 180, 233),
    (230, 159, 0),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
    (0, 0, 0),
)
"""Colors that people with any kind of color vision tell apart (Okabe and Ito, 2008)."""

RIGHT: Color = PALETTE[2]
WRONG: Color = PALETTE[5]
NEUTRAL: Color = (110, 110, 110)

_PAPER: Color = (255, 255, 255)
_INK: Color = (25, 25, 25)
_FAINT: Color = (110, 110, 110)
_MISSING: Color = (200, 200, 200)
_TILE = 176  # side of a tile's picture, pixels
_GAP = 14
_LINE = 17
_FONT_SIZE = 13
_FRAME = 4
_PANEL = 420  # longest side of a panel's picture, pixels
_OPACITY = 0.5

_SAVED_AS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


@dataclass(frozen=True, slots=True, eq=False)
class Tile:
    """One picture of a strip.

    Attributes:
        image: (H, W, 3) uint8 RGB, or None if it cannot be shown; then a gray tile says so.
        lines: short texts below it, the first one strong.
        color: of its frame.
        note: what a gray tile says.
    """

    image: UInt8 | None
    lines: tuple[str, ...]
    color: Color = NEUTRAL
    note: str = "no picture"


@dataclass(frozen=True, slots=True, eq=False)
class Panel:
    """One photo with what was found in it.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) uint8 class values, or None for the bare photo.
        title: a short text above it.
    """

    image: UInt8
    mask: UInt8 | None
    title: str


def draw_neighbors(query: Tile, neighbors: Sequence[Tile], *, columns: int = 5) -> Image.Image:
    """Draws the asked photo and, to its right, its neighbors in reading order.

    Args:
        query: the asked photo.
        neighbors: nearest first; none gives the asked photo alone.
        columns: neighbors in a row, at least 1.

    Raises:
        InputError: `columns` is below 1.
    """
    if columns < 1:
        raise InputError(f"columns is {columns}, wanted at least 1")
    texts = max(len(tile.lines) for tile in (query, *neighbors))
    width, height = _TILE + 2 * _FRAME, _TILE + 2 * _FRAME + 6 + texts * _LINE
    across = min(columns, len(neighbors))
    down = max(1, -(-len(neighbors) // columns))
    # The asked photo stands apart by a double gap with a line in it.
    left = _GAP + width + (2 * _GAP if neighbors else 0)
    sheet = Image.new(
        "RGB",
        (
            left + across * (width + _GAP) + (0 if neighbors else _GAP),
            _GAP + down * (height + _GAP),
        ),
        _PAPER,
    )
    draw = ImageDraw.Draw(sheet)
    _draw_tile(sheet, query, _GAP, _GAP)
    if neighbors:
        middle = _GAP + width + _GAP
        draw.line((middle, _GAP, middle, sheet.height - _GAP), fill=_MISSING, width=1)
    for at, tile in enumerate(neighbors):
        x = left + (at % columns) * (width + _GAP)
        _draw_tile(sheet, tile, x, _GAP + (at // columns) * (height + _GAP))
    return sheet


def paint(image: UInt8, mask: UInt8) -> UInt8:
    """Lays the colors of a mask over a photo; the value 0 stays bare, regions get an outline.

    Args:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) uint8 class values.

    Returns:
        (H, W, 3) uint8 RGB, a new array.

    Raises:
        InputError: the two differ in size.
    """
    if image.shape[:2] != mask.shape:
        raise InputError(
            f"mask is {mask.shape} but its image is {image.shape[:2]} (height, width); "
            "resize the mask with nearest neighbor"
        )
    painted = image.astype(np.float32)
    for value in np.unique(mask):
        if value != 0:
            inside = mask == value
            color = np.array(color_of(int(value)), dtype=np.float32)
            painted[inside] = (1 - _OPACITY) * painted[inside] + _OPACITY * color
    painted[_outline(mask, thickness=max(1, min(mask.shape) // 200))] = 255
    return np.rint(painted).astype(np.uint8)


def draw_regions(panels: Sequence[Panel], names: Mapping[int, str]) -> Image.Image:
    """Draws photos with their regions side by side, and a legend of the colors.

    Args:
        panels: at least one.
        names: what the class values are called; values without a name show their number.

    Raises:
        InputError: no panel, or a mask and its image differ in size.
    """
    if not panels:
        raise InputError("panels are empty, wanted at least one photo")
    pictures = []
    for panel in panels:
        pixels = panel.image if panel.mask is None else paint(panel.image, panel.mask)
        pictures.append(_fit(pixels, _PANEL))
    values = sorted(
        {int(v) for panel in panels if panel.mask is not None for v in np.unique(panel.mask)}
    )
    tallest = max(picture.height for picture in pictures)
    legend = [(value, in_ascii(names.get(value, f"value {value}"))) for value in values]
    font = _font()
    widths = [_LINE + 6 + int(font.getlength(name)) + 2 * _GAP for _, name in legend]
    room = sum(picture.width + _GAP for picture in pictures) + _GAP
    rows = _wrap(widths, room - 2 * _GAP)
    top = _GAP + _LINE + 4
    height = top + tallest + _GAP + (max(rows, default=-1) + 1) * (_LINE + 6) + _GAP // 2
    sheet = Image.new("RGB", (room, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    x = _GAP
    for panel, picture in zip(panels, pictures, strict=True):
        draw.text((x, _GAP), _shorten(panel.title, picture.width), font=font, fill=_INK)
        sheet.paste(picture, (x, top))
        x += picture.width + _GAP
    x, row = _GAP, 0
    for (value, name), width, line in zip(legend, widths, rows, strict=True):
        if line != row:
            x, row = _GAP, line
        y = top + tallest + _GAP + row * (_LINE + 6)
        fill = color_of(value) if value else _PAPER
        draw.rectangle((x, y, x + _LINE - 2, y + _LINE - 2), fill=fill, outline=_FAINT)
        draw.text((x + _LINE + 4, y), name, font=font, fill=_INK)
        x += width
    return sheet


def draw_matches(one: Panel, other: Panel, matches: Correspondences) -> Image.Image:
    """Draws two photos side by side, with a line from each place to its like in the other.

    Args:
        one: the photo of `matches.points_a`; its mask plays no part.
        other: the photo of `matches.points_b`.
        matches: drawn from the last to the first, so that the best lie on top.
    """
    left, right = _fit(one.image, _PANEL), _fit(other.image, _PANEL)
    top = _GAP + _LINE + 4
    apart = _GAP + left.width + 2 * _GAP
    height = top + max(left.height, right.height) + _GAP
    sheet = Image.new("RGB", (apart + right.width + _GAP, height), _PAPER)
    sheet.paste(left, (_GAP, top))
    sheet.paste(right, (apart, top))
    draw = ImageDraw.Draw(sheet)
    for panel, picture, edge in ((one, left, _GAP), (other, right, apart)):
        text = _shorten(panel.title, picture.width)
        draw.text((edge, _GAP), text, font=_font(), fill=_INK)
    starts = _placed(matches.points_a, one.image, left, (_GAP, top))
    ends = _placed(matches.points_b, other.image, right, (apart, top))
    for number in reversed(range(len(matches.similarities))):
        start, end = tuple(starts[number]), tuple(ends[number])
        color = PALETTE[number % (len(PALETTE) - 1)]  # without black
        draw.line((*start, *end), fill=_PAPER, width=4)
        draw.line((*start, *end), fill=color, width=2)
        for left_of, above in (start, end):
            box = (left_of - 4, above - 4, left_of + 4, above + 4)
            draw.ellipse(box, fill=color, outline=_PAPER)
    return sheet


def color_of(value: int) -> Color:
    """The color of a class value above 0; the same value has the same color in every picture."""
    return PALETTE[(value - 1) % len(PALETTE)]


def save_picture(picture: Image.Image, path: Path) -> None:
    """Writes a picture whole or not at all; the file's ending decides the format.

    Raises:
        InputError: an ending other than .png, .jpg, .jpeg or .webp, or a folder that cannot be
            written.
    """
    kind = _SAVED_AS.get(path.suffix.lower())
    if kind is None:
        raise InputError(
            f"{path} ends in {path.suffix!r}, wanted one of {', '.join(_SAVED_AS)}; "
            f"for example {path.with_suffix('.png').name}"
        )
    buffer = io.BytesIO()
    picture.save(buffer, format=kind)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes_atomically(path, buffer.getvalue())
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error}); choose another place") from error


def _draw_tile(sheet: Image.Image, tile: Tile, x: int, y: int) -> None:
    draw = ImageDraw.Draw(sheet)
    outer = _TILE + 2 * _FRAME
    draw.rectangle((x, y, x + outer - 1, y + outer - 1), fill=tile.color)
    inner = (x + _FRAME, y + _FRAME)
    draw.rectangle(
        (*inner, inner[0] + _TILE - 1, inner[1] + _TILE - 1),
        fill=_MISSING if tile.image is None else (238, 238, 238),
    )
    font = _font()
    if tile.image is None:
        note = _shorten(tile.note, _TILE - 8)
        at = (inner[0] + (_TILE - font.getlength(note)) / 2, inner[1] + _TILE / 2 - _LINE / 2)
        draw.text(at, note, font=font, fill=_FAINT)
    else:
        picture = _fit(tile.image, _TILE)
        place = (
            inner[0] + (_TILE - picture.width) // 2,
            inner[1] + (_TILE - picture.height) // 2,
        )
        sheet.paste(picture, place)
    for line, text in enumerate(tile.lines):
        draw.text(
            (x, y + outer + 5 + line * _LINE),
            _shorten(text, outer),
            font=font,
            fill=_INK if line == 0 else _FAINT,
        )


def _fit(pixels: UInt8, side: int) -> Image.Image:
    """The whole picture, scaled so that its longer side is `side`."""
    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS)


def _placed(
    points: npt.NDArray[np.float32], pixels: UInt8, picture: Image.Image, corner: tuple[int, int]
) -> list[list[float]]:
    """Places on a photo as places on the sheet where its scaled picture has that corner."""
    height, width = pixels.shape[:2]
    scale = np.array([picture.width / width, picture.height / height])
    placed: list[list[float]] = ((points + 0.5) * scale - 0.5 + np.array(corner)).tolist()
    return placed


def _outline(mask: UInt8, *, thickness: int) -> npt.NDArray[np.bool_]:
    """Pixels within `thickness` of another value, on the side of the larger value."""
    edge = np.zeros(mask.shape, dtype=bool)
    for step in range(1, thickness + 1):
        edge[step:] |= mask[step:] > mask[:-step]
        edge[:-step] |= mask[:-step] > mask[step:]
        edge[:, step:] |= mask[:, step:] > mask[:, :-step]
        edge[:, :-step] |= mask[:, :-step] > mask[:, step:]
    return edge


def _wrap(widths: Sequence[int], room: int) -> list[int]:
    """The line on which each of several boxes stands; a box wider than `room` has its own."""
    lines, line, used = [], 0, 0
    for width in widths:
        if used and used + width > room:
            line, used = line + 1, 0
        lines.append(line)
        used += width
    return lines


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(_FONT_SIZE)


def _shorten(text: str, width: float) -> str:
    """`text`, or as much of its end as fits: of a path the end says most."""
    font, text = _font(), in_ascii(text)
    if font.getlength(text) <= width:
        return text
    for start in range(1, len(text)):
        if font.getlength("..." + text[start:]) <= width:
            return "..." + text[start:]
    return ""
