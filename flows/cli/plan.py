"""What `leanpipe plan` prints."""

import importlib
from typing import Any

from rich.markdown import Markdown

from flows.cli.console import console
from leanpipe.core.config import StageConfig
from leanpipe.core.home import Home
from leanpipe.core.report import Silent
from leanpipe.core.stage import Inputs, Stage
from leanpipe.core.store import Artifact, Store
from leanpipe.planning.plan import Plan, plan_on
from leanpipe.planning.references import expected_inputs
from leanpipe.planning.within_minutes import find_lengths, once, with_lengths
from leanpipe.processes.fork_client import ForkServer


def print_plan(flow: str, settings: StageConfig, device: str, home: Home) -> None:
    """Print what a run would take. Raises UserError for what does not fit, so that the exit status says so."""
    story = importlib.import_module(f"flows.{flow.replace('-', '_')}").stages
    store, fork_server = Store(home.store), ForkServer()

    def run(stage: Stage, config: StageConfig, inputs: Inputs) -> Artifact:
        return fork_server.run(stage, config, inputs, store, Silent())

    given = expected_inputs(with_folders(settings))

    def planned_with(some: Any) -> Plan:
        return plan_on(device, story, some, given, store, timed)

    timed, lengths = once(run), None
    try:
        if getattr(settings, "minutes", 0):
            lengths = find_lengths(settings, lambda some: planned_with(some).seconds)
            settings = with_lengths(settings, lengths.tokens)
        planned = planned_with(settings)
    finally:
        fork_server.stop()
    if lengths:
        console().print(lengths.sentence, soft_wrap=True)
    console().print(Markdown(planned.markdown()))
    planned.check()


def with_folders(settings: StageConfig) -> StageConfig:
    """Settings in which a registered model (NAME@ALIAS) is the folder that it lies in."""
    models = getattr(settings, "models", ())
    if not any("@" in model for model in models):
        return settings  # MLflow takes seconds to import
    from tasks.tracking.registry import find_registered

    found = [(model, find_registered(model)) for model in models]
    folders = tuple(str(one.path) if one else model for model, one in found)
    return settings.model_copy(update={"models": folders})
