"""A memory that goes over to another model while it dies, and while calls fail.

A worker goes through a whole migration: stopped half-way, items deleted and added in between, gone
on with, an item deleted of those that were left, the rest confirmed. It is killed at random moments
or made to fail at call number n (`faults.py`). What it left must be the state before or after the
step that was hit, without a window of what was deleted, and must end, gone on with, as the ledger
of a memory that was taught with the new model and never held anything else.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import random
import shutil
import tempfile
import time
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tests.stress import toy
from tests.stress.faults import MODES, build_shim
from tests.stress.worker import Worker

from procmem import seeing_anew
from procmem.errors import ProcmemError
from procmem.manifest import Manifest, Origin, Preprocessing
from procmem.memory import VisualMemory
from procmem.record import encode_text
from procmem.reembedding import confirm_migration, migrate
from procmem.residue import scan_folder
from procmem.types import Embedding
from procmem.vault import Vault

FIRST, GONE, LATER = tuple(range(1, 13)), (5, 6), (14,)


class Seer:
    """A `Perception` whose embedding is a function of the file's bytes and of its own number."""

    cls_dim, patch_dim, side = toy.CLS, toy.WIDTH, toy.SIDE

    def __init__(self, number: int) -> None:
        self.number, self.sha256 = number, f"{number:02x}" * 32
        self.manifest = Manifest(
            kind="onnx",
            name=f"seer-{number}",
            file=f"seer-{number}.onnx",
            sha256=self.sha256,
            architecture="toy",
            patch_size=toy.PATCH,
            cls_dim=toy.CLS,
            patch_dim=toy.WIDTH,
            preprocessing=Preprocessing(resize=toy.SIDE, crop=toy.SIDE),
            origin=Origin("none", 0, "", "0", 0, 0),
        )

    def embed(self, images: Any, *, view: str = "center") -> Embedding:  # noqa: ARG002  one view
        data = images if isinstance(images, bytes) else Path(images).read_bytes()
        chance = np.random.default_rng([self.number, zlib.crc32(data)])
        cls = chance.standard_normal((1, toy.CLS)).astype(np.float32)
        patches = chance.standard_normal((1, toy.GRID, toy.GRID, toy.WIDTH)).astype(np.float32)
        return Embedding(cls=cls / np.linalg.norm(cls), patches=patches)

    def close(self) -> None:
        pass


OLD, NEW = Seer(1), Seer(2)


def photo(photos: Path, id_: int) -> Path:
    """Where the image of an item lies."""
    return photos / f"a photograph of somebody, number {id_}.png"


def draw(photos: Path, ids: tuple[int, ...]) -> None:
    photos.mkdir(parents=True, exist_ok=True)
    for id_ in ids:
        Image.fromarray(toy.picture(id_)).save(photo(photos, id_))


def teach(memory: VisualMemory, photos: Path, ids: tuple[int, ...]) -> None:
    memory.add(
        [photo(photos, id_) for id_ in ids],
        [toy.label(id_) for id_ in ids],
        masks=[toy.mask(id_) if toy.has_mask(id_) else None for id_ in ids],
        ids=ids,
    )


def secrets(photos: Path, id_: int) -> list[bytes]:
    """The bytes of an item of which no window may stay, under either model."""
    values = [encode_text(toy.label(id_)), encode_text(str(photo(photos, id_)))]
    for seer in (OLD, NEW):
        values.append(seer.embed(photo(photos, id_)).cls[0].astype("<f2").tobytes())
    return [value for value in values if value is not None]


# ---- in the worker


