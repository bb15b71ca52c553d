"""What a run tells while it goes: `log.csv`, TensorBoard events, and a report for the terminal.

Takes `StepReport`s of `train.py`. A resumed run drops the lines after its checkpoint and goes on;
what it cannot read as its own log is put aside, since a log must not keep a run from going on.
"""

from __future__ import annotations

import contextlib
import csv
import io
import logging
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from procmem.manifest import sha256_of_bytes, write_bytes_atomically

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StepReport:
    """One step in numbers.

    Attributes:
        step: steps taken, this one included.
        loss: the sum that was minimized.
        images_per_second: since the previous report, over all processes.
        mfu: matrix-product operations per second, share of the device's peak (`throughput.py`).
        learning_rate: of this step.
        terms: the weighted terms of the loss, and the objective's diagnostics, by name.
        knn: `health.Vitals.knn` of the last look; NaN before the first.
        rank: `health.Vitals.rank` of the last look; NaN before the first.
    """

    step: int
    loss: float
    images_per_second: float
    mfu: float
    learning_rate: float
    terms: dict[str, float] = field(default_factory=dict)
    knn: float = math.nan
    rank: float = math.nan

    def flat(self) -> dict[str, float]:
        """All numbers by name."""
        names = ("step", "loss", "images_per_second", "mfu", "learning_rate", "knn", "rank")
        return {name: getattr(self, name) for name in names} | self.terms


class RunLog:
    """`log.csv` and TensorBoard events in a run's folder. Use as a context manager.

    Args:
        folder: of the run.
        start: the step that the run goes on from; later lines are dropped.
        report: called with every report as well.
        active: False in all processes but the first, which alone writes.
    """

    def __init__(
        self,
        folder: Path,
        start: int,
        report: Callable[[StepReport], None] | None = None,
        *,
        active: bool = True,
    ) -> None:
        self._path = folder / "log.csv"
        self._report = report
        self._active = active
        self._names: list[str] = []
        self._events = _event_writer(folder, start) if active else None
        if active and self._path.is_file():
            rows = [row for row in self._rows() if int(row["step"]) <= start]
            self._names = list(rows[0]) if rows else []
            self._rewrite(rows)

    def write(self, line: StepReport) -> None:
        """Adds one line."""
        if not self._active:
            return
        values = line.flat()
        if not self._names:
            self._names = list(values)
            self._rewrite([])
        with self._path.open("a", newline="") as file:
            csv.DictWriter(file, self._names, extrasaction="ignore").writerow(values)
        if self._events is not None:
            for name, value in values.items():
                if name != "step" and math.isfinite(value):
                    self._events.add_scalar(name, value, line.step)
        if self._report is not None:
            self._report(line)

    def _rows(self) -> list[dict[str, str]]:
        """The lines of the file; if some are none of a log, the whole file is kept beside it."""
        data = self._path.read_bytes()
        rows, whole = [], False
        with contextlib.suppress(UnicodeDecodeError, csv.Error):
            lines = csv.DictReader(io.StringIO(data.decode(), newline=""), strict=True)
            found = list(lines)
            rows = [row for row in found if _is_line(row)]
            whole = len(rows) == len(found) and "step" in (lines.fieldnames or ("step",))
        if not whole:
            aside = self._path.with_name(f"log-damaged-{sha256_of_bytes(data)[:8]}.csv")
            write_bytes_atomically(aside, data)
            _log.warning(
                "%s has lines that no run writes; it is kept as %s, and the log goes on with the "
                "lines that can be read",
                self._path,
                aside.name,
            )
        return rows

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self._names)
        if self._names:
            writer.writeheader()
            writer.writerows(rows)
        write_bytes_atomically(self._path, text.getvalue().encode())

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        if self._events is not None:
            self._events.close()


def _is_line(row: dict[str, str]) -> bool:
    """Whether it has a whole number of steps, and as many numbers as the heading has names."""
    complete = None not in row and None not in row.values()
    return complete and re.fullmatch("[0-9]{1,12}", row.get("step", "")) is not None


def _event_writer(folder: Path, start: int) -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        _log.info("tensorboardX is not installed: no TensorBoard events, log.csv has all numbers")
        return None
    return SummaryWriter(str(folder / "events"), purge_step=start + 1)
