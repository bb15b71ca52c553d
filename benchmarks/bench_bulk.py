"""Bulk embedding beside one embedder in one process: images a second for each worker.

    python benchmarks/bench_bulk.py PHOTOS --out docs/results/bulk.md

Takes at most 1,000 photos of a folder; one thread for each worker; without the time in which
workers and models start, which is told beside. "alone" is a loop over the files with an `Embedder`,
"two at once" two such processes side by side: what the cores themselves lose. Each row is the
better of two runs. Needs `pip install '.[cpu,ray]'`.
"""

from __future__ import annotations

import multiprocessing
import shutil
import tempfile
import time
from pathlib import Path

import click
from machine import machine

from procmem import Embedder
from procmem.bulk import embed_images
from procmem.bulk.run import Engine
from procmem.photos import find_photos

PART = 25


def alone(files: list[Path]) -> float:
    """Images a second of one embedder in this process."""
    with Embedder(threads=1) as embedder:
        embedder.embed(files[0].read_bytes())
        start = time.perf_counter()
        for file in files:
            embedder.embed(file.read_bytes())
        return len(files) / (time.perf_counter() - start)


def at_once(files: list[Path]) -> float:
    """The same for each of two processes."""
    half = len(files) // 2
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        return sum(pool.map(alone, [files[:half], files[half:]])) / 2


def bulk(photos: Path, engine: Engine, workers: int) -> tuple[float, float]:
    """Images a second of each worker from the first part that is done on; seconds until then."""
    out = Path(tempfile.mkdtemp())
    start = time.time()
    try:
        embed_images(photos, out, engine=engine, workers=workers, part_images=PART)
        # Ray tells of parts some time after they are done; their files do not.
        done = sorted(file.stat().st_mtime for file in out.glob("embeddings/*"))
    finally:
        shutil.rmtree(out)
    first, last = done[workers - 1], done[-1]
    return (len(done) - workers) * PART / (last - first) / workers, done[0] - start


@click.command()
@click.argument("photos", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--out", type=click.Path(path_type=Path))
def main(photos: Path, out: Path | None) -> None:
    """Prints a Markdown table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for at, photo in enumerate(find_photos([photos])[:1000]):
            shutil.copy(photo.path, folder / f"{at:04d}{photo.path.suffix}")
        files = sorted(folder.iterdir())
        base, beside = max(alone(files), alone(files)), max(at_once(files), at_once(files))
        lines = [
            "| | workers | images a second, each | of one alone | of the same number at once | "
            "until the first part, s |",
            "|---|--:|--:|--:|--:|--:|",
            f"| one embedder, alone | 1 | {base:.1f} | | | |",
            f"| two at once | 2 | {beside:.1f} | {beside / base:.2f} | | |",
        ]
        for engine in ("processes", "ray"):
            for workers in (1, 2):
                runs = [bulk(folder, engine, workers) for _ in range(2)]
                rate, start = max(runs)
                fair = base if workers == 1 else beside
                lines.append(
                    f"| {engine} | {workers} | {rate:.1f} | {rate / base:.2f} | {rate / fair:.2f} "
                    f"| {start:.1f} |"
                )
    text = (
        f"# Bulk embedding\n\n`python benchmarks/bench_bulk.py PHOTOS`: {len(files):,} photos, one "
        f"thread a worker, parts of {PART}.\n\n{machine()}\n\n" + "\n".join(lines) + "\n"
    )
    click.echo(text)
    if out is not None:
        out.write_text(text)


if __name__ == "__main__":
    main()
