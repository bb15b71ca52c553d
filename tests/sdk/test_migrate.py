"""A memory goes over to another model: complete, exact, and at any moment one or the other."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import pkgutil
import random
import shutil
import sqlite3
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from tests.sdk.sharing import contents_of

import procmem
from procmem import receive_items, seeing_anew, share_items, vault_address
from procmem.batch import binding_of
from procmem.errors import (
    EmbedderMismatchError,
    InputError,
    ItemNotFoundError,
    ModelIntegrityError,
    ModelNotFoundError,
    VaultError,
    VaultFormatError,
    VaultFullError,
    VaultKeyError,
    VaultLockedError,
    VaultReadOnlyError,
)
from procmem.image import load_image
from procmem.manifest import Manifest, Origin, Preprocessing
from procmem.memory import VisualMemory
from procmem.record import Item, Record, encode_text, quantize_patches
from procmem.reembedding import abort_migration, confirm_migration, migrate
from procmem.residue import scan_folder
from procmem.segment import fit_mask
from procmem.switch import _make
from procmem.types import Embedding
from procmem.vault import Vault

ROOT = Path(__file__).parents[2]
SECONDS = 1_700_000_000


class Eyes:
    """Random projections of the pixels, other ones for every seed."""

    def __init__(self, seed, *, side=32, patch=8, cls=40, width=12):
        self.sha256 = hashlib.sha256(f"eyes {seed} {cls} {width}".encode()).hexdigest()
        self.manifest = Manifest(
            kind="onnx",
            name=f"eyes-{seed}",
            file=f"eyes-{seed}.onnx",
            sha256=self.sha256,
            architecture="toy",
            patch_size=patch,
            cls_dim=cls,
            patch_dim=width,
            preprocessing=Preprocessing(resize=side, crop=side),
            origin=Origin("none", 0, "", "0", 0, 0),
        )
        self.cls_dim, self.patch_dim, self.side = cls, width, side
        self.grid = side // patch
        self.seen = []
        chance = np.random.default_rng(seed)
        self._cls = chance.standard_normal((side * side * 3, cls)).astype(np.float32)
        self._patch = chance.standard_normal((patch * patch * 3, width)).astype(np.float32)

    def embed(self, images, *, view="center"):
        self.seen.append(hashlib.sha256(images).hexdigest() if isinstance(images, bytes) else view)
        patch = self.side // self.grid
        picture = Image.fromarray(load_image(images)).resize((self.side, self.side))
        pixels = np.asarray(picture, dtype=np.float32) / 255 - 0.5
        cls = pixels.reshape(1, -1) @ self._cls
        cells = pixels.reshape(self.grid, patch, self.grid, patch, 3).transpose(0, 2, 1, 3, 4)
        patches = cells.reshape(1, self.grid, self.grid, -1) @ self._patch
        return Embedding(cls=cls / np.linalg.norm(cls), patches=patches)

    def close(self):
        pass


OLD = Eyes(1)
NEW = Eyes(2, cls=56, width=16)


def mask_of(id_):
    values = np.random.default_rng(id_).integers(0, 3, (6, 8)).astype(np.uint8)
    return values.repeat(5, 0).repeat(5, 1)  # (30, 40)


def has_mask(id_):
    return id_ % 4 == 0


def label_of(id_):
    return None if id_ % 5 == 0 else f"label of family number {id_ % 3}"


def photo(folder, id_, seed=None):
    path = folder / f"photograph number {id_}.png"
    noise = np.random.default_rng(1000 + (id_ if seed is None else seed)).integers(
        0, 256, (30, 40, 3)
    )
    Image.fromarray(noise.astype(np.uint8)).save(path)
    return path


def teach(memory, paths, **options):
    ids = sorted(paths)
    memory.add(
        [paths[id_] for id_ in ids],
        [label_of(id_) for id_ in ids],
        masks=[mask_of(id_) if has_mask(id_) else None for id_ in ids],
        ids=ids,
        **options,
    )


@pytest.fixture(autouse=True)
def one_moment(monkeypatch):
    monkeypatch.setattr("procmem.memory.time", SimpleNamespace(time=lambda: SECONDS))


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "photos").mkdir()
    return {id_: photo(tmp_path / "photos", id_) for id_ in range(1, 41)}


@pytest.fixture(params=["plain", "sealed"])
def key(request, tmp_path):
    return tmp_path / "key" if request.param == "sealed" else None


@pytest.fixture
def vault(tmp_path, photos, key):
    """Folder of a memory of the old model with items 1 to 40."""
    with VisualMemory(tmp_path / "v", embedder=OLD, key=key) as memory:
        teach(memory, photos)
        assert memory._vault.purge()
    return tmp_path / "v"


def opened(path, eyes, key=None, **options):
    return VisualMemory(path, embedder=eyes, key=key, **options)


def contents(path, key=None):
    """What stands for everything that a vault stores of each item, by id."""
    held = Vault(path, read_only=True, key=key)
    try:
        return contents_of(held)
    finally:
        held.close()


def fresh(folder, photos, eyes, ids=None):
    """The folder of a memory that was taught with `eyes` and nothing before."""
    with VisualMemory(folder, embedder=eyes) as memory:
        teach(memory, {id_: photos[id_] for id_ in (ids or photos)})
        assert memory._vault.purge()
    return folder


def stop_after(count):
    """A progress that stops the run as Ctrl-C does."""

    def progress(done, total):
        if done >= count:
            raise KeyboardInterrupt

    return progress


def half_way(vault, key, monkeypatch, count=24):
    monkeypatch.setattr(seeing_anew, "AT_ONCE", 8)
    with pytest.raises(KeyboardInterrupt):
        migrate(vault, NEW, key=key, progress=stop_after(count + 1))


def values_under(eyes, path, id_):
    """The bytes that are stored of a photo under a model, told here and not by the vault."""
    data = path.read_bytes()
    found = [eyes.embed(data).cls[0].astype("<f2").tobytes()]
    found += [encode_text(text) for text in (label_of(id_), str(path)) if text is not None]
    if has_mask(id_):
        found.append(quantize_patches(eyes.embed(data, view="whole").patches[0]).tobytes())
        found.append(fit_mask(mask_of(id_), image_size=(30, 40), side=eyes.side).tobytes())
    return found


def files_of(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_migrated_memory_is_one_that_was_taught_with_the_new_model(vault, photos, key, tmp_path):
    report = migrate(vault, NEW, key=key)

    assert (report.switched, report.items, report.reembedded, report.left) == (True, 40, 40, ())
    assert report.embedder_sha256 == NEW.sha256
    taught = fresh(tmp_path / "fresh", photos, NEW)
    assert contents(vault, key) == contents(taught)
    if key is None:
        assert (vault / "ledger.sqlite").read_bytes() == (taught / "ledger.sqlite").read_bytes()
    assert sorted(files_of(vault)) == ["KEY", "LOCK", "ledger.sqlite"]
    with opened(vault, NEW, key) as memory:
        assert memory.verify().ok
        assert memory.stats().migration is None
        assert memory.neighbors(photos[7], k=1)[0].id == 7


def test_nothing_of_the_old_embeddings_is_left(vault, photos, key):
    values = [values_under(OLD, photos[id_], id_)[0] for id_ in photos]
    before = scan_folder(vault, values)
    migrate(vault, NEW, key=key)
    after = scan_folder(vault, values)
    assert after.windows_found == 0
    assert after.windows_checked > 2000
    assert before.windows_found > 2000 or key is not None


def test_until_the_switch_it_answers_under_the_old_model_with_everything(
    vault, photos, key, monkeypatch
):
    with opened(vault, OLD, key) as memory:
        before = [memory.neighbors(photos[id_], k=40) for id_ in (3, 8)]
    half_way(vault, key, monkeypatch)
    with opened(vault, OLD, key, read_only=True) as memory:
        assert [memory.neighbors(photos[id_], k=40) for id_ in (3, 8)] == before
        status = memory.stats().migration
        assert (status.phase, status.items) == ("half-way", 24)
        assert (status.embedder_name, status.embedder_sha256) == ("eyes-2", NEW.sha256)
        assert memory.verify().ok


def test_a_second_run_embeds_only_what_the_first_did_not(vault, photos, key, monkeypatch, tmp_path):
    half_way(vault, key, monkeypatch)
    extra = {50: photo(tmp_path / "photos", 50)}
    with opened(vault, OLD, key) as memory:
        teach(memory, extra)
    eyes = Eyes(2, cls=56, width=16)

    report = migrate(vault, eyes, key=key)

    assert (report.reembedded, report.items) == (17, 41)
    images = {hashlib.sha256(path.read_bytes()).hexdigest() for path in photos.values()}
    assert len(images.intersection(eyes.seen)) == 16
    taught = fresh(tmp_path / "fresh", photos | extra, NEW)
    assert contents(vault, key) == contents(taught)


# ---- what cannot be embedded anew


@pytest.fixture
def spoiled(vault, photos, tmp_path, key):
    """The vault, of whose sources five cannot be used; id -> a word of the reason."""
    photos[3].unlink()
    photos[4].write_bytes(b"these are words")
    photo(tmp_path / "photos", 8, seed=500)
    with opened(vault, OLD, key) as memory:
        memory.add(load_image(photos[1]), labels="from a camera", ids=61)
        memory.add(load_image(photos[1]), sources="camera frame 12", ids=62)
    return {
        3: "does not exist",
        4: "not a readable image",
        8: "not the one",
        61: "no source",
        62: "abs",
    }


def test_what_cannot_be_embedded_stays_under_the_old_model_with_its_reason(
    vault, spoiled, key, photos
):
    before = contents(vault, key)

    report = migrate(vault, NEW, key=key, old_model=OLD)

    assert report.checked
    assert [one.id for one in report.left] == sorted(spoiled)
    for one in report.left:
        assert spoiled[one.id] in one.reason, one
    assert report.items == 37
    assert contents(vault / "previous", key) == {id_: before[id_] for id_ in spoiled}
    with opened(vault / "previous", OLD, key, read_only=True) as left:
        assert left.neighbors(load_image(photos[1]), k=1)[0].id in (61, 62)
    with opened(vault, NEW, key, read_only=True) as memory:
        status = memory.stats().migration
        assert (status.phase, status.items) == ("unconfirmed", 5)
        assert status.embedder_sha256 == OLD.sha256
        assert memory.verify().ok
        assert not set(spoiled) & {item.id for item in memory.items()}
        assert {item.id for item in memory.plan_delete(label="from a camera")} == {61}


def test_without_the_old_model_a_changed_file_is_not_known_and_that_is_said(vault, spoiled, key):
    report = migrate(vault, NEW, key=key)
    assert not report.checked
    assert [one.id for one in report.left] == [3, 4, 61, 62]


def test_rounding_and_another_encoding_of_the_same_pixels_are_no_change(vault, photos, key):
    Image.open(photos[5]).save(photos[5], compress_level=0)
    report = migrate(vault, NEW, key=key, old_model=OLD)
    assert report.left == ()


def test_an_open_memory_is_asked_under_its_own_model_what_was_taught(vault, spoiled, key):
    memory = opened(vault, OLD, key)
    report = migrate(memory, NEW)
    assert report.checked
    assert [one.id for one in report.left] == sorted(spoiled)
    with pytest.raises(VaultError, match="closed; open it again"):
        len(memory)


def test_images_that_come_back_are_taken_back(vault, spoiled, photos, key, tmp_path):
    migrate(vault, NEW, key=key, old_model=OLD)
    photo(tmp_path / "photos", 3)
    photo(tmp_path / "photos", 8)

    report = migrate(vault, NEW, key=key, old_model=OLD)

    assert (report.switched, report.reembedded, report.items) == (True, 2, 39)
    assert [one.id for one in report.left] == [4, 61, 62]
    with opened(vault, NEW, key, read_only=True) as memory:
        assert {item.id for item in memory.items()} == set(photos) - {4}
    if key is None:
        taught = fresh(tmp_path / "fresh", photos, NEW, sorted(set(photos) - {4}))
        ledgers = [(path / "ledger.sqlite").read_bytes() for path in (vault, taught)]
        assert ledgers[0] == ledgers[1]


def test_when_all_have_come_back_nothing_of_the_old_model_is_left(vault, photos, key, tmp_path):
    photos[4].unlink()
    migrate(vault, NEW, key=key)
    photo(tmp_path / "photos", 4)
    assert migrate(vault, NEW, key=key).left == ()
    assert sorted(files_of(vault)) == ["KEY", "LOCK", "ledger.sqlite"]
    assert scan_folder(vault, [values_under(OLD, photos[4], 4)[0]]).windows_found == 0
    assert contents(vault, key) == contents(fresh(tmp_path / "fresh", photos, NEW))


def test_confirming_erases_what_was_left_exactly(vault, spoiled, photos, key, tmp_path):
    migrate(vault, NEW, key=key, old_model=OLD)

    report = confirm_migration(vault, key=key)

    assert report.erased_ids == tuple(sorted(spoiled))
    assert (report.remaining, report.purged, report.windows_found) == (37, True, 0)
    assert report.windows_checked > 100
    assert procmem.check_receipt(report.receipt) == ()
    values = [value for id_ in (3, 4) for value in values_under(OLD, photo(tmp_path, id_), id_)]
    assert scan_folder(vault, [values[0]]).windows_found == 0
    assert sorted(files_of(vault)) == ["KEY", "LOCK", "ledger.sqlite"]
    with pytest.raises(InputError, match="nothing to confirm"):
        confirm_migration(vault, key=key)


def test_nothing_is_switched_if_nothing_could_be_embedded(vault, photos, key):
    shutil.rmtree(photos[1].parent)
    before = files_of(vault)
    report = migrate(vault, NEW, key=key)
    assert (report.switched, report.reembedded, report.items) == (False, 0, 40)
    assert len(report.left) == 40
    assert sorted(files_of(vault)) == sorted(before)
    assert contents(vault, key).keys() == set(photos)
    if key is None:
        assert files_of(vault)["ledger.sqlite"] == before["ledger.sqlite"]


def test_nothing_is_switched_if_the_images_went_away_between_two_runs(
    vault, photos, key, monkeypatch, tmp_path
):
    half_way(vault, key, monkeypatch)
    photos[1].parent.rename(tmp_path / "unplugged")
    report = migrate(vault, NEW, key=key)
    assert (report.switched, report.reembedded, report.items) == (False, 0, 40)
    assert len(report.left) == 16
    with opened(vault, OLD, key) as memory:
        assert len(memory) == 40
        assert memory.stats().migration.items == 24
    (tmp_path / "unplugged").rename(photos[1].parent)
    report = migrate(vault, NEW, key=key)
    assert (report.switched, report.reembedded, report.left) == (True, 16, ())


def test_what_can_never_be_embedded_does_not_hold_up_a_second_run(
    vault, photos, key, monkeypatch, tmp_path
):
    half_way(vault, key, monkeypatch)
    for id_ in range(25, 41):
        photos[id_].unlink()
    report = migrate(vault, NEW, key=key)
    assert (report.switched, report.reembedded, report.items) == (True, 0, 24)
    assert [one.id for one in report.left] == list(range(25, 41))


def test_an_empty_memory_goes_over_too(tmp_path):
    VisualMemory(tmp_path / "v", embedder=OLD).close()
    assert migrate(tmp_path / "v", NEW).switched
    VisualMemory(tmp_path / "fresh", embedder=NEW).close()
    ledgers = [(tmp_path / name / "ledger.sqlite").read_bytes() for name in ("v", "fresh")]
    assert ledgers[0] == ledgers[1]


# ---- forgetting in between


def chosen(how, id_, photos):
    return {
        "id": {"ids": id_},
        "source": {"source": photos[id_]},
        "label": {"label": label_of(id_)},
    }[how]


@pytest.mark.parametrize("how", ["id", "source", "label"])
def test_a_deletion_half_way_reaches_both_ledgers(vault, photos, key, monkeypatch, how, tmp_path):
    half_way(vault, key, monkeypatch)
    id_ = 16  # with a mask, embedded by both models
    values = [value for eyes in (OLD, NEW) for value in values_under(eyes, photos[id_], id_)]
    shared = [str(photos[1].parent).encode(), *(str(path).encode() for path in photos.values())]
    secret = [value for value in values if value not in shared]
    if key is None:
        held = scan_folder(vault, [value for value in secret if len(value) > 60])
        assert held.windows_found == held.windows_checked > 700
    with opened(vault, OLD, key) as memory:
        report = memory.delete(**chosen(how, id_, photos))
        assert report.purged
        assert report.windows_found == 0
        assert "next/ledger.sqlite" in report.files_scanned
        survivors = {item.id for item in memory.items()}
        assert id_ not in survivors
        assert set(memory._vault.open_beside["next"].ids()) <= survivors
        entitled = memory._vault.entitled
        assert scan_folder(vault, secret, entitled=entitled).windows_found == 0
    migrate(vault, NEW, key=key)
    taught = fresh(tmp_path / "fresh", photos, NEW, sorted(survivors))
    assert contents(vault, key) == contents(taught)


@pytest.mark.parametrize("how", ["id", "source", "label", "age"])
def test_a_deletion_before_the_confirmation_reaches_what_was_left(
    vault, spoiled, photos, key, how, tmp_path
):
    from datetime import datetime, timezone

    migrate(vault, NEW, key=key, old_model=OLD)
    id_ = 8
    data = [
        value for value in values_under(OLD, photo(tmp_path, id_), id_) if b"/" not in value[:1]
    ]
    data.append(str(photos[id_]).encode())
    moment = datetime.fromtimestamp(SECONDS + 1, tz=timezone.utc)
    choice = {"added_before": moment} if how == "age" else chosen(how, id_, photos)
    with opened(vault, NEW, key) as memory:
        plan = memory.plan_delete(**choice)
        report = memory.delete(**choice)
        assert id_ in report.erased_ids
        assert tuple(item.id for item in plan) == report.erased_ids
        assert (report.purged, report.windows_found) == (True, 0)
        assert procmem.check_receipt(report.receipt) == ()
        assert scan_folder(vault, data, entitled=memory._vault.entitled).windows_found == 0
        left = memory.stats().migration
    if how == "age":
        assert left is None
        assert not (vault / "previous").exists()
    else:
        assert left.items == 5 - len(set(spoiled).intersection(report.erased_ids))


def test_a_deletion_that_fails_in_one_ledger_deletes_from_none(
    vault, spoiled, photos, key, monkeypatch
):
    migrate(vault, NEW, key=key, old_model=OLD)
    before = contents(vault, key)

    real, changed = procmem.writer.add_checksums, []

    def full_at_the_second(*arguments, **options):
        changed.append(options["schema"])
        if len(changed) == 2:
            raise sqlite3.OperationalError("database or disk is full")
        real(*arguments, **options)

    with opened(vault, NEW, key) as memory:
        with monkeypatch.context() as patched:
            patched.setattr("procmem.writer.add_checksums", full_at_the_second)
            with pytest.raises(VaultFullError):
                memory.delete([7, 8])  # the vault's own, and one that was left
        assert changed == ["main", "beside0"]
        assert contents(vault, key) == before
        assert memory.verify().ok
        assert memory.delete([7, 8]).erased_ids == (7, 8)
    assert contents(vault, key).keys() == before.keys() - {7, 8}


def test_deleted_vaults_are_byte_identical_whatever_the_migration_went_through(
    tmp_path, photos, monkeypatch
):
    ledgers = set()
    for seed in range(4):
        chance = random.Random(seed)
        path = tmp_path / f"v{seed}"
        with VisualMemory(path, embedder=OLD) as memory:
            teach(memory, photos)
            memory.delete(chance.sample(range(21, 41), 4 * seed))
        half_way(path, None, monkeypatch, count=8 * chance.randint(0, 2))
        with VisualMemory(path, embedder=OLD) as memory:
            memory.delete([id_ for id_ in memory._vault.ids() if id_ > 25])
        migrate(path, NEW)
        with VisualMemory(path, embedder=NEW) as memory:
            memory.delete([id_ for id_ in memory._vault.ids() if id_ > 20])
        ledgers.add((path / "ledger.sqlite").read_bytes())
        assert sorted(files_of(path)) == ["KEY", "LOCK", "ledger.sqlite"]
    taught = fresh(tmp_path / "fresh", photos, NEW, range(1, 21))
    assert ledgers == {(taught / "ledger.sqlite").read_bytes()}


def test_what_was_left_is_not_shared_and_that_is_said(vault, spoiled, key, tmp_path):
    migrate(vault, NEW, key=key, old_model=OLD)
    with (
        opened(vault, NEW, key) as memory,
        opened(tmp_path / "other", NEW) as other,
    ):
        to = vault_address(other)
        chosen = [item.id for item in memory.items() if item.label == label_of(1)]
        assert {item.id for item in memory.plan_delete(label=label_of(1))} > set(chosen)
        assert share_items(memory, tmp_path / "some", to=to, label=label_of(1)) == len(chosen)
        for choice in ({"label": "from a camera"}, {"ids": [1, 61]}):
            with pytest.raises(ItemNotFoundError, match=r"v.previous, .*again, .*--confirm"):
                share_items(memory, tmp_path / "none", to=to, **choice)
            assert not (tmp_path / "none").exists()


def in_the_middle(of, what):
    """A progress that does something once, in the middle."""
    done_ = []

    def progress(done, total):
        if done == of and not done_:
            done_.append(threading.Thread(target=what))
            done_[0].start()
            done_[0].join(60)

    return progress


def test_a_migration_that_another_thread_undoes_says_so(vault, key, monkeypatch):
    monkeypatch.setattr(seeing_anew, "AT_ONCE", 8)
    with opened(vault, OLD, key) as memory:
        before = contents_of(memory._vault)
        with pytest.raises(VaultError, match="undone while it went on"):
            migrate(memory, NEW, progress=in_the_middle(20, lambda: abort_migration(memory)))
        assert contents_of(memory._vault) == before
        assert memory.verify().ok
        assert memory.stats().migration is None


def test_taking_back_ends_where_another_thread_erases_what_was_left(
    vault, spoiled, photos, key, monkeypatch
):
    monkeypatch.setattr(seeing_anew, "AT_ONCE", 1)
    migrate(vault, NEW, key=key, old_model=OLD)
    photo(photos[3].parent, 3)
    photo(photos[3].parent, 4)
    with opened(vault, NEW, key) as memory:
        confirm = in_the_middle(1, lambda: confirm_migration(memory))
        report = migrate(memory, NEW, old_model=OLD, progress=confirm)
        assert report.left == ()
        assert memory.stats().migration is None
        assert memory.verify().ok


def test_what_is_erased_before_it_is_taken_back_is_not_missed(vault, spoiled, key):
    migrate(vault, NEW, key=key, old_model=OLD)
    with opened(vault, NEW, key) as memory:

        class ErasedAtOnce(dict):
            def get(self, name):
                memory._vault.open_beside = dict(self)
                confirm_migration(memory)
                return self[name]

        memory._vault.open_beside = ErasedAtOnce(memory._vault.open_beside)
        report = migrate(memory, NEW, old_model=OLD)
        assert (report.left, report.reembedded) == ((), 0)
        assert memory.stats().migration is None


@pytest.mark.parametrize(
    "ask",
    [
        lambda vault: vault.problems(),
        lambda vault: vault.migration(),
        lambda vault: [item.id for item in vault.erasable([3, 1])],
        lambda vault: vault.erasable_ids(),
        lambda vault: sorted(vault.held([1, 3])),
    ],
)
@pytest.mark.parametrize("at", ["opened", "asked", "opened, another", "asked, another"])
def test_a_reader_does_not_miss_what_a_writer_removes_meanwhile(
    vault, spoiled, key, ask, at, monkeypatch
):
    migrate(vault, NEW, key=key, old_model=OLD)
    with contextlib.closing(Vault(vault, key=key)) as writer:
        reader = Vault(vault, read_only=True, key=key)
        before = ask(reader)
        removed = []

        def remove(real):
            def call(*arguments, **options):
                found = None if at == "opened" else real(*arguments, **options)
                if not removed:
                    removed.append(True)
                    writer.drop_beside("previous")
                    if "another" in at:  # of a further migration
                        third = _make(writer, "previous", binding_of(Eyes(3)))
                        writer.open_beside["previous"] = third
                    if at == "opened, another":
                        raise VaultFormatError("previous was zeroed while it was opened")
                return found or real(*arguments, **options)

            return call

        if "opened" in at:
            monkeypatch.setattr(reader, "open_one", remove(reader.open_one))
        else:
            monkeypatch.setattr(reader, "_counting", remove(reader._counting))
        after = ask(reader)
        assert removed
        monkeypatch.undo()
        assert after == ask(reader)
        assert reader.problems() == []
        assert (after != before) == (ask(reader) != before)
        reader.close()


def test_files_that_go_while_they_are_counted_are_not_missed(vault, key, monkeypatch):
    (vault / "ledger.sqlite.tmp").write_bytes(b"of a writer")
    with opened(vault, OLD, key, read_only=True) as memory:
        walk = os.walk

        def gone(path):
            for folder, folders, names in walk(path):
                (vault / "ledger.sqlite.tmp").unlink(missing_ok=True)
                yield folder, folders, names

        whole = memory.stats().bytes_on_disk
        monkeypatch.setattr("procmem.stores.local.os.walk", gone)
        assert memory.stats().bytes_on_disk == whole - len(b"of a writer")


def test_an_id_that_was_left_is_in_use(vault, spoiled, key, photos):
    migrate(vault, NEW, key=key, old_model=OLD)
    with (
        opened(vault, NEW, key) as memory,
        pytest.raises(InputError, match="id 3 is in use"),
    ):
        memory.add(photos[1], ids=3)


@pytest.mark.parametrize("later", [-1, 0, 1])
def test_of_what_was_left_and_what_another_shares_the_one_taught_later_stays(
    vault, spoiled, key, photos, tmp_path, later, monkeypatch
):
    migrate(vault, NEW, key=key, old_model=OLD)
    monkeypatch.setattr("procmem.memory.time", SimpleNamespace(time=lambda: SECONDS + later))
    with (
        opened(vault, NEW, key) as memory,
        opened(tmp_path / "sender", NEW) as sender,
    ):
        sender.add(photos[1], "of another", ids=3)
        share_items(sender, tmp_path / "bundle", to=vault_address(memory))
        trust = vault_address(sender)
        report = receive_items(memory, tmp_path / "bundle", trust=trust)
        assert report.purged
        assert not memory.stats().purge_pending
        here = [item.label for item in memory.items() if item.id == 3]
        left = {item.id for item in memory._vault.open_beside["previous"].items()}
        if later < 0:
            assert (report.kept, here) == ((3,), [])
            assert left == set(spoiled)
        else:
            assert (report.replaced, here) == ((3,), ["of another"])
            assert left == set(spoiled) - {3}
        again = receive_items(memory, tmp_path / "bundle", trust=trust)
        assert (again.kept if later < 0 else again.unchanged) == (3,)


def test_what_was_left_is_changed_by_its_own_memory_only(vault, spoiled, key):
    migrate(vault, NEW, key=key, old_model=OLD)
    before = files_of(vault / "previous")
    with pytest.raises(VaultReadOnlyError, match="belongs to the memory at"):
        opened(vault / "previous", OLD, key)
    assert files_of(vault / "previous") == before


def test_undoing_leaves_no_trace(vault, photos, key, monkeypatch):
    before = files_of(vault)
    half_way(vault, key, monkeypatch)
    values = [v for id_ in range(1, 25) for v in values_under(NEW, photos[id_], id_)[:1]]
    assert key is not None or scan_folder(vault, values).windows_found > 1000

    report = abort_migration(vault, key=key)

    assert (report.erased_ids, report.windows_found, report.purged) == ((), 0, True)
    assert report.windows_checked > 1000
    assert scan_folder(vault, values).windows_found == 0
    after = files_of(vault)
    assert after.keys() == before.keys()
    if key is None:
        assert after["ledger.sqlite"] == before["ledger.sqlite"]
    with pytest.raises(InputError, match="nothing to undo"):
        abort_migration(vault, key=key)


# ---- other processes, other versions, other sizes


def test_readers_see_the_old_memory_until_the_switch_and_then_the_new_one(vault, photos, key):
    reader = opened(vault, OLD, key, read_only=True)
    before = reader.neighbors(photos[9], k=40)
    seen = []

    def ask(done, total):
        seen.append(reader.neighbors(photos[9], k=40) == before)

    migrate(vault, NEW, key=key, progress=ask)

    assert seen == [True] * 40
    # What the old model sees is never compared with what the new one saw.
    with pytest.raises(EmbedderMismatchError, match=f"{NEW.sha256}"):
        reader.neighbors(photos[9], k=40)
    reader.close()
    with opened(vault, NEW, key, read_only=True) as again:
        assert again.neighbors(photos[9], k=1)[0].id == 9


def test_a_reader_in_another_process_does_too(vault, photos, key):
    reading = textwrap.dedent(f"""
        import sys
        sys.path.insert(0, {str(ROOT)!r})
        from procmem.vault import Vault
        held = Vault({str(vault)!r}, read_only=True, key={None if key is None else str(key)!r})
        for line in sys.stdin:
            try:
                contents = held.load()
                print(contents.vectors.shape, held.binding.name, flush=True)
            except Exception as error:
                print(type(error).__name__, flush=True)
    """)
    with subprocess.Popen(
        [sys.executable, "-c", reading], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reader:

        def ask():
            reader.stdin.write("?\n")
            reader.stdin.flush()
            return reader.stdout.readline().strip()

        said = [ask()]
        migrate(
            vault,
            NEW,
            key=key,
            progress=lambda done, total: said.append(ask()) if done % 10 == 0 else None,
        )
        after = ask()
    assert set(said) == {"(40, 40) eyes-1"}
    assert after == "EmbedderMismatchError"


def test_it_may_be_asked_and_may_forget_while_it_goes_over(vault, photos, key, tmp_path):
    memory = opened(vault, OLD, key)
    reports = []

    def forget(done, total):
        if done in (20, 36):  # one that has been embedded, one that has been read and not stored
            reports.append(memory.delete([4, 33] if done == 36 else [8]))
            assert memory.neighbors(photos[7], k=1)[0].id == 7

    migrate(memory, NEW, progress=forget)

    assert [report.windows_found for report in reports] == [0, 0]
    kept = sorted(set(photos) - {4, 8, 33})
    assert contents(vault, key) == contents(fresh(tmp_path / "fresh", photos, NEW, kept))


def test_what_an_older_procmem_deleted_half_way_does_not_come_back(vault, photos, monkeypatch, key):
    half_way(vault, key, monkeypatch)
    (vault / "next").rename(vault.parent / "aside")  # as if it did not know of it
    with opened(vault, OLD, key, purge_limit=0) as memory:
        memory.delete([2, 16])
    if key is None:  # a purge of a sealed vault leaves no key to what was set aside
        (vault.parent / "aside").rename(vault / "next")
    migrate(vault, NEW, key=key)
    assert contents(vault, key).keys() == set(photos) - {2, 16}


def test_masks_are_fitted_to_another_side_and_vectors_may_be_wider(vault, photos, key):
    wide = Eyes(3, side=48, cls=64, width=8)
    migrate(vault, wide, key=key)
    with opened(vault, wide, key) as memory:
        for record in memory._vault.records([4, 5]):
            assert record.vector.shape == (64,)
            assert (record.mask is None) == (record.item.id == 5)
        (record,) = memory._vault.records([4])
        old = fit_mask(mask_of(4), image_size=(30, 40), side=32)
        rows = (np.arange(48) * 2 + 1) * 32 // 96  # the pixel that a center falls into
        np.testing.assert_array_equal(record.mask, old[rows][:, rows])
        assert memory.segment(photos[4]).mask.shape == (30, 40)


def test_the_same_model_at_another_size_is_another_model(tmp_path):
    from tests.tiny_model import write_tiny_model

    model = write_tiny_model(tmp_path)
    (tmp_path / "photos").mkdir()
    paths = {id_: photo(tmp_path / "photos", id_) for id_ in (1, 2, 4)}
    with VisualMemory(tmp_path / "v", embedder=model) as memory:
        teach(memory, paths)

    report = migrate(tmp_path / "v", model, image_size=112, old_model=model)

    assert (report.switched, report.image_size, report.checked) == (True, 112, True)
    with VisualMemory(tmp_path / "fresh", embedder=model, image_size=112) as memory:
        teach(memory, {id_: paths[id_] for id_ in (1, 2)})
        fresh_items = contents_of(memory._vault)
    found = contents(tmp_path / "v")
    assert {id_: found[id_] for id_ in (1, 2)} == fresh_items
    # From now on its side is the memory's, and so the default of the next migration.
    other = write_tiny_model(tmp_path, name="other", seed=5)
    assert migrate(tmp_path / "v", other).image_size == 112


# ---- what goes wrong


def test_the_same_model_is_refused(vault, key):
    before = files_of(vault)
    with pytest.raises(InputError, match="already; name another model"):
        migrate(vault, OLD, key=key)
    assert files_of(vault)["ledger.sqlite"] == before["ledger.sqlite"]


def test_a_third_model_half_way_is_refused_with_both_names(vault, key, monkeypatch):
    half_way(vault, key, monkeypatch)
    with pytest.raises(EmbedderMismatchError, match=r"half-way to eyes-2.*not to eyes-9.*--abort"):
        migrate(vault, Eyes(9), key=key)
    assert migrate(vault, NEW, key=key).items == 40


def test_a_third_model_before_the_confirmation_is_refused(vault, spoiled, key):
    migrate(vault, NEW, key=key, old_model=OLD)
    with pytest.raises(InputError, match=r"still has 5 items under eyes-1.*--confirm"):
        migrate(vault, Eyes(9), key=key)
    with pytest.raises(InputError, match=r"nothing to undo; .* --confirm"):
        abort_migration(vault, key=key)


def test_another_old_model_than_the_memorys_is_refused(vault, key):
    with pytest.raises(EmbedderMismatchError, match="eyes-1"):
        migrate(vault, NEW, key=key, old_model=Eyes(9))


def test_models_that_cannot_be_opened_change_nothing(vault, key, tmp_path):
    from tests.tiny_model import write_tiny_model

    before = files_of(vault)
    with pytest.raises(ModelNotFoundError, match="vit-tiny"):
        migrate(vault, "vit-tinny", key=key)
    model = write_tiny_model(tmp_path)
    model.write_bytes(model.read_bytes() + b"\0")
    with pytest.raises(ModelIntegrityError):
        migrate(vault, model, key=key)
    assert files_of(vault).keys() == before.keys()
    assert files_of(vault)["ledger.sqlite"] == before["ledger.sqlite"]


def test_a_memory_that_is_open_elsewhere_is_refused(vault, key):
    with opened(vault, OLD, key), pytest.raises(VaultLockedError):
        migrate(vault, NEW, key=key)


def test_a_memory_open_for_reading_is_refused(vault, key):
    with opened(vault, OLD, key, read_only=True) as memory, pytest.raises(VaultReadOnlyError):
        migrate(memory, NEW)


def test_where_there_is_no_memory_none_is_made(tmp_path):
    for act in (lambda path: migrate(path, NEW), confirm_migration, abort_migration):
        with pytest.raises(VaultFormatError, match="holds no memory"):
            act(tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["a\0b", "", 5])
def test_a_path_that_is_none_is_told(path):
    for act in (migrate, confirm_migration, abort_migration):
        with pytest.raises(InputError, match=r"memory is .* wanted a path"):
            act(path)


@pytest.mark.parametrize("where", ["a step", "the copy that is to be the vault", "what is left"])
def test_a_full_disk_loses_nothing_and_the_same_call_goes_on(
    vault, photos, key, monkeypatch, where, tmp_path
):
    photos[3].unlink()
    before = contents(vault, key)

    def full(*arguments, **options):
        raise sqlite3.OperationalError("database or disk is full")

    place = {
        "a step": ("procmem.writer.add_checksums", 2),
        "the copy that is to be the vault": ("procmem.switch.write_copy", 1),
        "what is left": ("procmem.writer.write_copy", 1),
    }[where]
    with monkeypatch.context() as patched:
        patched.setattr(seeing_anew, "AT_ONCE", 16)
        module, _, name = place[0].rpartition(".")
        owner = pkgutil.resolve_name(module)
        real, calls = getattr(owner, name), []

        def sometimes(*arguments, **options):
            calls.append(1)
            return (full if len(calls) == place[1] else real)(*arguments, **options)

        patched.setattr(owner, name, sometimes)
        with pytest.raises(VaultFullError):
            migrate(vault, NEW, key=key)
    with opened(vault, OLD, key) as memory:
        assert memory.verify().ok
        assert memory.stats().migration.phase == "half-way"
        assert not (vault / "previous").exists()
    assert contents(vault, key) == before
    report = migrate(vault, NEW, key=key)
    assert (report.items, [one.id for one in report.left]) == (39, [3])


def test_a_damaged_next_ledger_is_named_and_the_memory_is_not_lost(vault, key, monkeypatch):
    half_way(vault, key, monkeypatch)
    (vault / "next" / "ledger.sqlite").write_bytes(b"no ledger" * 1000)
    with pytest.raises(VaultFormatError, match=r"or remove .*next, which holds nothing but"):
        migrate(vault, NEW, key=key)
    shutil.rmtree(vault / "next")
    assert migrate(vault, NEW, key=key).items == 40


def test_a_purge_names_the_ledger_that_is_damaged(vault, key, monkeypatch, caplog):
    half_way(vault, key, monkeypatch)
    path = vault / "next" / "ledger.sqlite"
    held = Vault(vault, key=key)
    data = path.read_bytes()
    path.write_bytes(data[:8192] + b"\0" * (len(data) - 8192))
    assert not held.purge()
    held.close()
    assert f"{path} is damaged" in caplog.text


def test_a_key_given_with_an_open_memory_is_refused(vault, key):
    with opened(vault, OLD, key) as memory, pytest.raises(InputError, match="leave it out"):
        migrate(memory, NEW, key="keystore")


def test_a_purge_leaves_no_key_to_older_copies_of_any_ledger(
    vault, photos, key, monkeypatch, tmp_path
):
    if key is None:
        pytest.skip("of sealed memories")
    half_way(vault, key, monkeypatch)
    shutil.copytree(vault, tmp_path / "copy")
    with opened(vault, OLD, key) as memory:
        memory.delete([16])
        (epoch,) = {ledger.seal.epoch for ledger in memory._vault._ledgers()}
    for folder in (tmp_path / "copy", tmp_path / "copy" / "next"):
        with pytest.raises(VaultKeyError, match="does not open it"):
            Vault(folder, read_only=True, key=key)
    migrate(vault, NEW, key=key)
    with opened(vault, NEW, key) as memory:
        assert memory._vault.seal.epoch != epoch


# ---- beside sharing and revoking


def shared_with(tmp_path, eyes, records, to):
    """A bundle of these records, from a memory of `eyes`; and that memory's address."""
    with VisualMemory(tmp_path / "sender", embedder=eyes) as sender:
        sender._vault.add(records)
        procmem.share_items(sender, tmp_path / "b.bundle", to=to)
        return tmp_path / "b.bundle", procmem.vault_address(sender)


