"""The vocabulary of procedural programs: one function for each operation, in six families.

`table.py` says what an operation is. To add one, write one decorated function into the family it
belongs to.
"""

from procmem_pretrain.operations import (
    colors,
    coordinates,
    iterations,
    lighting,
    scalars,
    shapes,
    textures,
)
from procmem_pretrain.operations.table import OPERATIONS, Operation, Parameter, Type

__all__ = [
    "OPERATIONS",
    "Operation",
    "Parameter",
    "Type",
    "colors",
    "coordinates",
    "iterations",
    "lighting",
    "scalars",
    "shapes",
    "textures",
]
