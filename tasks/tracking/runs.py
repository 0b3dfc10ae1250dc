"""Everything that is written to MLflow, by explicit run id: `mlflow.active_run` differs between threads.

One flow run is one MLflow run; each stage that it computes is a child of it. A flow run that is retried or resumed finds
its runs again by its id.
"""

import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from leanpipe.core.home import Home
from leanpipe.core.stage import known_stages
from leanpipe.core.store import Artifact

EXPERIMENT = "leanpipe"
_PARENT = "mlflow.parentRunId"
_MOST_PARAMETERS = 100  # of one request
_LONGEST_PARAMETER = 6000  # characters; MLflow cuts longer ones without a word


class Tracking:
    """The experiment `leanpipe` of the tracking server that MLFLOW_TRACKING_URI names."""

    def __init__(self, home: Home):
        self.client = MlflowClient()
        self.experiment_id = _experiment(self.client, home)

    @contextmanager
    def run(
        self, name: str, tags: Mapping[str, str], parameters: Mapping[str, Any], resume: str | None = None
    ) -> Iterator[str]:
        """The id of the run that carries `tags`, opened anew or again; it ends FINISHED, FAILED or KILLED.

        `resume` is an earlier run to go on with instead, if there is none with these tags; it gets them.
        """
        run_id = self._find(tags) or self._adopt(resume, tags) or self._create(name, tags)
        self.client.update_run(run_id, status="RUNNING")
        self._log_parameters(run_id, parameters)
        try:
            yield run_id
        except BaseException as error:
            self.client.set_tag(run_id, "leanpipe.error", str(error)[:5000])
            self.client.set_terminated(run_id, "FAILED" if isinstance(error, Exception) else "KILLED")
            raise
        self.client.set_terminated(run_id, "FINISHED")

    def headline(self, run_id: str, label: str, artifact: Artifact) -> None:
        """Show a stage's figures in the run of the whole flow, so that comparing two flows compares everything."""
        figures = dict(artifact.summary) | {
            "seconds": artifact.seconds,
            "peak_memory_bytes": artifact.peak_memory,
        }
        self.log_figures(run_id, {f"{label}.{name}": value for name, value in figures.items()})

    def log_figures(self, run_id: str, figures: Mapping[str, Any]) -> None:
        """Numbers become metrics, texts become tags."""
        numbers = {name: value for name, value in figures.items() if _is_number(value)}
        texts = {name: value for name, value in figures.items() if isinstance(value, str)}
        report = MlflowReport(self.client, run_id)
        report.metrics(numbers)
        report.flush()
        self.client.log_batch(run_id, tags=[RunTag(name, value[:5000]) for name, value in texts.items()])

    def log_files(self, run_id: str, folder: Path, under: str | None = None) -> None:
        if folder.is_dir():
            self.client.log_artifacts(run_id, str(folder), under)

    def log_inputs(self, run_id: str, inputs: Mapping[str, Artifact]) -> None:
        """What the run works on, by content, under MLflow's data sets, each with the figures that are known of it."""
        given = [
            DatasetInput(_dataset(artifact), [InputTag("mlflow.data.context", role)])
            for role, artifact in inputs.items()
        ]
        self.client.log_inputs(run_id, given)

    def unfinished(self, key: str) -> str | None:
        """The latest run in which the result `key` was begun and not finished."""
        return self._find({"leanpipe.key": key}, "attributes.status != 'FINISHED'")

    def run_of(self, key: str) -> str | None:
        """The run in which the result `key` was last computed."""
        return self._find({"leanpipe.key": key})

    def url(self, run_id: str) -> str | None:
        """The run's page, if a server shows it."""
        # In containers a browser knows the server by another name than we do.
        server = os.environ.get("LEANPIPE_MLFLOW_URL") or os.environ.get("MLFLOW_TRACKING_URI", "")
        return (
            f"{server}/#/experiments/{self.experiment_id}/runs/{run_id}"
            if server.startswith("http")
            else None
        )

    def _find(self, tags: Mapping[str, str], *conditions: str) -> str | None:
        equal = [f"tags.`{name}` = '{value}'" for name, value in tags.items()]
        query = " and ".join([*equal, *conditions])
        runs = self.client.search_runs([self.experiment_id], query, max_results=1)
        return runs[0].info.run_id if runs else None

    def _adopt(self, run_id: str | None, tags: Mapping[str, str]) -> str | None:
        """Let the run `run_id` belong to the flow run that finishes it; the one that began it finds it by a tag."""
        if run_id is None:
            return None
        begun_by = self.client.get_run(run_id).data.tags.get(_PARENT)
        if begun_by and begun_by != tags.get(_PARENT):
            self.client.set_tag(run_id, "leanpipe.begun_by", begun_by)
            self.client.set_tag(begun_by, f"leanpipe.resumed.{tags.get('leanpipe.stage', '')}", run_id)
        self.client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])
        return run_id

    def _create(self, name: str, tags: Mapping[str, str]) -> str:
        return self.client.create_run(self.experiment_id, tags=dict(tags), run_name=name).info.run_id

    def _log_parameters(self, run_id: str, parameters: Mapping[str, Any]) -> None:
        known = self.client.get_run(run_id).data.params  # they cannot change, and a resumed run has them
        entries = [
            Param(name, str(value)[:_LONGEST_PARAMETER])
            for name, value in parameters.items()
            if name not in known
        ]
        for start in range(0, len(entries), _MOST_PARAMETERS):
            self.client.log_batch(run_id, params=entries[start : start + _MOST_PARAMETERS])


