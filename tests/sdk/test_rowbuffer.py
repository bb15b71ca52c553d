"""procmem.rowbuffer and procmem.parts: rows in order, in place, nothing left of those that go."""

from __future__ import annotations

import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from procmem import parts, rowbuffer
from procmem.parts import in_parts
from procmem.rowbuffer import RowBuffer


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([(), (3,), (2, 2)]),
    st.sampled_from([1, 7, 99]),
    st.sampled_from([1, 10**9]),
)
def test_changes_are_those_of_numpy(
    seed: int, shape: tuple[int, ...], at_once: int, large: int
) -> None:
    random = np.random.default_rng(seed)
    patched = pytest.MonkeyPatch()
    patched.setattr(rowbuffer, "_ROWS_AT_ONCE", at_once)
    patched.setattr(rowbuffer, "_LARGE_BYTES", large)
    expected = random.integers(1, 99, (random.integers(0, 40), *shape))
    buffer = RowBuffer(expected.copy())
    for _ in range(12):
        at = np.sort(random.integers(0, len(expected) + 1, random.integers(0, 12)))
        new = random.integers(1, 99, (len(at), *shape))
        buffer.insert(at, new)
        expected = np.insert(expected, at, new, axis=0)
        assert np.array_equal(buffer.rows, expected)
        gone = random.random(len(expected)) < random.choice([0.0, 0.2, 1.0], p=[0.2, 0.7, 0.1])
        buffer.remove(gone)
        expected = expected[~gone]
        assert len(buffer) == len(expected)
        assert np.array_equal(buffer.rows, expected)
        assert not buffer._memory[len(buffer) :].any()
    buffer.clear()
    assert len(buffer) == 0
    assert not buffer._memory.any()
    patched.undo()


def test_memory_that_is_outgrown_is_zeros_and_room_is_used() -> None:
    rows = np.arange(1.0, 33.0)
    buffer = RowBuffer(rows)
    buffer.insert(np.array([0]), np.array([0.5]))
    assert not rows.any()
    held = buffer._memory
    buffer.insert(np.array([33]), np.array([33.0]))
    assert buffer._memory is held
    assert buffer.rows.tolist() == [0.5, *range(1, 34)]


@pytest.mark.parametrize("dtype", [np.int8, np.float16, np.int64])
@pytest.mark.parametrize("shape", [(0,), (0, 5), (100, 3), (3_000_000,), (5_000, 384)])
def test_room_is_zeros_and_can_be_written_to(shape: tuple[int, ...], dtype: type) -> None:
    buffer: RowBuffer[np.generic] = RowBuffer.with_room(shape, dtype)
    assert buffer.rows.shape == shape
    assert buffer.rows.dtype == dtype
    assert not buffer._memory.any()
    buffer.rows.fill(1)
    assert (buffer.rows == 1).all()


@pytest.mark.skipif(sys.platform == "win32", reason="limits memory as POSIX does")
def test_rows_that_no_memory_is_left_for_are_an_error_of_memory() -> None:
    import resource

    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (1 << 40, limits[1]))
    try:
        with pytest.raises(MemoryError):
            RowBuffer.with_room((1 << 40, 384), np.float16)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.mark.parametrize("count", [0, 1, 255, 257, 1000])
@pytest.mark.parametrize("least", [0, 10**9])
def test_parts_cover_everything_once(
    count: int, least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "_LEAST", least)
    seen = np.zeros(count, dtype=np.int64)

    def count_up(part: slice) -> None:
        seen[part] += 1

    in_parts(count, count_up)
    assert (seen == 1).all()


def test_an_error_in_a_part_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "_LEAST", 0)
    before = threading.active_count()

    def fail(part: slice) -> None:
        if part.start == 512:
            raise MemoryError("no room")

    with pytest.raises(MemoryError, match="no room"):
        in_parts(2000, fail)
    assert threading.active_count() == before
