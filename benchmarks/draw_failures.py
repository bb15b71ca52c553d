"""What the perception confuses when the same picture comes back altered.

    procmem-pretrain render --process objects --n 48 --seed 3 --out objects
    python benchmarks/draw_failures.py objects --out docs/pictures/failures.jpg

Every picture is taught under a name of its own; each is then asked after one alteration. The table
says how many are still recognized among all of them. The figure shows, for every alteration, the
first three pictures in the order of their names that are not: what was asked, and what the memory
took it for. Nothing is picked by hand.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

import procmem
from procmem.photos import find_photos

SIDE, GAP, SHOWN = 112, 8, 3

ALTERATIONS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "unaltered, saved as JPEG": lambda picture: picture,
    "a quarter of its size": lambda p: p.resize((p.width // 4, p.height // 4)),
    "mirrored": ImageOps.mirror,
    "its middle half, twice as large": lambda p: p.crop(
        (p.width // 4, p.height // 4, 3 * p.width // 4, 3 * p.height // 4)
    ),
    "a quarter of the light": lambda p: ImageEnhance.Brightness(p).enhance(0.25),
    "without color": lambda p: ImageOps.grayscale(p).convert("RGB"),
    "turned by 30 degrees": lambda p: p.rotate(30, Image.Resampling.BILINEAR, fillcolor="gray"),
    "turned by 90 degrees": lambda p: p.transpose(Image.Transpose.ROTATE_90),
    "blurred": lambda p: p.filter(ImageFilter.GaussianBlur(p.width / 40)),
    "its left half covered": lambda p: _covered(p),
    "colors inverted": ImageOps.invert,
}


def _covered(picture: Image.Image) -> Image.Image:
    covered = picture.copy()
    covered.paste("gray", (0, 0, picture.width // 2, picture.height))
    return covered


def _jpeg(picture: Image.Image) -> np.ndarray:
    with tempfile.NamedTemporaryFile(suffix=".jpg") as file:
        picture.save(file.name, quality=90)
        return procmem.load_image(file.name)


@click.command(help=__doc__)
@click.argument("photos", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), default=Path("failures.jpg"))
def main(photos: Path, out: Path) -> None:
    """Prints the table and draws the figure."""
    files = [photo.path for photo in find_photos([photos])]
    pictures = {file.stem: Image.open(file).convert("RGB") for file in sorted(files)}
    rows: list[tuple[str, list[tuple[str, str]]]] = []
    with tempfile.TemporaryDirectory() as name, procmem.VisualMemory(name) as memory:
        for stem, picture in pictures.items():
            memory.add([np.asarray(picture)], labels=stem)
        print(f"{len(pictures)} pictures\n\n| asked | recognized |\n|---|--:|")
        for words, alter in ALTERATIONS.items():
            wrong = []
            for stem, picture in pictures.items():
                answer = memory.classify(_jpeg(alter(picture)), k=1)
                if answer.label != stem:
                    wrong.append((stem, answer.label or ""))
            print(f"| {words} | {1 - len(wrong) / len(pictures):.0%} |")
            if wrong:
                rows.append((words, wrong[:SHOWN]))
    _draw(rows, pictures).save(out, quality=88)


def _draw(
    rows: list[tuple[str, list[tuple[str, str]]]], pictures: dict[str, Image.Image]
) -> Image.Image:
    pair = 2 * SIDE + GAP
    width = GAP + SHOWN * (pair + 3 * GAP)
    sheet = Image.new("RGB", (width, GAP + len(rows) * (SIDE + 30)), "white")
    pen = ImageDraw.Draw(sheet)
    for row, (words, wrong) in enumerate(rows):
        top = GAP + row * (SIDE + 30)
        pen.text(
            (GAP, top), f"{words}: asked, and what it was taken for", fill="black", font_size=13
        )
        for column, (asked, taken) in enumerate(wrong):
            left = GAP + column * (pair + 3 * GAP)
            altered = ALTERATIONS[words](pictures[asked])
            sheet.paste(altered.resize((SIDE, SIDE)), (left, top + 18))
            sheet.paste(pictures[taken].resize((SIDE, SIDE)), (left + SIDE + GAP, top + 18))
    return sheet


if __name__ == "__main__":
    main()
