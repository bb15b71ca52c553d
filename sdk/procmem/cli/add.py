"""`procmem add`: teach photos. Resumable, and a bad file does not stop the others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from procmem.cli.group import progress_bar
from procmem.cli.options import Settings, open_memory, shared_options, write_json
from procmem.cli.text import count

if TYPE_CHECKING:
    from procmem.memory import VisualMemory
    from procmem.photos import Photo

# Photos of one durable step: Ctrl-C loses at most the work on these.
_AT_ONCE = 16


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

    if label is not None and no_label:
        raise click.UsageError("--label and --no-label exclude each other.")
    found = find_photos(photos)
    with open_memory(settings, read_only=False) as memory:
        known = {item.source for item in memory.items()}
        new = [photo for photo in found if str(photo.path) not in known]
        task = _Adding(memory, label=label, no_label=no_label, masks=masks)
        interrupted = False
        try:
            with progress_bar("teaching") as show:
                for start in range(0, len(new), _AT_ONCE):
                    task.add(new[start : start + _AT_ONCE])
                    show(min(start + _AT_ONCE, len(new)), len(new))
        except KeyboardInterrupt:
            interrupted = True
        held = len(memory)
    if settings.as_json:
        write_json(
            {
                "vault": str(settings.vault),
                "added": [
                    {"id": str(number), "label": given, "source": str(photo.path)}
                    for number, given, photo in task.added
                ],
                "already_known": len(found) - len(new),
                "failed": [{"source": path, "reason": reason} for path, reason in task.failed],
                "interrupted": interrupted,
                "items": held,
            }
        )
    else:
        _describe(task, known=len(found) - len(new), held=held, vault=settings.vault)
    if interrupted:
        click.echo(
            f"stopped: {count(len(task.added), 'photo')} of this run are remembered, "
            f"{len(new) - len(task.added) - len(task.failed):,} are left; "
            "run the same command again to go on",
            err=True,
        )
        raise SystemExit(130)
    if task.failed:
        raise SystemExit(1)


class _Adding:
    """Adds photos in durable steps and remembers what became of each."""

    def __init__(
        self, memory: VisualMemory, *, label: str | None, no_label: bool, masks: Path | None
    ) -> None:
        self.added: list[tuple[int, str | None, Photo]] = []
        self.failed: list[tuple[str, str]] = []
        self.masked = 0
        self._memory = memory
        self._label, self._no_label, self._masks = label, no_label, masks

    def add(self, photos: Sequence[Photo]) -> None:
        from procmem.errors import ImageError, InputError

        try:
            self._add_all(photos)
        except (ImageError, InputError) as error:
            # A step is taken as a whole or not at all; find the bad photo by going one by one.
            if len(photos) == 1:
                self.failed.append((str(photos[0].path), str(error).removeprefix("images[0]: ")))
                return
            for photo in photos:
                self.add([photo])

    def _add_all(self, photos: Sequence[Photo]) -> None:
        labels = [self._label_of(photo) for photo in photos]
        masks = [self._mask_of(photo) for photo in photos]
        given: dict[str, Any] = {}
        if any(mask is not None for mask in masks):
            given["masks"] = masks
        ids = self._memory.add(
            [photo.path for photo in photos],
            labels=labels,
            sources=[str(photo.path) for photo in photos],
            **given,
        )
        self.masked += sum(mask is not None for mask in masks)
        self.added += list(zip(ids, labels, photos, strict=True))

    def _label_of(self, photo: Photo) -> str | None:
        if self._no_label:
            return None
        return photo.label if self._label is None else self._label

    def _mask_of(self, photo: Photo) -> Any:
        from procmem.photos import load_mask

        if self._masks is None:
            return None
        for name in (photo.relative, Path(photo.relative.name)):
            path = self._masks / name.with_suffix(".png")
            if path.is_file():
                return load_mask(path)
        return None


def _describe(task: _Adding, *, known: int, held: int, vault: Path | None) -> None:
    labels = {label for _, label, _ in task.added if label is not None}
    parts = [f"taught {count(len(task.added), 'photo')}"]
    if labels:
        parts.append(f"with {count(len(labels), 'label')}")
    if task.masked:
        parts.append(f"and {count(task.masked, 'mask')}")
    click.echo(" ".join(parts) + f"; {vault} now holds {count(held, 'item')}")
    if known:
        click.echo(f"passed over {count(known, 'photo')} that it already held")
    if task.failed:
        click.echo(f"left out {count(len(task.failed), 'file')}:", err=True)
        for _, reason in task.failed:
            click.echo(f"  {reason}", err=True)
