"""One run of a migration: the items of a memory, each seen by another model, step by step on disk.

Takes items from the vault and their images from where they came from, gives `switch.py` what is to
be stored and `reembedding.py` the report. An item whose image cannot be had, or is not the one that
was taught, is passed over with the reason; nothing of that is noted on disk, so that the next run
looks again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from procmem.batch import Perception, binding_of
from procmem.beside import PREVIOUS, Beside
from procmem.embedder import Progress
from procmem.errors import ImageError, InputError, VaultClosedError
from procmem.image import read_image_file
from procmem.record import Record, quantize_patches
from procmem.segment import fit_mask
from procmem.switch import (
    advance,
    begin,
    grown_of,
    switch,
    take_back,
    undo,
    was_removed,
)
from procmem.types import LeftBehind, MigrationReport
from procmem.vault import Vault
from procmem.writer import LedgerWriter

AT_ONCE = 32
"""Items of one durable step: an interruption loses at most the work on these."""

SAME_IMAGE = 0.999
"""Least cosine between what the old model sees of an image now and what was stored of it. Engines
round differently, by 0.9996 at the least (docs/devices.md); an image that changed is below."""


class _Left(Exception):
    """Why an item cannot be embedded anew, for people."""


@dataclass
class Run:
    """One run over the items of a vault.

    Attributes:
        vault: open for writing.
        eyes: the new model.
        old: the one that the items were taught with, to compare images; None to compare nothing.
        progress: called after every item with (done, total).
    """

    vault: Vault
    eyes: Perception
    old: Perception | None
    progress: Progress | None
    _left: dict[int, LeftBehind] = field(default_factory=dict, init=False)
    _total: int = field(default=0, init=False)
    _done: int = field(default=0, init=False)
    _embedded: int = field(default=0, init=False)

    def go_over(self) -> MigrationReport:
        """Embeds what the next ledger lacks, and switches to it.

        With items of which none could be embedded, nothing is switched. What earlier runs have
        embedded stays then, and is no reason to switch if none of its images can be had either.
        """
        vault = self.vault
        grown = begin(vault, binding_of(self.eyes))
        try:
            return self._grow_and_switch(grown)
        except VaultClosedError:
            if not was_removed(vault, grown):
                raise
            grown_of(vault)  # says that it was undone
            return self.go_over()  # and was begun again since

    def _grow_and_switch(self, grown: Beside) -> MigrationReport:
        vault = self.vault
        while True:
            ready = set(grown.ids()) | self._left.keys()
            held = vault.ids()
            missing = [id_ for id_ in held if id_ not in ready]
            self._total, self._done = len(held), len(held) - len(missing)
            if missing:
                self._embed(vault, missing, partial(advance, vault))
            elif self._left and not grown.count():
                undo(vault)
                return self._report(switched=False)
            elif self._left and not self._embedded and not _has_an_image(grown):
                return self._report(switched=False)
            elif switch(vault, list(self._left)):
                return self._report(switched=True)

    def take_back(self) -> MigrationReport:
        """Embeds what an earlier run has left, as far as it can be by now."""
        previous = self.vault.open_beside.get(PREVIOUS)
        try:
            if previous is not None:
                ids = previous.ids()
                self._total = len(ids)
                self._embed(previous, ids, partial(take_back, self.vault))
        except VaultClosedError:
            if previous is None or not was_removed(self.vault, previous):
                raise
            # What was left was erased in the meantime: there is nothing more to take back.
        finally:
            if self._embedded:
                self.vault.purge()
        return self._report(switched=True)

    def _report(self, *, switched: bool) -> MigrationReport:
        vault, binding = self.vault, binding_of(self.eyes)
        with vault.mutex:  # not those that were deleted in the meantime
            previous = vault.open_beside.get(PREVIOUS) if switched else vault
            left = [] if previous is None else previous.ids()
        return MigrationReport(
            switched=switched,
            items=vault.count(),
            reembedded=self._embedded,
            left=tuple(self._left[id_] for id_ in left if id_ in self._left),
            checked=self.old is not None,
            embedder_name=binding.name,
            embedder_sha256=binding.sha256,
            image_size=binding.side,
        )

    def _embed(
        self, ledger: LedgerWriter, ids: Sequence[int], take: Callable[[Sequence[Record]], None]
    ) -> None:
        rest = iter(ids)
        while step := list(islice(rest, AT_ONCE)):
            seen: list[Record] = []
            for record in list(ledger.records(step)):
                item = record.item
                try:
                    seen.append(self._see(record))
                except _Left as reason:
                    self._left[item.id] = LeftBehind(item.id, item.source, str(reason))
                self._done += 1
                if self.progress is not None:
                    self.progress(min(self._done, self._total), self._total)
            if seen:
                take(seen)
                self._embedded += len(seen)

    def _see(self, record: Record) -> Record:
        """An item as the new model sees the image that it came from.

        Raises:
            _Left: it cannot be shown to it.
        """
        source = record.item.source
        if source is None:
            raise _Left("it has no source")
        if not Path(source).is_absolute():
            raise _Left(f"its source {source!r:.200} is not the absolute path of an image")
        try:
            # Read once: both models, and both views, are shown the same bytes.
            data = read_image_file(source)
        except ImageError as error:
            raise _Left(str(error)) from error
        try:
            if self.old is not None:
                _check_same(self.old.embed(data).cls[0], record.vector, source)
            vector = self._finite(self.eyes.embed(data).cls[0], source).astype(np.float16)
            if record.mask is None:
                return Record(record.item, vector)
            shape = (record.mask.shape[0], record.mask.shape[1])
            fitted = fit_mask(record.mask, image_size=shape, side=self.eyes.side)
            patches = self._finite(self.eyes.embed(data, view="whole").patches[0], source)
        except (ImageError, InputError) as error:
            raise _Left(f"{source}: {error}") from error
        return Record(record.item, vector, quantize_patches(patches), fitted)

    def _finite(self, numbers: npt.NDArray[np.float32], source: str) -> npt.NDArray[np.float32]:
        if not np.isfinite(numbers).all():
            name = self.eyes.manifest.name
            raise _Left(f"{name} gave numbers that are not finite for {source}")
        return numbers


def _has_an_image(ledger: Beside) -> bool:
    """Whether the image of any item can be read now: if not, a disk may not be plugged in."""
    for item in ledger.items():
        with contextlib.suppress(ImageError):
            if item.source is not None:
                read_image_file(item.source)
                return True
    return False


def _check_same(now: npt.NDArray[np.float32], stored: npt.NDArray[np.float16], source: str) -> None:
    """Raises unless the old model sees what was stored, but for rounding."""
    one, other = now.astype(np.float64), stored.astype(np.float64)
    similarity = float(one @ other / np.sqrt((one @ one) * (other @ other)))
    if not similarity >= SAME_IMAGE:  # written so that NaN fails, too
        raise _Left(
            f"the image at {source} is not the one that was taught (similarity {similarity:.3f} "
            "under the old model); teach it as a new one if it should be known"
        )
