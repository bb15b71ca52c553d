"""`procmem evaluate`: how often photos of a folder are recognized."""

from __future__ import annotations

from pathlib import Path

import click

from procmem.cli.group import progress_bar
from procmem.cli.options import Settings, open_embedder, shared_options, write_json
from procmem.cli.text import count, say, table


@click.command(short_help="Measure how often photos are recognized.")
@click.argument("memory_dir", type=click.Path(path_type=Path))
@click.argument("query_dir", type=click.Path(path_type=Path))
@click.option(
    "-k",
    "ks",
    type=click.IntRange(min=1),
    multiple=True,
    default=(20,),
    show_default=True,
    help="Neighbors that vote; may be given several times.",
)
@shared_options(vault=False)
def evaluate(settings: Settings, memory_dir: Path, query_dir: Path, ks: tuple[int, ...]) -> None:
    """Teach MEMORY_DIR, ask QUERY_DIR, and say how many answers are right.

    Both folders hold one subfolder for each label. Nothing is kept: the memory lives for this
    command only. The rule is the paper's: the k nearest vote with weight exp(similarity / 0.07).
    """
    from procmem.evaluate import evaluate_folders

    with open_embedder(settings) as embedder, progress_bar("embedding") as show:
        result = evaluate_folders(memory_dir, query_dir, embed=embedder, ks=ks, progress=show)
        name, side = embedder.manifest.name, embedder.side
    if settings.as_json:
        write_json(
            {
                "model": name,
                "image_size": side,
                "accuracy": {str(k): share for k, share in result.accuracy.items()},
                "by_label": dict(result.by_label),
                "labels": result.labels,
                "taught": result.taught,
                "asked": result.asked,
                "skipped": [{"source": path, "reason": why} for path, why in result.skipped],
            }
        )
    else:
        say(
            f"{name} at {side} pixels: taught {count(result.taught, 'photo')} "
            f"with {count(result.labels, 'label')}, "
            f"asked {count(result.asked, 'photo')}"
        )
        rows = [(str(k), f"{100 * share:.1f}%") for k, share in result.accuracy.items()]
        say(table(rows, head=("k", "right"), right="rr"))
    for _, reason in result.skipped:
        say(f"left out: {reason}", err=True)
    if result.skipped:
        raise SystemExit(1)
