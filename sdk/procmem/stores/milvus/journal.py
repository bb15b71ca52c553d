"""Who writes to a memory on Milvus, and what of it counts: what makes its changes all or nothing.

Between `client.py` and `table.py`. Milvus has no transactions, no unique keys and no
compare-and-set. What it has is enough: a row is there or not, and with strong consistency a query
sees every row that any process was told is stored. So, in a small collection of rows:

- A **claim** says that a process wants to write. They take turns as in a bakery (Lamport, "A new
  solution of Dijkstra's concurrent programming problem", 1974): each takes a number larger than
  all that it sees and waits for those with smaller ones; a tie is broken by a random name. While it
  works it renews its claim. One that is not renewed for `lease_seconds` is taken to be dead, and
  its claim is removed by who waits.
- The number of a turn is the **batch** of every row that it stores. An **entry** says up to which
  batch rows count. Readers take the newest entry: all of a batch appears at once, with one row.
- A number that was passed over belonged to a writer that failed: whose turn is next writes an
  entry that names it as **broken**, and rows of it never count, however late they arrive.
- Ids that are about to be deleted are written as **doomed** rows first; the entry that says so
  hides them all at once, and a second one ends that when their rows are gone.

After it wrote an entry, a writer looks whether its claim still stands. If it does, nobody can have
taken it for dead before the entry was there, and who comes next sees it. So two writers that race
never both count, whatever each of them believes about time; a lease that is too short only makes
the slower one fail.
"""

from __future__ import annotations

import json
import secrets
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from procmem.errors import VaultLockedError, VaultServerError
from procmem.stores.milvus.client import MilvusConnection, understood
from procmem.stores.milvus.rows import NOWHERE, PLACEHOLDER, TEXT_CHARACTERS

JOURNAL_LAYOUT = {
    "key": "VARCHAR 96",
    "kind": "INT64",
    "number": "INT64",
    "text": f"VARCHAR {TEXT_CHARACTERS}",
    **PLACEHOLDER,
}
_FIELDS = ("key", "kind", "number", "text")
_HEAD, _ENTRY, _CLAIM, _DOOMED = range(4)
_BROKEN_KEPT = 1_000  # a request that arrives a thousand failed writers late does not exist
_DOOMED_IDS = 6_000  # of eight bytes, as base64 in one text
_STEPS = 4  # a turn writes at most three entries
_PAUSE_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class View:
    """What counts at one moment.

    Attributes:
        number: of the turn that wrote the newest entry; 0 before the first.
        step: which of its entries.
        counts: batches up to this one count,
        broken: but not these.
        doomed: ids that do not count any more.
    """

    number: int = 0
    step: int = 0
    counts: int = 0
    broken: tuple[int, ...] = ()
    doomed: tuple[int, ...] = ()

    @property
    def state(self) -> int:
        """Larger after every change."""
        return _STEPS * self.number + self.step

    def filter(self, *conditions: str) -> str:
        """A filter that lets through only what counts and meets all conditions."""
        parts = [f"batch <= {self.counts}"]
        if self.broken:
            parts.append(f"batch not in {list(self.broken)}")
        if self.doomed:
            parts.append(f"id not in {list(self.doomed)}")
        return " and ".join([*parts, *conditions])


@dataclass(slots=True)
class Turn:
    """The right to write, until it is given back.

    Attributes:
        name: random.
        number: its batch; 0 until it has one.
        view: what counts, as far as the turn itself changes it.
        failed: batches that failed before it; their rows may still be there.
        stored: whether it has stored rows.
        steps: how many entries it has tried to write.
        claim: key of its newest claim.
        renewed_seconds: when that was written, by this process's own clock.
    """

    name: str
    number: int = 0
    view: View = View()
    failed: tuple[int, ...] = ()
    stored: bool = False
    steps: int = 0
    claim: str = ""
    renewed_seconds: float = 0.0
    keys: list[str] = field(default_factory=list)
    """Of the rows that end with the turn."""
    replaced: list[str] = field(default_factory=list)
    """Of those that the next entry takes the place of."""


