"""A pool of rendered images that training mixes from: the process "shaders".

Takes programs from `grammar.py` and pixels from `render.py`, gives (P, S, S, 3) uint8 arrays to
`processes.py`. A pool is a pure function of its `PoolConfig`; on disk it is a folder of parts
that an interrupted rendering continues, and that can be deleted at any time.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from procmem.errors import InputError, TrainingError
from procmem.manifest import write_bytes_atomically
from procmem_pretrain.grammar import Program, program_set_sha256, sample_program
from procmem_pretrain.render import Renderer
from procmem_pretrain.seeds import check_seed, stream

PROGRAMS_PER_PART = 100

Progress = Callable[[int, int | None], None]


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """What a pool holds.

    Attributes:
        root_seed: of the programs and of their times and views.
        programs: how many programs are drawn; numbers 0 to programs - 1.
        images_per_program: each at its own time and view of the plane.
        side: S, pixels.
    """

    root_seed: int = 0
    programs: int = 3000
    images_per_program: int = 8
    side: int = 144

    def __post_init__(self) -> None:
        check_seed(self.root_seed)
        for name, low, high in (
            ("programs", 1, 10_000_000),
            ("images_per_program", 1, 10_000),
            ("side", 16, 4096),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise InputError(f"{name} is {value}, wanted {low} to {high}")


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """Rendered images.

    Attributes:
        images: (P, S, S, 3) uint8; unusable renderings are left out, so P may be below
            programs x images_per_program.
        program_numbers: (P,) int32, which program drew each image.
        program_set_sha256: over the ids of all programs, in order.
    """

    images: npt.NDArray[np.uint8]
    program_numbers: npt.NDArray[np.int32]
    program_set_sha256: str


def times_and_views(
    root_seed: int, number: int, count: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Times (count,) ~ U(0.1, 10) s (the paper's) and views (count, 4) for a program."""
    random = stream(root_seed, "view", number)
    times = random.uniform(0.1, 10.0, count)
    views = np.stack(
        [
            random.uniform(-0.5, 0.5, count),
            random.uniform(-0.5, 0.5, count),
            random.uniform(0.0, 2.0 * np.pi, count),
            np.exp(random.uniform(np.log(0.5), np.log(2.0), count)),
        ],
        axis=1,
    )
    return times, views


def build_pool(
    config: PoolConfig, *, folder: Path | None = None, progress: Progress | None = None
) -> Pool:
    """Renders a pool, or continues and reads the one in `folder`.

    Args:
        config: what to render.
        folder: where finished parts are kept; None keeps nothing.
        progress: called with (programs done, programs in all).

    Raises:
        RenderError: no graphics context, or a driver that refuses a program.
        TrainingError: `folder` holds a pool of another configuration, or nothing was usable.
        OSError: `folder` cannot be written.
    """
    if folder is not None:
        _claim(folder, config)
    programs = [sample_program(config.root_seed, number) for number in range(config.programs)]
    parts: list[npt.NDArray[np.uint8]] = []
    numbers: list[npt.NDArray[np.int32]] = []
    renderer: Renderer | None = None
    try:
        for first in range(0, config.programs, PROGRAMS_PER_PART):
            chosen = range(first, min(first + PROGRAMS_PER_PART, config.programs))
            path = None if folder is None else folder / f"part-{first:08d}.npz"
            if path is not None and path.is_file():
                with np.load(path) as part:
                    images, origin = part["images"], part["program_numbers"]
            else:
                renderer = renderer or Renderer()
                images, origin = _render_part(renderer, config, programs, chosen)
                if path is not None:
                    buffer = io.BytesIO()
                    np.savez(buffer, images=images, program_numbers=origin)
                    write_bytes_atomically(path, buffer.getvalue())
            parts.append(images)
            numbers.append(origin)
            if progress is not None:
                progress(chosen.stop, config.programs)
    finally:
        if renderer is not None:
            renderer.close()
    pool = Pool(np.concatenate(parts), np.concatenate(numbers), program_set_sha256(programs))
    if len(pool.images) == 0:
        raise TrainingError("no program gave a usable image; draw more programs")
    return pool


def _claim(folder: Path, config: PoolConfig) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "pool.json"
    wanted = dataclasses.asdict(config)
    if path.is_file():
        found = json.loads(path.read_bytes())
        if found != wanted:
            raise TrainingError(
                f"{folder} holds a pool of {found}, wanted {wanted}; name another folder or "
                "delete this one"
            )
    else:
        write_bytes_atomically(path, json.dumps(wanted, indent=2).encode())


def _render_part(
    renderer: Renderer, config: PoolConfig, programs: list[Program], chosen: range
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
    images = []
    origin: list[int] = []
    for number in chosen:
        times, views = times_and_views(config.root_seed, number, config.images_per_program)
        drawn = renderer.draw(programs[number], times, views, side=config.side)
        images.append(drawn)
        origin += [number] * len(drawn)
    return np.concatenate(images), np.array(origin, np.int32)
