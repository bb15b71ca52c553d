"""How varied the procedural images are, beside natural photographs.

    python benchmarks/bench_diversity.py DATA [--folder NAME=PATH ...] [--process NAME ...]
        [--out docs/results/diversity.md]

Draws each process with `procmem-pretrain render`, reads the photographs of DATA and of any folder,
and measures all of them at 128 and at 64 px (`procmem_pretrain.diversity`). A last table shows what
hashes call a near-duplicate: copies of an image with small changes against pairs of images, of the
first set measured. Needs `pip install '.[pretrain]'`. Photographs are measured, nothing else: no
constant of the generator comes from them.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
from PIL import Image

from procmem.errors import ImageError
from procmem.image import load_image
from procmem_pretrain.diversity import DiversityReport, Spread, summarize
from procmem_pretrain.perceptual_hash import BITS, NEAR_DUPLICATE, distance, perceptual_hash

SIDES = (128, 64)
LEAST_SIDE = SIDES[-1]  # pictures with a smaller side are left out
PROCESSES = ("shaders", "shaders-mixup", "shaders-kml", "shaders-kml-mixup")
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}

Images = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Photographs:
    """A set of DATA whose pictures are photographs of the world.

    Attributes:
        folder: of its images, in DATA.
        what: is on them.
        sharp: side up to which they hold detail, pixels. May be less than the files' side.
    """

    folder: str
    what: str
    sharp: int


PHOTOGRAPHS = {
    "camvid": Photographs("camvid/images", "streets, frames of a few videos, 341 x 256", 256),
    "tinyimagenet200": Photographs("tinyimagenet200", "200 kinds of things, 64 x 64", 64),
    # Its files have 128 px, but were enlarged: above a quarter of that their spectra are empty.
    "flowers5": Photographs("flowers5", "5 kinds of flowers, 128 x 128 enlarged from less", 32),
}


@dataclass(frozen=True, slots=True)
class ImageSet:
    """What one row of a table is measured on.

    Attributes:
        name: of the row.
        images: for each of `SIDES`, (N, S, S, 3) uint8; in random order, the same for all.
        sharp: side up to which all of them hold detail, pixels.
        found: how many pictures there were to choose from.
    """

    name: str
    images: dict[int, Images]
    sharp: int
    found: int


def generated_images(process: str, count: int, side: int, seed: int) -> Images:
    """Draws (N, S, S, 3) images of a process: the only place that calls the generator."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["--process", process, "--n", str(count), "--side", str(side)]
        arguments += ["--seed", str(seed), "--out", folder]
        subprocess.run(
            [sys.executable, "-m", "procmem_pretrain", "render", *arguments],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        return np.stack([load_image(path) for path in sorted(Path(folder).glob("*.png"))])


def generated_set(process: str, count: int, seed: int) -> ImageSet:
    """A process's images at every side, in random order."""
    drawn = generated_images(process, count, SIDES[0], seed)
    pictures = [Image.fromarray(drawn[n]) for n in _order(len(drawn))]
    return ImageSet(process, {side: _resized(pictures, side) for side in SIDES}, SIDES[0], count)


def read_folder(name: str, folder: Path, count: int, *, sharp: int | None = None) -> ImageSet:
    """At most `count` pictures of a folder and its subfolders, center-cropped.

    Args:
        name: of the row.
        folder: read recursively.
        count: at most so many, chosen at random.
        sharp: side up to which the pictures hold detail; if not given, their smallest side.
    """
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    pictures: list[Image.Image] = []
    for number in _order(len(paths)):
        if len(pictures) == count:
            break
        try:
            image = load_image(paths[number])
        except ImageError as error:
            click.echo(f"left out: {error}", err=True)
            continue
        side = min(image.shape[:2])
        if side >= LEAST_SIDE:
            top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
            picture = Image.fromarray(image[top : top + side, left : left + side])
            # No more than is needed later: a folder may hold large photographs.
            picture.thumbnail((4 * SIDES[0], 4 * SIDES[0]))
            pictures.append(picture)
    if len(pictures) < 2:
        raise click.ClickException(f"{folder} has no two pictures of {LEAST_SIDE} px or more")
    images = {side: _resized(pictures, side) for side in SIDES}
    return ImageSet(name, images, sharp or min(p.width for p in pictures), len(paths))


def _order(count: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng(0).permutation(count)


def _resized(pictures: list[Image.Image], side: int) -> Images:
    """(N, side, side, 3): bicubic, with antialiasing where it makes smaller."""
    size = (side, side)
    return np.stack([np.asarray(p.resize(size, Image.Resampling.BICUBIC)) for p in pictures])


COLUMNS: dict[str, Callable[[DiversityReport], str]] = {
    "images": lambda r: f"{r.images}",
    "lightness": lambda r: _both(r.lightness, 2),
    "contrast": lambda r: _both(r.contrast, 2),
    "colorfulness": lambda r: _both(r.colorfulness, 0),
    "palette": lambda r: f"{r.palette:.0f}",
    "slope": lambda r: _both(r.slope, 2),
    "residual": lambda r: _both(r.residual, 2),
    "edges, %": lambda r: _both(r.edges, 0, 100),
    "flat, %": lambda r: _both(r.flat, 0, 100),
    "orientations": lambda r: _both(r.orientations, 2),
    "grey, bits": lambda r: _both(r.greys, 1),
    "distance": lambda r: f"{r.distance:.3f}",
    "nearest": lambda r: f"{r.neighbor_distance:.3f}",
    "near-duplicates, %": lambda r: f"{100 * r.near_duplicates:.1f}",
}
# What enlarging a picture falsifies.
SHARP_COLUMNS = {"slope", "residual", "edges, %", "flat, %", "distance", "nearest"}


def _both(spread: Spread, digits: int, factor: float = 1) -> str:
    return f"{factor * spread.mean:.{digits}f} ± {factor * spread.deviation:.{digits}f}"


def diversity_table(sets: list[ImageSet], side: int) -> str:
    """One Markdown row for each set, measured at `side` pixels."""
    lines = [f"| at {side} px | " + " | ".join(COLUMNS) + " |", "|---|" + "---|" * len(COLUMNS)]
    for one in sets:
        report = summarize(one.images[side])
        absent = SHARP_COLUMNS if one.sharp < side else set()
        cells = ["-" if name in absent else cell(report) for name, cell in COLUMNS.items()]
        lines.append(f"| {one.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def changes(images: Images) -> dict[str, Images]:
    """Copies of images that a person would call the same, and two that are not."""
    levels = images.astype(np.float64)
    noise = np.random.default_rng(0).normal(0, 6, levels.shape)
    return {
        "noise, deviation 6 levels": _levels(levels + noise),
        "brightness + 10%": _levels(levels * 1.1),
        "brightness - 10%": _levels(levels * 0.9),
        "contrast + 15%": _levels((levels - 127) * 1.15 + 127),
        "JPEG, quality 60": _each(images, _through_jpeg),
        "half the size and back": _each(images, lambda p: p.reduce(2).resize(p.size)),
        "3% cut off, enlarged": _each(images, lambda p: p.resize(p.size, box=_inner(p, 0.03))),
        "6% cut off, enlarged": _each(images, lambda p: p.resize(p.size, box=_inner(p, 0.06))),
        "(channels exchanged)": np.ascontiguousarray(images[..., [1, 2, 0]]),
        "(negative)": 255 - images,
    }


def duplicates_table(images: Images) -> str:
    """Distances of hashes: changed copies, then pairs of different images."""
    hashes = perceptual_hash(images)
    rows = {
        change: distance(perceptual_hash(copies), hashes)
        for change, copies in changes(images).items()
    }
    rows["(two different images)"] = np.concatenate(
        [distance(hashes[i], hashes[i + 1 :]) for i in range(len(hashes) - 1)]
    )
    lines = [
        f"| change | pairs | 1% | median | 99% | share within {NEAR_DUPLICATE} |",
        "|---|---|---|---|---|---|",
    ]
    for name, values in rows.items():
        low, middle, high = np.percentile(values, [1, 50, 99])
        share = 100 * np.mean(values <= NEAR_DUPLICATE)
        lines.append(
            f"| {name} | {len(values):,} | {low:.0f} | {middle:.0f} | {high:.0f} | {share:.3g}% |"
        )
    return "\n".join(lines)


def _levels(values: npt.NDArray[np.float64]) -> Images:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _each(images: Images, change: Callable[[Image.Image], Image.Image]) -> Images:
    return np.stack([np.asarray(change(Image.fromarray(image))) for image in images])


def _through_jpeg(picture: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=60)
    return Image.open(buffer)


def _inner(picture: Image.Image, share: float) -> tuple[float, float, float, float]:
    """The middle of a picture, without `share` of its width and height."""
    edge = picture.width * share / 2
    return (edge, edge, picture.width - edge, picture.height - edge)


NOTES = f"""\
Pictures are center-cropped and resized (bicubic), those with a side below {LEAST_SIDE} px are left
out, and "-" stands where a set would have had to be enlarged. Numbers are mean ± standard deviation
over the images. Compare rows of one table: edges, flat area and slope depend on the side.

- lightness, contrast: mean and deviation of Oklab lightness within an image, 0 to 1.
- colorfulness: Hasler and Süsstrunk 2003; 0 grey, 33 moderate, 59 quite, 109 extremely colorful.
- palette: effective number of colors of the whole set, of 100 cells of Oklab.
- slope: a of amplitude ~ 1/f^a, 3 cycles per image to 0.7 of the Nyquist frequency. Published
  for photographs: 1 to 1.2 (Field 1987; Tolhurst, Tadmor and Chao 1992).
- residual: deviation of log10 amplitude from that line.
- edges: pixels with a Sobel magnitude of 100 or more. flat: less than one level of change.
- orientations: entropy of edge directions, 1 is all directions equally. grey: entropy, 8 at most.
- distance: mean of all pairs of images, in the numbers left of it and the colors. nearest: mean to
  the nearest of 99 others. 0 is equal, about 1 the most.
- near-duplicates: images whose hash is within {NEAR_DUPLICATE} of {BITS} bits of one before them.
"""


def page(sets: list[ImageSet], command: str, left_out: list[str]) -> str:
    """The whole of docs/results/diversity.md."""
    tables = "\n\n".join(diversity_table(sets, side) for side in SIDES)
    chosen = [f"- {s.name}: {len(s.images[LEAST_SIDE])} of {s.found} pictures." for s in sets]
    chosen += [f"- {name}: {one.what}." for name, one in PHOTOGRAPHS.items()]
    if left_out:
        chosen.append(
            f"- Not measured: {', '.join(left_out)}. They are no photographs of scenes, or have "
            f"sides below {LEAST_SIDE} px, whose spectra have too few frequencies for a slope."
        )
    return (
        f"# Diversity\n\n`{command}`\n\n{tables}\n\n{NOTES}\n"
        + "\n".join(chosen)
        + "\n\n## What is a near-duplicate\n\n"
        + f"Distances between hashes, {sets[0].name}: an image and its changed copy; last, two\n"
        + "different images. In brackets what is not the same image.\n\n"
        + duplicates_table(sets[0].images[SIDES[0]])
        + "\n"
    )


def _photographs(data: Path, count: int) -> tuple[list[ImageSet], list[str]]:
    """The photographs of DATA, and the names of its other sets."""
    sets = [
        read_folder(f"natural: {name}", data / one.folder, count, sharp=one.sharp)
        for name, one in PHOTOGRAPHS.items()
        if (data / one.folder).is_dir()
    ]
    names = sorted(path.name for path in data.iterdir() if path.is_dir())
    return sets, [name for name in names if name not in PHOTOGRAPHS]


def _named_folder(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not equals or not Path(path).is_dir():
        raise click.BadParameter(f"{text!r} is not NAME=PATH with a folder at PATH")
    return name, Path(path)


@click.command()
@click.argument("data", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--folder", "folders", multiple=True, help="NAME=PATH of pictures; repeatable.")
@click.option(
    "--process", "processes", multiple=True, help="Repeatable; the paper's four if not given."
)
@click.option("--no-process", is_flag=True, help="Draw nothing: only folders and photographs.")
@click.option("--count", default=1000, show_default=True, help="At most so many images each.")
@click.option("--seed", default=5, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Markdown file to write.")
def main(
    data: Path,
    folders: tuple[str, ...],
    processes: tuple[str, ...],
    no_process: bool,
    count: int,
    seed: int,
    out: Path | None,
) -> None:
    """Measures the generator's images, folders and the photographs of DATA."""
    if no_process and not folders:
        raise click.UsageError("--no-process without --folder leaves nothing to compare")
    named = [_named_folder(text) for text in folders]
    sets = []
    for process in () if no_process else processes or PROCESSES:
        click.echo(f"drawing {count} images of {process}", err=True)
        sets.append(generated_set(process, count, seed))
    sets += [read_folder(name, path, count) for name, path in named]
    photographs, left_out = _photographs(data, count)
    options = [f'--folder "{name}=..."' for name, _ in named] + [
        f"--process {p}" for p in processes
    ]
    options += ["--no-process"] * no_process + [f"--count {count}", f"--seed {seed}"]
    command = " ".join(["python benchmarks/bench_diversity.py DATA", *options])
    text = page([*sets, *photographs], command, left_out)
    click.echo(text)
    if out is not None:
        out.write_text(text)


if __name__ == "__main__":
    main()
