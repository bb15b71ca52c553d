"""Where a memory on Milvus is: `milvus://...`, read once and checked.

Gives an `Address` to `client.py`. Two forms::

    milvus://[user:password@]host[:port][/database][?memory=NAME][&secure=true]
    milvus:///absolute/path/file.db[?memory=NAME]

The first is a standalone server or a cluster, the second a file that milvus-lite keeps, for tests
and single machines. What is special in user, password and path is percent-encoded, as in any
address. A password stands in no message and no `repr`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from procmem.errors import InputError, unknown_choice

SCHEME = "milvus"
DEFAULT_PORT = 19530
DEFAULT_MEMORY = "memory"

_FORM = (
    "wanted milvus://[user:password@]host[:port][/database][?memory=NAME][&secure=true] "
    "or milvus:///absolute/path/file.db[?memory=NAME]"
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_HOST = re.compile(r"[A-Za-z0-9._:-]+")


@dataclass(frozen=True, slots=True)
class Address:
    """A memory on Milvus.

    Attributes:
        host: of a server; "" for a file.
        port: of a server.
        path: of a file; None for a server.
        database: of a server; "" for its default one.
        memory: which of the memories there.
        secure: whether the connection is encrypted (TLS).
        user: "" for none.
        password: never shown.
    """

    host: str
    port: int
    path: Path | None
    database: str
    memory: str
    secure: bool
    user: str = field(repr=False)
    password: str = field(repr=False)

    @property
    def place(self) -> str:
        """The address without user and password, for messages."""
        memory = "" if self.memory == DEFAULT_MEMORY else f"?memory={self.memory}"
        if self.path is not None:
            return f"{SCHEME}://{self.path}{memory}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        database = f"/{self.database}" if self.database else ""
        return f"{SCHEME}://{host}:{self.port}{database}{memory}"


def parse_address(text: str) -> Address:
    """Reads an address.

    Raises:
        InputError: it is none; the message shows no password.
    """
    # What stands before the last @ of the authority may be a password: no message quotes it.
    head, found, rest = text.partition("://")
    if not found or head.lower() != SCHEME:
        raise InputError(f"the address does not begin with {SCHEME}://; {_FORM}")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    shown = f"{SCHEME}://{rest[len(authority.rpartition('@')[0] + '@') :]}"
    shown = shown if "@" in authority else f"{SCHEME}://{rest}"
    try:
        parts = urlsplit(text)
        port, host = parts.port, parts.hostname or ""
    except ValueError as error:
        raise _malformed(shown, "host and port cannot be told apart") from error
    if parts.fragment:
        raise _malformed(shown, "it has a # part; write # as %23 in a password or path")
    memory, secure = _options(shown, parts.query)
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    path = unquote(parts.path)
    if not host:
        if authority:
            raise _malformed(shown, "it has no host")
        if secure:
            raise _malformed(shown, "a file has no connection to secure")
        return Address("", 0, _file(shown, path), "", memory, False, "", "")
    if not _HOST.fullmatch(host):
        raise _malformed(shown, f"host is {host!r}")
    if bool(user) != bool(password):
        raise _malformed(shown, "user and password go together")
    database = path.strip("/")
    if database and not _NAME.fullmatch(database):
        raise _malformed(shown, f"database is {database!r}, wanted letters, digits and _")
    if port == 0:
        raise _malformed(shown, "port is 0")
    return Address(host, port or DEFAULT_PORT, None, database, memory, secure, user, password)


def _options(shown: str, query: str) -> tuple[str, bool]:
    options: dict[str, str] = {}
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if query else []
    except ValueError as error:
        raise _malformed(shown, "what follows ? is not name=value") from error
    for name, value in pairs:
        if name not in ("memory", "secure"):
            raise unknown_choice(f"an option of {shown}", name, ("memory", "secure"))
        if name in options:
            raise _malformed(shown, f"{name} is given twice")
        options[name] = value
    memory = options.get("memory", DEFAULT_MEMORY)
    if not _NAME.fullmatch(memory):
        raise _malformed(
            shown, f"memory is {memory!r}, wanted 1 to 64 letters, digits and _, no digit first"
        )
    secure = options.get("secure", "false")
    if secure not in ("true", "false"):
        raise unknown_choice(f"secure of {shown}", secure, ("true", "false"))
    return memory, secure == "true"


def _file(shown: str, path: str) -> Path:
    if not path.endswith(".db") or "\0" in path:
        raise _malformed(shown, "a file's name ends in .db")
    return Path(path)


def _malformed(shown: str, why: str) -> InputError:
    return InputError(f"address {shown}: {why}; {_FORM}")
