"""What a memory says about its answers, against deleting for real."""

import itertools

import numpy as np
import pytest

from procmem.errors import ImageDecodeError, InputError
from procmem.image import load_image
from procmem.influence import grouping
from procmem.manifest import Manifest, Origin, Preprocessing
from procmem.memory import VisualMemory
from procmem.record import Item
from procmem.types import Embedding
from procmem.vote import WEIGHTINGS

LABELS = ["a", "b", "c", None]


SIDE, PATCH, GRID, CLS, WIDTH = 32, 8, 4, 16, 6


class Model:
    """Embeds an image as a direction that its first pixel decides; stands in for `Embedder`."""

    def __init__(self):
        self.sha256 = "cd" * 32
        self.manifest = Manifest(
            kind="onnx",
            name="directions",
            file="directions.onnx",
            sha256=self.sha256,
            architecture="none",
            patch_size=PATCH,
            cls_dim=CLS,
            patch_dim=WIDTH,
            preprocessing=Preprocessing(resize=SIDE, crop=SIDE),
            origin=Origin("none", 0, "", "0", 0, 0),
        )
        self.cls_dim, self.patch_dim, self.side, self.grid = CLS, WIDTH, SIDE, (GRID, GRID)

    def embed(self, images, *, view="center"):  # noqa: ARG002  nothing depends on it
        random = np.random.default_rng(int(load_image(images)[0, 0, 0]))
        row = random.standard_normal((1, CLS)).astype(np.float32)
        row[:, 0] += 4.0  # all on one side, so that many neighbors matter
        patches = np.zeros((1, GRID, GRID, WIDTH), dtype=np.float32)
        return Embedding(row / np.linalg.norm(row), patches)

    def close(self):
        pass


def image(number):
    return np.full((8, 8, 3), number, dtype=np.uint8)


@pytest.fixture
def model():
    return Model()


@pytest.fixture
def memory(model, tmp_path):
    with VisualMemory(tmp_path / "vault", embedder=model) as opened:
        random = np.random.default_rng(3)
        labels = [LABELS[i] for i in random.integers(0, 4, 24)]
        sources = [f"/album{i % 3}/{i}.jpg" if i % 5 else None for i in range(24)]
        opened.add([image(i) for i in range(24)], labels, ids=range(1, 25), sources=sources)
        yield opened


QUERIES = [image(number) for number in range(100, 112)]


def answers_without(memory, ids, model, folder, k, weighting):
    """What a memory answers that never held these items."""
    kept = [item for item in memory.items() if item.id not in ids]
    with VisualMemory(folder, embedder=model) as fresh:
        if kept:
            fresh.add(
                [image(item.id - 1) for item in kept],
                [item.label for item in kept],
                ids=[item.id for item in kept],
                sources=[item.source for item in kept],
            )
        return [fresh.classify(query, k, weighting=weighting).label for query in QUERIES]


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("by", ["item", "label", "folder"])
def test_influence_is_what_deleting_does(memory, model, tmp_path, by, weighting):
    report = memory.influence(QUERIES, 5, by=by, weighting=weighting)
    usual = [memory.classify(query, 5, weighting=weighting).label for query in QUERIES]
    assert list(report.answers) == usual
    group_of = grouping(by)
    groups = {group_of(item) for item in memory.items()} - {None}
    wanted = set()
    for number, group in enumerate(groups):
        gone = {item.id for item in memory.items() if group_of(item) == group}
        folder = tmp_path / f"without-{number}"
        after = answers_without(memory, gone, model, folder, 5, weighting)
        wanted |= {
            (group, at, one, other)
            for at, (one, other) in enumerate(zip(usual, after, strict=True))
            if one != other
        }
    found = {(c.removed, c.query, c.before, c.after) for c in report.changes}
    assert found == wanted
    assert report.removable == len(groups)
    assert report.exposed == len({change[0] for change in wanted})
    assert report.exposed_share == report.exposed / len(groups)


def test_a_group_may_be_any_function_of_an_item(memory):
    report = memory.influence(QUERIES, 5, by=lambda item: "odd" if item.id % 2 else None)
    assert report.removable == 1
    assert {change.removed for change in report.changes} <= {"odd"}


def test_folders_are_those_of_the_sources():
    folder_of = grouping("folder")
    assert folder_of(Item(1, None, "/a/b/c.jpg", 0)) == folder_of(Item(2, None, "/a/b/d.jpg", 0))
    assert folder_of(Item(1, None, None, 0)) is None


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_the_counterfactual_changes_the_answer_and_nothing_smaller_does(
    memory, model, tmp_path, weighting
):
    at = 4
    reason = memory.counterfactual(QUERIES[at], 5, weighting=weighting)
    assert reason.label == memory.classify(QUERIES[at], 5, weighting=weighting).label
    gone = {item.id for item in reason.items}
    after = answers_without(memory, gone, model, tmp_path / "after", 5, weighting)
    assert after[at] == reason.label_after != reason.label
    for number, fewer in enumerate(itertools.combinations(sorted(gone), len(gone) - 1)):
        folder = tmp_path / f"fewer-{number}"
        kept = answers_without(memory, set(fewer), model, folder, 5, weighting)
        assert kept[at] == reason.label
    near = {neighbor.id: neighbor for neighbor in memory.neighbors(QUERIES[at], 24)}
    assert all(near[item.id] == item for item in reason.items)
    assert len(memory) == 24


