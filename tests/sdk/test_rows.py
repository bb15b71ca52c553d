"""procmem.rows and procmem.record: many rows at once are what they are one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from procmem.record import decode_text, decode_texts, encode_text
from procmem.rows import DamagedRowError, PlainRows

TEXTS = st.one_of(
    st.none(), st.text(min_size=1, max_size=9), st.sampled_from(["\udc80", "ü\ud800"])
)
FLOATS = st.lists(
    st.floats(width=16, allow_nan=False, allow_infinity=False), min_size=4, max_size=4
)
VALUES = st.tuples(
    st.integers(1, 2**63 - 1),
    FLOATS.map(lambda numbers: np.array(numbers, dtype="<f2").tobytes()),
    TEXTS.map(encode_text),
    TEXTS.map(encode_text),
    st.integers(-(2**63), 2**63 - 1),
)
FORM = PlainRows()


def taken(rows, width=4):
    """What `take_items` gives, as plain lists, and the vectors that it wrote."""
    vectors = np.empty((len(rows), width), dtype=np.float16)
    batch = FORM.take_items(rows, vectors)
    ids, seconds = np.asarray(batch.ids).tolist(), np.asarray(batch.seconds).tolist()
    return [ids, list(batch.labels), list(batch.sources), seconds, batch.checksum], vectors


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(VALUES, min_size=1, max_size=12))
def test_a_batch_is_its_rows_column_by_column(values):
    rows = [FORM.pack(one, None)[0] for one in values]
    columns, vectors = taken(rows)
    one_by_one = [FORM.unpack_item(row) for row in rows]
    assert columns[:4] == [[one[at] for one in one_by_one] for at in (0, 2, 3, 4)]
    assert columns[4] == sum(map(FORM.item_checksum, rows))
    assert [vector.astype("<f2").tobytes() for vector in vectors] == [v[1] for v in one_by_one]


@pytest.mark.parametrize("column", range(6))
@pytest.mark.parametrize("value", [b"other", "text", None, 7, 2.5, 2**62, 2**64, -1, True])
def test_a_damaged_row_is_named_wherever_it_stands(column, value):
    rows = [FORM.pack((id_, b"vector%d" % id_, b"a", b"b", 5), None)[0] for id_ in (11, 12, 13)]
    if column == 0 and not isinstance(value, int):
        return  # SQLite gives whole numbers for a primary key, whatever a file holds
    damaged = [*rows[1][:column], value, *rows[1][column + 1 :]]
    rows[1] = tuple(damaged)
    with pytest.raises(DamagedRowError, match=f"item {damaged[0]} "):
        taken(rows)


@pytest.mark.parametrize(
    ("vector", "what"),
    [
        (b"", "another size"),
        (b"1234567", "another size"),
        (b"123456789", "another size"),
        (np.array([1, 2, 3, np.inf], dtype="<f2").tobytes(), "not finite"),
        (np.array([-np.inf, 2, 3, 4], dtype="<f2").tobytes(), "not finite"),
        (np.array([1, np.nan, 3, 4], dtype="<f2").tobytes(), "not finite"),
    ],
)
def test_a_vector_that_no_model_gives_is_named_though_its_checksum_is_right(vector, what):
    good = np.arange(4, dtype="<f2").tobytes()
    rows = [FORM.pack((id_, good, None, None, 5), None)[0] for id_ in (11, 12, 13)]
    rows[2] = FORM.pack((13, vector, None, None, 5), None)[0]
    with pytest.raises(DamagedRowError, match=f"the vector of item 13 .*{what}"):
        taken(rows)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.one_of(TEXTS, st.just("\0"), st.just("a\0b")), max_size=9))
def test_texts_are_read_together_as_one_by_one(texts):
    stored = [encode_text(text) for text in texts]
    assert decode_texts(stored) == texts


@pytest.mark.parametrize("broken", [b"\xff", b"\xc3", b"\xe2\x82"])
def test_a_text_that_is_none_is_refused_beside_others_too(broken):
    for stored in ([broken, b"\xbc"], [b"a", broken], [None, broken]):
        with pytest.raises(UnicodeDecodeError):
            decode_texts(stored)
    with pytest.raises(UnicodeDecodeError):
        decode_text(broken)
