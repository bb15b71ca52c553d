"""Arguments of a wrong kind: an error that names the argument, and nothing is left behind."""

from __future__ import annotations

import io
import os
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from tests.toy_embedder import EMBEDDER, picture

from procmem import (
    InputError,
    ItemNotFoundError,
    ModelNotFoundError,
    VaultError,
    VaultKeyError,
    VaultLockedError,
    VisualMemory,
    check_receipt,
    export_items,
    import_items,
    load_image,
    lock,
    read_receipt,
    share_items,
    vault_address,
    write_receipt,
)
from procmem.cli import main

PICTURE = picture(1)


class BytesPath:
    """A path as the system has it."""

    def __init__(self, path):
        self.path = os.fsencode(path)

    def __fspath__(self):
        return self.path


@pytest.fixture
def memory(tmp_path):
    with VisualMemory(tmp_path / "vault", embedder=EMBEDDER) as opened:
        opened.add(PICTURE, "label", ids=1)
        yield opened


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.plan_delete(added_before=datetime.min), "too far from now"),
        (lambda m: m.neighbors(PICTURE, added_since=datetime.min), "too far from now"),
        (lambda m: m.plan_delete(source=5), "source is 5, wanted a path"),
        (lambda m: m.plan_delete(source=["a"]), r"source is \['a'\], wanted a path"),
        (lambda m: m.plan_delete(source=b"x"), "source is b'x', wanted a path"),
        (lambda m: m.plan_delete([True]), "id is True"),
        (lambda m: m.plan_delete("1"), "id is '1'"),
        (lambda m: m.plan_delete(similar_to=PICTURE, min_similarity=True), "is True, wanted a num"),
        (lambda m: m.plan_delete(similar_to=PICTURE, min_similarity=float("nan")), "is nan"),
        (lambda m: m.plan_delete(similar_to=PICTURE, min_similarity="0.5"), "is '0.5'"),
        (lambda m: m.add(PICTURE, ids=np.array(5)), "wanted one per image"),
        (lambda m: m.add(PICTURE, ids=True), "id is True|ids is True"),
        (lambda m: m.add(PICTURE, masks=np.array(None)), "wanted one per image"),
        (lambda m: m.add(PICTURE, masks=[[1, 2], [3]]), "masks has rows of unequal length"),
        (lambda m: m.add([PICTURE] * 2, labels={"a", "b"}), "labels is a set, which has no order"),
        (lambda m: m.add([PICTURE] * 2, ids={1: 2, 3: 4}), "ids is a dict, which has no order"),
        (lambda m: m.influence(PICTURE, by=[]), r"by is \[\], wanted one of item, label, folder"),
        (lambda m: m.influence(PICTURE, by=lambda _: ["x"]), r"by gives \['x'\] for item 1"),
        (lambda m: export_items(m, None), "path is None, wanted a path"),
        (lambda m: import_items(m, 5), "path is 5, wanted a path"),
        (lambda _: check_receipt(5), "receipt is a int, wanted one of read_receipt"),
        (lambda _: load_image(PICTURE, max_pixels="x"), "max_pixels is 'x', wanted a whole"),
        (lambda _: read_receipt(5), "source is 5, wanted a path"),
        (lambda _: read_receipt(None), "source is None, wanted a path"),
    ],
)
def test_what_is_no_such_argument_is_named(memory, call, message):
    with pytest.raises(InputError, match=message):
        call(memory)
    assert len(memory) == 1


def test_one_id_is_as_good_as_several(memory, tmp_path):
    for number, ids in enumerate([1, np.int64(1), np.array(1), [1], np.array([1])]):
        assert export_items(memory, tmp_path / f"{number}.safetensors", ids=ids) == 1
        assert [item.id for item in memory.plan_delete(ids)] == [1]


def test_a_similarity_may_be_numpys(memory):
    assert len(memory.plan_delete(similar_to=PICTURE, min_similarity=np.float32(0.5))) == 1


def test_a_path_may_be_of_bytes(memory, tmp_path):
    file = tmp_path / "photo.png"
    Image.fromarray(PICTURE).save(file)
    memory.add(BytesPath(file), ids=2)
    assert [item.source for item in memory.items()] == [None, str(file)]
    assert memory.neighbors(BytesPath(file))[0].id in (1, 2)
    assert [item.id for item in memory.plan_delete(source=BytesPath(file))] == [2]


@pytest.mark.parametrize("path", [5, None, b"x", "a\0b", ""])
def test_what_is_no_path_of_a_memory_is_refused(path):
    with pytest.raises(InputError, match=r"path is .*, wanted a path"):
        VisualMemory(path, embedder=EMBEDDER)


@pytest.mark.parametrize("embedder", [5, b"x", object()])
def test_what_is_no_embedder_is_refused(tmp_path, embedder):
    with pytest.raises(InputError, match=r"embedder is .*, wanted an Embedder"):
        VisualMemory(tmp_path / "new", embedder=embedder)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("limit", [None, "x", -1, 1.5, True])
