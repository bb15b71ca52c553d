"""procmem.rows and procmem.record: many rows at once are what they are one by one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from procmem.record import decode_text, decode_texts, encode_text
from procmem.rows import DamagedRowError, PlainRows, batch_of

TEXTS = st.one_of(
    st.none(), st.text(min_size=1, max_size=9), st.sampled_from(["\udc80", "ü\ud800"])
)
VALUES = st.tuples(
    st.integers(1, 2**63 - 1),
    st.binary(min_size=8, max_size=8),
    TEXTS.map(encode_text),
    TEXTS.map(encode_text),
    st.integers(-(2**63), 2**63 - 1),
)
FORM = PlainRows()


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(VALUES, min_size=1, max_size=12))
def test_a_batch_is_its_rows_column_by_column(values):
    rows = [FORM.pack(one, None)[0] for one in values]
    assert FORM.unpack_items(rows) == batch_of([FORM.unpack_item(row) for row in rows])


@pytest.mark.parametrize("column", range(6))
@pytest.mark.parametrize("value", [b"other", "text", None, 7, 2.5, 2**62])
def test_a_damaged_row_is_named_wherever_it_stands(column, value):
    rows = [FORM.pack((id_, b"vector%d" % id_, b"a", b"b", 5), None)[0] for id_ in (11, 12, 13)]
    if column == 0 and not isinstance(value, int):
        return  # SQLite gives whole numbers for a primary key, whatever a file holds
    damaged = [*rows[1][:column], value, *rows[1][column + 1 :]]
    rows[1] = tuple(damaged)
    with pytest.raises(DamagedRowError, match=f"item {damaged[0]} "):
        FORM.unpack_items(rows)


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
