"""How well the machine is used: operations of a step, and the machine's peak.

MFU (model FLOPs utilization, Chowdhery et al. 2022, PaLM, appendix B): the operations that the
mathematics of a step needs, per second, as a share of what the device can do at most. Counted are
matrix products, convolutions and attention, forward and backward, a product and a sum as two.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

# Dense bfloat16 operations per second, from NVIDIA's data sheets.
_BF16_PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12}


def count_operations(step: Callable[[], object]) -> int:
    """Operations of a call, counted while it runs."""
    with FlopCounterMode(display=False) as counter:
        step()
    return int(counter.get_total_flops())


def peak(device: torch.device, precision: str) -> float:
    """Operations per second of a device: the data sheet's, or those of a large matrix product."""
    if device.type == "cuda" and precision == "bf16":
        name = torch.cuda.get_device_name(device)
        for part, value in _BF16_PEAKS.items():
            if part in name:
                return value
    return _measured_peak(device, torch.bfloat16 if precision == "bf16" else torch.float32)


def _measured_peak(device: torch.device, dtype: torch.dtype, side: int = 1024) -> float:
    matrix = torch.ones(side, side, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(8):
        start = time.perf_counter()
        product = matrix @ matrix
        float(product[0, 0])  # waits for the device
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best
