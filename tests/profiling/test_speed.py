"""Comparisons of speed: their rounds, and one measurement."""

from __future__ import annotations

import pytest
import torch

from ablations.config import CostConfig, SpeedConfig, TrainConfig
from ablations.profiling import speed
from ablations.profiling.speed import measure_rounds, measure_speed
from densenet import DenseNetConfig


def cost_of(growth_rate):
    model = DenseNetConfig(block_config=(1,), growth_rate=growth_rate, in_channels=1)
    return CostConfig(model, (8, 8), TrainConfig(batch_size=4))


def test_rounds_begin_with_the_base_and_with_the_level_in_turn():
    level, base = cost_of(8), cost_of(4)
    told = []

    def measure(name, cost):
        told.append((name, cost))
        return {"number": len(told)}

    found = measure_rounds(SpeedConfig(level, base, rounds=3), measure)
    assert told == [
        ("the base in round 1", base), ("the level in round 1", level),
        ("the level in round 2", level), ("the base in round 2", base),
        ("the base in round 3", base), ("the level in round 3", level),
    ]  # fmt: skip
    assert [list(each) for each in found] == [["base", "level"], ["level", "base"], ["base", "level"]]
    assert found[1] == {"level": {"number": 3}, "base": {"number": 4}}


def test_a_measurement_has_the_names_of_a_cost_s(monkeypatch):
    for name in ("TRAIN_SECONDS", "INFERENCE_SECONDS", "LATENCY_SECONDS"):
        monkeypatch.setattr(speed, name, 0.0)
    found = measure_speed(cost_of(4), torch.device("cpu"))
    assert found["train_images_per_second"] == pytest.approx(4 / found["train_step_seconds"])
    assert found["inference_images_per_second"] == pytest.approx(4 / found["inference_step_seconds"])
    assert 0 < found["latency_step_seconds"] < found["train_step_seconds"]
    assert {"train_disturbed", "inference_disturbed", "latency_disturbed"} <= set(found)
