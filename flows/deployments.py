"""Every deployment, schedule and work pool, in one place."""

import asyncio
from pathlib import Path
from typing import Any

from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.deployments.runner import EntrypointType, RunnerDeployment
from prefect.exceptions import ObjectNotFound
from prefect.schedules import Schedule
from prefect.workers.process import ProcessWorker

from flows.compress import compress_model
from flows.data_to_deployment import data_to_deployment, data_to_deployment_expert
from flows.distill import distill_student
from flows.evaluate import evaluate_models
from flows.finetune import finetune_model
from flows.inspect_corpus import inspect_corpus
from flows.prepare_corpus import prepare_corpus
from flows.pretrain import pretrain_model
from leanpipe.core.config import StageConfig

POOL = "gpu"
NIGHTLY = "0 2 * * *"
"""Cron of `data-to-deployment/nightly`, in UTC: made switched off."""

STAGE_FLOWS: dict[str, Flow[Any, Any]] = {
    "inspect-corpus": inspect_corpus,
    "prepare-corpus": prepare_corpus,
    "distill": distill_student,
    "pretrain": pretrain_model,
    "finetune": finetune_model,
    "compress": compress_model,
    "evaluate": evaluate_models,
}
FLOWS: dict[str, Flow[Any, Any]] = {"data-to-deployment": data_to_deployment, **STAGE_FLOWS}


def deployments() -> list[RunnerDeployment]:
    """List the pipeline in its short form, in its expert form and nightly, and the flow of every stage."""
    schedule = Schedule(cron=NIGHTLY, timezone="UTC", active=False)
    return [
        _deployment(
            data_to_deployment, "default", "The whole pipeline: the dozen settings that matter most."
        ),
        _deployment(data_to_deployment_expert, "expert", "The whole pipeline: every setting of every stage."),
        _deployment(data_to_deployment, "nightly", "The whole pipeline every night.", schedules=[schedule]),
        *(_deployment(flow, "default") for flow in STAGE_FLOWS.values()),
    ]


def config_type(flow: Flow[Any, Any]) -> type[StageConfig]:
    """Return the class of the flow's `config` parameter."""
    return flow.fn.__annotations__["config"]


def deploy() -> list[str]:
    """Register the pool and every deployment with the Prefect server; returns their names."""
    asyncio.run(_create_pool())
    registered = deployments()
    for deployment in registered:
        deployment.apply()
    return [f"{deployment.flow_name}/{deployment.name}" for deployment in registered]


def _deployment(
    flow: Flow[Any, Any], name: str, description: str | None = None, **options: Any
) -> RunnerDeployment:
    return flow.to_deployment(
        name,
        description=description,
        # An empty field of the short form has no value: null is refused by the schema.
        parameters={"config": config_type(flow)().model_dump(mode="json", exclude_none=True)},
        work_pool_name=POOL,
        # Paths that a person types in the form start where the worker was started.
        job_variables={"working_dir": str(Path.cwd())},
        entrypoint_type=EntrypointType.MODULE_PATH,
        **options,
    )


async def _create_pool() -> None:
    """One card, one run at a time: a process pool that takes a second run only when the first has ended."""
    async with get_client() as client:
        try:
            await client.read_work_pool(POOL)
            await client.update_work_pool(POOL, WorkPoolUpdate(concurrency_limit=1))
        except ObjectNotFound:
            template = ProcessWorker.get_default_base_job_template()
            pool = WorkPoolCreate(name=POOL, type="process", base_job_template=template, concurrency_limit=1)
            await client.create_work_pool(pool)
