"""The nearest rows of a matrix, and softmax-weighted sums of its rows.

Takes vectors from `embedder.py` or the vault, gives indices and sums to `index.py` and
`segment.py`. The work is done by the C++ extension `procmem._patchsim`; beside each function
stands its plain numpy twin, which says what it means and which the tests hold it to.

Promises that the similarity of two rows has the same bits wherever the rows stand, whatever else
is in the matrices and however many threads run (law 1 rests on this; a BLAS product does not give
it), and that rows that are left out leave the answers of a memory that never held them. Never holds
a queries x memory matrix, never converts or copies a whole argument. Nobody may write to the arrays
while a call runs: the interpreter lock is released. Memory-mapped arrays are read as they are.
"""

from __future__ import annotations

import math
import operator
from typing import Any, SupportsIndex, overload

import numpy as np
import numpy.typing as npt

from procmem import _patchsim
from procmem.errors import InputError

Float32 = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]
Bytes = npt.NDArray[np.uint8]

SIGN_ROWS = 64
"""Rows whose signs stand side by side."""


@overload
def top_k(
    queries: Float32,
    memory: Float32 | npt.NDArray[np.float16],
    k: SupportsIndex,
    *,
    keep: Bool | None = None,
    rows: npt.NDArray[np.int64] | None = None,
    scales: Float32 | None = None,
    threads: SupportsIndex = 0,
) -> tuple[npt.NDArray[np.int64], Float32]: ...
@overload
def top_k(
    queries: npt.NDArray[np.int8],
    memory: npt.NDArray[np.int8],
    k: SupportsIndex,
    *,
    keep: Bool | None = None,
    rows: npt.NDArray[np.int64] | None = None,
    threads: SupportsIndex = 0,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]: ...
def top_k(
    queries: Any,
    memory: Any,
    k: SupportsIndex,
    *,
    keep: Bool | None = None,
    rows: npt.NDArray[np.int64] | None = None,
    scales: Float32 | None = None,
    threads: SupportsIndex = 0,
) -> tuple[npt.NDArray[np.int64], Any]:
    """Finds the k memory rows of largest dot product for each query, in one pass over memory.

    Args:
        queries: (Q, D) float32, C-contiguous, finite; Q may be 0. Or int8, D at most 65,536.
        memory: (N, D) float32 or float16, C-contiguous, finite; N may be 0. float16 answers as its
            float32 copy would. int8 if and only if the queries are.
        k: how many rows are wanted, at least 1.
        keep: (N,) bool, False for rows that shall not be found; they are not read. None keeps all.
        rows: (R,) int64 ascending, the rows that are looked at; instead of `keep`, for few.
        scales: (N,) float32, finite: what each row is multiplied with first, as if by numpy in
            float32; for float16 memory only.
        threads: how many threads may work; 0 means one per core.

    Returns:
        Indices into memory, (Q, K) int64, and their similarities, (Q, K) float32, with
        K = min(k, rows kept or given): larger similarity first, equal similarities by smaller
        index. For unit rows the similarity is the cosine, within D * 2**-24 (rounding may take it
        just above 1). Similarities of int8 are exact, (Q, K) int32.

    Raises:
        InputError: an argument has a wrong type, shape, layout or value; the message says which.
    """
    try:
        return _patchsim.topk(
            queries,
            memory,
            _whole(k, "k"),
            _whole(threads, "threads"),
            keep=keep,
            rows=rows,
            scales=scales,
        )
    except (ValueError, TypeError) as error:
        raise InputError(str(error)) from error


def top_k_reference(
    queries: npt.NDArray[Any], memory: npt.NDArray[Any], k: int, *, keep: Bool | None = None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any]]:
    """The twin of `top_k`: the whole (Q, N) product in float64, sorted."""
    rows = np.arange(len(memory)) if keep is None else np.flatnonzero(keep)
    products = queries.astype(np.float64) @ memory[rows].astype(np.float64).T  # (Q, kept)
    order = np.argsort(-products, axis=1, kind="stable")[:, :k]
    similarities = np.take_along_axis(products, order, axis=1)
    kind = np.int32 if queries.dtype == np.int8 else np.float32
    return rows[order].astype(np.int64), similarities.astype(kind)


