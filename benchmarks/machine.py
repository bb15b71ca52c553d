"""On what a benchmark was run, for the line above its table."""

from __future__ import annotations

import os
import platform
from pathlib import Path

_LINUX = Path("/proc/cpuinfo")


def machine() -> str:
    """The processor as it names itself, its architecture, and how many cores there are."""
    names = [platform.processor()]
    if _LINUX.exists():
        lines = _LINUX.read_text().splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    described = [*filter(None, names[:1]), platform.machine(), f"{os.cpu_count()} cores"]
    return ", ".join(dict.fromkeys(described))
