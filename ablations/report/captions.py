"""The captions of tables and figures: how to read them, how levels were tuned, and how the numbers were made."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from ablations.metrics import COSTS, METRICS, count_of, level_text
from ablations.report.frames import Frames
from ablations.report.results import Results, StudyResult
from ablations.storage.manifest import StudyEntry, TuningEntry

WORDS = {
    "base": "the configuration that everything is compared with. It stands in the table [base] of a grid file.",
    "study": "one question of a grid, with the levels that answer it.",
    "level": "one row of a study, for example the growth rate 12. The base is one of the levels.",
    "variant": "a full configuration of network, data and training, without a seed. Equal levels are one variant.",
    "cost": "what a variant needs on a device: params, MACs, memory and time. It has no seed.",
    "verdict": "what the 95 % interval of a change says: different (it does not contain 0), equivalent (it lies within "
    "your margin) or undecided. The intervals of a study hold together.",
}
"""The words that readers of a page need first, with their meaning."""


def name_field(path: str) -> str:
    """Returns the column head of a field: `Learning rate` for `train.learning_rate`."""
    return path.rpartition(".")[2].replace("_", " ").capitalize()


def explain_table(study: StudyResult, keys: Collection[str], notes: bool = True) -> str:
    """Explains how to read the table of a study with these columns; without `notes`, with nothing beside the costs."""
    name = study.entry.name if study.entry else None
    tests = {"p", "p_corrected", "smallest_difference", "seeds_for_change", "seeds_for_margin"}
    parts = (
        _ACCURACY if "accuracy" in keys else "",
        explain_comparison(study) if {"change", "verdict", *tests} & {*keys} else "",
        _TESTS if study.conclusions.family and tests & {*keys} else "",
        _LOST if any(level.lost for level in study.levels) and {"change", "verdict"} & {*keys} else "",
        explain_tuning(study.frames, name),
        explain_published(study.frames, name),
        _COSTS if notes and not COSTS.keys().isdisjoint(keys) else "",
        _TIMES if notes and any(key in COSTS and COSTS[key].timed for key in keys) else "",
    )
    return "".join(parts)


def explain_briefly(study: StudyResult, keys: Collection[str], notes: bool) -> str:
    """Explains the same in few words, for a table that a text takes."""
    name = study.entry.name if study.entry else None
    sources = [each.published_source for each in study.frames.manifest.studies if each.name == name]
    over = f"seeds and {study.part} images" if study.conclusions.over_images else "seeds"
    family = f", for all {study.conclusions.family} comparisons together" if study.conclusions.family > 1 else ""
    compared = study.conclusions.family and {"change", "verdict", "p", "p_corrected"} & {*keys}
    timed = any(key in COSTS and COSTS[key].timed for key in keys)
    within = f"; equivalent: it lies within ±{study.margin:g} points" if study.margin else ""
    parts = (
        "Accuracy: mean ± standard deviation over n seeds. " if "accuracy" in keys else "",
        f"Change: in points, with its 95 % interval over {over}{family}. " if compared else "",
        f"Different: without 0{within}; otherwise undecided. " if compared and "verdict" in keys else "",
        "Lost runs widen it. " if compared and any(level.lost for level in study.levels) else "",
        "Tuned on validation images. " if study.tuned else "",
        *(f"Published errors: {source}. " for source in sources if source),
        _COSTS if notes and not COSTS.keys().isdisjoint(keys) else "",
        "≈: the interval contains 0. IQR: interquartile range over repeated steps. " if notes and timed else "",
    )
    return "".join(parts)


def explain_overall(results: Results, notes: bool = True) -> str:
    """Explains how to read the table of all variants; without `notes`, with nothing beside the costs."""
    costs = f"{_COSTS}{_TIMES}" if notes else ""
    tuned = explain_tuning(results.frames)
    hidden = any(study.choose_on == "validation" for study in results.frames.manifest.studies)
    left = "Studies that choose on validation images show no test accuracy. " if hidden else ""
    return f"{_ACCURACY}{left}Changes of accuracy are in the tables of the studies. {tuned}{costs}"


def explain_page(results: Results) -> str:
    """Explains how to read all tables of a results folder."""
    frames = results.frames
    errors = f"{_KAPPA}{_SHARED}{_CLASSES}" if any(study.errors for study in results.studies) else ""
    return f"{_VERDICTS}{_TESTS}{_LOST}{errors}{explain_tuning(frames)}{explain_published(frames)}{_COSTS}{_TIMES}"


def explain_comparison(study: StudyResult) -> str:
    """Explains the intervals and verdicts of a study: what they cover, and which comparisons they count.

    Returns an empty text if nothing is compared.
    """
    found = study.conclusions
    if not found.family:
        return _IDENTICAL if any(level.verdict == "identical" for level in study.levels) else ""
    images = f"{study.part} images"
    over = f"over the seeds and the {images}" if found.over_images else f"over the seeds, on these {images} only"
    pairing = ", paired by seed" if found.paired else ""
    family = f"for all {found.family} comparisons of this study together"
    if len(study.effects):
        family += ", its main effects and interactions included"
    if found.family == 1:
        family = "for the one comparison of this study"
    within = f"; equivalent: it lies within ±{study.margin:g} points" if study.margin else ""
    return (
        f"Change against the base, in points, with its 95 % interval {over}{pairing}, which holds {family}. "
        f"Different: the interval does not contain 0{within}; otherwise undecided. {_IDENTICAL}"
    )


def explain_verdicts() -> str:
    """Explains the intervals and verdicts of all studies in short."""
    return _VERDICTS


def explain_effects(study: StudyResult) -> str:
    """Explains how to read a table of main effects and interactions."""
    return f"{_EFFECTS}{explain_comparison(study)}"


def explain_errors(keys: Collection[str]) -> str:
    """Explains how to read a table of errors with these columns."""
    parts = (
        _KAPPA if {"error_consistency", "error_consistency_own"} & {*keys} else "",
        _SHARED if "shared_errors" in keys else "",
        _CLASSES if any(key.startswith("class_") for key in keys) else "",
    )
    return "".join(parts)


def explain_published(frames: Frames, study: str | None = None) -> str:
    """Names the sources of the published errors of a study or of all studies, and how they are compared.

    Returns an empty text if there are no published errors.
    """
    studies = [each for each in frames.manifest.studies if study in (None, each.name)]
    sources = [each.published_source if study else f"{each.name}: {each.published_source}"
               for each in studies if each.published_source]  # fmt: skip
    if not sources:
        return ""
    return (
        f"Published errors: {'; '.join(sources)}. Within: in the 95 % t interval of the measured error over the seeds; "
        "it does not show how much published runs vary. "
    )


def explain_tuning(frames: Frames, study: str | None = None) -> str:
    """Explains how the tuned fields of a study's levels were chosen. Returns an empty text if nothing is tuned."""
    texts: dict[str, list[str]] = {}
    for each in frames.manifest.studies:
        if study in (None, each.name):
            texts.setdefault(_explain_choices(frames, each), []).append(each.name)
    if len(texts) == 1:
        return next(iter(texts))
    return "".join(f"{', '.join(names)}: {text or 'not tuned. '}" for text, names in texts.items())


