"""Results on disk: `results.json` as they come, `results.md` to read, figures to look at."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from procmem.errors import InputError, VaultLockedError
from procmem.image import load_image
from procmem.lock import WriterLock
from procmem.manifest import write_bytes_atomically
from procmem_pretrain.evaluation.datasets import ClassificationSet
from procmem_pretrain.evaluation.methods import Method
from procmem_pretrain.sheet import contact_sheet

_FORMAT = "procmem evaluation 1"


class Results:
    """Cells by key, kept in `results.json`; every new one is written at once.

    Nobody else may write into the folder until it is closed: each would write only its own cells.

    Args:
        folder: made if it does not exist.

    Raises:
        InputError: another process has it open, or it holds another program's results.json.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock = WriterLock(folder / "LOCK")
        except VaultLockedError as error:
            raise InputError(
                f"another evaluation writes into {folder}; wait until it has ended, or name "
                "another --out"
            ) from error
        try:
            self._read(folder)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Lets others write into the folder."""
        self._lock.remove()
        self._lock.release()

    def __enter__(self) -> Results:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _read(self, folder: Path) -> None:
        self._folder = folder
        self._cells: dict[str, dict[str, object]] = {}
        self._shown: list[str] = []
        path = folder / "results.json"
        if path.is_file():
            try:
                known = json.loads(path.read_bytes())
                if known["format"] != _FORMAT:
                    raise ValueError(known["format"])
                self._cells = {cell["key"]: cell for cell in known["cells"]}
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f"{path} is not of this program ({error!r}); move it away or name another --out"
                ) from error

    def holds(self, key: str) -> bool:
        """Whether an earlier run found this number."""
        return key in self._cells

    def add(self, task: str, data: str, method: str, key: str, score: float) -> None:
        """Writes a number down."""
        self._cells[key] = {
            "task": task,
            "data": data,
            "method": method,
            "key": key,
            "score": score,
        }
        self.show(key)
        document = {"format": _FORMAT, "cells": list(self._cells.values())}
        data_bytes = json.dumps(document, indent=1).encode()
        write_bytes_atomically(self._folder / "results.json", data_bytes)

    def show(self, key: str) -> None:
        """Puts a cell into the tables of this run."""
        self._shown.append(key)

    def markdown(self, titles: dict[str, str], heading: str) -> str:
        """One table for each task: methods down, data sets across, their mean last."""
        lines = ["# Evaluation", "", heading, ""]
        cells = [self._cells[key] for key in self._shown]
        for task, title in titles.items():
            own = [cell for cell in cells if cell["task"] == task]
            if not own:
                continue
            data = list(dict.fromkeys(str(cell["data"]) for cell in own))
            scores = {(str(c["method"]), str(c["data"])): c["score"] for c in own}
            lines += [
                f"## {task}",
                "",
                f"| {title} | " + " | ".join(data) + " | mean |",
                "|---|" + "---|" * (len(data) + 1),
            ]
            for method in dict.fromkeys(str(cell["method"]) for cell in own):
                row = [scores.get((method, name)) for name in data]
                known = [float(v) for v in row if v is not None]  # type: ignore[arg-type]
                shown = ["-" if v is None else f"{v:.1f}" for v in row]
                mean = f"{np.mean(known):.1f}" if len(known) == len(row) else "-"
                lines.append(f"| {method} | " + " | ".join([*shown, mean]) + " |")
            lines.append("")
        return "\n".join(lines)


def neighbors_figure(
    data: ClassificationSet, method: Method, *, queries: int = 8, neighbors: int = 8, side: int = 96
) -> Image.Image:
    """Queries, spread over the set, in the first column; beside them their nearest."""
    asked, memory = data.query.first(queries), data.memory
    similarity = method.embed(asked.images) @ method.embed(memory.images).T
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :neighbors]
    rows = []
    for query, nearest in zip(asked.images, order, strict=True):
        pictures = [query, *(memory.images[i] for i in nearest)]
        rows += [_square(load_image(picture), side) for picture in pictures]
    columns = ["asked", *(f"{number}" for number in range(1, order.shape[1] + 1))]
    return contact_sheet(
        np.stack(rows),
        columns=order.shape[1] + 1,
        column_labels=columns,
        row_labels=list(asked.labels),
    )


def maps_figure(
    rows: Sequence[tuple[str, Sequence[np.ndarray]]], columns: Sequence[str], *, side: int = 160
) -> Image.Image:
    """Rows of pictures of any size, each with a name, under a heading each, as one picture."""
    pictures = [_square(picture, side) for _, row in rows for picture in row]
    return contact_sheet(
        np.stack(pictures),
        columns=len(columns),
        row_labels=[name for name, _ in rows],
        column_labels=columns,
    )


def _square(picture: np.ndarray, side: int) -> np.ndarray:
    smallest = min(picture.shape[:2])
    top, left = (picture.shape[0] - smallest) // 2, (picture.shape[1] - smallest) // 2
    cut = Image.fromarray(picture[top : top + smallest, left : left + smallest])
    filter_ = Image.Resampling.NEAREST if smallest < side else Image.Resampling.BICUBIC
    return np.asarray(cut.resize((side, side), filter_))
