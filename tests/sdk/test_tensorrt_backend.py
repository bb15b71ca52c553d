"""What can be promised without a GPU: refusals, in this order, before an engine is looked at.

That engines answer as their graphs do is tested in tests/export/test_tensorrt.py, on a GPU.
"""

import dataclasses
import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tests.tiny_model import write_tiny_model

from procmem.backends import tensorrt as backend
from procmem.backends.tensorrt import check_hardware, describe_machine, open_session
from procmem.errors import InputError, MissingExtraError, ModelError, ModelIntegrityError
from procmem.manifest import Manifest, read_manifest

H200 = {
    "gpu": "NVIDIA H200",
    "compute_capability": "9.0",
    "cuda": "13.0",
    "driver": "580.159.04",
    "tensorrt": "11.4.0.106",
}


@pytest.fixture
def engine_manifest(tmp_path: Path) -> Manifest:
    source = read_manifest(write_tiny_model(tmp_path))
    return dataclasses.replace(
        source, kind="tensorrt", file="tiny.engine", any_side=False, batch=1, hardware=H200
    )


@pytest.fixture
def cuda_without_gpu() -> ModuleType:
    """NVIDIA's real bindings on a machine that has no GPU."""
    cuda = pytest.importorskip("cuda.bindings.runtime", reason="cuda.bindings is not installed")
    status, count = cuda.cudaGetDeviceCount()
    if status == cuda.cudaError_t.cudaSuccess and count:
        pytest.skip("this machine has a GPU")
    return cuda  # type: ignore[no-any-return]  # importorskip is typed so in some versions only


@pytest.fixture
def real_tensorrt() -> Any:
    """A real package of TensorRT; the lean one and that for RTX import without a GPU."""
    for name in ("tensorrt", "tensorrt_lean", "tensorrt_rtx"):
        try:
            return importlib.import_module(name)
        except (ImportError, OSError):
            continue
    return pytest.skip("no package of TensorRT is installed")


def open_it(manifest: Manifest, *, device: str = "auto") -> Any:
    return open_session(b"an engine", manifest, side=224, device=device, threads=None)


