"""`procmem-pretrain`: draw procedural images, train on them, keep what was learned.

Heavy imports stand inside the commands, so that `--help` is quick and a missing extra is told in
one line.
"""

from __future__ import annotations

import dataclasses
import json
import math
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import numpy.typing as npt

from procmem.cli.group import ErrorGroup, progress_bar
from procmem.errors import InputError, TrainingError
from procmem_pretrain.evaluation.command import evaluate

Command = Callable[..., Any]

_PROGRAMS_HELP = "bundled, endless, or a bank file."

# Images that `render` draws at a time; part of what a seed means.
_RENDER_BATCH = 64

if TYPE_CHECKING:
    from procmem_pretrain.run_log import StepReport
    from procmem_pretrain.stream import StreamConfig


_IMAGE_OPTIONS = (
    click.option("--process", default="shaders-kml-mixup", show_default=True, help="Which images."),
    click.option("--n", "count", default=64, show_default=True, help="How many images."),
    click.option("--seed", default=0, show_default=True, help="Equal options, equal images."),
    click.option("--programs", default="bundled", show_default=True, help=_PROGRAMS_HELP),
    click.option(
        "--shaders",
        type=click.Path(path_type=Path),
        help="Folder of your own GLSL files to draw instead of programs.",
    ),
    click.option(
        "--protocol",
        type=click.Choice(["exact", "paper"]),
        default="exact",
        show_default=True,
        help="paper: the published procedure to the letter.",
    ),
    click.option(
        "--renderer",
        default="auto",
        show_default=True,
        help="auto, torch, gl-fragment, gl-compute.",
    ),
    click.option("--device", default="cpu", show_default=True, help="Where images are mixed."),
    click.option("--workers", default=0, show_default=True, help="Processes that draw ahead."),
)


def _image_options(*, side: int) -> Callable[[Command], Command]:
    """The options that name images and how they are made."""

    def decorate(command: Command) -> Command:
        command = click.option(
            "--side", default=side, show_default=True, help="Pixels of one image."
        )(command)
        for option in reversed(_IMAGE_OPTIONS):
            command = option(command)
        return command

    return decorate


@click.group(cls=ErrorGroup, extra="pretrain")
@click.version_option(package_name="procmem")
def main() -> None:
    """Trains a perception on procedural images only."""


@main.command()
@_image_options(side=256)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write.")
@click.option("--shards", is_flag=True, help="WebDataset shards (tar) instead of single files.")
@click.option("--images-per-shard", default=1000, show_default=True)
@click.option(
    "--format",
    "image_format",
    type=click.Choice(["png", "jpeg", "webp"]),
    default="png",
    show_default=True,
)
@click.option("--quality", type=int, help="1 to 100, of jpeg and webp.")
def render(
    count: int,
    out: Path,
    shards: bool,
    images_per_shard: int,
    image_format: str,
    quality: int | None,
    renderer: str,
    device: str,
    workers: int,
    **named: Any,
) -> None:
    """Writes procedural images as files; run again, it goes on where it stopped.

    The images follow from all options that say what to draw, --n too: fewer than 248 are mixed from
    a smaller pool.
    """
    from procmem_pretrain.device import torch_device
    from procmem_pretrain.image_files import Encoding, write_folder, write_shards
    from procmem_pretrain.stream import ImageStream

    torch_device(device)  # before the folder belongs to what cannot be drawn
    # So many new programs that a folder of single images has each of them once.
    config = _stream_config(
        pool_images=min(2048, 64 + 8 * count), fresh_programs=_RENDER_BATCH // 8, **named
    )
    encoding = Encoding(image_format, quality)  # type: ignore[arg-type]  # click checked it

    def images_from(position: int) -> Iterator[npt.NDArray[np.uint8]]:
        with ImageStream(
            config,
            batch=_RENDER_BATCH,
            device=device,
            renderer=renderer,
            workers=workers,
            start=position // _RENDER_BATCH,
        ) as stream:
            skip = position % _RENDER_BATCH
            for batch in stream:
                yield from batch.permute(0, 2, 3, 1).cpu().numpy()[skip:]
                skip = 0

    described = dataclasses.asdict(config)
    with progress_bar("rendering images") as progress:
        if shards:
            write_shards(
                images_from,
                out,
                count=count,
                images_per_shard=images_per_shard,
                encoding=encoding,
                configuration=described,
                progress=progress,
            )
        else:
            write_folder(
                images_from,
                out,
                count=count,
                encoding=encoding,
                configuration=described,
                progress=progress,
            )
    click.echo(f"{count} images of {config.process} in {out}")


