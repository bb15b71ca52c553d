"""procmem._erasure: what it finds and hashes is what the slowest way finds and hashes."""

from __future__ import annotations

import hashlib
import hmac

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from procmem import _erasure
from procmem.record import canonical_values

WINDOW = 16
PATHS = {"portable": True, "fast": False}

# Few different bytes, so that windows repeat, overlap and begin alike.
TEXTS = st.binary(max_size=90) | st.text("ab\0", max_size=90).map(str.encode)


def as_rows(texts, size):
    return np.frombuffer(b"".join(texts), dtype=np.uint8).reshape(-1, size)


def windows_in(text):
    """Every window but those of one repeated byte, ascending."""
    found = {text[at : at + WINDOW] for at in range(len(text) - WINDOW + 1)}
    return sorted(window for window in found if len(set(window)) > 1)


def found_slowly(wanted, data):
    index = {window: at for at, window in enumerate(wanted)}
    starts = range(len(data) - WINDOW + 1)
    return [[index[w], at] for at in starts if (w := data[at : at + WINDOW]) in index]


# ---- finding


@given(TEXTS, st.lists(TEXTS, max_size=4), st.integers(0, 20), st.integers(0, 9))
@settings(max_examples=400, deadline=None)
def test_windows_are_found_wherever_they_stand(secret, parts, gap, cut):
    data = (b"\xff" * gap).join([*parts, secret[cut:], *parts, secret])
    wanted = windows_in(secret)
    finder = _erasure.Finder(as_rows(wanted, WINDOW))
    for held in (data, memoryview(bytearray(data)), np.frombuffer(data, dtype=np.uint8)):
        assert finder.find(held).tolist() == found_slowly(wanted, data)


@given(st.lists(TEXTS, max_size=5))
@settings(max_examples=400, deadline=None)
def test_windows_of_values_come_once_and_in_the_order_of_their_places(values):
    expected = {}
    for value in values:
        for at in range(len(value) - WINDOW + 1):
            if len(set(value[at : at + WINDOW])) > 1:
                expected.setdefault(value[at : at + WINDOW])
    windows = _erasure.windows(values)
    assert windows.shape == (len(expected), WINDOW)
    assert [*map(bytes, windows)] == [*expected]
    # In this order and in any other, a finder finds them.
    data = b"|".join(values)
    for wanted in ([*expected], sorted(expected)):
        finder = _erasure.Finder(as_rows(wanted, WINDOW))
        assert finder.find(data).tolist() == found_slowly(wanted, data)


def test_windows_of_what_is_not_bytes_are_refused():
    with pytest.raises(ValueError, match="not bytes"):
        _erasure.windows([b"0123456789abcdef", "0123456789abcdef"])


