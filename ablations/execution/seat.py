"""A seat: the place in a cluster where tasks run, one after the other. A seat is a process with a local engine.

An engine for a cluster decides where its seats are, sends them tasks, and passes on their events. How a task runs on a
machine is the local engine's part: a new process for each task, deaths, limits, polite stops, and turns on the device.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablations.environment import describe_code
from ablations.execution.engine import Event, Stopping, Task
from ablations.execution.job import choose_device, job_machine
from ablations.execution.local import LocalEngine

PRELOAD = ("ablations.execution.job", "torch._dynamo")
"""Modules that the server of a local engine loads once, before it forks the processes of tasks."""


@dataclass(frozen=True)
class Order:
    """What a user asks of an engine for a cluster."""

    device: str
    """`auto`, `cpu` or `cuda`."""

    seats: int
    """How many tasks may run at a time; 0 = as many as the cluster has room for."""

    jobs_per_device: int
    folder: Path
    """The results folder. Tasks read it and write to it."""

    options: Mapping[str, str]
    """The engine's own options, as `--with` gives them."""


@dataclass(frozen=True)
class Probe:
    """What a process in the cluster says of its machine and of its code."""

    code: Mapping[str, str]
    """As `environment.describe_code` returns it. Code that was sent there has no commit."""

    machine: Mapping[str, Any]
    """As `job.job_machine` returns it."""

    sees: bool
    """Whether it sees a file that the driver has just written into the results folder."""


def probe(nonce: Path, text: str, device: str) -> Probe:
    """Describes this process and its machine. `nonce` is the file to look for, and `text` what it must hold."""
    try:
        sees = nonce.read_text() == text
    except OSError:
        sees = False
    return Probe(describe_code(), job_machine(choose_device(device)), sees)


def refuse_other_code(found: Probe) -> None:
    """Raises ValueError if a process in the cluster has other code than this one."""
    here, there = describe_code(), found.code
    if here["fingerprint"] != there["fingerprint"]:
        fingerprints = f"fingerprint {there['fingerprint']}, here {here['fingerprint']}"
        raise ValueError(
            f"the cluster's nodes have other code of the suite ({fingerprints}): install the same version there"
        )


def read_options(engine: str, given: Mapping[str, str], allowed: Mapping[str, str]) -> dict[str, str]:
    """Returns the options of an engine. Raises ValueError that names unknown ones, and all that are allowed."""
    unknown = sorted(given.keys() - allowed.keys())
    if unknown:
        known = "\n".join(f"  {name}: {meaning}" for name, meaning in allowed.items()) or "  none"
        raise ValueError(f"--with {', '.join(unknown)}: options of --engine {engine} are\n{known}")
    return dict(given)


def take_seat(
    tasks: Sequence[Task], devices: Sequence[str], stopping: Stopping, preload: Sequence[str] = PRELOAD
) -> Iterator[Event]:
    """Runs tasks in this process's seat, with one worker per device, and yields their events."""
    _forget_main()
    engine = LocalEngine(devices, job_machine(devices[0]), preload)
    with closing(engine.run(tasks, stopping)) as events:
        yield from events


def _forget_main() -> None:
    """Keeps new processes from importing the cluster's own script again, which is `__main__` here."""
    main = sys.modules["__main__"]
    main.__spec__ = None
    if hasattr(main, "__file__"):
        del main.__file__
