import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from procmem.errors import InputError
from procmem.manifest import sha256_of_bytes
from procmem_pretrain import image_files
from procmem_pretrain.image_files import Encoding, encode, write_folder, write_shards

CONFIGURATION = {"process": "shaders", "seed": 5, "side": 16}


def image_at(position: int, *, side: int = 16) -> np.ndarray:
    random = np.random.default_rng(position)
    return random.integers(0, 256, (side, side, 3), dtype=np.uint8)


def images_from(position: int) -> Iterator[np.ndarray]:
    while True:
        yield image_at(position)
        position += 1


class Source:
    """`images_from` that keeps what was asked of it, and can stop in mid-stream."""

    def __init__(self, fail_at: int | None = None, error: type[BaseException] = OSError) -> None:
        self.calls: list[int] = []
        self.drawn: list[int] = []
        self._fail_at, self._error = fail_at, error

    def __call__(self, position: int) -> Iterator[np.ndarray]:
        self.calls.append(position)
        while True:
            if position == self._fail_at:
                raise self._error
            self.drawn.append(position)
            yield image_at(position)
            position += 1


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def folder_writer(source: Callable[..., Any], folder: Path, **options: Any) -> int:
    arguments = {"count": 10, "configuration": CONFIGURATION, **options}
    return write_folder(source, folder, **arguments)


def shard_writer(source: Callable[..., Any], folder: Path, **options: Any) -> int:
    arguments = {"count": 10, "images_per_shard": 4, "configuration": CONFIGURATION, **options}
    return write_shards(source, folder, **arguments)


WRITERS = pytest.mark.parametrize("write", [folder_writer, shard_writer])


def test_a_folder_holds_each_image_to_the_pixel(tmp_path: Path) -> None:
    assert folder_writer(images_from, tmp_path / "new" / "deep") == 10
    folder = tmp_path / "new" / "deep"
    names = [f"{number:09d}.png" for number in range(10)]
    assert sorted(contents(folder)) == [*names, "render.json"]
    for number, name in enumerate(names):
        with Image.open(folder / name) as picture:
            assert np.array_equal(np.asarray(picture), image_at(number))


def test_shards_hold_each_image_and_its_json_as_one_sample(tmp_path: Path) -> None:
    details = {"details": lambda number: {"program": 7 * number}}
    assert shard_writer(images_from, tmp_path, **details) == 3
    digest = json.loads((tmp_path / "render.json").read_bytes())["sha256"]
    position = 0
    for shard, size in enumerate((4, 4, 2)):
        with tarfile.open(tmp_path / f"shard-{shard:06d}.tar") as tar:
            members = tar.getmembers()
            assert [m.name for m in members] == [
                f"{number:09d}.{suffix}"
                for number in range(position, position + size)
                for suffix in ("png", "json")
            ]
            for picture, text in zip(members[::2], members[1::2], strict=True):
                with Image.open(io.BytesIO(tar.extractfile(picture).read())) as image:
                    assert np.array_equal(np.asarray(image), image_at(position))
                assert json.loads(tar.extractfile(text).read()) == {
                    "number": position,
                    "configuration_sha256": digest,
                    "program": 7 * position,
                }
                position += 1
    assert position == 10


def test_tar_headers_hold_no_time_user_or_machine(tmp_path: Path) -> None:
    shard_writer(images_from, tmp_path)
    for path in tmp_path.glob("*.tar"):
        with tarfile.open(path) as tar:
            for member in tar.getmembers():
                assert (member.mtime, member.uid, member.gid) == (0, 0, 0)
                assert (member.uname, member.gname, member.mode) == ("", "", 0o644)
                assert member.isreg()
                assert not member.pax_headers


@WRITERS
def test_equal_images_give_equal_bytes(write: Callable[..., int], tmp_path: Path) -> None:
    for name in "ab":
        write(images_from, tmp_path / name)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


