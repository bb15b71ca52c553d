"""`procmem revoke` and `apply-revocations`: what is forgotten here and wherever it was sent."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from procmem.cli.delete import item_as_json, show_plan
from procmem.cli.options import Settings, open_memory, shared_options, write_json
from procmem.cli.share import trust_option
from procmem.cli.text import count, describe_report, report_as_json, say

if TYPE_CHECKING:
    from procmem.memory import VisualMemory
    from procmem.types import RevocationReport


@click.command(short_help="Forget items here and wherever they were sent.")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("ids", nargs=-1, type=click.IntRange(min=1), metavar="[IDS]...")
@click.option("--label", help="Everything with this label.")
@click.option("--source", help="Everything from this file.")
@click.option(
    "--receipt",
    "receipts",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    multiple=True,
    help="What was forgotten earlier, by the receipt of it; repeat for several.",
)
@click.option("--reissue", is_flag=True, help="Everything that was ever revoked, once more.")
@click.option("--dry-run", is_flag=True, help="Show what would be forgotten, and stop.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@shared_options(model=False)
def revoke(
    settings: Settings,
    file: Path,
    ids: tuple[int, ...],
    label: str | None,
    source: str | None,
    receipts: tuple[Path, ...],
    reissue: bool,
    dry_run: bool,
    yes: bool,
) -> None:
    """Forget items as `delete` does, and write a signed list of them to a new FILE.

    By IDS, by --label or by --source, and by the receipts of what was forgotten before. Whoever
    takes the list in with `apply-revocations` forgets them too. This memory remembers their ids,
    so that they do not come back with an older bundle. The list has ids and a signature, nothing
    of the photos. There is no undo.
    """
    ways = [bool(ids), label is not None, source is not None]
    if reissue and (any(ways) or receipts or dry_run):
        raise click.UsageError("--reissue forgets nothing more; give it alone.")
    if not reissue and (sum(ways) > 1 or not (any(ways) or receipts)):
        raise click.UsageError(
            "Say what to revoke in one way: IDS, --label or --source; or by --receipt, or all that "
            "was revoked by --reissue."
        )
    if settings.as_json and not (yes or dry_run or reissue):
        raise click.UsageError("--json cannot ask; add --yes, or --dry-run for the plan.")
    choice: dict[str, Any] = {"ids": ids or None, "label": label, "source": source}
    with open_memory(settings, read_only=dry_run or reissue) as memory:
        if reissue:
            _reissue(settings, memory, file)
            return
        plan = memory.plan_delete(**choice) if any(ways) else ()
        if not settings.as_json:
            if plan:
                show_plan(plan)
            if receipts:
                say(f"and what {count(len(receipts), 'receipt')} names")
        if dry_run:
            if settings.as_json:
                write_json({"plan": [item_as_json(item) for item in plan], "report": None})
            return
        if not yes:
            click.confirm("Forget that here and wherever it was sent?", abort=True, err=True)
        from procmem.revocation import revoke as revoke_items

        # By the ids that were shown: what is forgotten is what was agreed to.
        shown = [item.id for item in plan] if any(ways) else None
        report = revoke_items(memory, file, shown, receipts=receipts)
    _show(settings, file, report)


@click.command("apply-revocations", short_help="Forget what another memory has revoked.")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@trust_option
@shared_options(model=False)
def apply_command(settings: Settings, file: Path, trusted: tuple[str, ...]) -> None:
    """Forget what the list in FILE names, as far as it is here, and remember its ids.

    The list is one that `procmem revoke` wrote. Items that come later under these ids are passed
    over. Again gives the same. There is no undo.
    """
    from procmem.revocation import apply_revocations

    with open_memory(settings, read_only=False) as memory:
        report = apply_revocations(memory, file, trust=trusted)
    _show(settings, file, report)


def _reissue(settings: Settings, memory: VisualMemory, file: Path) -> None:
    from procmem.revocation import reissue_revocations

    written = reissue_revocations(memory, file)
    if settings.as_json:
        write_json({"vault": str(memory.path), "file": str(file), "revoked": written})
        return
    say(f"wrote {count(written, 'revoked id')} to {file}")


def _show(settings: Settings, file: Path, report: RevocationReport) -> None:
    if settings.as_json:
        write_json(
            {
                "file": str(file),
                "revoked_ids": [str(id_) for id_ in report.revoked_ids],
                "new_ids": [str(id_) for id_ in report.new_ids],
                "report": report_as_json(report.erasure),
            }
        )
    else:
        say(
            f"{file}: {count(len(report.revoked_ids), 'id')}, "
            f"{len(report.new_ids):,} of them new here"
        )
        if report.erasure.erased_ids:
            say(describe_report(report.erasure))
        else:
            say("none of them was held here")
    if report.erasure.windows_found:
        raise SystemExit(1)
