"""The half of a `VisualMemory` that answers: neighbors, labels, reasons, regions.

Takes an image from the user and what a store finds, gives answers; changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Literal, SupportsIndex, overload

import numpy as np
import numpy.typing as npt

from procmem.batch import Prompt, one_or_many, pairs_of, seconds_between
from procmem.calibration import Standards
from procmem.errors import ImageError, InputError, ItemNotFoundError, unknown_choice
from procmem.image import ImageLike, size_of
from procmem.index import check_k
from procmem.influence import (
    GroupBy,
    Ranking,
    changed_answers,
    checked_group,
    grouping,
    smallest_change,
)
from procmem.opening import OpenMemory
from procmem.segment import check_protocol, from_memory, in_context, mean_length
from procmem.stores.contract import EVERYTHING, Where
from procmem.types import Answer, Change, Counterfactual, InfluenceReport, Neighbor, Regions
from procmem.vote import Weighting, check_weighting, is_novel, novelty_p_value, vote, vote_shares


class Asking(OpenMemory):
    """The questions of a `VisualMemory`."""

    @overload  # a str, which is one image, is an iterable of them too
    def neighbors(  # type: ignore[overload-overlap]
        self,
        image: ImageLike,
        k: SupportsIndex = 10,
        *,
        label: str | None = None,
        added_since: datetime | None = None,
        added_before: datetime | None = None,
    ) -> tuple[Neighbor, ...]: ...

    @overload
    def neighbors(
        self,
        image: Iterable[ImageLike],
        k: SupportsIndex = 10,
        *,
        label: str | None = None,
        added_since: datetime | None = None,
        added_before: datetime | None = None,
    ) -> list[tuple[Neighbor, ...]]: ...

    def neighbors(
        self,
        image: ImageLike | Iterable[ImageLike],
        k: SupportsIndex = 10,
        *,
        label: str | None = None,
        added_since: datetime | None = None,
        added_before: datetime | None = None,
    ) -> tuple[Neighbor, ...] | list[tuple[Neighbor, ...]]:
        """Finds what is remembered and most like an image.

        Args:
            image: path, bytes, PIL image or array; or any iterable of them, opened one at a time.
                An array (N, H, W, C) is N images too; give `list(array)` to a type checker.
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
        count = check_k(k)
        first, end = seconds_between(added_since, added_before)
        where = Where(label=label, first_seconds=first, end_seconds=end)
        queries, alone = self._queries(image)
        with self._lock:
            found = self._store.nearest(queries, count, where)
        # Whoever gives moments expects that they may have been empty; a label is taken to exist.
        if label is not None and where == Where(label=label) and not all(found):
            raise ItemNotFoundError(self._unknown("label", label))
        return found[0] if alone else found

    @overload
    def classify(  # type: ignore[overload-overlap]
        self, image: ImageLike, k: SupportsIndex = 20, *, weighting: Weighting = "similarity"
    ) -> Answer: ...

    @overload
    def classify(
        self,
        image: Iterable[ImageLike],
        k: SupportsIndex = 20,
        *,
        weighting: Weighting = "similarity",
    ) -> list[Answer]: ...

    def classify(
        self,
        image: ImageLike | Iterable[ImageLike],
        k: SupportsIndex = 20,
        *,
        weighting: Weighting = "similarity",
    ) -> Answer | list[Answer]:
        """Names what an image shows, by the votes of the k nearest items that have a label.

        Args:
            image: path, bytes, PIL image or array; or any iterable of them, opened one at a time.
                An array (N, H, W, C) is N images too; give `list(array)` to a type checker.
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
            standards = self._calibration.standards(count, weighting)
            voters = self._store.nearest(queries, count, Where(labelled=True))
            nearest = voters if standards.all_vote else self._store.nearest(queries, 1, EVERYTHING)
        answers = [
            _answer(own[0].similarity if own else None, voting, weighting, standards)
            for own, voting in zip(nearest, voters, strict=True)
        ]
        return answers[0] if alone else answers

    def counterfactual(
        self, image: ImageLike, k: SupportsIndex = 20, *, weighting: Weighting = "similarity"
    ) -> Counterfactual:
        """Finds the fewest items of the answer's label whose removal would change the answer.

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
            ranking = self._ranking(query, count)
            votes = _votes(ranking.first(count), weighting)
            gone, after = smallest_change(ranking, count, weighting=weighting)
        return Counterfactual(next(iter(votes), None), tuple(gone), after)

    def _ranking(self, query: npt.NDArray[np.float32], k: int) -> Ranking:
        """Those that vote, by similarity to a query (D,); to be used under the same lock."""

        def fetch(count: int) -> tuple[Neighbor, ...]:
            return self._store.nearest(query[None], count, Where(labelled=True))[0]

        return Ranking(fetch, expected=k + 1)

    def influence(
        self,
        images: ImageLike | Iterable[ImageLike],
        k: SupportsIndex = 20,
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
        with self._lock:
            groups = {item.id: checked_group(group_of(item), item) for item in self._store.items()}
        answers: list[str | None] = []
        changes: list[Change] = []
        for at, image in enumerate(batch):
            try:
                query = self._embed(image).cls[0]
            except (ImageError, InputError) as error:
                raise type(error)(f"images[{at}]: {error}") from error
            with self._lock:
                ranking = self._ranking(query, count)
                votes = _votes(ranking.first(count), weighting)
                changed: dict[int | str, str | None] = changed_answers(
                    ranking,
                    lambda one: groups.get(one.id),
                    count,
                    weighting=weighting,
                    protocol=protocol,
                )
            answers.append(next(iter(votes), None))
            changes += [Change(group, at, answers[-1], after) for group, after in changed.items()]
            if progress is not None:
                progress(at + 1, len(batch))
        removable = len(set(groups.values()) - {None})
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
        height, width = size_of(image)
        if prompt is not None:
            pairs = [self._prompt(pair) for pair in pairs_of(prompt)]
            query = self._embed(image, view="whole").patches[0]
            return in_context(query, pairs, size=(height, width), protocol=protocol, ignore=ignore)
        query = self._embed(image, view="whole").patches[0]
        with self._lock:
            bank = self._store.bank()
            return from_memory(
                query,
                bank.patches,
                bank.pixels,
                size=(height, width),
                protocol=protocol,
                bank_length=mean_length(query),
            )


def _votes(voters: Sequence[Neighbor], weighting: Weighting) -> dict[str, float]:
    labels = [one.label for one in voters if one.label is not None]
    return vote([one.similarity for one in voters], labels, weighting=weighting)


def _answer(
    closest: float | None,
    voters: tuple[Neighbor, ...],
    weighting: Weighting,
    standards: Standards,
) -> Answer:
    """The answer to a query whose nearest item has the similarity `closest`."""
    votes = _votes(voters, weighting)
    label = next(iter(votes), None)
    confidence = 0.0 if label is None else votes[label]
    reliability = None if label is None else standards.reliability
    return Answer(
        label=label,
        confidence=confidence,
        votes=votes,
        neighbors=voters,
        shares=vote_shares([one.similarity for one in voters], weighting=weighting),
        probability=None if reliability is None else reliability.at(confidence),
        p_value=1.0 if closest is None else novelty_p_value(closest, standards.nearest),
        is_novel=label is None or is_novel(closest, standards.nearest),
    )
