"""The fast objective: SimDINO on few tokens, and the regression of hand-made descriptors.

Takes images of `stream.py`, views of `crops.py`, terms of `losses.py` and targets of
`descriptors.py`; called by `train.py`. What makes it cheap: the student sees half of the patches of
its global view, small local views, and a low resolution for most of the run. What makes it learn
from few images: a dense target for every patch in every step. All randomness is a function of
(root_seed, step).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from procmem.errors import InputError
from procmem_pretrain.crops import ViewConfig, apply_views, draw_views
from procmem_pretrain.descriptors import CHANNELS, cell_descriptors, layout_targets, patch_targets
from procmem_pretrain.distributed import rank, share
from procmem_pretrain.losses import alignment, coding_rate, regression
from procmem_pretrain.ranges import AREA, NOT_NEGATIVE, SHARE, Range, outside, reversed_pairs
from procmem_pretrain.seeds import stream, torch_seed
from procmem_pretrain.vit import make_vit, normalized, without_registers

LAYOUT_GRID = 4


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


_SIDE = Range(32, 1024, of=16)  # the layout is that of 4 x 4 cells of 8 pixels
_PHASE_RANGES = {"share": SHARE, "side": _SIDE, "keep": AREA}
_RANGES = {
    "local_views": Range(0, 100),
    "local_side": _SIDE,
    "local_scale": AREA,
    "global_scale": AREA,
    "drop_path": Range(0, 1, below=True),
    "projection": Range(1, 65_536),
    "expansion_weight": NOT_NEGATIVE,
    "patch_weight": NOT_NEGATIVE,
    "layout_weight": NOT_NEGATIVE,
}


@dataclass(frozen=True, slots=True)
class SimDinoConfig:
    """Constants of the fast objective.

    Attributes:
        phases: resolutions, first to last.
        local_views: small views per image, seen by the student only.
        local_side: pixels, a multiple of 16.
        local_scale: share of the image's area in a local view.
        global_scale: share of the image's area in a global view.
        drop_path: chance of skipping a residual branch (DINO: 0.1; 0 suits a short run).
        projection: width of the embedding that SimDINO compares.
        expansion_weight: of the coding rate.
        patch_weight: of the regression of patch descriptors.
        layout_weight: of the regression of the layout from the class token.
    """

    phases: tuple[Phase, ...] = (Phase(0.88, 128, 0.5), Phase(0.12, 192, 0.4))
    local_views: int = 2
    local_side: int = 64
    local_scale: tuple[float, float] = (0.05, 0.4)
    global_scale: tuple[float, float] = (0.25, 1.0)
    drop_path: float = 0.0
    projection: int = 128
    expansion_weight: float = 1.0
    patch_weight: float = 1.0
    layout_weight: float = 1.0

    def __post_init__(self) -> None:
        problems = outside(self, _RANGES)
        problems += reversed_pairs(self, "local_scale", "global_scale")
        for phase in self.phases:
            problems += outside(phase, _PHASE_RANGES)
        if not abs(sum(phase.share for phase in self.phases) - 1) <= 1e-6:
            problems.append(f"phases have shares {[p.share for p in self.phases]}, wanted sum 1")
        if problems:
            raise InputError("; ".join(problems))

    def phase_at(self, step: int, steps: int) -> Phase:
        """The phase of a step of so many."""
        end = 0.0
        for phase in self.phases:
            end += phase.share
            if step < end * steps - 1e-9:
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


class Network(nn.Module):
    """Transformer and projection: what both student and teacher have."""

    def __init__(self, vit: nn.Module, *, projection: int) -> None:
        super().__init__()
        self.vit = vit
        width = int(vit.embed_dim)  # type: ignore[arg-type]  # timm's
        self.projection = nn.Sequential(
            nn.Linear(width, 512),
            nn.GELU(),
            nn.Linear(512, 512),
            nn.GELU(),
            nn.Linear(512, projection),
        )

    def tokens(self, views: Tensor, keep: Tensor | None = None) -> Tensor:
        """(B, 3, s, s) in [0, 1] -> (B, 1 + K, P); `keep` (B, K) selects patches.

        Registers are seen by all blocks, and left out of the result.
        """
        vit = self.vit
        tokens = vit._pos_embed(vit.patch_embed(normalized(views)))  # type: ignore[operator]
        if keep is not None:
            prefix = int(vit.num_prefix_tokens)  # type: ignore[arg-type]  # timm's
            patches = torch.take_along_dim(tokens[:, prefix:], keep[:, :, None], dim=1)
            tokens = torch.cat([tokens[:, :prefix], patches], dim=1)
        normed: Tensor = vit.norm(vit.blocks(vit.norm_pre(tokens)))  # type: ignore[operator]
        return without_registers(vit, normed)

    def project(self, cls: Tensor) -> Tensor:
        """(B, P) class tokens -> (B, projection) float32 unit vectors."""
        return functional.normalize(self.projection(cls).float(), dim=1)


class SimDinoObjective(nn.Module):
    """Student, teacher, predictors of the descriptors, and the losses (see `objective.py`)."""

    def __init__(
        self,
        config: SimDinoConfig,
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
        self._root_seed, self._steps, self._batch = root_seed, steps, batch
        self._bf16 = precision == "bf16"
        self._diagnostics: dict[str, Tensor] = {}
        with torch.random.fork_rng(devices=[]):
            vit = make_vit(
                model, root_seed=root_seed, drop_path=config.drop_path, registers=registers
            )
            torch.manual_seed(torch_seed(root_seed, "heads"))
            self.student = Network(vit, projection=config.projection)
            self.patch_predictor = nn.Linear(vit.embed_dim, 4 * CHANNELS)
            self.layout_predictor = nn.Linear(vit.embed_dim, LAYOUT_GRID**2 * CHANNELS)
        teacher = make_vit(model, root_seed=root_seed, registers=registers)
        self.teacher = Network(teacher, projection=config.projection)
        self.teacher.load_state_dict(self.student.state_dict())
        self.teacher.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> SimDinoObjective:
        """The teacher never trains."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, step: int, images: Tensor) -> dict[str, Tensor]:
        """The weighted terms "alignment", "expansion", "patch", "layout" (`Objective.forward`)."""
        config = self.config
        teacher_view, global_view, local_views, keep = self._views(step, images)
        bf16 = torch.autocast(images.device.type, torch.bfloat16, enabled=self._bf16)

        with torch.no_grad(), bf16:
            target = self.teacher.project(self.teacher.tokens(teacher_view)[:, 0])
        with bf16:
            tokens = self.student.tokens(global_view, keep)
            embeddings = [self.student.project(tokens[:, 0])]
            patch = self.patch_predictor(tokens[:, 1:]).float()
            layout = self.layout_predictor(tokens[:, 0]).float()
            if local_views:
                local_tokens = self.student.tokens(torch.cat(local_views))
                embeddings += self.student.project(local_tokens[:, 0]).chunk(config.local_views)

        cells = cell_descriptors(global_view)
        kept_targets = torch.take_along_dim(patch_targets(cells), keep[:, :, None], dim=1)
        rates = torch.stack([coding_rate(e) for e in embeddings])
        terms = {
            "alignment": torch.stack([alignment(e, target) for e in embeddings]).mean(),
            "expansion": config.expansion_weight * (1 - rates.mean()),
            "patch": config.patch_weight * regression(patch, kept_targets),
            "layout": config.layout_weight
            * regression(layout, layout_targets(cells, grid=LAYOUT_GRID)),
        }
        self._diagnostics = {"rate": rates.mean().detach(), "teacher_rate": coding_rate(target)}
        return terms

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # torch leaves it so
    def _views(self, step: int, images: Tensor) -> tuple[Tensor, Tensor, list[Tensor], Tensor]:
        """(b, 3, S, S) uint8 -> the teacher's view, the student's, local ones, patches to keep.

        Every process draws for the whole batch and applies its share. Also seeds the drop path,
        of each process by itself.
        """
        config = self.config
        random = stream(self._root_seed, "step", step)
        torch.manual_seed(torch_seed(self._root_seed, "step", step, rank()))
        phase = config.phase_at(step, self._steps)
        own = share(self._batch)
        drawn = images.float().div_(255)

        def view(kind: ViewConfig) -> Tensor:
            return apply_views(drawn, draw_views(kind, self._batch, random).part(own), kind)

        teacher_view = view(config.teacher_view(phase))
        global_view = view(config.student_view(phase))
        local_views = [view(config.local_view()) for _ in range(config.local_views)]
        keep = _kept_patches((phase.side // 16) ** 2, self._batch, phase.keep, random)
        return teacher_view, global_view, local_views, keep[own].to(images.device)

    def before_update(self, step: int) -> None:
        """Nothing to do."""

    def diagnostics(self) -> dict[str, float]:
        """Coding rates of the student and of the teacher, shares of their maximum; 0: collapse."""
        return {name: value.item() for name, value in self._diagnostics.items()}


def _kept_patches(patches: int, count: int, share: float, random: np.random.Generator) -> Tensor:
    kept = max(1, round(patches * share))
    order = random.random((count, patches)).argsort(axis=1)[:, :kept]
    return torch.from_numpy(np.sort(order, axis=1))