def like_signs(
    query: Float32,
    memory: Bytes,
    count: int,
    wanted: SupportsIndex,
    *,
    keep: Bool | None = None,
    threads: SupportsIndex = 0,
) -> npt.NDArray[np.int64]:
    """Finds the rows whose signs differ least from those of a query.

    A sign counts 0 to 3, by the size of the query's element there: the sum over the signs that
    differ is then nearly what they take from the dot product with a row of signs (as in Gao and
    Long, "RaBitQ", 2024, with two bits for each element and without their rotation).

    Args:
        query: (D,) float32, finite; D at most 21,840.
        memory: (P, B, 64) uint8 from `sign_panels`: the bytes of 64 rows side by side.
        count: N, how many rows there are; the panels hold them and at most 63 of filling.
        wanted: how many rows are wanted, at least 1.
        keep: (N,) bool, False for rows that shall not be found. None keeps all.
        threads: how many threads may work; 0 means one per core.

    Returns:
        (R,) int64 ascending: every kept row within the smallest distance that takes in `wanted` of
        them, or all kept rows if there are fewer.

    Raises:
        InputError: an argument has a wrong type, shape, layout or value; the message says which.
    """
    try:
        return _patchsim.like_signs(
            query,
            memory,
            _whole(count, "count"),
            _whole(wanted, "wanted"),
            _whole(threads, "threads"),
            keep=keep,
        )
    except (ValueError, TypeError) as error:
        raise InputError(str(error)) from error


def like_signs_reference(
    query: Float32, memory: Bytes, count: int, wanted: int, *, keep: Bool | None = None
) -> npt.NDArray[np.int64]:
    """The twin of `like_signs`: all distances, sorted."""
    distances = _sign_distances(query, sign_lines(memory, count))
    rows = np.arange(count) if keep is None else np.flatnonzero(keep)
    if len(rows) <= wanted:
        return rows.astype(np.int64)
    limit = np.sort(distances[rows])[wanted - 1]
    found: npt.NDArray[np.int64] = rows[distances[rows] <= limit].astype(np.int64)
    return found


def _sign_distances(query: Float32, lines: Bytes) -> npt.NDArray[np.int64]:
    """(N,) how far signs (N, B) are from a query's."""
    signs, *planes = _sign_query(query)
    distances = np.zeros(len(lines), dtype=np.int64)
    for plane, weight in zip(planes, (1, 2), strict=True):
        differing = np.unpackbits((lines ^ signs) & plane, axis=1)
        distances += weight * differing.sum(axis=1, dtype=np.int64)
    return distances


