"""A private memory of a folder: sealed, kept current, and nothing older than a month.

    python examples/04_private_photo_folder.py PHOTOS/

PHOTOS has one subfolder for each label; without it, photos of scikit-image are used. Teaching the
same folder again costs a look at its names: what is known is passed over.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from datetime import datetime, timedelta
from pathlib import Path

import procmem


def main(folder: Path | None, model: str | None = None) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        photos = folder or demo_photos(Path(scratch))
        vault, key = Path(scratch, "vault"), Path(scratch, "memory.key")
        # Sealed: each photo's record has a key of its own, under the one in this file. Keep that
        # file apart from the vault; a copy of the vault without it is noise.
        with procmem.VisualMemory(vault, embedder=model, key=str(key)) as memory:
            for _ in range(2):  # a second time, as after an interruption or with new photos
                became = list(procmem.teach(memory, [photos]))
                new = sum(one.id is not None for one in became)
                bad = [one.reason for one in became if one.reason]
                print(f"taught {new} of {len(became)} photos, left out {len(bad)}")
            print(*bad, sep="\n")
            first = next(one.photo.path for one in became if not one.reason)

        try:
            procmem.VisualMemory(vault, embedder=model)
        except procmem.VaultKeyError as error:
            print(f"without the key: {error}")

        with procmem.VisualMemory(vault, embedder=model, key=str(key)) as memory:
            nearest = memory.neighbors(first, k=2)
            print(f"like {first.name}:", *(Path(n.source or "").name for n in nearest))
            report = memory.delete(source=first)
            print(f"forgot {first.name}: {report.windows_found} pieces of it are left")
            # Retention: run this once a day.
            old = memory.plan_delete(added_before=datetime.now() - timedelta(days=30))
            print(f"older than 30 days: {len(old)} of {len(memory)}")


def demo_photos(scratch: Path) -> Path:
    import skimage

    source = Path(skimage.__file__).parent / "data"
    for name in ("brick.png", "coffee.png", "grass.png", "gravel.png"):
        place = scratch / "photos" / ("food" if name == "coffee.png" else "ground")
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / name, place)
    (scratch / "photos" / "food" / "broken.jpg").write_bytes(b"\xff\xd8 stops here")
    return scratch / "photos"


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
    except procmem.ProcmemError as error:
        sys.exit(f"error: {error}")
