"""Turns on a device: who waits for whom, who is told, that nobody starves, and that no lock outlives its holder."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from ablations.storage import turns
from ablations.storage.files import StorageError
from ablations.storage.turns import Purpose, lock_device, lock_devices


@pytest.fixture(autouse=True)
def own_device(monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # for other processes
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(turns, "TICK", 0.005)
    monkeypatch.setattr(turns, "LOOK", 0.0)
    monkeypatch.setattr(turns, "TURN", 0.0)


def hold(device, seconds, ready):
    with lock_device(device, True, lambda others: None):
        ready.set()
        time.sleep(seconds)


@pytest.mark.parametrize("exclusive", [True, False])
def test_the_device_lock_waits_for_its_holder_and_outlives_no_one(exclusive):
    context = multiprocessing.get_context("spawn")
    device, ready, waited = f"test-{os.getpid()}-{exclusive}", context.Event(), []
    holder = context.Process(target=hold, args=(device, 60, ready))
    holder.start()
    assert ready.wait(30)

    def end_the_holder(others: str) -> None:
        waited.append(True)
        holder.kill()

    with lock_device(device, exclusive, end_the_holder):
        assert waited == [True]
    holder.join()


def test_shared_holders_do_not_wait_for_each_other():
    device = f"test-shared-{os.getpid()}"
    with lock_device(device, False, pytest.fail) as turn, lock_device(device, False, pytest.fail):
        assert turn.waited >= 0


def test_a_training_on_several_devices_frees_all_of_them_for_a_measurement_on_one():
    """So two that wait for each other's device cannot be."""
    log, waiting = [], threading.Event()

    def measure_both():
        with lock_devices(["cuda:1", "cuda:0"], True, lambda others: waiting.set()):
            log.append("measured")

    with lock_devices(["cuda:0", "cuda:1", "cuda:0"], False, lambda others: None) as turns:
        other = threading.Thread(target=measure_both)
        other.start()
        assert waiting.wait(20)
        wait_until(lambda: turns.give_way(lambda: log.append("settled"), lambda: False) > 0)
        log.append("goes on")
        other.join()
    assert log == ["settled", "measured", "goes on"]


def test_a_lock_that_cannot_be_opened_is_told_and_blocks_nobody(tmp_path):
    path = tmp_path / f"densenet-ablations-{os.getuid()}-cpu.lock"
    for make in (os.mkfifo, lambda path: path.symlink_to("/dev/null"), os.mkdir):
        make(path)
        with (
            pytest.raises(StorageError, match=r"cpu\.lock cannot be opened: "),
            lock_device("cpu", True, pytest.fail),
        ):
            pass
        (path.rmdir if path.is_dir() else path.unlink)()


def measure(device, waiting, purpose):
    with lock_device(device, True, waiting, purpose):
        pass


def train(log, name, stop, ready):
    """A training of short steps. Notes every step, and when it gave way."""
    with lock_device("cpu", False, lambda others: None, Purpose(name)) as turn:
        while not stop.is_set():
            log.append(name)
            ready.set()
            time.sleep(0.002)
            turn.give_way(lambda: log.append(f"{name} settles"), stop.is_set)


@contextmanager
def trainings(log, *names):
    stop = threading.Event()
    ready = [threading.Event() for _ in names]
    threads = [
        threading.Thread(target=train, args=(log, name, stop, each)) for name, each in zip(names, ready, strict=True)
    ]
    for thread in threads:
        thread.start()
    assert all(each.wait(20) for each in ready)
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def wait_until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_a_measurement_gets_its_turn_while_others_train_and_they_go_on_after_it():
    log: list[str] = []
    told: list[str] = []
    with trainings(log, "a", "b"):
        with lock_device("cpu", True, told.append, Purpose("cost")):
            begun = len(log)
            time.sleep(0.05)
            assert len(log) == begun, "nobody trains beside it"
        wait_until(lambda: {"a", "b"} <= set(log[begun:]))
    assert {"a settles", "b settles"} <= set(log[:begun])
    assert told[0] in [f"{name} (process {os.getpid()}) and 1 more" for name in "ab"]


def test_trainings_have_their_turn_between_two_measurements(monkeypatch):
    monkeypatch.setattr(turns, "TURN", 0.2)
    log: list[str] = []
    with lock_device("cpu", True, pytest.fail):
        pass
    with trainings(log, "a"):
        for _ in range(2):
            with lock_device("cpu", True, lambda others: None) as turn:
                assert turn.waited > 0.1
            log.clear()
        wait_until(lambda: "a" in log)


