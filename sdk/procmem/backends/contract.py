"""What every engine is given and must give back: names, shapes, the probe, the checks.

Used by the engines of this folder, so that a model that one of them refuses is refused by all, in
the same words. Knows manifests and arrays, never an engine.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from procmem.errors import ModelIntegrityError
from procmem.manifest import Manifest

INPUT = "images"
CLS = "cls"
PATCHES = "patches"

# Names of the free dimensions of a model for every side: how many images, and their side. Once it
# is told them, the engine sees a graph of fixed shapes, and folds and fuses it as such.
BATCH = "N"
SIDE = "S"

# Float32 rounding of a normalization over thousands of dimensions stays below 1e-5.
_UNIT_TOLERANCE = 1e-3

Shape = tuple[int, ...]
Arrays = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output as an engine describes it.

    Attributes:
        name: of the port.
        kind: its type in the engine's words, for messages.
        is_float32: whether its numbers are float32.
        shape: its dimensions; whatever is no integer is free.
    """

    name: str
    kind: str
    is_float32: bool
    shape: tuple[int | str | None, ...]


def input_shapes(side: int) -> dict[str, Shape]:
    """The shape of the one input by its name."""
    return {INPUT: (1, 3, side, side)}


def output_shapes(manifest: Manifest, side: int) -> dict[str, Shape]:
    """The shapes of the two outputs by their names."""
    grid = side // manifest.patch_size
    return {CLS: (1, manifest.cls_dim), PATCHES: (1, grid, grid, manifest.patch_dim)}


def probe(side: int) -> npt.NDArray[np.float32]:
    """A fixed non-constant input (1, 3, S, S) in [-1, 1]; warms the engine up as well."""
    ramp = np.linspace(-1, 1, 3 * side * side, dtype=np.float32)
    return ramp.reshape(1, 3, side, side)


def check_ports(role: str, ports: list[Port], wanted: dict[str, Shape], file: str) -> None:
    """Raises ModelIntegrityError unless a graph has the ports that its manifest implies.

    Args:
        role: "input" or "output", for messages.
        ports: what the engine found in the graph.
        wanted: name -> shape.
        file: the model file's name, for messages.
    """
    found = {port.name: port for port in ports}
    if set(found) != set(wanted):
        raise ModelIntegrityError(
            f"{file} has the {role}s {sorted(found)}, wanted {sorted(wanted)}; "
            "export the checkpoint with procmem-export"
        )
    for name, shape in wanted.items():
        port = found[name]
        # A dimension that is a word or None is free; the run on the probe settles it.
        fits = len(port.shape) == len(shape) and all(
            not isinstance(have, int) or have == want
            for have, want in zip(port.shape, shape, strict=True)
        )
        if not port.is_float32 or not fits:
            raise ModelIntegrityError(
                f"{file} has the {role} {name} of {port.kind} {list(port.shape)}, its manifest "
                f"says tensor(float) {list(shape)}; export the checkpoint again"
            )


def check_answer(arrays: Arrays, shapes: dict[str, Shape], file: str) -> None:
    """Raises ModelIntegrityError unless an engine gave what the manifest states.

    Args:
        arrays: `cls` and `patches` as the engine gave them.
        shapes: see `output_shapes`.
        file: the model file's name, for messages.
    """
    for (output, shape), array in zip(shapes.items(), arrays, strict=True):
        if array.shape != shape or array.dtype != np.float32:
            raise ModelIntegrityError(
                f"{file} gave {output} of shape {array.shape} and dtype {array.dtype}, "
                f"its manifest says {shape} float32; export the checkpoint again"
            )
    cls, patches = arrays
    length = float(np.linalg.norm(cls))
    if not abs(length - 1) <= _UNIT_TOLERANCE:  # written so that NaN fails, too
        raise ModelIntegrityError(
            f"{file} gave a class token of length {length:g}, wanted 1; export the checkpoint again"
        )
    if not np.isfinite(patches).all():
        raise ModelIntegrityError(
            f"{file} gave patches with NaN or infinite values; export the checkpoint again"
        )
