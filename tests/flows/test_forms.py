"""Every field of every form can be understood and filled in: nothing without help, a place, and bounds."""

from typing import Any, Literal

import pytest
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools import validate
from pydantic import BaseModel, Field, ValidationError

from flows.data_to_deployment import data_to_deployment_expert
from flows.deployments import FLOWS, config_type, deployments, flow_of
from leanpipe.core.config import StageConfig, flatten
from leanpipe.settings.flows import SETTINGS
from leanpipe.settings.quick import QuickSettings
from tests.flows.schemas import faults, leaves

DEPLOYMENTS = {f"{one.flow_name}/{one.name}": one for one in deployments()}
every_deployment = pytest.mark.parametrize("deployment", DEPLOYMENTS.values(), ids=DEPLOYMENTS.keys())


def form(deployment) -> dict[str, Any]:
    """The schema that the server gives to the form."""
    return deployment._parameter_openapi_schema.model_dump()


def config_of(deployment) -> BaseModel:
    return config_type(flow_of(deployment)).model_validate(deployment.parameters["config"])


@every_deployment
def test_every_field_has_help_a_position_a_type_and_bounds(deployment):
    assert faults(form(deployment)) == []


@every_deployment
def test_the_walk_comes_by_every_setting(deployment):
    paths = [path for path, _ in leaves(form(deployment))]
    assert paths == [f"config.{name}" for name in flatten(config_of(deployment))]


@every_deployment
def test_defaults_are_valid_for_the_flow_and_for_the_server(deployment):
    assert config_of(deployment).model_dump(mode="json", exclude_none=True) == deployment.parameters["config"]
    validate(deployment.parameters, form(deployment), raise_on_error=True)
    assert deployment.enforce_parameter_schema


@every_deployment
def test_the_server_refuses_what_is_misspelt(deployment):
    misspelt = {"config": {**deployment.parameters["config"], "corpuss": ["here"]}}
    errors = validate(misspelt, form(deployment))
    assert any("corpuss" in str(error) for error in errors)


class Inner(BaseModel):
    """Settings within settings."""

    deep: int = Field(1, ge=0, description="Help.")


class Careless(BaseModel):
    """Each field lacks what its name says, and its position."""

    model_config = {"use_attribute_docstrings": True}

    help: int = Field(1, ge=0, le=9)
    blank: int = Field(1, ge=0, le=9, description=" ")
    bounds: int = 1
    """Help."""
    upper: float = Field(1.0, gt=0)
    """Help."""
    optional: float | None = None
    """Help."""
    text: str = ""
    """Help."""
    kind: Any = None
    """Help."""
    items: list = []
    """Help."""
    numbers: tuple[int, ...] = ()
    """Help."""
    inner: Inner = Inner()
    """Help."""
    inners: list[Inner] = []
    """Help."""


def careless(config: Careless) -> None:
    """A flow.

    Args:
        config: Help.
    """


@pytest.mark.parametrize(
    "fault",
    [
        "config.help: no description",
        "config.blank: no description",
        "config.help: no position",
        "config.bounds: no minimum",
        "config.bounds: no maximum",
        "config.upper: no maximum",
        "config.optional: no minimum",
        "config.text: any text at all is allowed",
        "config.kind: no type",
        "config.items[]: no type",
        "config.numbers[]: no maximum",
        "config.inner.deep: no maximum",
        "config.inners[].deep: no maximum",
    ],
)
def test_a_careless_field_is_found(fault):
    assert fault in faults(parameter_schema(careless).model_dump())


class Careful(StageConfig):
    """Nothing is missing."""

    count: int = Field(1, ge=0, lt=9)
    """Help."""
    share: float | None = Field(None, gt=0, le=1)
    """Help."""
    name: str = Field("a", min_length=1)
    """Help."""
    choices: tuple[Literal["a", "b"], ...] = ("a",)
    """Help."""
    words: tuple[str, ...] = ()
    """Help."""
    switch: bool = False
    """Help."""


def careful(config: Careful) -> None:
    """A flow.

    Args:
        config: Help.
    """


def test_a_careful_class_has_no_faults():
    assert faults(parameter_schema(careful).model_dump()) == []


def test_fields_that_share_a_position_are_found():
    schema = parameter_schema(careful).model_dump()
    schema["definitions"]["Careful"]["properties"]["share"]["position"] = 0
    assert [fault.partition(":")[0] for fault in faults(schema)] == ["config"]


def test_the_command_line_knows_every_flow_and_its_settings():
    flows = FLOWS | {"data-to-deployment": data_to_deployment_expert}
    assert {name: config_type(flow) for name, flow in flows.items()} == SETTINGS


def test_the_first_form_asks_for_a_dozen_of_plain_types_and_for_minutes():
    fields = dict(leaves(form(DEPLOYMENTS["data-to-deployment/default"])))
    assert len(fields) <= 12 + 1
    assert fields["config.minutes"]["type"] == "number" and fields["config.minutes"]["minimum"] == 0
    assert {field["type"] for field in fields.values()} <= {"array", "string", "number", "integer"}
    assert fields["config.preset"]["enum"] == ["cpu", "hour", "8gb", "24gb", "80gb", "smoke"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"minutes": -1},
        {"preset": "huge"},
        {"student_size": 1.5},
        {"distill_tokens": 0},
        {"model_name": "no name"},
    ],
)
def test_the_server_refuses_what_is_out_of_range_in_the_first_form(wrong: dict[str, Any]):
    schema = form(DEPLOYMENTS["data-to-deployment/default"])
    assert validate({"config": wrong}, schema)
    assert not validate({"config": {}}, schema)
    with pytest.raises(ValidationError):
        QuickSettings(**wrong)
