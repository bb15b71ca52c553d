"""Rows of a memory in PostgreSQL, with the vectors of pgvector. Extra `postgres`.

A table of `stores/table.py`. One memory is one schema of the database, by default "procmem":

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

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from procmem.errors import InputError, VaultError, VaultFormatError
from procmem.folder import not_held
from procmem.index import LEAST_ITEMS
from procmem.stores.contract import Where
from procmem.stores.postgres.connection import TABLES, PostgresConnection
from procmem.stores.table import StoredItem, StoredMask

# After `connection.py`, which says how to install what is missing.
import pgvector  # isort: skip
import psycopg  # isort: skip
from psycopg import sql  # isort: skip
from psycopg.types.json import Jsonb  # isort: skip

_ROWS_AT_ONCE = 100
_BUILD_MEMORY = "512MB"  # of the server, while it builds its graph: 200,000 vectors of 384 fit
_OPS = sql.SQL("vector halfvec_cosine_ops")

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

    has_graph = True

    def __init__(self, address: str, *, read_only: bool) -> None:
        self._server = PostgresConnection(address, read_only=read_only)
        self._graph_is_there = False

    @property
    def place(self) -> str:
        """The address without password."""
        return self._server.place

    # ---- the memory as a whole

    def head(self) -> Mapping[str, str] | None:
        """See `Table`, as for everything below."""
        query = "SELECT table_name FROM information_schema.tables WHERE table_schema = %s"
        found = {row[0] for row in self._server.rows(sql.SQL(query), (self._server.schema,))}
        if not found:
            return None
        if not found.issuperset(TABLES):
            raise VaultFormatError(
                f"{self.place} holds tables of something else ({min(found)!r}, for example); give "
                "another name of the memory (?memory=NAME)"
            )
        head = self._noted("head")
        if not isinstance(head, dict):
            raise self._server.damaged(f"says that its head is {head!r:.40}")
        return {str(name): str(value) for name, value in head.items()}

    def create(self, head: Mapping[str, str], *, width: int) -> None:
        """In one transaction, one process at a time."""

        def make(connection: psycopg.Connection[Any]) -> None:
            run = connection.execute
            run("SELECT pg_advisory_xact_lock(hashtext(%s))", (f"procmem {self._server.schema}",))
            if run(
                "SELECT 1 FROM information_schema.tables WHERE table_schema = %s",
                (self._server.schema,),
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
                run(self._server.sql(statement, width=sql.Literal(width)))
            run(
                self._server.sql(
                    "INSERT INTO {meta}(head, items, masks, changes) VALUES (%s, 0, 0, 0)"
                ),
                (Jsonb(dict(head)),),
            )

        with self._server.transaction() as connection:
            make(connection)
        self._server.reconnect()

    def state(self) -> int:
        """Counts the changes."""
        return int(self._noted("changes"))

    def count(self, *, dense: bool = False) -> int:
        """As the last change noted it."""
        count = int(self._noted("masks" if dense else "items"))
        if count < 0:
            raise self._server.damaged(f"counts {count} {'masks' if dense else 'items'}")
        return count

    def _noted(self, column: str) -> Any:
        """What the row of `meta` says."""
        query = self._server.sql("SELECT {column} FROM {meta}", column=sql.Identifier(column))
        rows = self._server.rows(query)
        if not rows:
            raise self._server.damaged("has lost the row of its table meta")
        return rows[0][0]

    def bytes_on_disk(self) -> int:
        """Of tables, indexes and large values."""
        query = "SELECT pg_total_relation_size(quote_ident(%s) || '.' || quote_ident(%s))"
        return sum(
            self._server.rows(sql.SQL(query), (self._server.schema, name))[0][0] for name in TABLES
        )

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
        query = self._server.sql("SELECT id FROM {items} WHERE id = ANY(%s)")
        return {row[0] for row in self._server.rows(query, (list(ids),))}

    def insert(self, items: Iterable[tuple[StoredItem, StoredMask | None]]) -> None:
        """In one transaction."""
        put_item = self._server.sql(
            "INSERT INTO {items} VALUES (%s, %s::halfvec, %s, %s, %s, %s, %s)"
        )
        put_mask = self._server.sql("INSERT INTO {dense} VALUES (%s, %s, %s)")

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
            self._server.change(work)
        except psycopg.errors.UniqueViolation as error:
            detail = re.search(r"\d+", error.diag.message_detail or "")
            raise InputError(
                f"id {detail[0] if detail else '?'} is in the memory already or given twice; "
                "nothing was added: use other ids, or give none"
            ) from error
        if not self._graph_is_there:
            self._build_graph()

    def _build_graph(self) -> None:
        """Builds it where it pays; without it a search by the graph compares with all rows."""
        index = self._server.sql(
            "CREATE INDEX IF NOT EXISTS graph ON {items} USING hnsw ({ops})", ops=_OPS
        )
        try:
            if self.count() < LEAST_ITEMS:
                return
            with self._server.transaction() as connection:
                # Others wait here instead of building a second one.
                lock = f"procmem {self._server.schema}"
                connection.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", (lock,))
                connection.execute(f"SET LOCAL maintenance_work_mem = '{_BUILD_MEMORY}'")
                connection.execute(index)
            self._graph_is_there = True
        except VaultError as error:
            # What was added is there; the next call that adds tries again.
            _log.warning("%s: its graph could not be built: %s", self.place, error)

    def delete(self, ids: Sequence[int]) -> None:
        """In one transaction."""
        wanted = sorted(set(ids))

        def work(cursor: psycopg.Cursor[Any]) -> tuple[int, int]:
            masks = cursor.execute(
                self._server.sql("DELETE FROM {dense} WHERE id = ANY(%s)"), (wanted,)
            )
            masked = masks.rowcount
            query = self._server.sql("DELETE FROM {items} WHERE id = ANY(%s) RETURNING id")
            gone = {row[0] for row in cursor.execute(query, (wanted,))}
            if len(gone) < len(wanted):
                raise not_held(self.place, sorted(set(wanted) - gone))
            return -len(wanted), -masked

        self._server.change(work)

    def fetch(self, ids: Sequence[int]) -> list[StoredItem]:
        """In any order."""
        query = self._server.sql("SELECT {columns} FROM {items} WHERE id = ANY(%s)")
        return [_item(row) for row in self._server.rows(query, (list(ids),))]

    def walk(self, after: int, limit: int, where: Where) -> list[StoredItem]:
        """Ascending by id."""
        clause, values = _clause(where)
        query = self._server.sql(
            "SELECT {columns} FROM {items} WHERE id > %s AND {clause} ORDER BY id LIMIT %s",
            clause=clause,
        )
        return [_item(row) for row in self._server.rows(query, (after, *values, limit))]

    def masks(self, after: int, limit: int) -> list[StoredMask]:
        """Ascending by id."""
        query = self._server.sql(
            "SELECT id, patches, mask FROM {dense} WHERE id > %s ORDER BY id LIMIT %s"
        )
        return [StoredMask(*row) for row in self._server.rows(query, (after, limit))]

    def fetch_masks(self, ids: Sequence[int]) -> list[StoredMask]:
        """In any order."""
        query = self._server.sql("SELECT id, patches, mask FROM {dense} WHERE id = ANY(%s)")
        return [StoredMask(*row) for row in self._server.rows(query, (list(ids),))]

    def candidates(
        self, query: npt.NDArray[np.float32], count: int, where: Where, *, exact: bool
    ) -> tuple[list[StoredItem], float]:
        """By cosine distance; exactly in float32, by the graph in float16."""
        clause, values = _clause(where)
        width = sql.Literal(len(query))
        distance = "vector::vector({width}) <=> %s::vector" if exact else "vector <=> %s::halfvec"
        statement = self._server.sql(
            "SELECT {columns}, {distance} AS distance FROM {items} WHERE {clause} "
            "ORDER BY distance LIMIT %s",
            distance=sql.SQL(distance).format(width=width),
            clause=clause,
        )
        text = "[" + ",".join(map(repr, query.tolist())) + "]"
        found = self._server.rows(statement, (text, *values, count + 1))
        items = [_item(row[:-1]) for row in found[:count]]
        if len(found) <= count:
            return items, -np.inf
        nearest_left = float(found[-1][-1])
        # The distance of a row of zeros is not a number, and stands last; its cosine counts as 0.
        return items, 0.0 if np.isnan(nearest_left) else 1.0 - nearest_left

    def error_bound(self) -> float:
        """Of three sums of D products in float32, each at most D roundings from the true one."""
        return 4 * self._server.width * 2.0**-24

    def close(self) -> None:
        """Ends the connection."""
        self._server.close()


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
