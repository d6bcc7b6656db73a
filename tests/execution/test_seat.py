"""What engines for clusters share: options, the probe of a node, and a seat that runs tasks."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ablations.environment import describe_code
from ablations.execution.job import job_machine
from ablations.execution.seat import Probe, probe, read_options, refuse_other_code


def test_options_that_an_engine_does_not_have_are_told_with_all_that_it_has():
    allowed = {"address": "where the cluster is", "num_gpus": "GPUs of a seat"}
    assert read_options("ray", {"address": "auto"}, allowed) == {"address": "auto"}
    with pytest.raises(ValueError, match=r"--with adress, gpus: options of --engine ray are\n  address: where .*\n  n"):
        read_options("ray", {"adress": "auto", "gpus": "1"}, allowed)
    with pytest.raises(ValueError, match=r"--with x: options of --engine local are\n  none"):
        read_options("local", {"x": "1"}, {})


def test_a_probe_tells_code_machine_and_whether_the_folder_is_seen(tmp_path):
    (tmp_path / "nonce").write_text("7")
    found = probe(tmp_path / "nonce", "7", "cpu")
    assert found == Probe(describe_code(), job_machine("cpu"), True)
    assert not probe(tmp_path / "nonce", "8", "cpu").sees
    assert not probe(tmp_path / "away" / "nonce", "7", "cpu").sees


def test_nodes_with_other_code_are_refused():
    found = Probe({"commit": "unknown", "fingerprint": "0123"}, {}, True)
    with pytest.raises(ValueError, match=r"other code .*fingerprint 0123, here .*install the same version"):
        refuse_other_code(found)
    refuse_other_code(Probe({**describe_code(), "commit": "unknown"}, {}, True))


SCRIPT = """
import sys
sys.path.append("tests/execution")
from ablations.execution.engine import Task
from ablations.execution.seat import take_seat
from test_engine import work

print("imported")
for event in take_seat([Task("a", work, ("a",)), Task("b", work, ("b",))], ["cpu"], lambda: False, ()):
    print(type(event).__name__, event.task.key)
"""


def test_a_seat_runs_tasks_and_does_not_import_the_script_that_it_is_in(tmp_path):
    """This script has no `if __name__ == "__main__"`: a process that imported it would start seats without end."""
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    found = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=60, check=True)
    course = ["imported", *(f"{event} {task}" for task in "ab" for event in ("Started", "Told", "Finished"))]
    assert found.stdout.splitlines() == course
