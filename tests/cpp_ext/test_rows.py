"""Scales and bytes of rows: the kernels agree with their twins, row by row, and refuse clearly."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from procmem import _patchsim, patchsim
from procmem.errors import InputError

ISAS = _patchsim.available_isas()
UNIT = 0.01


def halves(seed: int, rows: int, width: int) -> npt.NDArray[np.float16]:
    """Unit rows of spreads from even to one large element, some of zeros."""
    random = np.random.default_rng(seed)
    wide = random.standard_normal((rows, width)) ** random.choice([1, 3, 9], (rows, 1))
    wide[random.random(rows) < 0.1] = 0
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    unit: npt.NDArray[np.float16] = (wide / np.where(lengths == 0, 1, lengths)).astype(np.float16)
    return unit


def rounded(rows: npt.NDArray[np.float16], scales: Any, **how: Any) -> tuple[Any, ...]:
    targets = np.zeros(rows.shape, np.int8), *(np.zeros(len(rows), np.float32) for _ in "el")
    _patchsim.round_rows(rows, scales, UNIT, *targets, **how)
    return targets


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.integers(0, 2**32 - 1), st.integers(0, 150), st.integers(1, 70), st.sampled_from(ISAS),
    st.integers(0, 3),
)  # fmt: skip
def test_rows_are_measured_and_rounded_as_by_their_twins(
    seed: int, count: int, width: int, isa: str, threads: int
) -> None:
    rows = halves(seed, count, width)
    scales = _patchsim.unit_scales(rows, threads, isa=isa)
    assert scales.tobytes() == patchsim.unit_scales_reference(rows).tobytes()
    codes, errors, lengths = rounded(rows, scales, threads=threads, isa=isa)
    expected = patchsim.round_rows_reference(rows, scales, UNIT)
    assert np.array_equal(codes, expected[0])
    # What they bound is computed in float64; they are hardly more: 1.0001 and 1e-6, and rounding.
    wide = (rows.astype(np.float32) * scales[:, None]).astype(np.float64)
    off = np.linalg.norm(codes * np.float64(np.float32(UNIT)) - wide, axis=1)
    for bound, true in ((errors, off), (lengths, np.linalg.norm(wide, axis=1))):
        assert (bound >= true).all()
        assert (bound <= 1.0002 * true + 2e-6).all()


@pytest.mark.parametrize("isa", ISAS)
def test_a_row_has_the_same_bits_wherever_it_stands(isa: str) -> None:
    rows = halves(3, 2000, 96)
    scales = _patchsim.unit_scales(rows, isa=isa)
    whole = rounded(rows, scales, isa=isa)
    for at in (0, 63, 64, 1999):
        own = np.ascontiguousarray(rows[at : at + 1])
        assert _patchsim.unit_scales(own, isa=isa).tobytes() == scales[at].tobytes()
        alone = rounded(own, scales[at : at + 1], isa=isa)
        assert all(a[0].tobytes() == b[at].tobytes() for a, b in zip(alone, whole, strict=True))


def test_elements_far_out_are_cut_off_and_halves_go_to_even() -> None:
    rows = np.array([[-1, 1, 0.5, 0, 0.025, 0.0146484375]], np.float16)
    codes, errors, _ = rounded(rows, np.ones(1, np.float32))
    assert codes.tolist() == [[-100, 100, 50, 0, 2, 1]]
    codes, errors, _ = rounded(rows, np.full(1, 2, np.float32))
    assert codes.tolist() == [[-127, 127, 100, 0, 5, 3]]
    assert errors[0] > 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rows": np.zeros((3, 4), np.float32)}, "rows"),
        ({"scales": np.zeros(2, np.float32)}, r"scales has shape \(2,\)"),
        ({"unit": 0.0}, "unit is 0"),
        ({"unit": np.nan}, "unit is"),
        ({"codes": np.zeros((3, 5), np.int8)}, r"codes have shape \(3, 5\)"),
        ({"errors": np.zeros(3)}, "errors has dtype float64"),
        ({"lengths": np.broadcast_to(np.zeros(1, np.float32), 3)}, "lengths"),
        ({"threads": -1}, "threads is -1"),
        ({"threads": 1.5}, "threads is 1.5"),
    ],
)
def test_what_does_not_fit_is_an_input_error(change: dict[str, Any], said: str) -> None:
    given = {
        "rows": np.zeros((3, 4), np.float16),
        "scales": np.zeros(3, np.float32),
        "unit": UNIT,
        "codes": np.zeros((3, 4), np.int8),
        "errors": np.zeros(3, np.float32),
        "lengths": np.zeros(3, np.float32),
    } | change
    with pytest.raises(InputError, match=said):
        patchsim.round_rows(given.pop("rows"), given.pop("scales"), given.pop("unit"), **given)


def test_read_only_targets_are_refused() -> None:
    rows, scales = np.zeros((3, 4), np.float16), np.zeros(3, np.float32)
    targets = {"codes": np.zeros((3, 4), np.int8), "errors": np.zeros(3, np.float32)}
    for name in (*targets, "lengths"):
        arrays = {**targets, "lengths": np.zeros(3, np.float32)}
        arrays[name].setflags(write=False)
        with pytest.raises(InputError, match=f"{name} is read-only"):
            patchsim.round_rows(rows, scales, UNIT, **arrays)  # type: ignore[arg-type]  # of a loop
        arrays[name].setflags(write=True)


def test_scales_of_other_rows_than_halves_are_an_input_error() -> None:
    with pytest.raises(InputError, match="rows"):
        patchsim.unit_scales(np.zeros((2, 2), np.float32))  # type: ignore[arg-type]  # that is it
