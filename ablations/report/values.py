"""Every number that can be cited, as the tables print it."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ablations.metrics import BESIDE_ACCURACY, COSTS, METRICS, choose_places, format_signed, level_text
from ablations.report.comparison import Effect
from ablations.report.errors import MOST_CLASSES, LevelErrors
from ablations.report.frames import find_trials
from ablations.report.printing import print_accuracy, print_change, print_kappa, print_p, print_percent, print_shared
from ablations.report.results import LevelResult, Results, StudyResult
from ablations.report.statistics import MOST_SEEDS

Values = dict[tuple[str, str, str], str]
"""(study, level or effect, metric) -> the number as it is printed, without its unit."""

DERIVED = {
    "n": "seeds that are done",
    **{f"{part}_accuracy{end}": meaning for part in ("test", "validation") for end, meaning in {
        "_sd": "standard deviation over the seeds (ddof = 1), in points",
        "_change": "change of the mean against the base, in points",
        "_change_low": "lower end of the change's simultaneous 95 % interval, in points",
        "_change_high": "upper end of the change's simultaneous 95 % interval, in points",
    }.items()},
    "p": "p-value of the change, of this comparison alone",
    "p_corrected": "p-value of the change, corrected for all comparisons of the study",
    "smallest_difference": "smallest true change that such runs find in about four cases of five, in points",
    "seeds_for_change": "seeds of each level that find a true change of this size in about four cases of five",
    "seeds_for_margin": "seeds of each level that show that a true change of 0 is within the margin, as often",
    "verdict": "what the interval says of the change: different, equivalent within the margin, or undecided",
    "error_consistency": "Cohen's kappa of the outcomes of a run and one of the base, with different seeds, mean",
    "error_consistency_own": "Cohen's kappa of the outcomes of two runs of the level, mean over the pairs",
    "shared_errors": "correlation of the chances that runs of the level and of the base classify an image correctly",
    "shared_errors_low": "lower end of the 95 % interval of the shared errors",
    "shared_errors_high": "upper end of the 95 % interval of the shared errors",
    **{f"class_{number}": f"change of the accuracy of class {number} against the base, in points"
       for number in range(MOST_CLASSES)},
    "trial_accuracy": "validation accuracy of the values that tuning chose, mean over the seeds of the trials, in %",
    "test_error": "100 % less the mean test accuracy, in %",
    "test_error_low": "lower end of the test error's 95 % t interval over the seeds, in %",
    "test_error_high": "upper end of the test error's 95 % t interval over the seeds, in %",
    "published_error": "test error that was published, in %",
    **{f"{key}_sd": f"{metric.label}: standard deviation over the seeds (ddof = 1), in {metric.unit}"
       for key, metric in BESIDE_ACCURACY.items()},
    **{f"{key}_change": f"{metric.label}: change against the base, in %"
       for key, metric in METRICS.items() if metric.compared},
    **{f"{key}_change_{end}": f"{metric.label}: {word} end of the interval of the change against the base, in %"
       for key, metric in METRICS.items() if metric.compared and metric.timed
       for end, word in {"low": "lower", "high": "upper"}.items()},
}  # fmt: skip
"""Other values of a table that can be cited, with their meaning."""


def collect_values(results: Results) -> Values:
    """Returns every value that can be cited.

    Metrics are those of METRICS and DERIVED, and the chosen values by field.
    """
    values: Values = {}
    for study in results.studies:
        effects = {(effect.name, key): text for effect in study.effects for key, text in _list_effect(study, effect)}
        levels = {
            (level.level, key): text for level in study.levels for key, text in _list_values(study, level).items()
        }
        errors = {(each.level, key): text for each in study.errors for key, text in _list_errors(each)}
        trials = {(level, "trial_accuracy"): text for level, text in _list_trials(study)}
        values |= {(study.name, *place): text for place, text in {**effects, **levels, **errors, **trials}.items()}
    return values


def _list_effect(study: StudyResult, effect: Effect) -> Iterator[tuple[str, str]]:
    """Yields the values of a main effect or an interaction, as its table prints them."""
    found = effect.difference
    yield from {"n": str(found.n), "verdict": found.verdict}.items()
    change = (found.value, found.low, found.high)
    printed = print_change(*change, study.base.images, study.margin)
    numbers = {
        **dict(zip(_name_changes(study), zip(change, printed, strict=True), strict=True)),
        **_list_tests(found.p, found.p_corrected, found.smallest, found.seeds_for_change, math.nan),
    }
    yield from ((key, text) for key, (value, text) in numbers.items() if not math.isnan(value))


def _list_errors(errors: LevelErrors) -> Iterator[tuple[str, str]]:
    """Yields the values of a level in the table of errors, as it prints them."""
    kappas = {"error_consistency": errors.with_base, "error_consistency_own": errors.own}
    shared = (errors.shared, errors.low, errors.high)
    numbers = {key: (value, print_kappa(value)) for key, value in kappas.items()}
    names = ("shared_errors", "shared_errors_low", "shared_errors_high")
    numbers |= dict(zip(names, zip(shared, print_shared(*shared), strict=True), strict=True))
    yield from ((key, text) for key, (value, text) in numbers.items() if not math.isnan(value))
    changes = enumerate(change.value for change in errors.classes)
    yield from ((f"class_{number}", format_signed(value, 1)) for number, value in changes if not math.isnan(value))


def _list_trials(study: StudyResult) -> Iterator[tuple[str, str]]:
    """Yields the validation accuracy of the chosen values of each tuned level, a mean over the seeds of the trials."""
    trials = find_trials(study.frames, study.name)
    if len(trials):
        chosen = trials[trials.chosen.astype(bool)].groupby("level", sort=False).validation_accuracy
        for level, found in chosen:
            if found.notna().all():  # a record may be lost after the choice
                yield str(level), METRICS["validation_accuracy"].show(float(found.astype(float).mean()))


def _name_changes(study: StudyResult) -> list[str]:
    return [f"{study.accuracy}_change{end}" for end in ("", "_low", "_high")]


def _list_tests(
    p: float, corrected: float, smallest: float, seeds: float, seeds_for_margin: float
) -> dict[str, tuple[float, str]]:
    """Returns what the comparison of a level or an effect gives, each with its text; NaN for unknown."""
    known = {key: value for key, value in (("p", p), ("p_corrected", corrected)) if not math.isnan(value)}
    return {
        **{key: (value, print_p(value)) for key, value in known.items()},
        "smallest_difference": (smallest, f"{smallest:.{choose_places(smallest)}f}"),
        "seeds_for_change": (seeds, _print_seeds(seeds)),
        "seeds_for_margin": (seeds_for_margin, _print_seeds(seeds_for_margin)),
    }


def _print_seeds(number: float) -> str:
    return f"more than {MOST_SEEDS:,}" if math.isinf(number) else f"{number:.0f}"


def _list_values(study: StudyResult, level: LevelResult) -> dict[str, str]:
    """Returns the values of a level, as its table prints them."""
    texts = {"n": str(level.n), "verdict": level.verdict}
    mean, spread = print_accuracy(level.mean, level.sd, level.images)
    change = (level.difference, level.low, level.high)
    printed = print_change(*change, level.images, study.margin)
    numbers = {
        study.accuracy: (level.mean, mean),
        f"{study.accuracy}_sd": (level.sd, spread),
        **dict(zip(_name_changes(study), zip(change, printed, strict=True), strict=True)),
        **_list_tests(
            level.p, level.p_corrected, level.smallest_difference, level.seeds_for_change, level.seeds_for_margin
        ),
        **{key: (level.costs[key].value, METRICS[key].show(level.costs[key].value))
           for key in COSTS if not math.isnan(level.costs[key].value)},
    }  # fmt: skip
    for key, found in level.beside.items():
        known = {name: value for name, value in ((key, found.mean), (f"{key}_sd", found.sd)) if not math.isnan(value)}
        numbers |= {name: (value, METRICS[key].show(value)) for name, value in known.items()}
    for key, cost in level.costs.items():
        if METRICS[key].compared and not level.is_base and not math.isnan(cost.change):
            ends = {"": cost.change, "_low": cost.low, "_high": cost.high}
            numbers |= {
                f"{key}_change{end}": (value, print_percent(key, value))
                for end, value in ends.items()
                if not math.isnan(value)
            }
    if level.published:
        stated = level.published
        width = choose_places((stated.high - stated.low) / 2)
        errors = {"test_error": stated.error, "test_error_low": stated.low, "test_error_high": stated.high}
        numbers |= {key: (value, f"{value:.{width}f}") for key, value in errors.items()}
        numbers["published_error"] = stated.stated, f"{stated.stated:.2f}"
    texts |= {key: text for key, (value, text) in numbers.items() if not math.isnan(value)}
    return texts | {field.partition(".")[2]: level_text(value) for field, value in level.chosen.items()}
