"""Pictures: what is in them, pixel by pixel where it matters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from procmem.cli.show import (
    PALETTE,
    RIGHT,
    Panel,
    Tile,
    color_of,
    draw_matches,
    draw_neighbors,
    draw_regions,
    paint,
    save_picture,
)
from procmem.errors import InputError
from procmem.types import Correspondences

GRAY = np.full((30, 40, 3), 128, dtype=np.uint8)


def test_paint_leaves_the_background_as_it_is():
    mask = np.zeros((30, 40), dtype=np.uint8)
    mask[10:20, 10:20] = 1

    painted = paint(GRAY, mask)

    assert (painted[mask == 0] == 128).all()


def test_paint_mixes_the_color_of_the_value_into_the_region():
    mask = np.zeros((30, 40), dtype=np.uint8)
    mask[5:25, 5:25] = 2

    painted = paint(GRAY, mask)

    assert painted[15, 15].tolist() == np.rint((128 + np.array(PALETTE[1])) / 2).tolist()


def test_paint_does_not_change_the_photo_it_was_given():
    photo = GRAY.copy()

    paint(photo, np.ones((30, 40), dtype=np.uint8))

    assert (photo == GRAY).all()


def test_paint_refuses_a_mask_of_another_size():
    with pytest.raises(InputError, match=r"\(10, 10\).*\(30, 40\)"):
        paint(GRAY, np.zeros((10, 10), dtype=np.uint8))


def test_the_same_value_has_the_same_color_in_every_picture():
    assert [color_of(value) for value in (1, 8, 9, 255)] == [
        PALETTE[0],
        PALETTE[7],
        PALETTE[0],
        PALETTE[6],
    ]


def test_neighbors_show_the_query_first_in_its_frame():
    sheet = np.asarray(draw_neighbors(Tile(GRAY, ("asked",), RIGHT), [Tile(GRAY, ("a",))] * 7))

    first_frame_pixel = sheet[15, 15]
    assert tuple(first_frame_pixel) == RIGHT


@pytest.mark.parametrize("count", [0, 1, 5, 6])
def test_neighbors_break_into_rows_of_five(count):
    one_row = draw_neighbors(Tile(GRAY, ("asked",)), [Tile(GRAY, ("a",))])
    sheet = draw_neighbors(Tile(GRAY, ("asked",)), [Tile(GRAY, ("a",))] * count)

    assert (sheet.height > one_row.height) == (count > 5)


def test_a_tile_without_a_picture_is_gray_and_says_why():
    with_note = np.asarray(draw_neighbors(Tile(None, ("x",), note="file is gone"), []))
    without = np.asarray(draw_neighbors(Tile(None, ("x",), note=""), []))

    assert tuple(without[60, 60]) == (200, 200, 200)
    assert (with_note != without).any()


def test_texts_that_do_not_fit_are_cut_and_do_not_widen_the_picture():
    short = draw_neighbors(Tile(GRAY, ("a",)), [])
    long = draw_neighbors(Tile(GRAY, ("a" * 500,)), [])

    assert short.size == long.size


@pytest.mark.parametrize(
    ("text", "drawn"),
    [("grün", "grun"), ("Straße", "Strasse"), ("Åłøæ", "Aloae"), ("猫 1", "? 1"), ("ﬁ…", "fi...")],
)
def test_letters_that_the_font_lacks_are_drawn_as_their_likes(text, drawn):
    one, other = (draw_regions([Panel(GRAY, None, title)], {}) for title in (text, drawn))
    assert one.tobytes() == other.tobytes()


def test_a_picture_of_any_shape_can_be_drawn():
    slim = np.zeros((3, 5000, 3), dtype=np.uint8)

    sheet = draw_neighbors(Tile(slim, ("a",)), [Tile(slim.transpose(1, 0, 2), ("b",))])

    assert sheet.width > 0


def test_the_legend_names_every_value_of_the_masks():
    mask = np.zeros((30, 40), dtype=np.uint8)
    plain = np.asarray(draw_regions([Panel(GRAY, mask, "one")], {0: "background"}))
    mask[5:25, 5:25] = 3
    marked = np.asarray(draw_regions([Panel(GRAY, mask, "one")], {0: "background"}))

    legend = marked[-30:]
    assert (np.all(legend == PALETTE[2], axis=2)).any()
    assert not (np.all(plain[-30:] == PALETTE[2], axis=2)).any()


def test_no_panel_is_an_error():
    with pytest.raises(InputError, match="at least one"):
        draw_regions([], {})


def test_a_match_is_a_line_between_the_two_places():
    where = np.array([[19.5, 14.5]], dtype=np.float32)  # the middle of both photos
    matches = Correspondences(where, where, np.array([0.9], dtype=np.float32))
    panel = Panel(GRAY, None, "one")

    sheet = np.asarray(draw_matches(panel, panel, matches))

    colored = np.all(sheet == PALETTE[0], axis=2)
    rows, columns = np.nonzero(colored)
    # 40 x 30 photos are shown 420 pixels wide, 14 from the left and 28 apart.
    assert abs((columns.min() + 4) - (14 + 210)) <= 2
    assert abs((columns.max() - 4) - (14 + 420 + 28 + 210)) <= 2
    assert colored[:, columns.min() + 12 : columns.max() - 12].any(axis=0).all()
    assert rows.max() - rows.min() <= 10


def test_save_refuses_an_ending_it_does_not_know(tmp_path: Path):
    with pytest.raises(InputError, match=r"\.gif.*\.png"):
        save_picture(Image.new("RGB", (2, 2)), tmp_path / "x.gif")
    assert list(tmp_path.iterdir()) == []


def test_save_leaves_one_whole_file(tmp_path: Path):
    save_picture(Image.new("RGB", (2, 2), (9, 8, 7)), tmp_path / "new" / "x.png")

    with Image.open(tmp_path / "new" / "x.png") as read:
        assert read.getpixel((0, 0)) == (9, 8, 7)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["x.png"]
