"""Every constant of a training run, in one frozen, serializable place.

`procmem-pretrain train` is generated from these classes; the resolved configuration goes into the
checkpoint's manifest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from procmem.errors import InputError
from procmem_pretrain.crops import ViewConfig
from procmem_pretrain.stream import StreamConfig


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of training at one resolution (low-resolution curriculum, arXiv 2507.03779).

    Attributes:
        share: of all steps, 0 to 1; the shares of all phases sum to 1.
        side: of the global views, pixels, a multiple of 16.
        keep: share of the global view's patches that the student sees; fewer cost less.
    """

    share: float
    side: int
    keep: float


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """A training run. Equal configurations give equal weights on the same machine.

    Attributes:
        model: architecture, a key of `vit.ARCHITECTURES`.
        root_seed: of initial weights and of every random choice.
        images: which procedural images; smaller ones, and masks from fewer pixels, than the
            paper's, because two cores would otherwise spend their time on them.
        steps: optimizer steps in all.
        batch: images per step.
        phases: resolutions, first to last.
        local_views: small views per image, seen by the student only.
        local_side: pixels, a multiple of 16.
        local_scale: share of the image's area in a local view.
        global_scale: share of the image's area in a global view.
        learning_rate: peak of AdamW's; cosine decay to `final_learning_rate`.
        final_learning_rate: reached at the last step.
        warmup: share of steps of linear warm-up.
        weight_decay: on matrices; biases and 1-d parameters have none (DINO).
        clip: largest gradient norm (DINO: 3.0).
        momentum: of the teacher's moving average at the first step; rises to 1 by a cosine.
        drop_path: chance of skipping a residual branch (DINO: 0.1; 0 suits a short run).
        projection: width of the embedding that SimDINO compares.
        expansion_weight: of the coding rate.
        patch_weight: of the regression of patch descriptors.
        layout_weight: of the regression of the layout from the class token.
        readout_dimension: D of the exported class token; 0 exports the plain class token.
        readout_images: procedural images that the readout is fitted on.
        precision: "bf16" for matrix products in bfloat16, else "fp32".
        device: torch device, e.g. "cpu", "cuda".
    """

    model: str = "vit-tiny"
    root_seed: int = 0
    images: StreamConfig = field(
        default_factory=lambda: StreamConfig(side=144, mask_side=64, pool_images=4096)
    )
    steps: int = 4000
    batch: int = 128
    phases: tuple[Phase, ...] = (Phase(0.88, 128, 0.5), Phase(0.12, 192, 0.4))
    local_views: int = 2
    local_side: int = 64
    local_scale: tuple[float, float] = (0.05, 0.4)
    global_scale: tuple[float, float] = (0.25, 1.0)
    learning_rate: float = 1e-3
    final_learning_rate: float = 1e-5
    warmup: float = 0.05
    weight_decay: float = 0.05
    clip: float = 3.0
    momentum: float = 0.99
    drop_path: float = 0.0
    projection: int = 128
    expansion_weight: float = 1.0
    patch_weight: float = 1.0
    layout_weight: float = 1.0
    readout_dimension: int = 384
    readout_images: int = 4000
    precision: Literal["bf16", "fp32"] = "bf16"
    device: str = "cpu"

    def __post_init__(self) -> None:
        problems = []
        for name in ("steps", "batch", "projection"):
            if getattr(self, name) < 1:
                problems.append(f"{name} is {getattr(self, name)}, wanted 1 or more")
        if self.batch < 2:
            problems.append(f"batch is {self.batch}, wanted 2 or more: views are compared")
        if abs(sum(phase.share for phase in self.phases) - 1) > 1e-6:
            problems.append(f"phases have shares {[p.share for p in self.phases]}, wanted sum 1")
        for side in (self.local_side, *(phase.side for phase in self.phases)):
            if side < 32 or side % 16:
                problems.append(f"side is {side}, wanted a multiple of 16, 32 or more")
        problems += [
            f"keep is {phase.keep}, wanted above 0 and at most 1"
            for phase in self.phases
            if not 0 < phase.keep <= 1
        ]
        if problems:
            raise InputError("; ".join(problems))

    def phase_at(self, step: int) -> Phase:
        """The phase of a step."""
        end = 0.0
        for phase in self.phases:
            end += phase.share
            if step < end * self.steps - 1e-9:
                return phase
        return self.phases[-1]

    def teacher_view(self, phase: Phase) -> ViewConfig:
        """The teacher sees a clean view: what the student must agree with."""
        return ViewConfig(
            phase.side, self.global_scale, jitter=(0.2, 0.2, 0.2, 0.05), grey=0.1, blur=0.2
        )

    def student_view(self, phase: Phase) -> ViewConfig:
        """The student's global view: DINO's operations."""
        return ViewConfig(phase.side, self.global_scale, solarize=0.1)

    def local_view(self) -> ViewConfig:
        """The student's local views."""
        return ViewConfig(self.local_side, self.local_scale)


def config_from_dict(fields: dict[str, Any]) -> TrainConfig:
    """The configuration that a manifest records.

    Raises:
        InputError: a field is missing, unknown or out of range.
    """
    try:
        known = dict(fields)
        known["images"] = StreamConfig(**known["images"])
        known["phases"] = tuple(Phase(**phase) for phase in known["phases"])
        for name in ("local_scale", "global_scale"):
            known[name] = tuple(known[name])
        return TrainConfig(**known)
    except (KeyError, TypeError) as error:
        raise InputError(
            f"the manifest's training configuration is not readable: {error}"
        ) from error
