"""An approximate index that forgets: graphs over cells, each a function of the items left in it.

Stands in for `Index` (`index.py`) in memories that are large; `recall.py` chooses. Needs hnswlib.

A graph (HNSW, arXiv 1603.09320) remembers the order in which items came and keeps those that are
marked as deleted, in its bytes and in other answers. Therefore nothing is ever removed from a
graph here, nor added to it. Items are spread over cells by a hash of their ids; a cell that loses
or gains an item loses its graph at once, is searched exactly, and gets a new graph in the
background, built by one thread, from a fixed seed, with the items ascending by id. What a graph
finds is compared anew with the exact rows, so that similarities are those of an exact search.

Promises: which cells there are, and each graph, depend on the items that are held and on nothing
else. So do the answers once `settle` has returned; before, they are the same or nearer to those of
an exact search. What `remove` was given is in no later answer, and its memory is zeros, in rows
and in graphs, finished or not. Nothing is written to disk.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal, SupportsIndex

import numpy as np
import numpy.typing as npt

from procmem.errors import InputError, MissingExtraError
from procmem.index import CALIBRATION_ITEMS, Index, check_k
from procmem.patchsim import top_k

CELL_ITEMS = 1 << 15
"""A cell with more items is two cells. Larger ones are searched faster in all and take longer to
get their graph again; docs/results/index.md has both."""

LEAST_ITEMS = 200_000
"""With fewer items `make_index` takes the exact index by itself: an answer takes 2 ms and nothing
has to be built, when the memory is opened or when something was deleted."""

_LEAST_GRAPH = 4_096  # with fewer items an exact scan is as fast
_LINKS = 16  # M of the paper: links of each item
_BREADTH = 100  # efConstruction: candidates when an item is linked
_EXTRA = 40  # ef beyond k: candidates when a cell is asked
_MOST_FROM_GRAPH = 512  # with a larger k an exact scan is as fast
_CHUNK = 256  # items that are linked between two looks at whether they are still wanted
_SEED = 1

Vectors = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


def make_index(
    ids: Ids, vectors: npt.NDArray[np.float16], kind: Literal["auto", "exact", "hnsw"] = "auto"
) -> Index | Cells:
    """The index for some items; its `kind` says which one it is.

    Args:
        ids: (N,) int64, distinct, in any order.
        vectors: (N, D) float16, finite.
        kind: "exact"; "hnsw" for `Cells`; "auto" for `Cells` from 200,000 items on, if hnswlib is
            installed.

    Raises:
        MissingExtraError: "hnsw" without hnswlib.
    """
    large = len(ids) >= LEAST_ITEMS and kind == "auto" and hnswlib_is_installed()
    return Cells(ids, vectors) if kind == "hnsw" or large else Index(ids, vectors)


def hnswlib_is_installed() -> bool:
    """True if graphs can be built."""
    try:
        import hnswlib  # noqa: F401
    except ImportError:
        return False
    return True


def check_hnswlib() -> None:
    """Raises MissingExtraError unless graphs can be built."""
    if not hnswlib_is_installed():
        raise MissingExtraError(
            "index='hnsw' needs hnswlib; install it with: pip install 'procmem[hnsw]', or take "
            "index='exact'"
        )


class Cells:
    """The searchable copy of a large memory's vectors, in RAM. The interface is `Index`'s.

    One call at a time (as for `Index`); graphs are built in a thread of its own meanwhile.

    Args:
        ids: (N,) int64, distinct, in any order.
        vectors: (N, D) float16 as the vault stores them, row for row; finite.
        capacity: most items of a cell.
        least_graph: a cell with fewer items stays without a graph.

    Raises:
        MissingExtraError: hnswlib is not installed.
    """

    kind: Literal["hnsw"] = "hnsw"

    def __init__(
        self,
        ids: Ids,
        vectors: npt.NDArray[np.float16],
        *,
        capacity: int = CELL_ITEMS,
        least_graph: int = _LEAST_GRAPH,
    ) -> None:
        check_hnswlib()
        self._width = vectors.shape[1]
        self._capacity, self._least_graph = capacity, least_graph
        self._threads = min(8, len(os.sched_getaffinity(0)) if _LINUX else os.cpu_count() or 1)
        self._searchers: ThreadPoolExecutor | None = None
        self._builder = _Builder()
        self._cells: dict[tuple[int, int], _Cell] = {}
        self._ids: Ids = np.empty(0, dtype=np.int64)
        self._lay_out(ids, vectors)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def ids(self) -> Ids:
        """(N,) ascending. Do not write to it."""
        return self._ids

    @property
    def rows(self) -> Vectors:
        """(N, D) unit vectors in the order of `ids`, gathered: a copy."""
        rows = np.empty((len(self), self._width), dtype=np.float32)
        for cell in self._cells.values():
            rows[np.searchsorted(self._ids, cell.rows.ids)] = cell.rows.rows
        return rows

    # ---- changes

    def add(self, ids: Ids, vectors: npt.NDArray[np.float16]) -> None:
        """Takes in new rows, at the cost of a copy of the cells that they go to.

        Args:
            ids: (M,) int64, distinct, none of them held already.
            vectors: (M, D) float16.
        """
        cells = self._cell_of(ids)
        for key in sorted(set(cells)):
            own = np.array([cell == key for cell in cells], dtype=np.bool_)
            self._cells[key].add(ids[own], vectors[own])
        self._balance()

    def remove(self, ids: Iterable[int]) -> None:
        """Drops rows and overwrites the memory that held them with zeros.

        Ids that are not held are passed over.
        """
        gone = np.fromiter(ids, dtype=np.int64)
        cells = self._cell_of(gone)
        for key in sorted(set(cells)):
            own = np.array([cell == key for cell in cells], dtype=np.bool_)
            self._cells[key].remove(gone[own])
        self._balance()

    def clear(self) -> None:
        """Overwrites the rows with zeros, drops the graphs, and ends the threads.

        Not for forgetting: to zero a graph takes longer than to build it. `remove` does that.
        """
        self._builder.close()
        for cell in self._cells.values():
            cell.clear()
        self._cells = {}
        self._lay_out(self._ids[:0], np.empty((0, self._width), dtype=np.float16))
        if self._searchers is not None:
            self._searchers.shutdown()
            self._searchers = None

    def settle(self) -> None:
        """Waits until every cell that gets a graph has it.

        Raises:
            Exception: a graph could not be built, for want of memory for example.
        """
        self._builder.wait()

    @property
    def settled(self) -> bool:
        """True if no graph is to be built."""
        return all(
            cell.graph is not None
            for cell in self._cells.values()
            if len(cell.rows) >= self._least_graph
        )

    def _lay_out(self, ids: Ids, vectors: npt.NDArray[np.float16]) -> None:
        hashes = spread(ids)
        for key, own in leaves(hashes, self._capacity):
            self._cells[key] = _Cell(Index(ids[own], vectors[own]))
        self._changed()

    def _balance(self) -> None:
        """Splits cells that are too large and joins those that fit into one."""
        hashes = spread(np.concatenate([cell.rows.ids for cell in self._cells.values()]))
        wanted = {key for key, _ in leaves(hashes, self._capacity)}
        stale = [key for key in self._cells if key not in wanted]
        if stale:
            old = [self._cells.pop(key) for key in stale]
            ids = np.concatenate([cell.rows.ids for cell in old])
            rows = np.concatenate([cell.rows.rows for cell in old])
            cells = np.array([_leaf_of(hash_, wanted) for hash_ in spread(ids).tolist()])
            for key in sorted(wanted - self._cells.keys()):
                own = (cells == key).all(axis=1) if len(cells) else np.zeros(0, dtype=np.bool_)
                self._cells[key] = _Cell(Index.of_unit_rows(ids[own], rows[own]))
            for cell in old:
                cell.clear()
            rows.fill(0)
        self._changed()

    def _changed(self) -> None:
        parts = [cell.rows.ids for cell in self._cells.values()]
        self._ids = np.sort(np.concatenate(parts)) if parts else np.empty(0, dtype=np.int64)
        for key in sorted(self._cells):
            cell = self._cells[key]
            if cell.graph is None and len(cell.rows) >= self._least_graph:
                self._builder.build(cell)

    def _cell_of(self, ids: Ids) -> list[tuple[int, int]]:
        return [_leaf_of(hash_, self._cells) for hash_ in spread(ids).tolist()]

    # ---- searching

    def search(
        self, query: Vectors, k: SupportsIndex, *, keep: Flags | None = None
    ) -> tuple[Ids, Vectors]:
        """Finds the k nearest rows by cosine similarity, nearly exactly; see `Index.search`.

        With `keep`, graphs are asked for more than k; where too few of those are kept, the cell is
        searched exactly.
        """
        count = check_k(k)
        queries = np.ascontiguousarray(np.atleast_2d(query))
        if query.ndim not in (1, 2) or queries.shape[1] != self._width:
            raise InputError(
                f"query has shape {query.shape}, wanted ({self._width},) or (Q, {self._width}): "
                "embed it with the model of this memory"
            )
        if keep is not None and (keep.shape != self._ids.shape or keep.dtype != np.bool_):
            raise InputError(
                f"keep is {keep.dtype} of shape {keep.shape}, wanted bool of {self._ids.shape}"
            )
        if keep is not None and keep.all():
            keep = None
        found = self._search(queries, count, keep)
        return (found[0][0], found[1][0]) if query.ndim == 1 else found

    def others(
        self, k: int, *, keep: Flags | None = None, limit: int = CALIBRATION_ITEMS
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], Vectors]:
        """Leave-one-out neighbors, exactly; see `Index.others`."""
        kept = np.arange(len(self)) if keep is None else np.flatnonzero(keep)
        count = min(k, len(kept) - 1)
        asked = kept[:limit]
        if count < 1:
            nothing = np.empty((0, 0), dtype=np.intp)
            return nothing.ravel(), nothing, np.empty((0, 0), dtype=np.float32)
        queries = np.empty((len(asked), self._width), dtype=np.float32)
        for cell in self._cells.values():
            here, at = _find(cell.rows.ids, self._ids[asked])
            queries[here] = cell.rows.rows[at[here]]
        parts = [
            cell.rows.search(queries, count + 1, keep=self._part(keep, cell))
            for cell in self._cells.values()
        ]
        ids, near = _merge(parts, count + 1)
        queries.fill(0)
        found = np.searchsorted(self._ids, ids)
        itself = found == asked[:, None]
        itself[~itself.any(axis=1), -1] = True
        shape = (len(asked), count)
        return asked, found[~itself].reshape(shape), near[~itself].reshape(shape)

    def nearest_others(self, *, limit: int = CALIBRATION_ITEMS) -> Vectors:
        """How near items are to their nearest other item; see `Index.nearest_others`."""
        return self.others(1, limit=limit)[2].ravel()

    def _search(self, queries: Vectors, k: int, keep: Flags | None) -> tuple[Ids, Vectors]:
        cells = list(self._cells.values())

        def ask(cell: _Cell) -> tuple[Ids, Vectors]:
            return cell.search(queries, k, self._part(keep, cell))

        if len(cells) > 1 and self._threads > 1:
            if self._searchers is None:
                self._searchers = ThreadPoolExecutor(self._threads, "procmem-search")
            # Every thread takes a share of the cells: a task of its own costs more than a cell.
            shares = [cells[start :: self._threads] for start in range(self._threads)]
            tasks = [
                self._searchers.submit(lambda own: [ask(cell) for cell in own], share)
                for share in shares[1:]
            ]
            parts = [ask(cell) for cell in shares[0]]
            for task in tasks:
                parts += task.result()
        else:
            parts = [ask(cell) for cell in cells]
        return _merge(parts, k)

    def _part(self, keep: Flags | None, cell: _Cell) -> Flags | None:
        return None if keep is None else keep[np.searchsorted(self._ids, cell.rows.ids)]


class _Cell:
    """Some rows, and a graph over all of them or none."""

    def __init__(self, rows: Index) -> None:
        self.rows = rows
        self.graph: Any = None
        self.lock = threading.Lock()  # held while an unfinished graph is worked on
        self.unfinished: Any = None
        self.version = 0  # which items it holds: a graph of an older version is not wanted

    def add(self, ids: Ids, vectors: npt.NDArray[np.float16]) -> None:
        self._drop(np.empty(0, dtype=np.int64))
        self.rows.add(ids, vectors)

    def remove(self, ids: Ids) -> None:
        self._drop(ids)
        self.rows.remove(ids.tolist())

    def clear(self) -> None:
        self._drop(np.empty(0, dtype=np.int64))
        self.rows.clear()

    def _drop(self, ids: Ids) -> None:
        """Takes the graph away, with zeros in place of the rows of some ids."""
        with self.lock:
            self.version += 1
            for graph in (self.graph, self.unfinished):
                if graph is None or not len(ids):
                    continue
                held = np.intersect1d(np.array(graph.get_ids_list(), dtype=np.int64), ids)
                if len(held):
                    # hnswlib writes a new vector of a known label over the old one.
                    zeros = np.zeros((len(held), self.rows.rows.shape[1]), dtype=np.float32)
                    graph.add_items(zeros, held, num_threads=1)
            self.graph = self.unfinished = None

    def search(self, queries: Vectors, k: int, keep: Flags | None) -> tuple[Ids, Vectors]:
        graph = self.graph
        if graph is None or k > min(_MOST_FROM_GRAPH, len(self.rows) // 4):
            return self.rows.search(queries, k, keep=keep)
        wanted = k if keep is None else 2 * k + _EXTRA
        try:
            graph.set_ef(wanted + _EXTRA)
            labels, _ = graph.knn_query(queries, wanted, num_threads=1)
        except RuntimeError:  # fewer than wanted can be reached from the graph's entry
            return self.rows.search(queries, k, keep=keep)
        at = np.sort(np.searchsorted(self.rows.ids, labels.astype(np.int64)), axis=1)
        ids = np.empty((len(queries), k), dtype=np.int64)
        near = np.empty((len(queries), k), dtype=np.float32)
        for row, own in enumerate(at):
            chosen = own if keep is None else own[keep[own]]
            if len(chosen) < k:
                return self.rows.search(queries, k, keep=keep)
            # As `Index.search`: rows ascend by id, so ties by position are ties by id.
            best, similarities = top_k(queries[row : row + 1], self.rows.rows[chosen], k)
            ids[row] = self.rows.ids[chosen[best[0]]]
            near[row] = np.clip(similarities[0], -1.0, 1.0)
        return ids, near


class _Builder:
    """One thread that builds graphs, one after the other."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._tasks: dict[int, tuple[int, Future[None]]] = {}  # id of the cell -> version, task
        self._closed = False

    def build(self, cell: _Cell) -> None:
        waiting = self._tasks.get(id(cell))
        if waiting is not None and waiting[0] == cell.version and not waiting[1].done():
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, "procmem-graphs", initializer=_yield_to_others)
        self._tasks = {key: task for key, task in self._tasks.items() if not task[1].done()}
        self._tasks[id(cell)] = (
            cell.version,
            self._pool.submit(self._build, cell, cell.version),
        )

    def wait(self) -> None:
        for _, task in list(self._tasks.values()):
            task.result()

    def close(self) -> None:
        self._closed = True
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None
        self._tasks = {}
        self._closed = False

    def _build(self, cell: _Cell, version: int) -> None:
        import hnswlib

        for start in self._chunks(cell, version):
            with cell.lock:
                if cell.version != version or self._closed:
                    return
                if cell.unfinished is None:
                    cell.unfinished = hnswlib.Index(space="ip", dim=cell.rows.rows.shape[1])
                    cell.unfinished.init_index(
                        max_elements=len(cell.rows),
                        M=_LINKS,
                        ef_construction=_BREADTH,
                        random_seed=_SEED,
                    )
                    cell.unfinished.set_num_threads(1)
                part = slice(start, start + _CHUNK)
                cell.unfinished.add_items(cell.rows.rows[part], cell.rows.ids[part], num_threads=1)
        with cell.lock:
            if cell.version == version:
                cell.graph, cell.unfinished = cell.unfinished, None

    @staticmethod
    def _chunks(cell: _Cell, version: int) -> Iterator[int]:
        with cell.lock:
            count = len(cell.rows) if cell.version == version else 0
        yield from range(0, count, _CHUNK)


