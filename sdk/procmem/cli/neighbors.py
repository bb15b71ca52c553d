"""`procmem neighbors`: the remembered photos that a photo is most like."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from procmem.cli.options import Settings, open_memory, shared_options, write_json
from procmem.cli.text import NO_LABEL, cut, neighbor_as_json, say, shorten, table

if TYPE_CHECKING:
    from procmem.cli.show import Tile
    from procmem.types import Neighbor


@click.command(short_help="Find the most similar remembered photos.")
@click.argument("photo", type=click.Path(path_type=Path))
@click.option(
    "-k", "k", type=click.IntRange(min=1), default=10, show_default=True, help="How many."
)
@click.option("--label", help="Only among the items with this label.")
@click.option("--since", type=click.DateTime(), help="Only what was taught then or later.")
@click.option("--before", type=click.DateTime(), help="Only what was taught before then.")
@click.option(
    "--picture",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Draw the photo and its neighbors side by side (.png, .jpg or .webp).",
)
@shared_options()
def neighbors(
    settings: Settings,
    photo: Path,
    k: int,
    label: str | None,
    since: datetime | None,
    before: datetime | None,
    picture: Path | None,
) -> None:
    """Find the remembered photos that PHOTO is most like, nearest first.

    Similarity is a cosine from -1 to 1. In the picture, an item whose file is gone is a gray tile:
    the memory holds no photos, only what the model made of them.
    """
    with open_memory(settings, read_only=True) as memory:
        found = memory.neighbors(photo, k=k, label=label, added_since=since, added_before=before)
    if picture is not None:
        _draw(photo, found, picture)
    if settings.as_json:
        write_json(
            {
                "source": str(photo),
                "neighbors": [neighbor_as_json(neighbor) for neighbor in found],
                "picture": None if picture is None else str(picture),
            }
        )
        return
    if not found:
        say(
            "the memory holds no such item"
            if since or before
            else "the memory holds no item"
            + ("" if label is None else f" with the label {label!r}")
        )
    else:
        rows = [
            (
                f"{neighbor.similarity:.4f}",
                cut(neighbor.label or NO_LABEL, 20),
                str(neighbor.id),
                shorten(neighbor.source or "", 28),
            )
            for neighbor in found
        ]
        say(table(rows, head=("similarity", "label", "id", "source"), right="rlr"))
    if picture is not None:
        say(f"drew {picture}")


def _draw(photo: Path, found: tuple[Neighbor, ...], picture: Path) -> None:
    from procmem.cli.show import Tile, draw_neighbors, save_picture
    from procmem.image import load_image

    query = Tile(image=load_image(photo), lines=(photo.name, "asked"))
    save_picture(draw_neighbors(query, [neighbor_tile(neighbor) for neighbor in found]), picture)


def neighbor_tile(neighbor: Neighbor) -> Tile:
    """The tile of a neighbor; gray if its source is not a picture that can be read now."""
    from procmem.cli.show import Tile
    from procmem.errors import ImageError
    from procmem.image import load_image

    lines = (neighbor.label or NO_LABEL, f"similarity {neighbor.similarity:.3f}")
    if neighbor.source is None:
        return Tile(image=None, lines=lines, note="taught without a source")
    name = Path(neighbor.source).name
    try:
        return Tile(image=load_image(neighbor.source), lines=(*lines, name))
    except ImageError:
        return Tile(image=None, lines=(*lines, name), note="file is gone")
