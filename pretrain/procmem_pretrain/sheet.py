"""Contact sheets: many images in one picture, to be looked at."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from PIL import Image


def contact_sheet(images: npt.NDArray[np.uint8], *, gap: int = 4) -> Image.Image:
    """Lays (N, S, S, 3) uint8 images out in a grid as square as possible, row by row."""
    count, side = images.shape[:2]
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    size = (columns * (side + gap) - gap, rows * (side + gap) - gap)
    sheet = Image.new("RGB", size, "white")
    for index, image in enumerate(images):
        place = (index % columns * (side + gap), index // columns * (side + gap))
        sheet.paste(Image.fromarray(image), place)
    return sheet