@WRITERS
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("fail_at", [0, 3, 4, 5, 9])
def test_an_interrupted_run_goes_on_to_what_an_uninterrupted_one_is(
    write: Callable[..., int], error: type[BaseException], fail_at: int, tmp_path: Path
) -> None:
    write(images_from, tmp_path / "whole")
    broken = tmp_path / "broken"
    with pytest.raises(error):
        write(Source(fail_at, error), broken)
    before = contents(broken)
    whole = contents(tmp_path / "whole")
    assert not [name for name in before if name.endswith(".tmp")]
    assert all(data == whole[name] for name, data in before.items())
    stamps = {path.name: path.stat().st_mtime_ns for path in broken.iterdir()}
    source = Source()
    write(source, broken)
    assert contents(broken) == whole
    assert all((broken / name).stat().st_mtime_ns == stamp for name, stamp in stamps.items())
    # What was finished is not drawn again.
    size = 4 if write is shard_writer else 1
    assert source.calls == [fail_at // size * size]
    assert source.drawn == list(range(fail_at // size * size, 10))


@pytest.mark.parametrize("size", [1, 4])
@settings(max_examples=40, deadline=None)
@given(st.integers(1, 14), st.data())
def test_any_missing_files_are_written_and_no_others(
    size: int, count: int, data: st.DataObject
) -> None:
    write = folder_writer if size == 1 else shard_writer
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "images"
        write(images_from, folder, count=count)
        whole = contents(folder)
        files = sorted(set(whole) - {"render.json"})
        gone = data.draw(st.sets(st.sampled_from(range(len(files)))))
        for number in gone:
            (folder / files[number]).unlink()
        source = Source()
        assert write(source, folder, count=count) == len(gone)
        assert contents(folder) == whole
        wanted = [p for n in sorted(gone) for p in range(n * size, min(n * size + size, count))]
        assert source.drawn == wanted
        assert source.calls == [number * size for number in sorted(gone) if number - 1 not in gone]


@WRITERS
def test_a_finished_run_draws_nothing(write: Callable[..., int], tmp_path: Path) -> None:
    write(images_from, tmp_path)
    before = contents(tmp_path)
    source = Source()
    assert write(source, tmp_path) == 0
    assert source.calls == []
    assert contents(tmp_path) == before


@WRITERS
def test_a_killed_process_leaves_only_whole_files(
    write: Callable[..., int], tmp_path: Path
) -> None:
    code = (
        "import sys, pathlib, numpy as np\n"
        "from procmem_pretrain import image_files\n"
        "def images_from(position):\n"
        "    while True:\n"
        "        random = np.random.default_rng(position)\n"
        "        yield random.integers(0, 256, (16, 16, 3), dtype=np.uint8)\n"
        "        position += 1\n"
        "options = dict(images_per_shard=50) if sys.argv[2] == 'write_shards' else {}\n"
        "getattr(image_files, sys.argv[2])(images_from, pathlib.Path(sys.argv[1]), "
        "count=1_000_000, configuration={'a': 1}, **options)\n"
    )
    name = "write_shards" if write is shard_writer else "write_folder"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path), name], env=environment)
    pattern = "*.tar" if write is shard_writer else "*.png"
    try:
        deadline = time.monotonic() + 60
        while len(list(tmp_path.glob(pattern))) < 3:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGTERM if os.name == "nt" else signal.SIGKILL)
        process.wait()
    for path in tmp_path.glob("*.png"):  # a name with a dot in front does not match
        with Image.open(path) as picture:
            picture.load()
    for path in tmp_path.glob("*.tar"):
        with tarfile.open(path) as tar:
            assert len(tar.getmembers()) == 100


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    shard_writer(images_from, tmp_path)
    for name in (".shard-000001.tar.123.tmp", ".000000001.png.9.tmp", ".render.json.7.tmp"):
        (tmp_path / name).write_bytes(b"half")
    before = set(contents(tmp_path))
    shard_writer(images_from, tmp_path)
    assert {name for name in before if name.startswith(".")} & set(contents(tmp_path)) == set()
    only = tmp_path / "only"
    only.mkdir()
    (only / ".render.json.7.tmp").write_bytes(b"{")
    assert shard_writer(images_from, only) == 3


