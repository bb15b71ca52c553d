import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAWS = (ROOT / "docs" / "laws.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", LAWS)))

WHOLE_PATH = """
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
    result = subprocess.run(
        [sys.executable, "-c", WHOLE_PATH, str(tmp_path / "vault")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == "[]"
