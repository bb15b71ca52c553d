"""Two models' answers to the same images -> how far apart they are.

Pure arithmetic on embeddings; `gate.py` makes them and judges what comes out.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from procmem.types import Embedding
from procmem.vote import TEMPERATURE


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


@dataclass(frozen=True, slots=True)
class Retrieval:
    """How two models find the images of one program among those of others.

    Attributes:
        images: N, each asked once and left out of what it may find.
        neighbors: k.
        neighbor_overlap: mean share of the k nearest images that both models find.
        label_agreement: share of images to which both models' k-NN votes give one label.
        original_accuracy: share of images that the original's vote labels right.
        copy_accuracy: the same of the copy's.
    """

    images: int
    neighbors: int
    neighbor_overlap: float
    label_agreement: float
    original_accuracy: float
    copy_accuracy: float

    def as_dict(self) -> dict[str, float]:
        """The figures by name, for the manifest."""
        return {name: float(value) for name, value in dataclasses.asdict(self).items()}


def compare_retrieval(
    original: npt.NDArray[np.float32],
    copy: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    *,
    neighbors: int = 20,
) -> Retrieval:
    """Compares k-nearest-neighbor answers, each image asked about all others.

    Votes weigh exp(similarity / 0.07), as in `procmem.vote`.

    Args:
        original: (N, D) unit vectors.
        copy: (N, D) of the same images by the other model.
        labels: (N,) what should be found together.
        neighbors: k, fewer where N - 1 is.
    """
    k = min(neighbors, len(labels) - 1)
    first, second = _nearest(original, k), _nearest(copy, k)
    shared = [len(np.intersect1d(a, b)) / k for a, b in zip(first[0], second[0], strict=True)]
    votes = [_labels(found, similarity, labels) for found, similarity in (first, second)]
    return Retrieval(
        images=len(labels),
        neighbors=k,
        neighbor_overlap=float(np.mean(shared)),
        label_agreement=float((votes[0] == votes[1]).mean()),
        original_accuracy=float((votes[0] == labels).mean()),
        copy_accuracy=float((votes[1] == labels).mean()),
    )


def _nearest(
    cls: npt.NDArray[np.float32], k: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
    """The k other rows that are most similar to each, nearest first, and their similarities."""
    similarity = cls.astype(np.float64) @ cls.astype(np.float64).T
    np.fill_diagonal(similarity, -np.inf)
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(similarity, order, axis=1)


def _labels(
    found: npt.NDArray[np.intp], similarity: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    weights = np.exp((similarity - similarity[:, :1]) / TEMPERATURE)
    votes = np.zeros((len(found), int(labels.max()) + 1))
    np.add.at(votes, (np.arange(len(found))[:, None], labels[found]), weights)
    return np.asarray(votes.argmax(axis=1))


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
