"""Rows of a memory on Milvus; begin with `table.py`, which says what holds."""

from __future__ import annotations

from procmem.stores.milvus.table import MilvusTable as MilvusTable

__all__ = ["MilvusTable"]
