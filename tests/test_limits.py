"""Cores and memory: a container's quotas and limits count as the machine's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ablations import limits

CORES = len(os.sched_getaffinity(0))
MEMORY = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")

GROUPS = "sys/fs/cgroup"


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


@pytest.mark.parametrize(
    ("files", "cores", "memory"),
    [
        ({}, CORES, MEMORY),
        ({"proc/self/cgroup": "0::/", f"{GROUPS}/cpu.max": "max 9", f"{GROUPS}/memory.max": "max"}, CORES, MEMORY),
        ({"proc/self/cgroup": "0::/", f"{GROUPS}/cpu.max": "15 10", f"{GROUPS}/memory.max": "65536"}, 1, 65536),
        (
            {
                "proc/self/cgroup": "0::/a/b",
                f"{GROUPS}/a/cpu.max": "5 10",
                f"{GROUPS}/a/b/cpu.max": "max 9",
                f"{GROUPS}/a/b/memory.max": "8192",
                f"{GROUPS}/a/memory.max": "4096",
            },
            1,
            4096,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/docker/x\n7:memory:/docker/x",
                f"{GROUPS}/cpu,cpuacct/cpu.cfs_quota_us": "100000",
                f"{GROUPS}/cpu,cpuacct/cpu.cfs_period_us": "100000",
                f"{GROUPS}/memory/memory.limit_in_bytes": "4096",
            },
            1,
            4096,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu:/\n7:memory:/",
                f"{GROUPS}/cpu/cpu.cfs_quota_us": "-1",
                f"{GROUPS}/cpu/cpu.cfs_period_us": "100000",
                f"{GROUPS}/memory/memory.limit_in_bytes": "9223372036854771712",
            },
            CORES,
            MEMORY,
        ),
        ({"proc/self/cgroup": "nonsense", f"{GROUPS}/cpu.max": ""}, CORES, MEMORY),
    ],
    ids=["no groups", "no limits", "version 2", "nested", "version 1 in a container", "version 1 unlimited", "damaged"],
)
def test_quotas_and_limits_of_control_groups_count(tmp_path, files, cores, memory):
    root = write(tmp_path, files)
    assert (limits.count_cores(root), limits.measure_memory(root)) == (cores, memory)
