"""One connection to PostgreSQL: made anew when it is lost, with its errors turned into ours.

Between an address and `table.py`, which says what to ask. Here is how: one call at a time, every
change a transaction of which it is known whether it went through, no password in any message.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from procmem.errors import (
    InputError,
    MissingExtraError,
    VaultClosedError,
    VaultFormatError,
    VaultFullError,
    VaultReadOnlyError,
    VaultServerError,
)

try:
    import pgvector.psycopg
    import psycopg
    from psycopg import sql
except ImportError as error:
    raise MissingExtraError(
        "a memory on PostgreSQL needs psycopg and pgvector; install them with: "
        "pip install 'procmem[postgres]'"
    ) from error

LEAST_PGVECTOR = (0, 8, 0)
"""The first that goes on searching its graph until enough rows pass a filter."""

DEFAULT_MEMORY = "procmem"
TABLES = ("meta", "items", "dense")

_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_CONNECT_SECONDS = 10
_RESOLVE_SECONDS = 20.0  # how long to ask whether a commit went through
# Of a host that is gone nothing comes, no error either: the operating system asks for it. A server
# that only works for long is not cut off by this, since its system answers.
_ALIVE = {
    "keepalives_idle": 30,  # seconds
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,  # milliseconds
}
_BREADTH = 100  # hnsw.ef_search, candidates that the graph keeps in mind
_COLUMNS = sql.SQL("id, vector, label, source, labelled, added_seconds, sealed")

Query: TypeAlias = "sql.SQL | sql.Composed"


class PostgresConnection:
    """To the database of one memory; see the module.

    Args:
        address: see `PostgresTable`, as for the other.
        read_only: no transaction that writes is begun.

    Attributes:
        place: the address without password.
        schema: of the memory.
        width: D of its vectors; 0 as long as there is none.

    Raises:
        InputError: the address is malformed.
        VaultServerError: the server cannot be reached, refuses, or lacks pgvector.
    """

    def __init__(self, address: str, *, read_only: bool) -> None:
        self._conninfo, self.schema, self.place = _parse(address)
        self._read_only = read_only
        self._mutex = threading.RLock()
        self._process = os.getpid()
        self._connection: psycopg.Connection[Any] | None = None
        self._closed = False
        self.width = 0
        with self._asking():
            self._connected()

    def sql(self, text: str, **parts: sql.Composable) -> sql.Composed:
        """A query; {meta}, {items}, {dense}, {schema} and {columns} stand for the memory's own."""
        names = {name: sql.Identifier(self.schema, name) for name in TABLES}
        schema = sql.Identifier(self.schema)
        return sql.SQL(text).format(**names, schema=schema, columns=_COLUMNS, **parts)

    def rows(self, query: Query, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The rows of one query; once more if the connection turns out to be gone."""
        with self._mutex, self._asking():
            was_open = self._connection is not None
            try:
                return self._ask(query, values)
            except psycopg.OperationalError:
                if not was_open or (self._connection is not None and not self._connection.broken):
                    raise
                self._drop()
                return self._ask(query, values)

    def _ask(self, query: Query, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        with self._connected().cursor(binary=True) as cursor:
            found: list[tuple[Any, ...]] = cursor.execute(query, values).fetchall()
            return found

    def change(self, work: Callable[[psycopg.Cursor[Any]], tuple[int, int]]) -> None:
        """Does something in a transaction that also counts it.

        Args:
            work: returns how many items and masks came, or went if below 0.
        """
        if self._read_only:
            raise VaultReadOnlyError(
                f"{self.place} was opened with read_only=True; open it without"
            )
        with self._mutex, self._asking("nothing was changed"):
            self.rows(sql.SQL("SELECT 1"))  # a connection that is gone is made anew now, not later
            connection = self._connected()
            transaction = ""
            try:
                with connection.transaction(), connection.cursor() as cursor:
                    items, masks = work(cursor)
                    cursor.execute(
                        self.sql(
                            "UPDATE {meta} SET items = items + %s, masks = masks + %s, "
                            "changes = changes + 1 RETURNING pg_current_xact_id()::text"
                        ),
                        (items, masks),
                    )
                    noted = cursor.fetchall()
                    if len(noted) != 1:
                        raise self.damaged("has lost the row of its table meta")
                    transaction = noted[0][0]
            except psycopg.OperationalError as error:
                # Once the last statement has an answer, only the commit's own may be missing.
                if not transaction or not self._was_committed(transaction, error):
                    raise

    def _was_committed(self, transaction: str, error: psycopg.OperationalError) -> bool:
        """Whether a transaction whose commit was not answered went through."""
        self._drop()
        end = time.monotonic() + _RESOLVE_SECONDS
        while time.monotonic() < end:
            with contextlib.suppress(psycopg.OperationalError, VaultServerError):
                query = sql.SQL("SELECT pg_xact_status(%s::xid8)")
                status = self._ask(query, (transaction,))[0][0]
                if status != "in progress":
                    return bool(status == "committed")
            self._drop()
            time.sleep(0.2)
        raise VaultServerError(
            f"{self.place} went away in the middle of a change, and whether it was done is not "
            f"known ({_first_line(error)}); look for the ids when the server is back"
        ) from error

    @contextlib.contextmanager
    def transaction(self) -> Iterator[psycopg.Connection[Any]]:
        """A transaction that is neither counted nor looked up when its commit is not answered."""
        with self._mutex, self._asking():
            connection = self._connected()
            with connection.transaction():
                yield connection

    def reconnect(self) -> None:
        """Lets the next call connect anew, which finds out the width."""
        with self._mutex:
            self._drop()

    def damaged(self, how: str) -> VaultFormatError:
        """The error for what the server holds and procmem never wrote."""
        return VaultFormatError(
            f"{self.place} {how}: something else changed it; restore it from a backup, or give "
            "another name of the memory (?memory=NAME)"
        )

    def close(self) -> None:
        """Ends the connection."""
        with self._mutex:
            self._closed = True
            self._drop()

    def _connected(self) -> psycopg.Connection[Any]:
        if self._closed:
            raise VaultClosedError(f"the memory at {self.place} is closed; open it again")
        if os.getpid() != self._process:
            # A child that was forked shares the parent's connection: leave that one alone.
            self._connection, self._process = None, os.getpid()
        if self._connection is not None and self._connection.closed:
            self._drop()
        if self._connection is None:
            self._connection = self._connect()
        return self._connection

    def _connect(self) -> psycopg.Connection[Any]:
        connection = psycopg.connect(self._conninfo, autocommit=True)
        try:
            _check_extension(connection, self.place, may_create=not self._read_only)
            pgvector.psycopg.register_vector(connection)
            connection.execute(f"SET hnsw.ef_search = {_BREADTH}")
            connection.execute("SET hnsw.iterative_scan = strict_order")
            if self._read_only:
                connection.execute("SET default_transaction_read_only = on")
            query = (
                "SELECT atttypmod FROM pg_attribute WHERE attname = 'vector' "
                "AND attrelid = to_regclass(quote_ident(%s) || '.items')"
            )
            row = connection.execute(query, (self.schema,)).fetchone()
            self.width = 0 if row is None else int(row[0])
        except BaseException:
            connection.close()
            raise
        return connection

    def _drop(self) -> None:
        if self._connection is not None and os.getpid() == self._process:
            with contextlib.suppress(psycopg.Error):
                self._connection.close()
        self._connection = None

    @contextlib.contextmanager
    def _asking(self, outcome: str = "") -> Iterator[None]:
        """Turns what psycopg raises into ours. Unique violations are the caller's."""
        done = f"; {outcome}" if outcome else ""
        try:
            yield
        except psycopg.errors.UniqueViolation:
            raise
        except psycopg.errors.DiskFull as error:
            raise VaultFullError(f"{self.place}: no room on the server's disk{done}") from error
        except (
            psycopg.errors.ReadOnlySqlTransaction,
            psycopg.errors.InsufficientPrivilege,
        ) as error:
            raise VaultReadOnlyError(
                f"{self.place} may not be written by this user ({_first_line(error)}){done}: ask "
                "for the right to, or open it with read_only=True"
            ) from error
        except psycopg.OperationalError as error:
            raise VaultServerError(
                f"{self.place} cannot be reached, or refuses ({_first_line(error)}){done}; check "
                "the address, the user's name and password, and that the server runs"
            ) from error
        except psycopg.DataError as error:
            raise InputError(f"{self.place}: {_first_line(error)}{done}") from error
        except psycopg.Error as error:
            raise VaultServerError(
                f"{self.place}: the server says {_first_line(error)!r}{done}"
            ) from error


def _parse(address: str) -> tuple[str, str, str]:
    """What libpq is given, the schema, and the address for messages."""
    known, schema = None, ""
    with contextlib.suppress(psycopg.ProgrammingError, ValueError):
        known, schema = _taken_apart(address)
    if known is None:
        # Not while one of those is handled: they repeat the address, password included.
        raise InputError(
            "the address is none that PostgreSQL understands; wanted "
            "postgresql://user:password@host:port/database?memory=NAME, with special characters "
            "as %XX"
        )
    if not _NAME.fullmatch(schema):
        raise InputError(
            f"memory={schema!r:.80} in the address, wanted at most 63 of a-z, 0-9 and _, no digit "
            "first"
        )
    known.setdefault("connect_timeout", _CONNECT_SECONDS)
    known.setdefault("application_name", "procmem")
    known = {**_ALIVE, **known}
    shown = "@".join(str(known[name]) for name in ("user", "host") if known.get(name))
    port = f":{known['port']}" if known.get("port") else ""
    place = f"postgresql://{shown}{port}/{known.get('dbname', '')}?memory={schema}"
    return psycopg.conninfo.make_conninfo("", **known), schema, place


def _taken_apart(address: str) -> tuple[dict[str, Any], str]:
    """What libpq understands of an address, and the schema."""
    parts = urlsplit(address)
    options = parse_qsl(parts.query, keep_blank_values=True)
    names = [value for name, value in options if name == "memory"]
    schema = names[-1] if names else DEFAULT_MEMORY
    rest = urlencode([(name, value) for name, value in options if name != "memory"], safe="/")
    return psycopg.conninfo.conninfo_to_dict(urlunsplit(parts._replace(query=rest))), schema


def _check_extension(connection: psycopg.Connection[Any], place: str, *, may_create: bool) -> None:
    """Raises VaultServerError unless the database has a pgvector that is new enough."""
    query = "SELECT extversion FROM pg_extension WHERE extname = 'vector'"
    found = connection.execute(query).fetchone()
    wanted = ".".join(map(str, LEAST_PGVECTOR))
    if found is None and may_create:
        try:
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        except psycopg.errors.UniqueViolation:  # another process was as quick
            pass
        except psycopg.Error as error:
            raise VaultServerError(
                f"{place} has no pgvector, and it cannot be made ({_first_line(error)}); install "
                f"pgvector {wanted} or newer on the server, and let its administrator run CREATE "
                "EXTENSION vector"
            ) from error
        found = connection.execute(query).fetchone()
    if found is None:
        raise VaultServerError(
            f"{place} has no pgvector, so that no memory is there; check the address"
        )
    version = tuple(int(number) for number in re.findall(r"\d+", found[0])[:3])
    if version < LEAST_PGVECTOR:
        raise VaultServerError(
            f"{place} has pgvector {found[0]}, wanted {wanted} or newer; upgrade it on the server "
            "and run ALTER EXTENSION vector UPDATE"
        )


def _first_line(error: Exception) -> str:
    """What the server says, without the hints and the statement that follow."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
