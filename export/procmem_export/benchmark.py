"""Every format of a checkpoint on every device of this machine, measured side by side.

The conductor of `procmem-export benchmark`: exports what is asked for, gives each candidate to a
process of its own (`benchmark_run.py`) in turns, so that what the machine does beside it meets all
of them, and makes `Row`s for `benchmark_report.py`. What cannot run here stands in the table with
the reason. Images are procedural.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from procmem.backends.devices import TABLE, missing
from procmem.backends.processor import usable_threads
from procmem.errors import ExportError, InputError, ProcmemError
from procmem.preprocess import at_side, to_tensor
from procmem_export.export import export
from procmem_export.formats import ExportOptions, default_output
from procmem_export.sources import load_source
from procmem_pretrain.probes import probe_images

Progress = Callable[[int, "int | None"], None]

# What is exported for the table, in its order.
_EXPORTS = (
    ExportOptions(),
    ExportOptions(precision="float16"),
    ExportOptions(format="onnx-int8"),
    ExportOptions(format="onnx-int8", dynamic=True),
    ExportOptions(format="tensorrt"),
)

_CHILD_SECONDS = 900


@dataclass(frozen=True, slots=True)
class Candidate:
    """One row before it is measured.

    Attributes:
        name: for people: the format, or the program it is compared with.
        runner: "procmem" for a file and a device, "torch" or "torch.compile" for the original,
            "peer" for a foreign ONNX file.
        device: of the runner.
        file: what is run; the checkpoint for torch.
    """

    name: str
    runner: str
    device: str
    file: Path


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured of one candidate; figures are None where it did not run.

    Attributes:
        name: see `Candidate`.
        device: see `Candidate`.
        p50_milliseconds: median time from a prepared view to its embedding, one image at a time.
        p95_milliseconds: nineteen of twenty runs took no longer.
        images_per_second: with as many callers as threads, each asking for one image at a time of
            an engine with one thread.
        memory_megabytes: most memory that the process held, with all it imports.
        file_megabytes: size of the file.
        cls_cosine_min: least cosine of class tokens to those of torch in float32.
        patch_cosine_mean: of patch tokens, on average.
        not_run: why there are no figures; empty where there are.
    """

    name: str
    device: str
    p50_milliseconds: float | None = None
    p95_milliseconds: float | None = None
    images_per_second: float | None = None
    memory_megabytes: float | None = None
    file_megabytes: float | None = None
    cls_cosine_min: float | None = None
    patch_cosine_mean: float | None = None
    not_run: str = ""


def benchmark(
    checkpoint: Path,
    *,
    image_size: int | None = None,
    threads: int | None = None,
    images: int = 60,
    rounds: int = 3,
    throughput_seconds: float = 3.0,
    peers: Sequence[Path] = (),
    compiled: bool = True,
    probes: int = 16,
    architecture: str | None = None,
    normalization: str | None = None,
    progress: Progress | None = None,
) -> list[Row]:
    """Measures a checkpoint in every format on every device.

    Args:
        checkpoint: see `sources.load_source`.
        image_size: S, pixels; None for the model's own side.
        threads: processor threads; None for one per physical core.
        images: timed in each process after a warm-up, 10 or more.
        rounds: processes for each candidate, in turns, 1 or more; medians over them are given.
        throughput_seconds: how long images are counted in each process.
        peers: ONNX files of other models with one float32 input, for their time alone.
        compiled: whether torch.compile is measured, too, which needs a C++ compiler.
        probes: procedural images on which likeness is measured, 2 or more.
        architecture: see `sources.load_source`.
        normalization: see `sources.load_source`.
        progress: called with (processes done, processes in all).

    Raises:
        CheckpointError, InputError, ExportError: see `export.export`; below-gate files are
            measured, too.
        RenderError: no graphics context for the procedural images.
    """
    for name, value, least in (
        ("images", images, 10),
        ("rounds", rounds, 1),
        ("probes", probes, 2),
    ):
        if value < least:
            raise InputError(f"{name} is {value}, wanted {least} or more")
    for peer in peers:
        if not peer.is_file():
            raise InputError(f"{peer} does not exist; give the path of an .onnx file")
    source, model = load_source(checkpoint, architecture=architecture, normalization=normalization)
    side = image_size or source.preprocessing.crop
    views = to_tensor(probe_images(probes), at_side(source.preprocessing, side))
    with torch.no_grad():
        answers = [model(torch.from_numpy(view[None])) for view in views]
    reference = tuple(torch.cat(part).numpy() for part in zip(*answers, strict=True))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "views.npy", views)
        task: dict[str, Any] = {
            "views": str(folder / "views.npy"),
            "side": side,
            "threads": threads or usable_threads(),
            "images": images,
            "throughput_seconds": throughput_seconds,
            "architecture": architecture,
            "normalization": normalization,
        }
        candidates, rows = _candidates(
            checkpoint, folder, side, peers, compiled, architecture, normalization
        )
        return rows + _measure(candidates, task, reference, folder, rounds, progress)


