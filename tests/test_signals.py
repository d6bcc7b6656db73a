"""Signals that ask to stop: heard, but where they are ignored."""

from __future__ import annotations

import os
import signal

import pytest

from ablations import signals


@pytest.fixture(autouse=True)
def handlers():
    """Their usual handlers, even if this process was started with some signals ignored."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in signals.STOPPING}
    yield dict.fromkeys(before, signal.SIG_DFL)
    for number, handler in before.items():
        signal.signal(number, handler)


def test_every_one_is_heard_and_the_handlers_before_are_given(handlers):
    heard = []
    assert signals.handle_stop_signals(lambda number, _: heard.append(number)) == handlers
    for number in signals.STOPPING:
        os.kill(os.getpid(), number)
    assert heard == list(signals.STOPPING)


def test_an_ignored_signal_stays_ignored():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert signal.SIGHUP not in signals.handle_stop_signals(lambda *_: pytest.fail("heard"))
    os.kill(os.getpid(), signal.SIGHUP)


def test_none_is_heard_any_more():
    signals.ignore_stop_signals()
    for number in signals.STOPPING:
        os.kill(os.getpid(), number)
