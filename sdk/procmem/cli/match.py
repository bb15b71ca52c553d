"""`procmem match`: which places of two photos are each other's nearest."""

from __future__ import annotations

from pathlib import Path

import click

from procmem.cli.options import Settings, open_embedder, shared_options, write_json
from procmem.cli.text import say, table


@click.command(short_help="Find the same places in two photos.")
@click.argument("photo", type=click.Path(path_type=Path))
@click.argument("other", type=click.Path(path_type=Path))
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="At most so many pairs, the best.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Draw both photos side by side with lines between the pairs (.png, .jpg or .webp).",
)
@shared_options(vault=False)
def match(settings: Settings, photo: Path, other: Path, limit: int, out: Path | None) -> None:
    """Find places of PHOTO and OTHER that are each other's nearest, best first.

    Nothing is taught and no memory is needed. Places are centers of patches, in pixels from the
    upper left corner; similarity is a cosine from -1 to 1.
    """
    from procmem.cli.show import Panel, draw_matches, save_picture
    from procmem.image import load_image
    from procmem.untaught import match_patches

    pixels, others = load_image(photo), load_image(other)
    with open_embedder(settings) as embedder:
        found = match_patches(embedder, pixels, others, limit=limit)
    if out is not None:
        one, two = Panel(pixels, None, photo.name), Panel(others, None, other.name)
        save_picture(draw_matches(one, two, found), out)
    pairs = list(
        zip(
            found.points_a.tolist(),
            found.points_b.tolist(),
            found.similarities.tolist(),
            strict=True,
        )
    )
    if settings.as_json:
        write_json(
            {
                "source": str(photo),
                "other": str(other),
                "pairs": [
                    {"source": here, "other": there, "similarity": similarity}
                    for here, there, similarity in pairs
                ],
                "picture": None if out is None else str(out),
            }
        )
        return
    rows = [
        (f"{similarity:.4f}", *(f"{number:.0f}" for number in (*here, *there)))
        for here, there, similarity in pairs
    ]
    say(table(rows, head=("similarity", "x", "y", "other x", "other y"), right="rrrrr"))
    if out is not None:
        say(f"drew {out}")
    else:
        say("add --out FILE to see the pairs", err=True)
