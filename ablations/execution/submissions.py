"""What was handed over to Slurm: a folder for each array of jobs, and what Slurm says of these jobs.

It needs no PyTorch, so that `ablate status` answers at once.
"""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablations.storage import files

FOLDER = "slurm"
"""The folder within a results folder. It is removed when all tasks have ended."""

SEATS = "seats.json"
"""The file that names the tasks of each seat of a submission. It is there before the jobs are."""

PATIENCE = 60
"""Seconds that a command of Slurm may take."""

GONE = (
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED",
    "TIMEOUT",
)  # fmt: skip
"""The states of jobs that have ended. A job that will be started again is PENDING."""


@dataclass(frozen=True)
class JobState:
    """What Slurm says of a job."""

    id: str
    """`12`, or `12_3` for an element of an array."""

    state: str
    reason: str
    node: str
    """The node where it runs or ran; empty before it starts."""

    @property
    def lives(self) -> bool:
        """Whether the job waits, runs, or is just being ended."""
        return self.state not in GONE

    def __str__(self) -> str:
        return f"{self.id} ({self.state}{f' on {self.node}' if self.node else ''})"


Seat = tuple[str, int]
"""The name of a submission, and the number of one of its seats."""


@dataclass(frozen=True)
class Submission:
    """One array of Slurm jobs. Each element is a seat, which runs some tasks."""

    place: Path
    """The folder of its own."""

    seats: tuple[tuple[str, ...], ...]
    """The keys of the tasks of each seat."""

    @property
    def name(self) -> str:
        """The name of its jobs in Slurm, which no other submission has."""
        return f"ablate-{self.place.name}"

    @property
    def logs(self) -> Path:
        """The folder of what its jobs print."""
        return self.place / "logs"

    def messages(self, seat: int) -> Path:
        """Returns the file to which a seat writes what happens: one JSON object on each line."""
        return self.place / f"{seat}.jsonl"

    def discard(self) -> None:
        """Removes its folder."""
        shutil.rmtree(self.place, ignore_errors=True)


def announce(folder: Path, seats: Sequence[Sequence[str]]) -> Submission:
    """Makes the folder of a submission, before its jobs are submitted. Raises StorageError if it cannot be written."""
    submission = Submission(make_folder(folder) / secrets.token_hex(6), tuple(map(tuple, seats)))
    files.write(submission.place / SEATS, json.dumps(submission.seats).encode())
    submission.logs.mkdir()
    for number in range(len(seats)):  # a network file system may hide for a minute that a missing file was made
        submission.messages(number).touch()
    return submission


def make_folder(folder: Path) -> Path:
    """Makes the folder of all submissions of a results folder, which git ignores, and returns its full path."""
    place = folder.resolve() / FOLDER
    files.write(place / ".gitignore", b"*\n")
    return place


def list_submissions(folder: Path) -> list[Submission]:
    """Lists the submissions of a results folder that have tasks, the oldest first."""
    found = []
    for path in (folder.resolve() / FOLDER).glob(f"*/{SEATS}"):
        with suppress(OSError, ValueError, TypeError):
            seats = tuple(map(tuple, json.loads(files.read(path))))
            found += [(path.stat().st_mtime_ns, Submission(path.parent, seats))] if any(seats) else []
    return [each for _, each in sorted(found, key=lambda pair: pair[0])]


def ask_slurm(names: Iterable[str]) -> dict[Seat, JobState] | None:
    """Returns what Slurm says of the jobs with these names; None if it does not answer.

    Slurm forgets jobs some minutes after their end.
    """
    listed = ",".join(sorted(set(names)))
    if not listed:
        return {}
    answer = call("squeue", "-h", "-r", "-t", "all", f"--name={listed}", "-o", "%j|%i|%T|%r|%N")
    if answer is None:
        return None
    found = {}
    for line in answer.splitlines():
        name, number, *rest = line.split("|")
        found[name, int(number.partition("_")[2] or 0)] = JobState(number, *rest[:3])
    return found


def call(*command: str) -> str | None:
    """Returns what a command of Slurm prints; None if it fails or is not there."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None


class Messages:
    """Reads the messages of a seat, as far as they are complete."""

    def __init__(self, path: Path) -> None:
        self._path, self._read = path, 0

    def take(self) -> Iterator[dict[str, Any]]:
        """Yields the messages that came since the last call."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._read)
                content = file.read()
        except FileNotFoundError:
            return
        lines, end, _ = content.rpartition(b"\n")
        self._read += len(lines) + len(end)
        for line in lines.splitlines():
            with suppress(ValueError):  # a line that a dying node has cut off
                yield json.loads(line)


ENDS = ("Finished", "Lost", "Broken")
"""The messages that end a task. A task that was stopped goes on in the next job."""


def describe_seats(folder: Path, done: Iterable[str]) -> dict[str, Any]:
    """Returns which tasks of a results folder are in Slurm's hands, without those that are `done`.

    `queued` are keys, `running` are keys with the place where they run, and `lost` are those whose jobs have ended.
    If this machine cannot ask Slurm, all are `unknown`.
    """
    found = list_submissions(folder)
    known = ask_slurm(each.name for each in found)
    told: dict[str, Any] = {"queued": [], "running": {}, "lost": [], "unknown": []}
    seen = set(done)
    for submission in reversed(found):  # a task is where it was submitted last
        for number, keys in enumerate(submission.seats):
            job = (known or {}).get((submission.name, number))
            latest = {
                line["key"]: line["event"] for line in Messages(submission.messages(number)).take() if "key" in line
            }
            for key in [key for key in keys if key not in seen and latest.get(key) not in ENDS]:
                if known is None:
                    told["unknown"].append(key)
                elif job is None or not job.lives:
                    told["lost"].append(key)
                elif job.node and key in latest and latest[key] not in ("Stopped", "Restarted"):
                    told["running"][key] = f"job {job.id} on {job.node}"
                else:
                    told["queued"].append(key)
            seen |= {*keys}
    return told
