"""Rows of a memory in PostgreSQL, with the vectors of pgvector. Extra `postgres`.

A table of `table.py`. One memory is one schema of the database, by default "procmem":

    meta    one row: what the memory says of itself, how many items and masks, how many changes
    items   id, vector halfvec(D), label, source, labelled, added_seconds, sealed
    dense   id, patches, mask; deleted with its item

and, from 50,000 items on, a graph over the vectors (HNSW, by cosine). The call that adds the item
of that number builds it, in a minute or so; from then on it is part of every transaction like the
rows. Below, all rows are compared with, so that nothing would ask it.

Text is stored as bytes, since a source need not be valid UTF-8. Every change is one transaction
that ends by writing `meta`, so that changes come one after another and `state` counts them.

An exact search casts the vectors to float32, which no index serves, so that the server compares
with all rows. https://github.com/pgvector/pgvector documents types, operators and settings.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import numpy as np
import numpy.typing as npt

from procmem.errors import (
    InputError,
    MissingExtraError,
    VaultClosedError,
    VaultError,
    VaultFormatError,
    VaultFullError,
    VaultReadOnlyError,
    VaultServerError,
)
from procmem.folder import not_held
from procmem.index import LEAST_ITEMS
from procmem.stores.contract import Where
from procmem.stores.table import StoredItem, StoredMask

try:
    import pgvector.psycopg
    import psycopg
    from psycopg import sql
    from psycopg.types.json import Jsonb
except ImportError as error:
    raise MissingExtraError(
        "a memory on PostgreSQL needs psycopg and pgvector; install them with: "
        "pip install 'procmem[postgres]'"
    ) from error

LEAST_PGVECTOR = (0, 8, 0)
"""The first that goes on searching its graph until enough rows pass a filter."""

DEFAULT_MEMORY = "procmem"

_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_TABLES = {"meta", "items", "dense"}
_ROWS_AT_ONCE = 100
_CONNECT_SECONDS = 10
_RESOLVE_SECONDS = 20.0  # how long to ask whether a commit went through
_BREADTH = 100  # hnsw.ef_search, candidates that the graph keeps in mind
_BUILD_MEMORY = "512MB"  # of the server, while it builds its graph: 200,000 vectors of 384 fit
_OPS = sql.SQL("vector halfvec_cosine_ops")
_COLUMNS = sql.SQL("id, vector, label, source, labelled, added_seconds, sealed")

_log = logging.getLogger(__name__)


class PostgresTable:
    """See `procmem.stores.table.Table`.

    Args:
        address: "postgresql://user:password@host:port/database?memory=NAME"; all that libpq knows
            may stand in it (sslmode, host=/folder/of/a/socket), and what is missing is taken from
            its environment and service files.
        read_only: no transaction that writes is begun.

    Attributes:
        place: the address without password.

    Raises:
        InputError: the address is malformed.
        VaultServerError: the server cannot be reached, refuses, or lacks pgvector.
    """

    def __init__(self, address: str, *, read_only: bool) -> None:
        self._conninfo, self._schema, self.place = _parse(address)
        self._read_only = read_only
        self._mutex = threading.RLock()
        self._process = os.getpid()
        self._connection: psycopg.Connection[Any] | None = None
        self._width = 0
        self._has_graph = False
        self._closed = False
        with self._asking():
            self._connected()

    # ---- the memory as a whole

    def head(self) -> Mapping[str, str] | None:
        """See `Table`, as for everything below."""
        query = "SELECT table_name FROM information_schema.tables WHERE table_schema = %s"
        found = {row[0] for row in self._rows(sql.SQL(query), (self._schema,))}
        if not found:
            return None
        if not found >= _TABLES:
            raise VaultFormatError(
                f"{self.place} holds tables of something else ({min(found)!r}, for example); give "
                "another name of the memory (?memory=NAME)"
            )
        head = self._rows(self._sql("SELECT head FROM {meta}"))[0][0]
        return {str(name): str(value) for name, value in head.items()}

    def create(self, head: Mapping[str, str], *, width: int) -> None:
        """In one transaction, one process at a time."""

        def make(connection: psycopg.Connection[Any]) -> None:
            run = connection.execute
            run("SELECT pg_advisory_xact_lock(hashtext(%s))", (f"procmem {self._schema}",))
            if run(
                "SELECT 1 FROM information_schema.tables WHERE table_schema = %s", (self._schema,)
            ).fetchone():
                return
            for statement in (
                "CREATE SCHEMA IF NOT EXISTS {schema}",
                "CREATE TABLE {meta}(single boolean PRIMARY KEY DEFAULT true CHECK (single), "
                "head jsonb NOT NULL, items bigint NOT NULL, masks bigint NOT NULL, "
                "changes bigint NOT NULL)",
                "CREATE TABLE {items}(id bigint PRIMARY KEY CHECK (id > 0), "
                "vector halfvec({width}) NOT NULL, label bytea, source bytea, "
                "labelled boolean NOT NULL, added_seconds bigint NOT NULL, sealed bytea)",
                "CREATE TABLE {dense}(id bigint PRIMARY KEY REFERENCES {items} ON DELETE CASCADE, "
                "patches bytea NOT NULL, mask bytea NOT NULL)",
            ):
                run(self._sql(statement, width=sql.Literal(width)))
            run(
                self._sql("INSERT INTO {meta}(head, items, masks, changes) VALUES (%s, 0, 0, 0)"),
                (Jsonb(dict(head)),),
            )

        with self._mutex, self._asking(), self._connected().transaction():
            make(self._connected())
        self._drop()  # the next connection knows the width

    def state(self) -> int:
        """Counts the changes."""
        return int(self._rows(self._sql("SELECT changes FROM {meta}"))[0][0])

    def count(self, *, dense: bool = False) -> int:
        """As the last change noted it."""
        column = sql.Identifier("masks" if dense else "items")
        return int(self._rows(self._sql("SELECT {column} FROM {meta}", column=column))[0][0])

    def bytes_on_disk(self) -> int:
        """Of tables, indexes and large values."""
        query = "SELECT pg_total_relation_size(quote_ident(%s) || '.' || quote_ident(%s))"
        return sum(self._rows(sql.SQL(query), (self._schema, name))[0][0] for name in _TABLES)

    def out_of_reach(self) -> tuple[str, ...]:
        """In words."""
        return (
            "the server's dead rows and graph, until its vacuum has run and their pages are used "
            "again (VACUUM FULL and REINDEX do it at once)",
            "the server's write-ahead log, replicas and backups",
        )

    # ---- rows

    def held(self, ids: Sequence[int]) -> set[int]:
        """Those in use."""
        query = self._sql("SELECT id FROM {items} WHERE id = ANY(%s)")
        return {row[0] for row in self._rows(query, (list(ids),))}

    def insert(self, items: Iterable[tuple[StoredItem, StoredMask | None]]) -> None:
        """In one transaction."""
        put_item = self._sql("INSERT INTO {items} VALUES (%s, %s::halfvec, %s, %s, %s, %s, %s)")
        put_mask = self._sql("INSERT INTO {dense} VALUES (%s, %s, %s)")

        def work(cursor: psycopg.Cursor[Any]) -> tuple[int, int]:
            rest, added, masked = iter(items), 0, 0
            while rows := list(islice(rest, _ROWS_AT_ONCE)):
                cursor.executemany(put_item, [_values(item) for item, _ in rows])
                masks = [mask for _, mask in rows if mask is not None]
                if masks:
                    cursor.executemany(put_mask, [(m.id, m.patches, m.mask) for m in masks])
                added, masked = added + len(rows), masked + len(masks)
            return added, masked

        try:
            self._change(work)
        except psycopg.errors.UniqueViolation as error:
            detail = re.search(r"\d+", error.diag.message_detail or "")
            raise InputError(
                f"id {detail[0] if detail else '?'} is in the memory already or given twice; "
                "nothing was added: use other ids, or give none"
            ) from error
        if not self._has_graph and self.count() >= LEAST_ITEMS:
            self._build_graph()

    def _build_graph(self) -> None:
        """Builds it unless it is there; without it a search by the graph compares with all rows."""
        index = self._sql(
            "CREATE INDEX IF NOT EXISTS graph ON {items} USING hnsw ({ops})", ops=_OPS
        )
        try:
            with self._mutex, self._asking(), self._connected().transaction():
                # Others wait here instead of building a second one.
                self._connected().execute(
                    "SELECT pg_advisory_xact_lock(hashtext(%s))", (self.place,)
                )
                self._connected().execute(f"SET LOCAL maintenance_work_mem = '{_BUILD_MEMORY}'")
                self._connected().execute(index)
            self._has_graph = True
        except VaultError as error:
            # What was added is there; the next call that adds tries again.
            _log.warning("%s: its graph could not be built: %s", self.place, error)

    def delete(self, ids: Sequence[int]) -> None:
        """In one transaction."""
        wanted = sorted(set(ids))

        def work(cursor: psycopg.Cursor[Any]) -> tuple[int, int]:
            masks = cursor.execute(self._sql("DELETE FROM {dense} WHERE id = ANY(%s)"), (wanted,))
            masked = masks.rowcount
            query = self._sql("DELETE FROM {items} WHERE id = ANY(%s) RETURNING id")
            gone = {row[0] for row in cursor.execute(query, (wanted,))}
            if len(gone) < len(wanted):
                raise not_held(self.place, sorted(set(wanted) - gone))
            return -len(wanted), -masked

        self._change(work)

    def fetch(self, ids: Sequence[int]) -> list[StoredItem]:
        """In any order."""
        query = self._sql("SELECT {columns} FROM {items} WHERE id = ANY(%s)")
        return [_item(row) for row in self._rows(query, (list(ids),))]

    def walk(self, after: int, limit: int, where: Where) -> list[StoredItem]:
        """Ascending by id."""
        clause, values = _clause(where)
        query = self._sql(
            "SELECT {columns} FROM {items} WHERE id > %s AND {clause} ORDER BY id LIMIT %s",
            clause=clause,
        )
        return [_item(row) for row in self._rows(query, (after, *values, limit))]

    def masks(self, after: int, limit: int) -> list[StoredMask]:
        """Ascending by id."""
        query = self._sql(
            "SELECT id, patches, mask FROM {dense} WHERE id > %s ORDER BY id LIMIT %s"
        )
        return [StoredMask(*row) for row in self._rows(query, (after, limit))]

    def fetch_masks(self, ids: Sequence[int]) -> list[StoredMask]:
        """In any order."""
        query = self._sql("SELECT id, patches, mask FROM {dense} WHERE id = ANY(%s)")
        return [StoredMask(*row) for row in self._rows(query, (list(ids),))]

    def candidates(
        self, query: npt.NDArray[np.float32], count: int, where: Where, *, exact: bool
    ) -> tuple[list[StoredItem], float]:
        """By cosine distance; exactly in float32, by the graph in float16."""
        clause, values = _clause(where)
        width = sql.Literal(len(query))
        distance = "vector::vector({width}) <=> %s::vector" if exact else "vector <=> %s::halfvec"
        statement = self._sql(
            "SELECT {columns}, {distance} AS distance FROM {items} WHERE {clause} "
            "ORDER BY distance LIMIT %s",
            distance=sql.SQL(distance).format(width=width),
            clause=clause,
        )
        text = "[" + ",".join(map(repr, query.tolist())) + "]"
        found = self._rows(statement, (text, *values, count))
        if len(found) < count:
            return [_item(row[:-1]) for row in found], -np.inf
        farthest = float(found[-1][-1])
        # The distance of a row of zeros is not a number: then nothing is known of the others.
        bound = np.inf if np.isnan(farthest) else 1.0 - farthest
        return [_item(row[:-1]) for row in found], bound

    def error_bound(self) -> float:
        """Of three sums of D products in float32, each at most D roundings from the true one."""
        return 4 * self._width * 2.0**-24

    def close(self) -> None:
        """Ends the connection."""
        with self._mutex:
            self._closed = True
            self._drop()

    # ---- calls

    def _rows(
        self, query: sql.SQL | sql.Composed, values: Sequence[Any] = ()
    ) -> list[tuple[Any, ...]]:
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

    def _ask(self, query: sql.SQL | sql.Composed, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        with self._connected().cursor(binary=True) as cursor:
            found: list[tuple[Any, ...]] = cursor.execute(query, values).fetchall()
            return found

    def _change(self, work: Callable[[psycopg.Cursor[Any]], tuple[int, int]]) -> None:
        """Does something in a transaction that also counts it.

        Args:
            work: returns how many items and masks came, or went if below 0.
        """
        if self._read_only:
            raise VaultReadOnlyError(
                f"{self.place} was opened with read_only=True; open it without"
            )
        with self._mutex, self._asking("nothing was changed"):
            self._rows(sql.SQL("SELECT 1"))  # a connection that is gone is made anew now, not later
            connection = self._connected()
            transaction = ""
            try:
                with connection.transaction(), connection.cursor() as cursor:
                    items, masks = work(cursor)
                    cursor.execute(
                        self._sql(
                            "UPDATE {meta} SET items = items + %s, masks = masks + %s, "
                            "changes = changes + 1 RETURNING pg_current_xact_id()::text"
                        ),
                        (items, masks),
                    )
                    ((transaction,),) = cursor.fetchall()
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
            row = connection.execute(query, (self._schema,)).fetchone()
            self._width = 0 if row is None else int(row[0])
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

    def _sql(self, text: str, **parts: sql.Composable) -> sql.Composed:
        names = {name: sql.Identifier(self._schema, name) for name in _TABLES}
        schema = sql.Identifier(self._schema)
        return sql.SQL(text).format(**names, schema=schema, columns=_COLUMNS, **parts)


def _parse(address: str) -> tuple[str, str, str]:
    """What libpq is given, the schema, and the address for messages."""
    parts = urlsplit(address)
    options = parse_qsl(parts.query, keep_blank_values=True)
    names = [value for name, value in options if name == "memory"]
    schema = names[-1] if names else DEFAULT_MEMORY
    if not _NAME.fullmatch(schema):
        raise InputError(
            f"memory={schema!r:.80} in the address, wanted at most 63 of a-z, 0-9 and _, no digit "
            "first"
        )
    rest = urlencode([(name, value) for name, value in options if name != "memory"], safe="/")
    conninfo = urlunsplit(parts._replace(query=rest))
    try:
        known = psycopg.conninfo.conninfo_to_dict(conninfo)
    except psycopg.ProgrammingError as error:
        # The message of libpq repeats the address, password included.
        raise InputError(
            "the address is none that PostgreSQL understands; wanted "
            "postgresql://user:password@host:port/database?memory=NAME, with special characters "
            "as %XX"
        ) from error
    known.setdefault("connect_timeout", _CONNECT_SECONDS)
    known.setdefault("application_name", "procmem")
    shown = "@".join(str(known[name]) for name in ("user", "host") if known.get(name))
    port = f":{known['port']}" if known.get("port") else ""
    place = f"postgresql://{shown}{port}/{known.get('dbname', '')}?memory={schema}"
    return psycopg.conninfo.make_conninfo("", **known), schema, place


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


def _clause(where: Where) -> tuple[sql.Composable, list[Any]]:
    """The condition of a filter, and its values."""
    conditions = [sql.SQL("true")]
    values: list[Any] = []
    if where.labelled:
        conditions.append(sql.SQL("labelled"))
    if where.label is not None:
        conditions.append(sql.SQL("label = %s"))
        values.append(where.label.encode("utf-8", "surrogatepass"))
    if where.first_seconds > -np.inf:
        conditions.append(sql.SQL("added_seconds >= %s"))
        values.append(where.first_seconds)
    if where.end_seconds < np.inf:
        conditions.append(sql.SQL("added_seconds < %s"))
        values.append(where.end_seconds)
    return sql.SQL(" AND ").join(conditions), values


def _values(item: StoredItem) -> tuple[Any, ...]:
    vector = pgvector.HalfVector(item.vector)
    rest = (item.label, item.source, item.labelled, item.added_seconds, item.sealed)
    return (item.id, vector, *rest)


def _item(row: Sequence[Any]) -> StoredItem:
    id_, vector, *rest = row
    return StoredItem(id_, vector.to_numpy().astype(np.float16), *rest)


def _first_line(error: Exception) -> str:
    """What the server says, without the hints and the statement that follow."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
