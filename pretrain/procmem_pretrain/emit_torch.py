"""Program -> uint8 images with torch alone, on the CPU or a GPU: no driver, no compiler.

Takes `Program` from `program.py`, gives images to `render.py`. The backend computes what
`language.py` says with tensors of shape (N, S, S), one for each component; numbers that are the
same for the whole picture stay Python numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from procmem_pretrain.language import WIDTHS, Kind, Value, lift
from procmem_pretrain.program import Program

Scalar = Any  # a Python number or a Tensor (N, S, S)

# Pixels that one pass computes on the CPU: enough to hide the cost of starting an operation, few
# enough that the tensors in use stay in the cache. Chosen with benchmarks/bench_render.py.
CPU_PIXELS = 64 * 1024


class TooManyOperationsError(Exception):
    """A program takes more operations than it may."""


class TorchBackend:
    """Computes values; counts the operations, which is what a program costs on any machine.

    Args:
        max_operations: past this count the evaluation ends with TooManyOperationsError.
    """

    def __init__(self, max_operations: int | None = None) -> None:
        self.operations = 0
        self._max_operations = math.inf if max_operations is None else max_operations

    def constant(self, kind: Kind, value: float | tuple[float, ...]) -> Any:
        """Python numbers stay as they are; a uint is kept as the int32 of the same bits."""
        if isinstance(value, tuple):
            return tuple(map(float, value))
        return float(value) if kind == "float" else _signed(int(value))

    def apply(self, name: str, kind: Kind, arguments: tuple[Value, ...]) -> Any:
        """One built-in function, component by component."""
        self.operations += 1
        if self.operations > self._max_operations:
            raise TooManyOperationsError
        nodes = [argument.node for argument in arguments]
        special = _SPECIAL.get(name)
        if special is not None:
            return special(*nodes)
        compute = _INTEGER[name] if arguments[0].kind == "uint" else _COMPONENTWISE[name]
        width = WIDTHS[kind]
        if width == 1:
            return compute(*nodes)
        columns = [node if isinstance(node, tuple) else (node,) * width for node in nodes]
        return tuple(compute(*parts) for parts in zip(*columns, strict=True))

    def call(
        self,
        _name: str,
        body: Callable[..., Value],
        _kinds: tuple[Kind, ...],
        *values: Value,
    ) -> Value:
        """Simply runs the helper."""
        return body(*values)

    def loop(
        self, count: Value, body: Callable[..., tuple[Value, ...]], state: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        """Simply runs the rounds."""
        for index in range(int(count.node)):
            state = body(lift(self, "int", index), *state)
        return state


@torch.no_grad()
def evaluate(
    program: Program,
    times: npt.NDArray[np.float64],
    views: npt.NDArray[np.float64],
    *,
    side: int,
    device: torch.device | str = "cpu",
    max_operations: int | None = None,
) -> tuple[Tensor, Tensor, int]:
    """Computes one image of a program per time and view.

    Args:
        program: what to draw.
        times: (N,) seconds.
        views: (N, 4): center x, center y, angle in radians, zoom (larger shows more).
        side: S, pixels.
        device: where.
        max_operations: the most that one image may take; None is no limit.

    Returns:
        images (N, 3, S, S) uint8, finite (N,) bool (False where any pixel was not a finite
        number), and the count of operations that one image took.

    Raises:
        TooManyOperationsError: an image takes more than `max_operations`.
    """
    device = torch.device(device)
    count = len(times)
    step = count if device.type != "cpu" else max(1, CPU_PIXELS // (side * side))
    images = torch.empty(count, 3, side, side, dtype=torch.uint8, device=device)
    finite = torch.empty(count, dtype=torch.bool, device=device)
    backend = TorchBackend(max_operations)
    for first in range(0, count, step):
        part = slice(first, min(first + step, count))
        backend.operations = 0
        color = _color(backend, program, times[part], views[part], side, device)
        total = color[0] + color[1] + color[2]
        finite[part] = torch.isfinite(total).flatten(1).all(1)
        for channel, values in enumerate(color):
            # Round half up, as a driver converts a color in [0, 1] to 8 bits.
            levels = values.clamp(0, 1).mul_(255).add_(0.5)
            images[part, channel] = levels.nan_to_num_(0).to(torch.uint8)
    return images, finite, backend.operations


def _color(
    backend: TorchBackend,
    program: Program,
    times: npt.NDArray[np.float64],
    views: npt.NDArray[np.float64],
    side: int,
    device: torch.device,
) -> tuple[Tensor, Tensor, Tensor]:
    axis = (torch.arange(side, dtype=torch.float32, device=device) + 0.5) * (2 / side) - 1
    # Copies of these few numbers are laid out on the host and sent once.
    center_x, center_y, angle, zoom = (
        torch.from_numpy(column.astype(np.float32)).to(device)[:, None, None] for column in views.T
    )
    x, y = axis[None, None, :], -axis[None, :, None]  # rows run downward, y upward
    c, s = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    plane = Value(backend, "vec2", (c * x - s * y + center_x, s * x + c * y + center_y))
    time = torch.from_numpy(times.astype(np.float32)).to(device)[:, None, None]
    color = program.evaluate(plane, Value(backend, "float", time)).node
    shape = (len(times), side, side)
    full = [
        channel.expand(shape)
        if isinstance(channel, Tensor)
        else torch.full(shape, float(channel), device=device)
        for channel in color
    ]
    return full[0], full[1], full[2]


def _signed(value: int) -> int:
    value &= 0xFFFFFFFF
    return value - 0x100000000 if value >= 0x80000000 else value


def _either(tensor_function: Callable[..., Tensor], number_function: Callable[..., float]) -> Any:
    """The tensor function where there is a tensor, else the one for Python numbers."""

    def compute(*nodes: Scalar) -> Scalar:
        if any(isinstance(node, Tensor) for node in nodes):
            return tensor_function(*nodes)
        return number_function(*nodes)

    return compute


def _minimum(a: Scalar, b: Scalar) -> Scalar:
    if isinstance(a, Tensor):
        return torch.minimum(a, b) if isinstance(b, Tensor) else a.clamp(max=b)
    return b.clamp(max=a) if isinstance(b, Tensor) else min(a, b)


def _maximum(a: Scalar, b: Scalar) -> Scalar:
    if isinstance(a, Tensor):
        return torch.maximum(a, b) if isinstance(b, Tensor) else a.clamp(min=b)
    return b.clamp(min=a) if isinstance(b, Tensor) else max(a, b)


def _mix(a: Scalar, b: Scalar, share: Scalar) -> Scalar:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.lerp(a, b, share)
    return a + (b - a) * share


def _divide(a: Scalar, b: Scalar) -> Scalar:
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return a / b
    return a / b if b != 0 else math.copysign(math.inf, a) if a else math.nan


def _power(base: Scalar, exponent: Scalar) -> Scalar:
    if isinstance(base, Tensor):
        # As drivers do it; many times faster than a general pow.
        return torch.exp2(torch.log2(base) * exponent)
    return base**exponent


def _where(condition: Scalar, yes: Any, no: Any) -> Any:
    if isinstance(yes, tuple) or isinstance(no, tuple):
        width = len(yes if isinstance(yes, tuple) else no)
        yes = yes if isinstance(yes, tuple) else (yes,) * width
        no = no if isinstance(no, tuple) else (no,) * width
        return tuple(_where(condition, a, b) for a, b in zip(yes, no, strict=True))
    if not isinstance(condition, Tensor):
        return yes if condition else no
    return torch.where(condition, yes, no)


def _dot(a: tuple[Scalar, ...], b: tuple[Scalar, ...]) -> Scalar:
    total = a[0] * b[0]
    for left, right in zip(a[1:], b[1:], strict=True):
        if isinstance(total, Tensor) and isinstance(left, Tensor) and isinstance(right, Tensor):
            total = torch.addcmul(total, left, right)
        else:
            total = total + left * right
    return total


def _length(v: tuple[Scalar, ...]) -> Scalar:
    square = _dot(v, v)
    return square.sqrt() if isinstance(square, Tensor) else math.sqrt(square)


def _shift_right(a: Scalar, bits: int) -> Scalar:
    if isinstance(a, Tensor):
        return (a >> bits) & ((1 << (32 - bits)) - 1)
    return (a & 0xFFFFFFFF) >> bits


def _hermite(x: Scalar) -> Scalar:
    return x * x * (3.0 - 2.0 * x)


_COMPONENTWISE: dict[str, Callable[..., Scalar]] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "divide": _divide,
    "negate": lambda a: -a,
    "less": lambda a, b: a < b,
    "less_equal": lambda a, b: a <= b,
    "and": lambda a, b: a & b,
    "sin": _either(torch.sin, math.sin),
    "cos": _either(torch.cos, math.cos),
    "exp": _either(torch.exp, math.exp),
    "log2": _either(torch.log2, math.log2),
    "sqrt": _either(torch.sqrt, math.sqrt),
    "absolute": abs,
    "floor": _either(torch.floor, math.floor),
    "fract": _either(lambda x: x - torch.floor(x), lambda x: x - math.floor(x)),
    "power": _power,
    "minimum": _minimum,
    "maximum": _maximum,
    "clamp": lambda x, low, high: _minimum(_maximum(x, low), high),
    "mix": _mix,
    "hermite": _hermite,
}

_INTEGER: dict[str, Callable[..., Scalar]] = {
    "add": lambda a, b: _wrapped(a + b),
    "multiply": lambda a, b: _wrapped(a * b),
    "xor": lambda a, b: _wrapped(a ^ b),
    "and": lambda a, b: _wrapped(a & b),
    "shift_right": _shift_right,
}

# Functions that take or give whole vectors, or change the kind.
_SPECIAL: dict[str, Callable[..., Any]] = {
    "vec2": lambda x, y: (x, y),
    "vec3": lambda x, y, z: (x, y, z),
    "x": lambda v: v[0],
    "y": lambda v: v[1],
    "z": lambda v: v[2],
    "dot": _dot,
    "length": _length,
    "where": _where,
    "atan2": _either(lambda y, x: torch.atan2(_tensor(y, x), _tensor(x, y)), math.atan2),
    "to_float": lambda x: x.float() if isinstance(x, Tensor) else float(x),
    "to_int": _either(lambda x: torch.floor(x).to(torch.int32), lambda x: math.floor(x)),
    "to_uint": lambda x: x,
}


def _wrapped(value: Scalar) -> Scalar:
    return value if isinstance(value, Tensor) else _signed(value)


def _tensor(value: Scalar, like: Scalar) -> Tensor:
    return value if isinstance(value, Tensor) else torch.full_like(like, value)
