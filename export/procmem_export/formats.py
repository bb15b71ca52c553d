"""The one table of formats: what `--format` accepts and how exact each must be.

`cli.py`, `export.py` and the documentation read it.
"""

from __future__ import annotations

from dataclasses import dataclass

from procmem.errors import unknown_choice


@dataclass(frozen=True, slots=True)
class Format:
    """One kind of model file.

    Attributes:
        suffix: of the file's name.
        minimum_cosine: smallest cosine allowed between the original's output and the file's, for
            the class token of every probe and on average for its patch tokens.
        description: one line for people.
    """

    suffix: str
    minimum_cosine: float
    description: str


FORMATS: dict[str, Format] = {
    "onnx": Format(
        ".onnx", 0.9999, "float32 ONNX, one self-contained file, any batch size and side"
    ),
}


def find_format(name: str) -> Format:
    """The format of this name.

    Raises:
        InputError: unknown name; the message offers the nearest.
    """
    if name not in FORMATS:
        raise unknown_choice("format", name, FORMATS)
    return FORMATS[name]
