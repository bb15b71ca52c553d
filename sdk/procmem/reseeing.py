"""Items of another model, seen again by the memory's own: only possible where their images are.

Used by `bundle.py` for what another memory has shared. Takes records of any model and gives
records of the memory's: same id, label, source and time, with the vector and patches that its own
model sees in the file that the source names. A mask was stored at the other model's image size; it
lies over the same whole image, and is resampled by nearest neighbor if the sizes differ.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Iterator

import numpy as np

from procmem.errors import ImageError, InputError
from procmem.image import read_image_file
from procmem.memory import VisualMemory
from procmem.merging import Tally
from procmem.record import Record, quantize_patches
from procmem.segment import fit_mask

_log = logging.getLogger(__name__)


def seen_again(records: Iterable[Record], memory: VisualMemory, tally: Tally) -> Iterator[Record]:
    """The records as the memory's own model sees them, in the same order.

    Those that the memory holds with the same label, source and time are not looked at again. Those
    without a source that is a file here, or whose file is no image, are left out; the log says why.
    """
    for record in records:
        item = record.item
        if next(memory._vault.items([item.id]), None) == item:
            tally.unchanged.append(item.id)
            continue
        try:
            yield _seen(record, memory)
        except (ImageError, InputError) as error:
            _log.warning("item %d cannot be seen again: %s", item.id, error)
            tally.not_seen.append(item.id)


def _seen(record: Record, memory: VisualMemory) -> Record:
    if record.item.source is None:
        raise InputError("it has no source")
    data = read_image_file(record.item.source)  # once, so that both views are of the same bytes
    vector = memory._embed(data).cls[0].astype(np.float16)
    if record.mask is None:
        return dataclasses.replace(record, vector=vector, patches=None)
    side = memory._vault.binding.side
    mask = fit_mask(record.mask, image_size=record.mask.shape, side=side)
    patches = memory._embed(data, view="whole").patches[0]  # (h, w, P)
    return Record(record.item, vector, quantize_patches(patches), mask)
