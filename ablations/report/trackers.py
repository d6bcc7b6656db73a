"""Writers for trackers of experiments: TensorBoard, MLflow and W&B.

A tracker is imported when it is opened, because each is an optional part of the installation.
"""

from __future__ import annotations

import io
import json
import logging
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

from ablations.report.exporting import TrackedRun, Tracker, describe_metric, pack
from ablations.report.formats import name_folder
from ablations.report.frames import Frames
from ablations.storage import files, locks
from ablations.storage.paths import expand

PACKAGES = {"tensorboard": ["tensorboard"], "mlflow": ["mlflow", "sqlalchemy", "alembic"], "wandb": ["wandb"]}
"""The packages of each tracker."""

SQLITE = "sqlite:///"


class TrackerError(ValueError):
    """The tracker is not installed, or it cannot write to this place."""


@contextmanager
def open_tracker(name: str, frames: Frames, place: str | None = None) -> Iterator[Tracker]:
    """Opens a tracker for the runs of a results folder, at a folder or, for MLflow, at the address of a store.

    Without a place, it is a folder in the results folder with the name of the tracker. Raises TrackerError, FolderInUse
    if another export writes there, and StorageError if the folder cannot be written.
    """
    place = place or str(frames.folder / name)
    if "://" in place and name != "mlflow":
        raise TrackerError(f"--out {place}: {name} takes a folder; only mlflow takes the address of a store")
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # they are for the authors of the tracker
        _import_all(name)
        if "://" not in place or place.startswith(SQLITE):
            folder = Path(place.removeprefix(SQLITE)).parent if "://" in place else expand(place)
            stack.enter_context(locks.lock_folder(folder))
            files.sweep(folder)
        try:
            tracker = TRACKERS[name](place, frames)
            stack.callback(tracker.close)
            yield tracker
        except Exception as error:
            if type(error).__module__.partition(".")[0] not in PACKAGES[name]:
                raise
            reason = str(error).partition("\n")[0]
            raise TrackerError(f"{name}, {place}: {reason}") from error


