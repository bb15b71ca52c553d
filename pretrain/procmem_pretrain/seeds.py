"""Root seed -> named, independent streams of random numbers. The first file of a seed's walk.

Every random choice of a run comes from `stream(root_seed, name, index...)`. Two streams with
different names or indices are statistically independent, and none depends on how many numbers
another has drawn; this is what makes a resumed run equal to an uninterrupted one.
"""

from __future__ import annotations

import zlib

import numpy as np

from procmem.errors import InputError

MAX_SEED = 2**63 - 1


def check_seed(root_seed: int) -> int:
    """Returns `root_seed`, or raises InputError unless it is an integer in [0, 2**63)."""
    if isinstance(root_seed, bool) or not isinstance(root_seed, int):
        raise InputError(f"seed is {root_seed!r}, wanted an integer in [0, 2**63)")
    if not 0 <= root_seed <= MAX_SEED:
        raise InputError(f"seed is {root_seed}, wanted an integer in [0, 2**63)")
    return root_seed


def stream(root_seed: int, name: str, *indices: int) -> np.random.Generator:
    """A generator that belongs to (root_seed, name, indices) alone.

    Args:
        root_seed: the run's seed, in [0, 2**63).
        name: what the numbers are for: "program", "view", "mixing", "crops", "init".
        indices: which one: a program number, a step.

    Raises:
        InputError: the seed is out of range, or an index is negative.
    """
    check_seed(root_seed)
    if any(index < 0 for index in indices):
        raise InputError(f"stream indices are {indices}, wanted numbers of 0 or more")
    # The name enters as a CRC: stable across Python versions, unlike hash().
    return np.random.default_rng(
        np.random.SeedSequence(root_seed, spawn_key=(zlib.crc32(name.encode()), *indices))
    )


def torch_seed(root_seed: int, name: str, *indices: int) -> int:
    """A 63-bit seed for `torch.Generator.manual_seed` from the same tree of streams."""
    return int(stream(root_seed, name, *indices).integers(0, MAX_SEED))