def test_shares_belong_to_the_neighbors(memory):
    answer = memory.classify(QUERIES[0], 7)
    assert len(answer.shares) == len(answer.neighbors) == 7
    for label, votes in answer.votes.items():
        own = [s for n, s in zip(answer.neighbors, answer.shares, strict=True) if n.label == label]
        assert sum(own) == pytest.approx(votes)


def test_few_labelled_items_promise_no_probability(memory):
    labelled = [item.id for item in memory.items() if item.label is not None]
    assert memory.classify(QUERIES[0]).probability is not None
    memory.delete(labelled[19:])
    assert memory.classify(QUERIES[0]).probability is None


def test_the_probability_is_the_leave_one_out_accuracy_of_a_memory_that_knows(model, tmp_path):
    with VisualMemory(tmp_path / "sure", embedder=model) as memory:
        # Pairs of equal images: every item left out meets its twin first.
        numbers = [number for number in range(20) for _ in range(2)]
        memory.add([image(number) for number in numbers], [str(number) for number in numbers])
        sure = memory.classify(image(3), 1)
        assert sure.probability == pytest.approx(41 / 42)
        # With the twins' labels swapped around, none of them is right.
        memory.delete([item.id for item in memory.items()])
        names = [str(at % 20) for at in range(40)]
        memory.add([image(number) for number in numbers], names)
        unsure = memory.classify(image(3), 1)
        assert unsure.probability == pytest.approx(1 / 42)


def test_the_only_item_of_its_label_says_nothing_of_probability(model, tmp_path):
    with VisualMemory(tmp_path / "names", embedder=model) as memory:
        memory.add([image(number) for number in range(30)], [f"name {at}" for at in range(30)])
        assert memory.classify(image(3), 1).label == "name 3"
        assert memory.classify(image(3), 1).probability is None
        # Twenty that have twins, each of them right: the thirty others still say nothing.
        twins = [number for number in range(100, 110) for _ in range(2)]
        memory.add([image(number) for number in twins], [str(number) for number in twins])
        assert memory.classify(image(3), 1).probability == pytest.approx(21 / 22)


@pytest.mark.parametrize("copies", [2, 20])
def test_a_photo_that_is_remembered_several_times_is_not_novel(model, tmp_path, copies):
    with VisualMemory(tmp_path / "copies", embedder=model) as memory:
        numbers = [number for number in range(20) for _ in range(copies)]
        memory.add([image(number) for number in numbers], [str(number) for number in numbers])
        assert not any(memory.classify(image(number), 5).is_novel for number in range(20))


def test_reasons_after_a_delete_are_those_of_a_fresh_memory(memory, model, tmp_path):
    random = np.random.default_rng(0)
    labels = [str(label) for label in random.integers(0, 3, 60)]
    memory.add([image(i) for i in range(30, 90)], labels, ids=range(1000, 1060))
    memory.classify(QUERIES[0])
    gone = [1, 5, 1001, 1003, 1058]
    memory.delete(gone)
    with VisualMemory(tmp_path / "fresh", embedder=model) as fresh:
        kept = list(memory.items())
        pictures = [image(i.id - 1 if i.id < 1000 else i.id - 970) for i in kept]
        fresh.add(
            pictures,
            [item.label for item in kept],
            ids=[item.id for item in kept],
            sources=[item.source for item in kept],
        )
        for query in QUERIES:
            for weighting in WEIGHTINGS:
                ours = memory.classify(query, 6, weighting=weighting)
                theirs = fresh.classify(query, 6, weighting=weighting)
                assert ours == theirs
                assert ours.probability is not None
                assert memory.counterfactual(query, 6) == fresh.counterfactual(query, 6)


def test_an_empty_memory_has_no_reasons(model, tmp_path):
    with VisualMemory(tmp_path / "vault", embedder=model) as memory:
        answer = memory.classify(QUERIES[0])
        assert (answer.shares, answer.probability, answer.p_value) == ((), None, 1.0)
        reason = memory.counterfactual(QUERIES[0])
        assert (reason.label, reason.items, reason.label_after) == (None, (), None)
        report = memory.influence(QUERIES[:2])
        assert report.answers == (None, None)
        assert (report.removable, report.exposed, report.exposed_share) == (0, 0, 0.0)


def test_bad_arguments_are_told(memory):
    with pytest.raises(InputError, match="did you mean 'rank'"):
        memory.classify(QUERIES[0], weighting="ranked")
    with pytest.raises(InputError, match="did you mean 'label'"):
        memory.influence(QUERIES, by="labels")
    with pytest.raises(InputError, match="protocol"):
        memory.influence(QUERIES, protocol="papers")
    with pytest.raises(InputError, match="k is 0"):
        memory.counterfactual(QUERIES[0], 0)
    for k in (2**62, 2**63, 2**70):
        with pytest.raises(InputError, match=f"k is {k}, wanted a number below"):
            memory.influence(QUERIES, k)
        with pytest.raises(InputError, match=f"k is {k}, wanted a number below"):
            memory.classify(QUERIES[0], k)
    with pytest.raises(ImageDecodeError, match=r"images\[1\]"):
        memory.influence([QUERIES[0], b"no picture"])
    assert memory.influence([]).answers == ()