_LINUX = sys.platform == "linux"


def _yield_to_others() -> None:
    if _LINUX:  # elsewhere priorities belong to processes
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)


# ---- cells


def spread(ids: Ids) -> npt.NDArray[np.uint64]:
    """(N,) a hash of each id, so that ids given in a row fill all cells alike.

    The finalizer of SplitMix64 (Steele et al., "Fast splittable pseudorandom number generators").
    """
    mixed: npt.NDArray[np.uint64] = ids.astype(np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)
    return mixed


def leaves(
    hashes: npt.NDArray[np.uint64], capacity: int
) -> list[tuple[tuple[int, int], npt.NDArray[np.intp]]]:
    """The cells of some items: of the tree over the leading bits, the highest that fit.

    Args:
        hashes: (N,), in any order.
        capacity: most items of a cell.

    Returns:
        For each cell (number of leading bits, their value) and which items are in it. Cells may be
        empty. A function of the set of hashes: whoever loses items joins cells again.
    """
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    found: list[tuple[tuple[int, int], npt.NDArray[np.intp]]] = []

    def visit(bits: int, value: int, start: int, stop: int) -> None:
        if stop - start <= capacity or bits == 64:
            found.append(((bits, value), order[start:stop]))
            return
        middle = np.uint64((2 * value + 1) << (63 - bits))
        split = start + int(np.searchsorted(ordered[start:stop], middle))
        visit(bits + 1, 2 * value, start, split)
        visit(bits + 1, 2 * value + 1, split, stop)

    visit(0, 0, 0, len(ordered))
    return found


def _leaf_of(hash_: int, cells: Iterable[tuple[int, int]]) -> tuple[int, int]:
    keys = cells if isinstance(cells, (dict, set)) else set(cells)
    for bits in range(65):
        key = (bits, hash_ >> (64 - bits))
        if key in keys:
            return key
    raise AssertionError("the cells cover every hash")


def _find(ids: Ids, wanted: Ids) -> tuple[Flags, npt.NDArray[np.intp]]:
    at = np.minimum(np.searchsorted(ids, wanted), max(0, len(ids) - 1))
    here = ids[at] == wanted if len(ids) else np.zeros(len(wanted), dtype=np.bool_)
    return here, at


def _merge(parts: list[tuple[Ids, Vectors]], k: int) -> tuple[Ids, Vectors]:
    """The k best of several results (Q, K_i), equal similarities by smaller id."""
    ids = np.concatenate([part[0] for part in parts], axis=1)
    near = np.concatenate([part[1] for part in parts], axis=1)
    order = np.lexsort((ids, -near), axis=-1)[:, :k]
    return np.take_along_axis(ids, order, axis=1), np.take_along_axis(near, order, axis=1)
