"""The training loop, top to bottom: procedural images -> a perception.

Conducts `stream`, `objective`, `readout` and `checkpoint`; holds no mathematics.
Run it with `procmem-pretrain train --folder runs/first`. Run it again to go on where it stopped:
all randomness is a function of (root_seed, step), so a resumed run equals an uninterrupted one
(bit for bit on the CPU).
"""

from __future__ import annotations

import csv
import dataclasses
import math
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from procmem.errors import CheckpointError, InputError, TrainingError
from procmem.manifest import read_manifest
from procmem_pretrain import checkpoint
from procmem_pretrain.config import TrainConfig
from procmem_pretrain.jobs import program_set
from procmem_pretrain.objective import Student, losses
from procmem_pretrain.readout import fit_readout
from procmem_pretrain.stream import ImageStream
from procmem_pretrain.vit import make_vit, statistics

# A batch number that no run reaches: its images are new to every model.
_READOUT_START = 10**9


@dataclass(frozen=True, slots=True)
class StepReport:
    """One step in numbers.

    Attributes:
        step: steps taken, this one included.
        loss: the sum that was minimized.
        alignment: mean of 1 - cosine between student and teacher.
        rate: coding rate, share of its maximum; near 0 means collapse.
        patch: regression of patch descriptors.
        layout: regression of the layout from the class token.
        images_per_second: since the previous report.
    """

    step: int
    loss: float
    alignment: float
    rate: float
    patch: float
    layout: float
    images_per_second: float


