"""Damaged vaults, receipts and models: harmless, or noticed; never a crash, never wrong in silence.

Every file of a vault, a receipt of a deletion, and a model with its manifest are damaged at
random (`damage.py`) and opened in a child with a limit of time and memory. What opens must hold and
answer what was stored, or say that it does not; what is noticed must not have cost the ledger.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import shutil
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from tests.stress import toy
from tests.stress.damage import Form, damage, damage_json
from tests.stress.worker import Say, Worker, bound

from procmem.connection import Connection
from procmem.errors import ProcmemError
from procmem.ledger import PAGE_BYTES
from procmem.manifest import sha256_of_bytes
from procmem.memory import VisualMemory
from procmem.receipt import write_receipt
from procmem.vault import Vault

QUERIES = (1, 17, 5003)
SECONDS, MEGABYTES = 3, 1024
LEDGER, JOURNAL = "ledger.sqlite", "ledger.sqlite-journal"


def _pages(data: bytes) -> range:
    return range(0, len(data), PAGE_BYTES)


def _records(data: bytes) -> range:
    # A journal's header fills a sector; then come page number, page and checksum.
    return range(0, len(data), 512) if len(data) < 512 else range(512, len(data), PAGE_BYTES + 8)


PAGED = Form(PAGE_BYTES, _pages, 100)
JOURNALED = Form(PAGE_BYTES + 8, lambda data: [0, *_records(data)], 32)
PLAIN = Form()


# ---- in the child


def state_of(memory: VisualMemory) -> list[str]:
    """What a memory holds and answers, as a hash, and the public key of its receipts."""
    items = list(memory.items())
    contents = memory._vault.load()
    answers = [memory.neighbors(toy.picture(id_), k=10) for id_ in QUERIES]
    answer = memory.classify(toy.picture(QUERIES[0]))
    patches, masks = memory._vault.load_dense()
    held = (items, tuple(contents.items), answers, answer, memory._vault.ids(dense=True))
    parts = [repr(held).encode(), contents.vectors.tobytes(), patches.tobytes(), masks.tobytes()]
    return [hashlib.sha256(b"".join(parts)).hexdigest(), memory.stats().receipt_key or ""]


@contextlib.contextmanager
def reporting(say: Say) -> Iterator[None]:
    """Says ("refused", error) or ("foreign", traceback) if the block raises."""
    try:
        yield
    except ProcmemError as error:
        say("refused", f"{type(error).__name__}: {error!s:.300}")
    except Exception:  # told to the parent, for which it is the end
        say("foreign", traceback.format_exc()[-3000:])


def examine_vault(say: Say, folder: str, read_only: bool) -> None:
    """Opens a vault. Says ("state", ...), ("problems", ...), and how it goes on with it."""
    bound(seconds=SECONDS, megabytes=MEGABYTES)
    with (
        reporting(say),
        toy.hasty(),
        VisualMemory(folder, embedder=toy.EMBEDDER, read_only=read_only) as memory,
    ):
        say("state", state_of(memory))
        problems = memory.verify().problems
        say("problems", problems)
        if read_only or problems:
            return
        held = {item.id for item in memory.items()}
        new = [6001, 6006, 6011]
        memory.add([toy.picture(id_) for id_ in new], "new", ids=new)
        gone = {6006, *sorted(held)[:2]}
        report = memory.delete(gone)
        left = {item.id for item in memory.items()}
        receipt = None if report.receipt is None else report.receipt.public_key.hex()
        say(
            "went on",
            left == (held | set(new)) - gone and report.purged and not report.windows_found,
            memory.verify().problems,
            receipt,
        )


def examine_receipt(say: Say, file: str, key: str) -> None:
    """Checks a receipt as a person would. Says ("exit", code, output)."""
    from click.testing import CliRunner

    from procmem.cli import main

    bound(seconds=SECONDS, megabytes=MEGABYTES)
    with reporting(say):
        arguments = ["verify", "--receipt", file, "--key", key]
        result = CliRunner().invoke(main, arguments, catch_exceptions=False)
        say("exit", result.exit_code, result.output[-300:])


def examine_model(say: Say, file: str) -> None:
    """Opens a model and asks it. Says ("state", hash of the embedding)."""
    from procmem.embedder import Embedder

    bound(seconds=SECONDS, megabytes=MEGABYTES)
    with reporting(say), Embedder(Path(file), device="cpu", threads=1) as embedder:
        seen = embedder.embed(toy.picture(1))
        digest = hashlib.sha256(seen.cls.tobytes() + seen.patches.tobytes()).hexdigest()
        say("state", [digest, embedder.sha256])


# ---- what is damaged


@dataclass(frozen=True)
class Seed:
    """Valid files, one of which is to be damaged.

    Attributes:
        kind: "vault", "receipt" or "model".
        name: for figures and messages.
        files: by name.
        target: the one that is damaged.
        other: the same file of another vault, receipt or model.
        form: of it.
    """

    kind: str
    name: str
    files: dict[str, bytes]
    target: str
    other: bytes
    form: Form = PLAIN


def make_vault(folder: Path, ids: range, *, worn: bool) -> tuple[dict[str, bytes], list[bytes]]:
    """A vault's files, and receipts of deletions in it; if `worn`, with deleted rows in its pages.

    Its key is a function of the folder's name, so that a run can be repeated.
    """
    chance = random.Random(folder.name)
    receipts = []
    with mock.patch("procmem.key.secrets.token_bytes", chance.randbytes):
        memory = VisualMemory(folder, embedder=toy.EMBEDDER, purge_limit=0 if worn else 1000)
    with memory:
        memory._vault.add(toy.record(id_) for id_ in ids)
        for gone in (ids[3:4], ids[5:9], ids[20 : 60 if worn else 21]):
            receipt = memory.delete(gone).receipt
            if receipt is not None:
                write_receipt(receipt, folder.with_suffix(".receipt"))
                receipts.append(folder.with_suffix(".receipt").read_bytes())
    return toy.files(folder), receipts


def make_torn(folder: Path, files: dict[str, bytes]) -> dict[str, bytes]:
    """A vault whose writer died in mid-transaction: the ledger changed, the way back beside it."""
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    connect = Connection._connect
    torn: list[dict[str, bytes]] = []

    def connect_cramped(opened: Connection) -> Any:
        connection = connect(opened)
        connection.execute("PRAGMA cache_size=1")  # changed pages must leave for the disk
        return connection

    def records() -> Iterator[Any]:
        yield from (toy.record(id_) for id_ in range(2, 600, 2))
        torn.append(toy.files(folder))

    cramped = mock.patch.object(Connection, "_connect", connect_cramped)
    with cramped, contextlib.closing(Vault(folder)) as vault:
        vault.add(records())
    assert torn[0][LEDGER] != files[LEDGER]
    assert torn[0][JOURNAL]
    return torn[0]


def make_seeds(folder: Path) -> list[Seed]:
    """All that is damaged; a seed that stands here twice is so twice as often."""
    with toy.hasty():
        small, small_receipts = make_vault(folder / "small", range(1, 60, 2), worn=False)
        worn, _ = make_vault(folder / "worn", range(1, 240, 2), worn=True)
        other, other_receipts = make_vault(folder / "other", range(1, 300, 2), worn=False)
        settled = {name: data for name, data in worn.items() if name != "PURGE_PENDING"}
        assert settled != worn
        torn = make_torn(folder / "torn", settled)
    ledger = other[LEDGER]
    seeds = [
        *[Seed("vault", "ledger", small, LEDGER, ledger, PAGED)] * 4,
        *[Seed("vault", "worn ledger", settled, LEDGER, ledger, PAGED)] * 4,
        *[Seed("vault", "ledger to purge", worn, LEDGER, ledger, PAGED)] * 2,
        *[Seed("vault", "ledger with hot journal", torn, LEDGER, ledger, PAGED)] * 2,
        *[Seed("vault", "hot journal", torn, JOURNAL, torn[LEDGER], JOURNALED)] * 2,
        Seed("vault", "key", small, "KEY", other["KEY"]),
        Seed("vault", "lock", {**small, "LOCK": b"4711"}, "LOCK", b"999999"),
        Seed("vault", "mark", {**small, "PURGE_PENDING": b"0"}, "PURGE_PENDING", b"1"),
    ]
    for name in ("ledger.sqlite.tmp", "ledger.sqlite.retired", "ledger.sqlite.tmp-journal"):
        left = {**small, name: worn[LEDGER]}
        seeds.append(Seed("vault", "left-overs", left, name, ledger, PAGED))
    seeds.append(
        Seed("vault", "left-overs", {**small, "KEY.tmp": other["KEY"]}, "KEY.tmp", small["KEY"])
    )
    for at, receipt in enumerate(small_receipts):
        files = {"receipt.json": receipt}
        spliced = other_receipts[at]
        seeds.append(Seed("receipt", "receipt", files, "receipt.json", spliced, Form(64)))
    return seeds + make_models(folder)


def make_models(folder: Path) -> list[Seed]:
    """A model of a few kilobytes: its file, its manifest, and its file under a fitting manifest."""
    from tests.tiny_model import write_tiny_model

    one, two = folder / "one", folder / "two"
    for path, seed in ((one, 0), (two, 1)):
        path.mkdir()
        write_tiny_model(path, name="model", seed=seed)
    files, other = toy.files(one), toy.files(two)
    form = Form(64, lambda data: (0, len(data) - 600), 600)
    return [
        Seed("model", "model", files, "model.onnx", other["model.onnx"], form),
        Seed("model", "pinned model", files, "model.onnx", other["model.onnx"], form),
        *[Seed("model", "manifest", files, "model.json", other["model.json"], Form(64))] * 2,
    ]


# ---- in the parent


class Examiner:
    """Puts files into a folder and has a child open them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stack = contextlib.ExitStack()
        modules = {
            "vault": (
                "tests.stress.mutations",
                "cryptography.hazmat.primitives.asymmetric.ed25519",
            ),
            "receipt": ("tests.stress.mutations", "procmem.cli", "click.testing"),
            "model": ("tests.stress.mutations", "procmem.backends.onnxruntime", "onnxruntime"),
        }
        self._workers = {
            kind: self._stack.enter_context(Worker(modules=names))
            for kind, names in modules.items()
        }

    def __enter__(self) -> Examiner:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def examine(self, kind: str, files: dict[str, bytes], **arguments: Any) -> dict[str, Any]:
        """What the child said, by first word; it must have come to its end by itself."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        for name, data in files.items():
            (self.folder / name).write_bytes(data)
        if kind == "vault":
            arguments["folder"] = self.folder
        else:
            name = "receipt.json" if kind == "receipt" else "model.onnx"
            arguments["file"] = self.folder / name
        lines, status = self._workers[kind].run(f"mutations.examine_{kind}", **arguments)
        assert status == 0, f"the child ended with status {status}, having said {lines}"
        said = {words[0]: words[1:] for words in lines}
        assert "foreign" not in said, said["foreign"][0]
        return said


def judge_vault(said: dict[str, Any], expected: dict[str, Any], rewritten: bool) -> str:
    """ "harmless" or "detected" and how; AssertionError if it is neither."""
    (state, key), (wanted, wanted_key) = said.get("state", [["", ""]])[0], expected["state"][0]
    problems = said.get("problems", [[]])[0]
    wrong = "state" in said and state != wanted
    if "refused" in said or problems:
        assert "went on" not in said, f"it went on, then {said}"
        assert not rewritten, "what was damaged has been written anew"
        return "wrong until verified" if wrong and problems else "detected"
    assert not wrong, "silent: other items or answers, and no word of it"
    assert key in (wanted_key, ""), "silent: another key"
    if "went on" in said:
        right, problems, receipt_key = said["went on"]
        assert right, "it did not go on as it should"
        assert not problems, f"after it went on: {problems}"
        assert (receipt_key or "") == key
    return "harmless" if key else "detected"


def run_mutations(folder: Path, *, count: int, seed: int = 0) -> dict[str, int]:
    """Damages `count` files and has each opened.

    Returns:
        Figures: how many were opened, and what became of them, by kind.
    """
    figures: Counter[str] = Counter()
    (folder / "seeds").mkdir()
    seeds = make_seeds(folder / "seeds")
    public_key = json.loads(next(s for s in seeds if s.kind == "receipt").files["receipt.json"])
    key = {"key": public_key["public_key"]}
    with Examiner(folder / "case") as examiner:

        def examine(one: Seed, files: dict[str, bytes], read_only: bool) -> dict[str, Any]:
            more = {"vault": {"read_only": read_only}, "receipt": key, "model": {}}[one.kind]
            return examiner.examine(one.kind, files, **more)

        expected = {}
        for one in seeds:
            said = expected[one.name, one.target] = examine(one, one.files, read_only=False)
            assert "refused" not in said, said
            assert "went on" in said or one.kind != "vault", said

        for at in range(count):
            chance = random.Random(f"{seed} {at}")
            one = chance.choice(seeds)
            name, what, files = spoil(one, chance)
            read_only = chance.random() < 0.3
            figures["files"] += 1
            try:
                said = examine(one, files, read_only)
                wanted = expected[one.name, one.target]
                if one.kind == "vault":
                    after = (folder / "case" / LEDGER).read_bytes()
                    rewritten = after != files[LEDGER] and JOURNAL not in files
                    outcome = judge_vault(said, wanted, rewritten)
                elif one.kind == "receipt":
                    assert said["exit"][0] != 0, "silent: a receipt that was changed is held true"
                    assert said["exit"][0] == 1, said
                    outcome = "detected"
                else:
                    outcome = "detected"
                    if "refused" not in said:
                        same = said["state"] == wanted["state"]
                        assert same or name == "pinned model", "silent: another embedding"
                        outcome = "harmless" if same else "run as it is pinned"
            except AssertionError as error:
                message = f"seed {seed}, file {at}: {name}, {what}, read_only {read_only}: {error}"
                raise AssertionError(message) from error
            figures[f"{name} {outcome}"] += 1
    return dict(sorted(figures.items()))


def spoil(one: Seed, chance: random.Random) -> tuple[str, str, dict[str, bytes]]:
    """A seed's name, what was done to it, and its files with one damaged."""
    files = dict(one.files)
    if one.target.endswith(".json") and chance.random() < 0.5:
        what, damaged = damage_json(files[one.target], chance)
        if one.kind == "receipt":
            text = json.dumps(json.loads(damaged), sort_keys=True, separators=(",", ":"))
            damaged = (text + "\n").encode()
    else:
        what, damaged = damage(files[one.target], one.other, one.form, chance)
    files[one.target] = damaged
    if one.name == "pinned model":
        fields = json.loads(files["model.json"])
        files["model.json"] = json.dumps({**fields, "sha256": sha256_of_bytes(damaged)}).encode()
    return one.name, what, files
