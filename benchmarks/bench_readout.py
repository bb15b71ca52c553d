"""Which readout is best, for a trained transformer and for random weights.

    python benchmarks/bench_readout.py DATA [--limit 400] [--out TABLE]

Every readout is fitted on the same procedural images and measured by k-NN top-1 (k = 20) on real
ones; some read the tokens of earlier blocks too, after the final norm. The second table does the
same for patch tokens: what a whitening of them, fitted on procedural patches, changes in k-NN
segmentation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from procmem_pretrain.checkpoint import load_perception
from procmem_pretrain.compact import procedural_tokens
from procmem_pretrain.evaluation.classification import knn_accuracy
from procmem_pretrain.evaluation.datasets import (
    ClassificationSet,
    SegmentationSet,
    find_data_sets,
)
from procmem_pretrain.evaluation.methods import BASELINE, Patches, Perceiver, unit
from procmem_pretrain.evaluation.segmentation import kmeans_miou, knn_score, pca_r2
from procmem_pretrain.readout import RIDGE, fit_readout
from procmem_pretrain.vit import make_vit, statistics, statistics_blocks

CHECKPOINT = Path(__file__).parent.parent / "checkpoints" / "vit-tiny.safetensors"

# Blocks of twelve after which tokens are read.
AFTER = (3, 6, 9, 12)
LAST = AFTER[-1]

# name -> after which blocks how many parts are read (class, mean, deviation, layout), each to equal
# variance or not, dimension, ridge
FORMS: dict[str, tuple[Mapping[int, int], bool, int, float]] = {
    "class token, whitened": ({LAST: 1}, True, 192, RIDGE),
    "class token, mean": ({LAST: 2}, False, 384, RIDGE),
    "class token, mean, deviation": ({LAST: 3}, False, 384, RIDGE),
    "... and layout": ({LAST: 4}, False, 384, RIDGE),
    "**... and layout, equal variances**": ({LAST: 4}, True, 384, RIDGE),
    "the same, 256 kept": ({LAST: 4}, True, 256, RIDGE),
    "the same, 128 kept": ({LAST: 4}, True, 128, RIDGE),
    "the same, ridge 0.001": ({LAST: 4}, True, 384, 0.001),
    "the same, ridge 0.1": ({LAST: 4}, True, 384, 0.1),
    "the same, after 9 blocks": ({9: 4}, True, 384, RIDGE),
    "the same, after 6 blocks": ({6: 4}, True, 384, RIDGE),
    "the same, after 3 blocks": ({3: 4}, True, 384, RIDGE),
    "the same, after 12 and 6 blocks": ({12: 4, 6: 4}, True, 384, RIDGE),
    "the same, and without the layout after 9": ({12: 4, 9: 3}, True, 384, RIDGE),
    "the same, and without the layout after 9, 6, 3": ({12: 4, 9: 3, 6: 3, 3: 3}, True, 384, RIDGE),
}

_PATCH_SIDE = 224


class Layers:
    """A transformer whose tokens are those after several of its blocks, side by side.

    Args:
        vit: of twelve blocks.

    `forward_features` gives (B, 1 + h * w, P * len(AFTER)).
    """

    num_prefix_tokens = 1

    def __init__(self, vit: Any) -> None:
        self.vit = vit
        self.width = int(vit.embed_dim)

    def eval(self) -> Layers:
        """As a transformer's."""
        self.vit.eval()
        return self

    def forward_features(self, images: Tensor) -> Tensor:
        """See the class."""
        found = self.vit.forward_intermediates(
            images,
            indices=[block - 1 for block in AFTER],
            norm=True,
            output_fmt="NLC",
            return_prefix_tokens=True,
            intermediates_only=True,
        )
        return torch.cat([torch.cat([first, patches], dim=1) for patches, first in found], dim=2)

    def columns(self, form: Mapping[int, int]) -> list[npt.NDArray[np.intp]]:
        """Where the parts that a form reads stand in `statistics` of the tokens, part by part."""
        wide = self.width * len(AFTER)
        found, start = [], 0
        for part, size in enumerate(statistics_blocks(wide)):
            places = np.arange(start, start + size).reshape(-1, len(AFTER), self.width)
            found += [
                places[:, AFTER.index(block)].ravel()
                for block, parts in form.items()
                if part < parts
            ]
            start += size
        return found


