"""Contact sheets: many images in one picture, to be looked at.

Takes uint8 images of any generator, gives a Pillow image. Labels are in Pillow's own font, so that
no font file is needed and the same input gives the same picture everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from procmem.cli.text import in_ascii
from procmem.errors import InputError

_PAPER, _INK = (255, 255, 255), (40, 40, 40)
_FONT_SIZE = 14

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def contact_sheet(
    images: npt.NDArray[np.uint8],
    *,
    columns: int | None = None,
    gap: int = 4,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
) -> Image.Image:
    """Lays images out in a grid, row by row, each at its own size.

    Args:
        images: (N, S, S, 3) uint8, N of 1 or more.
        columns: images in a row; if not given, the grid is as square as possible.
        gap: white pixels between images.
        row_labels: written left of the rows, one each; none if empty.
        column_labels: written above the columns, one each, shortened to the column's width; none
            if empty.

    Raises:
        InputError: images of another form, or numbers that do not fit them.
    """
    _check_images(images)
    if columns is None:
        columns = math.ceil(math.sqrt(len(images)))
    if columns < 1:
        raise InputError(f"columns is {columns}, wanted 1 or more")
    rows = math.ceil(len(images) / columns)
    places = [images[row * columns : (row + 1) * columns] for row in range(rows)]
    return _lay_out(places, columns, gap, row_labels, column_labels)


def labelled_rows(
    rows: Sequence[tuple[str, npt.NDArray[np.uint8]]],
    *,
    gap: int = 4,
    column_labels: Sequence[str] = (),
) -> Image.Image:
    """Lays out one row for each name, to compare what different processes draw.

    Args:
        rows: names, and (N, S, S, 3) uint8 images of one S; a shorter row leaves its end white.
        gap: white pixels between images.
        column_labels: written above the columns, one each; none if empty.

    Raises:
        InputError: no row, images of another form or of different sides, or labels that do not
            fit them.
    """
    if not rows:
        raise InputError("rows is empty, wanted 1 or more")
    for name, images in rows:
        _check_images(images, of=f" of row {name!r}")
    sides = sorted({images.shape[1] for _, images in rows})
    if len(sides) > 1:
        raise InputError(f"rows have images of {sides} pixels, wanted one side; resize them")
    columns = max(len(images) for _, images in rows)
    labels = [name for name, _ in rows]
    return _lay_out([images for _, images in rows], columns, gap, labels, column_labels)


def _lay_out(
    rows: Sequence[npt.NDArray[np.uint8]],
    columns: int,
    gap: int,
    row_labels: Sequence[str],
    column_labels: Sequence[str],
) -> Image.Image:
    for what, labels, wanted in (
        ("row_labels", row_labels, len(rows)),
        ("column_labels", column_labels, columns),
    ):
        if labels and len(labels) != wanted:
            raise InputError(f"{what} has {len(labels)} texts, wanted {wanted} or none")
    if gap < 0:
        raise InputError(f"gap is {gap}, wanted 0 or more")
    row_labels, column_labels = [*map(in_ascii, row_labels)], [*map(in_ascii, column_labels)]
    side = rows[0].shape[1]
    font = ImageFont.load_default(_FONT_SIZE)
    line = _FONT_SIZE + 4
    left = math.ceil(max(map(font.getlength, row_labels))) + 8 if row_labels else 0
    top = line + 2 if column_labels else 0
    # A line of text may be taller than the images of a row.
    pitch = max(side, line if row_labels else 0) + gap
    size = (left + columns * (side + gap) - gap, top + len(rows) * pitch - gap)
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    for column, text in enumerate(column_labels):
        at = (left + column * (side + gap) + side / 2, top / 2)
        draw.text(at, _shortened(text, side, font), font=font, fill=_INK, anchor="mm")
    for row, images in enumerate(rows):
        y = top + row * pitch
        if row_labels:
            at = (left - 6, y + (pitch - gap) / 2)
            draw.text(at, row_labels[row], font=font, fill=_INK, anchor="rm")
        for column, image in enumerate(images):
            sheet.paste(Image.fromarray(image), (left + column * (side + gap), y))
    return sheet


def _check_images(images: npt.NDArray[np.uint8], *, of: str = "") -> None:
    shape = np.shape(images)
    kind = getattr(images, "dtype", type(images).__name__)
    if len(shape) != 4 or shape[1] != shape[2] or shape[3] != 3 or 0 in shape or kind != np.uint8:
        raise InputError(
            f"images{of} have shape {shape} and type {kind}, wanted (N, S, S, 3) uint8, N of 1 "
            "or more"
        )


def _shortened(text: str, width: int, font: _Font) -> str:
    """The text, or as much of its start as fits with an ellipsis."""
    if font.getlength(text) <= width:
        return text
    for end in range(len(text) - 1, 0, -1):
        if font.getlength(text[:end] + "...") <= width:
            return text[:end] + "..."
    return ""
