"""What is told of runs to MLflow, by explicit run id: `mlflow.active_run` differs between threads.

One flow run is one MLflow run; each stage that it computes is a child of it. A flow run that is retried or resumed finds
its runs again by its id. How what is told gets to MLflow: spool.py (the files), writer.py (the requests), sender.py (when).
"""

import json
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from leanpipe.core.errors import UserError
from leanpipe.core.home import Home
from leanpipe.core.stage import known_stages
from leanpipe.core.store import Artifact
from tasks.figures import compared
from tasks.tracking.patience import ask, ask_aside, no_answer, patience, usable
from tasks.tracking.sender import Sender, sending
from tasks.tracking.writer import EXPERIMENT, PARENT, experiment

_LONGEST_PARAMETER = 6000  # characters; MLflow cuts longer ones without a word
_LONGEST_TAG = 5000

T = TypeVar("T")


class Tracking:
    """The experiment `leanpipe` of the tracking server that MLFLOW_TRACKING_URI names.

    What is told of a run goes into a spool first: only what needs an answer waits for the server.
    """

    def __init__(self, home: Home):
        with usable():
            self.client = MlflowClient()
            self.experiment_id = ask_aside("the run", lambda: experiment(self.client, home))
        self._home = home
        self._opened: Sender | None = None
        self._reported: dict[str, set[str]] = {}

    @contextmanager
    def run(
        self, name: str, tags: Mapping[str, str], parameters: Mapping[str, Any], key: str = ""
    ) -> Iterator[str]:
        """The id of the run of a flow, which carries `tags`, opened anew or again; it ends FINISHED, FAILED or KILLED.

        If there is none with these tags, it goes on with one that was begun here for the same `key` and not finished.
        Raises UserError if MLflow does not answer.
        """
        spool = tags["leanpipe.flow_run"]
        with sending(self._home, spool) as self._opened, self._begun(name, tags, parameters, key) as run:
            yield self.id_of(run)

    @contextmanager
    def stage_run(self, parent: str, label: str, key: str, parameters: Mapping[str, Any]) -> Iterator[str]:
        """Our name for the run of a stage, which is a child of `parent`: MLflow may hear of it later.

        It goes on with one that was begun here for the same result and not finished, if nobody works at that any more.
        """
        tags = {PARENT: parent, "leanpipe.stage": label, "leanpipe.key": key}
        with self._begun(label, tags, parameters, key) as run:
            yield run

    def id_of(self, run: str) -> str:
        """MLflow's id of the run that we know as `run`. Raises UserError if it does not say."""
        ids = self._sender.spool.state.ids
        if not self._sender.wait(lambda: run in ids, patience(), "the run"):
            raise no_answer("the run", self._sender.why())
        return ids[run]

    def wait_until_sent(self, why: str) -> None:
        """Return when MLflow knows all that it was told: it answers. Raises UserError if it does not."""
        if not self._sender.wait(self._sender.spool.is_sent, patience(), why):
            raise no_answer(why, self._sender.why())

    def answer(self, why: str, question: Callable[[], T]) -> T:
        """The answer to a question to MLflow without which `why` cannot go on; waits while MLflow is away.

        Raises UserError when that is for too long, and what the question raises for any other reason.
        """
        self.wait_until_sent(why)
        return ask(why, question)

    def report(self, run: str) -> "MlflowReport":
        """What a stage reports its figures to."""
        return MlflowReport(self._sender, run, self._reported.setdefault(run, set()))

    def log_compared(self, run: str, results: Mapping[str, Artifact]) -> None:
        """Show the figures of the stages, by label, in the run of the whole flow, so that comparing two flows compares everything."""
        self.log_figures(run, compared(results))

    def log_figures(self, run: str, figures: Mapping[str, Any]) -> None:
        """Numbers become metrics, texts become tags. A number that the stage reported by itself is not told once more."""
        known = self._reported.get(
            run, ()
        )  # else a curve has a second first point, and a bar becomes a curve
        numbers = {name: value for name, value in figures.items() if _is_number(value) and name not in known}
        texts = {name: value[:_LONGEST_TAG] for name, value in figures.items() if isinstance(value, str)}
        if numbers:
            self.report(run).metrics(numbers)
        if texts:
            self._tell("tags", run, values=texts)

    def log_parameters(self, run: str, parameters: Mapping[str, Any]) -> None:
        """Tell settings of the run that were not decided when it began."""
        values = {name: str(value)[:_LONGEST_PARAMETER] for name, value in parameters.items()}
        self._tell("parameters", run, values=values)

    def log_files(self, run: str, folder: Path, under: str) -> None:
        """Send the files of a folder, as they are now."""
        if folder.is_dir():
            self._tell("files", run, place=self._sender.spool.add_files(folder, under))

    def log_file(self, run: str, path: Path) -> None:
        """Send a file, as it is now."""
        self._tell("files", run, place=self._sender.spool.add_files(path, path.name))

    def log_text(self, run: str, text: str, name: str) -> None:
        """Send a text as a file `name`."""
        self._tell("files", run, place=self._sender.spool.add_files(text, name))

    def log_inputs(self, run: str, inputs: Mapping[str, Artifact]) -> None:
        """What the run works on, by content, under MLflow's data sets, each with the figures that are known of it."""
        if inputs:
            values = [(role, _dataset(artifact)) for role, artifact in inputs.items()]
            self._tell("inputs", run, values=values)

    def log_origin(self, run: str, label: str, key: str) -> None:
        """Say in the run's tags in which run the result `key` was computed that it found in the store."""
        self._tell("origin", run, label=label, key=key)

    def url(self, run_id: str) -> str | None:
        """The run's page, if a server shows it."""
        # In containers a browser knows the server by another name than we do.
        server = os.environ.get("LEANPIPE_MLFLOW_URL") or os.environ.get("MLFLOW_TRACKING_URI", "")
        return (
            f"{server}/#/experiments/{self.experiment_id}/runs/{run_id}"
            if server.startswith("http")
            else None
        )

    @property
    def _sender(self) -> Sender:
        assert self._opened, "no run is open"
        return self._opened

    @contextmanager
    def _begun(
        self, name: str, tags: Mapping[str, str], parameters: Mapping[str, Any], key: str
    ) -> Iterator[str]:
        run = f"{name[:40]} {uuid.uuid4().hex}"
        self._tell("open", run, name=name, tags=dict(tags), key=key)
        self.log_parameters(run, parameters)
        try:
            yield run
        except BaseException as error:
            self._end(run, "FAILED" if isinstance(error, Exception) else "KILLED", str(error) or repr(error))
            raise
        self._end(run, "FINISHED")

    def _end(self, run: str, status: str, error: str = "") -> None:
        self._reported.pop(run, None)
        self._tell("end", run, status=status, error=error[:_LONGEST_TAG], time=_now())

    def _tell(self, what: str, run: str, **entry: Any) -> None:
        self._sender.spool.append(do=what, run=run, **entry)


