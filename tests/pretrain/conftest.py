from collections.abc import Iterator

import pytest
import torch
from tests.shallow_vit import SHALLOW, shallow_architecture

from procmem_pretrain.config import TrainConfig
from procmem_pretrain.render import GlRenderer
from procmem_pretrain.simdino import Phase, SimDinoConfig
from procmem_pretrain.stream import StreamConfig, generate

TINY_IMAGES = StreamConfig(
    root_seed=3, side=64, pool_images=24, images_per_program=4, mask_side=32, fresh_programs=0
)


@pytest.fixture(scope="package", autouse=True)
def shallow() -> Iterator[None]:
    """What `tiny_config` names can be trained."""
    with shallow_architecture():
        yield


@pytest.fixture(scope="session")
def renderer() -> Iterator[GlRenderer]:
    with GlRenderer() as renderer:
        yield renderer


@pytest.fixture(scope="session")
def pool() -> torch.Tensor:
    """(24, 3, 64, 64) uint8 images of programs."""
    config = StreamConfig(
        process="shaders", root_seed=3, side=64, pool_images=24, images_per_program=4
    )
    return generate(config, 24)


@pytest.fixture
def tiny_config() -> TrainConfig:
    return TrainConfig(
        model=SHALLOW,
        images=TINY_IMAGES,
        simdino=SimDinoConfig(
            phases=(Phase(0.5, 64, 0.5), Phase(0.5, 96, 0.5)),
            local_views=1,
            local_side=32,
            projection=16,
            drop_path=0.1,
        ),
        steps=6,
        batch=6,
        health_programs=0,
        readout_dimension=8,
        readout_images=50,
        precision="fp32",
    )
