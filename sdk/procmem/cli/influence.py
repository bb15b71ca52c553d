"""`procmem influence`: which remembered photos answers hang on."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import click

from procmem.cli.group import progress_bar
from procmem.cli.options import Settings, open_memory, shared_options, write_json
from procmem.cli.text import count, end_without, percent, say, shorten, table

NOBODY = "(nothing)"


@click.command(short_help="Say which photos answers hang on.")
@click.argument("photos", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-k",
    "k",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="Neighbors that vote.",
)
@click.option(
    "--by",
    type=click.Choice(["item", "label", "folder"]),
    default="item",
    show_default=True,
    help="What is left out together.",
)
@click.option(
    "--weighting",
    type=click.Choice(["similarity", "rank"]),
    default="similarity",
    show_default=True,
    help="What a neighbor's vote weighs by.",
)
@click.option(
    "--protocol",
    type=click.Choice(["exact", "paper"]),
    default="exact",
    show_default=True,
    help="Let the next neighbor move up, as a deletion does; or not, as published.",
)
@shared_options()
def influence(
    settings: Settings,
    photos: tuple[Path, ...],
    k: int,
    by: Literal["item", "label", "folder"],
    weighting: Literal["similarity", "rank"],
    protocol: Literal["exact", "paper"],
) -> None:
    """Say which remembered photos the answers to PHOTOS hang on.

    Leaves out each item in turn (or all of a label, or of a folder) and tells what would then be
    answered otherwise. Nothing is deleted. PHOTOS are files, or folders with everything below. A
    file that cannot be read is named at the end, and the exit code is then 1.
    """
    from procmem.photos import find_photos

    paths, failed = _readable([photo.path for photo in find_photos(photos)])
    with open_memory(settings, read_only=True) as memory, progress_bar("asking") as show:
        report = memory.influence(
            paths, k, by=by, weighting=weighting, protocol=protocol, progress=show
        )
        sources = {str(item.id): item.source for item in memory.items()}
    if settings.as_json:
        write_json(
            {
                "by": by,
                "k": k,
                "weighting": weighting,
                "protocol": protocol,
                "removable": report.removable,
                "exposed": report.exposed,
                "exposed_share": report.exposed_share,
                "answers": [
                    {"source": str(path), "label": label}
                    for path, label in zip(paths, report.answers, strict=True)
                ],
                "changes": [
                    {
                        "removed": str(change.removed),
                        "source": str(paths[change.query]),
                        "before": change.before,
                        "after": change.after,
                    }
                    for change in report.changes
                ],
                "failed": [{"source": path, "reason": reason} for path, reason in failed],
            }
        )
        end_without(failed)
        return
    if report.changes:
        rows = [
            (
                shorten(str(paths[change.query]), 30),
                change.before or NOBODY,
                change.after or NOBODY,
                shorten(_name(change.removed, sources), 38),
            )
            for change in report.changes
        ]
        say(table(rows, head=("photo", "answer", "without it", f"{by} left out")))
    of = count(report.removable, by)
    say(
        f"{report.exposed:,} of {of} ({percent(report.exposed_share)}) would change an answer to "
        f"{count(len(paths), 'photo')}"
    )
    end_without(failed)


def _readable(paths: Iterable[Path]) -> tuple[list[Path], list[tuple[str, str]]]:
    """Those that can be decoded, and those that cannot, each with the reason."""
    from procmem.errors import ImageError
    from procmem.image import load_image

    readable: list[Path] = []
    failed: list[tuple[str, str]] = []
    for path in paths:
        try:
            load_image(path, min_side=1)  # a JPEG as small as may be
        except ImageError as error:
            failed.append((str(path), str(error)))
        else:
            readable.append(path)
    return readable, failed


def _name(removed: int | str, sources: dict[str, str | None]) -> str:
    return sources.get(str(removed)) or str(removed)
