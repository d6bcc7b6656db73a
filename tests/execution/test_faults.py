"""Faults injected into whole grids at work: each ends in a right row, or in a run that goes on as if nothing was."""

from __future__ import annotations

import fcntl
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from conftest import TINY, write_grid, write_images
from rich.console import Console

from ablations.cli import _finish
from ablations.execution import driver
from ablations.grid.reader import read
from ablations.report.frames import load
from ablations.storage import locks, records

LONG = TINY.replace("[0, 1, 2]", "[0]").replace("epochs = 1", "epochs = 100000\ntrain.checkpoint_seconds = 0.1")
LONG_EPOCHS = LONG.replace("checkpoint_seconds = 0.1", "batch_size = 1").replace(
    "train_limit = 100", "train_limit = 500"
)
LONG, LONG_EPOCHS = (
    text.replace("model.growth_rate = [4, 8]", "train.learning_rate = [0.1, 0.01]")  # which share their cost
    for text in (LONG, LONG_EPOCHS)
)
FEW = TINY.replace("[0, 1, 2]", "[0]").replace("[4, 8]", "[4]").replace("epochs = 1", "epochs = 3")
FEW = FEW.replace("block_config = [1, 1]", "block_config = [4, 4]")


def command(grid, folder, *more):
    return [sys.executable, "-m", "ablations", "run", str(grid), "--out", str(folder), "--device", "cpu", *more]


@contextmanager
def at_work(grid, folder):
    """A driver whose runs have begun."""
    (folder / "records").mkdir(parents=True)
    process = subprocess.Popen(command(grid, folder, "--workers", "2"), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        end = time.monotonic() + 120
        while len(list(folder.glob("checkpoints/*.latest"))) < 2:
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < end
            time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.communicate()


def amid_epochs(folder):
    """Waits until the two runs are both well within an epoch; gives when they last kept their state."""
    end = time.monotonic() + 60
    while time.time() - max((before := kept(folder)).values()) / 1e9 < 0.2:
        assert time.monotonic() < end
        time.sleep(0.01)
    return before


def kept(folder):
    """When the latest checkpoint of each of the two runs was written; one that is just being replaced has no name."""
    while True:
        with suppress(FileNotFoundError):
            found = {path.name: path.stat().st_mtime_ns for path in folder.glob("checkpoints/*.latest")}
            if len(found) == 2:
                return found


@pytest.mark.slow
def test_sigterm_ends_a_grid_politely_and_nobody_disturbs_it_before(tmp_path):
    grid, folder = write_grid(tmp_path, LONG_EPOCHS), tmp_path / "out"
    with at_work(grid, folder) as process:
        second = subprocess.run(command(grid, folder), capture_output=True, text=True)
        who = rf"process {process.pid} on \S+ since \S+ \S+"
        assert second.returncode == 2
        assert re.search(rf"^{folder} is being worked on by {who}$", second.stderr, re.MULTILINE)
        assert re.fullmatch(who, locks.find_holder(folder))
        before = amid_epochs(folder)
        asked = time.monotonic()
        process.terminate()
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 75
    assert time.monotonic() - asked < 20
    assert b"Traceback" not in errors
    assert errors.startswith(b"Stopped. What is finished or begun is kept in")
    after = kept(folder)
    assert all(after[name] > before[name] for name in before), "both have kept their state when they were asked"
    assert not list(folder.rglob(".*"))
    assert len(list((folder / "records").glob("*.json"))) == 1, "the cost"


@pytest.mark.parametrize(
    "number",
    [pytest.param(number, marks=pytest.mark.slow) for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1)],
)
def test_a_signal_to_every_process_at_once_keeps_every_state(number, tmp_path):
    """As from a service manager, a batch system, or a terminal that is closed."""
    grid, folder = write_grid(tmp_path, LONG_EPOCHS), tmp_path / "out"
    with at_work(grid, folder) as process:
        before = amid_epochs(folder)
        for each in descendants(process.pid):
            os.kill(each, number)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 75
    assert b"Traceback" not in errors
    after = kept(folder)
    assert all(after[name] > before[name] for name in before)
    assert not list(folder.glob("attempts/*"))


