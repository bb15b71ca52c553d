"""Teach a few photos, then ask what new ones show.

    python examples/01_teach_and_ask.py PHOTOS/

PHOTOS has one subfolder for each label. The first photo of each is kept back and asked. Without
PHOTOS, parts of the public-domain photos of scikit-image are taught and other parts are asked.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import procmem


def main(folder: Path | None, model: str | None = None) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        photos = labelled_photos(folder or demo_photos(Path(scratch)))
        # A real program would name a folder that stays: VisualMemory("my-memory").
        with procmem.VisualMemory(Path(scratch, "vault"), embedder=model) as memory:
            for label, files in photos.items():
                memory.add(files[1:], labels=label)
            print(f"taught {len(memory)} photos with {len(photos)} labels")

            for label, files in photos.items():
                answer = memory.classify(files[0], k=5)
                mark = "" if answer.label == label else f"  (it is {label})"
                novel = ", unlike anything taught" if answer.is_novel else ""
                print(f"{files[0].name}: {answer.label} {answer.confidence:.0%}{novel}{mark}")

            nearest = memory.neighbors(files[0], k=3)
            print(f"nearest to {files[0].name}:")
            for neighbor in nearest:
                print(f"  {neighbor.similarity:.3f}  {neighbor.label}  {neighbor.source}")


def labelled_photos(folder: Path) -> dict[str, list[Path]]:
    """Label -> its photos, at least two."""
    photos = {
        place.name: sorted(file for file in place.iterdir() if file.is_file())
        for place in sorted(folder.iterdir())
        if place.is_dir()
    }
    return {label: files for label, files in photos.items() if len(files) >= 2}


def demo_photos(scratch: Path) -> Path:
    """Cuts each public-domain photo into a left part, a right part and the middle."""
    import skimage
    from PIL import Image

    source = Path(skimage.__file__).parent / "data"
    for name in ("astronaut.png", "brick.png", "coffee.png", "grass.png", "rocket.jpg"):
        picture = Image.open(source / name).convert("RGB")
        place = scratch / "photos" / Path(name).stem
        place.mkdir(parents=True)
        third = picture.width // 3
        for part, left in enumerate((third // 2, 0, third)):
            crop = picture.crop((left, 0, left + 2 * third, picture.height))
            crop.save(place / f"{place.name}-{part}.png")
    return scratch / "photos"


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
    except procmem.ProcmemError as error:
        sys.exit(f"error: {error}")
