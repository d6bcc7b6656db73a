from __future__ import annotations

import pytest

from ablations.metrics import METRICS, count_of


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("test_accuracy", 97.2222, "97.22"),
        ("params", 49791, "49,791"),
        ("macs", 1_340_000, "1.34"),
        ("macs", 287_929_692, "288"),
        ("macs", 217_158, "0.217"),
        ("macs", 9_996_000, "10.0"),
        ("macs", 4_300, "0.00430"),
        ("macs", 5_418_785_724, "5,419"),
        ("macs", 0, "0"),
        ("train_peak_memory_bytes", 12_474_176, "11.9"),
        ("train_images_per_second", 2034.4, "2,030"),
    ],
)
def test_numbers_as_printed(key, value, shown):
    assert METRICS[key].show(value) == shown


def test_a_number_has_its_noun():
    assert [count_of(number, "run") for number in (0, 1, 1200)] == ["0 runs", "1 run", "1,200 runs"]
    assert [count_of(number, "study", "studies") for number in ("1", "1.0")] == ["1 study", "1.0 studies"]


def test_units_stand_in_the_head():
    assert METRICS["train_peak_memory_bytes"].head == "Peak memory, training (MiB)"
    assert METRICS["params"].head == "Params"


def test_bytes_have_bytes_in_their_name():
    assert all((metric.unit == "MiB") == key.endswith("_bytes") for key, metric in METRICS.items())
