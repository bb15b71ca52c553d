"""`procmem segment`: which part of a photo is what, by one painted example or by all masks."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from procmem.cli.options import Settings, open_memory, shared_options, write_json
from procmem.cli.text import percent, table

if TYPE_CHECKING:
    from procmem.memory import VisualMemory


@click.command(short_help="Mark regions like those of an example.")
@click.argument("photo", type=click.Path(path_type=Path))
@click.option(
    "--prompt",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Example photo; without it, the masks in the memory are the examples.",
)
@click.option(
    "--prompt-mask",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The example's mask, of its size: a grayscale or palette PNG, 0 is background.",
)
@click.option(
    "--protocol",
    type=click.Choice(["exact", "paper"]),
    default="exact",
    show_default=True,
    help="How patches vote; paper is the published rule to the letter.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Draw the photo with its regions and a legend (.png, .jpg or .webp).",
)
@click.option(
    "--mask-out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the mask: a grayscale PNG of class values, of the photo's size.",
)
@shared_options()
def segment(
    settings: Settings,
    photo: Path,
    prompt: Path | None,
    prompt_mask: Path | None,
    protocol: Literal["exact", "paper"],
    out: Path | None,
    mask_out: Path | None,
) -> None:
    """Mark the regions of PHOTO that are like the regions of an example.

    The example is one photo with a painted mask (--prompt and --prompt-mask), or all photos that
    were taught with masks (`procmem add --masks`).
    """
    import numpy as np
    from PIL import Image

    from procmem.cli.show import Panel, draw_regions, save_picture
    from procmem.errors import InputError
    from procmem.image import load_image
    from procmem.photos import load_mask

    if (prompt is None) != (prompt_mask is None):
        raise click.UsageError("--prompt and --prompt-mask go together.")
    if mask_out is not None and mask_out.suffix.lower() != ".png":
        raise InputError(f"--mask-out is {mask_out}, wanted a file ending in .png")
    example = None
    if prompt is not None and prompt_mask is not None:
        example = (load_image(prompt), load_mask(prompt_mask))
    pixels = load_image(photo)
    # A prompt brings all that is needed: no vault has to exist, and none is made.
    with _memory(settings, needed=example is None) as memory:
        regions = memory.segment(pixels, prompt=example, protocol=protocol)
    if mask_out is not None:
        save_picture(Image.fromarray(regions.mask), mask_out)
    if out is not None:
        panels = [Panel(pixels, regions.mask, photo.name)]
        if example is not None and prompt is not None:
            panels.insert(0, Panel(*example, f"example: {prompt.name}"))
        save_picture(draw_regions(panels, {0: "background"}), out)
    found = []
    for value in regions.labels:
        inside = regions.mask == value
        sure = float(regions.confidence[inside].mean()) if inside.any() else 0.0
        found.append((value, float(np.mean(inside)), sure))
    if settings.as_json:
        write_json(
            {
                "source": str(photo),
                "height": regions.mask.shape[0],
                "width": regions.mask.shape[1],
                "regions": [
                    {"value": value, "share": share, "confidence": sure}
                    for value, share, sure in found
                ],
                "picture": None if out is None else str(out),
                "mask": None if mask_out is None else str(mask_out),
            }
        )
        return
    rows = [
        (str(value), percent(share), percent(sure) if share else "") for value, share, sure in found
    ]
    click.echo(table(rows, head=("value", "of the photo", "confidence"), right="rrr"))
    for written in (out, mask_out):
        if written is not None:
            click.echo(f"wrote {written}")
    if out is None and mask_out is None:
        click.echo("add --out FILE to see the regions", err=True)


@contextmanager
def _memory(settings: Settings, *, needed: bool) -> Iterator[VisualMemory]:
    if needed:
        with open_memory(settings, read_only=True) as memory:
            yield memory
        return
    with (
        tempfile.TemporaryDirectory(prefix="procmem-") as folder,
        open_memory(replace(settings, vault=Path(folder, "vault")), read_only=False) as memory,
    ):
        yield memory