class OvertakenError(VaultServerError):
    """A turn was taken for dead before its entry was written."""


class MilvusJournal:
    """The collection of claims and entries of one memory.

    Args:
        lease_seconds: after which an unchanged claim is that of a dead writer; longer than any
            call takes.
        wait_seconds: how long a turn is waited for.
    """

    def __init__(
        self,
        connection: MilvusConnection,
        collection: str,
        *,
        lease_seconds: float,
        wait_seconds: float,
    ) -> None:
        self._connection = connection
        self._collection = collection
        self._lease_seconds = lease_seconds
        self._wait_seconds = wait_seconds
        self._given_up: list[str] = []  # keys of claims of turns that ended in the dark
        self._floor = 0

    # ---- reading

    def head(self) -> dict[str, Any] | None:
        """What was given to `write_head`; None if nothing was.

        Raises:
            VaultFormatError: it is none.
        """
        rows = self._read(f"kind == {_HEAD}")
        if not rows:
            return None
        with understood(self._connection.place, "the head of its journal"):
            return dict(json.loads(min(rows, key=lambda row: row["number"])["text"]))

    def view(self) -> View:
        """What counts now.

        Raises:
            VaultFormatError: an entry is none.
        """
        return self._view(self._read(f"kind in [{_ENTRY}, {_DOOMED}]"))

    def _view(self, rows: Sequence[dict[str, Any]]) -> View:
        with understood(self._connection.place, "an entry of its journal"):
            return _view(rows)

    # ---- taking turns

    def take(self) -> Turn:
        """Waits for a turn.

        Raises:
            VaultLockedError: others wrote for too long.
        """
        self._connection.delete(self._collection, self._given_up)
        self._given_up = []
        turn = Turn(secrets.token_hex(8))
        try:
            self._claim(turn, 0)
            self._wait(turn)
        except VaultServerError:
            self.give_up(turn)
            raise
        except BaseException:
            self.give_back(turn)
            raise
        return turn

    def renew(self, turn: Turn) -> None:
        """Shows the others that it is at work, if that is due."""
        if time.monotonic() - turn.renewed_seconds > self._lease_seconds / 4:
            self._claim(turn, turn.number)

    def give_back(self, turn: Turn) -> None:
        """Ends a turn of which every call is known to be done or not to have been made."""
        self._connection.delete(self._collection, turn.keys)

    def give_up(self, turn: Turn) -> None:
        """Ends a turn of which a call may still arrive: its number is never used again."""
        self._given_up += turn.keys
        self._floor = max(self._floor, turn.number)

    def _claim(self, turn: Turn, number: int) -> None:
        turn.number = number
        turn.claim = f"claim.{turn.name}.{number}.{secrets.token_hex(4)}"
        turn.keys.append(turn.claim)
        self._write(turn.claim, _CLAIM, number, turn.name)
        turn.renewed_seconds = time.monotonic()

    def _wait(self, turn: Turn) -> None:
        deadline = time.monotonic() + self._wait_seconds
        seen: dict[str, tuple[frozenset[str], float]] = {}
        while True:
            rows = self._read(f"kind != {_HEAD}")
            view = self._view(rows)
            claims: dict[str, list[dict[str, Any]]] = {}
            for row in rows:
                if row["kind"] == _CLAIM:
                    claims.setdefault(row["text"], []).append(row)
            mine = {row["key"] for row in claims.pop(turn.name, [])}
            # Of who still chooses the number is 0: it may become any.
            numbers = {
                name: max(row["number"] for row in claimed) for name, claimed in claims.items()
            }
            tie = any(
                number == turn.number and name < turn.name for name, number in numbers.items()
            )
            if turn.claim not in mine or turn.number <= max(view.number, self._floor) or tie:
                largest = max([view.number, self._floor, turn.number, *numbers.values()])
                self._claim(turn, largest + 1)
                continue
            own = (turn.number, turn.name)
            ahead = [name for name, number in numbers.items() if (number, name) < own]
            if not ahead:
                turn.view = view
                passed = range(view.counts + 1, turn.number)
                turn.failed = tuple(number for number in passed if number not in view.broken)
                turn.replaced = [row["key"] for row in rows if row["kind"] in (_ENTRY, _DOOMED)]
                return
            now = time.monotonic()
            dead: list[str] = []
            for name in ahead:
                keys = frozenset(row["key"] for row in claims[name])
                if name not in seen or seen[name][0] != keys:
                    seen[name] = (keys, now)
                elif now - seen[name][1] > self._lease_seconds:
                    dead += keys
            if dead:
                self._connection.delete(self._collection, dead)
                continue
            if now > deadline:
                raise VaultLockedError(
                    f"{self._connection.place}: others have been writing for "
                    f"{self._wait_seconds:g} seconds; nothing was changed: try again later"
                )
            self.renew(turn)
            time.sleep(_PAUSE_SECONDS)

    # ---- writing

    def write_head(self, head: dict[str, Any], turn: Turn) -> None:
        """Says what the memory is; readers take the first that was written."""
        self._write(f"head.{turn.number}", _HEAD, turn.number, json.dumps(head))

    def settle(self, turn: Turn) -> None:
        """Writes down which batches failed; call it when their rows are gone."""
        broken = (*turn.view.broken, *turn.failed)[-_BROKEN_KEPT:]
        self._enter(turn, replace(turn.view, broken=broken, doomed=()))
        turn.failed = ()

    def commit(self, turn: Turn, *, doomed: Sequence[int] = ()) -> None:
        """Writes the entry from which on all that the turn stored counts.

        Args:
            turn: the turn.
            doomed: ids that do not count from then on.

        Raises:
            OvertakenError: others took the turn for dead; who comes next decides.
        """
        keys = []
        for position, start in enumerate(range(0, len(doomed), _DOOMED_IDS)):
            part = np.array(doomed[start : start + _DOOMED_IDS], dtype="<i8").tobytes()
            keys.append(f"doomed.{turn.number}.{turn.steps}.{position}")
            # An entry's order, so that a reader tells the ids of this one from older ones.
            text = urlsafe_b64encode(part).decode("ascii")
            self._write(keys[-1], _DOOMED, _STEPS * turn.number + turn.steps, text)
            self.renew(turn)
        self._enter(turn, replace(turn.view, counts=turn.number, doomed=tuple(doomed)))
        turn.replaced += keys

    def _enter(self, turn: Turn, view: View) -> None:
        turn.view = replace(view, number=turn.number, step=turn.steps)
        turn.steps += 1  # before the call: it may be done though it fails
        key = f"entry.{turn.number}.{turn.view.step}"
        content = {"step": turn.view.step, "counts": view.counts, "broken": view.broken}
        text = json.dumps({**content, "doomed": len(view.doomed)})
        self._write(key, _ENTRY, turn.number, text)
        turn.keys += turn.replaced
        turn.replaced = [key]
        if not self._read(f'key == "{turn.claim}"'):
            raise OvertakenError(
                f"{self._connection.place} was written to by others while this process stood "
                f"still for more than {self._lease_seconds:g} seconds"
            )

    # ---- rows

    def _read(self, where: str) -> list[dict[str, Any]]:
        return self._connection.query(self._collection, where, _FIELDS)

    def _write(self, key: str, kind: int, number: int, text: str) -> None:
        row = {"key": key, "kind": kind, "number": number, "text": text, "vector": NOWHERE}
        self._connection.insert(self._collection, [row])


def _view(rows: Sequence[dict[str, Any]]) -> View:
    entries = [
        (int(row["number"]), int(content["step"]), content)
        for row in rows
        if row["kind"] == _ENTRY
        for content in [json.loads(row["text"])]
    ]
    if not entries:
        return View()
    number, step, content = max(entries, key=lambda entry: entry[:2])
    view = View(number, step, int(content["counts"]), tuple(map(int, content["broken"])))
    if not content["doomed"]:
        return view
    doomed: list[int] = []
    for row in rows:
        if row["kind"] == _DOOMED and row["number"] == view.state:
            doomed += np.frombuffer(urlsafe_b64decode(row["text"]), dtype="<i8").tolist()
    return replace(view, doomed=tuple(sorted(doomed)))
