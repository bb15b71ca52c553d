"""Every store keeps the same promises and gives the same answers, to the last bit."""

from __future__ import annotations

import itertools
from datetime import datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.toy_embedder import CAT, DOG, EMBEDDER, SIDE, ToyEmbedder, a_mask, picture

from procmem.errors import (
    EmbedderMismatchError,
    InputError,
    ItemNotFoundError,
    VaultClosedError,
    VaultFormatError,
    VaultKeyError,
    VaultReadOnlyError,
)
from procmem.exchange import export_items, import_items
from procmem.memory import VisualMemory
from procmem.record import Item, Record
from procmem.stores import server_reader
from procmem.stores.contract import EVERYTHING, Where

QUERIES = [CAT, DOG, *(picture(900 + seed, like=CAT) for seed in range(4))]
LABELS = ["cat", "dog", None, "Robert'); DROP TABLE items;--", "größe \udce4", "x" * 1000]


def teach(*memories, count=30, masks=True):
    """The same to all: some items without label or source, some equal, some with masks."""
    for at in range(count):
        seed = at if at % 5 else 5  # every fifth is the same picture: ties
        image = picture(seed, like=CAT if at % 2 else DOG)
        for memory in memories:
            memory.add(
                image,
                LABELS[at % len(LABELS)],
                ids=(at * 7919) % 1009 + 1,
                sources=[None, "a/b.jpg", "/photos/ä\udcff.png"][at % 3],
                masks=a_mask(at) if masks and at % 4 == 0 else None,
            )


def same_time(memory, twin):
    """Records of one memory in the other, so that times are equal too."""
    twin._add_records(list(memory._store.records(memory._store.ids())))


def answers(memory):
    """Everything that can be asked of a memory."""
    found = [memory.neighbors(image, k=k) for image in QUERIES for k in (1, 5, 100)]
    labels = sorted({item.label for item in memory.items()} - {None})
    found += [memory.neighbors(CAT, k=7, label=label) for label in labels]
    for weighting in ("similarity", "rank"):
        for image in QUERIES[:3]:
            found.append(memory.classify(image, k=6, weighting=weighting))
            found.append(memory.counterfactual(image, k=6, weighting=weighting))
        for by, protocol in itertools.product(("item", "label", "folder"), ("exact", "paper")):
            found.append(
                memory.influence(QUERIES[:2], k=4, by=by, weighting=weighting, protocol=protocol)
            )
    seen = memory.map()
    found += [seen.ids, seen.points.tobytes(), seen.explained]
    for protocol in ("exact", "paper"):
        regions = memory.segment(DOG, protocol=protocol)
        found += [regions.mask.tobytes(), regions.labels, regions.confidence.tobytes()]
    found.append(list(memory.items()))
    found.append(len(memory))
    stats = memory.stats()
    found.append((stats.items, stats.labels, stats.masks, stats.image_size, stats.purge_pending))
    found.append(memory.verify())
    return found


def test_the_answers_are_those_of_a_vault(memory, twin):
    teach(memory)
    same_time(memory, twin)
    for ours, theirs in zip(answers(memory), answers(twin), strict=True):
        assert ours == theirs


def test_after_a_deletion_the_answers_are_those_of_a_memory_that_never_held_it(memory, twin):
    teach(memory)
    memory.classify(CAT)  # so that what answers are judged by exists before
    gone = [item.id for item in memory.items()][::3]
    report = memory.delete(gone)
    assert report.erased_ids == tuple(sorted(gone))
    assert report.remaining == len(memory) == 20
    same_time(memory, twin)
    for ours, theirs in zip(answers(memory), answers(twin), strict=True):
        assert ours == theirs


@settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_any_history_gives_the_answers_of_a_vault_with_its_survivors(place, data):
    steps = data.draw(st.lists(st.integers(0, 10**6), min_size=1, max_size=12))
    with VisualMemory(embedder=EMBEDDER, **place) as memory:
        memory.delete([item.id for item in memory.items()])
        held = {}
        for step in steps:
            if step % 3 and held:
                chosen = sorted(held)[: 1 + step % len(held)]
                memory.delete(chosen)
                for id_ in chosen:
                    del held[id_]
            else:
                labels = ["a", "b", None][: 1 + step % 3]
                images = [picture(step % 50 + at, like=CAT) for at in range(len(labels))]
                for id_, image, label in zip(
                    memory.add(images, labels), images, labels, strict=True
                ):
                    held[id_] = (image, label)
        found = memory._store.records(sorted(held))
        kept = {record.item.id: record.vector.tobytes() for record in found}
        assert {
            id_: EMBEDDER.embed(image).cls[0].astype(np.float16).tobytes()
            for id_, (image, _) in held.items()
        } == kept
        assert {item.id: item.label for item in memory.items()} == {
            id_: label for id_, (_, label) in held.items()
        }
        query = EMBEDDER.embed(CAT).cls
        wanted = _brute_force(memory, query[0], k=5)
        assert [(one.id, one.similarity) for one in memory.neighbors(CAT, k=5)] == wanted


