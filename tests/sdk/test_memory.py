"""The object people hold, with a small stand-in for the model."""

from __future__ import annotations

import io
import sqlite3
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)
from PIL import Image
from tests.toy_embedder import (
    CAT,
    DOG,
    EMBEDDER,
    PATCH,
    ToyEmbedder,
    a_mask,
    picture,
)

from procmem.batch import source_of
from procmem.errors import (
    EmbedderMismatchError,
    ImageDecodeError,
    ImageNotFoundError,
    InputError,
    ItemNotFoundError,
    ModelError,
    VaultClosedError,
    VaultFormatError,
    VaultLockedError,
    VaultReadOnlyError,
)
from procmem.memory import VisualMemory
from procmem.record import restore_patches
from procmem.segment import from_memory, mask_patches


@pytest.fixture
def memory(tmp_path):
    memory = VisualMemory(tmp_path / "v", embedder=EMBEDDER)
    yield memory
    memory.close()


@pytest.fixture
def taught(memory):
    """Four cats with ids 1 to 4, three dogs with 11 to 13, one unlabelled with 21."""
    cats = [picture(10 + at, like=CAT) for at in range(4)]
    dogs = [picture(20 + at, like=DOG) for at in range(3)]
    memory.add(cats, "cat", ids=[1, 2, 3, 4])
    memory.add(dogs, "dog", ids=[11, 12, 13])
    memory.add(picture(99), ids=21)
    return memory


def ids_of(memory):
    return [item.id for item in memory.items()]


def everything(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# ---- add


def test_add_gives_one_id_per_image_in_order(memory):
    ids = memory.add([CAT, DOG], labels=["cat", "dog"])
    by_id = {item.id: item.label for item in memory.items()}
    assert [by_id[id_] for id_ in ids] == ["cat", "dog"]


def test_one_image_may_come_alone(memory):
    (id_,) = memory.add(CAT, "cat", ids=7, masks=a_mask(), sources="camera")
    (item,) = memory.items()
    assert (id_, item.id, item.label, item.source) == (7, 7, "cat", "camera")
    assert memory.stats().masks == 1


def test_an_array_of_four_dimensions_is_many_images(memory):
    assert len(memory.add(np.stack([CAT, DOG]), "pet")) == 2


def test_a_generator_is_read_one_image_at_a_time(memory):
    seen = []

    def images():
        for seed in range(4):
            seen.append(EMBEDDER.seen)
            yield picture(seed)

    memory.add(images(), "x")
    assert np.diff(seen).tolist() == [1, 1, 1]


def test_random_ids_tell_nothing_about_order(memory):
    ids = memory.add([picture(seed) for seed in range(12)])
    assert ids != sorted(ids)
    assert max(ids) > 2**55


def test_the_source_of_a_path_is_absolute(memory, tmp_path, monkeypatch):
    Image.fromarray(CAT).save(tmp_path / "cat.png")
    monkeypatch.chdir(tmp_path)
    memory.add(["cat.png", Path("./v/../cat.png")])
    assert {item.source for item in memory.items()} == {str(tmp_path / "cat.png")}


def test_a_file_name_that_is_not_utf8_is_kept_and_found(memory, tmp_path):
    path = tmp_path / "caf\udce9.png"
    try:
        path.write_bytes(png(CAT))
    except OSError:
        pytest.skip("this file system takes no such name")
    memory.add(path, "cat")
    assert next(memory.items()).source == str(path)
    assert memory.neighbors(CAT)[0].source == str(path)
    assert len(memory.delete(source=path).erased_ids) == 1


def png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return buffer.getvalue()


def test_progress_is_told_after_each_image(memory):
    calls = []
    memory.add([CAT, DOG], progress=lambda done, total: calls.append((done, total)))
    memory.add(iter([CAT]), progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 2), (2, 2), (1, None)]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"labels": ["a"]}, InputError, "labels has 1 entries for 3 images"),
        ({"labels": iter(["a"])}, InputError, "labels has 1 entries and there are more"),
        ({"labels": iter("abcd")}, InputError, "labels has more than 3 entries"),
        ({"masks": [None]}, InputError, "masks has 1 entries"),
        ({"ids": [5, 6]}, InputError, "ids has 2 entries"),
        ({"sources": []}, InputError, "sources has 0 entries"),
        ({"labels": 5}, InputError, "labels is 5"),
        ({"labels": ["a", "", "c"]}, InputError, r"images\[1\]: label is empty"),
        ({"labels": ["a", "b", 3]}, InputError, r"images\[2\]: label is 3"),
        ({"labels": "a\0b"}, InputError, "null character"),
        ({"labels": "x" * 1001}, InputError, "1001 characters"),
        ({"ids": [5, 6, 5]}, InputError, "id 5 is in use"),
        ({"ids": [5, 6, 1]}, InputError, "id 1 is in use"),
        ({"ids": [5, 6, 0]}, InputError, "id is 0"),
        ({"ids": [5, 6, 2**63]}, InputError, "id is 9223372036854775808"),
        ({"ids": [5, 6, True]}, InputError, "id is True"),
        ({"ids": [5, 6, "7"]}, InputError, "id is '7'"),
        ({"masks": [None, np.zeros((3, 3), np.uint8), None]}, InputError, "mask is 3x3"),
    ],
)
def test_add_refuses_what_does_not_fit_and_adds_nothing(memory, arguments, error, message):
    memory.add(picture(5), ids=1)
    before = everything(memory.path)
    with pytest.raises(error, match=message):
        memory.add([CAT, DOG, CAT], **arguments)
    assert everything(memory.path) == before
    assert ids_of(memory) == [1]


