"""`procmem embed`: images in bulk to Parquet, in processes or on Ray."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import click

from procmem.cli.group import progress_bar
from procmem.cli.options import Settings, shared_options, write_json
from procmem.cli.text import count, say

if TYPE_CHECKING:
    from procmem.bulk.run import Engine

_NAMED = 10  # failures


@click.command("embed", short_help="Embed many images to Parquet.")
@click.argument("source", metavar="SRC")
@click.argument("destination", metavar="DST")
@click.option(
    "--engine",
    type=click.Choice(["processes", "ray"]),
    default="processes",
    show_default=True,
    help="Processes of this machine, or Ray here or on a cluster.",
)
@click.option("--workers", type=click.IntRange(min=1), help="Default: one for each core.")
@click.option("--patches", is_flag=True, help="Keep patch tokens too, some 75 kB an image.")
@click.option("--address", help="Of a Ray cluster: auto, or ray://HEAD:10001.")
@click.option(
    "--part-images",
    type=click.IntRange(min=1),
    default=1024,
    show_default=True,
    help="Images of one file, and what a killed worker loses.",
)
@shared_options(vault=False)
def embed(
    settings: Settings,
    source: str,
    destination: str,
    engine: str,
    workers: int | None,
    patches: bool,
    address: str | None,
    part_images: int,
) -> None:
    """Embed every image below SRC into Parquet files below DST, each exactly once.

    SRC and DST are folders, or addresses such as s3://bucket/folder. The same command goes on with
    a run that was stopped or killed, and takes in images that are new. An image that cannot be read
    is noted in DST/failures and stops nothing; the exit code is then 1. `procmem import DST` takes
    the embeddings into a memory.
    """
    from procmem.bulk import embed_images
    from procmem.embedder import DEFAULT_MODEL

    with progress_bar("embedding") as show:
        report = embed_images(
            source,
            destination,
            engine=cast("Engine", engine),
            workers=workers,
            model=settings.model or DEFAULT_MODEL,
            image_size=settings.image_size,
            device=settings.device,
            patches=patches,
            address=address,
            part_images=part_images,
            progress=show,
        )
    if settings.as_json:
        write_json(
            {
                "source": source,
                "destination": destination,
                "images": report.images,
                "embedded": report.embedded,
                "new": report.new,
                "failed": [{"source": one.source, "reason": one.reason} for one in report.failures],
            }
        )
    else:
        say(
            f"embedded {count(report.new, 'image')}; {destination} holds "
            f"{report.embedded:,} of {report.images:,}"
        )
        for one in report.failures[:_NAMED]:
            say(f"failed: {one.source}: {one.reason}", err=True)
        if len(report.failures) > _NAMED:
            say(f"and {len(report.failures) - _NAMED:,} more in {destination}/failures", err=True)
    if report.failures:
        raise SystemExit(1)