def _explain_choices(frames: Frames, study: StudyEntry) -> str:
    subjects = {level.tuned_as for level in study.levels}
    chosen = dict.fromkeys(_explain_choice(entry) for entry in frames.manifest.tuning if entry.variant in subjects)
    follows = any(level.follows_base for level in study.levels)
    whom = "The levels take what was chosen for the base." if follows else "Every level was tuned alike."
    return f"{' '.join(chosen)} {whom} " if chosen else ""


def _explain_choice(entry: TuningEntry) -> str:
    """Returns `Learning rate: chosen from 0.1, 0.3, 1.0 by the accuracy on 5,000 validation images ...`."""
    fields = "; ".join(
        f"{name_field(name)}: chosen from {', '.join(map(level_text, values))}" for name, values in entry.values.items()
    )
    seeds = f"{'seeds' if len(entry.seeds) > 1 else 'seed'} {', '.join(map(str, entry.seeds))}"
    how = ", ".join([seeds, *(f"{name} {level_text(value)}" for name, value in entry.schedule.items())])
    images = f"{entry.validation_images:,} validation images, cut from the training set"
    return f"{fields}, by the accuracy on {images} ({how}); another seed might have chosen another value."


_ACCURACY = "Accuracy of the last epoch, mean ± standard deviation (ddof = 1) over n seeds. "
_IDENTICAL = "Identical: the same weights to the bit, not counted as a comparison. "
_VERDICTS = (
    f"{_ACCURACY}Changes are in points, with 95 % intervals that hold for all comparisons of a study together. "
    "Different: the interval does not contain 0; equivalent: it lies within the margin of the study; otherwise "
    f"undecided. {_IDENTICAL}"
)
_TESTS = (
    "p: of this comparison alone; corrected: for all comparisons together. Detectable change: the smallest true change "
    "that such runs find in about four cases of five. Seeds for observed change: of each level, to find a true change "
    "as large as the one observed; for the margin: to show that a true change of 0 lies within it. "
)
_LOST = (
    "Runs that ended without a result are lost. The interval then reaches to where it would end if runs were lost as "
    "often as is still likely (95 %), and had classified no image correctly. "
)
_EFFECTS = (
    "A main effect is the change of accuracy along one axis, on the average over the levels of the others; an "
    "interaction, by how much changes along two axes together differ from their sum. "
)
_KAPPA = (
    "Error consistency: Cohen's kappa of the outcomes, right or wrong, of two runs with different seeds on the same "
    "images, mean over all pairs (Geirhos et al. 2020); 1: the same errors, 0: as many common errors as by chance. "
)
_SHARED = (
    "Shared errors: the correlation, over the images, of the chances that a run of the level and one of the base are "
    "right (Spearman 1904); 1: the same images are hard for both, whatever their accuracies are. "
    "Its 95 % interval is over images and seeds, for all levels of the study together; it takes three seeds. "
)
_CLASSES = (
    "Classes: change of the accuracy on the images of a class, in points, by the number of the class in the data set. "
    "Different: its 95 % t interval over the seeds, on these images, does not contain 0, for all classes and levels. "
)
_COSTS = "Changes of costs are relative to the base. "
_TIMES = (
    "Those of speed are medians over rounds that measured both in turn, "
    "each in a fresh process, with an interval of at least 95 %; ≈: the interval contains 0; none: not measured so, "
    "or disturbed. IQR: interquartile range over repeated steps of one process, relative to their median; processes "
    "differ by more. "
)


