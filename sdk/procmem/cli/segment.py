"""`procmem segment`: which part of a photo is what, by masks or without being taught anything."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from procmem.cli.options import (
    Settings,
    open_embedder,
    open_memory,
    shared_options,
    write_json,
)
from procmem.cli.text import percent, say, table

if TYPE_CHECKING:
    from procmem.cli.show import Panel
    from procmem.memory import VisualMemory
    from procmem.tokens import UInt8
    from procmem.types import Regions

Method = Literal["taught", "clusters", "components"]

# Options that mean nothing to a method; who gives one expects something that would not happen.
_FOREIGN = {
    "taught": ("k",),
    "clusters": ("prompt", "prompt_mask", "protocol"),
    "components": ("prompt", "prompt_mask", "protocol", "k", "mask_out"),
}


@click.command(short_help="Mark regions like those of an example.")
@click.argument("photo", type=click.Path(path_type=Path))
@click.option(
    "--method",
    type=click.Choice(["taught", "clusters", "components"]),
    default="taught",
    show_default=True,
    help="taught: by masks. Without any: clusters, k regions of patches that are alike; "
    "components, like colors for like patches.",
)
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
@click.option("-k", "k", type=int, default=4, show_default=True, help="Regions of `clusters`.")
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
@click.pass_context
def segment(
    context: click.Context,
    settings: Settings,
    photo: Path,
    method: Method,
    prompt: Path | None,
    prompt_mask: Path | None,
    protocol: Literal["exact", "paper"],
    k: int,
    out: Path | None,
    mask_out: Path | None,
) -> None:
    """Mark the regions of PHOTO that are like the regions of an example.

    The example is one photo with a painted mask (--prompt and --prompt-mask), or all photos that
    were taught with masks (`procmem add --masks`). With --method clusters or components no example
    and no memory is needed; regions then have numbers and not names.
    """
    from procmem.errors import InputError
    from procmem.image import load_image

    _check_options(context, method)
    if (prompt is None) != (prompt_mask is None):
        raise click.UsageError("--prompt and --prompt-mask go together.")
    if mask_out is not None and mask_out.suffix.lower() != ".png":
        raise InputError(f"--mask-out is {mask_out}, wanted a file ending in .png")
    if method == "components":
        _components(settings, photo, out)
        return
    pixels = load_image(photo)
    if method == "clusters":
        regions, panels = _clusters(settings, photo, pixels, k)
    else:
        regions, panels = _taught(settings, photo, pixels, prompt, prompt_mask, protocol)
    _give(settings, photo, method, regions, panels, out, mask_out)


def _taught(
    settings: Settings,
    photo: Path,
    pixels: UInt8,
    prompt: Path | None,
    prompt_mask: Path | None,
    protocol: Literal["exact", "paper"],
) -> tuple[Regions, list[Panel]]:
    """The regions, and what to draw."""
    from procmem.cli.show import Panel
    from procmem.image import load_image
    from procmem.photos import load_mask

    example = None
    if prompt is not None and prompt_mask is not None:
        example = (prompt, load_mask(prompt_mask))
    # A prompt brings all that is needed: no vault has to exist, and none is made.
    with _memory(settings, needed=example is None) as memory:
        regions = memory.segment(photo, prompt=example, protocol=protocol)
    panels = [Panel(pixels, regions.mask, photo.name)]
    if example is not None and prompt is not None:
        painted = Panel(load_image(prompt), example[1], f"example: {prompt.name}")
        panels.insert(0, painted)
    return regions, panels


def _clusters(
    settings: Settings, photo: Path, pixels: UInt8, k: int
) -> tuple[Regions, list[Panel]]:
    """The regions, and what to draw."""
    from procmem.cli.show import Panel
    from procmem.untaught import find_regions

    with open_embedder(settings) as embedder:
        regions = find_regions(embedder, photo, k)
    return regions, [Panel(pixels, None, photo.name), Panel(pixels, regions.mask, "regions")]


def _components(settings: Settings, photo: Path, out: Path | None) -> None:
    """Draws the photo and its map."""
    from procmem.cli.show import Panel, draw_regions, save_picture
    from procmem.image import load_image
    from procmem.untaught import map_components

    if out is None:
        raise click.UsageError("--method components gives a picture only; add --out FILE.")
    pixels = load_image(photo)
    with open_embedder(settings) as embedder:
        (colors,) = map_components(embedder, photo)
    panels = [Panel(pixels, None, photo.name), Panel(colors, None, "components")]
    save_picture(draw_regions(panels, {}), out)
    if settings.as_json:
        write_json(_document(photo, "components", pixels.shape[:2], picture=str(out)))
        return
    say(f"drew {out}")


def _give(
    settings: Settings,
    photo: Path,
    method: Method,
    regions: Regions,
    panels: list[Panel],
    out: Path | None,
    mask_out: Path | None,
) -> None:
    """Writes the files that were asked for, and says what was found."""
    import numpy as np
    from PIL import Image

    from procmem.cli.show import draw_regions, save_picture

    if mask_out is not None:
        save_picture(Image.fromarray(regions.mask), mask_out)
    if out is not None:
        names = {0: "background"}
        if method == "clusters":
            names = {value: f"region {value}" for value in regions.labels}
        save_picture(draw_regions(panels, names), out)
    found = []
    for value in regions.labels:
        inside = regions.mask == value
        sure = float(regions.confidence[inside].mean()) if inside.any() else 0.0
        found.append((value, float(np.mean(inside)), sure))
    if settings.as_json:
        write_json(
            _document(
                photo,
                method,
                regions.mask.shape,
                regions=[
                    {"value": value, "share": share, "confidence": sure}
                    for value, share, sure in found
                ],
                picture=None if out is None else str(out),
                mask=None if mask_out is None else str(mask_out),
            )
        )
        return
    rows = [
        (str(value), percent(share), percent(sure) if share else "") for value, share, sure in found
    ]
    say(table(rows, head=("value", "of the photo", "confidence"), right="rrr"))
    for written in (out, mask_out):
        if written is not None:
            say(f"wrote {written}")
    if out is None and mask_out is None:
        say("add --out FILE to see the regions", err=True)


def _document(photo: Path, method: Method, size: tuple[int, ...], **more: Any) -> dict[str, Any]:
    height, width = size
    return {"source": str(photo), "method": method, "height": height, "width": width, **more}


def _check_options(context: click.Context, method: Method) -> None:
    for option in context.command.params:
        source = context.get_parameter_source(option.name or "")
        if option.name in _FOREIGN[method] and source is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{option.opts[0]} means nothing to --method {method}.")


@contextmanager
def _memory(settings: Settings, *, needed: bool) -> Iterator[VisualMemory]:
    if needed:
        with open_memory(settings, read_only=True) as memory:
            yield memory
        return
    with (
        tempfile.TemporaryDirectory(prefix="procmem-") as folder,
        open_memory(
            replace(settings, vault=Path(folder, "vault")), read_only=False, new=True
        ) as memory,
    ):
        yield memory
