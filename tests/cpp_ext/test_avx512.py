"""The AVX-512 path for signs on processors without AVX-512, its instructions done by plain loops.

Needs g++ and SIMDe (Debian: libsimde-dev); elsewhere it is skipped, visibly. Where the processor
has them, `tests/sdk/test_signs.py` runs the instructions themselves.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent


def test_the_path_for_signs_agrees_with_the_portable_one(tmp_path: Path) -> None:
    compiler = shutil.which("g++")
    if compiler is None or not Path("/usr/include/simde/x86/avx512.h").exists():
        pytest.skip("needs g++ and SIMDe")
    program = tmp_path / "check_sign_paths"
    sources = [ROOT / f"cpp_ext/signs_{path}.cpp" for path in ("scalar", "avx512")]
    subprocess.run(
        [
            compiler, "-std=c++17", "-O1", "-w", "-DPROCMEM_X86=1", f"-I{HERE / 'emulated'}",
            f"-I{ROOT / 'cpp_ext'}", *sources, HERE / "check_sign_paths.cpp", "-o", program,
        ],
        check=True,
    )  # fmt: skip
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "300 rounds agree\n"
