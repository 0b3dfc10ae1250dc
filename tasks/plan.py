"""The plan of a run, at its start: on the page of the flow run, and a refusal of what cannot fit."""

from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from leanpipe.core.config import StageConfig
from leanpipe.models.load import weight_bytes
from leanpipe.planning.corpus_size import listed_bytes
from leanpipe.planning.plan import plan_on
from tasks.resolve import Given
from tasks.run import Run


@task(name="plan", task_run_name="plan", persist_result=False, cache_policy=NO_CACHE)
def plan(run: Run, settings: StageConfig, given: Given) -> None:
    """Estimate memory, disk and time of every long stage. Raises UserError for what does not fit this machine."""
    models: dict[str, Any] = {}
    if given.models:
        models["model"] = max((one.path for one in given.models), key=weight_bytes)
    corpus = listed_bytes(one.path for one in given.corpus)
    planned = plan_on("this", settings, models, run.store, corpus)
    markdown = planned.markdown()
    create_markdown_artifact(
        markdown, key="plan", description="Memory, disk and time that this run will take"
    )
    run.tracking.client.log_text(run.mlflow_run, markdown, "plan.md")
    planned.check()
