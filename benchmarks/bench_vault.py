"""What a memory costs as it grows: adding, opening, asking, deleting, purging, proving.

    python benchmarks/bench_vault.py [--items 10000 --items 100000] [--out docs/results/vault.md]

Runs `VisualMemory` with a stand-in model (384-wide random unit vectors), so that the times are the
memory's own. Medians; "first answer" is from the constructor to the answer of a `neighbors`, in a
new object on a vault that the system has in its cache. The first `classify` of an object asks 2,000
items about themselves besides, to judge its answer by; after a change only what has changed is
asked. A delete is durable when it returns.
"""

from __future__ import annotations

import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import click
import numpy as np
from machine import machine

from procmem.erasure import erase
from procmem.memory import VisualMemory
from procmem.record import Binding, Item, Record
from procmem.types import Embedding
from procmem.vault import Vault

WIDTH, DELETES = 384, 200
BINDING = Binding("ab" * 32, "stand-in", cls_dim=WIDTH, patch_dim=WIDTH, side=224, patch_size=16)


class StandIn:
    """A `Perception` that sees a random vector in every image."""

    sha256, cls_dim, patch_dim, side = BINDING.sha256, WIDTH, WIDTH, BINDING.side
    manifest = SimpleNamespace(
        name=BINDING.name, patch_size=BINDING.patch_size, preprocessing=SimpleNamespace(crop=224)
    )

    def embed(self, images: np.ndarray, *, view: str = "center") -> Embedding:  # noqa: ARG002
        """See `Embedder.embed`."""
        return Embedding(
            cls=vector(int(images.ravel()[0]))[None].astype(np.float32),
            patches=np.zeros((1, 14, 14, WIDTH), np.float32),
        )

    def close(self) -> None:
        """Nothing to close."""


def vector(seed: int) -> np.ndarray:
    row = np.random.default_rng(seed).standard_normal(WIDTH)
    return row / np.linalg.norm(row)


def records(count: int) -> list[Record]:
    chance = np.random.default_rng(0)
    rows = chance.standard_normal((count, WIDTH), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    ids = np.sort(chance.choice(2**62, count, replace=False)) + 1
    return [
        Record(
            Item(int(id_), f"label {at % 50}", f"/home/someone/photos/{at // 500}/{at}.jpg", at),
            row.astype(np.float16),
        )
        for at, (id_, row) in enumerate(zip(ids, rows, strict=True))
    ]


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def classified(path: Path, key: Path | None) -> list[float]:
    """Seconds of a `classify`: the first one, the next, one after an add, one after a deletion."""
    query = np.full((8, 8, 3), 7, np.uint8)
    times: list[list[float]] = []
    with VisualMemory(path, embedder=StandIn(), key=key, index="exact") as memory:  # type: ignore[arg-type]
        first = seconds(lambda: memory.classify(query))
        for new in range(10, 15):
            again = seconds(lambda: memory.classify(query))
            (id_,) = memory.add(np.full((8, 8, 3), new, np.uint8), "label 3")
            added = seconds(lambda: memory.classify(query))
            memory.delete(id_, receipt=False)
            times.append([again, added, seconds(lambda: memory.classify(query))])
    return [first, *(statistics.median(each) for each in zip(*times, strict=True))]


def column(items: int, folder: Path, *, sealed: bool) -> list[str]:
    """The cells of one size and form."""
    path, key = folder / f"{items}-{sealed}", folder / f"key-{items}" if sealed else None
    everything = records(items)
    query = np.full((8, 8, 3), 7, np.uint8)
    vault = Vault(path, binding=BINDING, key=key)
    added = seconds(lambda: vault.add(everything))
    single = [
        seconds(lambda id_=id_: vault.delete([id_]))  # type: ignore[misc]
        for id_ in vault.ids()[:DELETES]
    ]
    purged = statistics.median(seconds(vault.purge) for _ in range(3))
    vault.close()

    def first_answer() -> None:
        with VisualMemory(path, embedder=StandIn(), key=key, index="exact") as memory:  # type: ignore[arg-type]
            memory.neighbors(query)

    opened = statistics.median(seconds(first_answer) for _ in range(3))
    with VisualMemory(path, embedder=StandIn(), key=key, index="exact") as memory:  # type: ignore[arg-type]
        memory.neighbors(query)
        asked = statistics.median(seconds(lambda: memory.neighbors(query)) for _ in range(50))
    judged = classified(path, key)
    vault = Vault(path, key=key)

    def whole(receipt: bool) -> float:
        ids = vault.ids()[:1]
        return seconds(
            lambda: erase(vault, ids, purge_limit=10**9, receipt=receipt, deleted=lambda: None)
        )

    scanned = statistics.median(whole(False) for _ in range(3))
    proven = statistics.median(whole(True) for _ in range(3))
    size = sum(file.stat().st_size for file in path.iterdir())
    vault.close()
    single.sort()
    click.echo(f"{items:,} {'sealed' if sealed else 'plain'}: done", err=True)
    return [
        f"{items / added:,.0f} items/s",
        f"{opened:.2f} s",
        f"{1000 * asked:.1f} ms",
        " / ".join(f"{1000 * each:.1f}" for each in judged) + " ms",
        f"{1000 * statistics.median(single):.1f} / {1000 * single[int(0.99 * DELETES) - 1]:.1f} ms",
        f"{purged:.2f} s",
        f"{scanned:.2f} s",
        f"{proven:.2f} s",
        f"{size / items:,.0f}",
    ]


@click.command()
@click.option("--items", "sizes", type=int, multiple=True, default=(10_000, 100_000))
@click.option("--out", type=click.Path(path_type=Path))
@click.option("--folder", type=click.Path(path_type=Path), help="Where vaults are made.")
def main(sizes: tuple[int, ...], out: Path | None, folder: Path | None) -> None:
    """Prints one Markdown table."""
    forms = [(items, sealed) for items in sizes for sealed in (False, True)]
    with tempfile.TemporaryDirectory(dir=folder) as made:
        columns = [column(items, Path(made), sealed=sealed) for items, sealed in forms]
    names = [
        "add, durable",
        "first answer after opening",
        "neighbors (k = 10, exact scan)",
        "classify: first, next, after an add, after a deletion",
        "delete one, durable: median / 99th percentile",
        "purge",
        "delete one, purge, search all files for remains",
        "... and a signed receipt",
        "bytes on disk for each item",
    ]
    heads = [f"{items:,}{', sealed' if sealed else ''}" for items, sealed in forms]
    table = "\n".join(
        [
            f"{WIDTH}-wide vectors; {machine()}, Python "
            f"{platform.python_version()}, numpy {np.__version__}.",
            "",
            "| | " + " | ".join(heads) + " |",
            "|---|" + "---|" * len(heads),
            *(
                f"| {name} | " + " | ".join(cells) + " |"
                for name, cells in zip(names, zip(*columns, strict=True), strict=True)
            ),
        ]
    )
    click.echo(table)
    if out is not None:
        out.write_text(f"# What a memory costs\n\n`python {' '.join(sys.argv)}`\n\n{table}\n")


if __name__ == "__main__":
    main()
