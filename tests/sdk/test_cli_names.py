"""Names that no terminal can show, and terminals that cannot show every name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.tiny_model import write_tiny_model
from tests.toy_embedder import picture

from procmem.cli.text import printable, table
from procmem.memory import VisualMemory

LABELS = ["no UTF-8 \udcff", "escape \x1b[31m", "two\nlines", "turned \u202e around", "猫"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def vault(tmp_path: Path, model: Path) -> Path:
    with VisualMemory(tmp_path / "vault", embedder=str(model)) as memory:
        for seed, label in enumerate(LABELS):
            memory.add(picture(seed), label, sources=f"/photos/{label}.png", ids=seed + 1)
    return tmp_path / "vault"


def run(encoding: str, *words: object) -> subprocess.CompletedProcess[bytes]:
    """A command whose output goes to a program that reads this encoding and nothing else."""
    return subprocess.run(
        [sys.executable, "-m", "procmem", *map(str, words)],
        env={**os.environ, "PYTHONIOENCODING": f"{encoding}:strict"},
        capture_output=True,
        check=False,
    )


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_people_read_every_name_and_no_terminal_obeys_one(vault: Path, encoding: str) -> None:
    told = run(encoding, "delete", *range(1, 6), "--vault", vault, "--dry-run")
    assert (told.returncode, told.stderr) == (0, b"")
    lines = told.stdout.decode(encoding).splitlines()
    assert len(lines) == 1 + len(LABELS)
    assert not any(ord(letter) < 32 for line in lines for letter in line)
    for shown in (r"\udcff", r"\x1b[31m", r"two\nlines", r"\u202e"):
        assert shown in told.stdout.decode(encoding)
    assert ("猫" if encoding == "utf-8" else r"\u732b") in told.stdout.decode(encoding)


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_json_holds_every_name(vault: Path, encoding: str) -> None:
    told = run(encoding, "stats", "--vault", vault, "--json")
    assert told.returncode == 0
    assert set(json.loads(told.stdout)["labels"]) == set(LABELS)


def test_an_error_names_what_was_asked_for(vault: Path) -> None:
    told = run("utf-8", "delete", "--vault", vault, "--label", "no \x1b[31m", "--yes")
    assert told.returncode == 1
    assert b"31m" in told.stderr
    assert b"\x1b" not in told.stderr


def test_what_is_forgotten_by_such_a_name_is_reported(vault: Path) -> None:
    told = run("utf-8", "delete", "--vault", vault, "--label", LABELS[0], "--yes", "--json")
    assert told.returncode == 0, told.stderr
    document = json.loads(told.stdout)
    assert [item["label"] for item in document["plan"]] == [LABELS[0]]
    assert document["report"]["receipt"] is not None
    told = run("utf-8", "delete", "--vault", vault, "--label", LABELS[2], "--yes")
    assert told.returncode == 0, told.stderr


def test_a_cell_is_one_line_and_as_wide_as_it_is_shown() -> None:
    assert table([("a\nb", "c"), ("d", "e")]) == "a\\nb  c\nd     e"
    assert printable("größe 猫 👨‍👩‍👧 ") == "größe 猫 👨‍👩‍👧 "