def test_what_is_no_purge_limit_is_refused_before_anything_is_deleted(tmp_path, limit):
    with pytest.raises(InputError, match=r"purge_limit is .*, wanted a whole number"):
        VisualMemory(tmp_path / "new", embedder=EMBEDDER, purge_limit=limit)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("key", [5, b"x", "a\0b", "", "{folder}", "{file}", "{missing}/key"])
def test_a_key_that_cannot_be_leaves_no_vault(tmp_path, key):
    (tmp_path / "file").write_bytes(b"of somebody")
    if isinstance(key, str):
        key = key.format(folder=tmp_path, file=tmp_path / "file", missing=tmp_path / "none")
    with pytest.raises((InputError, VaultKeyError)):
        VisualMemory(tmp_path / "new", embedder=EMBEDDER, key=key)
    assert sorted(tmp_path.iterdir()) == [tmp_path / "file"]
    assert (tmp_path / "file").read_bytes() == b"of somebody"


def test_a_lock_on_a_file_that_was_removed_in_the_meantime_is_taken_anew(tmp_path, monkeypatch):
    """Else two could write: one on a file that has lost its name, one on the next of that name."""
    path, removed = tmp_path / "LOCK", []
    lock_file = lock.lock_file

    def removed_first(descriptor):
        lock_file(descriptor)
        if not removed:
            removed.append(descriptor)
            path.unlink()

    monkeypatch.setattr(lock, "lock_file", removed_first)
    held = lock.WriterLock(path)
    with pytest.raises(VaultLockedError, match="by this process"):
        lock.WriterLock(path)
    held.release()
    lock.WriterLock(path).release()
    assert removed


def test_a_folder_that_was_there_before_stays(tmp_path):
    (tmp_path / "new").mkdir()
    with pytest.raises(VaultKeyError):
        VisualMemory(tmp_path / "new", embedder=EMBEDDER, key=tmp_path)
    with VisualMemory(tmp_path / "new", embedder=EMBEDDER) as opened:
        opened.add(PICTURE)


@pytest.mark.parametrize("model", ["/", Path("/"), Path()])
def test_a_folder_is_no_model(tmp_path, model):
    with pytest.raises(ModelNotFoundError, match="is a folder; a model is two files"):
        VisualMemory(tmp_path / "new", embedder=model)


@pytest.mark.parametrize("path", ["", "a\0b", 5])
def test_a_receipt_needs_a_path(memory, path):
    receipt = memory.delete(1).receipt
    with pytest.raises(InputError, match=r"path is .*, wanted a path"):
        write_receipt(receipt, path)
    for key in ("a" * 32, 5):
        with pytest.raises(InputError, match=r"public_key is .*, wanted 32 bytes"):
            check_receipt(receipt, public_key=key)


def test_an_id_that_is_not_shared_is_not_said_to_be_erased(memory, tmp_path):
    with pytest.raises(ItemNotFoundError, match=r"id 99 .*; nothing was shared"):
        share_items(memory, tmp_path / "bundle", to=vault_address(memory), ids=99)
    assert not (tmp_path / "bundle").exists()


def test_a_model_with_another_name_in_its_manifest_is_the_same_model(memory, tmp_path):
    export_items(memory, tmp_path / "items.safetensors")
    again = type(EMBEDDER)(name="renamed")
    with VisualMemory(tmp_path / "other", embedder=again) as other:
        assert import_items(other, tmp_path / "items.safetensors") == [1]


# ---- the command line


def run(*arguments):
    return CliRunner().invoke(main, [*map(str, arguments)])


@pytest.mark.parametrize("days", ["nan", "inf", "-1", "1e10", "800000"])
def test_days_that_nobody_can_count_are_refused(tmp_path, days):
    result = run("delete", "--vault", tmp_path, "--older-than", days, "--dry-run")
    assert result.exit_code == 2
    assert "--older-than" in result.output


def test_moments_that_nobody_can_count_are_refused(tmp_path):
    Image.fromarray(PICTURE).save(tmp_path / "photo.png")
    with VisualMemory(tmp_path / "vault") as memory:
        memory.add(PICTURE)
    for option in ("--since", "--before"):
        result = run(
            "neighbors", tmp_path / "photo.png", "--vault", tmp_path / "vault", option, "0001-01-01"
        )
        assert "too far from now" in result.output
        assert isinstance(result.exception, SystemExit)


def test_an_empty_label_is_refused_and_not_replaced_by_the_folders_name(tmp_path):
    (tmp_path / "photos").mkdir()
    Image.fromarray(PICTURE).save(tmp_path / "photos" / "photo.png")
    result = run("add", tmp_path / "photos", "--vault", tmp_path / "vault", "--label", "")
    assert result.exit_code != 0
    assert "label is empty" in result.output


def test_a_file_that_is_open_is_told_to_be_read(memory, tmp_path):
    with pytest.raises(InputError, match=r"give its content, file\.read\(\)"):
        memory.add(io.BytesIO(b"no lines of images"))


def test_a_folder_with_too_long_a_name_is_a_vault_error():
    with pytest.raises(VaultError, match="check the path"):
        VisualMemory("x" * 300, embedder=EMBEDDER)
