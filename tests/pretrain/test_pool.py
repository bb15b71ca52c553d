from pathlib import Path

import numpy as np
import pytest

from procmem.errors import InputError, TrainingError
from procmem_pretrain.pool import Pool, PoolConfig, build_pool

CONFIG = PoolConfig(root_seed=3, programs=6, images_per_program=4, side=64)


def test_a_pool_read_from_its_folder_equals_the_rendered_one(pool: Pool, pool_folder: Path) -> None:
    again = build_pool(CONFIG, folder=pool_folder)
    assert np.array_equal(again.images, pool.images)
    assert np.array_equal(again.program_numbers, pool.program_numbers)


def test_a_part_that_was_lost_is_rendered_again(
    pool: Pool, pool_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "pool.json").write_bytes((pool_folder / "pool.json").read_bytes())
    assert np.array_equal(build_pool(CONFIG, folder=tmp_path).images, pool.images)


def test_a_folder_with_another_pool_is_refused(pool: Pool, pool_folder: Path) -> None:
    other = PoolConfig(root_seed=4, programs=6, images_per_program=4, side=64)
    with pytest.raises(TrainingError, match="name another folder"):
        build_pool(other, folder=pool_folder)


def test_every_image_names_its_program(pool: Pool) -> None:
    assert len(pool.program_numbers) == len(pool.images)
    assert set(pool.program_numbers.tolist()) <= set(range(6))


@pytest.mark.parametrize("field", ["programs", "images_per_program", "side"])
def test_a_pool_of_nothing_is_refused(field: str) -> None:
    with pytest.raises(InputError, match=f"{field} is 0"):
        PoolConfig(**{field: 0})