def nearest_by_signs(
    queries: Float32,
    rows: npt.NDArray[np.float16],
    k: SupportsIndex,
    *,
    signs: Bytes,
    codes: npt.NDArray[np.int8],
    unit: float,
    likely: SupportsIndex,
    scales: Float32 | None = None,
    keep: Bool | None = None,
    threads: SupportsIndex = 0,
) -> tuple[npt.NDArray[np.int64], Float32]:
    """Finds the k rows of largest dot product for each query among those that look like it.

    Three looks, each at fewer rows and closer: at the signs of all (`like_signs`), at the bytes of
    those that are left, at the rows themselves of the 2 k + 16 nearest by bytes (rounded up to a
    multiple of 32). Bytes are looked at in the order of the signs, until a row would have to be
    four deviations nearer than its signs say to be among those. A row is missed if it is near and
    does not look it.

    Args:
        queries: (Q, D) float32, C-contiguous, finite; D at most 21,840.
        rows: (N, D) float16, C-contiguous, finite.
        k: how many rows are wanted, at least 1.
        signs: theirs, (P, B, 64) uint8 from `sign_panels`.
        codes: theirs in bytes, (N, D) int8 from `round_rows`.
        unit: what a byte counts in.
        likely: how many rows are left by signs, or more that are equally like; at least `k`.
        scales: (N,) float32: what each row is multiplied with first. None: nothing.
        keep: (N,) bool, False for rows that shall not be found. None keeps all.
        threads: how many threads may work; 0 means one per core.

    Returns:
        Indices into rows, (Q, K) int64, and similarities, (Q, K) float32, K = min(k, rows kept):
        both as `top_k` gives them for the rows that are found.

    Raises:
        InputError: an argument has a wrong type, shape, layout or value; the message says which.
    """
    try:
        return _patchsim.nearest_by_signs(
            queries,
            rows,
            _whole(k, "k"),
            signs,
            codes,
            _real(unit, "unit"),
            _whole(likely, "likely"),
            _whole(threads, "threads"),
            scales=scales,
            keep=keep,
        )
    except (ValueError, TypeError) as error:
        raise InputError(str(error)) from error


