"""How fast a training step is: where its time goes, and beside a plain PyTorch DINO step.

    python benchmarks/bench_training.py [--device cpu] [--model vit-tiny] [--out TABLE.md]
    python benchmarks/bench_training.py --stages-only [--precision fp32]

Both objectives get the same images, model, batch and view sizes, and the same fixed AdamW, in one
run, in turns. The plain step is DINO in eager float32 (`procmem_pretrain.dino`): two global views
whole through student and teacher, a 65,536-way head. The stages are timed one by one, on a CPU in
processor time of all threads, which other programs on the machine do not add to; data is
everything before the first transformer block: drawing programs, mixing, views.
"""

from __future__ import annotations

import dataclasses
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor, nn

from procmem_pretrain.config import TrainConfig
from procmem_pretrain.crops import make_view
from procmem_pretrain.dino import DinoConfig
from procmem_pretrain.objective import make_objective
from procmem_pretrain.optimization import clip_gradients, make_optimizer, move_teacher
from procmem_pretrain.seeds import stream
from procmem_pretrain.simdino import Phase, SimDinoConfig
from procmem_pretrain.stream import ImageStream, StreamConfig
from procmem_pretrain.throughput import count_operations, peak


def configurations(
    model: str, batch: int, side: int, device: str, precision: str
) -> dict[str, TrainConfig]:
    """Name -> configuration; all with the same views: global `side`, two local of half of it."""
    local = max(32, side // 32 * 16)
    images = StreamConfig(side=side + 16, mask_side=64, pool_images=512, fresh_programs=1)
    common = TrainConfig(model=model, images=images, batch=batch, device=device, precision="fp32")
    dense = SimDinoConfig(phases=(Phase(1.0, side, 1.0),), local_side=local)
    sparse = SimDinoConfig(phases=(Phase(1.0, side, 0.5),), local_side=local)
    plain = DinoConfig(global_side=side, local_side=local, local_views=2, drop_path=0.0)
    half = {"precision": precision}
    return {
        "plain DINO": dataclasses.replace(common, objective="dino", dino=plain),
        "fast, every patch, float32": dataclasses.replace(common, simdino=dense),
        "fast, half of the patches, float32": dataclasses.replace(common, simdino=sparse),
        f"**fast** ({precision})": dataclasses.replace(common, simdino=sparse, **half),  # type: ignore[arg-type]
        f"fast ({precision}), compiled": dataclasses.replace(
            common,
            simdino=sparse,
            compile=True,
            **half,  # type: ignore[arg-type]
        ),
    }


class Step:
    """One objective with its optimizer, ready to take steps."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.objective: nn.Module = make_objective(config).to(config.device).train()
        self.optimizer = make_optimizer(self.objective, config)
        if config.compile:
            self.objective.compile()
        self.number = 0

    def __call__(self, images: Tensor) -> None:
        """Forward, backward, clipping, update, teacher."""
        terms = self.objective(self.number, images)
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
        clip_gradients(self.objective, self.config)
        self.optimizer.step()
        move_teacher(self.objective.student, self.objective.teacher, 0.99)  # type: ignore[arg-type]
        self.number += 1


def timed(
    call: Callable[[], object], device: str, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Seconds of a call, the device's work included."""
    _wait(device)
    start = clock()
    call()
    _wait(device)
    return clock() - start


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def stage_rows(config: TrainConfig, images: Iterator[Tensor], rounds: int) -> list[str]:
    """Where the time of a fast step goes; medians, but a mean of drawing: programs differ."""
    phase = config.simdino.phases[0]
    kinds = [config.simdino.teacher_view(phase), config.simdino.student_view(phase)]
    kinds += [config.simdino.local_view()] * config.simdino.local_views
    step = Step(config)
    batch = next(images)
    step(batch)

    def views() -> None:
        drawn = batch.float().div_(255)
        for number, kind in enumerate(kinds):
            make_view(drawn, kind, random=stream(0, "bench", number))

    clock = time.process_time if config.device == "cpu" else time.perf_counter

    def seconds(call: Callable[[], object], count: int = rounds) -> list[float]:
        return [timed(call, config.device, clock) for _ in range(count)]

    still = ImageStream(
        dataclasses.replace(config.images, fresh_programs=0, pool_images=64),
        batch=config.batch,
        device=config.device,
    )
    with still:
        next(still)
        mix = statistics.median(seconds(lambda: next(still)))
    program = statistics.mean(seconds(lambda: next(images), 4 * rounds)) - mix
    make = statistics.median(seconds(views))
    rest = statistics.median(seconds(lambda: step(batch))) - make
    whole = program + mix + make + rest
    return [
        f"| {name} | {1e3 * seconds:.0f} | {seconds / whole:.0%} |"
        for name, seconds in (
            ("programs of the stream", program),
            ("mixing", mix),
            ("views", make),
            ("networks, losses, update", rest),
            ("step", whole),
            ("data: all but the networks", whole - rest),
        )
    ]


@click.command()
@click.option("--device", default="cpu", show_default=True)
@click.option("--model", default="vit-tiny", show_default=True)
@click.option("--batch", default=64, show_default=True)
@click.option("--side", default=128, show_default=True, help="Of the global views, pixels.")
@click.option("--precision", default="bf16", show_default=True, help="Of the fast steps.")
@click.option("--rounds", default=5, show_default=True)
@click.option("--compiled/--not-compiled", default=True, help="Try torch.compile as well.")
@click.option("--stages-only", is_flag=True, help="Where the time of a fast step goes, no peers.")
@click.option("--out", type=click.Path(path_type=Path))
def main(
    device: str,
    model: str,
    batch: int,
    side: int,
    precision: str,
    rounds: int,
    compiled: bool,
    stages_only: bool,
    out: Path | None,
) -> None:
    """Prints two tables."""
    configs = configurations(model, batch, side, device, precision)
    if not compiled:
        configs = {name: config for name, config in configs.items() if not config.compile}
    fast = next(name for name in configs if name.startswith("**fast"))
    if stages_only:
        with ImageStream(configs[fast].images, batch=batch, device=device) as images:
            click.echo("\n".join(stage_rows(configs[fast], images, rounds)))
        return
    steps = {name: Step(config) for name, config in configs.items()}
    taken: dict[str, list[float]] = {name: [] for name in steps}
    operations: dict[str, int] = {}
    first = next(iter(configs.values()))
    with ImageStream(first.images, batch=batch, device=device) as images:
        warm = next(images)
        for name, step in steps.items():
            if not step.config.compile:
                operations[name] = count_operations(partial(step, warm))
            step(warm)
        for _ in range(rounds):
            drawn = next(images)
            for name, step in steps.items():
                taken[name].append(timed(partial(step, drawn), device))
        stages = stage_rows(configs[fast], images, rounds)
    plain = statistics.median(taken["plain DINO"])
    hardware = torch.cuda.get_device_name() if device.startswith("cuda") else platform.machine()
    rows = []
    for name, seconds in taken.items():
        median = statistics.median(seconds)
        precision_of = configs[name].precision
        counted = operations.get(name, operations[fast])
        rows.append(
            f"| {name} | {batch / median:.1f} | {plain / median:.2f} | "
            f"{counted / 1e9 / batch:.2f} | "
            f"{counted / median / peak(torch.device(device), precision_of):.0%} |"
        )
    lines = [
        "# Speed of a training step",
        "",
        f"`python benchmarks/bench_training.py --device {device} --model {model} --batch {batch} "
        f"--side {side} --precision {precision}`",
        "",
        f"{hardware}, {torch.get_num_threads()} CPU threads, torch {torch.__version__}, numpy "
        f"{np.__version__}; medians of {rounds} rounds in turns, from images to the moved teacher.",
        "MFU is the share of the peak of the step's own precision: a large matrix product measured "
        "here on a CPU, the data sheet's on a GPU.",
        "",
        "| step | images/s | times plain | GFLOP an image | MFU |",
        "|---|---|---|---|---|",
        *rows,
        "",
        f"| stage of {fast}, drawing included | ms | share |",
        "|---|---|---|",
        *stages,
    ]
    table = "\n".join(lines) + "\n"
    click.echo(table)
    if out is not None:
        out.write_text(table)


if __name__ == "__main__":
    main()
