"""Chaos: a grid with real training whose processes are killed -9 again and again ends like one that nobody disturbed.

Some kills come at random instants, others wait for a phase that is over in milliseconds. A process is halted before it
is killed, so that what it was doing is known.
"""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import write_grid

from ablations.storage import records

GRID = """\
seeds = [{seeds}]

[base]
model.block_config = [1, 1]
model.growth_rate = 4
model.dropout = 0.2
data.name = "digits"
data.train_limit = 200
data.augmentation = "standard"
train.epochs = {epochs}
train.batch_size = 32
train.checkpoint_seconds = 0

[study.schedule]
train.schedule = ["step", "cosine"]
"""
PHASES = {"checkpoints": "checkpoint", "records": "publish"}
COMMAND = [sys.executable, "-m", "ablations", "run", "--device", "cpu", "--retry", "failed"]
SUITE = "ABLATIONS_CHAOS"


class Chaos:
    """One grid, worked off by drivers that are killed, with workers that are killed."""

    def __init__(self, place, text, aims, generator):
        self.folder, self.aims, self.random = place / "out", aims, generator
        self.grid, self.mark = write_grid(place, text), uuid.uuid4().hex
        self.hits: Counter[str] = Counter()
        self.lives = 0

    def run(self):
        """Kills as `aims` say, until they are used up, then lets the last driver finish."""
        (self.folder / "records").mkdir(parents=True)
        while True:
            self.lives += 1
            with subprocess.Popen(
                [*COMMAND, self.grid, "--out", self.folder],
                env={**os.environ, SUITE: self.mark}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            ) as driver:  # fmt: skip
                while self.aims and driver.poll() is None:
                    self.strike(driver, *self.aims[0])
                _, errors = driver.communicate()
            assert driver.returncode in (0, 1, -signal.SIGKILL), errors
            assert "Traceback" not in errors
            if driver.returncode == 0:
                self.aims = [aim for aim in self.aims if aim == ("driver", "report")]  # there is no other work left
                if not self.aims:
                    return
            self.wait_for_the_end_of_all()

    def strike(self, driver, who, phase):
        """Kills a driver or a worker in a phase, which may be any."""
        if phase == "any":
            time.sleep(self.random.uniform(0.0, 3.0 if who == "driver" else 0.7))
        while driver.poll() is None:
            victims = [driver.pid] if who == "driver" else self.workers(driver.pid)
            for victim in victims:
                if phase == "any" or self.phase(victim, driver.pid) == phase:
                    self.kill(victim, driver.pid, who, phase)
                    return
            if phase == "any":
                return

    def kill(self, victim, driver, who, wanted):
        with suppress(ProcessLookupError):
            os.kill(victim, signal.SIGSTOP)
            found = self.phase(victim, driver)
            if wanted in ("any", found):
                os.kill(victim, signal.SIGKILL)
                self.hits[f"{who}: {found}"] += 1
                self.aims.pop(0)
            else:
                os.kill(victim, signal.SIGCONT)

    def phase(self, victim, driver):
        """What a process does, by the file that it is writing."""
        for path in self.folder.rglob(f".*.{victim}.*.tmp"):
            return PHASES.get(path.parent.name, "report")
        if victim != driver:
            return "step" if any((self.folder / "checkpoints").glob("*.latest")) else "cost"
        jobs = self.folder / "jobs.json"
        wanted = len(json.loads(jobs.read_bytes())["jobs"]) if jobs.exists() else 1
        return "report" if len(list((self.folder / "records").glob("*.json"))) == wanted else "waiting"

    def workers(self, driver):
        """Processes of this grid that lead a group of their own."""
        return [pid for pid in self.processes() if pid != driver and pid == group(pid)]

    def processes(self):
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if f"{SUITE}={self.mark}".encode() in (place / "environ").read_bytes():
                    found.append(int(place.name))
        return found

    def wait_for_the_end_of_all(self):
        """A killed driver's processes end by themselves."""
        end = time.monotonic() + 5
        while self.processes():
            assert time.monotonic() < end, "processes are left five seconds after their driver's death"
            time.sleep(0.02)


