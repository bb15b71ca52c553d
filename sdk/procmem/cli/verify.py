"""`procmem verify`: whether a memory is sound, a receipt true, a model's origin as it says."""

from __future__ import annotations

import dataclasses
import shutil
import textwrap
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import click

from procmem.cli.group import progress_bar
from procmem.cli.options import (
    DEFAULT_VAULT,
    Settings,
    is_given,
    open_memory,
    shared_options,
    write_json,
)
from procmem.cli.text import count, describe_migration, say
from procmem.embedder import DEFAULT_MODEL
from procmem.errors import VaultFormatError
from procmem.folder import holds_vault
from procmem.types import VerifyReport

if TYPE_CHECKING:
    from procmem.types import ProvenanceReport

_WIDTH = 100  # of a report on a wide terminal

_model_option = click.option(
    "--model",
    metavar="[NAME|FILE]",
    is_flag=False,
    flag_value=DEFAULT_MODEL,
    help="Check where this model comes from instead; needs no memory. With --vault, and in front "
    f"of the command, the memory's model as everywhere.  [default: {DEFAULT_MODEL}]",
)


@click.command(short_help="Check a memory's files, a receipt, or a model's origin.")
@click.option(
    "--receipt",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Check this receipt of a deletion instead; needs no memory.",
)
@click.option(
    "--key",
    metavar="HEX",
    help="For --receipt: the public key that must have signed it, as `procmem stats` shows it.",
)
@click.option(
    "--sample",
    type=click.IntRange(min=0),
    metavar="N",
    help="For --model: programs that are drawn again, by two renderers.  [default: 8]",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0, max=2**63 - 1),
    metavar="S",
    help="For --model: of that sample; the report shows it.  [default: a random one]",
)
@click.option(
    "--folder",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="FOLDER",
    help="For --model: another folder with files that the model was made of.",
)
@shared_options(model_option=_model_option)
def verify(
    settings: Settings,
    receipt: Path | None,
    key: str | None,
    sample: int | None,
    seed: int | None,
    folder: Path | None,
) -> None:
    """Check every record of the memory. The exit code is 1 if anything is wrong.

    With --receipt, check that a deletion's receipt is whole and proves what it says: which ids
    were in the memory before, and that they are not in it after.

    With --model, follow a model back to the seed of the programs that trained it: hashes, weights,
    the programs grown again, a random sample of them drawn again. What could not be checked is
    listed with the reason; the exit code is 1 only if something does not hold.
    """
    of_model = is_given("model", before=False) and not is_given("vault")
    if receipt is not None and is_given("model", before=False):
        raise click.UsageError("--receipt and --model are two checks; give one of them.")
    if not of_model and (sample is not None or seed is not None or folder is not None):
        raise click.UsageError(
            "--sample, --seed and --folder belong to --model NAME, without --vault."
        )
    if receipt is not None:
        _verify_receipt(settings, receipt, key)
        return
    if key is not None:
        raise click.UsageError("--key belongs to --receipt.")
    if of_model:
        _verify_model(settings, 8 if sample is None else sample, seed, folder)
        return
    migration = None
    try:
        with open_memory(settings, read_only=True) as memory:
            path, report = memory.place, memory.verify()
            if report.ok:
                migration = memory.stats().migration
    except VaultFormatError as error:
        # Of one that is there and too damaged to be opened, this is what was asked for.
        if not isinstance(settings.vault, Path) or not holds_vault(settings.vault.absolute()):
            raise
        path = str(settings.vault.absolute())
        report = VerifyReport(ok=False, problems=(str(error),), items=0, masks=0)
    if settings.as_json:
        write_json(
            {
                "vault": path,
                "ok": report.ok,
                "items": report.items,
                "masks": report.masks,
                "problems": list(report.problems),
                "migration": None if migration is None else dataclasses.asdict(migration),
            }
        )
    elif report.ok:
        say(f"{path} is sound: {count(report.items, 'item')}, {count(report.masks, 'mask')}")
        if migration is not None:
            say(f"migration: {describe_migration(migration)}")
    else:
        say(f"{path} is not sound:")
        for problem in report.problems:
            say(f"  {problem}")
    if not report.ok:
        raise SystemExit(1)


