"""From a random seed to a model in use: programs, images, a ViT, a file, a memory. A minute in all.

    pip install 'procmem[cpu,export]'
    python examples/09_pretrain_a_tiny_model.py [STEPS]

No photo is read. Twenty steps teach it next to nothing; the shipped model took 5,000 times as many
images. The same from the command line: procmem-pretrain train --folder run
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from pathlib import Path

import procmem
from procmem_export.export import export
from procmem_pretrain.config import TrainConfig
from procmem_pretrain.simdino import Phase
from procmem_pretrain.train import train

SMALL = TrainConfig(
    steps=20,
    batch=16,
    health_programs=0,
    readout_dimension=64,
    readout_images=200,
    precision="fp32",
)


def main(steps: int = 20, *, config: TrainConfig = SMALL) -> None:
    images = dataclasses.replace(config.images, side=96, mask_side=48, pool_images=256)
    simdino = dataclasses.replace(
        config.simdino, phases=(Phase(0.5, 64, 0.5), Phase(0.5, 96, 0.5)), local_side=32
    )
    config = dataclasses.replace(config, steps=steps, images=images, simdino=simdino)
    with tempfile.TemporaryDirectory() as scratch:
        # Stop it at any time: the same call goes on from the folder's newest checkpoint.
        checkpoint = train(
            config,
            Path(scratch, "run"),
            report=lambda step: print(f"step {step.step}: loss {step.loss:.3f}"),
        )
        made = export(checkpoint, Path(scratch, "own.onnx"), probes=2, programs=0)
        origin = made.manifest.origin
        print(f"{origin.images_seen:,} procedural images seen, real ones: none")

        with procmem.VisualMemory(Path(scratch, "vault"), embedder=str(made.file)) as memory:
            for label, shade in (("dark", 40), ("bright", 215)):
                memory.add([stripes(shade, period) for period in (5, 9, 13)], labels=label)
            print("asked a bright picture:", memory.classify(stripes(200, 11), k=3).label)


def stripes(shade: int, period: int) -> procmem.ImageLike:
    import numpy as np

    x = np.arange(128) // period % 2 * 30
    return np.broadcast_to((shade + x)[None, :, None], (128, 128, 3)).clip(0, 255).astype(np.uint8)


if __name__ == "__main__":
    try:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
    except procmem.ProcmemError as error:
        sys.exit(f"error: {error}")