def test_importing_the_module_imports_neither_tensorrt_nor_cuda() -> None:
    code = (
        "import sys, procmem.backends.tensorrt\n"
        "print(sorted({'tensorrt', 'cuda', 'torch', 'onnxruntime'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("device", ["cpu", "cuda", "openvino"])
def test_another_device_is_refused(engine_manifest: Manifest, device: str) -> None:
    with pytest.raises(InputError, match=rf"device is '{device}', but tiny.engine is a TensorRT"):
        open_it(engine_manifest, device=device)


def test_without_tensorrt_the_error_names_the_command(
    engine_manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingExtraError, match=r"TensorRT, .*pip install 'procmem\[tensorrt\]'"):
        open_it(engine_manifest)


def test_without_cuda_bindings_the_error_names_the_command(
    engine_manifest: Manifest, monkeypatch: pytest.MonkeyPatch, real_tensorrt: Any
) -> None:
    monkeypatch.setattr(backend, "import_tensorrt", lambda: real_tensorrt)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    with pytest.raises(MissingExtraError, match=r"cuda.bindings, .*procmem\[tensorrt\]"):
        open_it(engine_manifest)


def test_without_a_gpu_the_error_says_what_to_check(
    engine_manifest: Manifest,
    monkeypatch: pytest.MonkeyPatch,
    real_tensorrt: Any,
    cuda_without_gpu: ModuleType,
) -> None:
    monkeypatch.setattr(backend, "import_tensorrt", lambda: real_tensorrt)
    with pytest.raises(InputError, match=r"needs an NVIDIA GPU.*check nvidia-smi.*docs/gpu.md"):
        open_it(engine_manifest)


def test_a_machine_without_a_gpu_is_not_described(
    real_tensorrt: Any, cuda_without_gpu: ModuleType
) -> None:
    with pytest.raises(InputError, match="CUDA finds none here"):
        describe_machine(real_tensorrt, cuda_without_gpu)


def test_an_engine_of_this_machine_passes(engine_manifest: Manifest) -> None:
    check_hardware(engine_manifest, dict(H200))


@pytest.mark.parametrize("fact", ["driver", "cuda"])
def test_an_engine_outlives_a_new_driver(engine_manifest: Manifest, fact: str) -> None:
    check_hardware(engine_manifest, {**H200, fact: "another"})


@pytest.mark.parametrize(
    ("fact", "value"),
    [("gpu", "NVIDIA L4"), ("compute_capability", "8.9"), ("tensorrt", "11.4.1.2")],
)
def test_an_engine_of_another_machine_is_refused_with_both(
    engine_manifest: Manifest, fact: str, value: str
) -> None:
    with pytest.raises(ModelError, match=r"built for NVIDIA H200.*export .* again") as caught:
        check_hardware(engine_manifest, {**H200, fact: value})
    assert not isinstance(caught.value, ModelIntegrityError)
    assert value in str(caught.value)
    assert H200[fact] in str(caught.value)
    assert "--format tensorrt --out tiny.engine" in str(caught.value)


@pytest.mark.parametrize("lost", [["tensorrt"], ["gpu", "compute_capability"], list(H200)])
def test_an_engine_that_does_not_say_what_it_is_for_is_refused(
    engine_manifest: Manifest, lost: list[str]
) -> None:
    hardware = {fact: value for fact, value in H200.items() if fact not in lost}
    manifest = dataclasses.replace(engine_manifest, hardware=hardware)
    with pytest.raises(ModelIntegrityError, match=r"does not say its .*export"):
        check_hardware(manifest, dict(H200))


def test_the_log_keeps_errors_and_prints_nothing(
    real_tensorrt: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    log = backend.message_log(real_tensorrt)
    assert log.text() == "it says nothing"
    severity = real_tensorrt.ILogger
    for level, text in (
        (severity.VERBOSE, "detail"),
        (severity.WARNING, "warning"),
        (severity.ERROR, "first\n  error\n"),
        (severity.INTERNAL_ERROR, "second"),
    ):
        log.log(level, text)
    assert log.text() == "first error; second"
    log.clear()
    assert log.text() == "it says nothing"
    assert capfd.readouterr() == ("", "")


def test_tensors_are_told_in_the_words_of_the_contract(real_tensorrt: Any) -> None:
    types = real_tensorrt.DataType
    free = backend.port(real_tensorrt, "images", types.FLOAT, (-1, 3, 224, 224))
    assert free.shape == (None, 3, 224, 224)
    assert free.is_float32
    assert free.kind == "tensor(float)"
    half = backend.port(real_tensorrt, "cls", types.HALF, (1, 48))
    assert not half.is_float32
    assert half.kind == "tensor(half)"


def test_what_runs_an_engine_is_in_the_packages(real_tensorrt: Any) -> None:
    cuda = pytest.importorskip("cuda.bindings.runtime", reason="cuda.bindings is not installed")
    for owner, names in {
        real_tensorrt.IExecutionContext: "set_input_shape set_tensor_address execute_async_v3",
        real_tensorrt.ICudaEngine: "num_io_tensors get_tensor_name get_tensor_mode "
        "get_tensor_dtype get_tensor_shape create_execution_context",
        real_tensorrt.TensorIOMode: "INPUT OUTPUT",
        cuda: "cudaMalloc cudaFree cudaMemcpyAsync cudaStreamCreateWithFlags cudaStreamDestroy "
        "cudaStreamNonBlocking cudaStreamSynchronize cudaGetDeviceProperties",
        cuda.cudaMemcpyKind: "cudaMemcpyHostToDevice cudaMemcpyDeviceToHost",
        cuda.cudaDeviceProp: "name major minor",
    }.items():
        assert [name for name in names.split() if not hasattr(owner, name)] == [], owner


def test_a_runtime_that_does_not_start_is_an_error_and_no_crash(
    cuda_without_gpu: ModuleType, capfd: pytest.CaptureFixture[str]
) -> None:
    lean = pytest.importorskip("tensorrt_lean", reason="tensorrt-lean is not installed")
    with pytest.raises(ModelError, match=r"does not start \(.*CUDA.*check with nvidia-smi"):
        backend.start_runtime(lean, backend.message_log(lean))
    assert capfd.readouterr() == ("", "")


def test_bytes_that_are_no_engine_are_refused_without_noise(
    capfd: pytest.CaptureFixture[str],
) -> None:
    rtx = pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    log = backend.message_log(rtx)
    runtime = backend.start_runtime(rtx, log)
    assert runtime.engine_host_code_allowed is False
    assert runtime.deserialize_cuda_engine(b"no engine at all" * 256) is None
    assert log.has_errors()
    assert capfd.readouterr() == ("", "")