def _verify_receipt(settings: Settings, file: Path, key: str | None) -> None:
    from procmem.receipt import check_receipt, read_receipt

    try:
        public_key = None if key is None else bytes.fromhex(key)
    except ValueError as error:
        raise click.UsageError(f"--key {key!r:.80} is not hexadecimal.") from error
    receipt = read_receipt(file)
    problems = check_receipt(receipt, public_key=public_key)
    if settings.as_json:
        write_json(
            {
                "receipt": str(file),
                "ok": not problems,
                "problems": list(problems),
                "erased_ids": [str(id_) for id_ in receipt.erased_ids],
                "erased_seconds": receipt.erased_seconds,
                "items_before": receipt.before.items,
                "items_after": receipt.after.items,
                "model_sha256": receipt.model_sha256,
                "public_key": receipt.public_key.hex(),
                "key_was_given": public_key is not None,
            }
        )
    elif problems:
        say(f"{file} does not prove what it says:")
        for problem in problems:
            say(f"  {problem}")
    else:
        erased = len(receipt.erased_ids)
        moment = datetime.fromtimestamp(receipt.erased_seconds, tz=timezone.utc)
        say(
            f"{file} is true: {count(erased, 'item')} of {receipt.before.items:,} erased, "
            f"{receipt.after.items:,} left, {moment:%Y-%m-%d %H:%M:%S} UTC by the device's clock"
        )
        say(f"signed by {receipt.public_key.hex()}")
        if public_key is None:
            say("compare that key with one you know, or give it with --key")
    if problems:
        raise SystemExit(1)


def _verify_model(settings: Settings, sample: int, seed: int | None, folder: Path | None) -> None:
    from procmem.provenance import LIMITS, check_model, short_path

    if Path(DEFAULT_VAULT).is_dir():
        say(
            f"checking the model, not the memory here; for that, add --vault {DEFAULT_VAULT}",
            err=True,
        )
    with progress_bar("growing programs") as progress:
        report = check_model(
            settings.model or DEFAULT_MODEL,
            folder=folder,
            sample=sample,
            seed=seed,
            progress=progress,
        )
    if settings.as_json:
        write_json(
            {
                "model": report.model,
                "file": report.file,
                "ok": report.ok,
                "complete": report.complete,
                "steps": [dataclasses.asdict(step) for step in report.steps],
                "seed": report.seed,
                "limits": LIMITS,
            }
        )
    else:
        say(f"{report.model}: {short_path(Path(report.file))}")
        say(_describe(report))
        say(textwrap.fill(LIMITS, _columns(), break_on_hyphens=False))
    if not report.ok:
        raise SystemExit(1)


def _describe(report: ProvenanceReport) -> str:
    """A line for each step, broken under its own beginning, and one that counts them."""
    names = max(len(step.name) for step in report.steps)
    outcomes = len("not checked")
    indent = " " * (names + outcomes + 4)
    lines = []
    for step in report.steps:
        head = f"{step.name:{names}}  {step.outcome:{outcomes}}  "
        lines.append(
            textwrap.fill(
                step.detail,
                max(_columns(), len(indent) + 40),
                initial_indent=head,
                subsequent_indent=indent,
                break_long_words=False,
                break_on_hyphens=False,
            )
        )
    lines.append(
        f"{report.count('checked')} checked, {report.count('failed')} failed, "
        f"{report.count('not checked')} not checked"
    )
    return "\n".join(lines)


def _columns() -> int:
    return min(_WIDTH, shutil.get_terminal_size((_WIDTH, 24)).columns)
