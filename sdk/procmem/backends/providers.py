"""What ONNX Runtime is told about each of its providers.

Used by `onnxruntime.py`. Pure functions of a manifest: they look at no machine, so that what a GPU
will be told can be read and tested where there is none.

Sources: the pages of the TensorRT, CUDA, CoreML and QNN execution providers at onnxruntime.ai/docs.
"""

from __future__ import annotations

from pathlib import Path

from procmem.backends.contract import INPUT
from procmem.backends.devices import Device, row_of
from procmem.manifest import Manifest

Provider = tuple[str, dict[str, str]]


def providers_for(
    device: Device, manifest: Manifest, *, side: int, engines: Path | None = None
) -> list[Provider]:
    """The providers of a device with their options, the wanted one first.

    Those behind it take the nodes that it cannot run: CUDA behind TensorRT, the processor behind
    all.

    Args:
        device: one whose row in the table has a provider.
        manifest: of the model.
        side: S, side of the input, pixels.
        engines: private folder for TensorRT's engines; None to keep none.
    """
    cpu: Provider = ("CPUExecutionProvider", {})
    if device == "cpu":
        return [cpu]
    name = row_of(device).provider
    assert name is not None
    # TF32 would round every product to 10 bits and break the parity with the processor.
    cuda: Provider = (
        "CUDAExecutionProvider",
        {"use_tf32": "0", "cudnn_conv_algo_search": "DEFAULT"},
    )
    if device == "cuda":
        return [cuda, cpu]
    if device == "tensorrt":
        return [(name, _tensorrt(manifest, side, engines)), cuda, cpu]
    if device == "coreml":
        return [(name, _coreml()), cpu]
    return [(name, _qnn(manifest)), cpu]


def _tensorrt(manifest: Manifest, side: int, engines: Path | None) -> dict[str, str]:
    half = manifest.precision == "float16"
    options = {
        "trt_fp16_enable": _flag(half),
        # Sums of squares overflow float16; a naive float16 ViT answers with noise.
        "trt_layer_norm_fp32_fallback": _flag(half),
        "trt_int8_enable": _flag(manifest.precision == "int8"),
        "trt_engine_cache_enable": _flag(engines is not None),
        "trt_timing_cache_enable": _flag(engines is not None),
    }
    if manifest.precision == "bfloat16":
        options["trt_bf16_enable"] = "1"  # only then: ONNX Runtime before 1.22 does not know it
    if engines is not None:
        options["trt_engine_cache_path"] = str(engines)
        options["trt_timing_cache_path"] = str(engines)
    if not manifest.any_side:
        # Such a file may leave the batch free under any name, and TensorRT wants a range for it.
        shape = f"{INPUT}:1x3x{side}x{side}"
        options |= {f"trt_profile_{which}_shapes": shape for which in ("min", "opt", "max")}
    return options


def _coreml() -> dict[str, str]:
    return {
        "ModelFormat": "MLProgram",  # keeps each tensor's own type; the older format does not
        "MLComputeUnits": "ALL",
        "RequireStaticInputShapes": "1",
    }


def _qnn(manifest: Manifest) -> dict[str, str]:
    # "htp" is the neural processor; the plugin knows where its own library for it lies.
    options = {"backend_type": "htp"}
    if manifest.precision == "float16":
        options["enable_htp_fp16_precision"] = "1"
    return options


def _flag(value: bool) -> str:
    return "1" if value else "0"
