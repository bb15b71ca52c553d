"""How often a memory of one folder recognizes the photos of another.

Takes folders from `photos.py` and any function that embeds; searches with `patchsim.py` and lets
`vote.py` decide. It is the k-NN protocol of "Separating Knowledge and Perception with Procedural
Data" (ICML 2025): cosine similarity, k nearest, weights exp(similarity / 0.07). Everything stays in
working memory: never makes a vault, never writes a file, never looks at a label of the asked photos
but to count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from procmem.embedder import Embedder
from procmem.errors import ImageError, InputError
from procmem.image import ImageLike
from procmem.patchsim import top_k
from procmem.photos import Photo, find_labelled
from procmem.vote import vote

Float32 = npt.NDArray[np.float32]

Embed = Callable[[Iterable[ImageLike]], Float32]
"""Images to (N, D) float32, one row per image in their order; a row depends on its image alone."""

Progress = Callable[[int, "int | None"], None]

# So few that the patch tokens an Embedder also returns stay small (150 kB an image for ViT-Ti).
_IMAGES_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How well folders were recognized.

    Attributes:
        accuracy: for each k the share of asked photos with the right label, in [0, 1].
        by_label: for the first k, each asked label's own share, labels ascending.
        labels: how many labels were taught.
        taught: how many photos were taught.
        asked: how many photos were asked.
        skipped: photos that could not be read, as (path, reason) pairs; they count nowhere.
    """

    accuracy: Mapping[int, float]
    by_label: Mapping[str, float]
    labels: int
    taught: int
    asked: int
    skipped: tuple[tuple[str, str], ...]


def evaluate_folders(
    memory_dir: Path | str,
    query_dir: Path | str,
    *,
    embed: Embed | Embedder | None = None,
    ks: Sequence[int] = (20,),
    progress: Progress | None = None,
) -> Evaluation:
    """Teaches one folder and asks another, by k-nearest-neighbor vote.

    Args:
        memory_dir: `memory_dir/<label>/*` is taught.
        query_dir: `query_dir/<label>/*` is asked.
        embed: what turns photos into vectors: an `Embedder`, or any function of this kind (it is
            given paths, and its rows are scaled to unit length here); None for the bundled model.
        ks: numbers of neighbors that vote, each at least 1; more than the memory holds means all.
        progress: called after each photo with (done, total).

    Returns:
        See `Evaluation`. Cost: one embedding per photo, and one pass over the memory.

    Raises:
        InputError: a folder without labelled photos, no or a bad k, or an `embed` that returns
            rows of another count, dtype or width, or rows that are not finite.
        ImageError: no photo of a folder could be read.
        ModelError: the bundled model cannot be opened.
    """
    if not ks or any(isinstance(k, bool) or not isinstance(k, int) or k < 1 for k in ks):
        raise InputError(f"ks is {tuple(ks)!r}, wanted one or more whole numbers of at least 1")
    memory_photos = find_labelled(Path(memory_dir))
    query_photos = find_labelled(Path(query_dir))
    counter = _Counter(progress, len(memory_photos) + len(query_photos))
    if embed is None:
        with Embedder() as embedder:
            run = _run(embedder)
            memory = _embed_photos(memory_photos, run, counter)
            queries = _embed_photos(query_photos, run, counter)
    else:
        run = _run(embed)
        memory = _embed_photos(memory_photos, run, counter)
        queries = _embed_photos(query_photos, run, counter)
    for folder, part in ((memory_dir, memory), (query_dir, queries)):
        if not part.labels:
            path, reason = part.skipped[0]
            raise ImageError(f"no photo of {folder} could be read; the first, {path}: {reason}")
    if memory.rows.shape[1] != queries.rows.shape[1]:
        raise InputError(
            f"embed gave rows of width {memory.rows.shape[1]} and then {queries.rows.shape[1]}, "
            "wanted one width"
        )
    return _score(memory, queries, tuple(dict.fromkeys(ks)))


@dataclass(frozen=True, slots=True, eq=False)
class _Embedded:
    rows: Float32  # (N, D), unit length
    labels: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]


class _Counter:
    """Counts photos over several passes for one progress callback."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def add(self, count: int) -> None:
        self._done += count
        if self._progress is not None:
            self._progress(self._done, self._total)


def _run(embed: Embed | Embedder) -> Embed:
    if not isinstance(embed, Embedder):
        return embed
    embedder = embed
    return lambda images: embedder.embed(images).cls


def _embed_photos(photos: Sequence[Photo], run: Embed, counter: _Counter) -> _Embedded:
    rows: list[Float32] = []
    labels: list[str] = []
    skipped: list[tuple[str, str]] = []
    for start in range(0, len(photos), _IMAGES_AT_ONCE):
        part = photos[start : start + _IMAGES_AT_ONCE]
        try:
            groups = [(part, _unit_rows(run([photo.path for photo in part]), len(part)))]
        except ImageError:
            # One bad file must not cost its sixty-three companions: go on photo by photo.
            groups = []
            for photo in part:
                try:
                    groups.append(([photo], _unit_rows(run([photo.path]), 1)))
                except ImageError as error:
                    reason = str(error).removeprefix("images[0]: ")
                    skipped.append((str(photo.path), reason))
        for group, vectors in groups:
            rows.append(vectors)
            labels.extend(photo.label for photo in group)
        counter.add(len(part))
    widths = {vectors.shape[1] for vectors in rows}
    if len(widths) > 1:
        raise InputError(f"embed gave rows of the widths {sorted(widths)}, wanted one width")
    together = np.concatenate(rows) if rows else np.empty((0, 0), dtype=np.float32)
    return _Embedded(rows=together, labels=tuple(labels), skipped=tuple(skipped))


def _unit_rows(rows: Float32, count: int) -> Float32:
    if rows.ndim != 2 or len(rows) != count or rows.dtype != np.float32:
        raise InputError(
            f"embed gave an array of shape {rows.shape} and dtype {rows.dtype} for {count} images, "
            f"wanted ({count}, D) float32"
        )
    if not np.isfinite(rows).all():
        raise InputError("embed gave NaN or infinite values, wanted finite rows")
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    # A row of zeros (an empty descriptor) stays zero: like nothing, similarity 0 to all.
    return np.ascontiguousarray(rows / np.where(lengths > 0, lengths, 1), dtype=np.float32)


def _score(memory: _Embedded, queries: _Embedded, ks: tuple[int, ...]) -> Evaluation:
    indices, similarities = top_k(queries.rows, memory.rows, max(ks))  # (Q, K) each
    right = np.zeros((len(ks), len(queries.labels)), dtype=bool)
    for at, label in enumerate(queries.labels):
        voters = [memory.labels[index] for index in indices[at]]
        values = similarities[at].tolist()
        for row, k in enumerate(ks):
            right[row, at] = next(iter(vote(values[:k], voters[:k]))) == label
    asked_labels = np.array(queries.labels)
    return Evaluation(
        accuracy={k: float(right[row].mean()) for row, k in enumerate(ks)},
        by_label={
            str(label): float(right[0][asked_labels == label].mean())
            for label in np.unique(asked_labels)
        },
        labels=len(set(memory.labels)),
        taught=len(memory.labels),
        asked=len(queries.labels),
        skipped=memory.skipped + queries.skipped,
    )
