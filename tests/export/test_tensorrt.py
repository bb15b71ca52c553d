"""The plain parts everywhere; the rest against a real package, or a skip that says what is missing.

"TensorRT for RTX" has TensorRT's interface, parser and builder, and needs no GPU to build: where it
is installed (`pip install tensorrt-rtx-cu13`), graphs are parsed and engines built for it here.
"""

import dataclasses
import importlib
import importlib.util
import math
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from procmem.backends.contract import probe
from procmem.backends.tensorrt import describe_machine, open_session
from procmem.errors import ExportError, InputError, MissingExtraError
from procmem.manifest import Manifest, read_manifest
from procmem_export import tensorrt_format
from procmem_export.fixed_side import fix_side
from procmem_export.tensorrt_format import (
    build_engine,
    build_plan,
    check_network,
    configure,
    define_network,
    engine_options,
    input_range,
)

BUNDLED = Path(__file__).parents[2] / "sdk/procmem/models/vit-tiny.onnx"

# TensorRT for RTX measures nothing while it builds, and says so of timing caches.
pytestmark = pytest.mark.filterwarnings("ignore:.*TensorRT-RTX:DeprecationWarning")


@pytest.fixture(scope="module")
def trt() -> Any:
    """A real package whose builder starts on this machine."""
    reasons = []
    for name in ("tensorrt", "tensorrt_rtx"):
        try:
            module = importlib.import_module(name)
            module.Builder(module.Logger(module.Logger.INTERNAL_ERROR))
        except (ImportError, OSError, TypeError) as error:
            reasons.append(f"{name}: {error}")
        else:
            return module
    return pytest.skip(f"no builder of TensorRT starts here ({'; '.join(reasons)})")


@pytest.fixture(scope="module")
def gpu() -> dict[str, str]:
    """The facts of a machine that has TensorRT and a GPU."""
    tensorrt = pytest.importorskip("tensorrt", reason="TensorRT is not installed")
    cuda = pytest.importorskip("cuda.bindings.runtime", reason="cuda.bindings is not installed")
    try:
        return describe_machine(tensorrt, cuda)
    except InputError as error:
        return pytest.skip(str(error))


def typed_model(numbers: int, *, cast_back: bool = True) -> bytes:
    """A perception of two products in a type of its own; the type is the graph's alone."""
    constants = [
        helper.make_tensor(name, numbers, shape, np.linspace(-1, 1, math.prod(shape)).tolist())
        for name, shape in {"filters": (8, 3, 16, 16), "weight": (8, 8)}.items()
    ]
    back = TensorProto.FLOAT if cast_back else numbers
    nodes = [
        helper.make_node("Cast", ["images"], ["low"], to=numbers),
        helper.make_node(
            "Conv", ["low", "filters"], ["raw"], kernel_shape=[16, 16], strides=[16, 16]
        ),
        helper.make_node("Transpose", ["raw"], ["tokens"], perm=[0, 2, 3, 1]),
        helper.make_node("MatMul", ["tokens", "weight"], ["product"]),
        helper.make_node("Cast", ["product"], ["patches"], to=back),
        helper.make_node("ReduceMean", ["product", "axes"], ["mean"], keepdims=0),
        helper.make_node("Cast", ["mean"], ["cls"], to=back),
    ]
    graph = helper.make_graph(
        nodes,
        "typed",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, "S", "S"])],
        [
            helper.make_tensor_value_info("cls", back, ["N", 8]),
            helper.make_tensor_value_info("patches", back, ["N", "h", "h", 8]),
        ],
        [*constants, numpy_helper.from_array(np.array([1, 2], np.int64), "axes")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(model.SerializeToString())


def with_products_in(numbers: int) -> bytes:
    """The shipped model, each product in the type, everything between in float32."""
    model = onnx.load_model_from_string(BUNDLED.read_bytes())
    nodes = []
    for node in model.graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul"):
            nodes.append(node)
            continue
        for index, name in enumerate(node.input):
            node.input[index] = f"{node.name}_{index}"
            nodes.append(helper.make_node("Cast", [name], [node.input[index]], to=numbers))
        output, node.output[0] = node.output[0], f"{node.name}_low"
        back = helper.make_node("Cast", [node.output[0]], [output], to=TensorProto.FLOAT)
        nodes += [node, back]
    del model.graph.node[:], model.graph.value_info[:]
    model.graph.node.extend(nodes)
    return bytes(model.SerializeToString())


def test_options_have_defaults_and_units() -> None:
    options = engine_options(workspace_gib=0.5)
    assert options.workspace_bytes == 512 * 1024**2
    assert options.optimization_level == 3
    assert options.timing_cache is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"workspace_gib": 0}, "workspace_gib is 0, wanted"),
        ({"workspace_gib": math.nan}, "workspace_gib is nan, wanted"),
        ({"optimization_level": 6}, "optimization_level is 6, wanted 0 to 5"),
        ({"optimization_level": 2.5}, "optimization_level is 2.5, wanted a whole number"),
    ],
)
def test_options_out_of_range_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        engine_options(**arguments)


