"""`procmem doctor`: what is installed, what runs where, and what mends what does not."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import importlib.util
import os
import platform
from pathlib import Path
from typing import Any

import click

from procmem.cli.options import Settings, shared_options, write_json
from procmem.cli.text import count, describe_migration, say, table

# Extra -> the module that shows that it is there.
_EXTRAS = {
    "cpu": "onnxruntime",
    "openvino": "openvino",
    "camera": "cv2",
    "demo": "skimage",
    "export": "onnx",
    "pretrain": "timm",
    "tensorrt": "tensorrt",
}
_PACKAGES = (
    *("procmem", "numpy", "pillow", "click", "onnxruntime", "onnxruntime-gpu", "onnxruntime-qnn"),
    *("openvino", "tensorrt"),
)


@click.command(short_help="Check the installation.")
@shared_options(model=False)
def doctor(settings: Settings) -> None:
    """Check the installation: versions, processor, devices, models, extras.

    Runs the bundled model once on every device that is installed, and says of the memory, if there
    is one, whether its model came with this installation. The exit code is 1 if the memory cannot
    work; the last lines then say what to do.
    """
    problems: list[str] = []
    document: dict[str, Any] = {
        "versions": _versions(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": _cores(),
        "kernel_isa": _kernel(problems),
        "providers": _providers(problems),
        "models": _models(problems),
        "memory": _memory(settings, problems),
        "threads": _threads(),
        "devices": _devices(),
        "auto": _auto(),
        "engines": _engines(),
        "extras": {
            extra: importlib.util.find_spec(module) is not None for extra, module in _EXTRAS.items()
        },
        "problems": problems,
    }
    if settings.as_json:
        write_json(document)
    else:
        _describe(document)
    for problem in problems:
        say(f"error: {problem}", err=True)
    if problems:
        raise SystemExit(1)


def _versions() -> dict[str, str]:
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _kernel(problems: list[str]) -> str | None:
    from procmem.errors import InputError

    try:
        from procmem.patchsim import isa

        return isa()
    except InputError as error:
        problems.append(str(error))
    except ImportError as error:
        problems.append(
            f"the compiled module procmem._patchsim cannot be loaded ({error}); "
            "install procmem again with pip install --force-reinstall procmem"
        )
    return None


def _providers(problems: list[str]) -> list[str]:
    from procmem.backends.onnxruntime import import_onnxruntime
    from procmem.errors import MissingExtraError

    try:
        onnxruntime = import_onnxruntime()
    except MissingExtraError as error:
        problems.append(str(error))
        return []
    return list(onnxruntime.get_available_providers())


def _threads() -> int:
    """Threads that an image gets when nobody says how many."""
    from procmem.backends.processor import usable_threads

    return usable_threads()


def _devices() -> list[dict[str, Any]]:
    """Every device of the table: whether the bundled model ran there, else why not."""
    from procmem.backends.devices import TABLE, missing
    from procmem.embedder import Embedder
    from procmem.errors import ProcmemError

    found = []
    for row in reversed(TABLE):
        lacks = missing(row)
        if lacks is None:
            try:
                Embedder(device=row.device).close()
            except ProcmemError as error:
                lacks = str(error)
        found.append(
            {
                "name": row.device,
                "description": row.description,
                "works": lacks is None,
                "why_not": lacks,
                "possible_here": row.fits(),
                "remedy": row.remedy,
            }
        )
    return found


def _auto() -> str | None:
    """Where the bundled model runs when nobody says where, and why not better."""
    from procmem.embedder import Embedder
    from procmem.errors import ProcmemError

    try:
        with Embedder() as embedder:
            return embedder.notice
    except ProcmemError:
        return None  # told under the model or the device that is broken


def _engines() -> dict[str, Any]:
    """The folder for engines built on this machine, and what is in it."""
    from procmem.backends.engine_cache import contents, engines_folder

    kept = contents()
    return {
        "folder": str(engines_folder()),
        "kept": [name for name, _, _ in kept],
        "bytes": sum(size for _, _, size in kept),
    }


def _models(problems: list[str]) -> list[dict[str, Any]]:
    from procmem.embedder import bundled_models
    from procmem.errors import ModelError
    from procmem.manifest import read_verified

    found = []
    for name in bundled_models():
        file = _models_folder() / f"{name}.onnx"
        try:
            manifest, data = read_verified(file)
        except ModelError as error:
            problems.append(str(error))
            continue
        found.append(
            {
                "name": name,
                "sha256": manifest.sha256,
                "bytes": len(data),
                "architecture": manifest.architecture,
                "process": manifest.origin.process,
                "images_seen": manifest.origin.images_seen,
                "runs": manifest.origin.runs,
                "training": manifest.origin.training,
                "trained_on_real_data": manifest.origin.trained_on_real_data,
            }
        )
    if not found and not problems:
        problems.append(
            "no model came with this installation; install a release, "
            "or name a model of your own with --model FILE.onnx"
        )
    return found


def _memory(settings: Settings, problems: list[str]) -> dict[str, Any] | None:
    """The memory's model, and what is left of a move to another; None without a memory."""
    from procmem.embedder import bundled_models, model_manifest
    from procmem.errors import VaultError, VaultKeyError
    from procmem.vault import Vault

    if not isinstance(settings.vault, Path) or not (settings.vault / "ledger.sqlite").is_file():
        return None
    found: dict[str, Any] = {"vault": str(settings.vault), "model": None, "problem": None}
    try:
        vault = Vault(settings.vault, read_only=True, key=settings.vault_key)
        try:
            bound, status = vault.binding, vault.migration()
        finally:
            vault.close()
    except VaultError as error:
        # That a sealed memory needs its key is no defect of it.
        if settings.vault_key is not None or not isinstance(error, VaultKeyError):
            problems.append(str(error))
        return found | {"problem": str(error)}
    bundled = {model_manifest(name).sha256 for name in bundled_models()}
    return found | {
        "model": bound.name,
        "sha256": bound.sha256,
        "image_size": bound.side,
        "bundled": bound.sha256 in bundled,
        "migration": None if status is None else describe_migration(status),
    }


