"""`procmem-export CHECKPOINT`: a model file for a device, checked against its original."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from procmem.cli.group import ErrorGroup, progress_bar
from procmem.errors import InputError
from procmem_export.formats import (
    DEFAULT_PROBES,
    DEFAULT_PROGRAMS,
    FORMATS,
    ExportOptions,
    default_output,
    find_format,
)


class _ExportGroup(ErrorGroup):
    """A group whose command is `export` where none is named."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, "--help", "--version"):
            args = ["export", *args]
        return super().parse_args(context, args)


@click.group(cls=_ExportGroup, extra="export")
@click.version_option(package_name="procmem")
def main() -> None:
    """Makes and measures model files for devices.

    `procmem-export CHECKPOINT` is short for `procmem-export export CHECKPOINT`.
    """


@main.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "format_name",
    default="onnx",
    show_default=True,
    help="; ".join(f"{name}: {kind.description}" for name, kind in FORMATS.items()) + ".",
)
@click.option(
    "--precision",
    help="Of the products: "
    + "; ".join(f"{', '.join(kind.precisions)} ({name})" for name, kind in FORMATS.items())
    + ". Default: the first.",
)
@click.option(
    "--image-size",
    type=int,
    metavar="PIXELS",
    help="Make the file for this side only, a multiple of the patch size. Default: every side for "
    "onnx, else the model's own.",
)
@click.option(
    "--batch",
    metavar="N|any",
    help="Images per run. Default: any for onnx, else 1. procmem itself runs files of 1 or any.",
)
@click.option(
    "--pixels",
    is_flag=True,
    help="Put the preprocessing into the graph: it then takes uint8 (N, H, W, 3), for programs "
    "that do without procmem.",
)
@click.option(
    "--dynamic",
    is_flag=True,
    help="onnx-int8: find ranges while the model runs instead of calibrating them.",
)
@click.option(
    "--architecture", metavar="NAME", help="timm's name of it, for a checkpoint of another project."
)
@click.option(
    "--normalization",
    metavar="NAME",
    help="imagenet (default) or half, for a checkpoint of another project.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Default: beside the checkpoint.")
@click.option(
    "--probes", default=DEFAULT_PROBES, show_default=True, help="Procedural images to compare on."
)
@click.option(
    "--programs",
    default=DEFAULT_PROGRAMS,
    show_default=True,
    help="Of the procedural retrieval task, 8 images each; 0 leaves it out.",
)
@click.option(
    "--workspace",
    "workspace_gib",
    default=4.0,
    show_default=True,
    metavar="GIB",
    help="tensorrt: most GPU memory that one layer may take.",
)
@click.option(
    "--optimization-level",
    default=3,
    show_default=True,
    help="tensorrt: 0 to 5; higher builds longer.",
)
@click.option(
    "--timing-cache",
    type=click.Path(path_type=Path),
    help="tensorrt: file that keeps what was measured from one build to the next.",
)
@click.option(
    "--accept-parity", is_flag=True, help="Keep a file that is below the gate, marked as such."
)
@click.option("--force", is_flag=True, help="Replace an existing file.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def export(
    checkpoint: Path,
    format_name: str,
    batch: str | None,
    architecture: str | None,
    normalization: str | None,
    out: Path | None,
    probes: int,
    programs: int,
    accept_parity: bool,
    force: bool,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Turn a CHECKPOINT into a model file that a device runs.

    The file is kept only if it answers as the checkpoint does on procedural images; the figures
    are written beside it. CHECKPOINT is one of procmem-pretrain, or the weights of a ViT as timm
    or DINO save them.
    """
    find_format(format_name)  # before torch is imported
    options = ExportOptions(format=format_name, batch=_batch(batch), **chosen)
    output = out or default_output(checkpoint, options)
    from procmem_export.export import export as run
    from procmem_export.report import as_document, report_paths

    with progress_bar("comparing with the original") as progress:
        done = run(
            checkpoint,
            output,
            options,
            architecture=architecture,
            normalization=normalization,
            probes=probes,
            programs=programs,
            accept_parity=accept_parity,
            force=force,
            progress=progress,
        )
    document = as_document(done.manifest, done.report, accepted=bool(done.report.failures))
    if as_json:
        click.echo(json.dumps({**document, "path": str(done.file)}, sort_keys=True))
        return
    click.echo(f"wrote {done.file} ({done.file.stat().st_size / 1e6:.1f} MB)")
    for side, report in done.report.parity.items():
        click.echo(
            f"  at {side} pixels: cosine {report.cls_cosine_min:.6f} or more for class tokens, "
            f"{report.patch_cosine_mean:.6f} on average for patches"
        )
    if (task := done.report.retrieval) is not None:
        click.echo(
            f"  retrieval: {task.label_agreement:.2%} same label, {task.neighbor_overlap:.2%} same "
            f"neighbors; right {task.copy_accuracy:.2%}, original {task.original_accuracy:.2%}"
        )
    for failure in done.report.failures:
        click.echo(f"  below the gate, kept as asked: {failure}")
    if done.manifest.origin.trained_on_real_data:
        click.echo("  marked as trained on real data: what was learned there cannot be forgotten")
    click.echo(f"  figures in {report_paths(done.file)[0]}")


@main.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--image-size", type=int, metavar="PIXELS", help="Default: the model's own side.")
@click.option("--threads", type=int, help="Default: one per physical core.")
@click.option("--images", default=60, show_default=True, help="Timed in each process.")
@click.option(
    "--rounds", default=3, show_default=True, help="Processes for each candidate, in turns."
)
@click.option(
    "--peer",
    "peers",
    type=click.Path(path_type=Path),
    multiple=True,
    help="ONNX file of another model, to compare its time; may be given several times.",
)
@click.option(
    "--compile/--no-compile", "compiled", default=True, help="Whether torch.compile is measured."
)
@click.option("--architecture", metavar="NAME", help="See `export`.")
@click.option("--normalization", metavar="NAME", help="See `export`.")
@click.option("--plot", "picture", type=click.Path(path_type=Path), help="PNG to draw.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def benchmark(checkpoint: Path, picture: Path | None, as_json: bool, **chosen: Any) -> None:
    """Measure a CHECKPOINT in every format on every device of this machine.

    Beside them stand torch and torch.compile on the same weights, and --peer models. Every
    candidate runs in a process of its own, one image at a time; likeness is to torch in float32,
    on procedural images.
    """
    from procmem_export import benchmark_report
    from procmem_export.benchmark import benchmark as run

    if picture is not None and picture.suffix != ".png":
        raise InputError(f"--plot is {picture}, wanted a name that ends in .png")
    with progress_bar("measuring") as progress:
        rows = run(checkpoint, progress=progress, **chosen)
    if picture is not None:
        benchmark_report.plot(rows, picture, title=f"{checkpoint.stem} on this machine")
    report = benchmark_report.as_json(rows) if as_json else benchmark_report.as_markdown(rows)
    click.echo(report, nl=False)


def _batch(text: str | None) -> Any:
    if text is None or text == "any":
        return text
    try:
        return int(text)
    except ValueError:
        raise InputError(f"--batch is {text!r:.80}, wanted a whole number or 'any'") from None
