"""What every `Table` promises, of all that are here and of the plain twin they are compared with.

A new one needs a line in `conftest.py` and nothing here.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.sdk.stores.memory_table import MemoryTable, similarity
from tests.sdk.stores.samples import (
    HEAD,
    LARGEST,
    WIDTH,
    everything,
    ids_of,
    item,
    mask,
    query_of,
    values,
)

from procmem.errors import InputError, ItemNotFoundError
from procmem.stores.contract import EVERYTHING, Where
from procmem.stores.milvus import MilvusTable
from procmem.stores.table import StoredItem, StoredMask

HOSTILE = [
    "' or 1 == 1 or label == '",
    '" or 1 == 1 or label == "',
    'cat") or (id > 0',
    "cat\\",
    "%",
    "_",
    "{0} {label}",
    "\udcff\ud800 lone",
    "\U0001f408\u200d\u2b1b",
    "\r\n\t\x01\x7f",
    "x" * 1_000,
    "\U0001f408" * 1_000,
    "null",
    "=",
]


@pytest.fixture
def table(connect):
    table = connect()
    table.create(HEAD, width=WIDTH)
    return table


# ---- the memory


def test_before_it_is_made_there_is_none_and_afterwards_its_head(connect):
    table = connect()
    assert table.head() is None
    table.create(HEAD, width=WIDTH)
    assert table.head() == HEAD
    assert connect().head() == HEAD
    assert (table.count(), table.count(dense=True), ids_of(table)) == (0, 0, [])


def test_who_makes_it_second_finds_what_the_first_made(connect):
    first, second = connect(), connect()
    first.create(HEAD, width=WIDTH)
    first.insert([(item(1), None)])
    second.create({"name": "other"}, width=7)
    assert second.head() == HEAD
    assert everything(second) == [values(item(1))]


# ---- what is stored


def test_items_come_back_as_they_went_in(table):
    stored = [
        item(1),
        item(2, label=None),
        item(3, source="/photos/a b.jpg"),
        item(4, label=None, labelled=True, sealed=bytes(range(256)) * 3),
        item(5, label=None, sealed=b""),
        item(2**53 + 1, seconds=0),
        item(LARGEST, seconds=2**40),
    ]
    table.insert((one, None) for one in stored)
    assert everything(table) == [values(one) for one in stored]
    assert sorted(map(values, table.fetch([one.id for one in stored]))) == everything(table)


def test_vectors_come_back_to_the_last_bit(table):
    bits = np.array(
        [0x0001, 0x8001, 0x03FF, 0x0400, 0x7BFF, 0xFBFF, 0x8000, 0x0000, 0x3C00], dtype=np.uint16
    )
    vector = np.resize(bits, WIDTH).view(np.float16)
    table.insert([(StoredItem(9, vector, None, None, False, 0), None)])
    assert table.fetch([9])[0].vector.tobytes() == vector.tobytes()


def test_a_text_is_what_it_is_and_no_part_of_a_question(table):
    stored = [item(id_, label=text, source=text) for id_, text in enumerate(HOSTILE, 1)]
    table.insert((one, None) for one in stored)
    assert everything(table) == [values(one) for one in stored]
    for id_, text in enumerate(HOSTILE, 1):
        assert [one.id for one in table.walk(0, 99, Where(label=text))] == [id_]
        near, _ = table.candidates(query_of(99), 99, Where(label=text), exact=True)
        assert [one.id for one in near] == [id_]


def test_the_longest_texts_are_kept(table):
    source = "\U0001f408" * 32_767
    sealed = np.random.default_rng(1).bytes(140_000)
    table.insert([(item(1, source=source), None), (item(2, label=None, sealed=sealed), None)])
    assert everything(table) == [
        values(item(1, source=source)),
        values(item(2, label=None, sealed=sealed)),
    ]
    near, _ = table.candidates(query_of(1), 1, EVERYTHING, exact=True)
    assert values(near[0]) == values(item(1, source=source))


def test_masks_come_back_as_they_went_in(table):
    wanted = {
        3: mask(3),
        4: mask(4, patches=64 * 64 * 192, side=1_024),
        LARGEST: StoredMask(LARGEST, b"sealed together", b""),
    }
    table.insert((item(id_), wanted.get(id_)) for id_ in (1, 3, 4, 7, LARGEST))
    assert table.masks(0, 9) == list(wanted.values())
    assert table.masks(3, 1) == [wanted[4]]
    assert table.masks(LARGEST, 9) == []
    found = {one.id: one for one in table.fetch_masks([1, 3, 5, LARGEST])}
    assert found == {3: wanted[3], LARGEST: wanted[LARGEST]}
    assert (table.count(), table.count(dense=True)) == (5, 3)


# ---- all or nothing


def test_nothing_is_no_change(table):
    table.insert([(item(1), mask(1))])
    table.insert([])
    table.delete([])
    assert (everything(table), table.masks(0, 9)) == ([values(item(1))], [mask(1)])
    assert (table.held([]), table.fetch([]), table.fetch_masks([])) == (set(), [], [])


def test_an_id_in_use_anywhere_in_a_batch_leaves_nothing_of_it(table):
    table.insert([(item(3), mask(3))])
    before = (everything(table), table.masks(0, 9))
    for second in ([7, 3, 8], [7, 8, 7], [3, 3]):
        with pytest.raises(InputError, match=r"\b[37]\b"):
            table.insert((item(id_, label="new"), mask(id_)) for id_ in second)
        assert (everything(table), table.masks(0, 9)) == before
    table.insert([(item(7), None), (item(8), None)])
    assert ids_of(table) == [3, 7, 8]


def test_an_id_given_twice_far_apart_leaves_nothing(table):
    """Also where rows are sent some at a time."""
    ids = [*range(1, 1_201), 5]
    with pytest.raises(InputError, match=r"\b5\b"):
        table.insert((item(id_), None) for id_ in ids)
    assert (table.count(), table.held([1, 5, 1_200])) == (0, set())


def test_items_that_fail_in_the_middle_leave_nothing(table):
    def failing():
        for id_ in range(1, 1_100):
            yield item(id_), None
        raise RuntimeError("the disk with the photos is gone")

    before = table.state()
    with pytest.raises(RuntimeError, match="photos"):
        table.insert(failing())
    assert (table.count(), table.held([1, 2])) == (0, set())
    table.insert([(item(1), None)])
    assert ids_of(table) == [1]
    assert table.state() != before


def test_a_vector_of_another_width_is_refused_and_leaves_nothing(table):
    narrow = StoredItem(2, np.ones(WIDTH - 1, dtype=np.float16), None, None, False, 0)
    with pytest.raises(InputError, match=r"\b47\b"):
        table.insert([(item(1), None), (narrow, None)])
    assert table.count() == 0


def test_a_delete_takes_items_and_masks_and_frees_the_ids(table):
    table.insert((item(id_), mask(id_)) for id_ in range(1, 7))
    table.delete([2, 5, 6, 2])
    assert ids_of(table) == [1, 3, 4]
    assert [one.id for one in table.masks(0, 9)] == [1, 3, 4]
    assert table.fetch([2, 5]) == table.fetch_masks([2, 5]) == []
    table.insert([(item(5, label="again"), None)])
    assert values(table.fetch([5])[0]) == values(item(5, label="again"))
    assert table.fetch_masks([5]) == []
    assert (table.count(), table.count(dense=True)) == (4, 3)


def test_an_id_that_is_not_held_deletes_nothing(table):
    table.insert((item(id_), mask(id_)) for id_ in (1, 2))
    before = table.state()
    for ids in ([9], [1, 2, 9], [9, 1]):
        with pytest.raises(ItemNotFoundError, match=r"\b9\b"):
            table.delete(ids)
        assert (ids_of(table), table.count(dense=True), table.state()) == ([1, 2], 2, before)


# ---- who else is there


def test_others_see_a_change_at_their_next_question(connect):
    writer, reader = connect(), connect()
    writer.create(HEAD, width=WIDTH)
    assert reader.head() == HEAD
    states = [reader.state()]
    for change in (
        lambda: writer.insert([(item(1), mask(1)), (item(2), None)]),
        lambda: writer.delete([1]),
        lambda: writer.insert([(item(1), None)]),
        lambda: reader.delete([1, 2]),
    ):
        change()
        assert everything(reader) == everything(writer)
        assert reader.count(dense=True) == writer.count(dense=True)
        assert reader.state() == writer.state()
        states.append(reader.state())
    assert ids_of(writer) == []
    assert len(set(states)) == len(states)


def test_questions_change_no_state(table):
    table.insert([(item(1), mask(1))])
    before = table.state()
    table.count()
    everything(table)
    table.candidates(query_of(1), 3, EVERYTHING, exact=True)
    table.fetch_masks([1])
    assert table.state() == before


# ---- finding


SEEN = [
    Where(),
    Where(labelled=True),
    Where(label="cat"),
    Where(label="no such"),
    Where(first_seconds=105),
    Where(first_seconds=104.5, end_seconds=110.5),
    Where(label="dog", labelled=True, first_seconds=103, end_seconds=1e300),
    Where(first_seconds=-1e300, end_seconds=-5.0),
    Where(first_seconds=1e19),
    Where(end_seconds=math.inf),
]


@pytest.fixture
def zoo(table):
    """A table of forty items and a twin in memory."""
    twin = MemoryTable()
    twin.create(HEAD, width=WIDTH)
    labels = itertools.cycle(["cat", "dog", None])
    items = [
        (item(id_, label=label, seconds=100 + id_ // 3), mask(id_) if id_ % 5 == 0 else None)
        for id_, label in zip(range(1, 41), labels, strict=False)
    ]
    for one in (table, twin):
        one.insert(items)
    return table, twin


def test_walks_see_what_they_shall_in_the_order_of_ids(zoo):
    table, twin = zoo
    pages = ((0, 100), (0, 3), (17, 5), (39, 5), (40, 5), (LARGEST, 5))
    for where, (after, limit) in itertools.product(SEEN, pages):
        found = [values(one) for one in table.walk(after, limit, where)]
        assert found == [values(one) for one in twin.walk(after, limit, where)]


def test_candidates_are_the_nearest_and_no_other_is_above_the_bound(zoo):
    table, twin = zoo
    query = query_of(1_000)
    error = table.error_bound()
    assert error < 1e-3
    for where, count in itertools.product(SEEN, [1, 7, 39, 40, 20_000]):
        found, bound = table.candidates(query, count, where, exact=True)
        near = {one.id for one in found}
        all_ = {one.id: similarity(query, one) for one in twin.walk(0, 100, where)}
        assert len(found) == len(near) == min(count, len(all_))
        left = [all_.pop(id_) for id_ in all_.keys() - near]
        assert all_.keys() == near
        if left:
            assert max(left) <= min(bound + error, min(all_.values()) + 2 * error)
        else:
            assert bound == -math.inf


def test_an_inexact_search_gives_items_that_are_there_and_a_bound(zoo):
    table, twin = zoo
    found, bound = table.candidates(query_of(4), 5, Where(label="cat"), exact=False)
    assert 4 in {one.id for one in found}
    assert all(values(one) == values(twin.fetch([one.id])[0]) for one in found)
    assert bound < 1


def test_of_equal_vectors_as_many_are_found_as_are_wanted(table):
    same = item(1).vector
    table.insert((StoredItem(id_, same, b"cat", None, True, 0), None) for id_ in range(1, 31))
    found, bound = table.candidates(query_of(1), 10, EVERYTHING, exact=True)
    assert len({one.id for one in found}) == 10
    assert bound == pytest.approx(1, abs=table.error_bound())
    found, bound = table.candidates(query_of(1), 30, EVERYTHING, exact=True)
    assert (sorted(one.id for one in found), len(found)) == (list(range(1, 31)), 30)


def test_what_is_deleted_is_no_candidate(table):
    table.insert((item(id_), None) for id_ in range(1, 21))
    table.delete(range(1, 20, 2))
    found, bound = table.candidates(query_of(5), 20, EVERYTHING, exact=True)
    assert (sorted(one.id for one in found), bound) == (list(range(2, 21, 2)), -math.inf)


# ---- saying


def test_it_says_what_it_takes_up_and_where_remains_may_be(table):
    table.insert([(item(1), mask(1))])
    assert table.bytes_on_disk() > 0
    assert all(isinstance(words, str) and words for words in table.out_of_reach())
    assert table.place


def test_closing_twice_is_fine(connect):
    table = connect()
    table.close()
    table.close()


# ---- random histories, beside the twin


IDS = st.integers(1, 8) | st.sampled_from([2**53 + 1, LARGEST])
TEXTS = st.none() | st.text(st.characters(exclude_characters="\0"), min_size=1, max_size=9)


class Histories(RuleBasedStateMachine):
    address = ""

    def __init__(self):
        super().__init__()
        self.tables = []

    @initialize(memory=st.integers(0, 10**12))
    def make(self, memory):
        self.tables = [MilvusTable(f"{self.address}_{memory}") for _ in range(2)]
        self.twin = MemoryTable()
        for table in (self.twin, *self.tables):
            table.create(HEAD, width=WIDTH)
        held = ids_of(self.tables[0])
        self.tables[0].delete(held)  # hypothesis repeats an example with the same memory

    def teardown(self):
        for table in self.tables:
            table.close()

    def both(self, who, name, argument):
        ends = []
        for table in (self.twin, self.tables[who]):
            try:
                ends.append(getattr(table, name)(argument))
            except (InputError, ItemNotFoundError) as error:
                ends.append(type(error))
        assert ends[0] == ends[1]

    @rule(
        who=st.integers(0, 1),
        rows=st.lists(st.tuples(IDS, TEXTS, TEXTS, st.booleans()), max_size=4),
    )
    def insert(self, who, rows):
        self.both(who, "insert", [
            (item(id_, label=label, source=source), mask(id_) if dense else None)
            for id_, label, source, dense in rows
        ])  # fmt: skip

    @rule(who=st.integers(0, 1), ids=st.lists(IDS, max_size=4))
    def delete(self, who, ids):
        self.both(who, "delete", ids)

    @invariant()
    def all_hold_the_same(self):
        for table in self.tables:
            assert everything(table) == everything(self.twin)
            assert table.masks(0, 99) == self.twin.masks(0, 99)


def test_any_history_leaves_what_it_leaves_in_the_twin(milvus_address):
    Histories.TestCase.settings = settings(
        max_examples=6,
        stateful_step_count=8,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    Histories.address = milvus_address
    Histories.TestCase("runTest").runTest()
