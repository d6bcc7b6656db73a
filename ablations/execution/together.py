"""Calls a function in several processes at a time, which form a group, by torch's elastic launcher.

The processes are forks of this one, which must not have used CUDA. If one of them fails or dies, all end.
"""

from __future__ import annotations

import json
import logging
import mmap
import os
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torch.numa.binding import AffinityMode, NumaOptions

from ablations.execution.fresh import Killed, describe_end, end_with_maker
from ablations.signals import ignore_stop_signals
from ablations.training.distributed import Group, is_lost, open_group

TICK = 0.05
"""Seconds between two looks for a stop request."""

GRACE = 0.5
"""Seconds in which a process that gets SIGTERM waits for the stop request that a batch system sends with it, and in
which one that has lost another waits for the launcher to notice it."""

Fields = dict[str, Any]


class Failed(RuntimeError):
    """The function raised an exception in one of the processes: the first one, if there were several."""

    def __init__(self, failure: Mapping[str, Any]) -> None:
        super().__init__(str(dict(failure)))
        self.failure = failure
        """What `describe` returned in that process."""


def call_together(
    function: Callable[[Group], Any],
    devices: Sequence[str],
    describe: Callable[[Exception], Fields],
    stopping: Callable[[], bool] = lambda: False,
) -> Any:
    """Calls `function(group)` in one process for each device, and returns what it returned in process 0.

    What it returns, and what `describe` returns for an exception, must be values that JSON can hold. `stopping` is
    called in this process alone; in the others `group.stopping` tells what it returned last.

    Raises Failed for the first exception in a process, and Killed if a process ended without one.
    """
    with tempfile.TemporaryDirectory(prefix="ablations-together-") as place, _watch(stopping) as wish:
        pipes = [os.pipe() for _ in devices[1:]]
        try:
            killed = _launch(len(devices), (function, tuple(devices), describe, place, pipes, wish))
        finally:
            for descriptor in (each for pipe in pipes for each in pipe):
                os.close(descriptor)
        endings = [json.loads(path.read_bytes()) for path in sorted(Path(place).glob("*.json"))]
    failures = [each for each in endings if "failed" in each]
    if failures:
        raise Failed(min(failures, key=lambda each: float(each["when"]))["failed"])
    if killed:
        raise Killed(killed)
    return endings[0]["value"]


def _launch(size: int, arguments: tuple[Any, ...]) -> str:
    """Runs the processes, and returns which of them ended badly, and how; empty if none did."""
    for name in ("torch.distributed", "torch.multiprocessing"):  # the note of a failure tells what failed
        logging.getLogger(name).setLevel(logging.CRITICAL)
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "5")
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=size,
        run_id="ablations",
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=0,
        start_method="fork",
        signals_to_handle="SIGQUIT",  # stop signals are this suite's own
        logs_specs=DefaultLogsSpecs(arguments[3]),
        numa_options=NumaOptions(AffinityMode.NODE),  # without any, it asks CUDA, which a fork cannot use after that
    )
    config.numa_options = None
    before = signal.getsignal(signal.SIGQUIT)
    try:
        elastic_launch(config, _work)(*arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        return f"process {rank} of {size} was {describe_end(failure.exitcode)}"
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGQUIT, before)
    return ""


@contextmanager
def _watch(stopping: Callable[[], bool]) -> Iterator[mmap.mmap]:
    """A context with a byte of shared memory, in which 1 stands as soon as `stopping` returns True."""
    wish, done = mmap.mmap(-1, 1), threading.Event()

    def look() -> None:
        while not done.wait(TICK):
            wish[0] = int(stopping())

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield wish
    finally:
        done.set()
        thread.join()


def _work(
    function: Callable[[Group], Any],
    devices: Sequence[str],
    describe: Callable[[Exception], Fields],
    place: str,
    pipes: Sequence[tuple[int, int]],
    wish: mmap.mmap,
) -> None:
    """Calls the function in one of the processes, and keeps its value or its exception in a file."""
    end_with_maker()
    ignore_stop_signals()
    signal.signal(signal.SIGTERM, lambda number, frame: _end_unless_stopping(wish))
    rank = int(os.environ["RANK"])
    try:
        ending = {"value": function(open_group(devices, rank, pipes, wish))}
    except Exception as error:  # a network may raise anything
        when = time.monotonic()
        if is_lost(error):
            time.sleep(GRACE)  # until the launcher has seen the end of the other one, which is the cause
        else:
            Path(place, f"{rank}.json").write_text(json.dumps({"failed": describe(error), "when": when}))
        os._exit(1)  # at once: the others may wait for this process in vain
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    Path(place, f"{rank}.json").write_text(json.dumps(ending))


def _end_unless_stopping(wish: mmap.mmap) -> None:
    """Ends this process, unless a stop was requested: the launcher sends SIGTERM when another process has ended.

    A batch system sends it to all processes when all should save their state and stop.
    """
    end = time.monotonic() + GRACE
    while time.monotonic() < end:
        if wish[0]:
            return
        time.sleep(TICK)
    os._exit(1)