@WRITERS
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"configuration": {**CONFIGURATION, "seed": 6}}, r"configuration\.seed = 5, wanted 6"),
        ({"configuration": {**CONFIGURATION, "seed": 5.0}}, r"seed = 5, wanted 5\.0"),
        ({"configuration": {"a": {"b": [1]}}}, "4 values differ"),
        ({"count": 11}, "count = 10, wanted 11"),
        ({"encoding": Encoding("jpeg")}, "format = 'png', wanted 'jpeg'"),
    ],
)
def test_a_folder_of_another_configuration_is_refused_unchanged(
    write: Callable[..., int], changed: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(OSError):  # noqa: PT011  # the source's own, in mid-run
        write(Source(5), tmp_path)
    before = contents(tmp_path)
    with pytest.raises(InputError, match=message):
        write(images_from, tmp_path, **changed)
    assert contents(tmp_path) == before


def test_folders_and_shards_are_not_mixed(tmp_path: Path) -> None:
    folder_writer(images_from, tmp_path)
    with pytest.raises(InputError, match="images_per_shard = 'absent', wanted 4"):
        shard_writer(images_from, tmp_path)


@WRITERS
def test_a_folder_with_other_files_is_refused_unchanged(
    write: Callable[..., int], tmp_path: Path
) -> None:
    (tmp_path / "000000000.png").write_bytes(b"a photo of mine")
    (tmp_path / ".notes.png.mine.tmp").write_bytes(b"mine too")
    before = contents(tmp_path)
    with pytest.raises(InputError, match=r"holds '.*' but no render.json"):
        write(images_from, tmp_path)
    assert contents(tmp_path) == before
    with pytest.raises(InputError, match="is a file"):
        write(images_from, tmp_path / "000000000.png")


@pytest.mark.parametrize("damage", [b"", b"[]", b"{", b"{}", b"\xff"])
def test_a_damaged_configuration_is_refused(damage: bytes, tmp_path: Path) -> None:
    folder_writer(images_from, tmp_path)
    (tmp_path / "render.json").write_bytes(damage)
    with pytest.raises(InputError, match="damaged"):
        folder_writer(images_from, tmp_path)


def test_an_edited_configuration_is_refused(tmp_path: Path) -> None:
    folder_writer(images_from, tmp_path)
    path = tmp_path / "render.json"
    path.write_text(path.read_text().replace('"seed": 5', '"seed": 6'))
    with pytest.raises(InputError, match="edited"):
        folder_writer(images_from, tmp_path, configuration={**CONFIGURATION, "seed": 6})


def test_the_configuration_is_written_before_the_first_image(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        folder_writer(Source(0, KeyboardInterrupt), tmp_path)
    document = json.loads((tmp_path / "render.json").read_bytes())
    assert document["configuration"] == CONFIGURATION
    digest = document.pop("sha256")
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    assert digest == sha256_of_bytes(text.encode())


@WRITERS
def test_progress_ends_at_the_count_and_starts_from_what_is_there(
    write: Callable[..., int], tmp_path: Path
) -> None:
    with pytest.raises(OSError):  # noqa: PT011  # the source's own, in mid-run
        write(Source(6), tmp_path)
    seen: list[tuple[int, int | None]] = []
    write(images_from, tmp_path, progress=lambda done, total: seen.append((done, total)))
    there = 6 if write is folder_writer else 4
    assert seen == [(done, 10) for done in range(there, 11)]


@WRITERS
def test_a_source_that_ends_early_is_told_where(write: Callable[..., int], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="ended before image 6"):
        write(lambda position: iter([image_at(p) for p in range(position, 6)]), tmp_path)
    assert write(images_from, tmp_path) > 0


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_every_format_is_read_back_as_itself(suffix: str, tmp_path: Path) -> None:
    name = "jpeg" if suffix == "jpg" else suffix
    folder_writer(images_from, tmp_path, count=1, encoding=Encoding(name))
    with Image.open(tmp_path / f"000000000.{suffix}") as picture:
        assert picture.format == name.upper()
        assert picture.size == (16, 16)


def test_jpeg_keeps_edges_of_color_where_half_resolution_would_blur_them() -> None:
    image = np.zeros((32, 32, 3), np.uint8)
    image[:, ::2], image[:, 1::2] = (255, 0, 0), (0, 0, 255)
    with Image.open(io.BytesIO(encode(image, Encoding("jpeg")))) as picture:
        assert np.abs(np.asarray(picture, np.int64) - image).mean() < 20


@pytest.mark.parametrize("name", ["jpeg", "webp"])
def test_lower_quality_is_smaller(name: Any) -> None:
    smooth = np.asarray(Image.fromarray(image_at(1)).resize((128, 128)))
    low, high = (len(encode(smooth, Encoding(name, quality))) for quality in (20, 95))
    assert low < high / 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("pgn",), "did you mean 'png'"),
        (("png", 90), "png is exact"),
        (("jpeg", 0), "1 to 100"),
        (("webp", 101), "1 to 100"),
    ],
)
def test_encodings_that_do_not_exist_are_refused(arguments: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Encoding(*arguments)


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 5, 3), np.uint8), np.zeros((4, 4, 3)), "image"],
)
def test_images_of_another_form_are_refused_and_nothing_is_left(image: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="wanted"):
        shard_writer(lambda position: iter([image_at(0), image]), tmp_path)
    assert set(contents(tmp_path)) == {"render.json"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "count is 0"),
        ({"count": 10**9 + 1}, "1000000000"),
        ({"images_per_shard": 0}, "images_per_shard is 0"),
        ({"configuration": {"a": float("nan")}}, "JSON"),
        ({"configuration": {"a": object()}}, "JSON"),
    ],
)
def test_values_out_of_range_are_refused_before_anything_is_written(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        shard_writer(images_from, tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()


def test_details_may_not_hide_what_is_always_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'number'"):
        shard_writer(images_from, tmp_path, details=lambda position: {"number": "x"})


def test_a_shard_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    sync, replace = os.fsync, Path.replace

    def recording_sync(descriptor: int) -> None:
        events.append("sync")
        sync(descriptor)

    def recording_replace(path: Path, target: Path) -> Path:
        events.append(f"name {target.name}")
        return replace(path, target)

    monkeypatch.setattr(image_files.os, "fsync", recording_sync)
    monkeypatch.setattr(Path, "replace", recording_replace)
    shard_writer(images_from, tmp_path, count=4)
    named = events.index("name shard-000000.tar")
    assert events[named - 1] == "sync"
    if os.name != "nt":
        assert events[named + 1] == "sync"  # the folder's entry
