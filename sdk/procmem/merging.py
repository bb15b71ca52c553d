"""Two memories' items become one set: a union in which every order gives the same.

Takes records that another memory has sent (`bundle.py`), gives `Vault.put` those that change
something. An id is the name of an item everywhere: equal ids with equal contents are one item.
Where the contents differ, the one that was taught later stays, of two from the same second the
larger one by its bytes. That is the larger of the two in one order of all contents, so that merging
is commutative, associative and idempotent; "the first one stays" would be none of the three. What
was revoked stays out, whenever it comes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from procmem.record import Binding, Record, canonical_values, values_of
from procmem.vault import Vault

_RECORDS_AT_ONCE = 100
_BYTES_AT_ONCE = 1 << 24  # of vectors, patches and masks, whose sizes the sender chooses


@dataclass(slots=True)
class Tally:
    """What became of the records; see `ReceiveReport`."""

    added: list[int] = field(default_factory=list)
    replaced: list[int] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)
    unchanged: list[int] = field(default_factory=list)
    revoked: list[int] = field(default_factory=list)
    not_seen: list[int] = field(default_factory=list)


def without_revoked(records: Iterable[Record], vault: Vault, tally: Tally) -> Iterator[Record]:
    """The records whose ids were not revoked in this vault."""
    for batch in _batches(records):
        revoked = vault.revoked.among(record.item.id for record in batch)
        tally.revoked += sorted(revoked)
        yield from (record for record in batch if record.item.id not in revoked)


def winners(records: Iterable[Record], vault: Vault, tally: Tally) -> Iterator[Record]:
    """The records that this vault does not hold, or holds with a content that gives way.

    What a migration has left under the previous model was seen otherwise, so that contents cannot
    be compared: of two that were taught at the same time, the one of the present model stays.
    """
    for batch in _batches(records):
        ids = [record.item.id for record in batch]
        held = {one.item.id: one for one in vault.records(ids)}
        left = {item.id: item for item in vault.erasable(ids) if item.id not in held}
        for record in batch:
            id_ = record.item.id
            if id_ in left:
                if record.item.added_seconds < left[id_].added_seconds:
                    tally.kept.append(id_)
                else:
                    tally.replaced.append(id_)
                    yield record
                continue
            if id_ not in held:
                tally.added.append(id_)
                yield record
                continue
            mine, theirs = (rank(one, vault.binding) for one in (held[id_], record))
            if theirs > mine:
                tally.replaced.append(id_)
                yield record
            else:
                (tally.unchanged if theirs == mine else tally.kept).append(id_)


def rank(record: Record, binding: Binding) -> tuple[int, bytes]:
    """The place of a content in the order of all contents; of two under one id the larger stays."""
    return record.item.added_seconds, canonical_values(*values_of(record, binding))


def _batches(records: Iterable[Record]) -> Iterator[list[Record]]:
    batch: list[Record] = []
    size = 0
    for record in records:
        batch.append(record)
        parts = (record.vector, record.patches, record.mask)
        size += sum(part.nbytes for part in parts if part is not None)
        if len(batch) == _RECORDS_AT_ONCE or size >= _BYTES_AT_ONCE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
