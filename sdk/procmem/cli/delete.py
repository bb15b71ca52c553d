"""`procmem delete`: make the memory forget. The plan is shown before anything is destroyed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from procmem.cli.options import Settings, open_memory, shared_options, write_json
from procmem.cli.text import NO_LABEL, count, cut, describe_report, report_as_json, shorten, table

if TYPE_CHECKING:
    from procmem.vault import Item

_ROWS_SHOWN = 20


@click.command(short_help="Forget items, exactly.")
@click.argument("ids", nargs=-1, type=click.IntRange(min=1), metavar="[IDS]...")
@click.option("--label", help="Everything with this label.")
@click.option("--source", help="Everything from this file.")
@click.option(
    "--similar-to",
    type=click.Path(path_type=Path),
    metavar="PHOTO",
    help="Everything at least --min-similarity like this photo.",
)
@click.option(
    "--min-similarity",
    type=click.FloatRange(-1, 1),
    default=0.9,
    show_default=True,
    help="For --similar-to: cosine; 1 is the same.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be forgotten, and stop.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@shared_options()
def delete(
    settings: Settings,
    ids: tuple[int, ...],
    label: str | None,
    source: str | None,
    similar_to: Path | None,
    min_similarity: float,
    dry_run: bool,
    yes: bool,
) -> None:
    """Forget items: by IDS, or by exactly one of --label, --source and --similar-to.

    Afterwards the memory answers as if it had never held them, and the vault's file is rewritten
    and searched for what is left of them. There is no undo.
    """
    ways = [bool(ids), label is not None, source is not None, similar_to is not None]
    if sum(ways) != 1:
        raise click.UsageError(
            "Say what to forget in one way: IDS, --label, --source or --similar-to."
        )
    if settings.as_json and not (yes or dry_run):
        raise click.UsageError("--json cannot ask; add --yes, or --dry-run for the plan.")
    with open_memory(settings, read_only=dry_run) as memory:
        choice: dict[str, Any] = {"ids": ids or None, "label": label, "source": source}
        if similar_to is not None:
            choice |= {"similar_to": similar_to, "min_similarity": min_similarity}
        plan = memory.plan_delete(**choice)
        if not plan:
            _nothing(settings, dry_run=dry_run)
            return
        if not settings.as_json:
            _show_plan(plan)
        if dry_run:
            if settings.as_json:
                write_json({"plan": [_item_as_json(item) for item in plan], "report": None})
            return
        if not yes:
            click.confirm(f"Forget {count(len(plan), 'item')} for ever?", abort=True, err=True)
        # By the ids that were shown: what is forgotten is what was agreed to.
        report = memory.delete([item.id for item in plan])
    if settings.as_json:
        plan_document = [_item_as_json(item) for item in plan]
        write_json({"plan": plan_document, "report": report_as_json(report)})
    else:
        click.echo(describe_report(report))
    if report.windows_found:
        raise SystemExit(1)


def _nothing(settings: Settings, *, dry_run: bool) -> None:
    if settings.as_json:
        write_json({"plan": [], "report": None})
    else:
        click.echo("nothing to forget: no item fits")
    if not dry_run:
        raise SystemExit(1)


def _item_as_json(item: Item) -> dict[str, Any]:
    return {"id": str(item.id), "label": item.label, "source": item.source}


def _show_plan(plan: tuple[Item, ...]) -> None:
    rows = [
        (str(item.id), cut(item.label or NO_LABEL, 20), shorten(item.source or "", 34))
        for item in plan[:_ROWS_SHOWN]
    ]
    click.echo(table(rows, head=("id", "label", "source"), right="rll"))
    if len(plan) > _ROWS_SHOWN:
        click.echo(f"... and {count(len(plan) - _ROWS_SHOWN, 'more item')}")
