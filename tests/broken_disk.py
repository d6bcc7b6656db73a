"""A disk on which one system call fails."""

from __future__ import annotations

import os

CALLS = ("open", "write", "fsync", "close", "link", "replace", "unlink")


class Faults:
    """The module `os` with one of its calls broken: the `at`-th fails with `error`, or ends the process."""

    def __init__(self, at, error):
        self.at, self.error, self.count = at, error, 0

    def __getattr__(self, name):
        real = getattr(os, name)
        if name not in CALLS:
            return real

        def call(*arguments, **named):
            self.count += 1
            if self.count == self.at:
                if self.error is None:
                    os._exit(9)
                if name in ("close",):
                    real(*arguments, **named)
                raise OSError(self.error, os.strerror(self.error), arguments[0] if name == "open" else None)
            return real(*arguments, **named)

        return call
