"""Every number that can be cited, as the tables print it."""

from __future__ import annotations

import math

from ablations.metrics import BESIDE_ACCURACY, COSTS, METRICS, choose_places, format_signed, level_text
from ablations.report.results import LevelResult, Results
from ablations.report.tables import format_percent

Values = dict[tuple[str, str, str], str]
"""(study, level, metric) -> the number as it is printed, without its unit."""

DERIVED = {
    "n": "seeds that are done",
    "pairs": "seeds that are done here and of the base, on the same device and torch version",
    "test_accuracy_sd": "standard deviation over the seeds (ddof = 1), in points",
    "test_accuracy_change": "change of the mean against the base, paired by seed, in points",
    "test_accuracy_change_low": "lower end of the change's 95 % t interval, in points",
    "test_accuracy_change_high": "upper end of the change's 95 % t interval, in points",
    "verdict": "whether the seeds resolve the change",
    "test_error": "100 % less the mean test accuracy, in %",
    "test_error_low": "lower end of the test error's 95 % t interval over the seeds, in %",
    "test_error_high": "upper end of the test error's 95 % t interval over the seeds, in %",
    "published_error": "test error that was published, in %",
    **{f"{key}_sd": f"{metric.label}: standard deviation over the seeds (ddof = 1), in {metric.unit}"
       for key, metric in BESIDE_ACCURACY.items()},
    **{f"{key}_change": f"{metric.label}: change against the base, in %"
       for key, metric in METRICS.items() if metric.compared},
}  # fmt: skip
"""Other values of a table that can be cited, with their meaning."""


def collect_values(results: Results) -> Values:
    """Returns every value that can be cited.

    Metrics are those of METRICS and DERIVED, and the chosen values by field.
    """
    return {
        (study.name, level.level, key): text
        for study in results.studies
        for level in study.levels
        for key, text in _list_values(level).items()
    }


def _list_values(level: LevelResult) -> dict[str, str]:
    """Returns the values of a level, as its table prints them."""
    texts = {"n": str(level.n), "pairs": str(level.pairs), "verdict": level.verdict}
    spread, places = choose_places(level.sd), choose_places((level.high - level.low) / 2)
    numbers = {
        "test_accuracy": (level.mean, f"{level.mean:.{spread}f}"),
        "test_accuracy_sd": (level.sd, f"{level.sd:.{spread}f}"),
        **{f"test_accuracy_change{end}": (value, format_signed(value, places))
           for end, value in {"": level.difference, "_low": level.low, "_high": level.high}.items()},
        **{key: (level.costs[key].value, METRICS[key].show(level.costs[key].value))
           for key in COSTS if not math.isnan(level.costs[key].value)},
    }  # fmt: skip
    for key, found in level.beside.items():
        known = {name: value for name, value in ((key, found.mean), (f"{key}_sd", found.sd)) if not math.isnan(value)}
        numbers |= {name: (value, METRICS[key].show(value)) for name, value in known.items()}
    for key, cost in level.costs.items():
        if METRICS[key].compared and not level.is_base and not math.isnan(cost.change):
            numbers[f"{key}_change"] = cost.change, format_percent(key, cost.change)
    if level.published:
        stated = level.published
        width = choose_places((stated.high - stated.low) / 2)
        errors = {"test_error": stated.error, "test_error_low": stated.low, "test_error_high": stated.high}
        numbers |= {key: (value, f"{value:.{width}f}") for key, value in errors.items()}
        numbers["published_error"] = stated.stated, f"{stated.stated:.2f}"
    texts |= {key: text for key, (value, text) in numbers.items() if not math.isnan(value)}
    return texts | {field.partition(".")[2]: level_text(value) for field, value in level.chosen.items()}
