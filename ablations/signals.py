"""The signals that ask to stop: from a keyboard, a service manager or batch system, a terminal that is closed."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Batch systems send one of the last two before the time of a job ends, where a user asks them to."""


def handle_stop_signals(handler: Callable[..., Any]) -> dict[signal.Signals, Any]:
    """Sets a handler for the stop signals, except for ignored ones (as with `nohup`). Returns the previous handlers."""
    heard = [number for number in STOPPING if signal.getsignal(number) != signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in heard}


def ignore_stop_signals() -> None:
    """Ignores the stop signals from now on."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