def _brute_force(memory, query, k):
    from procmem.index import Index

    records = list(memory._store.records(memory._store.ids()))
    if not records:
        return []
    ids = np.array([record.item.id for record in records], dtype=np.int64)
    found = Index(ids, np.stack([record.vector for record in records]), "exact").search(query, k)
    return list(zip(found[0].tolist(), found[1].tolist(), strict=True))


def test_ties_are_ordered_by_id_however_many_there_are(memory):
    ids = list(range(500, 380, -1))
    memory.add([CAT] * len(ids), ids=ids)
    memory.add(DOG, ids=7)
    found = memory.neighbors(CAT, k=100)
    assert [one.id for one in found] == list(range(381, 481))
    assert len({one.similarity for one in found}) == 1


def test_a_batch_with_one_bad_id_adds_nothing(memory):
    memory.add(CAT, "cat", ids=5)
    state, held = memory._store.state(), list(memory.items())
    batch = [_record(8), _record(5), _record(9)]
    with pytest.raises(InputError, match="nothing was added"):
        memory._add_records(batch)
    with pytest.raises(InputError, match="nothing was added"):
        memory._add_records(iter([_record(8), _record(9), _record(8)]))
    assert list(memory.items()) == held
    assert memory._store.state() == state
    assert memory.neighbors(CAT)[0].label == "cat"  # a sealed one can still be opened
    assert list(memory._store.records([5, 8])) != []


def test_an_error_while_records_come_adds_nothing(memory):
    def records():
        yield _record(1)
        raise RuntimeError("the disk with the photos is gone")

    with pytest.raises(RuntimeError, match="photos"):
        memory._add_records(records())
    assert len(memory) == 0
    memory._add_records([_record(1)])
    assert memory._store.held([1, 2]) == {1}


def _record(id_, width=40):
    vector = np.random.default_rng(id_).standard_normal(width)
    return Record(Item(id_, "a", None, 77), (vector / np.linalg.norm(vector)).astype(np.float16))


def test_a_record_of_another_model_is_refused(memory):
    with pytest.raises(InputError, match="wanted"):
        memory._add_records([_record(3, width=12)])
    assert len(memory) == 0


def test_deleting_what_is_not_there_deletes_nothing(memory):
    teach(memory, count=4, masks=False)
    ids = [item.id for item in memory.items()]
    with pytest.raises(ItemNotFoundError, match="nothing was deleted"):
        memory.delete([ids[0], 10**9])
    with pytest.raises(ItemNotFoundError):
        memory.delete(label="no such label")
    assert [item.id for item in memory.items()] == ids


def test_every_way_to_select_deletes_the_same_as_in_a_vault(memory, twin):
    teach(memory)
    same_time(memory, twin)
    now = datetime.now(tz=timezone.utc)
    for selection in (
        {"label": "größe \udce4"},
        {"source": "a/b.jpg"},
        {"similar_to": CAT, "min_similarity": 0.9},
        {"added_before": now - timedelta(days=1)},
        {"ids": []},
        {"added_before": now + timedelta(days=1)},
    ):
        plans = [each.plan_delete(**selection) for each in (memory, twin)]
        assert plans[0] == plans[1]
        reports = [each.delete(**selection) for each in (memory, twin)]
        assert reports[0].erased_ids == reports[1].erased_ids
        assert list(memory.items()) == list(twin.items())
    assert len(memory) == 0


def test_an_iterator_gives_nothing_that_was_deleted_since(memory):
    teach(memory)
    ids = [item.id for item in memory.items()]
    seen = []
    for item in memory.items():
        seen.append(item.id)
        if len(seen) == 3:
            memory.delete([ids[1], ids[3], ids[4], ids[-1]])  # one of them was given already
    assert seen == ids[:3] + ids[5:-1]


def test_an_iterator_ends_where_all_that_was_left_is_deleted(memory):
    teach(memory)
    items = list(memory.items())
    going = memory.items()
    assert next(going) == items[0]
    memory.delete(item.id for item in items)
    assert list(going) == []


def test_filters_by_time_and_label(memory, twin):
    teach(memory)
    same_time(memory, twin)
    now = datetime.now(tz=timezone.utc)
    for limits in (
        {"added_since": now - timedelta(hours=1)},
        {"added_since": now + timedelta(hours=1)},
        {"added_before": now + timedelta(hours=1), "label": "cat"},
        {"added_before": now - timedelta(hours=1), "label": "cat"},
    ):
        assert memory.neighbors(CAT, **limits) == twin.neighbors(CAT, **limits)
    for each in (memory, twin):
        with pytest.raises(ItemNotFoundError, match="no such"):
            each.neighbors(CAT, label="no such label")