@pytest.mark.parametrize("byte", [b"\0", b"\x07", b"\xff"])
@pytest.mark.parametrize("run", [8, 15, 16, 23, 24, 40])
@pytest.mark.parametrize("offset", range(9))
def test_windows_at_the_ends_of_a_run_of_one_byte_are_found(byte, run, offset):
    secret = b"begin" + byte * run + b"end of it"
    data = b"x" * offset + byte * 50 + b"y" + secret + byte * 64
    wanted = windows_in(secret)
    assert wanted
    found = _erasure.Finder(as_rows(wanted, WINDOW)).find(data).tolist()
    assert found == found_slowly(wanted, data)
    assert {index for index, _ in found} == set(range(len(wanted)))


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_any_number_of_threads_finds_the_same_in_the_same_order(threads):
    random = np.random.default_rng(threads)
    secrets = [random.bytes(100) for _ in range(20)]
    wanted = sorted(window for secret in secrets for window in windows_in(secret))
    data = bytearray(random.bytes(3_000_001))
    places = np.sort(random.choice(2_900_000 // 100, 60, replace=False)) * 100 + 3
    for place in places.tolist():
        data[place : place + 100] = secrets[place % 20]
    data[-100:] = secrets[0]
    finder = _erasure.Finder(as_rows(wanted, WINDOW))
    found = finder.find(bytes(data), threads)
    assert np.array_equal(found, finder.find(bytes(data), 1))
    assert len(found) == 61 * 85
    assert (np.diff(found[:, 1]) > 0).all()
    assert all(data[at : at + WINDOW] == wanted[index] for index, at in found.tolist())


def test_many_windows_of_which_nearly_all_words_are_others():
    random = np.random.default_rng(0)
    wanted = sorted({random.bytes(WINDOW) for _ in range(50_000)})
    finder = _erasure.Finder(as_rows(wanted, WINDOW))
    order = random.permutation(len(wanted))
    data = b"?".join(wanted[at] for at in order)  # at every offset modulo 8
    expected = [[at, place * (WINDOW + 1)] for place, at in enumerate(order.tolist())]
    assert finder.find(data).tolist() == expected
    assert not len(finder.find(random.bytes(1 << 20)))


def test_nothing_is_found_where_nothing_is_wanted_or_there_is_no_room():
    nothing = _erasure.Finder(np.empty((0, WINDOW), dtype=np.uint8))
    assert nothing.find(b"a" * 1000).shape == (0, 2)
    some = _erasure.Finder(np.arange(WINDOW, dtype=np.uint8)[None])
    for size in range(WINDOW):
        assert some.find(bytes(range(size))).shape == (0, 2)
    assert some.find(bytes(range(WINDOW))).tolist() == [[0, 0]]


def test_arguments_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"\(3, 15\), wanted \(M, 16\)"):
        _erasure.Finder(np.zeros((3, 15), dtype=np.uint8))
    finder = _erasure.Finder(np.arange(WINDOW, dtype=np.uint8)[None])
    for data in (np.zeros(4), np.zeros((4, 4), dtype=np.uint8), memoryview(bytes(64))[::2]):
        with pytest.raises((ValueError, BufferError)):
            finder.find(data)


# ---- hashing


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("size", [*range(70), 119, 120, 127, 128, 129, 1000, 70_000])
def test_rows_of_every_length_have_the_hashes_of_hashlib(path, size):
    rows = np.random.default_rng(size).integers(0, 256, (5, size), dtype=np.uint8)
    hashes = _erasure.sha256_rows(rows, PATHS[path])
    assert [*map(bytes, hashes)] == [hashlib.sha256(bytes(row)).digest() for row in rows]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_any_number_of_threads_hashes_the_same(threads):
    rows = np.random.default_rng(threads).integers(0, 256, (20_001, 65), dtype=np.uint8)
    hashes = _erasure.sha256_rows(rows, threads=threads)
    assert [*map(bytes, hashes)] == [hashlib.sha256(bytes(row)).digest() for row in rows]


def test_no_rows_have_no_hashes():
    assert _erasure.sha256_rows(np.empty((0, 65), dtype=np.uint8)).shape == (0, 32)
    with pytest.raises(ValueError, match="not \\(N, M\\) bytes"):
        _erasure.sha256_rows(np.zeros(65, dtype=np.uint8))


# ---- committing

BLOBS = st.binary(max_size=200)
ITEMS = st.tuples(
    st.integers(-(2**63), 2**63 - 1),
    BLOBS,
    st.none() | BLOBS,
    st.none() | BLOBS,
    st.integers(-(2**63), 2**63 - 1),
)


@pytest.mark.parametrize("path", PATHS)
@given(
    items=st.lists(st.tuples(ITEMS, st.none() | st.tuples(BLOBS, BLOBS)), max_size=5),
    secret=st.binary(max_size=64),
)
@settings(max_examples=200, deadline=None)
def test_a_commitment_is_the_hmac_of_the_canonical_values(path, items, secret):
    values = [item for item, _ in items]
    dense = [None if mask is None else (item[0], *mask) for item, mask in items]
    codes = _erasure.commit(values, dense, secret, PATHS[path])
    expected = [
        hmac.digest(
            secret, item[0].to_bytes(8, "big", signed=True) + canonical_values(item, mask), "sha256"
        )
        for item, mask in zip(values, dense, strict=True)
    ]
    assert [*map(bytes, codes)] == expected


def test_any_number_of_threads_commits_to_the_same():
    random = np.random.default_rng(0)
    values = [(at, random.bytes(768), None, random.bytes(at % 90), at) for at in range(1, 5000)]
    dense = [(at, random.bytes(500), random.bytes(900)) if at % 7 == 0 else None
             for at in range(1, 5000)]  # fmt: skip
    once = _erasure.commit(values, dense, b"secret", False, 1)
    for threads in (2, 3, 8):
        assert np.array_equal(_erasure.commit(values, dense, b"secret", False, threads), once)
    assert len({bytes(code) for code in once}) == len(values)


VALUES = (5, b"vector", b"label", None, 7)


@pytest.mark.parametrize(
    ("values", "dense"),
    [
        (VALUES[:4], None),
        ([*VALUES], None),
        ((None, *VALUES[1:]), None),
        ((2**63, *VALUES[1:]), None),
        ((5, None, *VALUES[2:]), None),
        ((5, "vector", *VALUES[2:]), None),
        ((5, b"vector", "label", *VALUES[3:]), None),
        ((5, b"vector", b"label", 3, 7), None),
        ((*VALUES[:4], 7.0), None),
        (VALUES, (6, b"patches", b"mask")),
        (VALUES, (5, b"patches")),
        (VALUES, (5, None, b"mask")),
        (VALUES, (5, b"patches", "mask")),
        (VALUES, b"mask"),
    ],
)
def test_values_that_no_item_has_are_refused(values, dense):
    with pytest.raises(ValueError, match="not the stored values of an item"):
        _erasure.commit([VALUES, values], [None, dense], b"secret")


def test_lists_of_other_lengths_are_refused():
    for dense in ([], [None, None]):
        with pytest.raises(ValueError, match="as many masks"):
            _erasure.commit([VALUES], dense, b"s")


def test_what_cannot_be_the_secret_is_refused_and_not_taken_for_none():
    class Bytes(bytes):
        pass

    for secret in (b"s" * 65, Bytes(b"secret")):
        with pytest.raises(ValueError, match="the secret is not bytes, 64 at most"):
            _erasure.commit([VALUES], [None], secret)
