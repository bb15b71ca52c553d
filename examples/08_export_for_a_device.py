"""Turn a checkpoint into files for devices, each held against the original, and time them here.

    pip install 'procmem[cpu,export]'
    python examples/08_export_for_a_device.py [CHECKPOINT]

CHECKPOINT is procmem's own unless given; weights of DINO or timm will do (procmem-export --help).
The same from the command line: procmem-export CHECKPOINT --format onnx-int8
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import procmem
from procmem_export.export import export
from procmem_export.formats import ExportOptions

OWN = Path(__file__).parents[1] / "checkpoints" / "vit-tiny.safetensors"
ROUNDS = 20


def main(checkpoint: Path = OWN, *, probes: int = 8, programs: int = 16) -> None:
    photo = (np.indices((480, 640)).sum(axis=0) % 97 * 2).astype(np.uint8)[..., None].repeat(3, -1)
    with tempfile.TemporaryDirectory() as scratch:
        for format_ in ("onnx", "onnx-int8"):
            # Nothing is written that does not answer as the checkpoint does.
            made = export(
                checkpoint,
                Path(scratch, f"model-{format_}.onnx"),
                ExportOptions(format=format_),
                probes=probes,
                programs=programs,
            )
            cosine = min(report.cls_cosine_min for report in made.report.parity.values())
            megabytes = made.file.stat().st_size / 2**20
            print(f"{format_}: {megabytes:.1f} MiB, cosine to the checkpoint {cosine:.5f}")

            with procmem.Embedder(made.file) as embedder:
                embedder.embed(photo)
                start = time.perf_counter()
                for _ in range(ROUNDS):
                    embedder.embed(photo)
                milliseconds = 1000 * (time.perf_counter() - start) / ROUNDS
                print(f"  one image in {milliseconds:.1f} ms; {embedder.notice}")
            chain = (*made.manifest.origin.chain, ("this file", made.manifest.sha256))
            print("  " + " -> ".join(f"{role} {sha256[:8]}" for role, sha256 in chain))


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]) if len(sys.argv) > 1 else OWN)
    except procmem.ProcmemError as error:
        sys.exit(f"error: {error}")
