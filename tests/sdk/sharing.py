"""Memories that share, for the tests: items of the stress runs in vaults of a stand-in model."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tests.stress import toy

from procmem.address import vault_address
from procmem.committer import Committer
from procmem.memory import VisualMemory
from procmem.record import Record, canonical_values, values_of


class OtherModel(toy.ToyEmbedder):
    """Sees the same as the toy, and is another model."""

    sha256 = "cd" * 32
    manifest = dataclasses.replace(toy.ToyEmbedder.manifest, name="other", sha256=sha256)


def opened(path: Path, **options) -> VisualMemory:
    return VisualMemory(path, embedder=options.pop("embedder", toy.EMBEDDER), **options)


def filled(path: Path, ids=range(1, 13), **options) -> VisualMemory:
    memory = opened(path, **options)
    memory._vault.add(map(toy.record, ids))
    return memory


def contents(memory) -> dict[int, bytes]:
    """Everything that is stored of each item, by id."""
    vault = memory._vault
    return {
        record.item.id: canonical_values(*values_of(record, vault.binding))
        for record in vault.records(vault.ids())
    }


def contents_of(vault) -> dict[int, bytes]:
    """What stands for that, of the items that a migration has left too."""
    committer = Committer(b"of the tests")
    vault.commit(committer)
    ids, codes = committer.result()
    return dict(zip(ids.tolist(), map(bytes, codes), strict=True))


def retold(id_: int, *, label: str | None = "told anew", later: int = 0) -> Record:
    """The item of an id with another label, and taught so many seconds later."""
    record = toy.record(id_)
    seconds = record.item.added_seconds + later
    item = dataclasses.replace(record.item, label=label, added_seconds=seconds)
    return dataclasses.replace(record, item=item)


def address(memory) -> str:
    return vault_address(memory)


def stored(memory) -> dict[str, bytes]:
    """What two vaults of equal items and equal revocations share byte for byte."""
    assert memory._vault.purge()
    files = toy.files(memory.path)
    return {name: data for name, data in files.items() if name not in ("KEY", "LOCK")}
