"""Every constant of a training run, in one frozen, serializable place.

`procmem-pretrain train` is generated from these classes; the resolved configuration goes into the
checkpoint's manifest. A recipe is a complete configuration with a name (`RECIPES`).
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from procmem.errors import InputError, unknown_choice
from procmem_pretrain.dino import DinoConfig
from procmem_pretrain.ranges import NOT_NEGATIVE, POSITIVE, SHARE, Range, outside
from procmem_pretrain.simdino import SimDinoConfig
from procmem_pretrain.stream import StreamConfig
from procmem_pretrain.vit import ARCHITECTURES

_RANGES = {
    "registers": Range(0, 1024),
    # `compact.py` fits the readout on later images of the stream.
    "steps": Range(1, 10**9, below=True),
    "batch": Range(2, 10**6),  # views are compared
    "learning_rate": POSITIVE,
    "final_learning_rate": NOT_NEGATIVE,
    "warmup": SHARE,
    "decay": SHARE,
    "weight_decay": NOT_NEGATIVE,
    "final_weight_decay": NOT_NEGATIVE,
    "betas": Range(0, 1, below=True),
    "clip": POSITIVE,
    "momentum": SHARE,
    "final_momentum": SHARE,
    "health_programs": Range(0, 10**6),
    "readout_dimension": NOT_NEGATIVE,
    "readout_images": Range(1, 10**7),
}


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """A training run. Equal configurations give equal weights on the same machine.

    Attributes:
        model: architecture, a key of `vit.ARCHITECTURES`.
        registers: R, learned tokens beside the class token and the patches; they are for the
            transformer itself and appear in no output (Darcet et al. 2024: 4).
        root_seed: of initial weights and of every random choice.
        images: which procedural images.
        objective: what is minimized: "simdino" (fast) or "dino" (the paper's).
        simdino: constants of the one objective.
        dino: constants of the other.
        steps: optimizer steps in all.
        batch: images per step, over all processes.
        learning_rate: peak of AdamW's.
        final_learning_rate: what the schedule comes to, a step after the last one.
        warmup: share of steps of linear warm-up.
        schedule: "cosine" decays from the end of the warm-up on; "constant" keeps the peak and
            decays over the last `decay` of the steps, so that the number of steps can still be
            changed before that.
        decay: share of steps of the "constant" schedule's decay.
        weight_decay: on matrices; biases and 1-d parameters have none (DINO).
        final_weight_decay: come to by a cosine, a step after the last one.
        betas: AdamW's.
        clip: largest gradient norm (DINO: 3.0).
        clip_each: of every tensor by itself (DINO's code), not of all together.
        momentum: of the teacher's moving average at the first step.
        final_momentum: come to by a cosine, a step after the last one (DINO: 1).
        health_programs: programs whose images are looked at before each checkpoint, to tell a
            collapse (`health.py`); 0 looks at nothing.
        readout_dimension: D of the exported class token; 0 exports the plain class token.
        readout_images: procedural images that the readout is fitted on.
        precision: "bf16" for matrix products in bfloat16, else "fp32".
        compile: let torch.compile fuse the transformer.
        device: torch device, e.g. "cpu", "cuda".
    """

    model: str = "vit-tiny"
    registers: int = 0
    root_seed: int = 0
    images: StreamConfig = field(
        default_factory=lambda: StreamConfig(
            side=144, mask_side=64, pool_images=4096, fresh_programs=2
        )
    )
    objective: Literal["simdino", "dino"] = "simdino"
    simdino: SimDinoConfig = field(default_factory=SimDinoConfig)
    dino: DinoConfig = field(default_factory=DinoConfig)
    steps: int = 4000
    batch: int = 128
    learning_rate: float = 1e-3
    final_learning_rate: float = 1e-5
    warmup: float = 0.05
    schedule: Literal["cosine", "constant"] = "constant"
    decay: float = 0.2
    weight_decay: float = 0.05
    final_weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 3.0
    clip_each: bool = False
    momentum: float = 0.99
    final_momentum: float = 0.998
    health_programs: int = 48
    readout_dimension: int = 384
    readout_images: int = 4000
    precision: Literal["bf16", "fp32"] = "bf16"
    compile: bool = False
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.model not in ARCHITECTURES:
            raise unknown_choice("model", self.model, ARCHITECTURES)
        problems = outside(self, _RANGES)
        if self.readout_dimension >= self.readout_images:
            problems.append(
                f"readout_dimension is {self.readout_dimension}, wanted 0 (no readout) or less "
                f"than readout_images, which is {self.readout_images}"
            )
        if self.final_learning_rate > self.learning_rate:
            problems.append(
                f"final_learning_rate is {self.final_learning_rate}, wanted at most learning_rate, "
                f"which is {self.learning_rate}"
            )
        if problems:
            raise InputError("; ".join(problems))

    @property
    def decay_starts(self) -> int:
        """The first step of the last decay: from here on, `steps` is settled."""
        if self.schedule == "cosine":
            return 0
        return round((1 - self.decay) * self.steps)


def _fast() -> TrainConfig:
    """The default: the most perception for little compute."""
    return TrainConfig()


def _paper() -> TrainConfig:
    """DINO to the letter, as "Separating Knowledge and Perception with Procedural Data" trains it.

    100 epochs of 1.3 million images in batches of 512; 10 epochs of warm-up.
    """
    return TrainConfig(
        model="vit-small",
        images=StreamConfig(
            process="shaders-kml-mixup", side=256, protocol="paper", pool_images=16384
        ),
        objective="dino",
        steps=253_906,
        batch=512,
        learning_rate=1e-3,  # 5e-4 * batch / 256
        final_learning_rate=1e-6,
        warmup=0.1,
        schedule="cosine",
        weight_decay=0.04,
        final_weight_decay=0.4,
        betas=(0.9, 0.999),
        clip=3.0,
        clip_each=True,
        momentum=0.996,
        final_momentum=1.0,
        readout_dimension=0,
    )


RECIPES: dict[str, Callable[[], TrainConfig]] = {"fast": _fast, "paper": _paper}

# Fields that older manifests lack, with the value that the code had then.
_ADDED = {"registers": 0}


def config_from_dict(fields: dict[str, Any]) -> TrainConfig:
    """The configuration that a manifest records.

    Raises:
        InputError: a field is missing, unknown or out of range.
    """
    try:
        config: TrainConfig = _restored(TrainConfig, with_added_fields(fields))
        return config
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"the manifest's training configuration is not readable ({error!r}); the checkpoint "
            "comes from another version of procmem: start from it with --init-from"
        ) from error


def with_added_fields(fields: dict[str, Any]) -> dict[str, Any]:
    """A manifest's configuration with the fields that are younger than it."""
    return _ADDED | fields


def _restored(kind: Any, value: Any) -> Any:
    """JSON knows no tuples and no classes: a value of the type that its field declares."""
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        unknown = value.keys() - hints.keys()
        missing = hints.keys() - value.keys()
        if unknown or missing:
            raise KeyError(f"unknown {sorted(unknown)}, missing {sorted(missing)}")
        return kind(**{name: _restored(hints[name], item) for name, item in value.items()})  # type: ignore[operator]  # a class
    if typing.get_origin(kind) is tuple:
        inner = [argument for argument in typing.get_args(kind) if argument is not Ellipsis]
        return tuple(_restored(inner[0], item) for item in value)
    if isinstance(kind, types.UnionType) and value is None:
        return None
    return value
