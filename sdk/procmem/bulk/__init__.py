"""Embedding more images than one process can: resumable, each exactly once, to Parquet.

    from procmem.bulk import embed_images
    report = embed_images("photos/", "embeddings/", workers=4)

`storage.py` folders and object stores, `dataset.py` what stands in the destination, `job.py` what
a worker does, `processes.py` and `on_ray.py` the engines, `run.py` all of it. Needs pip install
'procmem[parquet]', or 'procmem[ray]' for the engine "ray".
"""

from __future__ import annotations

from procmem.bulk.dataset import Embedded as Embedded
from procmem.bulk.dataset import import_embeddings as import_embeddings
from procmem.bulk.dataset import read_embeddings as read_embeddings
from procmem.bulk.run import BulkReport as BulkReport
from procmem.bulk.run import embed_images as embed_images

__all__ = ["BulkReport", "Embedded", "embed_images", "import_embeddings", "read_embeddings"]
