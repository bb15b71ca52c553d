"""What runs a model file: one module per engine, each session in, arrays out.

`opening.py` is the way in, used by `embedder.py` alone: it checks the file (`onnx_file.py`),
follows the table of devices (`devices.py`), and opens a session of an engine, each a module here
and held to `contract.py`. Knows manifests and errors, never images. An engine is imported when a
model is opened, so that `import procmem` costs nothing of it.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from procmem.backends.devices import DEVICE_VARIABLE as DEVICE_VARIABLE
from procmem.backends.devices import DEVICES as DEVICES
from procmem.backends.devices import Device as Device
from procmem.backends.devices import resolve_device as resolve_device


class Session(Protocol):
    """A loaded model that can be called from several threads.

    Attributes:
        device: where it runs, one of `DEVICES` but "auto".
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
