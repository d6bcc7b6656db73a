"""Which measurements count as disturbed."""

from __future__ import annotations

import pytest
from conftest import MACHINE, TINY, fabricate, write_grid

from ablations.grid.model import list_jobs
from ablations.grid.reader import read
from ablations.storage import records
from ablations.storage.disturbance import describe_disturbance, list_disturbed


@pytest.fixture
def disturbed(tmp_path):
    """Fabricates a folder where some rounds were disturbed, and the cost of `growth_rate 8`, as always."""

    def call(rounds):
        def edit(job, record):
            if job.kind == "speed":
                for each in record["measured"]["rounds"][:rounds]:
                    each["base"]["train_disturbed"] = "other load"

        grid = read(write_grid(tmp_path, TINY.replace("speed_rounds = 0", "speed_rounds = 6")))
        fabricate(tmp_path / "r", grid, edit=edit)
        return {job.id: job for job in list_jobs(grid, MACHINE)}

    return call


@pytest.mark.parametrize(("rounds", "kinds"), [(2, ["cost"]), (3, ["cost", "speed"])])
def test_costs_and_speeds_are_disturbed_and_trainings_are_not(rounds, kinds, disturbed, tmp_path):
    jobs = disturbed(rounds)
    assert sorted(jobs[each].kind for each in list_disturbed(tmp_path / "r", jobs)) == kinds
    reasons = {describe_disturbance(record) for record in records.load(tmp_path / "r")[0].values()}
    three = "3 of 6 rounds were disturbed, for example: other load"
    assert reasons == {"", "other processes used 0.9 cores", *([three] if rounds > 2 else [])}


def test_what_is_missing_or_damaged_is_not_disturbed(disturbed, tmp_path):
    jobs = disturbed(6)
    place = tmp_path / "r" / "records"
    first, second = list_disturbed(tmp_path / "r", jobs)
    (place / f"{first}.json").unlink()
    (place / f"{second}.json").write_text("cut off")
    assert list_disturbed(tmp_path / "r", jobs) == []
