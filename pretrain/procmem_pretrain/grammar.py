"""Seed -> program: a typed expression graph over `operations.py`. No GL, no torch.

Takes a stream from `seeds.py`, gives `Program` to `emit_glsl.py`. A program is data with one
canonical text; its id is the SHA-256 of that text, so equal ids mean equal pictures.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from procmem.errors import InputError
from procmem_pretrain.operations import OPERATIONS, Operation, Parameter, Type
from procmem_pretrain.seeds import stream

# Past this size a program grows only to its nearest end: the time that a driver takes to compile
# grows faster than the variety (Mesa's software rasterizer: 0.1 s at 10 nodes, 0.8 s at 50).
MAX_NODES = 16

_Allowed = Callable[[Operation], bool]


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


def sample_program(root_seed: int, number: int) -> Program:
    """Program `number` of the endless sequence that belongs to `root_seed`.

    Args:
        root_seed: in [0, 2**63).
        number: 0 or more; programs of different numbers are independent.

    Raises:
        InputError: seed or number out of range.
    """
    if number < 0:
        raise InputError(f"program number is {number}, wanted 0 or more")
    return _Sampler(stream(root_seed, "program", number)).program()


def program_set_sha256(programs: list[Program]) -> str:
    """One hash for a list of programs: SHA-256 over their ids in order."""
    digest = hashlib.sha256()
    for program in programs:
        digest.update(bytes.fromhex(program.id))
    return digest.hexdigest()


class _Sampler:
    """Grows one program from the output down; `depth` left decides how bushy a branch may be."""

    def __init__(self, random: np.random.Generator) -> None:
        self._random = random
        self._nodes: list[Node] = [Node("plane")]
        # Coordinates made so far: parts of a picture that share one look like parts of one thing.
        self._coords: list[int] = [0]

    def program(self) -> Program:
        self._color(depth=int(self._random.integers(0, 3)))
        return Program(tuple(self._nodes))

    def _color(self, depth: int) -> int:
        combining = depth > 0 and len(self._nodes) < MAX_NODES
        name = self._choose("color", lambda op: combining == ("color" in op.inputs))
        return self._apply(name, depth - 1)

    def _scalar(self, depth: int) -> int:
        combining = depth > 0 and len(self._nodes) < MAX_NODES and self._random.random() < 0.45
        name = self._choose("scalar", lambda op: combining == ("scalar" in op.inputs))
        return self._apply(name, depth - 1)

    def _coord(self) -> int:
        if len(self._coords) > 1 and self._random.random() < 0.4:
            return int(self._random.choice(self._coords))
        index = 0
        # Geometric number of warps: most patterns sit on a lightly bent plane, some deep in one.
        while self._random.random() < 0.5 and len(self._nodes) < MAX_NODES:
            operation = self._choose("coord", lambda _: True)
            index = self._append(operation, (index,))
        self._coords.append(index)
        return index

    def _apply(self, name: str, depth: int) -> int:
        inputs = []
        for kind in OPERATIONS[name].inputs:
            if kind == "coord":
                inputs.append(self._coord())
            elif kind == "scalar":
                inputs.append(self._scalar(min(depth, 2) if depth > 0 else 1))
            else:
                inputs.append(self._color(depth))
        return self._append(name, tuple(inputs))

    def _append(self, name: str, inputs: tuple[int, ...]) -> int:
        parameters = tuple(self._draw(parameter) for parameter in OPERATIONS[name].parameters)
        self._nodes.append(Node(name, inputs, parameters))
        return len(self._nodes) - 1

    def _choose(self, output: Type, allowed: _Allowed) -> str:
        names = [n for n, op in OPERATIONS.items() if op.output == output and allowed(op)]
        weights = np.array([OPERATIONS[n].weight for n in names])
        return names[int(self._random.choice(len(names), p=weights / weights.sum()))]

    def _draw(self, parameter: Parameter) -> float:
        if parameter.scale == "integer":
            return float(self._random.integers(int(parameter.low), int(parameter.high) + 1))
        if parameter.scale == "log":
            value = np.exp(self._random.uniform(np.log(parameter.low), np.log(parameter.high)))
        else:
            value = self._random.uniform(parameter.low, parameter.high)
        # Four digits keep the text short and the same on every platform.
        return round(float(value), 4)
