from collections.abc import Iterator

import pytest
from tests.shallow_vit import shallow_architecture


@pytest.fixture(scope="package", autouse=True)
def shallow() -> Iterator[None]:
    """What `checkpoints.py` writes can be loaded."""
    with shallow_architecture():
        yield
