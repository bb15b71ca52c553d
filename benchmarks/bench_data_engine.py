"""How fast procedural images come: drawing programs, mixing processes, the whole stream.

    python benchmarks/bench_data_engine.py [--device cpu] [--side 256] [--out TABLE.md]

Three tables, all of one run: renderers (milliseconds for a program and for each further image),
processes (images/s from a pool, and the stages of K-Means Leaves), and the stream (images/s with
fresh programs drawn for every batch, as training takes them). Medians; for two banks of different
size the stream must cost the same.
"""

from __future__ import annotations

import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import torch

from procmem_pretrain import kml
from procmem_pretrain.bank import build_bank, load_bank
from procmem_pretrain.jobs import times_and_views
from procmem_pretrain.processes import PROCESSES, make_process, to_uint8
from procmem_pretrain.render import GlRenderer, Renderer, TorchRenderer
from procmem_pretrain.seeds import stream
from procmem_pretrain.stream import CHUNK, ImageStream, StreamConfig, generate


def seconds(call: Callable[[], object], device: str, repeat: int = 5) -> float:
    """Median wall time of a call, the device's work included."""
    taken = []
    for _ in range(repeat):
        _wait(device)
        start = time.perf_counter()
        call()
        _wait(device)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def renderer_rows(side: int, device: str) -> list[str]:
    """Milliseconds per program and per further image: a line through 1 and 8 images."""
    renderers: list[Callable[[], Renderer]] = [
        lambda: GlRenderer(compute=False),
        lambda: GlRenderer(compute=True),
        lambda: TorchRenderer(device),
    ]
    bank, rows = load_bank(), []
    for make in renderers:
        with make() as renderer:
            first, further = [], []
            for number in range(24):
                program = bank.program(number)
                times, views = times_and_views(stream(1, "view", number), 8)
                start = time.perf_counter()
                renderer.draw(program, times[:1], views[:1], side=side)
                one = time.perf_counter() - start
                start = time.perf_counter()
                renderer.draw(program, times, views, side=side)
                eight = time.perf_counter() - start
                first.append(one)
                further.append(max(eight - one, 0) / 7)
            rows.append(
                f"| {renderer.name}, {renderer.device} | {1e3 * statistics.mean(first):.0f} | "
                f"{1e3 * statistics.mean(further):.1f} |"
            )
    return rows


def process_rows(pool: torch.Tensor, device: str) -> list[str]:
    """Images per second of each process from a pool, without drawing."""
    rows = []
    for name in PROCESSES:
        source = make_process(name, pool)
        random = stream(1, "bench")
        taken = seconds(
            lambda source=source, random=random: to_uint8(source(CHUNK, random)), device
        )
        rows.append(f"| {name} | {CHUNK / taken:.0f} |")
    return rows


def stage_rows(pool: torch.Tensor, device: str) -> list[str]:
    """Milliseconds for each image of the stages of one KML image."""
    images = pool[:CHUNK].float().div(255)
    mask, _ = kml.kml_mask(images)
    other = images.flip(0)
    chosen = torch.arange(CHUNK, device=pool.device)
    stages = {
        "gather one image as floats": lambda: pool[chosen].float().div_(255),
        "K-means mask": lambda: kml.kml_mask(images),
        "blend": lambda: torch.lerp(other, images, mask),
        "to uint8": lambda: to_uint8(images),
    }
    return [
        f"| {name} | {1e3 * seconds(call, device) / CHUNK:.2f} |" for name, call in stages.items()
    ]


def stream_row(config: StreamConfig, batch: int, device: str, workers: int, title: str) -> str:
    """Images per second of a stream that draws fresh programs for every batch."""
    with ImageStream(config, batch=batch, device=device, workers=workers) as images:
        next(images)
        taken = seconds(lambda: next(images), device, repeat=7)
    fresh = config.fresh_programs * config.images_per_program
    return f"| {title} | {batch / taken:.0f} | {fresh} of {batch} |"


@click.command()
@click.option("--device", default="cpu", show_default=True)
@click.option("--side", default=256, show_default=True)
@click.option("--workers", default=0, show_default=True, help="Of the stream.")
@click.option("--out", type=click.Path(path_type=Path))
def main(device: str, side: int, workers: int, out: Path | None) -> None:
    """Prints the tables."""
    config = StreamConfig(process="shaders", side=side, pool_images=256, fresh_programs=0)
    pool = generate(config, 256).to(device)
    small_bank = Path(tempfile.mkdtemp(prefix="bench-data-engine-")) / "bank.json"
    build_bank(small_bank, accepted=200)
    full = StreamConfig(side=side, pool_images=256, fresh_programs=1)
    name = torch.cuda.get_device_name() if device.startswith("cuda") else platform.machine()
    lines = [
        "# Speed of the data engine",
        "",
        "`python benchmarks/bench_data_engine.py`, medians of one run.",
        "",
        f"{name}, {torch.get_num_threads()} CPU threads, torch {torch.__version__}, "
        f"numpy {np.__version__}, Python {platform.python_version()}, {side} px.",
        "",
        "| renderer | ms, a program and its first image | ms, each further image |",
        "|---|---|---|",
        *renderer_rows(side, device),
        "",
        "| process, from a pool | images/s |",
        "|---|---|",
        *process_rows(pool, device),
        "",
        "| stage of one KML image | ms |",
        "|---|---|",
        *stage_rows(pool, device),
        "",
        "| stream, shaders-kml-mixup to the letter, drawing included | images/s | fresh images |",
        "|---|---|---|",
        stream_row(full, 128, device, workers, f"bundled bank ({len(load_bank()):,} programs)"),
        stream_row(
            StreamConfig(side=side, pool_images=256, programs=str(small_bank)),
            128,
            device,
            workers,
            "a bank of 200 programs",
        ),
        "",
        f"Largest resident size: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} "
        "GiB.",
    ]
    table = "\n".join(lines) + "\n"
    click.echo(table)
    if out is not None:
        out.write_text(table)


if __name__ == "__main__":
    main()
