"""The folder for engines: private, found by what an engine was built from and for."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest

from procmem.backends import engine_cache
from procmem.backends.engine_cache import (
    EngineKey,
    contents,
    engine_folder,
    engines_folder,
    parse_gpus,
)
from procmem.errors import ModelError

KEY = EngineKey("ab" * 32, 224, "NVIDIA L4 (8.9)", "580.1", "10.9.0", "1.22.0")

pytestmark = pytest.mark.skipif(os.name == "nt", reason="modes and owners are POSIX's")


def test_every_folder_that_is_made_is_the_users_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        folder = engine_folder(KEY, tmp_path / "cache" / "procmem" / "engines")
    finally:
        os.umask(before)
    for made in (folder, folder.parent, folder.parent.parent):
        assert made.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(EngineKey)])
def test_another_model_gpu_driver_version_or_side_is_another_folder(field: str) -> None:
    value = getattr(KEY, field)
    other = dataclasses.replace(KEY, **{field: value * 2})
    assert other.folder_name != KEY.folder_name


def test_the_same_key_finds_its_folder_again(tmp_path: Path) -> None:
    first = engine_folder(KEY, tmp_path / "p" / "e")
    (first / "kept.engine").write_bytes(b"x")
    assert engine_folder(KEY, tmp_path / "p" / "e") == first
    assert (first / "kept.engine").exists()
    assert json.loads((first / "key.json").read_text()) == dataclasses.asdict(KEY)


@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_a_folder_that_others_may_write_to_is_refused(
    tmp_path: Path, level: int, mode: int
) -> None:
    folder = engine_folder(KEY, tmp_path / "p" / "e")
    (folder, *folder.parents)[level].chmod(mode)
    with pytest.raises(ModelError, match="may be written by others"):
        engine_folder(KEY, tmp_path / "p" / "e")


def test_a_link_in_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "p" / "e"
    folder = engine_folder(KEY, root)
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match="is a link or a file"):
        engine_folder(KEY, root)


def test_a_folder_of_somebody_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine_folder(KEY, tmp_path / "p" / "e")
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    with pytest.raises(ModelError, match=r"belongs to user \d+, not to you \(54321\)"):
        engine_folder(KEY, tmp_path / "p" / "e")


def test_a_place_that_cannot_be_written_names_the_devices_that_need_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ModelError, match="use device='cuda' or 'cpu'"):
        engine_folder(KEY, tmp_path / "file" / "p" / "e")


def test_the_cache_is_where_the_system_keeps_caches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_cache.sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert engines_folder() == tmp_path / "procmem" / "engines"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert engines_folder() == tmp_path / ".cache" / "procmem" / "engines"


def test_contents_are_counted(tmp_path: Path) -> None:
    assert contents(tmp_path / "none") == []
    folder = engine_folder(KEY, tmp_path / "p" / "e")
    (folder / "a.engine").write_bytes(b"12345")
    size = (folder / "key.json").stat().st_size
    assert contents(tmp_path / "p" / "e") == [(KEY.folder_name, 2, 5 + size)]


@pytest.mark.parametrize(
    ("answer", "gpus"),
    [
        ("580.1, NVIDIA L4, 8.9\n", ("NVIDIA L4 (8.9)", "580.1")),
        ("580.1, B, 9.0\n580.1, A, 8.6\n", ("A (8.6); B (9.0)", "580.1")),
        ("", None),
        ("No devices were found\n", None),
        ("580.1, , 8.9\n", None),
    ],
)
def test_gpus_are_named_in_an_order_of_their_own(answer: str, gpus: tuple[str, str] | None) -> None:
    assert parse_gpus(answer) == gpus


def test_a_machine_without_nvidia_smi_names_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert engine_cache.nvidia_gpus() is None
