"""One process of several: its rank, its share of a batch, and sums over all of them.

`torchrun` starts the processes and names them in the environment; a process that it did not start
is alone, and everything here is then the identity. Used by `train.py`, `stream.py` and the losses,
whose batch statistics must be those of the whole batch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed
from torch import Tensor

from procmem.errors import InputError


def world() -> int:
    """How many processes train together; 1 outside of `joined`."""
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


@contextmanager
def joined(device: torch.device) -> Iterator[torch.device]:
    """Joins the processes that torchrun started, for the length of a block.

    Args:
        device: of the computation; "cuda" becomes this process's own GPU.

    Yields:
        the device of this process.

    Raises:
        InputError: more processes on this machine than GPUs.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or torch.distributed.is_initialized():
        yield device
        return
    if device.type == "cuda":
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise InputError(
                f"torchrun started more processes than the {torch.cuda.device_count()} GPUs here; "
                "lower --nproc-per-node"
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    # The first process draws, fits readouts and writes files while the others wait for it.
    torch.distributed.init_process_group(
        "nccl" if device.type == "cuda" else "gloo", timeout=timedelta(hours=2)
    )
    try:
        yield device
    finally:
        torch.distributed.destroy_process_group()


def share(total: int) -> slice:
    """This process's part of a batch of `total`.

    Raises:
        InputError: the batch cannot be divided evenly.
    """
    if total % world():
        raise InputError(f"batch is {total}, wanted a multiple of the {world()} processes")
    each = total // world()
    return slice(rank() * each, (rank() + 1) * each)


def sum_across(values: Tensor) -> Tensor:
    """The sum over all processes, with its gradient.

    In the backward pass the gradients of all processes are summed too, and
    `DistributedDataParallel` then averages over processes: a loss that every process computes from
    such a sum has the gradient that a single process would compute.
    """
    if world() == 1:
        return values
    summed: Tensor = _Sum.apply(values)
    return summed


class _Sum(torch.autograd.Function):
    """The sum over all processes, of values and of their gradients."""

    @staticmethod
    def forward(_: Any, values: Tensor) -> Tensor:
        summed = values.clone()
        torch.distributed.all_reduce(summed)
        return summed

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        summed: Tensor = _Sum.apply(gradient)
        return summed


def mean_across(values: Tensor) -> Tensor:
    """The mean over all processes, with its gradient."""
    return sum_across(values) / world()


def any_of(*wishes: bool) -> tuple[bool, ...]:
    """For each wish, whether any process has it."""
    if world() == 1:
        return wishes
    device = torch.device("cuda") if torch.distributed.get_backend() == "nccl" else None
    flags = torch.tensor(wishes, dtype=torch.int32, device=device)
    torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MAX)
    return tuple(bool(flag) for flag in flags.tolist())


def barrier() -> None:
    """Waits for all processes."""
    if world() > 1:
        torch.distributed.barrier()
