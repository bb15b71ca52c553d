"""Where the time goes when one 12-megapixel JPEG is classified.

    python benchmarks/bench_stages.py [--items 10000] [--out docs/results/stages.md]

The photo is drawn by this script (4000 x 3000, quality 90), the memory is filled with random unit
vectors. Medians of 30 runs after 3 that do not count. Needs `pip install '.[cpu]'`.
"""

from __future__ import annotations

import importlib.metadata
import io
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
from machine import machine
from PIL import Image

import procmem
from procmem.image import load_image
from procmem.index import Index
from procmem.preprocess import center_view, decode_min_side
from procmem.vote import is_novel, vote

RUNS, WARM_UP = 30, 3


def photo() -> bytes:
    """A JPEG with the detail of a photo: noise with a spectrum of 1/f, as natural images have."""
    random = np.random.default_rng(0)
    small = [random.random((3000 // 2**i + 1, 4000 // 2**i + 1, 3)) for i in range(1, 9)]
    total = np.zeros((3000, 4000, 3))
    for octave in small:
        image = Image.fromarray((octave * 255).astype(np.uint8)).resize((4000, 3000), 3)
        total += np.asarray(image, np.float64)
    buffer = io.BytesIO()
    Image.fromarray((total / len(small)).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def timed(function: Callable[[], object]) -> tuple[float, float]:
    """(median, interquartile range) in milliseconds."""
    samples = []
    for run in range(RUNS + WARM_UP):
        start = time.perf_counter()
        function()
        if run >= WARM_UP:
            samples.append(1000 * (time.perf_counter() - start))
    low, median, high = statistics.quantiles(samples, n=4)
    return median, high - low


@click.command()
@click.option("--items", default=10_000, show_default=True)
@click.option("--out", type=click.Path(path_type=Path))
def main(items: int, out: Path | None) -> None:
    """Prints one Markdown table."""
    data = photo()
    embedder = procmem.Embedder(device="cpu")
    preprocessing = embedder.manifest.preprocessing
    random = np.random.default_rng(0)
    vectors = random.standard_normal((items, embedder.cls_dim)).astype(np.float16)
    index = Index(np.arange(1, items + 1), vectors)
    labels = [f"label {i % 20}" for i in range(items + 1)]
    calibration = index.nearest_others()
    decoded = load_image(data, min_side=decode_min_side(preprocessing))
    tensor = center_view(decoded, preprocessing)[None]
    query = embedder.embed_tensors(tensor).cls[0]
    ids, similarities = index.search(query, 20)

    def whole() -> None:
        found, near = index.search(embedder.embed(data).cls[0], 20)
        vote(near.tolist(), [labels[i] for i in found])
        is_novel(float(near[0]), calibration)

    stages = {
        "decode (reduced by the JPEG's own scaling)": lambda: load_image(
            data, min_side=decode_min_side(preprocessing)
        ),
        "(decode at full size, for comparison)": lambda: load_image(data),
        "resize, crop, scale": lambda: center_view(decoded, preprocessing),
        f"embed ({embedder.manifest.name})": lambda: embedder.embed_tensors(tensor),
        f"search {items:,} items, k = 20": lambda: index.search(query, 20),
        "vote and novelty": lambda: (
            vote(similarities.tolist(), [labels[i] for i in ids]),
            is_novel(float(similarities[0]), calibration),
        ),
        "**end to end**": whole,
    }
    times = {name: timed(function) for name, function in stages.items()}
    embed = next(v[0] for k, v in times.items() if k.startswith("embed"))
    lines = ["| stage | median ms | IQR ms | ratio to embed |", "|---|---|---|---|"]
    lines += [f"| {n} | {m:.2f} | {s:.2f} | {m / embed:.3f} |" for n, (m, s) in times.items()]
    hardware = (
        f"{machine()}, Python {platform.python_version()}, "
        f"onnxruntime {importlib.metadata.version('onnxruntime')}, JPEG of {len(data) / 1e6:.1f} MB"
    )
    table = "\n".join(lines)
    click.echo(f"{hardware}\n\n{table}")
    if out is not None:
        out.write_text(
            "# Time per stage\n\n`python benchmarks/bench_stages.py`: one 4000 x 3000 JPEG, "
            f"medians of {RUNS} runs.\n\n{hardware}\n\n{table}\n"
        )


if __name__ == "__main__":
    main()
