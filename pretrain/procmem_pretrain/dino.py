"""The paper's objective: DINO, "Emerging Properties in Self-Supervised Vision Transformers".

Takes images of `stream.py` and views of `crops.py`; called by `train.py`. Sections and equations
are those of Caron et al. 2021 (arXiv 2104.14294): a student sees all views of an image, a teacher
its two global ones, and the student's distribution over prototypes for one view shall be the
teacher's for another. Centering and a low temperature keep the teacher from collapsing. All
randomness is a function of (root_seed, step).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from procmem.errors import InputError
from procmem_pretrain.crops import ViewConfig, apply_views, draw_views
from procmem_pretrain.distributed import mean_across, rank, share
from procmem_pretrain.ranges import AREA, POSITIVE, SHARE, Range, outside, reversed_pairs
from procmem_pretrain.seeds import stream, torch_seed
from procmem_pretrain.vit import make_vit, normalized

GLOBAL_VIEWS = 2


_SIDE = Range(16, 1024, of=16)
_RANGES = {
    "prototypes": Range(2, 10**7),
    "hidden": Range(1, 10**6),
    "bottleneck": Range(1, 10**6),
    "student_temperature": POSITIVE,
    "teacher_temperature": POSITIVE,
    "center_momentum": SHARE,
    "local_views": Range(0, 100),
    "global_side": _SIDE,
    "local_side": _SIDE,
    "global_scale": AREA,
    "local_scale": AREA,
    "blur": SHARE,
    "solarize": SHARE,
    "drop_path": Range(0, 1, below=True),
    "frozen_last_layer": SHARE,
}


@dataclass(frozen=True, slots=True)
class DinoConfig:
    """Constants of DINO. The defaults are the paper's for a ViT-S/16.

    Attributes:
        prototypes: K, outputs of the head (appendix C).
        hidden: width of the head's two hidden layers.
        bottleneck: width of the unit vector before the last layer.
        student_temperature: of the student's softmax (section 3.2).
        teacher_temperature: of the teacher's; lower is sharper, which works against the collapse
            to the uniform distribution.
        center_momentum: of the mean teacher output that is subtracted, which works against the
            collapse to one prototype (eq. 4).
        local_views: small views per image, seen by the student only.
        global_side: pixels, a multiple of 16.
        local_side: pixels, a multiple of 16.
        global_scale: share of the image's area in a global view.
        local_scale: share of the image's area in a local view.
        blur: chance for the first global view, the second, and a local view.
        solarize: chance for the second global view.
        drop_path: chance of skipping a residual branch in the student's last block; it rises from
            0 at the first.
        frozen_last_layer: share of all steps, from the first on, in which the last layer does not
            move (the paper's first of 100 epochs).
    """

    prototypes: int = 65536
    hidden: int = 2048
    bottleneck: int = 256
    student_temperature: float = 0.1
    teacher_temperature: float = 0.04
    center_momentum: float = 0.9
    local_views: int = 8
    global_side: int = 224
    local_side: int = 96
    global_scale: tuple[float, float] = (0.4, 1.0)
    local_scale: tuple[float, float] = (0.05, 0.4)
    blur: tuple[float, float, float] = (1.0, 0.1, 0.5)
    solarize: float = 0.2
    drop_path: float = 0.1
    frozen_last_layer: float = 0.01

    def __post_init__(self) -> None:
        problems = outside(self, _RANGES)
        problems += reversed_pairs(self, "local_scale", "global_scale")
        if problems:
            raise InputError("; ".join(problems))

    def views(self) -> list[ViewConfig]:
        """The first global view, the second, and the local ones."""
        first, second, local = self.blur
        return [
            self._view(self.global_side, self.global_scale, blur=first),
            self._view(self.global_side, self.global_scale, blur=second, solarize=self.solarize),
            *[self._view(self.local_side, self.local_scale, blur=local)] * self.local_views,
        ]

    def _view(
        self, side: int, scale: tuple[float, float], *, blur: float, solarize: float = 0.0
    ) -> ViewConfig:
        return ViewConfig(
            side,
            scale,
            blur=blur,
            solarize=solarize,
            interpolation="bicubic",
            color="torchvision",
            scale_blur=False,
        )


class Head(nn.Module):
    """(n, P) class tokens -> (n, K) float32 logits in [-1, 1] (appendix C, no batch norm).

    Three layers, a unit vector, and its cosines with K prototypes. The last is the paper's
    weight-normalized layer with its gain fixed to 1: normalizing the rows here, instead of keeping
    a gain that never changes, leaves a plain parameter for checkpoints and moving averages.
    """

    def __init__(self, width: int, config: DinoConfig) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(width, config.hidden),
            nn.GELU(),
            nn.Linear(config.hidden, config.hidden),
            nn.GELU(),
            nn.Linear(config.hidden, config.bottleneck),
        )
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        # DINO's code leaves this layer as torch initializes a linear one. Only the direction of a
        # row counts, but its length decides how fast a step of AdamW turns it.
        bound = 1 / math.sqrt(config.bottleneck)
        self.prototypes = nn.Parameter(torch.empty(config.prototypes, config.bottleneck))
        nn.init.uniform_(self.prototypes, -bound, bound)

    def forward(self, cls: Tensor) -> Tensor:
        """See the class."""
        embedding = functional.normalize(self.mlp(cls).float(), dim=1)
        # Not in bfloat16: rounding a cosine near 1 to 8 bits is an error of 0.1 after the
        # teacher's temperature.
        with torch.autocast(cls.device.type, enabled=False):
            return functional.linear(embedding, functional.normalize(self.prototypes, dim=1))


class Network(nn.Module):
    """Transformer and head: what both student and teacher have."""

    def __init__(self, vit: nn.Module, config: DinoConfig) -> None:
        super().__init__()
        self.vit = vit
        self.head = Head(int(vit.embed_dim), config)  # type: ignore[arg-type]  # timm's

    def forward(self, views: list[Tensor]) -> Tensor:
        """Views of one resolution are concatenated and pass the transformer together.

        Args:
            views: V of (b, 3, s, s) in [0, 1], those of equal s beside each other.

        Returns:
            (V, b, K) float32 logits.
        """
        groups: dict[int, list[Tensor]] = {}
        for view in views:
            groups.setdefault(view.shape[3], []).append(view)
        tokens = [
            self.vit.forward_features(normalized(torch.cat(group)))[:, 0]  # type: ignore[operator]
            for group in groups.values()
        ]
        logits: Tensor = self.head(torch.cat(tokens))
        return logits.reshape(len(views), -1, logits.shape[1])


def cross_entropy(student: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """Mean of H(teacher view t, student view v) over images and all pairs t != v (eq. 3).

    Cross-entropy is linear in the teacher, so the pairs of one student view are taken at once:
    sum_t H(q_t, softmax z) = n logsumexp z - (sum_t q_t) . z, with n teacher views t != v.

    Args:
        student: (V, b, K) float32 logits; the first two are of the teacher's views.
        teacher: (2, b, K) float32 probabilities.
        temperature: divides the student's logits.

    Returns:
        a scalar, nats.
    """
    both = teacher.sum(dim=0)
    total = student.new_zeros(())
    for view, logits in enumerate(student):
        others = GLOBAL_VIEWS - 1 if view < GLOBAL_VIEWS else GLOBAL_VIEWS
        target = teacher[1 - view] if view < GLOBAL_VIEWS else both
        scaled = logits / temperature
        agreement = (target * scaled).sum(dim=1)
        total = total + (others * scaled.logsumexp(dim=1) - agreement).mean()
    return total / (GLOBAL_VIEWS * (len(student) - 1))


class DinoObjective(nn.Module):
    """Student, teacher, center, and the loss (see `objective.py`).

    The center of the teacher's outputs is a buffer; `forward` moves it in training mode.
    """

    center: Tensor

    def __init__(
        self,
        config: DinoConfig,
        *,
        model: str,
        root_seed: int,
        steps: int,
        batch: int,
        precision: str,
        registers: int = 0,
    ) -> None:
        super().__init__()
        self.config = config
        self._root_seed, self._batch = root_seed, batch
        self._frozen_steps = round(config.frozen_last_layer * steps)
        self._bf16 = precision == "bf16"
        self._diagnostics: dict[str, Tensor] = {}
        vit = make_vit(model, root_seed=root_seed, drop_path=config.drop_path, registers=registers)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch_seed(root_seed, "heads"))
            self.student = Network(vit, config)
            teacher = make_vit(model, root_seed=root_seed, registers=registers)
            self.teacher = Network(teacher, config)
        self.teacher.load_state_dict(self.student.state_dict())
        self.teacher.requires_grad_(False).eval()
        self.register_buffer("center", torch.zeros(config.prototypes))

    def train(self, mode: bool = True) -> DinoObjective:
        """The teacher never trains."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, step: int, images: Tensor) -> dict[str, Tensor]:
        """The term "dino" (`Objective.forward`)."""
        config = self.config
        views = self._views(step, images)
        bf16 = torch.autocast(images.device.type, torch.bfloat16, enabled=self._bf16)
        with torch.no_grad():
            with bf16:
                outputs = self.teacher(views[:GLOBAL_VIEWS])
            logits = (outputs - self.center) / config.teacher_temperature
            target = logits.softmax(dim=2)
            entropy = (logits.logsumexp(dim=2) - (target * logits).sum(dim=2)).mean()
            if self.training:
                # Eq. 4. It enters from the next step on.
                mean = mean_across(outputs.mean(dim=(0, 1)))
                self.center.lerp_(mean, 1 - config.center_momentum)
        with bf16:
            student = self.student(views)
        loss = cross_entropy(student, target, temperature=config.student_temperature)
        self._diagnostics = {"entropy": entropy, "divergence": loss.detach() - entropy}
        return {"dino": loss}

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # torch leaves it so
    def _views(self, step: int, images: Tensor) -> list[Tensor]:
        """(b, 3, S, S) uint8 -> the views in the order of `DinoConfig.views`.

        Every process draws for the whole batch and applies its share. Also seeds the drop path,
        of each process by itself.
        """
        random = stream(self._root_seed, "step", step)
        torch.manual_seed(torch_seed(self._root_seed, "drop path", step, rank()))
        own = share(self._batch)
        drawn = images.float().div_(255)
        return [
            apply_views(drawn, draw_views(kind, self._batch, random).part(own), kind)
            for kind in self.config.views()
        ]

    def before_update(self, step: int) -> None:
        """Drops the last layer's gradient while it is frozen, so that AdamW passes it by."""
        if step < self._frozen_steps:
            self.student.head.prototypes.grad = None

    def diagnostics(self) -> dict[str, float]:
        """Of the last step and this process's images; empty before the first.

        Returns:
            `teacher_entropy` in nats and `teacher_entropy_share` of its maximum log K: 0 is the
            collapse to one prototype, 1 to the uniform distribution. `divergence` is the
            Kullback-Leibler divergence KL(teacher || student), nats: 0 throughout if collapsed.
        """
        if not self._diagnostics:
            return {}
        entropy = self._diagnostics["entropy"].item()
        return {
            "teacher_entropy": entropy,
            "teacher_entropy_share": entropy / math.log(self.config.prototypes),
            "divergence": self._diagnostics["divergence"].item(),
        }
