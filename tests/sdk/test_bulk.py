"""procmem.bulk: every image once, whatever dies on the way, and the same by every engine."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from tests.tiny_model import write_tiny_model

from procmem import Embedder, InputError, VisualMemory
from procmem.bulk import BulkReport, embed_images, import_embeddings, read_embeddings
from procmem.bulk.dataset import id_of
from procmem.bulk.processes import _Worker
from procmem.cli import main
from procmem.errors import (
    EmbedderMismatchError,
    MissingExtraError,
    ModelNotFoundError,
    VaultError,
    VaultFormatError,
    VaultLockedError,
    WorkerDiedError,
)
from procmem.record import quantize_patches

pytest.importorskip("pyarrow", reason="needs procmem[parquet]")


def paint(folder: Path, count: int, *, first: int = 0) -> None:
    """Small images in folders that name them."""
    for at in range(first, first + count):
        path = folder / ("odd" if at % 2 else "even") / f"{at:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(at).integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)


def everything(place: Path) -> dict[str, tuple[int, bytes]]:
    """Id and vector by source; fails if a source stands there twice."""
    found: dict[str, tuple[int, bytes]] = {}
    for part in read_embeddings(place):
        rows = zip(part.ids.tolist(), part.sources, part.vectors, strict=True)
        for id_, source, vector in rows:
            assert source not in found
            found[source] = (id_, vector.tobytes())
    return found


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    paint(tmp_path / "photos", 20)
    return tmp_path / "photos"


# ---- what stands there afterwards


@pytest.mark.parametrize("workers", [1, 2])
def test_embeddings_are_those_of_the_embedder(
    photos: Path, tmp_path: Path, model: Path, workers: int
) -> None:
    (photos / "odd" / "bad.jpg").write_bytes(b"no image")
    (photos / ".hidden").mkdir()
    (photos / ".hidden" / "x.png").write_bytes(b"")
    seen: list[tuple[int, int | None]] = []
    report = embed_images(
        photos, tmp_path / "out", model=model, workers=workers, patches=True, part_images=6,
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert (report.images, report.embedded, report.new) == (21, 20, 20)
    assert [Path(one.source).name for one in report.failures] == ["bad.jpg"]
    assert "not a readable image" in report.failures[0].reason
    assert seen[-1] == (21, 21)
    assert len(seen) == 4
    with Embedder(model) as embedder:
        for part in read_embeddings(tmp_path / "out"):
            assert part.patches is not None
            for row, source in enumerate(part.sources):
                expected = embedder.embed(source)
                assert part.ids[row] == id_of(source)
                assert np.array_equal(part.vectors[row], expected.cls[0].astype(np.float16))
                patches = quantize_patches(expected.patches[0])
                assert np.array_equal(part.patches[row], patches)
    assert len(everything(tmp_path / "out")) == 20


def test_other_tools_can_read_the_files(photos: Path, tmp_path: Path, model: Path) -> None:
    import pyarrow.dataset as arrow_dataset

    (photos / "bad.png").write_bytes(b"")
    embed_images(photos, tmp_path / "out", model=model, workers=1, part_images=8)
    table = arrow_dataset.dataset(tmp_path / "out" / "embeddings").to_table()
    assert table.column_names == ["id", "source", "vector"]
    assert len(table) == 20
    failures = arrow_dataset.dataset(tmp_path / "out" / "failures").to_table().to_pylist()
    assert [row["source"] for row in failures] == [str(photos / "bad.png")]
    assert failures[0]["id"] == id_of(str(photos / "bad.png"))


def test_the_same_call_again_does_what_is_new_only(
    photos: Path, tmp_path: Path, model: Path
) -> None:
    first = embed_images(photos, tmp_path / "out", model=model, workers=1, part_images=6)
    before = everything(tmp_path / "out")
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.parquet")}
    again = embed_images(photos, tmp_path / "out", model=model, workers=1, part_images=6)
    assert (first.new, again.new, again.embedded) == (20, 0, 20)
    assert files == {
        path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.parquet")
    }
    paint(photos, 9, first=20)
    (photos / "even" / "00000.png").unlink()  # what is embedded stays so
    third = embed_images(photos, tmp_path / "out", model=model, workers=1)
    assert (third.new, third.images, third.embedded) == (9, 29, 29)
    after = everything(tmp_path / "out")
    assert {source: after[source] for source in before} == before


def test_an_address_of_files_is_the_folder(photos: Path, tmp_path: Path, model: Path) -> None:
    embed_images(photos, tmp_path / "one", model=model, workers=1)
    embed_images(photos.as_uri(), (tmp_path / "two").as_uri(), model=model, workers=1)
    assert everything(tmp_path / "one") == everything(tmp_path / "two")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_name_that_is_not_utf8_is_reported(photos: Path, tmp_path: Path, model: Path) -> None:
    (photos / "odd" / "00001.png").rename(photos / os.fsdecode(b"\xff.png"))
    report = embed_images(photos, tmp_path / "out", model=model, workers=1)
    assert report.embedded == 19
    assert "is not UTF-8; rename the file" in report.failures[0].reason


# ---- what dies on the way


def command(photos: Path, out: Path, model: Path, *more: str) -> list[str]:
    call = "from procmem.cli import main; main()"
    return [
        sys.executable, "-c", call, "embed", str(photos), str(out), "--model", str(model),
        "--workers", "2", "--part-images", "20", *more,
    ]  # fmt: skip


def kill_half_way(arguments: list[str], out: Path, parts: int) -> None:
    """Starts a run and kills all of its processes when half of the parts are done."""
    run = subprocess.Popen(arguments, start_new_session=True, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    try:
        while len(list(out.glob("embeddings/[!.]*"))) < parts // 2:
            assert run.poll() is None, run.stderr.read() if run.stderr else ""
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
        if run.stderr is not None:
            run.stderr.close()


@pytest.mark.skipif(sys.platform == "win32", reason="kills as POSIX does")
@pytest.mark.parametrize("engine", ["processes", "ray"])
def test_a_thousand_images_killed_half_way_and_resumed(
    tmp_path: Path, model: Path, engine: str
) -> None:
    if engine == "ray":
        pytest.importorskip("ray", reason="needs procmem[ray]")
    photos, out = tmp_path / "photos", tmp_path / "out"
    paint(photos, 1000)
    (photos / "odd" / "bad.png").write_bytes(b"no image")
    arguments = command(photos, out, model, "--engine", engine)
    kill_half_way(arguments, out, parts=51)
    done = len(list(out.glob("embeddings/[!.]*")))
    assert done >= 25  # Ray's actors outlive their driver for a moment
    resumed = subprocess.run([*arguments, "--json"], capture_output=True, text=True, check=False)
    assert resumed.returncode == 1, resumed.stderr  # one bad file
    said = json.loads(resumed.stdout)
    assert (said["images"], said["embedded"], len(said["failed"])) == (1001, 1000, 1)
    assert said["new"] <= 1000 - 19 * done
    found = everything(out)
    assert sorted(found) == sorted(str(path) for path in photos.rglob("0*.png"))
    with Embedder(model) as embedder:
        for source in list(found)[::97]:
            assert found[source][1] == embedder.embed(source).cls[0].astype(np.float16).tobytes()


def test_what_a_kill_in_a_write_leaves_is_no_part(tmp_path: Path, model: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    paint(photos, 30)
    assert subprocess.run(command(photos, out, model), check=False).returncode == 0
    whole = everything(out)
    for file in [*out.glob("embeddings/*"), *out.glob("plan/*")]:
        file.with_name(f".{file.name}.4711.tmp").write_bytes(b"half")
    assert everything(out) == whole
    again = subprocess.run(
        [*command(photos, out, model), "--json"], capture_output=True, check=True
    )
    assert json.loads(again.stdout)["new"] == 0


def test_a_worker_that_is_killed_costs_nothing(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paint(tmp_path / "photos", 200)
    workers: list[_Worker] = []
    start = _Worker.__init__

    def note(worker: _Worker, job: Any) -> None:
        start(worker, job)
        workers.append(worker)

    monkeypatch.setattr(_Worker, "__init__", note)

    def kill_one(done: int, _: int | None) -> None:
        if done == 20:
            workers[0]._process.kill()
            workers[0]._process.join()
            # As if it had been at an image, wherever it was.
            workers[0]._position.value = max(0, workers[0].position)

    report = embed_images(
        tmp_path / "photos", tmp_path / "out", model=model, workers=2, part_images=20,
        progress=kill_one,
    )  # fmt: skip
    assert (report.embedded, report.failures) == (200, ())
    assert len(everything(tmp_path / "out")) == 200
    assert len(workers) == 3


def test_an_image_that_kills_is_left_out_and_reported(
    photos: Path, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "odd" / "00003.png").write_bytes(b"deadly")
    # What the children load before anything else.
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "sitecustomize.py").write_text(
        textwrap.dedent("""
        import os, procmem.bulk.storage as storage
        read = storage.Storage.read_source
        def deadly(self, source):
            data = read(self, source)
            if data == b"deadly":
                os._exit(11)
            return data
        storage.Storage.read_source = deadly
        """)
    )
    path = os.pathsep.join([str(tmp_path / "lib"), *filter(None, [os.environ.get("PYTHONPATH")])])
    monkeypatch.setenv("PYTHONPATH", path)
    report = embed_images(photos, tmp_path / "out", model=model, workers=2, part_images=7)
    assert report.embedded == 19
    (failure,) = report.failures
    assert failure.source.endswith("00003.png")
    assert failure.reason == "a worker process died of it, twice"


def test_workers_that_cannot_begin_are_told(
    photos: Path, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "sitecustomize.py").write_text(
        "import multiprocessing.spawn as spawn, os\nspawn.prepare = lambda data: os._exit(9)\n"
    )
    path = os.pathsep.join([str(tmp_path / "lib"), *filter(None, [os.environ.get("PYTHONPATH")])])
    monkeypatch.setenv("PYTHONPATH", path)
    with pytest.raises(WorkerDiedError, match="exit code 9 when it was touching no image"):
        embed_images(photos, tmp_path / "out", model=model, workers=2)


def test_what_a_worker_raises_is_raised(photos: Path, tmp_path: Path, model: Path) -> None:
    out = tmp_path / "out"
    embed_images(photos, out, model=model, workers=1)
    paint(photos, 3, first=50)
    for path in out.glob("embeddings/*"):
        path.unlink()
    (out / "embeddings").rmdir()
    (out / "embeddings").write_bytes(b"in the way")
    with pytest.raises(VaultError):
        embed_images(photos, out, model=model, workers=1)


# ---- on Ray


def on_ray(*arguments: Any, **options: Any) -> BulkReport:
    """`embed_images`, or a skip: Ray gives itself 30 seconds to start, too few beside much else."""
    try:
        return embed_images(*arguments, engine="ray", **options)
    except WorkerDiedError as error:
        if "Ray did not start" not in str(error):
            raise
        reason = str(error)
    # What it had begun would run on, and be found by the tests after this one. By its type, since
    # to ask an object for its class makes some of torch's warn that they are deprecated.
    for process in (one for one in gc.get_objects() if issubclass(type(one), subprocess.Popen)):
        process.kill()
        process.wait()
    pytest.skip(reason)


def test_a_ray_that_does_not_start_is_told(
    photos: Path, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray", reason="needs procmem[ray]")

    def init(**_: Any) -> None:
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(WorkerDiedError, match=r"did not start .*timed out.* take engine 'proc"):
        embed_images(photos, tmp_path / "out", model=model, engine="ray")


def test_ray_gives_what_processes_give(photos: Path, tmp_path: Path, model: Path) -> None:
    pytest.importorskip("ray", reason="needs procmem[ray]")
    (photos / "bad.png").write_bytes(b"")
    some = embed_images(
        photos, tmp_path / "one", model=model, workers=2, part_images=4, patches=True
    )
    other = on_ray(photos, tmp_path / "two", model=model, workers=2, part_images=4, patches=True)
    assert (some.embedded, other.embedded) == (20, 20)
    assert some.failures == other.failures
    assert everything(tmp_path / "one") == everything(tmp_path / "two")
    for path in (tmp_path / "one" / "embeddings").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / "embeddings" / path.name).read_bytes()
    # An error of an actor is that error here.
    for path in (tmp_path / "two" / "embeddings").iterdir():
        path.unlink()
    (tmp_path / "two" / "embeddings").rmdir()
    (tmp_path / "two" / "embeddings").write_bytes(b"")
    with pytest.raises(VaultError):
        on_ray(photos, tmp_path / "two", model=model, workers=1, patches=True)


def test_no_cluster_at_the_address_is_told(photos: Path, tmp_path: Path, model: Path) -> None:
    pytest.importorskip("ray", reason="needs procmem[ray]")
    with pytest.raises(InputError, match="no Ray cluster at address 'auto'"):
        embed_images(photos, tmp_path / "out", model=model, engine="ray", address="auto")


def test_without_ray_the_extra_is_named(
    photos: Path, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"procmem\[ray\]"):
        embed_images(photos, tmp_path / "out", model=model, engine="ray")


# ---- what is refused


def test_another_model_or_another_form_is_refused(
    photos: Path, tmp_path: Path, model: Path
) -> None:
    out = tmp_path / "out"
    embed_images(photos, out, model=model, workers=1)
    other = write_tiny_model(tmp_path, name="other", seed=1)
    with pytest.raises(EmbedderMismatchError, match="holds embeddings by tiny"):
        embed_images(photos, out, model=other)
    with pytest.raises(EmbedderMismatchError, match="64 pixels"):
        embed_images(photos, out, model=model, image_size=64)
    with pytest.raises(InputError, match="was begun without patches"):
        embed_images(photos, out, model=model, patches=True)
    assert embed_images(photos, out, model=model).new == 0


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"engine": "rai"}, InputError, "did you mean 'ray'"),
        ({"workers": 0}, InputError, "workers is 0"),
        ({"part_images": 1.5}, InputError, "part_images is 1.5"),
        ({"address": "auto"}, InputError, "is for engine 'ray'"),
        ({"model": "no-such"}, ModelNotFoundError, "no-such"),
        ({"source": "nowhere"}, InputError, "is no folder"),
        ({"source": "bogus://x/y"}, InputError, "cannot be opened"),
        ({"destination": "bogus://x/y"}, InputError, "cannot be opened"),
    ],
)
def test_wrong_arguments_are_told(
    photos: Path, tmp_path: Path, model: Path, change: dict[str, Any],
    error: type[Exception], message: str,
) -> None:  # fmt: skip
    arguments = {"source": photos, "destination": tmp_path / "out", "model": model} | change
    with pytest.raises(error, match=message):
        embed_images(**arguments)


def test_a_folder_without_photos_is_told(tmp_path: Path, model: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no photo"):
        embed_images(tmp_path / "empty", tmp_path / "out", model=model)


def test_two_runs_at_once_are_refused(photos: Path, tmp_path: Path, model: Path) -> None:
    def again(*_: Any) -> None:
        with pytest.raises(VaultLockedError, match="is being written by another run"):
            embed_images(photos, tmp_path / "out", model=model, workers=1)

    embed_images(photos, tmp_path / "out", model=model, workers=1, progress=again)


@pytest.mark.parametrize(
    "name", ["dataset.json", "plan/0000.parquet", "embeddings/0000-000000.parquet"]
)
def test_a_damaged_file_is_named(photos: Path, tmp_path: Path, model: Path, name: str) -> None:
    out = tmp_path / "out"
    embed_images(photos, out, model=model, workers=1)
    data = bytearray((out / name).read_bytes())
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    (out / name).write_bytes(data)

    def use() -> None:
        list(read_embeddings(out))
        embed_images(photos, out, model=model, workers=1)

    with pytest.raises(VaultFormatError, match=f"{name} is damaged"):
        use()


def test_a_newer_layout_is_told(photos: Path, tmp_path: Path, model: Path) -> None:
    out = tmp_path / "out"
    embed_images(photos, out, model=model, workers=1)
    head = json.loads((out / "dataset.json").read_text())
    (out / "dataset.json").write_text(json.dumps(head | {"version": 2}))
    with pytest.raises(InputError, match="layout version 2"):
        list(read_embeddings(out))


# ---- into a memory


def test_embeddings_become_a_memory(photos: Path, tmp_path: Path, model: Path) -> None:
    embed_images(photos, tmp_path / "out", model=model, workers=1, part_images=6)
    with VisualMemory(tmp_path / "v", embedder=str(model)) as memory:
        assert import_embeddings(memory, tmp_path / "out") == 20
        assert import_embeddings(memory, tmp_path / "out") == 0
        assert Counter(item.label for item in memory.items()) == {"odd": 10, "even": 10}
        one = photos / "odd" / "00007.png"
        (nearest,) = memory.neighbors(one, k=1)
        assert nearest.source == str(one)
        told = {
            id_of(source) for part in read_embeddings(tmp_path / "out") for source in part.sources
        }
        assert told.isdisjoint(item.id for item in memory.items())  # whoever sees a receipt
        memory.delete(source=str(one))
        assert import_embeddings(memory, tmp_path / "out", label_from_folder=False) == 1
        assert sum(item.label is None for item in memory.items()) == 1
    other = write_tiny_model(tmp_path, name="other", seed=1)
    with (
        VisualMemory(tmp_path / "w", embedder=str(other)) as memory,
        pytest.raises(EmbedderMismatchError, match="embed the images with that model"),
    ):
        import_embeddings(memory, tmp_path / "out")


@pytest.mark.parametrize(
    "read",
    [
        lambda place, _: list(read_embeddings(place)),
        lambda place, memory: import_embeddings(memory, place),
    ],
)
def test_a_folder_that_holds_none_is_told(tmp_path: Path, model: Path, read: Any) -> None:
    with (
        VisualMemory(tmp_path / "v", embedder=str(model)) as memory,
        pytest.raises(InputError, match="make them with procmem embed"),
    ):
        read(tmp_path, memory)


def test_the_command_line_embeds_and_imports(photos: Path, tmp_path: Path, model: Path) -> None:
    run = CliRunner()
    out = str(tmp_path / "out")
    shared = ["--model", str(model)]
    done = run.invoke(main, ["embed", str(photos), out, "--workers", "1", *shared])
    assert done.exit_code == 0, done.output
    assert "embedded 20 images" in done.output
    (photos / "new.png").write_bytes(b"")
    done = run.invoke(main, ["embed", str(photos), out, "--workers", "1", *shared])
    assert done.exit_code == 1
    assert "embedded 0 images" in done.output
    assert "failed: " in done.output
    vault = ["--vault", str(tmp_path / "v")]
    done = run.invoke(main, ["import", out, *vault])  # of the bundled model
    assert done.exit_code == 1
    assert "nothing was made: name the file's model with --model" in done.output
    assert not (tmp_path / "v").exists()
    done = run.invoke(main, ["import", out, *shared, *vault])
    assert done.exit_code == 0, done.output
    assert "imported 20 items" in done.output
    done = run.invoke(main, ["embed", str(photos), out, "--engine", "rya"])
    assert done.exit_code == 2
