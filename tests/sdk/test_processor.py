"""Threads for one image: cores, hyperthreads and quotas as the operating system states them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from procmem.backends.processor import cpu_quota, physical_cores, usable_threads


def topology(folder: Path, siblings: dict[int, str]) -> Path:
    for cpu, text in siblings.items():
        where = folder / f"cpu{cpu}" / "topology"
        where.mkdir(parents=True)
        (where / "thread_siblings_list").write_text(text + "\n")
    return folder


def test_two_hyperthreads_of_a_core_count_once(tmp_path: Path) -> None:
    cpus = topology(tmp_path, {0: "0,4", 1: "1,5", 4: "0,4", 5: "1,5"})
    assert physical_cores({0, 1, 4, 5}, cpus) == 2
    assert physical_cores({0, 4}, cpus) == 1
    assert physical_cores({0, 5}, cpus) == 2


def test_processors_of_which_the_system_says_nothing_count_each(tmp_path: Path) -> None:
    assert physical_cores({0, 1, 2}, tmp_path) == 3


@pytest.mark.parametrize(
    ("group", "files", "quota"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/a/b\n", {"a/cpu.max": "200000 100000", "a/b/cpu.max": "max 100000"}, 2.0),
        ("0::/a/b\n", {"a/cpu.max": "400000 100000", "a/b/cpu.max": "50000 100000"}, 0.5),
        ("0::/a\n", {"b/cpu.max": "50000 100000"}, None),
        (
            "3:cpu,cpuacct:/a\n",
            {"cpu/a/cpu.cfs_quota_us": "300000", "cpu/a/cpu.cfs_period_us": "100000"},
            3.0,
        ),
        (
            "3:cpu:/docker/x\n",
            {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"},
            1.0,
        ),
        ("3:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ("0::/../../up\n", {"cpu.max": "nonsense"}, None),
        ("", {}, None),
    ],
)
def test_the_smallest_quota_on_the_way_up_is_found(
    tmp_path: Path, group: str, files: dict[str, str], quota: float | None
) -> None:
    proc, cgroups = tmp_path / "proc", tmp_path / "cgroup"
    proc.mkdir()
    (proc / "cgroup").write_text(group)
    for name, text in files.items():
        (cgroups / name).parent.mkdir(parents=True, exist_ok=True)
        (cgroups / name).write_text(text)
    assert cpu_quota(proc, cgroups) == quota


def test_a_system_without_control_groups_has_no_quota(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path / "none", tmp_path / "none") is None


def test_a_quota_below_one_core_still_gives_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("procmem.backends.processor.cpu_quota", lambda *_: 0.5)
    assert usable_threads() == 1


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system pins no processes")
def test_a_process_pinned_to_one_processor_starts_no_other_thread_for_a_model() -> None:
    code = """
import os, pathlib
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from procmem import Embedder
from procmem.backends.onnxruntime import import_onnxruntime
import_onnxruntime()
tasks = lambda: len(list(pathlib.Path("/proc/self/task").iterdir()))
before = tasks()
with Embedder(device="cpu") as embedder:
    print(tasks() - before, "1 thread)" in embedder.notice)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    answer = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    )
    assert answer.stdout.split() == ["0", "True"]
