"""A camera's frames through `FrameStream` against the same call in a plain loop.

    python benchmarks/bench_stream.py [--seconds 8] [--rounds 3] [--items 1000]

Frames of 640 x 480 come 240 times a second, faster than the model answers; each is asked of a
memory of `--items` random embeddings. Both ways take turns in one process. A stream that loses
nothing to its own work gives as many answers per second as the loop; latency is from the offer of a
frame to its answer, of which the frame has waited the first part. Needs `pip install '.[cpu]'`.
"""

from __future__ import annotations

import platform
import statistics
import tempfile
import threading
import time

import click
import numpy as np

import procmem

FRAMES_PER_SECOND = 240


def frames() -> list[np.ndarray]:
    """Moving plane waves, (480, 640, 3) uint8."""
    y, x = np.mgrid[0:480, 0:640].astype(np.float32) / 480
    moving = [np.sin(9 * x + t / 5) + np.cos(7 * y * x - t / 7) for t in range(60)]
    return [
        np.stack([127 + 60 * np.roll(wave, 40 * c, axis=1) for c in range(3)], -1).astype(np.uint8)
        for wave in moving
    ]


def in_a_loop(memory: procmem.VisualMemory, shown: list[np.ndarray], seconds: float) -> float:
    """Answers per second of one call after another."""
    count, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        memory.classify(shown[count % len(shown)])
        count += 1
    return count / seconds


def in_a_stream(
    memory: procmem.VisualMemory, shown: list[np.ndarray], seconds: float
) -> tuple[float, float, procmem.StreamStatistics]:
    """Answers per second, the mean share of latency that frames waited, and the statistics."""
    waited: list[float] = []
    with procmem.FrameStream(memory.classify) as stream:

        def camera() -> None:
            start = time.monotonic()
            for number in range(int(seconds * FRAMES_PER_SECOND)):
                time.sleep(max(0.0, start + number / FRAMES_PER_SECOND - time.monotonic()))
                stream.offer(shown[number % len(shown)])
            stream.close()

        start = time.monotonic()
        thread = threading.Thread(target=camera)
        thread.start()
        for result in stream:
            waited.append(result.waited_seconds / (result.waited_seconds + result.worked_seconds))
        rate = len(waited) / (time.monotonic() - start)
        thread.join()
        return rate, statistics.mean(waited), stream.statistics()


@click.command()
@click.option("--seconds", default=8.0, show_default=True, help="Of each turn.")
@click.option("--rounds", default=3, show_default=True, help="Turns of each.")
@click.option("--items", default=1000, show_default=True, help="In the memory.")
def main(seconds: float, rounds: int, items: int) -> None:
    """Measures both and prints a table."""
    shown = frames()
    embedder = procmem.Embedder()
    with (
        tempfile.TemporaryDirectory() as folder,
        procmem.VisualMemory(folder, embedder=embedder) as memory,
    ):
        noise = np.random.default_rng(0).integers(0, 256, (items, 32, 32, 3), dtype=np.uint8)
        memory.add(noise, labels=[f"label {n % 10}" for n in range(items)])
        memory.classify(shown[0])
        print(f"{platform.machine()}, Python {platform.python_version()}, {embedder.notice}")
        print("\n| round | loop, answers/s | stream, answers/s | ratio | p50, ms | p95 | waited |")
        print("|---|---|---|---|---|---|---|")
        for number in range(rounds):
            loop = in_a_loop(memory, shown, seconds)
            rate, share, kept = in_a_stream(memory, shown, seconds)
            print(
                f"| {number + 1} | {loop:.1f} | {rate:.1f} | {rate / loop:.2f} "
                f"| {1000 * kept.p50_seconds:.1f} | {1000 * kept.p95_seconds:.1f} | {share:.0%} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
