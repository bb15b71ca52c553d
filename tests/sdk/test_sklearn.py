"""The scikit-learn estimators: the same vote as a memory's, and forgetting that is exact."""

from __future__ import annotations

import copy
import doctest
import os
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.tiny_model import write_tiny_model

pytest.importorskip("sklearn", reason="needs pip install 'procmem[sklearn]'")

from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator, parametrize_with_checks

import procmem.sklearn
from procmem.embedder import Embedder
from procmem.errors import ImageDecodeError, InputError, ModelNotFoundError
from procmem.memory import VisualMemory
from procmem.patchsim import top_k_reference
from procmem.sklearn import ImageEmbedder, MemoryClassifier, _unit
from procmem.vote import WEIGHTINGS

COLORS = {"blue": (30, 60, 220), "green": (20, 170, 40), "red": (220, 40, 30)}


# Checks of scikit-learn that cannot hold, with the reason. There are none: all of them apply.
EXPECTED_FAILED_CHECKS: dict[str, str] = {}


@parametrize_with_checks(
    [MemoryClassifier(), MemoryClassifier(n_neighbors=3, weighting="rank")],
    expected_failed_checks=lambda estimator: EXPECTED_FAILED_CHECKS,
)
def test_scikit_learns_own_checks_pass(estimator, check):
    with warnings.catch_warnings():
        # Several checks skip themselves with a warning where a package of theirs is missing.
        warnings.simplefilter("ignore")
        check(estimator)


def test_the_embedder_passes_the_checks_that_are_not_about_tables():
    # Its tags say that it takes no (n, d) table, on which all but the first few checks insist.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert all(done["status"] != "failed" for done in check_estimator(ImageEmbedder()))


