"""Every deployment, schedule and work pool, in one place.

They are made once. Of what is there already only what the code says is brought up to date: schedules, parameters, pauses
and limits may have been changed in the UI, and then they are a person's.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentUpdate, WorkPoolCreate
from prefect.client.schemas.responses import DeploymentResponse
from prefect.deployments.runner import EntrypointType, RunnerDeployment
from prefect.exceptions import ObjectNotFound
from prefect.schedules import Schedule
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools import validate
from prefect.workers.process import ProcessWorker

from flows.compress import compress_model
from flows.data_to_deployment import data_to_deployment, data_to_deployment_expert
from flows.distill import distill_student
from flows.evaluate import evaluate_models
from flows.finetune import finetune_model
from flows.human_evaluation import evaluate_by_people
from flows.inspect_corpus import inspect_corpus
from flows.prepare_corpus import prepare_corpus
from flows.pretrain import pretrain_model
from flows.rollback import roll_back_champion
from flows.search_shapes import search_for_shapes
from flows.shrink import shrink_teacher
from flows.sweep import sweep_formats
from leanpipe.core.config import StageConfig
from leanpipe.core.store import digest_json
from leanpipe.settings.overrides import leaves, merged, nested

log = logging.getLogger("leanpipe.deployments")

POOL = "gpu"
NIGHTLY = "0 2 * * *"
"""Cron of `data-to-deployment/nightly`, in UTC: made switched off."""

STAGE_FLOWS: dict[str, Flow[Any, Any]] = {
    "inspect-corpus": inspect_corpus,
    "prepare-corpus": prepare_corpus,
    "distill": distill_student,
    "shrink": shrink_teacher,
    "search-shapes": search_for_shapes,
    "pretrain": pretrain_model,
    "finetune": finetune_model,
    "compress": compress_model,
    "evaluate": evaluate_models,
    "sweep": sweep_formats,
    "human-evaluation": evaluate_by_people,
}
FLOWS: dict[str, Flow[Any, Any]] = {"data-to-deployment": data_to_deployment, **STAGE_FLOWS}


def deployments() -> list[RunnerDeployment]:
    """List the pipeline in its short form, in its expert form and nightly, the flow of every stage, and the way back."""
    schedule = Schedule(cron=NIGHTLY, timezone="UTC", active=False)
    return [
        _deployment(
            data_to_deployment, "default", "The whole pipeline: the dozen settings that matter most."
        ),
        _deployment(data_to_deployment_expert, "expert", "The whole pipeline: every setting of every stage."),
        _deployment(data_to_deployment, "nightly", "The whole pipeline every night.", schedules=[schedule]),
        *(_deployment(flow, "default") for flow in STAGE_FLOWS.values()),
        _deployment(roll_back_champion, "default"),
    ]


def config_type(flow: Flow[Any, Any]) -> type[StageConfig]:
    """Return the class of the flow's `config` parameter."""
    return flow.fn.__annotations__["config"]


def flow_of(deployment: RunnerDeployment) -> Flow[Any, Any]:
    """Return the flow that the deployment runs."""
    if deployment.name == "expert":
        return data_to_deployment_expert
    return (FLOWS | {roll_back_champion.name: roll_back_champion})[deployment.flow_name]


def deploy() -> list[str]:
    """Register the pool and every deployment with the Prefect server; returns their names."""
    registered = deployments()
    with get_client(sync_client=True) as client:
        _create_pool(client)
        for deployment in registered:
            _register(client, deployment)
    return [deployment.full_name for deployment in registered]


def _deployment(
    flow: Flow[Any, Any], name: str, description: str | None = None, **options: Any
) -> RunnerDeployment:
    # An empty field of the short form has no value: null is refused by the schema.
    parameters = {"config": config_type(flow)().model_dump(mode="json", exclude_none=True)}
    return flow.to_deployment(
        name,
        description=description,
        parameters=parameters,
        version=version_of(parameters),
        work_pool_name=POOL,
        # Paths that a person types in the form start where the worker was started.
        job_variables={"working_dir": str(Path.cwd())},
        entrypoint_type=EntrypointType.MODULE_PATH,
        **options,
    )


def _create_pool(client: SyncPrefectClient) -> None:
    """One card, one run at a time: a process pool that takes a second run only when the first has ended."""
    try:
        client.read_work_pool(POOL)
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        pool = WorkPoolCreate(name=POOL, type="process", base_job_template=template, concurrency_limit=1)
        client.create_work_pool(pool)


def _register(client: SyncPrefectClient, deployment: RunnerDeployment) -> None:
    try:
        there = client.read_deployment_by_name(deployment.full_name)
    except ObjectNotFound:
        deployment.apply()
        return
    schema = parameter_schema(flow_of(deployment)).model_dump(exclude_unset=True)
    update = DeploymentUpdate(
        description=deployment.description,
        entrypoint=deployment.entrypoint,
        job_variables=there.job_variables | deployment.job_variables,
        parameter_openapi_schema=schema,
        parameters=_parameters(there, deployment, schema),
        version=deployment.version,
    )
    if _differs(there, update):
        client.update_deployment(there.id, update)


def _differs(there: DeploymentResponse, update: DeploymentUpdate) -> bool:
    """Whether the update says anything that the server does not know: to be told what it knows costs it as long."""
    known = there.model_dump(mode="json")
    return any(
        known[name] != value for name, value in update.model_dump(mode="json", exclude_unset=True).items()
    )


def version_of(parameters: Mapping[str, Any]) -> str:
    """Say which defaults a deployment was given, so that a later version of them knows whether a person changed any."""
    return digest_json(parameters)[:12]


def _parameters(
    there: DeploymentResponse, deployment: RunnerDeployment, schema: Mapping[str, Any]
) -> dict[str, Any]:
    """The defaults of now if nobody changed those of then; else what is there, setting by setting where it fits the form."""
    if version_of(there.parameters) == there.version:
        return deployment.parameters
    if _fits(there.parameters, schema):
        return there.parameters
    kept, lost = deployment.parameters, []
    for path, value in leaves("", there.parameters).items():
        changed = merged(kept, nested(path.removeprefix("."), value))
        if _fits(changed, schema):
            kept = changed
        else:
            lost.append(f"{path.removeprefix('.config.')}={value}")
    log.warning(
        "%s: set in the UI, and no longer a setting or a value that is allowed: %s; the defaults stand in their place",
        deployment.full_name,
        ", ".join(lost),
    )
    return kept


def _fits(parameters: dict[str, Any], schema: Mapping[str, Any]) -> bool:
    return not validate(parameters, dict(schema), ignore_required=True)