def describe_provenance(
    frames: Frames, costs: Collection[str] = tuple(COSTS), of: Sequence[str] = ("runs", "costs"), brief: bool = False
) -> str:
    """Describes data, seeds, batch size, device, versions and commit, using only the records.

    `costs` are the costs that are shown: nothing is said of others. `of` names the frames that are shown: runs, costs
    or tuning. With `brief`, it does not say what peak memory is.
    """
    shown = {name: frame for name in of if len(frame := getattr(frames, name))}
    parts = {name: frame[frame.status == "done"] for name, frame in shown.items()}
    if not sum(map(len, parts.values())):
        return "Nothing has been run yet."
    known = {key: [part[key].dropna() for part in parts.values() if key in part] for key in _MADE_WITH}
    words = {key: ", ".join(dict.fromkeys(f"{each:g}" if isinstance(each, float) else str(each) for part in columns
             for each in part)) for key, columns in known.items()}  # fmt: skip
    threads = count_of(words["threads"], "thread")
    data = [", ".join(frames.variants.data.unique())]
    if "runs" in parts:
        tested = parts["runs"].reindex(columns=["test_images"]).test_images.dropna().unique()
        limited = frames.variants.reindex(columns=["data.test_limit"]).fillna(0).to_numpy().any()
        part = f" {frames.part} images" + ", a part of the test set (data.test_limit)" * bool(limited)
        data = [", ".join([*data, *(f"{int(number):,}" for number in tested)]) + part * bool(len(tested))]
        data.append(_count_seeds(frames))
    return " ".join(
        [
            f"Data: {'; '.join(data)}.",
            *_describe_measuring(frames, costs, "" if brief else words["device"]),
            *_describe_processes(frames, costs),
            f"Device: {words['device_name']}, {threads}; {words['precision']}; torch {words['torch']}; "
            f"commit {words['commit']}.",
        ]
    )