# ---- images


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(write_tiny_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three labels of six photos each: files and labels, mixed."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    files, labels = [], []
    for number in range(6):
        for label, color in COLORS.items():
            noise = random.integers(-25, 25, (48, 64, 3))
            pixels = np.clip(np.array(color) + noise, 0, 255).astype(np.uint8)
            file = folder / f"{label}-{number}.png"
            Image.fromarray(pixels).save(file)
            files.append(file)
            labels.append(label)
    return files, labels


def test_a_pipeline_names_images_of_every_kind(photos, model):
    files, labels = photos
    pipeline = make_pipeline(ImageEmbedder(model), MemoryClassifier(n_neighbors=3))

    pipeline.fit(files[:12], labels[:12])

    rest = files[12:]
    opened = [Image.open(file).convert("RGB") for file in rest]
    for kind in (rest, [str(file) for file in rest], opened, [np.asarray(im) for im in opened]):
        assert pipeline.predict(kind).tolist() == labels[12:]
    assert (
        pipeline.predict(np.stack([np.asarray(image) for image in opened])).tolist() == labels[12:]
    )


def test_a_pipeline_can_be_cross_validated_and_searched(photos, model):
    files, labels = photos
    pipeline = make_pipeline(ImageEmbedder(model), MemoryClassifier(n_neighbors=2))

    assert cross_val_score(pipeline, files, labels, cv=2).tolist() == [1.0, 1.0]

    search = GridSearchCV(
        pipeline,
        {"memoryclassifier__n_neighbors": [1, 3], "memoryclassifier__weighting": ["rank"]},
        cv=2,
    ).fit(files, labels)
    assert search.best_score_ == 1.0


def test_the_embedder_gives_the_vectors_of_the_model(photos, model):
    files, _ = photos
    transformer = ImageEmbedder(model, view="whole")

    vectors = transformer.fit_transform(files[:3])

    with Embedder(model) as embedder:
        assert np.array_equal(vectors, embedder.embed(files[:3], view="whole").cls)
    assert vectors.dtype == np.float32
    assert transformer.transform([]).shape == (0, vectors.shape[1])
    assert len(transformer.get_feature_names_out()) == vectors.shape[1]


def test_the_embedder_is_copied_and_pickled_without_its_model(photos, model):
    files, _ = photos
    transformer = ImageEmbedder(model)
    vectors = transformer.transform(files[:2])

    for other in (clone(transformer), pickle.loads(pickle.dumps(transformer))):
        assert "_embedder" not in vars(other)
        assert np.array_equal(other.transform(files[:2]), vectors)
    transformer.close()
    transformer.close()
    assert np.array_equal(transformer.transform(files[:2]), vectors)


def test_the_embedder_opens_another_model_when_the_parameter_changes(photos, model, tmp_path):
    files, _ = photos
    transformer = ImageEmbedder(model)
    before = transformer.transform(files[:1])

    transformer.set_params(model=str(write_tiny_model(tmp_path, seed=1)))

    assert not np.array_equal(transformer.transform(files[:1]), before)


def test_the_embedder_opens_the_model_at_another_size_when_the_parameter_changes(photos, model):
    files, _ = photos
    transformer = ImageEmbedder(model)
    transformer.transform(files[:1])

    transformer.set_params(image_size=160)

    with Embedder(model, image_size=160) as embedder:
        assert np.array_equal(transformer.transform(files[:2]), embedder.embed(files[:2]).cls)


def test_the_embedder_says_what_is_wrong(photos, model):
    files, _ = photos
    with pytest.raises(ModelNotFoundError, match="vit-tinny"):
        ImageEmbedder("vit-tinny").fit(files)
    with pytest.raises(InputError, match="view"):
        ImageEmbedder(model, view="middle").fit(files)
    with pytest.raises(InputError, match="image_size is 100"):
        ImageEmbedder(model, image_size=100).fit(files)
    with pytest.raises(InputError, match="put it into a list"):
        ImageEmbedder(model).transform(str(files[0]))
    with pytest.raises(ImageDecodeError, match=r"images\[1\]"):
        ImageEmbedder(model).transform([files[0], b"no picture"])


# ---- the vote is the memory's


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_votes_are_those_of_a_memory_of_the_same_vectors(photos, model, tmp_path, weighting):
    files, labels = photos
    with Embedder(model) as embedder, VisualMemory(tmp_path / "vault", embedder=embedder) as memory:
        memory.add(files[:12], labels[:12], ids=range(1, 13))
        stored = memory._vault.load().vectors
        classifier = MemoryClassifier(5, weighting).fit(stored, labels[:12])
        vectors = embedder.embed(files).cls
        distances, positions = classifier.kneighbors(vectors)
        shares = classifier.predict_proba(vectors)
        for at, file in enumerate(files):
            answer = memory.classify(file, 5, weighting=weighting)
            assert classifier.predict(vectors[at : at + 1])[0] == answer.label
            near = [neighbor.similarity for neighbor in answer.neighbors]
            # The query's length is taken out once more: one rounding of float32.
            assert 1 - distances[at] == pytest.approx(near, abs=2**-22)
            assert (positions[at] + 1).tolist() == [neighbor.id for neighbor in answer.neighbors]
            ours = dict(zip(classifier.classes_.tolist(), shares[at].tolist(), strict=True))
            assert {k: v for k, v in ours.items() if v} == pytest.approx(
                dict(answer.votes), abs=1e-5
            )


@pytest.mark.parametrize("scale", [1e-300, 1.0, 1e300])
def test_only_the_direction_of_a_row_counts(scale):
    rows = np.random.default_rng(0).standard_normal((20, 5))
    assert np.allclose(_unit(rows * scale), _unit(rows), atol=2**-22)


def test_neighbors_are_those_of_a_full_sort():
    random = np.random.default_rng(0)
    rows, queries = random.standard_normal((40, 7)), random.standard_normal((9, 7))
    classifier = MemoryClassifier(6).fit(rows, random.integers(0, 3, 40))

    distances, positions = classifier.kneighbors(queries)

    wanted, similarities = top_k_reference(_unit(queries), _unit(rows), 6)
    assert np.array_equal(positions, wanted)
    assert distances == pytest.approx(1 - similarities, abs=7 * 2**-23)
    assert np.array_equal(classifier.kneighbors(queries, return_distance=False), positions)


def test_without_queries_every_row_meets_its_nearest_others():
    rows = np.random.default_rng(0).standard_normal((30, 4))
    rows[5] = rows[9] = rows[20]  # equal rows do not take each other's place
    classifier = MemoryClassifier(3).fit(rows, np.arange(30) % 2)

    positions = classifier.kneighbors(return_distance=False)

    assert positions.shape == (30, 3)
    assert not (positions == np.arange(30)[:, None]).any()
    assert positions[5, :2].tolist() == [9, 20]
    assert MemoryClassifier(3).fit(rows[:1], [0]).kneighbors()[1].shape == (1, 0)


def test_fewer_rows_than_neighbors_all_vote():
    classifier = MemoryClassifier(20).fit([[1.0, 0.0], [0.0, 1.0]], ["a", "b"])
    assert classifier.kneighbors([[1.0, 0.1]])[1].tolist() == [[0, 1]]


# ---- teaching row by row


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32), cuts=st.lists(st.integers(1, 29), max_size=4))
def test_teaching_in_parts_is_teaching_at_once(seed, cuts):
    random = np.random.default_rng(seed)
    rows, labels = random.standard_normal((30, 6)), random.choice(["a", "bee", "c"], 30)
    parts = MemoryClassifier()
    for chosen in np.split(np.arange(30), sorted(set(cuts))):
        parts.partial_fit(rows[chosen], labels[chosen])
    assert pickle.dumps(parts) == pickle.dumps(MemoryClassifier().fit(rows, labels))


def test_declared_classes_have_a_column_before_they_have_a_row():
    classifier = MemoryClassifier().partial_fit([[1.0, 0.0]], ["b"], classes=["a", "b", "z"])
    assert classifier.predict_proba([[1.0, 0.0]]).tolist() == [[0.0, 1.0, 0.0]]
    classifier.partial_fit([[0.0, 1.0]], ["c"])
    assert classifier.classes_.tolist() == ["a", "b", "c", "z"]
    assert classifier.forget([1]).classes_.tolist() == ["a", "b", "z"]


