"""One figure for each way to segment, and how well each does.

    python benchmarks/draw_segmentation.py --out docs/pictures
    python benchmarks/draw_segmentation.py PHOTOS --masks MASKS --out figures

Without PHOTOS, scenes of the procedural process `objects` are drawn, whose masks are known: every
scene twice, with its objects moved, turned and partly hidden, half of the time before another
background (needs `pip install '.[cpu,pretrain]'`). The first pictures are taught, the second ones
asked; a table of mIoU goes to stdout. Nothing is picked: figures show the first three scenes.

With PHOTOS and MASKS (class values, of the photos' names) the first half of the photos is taught
and the second half asked. Without MASKS the middle of the first photo is taught, as an ellipse.

Matches are measured on known motion: the left four fifths of each asked picture against its right
four fifths. A pair is right if it is no more than one patch off, across and down.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
from PIL import Image

import procmem
from procmem.cli.show import Panel, draw_matches, draw_regions, save_picture
from procmem.photos import find_photos, load_mask

UInt8 = npt.NDArray[np.uint8]

ROWS, BEST = 3, 20
SIDE = 224
_MATERIALS = 256


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """What is taught and what is asked about it.

    Attributes:
        name: of the asked picture.
        taught: an example (H, W, 3).
        taught_mask: its classes (H, W).
        asked: another picture.
        truth: its classes, None if nobody knows them.
    """

    name: str
    taught: UInt8
    taught_mask: UInt8
    asked: UInt8
    truth: UInt8 | None


@click.command()
@click.argument("photos", required=False, type=click.Path(path_type=Path))
@click.option("--masks", type=click.Path(path_type=Path), help="Folder of masks for PHOTOS.")
@click.option("--scenes", default=32, show_default=True, help="How many, without PHOTOS.")
@click.option("--seed", default=0, show_default=True, help="Of the scenes.")
@click.option("--model", help="A bundled model or an .onnx file.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for figures.")
def main(
    photos: Path | None, masks: Path | None, scenes: int, seed: int, model: str | None, out: Path
) -> None:
    """Draws the figures; prints the table if the true masks are known."""
    pairs = procedural(scenes, seed) if photos is None else of_folder(photos, masks)
    names = {0: "background", 1: "object"} if masks is None else {}
    embedder = procmem.Embedder(model) if model else procmem.Embedder()
    rows = []
    with (
        embedder,
        tempfile.TemporaryDirectory() as scratch,
        procmem.VisualMemory(Path(scratch, "vault"), embedder=embedder) as memory,
    ):
        taught = {id(pair.taught): pair for pair in pairs}.values()
        memory.add([pair.taught for pair in taught], masks=[pair.taught_mask for pair in taught])
        methods = taught_methods(memory)
        for name, method in methods.items():
            found = [method(pair) for pair in pairs]
            rows.append((name, miou(pairs, found)))
            if not name.endswith("(paper)"):
                save_picture(rows_of(pairs, found, names), out / f"segmentation-{name}.jpg")
        if photos is None:
            found = [clusters(embedder, pair) for pair in pairs]
            rows.append(("two clusters, the better naming", miou(pairs, found)))
        draw_untaught(embedder, pairs, out)
        right = [moved_right(embedder, pair.asked) for pair in pairs]
    if photos is None:
        nothing = [np.zeros(pair.asked.shape[:2], np.uint8) for pair in pairs]
        rows.append(("everything background", miou(pairs, nothing)))
    if any(pair.truth is not None for pair in pairs):
        click.echo("| method | mIoU, % |\n|---|---|")
        for name, score in rows:
            click.echo(f"| {name} | {score:.1f} |")
        click.echo()
    best, whole = (100 * np.mean(part) for part in zip(*right, strict=True))
    click.echo(f"right matches: {best:.0f} % of the best {BEST}, {whole:.0f} % of all")


def procedural(count: int, seed: int) -> list[Pair]:
    """Scenes of objects, each in two frames; 1 is an object, 0 is background."""
    import torch

    from procmem_pretrain.objects import scenes
    from procmem_pretrain.seeds import stream
    from procmem_pretrain.stream import StreamConfig, generate

    config = StreamConfig(process="shaders", root_seed=seed, side=SIDE, pool_images=_MATERIALS)
    materials = generate(config, _MATERIALS)

    def source(number: int, random: np.random.Generator) -> torch.Tensor:
        return materials[torch.from_numpy(random.integers(0, _MATERIALS, number))] / 255

    drawn = scenes(source, count, stream(seed, "segmentation-figures"), frames=2)
    images = (255 * drawn.images.permute(0, 1, 3, 4, 2)).round().to(torch.uint8).numpy()
    objects = (drawn.objects > 0).to(torch.uint8).numpy()
    return [
        Pair(f"scene {at}", images[at, 0], objects[at, 0], images[at, 1], objects[at, 1])
        for at in range(count)
    ]


def of_folder(photos: Path, masks: Path | None) -> list[Pair]:
    """The first half is taught, or of photos without masks the first one; the rest is asked."""
    files = [photo.path for photo in find_photos([photos])]
    if len(files) < 2:
        raise click.UsageError(f"{photos} holds {len(files)} photos, wanted 2 or more.")
    known = {} if masks is None else {mask.stem: load_mask(mask) for mask in masks.glob("*.png")}
    half = len(files) // 2
    taught = [(procmem.load_image(file), known.get(file.stem)) for file in files[:half]]
    examples = [(image, mask) for image, mask in taught if mask is not None]
    if not examples:
        examples, half = [(taught[0][0], ellipse(taught[0][0]))], 1
    return [
        Pair(file.name, *example, procmem.load_image(file), known.get(file.stem))
        for file, example in zip(files[half:], cycle(examples), strict=False)
    ]


def ellipse(image: UInt8) -> UInt8:
    """A mask of the image's size: 1 in the middle, else 0."""
    height, width = image.shape[:2]
    y, x = np.ogrid[:height, :width]
    inside = (x / width - 0.5) ** 2 + (y / height - 0.5) ** 2 < 0.3**2
    return inside.astype(np.uint8)


