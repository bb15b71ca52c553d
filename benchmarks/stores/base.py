"""What a store can do; every file beside this one does it with another library."""

from __future__ import annotations

import abc
import os
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

BREADTHS = (20, 30, 40, 60, 80, 120, 160, 240, 360, 480, 720)
"""How many candidates a graph may keep while it searches (ef), as far as this is tried."""


class Store(abc.ABC):
    """Vectors under ids in a folder. A call that returned is on the disk, as far as it can be.

    Args:
        folder: its own; made by `create`.
        count: how many items it is going to hold; some want to know.
        threads: how many it may use.
    """

    breadths: ClassVar[tuple[int, ...]] = ()
    """`BREADTHS` if it has a graph with this choice."""

    def __init__(self, folder: Path, *, count: int, threads: int) -> None:
        self.folder, self.count, self.threads = folder, count, threads

    @abc.abstractmethod
    def create(self) -> None:
        """Makes it, empty, and leaves it open."""

    @abc.abstractmethod
    def add(self, ids: Ids, rows: Floats) -> None:
        """Adds rows (M, D), in memory at least until `save`."""

    def save(self) -> None:  # noqa: B027  for some there is nothing to do
        """Puts what was added onto the disk."""

    @abc.abstractmethod
    def open(self) -> None:
        """Opens what was saved."""

    def search_with(self, breadth: int) -> None:
        """Sets one of `breadths`."""
        raise NotImplementedError(f"{type(self).__name__} searches with no breadth ({breadth})")

    @abc.abstractmethod
    def query(self, vector: Floats, k: int) -> list[int]:
        """Ids of the k nearest by inner product, nearest first."""

    @abc.abstractmethod
    def delete(self, ids: list[int]) -> None:
        """Deletes, durably."""

    def close(self) -> None:  # noqa: B027  the same
        """Closes it. Its process ends soon after."""


def sync(path: Path) -> None:
    """Waits until a file that a library wrote is on the disk, which those libraries do not."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
