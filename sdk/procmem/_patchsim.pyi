import numpy as np
import numpy.typing as npt

def topk_f32(
    queries: npt.NDArray[np.float32],
    memory: npt.NDArray[np.float32],
    k: int,
    threads: int = 0,
    *,
    isa: str = "",
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]: ...
def mix_f32(
    queries: npt.NDArray[np.float32],
    memory: npt.NDArray[np.float32],
    values: npt.NDArray[np.float32],
    scale: float,
    threads: int = 0,
    *,
    isa: str = "",
) -> npt.NDArray[np.float32]: ...
def isa() -> str: ...
def available_isas() -> list[str]: ...
