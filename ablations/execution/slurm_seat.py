"""A seat in a Slurm job: it runs tasks, and writes what happens to a file, one JSON object on each line."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

import torch

from ablations.environment import describe_code
from ablations.execution.engine import (
    AskedToStop,
    Broken,
    Event,
    Finished,
    Kept,
    Lost,
    Restarted,
    Started,
    Stopped,
    Task,
    Told,
    Waiting,
)
from ablations.execution.job import choose_device, job_machine
from ablations.execution.seat import probe, take_seat
from ablations.execution.submissions import ENDS, Messages, call
from ablations.storage import files
from ablations.training.events import Epoch, Progress

PREEMPTED = 600.0
"""Seconds that a job waits for Slurm to end it, after it was asked to stop."""


@dataclass(frozen=True)
class Visit:
    """What a seat is told beside its tasks."""

    messages: Path
    device: str
    """`cpu` or `cuda`."""

    side_by_side: int
    """How many tasks run at a time on CPUs."""

    jobs_per_device: int
    fingerprint: str
    """That of the driver's code."""

    machine: Mapping[str, Any]
    """The machine that costs are to be measured on."""

    path: tuple[str, ...]
    """Where the driver finds modules: a user's networks too."""


def occupy(visit: Visit, tasks: Sequence[Task]) -> None:
    """Runs tasks in a Slurm job, and writes what happens to a file. It goes on where an earlier job of the seat ended.

    On a signal, it keeps the states of its tasks. Slurm may then start the job again, here or on another node.
    """
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):  # in the place of submitit's own handlers
        signal.signal(number, lambda number, _: asked.append(number))
    node = os.environ.get("SLURMD_NODENAME", "")
    ended = {line["key"] for line in Messages(visit.messages).take() if line["event"] in ENDS}
    left = [task for task in tasks if task.key not in ended]
    post(visit.messages, {"event": "opened", "node": node})
    sys.path += [each for each in visit.path if each not in sys.path]
    devices, reason = _find_devices(visit, node, any(task.exclusive for task in left))
    if reason:
        post(visit.messages, {"event": "refused", "reason": reason})
        return
    moved, open_ = False, {task.key for task in left}
    for event in take_seat(left, devices, lambda: bool(asked)):
        post(visit.messages, write_event(event))
        moved |= isinstance(event, Kept | Finished | Lost)
        open_ -= {event.task.key} if isinstance(event, Finished | Lost | Broken) else set()
    if asked and open_:
        if asked[0] != signal.SIGTERM and moved:
            call("scontrol", "requeue", _name_job())
        _wait_for_slurm()


def _find_devices(visit: Visit, node: str, alone: bool) -> tuple[list[str], str]:
    """Returns the device of each worker of a seat, and why this node cannot take its tasks; empty if it can."""
    if describe_code()["fingerprint"] != visit.fingerprint:
        return [], f"node {node} has other code of the suite: install the same version there, or --with exclude={node}"
    try:
        machine = job_machine(choose_device(visit.device))
    except ValueError as error:
        return [], f"node {node}: {error}; --with constraint or gres says which nodes to use, or --with exclude={node}"
    if alone and machine != visit.machine:
        there = ", ".join(f"{key} {value}" for key, value in machine.items() if visit.machine.get(key) != value)
        wanted = "costs are compared on one kind of machine, so name a kind with --with constraint"
        return [], f"node {node} is another machine than the one that was looked at first ({there}): {wanted}"
    if visit.device == "cpu":
        return ["cpu"] * visit.side_by_side, ""
    count = torch.cuda.device_count()
    return [f"cuda:{number % count}" for number in range(count * visit.jobs_per_device)], ""


def _name_job() -> str:
    """Returns the id of the Slurm job that this process belongs to."""
    array, element = (os.environ.get(f"SLURM_ARRAY_{name}_ID") for name in ("JOB", "TASK"))
    return f"{array}_{element}" if array else os.environ["SLURM_JOB_ID"]


def _wait_for_slurm() -> None:
    """Waits until Slurm has decided what becomes of this job: one that ends by itself is not started again."""
    end = time.monotonic() + PREEMPTED
    while time.monotonic() < end:
        answer = call("squeue", "-h", "-j", _name_job(), "-o", "%T")
        if answer is not None and answer.strip() != "RUNNING":
            return
        time.sleep(1)


def answer_probe(nonce: Path, text: str, device: str, answer: Path) -> None:
    """Writes what a node says of itself to a file."""
    files.write(answer, json.dumps(asdict(probe(nonce, text, device))).encode())


def post(path: Path, message: Mapping[str, Any]) -> None:
    """Adds a message to a file. It is closed each time, so that other machines see it on a network file system."""
    start = "\n" if message["event"] == "opened" else ""  # a job that was killed may have left half a line
    with path.open("a") as file:
        file.write(f"{start}{json.dumps(message, default=_spell)}\n")


def write_event(event: Event) -> dict[str, Any]:
    """Writes an event as a dictionary that becomes JSON."""
    rest = {name: value for name, value in vars(event).items() if name not in ("task", "slot")}
    return {"event": type(event).__name__, "key": event.task.key, **rest}


def _spell(value: object) -> Any:
    """Writes what JSON has no form for: the messages of a training, and errors of the machine."""
    if isinstance(value, OSError):
        return {"text": value.strerror or str(value), "errno": value.errno, "file": value.filename}
    if is_dataclass(value) and not isinstance(value, type):
        return {"type": type(value).__name__, **asdict(value)}
    return str(value)


EVENTS: dict[str, Callable[..., Event]] = {
    each.__name__: each
    for each in (Started, Waiting, Told, Kept, Restarted, AskedToStop, Stopped, Finished, Lost, Broken)
}
"""The events of a task by name."""

MESSAGES: dict[str, Callable[..., object]] = {"Progress": Progress, "Epoch": Epoch}
"""The messages of a training by name. Others arrive as JSON has them."""


def read_event(task: Task, slot: int, line: Mapping[str, Any]) -> Event:
    """Reads an event that `write_event` has written. A worker's number is the driver's own."""
    rest = {name: value for name, value in line.items() if name not in ("event", "key")}
    message = rest.get("message")
    if isinstance(message, dict) and message.get("type") in MESSAGES:
        fields = {name: value for name, value in message.items() if name != "type"}
        rest["message"] = MESSAGES[message["type"]](**fields)
    if isinstance(rest.get("place"), list):
        rest["place"] = tuple(rest["place"])
    if "error" in rest:
        error = rest["error"]
        rest["error"] = files.StorageError(error["errno"], error["text"], error["file"] or "a file")
    return EVENTS[line["event"]](task, slot, **rest)
