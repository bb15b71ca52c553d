"""What runs a model file: one module per engine, each session in, arrays out.

Used by `embedder.py` alone; knows manifests and errors, never images. An engine is imported when
a model is opened, so that `import procmem` costs nothing of it.
"""

from __future__ import annotations

import os
from typing import Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from procmem.errors import unknown_choice

Device: TypeAlias = Literal["auto", "cpu", "cuda"]
"""Where a model runs; "auto" takes a CUDA device if one is usable, else the processor."""

DEVICES: tuple[Device, ...] = ("auto", "cpu", "cuda")

DEVICE_VARIABLE = "PROCMEM_DEVICE"
"""Environment variable that decides for "auto"; an explicit device is never overridden."""


class Session(Protocol):
    """A loaded model that can be called from several threads.

    Attributes:
        device: where it runs, "cpu" or "cuda".
    """

    device: str

    def run(
        self, images: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Runs one preprocessed image.

        Args:
            images: (1, 3, S, S) float32.

        Returns:
            `cls` (1, D) float32 unit vectors and `patches` (1, h, w, P) float32.
        """
        ...


def resolve_device(device: str) -> Device:
    """The wanted device, after the environment has had its say about "auto".

    Raises:
        InputError: the argument or the environment variable names no device; the message offers
            the nearest.
    """
    wanted = _known_device(device, "device")
    if wanted == "auto" and os.environ.get(DEVICE_VARIABLE):
        return _known_device(os.environ[DEVICE_VARIABLE], f"environment variable {DEVICE_VARIABLE}")
    return wanted


def _known_device(value: str, origin: str) -> Device:
    for device in DEVICES:
        if value == device:
            return device
    raise unknown_choice(origin, value, DEVICES)
