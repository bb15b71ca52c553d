"""However bundles and revocations travel, in whatever order and how often, all memories agree."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import shutil
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.sdk.sharing import address, contents, opened, stored
from tests.stress import toy

from procmem import (
    apply_revocations,
    merging,
    receive_items,
    reissue_revocations,
    revoke,
    share_items,
)
from procmem.merging import rank
from procmem.record import Record
from procmem.revoked import read_revoked

NAMES = ("a", "b", "c")
IDS = st.integers(1, 7)
VERSIONS = st.tuples(IDS, st.integers(0, 2), st.integers(0, 2))
"""Of an item: its id, how much later it was taught, and which of three contents it has."""


def version(id_: int, later: int, which: int) -> Record:
    record = toy.record(6 * id_ if which == 1 else 100 + id_ + which)  # one of the three has a mask
    item = dataclasses.replace(record.item, id=id_, added_seconds=toy.SECONDS + later)
    return dataclasses.replace(record, item=item)


STEPS = st.one_of(
    st.tuples(st.just("add"), st.sampled_from(NAMES), VERSIONS),
    st.tuples(st.just("delete"), st.sampled_from(NAMES), IDS),
    st.tuples(st.just("share"), st.sampled_from(NAMES), st.frozensets(IDS, max_size=4)),
    st.tuples(st.just("revoke"), st.sampled_from(NAMES), st.frozensets(IDS, max_size=2)),
)


class World:
    """Three memories, the files that travel between them, and what all that should come to."""

    def __init__(self, folder, *, sealed: frozenset[str] = frozenset()):
        self.folder, self.count = folder, itertools.count()
        self.keys = {name: folder / f"{name}.key" if name in sealed else None for name in NAMES}
        self.files: list[tuple[str, str]] = []  # (who signed, name)
        self.shared: dict[int, list[Record]] = {}
        self.revoked: set[int] = set()
        self.everyone: list[str] = []
        for name in NAMES:
            with self.open(name) as memory:
                self.everyone.append(address(memory))

    def open(self, name):
        return opened(self.folder / name, key=self.keys[name])

    def step(self, kind, name, what):
        """Something happens in one memory by itself."""
        with self.open(name) as memory:
            held, out = set(memory._vault.ids()), read_revoked(memory.path).tolist()
            if kind == "add" and what[0] not in held and what[0] not in out:
                memory._vault.add([version(*what)])
            if kind == "delete" and what in held:
                memory.delete(what)
            if kind == "share":
                self.share(memory, name, sorted(held & what))
            if kind == "revoke":
                named = sorted(what & (held | set(out)))
                file = f"list {next(self.count)}"
                if revoke(memory, self.folder / file, named).revoked_ids:
                    self.files.append((name, file))
                    self.revoked |= set(named)

    def share(self, memory, name, ids):
        file = f"bundle {next(self.count)}"
        share_items(memory, self.folder / file, to=self.everyone, ids=ids)
        self.files.append((name, file))
        for record in memory._vault.records(ids):
            self.shared.setdefault(record.item.id, []).append(record)

    def share_everything(self):
        for name in NAMES:
            with self.open(name) as memory:
                self.share(memory, name, memory._vault.ids())

    def deliver(self, name, signer, file):
        trust = self.everyone[NAMES.index(signer)]
        with self.open(name) as memory:
            if file.startswith("list"):
                apply_revocations(memory, self.folder / file, trust=trust)
            else:
                receive_items(memory, self.folder / file, trust=trust)

    def expected(self) -> dict[int, bytes]:
        """The reference: the largest content of every id, in the order of `rank`, written anew."""
        left = {}
        for id_, records in self.shared.items():
            if id_ not in self.revoked:
                newest = max(record.item.added_seconds for record in records)
                same = [r for r in records if r.item.added_seconds == newest]
                left[id_] = max(rank(record, toy.BINDING)[1] for record in same)
        return left

    def found(self, name):
        with self.open(name) as memory:
            assert memory.verify().ok
            return contents(memory), read_revoked(memory.path).tolist(), stored(memory)


FEW = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@contextlib.contextmanager
def a_world(tmp_path_factory, **options):
    folder = tmp_path_factory.mktemp("world")
    with toy.hasty():
        yield World(folder, **options)
    shutil.rmtree(folder)


@FEW
@given(data=st.data(), steps=st.lists(STEPS, max_size=14))
def test_every_order_and_repetition_ends_in_the_same_bytes(tmp_path_factory, data, steps):
    with a_world(tmp_path_factory) as world:
        for step in steps:
            world.step(*step)
        world.share_everything()
        ends = []
        for name in NAMES:
            order = data.draw(st.permutations(world.files))
            again = data.draw(st.lists(st.sampled_from(world.files), max_size=4))
            for signer, file in [*order, *again]:
                world.deliver(name, signer, file)
            ends.append(world.found(name))
        for held, revoked, files in ends:
            assert held == world.expected()
            assert revoked == sorted(world.revoked)
            assert files == ends[0][2]


@settings(FEW, max_examples=8)
@given(data=st.data(), steps=st.lists(STEPS, max_size=10))
def test_sealed_memories_end_in_the_same_contents(tmp_path_factory, data, steps):
    with a_world(tmp_path_factory, sealed=frozenset("ac")) as world:
        for step in steps:
            world.step(*step)
        world.share_everything()
        for name in NAMES:
            for signer, file in data.draw(st.permutations(world.files)):
                world.deliver(name, signer, file)
            held, revoked, files = world.found(name)
            assert held == world.expected()
            assert revoked == sorted(world.revoked)
            assert ("REVOKED" in files) == bool(world.revoked)


@settings(FEW, max_examples=15)
@given(data=st.data(), steps=st.lists(STEPS, max_size=10))
def test_deliveries_that_are_killed_and_made_again_end_in_the_same_bytes(
    tmp_path_factory, data, steps
):
    with a_world(tmp_path_factory) as world:
        for step in steps:
            world.step(*step)
        world.share_everything()
        ends = []
        for name in NAMES:
            for signer, file in data.draw(st.permutations(world.files)):
                before = world.found(name)
                left = data.draw(st.integers(0, 12))
                copy = world.folder / "copy"
                with mock.patch("os.fsync", kill_at(left, world.folder / name, copy)):
                    world.deliver(name, signer, file)
                if copy.exists():
                    after = world.found(name)
                    shutil.rmtree(world.folder / name)
                    copy.rename(world.folder / name)
                    assert world.found(name)[:2] in (before[:2], after[:2])
                    world.deliver(name, signer, file)
                    assert world.found(name) == after
            ends.append(world.found(name))
        for held, revoked, files in ends:
            assert held == world.expected()
            assert revoked == sorted(world.revoked)
            assert files == ends[0][2]


def kill_at(left, folder, copy):
    """In place of os.fsync: copies the folder at one call, as a kill there would leave it."""
    calls = itertools.count()

    def fsync(_descriptor):
        if next(calls) == left:
            shutil.copytree(folder, copy)
            (copy / "LOCK").write_bytes(b"")

    return fsync


@FEW
@given(steps=st.lists(STEPS, max_size=14), order=st.randoms(use_true_random=False))
def test_memories_that_only_meet_each_other_agree_too(tmp_path_factory, steps, order):
    """No file travels further than to the next one, and everybody passes on what they have."""
    with a_world(tmp_path_factory) as world:
        for step in steps:
            world.step(*step)
        meetings = [*itertools.permutations(NAMES, 2)] * 2
        order.shuffle(meetings)
        for giver, taker in [*meetings, *itertools.permutations(NAMES, 2), ("a", "b"), ("b", "c")]:
            bundle, out = (f"{kind} {next(world.count)}" for kind in ("bundle", "list"))
            with world.open(giver) as memory:
                share_items(memory, world.folder / bundle, to=world.everyone)
                reissue_revocations(memory, world.folder / out)
            for file in order.sample([bundle, out], 2):
                world.deliver(taker, giver, file)
        ends = [world.found(name) for name in NAMES]
        assert ends[0] == ends[1] == ends[2]
        assert ends[0][1] == sorted(world.revoked)


# ---- the rule by itself


@given(st.lists(VERSIONS, min_size=1, max_size=5))
@settings(deadline=None, derandomize=True)
def test_the_rank_orders_all_contents_of_an_id(versions):
    records = [version(1, later, which) for _, later, which in versions]
    ranks = {rank(record, toy.BINDING) for record in records}
    # Equal only if equal in everything that is stored.
    assert len(ranks) == len({(later, which) for _, later, which in versions})
    newest = max(record.item.added_seconds for record in records)
    assert max(ranks)[0] == newest


@pytest.mark.parametrize("rule", ["the first stays", "the last stays"])
def test_the_control_a_rule_that_is_no_order_is_caught(tmp_path_factory, monkeypatch, rule):
    monkeypatch.setattr(
        "procmem.merging.rank",
        {"the first stays": lambda *_: 0, "the last stays": CountUp()}[rule],
    )
    ends = []
    for order in ((0, 1), (1, 0)):
        with a_world(tmp_path_factory) as world:
            world.step("add", "a", (1, 0, 0))
            world.step("add", "b", (1, 1, 2))
            world.share_everything()
            for at in order:
                world.deliver("c", *world.files[at])
            ends.append(world.found("c")[0])
    assert ends[0] != ends[1]


class CountUp:
    """Ranks what is asked about later higher."""

    def __init__(self):
        self._calls = itertools.count()

    def __call__(self, *_):
        return next(self._calls)


@pytest.mark.parametrize("large", ["vector", "patches", "mask"])
def test_large_records_are_held_a_few_at_a_time(large):
    held, most = [0], [0]

    class Counted:
        item = toy.record(1).item
        vector = np.zeros(4, np.float16)
        patches = mask = None

        def __init__(self):
            setattr(self, large, np.zeros(1 << 22, np.int8))
            held[0] += 1
            most[0] = max(most[0], held[0])

        def __del__(self):
            held[0] -= 1

    batches = merging._batches(Counted() for _ in range(30))
    sizes = []
    for batch in batches:
        sizes.append(len(batch))
        del batch
    assert sizes == [4] * 7 + [2]
    assert most[0] <= 5
    assert [len(batch) for batch in merging._batches(toy.record(id_) for id_ in range(1, 251))] == [
        100,
        100,
        50,
    ]
