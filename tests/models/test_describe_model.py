"""Where a model's parameters are, on tiny real models."""

import json
from pathlib import Path

import pytest

from leanpipe.core.report import Silent
from leanpipe.models.describe_model import (
    DescribeModelConfig,
    DescribeModelInputs,
    describe_model,
    kind_of_module,
)
from tests.support.tiny_models import tiny_llama, tiny_model


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, float], Path]:
    root = tmp_path_factory.mktemp("described")
    inputs = DescribeModelInputs(tiny_model(root / "model"))
    (root / "out").mkdir()
    return describe_model.function(DescribeModelConfig(), inputs, root / "out", Silent()), root / "out"


def test_every_parameter_is_counted_once(described: tuple[dict[str, float], Path]):
    summary, out = described
    counted = json.loads((out / "parameters.json").read_text())
    model = tiny_llama()
    assert sum(counted.values()) == summary["parameters"] == model.num_parameters()
    queries = [layer.self_attn.q_proj.weight.numel() for layer in model.model.layers]
    assert counted["self_attn.q_proj"] == sum(queries)
    assert list(counted.values()) == sorted(counted.values(), reverse=True)


def test_a_person_sees_a_table_and_a_picture(described: tuple[dict[str, float], Path]):
    _, out = described
    page = (out / "report" / "parameters.md").read_text()
    assert page.startswith("| module | parameters | share |") and "| mlp.up_proj |" in page
    assert (out / "report" / "parameters.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("depth", "kind"), [(1, "q_proj"), (2, "self_attn.q_proj"), (6, "model.layers.self_attn.q_proj")]
)
def test_numbers_of_layers_are_no_kind(depth: int, kind: str):
    assert kind_of_module("model.layers.11.self_attn.q_proj.weight", depth) == kind
