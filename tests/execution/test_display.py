"""What is shown while a grid is at work."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from ablations.execution.display import Board, Work, format_clock, format_span, print_rows, show
from ablations.execution.engine import Broken, Finished, Kept, Lost, Restarted, Started, Stopped, Task, Told, Waiting
from ablations.training.events import Epoch, Progress

TASKS = [Task(key, str, ()) for key in ("c", "r", "s")]
WORKS = {"c": Work("base", "cost", 0), "r": Work("base, seed 0", "run", 4), "s": Work("base, seed 1", "run", 4)}
LOST = "its process was killed by SIGKILL, 3 times"
EVENTS = [
    Started(TASKS[0], 0),
    Finished(TASKS[0], 0, "done"),
    Started(TASKS[1], 0),
    Waiting(TASKS[1], 0),
    Told(TASKS[1], 0, Progress(1.0, 0.5)),
    Kept(TASKS[1], 0, (1, 0)),
    Told(TASKS[1], 0, Progress(1.5, 0.25)),
    Started(TASKS[2], 1),
    Restarted(TASKS[2], 1, "killed by SIGKILL"),
    Started(TASKS[2], 1),
    Lost(TASKS[2], 1, "failed", LOST),
    Finished(TASKS[1], 0, "diverged"),
]


def output(terminal: bool) -> str:
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=120)
    assert list(show(console, iter(EVENTS), Board(WORKS), 2)) == EVENTS
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
    assert board.seconds_left(2) == (0.0, 0.0)
    assert board.summary(2).endswith(" so far, nothing to go")
    board.then = "runs follow"
    assert board.summary(2).endswith(" so far, runs follow")


def test_finished_jobs_correct_the_estimate():
    """Five runs of a mean of 100 seconds. The range is their mean with 25 %, then with what they differ by."""
    board = Board({str(number): Work(f"base, seed {number}", "run", 4) for number in range(6)})
    board.finished["run"], board.lengths["run"] = 1, [100.0]
    assert board.seconds_left(1) == (375.0, 625.0)
    board.finished["run"], board.lengths["run"] = 2, [100.0, 100.0]
    assert board.seconds_left(2) == pytest.approx((180.0, 220.0))
    board.lengths["run"] = [80.0, 120.0]
    spread = 0.4 * 0.5**0.5 * (0.5**0.5 + 0.5)
    assert board.seconds_left(2) == pytest.approx((200 * (1 - spread), 200 * (1 + spread)))


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (5 * 3600, 6.7 * 3600, "about 5 to 7 hours"),
        (0.2, 0.4, "up to 1 second"),
        (3, 3, "about 3 seconds"),
        (100, 130, "about 2 minutes"),
        (100, 250, "about 2 to 4 minutes"),
        (1700, 7300, "up to 2 hours"),
        (5 * 86400, 7 * 86400, "about 5 to 7 days"),
    ],
)
def test_a_range_of_time_has_a_unit(low, high, text):
    assert format_span(low, high) == text


def test_clock():
    assert [format_clock(seconds) for seconds in (5, 65, 3661)] == ["0:05", "1:05", "1:01:01"]


def test_an_epoch_s_validation_accuracy_is_shown_with_its_loss():
    board = Board(WORKS)
    line = Epoch(1, 0.5, 80.0, 0.6, 81.25, None, None, 0.1, 1.0, 64, 2.0)
    for event in (Started(TASKS[1], 0), Told(TASKS[1], 0, Progress(1.0, 0.5)), Told(TASKS[1], 0, line)):
        board.update(event)
    assert board.latest == {0: "epoch 1.0/4, loss 0.500, validation accuracy 81.25 %"}
    board.update(Told(TASKS[1], 0, Progress(2.0, 0.25)))
    board.update(Told(TASKS[1], 0, replace(line, epoch=2, validation_accuracy=None)))
    assert board.latest == {0: "epoch 2.0/4, loss 0.250"}
    board.update(Stopped(TASKS[1], 0))
    assert board.latest == {}


def test_a_fault_of_the_machine_is_shown_as_it_is():
    text = io.StringIO()
    events = [Started(TASKS[1], 0), Broken(TASKS[1], 0, OSError("the disk is full"))]
    list(show(Console(file=text, width=120), iter(events), Board(WORKS), 1))
    assert "the disk is full run  base, seed 0" in text.getvalue()


def test_what_a_job_waited_for_is_forgotten_at_its_end():
    text = io.StringIO()
    waiting = Waiting(TASKS[0], 1, "run base, seed 0 of there (process 7)")
    events = [Started(TASKS[0], 1), waiting, waiting, Finished(TASKS[0], 1, "done")]
    list(show(Console(file=text, width=120), iter(events), Board(WORKS), 1))
    assert "done     cost base\n" in text.getvalue()
    said = "running  base: waiting for the device, used by run base, seed 0 of there (process 7)\n"
    assert text.getvalue().count(said) == 1, "the same is not told every few seconds"


def test_the_first_column_keeps_its_room_beside_many_others():
    text = io.StringIO()
    print_rows(Console(file=text, width=70), "A title", ["Level", *"abcdefgh"], [["4 (base)", *["1234567"] * 8]])
    assert "4 (base)" in text.getvalue()


@pytest.mark.parametrize("width", [30, 40, 80, 200])
def test_a_number_is_never_broken_and_what_does_not_fit_is_named(width):
    heads = ["Level", "Params", "Peak memory, training (MiB)", "Training (images/s)"]
    rows = [["a level with a rather long name", "38,400", "1,234.5", "987,654"]]
    text = io.StringIO()
    print_rows(Console(file=text, width=width), "A title", heads, rows)
    shown = text.getvalue()
    said = " ".join(shown.split())
    for head, number in zip(heads[1:], rows[0][1:], strict=True):
        assert (number in shown) != (f"{head}" in said.partition("Left out for want of room: ")[2]), (head, shown)
    assert all(len(line) <= width for line in shown.partition("Left out")[0].splitlines())