def retold(memory, id_):
    """The record of an item with another label, taught later."""
    (record,) = memory._vault.records([id_])
    item = dataclasses.replace(record.item, label="told anew", added_seconds=SECONDS + 9)
    return dataclasses.replace(record, item=item)


def test_what_a_bundle_replaces_half_way_is_gone_from_both_ledgers(
    vault, photos, key, monkeypatch, tmp_path
):
    half_way(vault, key, monkeypatch)
    id_ = 16  # with a mask, embedded by both models
    secret = [
        value
        for eyes in (OLD, NEW)
        for value in values_under(eyes, photos[id_], id_)
        if value not in [str(path).encode() for path in photos.values()] and len(value) < 200
    ][:1]
    with opened(vault, OLD, key) as memory:
        bundle, sender = shared_with(
            tmp_path, OLD, [retold(memory, id_)], procmem.vault_address(memory)
        )
        assert id_ in memory._vault.open_beside["next"].ids()
        report = procmem.receive_items(memory, bundle, trust=sender)
        assert (report.replaced, report.purged) == ((id_,), True)
        assert id_ not in memory._vault.open_beside["next"].ids()
        assert memory.verify().ok
        new = NEW.embed(photos[id_].read_bytes()).cls[0].astype("<f2").tobytes()
        entitled = memory._vault.entitled
        assert scan_folder(vault, [new], entitled=entitled).windows_found == 0
        assert secret
    migrate(vault, NEW, key=key)
    with opened(vault, NEW, key) as memory:
        (item,) = memory._vault.items([id_])
        assert (item.label, len(memory)) == ("told anew", 40)


