"""The suite: a grid of variants is trained and measured, and ends in tables and figures.

The functions here import what they need when they are called, so that commands start without delay.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ablations.report.frames import Frames

__all__ = ["load", "load_model", "plan", "run"]


def load(folder: str | Path) -> Frames:
    """Read a results folder as tidy data frames.

    Args:
        folder: the results folder of `ablate run`.

    Returns:
        Frames with a row per run, cost, epoch and variant, and per level of each study in `studies`. The column
            `variant` joins them.

    Raises:
        NotResults: the folder holds no results, or a damaged plan.

    Example:
        >>> frames = load("results/digits-cpu")
        >>> frames.runs.groupby("model.growth_rate").test_accuracy.mean()  # doctest: +SKIP
    """
    from ablations.report.frames import load

    return load(folder)


def load_model(path: str | Path, own_code: bool = False) -> Any:
    """Read the trained network of a run with `train.keep_weights`.

    Args:
        path: a file of the folder `weights/` of a results folder.
        own_code: whether a class outside this package may be imported. Otherwise a file from elsewhere cannot choose
            the code that runs.

    Returns:
        The network in eval mode, `(N, C, H, W) -> (N, num_classes)`.

    Raises:
        NotWeights: the file was not written by `ablate run`, or needs `own_code`.

    Example:
        >>> network = load_model("results/mine/weights/0123456789abcdef.safetensors")  # doctest: +SKIP
    """
    from ablations.training.weights import load_model

    return load_model(path, own_code)


def run(
    grid: str | Path | Mapping[str, Any],
    out: str | Path | None = None,
    *,
    seeds: Iterable[int] | None = None,
    settings: Mapping[str, Any] | None = None,
    workers: int = 0,
    device: str = "auto",
    engine: str = "local",
    retry: Sequence[str] = (),
    costs: bool = True,
    jobs_per_device: int = 1,
    shard: str = "",
    max_jobs: int | None = None,
    show: bool = True,
) -> Frames:
    """Run what is missing of a grid, make the report, and read the results: `ablate run` from Python.

    Args:
        grid: the path of a TOML file, the name of a shipped grid, or a dictionary with the same keys.
        out: the results folder. The default is `results/` and the name of the grid; a dictionary has none.
        seeds: seeds instead of the grid's.
        settings: changes of the base, `{"train.epochs": 3}`.
        workers: processes that train; 0 means one per core, or one per GPU.
        device: `auto`, `cpu` or `cuda`.
        engine: `local` or `inline`.
        retry: the statuses of failed jobs that are tried again: `failed`, `oom`, `diverged`, `timeout`. `disturbed`
            measures again, and `edited` runs all jobs of edited networks again.
        costs: whether costs and speeds are measured this time.
        jobs_per_device: how many trainings share one GPU.
        shard: `3/8` does the third of eight parts of the jobs. The default is all of them.
        max_jobs: a grid of more jobs is refused. The default is 10,000.
        show: whether progress and tables are printed.

    Returns:
        The frames of the results folder. Their column `status` tells failures.

    Raises:
        CommandFailed: the grid or an option is wrong; the message lists every problem.
        Stopped: a signal stopped the command. The same call goes on from there.
        KeyboardInterrupt: Ctrl-C stopped the command. The message says what is kept.

    Example:
        >>> grid = {"base": {"train.epochs": 1}, "study": {"k": {"model.growth_rate": [8, 12]}}}
        >>> run(grid, "results/k").runs.test_accuracy.mean()  # doctest: +SKIP
    """
    from ablations import session

    folder = _name_folder(grid, out)
    given = {
        "out": folder,
        "seeds": _list_seeds(seeds),
        "workers": workers,
        "device": device,
        "engine": engine,
        "retry": retry,
    }
    given |= {"no_costs": not costs, "shard": shard, "max_jobs": max_jobs}
    given |= {"jobs_per_device": jobs_per_device if jobs_per_device != 1 else None}
    session.command("run", grid, session.list_options(given, settings or {}), show)
    return load(folder)


def plan(
    grid: str | Path | Mapping[str, Any],
    out: str | Path | None = None,
    *,
    seeds: Iterable[int] | None = None,
    settings: Mapping[str, Any] | None = None,
    workers: int = 0,
    device: str = "auto",
    max_jobs: int | None = None,
    counts_only: bool = False,
    sd: float | None = None,
) -> dict[str, Any]:
    """Predict what a grid needs: params, MACs, memory, missing jobs and their time. Nothing is trained.

    Args:
        grid: as for `run`.
        out: as for `run`; with a dictionary it may be left out, and nothing is on record then.
        seeds: as for `run`.
        settings: as for `run`.
        workers: as for `run`; the time depends on it.
        device: as for `run`.
        max_jobs: as for `run`.
        counts_only: whether memory and time are left out, which is faster.
        sd: how much the accuracy varies from seed to seed, in points, if nothing on record shows it: then `power` tells
            how large a change the grid would find.

    Returns:
        What `ablate plan --json` prints.

    Raises:
        CommandFailed: the grid or an option is wrong; the message lists every problem.
    """
    from ablations import session

    given: dict[str, Any] = {"out": out, "seeds": _list_seeds(seeds), "workers": workers, "device": device}
    given |= {"counts_only": counts_only, "max_jobs": max_jobs, "sd": sd}
    said = session.command("plan", grid, ["--json", *session.list_options(given, settings or {})], show=False)
    found: dict[str, Any] = json.loads(said)
    return found


def _list_seeds(seeds: Iterable[int] | None) -> list[int] | None:
    """Raises ValueError for anything else than whole numbers, at least one."""
    if seeds is None:
        return None
    try:
        found = [] if isinstance(seeds, str) else [operator.index(seed) for seed in seeds]
    except TypeError:
        found = []
    if not found:
        raise ValueError(f"seeds={seeds!r}: a list of whole numbers is needed, for example seeds=[0, 1, 2]")
    return found


def _name_folder(grid: str | Path | Mapping[str, Any], out: str | Path | None) -> Path:
    if out is not None:
        return Path(out)
    if isinstance(grid, Mapping):
        raise ValueError("a grid in a dictionary has no name: give its results folder as out")
    return Path("results") / Path(grid).stem
