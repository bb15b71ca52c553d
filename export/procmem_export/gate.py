"""The gate that every model file passes or is not written: original and file on the same images.

Takes the torch original and a finished file, runs the file as those who use it will (by the SDK, or
by ONNX Runtime where the SDK does not take such files), gives a `GateReport` to `export.py`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from procmem import Embedder
from procmem.backends.contract import CLS, INPUT, PATCHES
from procmem.backends.onnxruntime import import_onnxruntime
from procmem.errors import InputError
from procmem.manifest import Manifest, write_manifest
from procmem.preprocess import MAX_SIDE, MIN_PATCHES, at_side, to_tensor
from procmem.types import Embedding
from procmem_export.formats import MINIMUM_AGREEMENT, Plan
from procmem_export.parity import ParityReport, Retrieval, compare, compare_retrieval
from procmem_pretrain.probes import probe_images, retrieval_images
from procmem_pretrain.vit import Perception

Progress = Callable[[int, "int | None"], None]
Images = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class GateReport:
    """What the gate measured.

    Attributes:
        parity: by the side at which it was measured, pixels; the model's own first.
        retrieval: at the model's own side; None if it was not asked for.
        minimum_cosine: what every side had to reach, see `formats.MINIMUM_COSINE`.
        minimum_agreement: what retrieval had to reach.
        engine: what ran the file.
    """

    parity: dict[int, ParityReport]
    retrieval: Retrieval | None
    minimum_cosine: float
    minimum_agreement: float
    engine: str

    @property
    def failures(self) -> tuple[str, ...]:
        """What is below the gate, with figures; empty if the file passed."""
        failures = [
            f"at {side} pixels class-token cosine {report.cls_cosine_min:.6f} and patch-token "
            f"cosine {report.patch_cosine_mean:.6f}, wanted {self.minimum_cosine} or more"
            for side, report in self.parity.items()
            if not report.passes(self.minimum_cosine)
        ]
        task = self.retrieval
        if task is not None and not task.label_agreement >= self.minimum_agreement:
            failures.append(
                f"{task.label_agreement:.4f} of {task.images} images have the same k-NN label, "
                f"wanted {self.minimum_agreement} or more"
            )
        return tuple(failures)

    def figures(self) -> dict[str, float]:
        """By name for the manifest: those of the first side plain, others with theirs."""
        (_, own), *others = self.parity.items()
        named = own.as_dict()
        for side, report in others:
            named |= {f"{name}_at_{side}": value for name, value in report.as_dict().items()}
        if self.retrieval is not None:
            named |= {f"retrieval_{k}": v for k, v in self.retrieval.as_dict().items()}
        return named


def measure(
    model: Perception,
    data: bytes,
    manifest: Manifest,
    plan: Plan,
    *,
    probes: int,
    programs: int,
    progress: Progress | None = None,
) -> GateReport:
    """Runs the original in torch and the file as its users will, on the same images.

    Args:
        model: the original, float32, on the CPU.
        data: the file's bytes.
        manifest: of the file.
        plan: what the file was to be.
        probes: images to compare at each of `gate_sides`, 2 or more.
        programs: of the retrieval task, 8 images each; 0 for none, else 2 or more.
        progress: called with (images compared, images in all).

    Raises:
        InputError: too few probes or programs.
        ModelError: the engine failed on the file, or the file contradicts its manifest.
        RenderError: no graphics context for the images.
    """
    if probes < 2 or programs == 1 or programs < 0:
        raise InputError(
            f"probes is {probes} and programs is {programs}, wanted 2 or more, and 0 programs or "
            "2 or more"
        )
    images = probe_images(probes)
    found, labels = retrieval_images(programs) if programs else (images[:0], None)
    sides = gate_sides(manifest, plan)
    total, done = probes * len(sides) + len(found), 0

    def told(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    parity: dict[int, ParityReport] = {}
    retrieval: Retrieval | None = None
    engine = ""
    for side in sides:
        with _runner(data, manifest, side=side) as (run, notice):
            engine = notice
            copy = run(images)
            parity[side] = compare(_original(model, manifest, images, side=side), copy)
            told(probes)
            if labels is not None and side == sides[0]:
                pairs = []
                for start in range(0, len(found), 32):
                    part = found[start : start + 32]
                    ours = _original(model, manifest, part, side=side).cls
                    pairs.append((ours, run(part).cls))
                    told(len(part))
                ours, theirs = (np.concatenate(rows) for rows in zip(*pairs, strict=True))
                retrieval = compare_retrieval(ours, theirs, labels)
    return GateReport(parity, retrieval, plan.minimum_cosine, MINIMUM_AGREEMENT, engine)


def gate_sides(manifest: Manifest, plan: Plan) -> tuple[int, ...]:
    """The sides at which parity is measured, pixels: the file's only one, or three.

    Of a file for every side: the model's own, about half of it, and twice. A smaller grid reads
    the position table through a wider filter, a larger one between its points.
    """
    own, patch = plan.own_side, manifest.patch_size
    if plan.side is not None:
        return (own,)
    half = max(own // 2 // patch, MIN_PATCHES) * patch
    return own, half, min(2 * own, MAX_SIDE // patch * patch)


@contextmanager
def _runner(
    data: bytes, manifest: Manifest, *, side: int
) -> Iterator[tuple[Callable[[Images], Embedding], str]]:
    """What runs a file on images of one size, and its name."""
    if manifest.input == "pixels" or manifest.batch not in (None, 1):
        yield _raw_runner(data, manifest, side=side)
        return
    device = "tensorrt" if manifest.kind == "tensorrt" else "cpu"
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / manifest.file
        path.write_bytes(data)
        write_manifest(manifest, path.parent)
        image_size = side if manifest.any_side else None
        with Embedder(path, image_size=image_size, device=device) as embedder:
            yield (lambda images: embedder.embed(list(images))), embedder.notice


def _raw_runner(
    data: bytes, manifest: Manifest, *, side: int
) -> tuple[Callable[[Images], Embedding], str]:
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session: Any = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    batch = manifest.batch or 1

    def run(images: Images) -> Embedding:
        inputs: npt.NDArray[Any] = (
            images
            if manifest.input == "pixels"
            else to_tensor(images, at_side(manifest.preprocessing, side))
        )
        # The last run is filled up with its own last image.
        padded = np.concatenate([inputs, np.repeat(inputs[-1:], -len(inputs) % batch, axis=0)])
        answers = [
            session.run([CLS, PATCHES], {INPUT: padded[at : at + batch]})
            for at in range(0, len(padded), batch)
        ]
        cls, patches = (
            np.concatenate(parts)[: len(images)] for parts in zip(*answers, strict=True)
        )
        return Embedding(cls, patches)

    return run, f"ONNX Runtime {onnxruntime.__version__} on cpu"


@torch.no_grad()
def _original(model: Perception, manifest: Manifest, images: Images, *, side: int) -> Embedding:
    views = to_tensor(images, at_side(manifest.preprocessing, side))
    # One at a time: attention over the patches of many large views would need gigabytes.
    parts = [model(torch.from_numpy(view[None])) for view in views]
    cls, patches = (torch.cat(tensors).numpy() for tensors in zip(*parts, strict=True))
    return Embedding(cls, patches)
