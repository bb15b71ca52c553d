"""A program: a picture as a typed graph of operations. Data with one canonical text.

`grammar.py` grows programs out of seeds; `emit_glsl.py` and `emit_torch.py` give them pixels. The
id of a program is the SHA-256 of its text, so equal ids mean equal pictures.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from procmem.errors import InputError, unknown_choice
from procmem_pretrain.language import Value, Vec2, lift
from procmem_pretrain.operations import OPERATIONS

PLANE = "plane"


@dataclass(frozen=True, slots=True)
class Node:
    """One operation applied to earlier nodes.

    Attributes:
        operation: key into `OPERATIONS`, or "plane" for the picture's own coordinates.
        inputs: indices of earlier nodes.
        parameters: numbers in the order of the operation's parameters.
    """

    operation: str
    inputs: tuple[int, ...] = ()
    parameters: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Program:
    """A picture as a graph: nodes in order of evaluation, the last one gives the color."""

    nodes: tuple[Node, ...]

    @property
    def text(self) -> str:
        """The canonical text: a line per node, `index operation inputs | parameters`."""
        return "\n".join(
            f"{index} {node.operation} {' '.join(map(str, node.inputs))} | "
            f"{' '.join(repr(value) for value in node.parameters)}"
            for index, node in enumerate(self.nodes)
        )

    @property
    def id(self) -> str:
        """SHA-256 of the canonical text, lowercase hexadecimal."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def evaluate(self, plane: Value, time: Value) -> Value:
        """The color of a point of the plane, in the language of `language.py`.

        Args:
            plane: a vec2; the picture spans about [-1, 1].
            time: a float, seconds.

        Returns:
            a vec3, linear in nothing but the screen: RGB, meant to be clamped to [0, 1].
        """
        return _Evaluation(self.nodes, time).value(len(self.nodes) - 1, plane, {})


def parse_program(text: str) -> Program:
    """The program of a canonical text.

    Raises:
        InputError: a line is not readable, names no operation, or does not fit its operation; the
            message says which line.
    """
    nodes: list[Node] = []
    kinds: list[str] = []
    for number, line in enumerate(text.splitlines()):
        head, bar, tail = line.partition("|")
        words = head.split()
        try:
            index, name = int(words[0]), words[1]
            node = Node(name, tuple(map(int, words[2:])), tuple(map(float, tail.split())))
        except (IndexError, ValueError) as error:
            raise InputError(
                f"line {number + 1} of the program is {line!r}, wanted "
                "'index operation inputs | parameters'"
            ) from error
        if index != number or not bar:
            raise InputError(f"line {number + 1} of the program is {line!r}, wanted index {number}")
        kinds.append(_check(node, kinds, number))
        nodes.append(node)
    if not kinds or kinds[-1] != "color":
        raise InputError("the program's last node gives no color; end it with a color operation")
    return Program(tuple(nodes))


def _check(node: Node, kinds: list[str], number: int) -> str:
    """The output type of a node that fits its operation and its inputs, or InputError."""
    if node.operation == PLANE and not node.inputs and not node.parameters and number == 0:
        return "coord"
    if node.operation not in OPERATIONS:
        raise unknown_choice("operation", node.operation, tuple(OPERATIONS))
    operation = OPERATIONS[node.operation]
    # A field is a scalar node that is evaluated at many points instead of one.
    wanted = tuple("scalar" if kind == "field" else kind for kind in operation.inputs)
    got = tuple(kinds[i] if 0 <= i < number else "nothing" for i in node.inputs)
    if got != wanted or len(node.parameters) != len(operation.parameters):
        raise InputError(
            f"node {number} ({node.operation}) reads {got} and {len(node.parameters)} numbers, "
            f"wanted {wanted} and {len(operation.parameters)}"
        )
    return operation.output


class _Evaluation:
    """Evaluates nodes on demand, each once for every plane it is asked on."""

    def __init__(self, nodes: tuple[Node, ...], time: Value) -> None:
        self._nodes = nodes
        self._time = time

    def value(self, index: int, plane: Value, known: dict[int, Value]) -> Value:
        node = self._nodes[index]
        if node.operation == PLANE:
            return plane
        if index not in known:
            operation = OPERATIONS[node.operation]
            inputs = [
                self._field(each) if kind == "field" else self.value(each, plane, known)
                for each, kind in zip(node.inputs, operation.inputs, strict=True)
            ]
            named = {
                name: lift(plane.backend, parameter.kind, number)
                for (name, parameter), number in zip(
                    operation.parameters.items(), node.parameters, strict=True
                )
            }
            if operation.takes_time:
                named["t"] = self._time
            known[index] = operation.function(*inputs, **named)
        return known[index]

    def _field(self, index: int) -> object:
        """The scalar node `index` as a function of the plane, to be called at many points."""

        def body(p: Value) -> Value:
            return self.value(index, p, {})

        def field(p: Vec2) -> Value:
            return p.backend.call(f"field{index}", body, ("vec2",), p)

        return field