def _candidates(
    checkpoint: Path,
    folder: Path,
    side: int,
    peers: Sequence[Path],
    compiled: bool,
    architecture: str | None,
    normalization: str | None,
) -> tuple[list[Candidate], list[Row]]:
    """What will be measured, and rows for what cannot be."""
    candidates = [Candidate("torch, eager", "torch", "cpu", checkpoint)]
    if compiled:
        candidates.append(Candidate("torch.compile", "torch.compile", "cpu", checkpoint))
    if torch.cuda.is_available():
        candidates.append(Candidate("torch, eager", "torch", "cuda", checkpoint))
    rows = []
    for options in _EXPORTS:
        file = folder / default_output(checkpoint, options).name
        name = f"{options.format} {file.stem.removeprefix(f'{checkpoint.stem}-')}"
        name = name.replace("onnx-int8 int8", "onnx-int8").replace("tensorrt tensorrt", "tensorrt")
        fixed = options.format != "onnx"
        try:
            export(
                checkpoint,
                file,
                dataclasses.replace(options, image_size=side) if fixed else options,
                architecture=architecture,
                normalization=normalization,
                probes=2,
                programs=0,
                accept_parity=True,
            )
        except ProcmemError as error:
            if options.format != "tensorrt":
                raise
            rows.append(Row(name, "tensorrt", not_run=str(error)))
            continue
        if options.format == "tensorrt":
            candidates.append(Candidate(name, "procmem", "tensorrt", file))
            continue
        for device in reversed(TABLE):
            lacks = missing(device)
            if lacks is None:
                candidates.append(Candidate(name, "procmem", device.device, file))
            elif options is _EXPORTS[0]:
                rows.append(Row("every .onnx file", device.device, not_run=lacks))
    candidates += [Candidate(peer.name, "peer", "cpu", peer) for peer in peers]
    return candidates, rows


def _measure(
    candidates: list[Candidate],
    task: dict[str, Any],
    reference: tuple[npt.NDArray[np.float32], ...],
    folder: Path,
    rounds: int,
    progress: Progress | None,
) -> list[Row]:
    found: dict[Candidate, list[dict[str, float]]] = {one: [] for one in candidates}
    errors: dict[Candidate, str] = {}
    for number in range(rounds * len(candidates)):
        one = candidates[number % len(candidates)]
        if one not in errors:
            try:
                found[one].append(_run(one, task, reference, folder))
            except ExportError as error:
                errors[one] = str(error)
        if progress is not None:
            progress(number + 1, rounds * len(candidates))
    rows = []
    for one in candidates:
        if one in errors:
            rows.append(Row(one.name, one.device, not_run=errors[one]))
            continue
        figures = {
            name: statistics.median(figure[name] for figure in found[one]) for name in found[one][0]
        }
        row = Row(one.name, one.device, file_megabytes=one.file.stat().st_size / 1e6)
        rows.append(dataclasses.replace(row, **figures))  # type: ignore[arg-type]
    return rows


def _run(
    one: Candidate,
    task: dict[str, Any],
    reference: tuple[npt.NDArray[np.float32], ...],
    folder: Path,
) -> dict[str, float]:
    """One process's figures.

    Raises:
        ExportError: it failed; with its last words.
    """
    answers = folder / "answers.npz"
    answers.unlink(missing_ok=True)
    order = {**task, "runner": one.runner, "device": one.device, "file": str(one.file)}
    order["answers"] = str(answers)
    command = [sys.executable, "-m", "procmem_export.benchmark_run"]
    environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "1"}
    # A wait loop of one engine's threads would eat the time of another's.
    environment["OMP_NUM_THREADS"] = str(task["threads"])
    try:
        done = subprocess.run(
            command,
            input=json.dumps(order),
            capture_output=True,
            text=True,
            timeout=_CHILD_SECONDS,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ExportError(f"it took more than {_CHILD_SECONDS} s") from error
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise ExportError(said[-1][:300] if said else f"it ended with code {done.returncode}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    if answers.exists():
        with np.load(answers) as kept:
            cls, patches = (_cosines(kept[k], r) for k, r in zip(kept, reference, strict=True))
        figures["cls_cosine_min"] = float(cls.min())
        figures["patch_cosine_mean"] = float(patches.mean())
    return figures


def _cosines(
    one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    a, b = one.astype(np.float64), other.astype(np.float64)
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return np.asarray((a * b).sum(axis=-1) / lengths)
