"""What an ONNX file may be, read off its bytes before any engine sees them.

Called by `opening.py`. Walks the protobuf encoding itself, in one pass and without a schema: an
engine that is asked "is this file harmless?" has by then parsed it. A file must be self-contained
(a tensor kept elsewhere names a path, or in some engines a memory address, that is read while the
model loads and that no hash covers: CVE-2022-25882, CVE-2024-27318), and may use the operators of
ONNX itself only (an operator of another domain is code of whoever registered it). Never opens a
file, never runs anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

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
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14  # fields of a tensor whose values live in another file
_DOMAIN = {"node": 7, "opset": 1}  # fields with the name of an operator domain
_OPERATOR = 4  # field of a node with the name of its operator


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
    """

    external: bool
    functions: bool
    domains: frozenset[str]
    operators: frozenset[str]

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
            operators, or use operators of another domain than ONNX's.
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
    return contents


def read_contents(data: bytes) -> Contents:
    """Walks the whole encoding once; raises IndexError or KeyError where it is damaged."""
    external = functions = False
    domains: set[str] = set()
    operators: set[str] = set()
    for field in walk(data):
        message, number = field.message, field.number
        functions |= _NESTED[message].get(number) == "function" and field.wire_type == 2
        if field.wire_type == 0:
            external |= message == "tensor" and number == _DATA_LOCATION and field.value != 0
            continue
        external |= message == "tensor" and number == _EXTERNAL_DATA
        if field.wire_type == 2 and number == _DOMAIN.get(message):
            domains.add(data[field.start : field.end].decode(errors="replace"))
        elif field.wire_type == 2 and message == "node" and number == _OPERATOR:
            operators.add(data[field.start : field.end].decode(errors="replace"))
    return Contents(external, functions, frozenset(domains), frozenset(operators))


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
