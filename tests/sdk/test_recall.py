"""What is searched is what the vault holds, however a call of the same object came to its end."""

from __future__ import annotations

import gc
import itertools
import shutil
import sys
from pathlib import Path

import pytest
from tests.toy_embedder import EMBEDDER, a_mask, picture

import procmem
from procmem import (
    VaultError,
    VisualMemory,
    export_items,
    import_items,
    receive_items,
    share_items,
    vault_address,
)

PICTURES = [picture(seed) for seed in range(8)]
SOURCES = Path(procmem.__file__).parent
# Where an interrupt can leave something between the ledger and what is searched.
STEPS = {f"{name}.py" for name in ("connection", "recall", "index", "columns", "rowbuffer")}
EVERY = 1  # of their lines is interrupted


def opened(path, **options):
    return VisualMemory(path, embedder=EMBEDDER, **options)


def answers(memory):
    # All items are neighbors: two pictures compare every row.
    seen = [
        [(one.id, one.label, one.similarity) for one in memory.neighbors(p, 99)]
        for p in PICTURES[:2]
    ]
    return seen, memory.classify(PICTURES[1]).votes, memory.segment(PICTURES[0]).mask.tolist()


def check_answers(memory):
    """As those of an object that has just read the vault."""
    with opened(memory.path, read_only=True) as reader:
        assert answers(memory) == answers(reader)


@pytest.fixture
def taught(tmp_path):
    """The folder of a vault with six items, two of them with masks."""
    with opened(tmp_path / "taught") as memory:
        masks = [a_mask(1), None, None, a_mask(2), None, None]
        labels = ["a", "a", "b", "b", None, "c" * 40]
        memory.add(PICTURES[:6], labels, ids=[10, 20, 30, 40, 50, 60], masks=masks)
    return tmp_path / "taught"


@pytest.fixture
def others(tmp_path):
    """An export of five more items, and a bundle for whoever is named."""
    with opened(tmp_path / "others") as memory:
        memory.add(PICTURES[3:], "other", ids=range(101, 106), masks=[a_mask(3), *[None] * 4])
        export_items(memory, tmp_path / "items.safetensors")
    return tmp_path / "items.safetensors"


# ---- several changes by one object


@pytest.mark.parametrize("then", ["add", "add with a mask", "delete", "delete what came"])
def test_what_was_imported_is_found_after_the_next_change_too(taught, others, then):
    with opened(taught) as memory:
        answers(memory)
        import_items(memory, others)
        if then.startswith("add"):
            memory.add(picture(9), "new", masks=a_mask(4) if "mask" in then else None)
        else:
            memory.delete(10 if then == "delete" else 101)
        check_answers(memory)


def test_what_was_imported_is_forgotten_by_likeness_after_the_next_change(taught, others):
    with opened(taught) as memory:
        memory.neighbors(PICTURES[0])
        import_items(memory, others)
        memory.add(picture(9), "new")
        assert set(memory.delete(similar_to=PICTURES[7]).erased_ids) == {105}


def test_an_add_that_fails_leaves_rows_that_are_not_read_again(taught, monkeypatch):
    with opened(taught) as memory:
        answers(memory)
        rows = memory._recall.index()
        with pytest.raises(procmem.InputError, match="in use"):
            memory.add(PICTURES[6], ids=[10])
        with monkeypatch.context() as patched:
            patched.setattr(memory._vault, "insert", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                memory.add(PICTURES[6])
        assert memory._recall.index() is rows
        check_answers(memory)


# ---- Ctrl-C


class Interrupt:
    """Raises KeyboardInterrupt before the n-th line of `STEPS`, once.

    Attributes:
        at: the file and line where it did.
    """

    def __init__(self, number):
        self.left, self.at = number, None

    def __enter__(self):
        self.before = sys.gettrace()
        sys.settrace(self._enter)
        return self

    def __exit__(self, *_):
        sys.settrace(self.before)

    def _enter(self, frame, *_):
        path = Path(frame.f_code.co_filename)
        return self._line if path.parent == SOURCES and path.name in STEPS else None

    def _line(self, frame, event, _):
        if event == "line" and self.at is None:
            self.left -= 1
            if self.left == 0:
                self.at = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
                raise KeyboardInterrupt
        return self._line


def delete(memory):
    memory.delete(30)


def delete_a_mask(memory):
    memory.delete(10)


def add(memory):
    memory.add(PICTURES[6:], "new", ids=[25, 35], masks=[None, a_mask(5)])


# What was interrupted between opening a database and keeping it leaves that to the collector.
@pytest.mark.filterwarnings("ignore:unclosed database:ResourceWarning")
@pytest.mark.parametrize("first", [delete, delete_a_mask, add])
def test_an_interrupted_change_and_one_more_leave_the_answers_of_the_vault(taught, first):
    """A notebook goes on with the object whose call was interrupted."""
    trials = 0
    for number in itertools.count(1, EVERY):
        path = taught.with_name("copy")
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(taught, path)
        with opened(path) as memory:
            answers(memory)
            interrupt = Interrupt(number)
            try:
                with interrupt:
                    first(memory)
            except KeyboardInterrupt:
                trials += 1
            if interrupt.at is None:
                break
            try:
                memory.delete(50)
                check_answers(memory)
                memory.add(picture(9), "new", ids=[70])
                check_answers(memory)
            except Exception as error:
                pytest.fail(f"interrupted at {interrupt.at}: {error!r}")
        with opened(path) as memory:
            assert memory.verify().ok, interrupt.at
            assert not memory.stats().purge_pending
    gc.collect()
    assert trials > 20


# ---- calls from within calls


def changes(memory):
    memory.delete(10)


def adds(memory):
    memory.add(picture(9))


def asks(memory):
    memory.neighbors(PICTURES[0])


@pytest.mark.parametrize("call", [changes, adds, asks])
@pytest.mark.parametrize("way", ["import", "receive"])
def test_a_call_from_progress_is_refused_and_the_outer_one_goes_on(
    taught, others, tmp_path, call, way
):
    refused = []

    def progress(done, _):
        if done == 5:
            with pytest.raises(VaultError, match="in the middle of another call"):
                call(memory)
            refused.append(done)
        assert len(memory) >= 6  # what changes and reads nothing in passing is answered

    with opened(taught) as memory:
        if way == "import":
            import_items(memory, others, progress=progress)
        else:
            with opened(tmp_path / "others") as sender:
                share_items(sender, tmp_path / "bundle", to=vault_address(memory))
                trust = vault_address(sender)
            receive_items(memory, tmp_path / "bundle", trust=trust, progress=progress)
        assert refused == [5]
        assert len(memory) == 11
        check_answers(memory)
        memory.delete(101)
        check_answers(memory)


@pytest.mark.parametrize("call", [changes, asks])
def test_a_call_from_progress_that_is_not_caught_undoes_the_outer_one(taught, others, call):
    with opened(taught) as memory:
        with pytest.raises(VaultError, match="in the middle of another call"):
            import_items(memory, others, progress=lambda *_: call(memory))
        assert len(memory) == 6
        check_answers(memory)
        assert len(import_items(memory, others)) == 5
        check_answers(memory)
