"""procmem.dense: what is compared with is bounded, even, and a function of what is held."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from procmem.dense import DenseBank, gather_bank, patch_classes, sampling_ranks
from procmem.record import quantize_patches, restore_patches

PATCH, GRID, WIDTH = 4, 6, 8
Item = tuple[npt.NDArray[np.int8], npt.NDArray[np.uint8]]


def item(seed: int) -> Item:
    """Tokens and a mask of two or three rectangles; token 0 holds the seed."""
    random = np.random.default_rng(seed)
    tokens = quantize_patches(random.standard_normal((GRID, GRID, WIDTH)).astype(np.float32))
    mask = np.zeros((GRID * PATCH, GRID * PATCH), dtype=np.uint8)
    for value in (1, 2):
        top, left = random.integers(0, GRID * PATCH, 2)
        mask[top:, left:] = value
    return tokens, mask


def gather(items: list[Item], limit: int) -> DenseBank:
    return gather_bank(items, patch=PATCH, width=WIDTH, limit=limit)


def test_all_is_kept_while_it_fits() -> None:
    items = [item(seed) for seed in range(5)]
    bank = gather(items, 5 * GRID * GRID)
    expected = np.concatenate([restore_patches(tokens) for tokens, _ in items])
    np.testing.assert_array_equal(bank.patches, expected.astype(np.float16))
    assert bank.pixels.shape == (5 * GRID * GRID, PATCH, PATCH)
    assert gather([], 10).patches.shape == (0, WIDTH)


def test_what_did_not_fit_does_not_stay_in_memory_behind_the_bank() -> None:
    bank = gather([item(seed) for seed in range(9)], 4)  # not even one patch of each
    assert len(bank.patches) == len(bank.pixels) == 4
    assert bank.patches.base is not None
    assert bank.pixels.base is not None
    assert not bank.patches.base[4:].any()
    assert not bank.pixels.base[4:].any()
    bank.clear()
    assert not bank.patches.base.any()


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(1, 40), st.integers(1, 1500), st.integers(0, 2**32))
def test_a_bank_is_bounded_and_gives_each_class_of_each_item_equally_much(
    count: int, limit: int, seed: int
) -> None:
    items = [item(seed + number) for number in range(count)]
    bank = gather(items, limit)
    assert len(bank.patches) == len(bank.pixels) <= limit
    groups = [
        int(size)
        for tokens, mask in items
        for size in np.unique(patch_classes(cut(mask)), return_counts=True)[1]
    ]
    if limit < len(groups):
        assert len(bank.patches) == limit
        return
    # The largest share that fits, and not a patch less.
    share = max(q for q in range(1, GRID * GRID + 1) if sum(min(q, n) for n in groups) <= limit)
    assert len(bank.patches) == sum(min(share, n) for n in groups)


def cut(mask: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return mask.reshape(GRID, PATCH, GRID, PATCH).transpose(0, 2, 1, 3).reshape(-1, PATCH, PATCH)


def test_a_bank_after_a_deletion_is_that_of_a_memory_that_never_held_it() -> None:
    """Reading in between, with an item more, must not show: nothing is carried over."""
    items = [item(seed) for seed in range(30)]
    gather(items, 200)
    survivors = items[:7] + items[8:]
    after, never = gather(survivors, 200), gather([item(s) for s in range(30) if s != 7], 200)
    assert after.patches.tobytes() == never.patches.tobytes()
    assert after.pixels.tobytes() == never.pixels.tobytes()


def test_shrinking_early_or_late_gives_one_bank() -> None:
    """With all at once, only the last shrinking happens; one by one, many do."""
    items = [item(seed) for seed in range(60)]
    many = gather(items, 300)
    tokens = [patches for patches, _ in items]
    ranks = np.concatenate([sampling_ranks(patch_classes(cut(mask))) for _, mask in items])
    held = np.bincount(ranks).cumsum()
    kept = ranks < np.searchsorted(held, 300, side="right")
    at_once = np.concatenate([restore_patches(one) for one in tokens])[kept].astype(np.float16)
    np.testing.assert_array_equal(many.patches, at_once)


def test_patches_of_a_class_are_spread_over_it() -> None:
    classes = np.zeros(64, dtype=np.uint8)
    classes[40:] = 1
    ranks = sampling_ranks(classes)
    for one, size in ((0, 40), (1, 24)):
        own = ranks[classes == one]
        assert sorted(own.tolist()) == list(range(size))
        for count in (2, 4, 8):
            chosen = np.flatnonzero(own < count)
            assert np.diff(chosen).max() <= 2 * size // count


@pytest.mark.parametrize(
    ("values", "winner"), [([1, 1, 2, 3], 1), ([2, 2, 1, 1], 1), ([0, 255, 255, 7], 255)]
)
def test_a_patch_is_of_its_most_frequent_class_the_smaller_of_two(
    values: list[int], winner: int
) -> None:
    pixels = np.array(values, dtype=np.uint8).reshape(1, 2, 2)
    assert patch_classes(pixels).tolist() == [winner]


def test_clearing_overwrites() -> None:
    bank = gather([item(0)], 100)
    bank.clear()
    assert not bank.patches.any()
    assert not bank.pixels.any()


def test_what_a_byte_stores_of_a_token_keeps_its_direction() -> None:
    tokens = np.random.default_rng(0).standard_normal((20, 20, 192)).astype(np.float32)
    tokens *= np.random.default_rng(1).uniform(0.01, 100, (20, 20, 1)).astype(np.float32)
    tokens[3, 4] = 0
    stored = quantize_patches(tokens)
    assert np.abs(stored.astype(int)).max(axis=1).tolist() == [127] * 64 + [0] + [127] * 335
    rows = tokens.reshape(400, -1)
    lengths = np.linalg.norm(rows, axis=1)
    cosines = (rows * restore_patches(stored)).sum(axis=1) / np.where(lengths == 0, 1, lengths)
    assert cosines[64] == 0
    assert np.delete(cosines, 64).min() > 0.9999
