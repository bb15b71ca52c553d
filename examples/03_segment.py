"""Mark a thing in one photo, and find its like in others.

    python examples/03_segment.py PHOTOS/

In the first photo of PHOTOS the middle is marked and the others are searched; without PHOTOS, the
cup in scikit-image's coffee photo, and its mirror image. Pictures go to the folder segment-example.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

import procmem

OUT = Path("segment-example")


def main(folder: Path | None, model: str | None = None, out: Path = OUT) -> None:
    if folder is not None:
        example, *others = [procmem.load_image(file) for file in photos_of(folder)]
        mask = ellipse(example, (0.5, 0.5), (0.3, 0.3))
    else:
        import skimage

        example = procmem.load_image(Path(skimage.__file__).parent / "data" / "coffee.png")
        others = [np.ascontiguousarray(example[:, ::-1])]
        mask = ellipse(example, (0.46, 0.56), (0.33, 0.38))

    out.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as scratch,
        procmem.VisualMemory(Path(scratch, "vault"), embedder=model) as memory,
    ):
        # 1. One example, given with the question.
        for number, photo in enumerate(others):
            regions = memory.segment(photo, prompt=(example, mask))
            file = out / f"by-example-{number}.png"
            painted(photo, regions.mask).save(file)
            print(f"{file}: {np.mean(regions.mask == 1):.0%} of the photo is like the example")

        # 2. Or taught once: every photo with a mask helps until it is deleted.
        memory.add([example], labels=["example"], masks=[mask])
        regions = memory.segment(others[0])
        painted(others[0], regions.mask).save(out / "by-memory.png")
        print(f"{out / 'by-memory.png'}: from {len(memory)} remembered mask")


def ellipse(
    image: npt.NDArray[np.uint8], center: tuple[float, float], radii: tuple[float, float]
) -> npt.NDArray[np.uint8]:
    """A mask of the image's size: 1 inside, 0 outside; center and radii are shares of (W, H)."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    x, y = (x / image.shape[1] - center[0]) / radii[0], (y / image.shape[0] - center[1]) / radii[1]
    return (x**2 + y**2 < 1).astype(np.uint8)


def painted(image: npt.NDArray[np.uint8], mask: npt.NDArray[np.uint8]) -> Image.Image:
    opacity = Image.fromarray((mask > 0).astype(np.uint8) * 140)
    return Image.composite(
        Image.new("RGB", opacity.size, "#56b4e9"), Image.fromarray(image), opacity
    )


def photos_of(folder: Path) -> list[Path]:
    endings = {".jpg", ".jpeg", ".png", ".webp"}
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in endings)[:6]


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
    except procmem.ProcmemError as error:
        sys.exit(f"error: {error}")