def descendants(process):
    """A process and all that stem from it, the youngest first."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [each for child in children for each in descendants(int(child))] + [process]


@pytest.mark.slow
def test_a_worker_that_somebody_else_ends_is_started_again(tmp_path):
    grid, folder = write_grid(tmp_path, LONG.replace("epochs = 100000", "epochs = 60")), tmp_path / "out"
    with at_work(grid, folder) as process:
        worker = next(each for each in descendants(process.pid) if os.getpgid(each) == each)
        os.kill(worker, signal.SIGTERM)
        lines, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert b"again    " in lines
    assert load(folder).runs.status.tolist() == ["done", "done"]
    assert sorted(load(folder).runs.resumes) == [0, 1]


@pytest.mark.slow
def test_a_halted_worker_dies_with_its_driver_too(tmp_path):
    grid, folder = write_grid(tmp_path, LONG), tmp_path / "out"
    with at_work(grid, folder) as process:
        workers = [each for each in descendants(process.pid) if os.getpgid(each) == each]
        os.kill(workers[0], signal.SIGSTOP)
        process.kill()
    end = time.monotonic() + 5
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
def test_a_closed_pipe_and_a_full_log_are_no_traceback(tmp_path):
    grid, folder = write_grid(tmp_path, TINY.replace("[0, 1, 2]", "[0]").replace("[4, 8]", "[4]")), tmp_path / "out"
    called = " ".join(map(str, command(grid, folder)))
    full = subprocess.run(["bash", "-c", f"{called} > /dev/full"], capture_output=True, text=True)
    assert full.returncode == 2
    assert "No space left on device. Finished jobs are saved" in full.stderr
    assert "Traceback" not in full.stderr
    closed = subprocess.run(["bash", "-c", f"set -o pipefail; {called} | head -0"], capture_output=True, text=True)
    assert (closed.returncode, closed.stderr) == (0, "")
    assert load(folder).runs.status.tolist() == ["done"]


@pytest.mark.parametrize("times", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_ctrl_c_ends_a_grid_and_a_second_one_at_once(times, tmp_path):
    grid, folder = write_grid(tmp_path, LONG), tmp_path / "out"
    with at_work(grid, folder) as process:
        for _ in range(times):
            process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 75
    assert errors.startswith(b"Stopped. What is finished or begun is kept in")
    assert b"Traceback" not in errors
    assert len(list(folder.glob("checkpoints/*.latest"))) == 2
    assert load(folder).runs.status.tolist() == ["missing"] * 2


def work(grid, folder, retry=()):
    text = io.StringIO()
    outcome = driver.work(
        grid, folder, driver.make_engine("local", ["cpu", "cpu"]), retry, Console(file=text, width=200)
    )
    return outcome, text.getvalue()


SIX_FAULTS = """\
seeds = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
time_limit = 15

[base]
model.family = "faulty:Faulty"
data.name = "digits"
data.train_limit = 100
train.epochs = 1

[study.faults]
train.learning_rate = [0.1]
"""


def deterministic(folder):
    return {name: record["deterministic"] for name, record in records.load(folder)[0].items()}


@pytest.mark.slow
def test_six_faults_cost_their_own_rows_alone(tmp_path, monkeypatch, capsys):
    shutil.copy(Path(__file__).parent.parent / "faulty.py", tmp_path)
    monkeypatch.chdir(tmp_path)
    grid = read(write_grid(tmp_path, SIX_FAULTS))
    (tmp_path / "mended").touch()
    outcome, _ = work(grid, tmp_path / "clean")
    assert (outcome.total, len(deterministic(tmp_path / "clean"))) == (12, 12)
    (tmp_path / "mended").unlink()

    folder = tmp_path / "out"
    work(grid, folder)
    runs = load(folder).runs.set_index("seed")
    assert runs.status.tolist() == ["done"] * 5 + ["diverged", "oom", "oom", "failed", "failed", "timeout"]
    again = "3 times in a row without a newer checkpoint"
    assert runs.reason.tolist()[5:] == [
        "Diverged: the loss is nan at step 0, in epoch 1",
        "MemoryError: 3 TiB",
        "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        f"its process was killed by SIGSEGV, {again}",
        f"its process was ended with exit code 3, {again}",
        "it took longer than time_limit = 15 seconds",
    ]
    clean, found = deterministic(tmp_path / "clean"), deterministic(folder)
    assert len(found) == 6
    assert all(clean[name] == values for name, values in found.items())
    assert _finish(folder) == 1
    told = capsys.readouterr().err
    assert "6 not done; `--retry diverged,failed,oom,timeout` runs them again:" in told
    assert "  1 oom: MemoryError: 3 TiB\n  at faulty.py:36 in no_memory\n    run base, seed 6\n" in told
    assert "  1 timeout: it took longer than time_limit = 15 seconds\n    run base, seed 10\n" in told

    (tmp_path / "mended").touch()
    assert work(grid, folder)[0].executed == 0, "what failed is not tried again by itself"
    assert work(grid, folder, ["oom", "failed"])[0].executed == 4
    assert work(grid, folder, ["diverged", "timeout"])[0].executed == 2
    assert deterministic(folder) == clean
    assert len(records.load_attempts(folder)) == 6, "attempts are kept beside the records"
    assert not list(folder.glob("checkpoints/*"))


def limited(shell, grid, folder):
    """A driver under a limit of the shell's."""
    return subprocess.run(
        ["bash", "-c", f'{shell}; exec "$@"', "-", *command(grid, folder)], capture_output=True, text=True
    )


