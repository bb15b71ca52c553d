"""Exports and imports: the same memory at the other end, or an error and nothing changed."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import stat
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.sdk.test_reasons import CLS, GRID, SIDE, WIDTH, Model, image

from procmem import exchange, newfile
from procmem.errors import (
    EmbedderMismatchError,
    ExchangeFormatError,
    InputError,
    ItemNotFoundError,
    MissingExtraError,
    ProcmemError,
    VaultClosedError,
    VaultError,
    VaultReadOnlyError,
)
from procmem.exchange import export_items, import_items
from procmem.memory import VisualMemory
from procmem.record import Item, Record
from procmem.revocation import revoke

FORMS = [".parquet", ".safetensors"]

pq = pytest.importorskip("pyarrow.parquet", reason="needs pip install 'procmem[parquet]'")
pa = pytest.importorskip("pyarrow", reason="needs pip install 'procmem[parquet]'")


@pytest.fixture(params=FORMS)
def form(request):
    return request.param


@pytest.fixture
def memory(tmp_path):
    """Items with and without label, source and mask, and texts that are hard to write down."""
    with VisualMemory(tmp_path / "vault", embedder=Model()) as opened:
        labels = ["cat", None, "Ä\u2028\U0001f600", 'quo"te\n', "\ud800", "\ud83d\ude00"]
        sources = ["/a.jpg", None, "/b\udcff.jpg", "/c", "C:\\d", "/e"]
        masks = [None, np.eye(8), None, None, np.full((8, 8), 255), None]
        opened.add(
            [image(number) for number in range(6)],
            labels,
            sources=sources,
            masks=[None if mask is None else mask.astype(np.uint8) for mask in masks],
            ids=[5, 2**63 - 1, 1, 77, 2**53 + 1, 3],
        )
        yield opened


@pytest.fixture
def other(tmp_path):
    with VisualMemory(tmp_path / "other", embedder=Model()) as opened:
        yield opened


def contents(memory):
    return [
        (
            record.item,
            record.vector.tobytes(),
            None if record.patches is None else (record.patches.tobytes(), record.mask.tobytes()),
        )
        for record in memory._vault.records(memory._vault.ids())
    ]


def ledger(memory):
    return (memory.path / "ledger.sqlite").read_bytes()


def test_a_round_trip_gives_a_byte_identical_ledger(memory, other, tmp_path, form):
    file = tmp_path / f"items{form}"
    calls = []

    assert export_items(memory, file, progress=lambda *at: calls.append(at)) == 6
    ids = import_items(other, file, progress=lambda *at: calls.append(at))

    assert calls == [(6, 6), (6, 6)]
    assert ids == sorted(memory._vault.ids())
    assert contents(other) == contents(memory)
    assert memory._vault.purge()
    assert other._vault.purge()
    assert ledger(other) == ledger(memory)


def test_an_imported_memory_answers_at_once(memory, other, tmp_path, form):
    other.add(image(50), "old", ids=999)
    assert other.classify(image(0)).label == "old"  # the index is made before the import
    export_items(memory, tmp_path / f"items{form}")

    import_items(other, tmp_path / f"items{form}")

    assert other.neighbors(image(0), 1) == memory.neighbors(image(0), 1)
    assert len(other) == 7


@pytest.mark.parametrize("size", [1, 2, 5])
def test_batches_of_any_size_give_the_same(memory, other, tmp_path, form, size, monkeypatch):
    monkeypatch.setattr(exchange, "_MAX_RECORDS_AT_ONCE", size)
    export_items(memory, tmp_path / f"items{form}")
    monkeypatch.setattr(exchange, "_MAX_RECORDS_AT_ONCE", 3)
    import_items(other, tmp_path / f"items{form}")
    assert contents(other) == contents(memory)


def test_an_empty_memory_can_be_exported_and_imported(other, tmp_path, form):
    assert export_items(other, tmp_path / f"items{form}") == 0
    assert import_items(other, tmp_path / f"items{form}") == []


def test_only_the_chosen_items_are_exported(memory, other, tmp_path, form):
    assert export_items(memory, tmp_path / f"items{form}", ids=[77, np.int64(5), 5]) == 2
    assert import_items(other, tmp_path / f"items{form}") == [5, 77]


def test_a_memory_that_is_only_read_can_be_exported(memory, tmp_path, form):
    with VisualMemory(memory.path, read_only=True) as reader:
        export_items(reader, tmp_path / f"items{form}")
        with pytest.raises(VaultReadOnlyError):
            import_items(reader, tmp_path / f"items{form}")


def test_an_import_into_a_read_only_or_closed_memory_is_refused(memory, tmp_path, form):
    memory.close()
    with pytest.raises(VaultClosedError):
        export_items(memory, tmp_path / f"items{form}")
    with pytest.raises(VaultClosedError):
        import_items(memory, tmp_path / f"items{form}")


def test_equal_memories_give_equal_files(memory, other, tmp_path, form):
    export_items(memory, tmp_path / f"first{form}")
    import_items(other, tmp_path / f"first{form}")
    export_items(other, tmp_path / f"second{form}")
    assert (tmp_path / f"first{form}").read_bytes() == (tmp_path / f"second{form}").read_bytes()


# ---- the files are ordinary


def test_the_safetensors_library_reads_the_export(memory, tmp_path):
    safetensors = pytest.importorskip("safetensors", reason="needs pip install safetensors")
    export_items(memory, tmp_path / "items.safetensors")

    with safetensors.safe_open(tmp_path / "items.safetensors", "numpy") as file:
        metadata = file.metadata()
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no dict

    assert metadata["model_sha256"] == memory.stats().embedder_sha256
    assert np.array_equal(arrays["vector"], memory._vault.load().vectors)
    patches, masks = memory._vault.load_dense()
    assert np.array_equal(arrays["patches"], patches)
    assert np.array_equal(arrays["mask"], masks)
    assert arrays["id"][arrays["dense_row"]].tolist() == memory._vault.ids(dense=True)
    texts = [json.loads(line) for line in arrays["text"].tobytes().splitlines()]
    assert texts[2] == ["cat", "/a.jpg"]


def test_pyarrow_reads_the_export_as_a_table(memory, tmp_path):
    export_items(memory, tmp_path / "items.parquet")

    table = pq.read_table(tmp_path / "items.parquet")

    assert table.column("id").to_pylist() == memory._vault.ids()
    assert table.column("label").to_pylist()[2] == "cat"
    vectors = np.array(table.column("vector").to_pylist(), dtype=np.float16)
    assert np.array_equal(vectors, memory._vault.load().vectors)


# ---- writing


def test_an_export_is_readable_by_its_owner_only(memory, tmp_path, form):
    previous = os.umask(0)
    try:
        export_items(memory, tmp_path / f"items{form}")
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / f"items{form}").stat().st_mode) == 0o600


def test_an_export_never_replaces_a_file(memory, tmp_path, form):
    file = tmp_path / f"items{form}"
    file.write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        export_items(memory, file)
    assert file.read_text() == "mine"


def test_a_file_that_appears_in_the_meantime_is_kept(memory, tmp_path, form):
    file = tmp_path / f"items{form}"
    with pytest.raises(InputError, match="cannot be written"):
        export_items(memory, file, progress=lambda *_: file.write_text("mine"))
    assert file.read_text() == "mine"


@pytest.mark.parametrize("named", [False, True])
def test_a_failed_export_leaves_nothing(memory, tmp_path, form, monkeypatch, named):
    if named:
        monkeypatch.setattr(newfile, "_unnamed", lambda folder: None)
    (tmp_path / "out").mkdir()

    def fail(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_items(memory, tmp_path / "out" / f"items{form}", progress=fail)
    assert list((tmp_path / "out").iterdir()) == []


def test_without_unnamed_files_the_export_is_the_same(memory, tmp_path, form, monkeypatch):
    export_items(memory, tmp_path / f"first{form}")
    monkeypatch.setattr(newfile, "_unnamed", lambda folder: None)
    left = tmp_path / f".second{form}.part"
    left.write_bytes(b"left by a process that was killed")

    export_items(memory, tmp_path / f"second{form}")

    assert (tmp_path / f"first{form}").read_bytes() == (tmp_path / f"second{form}").read_bytes()
    assert stat.S_IMODE((tmp_path / f"second{form}").stat().st_mode) == 0o600
    assert not left.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has files without a name")
def test_an_export_killed_in_the_middle_leaves_no_file(memory, tmp_path, form):
    (tmp_path / "out").mkdir()
    code = (
        "import os, signal, sys\n"
        "from procmem import VisualMemory, exchange\n"
        "exchange._MAX_RECORDS_AT_ONCE = 2\n"
        "def kill(done, total):\n"
        "    if done > 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "memory = VisualMemory(sys.argv[1], read_only=True)\n"
        "exchange.export_items(memory, sys.argv[2], progress=kill)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    words = [sys.executable, "-c", code, str(memory.path), str(tmp_path / "out" / f"items{form}")]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert list((tmp_path / "out").iterdir()) == []


def test_a_memory_that_changes_meanwhile_is_not_exported(memory, tmp_path, form):
    with pytest.raises(VaultError, match="export again"):
        export_items(memory, tmp_path / f"items{form}", progress=lambda *_: memory.delete(5))
    assert not (tmp_path / f"items{form}").exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("items.csv", "did you mean"),
        ("items", "ending"),
        ("missing/items.parquet", "folder that exists"),
        ("missing/items.safetensors", "folder that exists"),
        ("vault/items.safetensors", "own folder"),
        ("vault/deeper/items.parquet", "own folder"),
    ],
)
def test_a_place_that_cannot_be_is_told(memory, tmp_path, name, words):
    with pytest.raises(InputError, match=words):
        export_items(memory, tmp_path / name)


def test_ids_that_are_not_held_are_told(memory, tmp_path, form):
    with pytest.raises(ItemNotFoundError, match="id 6 "):
        export_items(memory, tmp_path / f"items{form}", ids=[5, 6])
    assert not (tmp_path / f"items{form}").exists()


def test_without_pyarrow_the_command_is_named(memory, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "procmem.exchange_parquet", raising=False)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'procmem\[parquet\]'"):
        export_items(memory, tmp_path / "items.parquet")
    assert not (tmp_path / "items.parquet").exists()
    (tmp_path / "items.parquet").write_bytes(b"")
    with pytest.raises(MissingExtraError):
        import_items(memory, tmp_path / "items.parquet")


# ---- reading what is not right


def test_another_models_export_is_refused(memory, tmp_path, form):
    model = Model()
    model.sha256 = "ef" * 32
    export_items(memory, tmp_path / f"items{form}")
    with VisualMemory(tmp_path / "third", embedder=model) as third:
        with pytest.raises(EmbedderMismatchError, match="ef" * 32):
            import_items(third, tmp_path / f"items{form}")
        assert len(third) == 0


def test_ids_in_use_are_refused_and_nothing_is_imported(memory, other, tmp_path, form):
    export_items(memory, tmp_path / f"items{form}")
    other.add(image(9), ids=2**63 - 1)  # the last one of the file
    before = ledger(other)
    with pytest.raises(InputError, match=f"id {2**63 - 1} .* in the memory already"):
        import_items(other, tmp_path / f"items{form}")
    assert ledger(other) == before


def test_a_revoked_id_is_refused_with_what_can_be_done(memory, other, tmp_path, form):
    export_items(memory, tmp_path / f"items{form}")
    other.add(image(9), ids=77)
    revoke(other, tmp_path / "list", 77)
    with pytest.raises(InputError, match=r"id 77 .* revoked .* delete it .* and export again"):
        import_items(other, tmp_path / f"items{form}")
    assert len(other) == 0
    memory.delete(77)
    export_items(memory, tmp_path / f"again{form}")
    assert len(import_items(other, tmp_path / f"again{form}")) == len(other) == 5


@pytest.mark.parametrize("data", [b"", b"PAR1", b"PAR1" * 9, b"\0" * 40, b"{}" * 20, b"words"])
def test_a_foreign_file_is_told(other, tmp_path, form, data):
    (tmp_path / f"items{form}").write_bytes(data)
    with pytest.raises(ExchangeFormatError, match="items"):
        import_items(other, tmp_path / f"items{form}")


def test_ordinary_files_of_the_same_kind_are_told_from_exports(other, tmp_path):
    pq.write_table(pa.table({"a": [1]}), tmp_path / "items.parquet")
    header = json.dumps({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}).encode()
    data = len(header).to_bytes(8, "little") + header + b"x"
    (tmp_path / "items.safetensors").write_bytes(data)
    for form in FORMS:
        with pytest.raises(ExchangeFormatError, match="not an export"):
            import_items(other, tmp_path / f"items{form}")


def test_no_file_and_no_regular_file_are_told(other, tmp_path, form):
    with pytest.raises(InputError, match="cannot be opened"):
        import_items(other, tmp_path / f"none{form}")
    (tmp_path / f"folder{form}").mkdir()
    with pytest.raises(InputError, match="not a file"):
        import_items(other, tmp_path / f"folder{form}")


def test_a_newer_format_is_told(memory, other, tmp_path, form, monkeypatch):
    monkeypatch.setattr(exchange, "EXCHANGE_VERSION", 2)
    export_items(memory, tmp_path / f"items{form}")
    monkeypatch.undo()
    with pytest.raises(ExchangeFormatError, match="upgrade procmem"):
        import_items(other, tmp_path / f"items{form}")


RIGHT = Record(
    Item(1, "label", "source", 5),
    np.eye(CLS, dtype=np.float16)[0],
    np.zeros((GRID * GRID, WIDTH), dtype=np.int8),
    np.zeros((SIDE, SIDE), dtype=np.uint8),
)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"vector": np.zeros(CLS, dtype=np.float16)}, "length 0"),
        ({"vector": np.full(CLS, np.inf, dtype=np.float16)}, "length inf"),
        ({"vector": np.full(CLS, np.nan, dtype=np.float16)}, "length nan"),
        ({"patches": np.full((GRID * GRID, WIDTH), -128, dtype=np.int8)}, "below -127"),
        ({"item": Item(0, None, None, 5)}, "id is 0"),
        ({"item": Item(-4, None, None, 5)}, "id is -4"),
        ({"item": Item(1, None, None, -1)}, "added_seconds"),
        ({"item": Item(1, "", None, 5)}, "label is empty"),
        ({"item": Item(1, None, "a\0b", 5)}, "null character"),
        ({"item": Item(1, "x" * 1001, None, 5)}, "1001 characters"),
    ],
)
def test_a_value_that_no_memory_holds_is_refused(
    memory, other, tmp_path, form, monkeypatch, change, words
):
    wrong = dataclasses.replace(RIGHT, **change)
    monkeypatch.setattr(memory._vault, "records", lambda ids: iter([wrong]))
    monkeypatch.setattr(memory._vault, "ids", lambda dense=False: [1])
    export_items(memory, tmp_path / f"items{form}")
    before = ledger(other)
    with pytest.raises(ExchangeFormatError, match=words):
        import_items(other, tmp_path / f"items{form}")
    assert ledger(other) == before


def test_an_id_that_stands_twice_is_refused(memory, other, tmp_path, form, monkeypatch):
    plain = dataclasses.replace(RIGHT, patches=None, mask=None)
    monkeypatch.setattr(memory._vault, "records", lambda ids: iter([plain, plain]))
    monkeypatch.setattr(memory._vault, "ids", lambda dense=False: [] if dense else [1, 1])
    export_items(memory, tmp_path / f"items{form}")
    with pytest.raises(ExchangeFormatError, match="twice"):
        import_items(other, tmp_path / f"items{form}")
    assert len(other) == 0


MANY = settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@MANY
@given(data=st.data())
def test_a_mutated_file_is_refused_or_gives_the_same(memory, other, tmp_path, form, data):
    file = tmp_path / f"items{form}"
    if not file.exists():
        export_items(memory, file)
    original = file.read_bytes()
    mutated = bytearray(original)
    # Headers and footers are short; half of the mutations go there.
    places = st.one_of(
        st.integers(0, len(original) - 1),
        st.integers(0, min(1500, len(original) - 1)),
        st.integers(max(0, len(original) - 3000), len(original) - 1),
    )
    for at in data.draw(st.lists(places, min_size=1, max_size=3)):
        mutated[at] ^= data.draw(st.integers(1, 255))
    if data.draw(st.integers(0, 3)) == 0:
        del mutated[data.draw(places) :]
    damaged = tmp_path / f"damaged{form}"
    damaged.write_bytes(mutated)
    before = ledger(other)
    try:
        import_items(other, damaged)
    except ProcmemError as error:
        told = str(error)
        assert str(damaged) in told
        assert ledger(other) == before
        assert len(other) == 0
    else:
        assert contents(other) == contents(memory)
        other.delete(other._vault.ids())
