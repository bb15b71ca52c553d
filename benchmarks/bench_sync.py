"""What it costs to share items between memories, and to take them back.

    python benchmarks/bench_sync.py [--items 10000] [--out docs/results/sync.md]

Stand-in vectors as in `bench_vault.py`. A share is durable when it returns, and so is a receive.
The peers, in the same run: the plain export and import of the same items (.safetensors), which
neither encrypt nor sign nor merge. Medians over the rounds; new memories in each. Each cell has two
figures, by the clock and by the time that the processor spent: on a machine that does other things
too, the second is the one to compare.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import cryptography
import numpy as np
from bench_vault import WIDTH, StandIn, records

from procmem import (
    VisualMemory,
    apply_revocations,
    export_items,
    import_items,
    receive_items,
    revoke,
    share_items,
    vault_address,
)
from procmem.record import Record

REVOKED = 1_000
FILES = ("items.bundle", "items.safetensors", "list.json")


Seconds = tuple[float, float]
"""By the clock, by the processor."""


def seconds(work: Callable[[], object]) -> Seconds:
    start, spent = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start, time.process_time() - spent


def opened(folder: Path, name: str, *, sealed: bool) -> VisualMemory:
    key = folder / f"{name}.key" if sealed else None
    return VisualMemory(folder / name, embedder=StandIn(), key=key)  # type: ignore[arg-type]


def one_round(folder: Path, everything: list[Record], *, sealed: bool) -> dict[str, Seconds]:
    """Seconds of each thing between two new memories; their files stay in the folder."""
    ids = [record.item.id for record in everything[:: max(1, len(everything) // REVOKED)]]
    bundle, plain, out = (folder / name for name in FILES)
    times = {}
    with (
        opened(folder, "mine", sealed=sealed) as mine,
        opened(folder, "yours", sealed=sealed) as yours,
        opened(folder, "other", sealed=sealed) as other,
    ):
        mine._vault.add(everything)
        sender, to = vault_address(mine), vault_address(yours)
        times["share"] = seconds(lambda: share_items(mine, bundle, to=to))
        times["export"] = seconds(lambda: export_items(mine, plain))
        times["receive"] = seconds(lambda: receive_items(yours, bundle, trust=sender))
        times["import"] = seconds(lambda: import_items(other, plain))
        times["again"] = seconds(lambda: receive_items(yours, bundle, trust=sender))
        times["revoke"] = seconds(lambda: revoke(mine, out, ids[:REVOKED]))
        times["delete"] = seconds(lambda: other.delete(ids[:REVOKED]))
        times["apply"] = seconds(lambda: apply_revocations(yours, out, trust=sender))
    return times


def column(items: int, rounds: int, folder: Path, *, sealed: bool) -> list[str]:
    """The cells of one form of vault, for both sides."""
    everything = records(items)
    found = []
    for number in range(rounds):
        (folder / str(number)).mkdir()
        found.append(one_round(folder / str(number), everything, sealed=sealed))

    def middle(name: str, at: int) -> float:
        return statistics.median(times[name][at] for times in found)

    def rate(name: str) -> str:
        return " / ".join(f"{items / middle(name, at):,.0f}" for at in (0, 1)) + " items/s"

    def took(name: str) -> str:
        return " / ".join(f"{middle(name, at):.2f}" for at in (0, 1)) + " s"

    sizes = [(folder / "0" / name).stat().st_size for name in FILES]
    click.echo(f"{items:,} {'sealed' if sealed else 'plain'}: done", err=True)
    return [
        *map(rate, ("share", "receive", "again", "export", "import")),
        f"{sizes[0] / items:,.0f}",
        f"{sizes[1] / items:,.0f}",
        *map(took, ("revoke", "apply", "delete")),
        f"{sizes[2] / REVOKED:.1f}",
    ]


@click.command()
@click.option("--items", type=click.IntRange(min=1_000), default=10_000)
@click.option("--rounds", type=click.IntRange(min=1), default=3)
@click.option("--out", type=click.Path(path_type=Path))
def main(items: int, rounds: int, out: Path | None) -> None:
    """Prints one Markdown table."""
    columns = []
    for sealed in (False, True):
        with tempfile.TemporaryDirectory() as made:
            columns.append(column(items, rounds, Path(made), sealed=sealed))
    names = [
        "share, durable",
        "receive, durable",
        "receive again, when all is held",
        "peer: export to .safetensors",
        "peer: import of it",
        "bytes of the bundle for each item",
        "peer: bytes of the export for each item",
        f"revoke {REVOKED:,}: delete, purge, search for remains, receipt, list",
        f"apply that list of {REVOKED:,}, likewise",
        f"peer: delete {REVOKED:,}",
        "bytes of the list for each id",
    ]
    cells = zip(names, zip(*columns, strict=True), strict=True)
    table = "\n".join(
        [
            f"{items:,} items, {WIDTH}-wide vectors, no masks, rounds: {rounds}; by the clock / "
            f"by the processor; load {os.getloadavg()[0]:.0f}; {platform.machine()}, "
            f"{os.cpu_count()} cores, Python {platform.python_version()}, numpy {np.__version__}, "
            f"cryptography {cryptography.__version__}.",
            "",
            "| | plain | sealed, both sides |",
            "|---|---|---|",
            *(f"| {name} | {' | '.join(each)} |" for name, each in cells),
        ]
    )
    click.echo(table)
    if out is not None:
        command = f"`python {' '.join(sys.argv)}`"
        out.write_text(f"# What sharing costs\n\n{command}\n\n{table}\n")


if __name__ == "__main__":
    main()
