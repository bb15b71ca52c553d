from collections.abc import Iterator
from pathlib import Path

import pytest

from procmem_pretrain.config import Phase, TrainConfig
from procmem_pretrain.pool import Pool, PoolConfig, build_pool
from procmem_pretrain.render import Renderer

TINY_POOL = PoolConfig(root_seed=3, programs=6, images_per_program=4, side=64)


@pytest.fixture(scope="session")
def renderer() -> Iterator[Renderer]:
    with Renderer() as renderer:
        yield renderer


@pytest.fixture(scope="session")
def pool_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pool")


@pytest.fixture(scope="session")
def pool(pool_folder: Path) -> Pool:
    return build_pool(TINY_POOL, folder=pool_folder)


@pytest.fixture
def tiny_config() -> TrainConfig:
    return TrainConfig(
        pool=TINY_POOL,
        steps=6,
        batch=6,
        phases=(Phase(0.5, 64, 0.5), Phase(0.5, 96, 0.5)),
        local_views=1,
        local_side=32,
        kml_side=32,
        projection=16,
        drop_path=0.1,
        readout_dimension=8,
        readout_images=50,
        precision="fp32",
    )
