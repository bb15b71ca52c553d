"""Every method on every task that a data set allows, cell by cell.

A finished cell is written down at once (`report.Results`), and a later run with equal method, data
and options takes it from there.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from procmem.errors import InputError, unknown_choice
from procmem_pretrain.evaluation import classification, privacy, segmentation, similarity
from procmem_pretrain.evaluation.datasets import (
    ClassificationSet,
    DataSet,
    MaskedImage,
    SegmentationSet,
    SimilaritySet,
    fingerprint,
)
from procmem_pretrain.evaluation.methods import Method
from procmem_pretrain.evaluation.report import Results

Float32 = npt.NDArray[np.float32]
Protocol = Literal["exact", "paper"]

TASKS = {
    "knn": "k-NN top-1, %",
    "linear": "linear classifier on frozen embeddings, top-1, %",
    "privacy": "items whose removal changes an answer, %",
    "2afc": "agreement with people (or with the construction), %",
    "pca": "PCA R2 of masks by three components of patch tokens, %",
    "kmeans": "k-means regions of one image, best matching, mIoU, %",
    "in-context": "segmentation from one example, mIoU, %",
    "in-context-accuracy": "segmentation from one example, pixel accuracy, %",
    "knn-segmentation": "k-NN segmentation over the memory's patches, mIoU, %",
    "knn-segmentation-accuracy": "k-NN segmentation over the memory's patches, pixel accuracy, %",
}
"""What can be measured, with what its table is called."""


MEASURES = 2
"""One more whenever a measure changes, so that a folder of results is not mixed of two. Since 2
pixels without a label do not vote."""


@dataclass(frozen=True, slots=True)
class Options:
    """How it is measured.

    Attributes:
        protocol: "paper" for the published rules, "exact" for the honest ones.
        k: neighbors of the "exact" vote; the paper takes the best of several.
        limit: at most so many images of each part of a set; None for all.
        side: of the images whose patches are looked at, pixels.
    """

    protocol: Protocol = "exact"
    k: int = classification.K
    limit: int | None = None
    side: int = 448

    def __post_init__(self) -> None:
        if self.protocol not in ("exact", "paper"):
            raise unknown_choice("protocol", self.protocol, ("exact", "paper"))
        for name in ("k", "limit", "side"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}, wanted 1 or more")
        if self.side % 16:
            raise InputError(f"side is {self.side}, wanted a multiple of 16")


def check_tasks(tasks: Sequence[str]) -> None:
    """Raises InputError unless all are keys of `TASKS`; the message offers the nearest."""
    for task in tasks:
        if task not in TASKS:
            raise unknown_choice("task", task, TASKS)


@dataclass(frozen=True, slots=True)
class Cell:
    """One number to find.

    Attributes:
        task: key of `TASKS`.
        data: name of the data set.
        method: name of the method.
        key: of the method, the data and the options that matter.
        score: computes it.
    """

    task: str
    data: str
    method: str
    key: str
    score: Callable[[], float]


def cells(
    data_sets: Sequence[DataSet],
    methods: Sequence[Method],
    options: Options,
    *,
    tasks: Sequence[str] = tuple(TASKS),
) -> Iterator[Cell]:
    """All cells of a run, those of one method and set together."""
    suffix = f" {dataclasses.asdict(options)} {MEASURES}"
    for data in data_sets:
        own_suffix = f" {fingerprint(data)}{suffix}"
        for method in methods:
            if isinstance(data, ClassificationSet):
                own = _classification(data, method, options)
            elif isinstance(data, SegmentationSet):
                own = _segmentation(data, method, options)
            else:
                own = _similarity(data, method, options)
            for task, score in own.items():
                if task in tasks:
                    key = f"{method.key} {data.name} {task}{own_suffix}"
                    yield Cell(task, data.name, method.name, key, score)
        if isinstance(data, SimilaritySet) and "2afc" in tasks:
            for name, measure in (("PSNR", similarity.psnr), ("SSIM", similarity.ssim)):
                key = f"{name} {data.name}{own_suffix}"
                yield Cell("2afc", data.name, name, key, _pairwise(data, measure, options))


def check_names(methods: Sequence[Method]) -> None:
    """Raises InputError if two methods have one name: a table has one row for each."""
    for name, count in Counter(method.name for method in methods).items():
        if count > 1:
            raise InputError(
                f"{count} checkpoints are called {name!r}, by their folder and file; rename a "
                "folder, or measure them one after the other"
            )


def run(
    wanted: Sequence[Cell],
    results: Results,
    *,
    progress: Callable[[int, int | None], None] | None = None,
) -> None:
    """Fills in the cells that `results` does not hold yet."""
    for done, cell in enumerate(wanted):
        if progress is not None:
            progress(done, len(wanted))
        if not results.holds(cell.key):
            results.add(cell.task, cell.data, cell.method, cell.key, cell.score())
        else:
            results.show(cell.key)
    if progress is not None:
        progress(len(wanted), len(wanted))


def _classification(
    data: ClassificationSet, method: Method, options: Options
) -> dict[str, Callable[[], float]]:
    memory = data.memory.first(options.limit)
    paper = options.protocol == "paper"
    asked = data.validation if paper and data.validation is not None else data.query
    query = asked.first(options.limit)
    ks: Sequence[int] = (options.k,)
    if paper:
        ks = classification.PAPER_KS if data.validation is None else classification.MEDMNIST_KS
    kept: list[tuple[Float32, Float32]] = []

    def embedded() -> tuple[Float32, Float32]:
        if not kept:
            kept.append((method.embed(memory.images), method.embed(query.images)))
        return kept[0]

    def knn() -> float:
        known, unknown = embedded()
        return classification.knn_accuracy(known, memory.labels, unknown, query.labels, ks=ks)

    def linear() -> float:
        known, unknown = embedded()
        return classification.linear_accuracy(known, memory.labels, unknown, query.labels)

    def exposed() -> float:
        known, unknown = embedded()
        return privacy.exposed_share(known, memory.labels, unknown, k=options.k)

    return {"knn": knn, "linear": linear, "privacy": exposed}


def _similarity(
    data: SimilaritySet, method: Method, options: Options
) -> dict[str, Callable[[], float]]:
    asked = _first_triplets(data, options)
    return {"2afc": lambda: similarity.forced_choice(asked, method.embed)}


def _pairwise(
    data: SimilaritySet,
    measure: Callable[[similarity.UInt8, similarity.UInt8], float],
    options: Options,
) -> Callable[[], float]:
    asked = _first_triplets(data, options)
    return lambda: similarity.pairwise_choice(asked, measure)


def _first_triplets(data: SimilaritySet, options: Options) -> SimilaritySet:
    return dataclasses.replace(data, triplets=data.triplets[: options.limit])


def _segmentation(
    data: SegmentationSet, method: Method, options: Options
) -> dict[str, Callable[[], float]]:
    if method.patches is None:
        return {}
    patches, ignore, side, protocol = method.patches, data.ignore, options.side, options.protocol

    def loaded(files: Sequence[tuple[object, object]]) -> list[MaskedImage]:
        part = files if options.limit is None else files[: options.limit]
        return [data.load(pair) for pair in part]  # type: ignore[arg-type]

    def pca() -> float:
        return segmentation.pca_r2(
            loaded(data.query), patches, side=side, ignore=ignore, protocol=protocol
        )

    def kmeans() -> float:
        return segmentation.kmeans_miou(
            loaded(data.query), patches, side=side, ignore=ignore, seed=0
        )

    @cache
    def in_context() -> segmentation.Score:
        prompts, queries = loaded(data.memory), loaded(data.query)
        pairs = [(prompts[i % len(prompts)], query) for i, query in enumerate(queries)]
        return segmentation.in_context_score(
            pairs, patches, side=side, ignore=ignore, protocol=protocol
        )

    @cache
    def knn() -> segmentation.Score:
        return segmentation.knn_score(
            loaded(data.memory),
            loaded(data.query),
            patches,
            side=side,
            ignore=ignore,
            protocol=protocol,
        )

    return {
        "pca": pca,
        "kmeans": kmeans,
        "in-context": lambda: in_context().miou(),
        "in-context-accuracy": lambda: in_context().accuracy(),
        "knn-segmentation": lambda: knn().miou(),
        "knn-segmentation-accuracy": lambda: knn().accuracy(),
    }
