"""Writes the pages of the three commands from their `--help`: `python docs/make_cli.py`."""

from __future__ import annotations

from pathlib import Path

import procmem.cli
import procmem_export.cli
import procmem_pretrain.cli
from procmem.cli.reference import reference

COMMANDS = {
    "cli.md": (procmem.cli.main, "procmem"),
    "cli-export.md": (procmem_export.cli.main, "procmem-export"),
    "cli-pretrain.md": (procmem_pretrain.cli.main, "procmem-pretrain"),
}


def pages() -> dict[str, str]:
    """File name -> text."""
    return {file: reference(group, name) for file, (group, name) in COMMANDS.items()}


if __name__ == "__main__":
    for file, text in pages().items():
        (Path(__file__).parent / file).write_text(text, encoding="utf-8")
