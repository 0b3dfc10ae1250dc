"""Who started a run, how, and what it is: where MLflow's pages show that."""

import getpass

from mlflow.entities import SourceType
from mlflow.utils.mlflow_tags import (
    MLFLOW_RUN_NOTE,
    MLFLOW_SOURCE_NAME,
    MLFLOW_SOURCE_TYPE,
    MLFLOW_USER,
)
from prefect.context import FlowRunContext
from prefect.runtime import deployment, flow_run


def started_by(flow: str) -> dict[str, str]:
    """The tags of the flow run that is running, and of its stages: the user, and where it was started."""
    deployed = str(deployment.name or "")
    return {
        MLFLOW_USER: _user(),
        MLFLOW_SOURCE_NAME: f"{flow}/{deployed}" if deployed else f"leanpipe run {flow}",
        MLFLOW_SOURCE_TYPE: SourceType.to_string(SourceType.JOB if deployed else SourceType.LOCAL),
    }


def description(chosen: str = "") -> dict[str, str]:
    """The tag that MLflow shows as a run's description: what was chosen, what the flow does, and where Prefect shows it."""
    context = FlowRunContext.get()
    does = (context and context.flow and context.flow.description) or ""
    return note(chosen, does.split("\n\n")[0])


def note(*parts: str) -> dict[str, str]:
    """The tag that MLflow shows as the description of a run: these paragraphs, and where Prefect shows the flow run."""
    page = str(flow_run.ui_url or "")
    link = f"[This run in Prefect]({page})" if page.startswith("http") else ""
    text = "\n\n".join(part for part in (*parts, link) if part)
    return {MLFLOW_RUN_NOTE: text} if text else {}


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return "unknown"
