"""One run of a flow: its place in the store, in Prefect and in MLflow, and how it runs a stage."""

import logging
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Thread
from typing import Any

from prefect import task
from prefect.context import FlowRunContext, TaskRunContext
from prefect.runtime import flow_run
from pydantic import BaseModel

from leanpipe.core.config import StageConfig, flatten
from leanpipe.core.home import Home
from leanpipe.core.report import MultiReport, Report, Silent
from leanpipe.core.stage import Inputs, Stage
from leanpipe.core.store import REPORT, Artifact, Store, digest_json
from leanpipe.planning.references import import_for_plans
from leanpipe.planning.steps import present
from leanpipe.processes.fork_client import ForkServer, StageDied
from leanpipe.processes.run_stage import run_stage
from tasks.attempt import attempt
from tasks.figures import headline
from tasks.tracking.about import description, note, started_by
from tasks.tracking.pages import pages_of_a_run, show_pages
from tasks.tracking.progress import PrefectProgress, TerminalProgress, say
from tasks.tracking.runs import Tracking

log = logging.getLogger("leanpipe.run")
# Prefect takes what leanpipe logs into the page of a run, but sets no level; the root's leaves out what is no warning.
logging.getLogger("leanpipe").setLevel(logging.INFO)

IN_PLACE = "LEANPIPE_IN_PLACE"
"""Set to run every stage in this process: for debugging and tests."""


fork_server = ForkServer()
"""The helper process of this process's runs."""

_imports = Thread(target=import_for_plans, name="imports", daemon=True)


class Run:
    """What the tasks of one flow run share."""

    def __init__(
        self, home: Home, tracking: Tracking, mlflow_run: str, started: Mapping[str, str] | None = None
    ):
        """`started` is who started it and how, which the run of each stage says too."""
        self.started = started or {}
        self.home = home
        self.store = Store(home.store)
        self.tracking = tracking
        self.mlflow_run = mlflow_run
        self.results: dict[str, Artifact] = {}
        """The results so far, by label, in order."""

    def stage(
        self, stage: Stage, config: StageConfig, *, label: str | None = None, **inputs: Any
    ) -> Artifact:
        """The stage's result, as a Prefect task `label`: Cached if the store has it, else computed and tracked.

        Inputs that are None or empty are left out; a stage that can go on from an earlier result is given that.
        """
        label, inputs = label or stage.name, present(inputs)
        inputs = dict(stage.with_earlier_results(self.store, config, inputs))
        key = stage.key(config, inputs)
        found = self.store.find(stage.name, key)
        if found is None and stage.uses_device:
            warm_up()
        # What Prefect remembers counts only while the store still holds it.
        run_task = _stage_task.with_options(name=label, task_run_name=label, refresh_cache=found is None)
        artifact = run_task(self, stage, config, inputs, label, key)
        artifact = found or artifact
        self._show(stage, label, artifact, cached=found is not None)
        return artifact

    def compute_untracked(
        self,
        stage: Stage,
        config: StageConfig,
        inputs: Inputs,
        report: Report | None = None,
        meanwhile: Callable[[], object] | None = None,
    ) -> Artifact:
        """The stage's result without a task or an MLflow run of its own. `meanwhile` is called if another process computes it."""
        if not stage.uses_device or os.environ.get(IN_PLACE):
            return run_stage(stage, config, inputs, self.store, report or Silent())
        return fork_server.run(stage, config, inputs, self.store, report or Silent(), meanwhile)

    def compute_first(self, stage: Stage, config: StageConfig, inputs: Inputs) -> Artifact:
        """The result of a stage that makes what a run starts from; while that is made, what the plan needs is imported here."""
        return self.compute_untracked(stage, config, inputs, meanwhile=import_for_plans)

    def _show(self, stage: Stage, label: str, artifact: Artifact, cached: bool) -> None:
        self.results[label] = artifact
        how = "found in the store" if cached else f"done in {artifact.seconds:.1f} s"
        log.info("%s: %s: %s", label, how, headline(artifact.summary))
        if cached and artifact.key:
            self.tracking.log_origin(self.mlflow_run, label, artifact.key)
        if stage.dataset:
            self.tracking.log_inputs(self.mlflow_run, {stage.dataset.name: artifact})
        show_pages(stage.pages, artifact.path / REPORT)
        name = f"  {label:<18} "
        say(name, faint="from the store") if cached else say(f"{name}{artifact.seconds:6.1f} s")