def test_another_object_sees_every_change_at_its_next_call(memory, place):
    with VisualMemory(embedder=EMBEDDER, read_only=True, **place) as reader:
        assert reader.neighbors(CAT) == ()
        memory.add(CAT, "cat", ids=4)
        assert [one.id for one in reader.neighbors(CAT)] == [4]
        assert reader.classify(CAT).label == "cat"
        memory.delete(4)
        assert reader.neighbors(CAT) == ()
        assert reader.classify(CAT).label is None
        with pytest.raises(VaultReadOnlyError, match="read_only"):
            reader.add(DOG)
        with pytest.raises(VaultReadOnlyError, match="read_only"):
            reader.delete([])


def test_what_was_added_is_there_when_it_is_opened_again(place):
    with VisualMemory(embedder=EMBEDDER, **place) as memory:
        teach(memory, count=12)
        before = answers(memory)
    with VisualMemory(embedder=EMBEDDER, **place) as memory:
        assert answers(memory) == before
    with pytest.raises(VaultClosedError, match="closed"):
        memory.neighbors(CAT)
    with pytest.raises(VaultClosedError, match="closed"):
        len(memory)


def test_another_model_is_refused(memory, place):
    teach(memory, count=2)
    memory.close()
    with pytest.raises(EmbedderMismatchError, match="cdcdcd"):
        VisualMemory(embedder=ToyEmbedder(sha256="cd" * 32), **place)
    other = ToyEmbedder()
    other.side = 2 * SIDE
    with pytest.raises(EmbedderMismatchError, match="image size"):
        VisualMemory(embedder=other, **place)


def test_a_reader_makes_no_memory(place):
    with pytest.raises(VaultFormatError):
        VisualMemory(embedder=EMBEDDER, read_only=True, **place)


def test_a_memory_that_must_be_there_is_not_made(place):
    for read_only in (False, True):
        with pytest.raises(VaultFormatError, match="there is no memory at"):
            VisualMemory(embedder=EMBEDDER, create=False, read_only=read_only, **place)
    with VisualMemory(embedder=EMBEDDER, **place) as made:
        assert len(made) == 0
    with VisualMemory(embedder=EMBEDDER, create=False, **place) as found:
        assert found.add(CAT, "cat")


def test_a_key_that_is_missing_or_too_many_is_refused(memory, place, tmp_path):
    teach(memory, count=2)
    memory.close()
    other = {"path": place["path"]}
    if "key" not in place:
        other["key"] = tmp_path / "needless.key"
    with pytest.raises(VaultKeyError):
        VisualMemory(embedder=EMBEDDER, **other)
    assert not (tmp_path / "needless.key").exists()


@pytest.mark.parametrize("form", ["items.safetensors", "items.parquet"])
def test_items_move_to_a_vault_and_back(memory, twin, tmp_path, form):
    teach(memory)
    before = answers(memory)
    assert export_items(memory, tmp_path / form) == 30
    import_items(twin, tmp_path / form)
    assert answers(twin) == before
    memory.delete([item.id for item in memory.items()])
    import_items(memory, tmp_path / form)
    assert answers(memory) == before


def test_an_item_left_out_of_the_graph_of_a_large_memory_is_the_only_difference(
    memory, monkeypatch
):
    """A server's graph may miss rows; what it finds has the right similarities and order."""
    teach(memory, count=20, masks=False)
    exact = [memory.neighbors(image, k=8) for image in QUERIES]
    monkeypatch.setattr(server_reader, "LEAST_ITEMS", 1)
    for image, wanted in zip(QUERIES, exact, strict=True):
        found = memory.neighbors(image, k=8)
        known = {one.id: one for one in memory.neighbors(image, k=20)}
        assert found == tuple(sorted(found, key=lambda one: (-one.similarity, one.id)))
        assert all(known[one.id] == one for one in found)
        assert len(set(found) & set(wanted)) >= 7
    answer = memory.classify(CAT, k=5)
    assert answer.p_value > 0
    assert len(answer.neighbors) == 5


def test_the_store_says_what_it_is(memory, place):
    store = memory._store
    assert store.sealed == ("key" in place) == memory.stats().sealed
    assert memory.index_kind == "exact"
    assert store.bytes_on_disk() > 0
    assert store.left_out(3, Where(labelled=True)).labels == []
    assert store.left_out(3, EVERYTHING).complete
    assert "password" not in repr(memory)