def train(
    config: TrainConfig,
    folder: Path,
    *,
    renderer: str = "auto",
    workers: int = 0,
    stop_after: int | None = None,
    checkpoint_seconds: float = 120.0,
    report: Callable[[StepReport], None] | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> Path:
    """Trains, or goes on with the run in `folder`, and writes a compact checkpoint at the end.

    Args:
        config: what to do; must equal that of the run in `folder`, if there is one.
        folder: checkpoints and `log.csv`.
        renderer: what draws programs (`render.make_renderer`).
        workers: processes that draw ahead; 0 draws between the steps.
        stop_after: stop, with a full checkpoint, after this many steps of the whole run.
        checkpoint_seconds: time between full checkpoints.
        report: called every ten steps.
        progress: of the rendering, (programs done, programs in all).

    Returns:
        the compact checkpoint `<model>.safetensors` of a finished run, or the full checkpoint of
        a stopped one (also after SIGINT or SIGTERM).

    Raises:
        TrainingError: the loss is not finite, or the folder holds a run of another configuration.
        InputError: the device does not exist.
        RenderError: nothing here can draw.
    """
    device = _device(config.device)
    folder.mkdir(parents=True, exist_ok=True)
    student = Student(config).to(device)
    teacher = Student(config).to(device).requires_grad_(False)
    teacher.load_state_dict(student.state_dict())
    optimizer = _optimizer(student, config)
    start, chain = _resume(folder, config, student, teacher, optimizer)

    def save_full(step: int) -> Path:
        return _save_full(folder, config, student, teacher, optimizer, step, chain)

    end = config.steps if stop_after is None else min(config.steps, stop_after)
    saved_at = reported_at = time.perf_counter()
    images = ImageStream(
        config.images,
        batch=config.batch,
        device=device,
        renderer=renderer,
        workers=workers,
        start=start,
        progress=progress,
    )
    with images, _Interruption() as interruption, _Log(folder / "log.csv", start) as log:
        for step in range(start, end):
            _set_schedule(optimizer, config, step)
            terms = losses(config, step, next(images), student, teacher)
            loss = torch.stack(list(terms.values())).sum()
            if not torch.isfinite(loss):
                raise TrainingError(
                    f"loss is {loss.item()} at step {step}; the last checkpoint in {folder} is "
                    "good: lower --learning-rate and start a new folder, or resume it in fp32"
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it so
            nn.utils.clip_grad_norm_(student.parameters(), config.clip)
            optimizer.step()
            _move_teacher(student, teacher, _momentum(config, step))
            now = time.perf_counter()
            if (step + 1) % 10 == 0 or step + 1 == end:
                count = (step % 10 + 1) * config.batch
                log.write(_report(config, step, terms, count / (now - reported_at)), report)
                reported_at = now
            if interruption.wanted:
                return save_full(step + 1)
            if now - saved_at > checkpoint_seconds:
                save_full(step + 1)
                saved_at = time.perf_counter()
    full = save_full(end)
    if end < config.steps:
        return full
    chain = (*chain, ("training state", read_manifest(full).sha256))
    return save_compact(folder / f"{config.model}.safetensors", config, teacher.vit, chain)


def save_compact(
    path: Path,
    config: TrainConfig,
    vit: Any,
    chain: tuple[tuple[str, str], ...],
    *,
    step: int | None = None,
) -> Path:
    """Fits the readout on procedural images and writes the compact checkpoint.

    The weights are rounded to float16 before the readout is fitted, so that it fits what is kept.
    """
    rounded = make_vit(config.model, root_seed=0)
    rounded.load_state_dict({k: v.half().float() for k, v in vit.state_dict().items()})
    weight = bias = None
    if config.readout_dimension:
        weight, bias = procedural_readout(rounded, config)
    width = int(rounded.embed_dim)
    checkpoint.save(
        path,
        checkpoint.compact_tensors(rounded, weight, bias),
        config=config,
        step=config.steps if step is None else step,
        program_set_sha256=program_set(config.images.jobs),
        cls_dim=config.readout_dimension or width,
        patch_dim=width,
        chain=chain,
    )
    return path


@torch.no_grad()
def procedural_readout(vit: Any, config: TrainConfig, *, side: int = 224) -> tuple[Tensor, Tensor]:
    """Fits the readout on images of the training process that no step saw, at the input size."""
    vit = vit.eval()
    pool_images = min(config.images.pool_images, config.readout_images)
    features = []
    with ImageStream(
        dataclasses.replace(config.images, pool_images=pool_images), batch=50, start=_READOUT_START
    ) as images:
        for _ in range(math.ceil(config.readout_images / 50)):
            drawn = next(images).float().div_(255)
            drawn = functional.interpolate(drawn, size=(side, side), mode="bicubic").clamp(0, 1)
            features.append(statistics(vit.forward_features((drawn - 0.5) / 0.5)))
    return fit_readout(torch.cat(features), dimension=config.readout_dimension)


def _report(config: TrainConfig, step: int, terms: dict[str, Tensor], speed: float) -> StepReport:
    values = {name: term.item() for name, term in terms.items()}
    return StepReport(
        step=step + 1,
        loss=sum(values.values()),
        alignment=values["alignment"],
        rate=1 - values["expansion"] / config.expansion_weight if config.expansion_weight else 0.0,
        patch=values["patch"],
        layout=values["layout"],
        images_per_second=speed,
    )


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"device is {name!r}, wanted for example 'cpu' or 'cuda'") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError("device is 'cuda', but torch sees no GPU; use --device cpu")
    return device


def _optimizer(student: Student, config: TrainConfig) -> torch.optim.AdamW:
    matrices = [p for p in student.parameters() if p.ndim > 1]
    others = [p for p in student.parameters() if p.ndim <= 1]
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": config.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
        betas=(0.9, 0.95),
    )


def _set_schedule(optimizer: torch.optim.AdamW, config: TrainConfig, step: int) -> None:
    warmup = max(1, round(config.warmup * config.steps))
    if step < warmup:
        rate = config.learning_rate * (step + 1) / warmup
    else:
        done = (step - warmup) / max(1, config.steps - warmup)
        low, high = config.final_learning_rate, config.learning_rate
        rate = low + 0.5 * (high - low) * (1 + math.cos(math.pi * done))
    for group in optimizer.param_groups:
        group["lr"] = rate


