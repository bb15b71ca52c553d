from pathlib import Path

import pytest
from tests.shallow_vit import SHALLOW

from procmem_pretrain.compact import save_compact
from procmem_pretrain.config import TrainConfig
from procmem_pretrain.stream import StreamConfig
from procmem_pretrain.vit import make_vit


@pytest.fixture(scope="package")
def small_fit() -> TrainConfig:
    """A readout of 16 dimensions on 50 images that are drawn within a second."""
    images = StreamConfig(root_seed=3, side=64, pool_images=24, images_per_program=4, mask_side=32)
    return TrainConfig(model=SHALLOW, images=images, readout_dimension=16, readout_images=50)


@pytest.fixture(scope="package")
def untrained(small_fit: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compact checkpoint of random weights."""
    path = tmp_path_factory.mktemp("untrained") / f"{SHALLOW}.safetensors"
    return save_compact(path, small_fit, make_vit(SHALLOW, root_seed=7), (), step=0)
