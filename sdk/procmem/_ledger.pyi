from typing import Any

import numpy as np
import numpy.typing as npt

def check_items(rows: list[tuple[Any, ...]], threads: int = 0) -> int | None: ...
def take_items(
    rows: list[tuple[Any, ...]], vectors: npt.NDArray[np.float16], threads: int = 0
) -> (
    tuple[npt.NDArray[np.int64], list[bytes | None], list[bytes | None], npt.NDArray[np.int64], int]
    | None
): ...
