"""The tests of the extensions once more, in a build that stops at each invalid access or overflow.

Needs GCC or Clang, CMake and Ninja; elsewhere it is skipped, visibly.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pybind11
import pytest

ROOT = Path(__file__).parents[2]
SANITIZERS = "address,undefined"
EXTENSIONS = ("_patchsim", "_ledger", "_erasure")
TESTS = ("kernel", "ledger", "erasure", "ledger_pass")

# Puts the modules of that build in the places of the installed ones, then runs the tests.
RUNNER = """
import importlib.util, sys
for name, path in zip(("_patchsim", "_ledger", "_erasure"), sys.argv[1:4]):
    spec = importlib.util.spec_from_file_location("procmem." + name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["procmem." + name] = module
    spec.loader.exec_module(module)
import pytest
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", *sys.argv[4:]]))
"""


def runtime(compiler: str, name: str) -> str | None:
    """The path of a sanitizer's library, None if the compiler has none."""
    found = subprocess.run(
        [compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return str(Path(found).resolve()) if Path(found).is_absolute() else None


def run(*command: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.skipif(platform.system() != "Linux", reason="preloads the sanitizers as Linux does")
def test_no_path_reads_or_writes_where_it_must_not(tmp_path: Path) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    compiler, cmake, ninja = (shutil.which(name, path=path) for name in ("g++", "cmake", "ninja"))
    address = runtime(compiler, "libasan.so") if compiler else None
    undefined = runtime(compiler, "libubsan.so") if compiler else None
    if compiler is None or cmake is None or ninja is None or not address or not undefined:
        pytest.skip("needs g++ with its sanitizers, cmake and ninja")
    configured = run(
        cmake, "-S", ROOT, "-B", tmp_path, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}",
        f"-DPROCMEM_SANITIZE={SANITIZERS}",
        "-DPROCMEM_WERROR=ON", "-DCMAKE_BUILD_TYPE=RelWithDebInfo",
        "-DCMAKE_CXX_FLAGS_RELWITHDEBINFO=-O1 -DNDEBUG",  # two thirds of the time of -O2
        f"-DCMAKE_CXX_COMPILER={compiler}", f"-DPython_EXECUTABLE={sys.executable}",
        f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
    )  # fmt: skip
    assert configured.returncode == 0, configured.stdout + configured.stderr
    built = run(cmake, "--build", tmp_path)
    assert built.returncode == 0, built.stdout + built.stderr
    modules = [next((tmp_path / "cpp_ext").glob(f"{name}*.so")) for name in EXTENSIONS]
    for module in modules:
        assert b"__asan_report_load" in module.read_bytes()  # the flags have arrived

    tested = run(
        sys.executable, "-c", RUNNER, *modules,
        *(ROOT / f"tests/cpp_ext/test_{name}.py" for name in TESTS),
        LD_PRELOAD=f"{address} {undefined}",
        # Python itself leaks and relies on allocations that fail.
        ASAN_OPTIONS="detect_leaks=0:allocator_may_return_null=1",
        UBSAN_OPTIONS="halt_on_error=1:print_stacktrace=1",
    )  # fmt: skip
    assert tested.returncode == 0, tested.stdout[-5000:] + tested.stderr[-5000:]
    assert " passed" in tested.stdout
