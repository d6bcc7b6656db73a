"""`ablate`, which `python -m ablations` is too."""

import os
import signal
import sys


def main() -> None:
    """Entry point of the command."""
    signal.signal(signal.SIGINT, lambda *_: os._exit(75))  # while all is imported there is nothing to keep
    if sys.stdout is None:  # closed by the caller
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115
    from ablations.cli import app

    signal.signal(signal.SIGINT, signal.default_int_handler)
    app()


if __name__ == "__main__":
    main()
