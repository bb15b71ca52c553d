"""How many threads one image gets: the cores that this process may really use.

Used by the engines when nobody said how many. An engine left to itself counts the machine's cores;
in a container that may use one of sixty-four it would then start sixty-four threads that take
turns, and stop for the rest of each period once the quota is spent. Measured with a quota of 1
core on 2 (ViT-Ti, ONNX Runtime, `docs/devices.md`): 2 threads 17 ms on average and 61 at most, 1
thread 14 and 17. Reads files of the operating system, never writes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

_CPUS = Path("/sys/devices/system/cpu")
_PROC = Path("/proc/self")
_CGROUPS = Path("/sys/fs/cgroup")


def usable_threads() -> int:
    """Physical cores that this process may use, and no more than its quota buys; at least 1."""
    cpus = _affinity()
    cores = os.cpu_count() or 1 if cpus is None else physical_cores(cpus, _CPUS)
    quota = cpu_quota(_PROC, _CGROUPS)
    return cores if quota is None else max(1, min(cores, int(quota)))


def physical_cores(cpus: Iterable[int], folder: Path) -> int:
    """How many cores the logical processors belong to; each counts where the system says nothing.

    Args:
        cpus: numbers of logical processors.
        folder: of the kernel's description, `/sys/devices/system/cpu`.
    """
    cores = set()
    for cpu in cpus:
        try:
            # The list of a core's logical processors is the same text for each of them.
            siblings = (folder / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text()
        except OSError:
            siblings = str(cpu)
        cores.add(siblings.strip())
    return max(1, len(cores))


def cpu_quota(proc: Path, cgroups: Path) -> float | None:
    """Processors' worth of time that the control groups of a process leave it; None for no limit.

    Args:
        proc: the process's folder, `/proc/self`.
        cgroups: where control groups are mounted, `/sys/fs/cgroup`; both versions are read.
    """
    quotas = [
        quota
        for folder in _cgroup_folders(proc, cgroups)
        for quota in (_quota_v2(folder), _quota_v1(folder))
        if quota is not None
    ]
    return min(quotas, default=None)


def _affinity() -> set[int] | None:
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return None


def _cgroup_folders(proc: Path, cgroups: Path) -> list[Path]:
    """The group of the process and all that it lies in: a limit holds for everything below it."""
    folders = [cgroups, cgroups / "cpu"]  # all that a container sees of its own group
    try:
        lines = (proc / "cgroup").read_text().splitlines()
    except OSError:
        return folders
    for line in lines:
        # "0::/path" in version 2, "3:cpu,cpuacct:/path" in version 1.
        _, controllers, path = line.split(":", 2)
        names = controllers.split(",")
        if controllers and "cpu" not in names:
            continue
        root = cgroups / "cpu" if controllers else cgroups
        parts = [part for part in path.split("/") if part not in ("", "..")]
        folders += [root.joinpath(*parts[:depth]) for depth in range(1, len(parts) + 1)]
    return folders


def _quota_v2(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _quota_v1(folder: Path) -> float | None:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        period = int((folder / "cpu.cfs_period_us").read_text())
        return quota / period if quota > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
