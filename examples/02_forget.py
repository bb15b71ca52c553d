"""Forget photos, and check that nothing of them is left.

    python examples/02_forget.py PHOTOS/

PHOTOS is a folder of photos; without it, the public-domain photos of scikit-image are used.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import procmem


def main(folder: Path | None, model: str | None = None) -> None:
    photos = demo_photos() if folder is None else photos_of(folder)
    embedder = procmem.Embedder(model) if model else procmem.Embedder()
    with tempfile.TemporaryDirectory() as scratch, embedder:
        memory = procmem.VisualMemory(Path(scratch, "vault"), embedder=embedder)
        ids = memory.add(photos, labels=[photo.stem for photo in photos])
        secret, id_of_secret = photos[0], ids[0]
        print(f"taught {len(memory)} photos; {secret.name} is {asked(memory, secret)}")

        # Plan first: the same arguments as delete, and nothing is changed.
        plan = memory.plan_delete(similar_to=secret, min_similarity=0.99)
        print("like it are:", ", ".join(str(item.label) for item in plan))

        report = memory.delete(id_of_secret)  # also: label=..., source=..., similar_to=...
        assert report.receipt is not None  # there is one unless receipt=False
        print(f"forgot {len(report.erased_ids)} photo, {report.remaining} remain")
        print(
            f"looked for {report.windows_checked} pieces of its data in "
            f"{', '.join(report.files_scanned)}: found {report.windows_found}"
        )
        # The signed receipt holds nothing of the photo; anybody can check it, anywhere.
        file = Path(scratch, "receipt.json")
        procmem.write_receipt(report.receipt, file)
        problems = procmem.check_receipt(procmem.read_receipt(file))
        print(f"{file.name} proves that it is gone: {not problems}")
        print(f"now {secret.name} is {asked(memory, secret)}")

        # The proof by comparison: a memory that never held it answers the same, bit for bit.
        fresh = procmem.VisualMemory(Path(scratch, "fresh"), embedder=embedder)
        fresh.add(photos[1:], labels=[photo.stem for photo in photos[1:]], ids=ids[1:])
        same = all(memory.classify(photo) == fresh.classify(photo) for photo in photos)
        print("answers equal those of a memory that never held it:", same)
        fresh.close()
        memory.close()


def asked(memory: procmem.VisualMemory, photo: Path) -> str:
    answer = memory.classify(photo, k=3)
    return f"{answer.label} ({answer.confidence:.0%})"


def photos_of(folder: Path) -> list[Path]:
    endings = {".jpg", ".jpeg", ".png", ".webp"}
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in endings)[:50]


def demo_photos() -> list[Path]:
    import skimage

    names = ("astronaut.png", "brick.png", "chelsea.png", "coffee.png", "grass.png", "rocket.jpg")
    return [Path(skimage.__file__).parent / "data" / name for name in names]


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
    except procmem.ProcmemError as error:
        sys.exit(f"error: {error}")
