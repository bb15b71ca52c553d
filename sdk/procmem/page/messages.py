"""What a browser sends over the WebSocket, as plain data; and what is wrong with it if it is not.

A binary message is a length (4 bytes, little-endian), so many bytes of JSON, and pictures:

    {"do": "ask", "frame": 17, "match": true, "find": false, "parts": [48211]}
    {"do": "teach", "frame": 18, "label": "cup", "keep": true, "parts": [48090]}
    {"do": "mark", "frame": 19, "parts": [48100, 902]}

`parts` are the pictures' lengths in bytes. "mark" has a frame and its painted mask, a PNG of one
channel of the same size: 1 what to find, 0 what not to find, 255 not judged; without parts it ends
the marking.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from procmem.errors import InputError

MAX_MESSAGE_BYTES = 4 * 2**20
"""Longest message, bytes: a frame of a camera is a few hundred thousand."""

_MAX_HEADER_BYTES = 4096
_PARTS = {"ask": (1,), "teach": (1,), "mark": (0, 2)}
_FIELDS = {
    "ask": {"do", "frame", "match", "find", "parts"},
    "teach": {"do", "frame", "label", "keep", "parts"},
    "mark": {"do", "frame", "parts"},
}

Deed: TypeAlias = Literal["ask", "teach", "mark"]


@dataclass(frozen=True, slots=True)
class FrameMessage:
    """One message about one frame.

    Attributes:
        do: what is wanted.
        frame: the browser's number of it, given back with the answer.
        pictures: the parts, encoded.
        label: to teach; "" unless `do` is "teach".
        keep: True to keep a thumbnail of what is taught, in memory.
        match: True to find places of the frame in the nearest neighbor's thumbnail.
        find: True to find what was marked.
    """

    do: Deed
    frame: int
    pictures: tuple[bytes, ...]
    label: str = ""
    keep: bool = False
    match: bool = False
    find: bool = False


def read_message(data: bytes) -> FrameMessage:
    """Reads one message.

    Raises:
        InputError: it is not what the module says; the text names the field.
    """
    if len(data) > MAX_MESSAGE_BYTES:
        raise InputError(f"a message of {len(data)} bytes, wanted at most {MAX_MESSAGE_BYTES}")
    length = int.from_bytes(data[:4], "little")
    if len(data) < 4 or length > min(_MAX_HEADER_BYTES, len(data) - 4):
        raise InputError("a message without a header of at most 4096 bytes of JSON")
    header = _header(data[4 : 4 + length])
    do = header.get("do")
    if not isinstance(do, str) or do not in _FIELDS:
        raise InputError(f"do is {do!r:.60}, wanted ask, teach or mark")
    unknown = sorted(set(header) - _FIELDS[do])
    if unknown:
        raise InputError(f"unknown field {unknown[0]!r:.60} of {do}")
    lengths = header.get("parts", [])
    if not isinstance(lengths, list) or len(lengths) not in _PARTS[do]:
        raise InputError(f"parts are {lengths!r:.60}, which do not fit {do}")
    rest = data[4 + length :]
    pictures = []
    for size in lengths:
        if isinstance(size, bool) or not isinstance(size, int) or not 0 < size <= len(rest):
            raise InputError(f"a part of {size!r:.60} bytes, {len(rest)} are left")
        pictures.append(rest[:size])
        rest = rest[size:]
    if rest:
        raise InputError(f"{len(rest)} bytes after the last part")
    return FrameMessage(
        do=do,  # type: ignore[arg-type]  # checked above
        frame=_number(header.get("frame", 0)),
        pictures=tuple(pictures),
        label=_text(header.get("label", "")),
        keep=_flag(header, "keep"),
        match=_flag(header, "match"),
        find=_flag(header, "find"),
    )


def _header(text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text.decode())
    except (ValueError, RecursionError) as error:
        raise InputError("a message whose header is not JSON") from error
    if not isinstance(header, dict):
        raise InputError("a message whose header is not a JSON object")
    return header


def _number(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**53:
        raise InputError(f"frame is {value!r:.60}, wanted a whole number below 2**53")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise InputError(f"label is {value!r:.60}, wanted text")
    return value


def _flag(header: dict[str, Any], name: str) -> bool:
    value = header.get(name, False)
    if not isinstance(value, bool):
        raise InputError(f"{name} is {value!r:.60}, wanted true or false")
    return value