def move(
    say: Any,
    folder: str,
    photos: str,
    key: str | None = None,
    shim: str | None = None,
    at: int = 0,
    mode: int = 0,
) -> None:
    """Goes through the steps of the module. Says ("begin", before, after), ("done",)."""
    at_once, seeing_anew.AT_ONCE = seeing_anew.AT_ONCE, 3
    library = None
    if shim is not None:
        library = ctypes.CDLL(shim)
        library.fault_calls.restype = ctypes.c_long
        around = folder if key is None else str(Path(folder).parent)
        library.fault_arm(around.encode(), ctypes.c_long(at), mode, b"")

    def stop(done: int, total: int | None) -> None:
        if done > 6:
            raise KeyboardInterrupt

    def interrupted() -> None:
        with contextlib.suppress(KeyboardInterrupt):
            migrate(folder, NEW, old_model=OLD, key=key, progress=stop)

    def under(seer: Seer, act: Any) -> None:
        with VisualMemory(folder, embedder=seer, key=key) as memory:
            act(memory)

    old, new = ("seer-1", "seer-2")
    first = set(FIRST)
    second = first - {2, 9}
    third = second | set(LATER)
    steps = [
        ((old, first, ()), interrupted),
        ((old, second, ()), lambda: under(OLD, lambda memory: memory.delete([2, 9]))),
        ((old, third, ()), lambda: under(OLD, lambda memory: teach(memory, Path(photos), LATER))),
        (
            (new, third - set(GONE), GONE),
            lambda: migrate(folder, NEW, old_model=OLD, key=key),
        ),
        (
            (new, third - {3, *GONE}, (6,)),
            lambda: under(NEW, lambda memory: memory.delete([3, 5])),
        ),
        ((new, third - {3, *GONE}, ()), lambda: confirm_migration(folder, key=key)),
    ]
    before = [old, sorted(first), []]
    say("ready")
    try:
        for (name, held, left), act in steps:
            after = [name, sorted(held), sorted(left)]
            say("begin", before, after)
            act()
            say("done")
            before = after
    except ProcmemError as error:
        say("raised", f"{type(error).__name__}: {error}")
    finally:
        seeing_anew.AT_ONCE = at_once
    if library is not None:
        say("calls", library.fault_calls())


# ---- in the parent


def prepare(place: Path, *, sealed: bool) -> dict[str, Path]:
    """A vault of the old model, whose images 5 and 6 then go away."""
    photos = place / "photos"
    draw(photos, (*FIRST, *LATER))
    places = {"folder": place / "v" / "vault", "photos": photos}
    (place / "v").mkdir()
    if sealed:
        places["key"] = place / "v" / "key"
    with VisualMemory(places["folder"], embedder=OLD, key=places.get("key")) as memory:
        teach(memory, photos, FIRST)
        assert memory._vault.purge()
    (place / "away").mkdir()
    for id_ in GONE:
        shutil.move(photo(photos, id_), photo(place / "away", id_))
    return places


@functools.cache
def fresh_ledger(photos: Path, ids: tuple[int, ...]) -> bytes:
    """Of a memory of the new model that never held anything else."""
    with tempfile.TemporaryDirectory() as folder:
        with VisualMemory(Path(folder) / "v", embedder=NEW) as memory:
            teach(memory, photos, ids)
            assert memory._vault.purge()
        return (Path(folder) / "v" / "ledger.sqlite").read_bytes()


def state_of(folder: Path, key: Path | None) -> list[Any]:
    """[model, ids of the vault's own items, ids that were left]."""
    vault = Vault(folder, key=key)
    try:
        assert vault.problems() == []
        assert not vault.purge_pending
        previous = vault.open_beside.get("previous")
        left = [] if previous is None else previous.ids()
        grown = vault.open_beside.get("next")
        if grown is not None:
            assert set(grown.ids()) <= set(vault.ids())
        return [vault.binding.name, vault.ids(), left]
    finally:
        vault.close()


def judge(lines: list[list[Any]], places: dict[str, Path]) -> str:
    """Checks what a worker said and left, and goes on to the end."""
    folder, photos, key = places["folder"], places["photos"], places.get("key")
    before: list[Any] = ["seer-1", list(FIRST), []]
    after, hit = before, "between steps"
    for words in lines:
        if words[0] == "begin":
            before, after, hit = words[1], words[2], "in a step"
        elif words[0] == "done":
            before, hit = after, "between steps"
    found = state_of(folder, key)
    assert found in (before, after), f"{found} is neither {before} nor {after}"
    everyone = {*FIRST, *(LATER if len(after[1]) and LATER[0] in after[1] else ())}
    for id_ in GONE:
        if not photo(photos, id_).exists():
            shutil.copy(photo(photos.parent / "away", id_), photo(photos, id_))
    gone = everyone.difference(found[1], found[2])
    values = [value for id_ in sorted(gone) for value in secrets(photos, id_)]
    vault = Vault(folder, key=key)
    scan = scan_folder(folder, values, entitled=vault.entitled)
    vault.close()
    assert scan.windows_found == 0, f"{scan.windows_found} windows of {sorted(gone)}"
    survivors = tuple(sorted({*found[1], *found[2]}))
    if found[0] == "seer-1" or found[2]:
        report = migrate(folder, NEW, old_model=OLD, key=key)
        assert report.left == ()
    assert state_of(folder, key) == ["seer-2", list(survivors), []]
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    assert names - {"KEY"} == {"LOCK", "ledger.sqlite"}, names
    if key is None:
        assert (folder / "ledger.sqlite").read_bytes() == fresh_ledger(photos, survivors)
    return hit if hit == "between steps" else f"left {'before' if found == before else 'after'}"


