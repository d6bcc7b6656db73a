"""Runs tasks one after the other in this very process: for a debugger, and where no process can be started."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from ablations.execution.engine import (
    AskedToStop,
    Broken,
    Context,
    Deaths,
    Ended,
    Event,
    Finished,
    Kept,
    Restarted,
    Started,
    Stopped,
    Stopping,
    Task,
    Told,
    Waiting,
    over_limit,
)
from ablations.storage import locks

TICK = 0.05
"""Seconds after which the engine looks up."""


class InlineEngine:
    """Runs each task in a thread, which nothing can end from outside: a task that does not ask to stop goes on.

    A death is any exception but OSError.
    """

    slots = 1

    def __init__(self, device: str, machine: Mapping[str, Any]) -> None:
        self._device, self.machine = device, machine

    def run(self, tasks: Sequence[Task], stopping: Stopping = lambda: False) -> Generator[Event]:
        """Runs the tasks and yields what happens, as `Engine` says."""
        left, deaths = deque(tasks), Deaths()
        while left and not stopping():
            task = left.popleft()
            yield Started(task, 0)
            for event in self._work(task, deaths, stopping):
                if isinstance(event, Restarted):
                    left.appendleft(task)
                yield event

    def _work(self, task: Task, deaths: Deaths, stopping: Stopping) -> Generator[Event]:
        """One life of a task."""
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        asked, begun = threading.Event(), threading.Event()
        thread = threading.Thread(target=self._live, args=(task, deaths, events.put, asked.is_set, begun.set))
        thread.start()
        since: float | None = None
        try:
            while True:
                with suppress(queue.Empty):
                    event = events.get(timeout=TICK)
                    if isinstance(event, Ended | Restarted):
                        yield self._judge(event, since, stopping())
                        return
                    yield event
                since = time.monotonic() if since is None and begun.is_set() else since
                late = since is not None and 0 < task.limit < time.monotonic() - since
                if (late or stopping()) and not asked.is_set():
                    asked.set()
                    if stopping():
                        yield AskedToStop(task, 0)
        finally:
            asked.set()
            thread.join()

    def _judge(self, event: Event, since: float | None, stopping: bool) -> Event:
        """The end of a life, which may have come of the limit, or of the request to stop."""
        task = event.task
        if isinstance(event, Stopped | Restarted) and stopping:
            return Stopped(task, 0)
        late = since is not None and 0 < task.limit < time.monotonic() - since
        return over_limit(task, 0) if isinstance(event, Stopped | Restarted) and late else event

    def _live(self, task: Task, deaths: Deaths, put: Any, asked: Stopping, begin: Any) -> None:
        """What the thread does; the last thing that it puts is an end, or that the task is to be started again."""

        def keep(place: Any) -> None:
            deaths.forgive(task.key, place)
            put(Kept(task, 0, place))

        before, started = time.monotonic(), time.monotonic()
        try:
            with locks.lock_device(self._device, task.exclusive, lambda: put(Waiting(task, 0))):
                begin()
                started += time.monotonic() - before
                context = Context(self._device, started, lambda message: put(Told(task, 0, message)), keep, asked)
                status = task.function(*task.arguments, context)
            put(Stopped(task, 0) if status == "stopped" else Finished(task, 0, status))
        except OSError as error:
            put(Broken(task, 0, error))
        except BaseException as error:
            put(deaths.count(task, 0, f"ended by {type(error).__name__}: {error}"))