def test_one_bad_image_in_a_batch_leaves_the_vault_unchanged(memory, tmp_path):
    before = everything(memory.path)
    with pytest.raises(ImageDecodeError, match=r"images\[1\]"):
        memory.add([CAT, b"not an image", DOG])
    with pytest.raises(ImageNotFoundError, match=r"images\[2\].*none.jpg"):
        memory.add([CAT, DOG, tmp_path / "none.jpg"])
    assert everything(memory.path) == before


def test_something_that_is_no_image_is_refused(memory):
    with pytest.raises(InputError, match="images is a int"):
        memory.add(5)


def test_numbers_that_are_not_finite_never_get_in(tmp_path):
    class Broken(ToyEmbedder):
        def embed(self, images, *, view="center"):
            embedding = super().embed(images, view=view)
            embedding.cls[0, 3] = np.nan
            return embedding

    with VisualMemory(tmp_path / "v", embedder=Broken()) as memory:
        with pytest.raises(ModelError, match="not finite"):
            memory.add(CAT)
        assert len(memory) == 0


# ---- ask


def test_an_image_is_its_own_nearest_neighbor(taught):
    neighbor, *rest = taught.neighbors(picture(11, like=CAT), k=3)
    assert (neighbor.id, neighbor.label) == (2, "cat")
    # Stored as float16: each of the D entries of a unit vector is off by at most 2**-11 of itself.
    assert neighbor.similarity == pytest.approx(1.0, abs=2**-10)
    assert [one.label for one in rest] == ["cat", "cat"]


def test_neighbors_of_one_label_are_of_that_label(taught):
    assert {one.id for one in taught.neighbors(CAT, k=10, label="dog")} == {11, 12, 13}
    with pytest.raises(ItemNotFoundError, match="label 'bird'"):
        taught.neighbors(CAT, label="bird")


def test_classify_names_what_it_was_taught(taught):
    answer = taught.classify(picture(77, like=DOG), k=5)
    assert answer.label == "dog"
    assert answer.confidence == answer.votes["dog"] > 0.9
    assert sum(answer.votes.values()) == pytest.approx(1.0)
    assert len(answer.neighbors) == 5


def test_items_without_label_do_not_vote(taught):
    answer = taught.classify(picture(99), k=20)
    assert [one.id for one in answer.neighbors].count(21) == 0
    assert len(answer.neighbors) == 7


