"""What tells the address of a server from the path of a folder. Imports nothing."""

from __future__ import annotations

import os
import re

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(?=://)")


def scheme_of(path: str | os.PathLike[str]) -> str | None:
    """What stands before "://", lowercase; None of a path, and of everything that is no text."""
    found = _SCHEME.match(path) if isinstance(path, str) else None
    return None if found is None else found[0].lower()


def is_address(path: str | os.PathLike[str]) -> bool:
    """Whether it names a server and not a folder."""
    return scheme_of(path) is not None