class MlflowReport:
    """A stage's `Report` into one MLflow run. Metrics go in batches, so that a slow server does not slow training.

    What an earlier attempt told of a step stays, and is not told again: a stage that resumes does its last steps once more.
    """

    def __init__(self, client: MlflowClient, run_id: str, every_seconds: float = 2.0):
        self._client = client
        self._run_id = run_id
        self._every_seconds = every_seconds
        self._waiting: list[Metric] = []
        self._last_flush = time.monotonic()
        self._earlier = set(client.get_run(run_id).data.metrics)
        self._last_steps: dict[str, int] = {}

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        now = int(time.time() * 1000)
        self._waiting += [
            Metric(name, float(value), now, step or 0)
            for name, value in values.items()
            if math.isfinite(value) and (step is None or step > self._last_step(name))
        ]
        if time.monotonic() - self._last_flush > self._every_seconds:
            self.flush()

    def progress(self, done: float, total: float, what: str) -> None: ...

    def _last_step(self, name: str) -> int:
        """That an earlier attempt told; asked for when it is needed, for a flow's run has a hundred figures without steps."""
        if name not in self._earlier:
            return -1
        if name not in self._last_steps:
            history = self._client.get_metric_history(self._run_id, name)
            self._last_steps[name] = max(metric.step for metric in history)
        return self._last_steps[name]

    def flush(self) -> None:
        """Send what is waiting now."""
        for start in range(0, len(self._waiting), 500):
            self._client.log_batch(self._run_id, metrics=self._waiting[start : start + 500])
        self._waiting = []
        self._last_flush = time.monotonic()


def _dataset(artifact: Artifact) -> Dataset:
    """Describe it as `mlflow.log_input` would: name, digest and place, and of a table its columns and number of rows."""
    source = json.dumps({"uri": str(artifact.path)})
    figures = {name: value for name, value in artifact.summary.items() if _is_number(value)}
    schema = None
    made_by = known_stages().get(artifact.name)
    if made_by and (table := made_by.dataset):
        columns = [{"name": name, "type": "string", "required": True} for name in table.columns]
        schema = json.dumps({"mlflow_colspec": columns})
        figures = {"num_rows": figures.get(table.rows), **figures}
    profile = json.dumps(figures) if figures else None
    # MLflow takes no longer digest.
    return Dataset(artifact.name, artifact.digest[:36], "local", source, schema, profile)


def _experiment(client: MlflowClient, home: Home) -> str:
    found = client.get_experiment_by_name(EXPERIMENT)
    if found:
        return found.experiment_id
    # On a server of somebody else's the server says where artifacts go; in our own home we do.
    own = str(home.mlflow_database) in os.environ.get("MLFLOW_TRACKING_URI", "")
    try:
        return client.create_experiment(EXPERIMENT, home.mlflow_artifacts.as_uri() if own else None)
    except MlflowException:
        created_meanwhile = client.get_experiment_by_name(EXPERIMENT)
        if created_meanwhile is None:
            raise
        return created_meanwhile.experiment_id


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