def test_a_bundle_brings_what_was_left_behind_under_the_new_model(
    vault, spoiled, photos, key, tmp_path
):
    migrate(vault, NEW, key=key, old_model=OLD)
    with opened(vault, NEW, key) as memory:
        left = memory._vault.open_beside["previous"].ids()
        id_ = left[0]
        vector = NEW.embed(photo(tmp_path, id_).read_bytes()).cls[0].astype(np.float16)
        record = Record(Item(id_, "brought", None, SECONDS + 1), vector)
        bundle, sender = shared_with(tmp_path, NEW, [record], procmem.vault_address(memory))
        report = procmem.receive_items(memory, bundle, trust=sender)
        assert (report.replaced, report.purged) == ((id_,), True)
        assert memory._vault.open_beside["previous"].ids() == left[1:]
        assert [item.label for item in memory._vault.items([id_])] == ["brought"]
        assert memory.verify().ok


def test_a_revocation_reaches_what_was_left_behind(vault, spoiled, photos, key, tmp_path):
    migrate(vault, NEW, key=key, old_model=OLD)
    with opened(vault, NEW, key) as memory:
        left = memory._vault.open_beside["previous"].ids()
        with VisualMemory(tmp_path / "peer", embedder=NEW) as peer:
            vector = np.full(56, 56**-0.5, dtype=np.float16)
            peer._vault.add([Record(Item(left[0], None, None, SECONDS), vector)])
            procmem.revoke(peer, tmp_path / "list.json", left[0])
            trust = procmem.vault_address(peer)
        report = procmem.apply_revocations(memory, tmp_path / "list.json", trust=trust)
        assert report.erasure.erased_ids == (left[0],)
        assert report.erasure.windows_found == 0
        assert memory._vault.open_beside["previous"].ids() == left[1:]
    before = contents(vault, key)
    migrate(vault, NEW, key=key, old_model=OLD)  # its photo is still there, and it stays away
    assert left[0] not in contents(vault, key)
    assert contents(vault, key).keys() == before.keys()