def test_a_batch_becomes_three_shapes() -> None:
    shapes = input_range(448, (1, 4, 16))
    assert shapes.minimum == (1, 3, 448, 448)
    assert shapes.optimum == (4, 3, 448, 448)
    assert shapes.maximum == (16, 3, 448, 448)
    assert not shapes.is_fixed
    assert input_range(224, (2, 2, 2)).is_fixed


@pytest.mark.parametrize("batch", [(0, 1, 1), (2, 1, 4), (1, 4, 2), (1, 1.5, 2), (1, 1)])
def test_a_batch_that_is_no_range_is_refused(batch: Any) -> None:
    with pytest.raises(InputError, match=r"batch is .* wanted whole numbers"):
        input_range(224, batch)


def test_without_the_package_the_error_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'procmem\[tensorrt\]'"):
        build_engine(BUNDLED.read_bytes(), side=224)


def test_without_a_gpu_the_error_says_where_to_build() -> None:
    for module in ("tensorrt", "tensorrt_rtx", "tensorrt_lean"):
        if importlib.util.find_spec(module) is not None:
            break
    else:
        pytest.skip("no package of TensorRT is installed")
    cuda = pytest.importorskip("cuda.bindings.runtime", reason="cuda.bindings is not installed")
    status, count = cuda.cudaGetDeviceCount()
    if status == cuda.cudaError_t.cudaSuccess and count:
        pytest.skip("this machine has a GPU")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensorrt_format, "import_tensorrt", lambda: importlib.import_module(module))
        with pytest.raises(ExportError, match=r"only be built where it shall run.*docs/gpu.md"):
            build_engine(BUNDLED.read_bytes(), side=224)


@pytest.mark.parametrize("batch", [(1, 1, 1), (2, 2, 2), (1, 2, 8)])
def test_the_shipped_model_becomes_an_engine(trt: Any, batch: tuple[int, int, int]) -> None:
    shapes = input_range(224, batch)
    plan = build_plan(trt, BUNDLED.read_bytes(), shapes=shapes, options=engine_options())
    # The weights alone, 6.9 million numbers of 4 bytes: nothing was lost on the way.
    assert len(plan) > 27e6


def test_other_sides_become_engines(trt: Any) -> None:
    shapes = input_range(448, (1, 1, 1))
    assert build_plan(trt, BUNDLED.read_bytes(), shapes=shapes, options=engine_options())


def test_a_graph_for_every_side_is_refused_in_tensorrts_words(trt: Any) -> None:
    with pytest.raises(ExportError, match=r"cannot parse the graph .*[Aa]ntialias"):
        define_network(trt, BUNDLED.read_bytes())


