"""The one object that people hold: teach it images, ask it, and make it forget.

Conducts the rest of a photo's walk and does no arithmetic of its own: `embedder.py` sees,
`vault.py` keeps, `recall.py` finds, `vote.py` and `segment.py` answer, `erasure.py` forgets and
proves it.

    memory = VisualMemory("vault")
    ids = memory.add(["cat.jpg", "dog.jpg"], labels=["cat", "dog"])
    memory.classify("what.jpg").label
    memory.delete(ids)

Promises: `add` and `delete` happen completely or not at all, and are on the disk when they return;
after `delete`, every answer is the one of a memory that never held the items, to the last bit.
Never sends anything anywhere, never writes outside its folder, never changes an image.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, cast, overload

import numpy as np
import numpy.typing as npt

from procmem.batch import (
    Column,
    MaskLike,
    Perception,
    Prompt,
    binding_of,
    check_embedder,
    one_or_many,
    pairs_of,
    plain_id,
    source_of,
)
from procmem.calibration import Reliability
from procmem.cells import check_hnswlib
from procmem.embedder import DEFAULT_MODEL, Embedder, bundled_models, model_manifest
from procmem.erasure import erase, receipt_key
from procmem.errors import (
    ImageError,
    InputError,
    ItemNotFoundError,
    ModelError,
    VaultClosedError,
    unknown_choice,
)
from procmem.folder import check_binding, check_side, holds_vault, not_held
from procmem.image import ImageLike, load_image
from procmem.index import check_k
from procmem.influence import GroupBy, changed_answers, grouping, smallest_change
from procmem.ledger import FORMAT_VERSION
from procmem.preprocess import View, check_image_size
from procmem.recall import INDEX_KINDS, IndexKind, Recall, taught_between
from procmem.record import (
    Item,
    Record,
    check_label,
    check_source,
    quantize_patches,
)
from procmem.segment import (
    check_protocol,
    fit_mask,
    from_memory,
    in_context,
    mean_length,
)
from procmem.types import (
    Answer,
    Change,
    Counterfactual,
    Embedding,
    ErasureReport,
    InfluenceReport,
    MemoryStats,
    Neighbor,
    Regions,
    VerifyReport,
)
from procmem.vault import Vault
from procmem.vote import (
    Weighting,
    check_weighting,
    is_novel,
    novelty_p_value,
    vote,
    vote_shares,
)

PURGE_LIMIT = 100_000
"""With more items than this left, `delete` leaves the purge to the next opening for writing."""


class VisualMemory:
    """A folder of remembered images that can be asked and can forget.

    Safe to use from several threads. Works as a context manager; `close` gives up the right to
    write, which only one object may hold at a time.

    Args:
        path: the vault's folder; made, with its parents, if it is missing.
        embedder: the model: an `Embedder`, a bundled model's name or a model file's path. None
            takes the bundled one that the vault was made with, and opens it when it is first
            needed; looking, counting and deleting need no model at all. A new vault is bound to
            its model and image size for good.
        image_size: S, side of the square that the model sees of an image, pixels, for a model that
            is opened here; see `Embedder`. None takes the side that the vault was made with, and
            the model's own for a new vault. One that is given must be the vault's.
        device: where a model that is opened here runs; see `Embedder`.
        read_only: write nothing and take no lock; changes by another process show at the next
            call.
        purge_limit: with more items left than this, `delete` defers the purge.
        key: makes a new vault sealed, and opens a sealed one: the path of a key file, which a new
            vault makes, or "keystore" for the operating system's (extra `sealed`). Every item is
            then encrypted under a key of its own, and deleting destroys that key, in old copies of
            the vault too; see docs/laws.md. Whoever loses the key loses the memory.
        index: how neighbors are found: "exact"; "hnsw", faster in a large memory and nearly exact
            (extra `hnsw`, see `cells.py`); "auto" takes it from 20,000 items on if it is there.

    Attributes:
        path: the folder, absolute.
        read_only: as given.

    Raises:
        VaultLockedError: another process or object has it open for writing.
        VaultFormatError: not a vault, damaged, or of a newer format.
        VaultReadOnlyError, VaultFullError: the folder cannot be written.
        VaultKeyError: the vault is sealed and the key is missing or another one's, or it is not.
        EmbedderMismatchError: the vault was made with another model or image size.
        ModelError: the model cannot be opened.
        InputError: an argument has a wrong value, or `embedder` runs at another image size.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        embedder: Perception | str | Path | None = None,
        image_size: int | None = None,
        device: str = "auto",
        read_only: bool = False,
        purge_limit: int = PURGE_LIMIT,
        key: str | os.PathLike[str] | None = None,
        index: IndexKind = "auto",
    ) -> None:
        if index not in INDEX_KINDS:
            raise unknown_choice("index", index, INDEX_KINDS)
        if index == "hnsw":
            check_hnswlib()
        self._lock = threading.RLock()
        self._closed = False
        self._device = device
        self._purge_limit = purge_limit
        self._owned = embedder is None or isinstance(embedder, (str, Path))
        self._embedder: Perception | None = None
        named = embedder if isinstance(embedder, (str, Path)) else None
        if named is None and embedder is not None:
            self._embedder = cast(Perception, embedder)
            check_embedder(self._embedder, image_size)
        elif not read_only and not holds_vault(Path(path).absolute()):
            self._embedder = Embedder(
                DEFAULT_MODEL if named is None else named, image_size=image_size, device=device
            )
        try:
            binding = None if self._embedder is None else binding_of(self._embedder)
            self._vault = Vault(path, binding=binding, read_only=read_only, key=key)
            try:
                self._bind(named, image_size)
            except BaseException:
                self._vault.close()
                raise
        except BaseException:
            self._close_embedder()
            raise
        self._recall = Recall(self._vault, index)
        self.path = self._vault.path
        self.read_only = read_only

    def _bind(self, named: str | Path | None, image_size: int | None) -> None:
        """Holds the vault that was opened to what was asked for, before anything is done with it.

        Only the vault knows its side, so that a model by name is opened after it.
        """
        if self._embedder is None and named is not None:
            self._embedder = self._open_bound(named)
        if image_size is not None:
            bound = self._vault.binding
            check_side(self._vault.path, bound, check_image_size(image_size, bound.patch_size))

    def _open_bound(self, model: str | Path) -> Embedder:
        """Opens a model at the vault's side; EmbedderMismatchError if it is not the vault's."""
        bound = self._vault.binding
        side = bound.side if model_manifest(model).sha256 == bound.sha256 else None
        embedder = Embedder(model, image_size=side, device=self._device)
        try:
            check_binding(self._vault.path, bound, binding_of(embedder))
        except BaseException:
            embedder.close()
            raise
        return embedder

    # ---- teaching

    def add(
        self,
        images: ImageLike | Iterable[ImageLike],
        labels: str | Iterable[str | None] | None = None,
        *,
        masks: MaskLike | Iterable[MaskLike | None] | None = None,
        ids: int | Iterable[int] | None = None,
        sources: str | Iterable[str | None] | None = None,
        progress: Callable[[int, int | None], None] | None = None,
    ) -> list[int]:
        """Remembers images: all of them, or on any error none.

        Args:
            images: one image (path, bytes, PIL image, array), or any iterable of them; an array
                (N, H, W, C) counts as N. Read one at a time.
            labels: one for all, or one (or None) per image; at most 1,000 characters each.
            masks: (H, W) class values in 0..255 at the image's own size (after EXIF rotation), one
                (or None) per image. `segment` needs them; nothing else does.
            ids: in [1, 2**63) and not in use; random if None, which tells nothing about order.
            sources: where the images come from, one for all or one (or None) per image. Unless
                given, an image that is a path has its absolute path as source.
            progress: called after each image with (done, total), total None if not known.

        Returns:
            The ids, in the order of the images. Cost: one run of the model per image, a second
            one per mask.

        Raises:
            ImageError: an image cannot be used; the message names its position.
            InputError: a label, mask, id or source does not fit, or the counts differ.
            VaultFullError, VaultReadOnlyError, VaultLockedError: it cannot be written.
            EmbedderMismatchError: the model is not the vault's.
        """
        self._check_writable()
        batch, alone = one_or_many(images)
        if alone and masks is not None and np.ndim(cast(Any, masks)) == 2:
            masks = [cast(MaskLike, masks)]
        if alone and isinstance(ids, (int, np.integer)):
            ids = [int(ids)]
        total = len(batch) if isinstance(batch, Sized) else None
        columns = {
            "labels": Column("labels", labels, total, everywhere=(str,)),
            "masks": Column("masks", masks, total),
            "ids": Column("ids", ids, total),
            "sources": Column("sources", sources, total, everywhere=(str,)),
        }
        records: list[Record] = []
        taken: set[int] = set()
        now = int(time.time())
        for at, image in enumerate(batch):
            row = {name: column.next() for name, column in columns.items()}
            try:
                item = self._new_item(image, row, taken, now)
                records.append(self._see(image, item, row["masks"]))
            except (ImageError, InputError) as error:
                if alone:
                    raise
                raise type(error)(f"images[{at}]: {error}") from error
            if progress is not None:
                progress(at + 1, total)
        for column in columns.values():
            column.end(len(records))
        with self._lock:
            self._vault.add(records)
            self._recall.added(records)
        return [record.item.id for record in records]

    def _new_item(
        self, image: ImageLike, row: Mapping[str, Any], taken: set[int], now: int
    ) -> Item:
        label, id_, source = row["labels"], row["ids"], row["sources"]
        check_label(label)
        if source is None and isinstance(image, (str, os.PathLike)):
            source = source_of(image)
        check_source(source)
        if id_ is not None:
            id_ = plain_id(id_)
            if id_ in taken or self._vault.held([id_]):
                raise InputError(
                    f"id {id_} is in use; nothing was added: give another, or none for a random one"
                )
        while id_ is None or id_ == 0 or (row["ids"] is None and self._vault.held([id_])):
            id_ = secrets.randbits(63)
        taken.add(id_)
        return Item(id_, label, source, now)

    def _see(self, image: ImageLike, item: Item, mask: MaskLike | None) -> Record:
        """Embeds an image that is to be remembered, with patches if there is a mask."""
        vector = self._embed(image).cls[0].astype(np.float16)
        if mask is None:
            return Record(item, vector)
        fitted = self._fit(image, mask)
        patches = self._embed(image, view="whole").patches[0]  # (h, w, P)
        return Record(item, vector, quantize_patches(patches), fitted)

    def _add_records(self, records: Iterable[Record]) -> None:
        """Remembers what a memory of the same model saw, all or nothing; for `exchange.py`."""
        self._check_writable()
        with self._lock:
            self._vault.add(records)

    # ---- asking

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

        Returns:
            See `Regions`; at the image's own size. Without a prompt the cost is one pass over the
            remembered masks.

        Raises:
            ImageError: an image cannot be used.
            InputError: a mask does not fit, the protocol is unknown, or no item has a mask.
        """
        check_protocol(protocol)
        self._check_open()
        height, width = load_image(image).shape[:2]
        if prompt is not None:
            pairs = [self._prompt(pair) for pair in pairs_of(prompt)]
            query = self._embed(image, view="whole").patches[0]
            return in_context(query, pairs, size=(height, width), protocol=protocol)
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

    # ---- forgetting

    def plan_delete(
        self,
        ids: int | Iterable[int] | None = None,
        *,
        label: str | None = None,
        source: str | os.PathLike[str] | None = None,
        similar_to: ImageLike | None = None,
        min_similarity: float = 0.9,
        added_before: datetime | None = None,
    ) -> tuple[Item, ...]:
        """Says what `delete` with the same arguments would erase, and changes nothing.

        Args:
            ids: one or several; an empty iterable selects nothing.
            label: all items of this label.
            source: all items of this source: the text as it was stored, or else the path that
                it is from here, made absolute as `add` does.
            similar_to: all items at least `min_similarity` like this image; maybe none.
            min_similarity: in [-1, 1].
            added_before: all items that were added before this moment, to the second; maybe none.
                One without a time zone is in local time. `datetime.now() - timedelta(days=30)`
                keeps what was taught in the last 30 days.

        Returns:
            The items, ascending by id.

        Raises:
            InputError: not exactly one way to select was given, or a value does not fit.
            ItemNotFoundError: an id, the label or the source is not in the memory.
            ImageError: `similar_to` cannot be used.
        """
        given = {
            "ids": ids,
            "label": label,
            "source": source,
            "similar_to": similar_to,
            "added_before": added_before,
        }
        names = [name for name, value in given.items() if value is not None]
        if len(names) != 1:
            raise InputError(
                f"{' and '.join(names) or 'nothing'} given, wanted exactly one of ids, label, "
                "source, similar_to and added_before; delete one after the other"
            )
        self._check_open()
        if similar_to is not None:
            return self._similar(similar_to, min_similarity)
        with self._lock:
            if ids is not None:
                return self._by_id(ids)
            items = list(self._vault.items())
        taught = taught_between(None, added_before)
        if taught is not None:
            return tuple(item for item in items if taught(item))
        if label is not None:
            chosen = tuple(item for item in items if item.label == label)
        else:
            text = os.fspath(cast("str | os.PathLike[str]", source))
            chosen = tuple(item for item in items if item.source == text)
            if not chosen:
                chosen = tuple(item for item in items if item.source == source_of(text))
        if not chosen:
            raise ItemNotFoundError(self._unknown(names[0], given[names[0]]))
        return chosen

    def delete(
        self,
        ids: int | Iterable[int] | None = None,
        *,
        label: str | None = None,
        source: str | os.PathLike[str] | None = None,
        similar_to: ImageLike | None = None,
        min_similarity: float = 0.9,
        added_before: datetime | None = None,
        receipt: bool = True,
    ) -> ErasureReport:
        """Erases items: all that are selected, or on any error none.

        When it returns, the items are gone from every later answer, here and in processes that
        have the vault open for reading; the vault's file has been written anew without them and
        the old one zeroed; and all files of the vault have been searched for remains.

        Args:
            ids: see `plan_delete`, as for the others.
            label: of all items to erase.
            source: of all items to erase.
            similar_to: an image like all items to erase.
            min_similarity: for `similar_to`.
            added_before: of all items to erase (retention).
            receipt: False saves two passes over the memory and gives a report without a receipt.

        Returns:
            What was erased and what was checked. If nothing is similar or old enough, or `ids` is
            empty, nothing is erased and checked. `purged` is False if more than `purge_limit` items
            are left or the system refused the purge (the log says why); then remains may be
            found, and the next opening for writing finishes it.

        Raises:
            InputError: not exactly one selector, or a value does not fit.
            ItemNotFoundError: an id, the label or the source is not in the memory.
            VaultReadOnlyError, VaultFullError, VaultLockedError: nothing was deleted.
        """
        self._check_writable()
        with self._lock:
            chosen = self.plan_delete(
                ids,
                label=label,
                source=source,
                similar_to=similar_to,
                min_similarity=min_similarity,
                added_before=added_before,
            )
            erased = [item.id for item in chosen]
            report = erase(
                self._vault,
                erased,
                purge_limit=self._purge_limit,
                receipt=receipt,
                deleted=lambda: self._recall.deleted(erased),
            )
            self._recall.purged()
        return report

    def _by_id(self, ids: int | Iterable[int]) -> tuple[Item, ...]:
        several = list(ids) if isinstance(ids, Iterable) else [ids]
        wanted = {plain_id(id_) for id_ in several}
        chosen = tuple(self._vault.items(wanted))
        missing = sorted(wanted.difference(item.id for item in chosen))
        if missing:
            raise not_held(self.path, missing)
        return chosen

    def _similar(self, image: ImageLike, min_similarity: float) -> tuple[Item, ...]:
        if not isinstance(min_similarity, (int, float)) or not -1 <= min_similarity <= 1:
            raise InputError(f"min_similarity is {min_similarity!r}, wanted a number in [-1, 1]")
        query = self._embed(image).cls[0]
        with self._lock:
            index = self._recall.index()
            ids, similarities = index.search(query, max(1, len(index)))
            chosen = ids[similarities >= min_similarity].tolist()
            return tuple(self._recall.item(id_) for id_ in sorted(chosen))

    # ---- looking

    @property
    def index_kind(self) -> Literal["exact", "hnsw"]:
        """How neighbors are found now. Reads the vault if it has not been asked yet."""
        with self._lock:
            self._check_open()
            return self._recall.index().kind

    def settle(self) -> None:
        """Waits until the index is built: then "hnsw" is at its fastest.

        Until then its answers are those of an exact search, in part or in all.
        """
        with self._lock:
            self._check_open()
            self._recall.index().settle()

    def items(self) -> Iterator[Item]:
        """Gives all items ascending by id. Changes in between may show or not."""
        self._check_open()
        return self._vault.items()

    def stats(self) -> MemoryStats:
        """Counts what there is. One pass over the vault."""
        self._check_open()
        labels = Counter(item.label for item in self._vault.items() if item.label is not None)
        binding = self._vault.binding
        return MemoryStats(
            items=self._vault.count(),
            labels=dict(sorted(labels.items())),
            masks=self._vault.count_dense(),
            bytes_on_disk=sum(entry.stat().st_size for entry in self.path.iterdir()),
            embedder_name=binding.name,
            embedder_sha256=binding.sha256,
            image_size=binding.side,
            format_version=FORMAT_VERSION,
            sealed=self._vault.sealed,
            purge_pending=self._vault.purge_pending,
            receipt_key=receipt_key(self._vault),
        )

    def verify(self) -> VerifyReport:
        """Reads the whole vault and checks it: SQLite's own check, sizes, ids, numbers, model.

        Raises:
            VaultLockedError: another process is writing all the time.
        """
        self._check_open()
        problems = self._vault.problems()
        if problems:
            return VerifyReport(ok=False, problems=tuple(problems), items=0, masks=0)
        items, masks = self._vault.count(), self._vault.count_dense()
        return VerifyReport(ok=True, problems=(), items=items, masks=masks)

    def __len__(self) -> int:
        self._check_open()
        return self._vault.count()

    def __repr__(self) -> str:
        if self._closed:
            return f"VisualMemory({str(self.path)!r}, closed)"
        name = self._vault.binding.name
        return f"VisualMemory({str(self.path)!r}, embedder={name!r}, read_only={self.read_only})"

    def close(self) -> None:
        """Zeroes the index, closes the vault and gives up the right to write. Again is fine."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._recall.clear()
            self._vault.close()
            self._close_embedder()

    def __enter__(self) -> VisualMemory:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # ---- helpers

    def _queries(
        self, image: ImageLike | Iterable[ImageLike]
    ) -> tuple[npt.NDArray[np.float32], bool]:
        """Class tokens (Q, D), and whether it was one image and not an iterable of them."""
        images, alone = one_or_many(image)
        rows = []
        for at, one in enumerate(images):
            try:
                rows.append(self._embed(one).cls[0])
            except (ImageError, InputError) as error:
                if alone:
                    raise
                raise type(error)(f"images[{at}]: {error}") from error
        if not rows:
            return np.empty((0, self._vault.binding.cls_dim), dtype=np.float32), alone
        return np.stack(rows), alone

    def _embed(self, image: ImageLike, *, view: View = "center") -> Embedding:
        with self._lock:
            self._check_open()
            if self._embedder is None:
                # A name that is not bundled falls back to the default, whose hash then differs.
                name = self._vault.binding.name
                known = name if name in bundled_models() else DEFAULT_MODEL
                self._embedder = self._open_bound(known)
            seen_by = self._embedder
        embedding = seen_by.embed(image, view=view)
        if not (np.isfinite(embedding.cls).all() and np.isfinite(embedding.patches).all()):
            raise ModelError(f"{seen_by.manifest.name} gave numbers that are not finite")
        return embedding

    def _fit(self, image: ImageLike, mask: MaskLike) -> npt.NDArray[np.uint8]:
        """A mask of the image's own size, fitted to the model's square."""
        height, width = load_image(image).shape[:2]
        return fit_mask(mask, image_size=(height, width), side=self._vault.binding.side)

    def _prompt(self, pair: Prompt) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
        image, mask = pair
        fitted = self._fit(image, mask)
        return self._embed(image, view="whole").patches[0], fitted

    def _unknown(self, what: str, value: object) -> str:
        return f"{self.path} holds no item with {what} {value!r:.200}; nothing was changed"

    def _check_open(self) -> None:
        if self._closed:
            raise VaultClosedError(f"the memory at {self.path} is closed; open it again")

    def _check_writable(self) -> None:
        self._check_open()
        self._vault.check_writable()

    def _close_embedder(self) -> None:
        if self._owned and self._embedder is not None:
            self._embedder.close()
        self._embedder = None


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