@contextlib.contextmanager
def _quick(folder: Path, *, sealed: bool) -> Any:
    """Gives a function that makes a copy of a prepared vault, always at one place."""
    template = folder / "template"
    template.mkdir()
    with toy.hasty():
        places = prepare(template, sealed=sealed)

    def copy() -> dict[str, Path]:
        work = folder / "work"
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(template, work)
        found = {name: work / path.relative_to(template) for name, path in places.items()}
        # Sources name the template's photos; those are what the worker is to find.
        found["photos"] = places["photos"]
        for id_ in GONE:
            photo(places["photos"], id_).unlink(missing_ok=True)
        return found

    with toy.hasty():
        yield copy


def run_kills(folder: Path, *, count: int, seed: int = 0, sealed: bool = False) -> dict[str, int]:
    """Kills a worker in a step of a migration, at random moments, until `count` were hit.

    A worker that was through before its moment came tells how long a migration takes now: moments
    are drawn from that time on, so that a slow first one does not make all others come too late.

    Returns:
        Figures: kills; of them those that left the state before and after the step that was hit,
        and those that came between two steps; workers that were through before.
    """
    chance = random.Random(seed)
    figures: Counter[str] = Counter({"left before": 0, "left after": 0})
    with (
        Worker(modules=["tests.stress.moves"]) as worker,
        _quick(folder, sealed=sealed) as copy,
    ):
        worker.run("moves.move", **copy())  # the first loads what the others have loaded
        places = copy()
        start = time.perf_counter()
        lines, _ = worker.run("moves.move", **places)
        whole = time.perf_counter() - start
        assert lines[-1][0] == "done", lines
        while figures["left before"] + figures["left after"] < count:
            places = copy()
            moment = chance.uniform(0, whole)
            lines, status = worker.run("moves.move", seconds=moment, **places)
            cycle = f"cycle {sum(figures.values())}"
            assert status in (0, 9), f"{cycle}: {status}, {lines}"
            assert not any(words[0] == "raised" for words in lines), f"{cycle}: {lines}"
            try:
                left = judge(lines, places)
            except Exception as error:
                raise AssertionError(f"{cycle}: {error}; it said {lines}") from error
            if status == 0:
                whole, left = moment, "through before"
            figures[left] += 1
    return {"kills": sum(figures.values()) - figures["through before"], **figures}


def run_faults(folder: Path, *, count: int, seed: int = 0, sealed: bool = False) -> dict[str, int]:
    """Hits `count` pairs of call number and mode, at random; all of them if there are no more."""
    shim = build_shim(folder)
    if shim is None:
        raise RuntimeError("faults are injected on Linux only, and need a C compiler (cc)")
    figures: Counter[str] = Counter()
    with (
        Worker(preload=shim, modules=["tests.stress.moves"]) as worker,
        _quick(folder, sealed=sealed) as copy,
    ):
        lines, status = worker.run("moves.move", **copy(), shim=shim)
        assert lines[-1][0] == "calls", (lines, status)
        calls = lines[-1][1]
        pairs = [(at, name) for at in range(1, calls + 1) for name in MODES]
        random.Random(seed).shuffle(pairs)
        for at, name in pairs[:count]:
            places = copy()
            lines, status = worker.run("moves.move", **places, shim=shim, at=at, mode=MODES[name])
            try:
                assert status == (9 << 8 if "killed" in name else 0), status
                figures[judge(lines, places)] += 1
            except Exception as error:
                raise AssertionError(f"call {at} {name}: {error}; it said {lines}") from error
    return {"calls": calls, "pairs": len(pairs), **figures}
