"""A small shading language inside Python: one text, two meanings (GLSL and torch).

The operations of a procedural picture (`noise.py`, `operations/`) are written once, as Python
functions of `Value`. Run with the backend of `emit_glsl.py` they write a shader; run with that of
`emit_torch.py` they compute tensors. What a function means on both sides is therefore one thing,
and a parity test holds the two backends together.

A `Value` is a float, a vec2, a vec3, an int (32 bit), a uint (32 bit, wraps) or a bool. Plain
Python numbers may stand beside values, tuples of them for vectors. There is no `if` on values
(`where` chooses), and a loop is `loop(count, body, state...)`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, Literal, Protocol, cast, get_type_hints

Kind = Literal["bool", "int", "uint", "float", "vec2", "vec3"]

WIDTHS: dict[Kind, int] = {"bool": 1, "int": 1, "uint": 1, "float": 1, "vec2": 2, "vec3": 3}


class Backend(Protocol):
    """What gives values a meaning."""

    def constant(self, kind: Kind, value: float | tuple[float, ...]) -> Any:
        """The node of a Python number, or of a tuple of them for a vector."""

    def apply(self, name: str, kind: Kind, arguments: tuple[Value, ...]) -> Any:
        """The node of a built-in function's result; `kind` is the result's."""

    def call(
        self, name: str, body: Callable[..., Value], kinds: tuple[Kind, ...], /, *values: Value
    ) -> Value:
        """The result of a named helper function, which a backend may write out once."""

    def loop(
        self, count: Value, body: Callable[..., tuple[Value, ...]], state: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        """The state after `count` rounds of `state = body(round, *state)`."""


class Value:
    """A typed number of a picture: whatever `node` is, only its backend knows."""

    __slots__ = ("backend", "kind", "node")

    def __init__(self, backend: Backend, kind: Kind, node: Any) -> None:
        self.backend = backend
        self.kind = kind
        self.node = node

    def __add__(self, other: Number) -> Value:
        return _arithmetic("add", self, other)

    def __radd__(self, other: Number) -> Value:
        return _arithmetic("add", other, self)

    def __sub__(self, other: Number) -> Value:
        return _arithmetic("subtract", self, other)

    def __rsub__(self, other: Number) -> Value:
        return _arithmetic("subtract", other, self)

    def __mul__(self, other: Number) -> Value:
        return _arithmetic("multiply", self, other)

    def __rmul__(self, other: Number) -> Value:
        return _arithmetic("multiply", other, self)

    def __truediv__(self, other: Number) -> Value:
        return _arithmetic("divide", self, other)

    def __rtruediv__(self, other: Number) -> Value:
        return _arithmetic("divide", other, self)

    def __neg__(self) -> Value:
        return _apply("negate", self.kind, self)

    def __xor__(self, other: Number) -> Value:
        return _apply("xor", "uint", self, other)

    def __rshift__(self, other: int) -> Value:
        return _apply("shift_right", "uint", self, other)

    def __and__(self, other: Number) -> Value:
        return _apply("and", self.kind, self, other)

    def __lt__(self, other: Number) -> Value:
        return _compare("less", self, other)

    def __le__(self, other: Number) -> Value:
        return _compare("less_equal", self, other)

    def __gt__(self, other: Number) -> Value:
        return _compare("less", other, self)

    def __ge__(self, other: Number) -> Value:
        return _compare("less_equal", other, self)

    @property
    def x(self) -> Value:
        """First component of a vector."""
        return _apply("x", "float", self)

    @property
    def y(self) -> Value:
        """Second component of a vector."""
        return _apply("y", "float", self)

    @property
    def z(self) -> Value:
        """Third component of a vec3."""
        return _apply("z", "float", self)

    @property
    def yx(self) -> Value:
        """A vec2 with its components exchanged."""
        return vec2(self.y, self.x)


# A tuple of two or three plain numbers is a constant vector.
Number = Value | float | tuple[float, ...]

# Names for signatures: a helper function decorated with `function` reads its kinds from them.
Float = Annotated[Value, "float"]
Vec2 = Annotated[Value, "vec2"]
Vec3 = Annotated[Value, "vec3"]
Int = Annotated[Value, "int"]
UInt = Annotated[Value, "uint"]


def function(body: Callable[..., Value]) -> Callable[..., Value]:
    """Makes a helper a named function of the language; its annotations give the kinds."""
    name = body.__name__

    @functools.cache
    def kinds() -> tuple[Kind, ...]:
        hints = get_type_hints(body, include_extras=True)
        names = inspect.signature(body).parameters
        return tuple(cast("Kind", hints[each].__metadata__[0]) for each in names)

    @functools.wraps(body)
    def wrapper(*arguments: Number) -> Value:
        backend = _backend_of(*arguments)
        values = tuple(
            lift(backend, kind, each) for kind, each in zip(kinds(), arguments, strict=True)
        )
        return backend.call(name, body, kinds(), *values)

    return wrapper


def loop(
    count: Number, body: Callable[..., tuple[Value, ...]], *state: Number
) -> tuple[Value, ...]:
    """Repeats `state = body(round, *state)`, round counting 0, 1, ... `count` - 1 as an int."""
    backend = _backend_of(count, *state)
    lifted = tuple(
        each if isinstance(each, Value) else lift(backend, "float", each) for each in state
    )
    return backend.loop(lift(backend, "int", count), body, lifted)


def lift(backend: Backend, kind: Kind, number: Number) -> Value:
    """A Python number as a value of `kind`; values pass through."""
    if isinstance(number, Value):
        return number
    if isinstance(number, tuple):
        kind = "vec2" if len(number) == 2 else "vec3"
    return Value(backend, kind, backend.constant(kind, number))


def vec2(x: Number, y: Number) -> Value:
    """A point or a direction."""
    return _apply("vec2", "vec2", x, y)


def vec3(x: Number, y: Number, z: Number) -> Value:
    """A color or a direction in space."""
    return _apply("vec3", "vec3", x, y, z)


def to_float(x: Value) -> Value:
    """An int or uint (below 2**31) as a float."""
    return _apply("to_float", "float", x)


def to_int(x: Value) -> Value:
    """A float, rounded down, as an int."""
    return _apply("to_int", "int", x)


def to_uint(x: Value) -> Value:
    """The bits of an int as a uint."""
    return _apply("to_uint", "uint", x)


def sin(x: Value) -> Value:
    """Sine, of every component."""
    return _apply("sin", x.kind, x)


def cos(x: Value) -> Value:
    """Cosine, of every component."""
    return _apply("cos", x.kind, x)


def tanh(x: Value) -> Value:
    """Hyperbolic tangent of a float, written with `exp` for a bounded argument."""
    return 1.0 - 2.0 / (exp(2.0 * clamp(x, -10.0, 10.0)) + 1.0)


def atan2(y: Value, x: Value) -> Value:
    """The angle of (x, y) in (-pi, pi]."""
    return _apply("atan2", "float", y, x)


def exp(x: Value) -> Value:
    """E to the x."""
    return _apply("exp", x.kind, x)


def log2(x: Value) -> Value:
    """Logarithm to base 2 of a positive number."""
    return _apply("log2", x.kind, x)


def sqrt(x: Value) -> Value:
    """Square root; of a negative number that of 0."""
    return _apply("sqrt", x.kind, maximum(x, 0.0))


def power(x: Value, exponent: Number) -> Value:
    """X ** exponent for x >= 0; a smaller x counts as 1e-6."""
    return _apply("power", x.kind, maximum(x, 1e-6), exponent)


def absolute(x: Value) -> Value:
    """Absolute value of every component."""
    return _apply("absolute", x.kind, x)


def floor(x: Value) -> Value:
    """The largest whole number not above x."""
    return _apply("floor", x.kind, x)


def fract(x: Value) -> Value:
    """X - floor(x)."""
    return _apply("fract", x.kind, x)


def modulo(x: Value, y: Number) -> Value:
    """X - y * floor(x / y)."""
    return x - y * floor(x / y)


def minimum(x: Number, y: Number) -> Value:
    """The smaller one, component by component."""
    return _arithmetic("minimum", x, y)


def maximum(x: Number, y: Number) -> Value:
    """The larger one, component by component."""
    return _arithmetic("maximum", x, y)


def clamp(x: Value, low: float, high: float) -> Value:
    """X held between two plain numbers."""
    return _apply("clamp", x.kind, x, low, high)


def mix(a: Number, b: Number, share: Number) -> Value:
    """A where share is 0, b where it is 1, linear between and beyond."""
    kind = _widest(a, b, share)
    return _apply("mix", kind, a, b, share)


def smoothstep(low: Number, high: Number, x: Number) -> Value:
    """0 at `low`, 1 at `high`, a smooth cubic between; `low` may be the larger one."""
    backend = _backend_of(low, high, x)
    low, high = lift(backend, "float", low), lift(backend, "float", high)
    share = clamp((x - low) / (high - low), 0.0, 1.0)
    return _apply("hermite", share.kind, share)


def dot(a: Value, b: Value) -> Value:
    """Sum of the products of the components."""
    return _apply("dot", "float", a, b)


def length(v: Value) -> Value:
    """Euclidean length of a vector."""
    return _apply("length", "float", v)


def normalize(v: Value) -> Value:
    """A vector of the same direction and of length 1; the vector 0 stays."""
    return v / maximum(length(v), 1e-6)


def where(condition: Value, yes: Number, no: Number) -> Value:
    """`yes` where the condition holds, else `no`; both are computed."""
    return _apply("where", _widest(yes, no), condition, yes, no)


def rotate(p: Value, angle: Number) -> Value:
    """A point turned around 0 by `angle` radians."""
    angle = lift(p.backend, "float", angle)
    c, s = cos(angle), sin(angle)
    return vec2(c * p.x - s * p.y, s * p.x + c * p.y)


def direction(angle: Value) -> Value:
    """The unit vector at `angle` radians."""
    return vec2(cos(angle), sin(angle))


def _backend_of(*numbers: Any) -> Backend:
    for each in numbers:
        if isinstance(each, Value):
            return each.backend
    raise TypeError("a function of the language wants at least one Value")


def _widest(*numbers: Number) -> Kind:
    kinds: list[Kind] = [each.kind for each in numbers if isinstance(each, Value)]
    kinds += ["vec2" if len(each) == 2 else "vec3" for each in numbers if isinstance(each, tuple)]
    return max(kinds, key=WIDTHS.__getitem__, default="float")


def _apply(name: str, kind: Kind, *arguments: Number) -> Value:
    backend = _backend_of(*arguments)
    scalar: Kind = "float"
    for each in arguments:
        if isinstance(each, Value) and each.kind in ("int", "uint"):
            scalar = each.kind
    values = tuple(lift(backend, scalar, each) for each in arguments)
    return Value(backend, kind, backend.apply(name, kind, values))


def _arithmetic(name: str, a: Number, b: Number) -> Value:
    return _apply(name, _widest(a, b), a, b)


def _compare(name: str, a: Number, b: Number) -> Value:
    return _apply(name, "bool", a, b)
