"""Runs the command `ablate` for scripts and notebooks, in a process of its own.

So the settings of a notebook's PyTorch, its threads and its memory do not reach the measurements, and a script needs no
guard against being imported by worker processes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ablations.grid.toml import write_toml

SOME_FAILED, STOPPED = 1, 75
"""Exit codes of `ablate`."""


class CommandFailed(RuntimeError):
    """`ablate` refused to work. The message is its own."""


class Stopped(RuntimeError):
    """The command was stopped by a signal. What is finished or begun is kept."""


Grid = str | Path | Mapping[str, Any]
"""The path of a grid, the name of a shipped one, or a dictionary with the keys of a file."""


def command(name: str, grid: Grid, options: Sequence[str], show: bool) -> str:
    """Runs `ablate NAME GRID OPTIONS`, and returns its output. A dictionary is written to a temporary file.

    Raises CommandFailed, Stopped and KeyboardInterrupt.
    """
    if not isinstance(grid, Mapping):
        return call([name, str(grid), *options], show)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "grid.toml"
        path.write_text(write_toml(grid), encoding="utf-8")
        return call([name, str(path), *options], show, str(path))


def list_options(options: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """Returns options of the command line: `{"seeds": [0, 1]}` becomes `--seeds 0,1`; None, False and () are left out.

    `settings` are fields of the base, as `--set` takes them.
    """
    written = []
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            written.append(flag)
        elif value not in (None, False, "", (), []):
            listed = isinstance(value, Sequence) and not isinstance(value, str)
            written += [flag, ",".join(map(str, value)) if listed else str(value)]
    for name, value in settings.items():
        written += ["--set", write_toml({name: value}).strip().replace(" = ", "=", 1)]
    return written


def call(arguments: Sequence[str], show: bool, grid: str = "") -> str:
    """Runs `ablate` with these arguments, and returns its output. `show` prints it meanwhile, with notes.

    Errors are in the exception alone. In all that is said, "the grid" stands for the path `grid`. Ctrl-C stops the
    command, which keeps its state; a second one stops it at once. Raises CommandFailed, Stopped, and KeyboardInterrupt
    with what the command said last.
    """
    paths = os.pathsep.join(path for path in sys.path if path)
    interrupted = False
    with (
        tempfile.NamedTemporaryFile() as errors,
        Path(errors.name).open(encoding="utf-8", errors="replace") as told,
        subprocess.Popen(
            [sys.executable, "-m", "ablations", *arguments],
            stdout=subprocess.PIPE,
            stderr=errors,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": paths, "PYTHONIOENCODING": "utf-8"},
            start_new_session=True,  # so that Ctrl-C reaches it once, from here
        ) as process,
    ):
        said = ""
        while True:
            try:
                for line in process.stdout or ():
                    said += line
                    if show:
                        print((told.read() + line).replace(grid or "\0", "the grid"), end="", flush=True)
                code = process.wait()
                break
            except KeyboardInterrupt:
                interrupted = True
                process.send_signal(signal.SIGINT)
        last = told.read().replace(grid or "\0", "the grid")
    if interrupted:
        raise KeyboardInterrupt(last.strip())
    if code == STOPPED:
        raise Stopped(last.strip())
    if code not in (0, SOME_FAILED):
        raise CommandFailed(last.strip())
    if show:
        print(last, end="", flush=True)
    return said
