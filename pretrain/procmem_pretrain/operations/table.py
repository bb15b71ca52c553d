"""What an operation is, and the table that the decorator `operation` fills.

An operation is one Python function in `language.py`'s terms:

    @operation("coord -> coord", weight=2.0, angle=ANGLE, zoom=log(0.4, 2.5))
    def turn(p: Value, *, angle: Value, zoom: Value) -> Value:

Its positional arguments are the inputs, its keyword arguments the parameters, drawn once per
program; `t` among them is the time in seconds. Nothing else knows the operation: the grammar draws
it from the table, both emitters run it. Types: "coord" is a point of the plane (vec2; the picture
spans about [-1, 1]); "scalar" a float, by convention near [0, 1]; "distance" a signed distance to a
shape, negative inside; "color" RGB (vec3) in [0, 1]; "field" a scalar that can be asked at any
point, for slopes and shadows.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, cast, get_args

from procmem_pretrain.language import Kind, Value

Type = Literal["coord", "scalar", "distance", "color", "field"]
Scale = Literal["linear", "log", "integer", "seed", "hue", "vividness"]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A number drawn once per program.

    Attributes:
        low: smallest value.
        high: largest value.
        scale: "linear"; "log" (uniform in the logarithm); "integer" or "seed" (both ends
            included); "hue" (near one of the picture's few hues, turns) or "vividness" (up to
            the picture's own), so that the colors of one picture belong together.
    """

    low: float
    high: float
    scale: Scale = "linear"

    @property
    def kind(self) -> Kind:
        """What the parameter is in the language."""
        return {"integer": "int", "seed": "uint"}.get(self.scale, "float")  # type: ignore[return-value]  # dict.get widens


@dataclass(frozen=True, slots=True)
class Operation:
    """One kind of node.

    Attributes:
        inputs: types of the nodes it reads.
        output: type of what it gives.
        function: inputs, then parameters by name -> Value.
        parameters: by name, in the order in which they are drawn.
        weight: relative chance among the operations of the same output type.
        takes_time: whether the function has an argument `t`.
    """

    inputs: tuple[Type, ...]
    output: Type
    function: Callable[..., Value]
    parameters: dict[str, Parameter]
    weight: float
    takes_time: bool


OPERATIONS: dict[str, Operation] = {}


def operation(
    signature: str, *, weight: float = 1.0, **parameters: Parameter
) -> Callable[[Callable[..., Value]], Callable[..., Value]]:
    """Puts a function into the table under its name.

    Args:
        signature: "coord scalar -> color".
        weight: relative chance among the operations of the same output type.
        **parameters: ranges, by the names of the function's keyword arguments.

    Raises:
        ValueError: the name is taken, or signature, function and ranges disagree.
    """
    left, _, right = signature.partition(" -> ")
    inputs = cast("tuple[Type, ...]", tuple(left.split()))
    output = cast("Type", right)
    if not set(inputs) | {output} <= set(get_args(Type)):
        raise ValueError(f"signature is {signature!r}, wanted types out of {get_args(Type)}")

    def register(function: Callable[..., Value]) -> Callable[..., Value]:
        name = function.__name__
        arguments = inspect.signature(function).parameters.values()
        named = {each.name for each in arguments if each.kind is each.KEYWORD_ONLY}
        positional = sum(each.kind is each.POSITIONAL_OR_KEYWORD for each in arguments)
        if name in OPERATIONS or named - {"t"} != set(parameters) or positional != len(inputs):
            raise ValueError(f"operation {name} is double, or does not fit {signature!r}")
        OPERATIONS[name] = Operation(inputs, output, function, parameters, weight, "t" in named)
        return function

    return register


def linear(low: float, high: float) -> Parameter:
    """Uniform in [low, high]."""
    return Parameter(low, high)


def log(low: float, high: float) -> Parameter:
    """Uniform in the logarithm."""
    return Parameter(low, high, "log")


def integer(low: int, high: int) -> Parameter:
    """A whole number, both ends included."""
    return Parameter(low, high, "integer")


ANGLE = linear(0.0, 6.2832)
UNIT = linear(0.0, 1.0)
PLACE = linear(-0.8, 0.8)
SPEED = linear(-0.4, 0.4)
SEED = Parameter(0, 65535, "seed")
HUE = Parameter(0.0, 1.0, "hue")
SATURATION = Parameter(0.0, 1.0, "vividness")
