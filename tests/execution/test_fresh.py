"""A function in a new process: its value, its death, a stop request, and the end with the process that needs it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT

from ablations.execution.fresh import Abandoned, Killed, call_fresh

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # Python 3.12


def tell_process(value):
    return value, os.getpid()


def end(number):
    os.kill(os.getpid(), number)


def raise_error():
    raise SystemExit(3)


def sleep(path):
    path.write_text(str(os.getpid()))
    time.sleep(60)


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_every_call_has_its_own_process(method):
    found = [call_fresh(tell_process, (number,), method, lambda: False) for number in range(2)]
    assert [value for value, _ in found] == [0, 1]
    assert len({os.getpid(), *(process for _, process in found)}) == 3


@pytest.mark.parametrize(
    ("function", "arguments", "said"),
    [(end, (signal.SIGKILL,), "killed by SIGKILL"), (raise_error, (), "ended with exit code 3")],
)
def test_a_process_without_a_value_is_told(function, arguments, said):
    with pytest.raises(Killed, match=f"its process was {said}"):
        call_fresh(function, arguments, "fork", lambda: False)


def is_alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_stop_request_kills_the_process(tmp_path):
    path = tmp_path / "process"
    with pytest.raises(Abandoned):
        call_fresh(sleep, (path,), "fork", lambda: path.exists() and bool(path.read_text()))
    assert not is_alive(int(path.read_text()))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux kills a halted process")
@pytest.mark.parametrize("method", ["fork", pytest.param("forkserver", marks=pytest.mark.slow)])
def test_it_ends_with_the_process_that_needs_it(method, tmp_path):
    """Even if it is halted."""
    path = tmp_path / "process"
    code = "import sys, pathlib, test_fresh as t; t.call_fresh(t.sleep, (pathlib.Path(sys.argv[1]),), sys.argv[2], int)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    with subprocess.Popen([sys.executable, "-c", code, path, method], env=environment) as parent:
        while not (path.exists() and path.read_text()):
            assert parent.poll() is None
            time.sleep(0.02)
        os.kill(int(path.read_text()), signal.SIGSTOP)
        parent.kill()
    deadline = time.monotonic() + 60
    while is_alive(int(path.read_text())):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_folder_for_temporary_files_with_a_long_name_is_no_trouble(tmp_path):
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    code = "from ablations.execution.fresh import *; print(call_fresh(len, ('abc',), 'forkserver', lambda: False))"
    environment = {**os.environ, "TMPDIR": str(folder), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("3\n", "")
