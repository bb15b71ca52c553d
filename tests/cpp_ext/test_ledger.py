"""procmem._ledger: many rows at once are checked as zlib and Python check them one by one."""

from __future__ import annotations

import numpy as np
import pytest

from procmem import _ledger
from procmem.rows import PlainRows

FORM = PlainRows()
SEED = 5


def rows_of(count, width, *, text=24):
    """Rows as sqlite3 gives them, of random finite vectors and random texts."""
    random = np.random.default_rng([SEED, count, width])
    vectors = random.standard_normal((count, width)).astype("<f2")
    texts = [
        None if size == 0 else random.bytes(size) for size in random.integers(0, text, 2 * count)
    ]
    ids = random.integers(1, 2**63, count)
    values = zip(ids.tolist(), vectors, texts[::2], texts[1::2], range(count), strict=True)
    rows = [FORM.pack((i, vector.tobytes(), *rest), None)[0] for i, vector, *rest in values]
    return rows, vectors


@pytest.mark.parametrize("width", [1, 2, 3, 7, 8, 9, 16, 31, 33, 384, 1000])
@pytest.mark.parametrize("count", [1, 3, 64, 65, 1000])
def test_every_size_of_row_and_batch_is_taken_by_any_number_of_threads(count, width):
    rows, vectors = rows_of(count, width)
    for threads in (1, 2, 5):
        target = np.full((count, width), np.nan, dtype=np.float16)
        ids, labels, sources, seconds, checksum = _ledger.take_items(rows, target, threads)
        assert (target == vectors).all()
        assert list(zip(ids.tolist(), labels, sources, seconds.tolist(), strict=True)) == [
            (row[0], row[2], row[3], row[4]) for row in rows
        ]
        assert checksum == sum(row[5] for row in rows)


def test_every_flipped_bit_is_noticed():
    (row,), _ = rows_of(1, 5)
    target = np.empty((1, 5), dtype=np.float16)
    assert row[2]
    assert row[3]
    for column in (1, 2, 3):
        for bit in range(8 * len(row[column])):
            damaged = bytearray(row[column])
            damaged[bit // 8] ^= 1 << bit % 8
            changed = (*row[:column], bytes(damaged), *row[column + 1 :])
            assert _ledger.take_items([changed], target) is None
    for column in (0, 4, 5):
        for bit in range(63):
            changed = (*row[:column], row[column] ^ 1 << bit, *row[column + 1 :])
            assert _ledger.take_items([changed], target) is None
    assert _ledger.take_items([row], target) is not None


def test_bytes_that_move_from_one_text_to_the_other_are_noticed():
    row = FORM.pack((1, bytes(10), b"label", b"source", 2), None)[0]
    none = FORM.pack((1, bytes(10), None, None, 2), None)[0]
    target = np.empty((1, 5), dtype=np.float16)
    for changed in ((*row[:2], b"label" + b"s", b"ource", *row[4:]), (*none[:2], b"", *none[3:])):
        assert _ledger.take_items([changed], target) is None


@pytest.mark.parametrize("at", [0, 63, 64, 500, 999])
def test_one_wrong_row_among_many_is_noticed_wherever_it_stands(at):
    rows, _ = rows_of(1000, 33)
    rows[at] = (*rows[at][:5], rows[at][5] ^ 1)
    target = np.empty((1000, 33), dtype=np.float16)
    assert all(_ledger.take_items(rows, target, threads) is None for threads in (1, 2, 8))


@pytest.mark.parametrize(
    "row", [(), (1,), [1, b"", None, None, 0, 0], None, "row", (1, b"", None, None, 0, 0, 0)]
)
def test_what_is_no_row_is_refused(row):
    assert _ledger.take_items([row], np.empty((1, 0), dtype=np.float16)) is None


@pytest.mark.parametrize(
    "target",
    [
        np.empty((1, 5), dtype=np.float32),
        np.empty((2, 5), dtype=np.float16),
        np.empty(5, dtype=np.float16),
        np.empty((1, 10), dtype=np.float16)[:, ::2],
        np.broadcast_to(np.float16(0), (1, 5)),
    ],
)
def test_vectors_that_cannot_be_written_to_are_refused(target):
    rows, _ = rows_of(1, 5)
    with pytest.raises(ValueError, match="wanted writable C-contiguous float16"):
        _ledger.take_items(rows, target)