def test_numbers_do_not_become_text():
    classifier = MemoryClassifier().fit([[1.0], [2.0]], [1, 2])
    with pytest.raises(InputError, match="text or numbers"):
        classifier.partial_fit([[1.0]], ["one"])
    assert classifier.classes_.tolist() == [1, 2]


# ---- forgetting


@settings(max_examples=80, deadline=None, derandomize=True)
@given(data=st.data(), seed=st.integers(0, 2**32), size=st.integers(2, 40))
def test_a_classifier_that_forgot_is_one_that_was_fitted_without_the_rows(data, seed, size):
    random = np.random.default_rng(seed)
    rows = random.integers(-2, 3, (size, 3)).astype(np.float64)  # many ties, some zeros
    labels = random.choice(["a", "b", "a label that is long"], size)
    classifier = MemoryClassifier(4, data.draw(st.sampled_from(WEIGHTINGS))).fit(rows, labels)
    left = np.arange(size)
    for _ in range(data.draw(st.integers(1, 3))):
        gone = np.array(data.draw(st.lists(st.booleans(), min_size=len(left), max_size=len(left))))
        if gone.all():
            gone[0] = False
        as_mask = data.draw(st.booleans())
        classifier.forget(gone if as_mask else np.flatnonzero(gone))
        left = left[~gone]

    fresh = clone(classifier).fit(rows[left], labels[left].tolist())

    assert pickle.dumps(classifier) == pickle.dumps(fresh)
    queries = random.standard_normal((10, 3))
    assert np.array_equal(classifier.predict(queries), fresh.predict(queries))
    assert np.array_equal(classifier.predict_proba(queries), fresh.predict_proba(queries))
    for ours, theirs in zip(classifier.kneighbors(), fresh.kneighbors(), strict=True):
        assert np.array_equal(ours, theirs)


def test_what_a_copy_forgets_the_original_still_knows():
    original = MemoryClassifier(1).fit(np.eye(4), list("abcd"))
    for copied in (copy.copy(original), copy.deepcopy(original)):
        copied.forget([0])
        copied.fit(np.eye(4)[:2], list("xy"))
    assert original.predict(np.eye(4)).tolist() == list("abcd")
    assert pickle.dumps(copy.copy(original)) == pickle.dumps(original)


def test_the_length_of_a_forgotten_label_does_not_stay():
    classifier = MemoryClassifier().fit([[1.0], [2.0]], ["a", "somebody's full name"])
    assert classifier.forget(1).classes_.dtype == np.array(["a"]).dtype


def test_forgotten_rows_are_overwritten_with_zeros():
    classifier = MemoryClassifier().fit([[1.0, 2.0], [3.0, 4.0]], [0, 1])
    held = classifier._rows
    classifier.forget([0])
    assert not held.any()


def test_forgetting_everything_leaves_an_estimator_that_was_never_fitted():
    classifier = MemoryClassifier().fit([[1.0, 2.0], [3.0, 4.0]], [0, 1]).forget([True, True])
    assert vars(classifier) == vars(MemoryClassifier())
    with pytest.raises(NotFittedError):
        classifier.predict([[1.0, 2.0]])
    assert classifier.partial_fit([[1.0]], ["new"]).predict([[1.0]]).tolist() == ["new"]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([2], r"row 2 is not held, wanted positions in \[0, 2\)"),
        ([-1], "row -1 is not held"),
        ([True], r"mask has shape \(1,\)"),
        ([0.5], "wanted positions or a mask"),
        ([[0, 1]], "shape"),
        (["a"], "wanted positions or a mask"),
    ],
)
def test_forget_says_what_is_wrong_and_changes_nothing(rows, words):
    classifier = MemoryClassifier().fit([[1.0, 2.0], [3.0, 4.0]], [0, 1])
    before = pickle.dumps(classifier)
    with pytest.raises(InputError, match=words):
        classifier.forget(rows)
    assert pickle.dumps(classifier.forget([])) == before


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"n_neighbors": 0}, "k is 0"),
        ({"weighting": "ranks"}, "did you mean 'rank'"),
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
    ],
)
def test_parameters_are_checked_when_fitting(parameters, words):
    with pytest.raises(InputError, match=words):
        MemoryClassifier(**parameters).fit([[1.0], [2.0]], [0, 1])


def test_the_example_in_the_docstring_runs():
    assert doctest.testmod(procmem.sklearn).failed == 0


# ---- importing


def run(code):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_import_procmem_does_not_load_scikit_learn():
    done = run("import sys, procmem; sys.exit('sklearn' in sys.modules)")
    assert done.returncode == 0, done.stderr


def test_without_scikit_learn_the_import_names_the_command():
    done = run(
        "import sys; sys.modules['sklearn'] = None\n"
        "from procmem.errors import MissingExtraError\n"
        "try:\n    import procmem.sklearn\n"
        "except MissingExtraError as error:\n    print(error)\n"
    )
    assert "pip install 'procmem[sklearn]'" in done.stdout, done.stderr
