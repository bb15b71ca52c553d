import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from procmem.errors import InputError
from procmem_pretrain.sheet import contact_sheet, labelled_rows


def colors(count: int, *, side: int = 24) -> np.ndarray:
    """Images of one color each, none of them white or repeated."""
    values = (np.arange(count * 3).reshape(count, 1, 1, 3) % 200).astype(np.uint8)
    return np.broadcast_to(values, (count, side, side, 3)).copy()


@given(st.integers(1, 12), st.one_of(st.none(), st.integers(1, 14)), st.integers(0, 5))
def test_every_image_is_in_its_place_to_the_pixel(
    count: int, columns: int | None, gap: int
) -> None:
    images = colors(count, side=8)
    sheet = np.asarray(contact_sheet(images, columns=columns, gap=gap))
    wide = columns or int(np.ceil(np.sqrt(count)))
    assert sheet.shape[1] == wide * (8 + gap) - gap
    rest = sheet.copy()
    for number, image in enumerate(images):
        y, x = number // wide * (8 + gap), number % wide * (8 + gap)
        assert np.array_equal(sheet[y : y + 8, x : x + 8], image)
        rest[y : y + 8, x : x + 8] = 255
    assert np.all(rest == 255)


def test_without_columns_the_sheet_is_as_square_as_possible() -> None:
    assert contact_sheet(colors(5), gap=0).size == (3 * 24, 2 * 24)


def test_rows_of_names_stand_beside_their_images() -> None:
    rows = [("shaders", colors(3)), ("a much longer name", colors(2))]
    sheet = labelled_rows(rows, gap=4)
    pixels = np.asarray(sheet)
    left = sheet.width - (3 * 28 - 4)
    assert np.array_equal(pixels[:24, left : left + 24], colors(3)[0])
    assert np.array_equal(pixels[28:52, left + 28 : left + 52], colors(2)[1])
    assert np.all(pixels[28:52, left + 56 :] == 255)  # the shorter row's end
    for top in (0, 28):
        label = pixels[top : top + 24, : left - 1]
        assert (label < 128).any()
        assert np.all(pixels[top : top + 24, left - 4 : left] == 255)  # text stays off the images


def test_column_names_stand_above_and_are_shortened_to_fit() -> None:
    texts = ["one", "a text that is far too long", "3"]
    sheet = contact_sheet(colors(6, side=40), columns=3, column_labels=texts, row_labels=["a", "b"])
    plain = contact_sheet(colors(6, side=40), columns=3)
    assert sheet.height > plain.height
    top = np.asarray(sheet)[: sheet.height - plain.height]
    left = sheet.width - plain.width
    for column in range(3):
        x = left + column * 44
        assert (top[:, x : x + 40] < 128).any()
        assert np.all(top[:, x + 40 : x + 44] == 255)
    images = np.asarray(sheet)[sheet.height - plain.height :, left:]
    assert np.array_equal(images, np.asarray(plain))


def test_labels_do_not_overlap_where_images_are_tiny() -> None:
    sheet = np.asarray(labelled_rows([("Mg", colors(1, side=4)), ("Mg", colors(1, side=4))]))
    assert sheet.shape[0] >= 2 * 18


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": colors(2).astype(np.float32)}, "uint8"),
        ({"images": colors(0)}, "1 or more"),
        ({"images": colors(2)[:, :12]}, "S, S"),
        ({"images": colors(2), "columns": 0}, "columns is 0"),
        ({"images": colors(2), "gap": -1}, "gap is -1"),
        ({"images": colors(4), "row_labels": ["one"]}, "row_labels has 1"),
        ({"images": colors(4), "column_labels": ["one"]}, "column_labels has 1"),
    ],
)
def test_what_does_not_fit_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        contact_sheet(arguments.pop("images"), **arguments)


def test_rows_of_different_sides_are_refused() -> None:
    with pytest.raises(InputError, match=r"\[16, 24\]"):
        labelled_rows([("a", colors(2)), ("b", colors(2, side=16))])
    with pytest.raises(InputError, match="empty"):
        labelled_rows([])
    with pytest.raises(InputError, match="row 'b'"):
        labelled_rows([("a", colors(2)), ("b", colors(0))])
