"""What disks, cables and people do to files: random damage of bytes.

Gives `mutations.py` and `images.py` files that are almost what they should be. The same
`random.Random` gives the same damage.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

FILLS = (b"\x00", b"\xff", b"")  # the last one stands for random bytes


@dataclass(frozen=True)
class Form:
    """How a kind of file is built, so that damage finds its tender spots.

    Attributes:
        block: side by side units, bytes (a page); half of all damage keeps to their borders.
        heads: offsets at which something begins that says how to read the rest; where half of
            the small changes go, within `head` bytes.
        head: see there.
    """

    block: int = 16
    heads: Callable[[bytes], Sequence[int]] = lambda data: (0,)
    head: int = 64


def damage(data: bytes, other: bytes, form: Form, chance: random.Random) -> tuple[str, bytes]:
    """Changes bytes in one to three ways, mostly in one.

    Args:
        data: a file's, at least one byte.
        other: of another valid file of the kind, to splice in.
        form: of both.
        chance: decides.

    Returns:
        What was done, and bytes that differ from `data`.
    """
    kinds = list(KINDS)
    while True:
        names, damaged = [], data
        for _ in range(chance.choice((1, 1, 1, 1, 2, 3))):
            name = chance.choice(kinds)
            names.append(name)
            damaged = KINDS[name](damaged or data, other, form, chance)
        if damaged not in (data, other):
            return " + ".join(names), damaged


def damage_json(data: bytes, chance: random.Random) -> tuple[str, bytes]:
    """Changes a JSON document in one place, so that it stays one."""
    while True:
        document = json.loads(data)
        spots = list(_spots(document))
        holder, key = chance.choice(spots)
        act = chance.choice(("digit", "other kind", "removed", "added", "number"))
        value = holder[key]
        if act == "digit" and isinstance(value, (str, int, float)):
            holder[key] = _redigit(value, chance)
        elif act == "number" and type(value) in (int, float):
            numbers = (0, -1, 1, 2, 0.5, 1e300, 2**31, 2**53, 2**63, 10**40, float("nan"))
            holder[key] = chance.choice((*numbers, value + 1, value - 1, -value, value * 2))
        elif act == "other kind":
            holder[key] = chance.choice((None, True, "", "x", 7, 1.5, [], {}, [value], {"": value}))
        elif act == "removed":
            del holder[key]
        elif act == "added" and isinstance(holder, list):
            holder.insert(chance.randrange(len(holder) + 1), value)
        elif act == "added":
            holder[f"{key}x"] = value
        changed = json.dumps(document, indent=2, sort_keys=True).encode() + b"\n"
        if document != json.loads(data):
            return f"json {act}", changed


def _spots(document: Any) -> list[tuple[Any, Any]]:
    """Every (holder, key) below a JSON document."""
    keys = range(len(document)) if isinstance(document, list) else list(document)
    found = []
    for key in keys:
        found.append((document, key))
        if isinstance(document[key], (list, dict)):
            found += _spots(document[key])
    return found


def _redigit(value: Any, chance: random.Random) -> Any:
    text = list(str(value))
    if text:
        text[chance.randrange(len(text))] = chance.choice("0123456789abcdef")
    try:
        return type(value)("".join(text))
    except ValueError:
        return value


def _place(data: bytes, form: Form, chance: random.Random) -> int:
    if chance.random() < 0.5:
        at = chance.choice(form.heads(data) or (0,)) + chance.randrange(form.head)
        return min(at, len(data) - 1)
    return chance.randrange(len(data))


def _part(data: bytes, form: Form, chance: random.Random) -> tuple[int, int]:
    """A part [start, end), not empty: whole blocks, or anything of up to some blocks."""
    if chance.random() < 0.5:
        blocks = -(-len(data) // form.block)
        start = chance.randrange(blocks) * form.block
        end = start + form.block * min(blocks, int(chance.expovariate(0.5)) + 1)
    else:
        start = _place(data, form, chance)
        end = start + 1 + int(chance.expovariate(1 / chance.choice((4, 40, 4 * form.block))))
    return start, min(end, len(data))


def _bits(data: bytes, other: bytes, form: Form, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 8, 64))):
        changed[_place(data, form, chance)] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _byte(data: bytes, other: bytes, form: Form, chance: random.Random) -> bytes:
    changed = bytearray(data)
    changed[_place(data, form, chance)] = chance.choice((0, 1, 0x7F, 0x80, 0xFF))
    return bytes(changed)


def _run(data: bytes, other: bytes, form: Form, chance: random.Random) -> bytes:
    start, end = _part(data, form, chance)
    fill = chance.choice(FILLS)
    new = fill * (end - start) if fill else chance.randbytes(end - start)
    return data[:start] + new + data[end:]


def _truncated(data: bytes, other: bytes, form: Form, chance: random.Random) -> bytes:
    return data[: _part(data, form, chance)[0]]


def _extended(data: bytes, other: bytes, form: Form, chance: random.Random) -> bytes:
    start, end = _part(other, form, chance)
    fill = chance.choice((*FILLS, other[start:end]))
    length = chance.choice((1, form.block, 3 * form.block + 5))
    return data + ((fill * length)[:length] if fill else chance.randbytes(length))


def _cut_out(data: bytes, other: bytes, form: Form, chance: random.Random) -> bytes:
    start, end = _part(data, form, chance)
    return data[:start] + data[end:]


def _doubled(data: bytes, other: bytes, form: Form, chance: random.Random) -> bytes:
    start, end = _part(data, form, chance)
    return data[:end] + data[start:end] + data[end:]


def _swapped(data: bytes, other: bytes, form: Form, chance: random.Random) -> bytes:
    one, two = (_part(data, form, chance)[0] for _ in range(2))
    one, two = min(one, two), max(one, two)
    length = min(form.block, two - one, len(data) - two)
    changed = bytearray(data)
    changed[one : one + length], changed[two : two + length] = (
        data[two : two + length],
        data[one : one + length],
    )
    return bytes(changed)


def _copied_over(data: bytes, other: bytes, form: Form, chance: random.Random) -> bytes:
    """A block stands where another should: a write that went astray."""
    start, end = _part(data, form, chance)
    at = _part(data, form, chance)[0]
    return data[:at] + data[start:end] + data[at + end - start :]


def _spliced(data: bytes, other: bytes, form: Form, chance: random.Random) -> bytes:
    start, end = _part(other, form, chance)
    # More than half of the other file would be that file with damage.
    end = min(end, start + len(other) // 2 + 1)
    return data[:start] + other[start:end] + data[end:]


KINDS: dict[str, Callable[[bytes, bytes, Form, random.Random], bytes]] = {
    "bits": _bits,
    "byte": _byte,
    "run": _run,
    "truncated": _truncated,
    "extended": _extended,
    "cut out": _cut_out,
    "doubled": _doubled,
    "swapped": _swapped,
    "copied over": _copied_over,
    "spliced": _spliced,
}