@pytest.mark.slow
def test_a_file_size_limit_stops_a_grid_with_a_sentence_and_tears_nothing(tmp_path):
    grid, folder = write_grid(tmp_path, FEW), tmp_path / "out"
    read(grid)  # its data is in the cache now
    found = limited("ulimit -f 50", grid, folder)
    assert found.returncode == 2
    assert re.search(
        r"checkpoints/\w{16}\.latest cannot be written: File too large\. Finished jobs are saved", found.stderr
    )
    assert "Traceback" not in found.stderr
    whole, damaged = records.load(folder)
    assert (len(whole), damaged) == (1, [])
    assert not list(folder.rglob(".*"))
    assert subprocess.run(command(grid, folder), capture_output=True).returncode == 0
    assert whole.items() <= records.load(folder)[0].items()


FAULT = """\
seeds = [0]

[base]
model.family = "mended:Network"
data.name = "digits"
data.train_limit = 100
train.epochs = 4
train.batch_size = 50

[study.alone]
train.learning_rate = [0.1]
"""

NETWORK = """
import os, signal, torch
class Network(torch.nn.Module):
    def __init__(self, in_channels, num_classes):
        super().__init__()
        self.layer = torch.nn.Linear(64, num_classes)
        self.register_buffer("calls", torch.zeros(()))
    def forward(self, images):
        scores = {activation}(self.layer(images.flatten(1)))
        self.calls += 1
        {fault}
        return scores
"""


def test_a_mended_network_does_not_go_on_from_what_the_broken_one_left(tmp_path, monkeypatch):
    """Half a training by one source and half by another would be a number of neither."""
    monkeypatch.chdir(tmp_path)
    fault = "if self.training and self.calls > 5: raise RuntimeError('broken')"
    (tmp_path / "mended.py").write_text(NETWORK.format(activation="torch.relu", fault=fault))
    grid = read(write_grid(tmp_path, FAULT))
    work(grid, tmp_path / "out")
    assert load(tmp_path / "out").runs.status.tolist() == ["failed"]
    assert len(list((tmp_path / "out" / "checkpoints").iterdir())) == 2
    (tmp_path / "mended.py").write_text(NETWORK.format(activation="torch.tanh", fault=""))
    work(grid, tmp_path / "out", ["failed"])
    work(grid, tmp_path / "clean")
    assert deterministic(tmp_path / "out") == deterministic(tmp_path / "clean")
    assert load(tmp_path / "out").runs.resumes.tolist() == [0]


def test_what_dies_while_it_is_evaluated_is_given_up(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fault = "if not self.training and self.calls > 0 and len(images) == 64: os.kill(os.getpid(), signal.SIGKILL)"
    (tmp_path / "mended.py").write_text(NETWORK.format(activation="torch.relu", fault=fault))
    work(read(write_grid(tmp_path, FAULT)), tmp_path / "out")
    (reason,) = load(tmp_path / "out").runs.reason
    assert reason == "its process was killed by SIGKILL, 3 times in a row without a newer checkpoint"


def test_what_has_diverged_is_never_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fault = "scores = scores * (float('nan') if self.calls > 5 else 1)"
    (tmp_path / "mended.py").write_text(NETWORK.format(activation="torch.relu", fault=fault))
    grid = read(write_grid(tmp_path, FAULT), ["train.checkpoint_seconds=0"])
    work(grid, tmp_path / "out")
    (reason,) = load(tmp_path / "out").runs.reason
    assert reason == "Diverged: the loss is nan at step 5, in epoch 3"
    work(grid, tmp_path / "out", ["diverged"])
    assert load(tmp_path / "out").runs.reason.tolist() == [reason]


@contextmanager
def mounted(place, kilobytes):
    """A small file system of its own; tests that need one are skipped where that is not allowed."""
    place.mkdir()
    try:
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(place)], capture_output=True
        )
        if made.returncode:
            pytest.skip("mounting a small file system is not allowed here")
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.slow
def test_a_full_disk_stops_a_grid_with_a_sentence_and_tears_nothing(tmp_path):
    grid, folder = write_grid(tmp_path, FEW), tmp_path / "disk" / "out"
    with mounted(tmp_path / "disk", 150):
        first = subprocess.run(command(grid, folder), capture_output=True, text=True)
        kept = {path.name: path.read_bytes() for path in folder.glob("records/*.json")}
        assert first.returncode == 2
        assert "No space left on device. Finished jobs are saved" in first.stderr, first.stderr
        assert str(folder) in first.stderr
        assert "Traceback" not in first.stderr
        assert records.load(folder)[1] == []
        assert len(kept) >= 1
        subprocess.run(["mount", "-o", "remount,size=20m", str(tmp_path / "disk")], check=True)
        again = subprocess.run(command(grid, folder), capture_output=True, text=True)
        assert again.returncode == 0, again.stderr
        assert kept.items() <= {path.name: path.read_bytes() for path in folder.glob("records/*.json")}.items()