@pytest.mark.parametrize(
    ("numbers", "name"),
    [(TensorProto.FLOAT16, "HALF"), (TensorProto.BFLOAT16, "BF16"), (TensorProto.FLOAT, "FLOAT")],
)
def test_products_have_the_type_that_the_graph_writes(trt: Any, numbers: int, name: str) -> None:
    network = define_network(trt, fix_side(typed_model(numbers), side=64, batch=1))
    definition = network.definition
    check_network(trt, definition, input_range(64, (1, 1, 1)))
    layers = [definition.get_layer(index) for index in range(definition.num_layers)]
    products = [
        layer
        for layer in layers
        if layer.type in (trt.LayerType.CONVOLUTION, trt.LayerType.MATRIX_MULTIPLY)
    ]
    assert len(products) == 2
    assert {layer.get_output(0).dtype for layer in products} == {getattr(trt.DataType, name)}
    assert definition.get_flag(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    shapes = input_range(64, (1, 1, 1))
    assert build_plan(trt, typed_model(numbers), shapes=shapes, options=engine_options())


@pytest.mark.parametrize("numbers", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
@pytest.mark.parametrize("batch", [(1, 1, 1), (1, 1, 8)])
def test_products_of_two_bytes_store_weights_of_two_bytes(
    trt: Any, numbers: int, batch: tuple[int, int, int]
) -> None:
    plans = [
        build_plan(trt, data, shapes=input_range(224, batch), options=engine_options())
        for data in (BUNDLED.read_bytes(), with_products_in(numbers))
    ]
    saved = len(plans[0]) - len(plans[1])
    weights = 12 * 12 * 192**2  # of the blocks: attention 4 D^2, MLP 8 D^2
    assert saved > 2 * weights


def test_outputs_of_lower_precision_are_refused(trt: Any) -> None:
    data = typed_model(TensorProto.FLOAT16, cast_back=False)
    with pytest.raises(ExportError, match=r"gives .*cls tensor\(half\).*cast outputs"):
        build_plan(trt, data, shapes=input_range(64, (1, 1, 1)), options=engine_options())


def test_a_side_that_loses_the_edge_is_refused(trt: Any) -> None:
    with pytest.raises(ExportError, match=r"at side 230 .* multiple of the patch size"):
        build_plan(
            trt,
            BUNDLED.read_bytes(),
            shapes=input_range(230, (1, 1, 1)),
            options=engine_options(),
        )


def test_a_graph_of_nothing_is_refused(trt: Any) -> None:
    network = define_network(trt, b"")
    with pytest.raises(ExportError, match="gives nothing, wanted"):
        check_network(trt, network.definition, input_range(64, (1, 1, 1)))


def test_an_engine_can_neither_be_refitted_nor_round_to_tf32(trt: Any) -> None:
    network = define_network(trt, fix_side(typed_model(TensorProto.FLOAT), side=64))
    options = engine_options(workspace_gib=1, optimization_level=5)
    assert network.builder.create_builder_config().get_flag(trt.BuilderFlag.TF32)
    config = configure(trt, network, shapes=input_range(64, (1, 2, 4)), options=options)
    for flag in ("TF32", "REFIT", "VERSION_COMPATIBLE", "STRIP_PLAN", "WEIGHT_STREAMING"):
        assert not config.get_flag(getattr(trt.BuilderFlag, flag)), flag
    assert config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == 1 << 30
    assert config.builder_optimization_level == 5
    assert config.num_optimization_profiles == 1


def test_a_fixed_batch_needs_no_profile(trt: Any) -> None:
    network = define_network(trt, fix_side(typed_model(TensorProto.FLOAT), side=64, batch=3))
    assert tuple(network.definition.get_input(0).shape) == (3, 3, 64, 64)
    config = configure(trt, network, shapes=input_range(64, (3, 3, 3)), options=engine_options())
    assert config.num_optimization_profiles == 0


def test_progress_rises_on_the_callers_thread(trt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_format, "_POLL_SECONDS", 0.001)
    told: list[tuple[int, int | None, bool]] = []
    build_plan(
        trt,
        BUNDLED.read_bytes(),
        shapes=input_range(224, (1, 1, 1)),
        options=engine_options(),
        progress=lambda done, total: told.append(
            (done, total, threading.current_thread() is threading.main_thread())
        ),
    )
    steps = [done for done, _, _ in told]
    assert steps
    assert steps == sorted(set(steps))
    assert all(total is None and here for _, total, here in told)


def test_an_interruption_ends_the_build(trt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_format, "_POLL_SECONDS", 0.001)
    monitors = []
    make = tensorrt_format._progress_monitor
    monkeypatch.setattr(
        tensorrt_format, "_progress_monitor", lambda trt: monitors.append(make(trt)) or monitors[0]
    )

    def interrupt(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    arguments: Any = {"shapes": input_range(224, (1, 2, 8)), "options": engine_options()}
    with pytest.raises(KeyboardInterrupt):
        build_plan(trt, BUNDLED.read_bytes(), progress=interrupt, **arguments)
    interrupted = monitors.pop().steps
    build_plan(trt, BUNDLED.read_bytes(), **arguments)
    assert interrupted < monitors.pop().steps


def test_a_build_that_fails_says_what_tensorrt_said(trt: Any) -> None:
    one_byte = engine_options(workspace_gib=2**-30)
    with pytest.raises(ExportError, match=r"could not build an engine \(.*workspace limit"):
        build_plan(
            trt,
            typed_model(TensorProto.FLOAT),
            shapes=input_range(64, (2, 2, 4)),
            options=one_byte,
        )


def test_a_timing_cache_is_written_and_read(trt: Any, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    path = tmp_path / "timing.cache"
    arguments: Any = {
        "shapes": input_range(64, (1, 1, 1)),
        "options": engine_options(timing_cache=path),
    }
    data = typed_model(TensorProto.FLOAT)
    assert build_plan(trt, data, **arguments)
    assert path.stat().st_mode & 0o077 == 0
    written = path.read_bytes()
    assert written
    assert build_plan(trt, data, **arguments)
    path.write_bytes(b"of another GPU, or damaged")
    assert build_plan(trt, data, **arguments)
    assert path.read_bytes()[:4] == written[:4]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no modes")
def test_a_timing_cache_that_others_may_write_is_refused(trt: Any, tmp_path: Path) -> None:
    path = tmp_path / "timing.cache"
    path.write_bytes(b"")
    path.chmod(0o666)
    with pytest.raises(ExportError, match=r"timing.cache may be written by others"):
        build_plan(
            trt,
            typed_model(TensorProto.FLOAT),
            shapes=input_range(64, (1, 1, 1)),
            options=engine_options(timing_cache=path),
        )


@pytest.mark.parametrize("side", [224, 448])
@pytest.mark.parametrize("batch", [(1, 1, 1), (1, 1, 8)])
def test_an_engine_answers_as_its_graph(
    gpu: dict[str, str], side: int, batch: tuple[int, int, int]
) -> None:
    data = BUNDLED.read_bytes()
    engine = build_engine(data, side=side, batch=batch)
    assert engine.hardware == gpu
    manifest = engine_manifest(engine.hardware)
    session = open_session(engine.data, manifest, side=side, device="auto", threads=None)
    images = probe(side)
    graph = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    wanted = graph.run(["cls", "patches"], {"images": images})
    for got, want in zip(session.run(images), wanted, strict=True):
        # float32 without TF32: what differs is the order of sums.
        np.testing.assert_allclose(got, want, atol=1e-3)


def engine_manifest(hardware: dict[str, str]) -> Manifest:
    source = read_manifest(BUNDLED)
    return dataclasses.replace(
        source, kind="tensorrt", file="vit-tiny.engine", any_side=False, hardware=hardware
    )
