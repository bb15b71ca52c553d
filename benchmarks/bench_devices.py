"""What each device of this machine makes of the same models: time, processor time, agreement.

    python benchmarks/bench_devices.py [MODEL...] [--threads 1 --threads 2] [--rounds 3]

MODEL are `.onnx` files with their manifests; the bundled one if none is given. Every model, device
and number of threads runs in a process of its own, in turns, since the threads of one engine that
wait would disturb the other's. Images are procedural. Times are of the model alone, one image at a
time; agreement is the least cosine of class tokens to those of the device "cpu" with one thread.
`bits` counts the different sets of embeddings over all numbers of threads and rounds: 1 means that
they are the same to the last bit. Needs `pip install '.[cpu,openvino]'`.
"""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

from procmem import Embedder
from procmem.backends.devices import TABLE, missing
from procmem.embedder import DEFAULT_MODEL, _model_file
from procmem.manifest import sha256_of_bytes

IMAGES, WARM_UP = 40, 5


@dataclass(frozen=True, slots=True)
class Run:
    """One process: median milliseconds of an image, of processor time, to open, and the answers."""

    milliseconds: float
    processor_milliseconds: float
    opening_milliseconds: float
    cls: np.ndarray
    sha256: str


def inputs(side: int) -> np.ndarray:
    """Smooth random images (N, 3, S, S) in [-1, 1]: sums of plane waves."""
    random = np.random.default_rng(0)
    axis = np.linspace(0, 1, side, dtype=np.float32)
    waves = random.normal(0, 6, (IMAGES, 3, 8, 3)).astype(np.float32)
    phases = waves[..., 0, None, None] * axis[:, None] + waves[..., 1, None, None] * axis
    return np.tanh(np.sin(phases + waves[..., 2, None, None]).sum(axis=2))


def measure(model: str, device: str, threads: int) -> None:
    """The child's part: prints its figures and embeddings."""
    start = time.perf_counter()
    with Embedder(model, device=device, threads=threads) as embedder:
        opening = 1000 * (time.perf_counter() - start)
        tensors = inputs(embedder.side)
        times, answers = [], []
        for at, tensor in enumerate(tensors):
            if at == WARM_UP:
                processor = time.process_time()
            start = time.perf_counter()
            embedding = embedder.embed_tensors(tensor[None])
            times.append(1000 * (time.perf_counter() - start))
            answers.append(embedding)
        used = 1000 * (time.process_time() - processor) / (len(tensors) - WARM_UP)
    cls = np.concatenate([answer.cls for answer in answers])
    bits = cls.tobytes() + b"".join(answer.patches.tobytes() for answer in answers)
    figures = [statistics.median(times[WARM_UP:]), used, opening]
    print(json.dumps([*figures, cls.tolist(), sha256_of_bytes(bits)]))


def child(model: str, device: str, threads: int) -> Run:
    command = [sys.executable, __file__, model, "--child", device, "--threads", str(threads)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    milliseconds, used, opening, cls, sha256 = json.loads(answer.stdout)
    return Run(milliseconds, used, opening, np.array(cls), sha256)


def lines_of(model: str, devices: list[str], threads: tuple[int, ...], rounds: int) -> list[str]:
    """The table's rows for one model."""
    runs: dict[tuple[str, int], list[Run]] = {(d, t): [] for d in devices for t in threads}
    for _ in range(rounds):
        for (device, count), found in runs.items():
            found.append(child(model, device, count))
    reference = runs["cpu", threads[0]][0].cls
    out = []
    for device in devices:
        bits = {run.sha256 for (d, _), found in runs.items() if d == device for run in found}
        for count in threads:
            found = runs[device, count]
            cosine = min(float((run.cls * reference).sum(axis=1).min()) for run in found)
            figures = (
                statistics.median(run.milliseconds for run in found),
                statistics.median(run.processor_milliseconds for run in found),
                statistics.median(run.opening_milliseconds for run in found),
            )
            cells = " | ".join(f"{figure:.1f}" for figure in figures)
            name = Path(model).stem
            out.append(f"| {name} | {device} | {count} | {cells} | {cosine:.5f} | {len(bits)} |")
    return out


@click.command()
@click.argument("models", nargs=-1)
@click.option("--threads", multiple=True, type=int, default=(1, 2), show_default=True)
@click.option("--rounds", default=3, show_default=True, help="Processes for each row.")
@click.option("--child", "child_device", hidden=True)
def main(
    models: tuple[str, ...], threads: tuple[int, ...], rounds: int, child_device: str | None
) -> None:
    """Measures MODELS on every device that is installed."""
    if child_device is not None:
        measure(models[0], child_device, threads[0])
        return
    devices = [row.device for row in reversed(TABLE) if missing(row) is None]
    print(f"{platform.machine()}, {platform.platform()}, Python {platform.python_version()}")
    for device in devices:
        with Embedder(device=device) as embedder:
            print(f"- {embedder.notice}")
    print("\n| model | device | threads | ms | processor ms | ms to open | cosine | bits |")
    print("|---|---|---|---|---|---|---|---|")
    for model in models or (str(_model_file(DEFAULT_MODEL)),):
        for line in lines_of(model, devices, threads, rounds):
            print(line, flush=True)


if __name__ == "__main__":
    main()
