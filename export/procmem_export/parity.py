"""Two models and probe images -> how far apart their answers are.

Takes the torch original and a model file as the SDK runs it, gives `ParityReport` to `export.py`,
which keeps no file that fails.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from procmem.types import Embedding


@dataclass(frozen=True, slots=True)
class ParityReport:
    """How well a copy answers as its original does, over N probes.

    Attributes:
        probes: N.
        cls_cosine_min: smallest cosine between the two class tokens of one probe.
        patch_cosine_mean: mean cosine between corresponding patch tokens.
        patch_cosine_min: the smallest.
        nearest_agreement: share of probes whose nearest other probe is the same in both.
    """

    probes: int
    cls_cosine_min: float
    patch_cosine_mean: float
    patch_cosine_min: float
    nearest_agreement: float

    def passes(self, minimum_cosine: float) -> bool:
        """True if every class token and the mean patch token reach the cosine."""
        return self.cls_cosine_min >= minimum_cosine and self.patch_cosine_mean >= minimum_cosine

    def as_dict(self) -> dict[str, float]:
        """The figures by name, for the manifest."""
        return {name: float(value) for name, value in dataclasses.asdict(self).items()}


def compare(original: Embedding, copy: Embedding) -> ParityReport:
    """Compares two models' embeddings of the same N probes, N 2 or more."""
    cls = _cosines(original.cls, copy.cls)
    patches = _cosines(original.patches, copy.patches)
    agreement = _nearest_other(original.cls) == _nearest_other(copy.cls)
    return ParityReport(
        probes=len(cls),
        cls_cosine_min=float(cls.min()),
        patch_cosine_mean=float(patches.mean()),
        patch_cosine_min=float(patches.min()),
        nearest_agreement=float(agreement.mean()),
    )


def _cosines(
    first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    a, b = first.astype(np.float64), second.astype(np.float64)
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    cosines: npt.NDArray[np.float64] = (a * b).sum(axis=-1) / np.maximum(lengths, 1e-12)
    return cosines


def _nearest_other(cls: npt.NDArray[np.float32]) -> npt.NDArray[np.intp]:
    similarity = cls @ cls.T
    np.fill_diagonal(similarity, -np.inf)
    return np.asarray(similarity.argmax(axis=1))
