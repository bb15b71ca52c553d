r"""What a vault costs from ten thousand to millions of items, and by extrapolation beyond.

    python benchmarks/bench_scale.py --runs build/scale --out docs/results/scale.md \
        --plot docs/pictures/scale.png

Plain vaults of clustered unit vectors with labels and sources. Each step is a process of its own;
its figures are kept in the folder of --runs as soon as there are any, so that an interrupted run
goes on where it was. 5,000,000 items take 11 GB of disk during a purge and 7 GB of RAM. Linux only.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

import click
from scale.report import draw, report
from scale.steps import Figures, in_own_process, steps_of

SIZES = "10000,100000,1000000,5000000"


def measured(count: int, runs: Path, folder: Path) -> dict[str, Figures]:
    """All figures of one size, from where they are kept or taken now."""
    kept = runs / f"{count}.json"
    found: dict[str, Figures] = json.loads(kept.read_text()) if kept.exists() else {}
    vault = folder / str(count)
    if not vault.exists() and not found.keys() >= set(steps_of(count)):
        found = {}  # the vault is gone, and each step leaves it to the next
    for name in steps_of(count):
        if name in found:
            continue
        start = time.perf_counter()
        found[name] = in_own_process(name, count, vault)
        click.echo(f"{count:,}: {name}, {time.perf_counter() - start:.1f} s", err=True)
        partial = kept.with_suffix(".part")
        partial.write_text(json.dumps(found))
        partial.replace(kept)
    shutil.rmtree(vault, ignore_errors=True)
    return found


@click.command()
@click.option("--sizes", default=SIZES, show_default=True, help="Items, by comma.")
@click.option("--runs", type=click.Path(path_type=Path), help="Where finished steps are kept.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where vaults are made; --runs.")
@click.option("--out", type=click.Path(path_type=Path))
@click.option("--plot", type=click.Path(path_type=Path))
def main(
    sizes: str, runs: Path | None, folder: Path | None, out: Path | None, plot: Path | None
) -> None:
    """Prints Markdown tables, and draws them."""
    counts = sorted(int(size) for size in sizes.split(","))
    if counts[0] < 1000:
        raise click.BadParameter(f"{counts[0]} items, wanted at least 1,000")
    with tempfile.TemporaryDirectory() as made:
        runs = Path(made) if runs is None else runs
        runs.mkdir(parents=True, exist_ok=True)
        tables = {count: measured(count, runs, folder or runs) for count in counts}
    text = report(tables, f"python {' '.join(sys.argv)}")
    click.echo(text)
    if out is not None:
        out.write_text(text)
    if plot is not None:
        draw(tables, plot)


if __name__ == "__main__":
    main()