def test_an_empty_memory_answers_that_everything_is_novel(memory):
    assert memory.neighbors(CAT) == ()
    answer = memory.classify(CAT)
    assert (answer.label, answer.confidence, answer.votes) == (None, 0.0, {})
    assert answer.neighbors == ()
    assert answer.is_novel


def test_an_unlike_image_is_novel_and_a_like_one_is_not(memory):
    memory.add([picture(100 + at, like=CAT) for at in range(40)], "cat")
    assert memory.classify(picture(500)).is_novel
    assert not memory.classify(picture(501, like=CAT, change=0.15)).is_novel


def test_answers_follow_each_add_and_delete(memory):
    for at in range(6):
        memory.add(picture(at), f"label {at}", ids=at + 1)
        assert memory.classify(picture(at), k=1).label == f"label {at}"
    memory.delete(4)
    assert memory.classify(picture(3), k=1).label != "label 3"


@pytest.mark.parametrize("k", [0, -3, 2.5, None])
def test_a_k_that_is_no_count_is_refused(taught, k):
    with pytest.raises(InputError, match="k is"):
        taught.neighbors(CAT, k=k)
    with pytest.raises(InputError, match="k is"):
        taught.classify(CAT, k=k)


# ---- segment


def two_halves(seed=0):
    """An image of two textures, and the mask that tells them apart."""
    random = np.random.default_rng(seed)
    image = np.empty((64, 64, 3), dtype=np.uint8)
    image[:, :32] = np.array([200, 30, 30]) + random.integers(0, 20, (64, 32, 3))
    image[:, 32:] = np.array([20, 40, 190]) + random.integers(0, 20, (64, 32, 3))
    mask = np.zeros((64, 64), dtype=np.uint8)
    mask[:, 32:] = 7
    return image, mask


@pytest.mark.parametrize("prompt", [two_halves(1), [two_halves(1), two_halves(2)]])
def test_segment_follows_a_prompt_without_remembering_it(memory, prompt):
    image, mask = two_halves(3)
    regions = memory.segment(image, prompt=prompt)
    assert regions.labels == (0, 7)
    assert (regions.mask == mask).mean() > 0.95
    assert len(memory) == 0


def test_segment_without_prompt_asks_the_remembered_masks(memory):
    image, mask = two_halves(1)
    memory.add([image, CAT], masks=[mask, None])
    asked, wanted = two_halves(5)
    assert (memory.segment(asked).mask == wanted).mean() > 0.95