def _describe_memory(memory: dict[str, Any]) -> list[tuple[str, str]]:
    if memory["problem"] is not None:
        return [("memory", memory["problem"])]
    model = f"{memory['model']} ({memory['sha256'][:12]}), {memory['image_size']} pixels"
    remedy = ""
    if not memory["bundled"]:
        remedy = (
            ", which is not bundled: name its file with --model, or bring the memory to a model "
            "that is with `procmem migrate`"
        )
    rows = [("memory", f"{memory['vault']} is of {model}{remedy}")]
    if memory["migration"] is not None:
        rows.append(("migration", memory["migration"]))
    return rows


def _models_folder() -> Path:
    return Path(str(importlib.resources.files("procmem").joinpath("models")))


def _state(device: dict[str, Any]) -> str:
    """A device in one line: works, or why not and what to do."""
    if device["works"]:
        return f"works: {device['description']}"
    if not device["possible_here"]:
        return f"not on this machine: {device['description']}"
    return f"{device['why_not']}; {device['remedy']}"


def _describe(document: dict[str, Any]) -> None:
    versions = document["versions"]
    rows = [
        ("procmem", versions.get("procmem", "not installed, run from its source")),
        ("python", f"{document['python']} on {document['platform']}"),
        (
            "packages",
            ", ".join(
                f"{name} {version}" for name, version in versions.items() if name != "procmem"
            ),
        ),
        (
            "processor",
            f"{document['cores']} cores, kernel {document['kernel_isa']}, "
            f"{count(document['threads'], 'thread')} for an image",
        ),
        ("providers", ", ".join(document["providers"]) or "missing"),
        ("auto", document["auto"] or "no device works"),
    ]
    rows += [(f"device {device['name']}", _state(device)) for device in document["devices"]]
    engines = document["engines"]
    rows.append(
        (
            "engines",
            f"{count(len(engines['kept']), 'folder')}, {engines['bytes'] / 1e6:.1f} MB in "
            f"{engines['folder']}",
        )
    )
    for model in document["models"]:
        rows.append(
            (
                "model",
                f"{model['name']}, {model['bytes'] / 1e6:.1f} MB, hash verified "
                f"({model['sha256'][:12]}), {model['process']}, {model['training']}",
            )
        )
    if document["memory"] is not None:
        rows += _describe_memory(document["memory"])
    for extra, installed in document["extras"].items():
        rows.append(
            (f"extra {extra}", "installed" if installed else f"pip install 'procmem[{extra}]'")
        )
    say(table(rows))