def _import_all(name: str) -> None:
    """Imports the packages of a tracker. They are told to use no network of their own accord."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    try:
        for package in PACKAGES[name]:
            import_module(package)
    except ImportError as error:
        install = f"pip install 'densenet-ablations[{name}]'"
        raise TrackerError(f"{name} cannot be imported: {error}. Install it: {install}") from None


class TensorBoard:
    """One folder for each run, with a file of events whose name ends in the digest of the run.

    The file appears whole or not at all. TensorBoard shows measures in single precision only.
    """

    def __init__(self, place: str, frames: Frames) -> None:
        self.place, self.command = place, ["tensorboard", "--logdir", place]
        self._folder = expand(place)
        self._known: dict[str, list[Path]] = {}

    def find(self) -> dict[str, str]:
        """Finds the files of events. A run with several of them was not written to the end."""
        for path in self._folder.glob(f"*/{EVENTS}*"):
            self._known.setdefault(path.parent.name[-16:], []).append(path)
        return {run: "".join(path.name.removeprefix(EVENTS) for path in paths) for run, paths in self._known.items()}

    def write(self, run: TrackedRun) -> None:
        """Writes the file of events, then removes those of earlier exports."""
        path = self._folder / f"{make_file_name(run.name)}-{run.id}" / f"{EVENTS}{run.digest}"
        files.write(path, render_events(run))
        for old in self._known.pop(run.id, ()):
            if old != path:
                files.remove(old)

    def close(self) -> None:
        """Does nothing: no file is open."""


EVENTS = "events.out.tfevents."


def render_events(run: TrackedRun) -> bytes:
    """Returns a file of events for TensorBoard: the fields and tags for its table HPARAMS, and each measure."""
    event, summary = _import("compat.proto.event_pb2").Event, _import("compat.proto.summary_pb2").Summary
    content = io.BytesIO()
    writer = _import("summary.writer.record_writer").RecordWriter(content)

    def write(time: float, step: int = 0, **what: Any) -> None:
        writer.write(event(wall_time=time, step=step, **what).SerializeToString())

    start = run.ended - run.seconds
    write(start, file_version="brain.Event:2")
    fields = {key: pack(value) for key, value in {**run.params, **run.tags}.items()}
    write(start, summary=_import("plugins.hparams.summary_v2").hparams_pb(fields, run.id, start))
    for epoch in run.rows:
        values = [summary.Value(tag=key, **_describe_scalar(key, value)) for key, value in epoch.values.items()]
        write(run.time_of(epoch), epoch.number, summary=summary(value=values))
    write(run.ended, summary=summary(value=[summary.Value(**_describe_end(run))]))
    return content.getvalue()


def _import(name: str) -> Any:
    return import_module(f"tensorboard.{name}")


def _describe_scalar(key: str, number: float) -> dict[str, Any]:
    """Returns the fields of a value of a measure, with its meaning."""
    return {
        "tensor": _import("util.tensor_util").make_tensor_proto(number, dtype="float32"),
        "metadata": _import("plugins.scalar.metadata").create_summary_metadata(key, describe_metric(key)),
    }


def _describe_end(run: TrackedRun) -> dict[str, Any]:
    """Returns the fields of the value that says for the table HPARAMS how a run ended."""
    metadata, data, api = (_import(f"plugins.hparams.{name}") for name in ("metadata", "plugin_data_pb2", "api_pb2"))
    status = api.STATUS_SUCCESS if run.done else api.STATUS_FAILURE
    ended = data.SessionEndInfo(status=status, end_time_secs=run.ended)
    content = metadata.create_summary_metadata(data.HParamsPluginData(session_end_info=ended))
    return {"tag": metadata.SESSION_END_INFO_TAG, "metadata": content, "tensor": metadata.NULL_TENSOR}


def make_file_name(name: str) -> str:
    """Returns the name of a run as part of a file's name.

    >>> make_file_name("family ResNet-20, k = 15, seed 0")
    'family_ResNet-20_k_=_15_seed_0'
    """
    return re.sub(r"[^A-Za-z0-9.=+-]+", "_", name)[:80].strip("._-") or "run"


class MLflow:
    """One experiment for each results folder, in a database or on a server.

    The tag with the digest is written last. A run with another digest, or none, is deleted and written again.
    """

    ENTRIES, MEASURES = 100, 1000
    """How many fields or tags, and how many measures, MLflow takes at once."""

    def __init__(self, place: str, frames: Frames) -> None:
        for package in ("mlflow.store.db", "alembic"):
            logging.getLogger(package).setLevel(logging.WARNING)
        address = place if "://" in place else f"{SQLITE}{expand(place).resolve() / 'mlflow.db'}"
        self.place, self.command = place, ["mlflow", "ui", "--backend-store-uri", address]
        self._entities = import_module("mlflow.entities")
        self._client = import_module("mlflow").MlflowClient(address)
        self._known: dict[str, list[str]] = {}
        name = name_folder(frames.folder)
        known = self._client.get_experiment_by_name(name)
        if known is None:
            artifacts = None if "://" in place else (expand(place).resolve() / "artifacts").as_uri()
            tags = {"mlflow.note.content": frames.manifest.title}
            self._experiment = self._client.create_experiment(name, artifacts, tags)
        else:
            self._experiment = known.experiment_id

    def find(self) -> dict[str, str]:
        """Finds the runs of the experiment by their tags."""
        found, token = {}, None
        while token != "":
            page = self._client.search_runs([self._experiment], max_results=1000, page_token=token)
            for run in page:
                if (name := run.data.tags.get("id")) is not None:
                    found[name] = run.data.tags.get(DIGEST, "")
                    self._known.setdefault(name, []).append(run.info.run_id)
            token = page.token or ""
        return found

    def write(self, run: TrackedRun) -> None:
        """Deletes what an earlier export has written of the run, and writes it in batches."""
        for old in self._known.pop(run.id, ()):
            self._client.delete_run(old)
        start = round(1000 * (run.ended - run.seconds))
        made = self._client.create_run(self._experiment, start, {"id": run.id}, run.name).info.run_id
        written = {key: value if isinstance(value, str) else json.dumps(value) for key, value in run.params.items()}
        params = [self._entities.Param(key, text) for key, text in written.items()]
        tags = [self._entities.RunTag(key, value) for key, value in run.tags.items()]
        metrics = [
            self._entities.Metric(key, value, round(1000 * run.time_of(epoch)), epoch.number)
            for epoch in run.rows
            for key, value in epoch.values.items()
        ]
        for first in range(0, max(len(params), len(tags)), self.ENTRIES):
            part = slice(first, first + self.ENTRIES)
            self._client.log_batch(made, params=params[part], tags=tags[part])
        for first in range(0, len(metrics), self.MEASURES):
            self._client.log_batch(made, metrics=metrics[first : first + self.MEASURES])
        self._client.set_terminated(made, "FINISHED" if run.done else "FAILED", round(1000 * run.ended))
        self._client.set_tag(made, DIGEST, run.digest)

    def close(self) -> None:
        """Does nothing: MLflow closes its store itself."""


DIGEST = "ablations.digest"
"""The tag that is written last."""


class WandB:
    """One folder for each run, as W&B writes them without a network. Its name ends in the id and the digest of the run.

    A run is written to a folder beside the others, and then moved to its place.
    """

    def __init__(self, place: str, frames: Frames) -> None:
        self._folder, self._project = expand(place), re.sub(r"[/\\#?%:]", "-", name_folder(frames.folder))[:128]
        self.place, self.command = place, ["wandb", "sync", place]
        self._wandb = import_module("wandb")
        self._known: dict[str, list[Path]] = {}
        self._aside = self._folder / ".half-written"
        shutil.rmtree(self._aside, ignore_errors=True)

    def find(self) -> dict[str, str]:
        """Finds the folders of runs by their names."""
        for path in self._folder.glob("offline-run-*"):
            if match := re.fullmatch(r"offline-run-\d+_\d+-([0-9a-f]{16})-[0-9a-f]{16}", path.name):
                self._known.setdefault(match[1], []).append(path)
        return {run: "".join(path.name[-16:] for path in paths) for run, paths in self._known.items()}

    def write(self, run: TrackedRun) -> None:
        """Writes the folder of the run, then moves it to the place of those of earlier exports."""
        self._aside.mkdir(exist_ok=True)
        made = self._make(run)
        started = datetime.fromtimestamp(run.ended - run.seconds, UTC).strftime("%Y%m%d_%H%M%S")
        for old in self._known.pop(run.id, ()):
            shutil.rmtree(old)
        made.rename(self._folder / f"offline-run-{started}-{run.id}-{run.digest}")
        shutil.rmtree(self._aside)

    def close(self) -> None:
        """Ends the process of W&B."""
        self._wandb.teardown()
        shutil.rmtree(self._aside, ignore_errors=True)

    def _make(self, run: TrackedRun) -> Path:
        """Writes the run as a training would, and returns the folder. Only what was measured is written."""
        settings = self._wandb.Settings(
            mode="offline", root_dir=str(self._aside), console="off", silent=True, symlink=False, host="",
            disable_git=True, save_code=False, x_disable_meta=True, x_disable_stats=True, x_disable_machine_info=True,
            x_save_requirements=False,
        )  # fmt: skip
        studies = [key.removeprefix("study.") for key in run.tags if key.startswith("study.")]
        made = self._wandb.init(
            project=self._project, id=run.id, name=run.name[:128], group=run.level[:128], reinit="create_new",
            tags=[*studies, run.status], config={**run.params, **run.tags}, settings=settings,
        )  # fmt: skip
        folder = Path(made.settings.sync_dir)
        for epoch in run.curve:
            made.log({**epoch.values, "_timestamp": run.time_of(epoch)}, step=epoch.number)
        made.summary.update(run.metrics)
        made.finish(exit_code=0 if run.done else 1)
        for name in ("logs", "tmp"):
            shutil.rmtree(folder / name, ignore_errors=True)
        return folder


TRACKERS: dict[str, Callable[[str, Frames], Tracker]] = {
    "tensorboard": TensorBoard, "mlflow": MLflow, "wandb": WandB,
}  # fmt: skip
"""The trackers by name."""
