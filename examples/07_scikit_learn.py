"""procmem inside scikit-learn: a pipeline, cross-validation, and a classifier that forgets.

    pip install 'procmem[sklearn]'
    python examples/07_scikit_learn.py PHOTOS/

PHOTOS has one subfolder for each label, with at least three photos in each. Without it, parts of
the public-domain photos of scikit-image are used (pip install 'procmem[demo]').
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline

import procmem
from procmem.sklearn import ImageEmbedder, MemoryClassifier


def main(folder: Path | None, model: str = "vit-tiny") -> None:
    images, labels = demo_photos() if folder is None else photos_of(folder)
    embedder = ImageEmbedder(model)

    # The model learns nothing from these images: embed once, then split as often as you like.
    vectors = embedder.transform(images)
    scores = cross_val_score(MemoryClassifier(n_neighbors=5), vectors, labels, cv=3)
    print(f"{len(images)} images, {len(set(labels))} labels: {scores.mean():.0%} right of 3 folds")

    pipeline = make_pipeline(embedder, MemoryClassifier(n_neighbors=5)).fit(images, labels)
    print("the first image is:", pipeline.predict(images[:1])[0])

    # Forgetting is exact: nothing differs from a classifier that never held the first label.
    memory = pipeline[-1]
    secret = np.array([label == labels[0] for label in labels])
    memory.forget(secret)
    fresh = MemoryClassifier(n_neighbors=5).fit(vectors[~secret], np.array(labels)[~secret])
    same = np.array_equal(memory.predict_proba(vectors), fresh.predict_proba(vectors))
    print(f"forgot {labels[0]}; the first image is now: {pipeline.predict(images[:1])[0]}")
    print("equal to a classifier fitted without it, bit for bit:", same)


def photos_of(folder: Path) -> tuple[list[Path], list[str]]:
    endings = {".jpg", ".jpeg", ".png", ".webp"}
    files = sorted(file for file in folder.glob("*/*") if file.suffix.lower() in endings)
    return list(files), [file.parent.name for file in files]


def demo_photos() -> tuple[list[np.ndarray], list[str]]:
    """Four overlapping parts of each public-domain photo."""
    import skimage

    images, labels = [], []
    for name in ("astronaut.png", "brick.png", "coffee.png", "grass.png", "rocket.jpg"):
        with Image.open(Path(skimage.__file__).parent / "data" / name) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        sixth = pixels.shape[1] // 6
        for part in range(4):
            images.append(pixels[:, part * sixth : (part + 3) * sixth])
            labels.append(Path(name).stem)
    return images, labels


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
    except procmem.ProcmemError as error:
        sys.exit(f"error: {error}")
