import builtins
from typing import Any

import numpy as np
import numpy.typing as npt
from typing_extensions import Buffer

class Finder:
    def __init__(self, windows: npt.NDArray[np.uint8]) -> None: ...
    def find(self, data: Buffer, threads: int = 0) -> npt.NDArray[np.int64]: ...

def windows(values: list[bytes]) -> npt.NDArray[np.uint8]: ...

class LedgerPass:
    def __init__(
        self,
        descriptor: int,
        bytes: int,
        items: int,
        dense: int,
        secret: builtins.bytes | None = None,
        finder: Finder | None = None,
    ) -> None: ...
    def step(self) -> bool: ...
    def checksums(self) -> tuple[int, int]: ...
    def codes(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]: ...
    def found(self) -> npt.NDArray[np.bool_]: ...

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
