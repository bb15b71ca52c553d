"""A PNG written chunk by chunk, for the kinds that Pillow reads and cannot write."""

from __future__ import annotations

import struct
import zlib


def png(width: int, height: int, depth: int, color: int, rows: bytes, *extra: bytes) -> bytes:
    """A whole file.

    Args:
        width: pixels.
        height: pixels.
        depth: bits of a sample.
        color: 0 gray, 2 RGB, 3 palette.
        rows: samples as they stand in the file, a filter byte before each row.
        extra: further chunks, name and content of each, before the pixels.
    """
    head = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    chunks = [b"IHDR" + head, *extra, b"IDAT" + zlib.compress(rows), b"IEND"]
    return b"\x89PNG\r\n\x1a\n" + b"".join(map(_chunk, chunks))


def _chunk(named: bytes) -> bytes:
    return struct.pack(">I", len(named) - 4) + named + struct.pack(">I", zlib.crc32(named))