def warm_up() -> None:
    """Begin the imports that a later stage will need, while something else works."""
    if not os.environ.get(IN_PLACE):
        fork_server.start()


def import_early() -> None:
    """Begin the imports of what every plan needs, which take seconds, while Prefect's server starts.

    `tracked_run` waits for them: who imports transformers while another thread does may get a module with nothing in it.
    """
    if _imports.ident is None:
        _imports.start()


@contextmanager
def tracked_run(
    name: str, config: BaseModel, home: Home | None = None, undecided: Collection[str] = ()
) -> Iterator[Run]:
    """Open the MLflow run of the flow run that is running, and its helper process; close both, whatever happens.

    Settings that are `undecided` are no parameters yet: whoever decides them logs them.
    """
    if _imports.is_alive():
        _imports.join()
    home = home or Home.from_environment()
    with attempt(home, str(flow_run.id)):
        tracking = Tracking(home)
        tags = {"leanpipe.flow_run": str(flow_run.id)}
        settings = flatten(config)
        # The same command again goes on where the last one failed; every run of a deployment is one of its own.
        key = "" if _is_deployed() else digest_json([name, settings])[:32]
        parameters = {path: value for path, value in settings.items() if path not in undecided}
        called = f"{flow_run.name} ({name})"  # a table shows the beginning: what tells runs apart comes first
        try:
            with pages_of_a_run(), tracking.run(called, tags, parameters, key) as run_id:
                page = str(flow_run.ui_url or "")
                links = {"prefect.flow_run_url": page} if page.startswith("http") else {}
                started = started_by(name)
                tracking.log_figures(run_id, {"prefect.flow": name, **links, **started, **description()})
                run = Run(home, tracking, run_id, started)
                try:
                    yield run
                finally:  # all at once: MLflow shows first what it was told first, and that is not what was made first
                    tracking.log_compared(run_id, run.results)
        finally:
            fork_server.stop()


def _is_deployed() -> bool:
    context = FlowRunContext.get()
    return bool(context and context.flow_run and context.flow_run.deployment_id)


def _cache_key(context: TaskRunContext, parameters: Mapping[str, Any]) -> str:
    return f"{parameters['stage'].name}-{parameters['key']}"


def _is_worth_retrying(task: Any, task_run: Any, state: Any) -> bool:
    """A process that died may live the second time, and resumes. A wrong setting stays wrong."""
    return isinstance(state.result(raise_on_failure=False), StageDied)


@task(
    cache_key_fn=_cache_key,
    persist_result=True,
    retries=2,
    retry_delay_seconds=5,
    retry_condition_fn=_is_worth_retrying,
)
def _stage_task(
    run: Run, stage: Stage, config: StageConfig, inputs: Inputs, label: str, key: str
) -> Artifact:
    """One stage: computed, or taken from the store, and tracked as a child run."""
    terminal = TerminalProgress(label)
    with run.tracking.stage_run(run.mlflow_run, label, key, flatten(config)) as stage_run:
        log.info("%s: begun", label)
        run.tracking.log_figures(stage_run, {**run.started, **note(stage.purpose)})
        try:
            report = MultiReport([run.tracking.report(stage_run), PrefectProgress(label), terminal])
            artifact = run.compute_untracked(stage, config, inputs, report)
        finally:
            terminal.close()
        taken = {"seconds": artifact.seconds, "path": str(artifact.path)}
        made = f"Made in {artifact.seconds:,.1f} s: {headline(artifact.summary)}."
        run.tracking.log_figures(stage_run, artifact.summary | taken | note(stage.purpose, made))
        run.tracking.log_inputs(stage_run, dict(_named(inputs)))
        run.tracking.log_files(stage_run, artifact.path / REPORT, REPORT)
    return artifact


def _named(inputs: Inputs) -> Iterator[tuple[str, Artifact]]:
    for name, value in inputs.items():
        several: Sequence[Artifact] = [value] if isinstance(value, Artifact) else value
        for number, artifact in enumerate(several):
            yield (name if len(several) == 1 else f"{name}.{number}"), artifact
