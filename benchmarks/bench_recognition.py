"""How well the shipped perception recognizes real images, beside what it must beat.

    python benchmarks/bench_recognition.py DATA [--out TABLE.md]

DATA holds sets as DATA/<set>/memory/<label>/* and DATA/<set>/query/<label>/*. k-NN top-1 in
percent, k = 20, weights exp(similarity / 0.07), inputs resized to 256 and cropped to 224 (the
protocol of "Separating Knowledge and Perception with Procedural Data", ICML 2025).

"Random init" is the same architecture with its initial weights, and the same readout fitted on the
same procedural images. Needs `pip install '.[dev]'`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from skimage.color import rgb2gray
from skimage.feature import hog
from skimage.transform import resize

from procmem import Embedder
from procmem.evaluate import Embed, evaluate_folders
from procmem.image import ImageLike, load_image
from procmem.preprocess import center_view, decode_min_side
from procmem_pretrain.checkpoint import load_perception
from procmem_pretrain.compact import procedural_readout
from procmem_pretrain.config import TrainConfig
from procmem_pretrain.vit import make_vit, statistics

CHECKPOINT = Path(__file__).parent.parent / "checkpoints" / "vit-tiny.safetensors"


class Statistics:
    """Token statistics of a transformer, kept per image, so that two readings cost one pass."""

    def __init__(self, vit: Any, preprocessing: Any) -> None:
        self._vit, self._preprocessing = vit.eval(), preprocessing
        self._seen: dict[str, np.ndarray] = {}

    @torch.no_grad()
    def __call__(self, images: Iterable[ImageLike]) -> np.ndarray:
        """Paths -> (N, 19P) float32."""
        images = list(images)
        new = [image for image in images if str(image) not in self._seen]
        for first in range(0, len(new), 16):
            part = new[first : first + 16]
            least = decode_min_side(self._preprocessing)
            views = [center_view(load_image(i, min_side=least), self._preprocessing) for i in part]
            tokens = self._vit.forward_features(torch.from_numpy(np.stack(views)))
            grid = self._vit.patch_embed.grid_size
            for image, row in zip(part, statistics(tokens, grid).numpy(), strict=True):
                self._seen[str(image)] = row
        return np.stack([self._seen[str(image)] for image in images])

    def class_token(self) -> Embed:
        """The plain class token."""
        width = self._vit.embed_dim
        return lambda images: np.ascontiguousarray(self(images)[:, :width])

    def readout(self, weight: torch.Tensor, bias: torch.Tensor) -> Embed:
        """The class token after the readout."""
        return lambda images: self(images) @ weight.numpy().T + bias.numpy()


def rgb_histogram(images: Iterable[ImageLike]) -> np.ndarray:
    """Square roots of 8 x 8 x 8 color shares: their dot product is Bhattacharyya's coefficient."""
    rows = []
    for image in images:
        bins = load_image(image).reshape(-1, 3) // 32
        flat = (bins[:, 0].astype(int) * 8 + bins[:, 1]) * 8 + bins[:, 2]
        counts = np.bincount(flat, minlength=512)
        rows.append(np.sqrt(counts / counts.sum()))
    return np.array(rows, np.float32)


def hog_descriptor(images: Iterable[ImageLike]) -> np.ndarray:
    """scikit-image's HOG on 128 x 128 grey, 16-pixel cells, 2 x 2 blocks."""
    rows = [
        hog(
            resize(rgb2gray(load_image(image)), (128, 128), anti_aliasing=True),
            orientations=9,
            pixels_per_cell=(16, 16),
            cells_per_block=(2, 2),
        )
        for image in images
    ]
    return np.array(rows, np.float32)


@click.command()
@click.argument("data", type=click.Path(path_type=Path, exists=True))
@click.option("--out", type=click.Path(path_type=Path))
def main(data: Path, out: Path | None) -> None:
    """Prints one Markdown table."""
    manifest, shipped = load_perception(CHECKPOINT)
    config = TrainConfig(model=str(manifest.config["model"]))
    torch.set_grad_enabled(False)
    random = make_vit(config.model, root_seed=config.root_seed, fixed_side=True)
    weight, bias = procedural_readout(random, config)
    before = Statistics(random, manifest.preprocessing)
    after = Statistics(shipped.vit, manifest.preprocessing)
    embedder = Embedder()
    methods: dict[str, Callable[..., Any]] = {
        "RGB histogram": rgb_histogram,
        "HOG": hog_descriptor,
        "random init, class token": before.class_token(),
        "random init, readout": before.readout(weight, bias),
        "shipped, class token": after.class_token(),
        "**shipped** (readout)": lambda images: embedder.embed(images).cls,
    }
    sets = sorted(p.name for p in data.iterdir() if (p / "memory").is_dir())
    scores = {name: [] for name in methods}
    for name in sets:
        for method, embed in methods.items():
            result = evaluate_folders(data / name / "memory", data / name / "query", embed=embed)
            scores[method].append(100 * result.accuracy[20])
            click.echo(f"{name} {method} {scores[method][-1]:.1f}", err=True)
    lines = [
        "| k-NN top-1, % | " + " | ".join(sets) + " | mean |",
        "|---|" + "---|" * (len(sets) + 1),
    ]
    lines += [
        f"| {method} | " + " | ".join(f"{v:.1f}" for v in values) + f" | {np.mean(values):.1f} |"
        for method, values in scores.items()
    ]
    table = "\n".join(lines)
    click.echo(table)
    if out is not None:
        out.write_text(
            "# Recognition\n\n"
            "`python benchmarks/bench_recognition.py DATA`: k-NN top-1 in percent, k = 20, weights "
            "exp(similarity / 0.07).\nRandom init: the same architecture untrained, with the same "
            "readout fitted on the same procedural images.\n\n"
            f"Model {manifest.name}, {manifest.origin.steps} steps, "
            f"{manifest.origin.images_seen:,} procedural images, SHA-256 of the checkpoint "
            f"{manifest.sha256[:16]}.\n\n{table}\n"
        )


if __name__ == "__main__":
    main()