def test_a_read_only_folder_is_told_before_any_job(tmp_path, tiny):
    with mounted(tmp_path / "disk", 400):
        (tmp_path / "disk" / "out").mkdir()
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path / "disk")], check=True)
        with pytest.raises(driver.files.StorageError, match="disk/out cannot be written: Read-only file system"):
            work(tiny, tmp_path / "disk" / "out")


@pytest.mark.parametrize("place", ["records", "attempts", "checkpoints"])
def test_a_part_of_the_folder_that_cannot_be_written_is_told_before_any_job(place, tmp_path, tiny):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / place).touch()
    with pytest.raises(driver.files.StorageError, match=f"out/{place} cannot be written"):
        work(tiny, tmp_path / "out")


def test_a_failing_fsync_is_told_before_any_job(tmp_path, tiny, monkeypatch):
    def fail(descriptor):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(driver.files.StorageError, match="cannot be written: Input/output error"):
        work(tiny, tmp_path / "out")


@pytest.mark.slow
def test_damaged_records_are_named_set_aside_and_run_again(tmp_path, capsys):
    grid, folder = read(write_grid(tmp_path, FEW)), tmp_path / "out"
    work(grid, folder)
    before = deterministic(folder)
    for path in (folder / "records").glob("*.json"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 4
        path.write_bytes(content)
    names = sorted(path.name for path in (folder / "records").glob("*.json"))
    assert [path.name for path in load(folder).damaged] == names
    outcome, _ = work(grid, folder)
    assert outcome.executed == 2
    assert sorted(path.name for path in (folder / "records" / "damaged").iterdir()) == names
    assert deterministic(folder) == before


WITHOUT_LOCKS = """
import fcntl
def none(*arguments):
    raise OSError(37, "No locks available")
fcntl.flock = none
from ablations.__main__ import main
if __name__ == "__main__":
    main()
"""


@pytest.mark.slow
def test_two_drivers_that_meet_lose_nothing(tmp_path):
    """As on a file system without locks."""
    grid = write_grid(tmp_path, TINY.replace("epochs = 1", "epochs = 5\ntrain.checkpoint_seconds = 0"))
    work(read(grid), tmp_path / "clean")
    (tmp_path / "main.py").write_text(WITHOUT_LOCKS)
    arguments = [sys.executable, str(tmp_path / "main.py"), *command(grid, tmp_path / "out")[3:]]
    both = [subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    assert deterministic(tmp_path / "out") == deterministic(tmp_path / "clean")
    assert records.load(tmp_path / "out")[1] == []
    assert not list((tmp_path / "out").rglob(".*"))


def test_the_lock_of_the_dead_holds_nothing(tmp_path, tiny):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".lock").write_text(json.dumps({"process": 1, "host": "elsewhere", "since": "1999"}))
    with locks.lock_folder(tmp_path / "out"):
        descriptor = os.open(tmp_path / "out" / ".lock", os.O_RDWR)
        with pytest.raises(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(descriptor)


@pytest.mark.slow
def test_a_training_whose_reader_of_images_is_killed_is_started_again(tmp_path):
    images = write_images(tmp_path / "images", 20)
    text = LONG.replace('data.name = "digits"\ndata.train_limit = 100', images).replace("100000", "15")
    grid, folder = write_grid(tmp_path, text), tmp_path / "out"
    with at_work(grid, folder) as process:
        readers: list[int] = []
        while not readers:
            own = {each: os.getpgid(each) for each in descendants(process.pid)}
            readers = [
                each for each, group in own.items() if group != each and group in own and group != own[process.pid]
            ]
        os.kill(readers[0], signal.SIGKILL)
        lines, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    assert b"again    " in lines
    assert load(folder).runs.status.tolist() == ["done", "done"]
