"""Which programs are worth drawing: the reasons against one, and the probe that finds them.

Takes `Program` from `grammar.py`, gives verdicts to `bank.py`; `jobs.py` asks about single images.
The probe draws with torch, so that the verdict needs no driver and is nearly the same everywhere
(a bank keeps the verdicts, so that it is exactly the same everywhere).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from procmem_pretrain.perceptual_hash import perceptual_hash
from procmem_pretrain.program import Program

Reason = Literal[
    "compile-failure", "too-slow", "not-finite", "near-constant", "no-change", "near-duplicate"
]
REASONS: tuple[Reason, ...] = get_args(Reason)

# An image whose grey values vary less than this (of 255) teaches nothing.
MIN_STANDARD_DEVIATION = 8.0

# Operations of the language for one picture: about five times the median of the grammar's
# programs. A count and not a time, so that the verdict is the same on every machine.
MAX_OPERATIONS = 20_000

# Mean absolute difference (of 255) between two times; below it a program stands still.
MIN_CHANGE = 0.25

PROBE_SIDE = 64
# Seconds and views (center x, center y, angle, zoom): the plain picture at two times, and two
# other places of its plane.
_PROBE_TIMES = np.array([1.0, 6.0, 3.0, 9.0])
_PROBE_VIEWS = np.array(
    [[0, 0, 0, 1], [0, 0, 0, 1], [0.4, -0.3, 1.0, 0.6], [-0.5, 0.4, 2.5, 1.7]], dtype=np.float64
)


@dataclass(frozen=True, slots=True)
class Probe:
    """What a look at a program found.

    Attributes:
        reason: why it is rejected; None where nothing speaks against it.
        operations: how many operations of the language one picture takes.
        hash: perceptual hash of the plain picture, (words,) uint64; None if rejected.
    """

    reason: Reason | None
    operations: int
    hash: npt.NDArray[np.uint64] | None = None


def probe_program(program: Program) -> Probe:
    """Draws a program small, four times, and judges it; near-duplicates are the bank's to find."""
    from procmem_pretrain.emit_torch import TooManyOperationsError, evaluate

    try:
        images, finite, operations = evaluate(
            program, _PROBE_TIMES, _PROBE_VIEWS, side=PROBE_SIDE, max_operations=MAX_OPERATIONS
        )
    except TypeError:  # an operation that means nothing for these inputs
        return Probe("compile-failure", 0)
    except TooManyOperationsError:
        return Probe("too-slow", MAX_OPERATIONS)
    except (OverflowError, ValueError):  # a constant of the picture has no finite value
        return Probe("not-finite", 0)
    if not bool(finite.all()):
        return Probe("not-finite", operations)
    pictures = images.permute(0, 2, 3, 1).numpy()  # (4, S, S, 3)
    if not varies(pictures)[[0, 2, 3]].all():
        return Probe("near-constant", operations)
    change = np.abs(pictures[0].astype(np.int16) - pictures[1]).mean()
    if change < MIN_CHANGE:
        return Probe("no-change", operations)
    return Probe(None, operations, perceptual_hash(np.ascontiguousarray(pictures[:1]))[0])


def varies(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """(N, S, S, 3) uint8 -> (N,) bool: False for images that are nearly of one grey."""
    grey = images.mean(axis=3, dtype=np.float32)
    return np.asarray(grey.std(axis=(1, 2)) >= MIN_STANDARD_DEVIATION)
