"""The training loop, top to bottom: procedural images -> a perception.

Conducts `stream`, an `objective`, `training_state` and `health`; holds no mathematics.
Run it with `procmem-pretrain train --folder runs/first`. Run it again to go on where it stopped:
all randomness is a function of (root_seed, step), so a resumed run equals an uninterrupted one
(bit for bit on the CPU, by one process or two and without `--compile`: gradients of more are summed
in another order after a start, and what is compiled rounds otherwise than the first step, which is
counted). Started by torchrun, it trains on all its processes together.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from procmem.errors import InputError, TrainingError, VaultLockedError
from procmem.lock import WriterLock
from procmem.manifest import read_manifest
from procmem_pretrain import distributed
from procmem_pretrain.compact import save_compact
from procmem_pretrain.config import TrainConfig
from procmem_pretrain.device import torch_device
from procmem_pretrain.health import HealthCheck, Unhealthy, Vitals
from procmem_pretrain.interruption import Interruption
from procmem_pretrain.objective import make_objective
from procmem_pretrain.optimization import (
    clip_gradients,
    learning_rate,
    move_teacher,
    set_schedule,
    teacher_momentum,
)
from procmem_pretrain.prefetch import Prefetch
from procmem_pretrain.ranges import NOT_NEGATIVE
from procmem_pretrain.run_log import RunLog, StepReport
from procmem_pretrain.stream import ImageStream, Progress, is_out_of_memory
from procmem_pretrain.throughput import count_operations, peak
from procmem_pretrain.training_state import TrainingState, check_init

REPORT_EVERY = 10

_log = logging.getLogger(__name__)


def train(
    config: TrainConfig,
    folder: Path,
    *,
    init_from: Path | None = None,
    renderer: str = "auto",
    workers: int = 0,
    stop_after: int | None = None,
    checkpoint_seconds: float = 120.0,
    report: Callable[[StepReport], None] | None = None,
    progress: Progress | None = None,
) -> Path:
    """Trains, or goes on with the run in `folder`, and writes a compact checkpoint at the end.

    A run whose loss is not finite or whose model collapses goes back to its newest checkpoint and
    on with half the learning rate, at most twice.

    Args:
        config: what to do; must equal that of the run in `folder`, if there is one, but for the
            number of steps before the last decay.
        folder: checkpoints, `log.csv`, TensorBoard `events`.
        init_from: checkpoint whose weights a new run starts from.
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
        TrainingError: a third collapse, a batch that does not fit into memory, or a folder that
            holds a run of another configuration or start, or that another process trains in.
        CheckpointError: the run's checkpoint or `init_from` is damaged or of another architecture.
        InputError: the device does not exist, or `init_from` does not, or a number is out of range.
        RenderError: nothing here can draw.
    """
    check_init(config, init_from)
    if stop_after is not None and stop_after < 0:
        raise InputError(f"stop_after is {stop_after}, wanted 0 or more steps")
    if checkpoint_seconds not in NOT_NEGATIVE:
        raise InputError(f"checkpoint_seconds is {checkpoint_seconds}, wanted {NOT_NEGATIVE}")
    with distributed.joined(torch_device(config.device)) as device, ExitStack() as ends:
        distributed.share(config.batch)
        folder.mkdir(parents=True, exist_ok=True)
        if distributed.rank() == 0:
            ends.enter_context(_alone(folder))
        objective = make_objective(config).to(device).train()
        state = TrainingState(config, objective)
        resumed = state.resume(folder)
        # This waits, too: nobody may find what the first process is about to write.
        if all(distributed.any_of(resumed, not resumed)):
            raise TrainingError(
                f"some processes find the run in {folder} and others find none; give all of them "
                "the same folder, on a disk that they share"
            )
        if resumed:
            if init_from is not None:
                state.check_began_with(init_from)
        else:
            if init_from is not None:
                state.start_from(init_from)
            if distributed.rank() == 0:
                state.save(folder)  # what a run that collapses early goes back to
            distributed.barrier()
        health = None
        if config.health_programs:
            programs = config.health_programs
            health = HealthCheck(config.images, programs=programs, renderer=renderer, device=device)
        run = _Run(state, folder, device, checkpoint_seconds, health)
        end = config.steps if stop_after is None else min(config.steps, stop_after)
        while True:
            open_stream = partial(
                ImageStream,
                config.images,
                batch=config.batch,
                device=device,
                renderer=renderer,
                workers=workers,
                start=state.step,
                progress=progress,
                share=distributed.share(config.batch),
            )
            # A GPU is busy with the networks either way; a CPU is not.
            images = Prefetch(open_stream) if device.type == "cpu" else open_stream()
            active = distributed.rank() == 0
            try:
                with images, RunLog(folder, state.step, report, active=active) as log:
                    full = run.take_steps(images, end, log)
                break
            except Unhealthy as problem:
                distributed.barrier()
                at = state.step
                state.roll_back(folder)
                _log.warning("step %d: %s; back to step %d", at, problem, state.step)
        if state.step < config.steps:
            return full
        compact = folder / f"{config.model}.safetensors"
        if active:
            chain = (*state.chain, ("training state", read_manifest(full).sha256))
            save_compact(compact, config, state.vit, chain, step=state.step)
        distributed.barrier()
        return compact


class _Run:
    """The steps of a run, in one process."""

    def __init__(
        self,
        state: TrainingState,
        folder: Path,
        device: torch.device,
        checkpoint_seconds: float,
        health: HealthCheck | None,
    ) -> None:
        self._state, self._folder, self._device = state, folder, device
        self._health = health
        self._config = state.config
        self._checkpoint_seconds = checkpoint_seconds
        self._peak = peak(device, self._config.precision) * distributed.world()
        self._operations: dict[object, int] = {}
        self._vitals = Vitals(math.nan, math.nan)
        objective: nn.Module = state.objective
        if self._config.compile:
            objective.compile()
        if distributed.world() > 1:
            ids = [device.index] if device.type == "cuda" else None
            objective = DistributedDataParallel(objective, device_ids=ids)
        self._objective = objective

    def take_steps(self, images: Iterator[Tensor], end: int, log: RunLog) -> Path:
        """Trains up to a step, or until a signal comes, and writes a full checkpoint."""
        state = self._state
        saved_at = time.perf_counter()
        since, reported_at, full = state.step, None, None
        with Interruption() as interruption:
            while state.step < end:
                batch = next(images)
                if reported_at is None:  # the first batch waits for a whole pool
                    reported_at = time.perf_counter()
                terms = self._take_step(batch)
                state.step += 1
                if state.step % REPORT_EVERY == 0 or state.step == end:
                    now = time.perf_counter()
                    log.write(self._report(terms, (now - reported_at) / (state.step - since)))
                    reported_at, since = now, state.step
                due = time.perf_counter() - saved_at > self._checkpoint_seconds
                stop, due = distributed.any_of(interruption.wanted, due)
                if stop or due or state.step == end:
                    full = self._checkpoint()
                    saved_at = time.perf_counter()
                if stop:
                    break
        return full or self._checkpoint()

    def _take_step(self, images: Tensor) -> dict[str, Tensor]:
        state, config = self._state, self._config
        set_schedule(state.optimizer, config, state.step, factor=0.5**state.rollbacks)

        def forward_and_backward() -> dict[str, Tensor]:
            terms: dict[str, Tensor] = self._objective(state.step, images)
            loss = torch.stack(list(terms.values())).sum()
            # The mean is the same in all processes: they go on or roll back together.
            if not torch.isfinite(distributed.mean_across(loss.detach())):
                raise Unhealthy(f"the loss is {loss.item()}")
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it so
            return {name: term.detach() for name, term in terms.items()}

        state.optimizer.zero_grad(set_to_none=True)
        try:
            terms = self._counted(forward_and_backward)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise TrainingError(
                f"a step of {len(images)} images does not fit into the memory of {self._device}; "
                f"use a smaller --batch, for example {max(2, config.batch // 2)}, and another "
                "--folder"
            ) from error
        objective = state.objective
        objective.before_update(state.step)  # type: ignore[operator]  # an `Objective`
        clip_gradients(objective, config)
        state.optimizer.step()
        momentum = teacher_momentum(config, state.step)
        move_teacher(objective.student, objective.teacher, momentum)  # type: ignore[arg-type]
        return terms

    def _counted(self, step: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Takes a step; counts its operations if none of its resolution was counted yet."""
        config, kind = self._config, None
        if config.objective == "simdino":
            kind = config.simdino.phase_at(self._state.step, config.steps)
        self._kind = kind
        if kind in self._operations:
            return step()
        terms: list[dict[str, Tensor]] = []
        with torch.compiler.set_stance("force_eager" if config.compile else "default"):
            self._operations[kind] = count_operations(lambda: terms.append(step()))
        return terms[0]

    def _checkpoint(self) -> Path:
        """A look at the model, then a full checkpoint: one of a collapsed run is never written."""
        state = self._state
        problem = None
        try:
            if self._health is not None:
                self._vitals = self._health.look(state.vit, best_knn=state.best_knn)
                state.best_knn = max(state.best_knn, self._vitals.knn)
        except Unhealthy as found:
            problem = found
        # The processes must agree, or one would wait for the others for ever.
        if distributed.any_of(problem is not None)[0]:
            raise problem or Unhealthy("another process found a collapse")
        path = self._folder / f"step-{state.step:08d}.safetensors"
        if distributed.rank() == 0:
            path = state.save(self._folder)
        distributed.barrier()
        return path

    def _report(self, terms: dict[str, Tensor], seconds: float) -> StepReport:
        state, config = self._state, self._config
        values = {name: distributed.mean_across(term).item() for name, term in terms.items()}
        operations = self._operations[self._kind] * distributed.world()
        return StepReport(
            step=state.step,
            loss=sum(values.values()),
            images_per_second=config.batch / seconds,
            mfu=operations / seconds / self._peak,
            learning_rate=0.5**state.rollbacks * learning_rate(config, state.step - 1),
            terms=values | state.objective.diagnostics(),  # type: ignore[operator]
            knn=self._vitals.knn,
            rank=self._vitals.rank,
        )


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keeps other runs out of a folder: each would delete the other's checkpoints."""
    try:
        lock = WriterLock(folder / "LOCK")
    except VaultLockedError as error:
        raise TrainingError(
            f"another run is training in {folder}; wait until it has ended, or name a new folder"
        ) from error
    try:
        yield
    finally:
        lock.release()
