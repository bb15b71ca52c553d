"""What an installed wheel must do, without the source, a compiler or a network: `scripts/wheel`.

Run by the Python that has it installed. Every step fails loudly.
"""

from __future__ import annotations

import importlib.metadata
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import procmem
from procmem.patchsim import top_k


def main() -> None:
    """Teaches, asks and forgets with the wheel's own model and kernel."""
    place = Path(procmem.__file__)
    assert "site-packages" in place.parts, f"{place} is not an installed package"
    assert importlib.metadata.version("procmem") == procmem.__version__

    def refuse(*_: object) -> None:
        raise AssertionError("a network call")

    socket.socket.connect = refuse  # type: ignore[method-assign,assignment]
    random = np.random.default_rng(0)
    rows = random.standard_normal((1000, 64)).astype(np.float32)
    found, _ = top_k(rows[:5].copy(), rows, 1)
    assert found[:, 0].tolist() == [0, 1, 2, 3, 4]

    photos = random.integers(0, 256, (4, 96, 128, 3), dtype=np.uint8)
    photos[2:] //= 4
    with tempfile.TemporaryDirectory() as name, procmem.VisualMemory(Path(name, "v")) as memory:
        ids = memory.add(photos, labels=["bright", "bright", "dark", "dark"])
        assert memory.classify(photos[0], k=1).label == "bright"
        report = memory.delete(ids[0])
        assert report.purged
        assert report.windows_found == 0
        assert report.receipt is not None
        assert procmem.check_receipt(report.receipt) == ()
    command = [sys.executable, "-c", "from procmem.cli import main; main()"]
    for words in (["--version"], ["doctor"]):
        subprocess.run([*command, *words], check=True, stdout=subprocess.DEVNULL)
    print(f"procmem {procmem.__version__} on Python {sys.version.split()[0]}: good")


if __name__ == "__main__":
    main()
