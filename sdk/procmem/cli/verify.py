"""`procmem verify`: whether a memory's files are sound, or a receipt is true."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import click

from procmem.cli.options import Settings, open_memory, shared_options, write_json
from procmem.cli.text import count


@click.command(short_help="Check a memory's files, or a receipt.")
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
@shared_options()
def verify(settings: Settings, receipt: Path | None, key: str | None) -> None:
    """Check every record of the memory. The exit code is 1 if anything is wrong.

    With --receipt, check that a deletion's receipt is whole and proves what it says: which ids
    were in the memory before, and that they are not in it after.
    """
    if receipt is not None:
        _verify_receipt(settings, receipt, key)
        return
    if key is not None:
        raise click.UsageError("--key belongs to --receipt.")
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
        click.echo(f"{file} does not prove what it says:")
        for problem in problems:
            click.echo(f"  {problem}")
    else:
        erased = len(receipt.erased_ids)
        moment = datetime.fromtimestamp(receipt.erased_seconds, tz=timezone.utc)
        click.echo(
            f"{file} is true: {count(erased, 'item')} of {receipt.before.items:,} erased, "
            f"{receipt.after.items:,} left, {moment:%Y-%m-%d %H:%M:%S} UTC by the device's clock"
        )
        click.echo(f"signed by {receipt.public_key.hex()}")
        if public_key is None:
            click.echo("compare that key with one you know, or give it with --key")
    if problems:
        raise SystemExit(1)
