"""How items and masks stand in the collections of Milvus, and the filters that find them.

Between the rows of `stores/table.py` and those of `table.py`. Text here is bytes that need not be
UTF-8, and Milvus keeps no bytes, so both texts and blobs are base64, the form for addresses: it has
no quote and no backslash, so a label in a filter can never become part of the filter. Milvus keeps
no text beyond 65,535 bytes either: what is longer stands in pieces in a collection of its own.

A row's key is the item's id, as 19 digits, and the batch that it came with. So keys are in the
order of ids, and a row that arrives late, after its writer gave up, never takes the place of one
that a later writer stored under the same id.
"""

from __future__ import annotations

import math
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from procmem.errors import InputError, VaultFormatError
from procmem.stores.contract import Where
from procmem.stores.table import StoredItem, StoredMask

ROWS_AT_ONCE = 1_000
BYTES_AT_ONCE = 8 << 20  # far below the 64 MB of a message
TEXT_CHARACTERS = 65_535  # the longest VARCHAR of Milvus
PIECE_BYTES = 48_000  # 64,000 characters
_INLINE_BYTES = 6_000  # so that a page of a thousand rows stays far below a message's limit
_INT64 = 2**63 - 1
_NO_MASK = -1

ITEM_FIELDS = (
    "key", "id", "batch", "vector", "label", "source", "sealed", "labelled", "added_seconds",
    "patches_bytes", "mask_bytes",
)  # fmt: skip
PIECE_FIELDS = ("key", "owner", "id", "batch", "part", "position", "data")


def item_layout(width: int) -> dict[str, str]:
    """Names and types of the items' collection."""
    text = f"VARCHAR {TEXT_CHARACTERS}"
    types = ("VARCHAR 64", "INT64", "INT64", f"FLOAT_VECTOR {width}", text, text, text)
    return dict(zip(ITEM_FIELDS, (*types, "BOOL", "INT64", "INT64", "INT64"), strict=True))


def piece_layout() -> dict[str, str]:
    """Names and types of the pieces' collection; Milvus wants a vector in every one."""
    types = ("VARCHAR 96", "VARCHAR 64", "INT64", "INT64", "VARCHAR 16", "INT64")
    fields = zip(PIECE_FIELDS, (*types, f"VARCHAR {TEXT_CHARACTERS}"), strict=True)
    return {**dict(fields), **PLACEHOLDER}


PLACEHOLDER = {"vector": "FLOAT_VECTOR 2"}
NOWHERE = [1.0, 0.0]
"""What stands in `PLACEHOLDER`; nobody searches it."""


