"""Runs tasks on a Ray cluster (Moritz et al. 2018): on one that runs already, or on one started on this machine.

Each seat is a Ray actor. Ray decides on which node it is, and tells if the node is lost. Measurements come first: they
have seats with all CPUs of a node. The results folder need not be shared: files travel then, see `travel.py`.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ablations.environment import PACKAGES
from ablations.execution.engine import (
    Broken,
    Deaths,
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
from ablations.execution.fresh import find_short_folder
from ablations.execution.local import GRACE, TOLD_BY_OTHERS
from ablations.execution.seat import PRELOAD, Order, Probe, probe, read_options, refuse_other_code, take_seat
from ablations.execution.travel import Parcel, move_out, pack, unpack
from ablations.limits import count_cores
from ablations.storage import files

OPTIONS = {
    "address": "the cluster: `auto` for the one that this machine belongs to, or its host:port; without it, one is "
    "started on this machine",
    "num_cpus": "CPUs of a seat; default 1",
    "num_gpus": "GPUs of a seat, also a fraction; default 1 on CUDA, divided by --jobs-per-device",
}

TICK = 0.2
"""Seconds between two checks for a stop request."""

PATIENCE = 120.0
"""The most seconds that the nodes may take to answer the first question."""


LONGEST_FOLDER = 36
"""Bytes in the name of a folder for temporary files. Sockets in it have 107 bytes for their names; Ray needs 70."""


class Seat:
    """A process of the cluster that runs tasks. Ray makes it an actor."""

    def __init__(self, place: str, paths: Sequence[str], preload: Sequence[str]) -> None:
        with suppress(OSError):  # a machine that does not have the driver's folder has no relative paths
            os.chdir(place)
        sys.path.extend(path for path in paths if path not in sys.path)
        self._preload, self._asked = preload, threading.Event()

    def probe(self, nonce: Path, text: str, device: str) -> Probe:
        """Describes the machine and its code."""
        return probe(nonce, text, device)

    def stop(self) -> None:
        """Asks the present task to end. A second thread of the process calls this."""
        self._asked.set()

    def work(self, task: Task, devices: Sequence[str], parcel: Parcel | None) -> Iterator[Event | Parcel]:
        """Runs a task and yields its events, without the task; also its files, if a parcel with files was given."""
        self._asked.clear()
        stopping = self._asked.is_set
        if parcel is None:
            for event in take_seat([task], devices, stopping, self._preload):
                yield replace(event, task=NO_TASK)
            return
        with move_out(task, parcel) as (moved, folder):
            for event in take_seat([moved], devices, stopping, self._preload):
                if isinstance(event, Kept | Ended):
                    yield pack(folder, task.key, whole=isinstance(event, Finished | Lost))
                yield replace(event, task=NO_TASK)


NO_TASK = Task("", str, ())
"""Stands for the task in events that travel: the driver knows the task."""


class RayEngine:
    """Runs tasks on the nodes of a Ray cluster, each in a seat of its own."""

    def __init__(self, order: Order, preload: Sequence[str] = PRELOAD) -> None:
        """Connects to the cluster, or starts one. Raises ValueError for what the cluster cannot do, with the reason."""
        options = read_options("ray", order.options, OPTIONS)
        self._cpus = _read_number(options, "num_cpus", 1.0)
        self._gpus = _read_number(options, "num_gpus", 1 / order.jobs_per_device)
        self._ray, self._preload = _import_ray(), preload
        self._connect(options.get("address"))
        try:
            self._survey(order)
        except BaseException:
            self.close()
            raise

    def _connect(self, address: str | None) -> None:
        if address and address.startswith("ray:"):
            raise ValueError(f"--with address={address}: run this command on a node of the cluster, with address=auto")
        if address not in (None, "auto"):
            _call(str(address))
        place: dict[str, Any] = {"address": address}
        if not address:
            place = {"address": "local", "num_cpus": count_cores(), "include_dashboard": False}
            place["_temp_dir"] = str(Path(find_short_folder(LONGEST_FOLDER), "ray"))
        with tempfile.TemporaryDirectory(prefix="ablations-code-") as code:
            if address:
                copy_code(Path(code))
                place["runtime_env"] = {"working_dir": code}
            try:
                self._ray.init(**place, log_to_driver=False, logging_level="ERROR")
            except (ConnectionError, RuntimeError, OSError) as error:
                where = f"address={address}" if address else "this machine"
                raise ValueError(f"--engine ray: no cluster at {where}: {' '.join(str(error).split())}") from None

    def _survey(self, order: Order) -> None:
        """Asks every node for its machine and its code, and decides how many seats there are."""
        nodes = {each["NodeID"]: each["Resources"] for each in self._ray.nodes() if each["Alive"]}
        device = order.device
        if device == "auto":
            device = "cuda" if any(each.get("GPU") for each in nodes.values()) else "cpu"
        if device == "cpu" and order.jobs_per_device > 1:
            raise ValueError(f"--jobs-per-device {order.jobs_per_device} is for GPUs, and the seats are on CPUs")
        self._gpus = self._gpus if device == "cuda" else 0.0
        self.widest = max(1, int(self._gpus or self._cpus))
        self._devices = [f"cuda:{index}" if self._gpus else "cpu" for index in range(self.widest)]
        """The devices of a seat, by its own numbers."""

        nodes = {node: each for node, each in nodes.items() if self._count_seats(each)}
        self.slots = order.seats or sum(map(self._count_seats, nodes.values()))
        self._places = [_Place(number, {"cpus": self._cpus}) for number in range(self.slots)]
        """Where runs have their seats, which stay open from one call of `run` to the next."""

        if not nodes:
            seat = f"{self._cpus:g} CPUs" + f" and {self._gpus:g} GPUs" * (self._gpus > 0)
            raise ValueError(f"--engine ray: no node of the cluster has room for a seat of {seat}: see `ray status`")
        found = self._probe(nodes, order.folder)
        for each in found.values():
            refuse_other_code(each)
        self.shared = all(each.sees for each in found.values())
        kinds = Counter(str(sorted(each.machine.items())) for each in found.values())
        most = kinds.most_common(1)[0][0]
        alike = {node: each for node, each in found.items() if str(sorted(each.machine.items())) == most}
        self.machine: Mapping[str, Any] = next(iter(alike.values())).machine
        self._measuring = {node: nodes[node]["CPU"] for node in alike}
        """The nodes of the most frequent kind, with their CPUs. Costs are measured only there."""

    def _count_seats(self, resources: Mapping[str, float]) -> int:
        """Returns how many seats a node has room for."""
        by_cpus = int(resources.get("CPU", 0) / self._cpus)
        return min(by_cpus, int(resources.get("GPU", 0) / self._gpus + 1e-6)) if self._gpus else by_cpus

    def _probe(self, nodes: Mapping[str, Any], folder: Path) -> dict[str, Probe]:
        """Asks each node. Leaves nothing in the results folder."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        nonce, text = folder.absolute() / f".probe-{secrets.token_hex(8)}", secrets.token_hex(16)
        seats = {}
        files.write(nonce, text.encode())
        try:
            for node in nodes:
                there = NodeAffinitySchedulingStrategy(node, soft=False)
                seats[node] = self.open_seat(0.0, scheduling_strategy=there)
            asked = [seat.probe.remote(nonce, text, self._devices[0]) for seat in seats.values()]
            found = self._ray.get(asked, timeout=PATIENCE)
        except self._ray.exceptions.GetTimeoutError:
            raise ValueError(
                f"--engine ray: a node did not answer within {PATIENCE:g} seconds, or has no free GPU: see `ray status`"
            ) from None
        except self._ray.exceptions.RayError as error:
            last = str(error).strip().splitlines()[-1]
            raise ValueError(f"--engine ray: a node cannot load the suite: {last}") from None
        finally:
            files.remove(nonce)
            with suppress(OSError):  # it was made for this, unless it holds something
                nonce.parent.rmdir()
            for seat in seats.values():
                self._ray.kill(seat)
        return dict(zip(seats, found, strict=True))

    def open_seat(self, cpus: float, **options: Any) -> Any:
        """Asks Ray for a seat. It opens as soon as there is room for it."""
        actor = self._ray.remote(num_cpus=cpus, num_gpus=self._gpus, max_concurrency=2, **options)(Seat)
        return actor.remote(str(Path.cwd()), [path for path in sys.path if path], self._preload)

    def run(self, tasks: Sequence[Task], stopping: Stopping = lambda: False) -> Generator[Event]:
        """Runs the tasks and yields their events, as `Engine` describes: measurements first, one on each node."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        alone = [
            _Place(number, {"cpus": cpus, "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False)})
            for number, (node, cpus) in enumerate(self._measuring.items())
        ]
        for exclusive, places, others in ((True, alone, self._places), (False, self._places, alone)):
            mine = deque(task for task in tasks if task.exclusive is exclusive)
            if mine:
                self._leave(others)
            schedule = _Schedule(self, self._ray, self._devices, mine, stopping, places[: len(mine)])
            try:
                yield from schedule.events()
            finally:
                self._leave(place for place in places if exclusive or place.task)

    def _leave(self, places: Iterable[_Place]) -> None:
        for place in places:
            place.leave(self._ray)

    def close(self) -> None:
        """Leaves the cluster, or ends the one that was started here."""
        self._ray.shutdown()


def copy_code(place: Path) -> None:
    """Copies the suite, as this process has it, to where the nodes get it from."""
    for package in PACKAGES:
        shutil.copytree(package, place / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PACKAGES[0].with_name("densenet_ablations.py"), place)


def _call(address: str) -> None:
    """Raises ValueError if nobody answers at an address: Ray itself would wait for minutes."""
    host, _, port = address.rpartition(":")
    try:
        if not (host and port.isdecimal()):
            raise OSError("allowed are auto and HOST:PORT")
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise ValueError(f"--engine ray: no cluster at address={address}: {error}") from None


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError:
        raise ValueError("--engine ray needs Ray: pip install 'densenet-ablations[ray]'") from None
    return ray


def _read_number(options: Mapping[str, str], name: str, default: float) -> float:
    """Raises ValueError for an option that is not a number above 0."""
    text = options.get(name, str(default))
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise ValueError(f"--with {name}={text}: a number above 0 is needed")
    return number


@dataclass
class _Place:
    """Where one task runs at a time: a seat, as soon as there is one."""

    slot: int
    options: Mapping[str, Any]
    seat: Any = None
    task: Task | None = None
    stream: Any = None
    """The events of the task, as they come."""

    open: bool = False
    """Whether there is a seat: it may have to wait for room."""

    started: bool = False
    """Whether the task has started."""

    deadline: float = float("inf")
    """The time at which a seat that was asked to stop is ended."""

    def leave(self, ray: Any) -> None:
        """Ends the seat with all that runs in it."""
        if self.seat is not None:
            with suppress(ray.exceptions.RayError):
                ray.kill(self.seat)
        self.seat = self.task = self.stream = None
        self.open, self.started, self.deadline = False, False, float("inf")


@dataclass
class _Schedule:
    """The tasks and places of one call of `run`: of its measurements, or of its other tasks."""

    engine: RayEngine
    ray: Any
    devices: Sequence[str]
    left: deque[Task]
    stopping: Stopping
    places: Sequence[_Place]
    deaths: Deaths = field(default_factory=Deaths)

    def events(self) -> Iterator[Event]:
        while any(place.task for place in self.places) or (self.left and not self.stopping()):
            self.start()
            streams = {place.stream: place for place in self.places if place.task}
            ready, _ = self.ray.wait(list(streams), timeout=TICK) if streams else ([], [])
            for stream in ready:
                yield from self.hear(streams[stream])
            if self.stopping():
                yield from self.end_all()

    def start(self) -> None:
        """Gives tasks to the places that are free."""
        for place in self.places:
            if place.task is None and self.left and not self.stopping():
                place.task = task = self.left.popleft()
                place.seat = place.seat or self.engine.open_seat(**place.options)
                folder = None if self.engine.shared else task.folder
                parcel = None if folder is None else pack(folder, task.key)
                work = place.seat.work.options(num_returns="streaming")
                place.stream = work.remote(task, self.devices, parcel)

        if not self.left and any(place.task and not place.open for place in self.places):
            for place in self.places:  # which others wait for, where a node was lost
                if place.task is None:
                    place.leave(self.ray)

    def hear(self, place: _Place) -> Iterator[Event]:
        """Yields the next event of a place."""
        task = place.task
        assert task is not None
        try:
            said: Event | Parcel = self.ray.get(next(place.stream))
        except (StopIteration, self.ray.exceptions.RayError) as error:
            yield from self.lose(place, "lost with its node" if isinstance(error, self.lost) else "ended by Ray")
            return
        place.open = True
        if isinstance(said, Parcel):
            assert task.folder is not None
            yield from self.take(place, said, task.folder)
            return
        event = replace(said, task=task, slot=place.slot)
        place.started = place.started or isinstance(event, Started)
        if isinstance(event, Kept):
            self.deaths.forgive(task.key, event.place)
        if isinstance(event, Stopped) and not self.stopping():
            yield self.again(place, Restarted(task, place.slot, TOLD_BY_OTHERS))
        else:
            if isinstance(event, Ended):
                place.task, place.started, place.deadline = None, False, float("inf")
            yield event

    @property
    def lost(self) -> tuple[type[BaseException], ...]:
        """The errors that mean that the node or the process of a seat is not there any more."""
        errors = self.ray.exceptions
        return errors.RayActorError, errors.ActorUnavailableError, errors.NodeDiedError

    def take(self, place: _Place, parcel: Parcel, folder: Path) -> Iterator[Event]:
        """Writes files that came from a seat into the results folder."""
        assert place.task is not None
        try:
            unpack(parcel, folder, place.task.key)
        except OSError as error:
            broken = Broken(place.task, place.slot, error)
            place.leave(self.ray)
            yield broken
        except ValueError as error:
            yield from self.lose(place, f"ended, because of what it sent: {error}")

    def lose(self, place: _Place, reason: str) -> Iterator[Event]:
        """Yields what becomes of a task whose seat has died."""
        task, started = place.task, place.started
        assert task is not None
        event: Event = Stopped(task, place.slot)
        if not self.stopping():
            event = self.deaths.count(task, place.slot, reason)
        if isinstance(event, Restarted):
            self.again(place, event)
        place.leave(self.ray)
        if not started and isinstance(event, Ended) and not isinstance(event, Stopped):
            yield Started(task, place.slot)
        if started or not isinstance(event, Stopped | Restarted):
            yield event

    def again(self, place: _Place, event: Restarted) -> Restarted:
        """Puts the task of a place first in the queue."""
        self.left.appendleft(event.task)
        place.task, place.started, place.deadline = None, False, float("inf")
        return event

    def end_all(self) -> Iterator[Event]:
        """Asks all seats to end their tasks, and ends those that take too long."""
        now = time.monotonic()
        for place in self.places:
            if place.task is None:
                continue
            if not place.started or now > place.deadline:
                task, started = place.task, place.started
                place.leave(self.ray)
                if started:
                    yield Stopped(task, place.slot)
            elif place.deadline == float("inf"):
                place.deadline = now + GRACE + 10
                place.seat.stop.remote()
