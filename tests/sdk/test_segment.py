"""procmem.segment: the right pixels for features whose answer is known, and hostile masks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from procmem import segment, tokens
from procmem.errors import InputError

Float32 = npt.NDArray[np.float32]
UInt8 = npt.NDArray[np.uint8]
EPS = float(np.finfo(np.float32).eps)

WIDTH = 8
CAT, SKY = np.eye(WIDTH, dtype=np.float32)[:2]


def grid_of(kinds: npt.ArrayLike) -> Float32:
    """(h, w, P) tokens: 1 is cat, 0 is sky."""
    return np.where(np.asarray(kinds)[..., None] == 1, CAT, SKY).astype(np.float32)


def left_half(side: int, value: int = 1) -> UInt8:
    mask = np.zeros((side, side), dtype=np.uint8)
    mask[:, : side // 2] = value
    return mask


LEFT_IS_CAT = grid_of([[1, 1, 0, 0]] * 4)
TOP_IS_CAT = grid_of([[1] * 4] * 2 + [[0] * 4] * 2)


# ---- in_context


@pytest.mark.parametrize("protocol", ["exact", "paper"])
def test_like_patches_take_the_values_of_the_prompt(protocol: Any) -> None:
    prompt = (LEFT_IS_CAT * 20, left_half(64, 7))
    regions = segment.in_context(TOP_IS_CAT * 20, [prompt], size=(64, 64), protocol=protocol)
    expected = np.zeros((64, 64), dtype=np.uint8)
    expected[:32] = 7
    np.testing.assert_array_equal(regions.mask, expected)
    assert regions.mask.dtype == np.uint8
    assert regions.labels == (0, 7)


def test_confidence_of_a_certain_pixel_is_the_softmax_share() -> None:
    regions = segment.in_context(TOP_IS_CAT, [(LEFT_IS_CAT, left_half(64))], size=(64, 64))
    # Eight patches agree at cosine 1, eight at cosine 0; temperature 0.1.
    share = math.exp(10) / (math.exp(10) + 1)
    assert regions.confidence.dtype == np.float32
    assert abs(float(regions.confidence[0, 0]) - share) <= 32 * EPS


def test_temperature_one_lets_far_patches_count() -> None:
    regions = segment.in_context(
        TOP_IS_CAT, [(LEFT_IS_CAT, left_half(64))], size=(64, 64), temperature=1.0
    )
    share = math.e / (math.e + 1)
    assert abs(float(regions.confidence[0, 0]) - share) <= 32 * EPS


def test_exact_ignores_the_length_of_tokens() -> None:
    rng = np.random.default_rng(0)
    query, key = rng.standard_normal((2, 4, 4, WIDTH)).astype(np.float32)
    lengths = 2.0 ** rng.integers(-3, 4, (4, 4, 1))  # powers of two change no rounding
    prompt = (key * lengths.astype(np.float32), left_half(16))
    stretched = segment.in_context(query * np.float32(8), [prompt], size=(16, 16))
    plain = segment.in_context(query, [(key, left_half(16))], size=(16, 16))
    np.testing.assert_array_equal(stretched.confidence, plain.confidence)


def test_a_token_of_zeros_votes_without_a_warning() -> None:
    query = TOP_IS_CAT.copy()
    query[3, 3] = 0.0
    regions = segment.in_context(query, [(LEFT_IS_CAT, left_half(64))], size=(64, 64))
    assert regions.mask[63, 63] == 0  # alike to all equally: the shares tie at a half
    assert abs(float(regions.confidence[63, 63]) - 0.5) <= 32 * EPS


def test_mask_detail_below_a_patch_is_carried_over() -> None:
    mask = np.zeros((8, 8), dtype=np.uint8)
    mask[:4, 1] = 1  # one column of the first patch
    prompt_tokens = grid_of([[1, 0], [0, 0]])
    query = grid_of([[0, 0], [0, 1]])
    regions = segment.in_context(query, [(prompt_tokens, mask)], size=(8, 8), temperature=0.01)
    expected = np.zeros((8, 8), dtype=np.uint8)
    expected[4:, 5] = 1
    np.testing.assert_array_equal(regions.mask, expected)


def test_several_prompts_teach_several_values() -> None:
    kinds = np.eye(WIDTH, dtype=np.float32)[:3]  # three classes of patches
    first = (np.tile(kinds[0], (2, 2, 1)), np.full((8, 8), 9, dtype=np.uint8))
    second = (np.stack([kinds[1:3], kinds[1:3]]), left_half(8, 4))
    query = np.stack([kinds[:2], kinds[[2, 0]]])
    regions = segment.in_context(query, [first, second], size=(8, 8), temperature=0.01)
    expected = np.kron([[9, 4], [0, 9]], np.ones((4, 4))).astype(np.uint8)
    np.testing.assert_array_equal(regions.mask, expected)
    assert regions.labels == (0, 4, 9)


def test_equal_shares_go_to_the_smaller_value() -> None:
    same = np.ones((2, 2, WIDTH), dtype=np.float32)
    mask = np.array([[5, 5], [3, 3]], dtype=np.uint8)
    regions = segment.in_context(same, [(same, mask)], size=(2, 2))
    assert regions.mask.tolist() == [[3, 3], [3, 3]]


def literal_paper(query: Float32, prompt: Float32, mask: UInt8, patch: int) -> dict[int, Any]:
    """Softmax over prompt patches of (z1 . z2) / P, in loops and float64: shares per value."""
    h, w, width = query.shape
    shares = {int(v): np.zeros((h * patch, w * patch)) for v in np.unique(mask)}
    for i in range(h):
        for j in range(w):
            weights = np.zeros(prompt.shape[:2])
            for a in range(prompt.shape[0]):
                for b in range(prompt.shape[1]):
                    z1, z2 = query[i, j].astype(np.float64), prompt[a, b].astype(np.float64)
                    weights[a, b] = math.exp(float(z1 @ z2) / width)
            weights /= weights.sum()
            for a in range(prompt.shape[0]):
                for b in range(prompt.shape[1]):
                    for y in range(patch):
                        for x in range(patch):
                            value = int(mask[a * patch + y, b * patch + x])
                            shares[value][i * patch + y, j * patch + x] += weights[a, b]
    return shares


def test_paper_protocol_is_the_published_rule_in_loops() -> None:
    rng = np.random.default_rng(3)
    query, prompt = (3 * rng.standard_normal((2, 3, 3, 24))).astype(np.float32)
    mask = rng.integers(0, 3, (12, 12)).astype(np.uint8)
    shares = literal_paper(query, prompt, mask, 4)
    regions = segment.in_context(query, [(prompt, mask)], size=(12, 12), protocol="paper")
    stacked = np.stack([shares[value] for value in sorted(shares)])
    # The exponent z1.z2/P is off by eps sum|z1 z2| at most; sums of 9 weights add 9 eps.
    largest = float((np.abs(query).reshape(9, -1) @ np.abs(prompt).reshape(9, -1).T).max())
    tolerance = math.expm1(2 * EPS * (largest + 8)) + 17 * EPS
    assert np.abs(regions.confidence - stacked.max(axis=0)).max() <= tolerance
    np.testing.assert_array_equal(regions.mask, stacked.argmax(axis=0))


def test_the_answer_has_the_size_of_the_image() -> None:
    prompt = (LEFT_IS_CAT, left_half(64))
    for size in ((1, 1), (7, 301), (130, 90)):
        regions = segment.in_context(TOP_IS_CAT, [prompt], size=size)
        assert regions.mask.shape == regions.confidence.shape == size


def test_stretching_is_bilinear_between_pixel_centers() -> None:
    tokens = grid_of([[1, 0]])[:, :, :]
    tokens = np.concatenate([tokens, tokens])  # 2 x 2 patches of one pixel
    prompt = (tokens, np.array([[1, 0], [1, 0]], dtype=np.uint8))
    regions = segment.in_context(tokens, [prompt], size=(2, 8), temperature=0.01)
    # Centers of 8 pixels over 2: share of the first is 1, 1, .875, .625, .375, .125, 0, 0.
    np.testing.assert_allclose(
        regions.confidence[0], [1, 1, 0.875, 0.625, 0.625, 0.875, 1, 1], atol=8 * EPS, rtol=0
    )
    assert regions.mask[0].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]


def test_a_large_answer_is_made_in_bands_without_seams(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    query, key = rng.standard_normal((2, 4, 4, WIDTH)).astype(np.float32)
    prompt = (key, rng.integers(0, 4, (16, 16)).astype(np.uint8))
    whole = segment.in_context(query, [prompt], size=(50, 40))
    monkeypatch.setattr(tokens, "_ELEMENTS_AT_ONCE", 3 * 40)
    banded = segment.in_context(query, [prompt], size=(50, 40))
    np.testing.assert_array_equal(banded.mask, whole.mask)
    np.testing.assert_array_equal(banded.confidence, whole.confidence)


def test_no_prompt_is_an_input_error() -> None:
    with pytest.raises(InputError, match="prompts are empty"):
        segment.in_context(TOP_IS_CAT, [], size=(8, 8))


@pytest.mark.parametrize(("value", "advice"), [(0, "paint at least one pixel"), (1, "at 0")])
def test_a_prompt_with_one_value_is_an_input_error_with_advice(value: int, advice: str) -> None:
    mask = np.full((64, 64), value, dtype=np.uint8)
    with pytest.raises(InputError, match=f"value {value} everywhere.*{advice}"):
        segment.in_context(TOP_IS_CAT, [(LEFT_IS_CAT, mask)], size=(8, 8))


@pytest.mark.parametrize(
    ("query", "patches", "mask", "words"),
    [
        (TOP_IS_CAT[0], LEFT_IS_CAT, left_half(64), "query has patch tokens .* shape"),
        (TOP_IS_CAT.astype(np.float64), LEFT_IS_CAT, left_half(64), "dtype float64"),
        (TOP_IS_CAT, LEFT_IS_CAT[..., :5], left_half(64), "width 5, the query 8"),
        (TOP_IS_CAT, LEFT_IS_CAT, left_half(64)[:32], "mask of shape"),
        (TOP_IS_CAT, LEFT_IS_CAT, left_half(62), "multiple of 4"),
        (TOP_IS_CAT, LEFT_IS_CAT, left_half(64)[0], "mask of shape"),
        (TOP_IS_CAT, LEFT_IS_CAT, left_half(64).astype(np.int64), "int64 .*wanted uint8"),
        (TOP_IS_CAT * np.float32(np.nan), LEFT_IS_CAT, left_half(64), "not finite"),
        (TOP_IS_CAT, np.full_like(LEFT_IS_CAT, np.inf), left_half(64), "not finite"),
    ],
)
def test_prompts_that_do_not_fit_are_input_errors(
    query: Any, patches: Any, mask: Any, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        segment.in_context(query, [(patches, mask)], size=(8, 8))


def test_an_unknown_protocol_is_an_input_error() -> None:
    wrong: Any = "papers"
    with pytest.raises(InputError, match="'papers', wanted one of exact, paper"):
        segment.in_context(TOP_IS_CAT, [(LEFT_IS_CAT, left_half(64))], size=(8, 8), protocol=wrong)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_a_temperature_that_is_not_positive_is_an_input_error(temperature: float) -> None:
    prompt = (LEFT_IS_CAT, left_half(64))
    with pytest.raises(InputError, match=r"^temperature is "):
        segment.in_context(TOP_IS_CAT, [prompt], size=(8, 8), temperature=temperature)


# ---- from_memory


def bank_of(tokens: Float32, mask: UInt8, patch: int) -> tuple[Float32, UInt8]:
    flat = tokens.reshape(-1, tokens.shape[2])
    return np.ascontiguousarray(flat), segment.mask_patches(mask, patch)


def test_remembered_patches_segment_a_new_image() -> None:
    bank, masks = bank_of(LEFT_IS_CAT, left_half(16, 200), 4)
    regions = segment.from_memory(TOP_IS_CAT * 5, bank, masks, size=(16, 16), k=8)
    expected = np.zeros((16, 16), dtype=np.uint8)
    expected[:8] = 200
    np.testing.assert_array_equal(regions.mask, expected)
    assert regions.labels == (0, 200)
    assert regions.confidence.max() <= 1.0


def test_only_the_k_nearest_vote() -> None:
    bank = np.zeros((4, WIDTH), dtype=np.float32)
    angles = [0.1, 0.2, 0.3, 0.4]
    bank[:, 0], bank[:, 1] = np.cos(angles), np.sin(angles)
    masks = np.array([1, 2, 2, 2], dtype=np.uint8).reshape(4, 1, 1)
    query = CAT.reshape(1, 1, WIDTH)
    nearest = segment.from_memory(query, bank, masks, size=(1, 1), k=1, temperature=10.0)
    assert nearest.mask.tolist() == [[1]]
    assert nearest.labels == (1,)
    everyone = segment.from_memory(query, bank, masks, size=(1, 1), k=99, temperature=10.0)
    assert everyone.mask.tolist() == [[2]]
    assert everyone.labels == (1, 2)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(1, 60), st.integers(1, 70), st.integers(1, 4), st.integers(0, 2**32))
def test_the_vote_is_the_rule_in_loops(m: int, k: int, values: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    bank = rng.standard_normal((m, WIDTH))
    bank = (bank / np.linalg.norm(bank, axis=1, keepdims=True)).astype(np.float32)
    masks = rng.integers(0, values, (m, 2, 2)).astype(np.uint8)
    query = rng.standard_normal((2, 2, WIDTH)).astype(np.float32)
    regions = segment.from_memory(query, bank, masks, size=(4, 4), k=k, temperature=0.5)
    delta = 2 * (2 * WIDTH + 8) * EPS / 0.5  # of the exponent; then K sums
    tolerance = math.expm1(2 * delta) + (min(k, m) + 8) * EPS
    for i in range(2):
        for j in range(2):
            z = query[i, j].astype(np.float64)
            cosines = bank.astype(np.float64) @ (z / np.linalg.norm(z))
            chosen = np.argsort(-cosines, kind="stable")[:k]
            weights = np.exp(cosines[chosen] / 0.5)
            weights /= weights.sum()
            for y in range(2):
                for x in range(2):
                    pixel = (2 * i + y, 2 * j + x)
                    shares = np.bincount(masks[chosen, y, x], weights, minlength=values)
                    assert abs(shares.max() - regions.confidence[pixel]) <= tolerance
                    assert abs(shares.max() - shares[regions.mask[pixel]]) <= 2 * tolerance


def test_gathering_in_parts_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    bank = rng.standard_normal((50, WIDTH)).astype(np.float32)
    masks = rng.integers(0, 3, (50, 4, 4)).astype(np.uint8)
    query = rng.standard_normal((3, 3, WIDTH)).astype(np.float32)
    whole = segment.from_memory(query, bank, masks, size=(30, 30))
    monkeypatch.setattr(segment, "_ELEMENTS_AT_ONCE", 40)
    parts = segment.from_memory(query, bank, masks, size=(30, 30))
    np.testing.assert_array_equal(parts.mask, whole.mask)
    np.testing.assert_array_equal(parts.confidence, whole.confidence)
    assert parts.labels == whole.labels


def test_forgotten_patches_leave_the_answer_of_a_bank_that_never_held_them() -> None:
    rng = np.random.default_rng(1)
    bank = rng.standard_normal((500, WIDTH)).astype(np.float32)
    masks = rng.integers(0, 3, (500, 4, 4)).astype(np.uint8)
    query = rng.standard_normal((3, 3, WIDTH)).astype(np.float32)
    before = segment.from_memory(query, bank[:300].copy(), masks[:300].copy(), size=(12, 12))
    larger = segment.from_memory(query, bank, masks, size=(12, 12))
    kept = np.arange(500) < 300
    after = segment.from_memory(query, bank[kept], masks[kept], size=(12, 12))
    assert not np.array_equal(larger.confidence, before.confidence)
    np.testing.assert_array_equal(after.mask, before.mask)
    np.testing.assert_array_equal(after.confidence, before.confidence)


@pytest.mark.parametrize("size", [(5, 5), (13, 7)])
def test_paper_protocol_over_a_memory_is_the_published_rule_in_loops(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(5)
    query = (2 * rng.standard_normal((3, 2, WIDTH))).astype(np.float32)
    bank = (2 * rng.standard_normal((40, WIDTH))).astype(np.float32)
    masks = rng.integers(0, 3, (40, 4, 4)).astype(np.uint8)
    planes = np.zeros((3, 2, 3))  # one class per patch: shares (h, w, C)
    for i in range(3):
        for j in range(2):
            scores = bank.astype(np.float64) @ query[i, j].astype(np.float64) / math.sqrt(WIDTH)
            weights = np.exp(scores - scores.max())
            for weight, mask in zip(weights / weights.sum(), masks, strict=True):
                planes[i, j, mask[2, 2]] += weight
    stretched = tokens.stretch(planes, size)

    regions = segment.from_memory(query, bank, masks, size=size, protocol="paper")

    largest = float((np.abs(query).reshape(6, -1) @ np.abs(bank).T).max()) / math.sqrt(WIDTH)
    tolerance = math.expm1(2 * EPS * (largest + WIDTH)) + (40 + 8) * EPS
    assert np.abs(regions.confidence - stretched.max(axis=2)).max() <= tolerance
    np.testing.assert_array_equal(regions.mask, stretched.argmax(axis=2))
    assert regions.labels == (0, 1, 2)


def test_paper_protocol_over_a_memory_weighs_by_length_and_exact_does_not() -> None:
    # One short patch of class 1 in the query's direction, two long ones of class 2 at 60 degrees.
    near, far = CAT, 0.5 * CAT + math.sqrt(0.75) * SKY
    bank = np.stack([near, 40 * far, 40 * far]).astype(np.float32)
    masks = np.array([1, 2, 2], dtype=np.uint8).reshape(3, 1, 1)
    query = CAT.reshape(1, 1, WIDTH)
    unit = np.stack([near, far, far]).astype(np.float32)
    assert segment.from_memory(query, unit, masks, size=(1, 1)).mask.tolist() == [[1]]
    paper = segment.from_memory(query, bank, masks, size=(1, 1), protocol="paper")
    assert paper.mask.tolist() == [[2]]


def test_remembered_directions_get_the_mean_length_of_the_query() -> None:
    query = np.stack([[CAT * 2, CAT * 4], [SKY * 6, SKY * 8]])
    assert segment.mean_length(query) == 5.0
    bank = np.stack([CAT, SKY, SKY])
    masks = np.stack([np.full((4, 4), value, np.uint8) for value in (1, 2, 3)])
    lengthened = segment.from_memory(query, 5 * bank, masks, size=(8, 8), protocol="paper")
    regions = segment.from_memory(
        query, bank, masks, size=(8, 8), protocol="paper", bank_length=5.0
    )
    np.testing.assert_allclose(regions.confidence, lengthened.confidence, atol=1e-5)
    np.testing.assert_array_equal(regions.mask, lengthened.mask)


def test_an_empty_bank_is_an_input_error_with_the_way_out() -> None:
    with pytest.raises(InputError, match="add images with masks"):
        segment.from_memory(
            TOP_IS_CAT,
            np.zeros((0, WIDTH), np.float32),
            np.zeros((0, 4, 4), np.uint8),
            size=(8, 8),
        )


@pytest.mark.parametrize(
    ("bank", "masks", "words"),
    [
        (np.eye(8, dtype=np.float32), np.zeros((7, 4, 4), np.uint8), "8 rows and bank_masks 7"),
        (np.eye(8, dtype=np.float32), np.zeros((8, 4, 5), np.uint8), "bank_masks is uint8"),
        (np.eye(8, dtype=np.float32), np.zeros((8, 4, 4), np.int32), "bank_masks is int32"),
        (np.eye(9, dtype=np.float32), np.zeros((9, 4, 4), np.uint8), "same width"),
        (np.eye(8), np.zeros((8, 4, 4), np.uint8), "memory has dtype float64"),
    ],
)
def test_banks_that_do_not_fit_are_input_errors(bank: Any, masks: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        segment.from_memory(TOP_IS_CAT, bank, masks, size=(8, 8))


# ---- fit_mask and mask_patches


def test_a_mask_of_the_right_side_passes_unchanged() -> None:
    mask = np.random.default_rng(0).integers(0, 256, (24, 24)).astype(np.uint8)
    np.testing.assert_array_equal(segment.fit_mask(mask, image_size=(24, 24), side=24), mask)


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint8, np.uint16, np.int64])
def test_every_integer_type_becomes_uint8(dtype: Any) -> None:
    mask = left_half(8).astype(dtype)
    fitted = segment.fit_mask(mask, image_size=(8, 8), side=8)
    assert fitted.dtype == np.uint8
    np.testing.assert_array_equal(fitted, left_half(8))


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 40), st.integers(0, 2**32))
def test_fitting_takes_the_nearest_pixel(h: int, w: int, side: int, seed: int) -> None:
    mask = np.random.default_rng(seed).integers(0, 256, (h, w)).astype(np.uint8)
    rows = [math.floor((y + 0.5) * h / side) for y in range(side)]
    columns = [math.floor((x + 0.5) * w / side) for x in range(side)]
    if mask.min() < mask.max():  # two values that survive, so that the region does not vanish
        assume(len({int(mask[row, column]) for row in rows for column in columns}) > 1)
    fitted = segment.fit_mask(mask, image_size=(h, w), side=side)
    for y in range(side):
        for x in range(side):
            assert fitted[y, x] == mask[rows[y], columns[x]]


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (np.zeros((4, 4, 3), np.uint8), r"shape \(4, 4, 3\), wanted \(H, W\)"),
        (np.zeros(4, np.uint8), r"shape \(4,\)"),
        (np.zeros((4, 4), np.float32), "dtype float32, wanted boolean or integer"),
        (np.full((4, 4), "a"), "wanted boolean or integer"),
        (np.zeros((4, 4), object), "dtype object"),
        ([[1, 2], [3]], "not an array"),
        (np.zeros((480, 640), np.uint8), "480x640 but its image is 4x4 .*nearest neighbor"),
        (np.full((4, 4), 256), "from 256 to 256, wanted 0 to 255"),
        (np.full((4, 4), -1), "from -1 to -1"),
        (None, "wanted"),
    ],
)
def test_a_mask_that_is_none_is_an_input_error(mask: Any, words: str) -> None:
    with pytest.raises(InputError, match=f"^mask .*{words}"):
        segment.fit_mask(mask, image_size=(4, 4), side=8)


def test_a_mask_without_pixels_is_an_input_error() -> None:
    with pytest.raises(InputError, match="at least one pixel"):
        segment.fit_mask(np.zeros((0, 5), np.uint8), image_size=(0, 5), side=8)


def test_a_region_that_would_vanish_is_an_input_error_not_a_silent_loss() -> None:
    mask = np.zeros((400, 400), dtype=bool)
    mask[0, 0] = True
    with pytest.raises(InputError, match="at 16x16 only 0 is left; paint a larger region"):
        segment.fit_mask(mask, image_size=(400, 400), side=16)


def test_mask_patches_are_in_the_order_of_the_tokens() -> None:
    mask = np.arange(24, dtype=np.uint8).reshape(4, 6)
    patches = segment.mask_patches(mask, 2)
    assert patches.shape == (6, 2, 2)
    assert patches[0].tolist() == [[0, 1], [6, 7]]
    assert patches[1].tolist() == [[2, 3], [8, 9]]
    assert patches[3].tolist() == [[12, 13], [18, 19]]


@pytest.mark.parametrize("patch", [0, 3, 5])
def test_a_patch_that_does_not_divide_the_mask_is_an_input_error(patch: int) -> None:
    with pytest.raises(InputError, match=f"patch {patch} divides"):
        segment.mask_patches(np.zeros((4, 4), np.uint8), patch)


def test_pixels_that_nobody_judged_do_not_vote() -> None:
    generator = np.random.default_rng(7)
    left, right, other = generator.normal(size=(3, 8)).astype(np.float32)
    prompt = np.empty((4, 4, 8), dtype=np.float32)
    prompt[:, :2], prompt[:, 2:] = left, right
    query = prompt.copy()
    query[0, 0] = other
    mask = np.full((16, 16), 255, dtype=np.uint8)  # two strokes of three pixels
    mask[5, 2:5] = 1
    mask[9, 10:13] = 0

    rough = segment.in_context(query, [(prompt, mask)], size=(16, 16), ignore=255)

    full = np.zeros((16, 16), dtype=np.uint8)
    full[:, :8] = 1
    whole = segment.in_context(query, [(prompt, full)], size=(16, 16))
    assert rough.labels == (0, 1)
    np.testing.assert_array_equal(rough.mask[4:], whole.mask[4:])
    np.testing.assert_array_equal(rough.mask[4:, :8], 1)


def test_a_prompt_that_is_ignored_throughout_or_a_bad_value_is_an_error() -> None:
    prompt = np.ones((4, 4, 8), dtype=np.float32)
    mask = np.full((16, 16), 9, dtype=np.uint8)

    with pytest.raises(InputError, match="ignored"):
        segment.in_context(prompt, [(prompt, mask)], size=(16, 16), ignore=9)
    with pytest.raises(InputError, match="from 0 to 255"):
        segment.in_context(prompt, [(prompt, mask)], size=(16, 16), ignore=256)
