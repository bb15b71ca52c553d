"""`procmem add`: teach photos. Resumable, and a bad file does not stop the others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from procmem.cli.group import progress_bar
from procmem.cli.options import Settings, open_memory, shared_options, shown, write_json
from procmem.cli.text import count, say

if TYPE_CHECKING:
    from procmem.teaching import Taught


@click.command(short_help="Teach photos.")
@click.argument("photos", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--label", help="One label for all, instead of the name of each photo's folder.")
@click.option("--no-label", is_flag=True, help="Teach without labels.")
@click.option(
    "--masks",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="FOLDER",
    help="Masks for `segment`: a PNG of class values with the photo's name, where there is one.",
)
@shared_options()
def add(
    settings: Settings,
    photos: tuple[Path, ...],
    label: str | None,
    no_label: bool,
    masks: Path | None,
) -> None:
    """Teach PHOTOS: files, or folders with everything below them.

    A photo's label is the name of the folder that it lies in. A photo that the memory already
    holds (by its path) is passed over, so that an interrupted run is gone on with by the same
    command. A file that cannot be read is named at the end, and the exit code is then 1.
    """
    from procmem.photos import find_photos
    from procmem.teaching import teach

    if label is not None and no_label:
        raise click.UsageError("--label and --no-label exclude each other.")
    total = len(find_photos(photos))
    done: list[Taught] = []
    with open_memory(settings, read_only=False, new=True) as memory:
        interrupted = False
        try:
            with progress_bar("teaching") as show:
                task = teach(memory, photos, label=label, labelled=not no_label, masks=masks)
                for taught in task:
                    done.append(taught)
                    show(len(done), total)
        except KeyboardInterrupt:
            interrupted = True
        held, vault = len(memory), shown(settings, memory)
    added = [taught for taught in done if taught.id is not None]
    failed = [taught for taught in done if taught.reason is not None]
    known = len(done) - len(added) - len(failed)
    if settings.as_json:
        write_json(
            {
                "vault": vault,
                "added": [
                    {"id": str(one.id), "label": one.label, "source": str(one.photo.path)}
                    for one in added
                ],
                "already_known": known,
                "failed": [{"source": str(one.photo.path), "reason": one.reason} for one in failed],
                "interrupted": interrupted,
                "items": held,
            }
        )
    else:
        _describe(added, failed, known=known, held=held, vault=vault)
    if interrupted:
        say(
            f"stopped: {count(len(added), 'photo')} of this run are remembered, "
            f"{total - len(done):,} are left; "
            "run the same command again to go on",
            err=True,
        )
        raise SystemExit(130)
    if failed:
        raise SystemExit(1)


def _describe(
    added: Sequence[Taught],
    failed: Sequence[Taught],
    *,
    known: int,
    held: int,
    vault: str,
) -> None:
    labels = {one.label for one in added if one.label is not None}
    masks = sum(one.masked for one in added)
    parts = [f"taught {count(len(added), 'photo')}"]
    if labels:
        parts.append(f"with {count(len(labels), 'label')}")
    if masks:
        parts.append(f"and {count(masks, 'mask')}")
    say(" ".join(parts) + f"; {vault} now holds {count(held, 'item')}")
    if known:
        say(f"passed over {count(known, 'photo')} that it already held")
    if failed:
        say(f"left out {count(len(failed), 'file')}:", err=True)
        for one in failed:
            path, reason = str(one.photo.path), one.reason or ""
            say(f"  {reason}" if path in reason else f"  {path}: {reason}", err=True)
