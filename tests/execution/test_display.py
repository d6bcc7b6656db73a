"""What is shown while a grid is at work."""

from __future__ import annotations

import io

from rich.console import Console

from ablations.execution.display import Board, Work, clock, show
from ablations.execution.local import Event, Task

TASKS = [Task(key, str, ()) for key in ("c", "r", "s")]
WORKS = {"c": Work("base", "cost", 0), "r": Work("base, seed 0", "run", 4), "s": Work("base, seed 1", "run", 4)}
EVENTS = [
    Event("started", TASKS[0], 0),
    Event("finished", TASKS[0], 0, ("done",)),
    Event("started", TASKS[1], 0),
    Event("waiting", TASKS[1], 0),
    Event("progress", TASKS[1], 0, (1.0, 0.5)),
    Event("kept", TASKS[1], 0),
    Event("progress", TASKS[1], 0, (1.5, 0.25)),
    Event("started", TASKS[2], 1),
    Event("restarted", TASKS[2], 1, ("killed by SIGKILL",)),
    Event("started", TASKS[2], 1),
    Event("lost", TASKS[2], 1, ("failed", "its process was killed by SIGKILL, 3 times")),
    Event("finished", TASKS[1], 0, ("diverged",)),
]


def output(terminal: bool) -> str:
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=120)
    assert list(show(console, iter(EVENTS), WORKS, 2)) == EVENTS
    return text.getvalue()


def test_without_a_terminal_there_are_plain_lines():
    lines = output(terminal=False).splitlines()
    assert "\x1b" not in "".join(lines)
    assert "done     cost base" in lines
    assert "again    base, seed 1: its process was killed by SIGKILL" in lines
    assert "failed, its process was killed by SIGKILL, 3 times run  base, seed 1" in lines
    assert "diverged run  base, seed 0: epoch 1.5/4, loss 0.250" in lines
    assert "1 diverged, 1 done, 1 failed, 0 running, 0 left" in lines[-1]


def test_in_a_terminal_the_display_is_live():
    assert "1 diverged, 1 done, 1 failed" in output(terminal=True)


def test_the_board_tells_what_is_running_and_how_long_it_will_take():
    board = Board(WORKS)
    assert board.seconds_left(2) is None
    for event in EVENTS[:7]:
        board.update(event)
    assert board.latest == {0: "epoch 1.5/4, loss 0.250"}
    assert board.seconds_left(2) is not None, "a run tells by its course how long it takes"
    assert "1 done, 1 running, 1 left" in board.summary(2)
    for event in EVENTS[7:]:
        board.update(event)
    assert board.seconds_left(2) == 0.0


def test_clock():
    assert [clock(seconds) for seconds in (5, 65, 3661)] == ["0:05", "1:05", "1:01:01"]
