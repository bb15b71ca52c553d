"""A run as it stands: networks, optimizer, step; written to a folder and taken up again.

All randomness is a function of (root_seed, step), and the images are a function of the step: there
is no generator's state to keep. Used by `train.py`; the files are those of `checkpoint.py`.
"""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from procmem.errors import CheckpointError, InputError, TrainingError
from procmem.manifest import Manifest, manifest_path
from procmem_pretrain import checkpoint, distributed
from procmem_pretrain.config import TrainConfig, with_added_fields
from procmem_pretrain.jobs import program_set
from procmem_pretrain.optimization import make_optimizer
from procmem_pretrain.vit import count_registers, with_registers

_TEACHER = "teacher.vit."

_log = logging.getLogger(__name__)


class TrainingState:
    """Everything that the next step depends on.

    Attributes:
        config: of the run.
        objective: student, teacher and predictors (`objective.Objective`), on the device.
        optimizer: AdamW.
        step: steps taken.
        rollbacks: how often the run went back to a checkpoint because it had collapsed.
        best_knn: the best that a look at the run's health found, see `health.Vitals`.
        chain: hashes of the files that the weights descend from.
    """

    def __init__(self, config: TrainConfig, objective: nn.Module) -> None:
        self.config = config
        self.objective = objective
        self.optimizer = make_optimizer(objective, config)
        self.step = 0
        self.rollbacks = 0
        self.best_knn = 0.0
        self.chain: tuple[tuple[str, str], ...] = ()
        self._checkpoint: Path | None = None  # the last that was written or read

    @property
    def vit(self) -> Any:
        """The teacher's transformer: what a run is for."""
        return self.objective.teacher.vit  # type: ignore[union-attr]  # an `Objective`

    def save(self, folder: Path) -> Path:
        """Writes a full checkpoint, and then deletes older ones: the last before it stays."""
        tensors = {
            f"teacher/{name.removeprefix(_TEACHER)}"
            if name.startswith(_TEACHER)
            else f"objective/{name}": tensor
            for name, tensor in self.objective.state_dict().items()
        }
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{index}/{key}": value for key, value in state.items()}
        tensors["rollbacks"] = torch.tensor(self.rollbacks)
        tensors["best_knn"] = torch.tensor(self.best_knn)
        width = int(self.vit.embed_dim)
        path = folder / f"step-{self.step:08d}.safetensors"
        checkpoint.save(
            path,
            tensors,
            config=self.config,
            step=self.step,
            program_set_sha256=program_set(self.config.images.jobs),
            cls_dim=width,
            patch_dim=width,
            chain=self.chain,
        )
        if path != self._checkpoint:  # else nothing was learned since
            checkpoint.remove_older(folder, path, self._checkpoint)
            self._checkpoint = path
        return path

    def resume(self, folder: Path) -> bool:
        """Takes up the newest checkpoint of a folder; False if there is none.

        If it is damaged, the one before it, with a warning. The number of steps may differ from
        the checkpoint's before either's last decay begins.

        Raises:
            CheckpointError: all are damaged, or not full checkpoints of this model.
            TrainingError: it belongs to another configuration, or was trained on other programs.
        """
        paths = checkpoint.complete(folder)
        if not paths:
            checkpoint.check_no_orphan(folder)
            return False
        problems: list[CheckpointError] = []
        for path in paths:
            try:
                manifest, tensors = checkpoint.load(path)
                break
            except CheckpointError as error:
                problems.append(error)
        else:
            newest = paths[0]
            raise CheckpointError(
                f"the run in {folder} cannot go on from its newest checkpoint ({problems[0]}), nor "
                f"from an earlier one; bring {newest.name} and {manifest_path(newest).name} back "
                "from a copy, or name a new folder"
            ) from problems[0]
        self._check_same_run(folder, manifest)
        self._load(path, manifest, tensors)
        self._checkpoint = path
        lost = [str(problem) for problem in problems]
        for other in checkpoint.without_manifest(folder):
            if other.name > path.name:
                lost.append(
                    f"{other} has no manifest beside it, as after a kill while it was written"
                )
        if distributed.rank() == 0:
            for problem in lost:
                _log.warning("%s; the run goes on from step %d", problem, self.step)
        return True

    def check_began_with(self, start: Path) -> None:
        """Compares what a resumed run began with.

        Raises:
            CheckpointError: the file is damaged.
            TrainingError: the run did not begin with its weights.
        """
        manifest, _ = checkpoint.load(start)
        began = [sha256 for kind, sha256 in self.chain if kind == "start"]
        if began[-1:] != [manifest.sha256]:
            raise TrainingError(
                f"the run in the folder did not begin with {start}; leave --init-from away to go "
                "on with it, or name a new folder"
            )

    def start_from(self, path: Path) -> None:
        """Takes the weights of another run, full or compact, and starts at step 0.

        Of a compact checkpoint the teacher's weights become those of student and teacher; heads
        start anew. So do registers that the other run did not have.

        Raises:
            CheckpointError: damaged, of another architecture, or with registers of another number.
        """
        manifest, _, vit = checkpoint.load_teacher(path)
        if manifest.name != self.config.model:
            raise CheckpointError(
                f"{path} is a {manifest.name}, wanted {self.config.model}; "
                f"name it with --model {manifest.name}"
            )
        weights = vit.state_dict()
        found, wanted = count_registers(weights), self.config.registers
        if not found and wanted:
            weights = with_registers(weights, wanted, root_seed=self.config.root_seed)
        elif found != wanted:
            raise CheckpointError(
                f"{path} has {found} registers, wanted {wanted}: its other weights learned beside "
                f"them; name them with --registers {found}"
            )
        self.objective.student.vit.load_state_dict(weights)  # type: ignore[union-attr]
        self.vit.load_state_dict(weights)
        self.chain = (*manifest.origin.chain, ("start", manifest.sha256))

    def _check_same_run(self, folder: Path, manifest: Manifest) -> None:
        # JSON has no tuples; comparing the written forms compares the values.
        wanted, found = _plain(dataclasses.asdict(self.config)), _plain(manifest.config)
        found = with_added_fields(found)
        # Where and how fast a step is taken is no part of what the run is.
        found |= {name: wanted[name] for name in ("device", "compile")}
        different = _differences(found, wanted)
        if "steps" in different:
            step = manifest.origin.steps
            settled = dataclasses.replace(self.config, steps=int(found["steps"])).decay_starts
            if step <= min(settled, self.config.decay_starts):
                del different["steps"]
        if different:
            changes = ", ".join(f"{name}: {change}" for name, change in different.items())
            raise TrainingError(
                f"{folder} holds a run of another configuration ({changes}); "
                "name a new folder, or leave these options and --recipe out: --folder alone goes "
                "on with it"
            )
        if program_set(self.config.images.jobs) != manifest.origin.program_set_sha256:
            raise TrainingError(
                f"{folder} holds a run on other programs: the file that names them has changed, or "
                f"procmem has (it was {manifest.origin.code_version}); bring it back, or name a "
                "new folder"
            )

    def _load(self, path: Path, manifest: Manifest, tensors: dict[str, Tensor]) -> None:
        try:
            weights = _under(tensors, "objective/")
            weights |= {_TEACHER + k: v for k, v in _under(tensors, "teacher/").items()}
            self.objective.load_state_dict(weights)
            state: dict[int, dict[str, Tensor]] = {}
            for name, tensor in _under(tensors, "optimizer/").items():
                index, key = name.split("/")
                state.setdefault(int(index), {})[key] = tensor
            self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
            self.rollbacks = int(tensors["rollbacks"])
            self.best_knn = float(tensors.get("best_knn", 0.0))  # earlier versions did not keep it
        except (RuntimeError, KeyError, ValueError) as error:
            raise CheckpointError(
                f"{path} is no full checkpoint of this model ({error}); to start from its weights, "
                "name it with --init-from and a new --folder"
            ) from error
        self.step = manifest.origin.steps
        self.chain = manifest.origin.chain

    def roll_back(self, folder: Path) -> None:
        """Goes back to the newest checkpoint, with half the learning rate from there on.

        Raises:
            TrainingError: it is the third time.
        """
        rollbacks = self.rollbacks + 1
        if rollbacks > 2:
            raise TrainingError(
                f"the run in {folder} has collapsed for the third time; the checkpoint in it is "
                "good: lower --learning-rate, or use --precision fp32, in a new folder"
            )
        self.resume(folder)
        self.rollbacks = rollbacks


def check_init(config: TrainConfig, init_from: Path | None) -> None:
    """Raises InputError if there is nothing to start from at the path."""
    if init_from is not None and not init_from.is_file():
        raise InputError(
            f"{init_from} does not exist; --init-from wants a checkpoint, <name>.safetensors with "
            f"its manifest beside it, of a {config.model}"
        )


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def _differences(found: Any, wanted: Any, name: str = "") -> dict[str, str]:
    if isinstance(found, dict) and isinstance(wanted, dict):
        changes: dict[str, str] = {}
        for key in sorted(found.keys() | wanted.keys()):
            inner = f"{name}.{key}" if name else key
            changes |= _differences(found.get(key), wanted.get(key), inner)
        return changes
    return {} if found == wanted else {name: f"{found} -> {wanted}"}
