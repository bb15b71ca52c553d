"""The AVX-512 paths for signs beside the portable one.

A processor that has both takes the faster one and never the other; here each is run. Where it lacks
the instructions they are done by plain loops, which needs SIMDe (Debian: libsimde-dev); elsewhere
that is skipped, visibly. Both need g++.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
FLAGS = ("avx512f", "avx512bw", "avx512vbmi")


def checked(tmp_path: Path, *options: str | Path) -> None:
    """Builds check_sign_paths with these options and runs it."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++")
    program = tmp_path / "check_sign_paths"
    sources = [ROOT / f"cpp_ext/signs_{path}.cpp" for path in ("scalar", "avx512", "vbmi")]
    subprocess.run(
        [
            compiler, "-std=c++17", "-O1", "-w", "-DPROCMEM_X86=1", *options,
            f"-I{ROOT / 'cpp_ext'}", *sources, HERE / "check_sign_paths.cpp", "-o", program,
        ],
        check=True,
    )  # fmt: skip
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "300 rounds agree\n"


def test_the_paths_for_signs_agree_on_this_processor(tmp_path: Path) -> None:
    known = Path("/proc/cpuinfo")
    flags = set(known.read_text(encoding="utf-8").split()) if known.exists() else set()
    if not flags.issuperset(FLAGS):
        pytest.skip("this processor does not say that it has AVX-512 F, BW and VBMI")
    checked(tmp_path, *(f"-m{flag}" for flag in FLAGS))


def test_the_paths_for_signs_agree_by_plain_loops(tmp_path: Path) -> None:
    if not Path("/usr/include/simde/x86/avx512.h").exists():
        pytest.skip("needs SIMDe")
    checked(tmp_path, f"-I{HERE / 'emulated'}")
