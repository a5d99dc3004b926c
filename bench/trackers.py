"""Experiment trackers: cells and scores are logged to each through its own library, which is imported nowhere else.

A tracker gets the costs of every cell when it ends, and at the end of the run the scores, one series per score and
method over steps, and the report as files. One that fails is dropped with a message; the run continues without it.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from bench.analysis.scoring import cost_of
from bench.experiment.trackers import MLflow, TensorBoard, TrackerChoice, WeightsAndBiases
from bench.records.cell import plain_number
from bench.records.errors import BenchError
from bench.records.record import Record
from bench.redact import settings_without_secrets
from bench.store.store import Store

EXTRAS = {"tensorboard": "track", "mlflow": "mlflow", "wandb": "track"}
"""By kind, which is the library's name as well."""
FILES = ("report.html", "scores.csv")


@dataclass(frozen=True)
class Point:
    """A number of a series, at a number of steps."""

    series: str
    steps: int
    value: float


class Tracker(Protocol):
    """What a library is used for."""

    def points(self, points: Sequence[Point]) -> None:
        """Add to the series."""
        ...

    def files(self, paths: Sequence[Path]) -> None:
        """Keep files with the run."""
        ...

    def close(self) -> None:
        """Nothing comes after this."""
        ...


class ToTensorBoard:
    """Event files."""

    def __init__(self, choice: TensorBoard, name: str, settings: Mapping[str, str]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(Path(choice.directory) / name))
        rows = "\n".join(f"    {key} = {value}" for key, value in settings.items())
        self._writer.add_text("settings", rows)

    def points(self, points: Sequence[Point]) -> None:
        for point in points:
            self._writer.add_scalar(point.series, point.value, point.steps)
        self._writer.flush()

    def files(self, paths: Sequence[Path]) -> None:
        """TensorBoard keeps none."""

    def close(self) -> None:
        self._writer.close()


class ToMLflow:
    """A run on an MLflow server, or in a directory."""

    LONGEST = 500
    """Characters of a parameter's value that a server takes."""

    def __init__(self, choice: MLflow, name: str, settings: Mapping[str, str]) -> None:
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient(choice.tracking_uri)
        found = self._client.get_experiment_by_name(choice.experiment)
        experiment = found.experiment_id if found else self._client.create_experiment(choice.experiment)
        self._run = self._client.create_run(experiment, run_name=name).info.run_id
        for key, value in settings.items():
            self._client.log_param(self._run, key, value[: self.LONGEST])

    def points(self, points: Sequence[Point]) -> None:
        for point in points:
            self._client.log_metric(self._run, point.series, point.value, step=point.steps)

    def files(self, paths: Sequence[Path]) -> None:
        for path in paths:
            self._client.log_artifact(self._run, str(path))

    def close(self) -> None:
        self._client.set_terminated(self._run)


class ToWeightsAndBiases:
    """A run of Weights & Biases."""

    def __init__(self, choice: WeightsAndBiases, name: str, settings: Mapping[str, str]) -> None:
        import wandb

        self._wandb = wandb
        where = {"project": choice.project, "entity": choice.entity, "mode": choice.mode, "dir": choice.directory}
        self._run = wandb.init(**where, name=name, config=dict(settings))
        self._run.define_metric("*", step_metric="steps")

    def points(self, points: Sequence[Point]) -> None:
        for steps in sorted({point.steps for point in points}):
            self._run.log({"steps": steps, **{p.series: p.value for p in points if p.steps == steps}})

    def files(self, paths: Sequence[Path]) -> None:
        artifact = self._wandb.Artifact("report", type="report")
        for path in paths:
            artifact.add_file(str(path))
        self._run.log_artifact(artifact)

    def close(self) -> None:
        self._run.finish()


KINDS: dict[str, Callable[..., Tracker]] = {
    "tensorboard": ToTensorBoard,
    "mlflow": ToMLflow,
    "wandb": ToWeightsAndBiases,
}


class Trackers:
    """All trackers of a run, none of which can stop it. They start with the first number that is logged."""

    def __init__(self, choices: Mapping[str, TrackerChoice], run: str, settings: Mapping[str, Any]) -> None:
        """Raises BenchError for a library that is not installed."""
        for name, choice in choices.items():
            if find_spec(choice.kind) is None:
                extra = EXTRAS[choice.kind]
                raise BenchError(f"tracker={name} needs the package {choice.kind}: pip install tcd-bench[{extra}]")
        self._run, self._settings = run, dict(_flatten(settings_without_secrets(settings)))
        self._choices = dict(choices)
        self._begun: dict[str, Tracker] = {}

    def cell(self, record: Record) -> None:
        """Log the costs of a cell that ended."""
        if record.status == "ok":
            self._each(lambda tracker: tracker.points(_costs(record)))

    def end(self, store: Store) -> None:
        """Log the scores and the report, and close the trackers."""
        if not self._choices:
            return
        points = list(_scores(store.read_bytes("scores.csv") or b""))
        with TemporaryDirectory() as folder:
            paths = []
            for name in FILES:
                content = store.read_bytes(name)
                if content is not None:
                    paths.append(Path(folder) / name)
                    paths[-1].write_bytes(content)
            self._each(lambda tracker: tracker.points(points))
            self._each(lambda tracker: tracker.files(paths))
            self._each(lambda tracker: tracker.close())

    def _each(self, log: Callable[[Tracker], None]) -> None:
        for name, choice in list(self._choices.items()):
            try:
                if name not in self._begun:
                    self._begun[name] = KINDS[choice.kind](choice, self._run, self._settings)
                log(self._begun[name])
            except Exception as error:
                del self._choices[name]
                print(f"tracker={name} failed ({error}); the run goes on without it", file=sys.stderr)


def _series(name: str, base: str, method: str, eta: float | None, guidance: float) -> str:
    """A name of letters, digits, dots, dashes and slashes, which every library takes."""
    return f"{name}/{base}-{method}{'' if eta is None else f'-eta{plain_number(eta)}'}-guidance{plain_number(guidance)}"


def _costs(record: Record) -> list[Point]:
    costs = {"latency_s_per_image": cost_of(record, "latency")}
    if record.images is not None:
        costs["sampling_s_per_image"] = record.sampling_s / record.images.count
    cell = record.cell
    what = cell.base.name, cell.method, cell.eta, cell.guidance_scale
    return [Point(_series(name, *what), cell.steps, cost) for name, cost in costs.items() if cost is not None]


def _scores(table: bytes) -> Iterator[Point]:
    """From scores.csv, which the report has just written."""
    for row in csv.DictReader(io.StringIO(table.decode())):
        if row["value"]:
            eta = float(row["eta"]) if row["eta"] else None
            series = _series(row["score"], row["base"], row["method"], eta, float(row["guidance_scale"]))
            yield Point(series, int(row["steps"]), float(row["debiased"] or row["value"]))


def _flatten(settings: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", str(value)
