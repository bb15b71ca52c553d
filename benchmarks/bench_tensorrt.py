"""What TensorRT makes of model files on this machine's GPU: build, size, agreement, time.

    python benchmarks/bench_tensorrt.py [MODEL...] [--reference FLOAT32.onnx]
        [--side 224 --side 448] [--batch 1 1 1] [--level 3] [--timing-cache FILE] [--rounds 200]
        [--out docs/results/tensorrt.md]

MODEL are `.onnx` files with their manifests, of any precision; the bundled one if none is given.
Agreement is the cosine to the reference (the bundled model if none is given) on the processor with
ONNX Runtime, over procedural images: the least of the class tokens, the mean of the patch tokens.
Times are of one image through `procmem.backends.tensorrt`, both copies between processor and GPU
included: the median and the 90th percentile. Needs an NVIDIA GPU and
`pip install '.[export,tensorrt]'`; says so where there is none.
"""

from __future__ import annotations

import dataclasses
import platform
import sys
import time
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt

from procmem.backends.onnxruntime import import_onnxruntime
from procmem.backends.tensorrt import TensorRTSession, open_session
from procmem.embedder import DEFAULT_MODEL, _model_file
from procmem.errors import ProcmemError
from procmem.manifest import Manifest, read_verified, sha256_of_bytes
from procmem.preprocess import at_side, to_tensor
from procmem_export.tensorrt_format import EngineOptions, build_engine, engine_options
from procmem_pretrain.probes import probe_images

WARM_UP, PROBES = 20, 32

HEADER = [
    "| model | precision | side | batch | build, s | engine, MB | cosine cls, least "
    "| cosine patches, mean | ms | ms, 90 % |",
    "|---|---|---|---|---|---|---|---|---|---|",
]


def cosines(
    one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    """Of the vectors of the last axis, in float64."""
    a, b = (array.reshape(-1, array.shape[-1]).astype(np.float64) for array in (one, other))
    return (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))


def agreement(
    session: TensorRTSession, reference: bytes, views: npt.NDArray[np.float32]
) -> tuple[float, float]:
    """The least cosine of class tokens and the mean one of patch tokens to the processor's."""
    graph = import_onnxruntime().InferenceSession(reference, providers=["CPUExecutionProvider"])
    cls, patches = [], []
    for view in views:
        answers = session.run(view[None])
        wanted = graph.run(["cls", "patches"], {"images": view[None]})
        for found, got, want in zip((cls, patches), answers, wanted, strict=True):
            found.append(cosines(got, want))
    return float(np.concatenate(cls).min()), float(np.concatenate(patches).mean())


def milliseconds(
    session: TensorRTSession, view: npt.NDArray[np.float32], rounds: int
) -> npt.NDArray[np.float64]:
    """Of each run of one image."""
    times = []
    for turn in range(rounds + WARM_UP):
        start = time.perf_counter()
        session.run(view)
        if turn >= WARM_UP:
            times.append(1000 * (time.perf_counter() - start))
    return np.array(times)


def line(
    source: Manifest,
    data: bytes,
    *,
    reference: bytes,
    side: int,
    batch: tuple[int, int, int],
    options: EngineOptions,
    rounds: int,
) -> tuple[str, dict[str, str]]:
    """One row of the table, and the machine that it is of."""
    start = time.perf_counter()
    engine = build_engine(data, side=side, batch=batch, options=options)
    seconds = time.perf_counter() - start
    manifest = dataclasses.replace(
        source,
        kind="tensorrt",
        file=f"{source.name}.engine",
        sha256=sha256_of_bytes(engine.data),
        preprocessing=at_side(source.preprocessing, side),
        any_side=False,
        hardware=engine.hardware,
    )
    session = open_session(engine.data, manifest, side=side, device="tensorrt", threads=None)
    views = to_tensor(list(probe_images(PROBES)), manifest.preprocessing)
    least, mean = agreement(session, reference, views)
    times = milliseconds(session, views[:1], rounds)
    return (
        f"| {source.file} | {source.precision} | {side} | {'-'.join(map(str, batch))} "
        f"| {seconds:.1f} | {len(engine.data) / 1e6:.1f} | {least:.6f} | {mean:.6f} "
        f"| {np.median(times):.3f} | {np.percentile(times, 90):.3f} |",
        engine.hardware,
    )


@click.command()
@click.argument("models", nargs=-1, type=click.Path(path_type=Path))
@click.option("--reference", type=click.Path(path_type=Path))
@click.option("--side", "sides", multiple=True, type=int, default=(224, 448), show_default=True)
@click.option("--batch", type=(int, int, int), default=(1, 1, 1), show_default=True)
@click.option("--level", type=int, default=3, show_default=True)
@click.option("--timing-cache", type=click.Path(path_type=Path))
@click.option("--rounds", type=click.IntRange(1), default=200, show_default=True)
@click.option("--out", type=click.Path(path_type=Path))
def main(
    models: tuple[Path, ...],
    reference: Path | None,
    sides: tuple[int, ...],
    batch: tuple[int, int, int],
    level: int,
    timing_cache: Path | None,
    rounds: int,
    out: Path | None,
) -> None:
    lines = []
    hardware: dict[str, str] = {}
    try:
        options = engine_options(optimization_level=level, timing_cache=timing_cache)
        bundled = _model_file(DEFAULT_MODEL)
        _, wanted = read_verified(reference or bundled)
        for model in models or (bundled,):
            source, data = read_verified(model)
            for side in sides:
                row, hardware = line(
                    source,
                    data,
                    reference=wanted,
                    side=side,
                    batch=batch,
                    options=options,
                    rounds=rounds,
                )
                click.echo(row, err=True)
                lines.append(row)
    except ProcmemError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    machine = ", ".join(f"{fact} {value}" for fact, value in sorted(hardware.items()))
    table = [f"{machine}; Python {platform.python_version()}, level {level}.", "", *HEADER, *lines]
    text = "\n".join(["# TensorRT", "", *table, ""])
    click.echo(text)
    if out is not None:
        out.write_text(text)


if __name__ == "__main__":
    main()