def test_segment_without_prompt_follows_the_protocol(memory):
    pair = two_halves(1)
    memory.add([pair[0]], masks=[pair[1]])
    asked, _ = two_halves(5)
    query = memory._embed(asked, view="whole").patches[0]
    patches, masks = memory._vault.load_dense()
    lengths = np.linalg.norm(query.astype(np.float64), axis=2)
    bank = restore_patches(patches) * np.float32(lengths.mean())
    pixels = np.concatenate([mask_patches(mask, PATCH) for mask in masks])

    paper = memory.segment(asked, protocol="paper")

    wanted = from_memory(query, bank, pixels, size=asked.shape[:2], protocol="paper")
    # The mean length may differ in its last bit, and the products in the exponent with it.
    assert np.allclose(paper.confidence, wanted.confidence, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(paper.mask, wanted.mask)
    assert not np.allclose(paper.confidence, memory.segment(asked).confidence, atol=1e-3)


def test_segment_answers_at_the_image_s_own_size(memory):
    image, _ = two_halves()
    regions = memory.segment(image[:50, :33], prompt=two_halves(1))
    assert regions.mask.shape == regions.confidence.shape == (50, 33)


def test_segment_without_anything_to_go_by_is_refused(taught):
    with pytest.raises(InputError, match="no masks"):
        taught.segment(CAT)


@pytest.mark.parametrize("prompt", [[], CAT, (CAT,), [CAT], "cat.jpg"])
def test_a_prompt_that_is_no_pair_is_refused(memory, prompt):
    with pytest.raises(InputError, match="wanted a pair"):
        memory.segment(CAT, prompt=prompt)


def test_a_mask_of_another_size_is_refused(memory):
    image, mask = two_halves()
    with pytest.raises(InputError, match="mask is 60x64"):
        memory.segment(image, prompt=(image, mask[:60]))


def test_an_unknown_protocol_is_refused(memory):
    with pytest.raises(InputError, match="protocol is 'papr'"):
        memory.segment(CAT, prompt=two_halves(), protocol="papr")


# ---- delete


def test_delete_leaves_no_window_of_anything_in_any_file(memory):
    labels = [
        chr(97 + at) * 5 + "".join(chr(97 + at + i % 7) for i in range(30)) for at in range(6)
    ]
    masks = [a_mask(at) if at % 2 else None for at in range(6)]
    sources = [f"/home/somebody/photos/{at * 7919}.jpg" for at in range(6)]
    ids = memory.add([picture(at) for at in range(6)], labels, masks=masks, sources=sources)
    secrets = list(memory._vault.values([ids[3]]))
    assert len(secrets) == 5
    raw = b"".join(everything(memory.path).values())
    assert secrets[0] in raw  # the vector
    report = memory.delete(ids[3])
    assert report.erased_ids == (ids[3],)
    assert (report.remaining, report.purged, report.windows_found) == (5, True, 0)
    assert report.windows_checked > 200
    assert report.files_scanned == ("KEY", "LOCK", "ledger.sqlite")
    assert report.out_of_reach
    raw = b"".join(everything(memory.path).values())
    for secret in secrets[:2]:  # vector and label are nobody else's
        assert not any(secret[at : at + 16] in raw for at in range(len(secret) - 15))


def test_the_report_tells_when_remains_are_found(taught):
    (taught.path / "notes").write_bytes(b"..." + next(taught._vault.values([2])))
    report = taught.delete(2)
    assert report.windows_found == report.windows_checked > 0
    assert "notes" in report.files_scanned


def test_answers_after_delete_are_those_of_a_memory_that_never_held_it(tmp_path):
    kept = [(at + 1, picture(at, like=CAT if at % 2 else DOG)) for at in range(30)]
    gone = [(at + 100, picture(at + 500, like=CAT)) for at in range(10)]
    lived = VisualMemory(tmp_path / "lived", embedder=EMBEDDER)
    fresh = VisualMemory(tmp_path / "fresh", embedder=EMBEDDER)
    for memory, entries in ((lived, gone[:5] + kept[::-1] + gone[5:]), (fresh, kept)):
        ids = [id_ for id_, _ in entries]
        masks = [a_mask(id_) if id_ % 4 == 0 else None for id_ in ids]
        labels = [f"label {id_ % 3}" for id_ in ids]
        memory.add([image for _, image in entries], labels, masks=masks, ids=ids)
        memory.classify(CAT)  # so that the index exists before the deletion
    lived.delete([id_ for id_, _ in gone])
    for seed in range(8):
        query = picture(900 + seed, like=CAT if seed % 2 else DOG)
        assert lived.neighbors(query, k=40) == fresh.neighbors(query, k=40)
        assert lived.classify(query) == fresh.classify(query)
        for protocol in ("exact", "paper"):
            ours, theirs = (each.segment(query, protocol=protocol) for each in (lived, fresh))
            assert ours.mask.tobytes() == theirs.mask.tobytes()
            assert ours.confidence.tobytes() == theirs.confidence.tobytes()
    lived.close()
    fresh.close()


def test_delete_zeroes_the_index_in_memory(taught):
    taught.neighbors(CAT)
    index = taught._recall.index()
    gone = index._rows[index.ids.tolist().index(2)].tobytes()
    held = index._vector_rows._memory
    taught.delete(2)
    assert index._vector_rows._memory is held
    assert gone not in held.tobytes()


@pytest.mark.parametrize(
    ("selector", "erased"),
    [
        ({"ids": 2}, (2,)),
        ({"ids": [13, 2]}, (2, 13)),
        ({"ids": np.array([13, 2, 2])}, (2, 13)),
        ({"label": "dog"}, (11, 12, 13)),
        ({"similar_to": picture(12, like=CAT), "min_similarity": 0.999}, (3,)),
        ({"similar_to": CAT}, (1, 2, 3, 4)),
    ],
)
def test_delete_erases_what_plan_delete_shows(taught, selector, erased):
    plan = taught.plan_delete(**selector)
    assert tuple(item.id for item in plan) == erased
    assert len(taught) == 8
    assert taught.delete(**selector).erased_ids == erased
    assert not set(erased) & set(ids_of(taught))


def test_delete_by_source_takes_the_text_or_the_path(memory, tmp_path, monkeypatch):
    memory.add([CAT, DOG], sources=["camera 1", source_of(tmp_path / "dog.jpg")], ids=[1, 2])
    monkeypatch.chdir(tmp_path)
    assert memory.delete(source="camera 1").erased_ids == (1,)
    assert memory.delete(source="dog.jpg").erased_ids == (2,)


@pytest.mark.parametrize("selector", [{"ids": []}, {"similar_to": picture(777)}])
def test_selecting_nothing_erases_nothing(taught, selector):
    before = everything(taught.path)
    report = taught.delete(**selector)
    assert (report.erased_ids, report.remaining, report.files_scanned) == ((), 8, ())
    assert everything(taught.path) == before


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        ({"ids": [1, 99]}, "id 99"),
        ({"label": "bird"}, "label 'bird'"),
        ({"source": "/nowhere"}, "source '/nowhere'"),
    ],
)
def test_delete_of_the_unknown_deletes_nothing(taught, selector, message):
    with pytest.raises(ItemNotFoundError, match=message):
        taught.delete(**selector)
    assert len(taught) == 8


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        ({}, "nothing given"),
        ({"ids": 1, "label": "cat"}, "ids and label given"),
        ({"ids": "cat"}, "id is 'cat'"),
        ({"ids": 0}, "id is 0"),
        ({"similar_to": CAT, "min_similarity": 1.5}, "min_similarity is 1.5"),
        ({"similar_to": CAT, "min_similarity": float("nan")}, "min_similarity is nan"),
    ],
)
def test_delete_refuses_what_it_cannot_understand(taught, selector, message):
    with pytest.raises(InputError, match=message):
        taught.delete(**selector)
    assert len(taught) == 8


