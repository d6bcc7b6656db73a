"""Runs tasks one after the other in this process: for a debugger, or if processes cannot be started."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from functools import partial
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
from ablations.storage.turns import lock_device

TICK = 0.05
"""Seconds between two checks for a stop request and for the limit."""


class InlineEngine:
    """Runs each task in a thread. A thread cannot be killed, so a task that does not check `stopping` runs to its end.

    Any exception except OSError counts as a death. The limit includes the time in which a training gives way.
    """

    slots = widest = 1

    def __init__(self, device: str, machine: Mapping[str, Any]) -> None:
        self._device, self.machine = device, machine

    def run(self, tasks: Sequence[Task], stopping: Stopping = lambda: False) -> Generator[Event]:
        """Runs the tasks and yields their events, as `Engine` describes."""
        left, deaths = deque(tasks), Deaths()
        while left and not stopping():
            task = left.popleft()
            yield Started(task, 0)
            for event in self._work(task, deaths, stopping):
                if isinstance(event, Restarted):
                    left.appendleft(task)
                yield event

    def _work(self, task: Task, deaths: Deaths, stopping: Stopping) -> Generator[Event]:
        """Runs a task once, until it ends or must be restarted."""
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
        """Returns the last event, replaced if the limit or the request to stop was the reason."""
        task = event.task
        if isinstance(event, Stopped | Restarted) and stopping:
            return Stopped(task, 0)
        late = since is not None and 0 < task.limit < time.monotonic() - since
        return over_limit(task, 0) if isinstance(event, Stopped | Restarted) and late else event

    def _live(self, task: Task, deaths: Deaths, put: Any, asked: Stopping, begin: Any) -> None:
        """Runs a task in its thread. The last event that it puts is an end or a restart."""

        def tell(message: object) -> None:
            put(Told(task, 0, message))

        def keep(place: Any) -> None:
            deaths.forgive(task.key, place)
            put(Kept(task, 0, place))

        def wait(others: str) -> None:
            put(Waiting(task, 0, others))

        started = time.monotonic()
        try:
            with lock_device(self._device, task.exclusive, wait, task.purpose) as turn:
                begin()
                give_way = partial(turn.give_way, stopping=asked)
                context = Context(self._device, started + turn.waited, tell, keep, asked, give_way=give_way)
                status = task.function(*task.arguments, context)
            put(Stopped(task, 0) if status == "stopped" else Finished(task, 0, status))
        except OSError as error:
            put(Broken(task, 0, error))
        except BaseException as error:
            put(deaths.count(task, 0, f"ended by {type(error).__name__} {error}".rstrip()))
