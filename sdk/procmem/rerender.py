"""Asks procmem_pretrain, in a process of its own, whether a model's programs are what they must be.

Called by `provenance.py`. The sdk knows neither the grammar nor a renderer: `procmem-pretrain
verify-programs` grows and draws the programs and answers with one JSON document. A renderer can
crash with the driver it uses; a process of its own keeps that away from the caller.
"""

from __future__ import annotations

import collections
import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from procmem.types import Outcome, ProvenanceStep

Progress = Callable[[int, "int | None"], None]

PROGRAMS, SAMPLE = "programs", "sample"
"""Names of the two steps."""

# What the check imports beside the packages that the sdk needs itself.
_PACKAGES = ("procmem_pretrain", "torch", "torchvision", "timm", "moderngl", "pebble")

# A program of the bundled bank grows in about a millisecond and is drawn in a tenth of a second; a
# machine that takes twenty times as long is stuck.
_SECONDS = 900.0
_SECONDS_PER_PROGRAM = 10.0

# Not `-m`: that would look for the package in the folder where a person happens to stand first.
_START = """
import sys
sys.path[:] = [place for place in sys.path if place]
from procmem_pretrain.cli import main
main(prog_name="procmem-pretrain")
"""

_PROGRESS = re.compile(r"(\d+)/(\d+)\n?")


def check_programs(
    file: Path, *, sample: int, seed: int, progress: Progress | None = None
) -> tuple[ProvenanceStep, ProvenanceStep]:
    """Grows the programs of a model's training run again, and draws some of them twice.

    Args:
        file: the model or checkpoint; its manifest says what was drawn.
        sample: how many programs are drawn.
        seed: of their choice.
        progress: called with (programs grown, programs in all).

    Returns:
        the steps "programs" and "sample"; "not checked" where a package is missing, "failed" where
        the check did not come to its end.
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        return _both(
            "not checked",
            f"needs {', '.join(missing)}, not installed here: pip install 'procmem[pretrain]'",
        )
    command = _command(file.resolve(), sample, seed)
    seconds = _SECONDS + sample * _SECONDS_PER_PROGRAM
    code, answer, last_line = _run(command, seconds, progress)
    if code is None:
        return _both("failed", f"the check was ended after {seconds:.0f} seconds; run it again")
    steps = _steps(answer) if code in (0, 1) else None
    if steps is None:
        died = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        return _both(
            "failed",
            f"the check itself ended {died} and no answer ({last_line or 'it said nothing'}); see "
            f"more with procmem-pretrain verify-programs {file}",
        )
    return steps


def _command(file: Path, sample: int, seed: int) -> list[str]:
    options = ["--sample", str(sample), "--seed", str(seed)]
    return [sys.executable, "-c", _START, "verify-programs", str(file), *options]


def _run(
    command: list[str], seconds: float, progress: Progress | None
) -> tuple[int | None, str, str]:
    """Exit code (None if it took too long), stdout, and the last line of stderr."""
    answer: list[str] = []
    lines: collections.deque[str] = collections.deque(maxlen=1)
    too_long = threading.Event()
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    ) as process:
        out, err = process.stdout, process.stderr
        assert out is not None
        assert err is not None

        def end() -> None:
            too_long.set()
            process.kill()

        reader = threading.Thread(target=lambda: answer.append(out.read()), daemon=True)
        timer = threading.Timer(seconds, end)
        reader.start()
        timer.start()
        try:
            for line in err:
                matched = _PROGRESS.fullmatch(line)
                if matched is None:
                    lines.extend([line.strip()] if line.strip() else [])
                elif progress is not None:
                    progress(int(matched[1]), int(matched[2]))
            reader.join()
            code = process.wait()
        finally:
            # Also when Ctrl-C or the caller's progress ends this early: no process stays behind.
            timer.cancel()
            if process.poll() is None:
                process.kill()
    return (None if too_long.is_set() else code), "".join(answer), "".join(lines)


def _steps(answer: str) -> tuple[ProvenanceStep, ProvenanceStep] | None:
    """The two steps of an answer; None if it is not one."""
    try:
        document = json.loads(answer)
        programs, sample = (_step(fields) for fields in document["steps"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return (programs, sample) if (programs.name, sample.name) == (PROGRAMS, SAMPLE) else None


def _step(fields: dict[str, Any]) -> ProvenanceStep:
    name, outcome, detail = fields["name"], fields["outcome"], fields["detail"]
    if outcome not in ("checked", "failed", "not checked") or not isinstance(detail, str):
        raise ValueError(f"{outcome!r} is no outcome")
    return ProvenanceStep(name, outcome, detail)


def _both(outcome: Outcome, detail: str) -> tuple[ProvenanceStep, ProvenanceStep]:
    return ProvenanceStep(PROGRAMS, outcome, detail), ProvenanceStep(SAMPLE, outcome, detail)