@main.command()
@_image_options(side=128)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Picture to write.")
def sheet(
    process: str,
    count: int,
    out: Path,
    renderer: str,
    device: str,
    workers: int,
    **named: Any,
) -> None:
    """Draws a contact sheet: many images in one picture; with --process all, a row for each."""
    from PIL import Image

    from procmem_pretrain.device import torch_device
    from procmem_pretrain.processes import PROCESSES
    from procmem_pretrain.sheet import contact_sheet, labelled_rows
    from procmem_pretrain.stream import ImageStream

    torch_device(device)
    # Some formats Pillow only reads.
    if Image.registered_extensions().get(out.suffix.lower()) not in Image.SAVE:
        raise InputError(f"output is {out}, wanted a picture's name, for example sheet.png")
    _check_target(out, force=True)
    rows = []
    for name in PROCESSES if process == "all" else (process,):
        # So many programs that two images of one are rare, and none where nothing is mixed.
        config = _stream_config(
            process=name,
            images_per_program=1,
            pool_images=32 + 6 * count,
            fresh_programs=count,
            **named,
        )
        with (
            progress_bar(f"drawing programs for {name}") as progress,
            ImageStream(
                config,
                batch=count,
                device=device,
                renderer=renderer,
                workers=workers,
                progress=progress,
            ) as stream,
        ):
            rows.append((name, next(stream).permute(0, 2, 3, 1).cpu().numpy()))
    picture = labelled_rows(rows) if process == "all" else contact_sheet(rows[0][1])
    picture.save(out)
    click.echo(f"{count} images of {process} in {out}")


@main.command()
@click.option("--seed", default=0, show_default=True, help="Of the programs.")
@click.option("--n", "count", default=20_000, show_default=True, help="How many are accepted.")
@click.option("--workers", default=1, show_default=True, help="Processes that probe programs.")
@click.option("--out", type=click.Path(path_type=Path), help="File to write.")
@click.option("--force", is_flag=True, help="Replace a file of that name.")
@click.option(
    "--verify", type=click.Path(path_type=Path), help="Bank file, or bundled, to check instead."
)
def bank(
    seed: int, count: int, workers: int, out: Path | None, force: bool, verify: Path | None
) -> None:
    """Builds a bank of accepted programs, or verifies one; an interrupted build goes on."""
    from procmem_pretrain.bank import build_bank, load_bank

    if (out is None) == (verify is None):
        raise InputError("name either --out FILE to build a bank, or --verify FILE to check one")
    if verify is not None:
        checked = load_bank(None if str(verify) == "bundled" else verify)
        with progress_bar("growing programs") as progress:
            checked.verify(progress=progress)
        click.echo(f"{len(checked)} programs, {checked.program_set_sha256}: verified")
        return
    assert out is not None
    _check_target(out, force=force)
    with progress_bar("probing programs") as progress:
        built = build_bank(out, root_seed=seed, accepted=count, workers=workers, progress=progress)
    reasons = ", ".join(f"{len(numbers)} {reason}" for reason, numbers in built.rejected.items())
    click.echo(f"{len(built)} programs of {built.considered} in {out}; rejected: {reasons}")
    click.echo(f"program set {built.program_set_sha256}")


@main.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    add_help_option=False,
)
@click.pass_context
def train(context: click.Context) -> None:
    """Trains, or goes on with the run in --folder, whose options need not be given again.

    `train --help` lists every constant.
    """
    from procmem_pretrain.train import train as run
    from procmem_pretrain.train_options import parse

    arguments = parse(context.args)
    with progress_bar("rendering programs") as progress:
        path = run(
            arguments.config,
            arguments.folder,
            init_from=arguments.init_from,
            renderer=arguments.renderer,
            workers=arguments.workers,
            stop_after=arguments.stop_after,
            checkpoint_seconds=arguments.checkpoint_seconds,
            report=_show_step,
            progress=progress,
        )
    click.echo(f"wrote {path}")
    if path.name.startswith("step-"):
        click.echo(
            f"stopped before the last step; train --folder {arguments.folder} goes on from here",
            err=True,
        )
        step, wanted = int(path.stem.removeprefix("step-")), arguments.stop_after
        if wanted is None or step < wanted:  # by a signal
            raise SystemExit(130)