def _momentum(config: TrainConfig, step: int) -> float:
    # DINO: cosine from the first value to 1. A new average follows faster at first, so that a
    # short run's teacher is not still its random start.
    cosine = 1 - (1 - config.momentum) * 0.5 * (1 + math.cos(math.pi * step / config.steps))
    return min(cosine, (1 + step) / (10 + step))


@torch.no_grad()
def _move_teacher(student: Student, teacher: Student, momentum: float) -> None:
    for mine, theirs in zip(teacher.parameters(), student.parameters(), strict=True):
        mine.lerp_(theirs, 1 - momentum)


def _save_full(
    folder: Path,
    config: TrainConfig,
    student: Student,
    teacher: Student,
    optimizer: torch.optim.AdamW,
    step: int,
    chain: tuple[tuple[str, str], ...],
) -> Path:
    tensors = {f"student/{k}": v for k, v in student.state_dict().items()}
    tensors |= {f"teacher/{k}": v for k, v in teacher.vit.state_dict().items()}
    tensors |= {f"teacher_projection/{k}": v for k, v in teacher.projection.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{k}": v for k, v in state.items()}
    width = int(teacher.vit.embed_dim)
    path = folder / f"step-{step:08d}.safetensors"
    checkpoint.save(
        path,
        tensors,
        config=config,
        step=step,
        program_set_sha256=program_set(config.images.jobs),
        cls_dim=width,
        patch_dim=width,
        chain=chain,
    )
    checkpoint.remove_older(folder, path)
    return path


def _resume(
    folder: Path,
    config: TrainConfig,
    student: Student,
    teacher: Student,
    optimizer: torch.optim.AdamW,
) -> tuple[int, tuple[tuple[str, str], ...]]:
    path = checkpoint.latest(folder)
    if path is None:
        return 0, ()
    manifest, tensors = checkpoint.load(path)
    # JSON has no tuples; comparing the written forms compares the values.
    wanted = _plain(dataclasses.asdict(config))
    different = [k for k, v in wanted.items() if _plain(manifest.config.get(k)) != v]
    if different:
        changes = ", ".join(f"{k}: {manifest.config.get(k)} -> {wanted[k]}" for k in different)
        raise TrainingError(
            f"{folder} holds a run of another configuration ({changes}); "
            "name a new folder, or use the run's own options to go on with it"
        )
    try:
        student.load_state_dict(_under(tensors, "student/"))
        teacher.vit.load_state_dict(_under(tensors, "teacher/"))
        teacher.projection.load_state_dict(_under(tensors, "teacher_projection/"))
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _under(tensors, "optimizer/").items():
            index, key = name.split("/")
            state.setdefault(int(index), {})[key] = tensor
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    except (RuntimeError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path} is no full checkpoint of this model: {error}") from error
    return manifest.origin.steps, manifest.origin.chain


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value


class _Interruption:
    """Turns SIGINT and SIGTERM into a wish to stop, so that a checkpoint is written first."""

    def __init__(self) -> None:
        self.wanted = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> _Interruption:
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._previous[number] = signal.signal(number, self._note)
            except ValueError:  # not the main thread: signals belong to somebody else
                break
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self.wanted = True


class _Log:
    """`log.csv`: one line per report; a resumed run drops the lines after its checkpoint."""

    def __init__(self, path: Path, start: int) -> None:
        self._names = [field.name for field in dataclasses.fields(StepReport)]
        kept: list[dict[str, str]] = []
        if path.is_file():
            with path.open(newline="") as file:
                kept = [row for row in csv.DictReader(file) if int(row["step"]) <= start]
        self._file = path.open("w", newline="")
        self._writer = csv.DictWriter(self._file, self._names)
        self._writer.writeheader()
        self._writer.writerows(kept)

    def write(self, line: StepReport, also: Callable[[StepReport], None] | None) -> None:
        self._writer.writerow(dataclasses.asdict(line))
        self._file.flush()
        if also is not None:
            also(line)

    def __enter__(self) -> _Log:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
