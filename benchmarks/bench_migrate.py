"""A migration beside the model alone: images a second, with and without looking for changed files.

    python benchmarks/bench_migrate.py --out docs/results/migrate.md

200 small pictures of noise, taught by the bundled model at 112 pixels and brought to its own 224,
on one thread of the processor for each model. "alone" is a loop over the same files with the new
model. The rows are run in turn, three times; each has its best. "without the old model" is a vault
that is told to be of a model that nobody has any more.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

import click
import numpy as np
from machine import machine
from PIL import Image

from procmem import Embedder, VisualMemory, migrate
from procmem.batch import binding_of
from procmem.record import Binding
from procmem.vault import Vault

PICTURES, OLD_SIDE, RUNS = 200, 112, 3


Seconds = tuple[float, float]
"""By the clock, and of the processor."""


class Watch:
    """Both kinds of time, from construction on."""

    def __init__(self) -> None:
        self.begun = time.perf_counter(), time.process_time()

    def read(self) -> Seconds:
        return time.perf_counter() - self.begun[0], time.process_time() - self.begun[1]


def draw(folder: Path) -> list[Path]:
    """Pictures of 320x240 pixels."""
    files = []
    for number in range(PICTURES):
        noise = np.random.default_rng(number).integers(0, 256, (240, 320, 3)).astype(np.uint8)
        files.append(folder / f"{number:03d}.jpg")
        Image.fromarray(noise).save(files[-1], quality=90)
    return files


def orphan(path: Path, old: Embedder, place: Path) -> None:
    """A vault with the same items, of a model that is not there."""
    with VisualMemory(path, embedder=old) as memory:
        records = list(memory._vault.records(memory._vault.ids()))
    bound = binding_of(old)
    gone = Binding("0" * 64, "gone", bound.cls_dim, bound.patch_dim, bound.side, bound.patch_size)
    vault = Vault(place, binding=gone)
    vault.add(records)
    vault.close()


def alone(files: list[Path], new: Embedder) -> Seconds:
    """Seconds of a loop over the files."""
    watch = Watch()
    for file in files:
        new.embed(file.read_bytes())
    return watch.read()


def moving(template: Path, work: Path, new: Embedder, old: Embedder | None) -> Seconds:
    """Seconds of a whole migration, to the end of its purge."""
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(template, work)
    watch = Watch()
    report = migrate(work, new, old_model=old)
    seconds = watch.read()
    if report.items != PICTURES or report.checked is not (old is not None):
        raise RuntimeError(f"not what is to be measured: {report}")
    return seconds


@click.command()
@click.option("--out", type=click.Path(path_type=Path))
def main(out: Path | None) -> None:
    """Prints a Markdown table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "photos").mkdir()
        files = draw(folder / "photos")
        new = Embedder(device="cpu", threads=1)
        old = Embedder(image_size=OLD_SIDE, device="cpu", threads=1)
        with VisualMemory(folder / "checked", embedder=old) as memory:
            memory.add(files)
        orphan(folder / "checked", old, folder / "orphan")
        work = folder / "work"
        seconds: dict[str, list[Seconds]] = {}
        for _ in range(RUNS):
            for row, one in (
                ("the new model alone", alone(files, new)),
                ("the old model alone", alone(files, old)),
                ("migration, without the old model", moving(folder / "orphan", work, new, None)),
                ("migration, images compared", moving(folder / "checked", work, new, old)),
            ):
                seconds.setdefault(row, []).append(one)
    clock, processor = (
        {row: min(one[at] for one in times) for row, times in seconds.items()} for at in (0, 1)
    )
    new_alone, old_alone, *_ = processor.values()
    floors = [new_alone, old_alone, new_alone, new_alone + old_alone]
    lines = [
        "| | items a second | items a second of the processor | of its models alone |",
        "|---|--:|--:|--:|",
    ]
    for (row, busy), floor in zip(processor.items(), floors, strict=True):
        rates = f"{PICTURES / clock[row]:.1f} | {PICTURES / busy:.1f}"
        lines.append(f"| {row} | {rates} | {floor / busy:.2f} |")
    text = (
        f"# Migration\n\n`python benchmarks/bench_migrate.py`: {PICTURES} JPEG files of 320 x 240 "
        f"pixels, from {OLD_SIDE} to 224 pixels, one thread; the best of {RUNS} runs in turn."
        f"\n\n{machine()}\n\n" + "\n".join(lines) + "\n"
    )
    click.echo(text)
    if out is not None:
        out.write_text(text)


if __name__ == "__main__":
    main()
