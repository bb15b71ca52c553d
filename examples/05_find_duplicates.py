"""Find photos that are the same picture: copied, resized, brightened or saved anew.

    python examples/05_find_duplicates.py PHOTOS/ [SIMILARITY]

Without PHOTOS, photos of scikit-image and altered copies of three of them are searched. Nothing is
deleted. SIMILARITY is the least cosine of two photos that count as one, 0.95 unless given.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import procmem

NEAR = 12  # neighbors looked at; a group may be larger, through each other


def main(folder: Path | None, least: float = 0.95, model: str | None = None) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        photos = folder or demo_photos(Path(scratch))
        with procmem.VisualMemory(Path(scratch, "vault"), embedder=model) as memory:
            taught = [one for one in procmem.teach(memory, [photos], labelled=False) if one.id]
            # One question for all: photos are opened one at a time.
            found = memory.neighbors((one.photo.path for one in taught), k=NEAR)
            groups = {one.id: {one.id} for one in taught}
            for one, neighbors in zip(taught, found, strict=True):
                for neighbor in neighbors:
                    if neighbor.similarity >= least and neighbor.id not in groups[one.id]:
                        joined = groups[one.id] | groups[neighbor.id]
                        groups.update(dict.fromkeys(joined, joined))
            names = {one.id: one.photo.relative for one in taught}

    alike = {frozenset(group) for group in groups.values() if len(group) > 1}
    print(f"{len(taught)} photos, {len(alike)} groups of at least {least} alike")
    for group in sorted(sorted(str(names[id_]) for id_ in group) for group in alike):
        print("  " + " = ".join(group))


def demo_photos(scratch: Path) -> Path:
    import skimage
    from PIL import Image, ImageEnhance

    source = Path(skimage.__file__).parent / "data"
    photos = scratch / "photos"
    photos.mkdir()
    for name in ("astronaut.png", "brick.png", "coffee.png", "grass.png", "rocket.jpg"):
        Image.open(source / name).convert("RGB").save(photos / name)
    coffee = Image.open(photos / "coffee.png")
    coffee.resize((coffee.width // 2, coffee.height // 2)).save(photos / "small.png")
    coffee.save(photos / "saved-again.jpg", quality=40)
    astronaut = Image.open(photos / "astronaut.png")
    ImageEnhance.Brightness(astronaut).enhance(1.15).save(photos / "brighter.png")
    return photos


if __name__ == "__main__":
    try:
        main(
            Path(sys.argv[1]) if len(sys.argv) > 1 else None,
            float(sys.argv[2]) if len(sys.argv) > 2 else 0.95,
        )
    except procmem.ProcmemError as error:
        sys.exit(f"error: {error}")
