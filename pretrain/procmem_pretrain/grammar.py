"""Seed -> program: a typed expression graph over `operations/`. No GL, no torch.

Takes a stream from `seeds.py`, gives `Program` to the emitters. A program grows from the color of
its picture down to the plane: every operation asks for inputs of its types, until the depth drawn
for the program is used up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

import numpy as np

from procmem.errors import InputError
from procmem_pretrain.operations import OPERATIONS, Operation, Parameter, Type
from procmem_pretrain.program import PLANE, Node, Program
from procmem_pretrain.seeds import stream

# Changes whenever equal seeds would give other programs; part of a bank's and a model's origin.
GRAMMAR = "2"

# Past this size a program grows only to its nearest ends: pictures of more parts look alike (all
# busy), and take longer to compile and to draw.
MAX_NODES = 24

# Chances, chosen by looking at contact sheets: deeper is busier, shallower is duller.
_DEPTHS = (0.15, 0.3, 0.35, 0.2)  # of a color: 0 is one palette, 3 up to eight layers
_COMBINE_SCALARS = 0.4
_COMBINE_SHAPES = 0.4
_ANOTHER_WARP = 0.5
_REUSE_PLANE = 0.45

_Allowed = Callable[[Operation], bool]


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


def program_set_sha256(programs: Iterable[Program]) -> str:
    """One hash for a list of programs: SHA-256 over their ids in order."""
    digest = hashlib.sha256()
    for program in programs:
        digest.update(bytes.fromhex(program.id))
    return digest.hexdigest()


class _Sampler:
    """Grows one program; `depth` left decides how bushy a branch may be."""

    def __init__(self, random: np.random.Generator) -> None:
        self._random = random
        self._nodes: list[Node] = [Node(PLANE)]
        # Planes made so far: parts of a picture that share one look like parts of one thing.
        self._planes: list[int] = [0]
        # One to three hues and one vividness for the whole picture, as scenes have them.
        base = random.random()
        self._hues = (base + random.choice([0.0, 0.5, 0.08, -0.08, 0.33], size=3)) % 1.0
        self._vividness = random.random()

    def program(self) -> Program:
        self._color(int(self._random.choice(len(_DEPTHS), p=_DEPTHS)))
        return Program(tuple(self._nodes))

    def _may_grow(self, depth: int, chance: float = 1.0) -> bool:
        return depth > 0 and len(self._nodes) < MAX_NODES and self._random.random() < chance

    def _color(self, depth: int) -> int:
        combining = self._may_grow(depth)
        return self._apply("color", lambda op: combining == ("color" in op.inputs), depth - 1)

    def _scalar(self, depth: int) -> int:
        combining = self._may_grow(depth, _COMBINE_SCALARS)
        return self._apply("scalar", lambda op: combining == ("scalar" in op.inputs), depth - 1)

    def _distance(self, depth: int) -> int:
        combining = self._may_grow(depth, _COMBINE_SHAPES)
        return self._apply("distance", lambda op: combining == ("distance" in op.inputs), depth - 1)

    def _field(self) -> int:
        # A height is asked at many points, so it stays one texture or one shape.
        return self._apply("scalar", lambda op: op.inputs in (("coord",), ("distance",)), 0)

    def _plane(self) -> int:
        if len(self._planes) > 1 and self._random.random() < _REUSE_PLANE:
            return int(self._random.choice(self._planes))
        index = 0
        # Geometric number of warps: most patterns sit on a lightly bent plane, some deep in one.
        while self._random.random() < _ANOTHER_WARP and len(self._nodes) < MAX_NODES:
            name = self._choose("coord", lambda _: True)
            inputs = [index]
            if "scalar" in OPERATIONS[name].inputs:
                inputs.append(self._apply("scalar", lambda op: op.inputs == ("coord",), 0, index))
            index = self._append(name, tuple(inputs))
        self._planes.append(index)
        return index

    def _apply(self, output: Type, allowed: _Allowed, depth: int, plane: int | None = None) -> int:
        name = self._choose(output, allowed)
        inputs = []
        for kind in OPERATIONS[name].inputs:
            if kind == "coord":
                inputs.append(self._plane() if plane is None else plane)
            elif kind == "scalar":
                inputs.append(self._scalar(min(max(depth, 1), 2)))
            elif kind == "distance":
                inputs.append(self._distance(min(max(depth, 1), 2)))
            elif kind == "field":
                inputs.append(self._field())
            else:
                inputs.append(self._color(depth))
        return self._append(name, tuple(inputs))

    def _append(self, name: str, inputs: tuple[int, ...]) -> int:
        parameters = tuple(self._draw(each) for each in OPERATIONS[name].parameters.values())
        self._nodes.append(Node(name, inputs, parameters))
        return len(self._nodes) - 1

    def _choose(self, output: Type, allowed: _Allowed) -> str:
        names = [n for n, op in OPERATIONS.items() if op.output == output and allowed(op)]
        weights = np.array([OPERATIONS[n].weight for n in names])
        return names[int(self._random.choice(len(names), p=weights / weights.sum()))]

    def _draw(self, parameter: Parameter) -> float:
        random, low, high = self._random, parameter.low, parameter.high
        if parameter.scale in ("integer", "seed"):
            return float(random.integers(int(low), int(high) + 1))
        if parameter.scale == "log":
            value = np.exp(random.uniform(np.log(low), np.log(high)))
        elif parameter.scale == "hue":
            value = (random.choice(self._hues) + random.normal(0.0, 0.03)) % 1.0
        elif parameter.scale == "vividness":
            value = low + (high - low) * random.random() * self._vividness
        else:
            value = random.uniform(low, high)
        # Four digits keep the text short and the same on every platform.
        return round(float(value), 4)