@main.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="<name>.safetensors")
@click.option("--force", is_flag=True, help="Replace a file of that name.")
def compact(checkpoint: Path, out: Path, force: bool) -> None:
    """Keeps of a CHECKPOINT what export needs: the teacher, in float16, and a fresh readout."""
    from procmem_pretrain import checkpoint as files
    from procmem_pretrain.compact import save_compact
    from procmem_pretrain.config import config_from_dict
    from procmem_pretrain.jobs import program_set

    if out.suffix != ".safetensors":
        raise InputError(f"output is {out}, wanted a name that ends in .safetensors")
    if out.exists() and checkpoint.exists() and out.samefile(checkpoint):
        raise InputError(f"output is the checkpoint itself, {out}; give another name")
    _check_target(out, force=force)
    manifest, model = files.load_perception(checkpoint)
    config = config_from_dict(manifest.config)
    if program_set(config.images.jobs) != manifest.origin.program_set_sha256:
        raise TrainingError(
            f"this procmem draws other programs than {checkpoint} was trained on; "
            f"use version {manifest.origin.code_version}"
        )
    chain = (*manifest.origin.chain, ("training state", manifest.sha256))
    save_compact(out, config, model.vit, chain, step=manifest.origin.steps)
    click.echo(f"wrote {out}")


@main.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def inspect(checkpoint: Path, as_json: bool) -> None:
    """Verifies a CHECKPOINT against its manifest and shows where it comes from."""
    from procmem_pretrain.checkpoint import load

    manifest, tensors = load(checkpoint)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(manifest), sort_keys=True))
        return
    origin = manifest.origin
    click.echo(f"{checkpoint}: {manifest.name}, {len(tensors)} tensors, hash verified")
    click.echo(f"  {origin.steps} steps, {origin.images_seen:,} images of {origin.process}")
    click.echo(f"  seed {origin.root_seed}, programs {origin.program_set_sha256[:16]}...")


@main.command("verify-programs")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--sample", default=8, show_default=True, help="Programs that are drawn twice.")
@click.option("--seed", type=int, help="Of the sample.  [default: a random one]")
def verify_programs(file: Path, sample: int, seed: int | None) -> None:
    """Grows the programs of a FILE's manifest again, and draws some with two renderers.

    FILE is a checkpoint or a model. Writes one JSON document; the part of `procmem verify --model`
    that needs this package. The exit code is 1 if something is not what the manifest says.
    """
    from procmem.manifest import read_manifest

    manifest = read_manifest(file)
    from procmem_pretrain import provenance  # takes seconds, which a wrong name need not cost

    seed = secrets.randbits(32) if seed is None else seed
    with _progress_lines("growing programs") as progress:
        steps, redrawn = provenance.verify_programs(
            manifest, sample=sample, seed=seed, progress=progress
        )
    document = {
        "seed": seed,
        "steps": [dataclasses.asdict(step) for step in steps],
        "sample": [dataclasses.asdict(program) for program in redrawn],
    }
    click.echo(json.dumps(document))
    if any(step.outcome == "failed" for step in steps):
        raise SystemExit(1)


main.add_command(evaluate)


@contextmanager
def _progress_lines(label: str) -> Iterator[Callable[[int, int | None], None]]:
    """A bar on a terminal; else lines of "done/total" on stderr, which another program can read."""
    if sys.stderr.isatty():
        with progress_bar(label) as progress:
            yield progress
        return

    def show(done: int, total: int | None) -> None:
        if total is not None and (done == total or done % max(1, total // 100) == 0):
            click.echo(f"{done}/{total}", err=True)

    yield show


def _stream_config(
    *, shaders: Path | None, seed: int, pool_images: int, images_per_program: int = 8, **named: Any
) -> StreamConfig:
    """The configuration of `_IMAGE_OPTIONS`."""
    from procmem_pretrain.stream import StreamConfig

    return StreamConfig(
        root_seed=seed,
        shaders=None if shaders is None else str(shaders),
        pool_images=pool_images,
        images_per_program=images_per_program,
        **named,
    )


def _show_step(line: StepReport) -> None:
    terms = "  ".join(f"{name} {value:.3f}" for name, value in line.terms.items())
    seen = "" if math.isnan(line.knn) else f"  knn {line.knn:.3f}  rank {line.rank:.0f}"
    click.echo(
        f"step {line.step:6d}  loss {line.loss:.4f}  {terms}  "
        f"{line.images_per_second:.0f} images/s  MFU {line.mfu:.0%}{seen}",
        err=True,
    )


def _check_target(out: Path, *, force: bool) -> None:
    """Raises InputError, before any work, if a file cannot be written there or is in the way."""
    if not out.absolute().parent.is_dir():
        raise InputError(f"the folder of {out} is missing; make it first")
    if out.is_dir():
        raise InputError(f"{out} is a folder; give the name of a file")
    if out.exists() and not force:
        raise InputError(f"{out} exists; give another name, or replace it with --force")