def packed(
    items: Iterable[tuple[StoredItem, StoredMask | None]], batch: int, *, width: int
) -> Iterator[tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    """Rows of items and their pieces, as many at a time as fit a message.

    Raises:
        InputError: a vector has another width, or a label is too long to be looked for.
    """
    rows: list[dict[str, Any]] = []
    pieces: list[dict[str, Any]] = []
    size = 0
    for item, mask in items:
        if item.vector.shape != (width,):
            raise InputError(
                f"the vector of id {item.id} has shape {item.vector.shape}, the memory wants "
                f"({width},); nothing was added: use its own model"
            )
        row, parts = item_rows(item, mask, batch)
        rows.append(row)
        pieces += parts
        size += 4 * width + sum(len(part["data"]) for part in parts)
        size += sum(len(row[name]) for name in ("label", "source", "sealed"))
        if len(rows) == ROWS_AT_ONCE or size > BYTES_AT_ONCE:
            yield rows, pieces
            rows, pieces, size = [], [], 0
    if rows:
        yield rows, pieces


def item_rows(
    item: StoredItem, mask: StoredMask | None, batch: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """An item as its row and the pieces of what is too long for it, patches and mask.

    Raises:
        InputError: the label is too long to be looked for.
    """
    pieces: list[dict[str, Any]] = []
    row: dict[str, Any] = {
        "key": f"{item.id:019d}.{batch}",
        "id": int(item.id),
        "batch": batch,
        "vector": item.vector.astype(np.float32),
        "label": encode(item.label),
        "labelled": item.labelled,
        "added_seconds": item.added_seconds,
        "patches_bytes": _NO_MASK if mask is None else len(mask.patches),
        "mask_bytes": _NO_MASK if mask is None else len(mask.mask),
    }
    if len(row["label"]) > TEXT_CHARACTERS:
        raise InputError(
            f"the label of id {item.id} has {len(item.label or b'')} bytes, wanted at most "
            f"{TEXT_CHARACTERS // 4 * 3 - 3}; nothing was added: shorten it"
        )
    for name, text in (("source", item.source), ("sealed", item.sealed)):
        if text is None or len(text) <= _INLINE_BYTES:
            row[name] = encode(text)
        else:
            row[name] = f">{len(text)}"
            pieces += _pieces(row, name, text)
    if mask is not None:
        pieces += _pieces(row, "patches", mask.patches)
        pieces += _pieces(row, "mask", mask.mask)
    return row, pieces


def text_bytes(row: Mapping[str, Any]) -> int:
    """How many bytes of its texts are in pieces."""
    return sum(int(row[name][1:]) for name in ("source", "sealed") if row[name][:1] == ">")


def mask_bytes(row: Mapping[str, Any]) -> int:
    """How many bytes of its patches and mask are in pieces."""
    return max(int(row["patches_bytes"]), 0) + max(int(row["mask_bytes"]), 0)


def item_of(row: Mapping[str, Any], pieces: Mapping[tuple[str, str], bytes]) -> StoredItem:
    """The item that a row and its pieces are."""
    wide = np.asarray(row["vector"], dtype=np.float32)
    vector: npt.NDArray[np.float16] = wide.astype(np.float16)
    if not np.array_equal(vector.astype(np.float32), wide):
        raise VaultFormatError(
            f"the vector of id {row['id']} is not what was stored; the server changed it, or "
            "something else wrote it: delete the item and add it again"
        )
    texts = {
        name: _whole(row["key"], name, int(row[name][1:]), pieces)
        if row[name][:1] == ">"
        else decode(row[name])
        for name in ("label", "source", "sealed")
    }
    return StoredItem(
        int(row["id"]),
        vector,
        texts["label"],
        texts["source"],
        bool(row["labelled"]),
        int(row["added_seconds"]),
        texts["sealed"],
    )


def mask_of(row: Mapping[str, Any], pieces: Mapping[tuple[str, str], bytes]) -> StoredMask:
    """The mask that a row and its pieces are."""
    patches, mask = (
        _whole(row["key"], name, int(row[f"{name}_bytes"]), pieces) for name in ("patches", "mask")
    )
    return StoredMask(int(row["id"]), patches, mask)


def joined(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], bytes]:
    """(owner, part) -> its bytes, of the rows of pieces."""
    found: dict[tuple[str, str], dict[int, str]] = {}
    for row in rows:
        found.setdefault((row["owner"], row["part"]), {})[int(row["position"])] = row["data"]
    return {
        name: b"".join(urlsafe_b64decode(data) for _, data in sorted(pieces.items()))
        for name, pieces in found.items()
    }


def encode(value: bytes | None) -> str:
    """Bytes as a text that a filter can hold; "" for none."""
    return "" if value is None else "=" + urlsafe_b64encode(value).decode("ascii")


def decode(text: str) -> bytes | None:
    """The inverse of `encode`."""
    return urlsafe_b64decode(text[1:]) if text else None


def condition(where: Where, label: bytes | None) -> list[str]:
    """The parts of a filter that lets through what `where` looks at."""
    parts = []
    if label is not None:
        parts.append(f'label == "{encode(label)}"')
    if where.labelled:
        parts.append("labelled == true")
    if where.first_seconds > -math.inf:
        parts.append(f"added_seconds >= {_whole_seconds(where.first_seconds)}")
    if where.end_seconds < math.inf:
        parts.append(f"added_seconds < {_whole_seconds(where.end_seconds)}")
    return parts


def one_of(field: str, values: Sequence[int] | Sequence[str]) -> str:
    """A filter on a field; the texts are keys, which have no quotes."""
    listed = (f'"{value}"' if isinstance(value, str) else str(value) for value in values)
    return f"{field} in [{', '.join(listed)}]"


def _whole_seconds(seconds: float) -> int:
    """The first whole second that is not before this moment, as Milvus can hold it."""
    return _INT64 if seconds >= _INT64 else max(math.ceil(seconds), -_INT64)


def _pieces(row: Mapping[str, Any], part: str, data: bytes) -> Iterator[dict[str, Any]]:
    for position, start in enumerate(range(0, len(data), PIECE_BYTES)):
        piece = urlsafe_b64encode(data[start : start + PIECE_BYTES]).decode("ascii")
        yield {
            "key": f"{row['key']}.{part}.{position}",
            "owner": row["key"],
            "id": row["id"],
            "batch": row["batch"],
            "part": part,
            "position": position,
            "data": piece,
            "vector": NOWHERE,
        }


def _whole(key: str, part: str, size: int, pieces: Mapping[tuple[str, str], bytes]) -> bytes:
    data = pieces.get((key, part), b"")
    if len(data) != size:
        raise VaultFormatError(
            f"{part} of id {int(key.partition('.')[0])} has {len(data)} bytes on the server, "
            f"{size} were stored; delete the item and add it again"
        )
    return data