def test_a_deferred_purge_is_reported_and_finished_at_the_next_opening(tmp_path):
    memory = VisualMemory(tmp_path / "v", embedder=EMBEDDER, purge_limit=3)
    ids = memory.add([picture(at) for at in range(6)], "x")
    assert not memory.delete(ids[0]).purged
    assert memory.stats().purge_pending
    memory.close()
    memory = VisualMemory(tmp_path / "v", embedder=EMBEDDER, purge_limit=3)
    assert not memory.stats().purge_pending
    assert len(memory) == 5
    memory.close()


# ---- open and close


def test_a_vault_of_another_model_is_refused_with_both_hashes(taught):
    taught.close()
    with pytest.raises(EmbedderMismatchError) as caught:
        VisualMemory(taught.path, embedder=ToyEmbedder(sha256="cd" * 32))
    assert "ab" * 32 in str(caught.value)
    assert "cd" * 32 in str(caught.value)


def test_looking_and_deleting_need_no_model(taught):
    taught.close()
    with VisualMemory(taught.path) as memory:
        assert memory.stats().embedder_name == "toy"
        assert memory.delete(label="dog").remaining == 5
        assert memory.verify().ok


def test_a_second_writer_is_refused(taught):
    with pytest.raises(VaultLockedError, match="this process"):
        VisualMemory(taught.path, embedder=EMBEDDER)


