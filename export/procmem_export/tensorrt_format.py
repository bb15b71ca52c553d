"""ONNX -> a TensorRT engine for this machine's GPU, and the facts of the machine it is for.

Takes the bytes of a graph from `onnx_format.py` or one of lower precision, makes it one for a
single side (`fixed_side.py`), gives an `Engine` to `export.py`. The network is strongly typed: each
product has the type that the graph writes, and TensorRT may choose kernels but no precision. It
promises that nothing else is in the engine than the graph says: no refitting, no code for the
processor, no TF32. Never writes a file but the timing cache, and never downloads anything.
"""

from __future__ import annotations

import math
import stat
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillRunning
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from procmem.backends.contract import CLS, INPUT, PATCHES
from procmem.backends.tensorrt import (
    create,
    describe_machine,
    import_cuda,
    import_tensorrt,
    message_log,
    port,
)
from procmem.errors import ExportError, InputError
from procmem.manifest import write_bytes_atomically
from procmem_export.fixed_side import fix_side

Progress = Callable[[int, "int | None"], None]

MAX_OPTIMIZATION_LEVEL = 5
"""The highest that TensorRT 10 and 11 know; it takes more than that without a word."""

MINIMUM_MAJOR = 10
"""The first with all that is used here: strongly typed networks, and progress monitors."""

