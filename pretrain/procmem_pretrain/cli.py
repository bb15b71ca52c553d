"""`procmem-pretrain`: draw procedural images, train on them, keep what was learned.

Heavy imports stand inside the commands, so that `--help` is quick and a missing extra is told in
one line.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import numpy.typing as npt

from procmem.cli.group import ErrorGroup, progress_bar
from procmem.errors import InputError, TrainingError

Command = Callable[..., Any]

if TYPE_CHECKING:
    from procmem_pretrain.train import StepReport


def _image_options(*, side: int) -> Callable[[Command], Command]:
    """The options that name images: process, count, side, seed."""

    def decorate(command: Command) -> Command:
        for option in (
            click.option("--seed", default=0, show_default=True, help="Equal seeds, equal images."),
            click.option("--side", default=side, show_default=True, help="Pixels of one image."),
            click.option("--n", "count", default=64, show_default=True, help="How many images."),
            click.option("--process", default="shaders-kml-mixup", show_default=True),
        ):
            command = option(command)
        return command

    return decorate


@click.group(cls=ErrorGroup, extra="pretrain")
@click.version_option(package_name="procmem")
def main() -> None:
    """Trains a perception on procedural images only."""


@main.command()
@_image_options(side=256)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for PNG files.")
def render(process: str, count: int, side: int, seed: int, out: Path) -> None:
    """Writes procedural images as PNG files."""
    from PIL import Image

    images = _draw(process, count, side, seed)
    out.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        Image.fromarray(image).save(out / f"{process}-{seed}-{number:06d}.png")
    click.echo(f"{len(images)} images of {process} in {out}")


@main.command()
@_image_options(side=128)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Picture to write.")
def sheet(process: str, count: int, side: int, seed: int, out: Path) -> None:
    """Draws a contact sheet: many images in one picture."""
    from procmem_pretrain.sheet import contact_sheet

    images = _draw(process, count, side, seed)
    contact_sheet(images).save(out)
    click.echo(f"{len(images)} images of {process} in {out}")


@main.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    add_help_option=False,
)
@click.pass_context
def train(context: click.Context) -> None:
    """Trains, or goes on with the run in --folder (`train --help` lists every constant)."""
    from procmem_pretrain.train import train as run
    from procmem_pretrain.train_options import parse

    arguments = parse(context.args)
    with progress_bar("rendering programs") as progress:
        path = run(
            arguments.config,
            arguments.folder,
            pool_folder=arguments.pool_folder,
            stop_after=arguments.stop_after,
            checkpoint_seconds=arguments.checkpoint_seconds,
            report=_show_step,
            progress=progress,
        )
    click.echo(f"wrote {path}")
    if path.name.startswith("step-"):
        click.echo("stopped before the last step; the same command goes on from here", err=True)


@main.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--pool-folder", type=click.Path(path_type=Path), help="Rendered images to reuse.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="<name>.safetensors")
def compact(checkpoint: Path, pool_folder: Path | None, out: Path) -> None:
    """Keeps of a CHECKPOINT what export needs: the teacher, in float16, and a fresh readout."""
    from procmem_pretrain import checkpoint as files
    from procmem_pretrain.config import config_from_dict
    from procmem_pretrain.pool import build_pool
    from procmem_pretrain.train import save_compact

    if out.suffix != ".safetensors":
        raise InputError(f"output is {out}, wanted a name that ends in .safetensors")
    manifest, model = files.load_perception(checkpoint)
    config = config_from_dict(manifest.config)
    with progress_bar("rendering programs") as progress:
        pool = build_pool(config.pool, folder=pool_folder, progress=progress)
    if pool.program_set_sha256 != manifest.origin.program_set_sha256:
        raise TrainingError(
            f"this procmem draws other programs from seed {config.pool.root_seed} than "
            f"{checkpoint} was trained on; use version {manifest.origin.code_version}"
        )
    chain = (*manifest.origin.chain, ("training state", manifest.sha256))
    save_compact(out, config, model.vit, pool, chain, step=manifest.origin.steps)
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


def _draw(process: str, count: int, side: int, seed: int) -> npt.NDArray[np.uint8]:
    import torch

    from procmem_pretrain.pool import PoolConfig, build_pool
    from procmem_pretrain.processes import draw
    from procmem_pretrain.seeds import stream

    # Enough programs that an image rarely shares one with another, and a few more, because some
    # draw nothing usable (about 1 in 20).
    programs = 16 + count + count // 4
    config = PoolConfig(root_seed=seed, programs=programs, images_per_program=2, side=side)
    with progress_bar("rendering programs") as progress:
        pool = build_pool(config, progress=progress)
    if process == "shaders":
        # One image a program, in order, so that a sheet shows as many programs as it has images.
        _, first = np.unique(pool.program_numbers, return_index=True)
        return np.asarray(pool.images[first[:count]])
    images = torch.from_numpy(pool.images).permute(0, 3, 1, 2)
    drawn = draw(process, images, count, random=stream(seed, "sheet"))
    levels = (drawn * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    return np.asarray(levels)


def _show_step(line: StepReport) -> None:
    click.echo(
        f"step {line.step:6d}  loss {line.loss:.4f}  alignment {line.alignment:.3f}  "
        f"rate {line.rate:.3f}  patch {line.patch:.3f}  layout {line.layout:.3f}  "
        f"{line.images_per_second:.0f} images/s",
        err=True,
    )
