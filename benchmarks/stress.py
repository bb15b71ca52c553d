"""The promises under stress, at length. The tests run the same code for a few seconds.

    python benchmarks/stress.py histories --count 1000
    python benchmarks/stress.py churn --count 10000
    python benchmarks/stress.py kill --count 1000
    python benchmarks/stress.py faults          every call in every way, about 2,300 lives
    python benchmarks/stress.py faults-sealed   the same of a sealed vault
    python benchmarks/stress.py moves --count 1000           a migration to another model, killed
    python benchmarks/stress.py moves-faults        every call of it in every way; about 6,300
    python benchmarks/stress.py moves-faults-sealed
    python benchmarks/stress.py power --count 10000
    python benchmarks/stress.py mutations --count 10000
    python benchmarks/stress.py images --count 10000
    python benchmarks/stress.py readers --count 600      seconds

Run from the repository's root. Prints one line of figures; the first broken promise ends it with
a traceback. docs/reliability.md has the figures of long runs.
"""

from __future__ import annotations

import functools
import sys
import tempfile
import time
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.stress import faults, histories, images, kill, moves, mutations, power, readers

RUNS = {
    "histories": (histories.run_histories, 1000),
    "churn": (histories.run_churn, 10_000),
    "kill": (kill.run_kills, 1000),
    "faults": (faults.run_faults, 10_000),
    "faults-sealed": (functools.partial(faults.run_faults, sealed=True), 10_000),
    "moves": (moves.run_kills, 1000),
    "moves-faults": (moves.run_faults, 10_000),
    "moves-faults-sealed": (functools.partial(moves.run_faults, sealed=True), 10_000),
    "power": (power.run_power_cuts, 10_000),
    "mutations": (mutations.run_mutations, 10_000),
    "images": (images.run_images, 10_000),
    "readers": (readers.run_readers, 600),
}


@click.command()
@click.argument("what", type=click.Choice(list(RUNS)))
@click.option("--count", type=int, help="How many; each run has its own default.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), help="Where vaults are made.")
def main(what: str, count: int | None, seed: int, folder: Path | None) -> None:
    """Runs one kind of stress and prints its figures."""
    run, default = RUNS[what]
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=folder) as made:
        figures = run(Path(made), count=count or default, seed=seed)
    seconds = time.perf_counter() - begun
    shown = ", ".join(f"{name} {value:,}" for name, value in figures.items())
    click.echo(f"{what}: {shown}; {seconds:.0f} s")


if __name__ == "__main__":
    main()