_GIB = 1 << 30
_POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How TensorRT builds; see `engine_options`, which checks them.

    Attributes:
        workspace_bytes: most memory of the GPU that one layer may take beside its inputs.
        optimization_level: 0 to 5; higher tries more kernels and takes longer. TensorRT's own
            default is 3.
        timing_cache: file in which measured kernels are kept from one build to the next, which
            makes the next quicker and its choices the same; None for none.
    """

    workspace_bytes: int
    optimization_level: int
    timing_cache: Path | None


@dataclass(frozen=True, slots=True)
class InputRange:
    """Shapes of the input `images` that an engine takes, (N, 3, S, S) each.

    Attributes:
        minimum: the fewest images.
        optimum: what kernels are chosen for.
        maximum: the most images.
    """

    minimum: tuple[int, int, int, int]
    optimum: tuple[int, int, int, int]
    maximum: tuple[int, int, int, int]

    @property
    def is_fixed(self) -> bool:
        """Whether there is one shape only, so that it becomes part of the graph."""
        return self.minimum == self.maximum


@dataclass(frozen=True, slots=True)
class Engine:
    """A built engine.

    Attributes:
        data: the plan, as TensorRT serialized it.
        hardware: for `Manifest.hardware`, see `procmem.backends.tensorrt.describe_machine`.
    """

    data: bytes
    hardware: dict[str, str]


@dataclass(frozen=True, slots=True)
class Network:
    """A parsed graph with what must live as long as it does.

    Attributes:
        definition: the `INetworkDefinition`.
        parser: owns the weights that the definition points to.
        builder: made the definition.
        log: what TensorRT said, see `message_log`.
    """

    definition: Any
    parser: Any
    builder: Any
    log: Any


def engine_options(
    *,
    workspace_gib: float = 4.0,
    optimization_level: int = 3,
    timing_cache: Path | None = None,
) -> EngineOptions:
    """Checks how an engine shall be built. Looks at no GPU and needs no TensorRT.

    Args:
        workspace_gib: see `EngineOptions.workspace_bytes`, in GiB; 4 is far above what a ViT-S
            needs at 448 pixels.
        optimization_level: see `EngineOptions`.
        timing_cache: see `EngineOptions`; its folder must exist when the engine is built.

    Raises:
        InputError: a value out of range.
    """
    if not (math.isfinite(workspace_gib) and workspace_gib > 0):
        raise InputError(f"workspace_gib is {workspace_gib}, wanted a number above 0")
    if isinstance(optimization_level, bool) or not isinstance(optimization_level, int):
        raise InputError(f"optimization_level is {optimization_level!r}, wanted a whole number")
    if not 0 <= optimization_level <= MAX_OPTIMIZATION_LEVEL:
        raise InputError(
            f"optimization_level is {optimization_level}, wanted 0 to {MAX_OPTIMIZATION_LEVEL}"
        )
    return EngineOptions(
        workspace_bytes=int(workspace_gib * _GIB),
        optimization_level=optimization_level,
        timing_cache=timing_cache,
    )


def input_range(side: int, batch: tuple[int, int, int]) -> InputRange:
    """The shapes of an engine's input.

    Args:
        side: S, pixels.
        batch: the fewest images, the number to choose kernels for, the most.

    Raises:
        InputError: they are not whole numbers of at least 1 in ascending order.
    """
    numbers = (side, *batch)
    whole = all(isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in numbers)
    if not whole or len(batch) != 3 or list(batch) != sorted(batch):
        raise InputError(
            f"side is {side!r} and batch is {batch!r}, wanted whole numbers of at least 1, those "
            "of batch ascending: the fewest images, the number to choose kernels for, the most"
        )
    fewest, usual, most = ((n, 3, side, side) for n in batch)
    return InputRange(fewest, usual, most)


def build_engine(
    onnx: bytes,
    *,
    side: int,
    batch: tuple[int, int, int] = (1, 1, 1),
    options: EngineOptions | None = None,
    progress: Progress | None = None,
) -> Engine:
    """Builds an engine on the first GPU of this machine: seconds to minutes.

    Args:
        onnx: a model with the input `images` (N, 3, S, S) float32 and the outputs `cls` and
            `patches` float32, its products in the types that the engine shall compute in.
        side: S, pixels, a multiple of the patch size.
        batch: see `input_range`; three times the same for a fixed number.
        options: see `engine_options`; None for its defaults.
        progress: called with the number of steps done and None, on the caller's thread.

    Returns:
        the engine and the machine it is for. Two builds may choose other kernels and differ in
        their last bits, unless they share a timing cache.

    Raises:
        InputError: a bad side or batch, or a graph that has another side.
        MissingExtraError: TensorRT is not installed.
        ExportError: there is no GPU, or TensorRT cannot build the graph; with its own words.
    """
    options = engine_options() if options is None else options
    shapes = input_range(side, batch)
    tensorrt, cuda = import_tensorrt(), import_cuda()
    try:
        hardware = describe_machine(tensorrt, cuda)
    except InputError as error:
        raise ExportError(f"an engine can only be built where it shall run: {error}") from error
    plan = build_plan(tensorrt, onnx, shapes=shapes, options=options, progress=progress)
    return Engine(plan, hardware)


def build_plan(
    tensorrt: Any,
    onnx: bytes,
    *,
    shapes: InputRange,
    options: EngineOptions,
    progress: Progress | None = None,
) -> bytes:
    """`build_engine` with a given module and without a look at the machine.

    Ctrl-C, or an error in `progress`, ends the build at TensorRT's next step; nothing is kept.

    Args:
        tensorrt: `tensorrt`, or a module with its interface.
        onnx: see `build_engine`.
        shapes: see `input_range`.
        options: see `engine_options`.
        progress: see `build_engine`.

    Raises:
        InputError, ExportError: see `build_engine`.
    """
    *_, side = shapes.optimum
    batch = shapes.optimum[0] if shapes.is_fixed else None
    fixed = fix_side(onnx, side=side, batch=batch)
    network = define_network(tensorrt, fixed)
    check_network(tensorrt, network.definition, shapes)
    config = configure(tensorrt, network, shapes=shapes, options=options)
    monitor = _progress_monitor(tensorrt)
    config.progress_monitor = monitor
    builder = network.builder
    network.log.clear()
    plan = _run(
        lambda: builder.build_serialized_network(network.definition, config), monitor, progress
    )
    if plan is None:
        raise ExportError(
            f"TensorRT {tensorrt.__version__} could not build an engine ({network.log.text()}); "
            "give it more workspace, a smaller batch or side, or another precision"
        )
    if options.timing_cache is not None:
        _write_timing_cache(config, options.timing_cache)
    return bytes(plan)


def define_network(tensorrt: Any, onnx: bytes) -> Network:
    """Parses a graph into a strongly typed network. Needs no GPU but what the module needs.

    Raises:
        ExportError: TensorRT is too old or does not start, or its parser refuses the graph.
    """
    if tensorrt.__name__ == "tensorrt" and _major(tensorrt) < MINIMUM_MAJOR:
        raise ExportError(
            f"TensorRT is {tensorrt.__version__}, wanted {MINIMUM_MAJOR} or newer; run "
            "pip install --upgrade tensorrt"
        )
    log = message_log(tensorrt)
    builder = create(tensorrt.Builder, log)
    if builder is None:
        raise ExportError(
            f"TensorRT {tensorrt.__version__} does not start ({log.text()}); it needs an NVIDIA "
            "GPU, and a driver that can run its CUDA version: see docs/gpu.md"
        )
    # From 11 on every network is strongly typed, and the flag is accepted and ignored.
    flag = tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    definition = builder.create_network(1 << int(flag))
    parser = tensorrt.OnnxParser(definition, log)
    if not parser.parse(onnx):
        errors = [parser.get_error(index).desc() for index in range(parser.num_errors)]
        raise ExportError(
            f"TensorRT {tensorrt.__version__} cannot parse the graph "
            f"({'; '.join(errors) or log.text()}); it may be older than the graph's operators"
        )
    return Network(definition, parser, builder, log)


def check_network(tensorrt: Any, definition: Any, shapes: InputRange) -> None:
    """Raises ExportError unless a network takes and gives what an engine of procmem does.

    TensorRT's parser takes an empty graph without a word, and a side that no number of patches
    fills would lose the image's edge.
    """
    ports = [
        port(tensorrt, tensor.name, tensor.dtype, tensor.shape)
        for tensor in (
            *(definition.get_input(index) for index in range(definition.num_inputs)),
            *(definition.get_output(index) for index in range(definition.num_outputs)),
        )
    ]
    names = {one.name for one in ports}
    if names != {INPUT, CLS, PATCHES} or not all(one.is_float32 for one in ports):
        found = ", ".join(f"{one.name} {one.kind}" for one in ports) or "nothing"
        raise ExportError(
            f"the graph takes and gives {found}, wanted {INPUT}, {CLS} and {PATCHES}, each "
            "tensor(float); cast outputs of lower precision back to float32"
        )
    patches = next(one for one in ports if one.name == PATCHES)
    side = shapes.optimum[-1]
    rows = patches.shape[1] if len(patches.shape) == 4 else None
    if not isinstance(rows, int) or side % rows or patches.shape[2] != rows:
        raise ExportError(
            f"at side {side} the graph gives {PATCHES} of shape {list(patches.shape)}, wanted "
            "(N, h, w, P) with h = w a divisor of the side; take a multiple of the patch size"
        )


def configure(
    tensorrt: Any, network: Network, *, shapes: InputRange, options: EngineOptions
) -> Any:
    """The `IBuilderConfig` of a build.

    Raises:
        ExportError: TensorRT does not take the shapes, or the timing cache is not private.
    """
    config = network.builder.create_builder_config()
    # TF32, which alone is on by default, would round float32 products to 10 bits and break the
    # parity with the processor. All others add to an engine: refitting, other versions, code that
    # runs on the processor.
    config.flags = 0
    config.set_memory_pool_limit(tensorrt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    config.builder_optimization_level = options.optimization_level
    if not shapes.is_fixed:
        profile = network.builder.create_optimization_profile()
        profile.set_shape(INPUT, shapes.minimum, shapes.optimum, shapes.maximum)
        if config.add_optimization_profile(profile) < 0:
            raise ExportError(f"TensorRT does not take the shapes {shapes} ({network.log.text()})")
    if options.timing_cache is not None:
        _read_timing_cache(config, options.timing_cache)
    return config


def _read_timing_cache(config: Any, path: Path) -> None:
    """Gives a build what earlier ones measured; begins anew where that was another GPU's."""
    stored = b""
    if path.exists():
        _check_private(path)
        stored = path.read_bytes()
    cache = config.create_timing_cache(stored)
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)


