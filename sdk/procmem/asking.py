"""The half of a `VisualMemory` that answers: neighbors, labels, reasons, regions.

Takes an image from the user and what `recall.py` holds, gives answers; changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Literal, cast, overload

import numpy as np
import numpy.typing as npt

from procmem.batch import Prompt, one_or_many, pairs_of
from procmem.calibration import Reliability
from procmem.errors import ImageError, InputError, ItemNotFoundError, unknown_choice
from procmem.image import ImageLike, load_image
from procmem.index import check_k
from procmem.influence import GroupBy, changed_answers, grouping, smallest_change
from procmem.opening import OpenMemory
from procmem.recall import taught_between
from procmem.record import Item
from procmem.segment import check_protocol, from_memory, in_context, mean_length
from procmem.types import Answer, Change, Counterfactual, InfluenceReport, Neighbor, Regions
from procmem.vote import Weighting, check_weighting, is_novel, novelty_p_value, vote, vote_shares


class Asking(OpenMemory):
    """The questions of a `VisualMemory`."""

    @overload  # a str, which is one image, is an iterable of them too
    def neighbors(  # type: ignore[overload-overlap]
        self,
        image: ImageLike,
        k: int = 10,
        *,
        label: str | None = None,
        added_since: datetime | None = None,
        added_before: datetime | None = None,
    ) -> tuple[Neighbor, ...]: ...

    @overload
    def neighbors(
        self,
        image: Iterable[ImageLike],
        k: int = 10,
        *,
        label: str | None = None,
        added_since: datetime | None = None,
        added_before: datetime | None = None,
    ) -> list[tuple[Neighbor, ...]]: ...

    def neighbors(
        self,
        image: ImageLike | Iterable[ImageLike],
        k: int = 10,
        *,
        label: str | None = None,
        added_since: datetime | None = None,
        added_before: datetime | None = None,
    ) -> tuple[Neighbor, ...] | list[tuple[Neighbor, ...]]:
        """Finds what is remembered and most like an image.

        Args:
            image: path, bytes, PIL image or array; or any iterable of them, opened one at a time.
            k: at least 1.
            label: only among items of this label.
            added_since: only among items that were added at this moment or later, to the second;
                one without a time zone is in local time.
            added_before: only among items that were added before this moment.

        Returns:
            At most k, the most similar first, equal similarities by smaller id; of several images
            a list of such.

        Raises:
            ImageError: the image cannot be used.
            InputError: `k` is not a whole number of at least 1, or no moment lies between the two.
            ItemNotFoundError: no item has this label.
        """
        check_k(k)
        queries, alone = self._queries(image)
        with self._lock:
            self._recall.index()
            keep = self._kept(label, taught_between(added_since, added_before))
            found = self._recall.nearest(queries, k, keep)
        return found[0] if alone else found

    def _kept(
        self, label: str | None, taught: Callable[[Item], bool] | None
    ) -> npt.NDArray[np.bool_] | None:
        """Which rows pass the filters; None if there are none."""
        if label is None and taught is None:
            return None
        keep = self._recall.where(
            lambda item: label in (None, item.label) and (taught is None or taught(item))
        )
        if label is not None and taught is None and not keep.any():
            raise ItemNotFoundError(self._unknown("label", label))
        return keep

    @overload
    def classify(  # type: ignore[overload-overlap]
        self, image: ImageLike, k: int = 20, *, weighting: Weighting = "similarity"
    ) -> Answer: ...

    @overload
    def classify(
        self, image: Iterable[ImageLike], k: int = 20, *, weighting: Weighting = "similarity"
    ) -> list[Answer]: ...

    def classify(
        self,
        image: ImageLike | Iterable[ImageLike],
        k: int = 20,
        *,
        weighting: Weighting = "similarity",
    ) -> Answer | list[Answer]:
        """Names what an image shows, by the votes of the k nearest items that have a label.

        Args:
            image: path, bytes, PIL image or array; or any iterable of them, opened one at a time.
            k: at least 1; fewer vote if fewer items have a label.
            weighting: of the votes, by "similarity" (the paper's) or "rank"; see `vote.py`.

        Returns:
            See `Answer`; `vote.py` and `calibration.py` have the rules; of several images a list.
            The first call after a change costs up to 2,000 searches, for `is_novel` and
            `probability`.

        Raises:
            ImageError: the image cannot be used.
            InputError: `k` is not a whole number of at least 1, or the weighting is unknown.
        """
        count = check_k(k)
        check_weighting(weighting)
        queries, alone = self._queries(image)
        with self._lock:
            self._recall.index()
            labelled = self._recall.labelled()
            voters = self._recall.nearest(queries, count, labelled)
            nearest = voters if labelled.all() else self._recall.nearest(queries, 1)
            judged = self._recall.calibrated(count, weighting)
        answers = [
            _answer(own[0].similarity if own else None, voting, weighting, *judged)
            for own, voting in zip(nearest, voters, strict=True)
        ]
        return answers[0] if alone else answers

    def counterfactual(
        self, image: ImageLike, k: int = 20, *, weighting: Weighting = "similarity"
    ) -> Counterfactual:
        """Finds the fewest items whose removal would change what `classify` says.

        Args:
            image: path, bytes, PIL image or array.
            k: as for `classify`.
            weighting: as for `classify`.

        Returns:
            See `Counterfactual`. Nothing is removed.

        Raises:
            ImageError: the image cannot be used.
            InputError: `k` is not a whole number of at least 1, or the weighting is unknown.
        """
        count = check_k(k)
        check_weighting(weighting)
        query = self._embed(image).cls[0]
        with self._lock:
            index = self._recall.index()
            ranking, labels = self._recall.ranking(query, count), self._recall.labels()
            rows, similarities = ranking.first(count)
            votes = vote(similarities, [labels[row] for row in rows], weighting=weighting)
            gone, after = smallest_change(ranking, labels, count, weighting=weighting)
            near = {row: ranking.similarity(row) for row in gone}
            items = tuple(
                self._recall.neighbor(int(index.ids[row]), similarity)
                for row, similarity in near.items()
            )
        return Counterfactual(next(iter(votes), None), items, after)

    def influence(
        self,
        images: ImageLike | Iterable[ImageLike],
        k: int = 20,
        *,
        by: GroupBy = "item",
        weighting: Weighting = "similarity",
        protocol: Literal["exact", "paper"] = "exact",
        progress: Callable[[int, int | None], None] | None = None,
    ) -> InfluenceReport:
        """Says which items, or groups of items, the answers to these images hang on.

        Each is left out in turn (leave-one-out), and what `classify` would then say is compared
        with what it says. Only those among an image's k nearest can matter, so that this costs one
        vote for each of them. Nothing is removed.

        Args:
            images: the queries; one (path, bytes, PIL image, array) or any iterable of them.
            k: as for `classify`.
            by: what is left out together: "item", "label", "folder" (of the source: an album), or
                a function from an `Item` to a text; items for which it gives None stay.
            weighting: as for `classify`.
            protocol: "exact" is what a deletion does. "paper" lets only the rest of the k vote,
                an approximation that misses some changes; its count is for comparison.
            progress: called after each image with (done, total), total None if not known.

        Returns:
            See `InfluenceReport`.

        Raises:
            ImageError: an image cannot be used; the message names its position.
            InputError: an argument has a wrong value.
        """
        count = check_k(k)
        check_weighting(weighting)
        if protocol not in ("exact", "paper"):
            raise unknown_choice("protocol", protocol, ("exact", "paper"))
        group_of = grouping(by)
        batch = list(one_or_many(images)[0])
        answers: list[str | None] = []
        changes: list[Change] = []
        groups: list[int | str | None] = []
        for at, image in enumerate(batch):
            try:
                query = self._embed(image).cls[0]
            except (ImageError, InputError) as error:
                raise type(error)(f"images[{at}]: {error}") from error
            with self._lock:
                ids = self._recall.index().ids.tolist()
                ranking, labels = self._recall.ranking(query, count), self._recall.labels()
                groups = [group_of(self._recall.item(id_)) for id_ in ids]
                rows, similarities = ranking.first(count)
                votes = vote(similarities, [labels[row] for row in rows], weighting=weighting)
                changed: dict[int | str, str | None] = changed_answers(
                    ranking, labels, groups, count, weighting=weighting, protocol=protocol
                )
            answers.append(next(iter(votes), None))
            changes += [Change(group, at, answers[-1], after) for group, after in changed.items()]
            if progress is not None:
                progress(at + 1, len(batch))
        if not batch:
            with self._lock:
                ids = self._recall.index().ids.tolist()
                groups = [group_of(self._recall.item(id_)) for id_ in ids]
        removable = len(set(groups) - {None})
        exposed = len({change.removed for change in changes})
        share = exposed / removable if removable else 0.0
        return InfluenceReport(tuple(answers), tuple(changes), removable, exposed, share)

    def segment(
        self,
        image: ImageLike,
        *,
        prompt: Prompt | Sequence[Prompt] | None = None,
        protocol: Literal["exact", "paper"] = "exact",
        ignore: int | None = None,
    ) -> Regions:
        """Says for every pixel which taught class it belongs to.

        Args:
            image: path, bytes, PIL image or array.
            prompt: one example (image, mask) or several; masks are (H, W) class values in 0..255
                at their image's own size. Nothing of it is remembered. None asks the memory: all
                items that were added with a mask.
            protocol: "exact" or the published rule "paper", with a prompt and without; see
                `segment.py`. A vault holds patch tokens without their length, so that without a
                prompt "paper" takes all of them as long as the image's own on the mean.
            ignore: a value of the prompt's masks that stands for pixels nobody judged, which then
                do not vote: a few rough strokes will do for an example. Only with a prompt.

        Returns:
            See `Regions`; at the image's own size. Without a prompt the cost is one pass over the
            remembered masks.

        Raises:
            ImageError: an image cannot be used.
            InputError: a mask does not fit or is ignored throughout, the protocol is unknown,
                `ignore` is given without a prompt, or no item has a mask.
        """
        check_protocol(protocol)
        if ignore is not None and prompt is None:
            raise InputError("ignore is given without a prompt; remembered masks count throughout")
        self._check_open()
        height, width = load_image(image).shape[:2]
        if prompt is not None:
            pairs = [self._prompt(pair) for pair in pairs_of(prompt)]
            query = self._embed(image, view="whole").patches[0]
            return in_context(query, pairs, size=(height, width), protocol=protocol, ignore=ignore)
        query = self._embed(image, view="whole").patches[0]
        with self._lock:
            bank = self._recall.bank()
            return from_memory(
                query,
                bank.patches,
                bank.pixels,
                size=(height, width),
                protocol=protocol,
                bank_length=mean_length(query),
            )


def _answer(
    closest: float | None,
    voters: tuple[Neighbor, ...],
    weighting: Weighting,
    calibration: npt.NDArray[np.float32],
    reliability: Reliability | None,
) -> Answer:
    """The answer to a query whose nearest item has the similarity `closest`."""
    labels = [neighbor.label for neighbor in voters if neighbor.label is not None]
    similarities = [neighbor.similarity for neighbor in voters]
    votes = vote(similarities, labels, weighting=weighting)
    label = next(iter(votes), None)
    confidence = 0.0 if label is None else votes[label]
    known = reliability is not None and label is not None
    return Answer(
        label=label,
        confidence=confidence,
        votes=votes,
        neighbors=voters,
        shares=vote_shares(similarities, weighting=weighting),
        probability=cast(Reliability, reliability).at(confidence) if known else None,
        p_value=1.0 if closest is None else novelty_p_value(closest, calibration),
        is_novel=label is None or is_novel(closest, calibration),
    )
