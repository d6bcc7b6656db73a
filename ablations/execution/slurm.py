"""Runs tasks in Slurm jobs, which submitit writes and submits. A job is a seat: it runs some tasks by a local engine.

What happens in a seat, it writes to a file in the results folder. Slurm says which jobs live. So the driver may end or
die meanwhile: the jobs go on, and the next driver adopts them.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import secrets
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import redirect_stderr, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ablations.environment import describe_code
from ablations.execution import submissions
from ablations.execution.engine import (
    MOST_DEATHS,
    AskedToStop,
    Broken,
    Deaths,
    Detached,
    Ended,
    Event,
    Finished,
    Kept,
    Lost,
    Restarted,
    Started,
    Stopped,
    Stopping,
    Task,
)
from ablations.execution.seat import Order, Probe, read_options, refuse_other_code
from ablations.execution.slurm_seat import Visit, answer_probe, occupy, read_event
from ablations.execution.submissions import GONE, JobState, Messages, Seat, Submission, ask_slurm, call
from ablations.metrics import count_of
from ablations.storage import files
from ablations.storage.locks import FolderInUse, lock_folder

OPTIONS = {
    "partition": "the partition of the jobs; default: the cluster's own",
    "account": "the account that pays",
    "qos": "the quality of service",
    "constraint": "features that the nodes must have, for example a100",
    "time": "minutes that a job may take; default: as long as the partition allows",
    "cpus": "cores of a job; without GPUs, as many trainings run side by side in it. Default: 1",
    "mem": "memory of a job, for example 8G",
    "gpus_per_node": "GPUs of a job; one training runs on each, or --jobs-per-device of them",
    "gres": "other resources of a job, as sbatch names them",
    "exclude": "nodes that are not used",
    "nodelist": "nodes that are used",
    "pack": "tasks of a job, which run one after the other. Default: as many as run side by side",
    "python": "the Python of the nodes, if it is another one than here",
    "detach": "yes: submit the jobs and end. The same command adopts them later",
}

NUMBERS = ("time", "cpus", "gpus_per_node", "pack")
"""The options that are whole numbers above 0."""

PASSED = ("partition", "account", "qos", "constraint", "time", "mem", "gpus_per_node", "gres", "exclude", "nodelist")
"""The options that go to sbatch under their own names."""

WARNING = 90
"""Seconds before the end of a job's time at which Slurm tells the job."""

TICK, LOOK = 0.3, 2.0
"""Seconds between two looks into the files of running seats, and the fewest between two questions to Slurm."""

SHARE = 20.0
"""Slurm is asked again after this many times the seconds that its last answer took, so as not to be a burden."""

FAREWELL, ENDING = 20.0, 60.0
"""Seconds after which jobs are cancelled that have nothing to do any more, and after which they are not waited for."""

REFUSAL = 600.0
"""Seconds for which submitting again is tried, if Slurm does not answer or takes no more jobs."""

VISIBLE = 60.0
"""Seconds within which network file systems show a new file."""

UNSEEN = 64
"""The exit code of a probe on a node that does not see the results folder."""


