"""`procmem-export CHECKPOINT`: a model file for a device, checked against its original."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

from procmem.cli.group import ErrorCommand
from procmem_export.formats import FORMATS


@click.command(cls=ErrorCommand, extra="export")
@click.version_option(package_name="procmem")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "format_name",
    default="onnx",
    show_default=True,
    help="; ".join(f"{name}: {kind.description}" for name, kind in FORMATS.items()),
)
@click.option("--out", type=click.Path(path_type=Path), help="Default: beside the checkpoint.")
@click.option("--probes", default=32, show_default=True, help="Procedural images to compare on.")
@click.option("--force", is_flag=True, help="Replace an existing file.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def main(
    checkpoint: Path, format_name: str, out: Path | None, probes: int, force: bool, as_json: bool
) -> None:
    """Turn a CHECKPOINT of procmem-pretrain into a model that `procmem` runs.

    The file is kept only if it answers as the checkpoint does on procedural images.
    """
    from procmem_export.export import export
    from procmem_export.formats import find_format

    output = out or checkpoint.with_name(f"{checkpoint.stem}{find_format(format_name).suffix}")
    manifest, reports = export(checkpoint, output, format=format_name, probes=probes, force=force)
    if as_json:
        document = {"file": str(output), "sha256": manifest.sha256, "parity": manifest.parity}
        click.echo(json.dumps(document, sort_keys=True))
        return
    click.echo(f"wrote {output} ({output.stat().st_size / 1e6:.1f} MB)")
    for side, report in reports.items():
        click.echo(f"  at {side} pixels")
        for field in dataclasses.fields(report):
            value = getattr(report, field.name)
            click.echo(f"    {field.name.replace('_', ' '):20} {value:.6g}")