@pytest.mark.parametrize(("turn", "order"), [(0.0, ["cost 1", "cost 2", "run"]), (0.1, ["cost 1", "run", "cost 2"])])
def test_measurements_follow_in_the_order_of_arrival(turn, order, monkeypatch):
    monkeypatch.setattr(turns, "TURN", turn)
    log: list[str] = []
    threads = []

    def use(name, alone):
        with lock_device("cpu", alone, lambda others: log.append(f"{name} waits")):
            log.append(name)
            time.sleep(0.02)

    with lock_device("cpu", False, pytest.fail):
        time.sleep(turn)
        for name, alone in (("cost 1", True), ("run", False), ("cost 2", True)):
            threads.append(threading.Thread(target=use, args=(name, alone)))
            threads[-1].start()
            wait_until(lambda name=name: f"{name} waits" in log)
    for thread in threads:
        thread.join()
    assert [name for name in log if not name.endswith("waits")] == order


def test_others_train_while_a_measurement_waits_for_the_end_of_their_turn(monkeypatch):
    monkeypatch.setattr(turns, "TURN", 60.0)
    with lock_device("cpu", True, pytest.fail):
        pass
    waiting = threading.Event()
    with lock_device("cpu", False, pytest.fail):
        thread = threading.Thread(target=measure, args=("cpu", lambda others: waiting.set(), Purpose()))
        thread.start()
        assert waiting.wait(20)
        with lock_device("cpu", False, pytest.fail):
            assert thread.is_alive()
    thread.join(20)
    assert not thread.is_alive(), "nobody trains any more"


def test_a_training_that_is_asked_to_stop_waits_no_longer():
    stop = threading.Event()
    log: list[str] = []
    ready = threading.Event()
    thread = threading.Thread(target=train, args=(log, "a", stop, ready))
    thread.start()
    assert ready.wait(20)
    with lock_device("cpu", True, lambda others: None):
        stop.set()
        thread.join(20)
        assert not thread.is_alive()


def test_the_ticket_of_the_dead_is_removed(tmp_path):
    with lock_device("cpu", False, pytest.fail):
        pass
    (line,) = tmp_path.glob("*-cpu.line")
    (line / "00000000000000000001-aaaaaaaa.alone").write_text("{}")
    with lock_device("cpu", True, pytest.fail):
        assert [path.suffix for path in line.iterdir()] == [".alone"]
    assert not list(line.iterdir())


def test_a_folder_of_tickets_that_cannot_be_used_is_told(tmp_path):
    (tmp_path / f"densenet-ablations-{os.getuid()}-cpu.line").symlink_to(tmp_path)
    with pytest.raises(StorageError, match=r"cpu\.line cannot be opened: "), lock_device("cpu", True, pytest.fail):
        pass


def test_who_waits_for_whom_is_told(tmp_path):
    mine, other = str(tmp_path / "mine"), str(tmp_path / "other")
    seen = []

    def look(others):
        seen.append(turns.describe_waits(Path(mine)))
        release.set()

    release = threading.Event()
    with lock_device("cuda:1", False, pytest.fail, Purpose("run base, seed 0", other)):
        waiting = threading.Thread(target=measure, args=("cuda:1", look, Purpose("cost base", mine)))
        waiting.start()
        assert release.wait(20)
    waiting.join()
    who = f"run base, seed 0 of {other} (process {os.getpid()})"
    assert seen == [[f"cost base waits for cuda:1, used by {who}"]]
    assert turns.describe_waits(Path(mine)) == []


def test_a_gpu_has_one_name_for_all_processes_whichever_gpus_they_see(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [turns.name_gpu(name) for name in ("cpu", "cuda:0", "cuda:3")] == ["cpu", "cuda:0", "cuda:3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-8932f937,")
    assert [turns.name_gpu(name) for name in ("cpu", "cuda:0", "cuda:1", "cuda:2")] == [
        "cpu",
        "cuda:3",
        "cuda:GPU-8932f937",
        "cuda:2",
    ]
    with turns.lock_device("cuda:0", True, print):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
        told: list[str] = []
        with turns.lock_device("cuda:0", True, told.append):
            assert not told
        assert turns.name_gpu("cuda:1") == "cuda:3"
