"""Which numbers a configuration may hold, and what to say of those it may not.

Used by the configurations of `config.py`, `simdino.py`, `dino.py`, `stream.py` and `jobs.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from `low` to `high`; NaN is in none.

    Attributes:
        low: smallest.
        high: largest; infinity itself is never in.
        above: True if `low` itself is out.
        below: True if `high` itself is out.
        of: what the number has to be a multiple of; 0 for anything.
    """

    low: float
    high: float = math.inf
    above: bool = False
    below: bool = False
    of: int = 0

    def __contains__(self, value: float) -> bool:
        fits = self.low < value if self.above else self.low <= value
        fits = fits and (value < self.high if self.below else value <= self.high)
        return fits and math.isfinite(value) and not (self.of and value % self.of)

    def __str__(self) -> str:
        high = "" if self.high == math.inf else f"{self.high:,}".replace(",", "_")
        if self.above or self.below:
            words = f"above {self.low}" if self.above else f"{self.low} or more"
            if high:
                words += f" and {'below' if self.below else 'at most'} {high}"
        else:
            words = f"{self.low} to {high}" if high else f"{self.low} or more"
        return f"a multiple of {self.of}, {words}" if self.of else words


SHARE = Range(0, 1)
NOT_NEGATIVE = Range(0)
POSITIVE = Range(0, above=True)
AREA = Range(0, 1, above=True)
"""Share of an image's area."""


def outside(config: object, ranges: Mapping[str, Range]) -> list[str]:
    """A line for each field that is not within its range; of a tuple all numbers have to be.

    Args:
        config: any object.
        ranges: for names of its attributes; one that is None stands for a default.
    """
    lines = []
    for name, wanted in ranges.items():
        value: Any = getattr(config, name)
        numbers = value if isinstance(value, tuple) else (value,)
        if value is not None and not all(number in wanted for number in numbers):
            lines.append(f"{name} is {value}, wanted {wanted}")
    return lines


def reversed_pairs(config: object, *names: str) -> list[str]:
    """A line for each field (smallest, largest) whose first number is the larger one."""
    return [
        f"{name} is {low} to {high}, wanted the smaller number first"
        for name, (low, high) in ((name, getattr(config, name)) for name in names)
        if low > high
    ]
