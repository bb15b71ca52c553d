"""`procmem verify`: whether a memory's files are sound."""

from __future__ import annotations

import click

from procmem.cli.options import Settings, open_memory, shared_options, write_json
from procmem.cli.text import count


@click.command(short_help="Check that a memory's files are sound.")
@shared_options()
def verify(settings: Settings) -> None:
    """Check every record of the memory. The exit code is 1 if anything is wrong."""
    with open_memory(settings, read_only=True) as memory:
        report = memory.verify()
        path = memory.path
    if settings.as_json:
        write_json(
            {
                "vault": str(path),
                "ok": report.ok,
                "items": report.items,
                "masks": report.masks,
                "problems": list(report.problems),
            }
        )
    elif report.ok:
        click.echo(f"{path} is sound: {count(report.items, 'item')}, {count(report.masks, 'mask')}")
    else:
        click.echo(f"{path} is not sound:")
        for problem in report.problems:
            click.echo(f"  {problem}")
    if not report.ok:
        raise SystemExit(1)
