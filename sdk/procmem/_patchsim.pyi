from typing import Any, overload

import numpy as np
import numpy.typing as npt

@overload
def topk(
    queries: npt.NDArray[np.float32],
    memory: npt.NDArray[np.float32] | npt.NDArray[np.float16],
    k: int,
    threads: int = 0,
    *,
    keep: npt.NDArray[np.bool_] | None = None,
    rows: npt.NDArray[np.int64] | None = None,
    scales: npt.NDArray[np.float32] | None = None,
    isa: str = "",
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]: ...
@overload
def topk(
    queries: npt.NDArray[np.int8],
    memory: npt.NDArray[np.int8],
    k: int,
    threads: int = 0,
    *,
    keep: npt.NDArray[np.bool_] | None = None,
    rows: npt.NDArray[np.int64] | None = None,
    scales: npt.NDArray[np.float32] | None = None,
    isa: str = "",
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]: ...
def like_signs(
    query: npt.NDArray[np.float32],
    memory: npt.NDArray[np.uint8],
    count: int,
    wanted: int,
    threads: int = 0,
    *,
    keep: npt.NDArray[np.bool_] | None = None,
    isa: str = "",
) -> npt.NDArray[np.int64]: ...
def nearest_by_signs(
    queries: npt.NDArray[np.float32],
    rows: npt.NDArray[np.float16],
    k: int,
    signs: npt.NDArray[np.uint8],
    codes: npt.NDArray[np.int8],
    unit: float,
    likely: int,
    threads: int = 0,
    *,
    scales: npt.NDArray[np.float32] | None = None,
    keep: npt.NDArray[np.bool_] | None = None,
    isa: str = "",
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]: ...
def mix(
    queries: npt.NDArray[np.float32],
    memory: npt.NDArray[Any],
    values: npt.NDArray[np.float32],
    scale: float,
    threads: int = 0,
    *,
    keep: npt.NDArray[np.bool_] | None = None,
    isa: str = "",
) -> npt.NDArray[np.float32]: ...
def unit_scales(
    rows: npt.NDArray[np.float16], threads: int = 0, *, isa: str = ""
) -> npt.NDArray[np.float32]: ...
def round_rows(
    rows: npt.NDArray[np.float16],
    scales: npt.NDArray[np.float32],
    unit: float,
    codes: npt.NDArray[np.int8],
    errors: npt.NDArray[np.float32],
    lengths: npt.NDArray[np.float32],
    threads: int = 0,
    *,
    isa: str = "",
) -> None: ...
def isa() -> str: ...
def available_isas() -> list[str]: ...
