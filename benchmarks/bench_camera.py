"""The camera demo against the embedder alone, and from a camera's frame to its answer.

    python benchmarks/bench_camera.py [--seconds 10]

A drawn video of 640 x 480 is answered by examples/camera_demo.py, every frame, and embedded by the
embedder in a plain loop; both take turns in one run. Then the frames come as from a camera, 30 and
240 times a second: latency is from the frame's arrival until it is drawn. Needs
`pip install '.[cpu,camera]'`.
"""

from __future__ import annotations

import importlib.util
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import click
import numpy as np

import procmem

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from tests.browser import BALL, MUG, draw_scene  # noqa: E402 - the path comes first


def load_demo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("camera_demo", ROOT / "examples/camera_demo.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["camera_demo"] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


def camera(frames: list[np.ndarray], rate: int, seconds: float) -> Iterator[np.ndarray]:
    """Frames as they come from a camera."""
    start = time.monotonic()
    for number in range(int(rate * seconds)):
        time.sleep(max(0.0, start + number / rate - time.monotonic()))
        yield frames[number % len(frames)]


@click.command(help=__doc__)
@click.option("--seconds", default=10.0, help="Of each measurement.")
def main(seconds: float) -> None:
    """Prints the tables."""
    demo = load_demo()
    frames = [np.asarray(draw_scene(scene, n)) for scene in (MUG, BALL) for n in range(0, 120, 4)]
    with (
        tempfile.TemporaryDirectory() as name,
        demo.TimedEmbedder("vit-tiny") as embedder,
        procmem.VisualMemory(Path(name, "vault"), embedder=embedder) as memory,
    ):
        for number in range(0, 60, 6):
            memory.add([frames[number]], labels=[MUG if number < 30 else BALL])
        ratios = []
        for _ in range(3):
            alone = _rate_alone(embedder, frames, seconds / 3)
            shown = _rate_of_demo(demo, memory, embedder, frames, seconds / 3)
            ratios.append((shown / alone, alone, shown))
        ratio, alone, shown = sorted(ratios)[1]
        print(
            f"{platform.machine()}, {platform.python_implementation()} "
            f"{platform.python_version()}, {embedder.notice}\n"
        )
        print("| | per second | ratio |\n|---|--:|--:|")
        print(f"| embedder alone, a plain loop | {alone:.1f} | 1 |")
        print(f"| camera demo, every frame answered and drawn | {shown:.1f} | {ratio:.2f} |\n")
        head = "| camera | answers/s | p50 ms | p95 ms | wait | embed | search+vote | draw |"
        print(head + "\n|---|--:|--:|--:|--:|--:|--:|--:|")
        for rate in (30, 240):
            print(_latency(demo, memory, embedder, frames, rate, seconds))


def _rate_alone(embedder: procmem.Embedder, frames: list[np.ndarray], seconds: float) -> float:
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        embedder.embed(frames[count % len(frames)])
        count += 1
    return count / (time.perf_counter() - start)


def _rate_of_demo(
    demo: ModuleType,
    memory: procmem.VisualMemory,
    embedder: procmem.Embedder,
    frames: list[np.ndarray],
    seconds: float,
) -> float:
    def endless() -> Iterator[np.ndarray]:
        start, number = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            yield frames[number % len(frames)]
            number += 1

    count, start = 0, time.perf_counter()
    for shown in demo.answered(endless(), demo.Session(memory, embedder), live=False):
        demo.draw(shown, ["mug", "ball"], 30.0)
        count += 1
    return count / (time.perf_counter() - start)


def _latency(
    demo: ModuleType,
    memory: procmem.VisualMemory,
    embedder: procmem.Embedder,
    frames: list[np.ndarray],
    rate: int,
    seconds: float,
) -> str:
    totals: list[float] = []
    stages: dict[str, list[float]] = {"wait": [], "embed": [], "search+vote": [], "draw": []}
    start = time.perf_counter()
    source = camera(frames, rate, seconds)
    for shown in demo.answered(source, demo.Session(memory, embedder), live=True):
        began = time.perf_counter()
        demo.draw(shown, ["mug", "ball"], 30.0)
        shown.milliseconds["draw"] = 1000 * (time.perf_counter() - began)
        for stage, values in stages.items():
            values.append(shown.milliseconds[stage])
        totals.append(sum(shown.milliseconds[stage] for stage in stages))
    span = time.perf_counter() - start
    mean = {stage: statistics.mean(values) for stage, values in stages.items()}
    shares = " | ".join(
        f"{value:.1f} ({value / sum(mean.values()):.0%})" for value in mean.values()
    )
    p50, p95 = np.percentile(totals, [50, 95])
    return f"| {rate} frames/s | {len(totals) / span:.1f} | {p50:.1f} | {p95:.1f} | {shares} |"


if __name__ == "__main__":
    main()