def group(pid):
    with suppress(OSError, IndexError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[2])
    return None


def deterministic(folder):
    """Every table without the columns that are measured, as text; and the records' deterministic parts."""
    whole, damaged = records.load(folder)
    assert damaged == []
    measured = {key for record in whole.values() for key in record["measured"]}
    measured |= {"seconds", "images_per_second", "peak_memory_bytes"}
    tables = {}
    for path in sorted([*folder.glob("*.csv"), *folder.glob("tables/*.csv")]):
        with path.open() as file:
            rows = list(csv.reader(file))
        keep = [number for number, name in enumerate(rows[0]) if not any(each in name for each in measured)]
        assert len(keep) >= 4
        tables[path.relative_to(folder)] = [[row[number] for number in keep] for row in rows]
    return tables, {name: record["deterministic"] for name, record in whole.items()}


def check(chaos, clean):
    assert deterministic(chaos.folder) == clean
    assert chaos.processes() == []
    assert not list(chaos.folder.rglob(".*")), "no temporary file, no lock"
    assert not list(chaos.folder.glob("checkpoints/*"))
    assert not (chaos.folder / "records" / "damaged").exists()


def undisturbed(place, text):
    place.mkdir()
    chaos = Chaos(place, text, [], random.Random(0))
    chaos.run()
    return deterministic(chaos.folder)


@pytest.mark.slow
def test_a_grid_survives_kills(tmp_path):
    text = GRID.format(seeds="0", epochs=3)
    clean = undisturbed(tmp_path / "clean", text)
    aims = [
        ("worker", "any"),
        ("worker", "checkpoint"),
        ("driver", "waiting"),
        ("worker", "step"),
        ("worker", "publish"),
    ]
    aims += [("driver", "report")]
    chaos = Chaos(tmp_path, text, aims, random.Random(0))
    chaos.run()
    check(chaos, clean)
    assert not list(chaos.folder.glob("attempts/*")), "no kill was taken for a failure"
    assert sum(chaos.hits.values()) >= 5, chaos.hits


@pytest.mark.slow
def test_a_grid_survives_hundreds_of_kills(tmp_path, capsys):
    hits: Counter[str] = Counter()
    generator, grids, lives, given_up = random.Random(1), 0, 0, 0
    text = GRID.format(seeds="0, 1, 2", epochs=6)
    clean = undisturbed(tmp_path / "clean", text)
    aimed = [("worker", "publish"), ("worker", "checkpoint"), ("worker", "step"), ("driver", "report")]
    while sum(hits.values()) < 200 or min(in_phases(hits).values()) < 3:
        place = tmp_path / str(grids)
        place.mkdir()
        aims = [("worker", "any")] * 12 + [("driver", "any")] * 4 + aimed
        generator.shuffle(aims)
        aims.sort(key=lambda aim: aim == ("driver", "report"))
        chaos = Chaos(place, text, aims, generator)
        chaos.run()
        check(chaos, clean)
        hits += chaos.hits
        given_up += len(list(chaos.folder.glob("attempts/*")))
        grids, lives = grids + 1, lives + chaos.lives
    with capsys.disabled():
        print(f"\n{sum(hits.values())} kills in {grids} grids and {lives} lives of their drivers; by phase:")
        for name, count in sorted(hits.items()):
            print(f"  {name}: {count}")
        print(f"{given_up} jobs were killed three times in a row without a newer checkpoint, failed, and were retried")


def in_phases(hits):
    """How often each phase was hit, whoever was in it."""
    phases = dict.fromkeys(("step", "checkpoint", "publish", "report"), 0)
    for name, count in hits.items():
        phase = name.partition(": ")[2]
        if phase in phases:
            phases[phase] += count
    return phases