def nearest_by_signs_reference(
    queries: Float32,
    rows: npt.NDArray[np.float16],
    k: int,
    *,
    signs: Bytes,
    codes: npt.NDArray[np.int8],
    unit: float,
    likely: int,
    keep: Bool | None = None,
) -> tuple[npt.NDArray[np.int64], Float32]:
    """The twin of `nearest_by_signs` for rows without scales: one look after the other."""
    closer = -(-(2 * k + 16) // 32) * 32
    lines = sign_lines(signs, len(rows))
    found, similarities = [], []
    for query in queries:
        like = like_signs_reference(query, signs, len(rows), likely, keep=keep)
        distances = _sign_distances(query, lines[like])
        code = np.clip(np.rint(query * (1 / np.float32(unit))), -127, 127).astype(np.int8)
        products = code.astype(np.int64) @ codes[like].T.astype(np.int64)
        near = np.empty(0, dtype=np.intp)
        for distance in np.unique(distances):
            if len(near) == closer and (
                _most_expected(query, distance) < float(np.float32(unit)) ** 2 * products[near[-1]]
            ):
                break
            near = np.sort(np.concatenate([near, np.flatnonzero(distances == distance)]))
            near = near[np.argsort(-products[near], kind="stable")[:closer]]
        rest = np.sort(like[near])
        places, own = top_k_reference(query[None], rows[rest], k)
        found.append(rest[places[0]])
        similarities.append(own[0])
    return np.stack(found), np.stack(similarities)


def _most_expected(query: Float32, distance: int) -> float:
    """What the product with a row 1 long hardly ever exceeds if their signs are so far apart.

    If the row's product with its own signs is as the query's with its own, the query's with the
    row's signs tells the product but for a nearly normal error (Gao and Long, "RaBitQ", 2024,
    theorem 3.2), of which this takes four deviations.
    """
    root = math.sqrt(len(query))
    sizes = squares = 0.0
    for element in query.tolist():  # in this order, to the bit
        sizes += abs(element)
        squares += element * element
    length = math.sqrt(squares)
    if length == 0:
        return math.nan
    own = sizes / (length * root)
    deviation = length * math.sqrt(max(0.0, 1 - own * own))
    with_signs = sizes - length / root * distance
    return (with_signs + 4 * deviation) / (own * root)


def _sign_query(query: Float32) -> Bytes:
    """(3, B) a query's signs, those that count one if a row's differ, and those that count two."""
    wide = query.astype(np.float64)
    spread = np.sqrt(np.square(wide).mean())
    levels = np.digitize(np.abs(wide) * (2 / spread if spread > 0 else 0), [0.5, 1.5, 2.5])
    flags = np.stack([query > 0, levels & 1 > 0, levels & 2 > 0])
    return np.packbits(flags, axis=1, bitorder="little")


def sign_panels(rows: npt.NDArray[np.floating[Any]]) -> Bytes:
    """One bit of each element, set if it is above zero, as `like_signs` reads them.

    Args:
        rows: (N, D) floats, none of them NaN.

    Returns:
        (P, B, 64) uint8, P = ceil(N / 64), B = ceil(D / 8); filling is zero.
    """
    if rows.dtype == np.float16:  # compared as integers, which is ten times as fast
        above = np.ascontiguousarray(rows).view(np.uint16) - np.uint16(1) < 0x7FFF
    else:
        above = rows > 0
    return panels_of(np.packbits(above, axis=1, bitorder="little"))


def panels_of(lines: Bytes) -> Bytes:
    """(N, B) bytes of signs, row by row, as panels; a copy. See `sign_panels`."""
    count, width = lines.shape
    panels = np.empty((-(-count // SIGN_ROWS), width, SIGN_ROWS), dtype=np.uint8)
    whole = count // SIGN_ROWS
    panels[:whole] = lines[: whole * SIGN_ROWS].reshape(whole, SIGN_ROWS, width).transpose(0, 2, 1)
    if whole < len(panels):
        panels[whole] = 0
        panels[whole, :, : count % SIGN_ROWS] = lines[whole * SIGN_ROWS :].T
    return panels


def sign_lines(panels: Bytes, count: int) -> Bytes:
    """The inverse of `panels_of`: (N, B)."""
    lines: Bytes = panels.transpose(0, 2, 1).reshape(-1, panels.shape[1])[:count]
    return lines


def unit_scales(rows: npt.NDArray[np.float16], *, threads: SupportsIndex = 0) -> Float32:
    """What makes each row 1 long: 1 / sqrt(sum of squares), a function of its own bits alone.

    Args:
        rows: (N, D) float16, C-contiguous, finite, of length 1 but for rounding.
        threads: how many threads may work; 0 means one per core.

    Returns:
        (N,) float32; 0 for a row of zeros.

    Raises:
        InputError: an argument has a wrong type, shape or layout; the message says which.
    """
    try:
        return _patchsim.unit_scales(rows, _whole(threads, "threads"))
    except (ValueError, TypeError) as error:
        raise InputError(str(error)) from error


def unit_scales_reference(rows: npt.NDArray[np.float16]) -> Float32:
    """The twin of `unit_scales`, to the bit: the sums are exact in any order."""
    squares = np.square(rows.astype(np.float64)).sum(axis=1)
    scales = np.zeros(len(rows), dtype=np.float64)
    np.divide(1.0, np.sqrt(squares), out=scales, where=squares > 0)
    return scales.astype(np.float32)


def round_rows(
    rows: npt.NDArray[np.float16],
    scales: Float32,
    unit: float,
    *,
    codes: npt.NDArray[np.int8],
    errors: Float32,
    lengths: Float32,
    threads: SupportsIndex = 0,
) -> None:
    """Writes rows, multiplied with their scales, as bytes: whole numbers of `unit`.

    Args:
        rows: (N, D) float16, C-contiguous, finite.
        scales: (N,) float32, finite.
        unit: above 0.
        codes: (N, D) int8, written: each element divided by `unit`, rounded to nearest, ties to
            even, within +-127.
        errors: (N,) float32, written: at least how far each row is from what its bytes stand for.
        lengths: (N,) float32, written: at least the length of each row.
        threads: how many threads may work; 0 means one per core.

    Raises:
        InputError: an argument has a wrong type, shape, layout or value; the message says which.
    """
    try:
        _patchsim.round_rows(rows, scales, unit, codes, errors, lengths, _whole(threads, "threads"))
    except (ValueError, TypeError) as error:
        raise InputError(str(error)) from error


def round_rows_reference(
    rows: npt.NDArray[np.floating[Any]], scales: Float32 | None, unit: float
) -> tuple[npt.NDArray[np.int8], Float32, Float32]:
    """The twin of `round_rows`, of float32 rows too and without scales: codes, errors, lengths."""
    with np.errstate(over="ignore"):  # infinitely far off, and nothing is ruled out
        wide = rows.astype(np.float32, copy=False)
        if scales is not None:
            wide = wide * scales[:, None]
        rounded = np.clip(np.rint(wide * (1 / np.float32(unit))), -127, 127)
        codes = rounded.astype(np.int8)
        rounded *= np.float32(unit)
        rounded -= wide
        errors = np.sqrt(np.einsum("nd,nd->n", rounded, rounded))
        lengths = np.sqrt(np.einsum("nd,nd->n", wide, wide))
        for bound in (errors, lengths):  # no less than they are, for all rounding
            bound *= np.float32(1.0001)
            bound += np.float32(1e-6)
    return codes, errors, lengths


def mix(
    queries: Float32,
    memory: Float32 | npt.NDArray[np.float16] | npt.NDArray[np.int8],
    values: Float32,
    *,
    scale: float,
    keep: Bool | None = None,
    threads: SupportsIndex = 0,
) -> Float32:
    """Averages the rows of `values` for each query, weighted by softmax(scale * query . memory).

    This is the attention of one head. One pass over memory and values, with a running maximum
    (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018), so that no
    intermediate overflows.

    Args:
        queries: (Q, D) float32, C-contiguous, finite; Q may be 0.
        memory: (N, D) float32, float16 or int8, C-contiguous, finite. The last two answer as their
            float32 copies would; `scale` has to make up for the unit of int8.
        values: (N, V) float32, C-contiguous, finite: one row per memory row.
        scale: factor on the dot products before the softmax; 1 / temperature.
        keep: (N,) bool, at least one of them True; False for rows without a say, which are not
            read. None keeps all.
        threads: how many threads may work; 0 means one per core.

    Returns:
        (Q, V) float32, each row a weighted mean of the rows of `values`.

    Raises:
        InputError: an argument has a wrong type, shape, layout or value; the message says which.
    """
    try:
        return _patchsim.mix(
            queries,
            memory,
            values,
            _real(scale, "scale"),
            _whole(threads, "threads"),
            keep=keep,
        )
    except (ValueError, TypeError) as error:
        raise InputError(str(error)) from error


def mix_reference(
    queries: Float32,
    memory: npt.NDArray[Any],
    values: Float32,
    *,
    scale: float,
    keep: Bool | None = None,
) -> Float32:
    """The twin of `mix`: the whole (Q, N) softmax in float64."""
    rows = np.arange(len(memory)) if keep is None else np.flatnonzero(keep)
    scores = scale * (queries.astype(np.float64) @ memory[rows].astype(np.float64).T)  # (Q, kept)
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    mixed: Float32 = (weights @ values[rows].astype(np.float64)).astype(np.float32)
    return mixed


def isa() -> str:
    """The instruction set that calls use now: "scalar", "avx2", "avx512" or "neon".

    It is the fastest that the processor runs, or the one in the environment variable PROCMEM_ISA.

    Raises:
        InputError: PROCMEM_ISA names none that this processor can run.
    """
    try:
        return _patchsim.isa()
    except ValueError as error:
        raise InputError(str(error)) from error


def _whole(value: SupportsIndex, name: str) -> int:
    """The int that `value` is; True and False are not counts."""
    if isinstance(value, (bool, np.bool_)):
        raise InputError(f"{name} is {value!r}, wanted a whole number")
    try:
        number = operator.index(value)
    except TypeError as error:
        raise InputError(f"{name} is {value!r}, wanted a whole number") from error
    if not -(2**63) <= number < 2**63:
        raise InputError(f"{name} is {number}, wanted a number below 2**63")
    return number


def _real(value: float, name: str) -> float:
    """The float that `value` is; text is not parsed."""
    if isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool):
        return float(value)
    raise InputError(f"{name} is {value!r}, wanted a number")
