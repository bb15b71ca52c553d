"""Where engines built on this machine are kept: a private folder in the user's cache.

Used by `onnxruntime.py` for TensorRT, which needs seconds to minutes to build an engine for a GPU
and a moment to read one back. An engine file is code that the GPU's driver runs, so whoever can
write it can run anything as this user: the folder belongs to the user, nobody else may write to it,
and one of which that is not true is refused, not repaired. Nothing of a user's images is ever in
it. Deleting it costs time and nothing else.

The folder is found without `platformdirs`: three lines do not make a dependency.
"""

from __future__ import annotations

import dataclasses
import json
import os
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from procmem.errors import ModelError
from procmem.manifest import sha256_of_bytes, write_bytes_atomically

_NVIDIA_SMI_SECONDS = 30  # a GPU that sleeps takes its time to answer


@dataclass(frozen=True, slots=True)
class EngineKey:
    """What an engine was built from and for; another of any of them is another engine.

    Attributes:
        model_sha256: of the model file.
        side: S, side of the input, pixels.
        gpu: name and compute capability of every GPU in the machine, as the driver states them.
        driver: version of the GPU's driver.
        tensorrt: version of TensorRT.
        runtime: version of ONNX Runtime, which cuts the graph into engines.
    """

    model_sha256: str
    side: int
    gpu: str
    driver: str
    tensorrt: str
    runtime: str

    @property
    def folder_name(self) -> str:
        """The start of the model's hash for people, then a digest of the whole key."""
        digest = sha256_of_bytes(json.dumps(dataclasses.asdict(self), sort_keys=True).encode())
        return f"{self.model_sha256[:12]}-{self.side}-{digest[:32]}"


def engines_folder() -> Path:
    """The folder of all engines, whether it exists or not: `procmem/engines` in the user's cache.

    The cache is what the XDG base directory specification says on Linux, `~/Library/Caches` on
    macOS and `%LOCALAPPDATA%` on Windows.
    """
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        if not base.is_absolute():  # the specification: relative paths are to be ignored
            base = Path.home() / ".cache"
    return base / "procmem" / "engines"


def engine_folder(key: EngineKey, root: Path | None = None) -> Path:
    """The private folder of one key's engines, made if there is none.

    Args:
        key: see there; it is written into the folder as `key.json`, for people.
        root: folder of all engines; None for `engines_folder`.

    Raises:
        ModelError: a folder on the way belongs to somebody else or may be written by others, or
            cannot be made.
    """
    root = engines_folder() if root is None else root
    folder = root / key.folder_name
    try:
        root.parent.parent.mkdir(parents=True, exist_ok=True)
        for step in (root.parent, root, folder):
            step.mkdir(mode=0o700, exist_ok=True)
            check_private(step)
        about = folder / "key.json"
        if not about.exists():
            text = json.dumps(dataclasses.asdict(key), indent=2, sort_keys=True) + "\n"
            write_bytes_atomically(about, text.encode())
    except OSError as error:
        raise ModelError(
            f"the folder for engines {folder} cannot be used ({error}); check its permissions, or "
            "use device='cuda' or 'cpu', which keep no engines"
        ) from error
    return folder


def check_private(folder: Path) -> None:
    """Raises ModelError unless a folder is the user's own and nobody else may write to it.

    Windows keeps other users out of the user's own cache by itself; nothing is checked there.
    """
    if sys.platform == "win32":
        return
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise ModelError(f"{folder} is a link or a file, wanted a folder of engines; remove it")
    if found.st_uid != os.geteuid():
        raise ModelError(
            f"{folder} holds engines, which are code, and belongs to user {found.st_uid}, not to "
            f"you ({os.geteuid()}); remove it"
        )
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ModelError(
            f"{folder} holds engines, which are code, and may be written by others (mode "
            f"{stat.S_IMODE(found.st_mode):04o}); remove it, or if nobody can have changed it "
            f"run chmod 700 {folder}"
        )


def nvidia_gpus() -> tuple[str, str] | None:
    """(names and compute capabilities, driver version) of the machine's GPUs; None if unknown.

    All GPUs, since nvidia-smi and CUDA number them differently.
    """
    query = ["nvidia-smi", "--query-gpu=driver_version,name,compute_cap", "--format=csv,noheader"]
    try:
        answer = subprocess.run(
            query, capture_output=True, text=True, check=True, timeout=_NVIDIA_SMI_SECONDS
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return parse_gpus(answer.stdout)


def parse_gpus(answer: str) -> tuple[str, str] | None:
    """(GPUs, driver) from nvidia-smi's answer: a line "driver, name, capability" for each GPU."""
    rows = [
        [cell.strip() for cell in line.split(",")] for line in answer.splitlines() if line.strip()
    ]
    if not rows or any(len(row) != 3 or not all(row) for row in rows):
        return None
    gpus = sorted(f"{name} ({capability})" for _, name, capability in rows)
    return "; ".join(gpus), rows[0][0]


def contents(root: Path | None = None) -> list[tuple[str, int, int]]:
    """What is kept: (folder name, files, bytes) for each, ascending; empty if there is nothing."""
    root = engines_folder() if root is None else root
    found = []
    try:
        for folder in sorted(path for path in root.iterdir() if path.is_dir()):
            sizes = [path.stat().st_size for path in folder.iterdir() if path.is_file()]
            found.append((folder.name, len(sizes), sum(sizes)))
    except OSError:
        return found
    return found
