"""Where networks run, by the name that people give."""

from __future__ import annotations

import torch

from procmem.errors import InputError

_TYPES = ("cpu", "cuda")


def torch_device(name: str) -> torch.device:
    """The device of a name like "cpu", "cuda" or "cuda:1".

    Raises:
        InputError: another kind of device, or no GPU where one is named.
    """
    if name.partition(":")[0] not in _TYPES:  # torch answers some of them with pages
        raise InputError(f"device is {name!r}, wanted for example 'cpu' or 'cuda'")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"device is {name!r}, wanted for example 'cpu' or 'cuda'") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device is {name!r}, but torch sees no GPU; use --device cpu")
    return device
