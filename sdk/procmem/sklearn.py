"""procmem's perception and vote as scikit-learn estimators.

Stands beside the photo's walk: `ImageEmbedder` wraps `embedder.py`, `MemoryClassifier` wraps
`patchsim.py` and `vote.py`. Both fit into pipelines, searches and cross-validation.

    from procmem.sklearn import ImageEmbedder, MemoryClassifier

    model = make_pipeline(ImageEmbedder(), MemoryClassifier()).fit(photos, labels)
    model[-1].forget([3, 17])

Promises that a classifier which forgot rows is, to the last bit, one that was fitted without them.
Keeps everything in RAM: what is to last, and to be erased from a disk, belongs into a
`VisualMemory`. A pickle is a copy that `forget` does not reach. Needs pip install
'procmem[sklearn]'; `import procmem` alone never loads scikit-learn.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from procmem.embedder import DEFAULT_MODEL, Embedder
from procmem.errors import InputError, MissingExtraError
from procmem.image import ImageLike
from procmem.index import check_k
from procmem.patchsim import top_k
from procmem.preprocess import View, check_view
from procmem.vote import TEMPERATURE, Weighting, check_weighting, vote

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data
except ImportError as error:
    raise MissingExtraError(
        f"procmem.sklearn needs scikit-learn 1.6 or later ({error}); install it with "
        "pip install 'procmem[sklearn]'"
    ) from error

__all__ = ["ImageEmbedder", "MemoryClassifier"]

Labels = npt.NDArray[Any]


class MemoryClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # untyped bases
    """Classifies vectors as `VisualMemory.classify` does images: the k most similar rows vote.

    Nothing is learned but the rows themselves, so that adding and forgetting are exact and cheap.
    Rows count by their direction alone: each is divided by its length.

    Args:
        n_neighbors: how many rows vote, at least 1; fewer if fewer are held.
        weighting: of the votes, by "similarity" (the paper's) or "rank"; see `vote.py`.
        temperature: of the weighting by similarity, above 0; smaller trusts the nearest more.

    Attributes:
        classes_: labels that are held or were declared to `partial_fit`, ascending.
        n_features_in_: d, width of a row.
        n_samples_fit_: how many rows are held.

    Example:
        >>> import numpy as np
        >>> rows = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
        >>> model = MemoryClassifier(n_neighbors=1).fit(rows, ["east", "east", "north"])
        >>> model.predict([[0.1, 0.8]]).tolist()
        ['north']
        >>> model.forget([2]).predict([[0.1, 0.8]]).tolist()
        ['east']
    """

    classes_: Labels
    _rows: npt.NDArray[np.float32]  # (N, d), unit length or zero
    _codes: npt.NDArray[np.intp]  # (N,) positions in classes_
    _declared: Labels | None

    def __init__(
        self,
        n_neighbors: int = 20,
        weighting: Weighting = "similarity",
        temperature: float = TEMPERATURE,
    ) -> None:
        self.n_neighbors = n_neighbors
        self.weighting = weighting
        self.temperature = temperature

    # ---- teaching

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike) -> MemoryClassifier:
        """Forgets everything and holds these rows.

        Args:
            X: (n, d) numbers, finite.
            y: (n,) labels: text or whole numbers.

        Returns:
            Itself.

        Raises:
            InputError: a parameter has a wrong value.
            ValueError: X or y does not fit (scikit-learn's words).
        """
        self._check_parameters()
        rows, labels = self._checked(X, y, reset=True)
        self._hold(rows, labels, None)
        return self

    def partial_fit(
        self, X: npt.ArrayLike, y: npt.ArrayLike, classes: npt.ArrayLike | None = None
    ) -> MemoryClassifier:
        """Holds these rows too, after those that it holds.

        Args:
            X: (n, d) numbers, finite.
            y: (n,) labels; new ones are welcome at any time, and widen `predict_proba`.
            classes: labels that are to be in `classes_` although no row has them yet.

        Returns:
            Itself. Equal to one `fit` with all rows, if no classes were declared.

        Raises:
            InputError: a parameter has a wrong value, or text meets numbers in the labels.
            ValueError: X or y does not fit (scikit-learn's words).
        """
        self._check_parameters()
        held = hasattr(self, "_rows")
        rows, labels = self._checked(X, y, reset=not held)
        declared = None if classes is None else np.unique(np.asarray(classes))
        if held:
            rows = np.concatenate([self._rows, rows])
            labels = _joined(self.classes_[self._codes], labels)
            if self._declared is not None:
                declared = _joined(self._declared, declared)
        self._hold(rows, labels, declared)
        return self

    # ---- asking

    def predict(self, X: npt.ArrayLike) -> Labels:
        """Names the label of the largest vote for each row; of equal votes that of the nearest.

        Args:
            X: (n, d) numbers, finite.

        Returns:
            (n,) labels.
        """
        winners = [next(iter(votes)) for votes in self._votes(X)]
        return self.classes_[np.array(winners, dtype=np.intp)]

    def predict_proba(self, X: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Gives every label's share of the vote: `Answer.votes`, not a calibrated probability.

        Args:
            X: (n, d) numbers, finite.

        Returns:
            (n, C) in the order of `classes_`; each row sums to 1 within rounding.
        """
        votes = self._votes(X)
        shares = np.zeros((len(votes), len(self.classes_)))
        for row, own in zip(shares, votes, strict=True):
            for code, share in own.items():
                row[code] = share
        return shares

    def kneighbors(
        self,
        X: npt.ArrayLike | None = None,
        n_neighbors: int | None = None,
        return_distance: bool = True,
    ) -> Any:
        """Finds the most similar rows, exactly; equal similarities by smaller position.

        Args:
            X: (n, d) numbers, finite; None asks every held row for its nearest others.
            n_neighbors: how many, at least 1; None for that of the classifier.
            return_distance: as in scikit-learn, so that this can stand in for its estimators.

        Returns:
            Distances (n, K) float64, which are 1 - similarity, and positions (n, K) of the rows in
            the order in which they were given; without `return_distance` the positions alone.
            K is smaller than `n_neighbors` if fewer rows are held.

        Raises:
            InputError: `n_neighbors` is not a whole number of at least 1.
        """
        check_is_fitted(self)
        count = check_k(self.n_neighbors if n_neighbors is None else n_neighbors)
        if X is None:
            positions, similarities = self._others(count)
        else:
            positions, similarities = self._nearest(self._query(X), count)
        if not return_distance:
            return positions
        return 1.0 - similarities.astype(np.float64), positions

    # ---- forgetting

    def forget(self, rows: int | Sequence[int] | npt.NDArray[Any]) -> MemoryClassifier:
        """Drops rows and overwrites the memory that held them with zeros.

        Afterwards it is, to the last bit, a classifier fitted without them; the rows behind move
        up. One that forgot everything is as if it had never been fitted.

        Args:
            rows: positions in the order in which the rows were given, or (n,) bool, True for
                those to forget.

        Returns:
            Itself.

        Raises:
            InputError: a position is not held, or a mask has another length; nothing changed.
        """
        check_is_fitted(self)
        gone = _chosen(rows, len(self._rows))
        kept, labels = self._rows[~gone], self.classes_[self._codes[~gone]]
        declared = self._declared
        if len(kept):
            self._hold(kept, labels, declared)
        else:
            self._drop()
        return self

    # ---- what scikit-learn asks for

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_rows")

    def __copy__(self) -> MemoryClassifier:
        """One whose rows are its own: what either forgets is overwritten where it stands."""
        copied = self.__class__.__new__(self.__class__)
        copied.__dict__.update(
            {
                name: value.copy() if isinstance(value, np.ndarray) else value
                for name, value in vars(self).items()
            }
        )
        return copied

    # ---- helpers

    def _check_parameters(self) -> None:
        check_k(self.n_neighbors)
        check_weighting(self.weighting)
        vote([], [], temperature=self.temperature)  # which checks it

    def _checked(
        self, X: npt.ArrayLike, y: npt.ArrayLike, *, reset: bool
    ) -> tuple[npt.NDArray[np.float32], Labels]:
        rows, labels = validate_data(self, X, y, dtype=_FLOATS, reset=reset)
        check_classification_targets(labels)
        return _unit(rows), column_or_1d(labels)

    def _hold(self, rows: npt.NDArray[np.float32], labels: Labels, declared: Labels | None) -> None:
        labels = _trimmed(labels)
        declared = None if declared is None else _trimmed(declared)
        known = labels if declared is None else _joined(declared, labels)
        classes = np.unique(known)
        codes = np.searchsorted(classes, labels).astype(np.intp, copy=False)
        self._wipe()
        self._rows, self._codes, self._declared = rows, codes, declared
        self.classes_, self.n_samples_fit_ = classes, len(rows)

    def _drop(self) -> None:
        """Holds nothing, and is not fitted."""
        self._wipe()
        for name in ("_rows", "_codes", "_declared"):
            del self.__dict__[name]
        for name in [name for name in vars(self) if name.endswith("_")]:
            del self.__dict__[name]

    def _wipe(self) -> None:
        for name in ("_rows", "_codes"):
            if name in self.__dict__ and self.__dict__[name].flags.writeable:
                self.__dict__[name].fill(0)

    def _query(self, X: npt.ArrayLike) -> npt.NDArray[np.float32]:
        return _unit(validate_data(self, X, dtype=_FLOATS, reset=False))

    def _nearest(
        self, queries: npt.NDArray[np.float32], count: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        positions, similarities = top_k(queries, self._rows, min(count, len(self._rows)))
        return positions, np.clip(similarities, -1.0, 1.0)

    def _others(self, count: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        held = len(self._rows)
        found, similarities = self._nearest(self._rows, count + 1)
        # A row is its own nearest, unless others equal it or come first within rounding; then it
        # may even be missing, and the farthest one found is one too many.
        itself = found == np.arange(held)[:, None]
        itself[~itself.any(axis=1), -1] = True
        shape = (held, found.shape[1] - 1)
        return found[~itself].reshape(shape), similarities[~itself].reshape(shape)

    def _votes(self, X: npt.ArrayLike) -> list[dict[int, float]]:
        """For every row of X the shares by position in `classes_`, largest first."""
        check_is_fitted(self)
        positions, similarities = self._nearest(self._query(X), check_k(self.n_neighbors))
        votes = []
        for near, codes in zip(similarities.tolist(), self._codes[positions].tolist(), strict=True):
            # `vote` takes labels of any hashable kind; whole numbers are the quickest.
            found: Any = vote(near, codes, weighting=self.weighting, temperature=self.temperature)
            votes.append(found)
        return votes


class ImageEmbedder(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # untyped bases
    """Turns images into the vectors that procmem remembers: the first step of a pipeline.

    Learns nothing from images, so that embedding before a split leaks nothing over it; embed once
    and cross-validate on the vectors, or give the pipeline a `memory`, to save the model's time.
    The model is opened when it is first needed, and is not part of copies and pickles.

    Args:
        model: a bundled model's name, or the path of an `.onnx` file; see `Embedder`.
        view: "center", what a memory keeps, or "whole"; see `preprocess.py`.
        device: see `Embedder`.
        image_size: see `Embedder`.
    """

    def __init__(
        self,
        model: str | Path = DEFAULT_MODEL,
        view: View = "center",
        device: str = "auto",
        image_size: int | None = None,
    ) -> None:
        self.model = model
        self.view = view
        self.device = device
        self.image_size = image_size

    def fit(self, X: Iterable[ImageLike], y: Any = None) -> ImageEmbedder:  # noqa: ARG002  scikit-learn's signature
        """Opens the model, so that a wrong one shows now; looks at no image.

        Returns:
            Itself.

        Raises:
            InputError: the view is unknown.
            ModelError, MissingExtraError: see `Embedder`.
        """
        self._opened()
        return self

    def transform(self, X: Iterable[ImageLike]) -> npt.NDArray[np.float32]:
        """Embeds images.

        Args:
            X: n images: paths, bytes, PIL images or arrays (H, W[, C]), or one array
                (n, H, W, C). Read one at a time.

        Returns:
            (n, D) float32 unit vectors, each a function of its own image alone.

        Raises:
            ImageError: an image cannot be used; the message names its position.
            InputError: X is one single image, or the view is unknown.
            ModelError, MissingExtraError: see `Embedder`.
        """
        if isinstance(X, (str, Path, bytes)) or (isinstance(X, np.ndarray) and X.ndim == 3):
            raise InputError("X is a single image, wanted a list of images; put it into a list")
        # Pipelines and splits hand lists of paths on as arrays of objects or text.
        images: Any = X.tolist() if isinstance(X, np.ndarray) and X.ndim == 1 else X
        return self._opened().embed(images, view=self.view).cls

    def close(self) -> None:
        """Frees the model; it is opened anew when it is needed again."""
        opened = self.__dict__.pop("_embedder", None)
        if opened is not None:
            opened[1].close()

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.no_validation = True
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.transformer_tags.preserves_dtype = []
        return tags

    def get_feature_names_out(self, input_features: Any = None) -> Labels:  # noqa: ARG002  scikit-learn's signature
        """Names of the D columns: "embedding0", "embedding1" and so on."""
        width = self._opened().cls_dim
        return np.array([f"embedding{column}" for column in range(width)], dtype=object)

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        state.pop("_embedder", None)
        return state

    def _opened(self) -> Embedder:
        check_view(self.view)
        wanted = (str(self.model), self.device, self.image_size)
        held: tuple[tuple[str, str, int | None], Embedder] | None = self.__dict__.get("_embedder")
        if held is None or held[0] != wanted:
            self.close()
            opened = Embedder(self.model, image_size=self.image_size, device=self.device)
            held = (wanted, opened)
            self._embedder = held
        return held[1]


_FLOATS = [np.float64, np.float32]  # what others are turned into is the first


def _unit(rows: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Rows of unit length, each a function of its own numbers alone; zeros stay zeros."""
    wide = np.ascontiguousarray(rows, dtype=np.float64)
    # By a power of two, which rounds nothing: the squares of the largest must not overflow.
    _, exponents = np.frexp(np.abs(wide).max(axis=1, keepdims=True))
    wide = np.ldexp(wide, -exponents)
    lengths = np.sqrt(np.square(wide).sum(axis=1, keepdims=True))
    wide /= np.where(lengths == 0, 1.0, lengths)
    return np.ascontiguousarray(wide.astype(np.float32))


def _trimmed(labels: Labels) -> Labels:
    """The same labels in an array whose type does not tell how long others were."""
    text = labels.dtype.kind in "US" and len(labels)
    trimmed: Labels = np.array(labels.tolist()) if text else labels.copy()
    return trimmed


def _joined(first: Labels, second: Labels | None) -> Labels:
    """Both, one after the other; raises InputError where numpy would make text of numbers."""
    if second is None:
        return first
    if (first.dtype.kind in "USO") != (second.dtype.kind in "USO"):
        raise InputError(
            f"labels are {second.dtype} and were {first.dtype} before, wanted text or numbers "
            "throughout; convert them"
        )
    joined: Labels = np.concatenate([first, second])
    return joined


def _chosen(rows: Any, held: int) -> npt.NDArray[np.bool_]:
    """(held,) True for the rows that positions or a mask choose."""
    given = np.atleast_1d(np.asarray(rows))
    if given.dtype == np.bool_:
        if given.shape != (held,):
            raise InputError(
                f"the mask has shape {given.shape}, wanted ({held},): one bool per held row"
            )
        mask: npt.NDArray[np.bool_] = given.copy()
        return mask
    chosen = np.zeros(held, dtype=np.bool_)
    if given.size == 0:
        return chosen
    if given.ndim != 1 or given.dtype.kind not in "iu":
        raise InputError(
            f"rows is {given.dtype} of shape {given.shape}, wanted positions or a mask of bools"
        )
    low, high = int(given.min()), int(given.max())
    if low < 0 or high >= held:
        raise InputError(
            f"row {low if low < 0 else high} is not held, wanted positions in [0, {held})"
        )
    chosen[given] = True
    return chosen
