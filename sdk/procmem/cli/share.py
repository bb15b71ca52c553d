"""`procmem address`, `share` and `receive`: items from one memory to another."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from procmem.cli.group import progress_bar
from procmem.cli.options import Settings, folder_of, open_memory, shared_options, write_json
from procmem.cli.text import count, say

if TYPE_CHECKING:
    from procmem.types import ReceiveReport

trust_option = click.option(
    "--from",
    "trusted",
    metavar="ADDRESS",
    multiple=True,
    required=True,
    help="The memory that must have signed it, as its `procmem address` shows it; repeat for "
    "several of which one did.",
)


@click.command(short_help="Show what others need to share with this memory.")
@shared_options()
def address(settings: Settings) -> None:
    """Show the memory's address. Makes the memory if there is none.

    Others write bundles for this address with `share --to`, and know by it what this memory has
    signed with `receive --from`. It is public, but must come from you: send it in a way that shows
    that it does.
    """
    from procmem.address import vault_address
    from procmem.folder import holds_vault

    folder = folder_of(settings, "sharing")
    there = folder is not None and holds_vault(folder.absolute())
    with open_memory(settings, read_only=there, new=not there) as memory:
        text, path = vault_address(memory), memory.path
    if settings.as_json:
        write_json({"vault": str(path), "address": text})
        return
    say(text)


@click.command(short_help="Write items that only other memories can open.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--to",
    "recipients",
    metavar="ADDRESS",
    multiple=True,
    required=True,
    help="A memory that can open it, as its `procmem address` shows it; repeat for several.",
)
@click.option("--label", help="Only items with this label.")
@click.option("--id", "ids", type=click.IntRange(min=1), multiple=True, help="Only this item.")
@shared_options(model=False)
def share(
    settings: Settings,
    file: Path,
    recipients: tuple[str, ...],
    label: str | None,
    ids: tuple[int, ...],
) -> None:
    """Write all items, or those of --label or --id, to a new FILE for other memories.

    It is encrypted to them and signed by this one. It holds labels, sources, vectors and masks,
    not the photos. `procmem delete` does not reach it; what must go there too is revoked.
    """
    from procmem.bundle import share_items

    if label is not None and ids:
        raise click.UsageError("Say what to share in one way: --label or --id.")
    with open_memory(settings, read_only=True) as memory, progress_bar("sharing") as show:
        written = share_items(
            memory, file, to=recipients, ids=ids or None, label=label, progress=show
        )
        path = memory.path
    size = file.stat().st_size
    if settings.as_json:
        write_json({"vault": str(path), "file": str(file), "items": written, "bytes": size})
        return
    say(f"shared {count(written, 'item')} in {file} ({size / 1e6:.2f} MB)")


@click.command(short_help="Take in items that another memory has shared.")
@click.argument("file", type=click.Path(path_type=Path, exists=True))
@trust_option
@click.option(
    "--reembed",
    is_flag=True,
    help="If the items were seen by another model, look at those again whose photos are here.",
)
@shared_options()
def receive(settings: Settings, file: Path, trusted: tuple[str, ...], reembed: bool) -> None:
    """Take in the items of a FILE that `procmem share` wrote for this memory: all, or none.

    What the memory holds stays; of two contents under one id the one that was taught later does.
    What was revoked here is passed over. Again, and in any order, gives the same. The exit code is
    1 if items of another model could not be seen again.
    """
    from procmem.bundle import receive_items

    with (
        open_memory(settings, read_only=False, new=True) as memory,
        progress_bar("receiving") as show,
    ):
        report = receive_items(memory, file, trust=trusted, reembed=reembed, progress=show)
        held, path = len(memory), memory.path
    if settings.as_json:
        document = {name: _as_json(value) for name, value in dataclasses.asdict(report).items()}
        write_json({"vault": str(path), "file": str(file), **document, "items": held})
    else:
        say(f"{_described(report)}; {path} now holds {count(held, 'item')}")
        if not report.purged:
            say("what was replaced is purged when the memory is next opened for writing")
    if report.not_seen:
        raise SystemExit(1)


def _described(report: ReceiveReport) -> str:
    parts = [f"received {count(len(report.added), 'new item')}"]
    for ids, what in (
        (report.unchanged, "held already"),
        (report.replaced, "replaced by what was taught later"),
        (report.kept, "kept, taught later than what was sent"),
        (report.revoked, "passed over, revoked here"),
        (report.not_seen, "left out: their photos are not here"),
    ):
        if ids:
            parts.append(f"{len(ids):,} {what}")
    return ", ".join(parts)


def _as_json(value: Any) -> Any:
    """Ids as text: many JSON readers keep only 53 bits of a number."""
    return [str(id_) for id_ in value] if isinstance(value, tuple) else value