def _write_timing_cache(config: Any, path: Path) -> None:
    cache = config.get_timing_cache()
    if cache is None:
        return
    try:
        write_bytes_atomically(path, bytes(cache.serialize()))
        path.chmod(0o600)
    except OSError as error:
        raise ExportError(
            f"the timing cache {path} cannot be written ({error}); make its folder, or build "
            "without one"
        ) from error


def _check_private(path: Path) -> None:
    """Raises ExportError if others may write a timing cache, which decides what an engine runs."""
    if sys.platform == "win32":
        return
    for each in (path, path.parent):
        if each.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise ExportError(
                f"{each} may be written by others, and TensorRT trusts what it reads there; keep "
                "the timing cache in a folder of your own (chmod 700)"
            )


def _run(build: Callable[[], Any], monitor: Any, progress: Progress | None) -> Any:
    """Runs a build beside this thread, so that Ctrl-C reaches Python while TensorRT works."""
    told = 0
    with ThreadPoolExecutor(1, thread_name_prefix="tensorrt") as pool:
        future: Future[Any] = pool.submit(build)
        try:
            while True:
                try:
                    return future.result(timeout=_POLL_SECONDS)
                except StillRunning:
                    if future.done():  # then it was the build's own error
                        raise
                if progress is not None and monitor.steps > told:
                    told = monitor.steps
                    progress(told, None)
        except BaseException:
            monitor.cancel()
            raise


def _progress_monitor(tensorrt: Any) -> Any:
    """A monitor that counts steps and can end a build; TensorRT calls it from its own threads."""

    class Monitor(tensorrt.IProgressMonitor):  # type: ignore[misc]  # the module has no types
        """Counts the steps of all phases."""

        def __init__(self) -> None:
            tensorrt.IProgressMonitor.__init__(self)
            self.steps = 0
            self._lock = threading.Lock()
            self._canceled = threading.Event()

        def cancel(self) -> None:
            """Ends the build at its next step."""
            self._canceled.set()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            """A phase begins; which and how long is TensorRT's own matter."""

        def step_complete(self, phase_name: str, step: int) -> bool:
            """Counts; False ends the build."""
            del phase_name, step
            with self._lock:
                self.steps += 1
            return not self._canceled.is_set()

        def phase_finish(self, phase_name: str) -> None:
            """A phase ends."""

    return Monitor()


def _major(tensorrt: Any) -> int:
    return int(str(tensorrt.__version__).split(".", maxsplit=1)[0])