def test_a_reader_follows_the_writer(taught):
    with VisualMemory(taught.path, embedder=EMBEDDER, read_only=True) as reader:
        assert len(reader.neighbors(CAT, k=20)) == 8
        taught.delete(label="dog")
        assert len(reader.neighbors(CAT, k=20)) == 5
        taught.add(DOG, "dog", ids=50)
        assert reader.neighbors(DOG)[0].id == 50
        with pytest.raises(VaultReadOnlyError):
            reader.add(CAT)
        with pytest.raises(VaultReadOnlyError):
            reader.delete(1)


def test_a_missing_vault_is_not_made_by_a_reader(tmp_path):
    with pytest.raises(VaultFormatError, match="holds no vault"):
        VisualMemory(tmp_path / "none", embedder=EMBEDDER, read_only=True)


def test_a_closed_memory_refuses_everything(taught):
    taught.neighbors(CAT)
    rows = taught._recall.index()._rows
    taught.close()
    taught.close()
    uses = [
        lambda: taught.add(CAT),
        lambda: taught.neighbors(CAT),
        lambda: taught.classify(CAT),
        lambda: taught.segment(CAT),
        lambda: taught.delete(1),
        lambda: taught.plan_delete(1),
        taught.items,
        taught.stats,
        taught.verify,
        lambda: len(taught),
    ]
    for use in uses:
        with pytest.raises(VaultClosedError, match="closed"):
            use()
    assert not rows.any()
    assert "closed" in repr(taught)


def test_an_embedder_that_was_given_is_left_open(tmp_path):
    embedder = ToyEmbedder()
    VisualMemory(tmp_path / "v", embedder=embedder).close()
    assert not embedder.closed


def test_stats_count_what_there_is(taught):
    stats = taught.stats()
    assert (stats.items, stats.labels, stats.masks) == (8, {"cat": 4, "dog": 3}, 0)
    assert stats.bytes_on_disk == sum(path.stat().st_size for path in taught.path.iterdir())
    assert (stats.embedder_name, stats.embedder_sha256) == ("toy", "ab" * 32)
    assert stats.format_version == 2


def test_verify_finds_a_damaged_row(taught):
    assert taught.verify().ok
    taught.close()
    connection = sqlite3.connect(taught.path / "ledger.sqlite")
    connection.execute("INSERT INTO dense VALUES (999, zeroblob(192), zeroblob(1024), 0)")
    connection.commit()
    connection.close()
    with VisualMemory(taught.path, read_only=True) as memory:
        report = memory.verify()
    assert not report.ok
    assert "1 masks belong to no item" in report.problems


def test_repr_names_folder_and_model(taught):
    assert repr(taught) == f"VisualMemory({str(taught.path)!r}, embedder='toy', read_only=False)"


# ---- several images at once


def test_several_images_are_answered_as_each_alone(taught):
    images = [CAT, DOG, picture(12), picture(99)]
    assert taught.neighbors(images, k=3) == [taught.neighbors(image, k=3) for image in images]
    assert taught.neighbors(iter(images), k=3) == taught.neighbors(images, k=3)
    assert taught.neighbors(np.stack(images), k=3) == taught.neighbors(images, k=3)
    answers = [taught.classify(image, k=3) for image in images]
    assert taught.classify(images, k=3) == answers
    assert taught.classify(images, k=3, weighting="rank")[1].label == "dog"
    assert taught.neighbors(images, k=3, label="dog")[0] == taught.neighbors(CAT, k=3, label="dog")
    assert taught.neighbors([CAT], k=3) == [taught.neighbors(CAT, k=3)]


def test_no_images_have_no_answers(taught, memory):
    assert taught.neighbors([]) == taught.classify([]) == []


def test_a_bad_image_among_several_is_named(taught):
    with pytest.raises(ImageDecodeError, match=r"images\[1\]"):
        taught.neighbors([CAT, b"no picture"])
    with pytest.raises(InputError, match="wanted a path"):
        taught.classify(7)


