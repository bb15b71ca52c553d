"""Rows of a memory in PostgreSQL; begin with `table.py`."""

from __future__ import annotations

from procmem.stores.postgres.table import PostgresTable as PostgresTable

__all__ = ["PostgresTable"]
