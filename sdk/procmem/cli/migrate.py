"""`procmem migrate`: bring a memory to another model, from the images that it was taught."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from procmem.cli.group import progress_bar
from procmem.cli.options import Settings, folder_of, shared_options, write_json
from procmem.cli.text import count, describe_report, report_as_json, say, shorten
from procmem.embedder import DEFAULT_MODEL

if TYPE_CHECKING:
    from procmem.types import LeftBehind, MigrationReport

_LEFT_SHOWN = 20

_model_option = click.option(
    "--model",
    metavar="NAME|FILE",
    help="The new model: a bundled one, or an .onnx file with its manifest.  "
    f"[default: {DEFAULT_MODEL}]",
)


@click.command(short_help="Bring a memory to another model.")
@click.option(
    "--old-model",
    metavar="NAME|FILE",
    help="The model that the memory is of, to find images that have changed since. The bundled one "
    "is found by itself.",
)
@click.option("--confirm", is_flag=True, help="Erase what was left under the previous model.")
@click.option("--abort", is_flag=True, help="Undo a migration that was stopped half-way.")
@click.option("--yes", is_flag=True, help="For --confirm: do not ask.")
@shared_options(model_option=_model_option)
def migrate(
    settings: Settings, old_model: str | None, confirm: bool, abort: bool, yes: bool
) -> None:
    """Bring the memory to another model: embed every image anew, from where it was taught.

    Until all is done the memory answers as before; then it answers under the new model, from one
    moment to the next. An interrupted run is gone on with by the same command. Items whose image is
    gone or has changed stay, under the old model, in the folder `previous` of the memory: bring the
    images back and run the command again, or erase these items with --confirm. The exit code is 1
    as long as there are any.
    """
    if confirm and abort:
        raise click.UsageError("--confirm and --abort exclude each other.")
    if (confirm or abort) and old_model is not None:
        raise click.UsageError("--old-model belongs to a migration, not to --confirm or --abort.")
    if yes and not confirm:
        raise click.UsageError("--yes belongs to --confirm.")
    if confirm:
        _confirm(settings, yes=yes)
    elif abort:
        _abort(settings)
    else:
        _migrate(settings, old_model)


def _migrate(settings: Settings, old_model: str | None) -> None:
    from procmem.reembedding import migrate as bring

    memory = str(folder_of(settings, "a migration"))
    try:
        with progress_bar("embedding anew") as show:
            report = bring(
                memory,
                settings.model or DEFAULT_MODEL,
                image_size=settings.image_size,
                device=settings.device,
                old_model=old_model,
                key=settings.vault_key,
                progress=show,
            )
    except KeyboardInterrupt:
        say(
            "stopped: what was embedded anew is kept, and the memory answers as before; run the "
            "same command again to go on, or with --abort to undo it",
            err=True,
        )
        raise SystemExit(130) from None
    if settings.as_json:
        write_json({"vault": memory, **_as_json(report)})
    else:
        _describe(report, memory)
    if report.left:
        raise SystemExit(1)


def _confirm(settings: Settings, *, yes: bool) -> None:
    from procmem.memory import VisualMemory
    from procmem.reembedding import confirm_migration

    if settings.as_json and not yes:
        raise click.UsageError("--json cannot ask; add --yes.")
    memory = str(folder_of(settings, "a migration"))
    with VisualMemory(memory, key=settings.vault_key, read_only=True) as held:
        waiting = held.stats().migration
    if waiting is not None and waiting.phase == "unconfirmed" and not yes:
        items = count(waiting.items, "item")
        click.confirm(
            f"Forget {items} left under {waiting.embedder_name} for ever?", abort=True, err=True
        )
    report = confirm_migration(memory, key=settings.vault_key)
    if settings.as_json:
        write_json({"vault": memory, "report": report_as_json(report)})
    else:
        say(describe_report(report))
    if report.windows_found:
        raise SystemExit(1)


def _abort(settings: Settings) -> None:
    from procmem.reembedding import abort_migration

    memory = str(folder_of(settings, "a migration"))
    report = abort_migration(memory, key=settings.vault_key)
    if settings.as_json:
        write_json({"vault": memory, "report": report_as_json(report)})
    else:
        say(
            f"undone: {memory} is as it was, with {count(report.remaining, 'item')}; "
            f"{report.windows_found:,} of {report.windows_checked:,} 16-byte windows of the new "
            "embeddings found in its files"
        )
    if report.windows_found:
        raise SystemExit(1)


def _as_json(report: MigrationReport) -> dict[str, Any]:
    document = dataclasses.asdict(report)
    document["left"] = [{**one, "id": str(one["id"])} for one in document["left"]]
    return document


def _describe(report: MigrationReport, memory: str) -> None:
    model = f"{report.embedder_name} ({report.embedder_sha256[:12]}), {report.image_size} pixels"
    if report.switched:
        say(
            f"embedded {count(report.reembedded, 'item')} anew; {memory} is of {model} now and "
            f"holds {count(report.items, 'item')}"
        )
    else:
        say(f"nothing was changed: none of the items could be embedded anew by {model}")
        if report.items > len(report.left):
            say(
                "what an earlier run has embedded is kept: bring the images back and run this "
                "command again, or undo it with --abort",
                err=True,
            )
    if not report.checked:
        say(
            "the old model is not at hand (--old-model), so nobody could tell whether an image has "
            "changed since it was taught",
            err=True,
        )
    if report.left:
        _describe_left(report.left)
        if report.switched:
            say(
                f"they stay in {memory}/previous, to be asked there: bring the images back and run "
                "this command again, or erase these items with --confirm",
                err=True,
            )


def _describe_left(left: Sequence[LeftBehind]) -> None:
    say(f"could not embed {count(len(left), 'item')} anew:", err=True)
    for one in left[:_LEFT_SHOWN]:
        say(f"  {one.id}  {shorten(one.reason, 160)}", err=True)
    if len(left) > _LEFT_SHOWN:
        say(f"  ... and {len(left) - _LEFT_SHOWN:,} more; --json has all", err=True)