class SlurmEngine:
    """Runs tasks in Slurm jobs. Raises ValueError for what the cluster cannot do, before any task is submitted.

    With the option `detach`, `run` raises Detached as soon as all tasks are submitted.
    """

    def __init__(self, order: Order) -> None:
        self._order = order
        self._options = _read_options(order.options)
        self._folder = order.folder.resolve()
        _refuse_without_slurm()
        self._old = {each.name: _list_ends(each) for each in submissions.list_submissions(self._folder)}
        self._clean = True
        try:
            self.machine: Mapping[str, Any] = self._probe()
            if self.machine["device"] == "cpu" and order.jobs_per_device > 1:
                given = f"--jobs-per-device {order.jobs_per_device}"
                raise ValueError(f"{given} is for GPUs: on a CPU, --with cpus=N says how many jobs run side by side")
        except BaseException:
            self.close()
            raise
        self._width = self._count("gpus_per_node") * order.jobs_per_device
        if self.machine["device"] == "cpu":
            self._width = self._count("cpus")
        self.widest = self._width
        self.slots = self._width * (order.seats or self._count_seats())

    def run(self, tasks: Sequence[Task], stopping: Stopping = lambda: False) -> Generator[Event]:
        """Runs the tasks and yields their events, as `Engine` describes. Raises Detached if it was asked to leave."""
        work = _Schedule(self._submit, stopping, {task.key: task for task in tasks})
        self._clean = False
        try:
            work.left_alone = self._options.get("detach") == "yes"
            yield from work.adopt(submissions.list_submissions(self._folder), self._old)
            if work.refusals:
                raise ValueError(work.refusals[0])
            work.submit(list(work.left.values()))
            if work.left_alone and work.seats:
                raise Detached(self._tell(len(work.left)))
            work.left_alone = False
            yield from work.events()
            self._clean = not work.left
        finally:
            work.end()
            self._old = {each.name: _list_ends(each) for each in submissions.list_submissions(self._folder)}

    def close(self) -> None:
        """Removes the folder of the engine, unless tasks are left: then jobs may still run, or will be submitted."""
        place = self._folder / submissions.FOLDER
        if self._clean and place.is_dir():
            with suppress(FolderInUse, OSError), lock_folder(self._folder):
                found = submissions.list_submissions(self._folder)
                known = ask_slurm(each.name for each in found)
                if known is not None and not any(job.lives for job in known.values()):
                    shutil.rmtree(place, ignore_errors=True)

    def _count(self, option: str) -> int:
        """Returns the number that an option gives; 1 without it."""
        return int(self._options.get(option, 1))

    def _count_seats(self) -> int:
        """Returns how many seats the partition has room for."""
        chosen = [f"--partition={self._options['partition']}"] if "partition" in self._options else []
        cores = call("sinfo", "-h", "-o", "%C", *chosen) or ""
        total = sum(int(line.rpartition("/")[2]) for line in cores.split() if line.rpartition("/")[2].isdecimal())
        return max(1, total // self._count("cpus"))

    def _tell(self, count: int) -> str:
        """Returns what was handed over, and how to come back."""
        listed = call("squeue", "-h", "--me", "-o", "%i %j") or ""
        names = {each.name for each in submissions.list_submissions(self._folder)}
        ids = ", ".join(pair[0] for line in listed.splitlines() if (pair := line.split(" ", 1))[-1] in names)
        where = f" (squeue --me: {ids})" if ids else ""
        return (
            f"{count_of(count, 'job')} of the grid: handed over to Slurm{where}, which goes on without this command. "
            f"`ablate status {self._order.folder}` says how far they are. The same command adopts them, and reports "
            "when all are done."
        )

    def _submit(self, tasks: Sequence[Task], again: bool) -> dict[Submission, list[list[Task]]]:
        """Submits tasks as arrays of jobs, exclusive ones first, each on a whole node. Raises ValueError."""
        made: dict[Submission, list[list[Task]]] = {}
        pack, most = int(self._options.get("pack", self._width)), _read_longest_array()
        for alone in (True, False):
            chosen = [task for task in tasks if task.exclusive == alone]
            seats = [chosen[start : start + pack] for start in range(0, len(chosen), pack)]
            for start in range(0, len(seats), most):
                piece = seats[start : start + most]
                submission = submissions.announce(self._folder, [[task.key for task in seat] for seat in piece])
                made[submission] = piece
                after = [each.name for each in made][-2:-1] if self._order.seats and not again else []
                try:
                    self._submit_array(submission, piece, alone, after)
                except BaseException:
                    for each in made:
                        call("scancel", f"--name={each.name}")
                        each.discard()
                    raise
        return made

    def _submit_array(
        self, submission: Submission, seats: Sequence[Sequence[Task]], alone: bool, after: Sequence[str]
    ) -> None:
        """Submits one array. With a limit of seats, it begins when the array `after` has ended."""
        visits = [
            Visit(
                submission.messages(number),
                str(self.machine["device"]),
                self._width if self.machine["device"] == "cpu" else 0,
                self._order.jobs_per_device,
                describe_code()["fingerprint"],
                dict(self.machine),
                tuple(sys.path),
            )
            for number in range(len(seats))
        ]
        extra: dict[str, Any] = {"requeue": True}
        if after:
            known = ask_slurm(after) or {}
            extra["dependency"] = f"afterany:{next((job.id.partition('_')[0] for job in known.values()), '')}"
        parameters: dict[str, Any] = {"array_parallelism": self._order.seats or len(seats)}
        if alone:
            parameters["exclusive"] = True
        _submit(self._options, submission, occupy, [visits, [list(seat) for seat in seats]], extra, parameters)

    def _probe(self) -> dict[str, Any]:
        """Returns the machine of the nodes, as a probe job finds it; asks once for each code and each kind of node.

        Raises ValueError if a node has other code, does not see the results folder, or if there is no answer.
        """
        place = submissions.make_folder(self._folder)
        chosen = {name: value for name, value in self._options.items() if name not in ("pack", "time", "detach")}
        asked = json.dumps([describe_code()["fingerprint"], self._order.device, sorted(chosen.items())])
        answer = place / f"probe-{hashlib.sha256(asked.encode()).hexdigest()[:12]}.json"
        if not answer.exists():
            submission = submissions.announce(self._folder, [[]])
            try:
                self._ask_node(submission, answer)
            finally:
                call("scancel", f"--name={submission.name}")
                submission.discard()
        found = Probe(**json.loads(files.read(answer)))
        try:
            refuse_other_code(found)
        except ValueError:
            files.remove(answer)  # the node may have another code the next time
            raise
        return dict(found.machine)

    def _ask_node(self, submission: Submission, answer: Path) -> None:
        """Submits a probe and waits for its answer. Raises ValueError if there is none."""
        nonce, text = submission.place / "nonce", secrets.token_hex(8)
        nonce.write_text(text)
        setup = [f"test -e {nonce} || exit {UNSEEN}"]
        parameters = {"time": min(10, self._count("time") if "time" in self._options else 10), "setup": setup}
        extra = {"output": "/dev/null", "error": "/dev/null"}
        _submit(
            self._options,
            submission,
            answer_probe,
            [[nonce], [text], [self._order.device], [answer]],
            extra,
            parameters,
        )
        began, told = time.monotonic(), False
        while not answer.exists():
            job = (ask_slurm([submission.name]) or {}).get((submission.name, 0))
            if job and not job.lives and not _appears(answer, VISIBLE if job.state == "COMPLETED" else 2.0):
                raise ValueError(_explain_silence(job, submission, self._order.folder))
            if job and not told and time.monotonic() - began > 20:
                print(f"A short Slurm job looks at a node first: {job}, {job.reason}", file=sys.stderr)
                told = True
            time.sleep(TICK)


def _appears(path: Path, seconds: float) -> bool:
    """Waits for a file, which a network file system may show late. Returns whether it is there."""
    end = time.monotonic() + seconds
    while not path.exists() and time.monotonic() < end:
        time.sleep(TICK)
    return path.exists()


def _explain_silence(job: JobState, submission: Submission, folder: Path) -> str:
    """Returns why a probe that has ended gave no answer."""
    said = call("scontrol", "show", "job", job.id) or ""
    if f"ExitCode={UNSEEN}:0" in said:
        return (
            f"node {job.node} does not see the folder {folder}: the results folder must be on a file system that all "
            "nodes share. Choose another folder with --out"
        )
    last = _read_last_line(submission)
    needs = "it needs Python with the same version of this suite and submitit at the same place"
    return f"the job that looks at a node ended without an answer: {job}{f': {last}' if last else ''}; {needs}"


def _read_last_line(submission: Submission, job: str = "") -> str:
    """Returns the last line that a job has printed as an error; empty if there is none."""
    for path in sorted(submission.logs.glob(f"{job}*.err")):
        lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
        own = [line for line in lines if not line.startswith(("srun:", "slurmstepd:"))]
        if lines:
            return (own or lines)[-1].strip()
    return ""


def _read_options(given: Mapping[str, str]) -> dict[str, str]:
    """Raises ValueError for unknown options, and for values that are not allowed."""
    found = read_options("slurm", given, OPTIONS)
    wrong = [name for name in NUMBERS if name in found and not (found[name].isdecimal() and int(found[name]))]
    if wrong:
        raise ValueError("\n".join(f"--with {name}={found[name]}: a whole number above 0 is needed" for name in wrong))
    if found.get("detach", "yes") not in ("yes", "no"):
        raise ValueError(f"--with detach={found['detach']}: allowed are yes and no")
    return found


def _refuse_without_slurm() -> None:
    """Raises ValueError if submitit or Slurm is not installed."""
    try:
        import submitit  # noqa: F401
    except ImportError:
        raise ValueError("--engine slurm needs submitit: pip install 'densenet-ablations[slurm]'") from None
    missing = [name for name in ("sbatch", "srun", "squeue", "scancel", "scontrol") if not shutil.which(name)]
    if missing:
        where = "run this command on a machine from which jobs are submitted, such as a login node"
        raise ValueError(f"--engine slurm: this machine has no {', '.join(missing)}: {where}")


def _read_longest_array() -> int:
    """Returns how many jobs an array may have."""
    found = re.search(r"MaxArraySize\s*=\s*([0-9]+)", call("scontrol", "show", "config") or "")
    return max(1, int(found[1])) if found else 1000


def _submit(
    options: Mapping[str, str],
    submission: Submission,
    function: Callable[..., None],
    arguments: Sequence[Sequence[Any]],
    extra: Mapping[str, Any],
    parameters: Mapping[str, Any],
) -> None:
    """Submits one job for each element of the lists of arguments. Raises ValueError with the words of sbatch."""
    import submitit
    from submitit.core.utils import FailedJobError
    from submitit.helpers import clean_env

    passed: dict[str, Any] = {
        name: int(options[name]) if name in NUMBERS else options[name] for name in PASSED if name in options
    }
    cpus = int(options.get("cpus", 1))
    shared = {
        "job_name": submission.name,
        "cpus_per_task": cpus,
        "srun_args": ["--ntasks=1", f"--cpus-per-task={cpus}"],
        "time": None,
    }
    wanted = {**shared, **passed, **parameters, "additional_parameters": dict(extra)}
    if wanted["time"]:
        wanted["signal_delay_s"] = min(WARNING, 60 * wanted["time"] // 4)
    wanted["setup"] = ["export PYTHONSAFEPATH=1", *wanted.get("setup", ())]
    try:
        kept = {name: os.environ[name] for name in ("SLURM_CONF",) if name in os.environ}
        # the driver may itself run in a Slurm job, whose settings are not those of its jobs
        with clean_env(), redirect_stderr(io.StringIO()):
            os.environ.update(kept)
            executor = submitit.SlurmExecutor(submission.logs, python=options.get("python"))
            executor.update_parameters(**wanted)
            executor.map_array(function, *arguments)
    except FailedJobError as error:
        words = [re.sub("^sbatch: (error|fatal): ", "", line) for line in str(error).strip().splitlines()]
        raise ValueError(f"Slurm refuses the jobs: {'; '.join(words)}") from None


def _list_ends(submission: Submission) -> dict[int, dict[str, str]]:
    """Returns the keys of the tasks that have ended in each seat of a submission, with their last messages."""
    ends: dict[int, dict[str, str]] = {}
    for number in range(len(submission.seats)):
        lines = Messages(submission.messages(number)).take()
        ends[number] = {line["key"]: line["event"] for line in lines if line["event"] in submissions.ENDS}
    return ends


@dataclass
class _Place:
    """A seat as the driver sees it."""

    submission: Submission
    number: int
    tasks: dict[str, Task]
    """Its tasks that have not ended, by key."""

    letters: Messages = field(init=False)
    running: dict[str, int] = field(default_factory=dict)
    """The slots of tasks that run, by key."""

    opened: bool = False
    """Whether the seat was ever there."""

    refused: str = ""
    """Why the seat does not take its tasks; empty if it does."""

    job: JobState | None = None

    def __post_init__(self) -> None:
        self.letters = Messages(self.submission.messages(self.number))

    @property
    def name(self) -> Seat:
        """Its name in the answers of Slurm."""
        return self.submission.name, self.number

    def describe(self) -> str:
        """Returns its job, for people."""
        return f"Slurm job {self.job}" if self.job else "Slurm job, which Slurm does not know any more"


@dataclass
class _Schedule:
    """The seats and tasks of one call of `run`."""

    submit_tasks: Callable[[Sequence[Task], bool], dict[Submission, list[list[Task]]]]
    stopping: Stopping
    left: dict[str, Task]
    """The tasks that have not ended, by key."""

    seats: list[_Place] = field(default_factory=list)
    used: list[Submission] = field(default_factory=list)
    """The submissions that were found, and those that were made."""

    own: set[Seat] = field(default_factory=set)
    """The names of all seats that have, or had, a task of this call."""

    refusals: list[str] = field(default_factory=list)
    """Why nodes have refused tasks while no driver was there."""

    deaths: Deaths = field(default_factory=Deaths)
    waiting: list[Task] = field(default_factory=list)
    """Tasks that Slurm has not taken again yet."""

    refused: float | None = None
    """The time since when Slurm refuses them; None if it does not."""

    strikes: Counter[str] = field(default_factory=Counter)
    """How often the job of a task ended before it began, or was cancelled by somebody."""

    cancelled: bool = False
    """Whether all jobs were asked to end."""

    left_alone: bool = False
    """Whether jobs go on when this call ends, for a later driver."""

    def adopt(self, found: Sequence[Submission], old: Mapping[str, Mapping[int, Mapping[str, str]]]) -> Iterator[Event]:
        """Takes over the seats that an earlier driver has left, and yields what has happened to their tasks.

        `old` are the ends of tasks that the driver knew before it chose its tasks: such a task is to be run again,
        unless it is lost and nobody has noted this yet.
        """
        known = ask_slurm(each.name for each in found)
        seen: set[str] = set()
        for submission in reversed(found):  # a task is where it was submitted last
            self.used.append(submission)
            for number, keys in enumerate(submission.seats):
                ends = old.get(submission.name, {}).get(number, {})
                fresh = [
                    key for key in keys if key in self.left and key not in seen and ends.get(key, "Lost") == "Lost"
                ]
                seen |= {*keys}
                seat = _Place(submission, number, {key: self.left[key] for key in fresh})
                self.seats.append(seat)
                ended = [event for event in self.hear(seat) if isinstance(event, Ended)]
                yield from (each for event in ended for each in (Started(event.task, event.slot), event))
                seat.job = None if known is None else known.get(seat.name)
                if seat.tasks and (known is None or (seat.job and seat.job.lives)):
                    yield from (Started(seat.tasks[key], slot) for key, slot in seat.running.items())
                    self.own.add(seat.name)
                else:
                    self.seats.remove(seat)
                    self.refusals += [seat.refused] if seat.refused and seat.tasks else []

    def submit(self, tasks: Sequence[Task], again: bool = False) -> None:
        """Submits the tasks that no seat has. Raises ValueError if Slurm refuses them."""
        held = {key for seat in self.seats for key in seat.tasks}
        wanted = [task for task in tasks if task.key not in held and task.key in self.left]
        if wanted and not self.stopping():
            for submission, seats in self.submit_tasks(wanted, again).items():
                self.used.append(submission)
                made = [
                    _Place(submission, number, {task.key: task for task in each}) for number, each in enumerate(seats)
                ]
                self.own |= {seat.name for seat in made}
                self.seats += made

    def events(self) -> Iterator[Event]:
        """Yields what happens until all tasks have ended."""
        look = 0.0
        while self.seats or self.waiting:
            if self.stopping() and not self.cancelled:
                self.cancel()
                asked = [(seat.tasks[key], slot) for seat in self.seats for key, slot in seat.running.items()]
                yield from (AskedToStop(task, slot) for task, slot in asked)
            began = time.monotonic()
            for seat in self.seats:
                if seat.job is None or seat.job.state != "PENDING":
                    yield from self.hear(seat)
            self.seats = [seat for seat in self.seats if seat.tasks]
            now = time.monotonic()
            if (self.seats or self.waiting) and now >= look:
                known = ask_slurm(seat.submission.name for seat in self.seats)
                look = time.monotonic() + max(TICK if self.cancelled else LOOK, SHARE * (time.monotonic() - now))
                if known is not None:
                    yield from self.judge(known)
                    self.submit_again()
            pause = max(TICK, 4 * (time.monotonic() - began))  # looking into many files is a burden, too
            time.sleep(pause if self.seats or self.waiting else 0)

    def cancel(self) -> None:
        """Asks Slurm to end all jobs. They keep the states of their tasks."""
        self.cancelled = True
        self.waiting.clear()
        for name in {seat.submission.name for seat in self.seats}:
            call("scancel", f"--name={name}")

    def hear(self, seat: _Place) -> Iterator[Event]:
        """Yields the events that a seat has written."""
        for line in seat.letters.take():
            if line["event"] == "opened":
                seat.opened = True
                yield from self.bury(seat, f"ended with its Slurm job, which began again on {line['node']}")
            elif line["event"] == "refused":
                seat.refused = line["reason"]
            elif line["key"] in seat.tasks and line["event"] != "AskedToStop":  # which this driver says by itself
                yield from self.take(seat, seat.tasks[line["key"]], line)

    def take(self, seat: _Place, task: Task, line: dict[str, Any]) -> Iterator[Event]:
        """Yields the event of one message."""
        slot = seat.running.get(task.key, -1)
        if slot < 0:
            slot = seat.running[task.key] = self.find_slot()
            if line["event"] != "Started":
                yield Started(task, slot)
        event = read_event(task, slot, line)
        if isinstance(event, Stopped) and not self.cancelled:
            event = Restarted(task, slot, "asked to stop by Slurm")
        if isinstance(event, Kept):
            self.deaths.forgive(task.key, event.place)
        yield self.settle(seat, event)

    def settle(self, seat: _Place, event: Event) -> Event:
        """Frees the slot of a task that does not run any more, and forgets a task that has ended."""
        if isinstance(event, Ended | Restarted):
            seat.running.pop(event.task.key, None)
        if isinstance(event, Ended):
            seat.tasks.pop(event.task.key, None)
        if isinstance(event, Finished | Lost | Broken):
            self.left.pop(event.task.key, None)
        return event

    def find_slot(self) -> int:
        """Returns the smallest number that no running task has."""
        busy = {slot for seat in self.seats for slot in seat.running.values()}
        return min(set(range(len(busy) + 1)) - busy)

    def bury(self, seat: _Place, reason: str) -> Iterator[Event]:
        """Counts the deaths of the tasks that were running in a seat, and yields them."""
        for key, slot in list(seat.running.items()):
            yield self.settle(seat, self.deaths.count(seat.tasks[key], slot, reason))

    def judge(self, known: Mapping[Seat, JobState]) -> Iterator[Event]:
        """Finds the seats whose jobs have ended, and yields what that means for their tasks."""
        for seat in list(self.seats):
            seat.job = known.get(seat.name, seat.job if seat.job and seat.job.state in GONE else None)
            if seat.job is None or not seat.job.lives:
                yield from self.hear(seat)
                yield from self.close_seat(seat)
                self.seats.remove(seat)
                self.waiting += seat.tasks.values()

    def submit_again(self) -> None:
        """Submits the tasks of ended seats again. Raises ValueError if Slurm refuses them for some minutes."""
        try:
            self.submit(self.waiting, again=True)
            self.waiting, self.refused = [], None
        except ValueError:
            now = time.monotonic()
            self.refused = self.refused or now
            if now - self.refused > REFUSAL:
                raise

    def close_seat(self, seat: _Place) -> Iterator[Event]:
        """Yields what the end of a seat's job means for its tasks. Those that are to be submitted again stay in it."""
        if self.cancelled:
            for key, slot in list(seat.running.items()):
                yield self.settle(seat, Stopped(seat.tasks[key], slot))
            seat.tasks.clear()
        elif seat.tasks:
            task = seat.tasks[next(iter(seat.running or seat.tasks))]
            by_somebody = seat.job is not None and seat.job.state == "CANCELLED"
            if seat.refused:
                yield from self.give_up(seat, task, Broken(task, 0, OSError(seat.refused)))
            elif by_somebody or not seat.opened:
                self.strikes[task.key] += 1
                if self.strikes[task.key] == MOST_DEATHS:
                    yield from self.give_up(seat, task, self.blame(seat, task, by_somebody))
                for key, slot in list(seat.running.items()):
                    yield self.settle(
                        seat, Restarted(seat.tasks[key], slot, f"cancelled by somebody: {seat.describe()}")
                    )
            elif seat.running:
                yield from self.bury(seat, f"ended with {seat.describe()}")
            else:  # it was stopped politely, for example because its time was over
                event = self.deaths.count(task, 0, f"ended with {seat.describe()}")
                if isinstance(event, Lost):
                    yield from self.give_up(seat, task, event)

    def blame(self, seat: _Place, task: Task, by_somebody: bool) -> Ended:
        """Returns the last event of a task whose jobs were cancelled, or ended before they began."""
        times = f"{MOST_DEATHS} times"
        if by_somebody:
            return Lost(task, 0, "failed", f"its Slurm job was cancelled by somebody, {times}")
        last = _read_last_line(seat.submission, seat.job.id if seat.job else "")
        return Broken(task, 0, OSError(f"{seat.describe()} ended before it began with its tasks, {times}: {last}"))

    def give_up(self, seat: _Place, task: Task, event: Ended) -> Iterator[Event]:
        """Yields the last event of a task, after its start if it does not run."""
        slot = seat.running.get(task.key, -1)
        if slot < 0:
            slot = self.find_slot()
            yield Started(task, slot)
        yield self.settle(seat, replace(event, slot=slot))

    def end(self) -> None:
        """Ends what still runs, unless it is left alone. Removes the folders of submissions without jobs that live."""
        if not self.left_alone:
            self.wait_for_own()
        living = self._list_living()
        for submission in self.used if living is not None else ():
            if submission.name not in {name for name, _ in living or ()}:
                submission.discard()

    def wait_for_own(self) -> None:
        """Waits some seconds until all jobs of this call have ended. Cancels those that do not end by themselves."""
        if self.seats and not self.cancelled:
            self.cancel()
        began, told = time.monotonic(), False
        while (living := self._list_living()) is None or any(seat in self.own for seat in living):
            late = time.monotonic() - began
            if living and not told and late > FAREWELL:
                call("scancel", *(job.id for seat, job in living.items() if seat in self.own))
                told = True
            if late > ENDING:
                return
            time.sleep(TICK)

    def _list_living(self) -> dict[Seat, JobState] | None:
        """Returns the jobs of all submissions that have not ended; None if Slurm does not answer."""
        known = ask_slurm(each.name for each in self.used)
        return None if known is None else {seat: job for seat, job in known.items() if job.lives}
