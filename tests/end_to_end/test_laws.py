import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAWS = (ROOT / "docs" / "laws.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", LAWS)))

WHOLE_PATH = """
import pathlib
import sys
import numpy as np
opened = []
sys.addaudithook(lambda event, args: opened.append(event) if event.startswith("socket.") else None)
import procmem
image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
with procmem.VisualMemory(sys.argv[1]) as memory:
    ids = memory.add([image], labels="noise")
    assert memory.classify(image).label == "noise"
    memory.delete(ids)
# Native code does not show in the audit hook; an open socket of its own shows here.
for entry in pathlib.Path("/proc/self/fd").glob("*"):
    try:
        target = str(entry.readlink())
    except OSError:
        continue
    if target.startswith("socket:"):
        opened.append(target)
print(opened)
"""


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_every_test_that_a_law_names_exists(file: str, name: str) -> None:
    source = (ROOT / file).read_text(encoding="utf-8")
    assert not name or f"def {name}(" in source


@pytest.mark.parametrize("number", range(1, 8))
def test_every_law_names_a_test(number: int) -> None:
    row = next(line for line in LAWS.splitlines() if line.startswith(f"| {number}. "))
    assert "`tests/" in row


def test_the_whole_path_opens_no_socket(tmp_path: Path) -> None:
    assert run_whole_path(tmp_path) == "[]"


def test_the_whole_path_writes_nothing_outside_its_vault(tmp_path: Path) -> None:
    """An engine with telemetry keeps an identifier and a queue of events in the user's folders."""
    run_whole_path(tmp_path)
    home = tmp_path / "home"
    assert [path for path in home.rglob("*") if not path.is_dir()] == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "vault"]


def run_whole_path(folder: Path) -> str:
    home = folder / "home"
    home.mkdir()
    # Engines keep quiet by themselves where they see a continuous-integration machine.
    kept = {k: v for k, v in os.environ.items() if k in ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH")}
    result = subprocess.run(
        [sys.executable, "-B", "-c", WHOLE_PATH, str(folder / "vault")],
        capture_output=True,
        text=True,
        check=True,
        env=kept | {"HOME": str(home), "TMPDIR": str(home)},
    )
    assert result.stderr == ""
    return result.stdout.strip()
