"""The cores and the memory that this process may use: those of the machine, or of the container around it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")

UNLIMITED = 2**60
"""Version 1 of control groups writes a number above this where there is no limit."""


def count_cores(root: Path = ROOT) -> int:
    """Returns how many cores this process may keep busy, at least 1: by its affinity and the quotas of its groups."""
    quotas = [quota / period for quota, period in _read_quotas(root)]
    return max(1, int(min([len(os.sched_getaffinity(0)), *quotas])))


def measure_memory(root: Path = ROOT) -> int:
    """Returns the bytes of memory that this process may use: the machine's, or the lowest limit of its groups."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [_read_number(place / name) for place in _list_groups(root, "memory")
              for name in ("memory.max", "memory.limit_in_bytes")]  # fmt: skip
    return min([machine, *(limit for limit in limits if limit and limit < UNLIMITED)])


def _read_quotas(root: Path) -> Iterator[tuple[int, int]]:
    """Yields the microseconds of work that each group may do in a period, and the period, where there is a limit."""
    for place in _list_groups(root, "cpu"):
        words = _read_words(place / "cpu.max")  # version 2: both numbers in one file
        quota, period = words if len(words) == 2 else ("", "")
        if quota.isdecimal() and period.isdecimal() and int(period):
            yield int(quota), int(period)
        old, period_of = _read_number(place / "cpu.cfs_quota_us"), _read_number(place / "cpu.cfs_period_us")
        if old and period_of:
            yield old, period_of


def _list_groups(root: Path, controller: str) -> list[Path]:
    """Lists the folders of this process's control groups, and of all groups around them, in both versions.

    Inside a container the path of a group may be the one outside; the folders that exist are enough then.
    """
    found: dict[Path, None] = {}
    mounts = root / "sys" / "fs" / "cgroup"
    for line in _read_lines(root / "proc" / "self" / "cgroup"):
        number, names, path = [*line.split(":", 2), "", ""][:3]
        if number == "0" or controller in names.split(","):
            for mount in (mounts, mounts / "unified") if number == "0" else (mounts / names, mounts / controller):
                group = mount / path.lstrip("/")
                found |= dict.fromkeys([group, *(each for each in group.parents if each.is_relative_to(mount))])
    return list(found)


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _read_words(path: Path) -> list[str]:
    return " ".join(_read_lines(path)).split()


def _read_number(path: Path) -> int:
    """Returns the number above 0 in a file; 0 if there is no such file, or no limit."""
    words = _read_words(path)
    return int(words[0]) if len(words) == 1 and words[0].isdecimal() else 0
