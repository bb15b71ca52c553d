"""What ONNX Runtime would be told about GPUs and neural processors, read where there is none."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from procmem.backends.devices import TABLE
from procmem.backends.providers import providers_for
from procmem.manifest import Manifest, Origin, Preprocessing

MODEL = Manifest(
    kind="onnx",
    name="m",
    file="m.onnx",
    sha256="0" * 64,
    architecture="a",
    patch_size=16,
    cls_dim=8,
    patch_dim=4,
    preprocessing=Preprocessing(),
    origin=Origin("none", 0, "", "0", 0, 0),
    any_side=True,
)


def of(precision: str) -> Manifest:
    return dataclasses.replace(MODEL, precision=precision)


@pytest.mark.parametrize("row", [row for row in TABLE if row.provider], ids=lambda row: row.device)
def test_the_wanted_provider_comes_first_and_the_processor_last(row) -> None:
    providers = [name for name, _ in providers_for(row.device, MODEL, side=224)]
    assert providers[0] == row.provider
    assert providers[-1] == "CPUExecutionProvider"


def test_products_on_cuda_are_never_rounded_to_tf32() -> None:
    for device in ("cuda", "tensorrt"):
        options = dict(providers_for(device, MODEL, side=224))
        assert options["CUDAExecutionProvider"]["use_tf32"] == "0"


@pytest.mark.parametrize(
    ("precision", "on"),
    [
        ("float32", set()),
        ("float16", {"trt_fp16_enable", "trt_layer_norm_fp32_fallback"}),
        ("bfloat16", {"trt_bf16_enable"}),
        ("int8", {"trt_int8_enable"}),
    ],
)
def test_tensorrt_may_compute_in_the_models_precision_and_no_lower(
    precision: str, on: set[str]
) -> None:
    options = dict(providers_for("tensorrt", of(precision), side=224))["TensorrtExecutionProvider"]
    assert {name for name, value in options.items() if value == "1"} == on


def test_tensorrt_keeps_engines_in_the_folder_that_it_is_given_and_nowhere_else() -> None:
    kept = dict(providers_for("tensorrt", MODEL, side=224, engines=Path("/private")))
    options = kept["TensorrtExecutionProvider"]
    assert options["trt_engine_cache_enable"] == options["trt_timing_cache_enable"] == "1"
    paths = {value for name, value in options.items() if name.endswith("_path")}
    assert paths == {str(Path("/private"))}
    none = dict(providers_for("tensorrt", MODEL, side=224))["TensorrtExecutionProvider"]
    assert none["trt_engine_cache_enable"] == none["trt_timing_cache_enable"] == "0"
    assert not [name for name in none if name.endswith("_path")]


def test_tensorrt_is_told_the_one_shape_of_a_file_with_a_free_batch() -> None:
    fixed = dataclasses.replace(MODEL, any_side=False)
    options = dict(providers_for("tensorrt", fixed, side=160))["TensorrtExecutionProvider"]
    shapes = {value for name, value in options.items() if name.startswith("trt_profile")}
    assert shapes == {"images:1x3x160x160"}


def test_every_option_is_a_text_as_the_engine_wants_it() -> None:
    for row in TABLE:
        if row.provider is None:
            continue
        for precision in ("float32", "float16", "bfloat16", "int8"):
            for _, options in providers_for(row.device, of(precision), side=224):
                assert all(isinstance(value, str) for value in options.values())
