"""`procmem classify`: what photos are called."""

from __future__ import annotations

from pathlib import Path

import click

from procmem.cli.group import progress_bar
from procmem.cli.options import Settings, open_memory, shared_options, write_json
from procmem.cli.text import answer_as_json, percent, shorten, table


@click.command(short_help="Say what photos show.")
@click.argument("photos", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-k",
    "k",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="Neighbors that vote.",
)
@shared_options()
def classify(settings: Settings, photos: tuple[Path, ...], k: int) -> None:
    """Say what PHOTOS show, by a vote of the nearest remembered photos.

    PHOTOS are files, or folders with everything below them. "novel" marks a photo that is unlike
    all that is remembered. A file that cannot be read is named at the end, and the exit code is
    then 1.
    """
    from procmem.errors import ImageError
    from procmem.photos import find_photos

    failed: list[tuple[str, str]] = []
    answers = []
    found = find_photos(photos)
    with open_memory(settings, read_only=True) as memory, progress_bar("asking") as show:
        for done, photo in enumerate(found, start=1):
            try:
                answers.append((photo.path, memory.classify(photo.path, k=k)))
            except ImageError as error:
                failed.append((str(photo.path), str(error)))
            show(done, len(found))
    if settings.as_json:
        write_json(
            {
                "k": k,
                "answers": [
                    {"source": str(path), **answer_as_json(answer)} for path, answer in answers
                ],
                "failed": [{"source": path, "reason": reason} for path, reason in failed],
            }
        )
    elif answers:
        rows = [
            (
                shorten(_short_path(path), 44),
                answer.label or "(nothing to compare with)",
                percent(answer.confidence) if answer.label is not None else "",
                "novel" if answer.is_novel else "",
            )
            for path, answer in answers
        ]
        click.echo(table(rows, head=("photo", "answer", "confidence", ""), right="llr"))
    for _, reason in failed:
        click.echo(f"left out: {reason}", err=True)
    if failed:
        raise SystemExit(1)


def _short_path(path: Path) -> str:
    """The path as seen from the current folder, if it is below it."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