def readings(
    perceiver: Perceiver, fitted_on: Tensor, sets: Sequence[ClassificationSet], limit: int
) -> dict[str, list[float]]:
    """Name of the form -> k-NN top-1 of every set, percent."""
    layers = perceiver.vit
    seen = []
    for data in sets:
        memory, query = data.memory.first(limit), data.query.first(limit)
        rows = [perceiver.token_statistics(part.images) for part in (memory, query)]
        seen.append((rows[0], memory.labels, rows[1], query.labels))

    def measure(read: Any) -> list[float]:
        return [
            knn_accuracy(unit(read(memory)), labels, unit(read(query)), wanted)
            for memory, labels, query, wanted in seen
        ]

    token = layers.columns({LAST: 1})[0]
    scores = {"class token": measure(lambda rows: rows[:, token])}
    for name, (form, equal, dimension, ridge) in FORMS.items():
        parts = layers.columns(form)
        read = np.concatenate(parts)
        weight, bias = fit_readout(
            fitted_on[:, read],
            dimension=min(dimension, len(read)),
            blocks=[len(part) for part in parts] if equal else (len(read),),
            ridge=ridge,
        )
        w, b = weight.numpy(), bias.numpy()
        scores[name] = measure(lambda rows, r=read, w=w, b=b: rows[:, r] @ w.T + b)
    return scores


def patch_readings(
    patches: Patches, fitted_on: Tensor, data: SegmentationSet, limit: int
) -> dict[str, tuple[float, float, float]]:
    """Form -> k-NN segmentation, k-means regions (mIoU) and PCA R2, percent."""
    width = fitted_on.shape[1]
    mean = fitted_on.mean(0)
    weight, bias = fit_readout(fitted_on, dimension=width, blocks=(width,))
    forms = {
        "as they come": (torch.eye(width), torch.zeros(width)),
        "centered": (torch.eye(width), -mean),
        "whitened": (weight, bias),
    }
    memory = [data.load(pair) for pair in data.memory[:: max(1, len(data.memory) // limit)]]
    queries = [data.load(pair) for pair in data.query[:: max(1, len(data.query) // limit)]]
    scores = {}
    for name, form in forms.items():
        w, b = (part.numpy() for part in form)

        def changed(image: Any, size: tuple[int, int], w: Any = w, b: Any = b) -> Any:
            return (patches(image, size) @ w.T + b).astype(np.float32)

        ignore, side = data.ignore, _PATCH_SIDE
        scores[name] = (
            knn_score(memory, queries, changed, side=side, ignore=ignore).miou(),
            kmeans_miou(queries, changed, side=side, ignore=ignore),
            pca_r2(queries, changed, side=side, ignore=ignore),
        )
    return scores


@click.command()
@click.argument("data", type=click.Path(path_type=Path, exists=True))
@click.option("--limit", default=400, show_default=True, help="Images of each part of a set.")
@click.option("--scenes", default=40, show_default=True, help="Images with masks, of each part.")
@click.option("--out", type=click.Path(path_type=Path))
def main(data: Path, limit: int, scenes: int, out: Path | None) -> None:
    """Prints two Markdown tables."""
    found = find_data_sets([data])
    sets = [one for one in found if isinstance(one, ClassificationSet)]
    masked = next((one for one in found if isinstance(one, SegmentationSet)), None)
    names = " | ".join(one.name for one in sets)
    lines = [
        f"k-NN top-1 in percent, k = 20, at most {limit} images of each part of a set; readouts "
        f"fitted on {BASELINE.readout_images:,} procedural images.",
        "",
        f"| weights | readout | {names} | mean |",
        "|---|---|" + "---|" * (len(sets) + 1),
    ]
    rows = []
    manifest, shipped = load_perception(CHECKPOINT)
    random = make_vit(manifest.name, root_seed=0)
    trained = make_vit(manifest.name, root_seed=0)
    trained.load_state_dict(shipped.vit.state_dict())
    for weights, vit in (("trained", trained.eval()), ("random", random.eval())):
        layers = Layers(vit)
        rows_of, tokens = [], []
        for part in procedural_tokens(layers, BASELINE):
            rows_of.append(statistics(part, (14, 14)))
            tokens.append(part[:, 1::7, -layers.width :].flatten(0, 1))
        features = torch.cat(rows_of)
        for name, scores in readings(Perceiver(layers, None), features, sets, limit).items():
            cells = " | ".join(f"{score:.1f}" for score in scores)
            lines.append(f"| {weights} | {name} | {cells} | {np.mean(scores):.1f} |")
            click.echo(lines[-1], err=True)
        if masked is not None:
            patches = Perceiver(vit, None).patches
            for name, three in patch_readings(patches, torch.cat(tokens), masked, scenes).items():
                rows.append(
                    f"| {weights} | {name} | " + " | ".join(f"{v:.1f}" for v in three) + " |"
                )
                click.echo(rows[-1], err=True)
    if masked is not None:
        lines += [
            "",
            f"Patch tokens on {masked.name}, {_PATCH_SIDE} px, {scenes} images of each part.",
            "",
            "| weights | patch tokens | k-NN mIoU | k-means mIoU | PCA R2 |",
            "|---|---|---|---|---|",
            *rows,
        ]
    table = "\n".join(lines) + "\n"
    click.echo(table)
    if out is not None:
        out.write_text(table)


if __name__ == "__main__":
    main()
