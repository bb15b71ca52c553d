"""`procmem delete`: make the memory forget. The plan is shown before anything is destroyed."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from procmem.cli.options import Settings, open_memory, shared_options, write_json
from procmem.cli.text import (
    NO_LABEL,
    count,
    cut,
    describe_report,
    report_as_json,
    say,
    shorten,
    table,
)

if TYPE_CHECKING:
    from procmem.record import Item

_ROWS_SHOWN = 20
_MAX_DAYS = 365_000  # a thousand years: a date can be that far back


def _check_days(_: click.Context, parameter: click.Parameter, days: float | None) -> float | None:
    if days is not None and not 0 <= days <= _MAX_DAYS:  # not a number too
        raise click.BadParameter(f"{days} is not in the range 0<=x<={_MAX_DAYS}.", param=parameter)
    return days


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
    help="For --similar-to: cosine; of a taught image with itself at least 0.999.",
)
@click.option(
    "--older-than",
    type=float,
    callback=_check_days,
    metavar="DAYS",
    help="Everything that was taught more than so many days ago.",
)
@click.option(
    "--receipt",
    "receipt_file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the signed receipt to this file; `verify --receipt` checks it.",
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
    older_than: float | None,
    receipt_file: Path | None,
    dry_run: bool,
    yes: bool,
) -> None:
    """Forget items: by IDS, or by exactly one of --label, --source, --similar-to and --older-than.

    Afterwards the memory answers as if it had never held them, and the vault's file is rewritten
    and searched for what is left of them. There is no undo.
    """
    from procmem.receipt import write_receipt

    choices = (label, source, similar_to, older_than)
    ways = [bool(ids), *(value is not None for value in choices)]
    if sum(ways) != 1:
        raise click.UsageError(
            "Say what to forget in one way: IDS, --label, --source, --similar-to or --older-than."
        )
    if settings.as_json and not (yes or dry_run):
        raise click.UsageError("--json cannot ask; add --yes, or --dry-run for the plan.")
    if receipt_file is not None:
        if receipt_file.exists():
            raise click.UsageError(f"{receipt_file} exists; a receipt is not written over a file.")
        if not receipt_file.absolute().parent.is_dir():
            raise click.UsageError(f"the folder of {receipt_file} is missing; make it first.")
    with open_memory(settings, read_only=dry_run) as memory:
        choice: dict[str, Any] = {"ids": ids or None, "label": label, "source": source}
        if similar_to is not None:
            choice |= {"similar_to": similar_to, "min_similarity": min_similarity}
        if older_than is not None:
            choice["added_before"] = datetime.now(tz=timezone.utc) - timedelta(days=older_than)
        plan = memory.plan_delete(**choice)
        if not plan:
            _nothing(settings, dry_run=dry_run)
            return
        if not settings.as_json:
            show_plan(plan)
        if dry_run:
            if settings.as_json:
                write_json({"plan": [item_as_json(item) for item in plan], "report": None})
            return
        if not yes:
            click.confirm(f"Forget {count(len(plan), 'item')} for ever?", abort=True, err=True)
        # By the ids that were shown: what is forgotten is what was agreed to.
        report = memory.delete([item.id for item in plan])
    if receipt_file is not None and report.receipt is not None:
        write_receipt(report.receipt, receipt_file)
    if settings.as_json:
        plan_document = [item_as_json(item) for item in plan]
        write_json({"plan": plan_document, "report": report_as_json(report)})
    else:
        say(describe_report(report))
        if receipt_file is not None and report.receipt is not None:
            say(f"receipt: {receipt_file}")
    if receipt_file is not None and report.receipt is None:
        why = "the memory is on a server" if report.on_server else "the purge is pending, or the "
        why += "" if report.on_server else "vault's key is damaged"
        say(f"no receipt: {why}", err=True)
        raise SystemExit(1)
    if report.windows_found:
        raise SystemExit(1)


def _nothing(settings: Settings, *, dry_run: bool) -> None:
    if settings.as_json:
        write_json({"plan": [], "report": None})
    else:
        say("nothing to forget: no item fits")
    if not dry_run:
        raise SystemExit(1)


def item_as_json(item: Item) -> dict[str, Any]:
    """A planned item as JSON values."""
    return {"id": str(item.id), "label": item.label, "source": item.source}


def show_plan(plan: tuple[Item, ...]) -> None:
    """Prints what would be forgotten."""
    rows = [
        (str(item.id), cut(item.label or NO_LABEL, 20), shorten(item.source or "", 34))
        for item in plan[:_ROWS_SHOWN]
    ]
    say(table(rows, head=("id", "label", "source"), right="rll"))
    if len(plan) > _ROWS_SHOWN:
        say(f"... and {count(len(plan) - _ROWS_SHOWN, 'more item')}")
