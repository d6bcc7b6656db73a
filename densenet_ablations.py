"""The start of the command `ablate`, and the check that Python finds its packages `densenet` and `ablations`.

A folder may hold files of these two names that have nothing to do with this project. This module has a name of its
own, so that Python finds it even there.
"""

import io
import os
import signal
import sys
from importlib.util import find_spec
from pathlib import Path


def check_names() -> None:
    """Check that no other file hides `densenet` or `ablations`.

    Raises:
        ImportError: names the file that Python finds first, and says what to do.
    """
    for name in ("densenet", "ablations"):
        spec = find_spec(name)
        if spec is None:
            continue  # Python's own error says enough
        found = Path(spec.origin or next(iter(spec.submodule_search_locations or ()))).resolve()
        if found != Path(__file__).resolve().parent / name / "__init__.py":
            raise ImportError(
                f"Python finds {found} before the package `{name}` of densenet-ablations. Rename it, or start from "
                "another folder. If PYTHONPATH names its folder, remove it there. The command `ablate` does not look "
                "into the current folder.",
                name=name,
                path=str(found),
            )


def prepare_output() -> None:
    """Make standard output and errors ready for any text: a letter that their encoding lacks becomes `?`."""
    if sys.stdout is None:  # closed by the caller
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def prepare_surroundings() -> None:
    """Keep environment variables away from libraries that they mislead."""
    os.environ["MPLBACKEND"] = "agg"  # a notebook's backend cannot be imported outside of it
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):  # rich would draw and break lines in a log, too
        os.environ.pop(name, None)


def main() -> None:
    """Run the command `ablate`."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda *_: os._exit(75))  # while all is imported there is nothing to keep
    prepare_output()
    prepare_surroundings()
    try:
        Path.cwd()
        check_names()
    except FileNotFoundError:
        print("The folder that you work in was deleted: change to another one.", file=sys.stderr)
        sys.exit(2)
    except ImportError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    from ablations.cli import app

    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except OSError as error:  # mostly of the output: its disk is full, or its reader has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if isinstance(error, BrokenPipeError):
            sys.exit(0)
        print(f"ablate has ended because of an error of this machine: {error}", file=sys.stderr)
        sys.exit(2)