def taught_methods(memory: procmem.VisualMemory) -> dict[str, Callable[[Pair], UInt8]]:
    """The ways to segment by masks, by name."""

    def example(pair: Pair) -> UInt8:
        return memory.segment(pair.asked, prompt=(pair.taught, pair.taught_mask)).mask

    def example_paper(pair: Pair) -> UInt8:
        prompt = (pair.taught, pair.taught_mask)
        return memory.segment(pair.asked, prompt=prompt, protocol="paper").mask

    return {
        "in-context": example,
        "in-context (paper)": example_paper,
        "knn": lambda pair: memory.segment(pair.asked).mask,
        "knn (paper)": lambda pair: memory.segment(pair.asked, protocol="paper").mask,
    }


def clusters(embedder: procmem.Embedder, pair: Pair) -> UInt8:
    """Two clusters, called 0 and 1 in the way that fits the truth better."""
    found = procmem.find_regions(embedder, pair.asked, 2).mask
    named = [(found == value).astype(np.uint8) for value in (1, 2)]
    return max(named, key=lambda one: float((one == pair.truth).mean()))


def miou(pairs: Sequence[Pair], found: Sequence[UInt8]) -> float:
    """Mean over classes of intersection over union of all pixels, percent."""
    known = [
        (pair.truth.ravel(), mask.ravel())
        for pair, mask in zip(pairs, found, strict=True)
        if pair.truth is not None
    ]
    if not known:
        return float("nan")
    truth, answer = (np.concatenate(part) for part in zip(*known, strict=True))
    shares = [
        ((truth == value) & (answer == value)).sum() / ((truth == value) | (answer == value)).sum()
        for value in np.unique(truth)
    ]
    return 100 * float(np.mean(shares))


def moved_right(embedder: procmem.Embedder, image: UInt8) -> tuple[float, float]:
    """Shares of right matches between an image and itself moved: of the best, of all."""
    height, width = image.shape[:2]
    shift = width // 5
    one, two = image[:, : width - shift], image[:, shift:]
    found = procmem.match_patches(embedder, one, two)
    away = np.abs(found.points_a - found.points_b - [shift, 0])
    rows, columns = embedder.grid
    near = (away <= 1.001 * np.array([one.shape[1] / columns, height / rows])).all(axis=1)
    return float(near[:BEST].mean()), float(near.mean())


def rows_of(pairs: Sequence[Pair], found: Sequence[UInt8], names: Mapping[int, str]) -> Image.Image:
    """Example, asked picture, answer and, if it is known, truth: a row for each of the first."""
    sheets = []
    for pair, mask in list(zip(pairs, found, strict=True))[:ROWS]:
        panels = [
            Panel(pair.taught, pair.taught_mask, "taught"),
            Panel(pair.asked, None, f"asked: {pair.name}"),
            Panel(pair.asked, mask, "answer"),
        ]
        if pair.truth is not None:
            score = miou([pair], [mask])
            panels[-1] = Panel(pair.asked, mask, f"answer: mIoU {score:.0f}")
            panels.append(Panel(pair.asked, pair.truth, "truth"))
        sheets.append(draw_regions(panels, names))
    return stacked(sheets)


def draw_untaught(embedder: procmem.Embedder, pairs: Sequence[Pair], out: Path) -> None:
    """Components, clusters and matches of the first pairs."""
    maps, regions, matches = [], [], []
    for pair in pairs[:ROWS]:
        one, two = Panel(pair.taught, None, "one"), Panel(pair.asked, None, pair.name)
        colors = procmem.map_components(embedder, [pair.taught, pair.asked])
        painted = [Panel(color, None, "components") for color in colors]
        maps.append(draw_regions([one, painted[0], two, painted[1]], {}))
        panels = [two]
        for k in (2, 4, 6):
            found = procmem.find_regions(embedder, pair.asked, k)
            panels.append(Panel(pair.asked, found.mask, f"k = {k}"))
        regions.append(draw_regions(panels, {value: f"region {value}" for value in range(1, 7)}))
        pairs_found = procmem.match_patches(embedder, pair.taught, pair.asked, limit=BEST)
        matches.append(draw_matches(one, two, pairs_found))
    for name, sheets in (("components", maps), ("clusters", regions), ("matches", matches)):
        save_picture(stacked(sheets), out / f"segmentation-{name}.jpg")


def stacked(sheets: Sequence[Image.Image]) -> Image.Image:
    """Pictures below each other, at half their size."""
    width, height = max(one.width for one in sheets), sum(one.height for one in sheets)
    whole = Image.new("RGB", (width, height), (255, 255, 255))
    top = 0
    for one in sheets:
        whole.paste(one, (0, top))
        top += one.height
    return whole.reduce(2)


if __name__ == "__main__":
    try:
        main()
    except procmem.ProcmemError as error:
        raise SystemExit(f"error: {error}") from error
