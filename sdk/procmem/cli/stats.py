"""`procmem stats`: what a memory holds."""

from __future__ import annotations

import dataclasses

import click

from procmem.cli.options import Settings, open_memory, shared_options, write_json
from procmem.cli.text import NO_LABEL, count, cut, describe_migration, say, table

_LABELS_SHOWN = 20


@click.command(short_help="Say what a memory holds.")
@shared_options(model=False)
def stats(settings: Settings) -> None:
    """Say what the memory holds, how large it is, and which model it belongs to."""
    with open_memory(settings, read_only=True) as memory:
        held = memory.stats()
        path = memory.place
    if settings.as_json:
        document = {"vault": path, **dataclasses.asdict(held)}
        document["labels"] = dict(held.labels)
        write_json(document)
        return
    rows = [
        ("vault", path),
        ("items", f"{held.items:,}"),
        ("masks", f"{held.masks:,}"),
        ("size", f"{held.bytes_on_disk / 1e6:.2f} MB"),
        (
            "model",
            f"{held.embedder_name} ({held.embedder_sha256[:12]}), {held.image_size} pixels",
        ),
        ("format", str(held.format_version)),
        ("receipts", held.receipt_key or _no_receipts(settings)),
    ]
    if held.sealed:
        rows.append(("sealed", "yes: every item is encrypted under a key of its own"))
    if held.purge_pending:
        rows.append(("purge", "pending; it is done when the vault is next opened for writing"))
    if held.migration is not None:
        rows.append(("migration", describe_migration(held.migration)))
    say(table(rows))
    by_count = sorted(held.labels.items(), key=lambda entry: (-entry[1], entry[0]))
    lines = [(cut(label, 40), f"{number:,}") for label, number in by_count]
    unlabelled = held.items - sum(held.labels.values())
    if unlabelled:
        lines.append((NO_LABEL, f"{unlabelled:,}"))
    if lines:
        say()
        say(table(lines[:_LABELS_SHOWN], head=("label", "items"), right="lr"))
    if len(lines) > _LABELS_SHOWN:
        say(f"... and {count(len(lines) - _LABELS_SHOWN, 'more label')}")


def _no_receipts(settings: Settings) -> str:
    if isinstance(settings.vault, str):
        return "none: nobody here can vouch for what a server does"
    return "none can be made: the key is missing or damaged"
