import numpy as np
import pytest

from procmem.errors import InputError
from procmem_pretrain.seeds import stream


def test_equal_names_give_equal_numbers() -> None:
    assert np.array_equal(stream(7, "view", 3).random(8), stream(7, "view", 3).random(8))


@pytest.mark.parametrize("other", [(8, "view", 3), (7, "program", 3), (7, "view", 4), (7, "view")])
def test_another_seed_name_or_index_gives_other_numbers(other: tuple) -> None:
    assert not np.array_equal(stream(7, "view", 3).random(8), stream(*other).random(8))


@pytest.mark.parametrize("seed", [-1, 2**63, 1.5, "7", True, None])
def test_a_seed_that_is_no_63_bit_number_is_refused(seed: object) -> None:
    with pytest.raises(InputError, match="seed is"):
        stream(seed, "view")  # type: ignore[arg-type]
