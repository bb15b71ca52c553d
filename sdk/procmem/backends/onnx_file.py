"""What an ONNX file may be, read off its bytes before any engine sees them.

Called by `opening.py`. Walks the protobuf encoding itself, in one pass and without a schema: an
engine that is asked "is this file harmless?" has by then parsed it. A file must be self-contained
(a tensor kept elsewhere names a path, or in some engines a memory address, that is read while the
model loads and that no hash covers: CVE-2022-25882, CVE-2024-27318), may use the operators of
`operators.py` only (one of another domain is code of whoever registered it), may hold no graph
inside a graph, and must hold every number that its tensors claim to have. Never opens a file, never
runs anything.

A graph of allowed operators may still ask for more memory or time than there is, as every graph
may; an engine then fails, and says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from procmem.backends.operators import ALLOWED_OPERATORS
from procmem.errors import ModelIntegrityError

ALLOWED_DOMAINS = frozenset(("", "ai.onnx"))
"""Operator domains of a procmem model: ONNX's own, under its two names."""

# Where tensors and nodes can be in a model: message -> field number -> message, from onnx.proto.
_NESTED = {
    "model": {7: "graph", 8: "opset", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "opset": {},
    "function": {},
    "tensor": {},
}
# Messages that may stand once only where they stand. Protobuf merges those that are repeated, which
# would make one tensor of two, and of two graphs one that neither is.
_SINGLE = {("model", 7), ("attribute", 5), ("attribute", 6)}

_EXTERNAL_DATA, _DATA_LOCATION = 13, 14  # fields of a tensor whose values live in another file
_DOMAIN = {"node": 7, "opset": 1}  # fields with the name of an operator domain
_OPERATOR = 4  # field of a node with the name of its operator
_DIMENSIONS, _TYPE, _RAW = 1, 2, 9  # fields of a tensor
_TYPED_VALUES = (4, 5, 7, 10, 11)  # fields of a tensor whose numbers are not raw bytes
_STRINGS = 6  # field of a tensor of texts

# Bits of one element by the tensor's type, as onnx.proto numbers them. Texts are not among them.
_BITS = {
    **dict.fromkeys((2, 3, 9, 17, 18, 19, 20, 24), 8),  # int8, bool, float8
    **dict.fromkeys((4, 5, 10, 16), 16),  # int16, float16, bfloat16
    **dict.fromkeys((1, 6, 12), 32),  # float, int32
    **dict.fromkeys((7, 11, 13, 14), 64),  # int64, double, complex64
    15: 128,  # complex128
    **dict.fromkeys((21, 22, 23), 4),  # int4, float4
    **dict.fromkeys((25, 26), 2),  # int2
}

MAX_NODES = 20_000
"""Most operators in a file; a ViT-L in 8 bits has some 5,000."""


class Field(NamedTuple):
    """One field of a message.

    Attributes:
        message: what it is a field of, a key of the table above.
        first: byte at which that message starts: the same for all fields of one.
        number: which field, as onnx.proto numbers it.
        wire_type: 0 for a number, 1 and 5 for eight and four bytes, 2 for any number of bytes.
        value: of a number; 0 for others.
        start: its first byte, behind the number and the length of the field.
        end: the byte after its last.
    """

    message: str
    first: int
    number: int
    wire_type: int
    value: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Contents:
    """What a file's bytes hold, as far as it decides whether and where it may run.

    Attributes:
        external: whether a tensor's values live in another file.
        functions: whether it defines operators of its own.
        domains: of all operators and of all imported operator sets.
        operators: names of all operators.
        nodes: how many operators there are.
        beyond: what else no model may hold, in words for people; empty if nothing.
    """

    external: bool
    functions: bool
    domains: frozenset[str]
    operators: frozenset[str]
    nodes: int
    beyond: tuple[str, ...]

    @property
    def finds_ranges_while_running(self) -> bool:
        """Whether it quantizes by each input's own range: int8 without a calibration."""
        return "DynamicQuantizeLinear" in self.operators


def check_file(data: bytes, file: str) -> Contents:
    """Refuses what no procmem model may hold, and says what is left.

    Args:
        data: the whole file.
        file: its name, for messages.

    Raises:
        ModelIntegrityError: the bytes are no ONNX model, keep tensors in other files, define
            operators, use operators of another domain than ONNX's or such as no model needs, or
            hold something else than one graph and its tensors.
    """
    try:
        contents = read_contents(data)
    except (IndexError, KeyError) as error:
        raise ModelIntegrityError(
            f"{file} is not an ONNX file (its {len(data)} bytes do not parse); "
            "restore it, or export the checkpoint again"
        ) from error
    if contents.external:
        raise ModelIntegrityError(
            f"{file} keeps tensors in other files, wanted one self-contained file; "
            "export the checkpoint with procmem-export"
        )
    foreign = sorted(contents.domains - ALLOWED_DOMAINS)
    if foreign:
        raise ModelIntegrityError(
            f"{file} uses operators of the domain {', '.join(map(repr, foreign))}, wanted those of "
            "ONNX itself only; export the checkpoint with procmem-export"
        )
    if contents.functions:
        raise ModelIntegrityError(
            f"{file} defines operators of its own (functions), wanted those of ONNX itself only; "
            "export the checkpoint with procmem-export"
        )
    if contents.beyond:
        raise ModelIntegrityError(
            f"{file} holds {', '.join(contents.beyond[:3])}, wanted one graph of plain tensors; "
            "export the checkpoint with procmem-export"
        )
    unknown = sorted(contents.operators - ALLOWED_OPERATORS)
    if unknown:
        raise ModelIntegrityError(
            f"{file} uses the operators {', '.join(map(repr, unknown[:5]))}, which no perception "
            "needs; export the checkpoint with procmem-export"
        )
    if contents.nodes > MAX_NODES:
        raise ModelIntegrityError(
            f"{file} has {contents.nodes:,} operators, wanted {MAX_NODES:,} at most; export the "
            "checkpoint with procmem-export"
        )
    return contents


def read_contents(data: bytes) -> Contents:
    """Walks the encoding once; raises IndexError or KeyError if damaged or without a graph."""
    external = functions = False
    domains: set[str] = set()
    operators: set[str] = set()
    beyond: list[str] = []
    seen: set[tuple[str, int, int]] = set()
    tensor = _Tensor(-1)
    nodes = 0
    for field in walk(data):
        message, number = field.message, field.number
        inner = _NESTED[message].get(number)
        if inner is not None and field.wire_type == 2:
            functions |= inner == "function"
            nodes += inner == "node"
            place = (message, field.first, number)
            if (message, number) in _SINGLE and place in seen:
                beyond.append(f"two {inner}s where one belongs")
            seen.add(place)
            if inner in ("training", "sparse"):
                beyond.append({"training": "a training graph", "sparse": "sparse tensors"}[inner])
            if inner == "graph" and message == "attribute":
                beyond.append("a graph inside an operator (control flow)")
        elif message == "tensor":
            if field.first != tensor.first:
                beyond += tensor.problems()
                tensor = _Tensor(field.first)
            tensor.add(field, data)
            external |= number == _EXTERNAL_DATA or (number == _DATA_LOCATION and field.value != 0)
        elif field.wire_type == 2 and number == _DOMAIN.get(message):
            domains.add(data[field.start : field.end].decode(errors="replace"))
        elif field.wire_type == 2 and message == "node" and number == _OPERATOR:
            operators.add(data[field.start : field.end].decode(errors="replace"))
    beyond += tensor.problems()
    if ("model", 0, 7) not in seen:
        raise KeyError("graph")
    return Contents(
        external,
        functions,
        frozenset(domains),
        frozenset(operators),
        nodes,
        tuple(dict.fromkeys(beyond)),
    )


class _Tensor:
    """One tensor while its fields are read: what it claims to hold and what it holds."""

    def __init__(self, first: int) -> None:
        self.first = first
        self._elements = 1
        self._type = 0
        self._raw: int | None = None
        self._typed = 0
        self._problems: list[str] = []

    def add(self, field: Field, data: bytes) -> None:
        length = field.end - field.start
        if field.number == _DIMENSIONS:
            at = field.start
            while at < field.end:  # one number, or several packed
                dimension, at = varint(data, at)
                if dimension >= 1 << 63:
                    self._problems.append("a tensor with a negative dimension")
                self._elements *= dimension
        elif field.number == _TYPE:
            self._type = field.value
        elif field.number == _RAW:
            self._raw = length
        elif field.number in _TYPED_VALUES:
            self._typed += length
        elif field.number == _STRINGS:
            self._problems.append("a tensor of texts")

    def problems(self) -> list[str]:
        """What is wrong with it, once all its fields are read."""
        if self.first < 0:
            return []
        bits = _BITS.get(self._type)
        if bits is None:
            return [*self._problems, f"a tensor of the type {self._type}, which is no number's"]
        wanted = (self._elements * bits + 7) // 8
        # Without raw bytes each number takes one or more, or half of one where two are packed.
        least = self._elements // 2 if bits < 8 else self._elements
        if self._raw is None and self._typed < least:
            self._problems.append("a tensor that claims more numbers than it holds")
        elif self._raw is not None and (self._raw != wanted or self._typed):
            self._problems.append("a tensor whose size is not that of its numbers")
        return self._problems


def walk(data: bytes) -> Iterator[Field]:
    """Gives every field of a model and of all messages in it that can hold tensors or operators.

    The fields of one message come one after another; those of a message inside it come later.

    Raises:
        IndexError, KeyError: the encoding is damaged there; what came before was sound.
    """
    pending = [("model", 0, len(data))]
    while pending:
        message, at, end = pending.pop()
        first = at
        while at < end:
            key, at = varint(data, at)
            number, wire_type = key >> 3, key & 7
            if wire_type == 0:
                value, after = varint(data, at)
                yield Field(message, first, number, wire_type, value, at, after)
                at = after
                continue
            size, at = varint(data, at) if wire_type == 2 else ({1: 8, 5: 4}[wire_type], at)
            if at + size > end:
                raise IndexError(at)
            nested = _NESTED[message].get(number) if wire_type == 2 else None
            if nested is not None:
                pending.append((nested, at, at + size))
            yield Field(message, first, number, wire_type, 0, at, at + size)
            at += size


def varint(data: bytes, at: int) -> tuple[int, int]:
    """The number that starts at a byte, and the byte after it; IndexError where it has no end."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise IndexError(at)
