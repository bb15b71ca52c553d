from typing import Any

import numpy as np
import numpy.typing as npt
from typing_extensions import Buffer

class Finder:
    def __init__(self, windows: npt.NDArray[np.uint8]) -> None: ...
    def find(self, data: Buffer, threads: int = 0) -> npt.NDArray[np.int64]: ...

def commit(
    values: list[tuple[Any, ...]],
    dense: list[tuple[Any, ...] | None],
    secret: bytes,
    portable: bool = False,
    threads: int = 0,
) -> npt.NDArray[np.uint8]: ...
def sha256_rows(
    rows: npt.NDArray[np.uint8], portable: bool = False, threads: int = 0
) -> npt.NDArray[np.uint8]: ...