def _count_seeds(frames: Frames) -> str:
    """Returns `3 seeds`, or `1 to 3 of 3 seeds` if some runs are not done."""
    planned = frames.runs.groupby("variant").size()
    done = (frames.runs.status == "done").groupby(frames.runs.variant).sum()
    ranges = [
        " to ".join(dict.fromkeys(f"{number}" for number in (each.min(), each.max()))) for each in (done, planned)
    ]
    return (f"{ranges[0]} of " if (done < planned).any() else "") + count_of(ranges[1], "seed")


def _describe_measuring(frames: Frames, costs: Collection[str], device: str) -> Iterator[str]:
    """Yields how the costs that are shown were measured, and how many of these measurements were disturbed.

    Without a device, it does not say what peak memory is.
    """
    memory, time = (
        [key for key in costs if METRICS[key].group == "memory"],
        [key for key in costs if METRICS[key].timed],
    )
    if memory and device:
        yield _describe_memory(frames, device)
    if not memory and not time:
        return
    flags = frames.costs[frames.costs.status == "done"].reindex(columns=[METRICS[key].disturbed for key in time])
    number = int(flags.map(lambda flag: isinstance(flag, str) and flag != "").any(axis=1).sum())
    batches = ", ".join(map(str, frames.variants["train.batch_size"].dropna().unique()))
    what = " and ".join(["memory"] * bool(memory) + ["throughput"] * bool(time)).capitalize()
    marked = f" ({number} of {len(flags)} were disturbed by other load, or unsteady, and are marked)" if number else ""
    yield f"{what} at batch size {batches}{marked}."


def _describe_processes(frames: Frames, costs: Collection[str]) -> Iterator[str]:
    """Yields in how many processes one network was trained, if it was more than one for any variant."""
    variants = frames.variants.reindex(columns=["train.processes", "train.batch_norm"])
    counts = variants["train.processes"].fillna(1).astype(int)
    if counts.max() == 1:
        return
    norms = variants["train.batch_norm"][counts > 1].fillna("share").unique()
    over = " or ".join({"share": "its process's share of a batch", "all": "the whole batch"}[each] for each in norms)
    measured = "; training's peak memory is that of one of them" * any(METRICS[key].group == "memory" for key in costs)
    measured += "; its throughput is that of all" * any(METRICS[key].timed for key in costs)
    numbers = ", ".join(map(str, sorted(set(counts))))
    yield f"Processes that train one network: {numbers}; batch norm over {over}{measured}."


_MADE_WITH = ["device", "device_name", "threads", "precision", "torch", "commit"]


def _describe_memory(frames: Frames, device: str) -> str:
    """Describes what the peak memory includes."""
    if device != "cuda":
        return "Peak memory is what tensors hold at most in one step, operators' workspace not included."
    kept = frames.costs.reindex(columns=["workspace_bytes"]).workspace_bytes.dropna() / 2**20
    if kept.empty:
        return "Peak memory is the CUDA allocator's."
    return (
        f"Peak memory is the CUDA allocator's. In training it has {kept.max():.0f} MiB that cuBLAS keeps for itself, "
        "which no prediction includes."
    )