class MlflowReport:
    """A stage's `Report` into one MLflow run: into its spool, so that a slow server does not slow training."""

    def __init__(self, sender: Sender, run: str, reported: set[str]):
        self._spool = sender.spool
        self._run = run
        self._reported = reported

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        self._reported.update(values)
        numbers = {name: float(value) for name, value in values.items()}
        self._spool.append(do="metrics", run=self._run, time=_now(), step=step, values=numbers)

    def progress(self, done: float, total: float, what: str) -> None: ...


def _now() -> int:
    return int(time.time() * 1000)


def _dataset(artifact: Artifact) -> dict[str, str | None]:
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
    digest = artifact.digest[:36]
    return {
        "name": artifact.name,
        "digest": digest,
        "source_type": "local",
        "source": source,
        "schema": schema,
        "profile": profile,
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def read_run_file(reference: str, path: str) -> tuple[str, str]:
    """The name of a past run, and a file of it as text. `reference` is its id, its name in MLflow or in Prefect.

    Raises UserError if there is no such run, or if it has no such file.
    """
    client = MlflowClient()
    found = ask_aside("the comparison", lambda: _find_run(client, reference))
    if found is None:
        raise UserError(
            f"MLflow knows no run {reference}: give its id, or its name as the pages of MLflow or Prefect show it"
        )
    name = str(found.info.run_name)
    with TemporaryDirectory() as folder:
        try:
            file = client.download_artifacts(found.info.run_id, path, folder)
            return name, Path(file).read_text()
        except (MlflowException, OSError) as error:
            raise UserError(
                f"the run {name} has no {path}: it evaluated nothing, failed before, or was made by an earlier leanpipe"
            ) from error


def _find_run(client: MlflowClient, reference: str) -> Run | None:
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is None or not re.fullmatch(r"[\w .()-]+", reference):
        return None
    for named in (
        f"attributes.run_id = '{reference}'",
        f"tags.`leanpipe.flow_run` = '{reference}'",
        f"attributes.run_name = '{reference}'",
        f"attributes.run_name LIKE '{reference} (%'",
    ):
        runs = client.search_runs([found.experiment_id], named, max_results=1)
        if runs:
            return runs[0]
    return None
