"""The paths of the extensions for arm64, cross-compiled and run by an emulator of arm64.

Needs aarch64-linux-gnu-g++ and qemu-aarch64 (Debian: g++-aarch64-linux-gnu, qemu-user);
elsewhere it is skipped, visibly.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
PORTABLE = (
    "dispatch",
    "run_topk",
    "run_mix",
    "run_rows",
    "run_signs",
    "run_nearest",
    "signs_scalar",
    "signs_neon",
    "kernel_scalar",
    "int8_scalar",
    "kernel_neon",
)
DOT_PRODUCTS = "-march=armv8.2-a+dotprod"
HASHES = "-march=armv8-a+crypto"


def compiled(source: Path, folder: Path, *flags: str) -> Path:
    target = folder / f"{source.stem}.o"
    done = subprocess.run(
        [
            COMPILER, "-std=c++17", "-O2", "-Wall", "-Wextra", "-Wconversion", "-Werror",
            "-ffp-contract=off", "-DPROCMEM_ARM64=1", f"-I{ROOT / 'cpp_ext'}", *flags,
            "-c", source, "-o", target,
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return target


def linked(objects: list[Path], built: Path) -> Path:
    subprocess.run([COMPILER, "-static", "-pthread", *objects, "-o", built], check=True)
    return built


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which(COMPILER) is None or shutil.which(EMULATOR) is None:
        pytest.skip(f"needs {COMPILER} and {EMULATOR}")
    return tmp_path_factory.mktemp("arm64")


@pytest.fixture(scope="module")
def program(folder: Path) -> Path:
    objects = [compiled(ROOT / "cpp_ext" / f"{name}.cpp", folder) for name in PORTABLE]
    objects.append(compiled(ROOT / "cpp_ext/int8_neon.cpp", folder, DOT_PRODUCTS))
    objects.append(compiled(ROOT / "tests/cpp_ext/check_paths.cpp", folder))
    return linked(objects, folder / "check_paths")


@pytest.mark.skipif(platform.system() != "Linux", reason="emulates a Linux program")
@pytest.mark.parametrize("processor", ["max", "cortex-a53"])  # with and without dot products
def test_neon_agrees_with_plain_loops(program: Path, processor: str) -> None:
    done = subprocess.run(
        [EMULATOR, "-cpu", processor, program, "60"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines() == ["scalar: 60 rounds agree", "neon: 60 rounds agree"]


@pytest.mark.skipif(platform.system() != "Linux", reason="emulates a Linux program")
def test_hashes_by_instructions_are_those_of_the_standard(folder: Path) -> None:
    objects = [
        compiled(ROOT / "cpp_ext/sha256.cpp", folder),
        compiled(ROOT / "cpp_ext/sha256_arm64.cpp", folder, HASHES),
        compiled(ROOT / "tests/cpp_ext/check_hash_paths.cpp", folder),
    ]
    built = linked(objects, folder / "check_hash_paths")
    done = subprocess.run(
        [EMULATOR, "-cpu", "max", built], capture_output=True, text=True, check=False
    )
    assert done.stdout == "instructions: 600 sizes agree\n", done.stdout + done.stderr