def test_several_images_are_asked_of_an_empty_memory(memory):
    assert memory.neighbors([CAT, DOG]) == [(), ()]
    assert [answer.label for answer in memory.classify([CAT, DOG])] == [None, None]


# ---- any history


class History(RuleBasedStateMachine):
    """A memory against a dict, through any order of calls."""

    known = Bundle("known")

    @initialize()
    def begin(self):
        self.holder = tempfile.TemporaryDirectory()
        self.path = Path(self.holder.name) / "v"
        self.model = {}
        self.memory = VisualMemory(self.path, embedder=EMBEDDER)

    @rule(
        target=known,
        entries=st.lists(
            st.tuples(st.integers(0, 50), st.sampled_from(["a", "b", None])), max_size=4
        ),
    )
    def add(self, entries):
        ids = self.memory.add([picture(seed) for seed, _ in entries], [lbl for _, lbl in entries])
        self.model.update(zip(ids, entries, strict=True))
        return multiple(*ids)

    @rule(id_=consumes(known))
    def delete(self, id_):
        if id_ in self.model:
            report = self.memory.delete(id_)
            assert (report.purged, report.windows_found) == (True, 0)
            del self.model[id_]
        else:
            with pytest.raises(ItemNotFoundError):
                self.memory.delete(id_)

    @rule(label=st.sampled_from("ab"))
    def delete_label(self, label):
        gone = sorted(id_ for id_, entry in self.model.items() if entry[1] == label)
        if gone:
            assert self.memory.delete(label=label).erased_ids == tuple(gone)
        for id_ in gone:
            del self.model[id_]

    @rule()
    def reopen(self):
        self.memory.close()
        self.memory = VisualMemory(self.path, embedder=EMBEDDER)

    @rule(seed=st.integers(0, 50))
    def ask(self, seed):
        found = self.memory.neighbors(picture(seed), k=1000)
        assert {one.id: one.label for one in found} == {
            id_: label for id_, (_, label) in self.model.items()
        }
        twins = sorted(id_ for id_, entry in self.model.items() if entry[0] == seed)
        assert [one.id for one in found[: len(twins)]] == twins

    @invariant()
    def holds_what_the_model_holds(self):
        if hasattr(self, "memory"):
            items = {item.id: item.label for item in self.memory.items()}
            assert items == {id_: label for id_, (_, label) in self.model.items()}

    def teardown(self):
        if hasattr(self, "memory"):
            self.memory.close()
            self.holder.cleanup()


TestHistory = History.TestCase
TestHistory.settings = settings(
    max_examples=8,
    stateful_step_count=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


def test_segment_after_a_delete_is_that_of_a_memory_that_never_held_the_item(tmp_path):
    pairs = [two_halves(number) for number in range(1, 4)]
    asked, _ = two_halves(5)
    answers = []
    for held in ([0, 1, 2], [0, 2]):
        with VisualMemory(tmp_path / str(len(held)), embedder=EMBEDDER) as memory:
            ids = memory.add([pairs[n][0] for n in held], masks=[pairs[n][1] for n in held])
            memory.segment(asked)
            if len(held) == 3:
                bank = memory._recall.bank()
                memory.delete(ids[1])
                assert not bank.patches.any()
                assert not bank.pixels.any()
            answers.append(memory.segment(asked))
    np.testing.assert_array_equal(answers[0].mask, answers[1].mask)
    np.testing.assert_allclose(answers[0].confidence, answers[1].confidence, rtol=0, atol=1e-6)


def test_what_is_taught_with_a_mask_is_asked_at_once(memory):
    first, second = two_halves(1), two_halves(2)
    memory.add([first[0]], masks=[np.where(first[1] == 7, 3, 2)])
    asked, _ = two_halves(5)
    assert memory.segment(asked).labels == (2, 3)
    memory.add([CAT])
    assert memory.segment(asked).labels == (2, 3)
    memory.add([second[0]], masks=[second[1]])
    assert set(memory.segment(asked).labels) & {0, 7}
