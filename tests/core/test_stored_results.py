"""Results that commit 7ea7c5e stored are still found, but for those of stages that changed since, each of which says why.

`results_of_7ea7c5e` holds what that commit wrote: of `leanpipe run --preset smoke` one result's settings, inputs and key for
each stage, and one result of `tokenize` whole.
"""

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from leanpipe.core.report import MetricsFile
from leanpipe.core.stage import known_stages
from leanpipe.core.store import Artifact, Manifest, Store
from leanpipe.processes.run_stage import run_stage
from leanpipe.tokens.tokenize import TokenizeConfig, tokenize

OLD = Path(__file__).parent / "results_of_7ea7c5e"
RECORDS: dict[str, dict[str, Any]] = {
    one["stage"]: one for one in json.loads((OLD / "keys.json").read_text())
}
_DEVICE = "its keys did not hold the device's kind and arithmetic, which decide what models compute"
CHANGED = {
    "clean": "it finds the text of web pages, telephone numbers, cards, accounts and addresses otherwise",
    "cache_teacher": _DEVICE,
    "distill": "its student is an input now, which stage shrink makes, and the device came into its keys",
    "evaluate": "its keys did not hold the model of device, whose speeds it measures",
    "finetune": "it measures forgetting otherwise, and the device came into its keys",
    "quantize": "it makes other formats by default, and the device came into its keys",
}
"""Stages that are computed once more, and why."""


@pytest.fixture(scope="module", autouse=True)
def every_stage():
    for module in ("leanpipe.settings.flows", "leanpipe.assets.resolve"):
        importlib.import_module(module)


def manifest(record: dict[str, Any]) -> Manifest:
    rest = {"files": {}, "summary": {}, "versions": {}, "seconds": 0.0, "peak_memory": 0}
    return Manifest(**record, **rest)


def test_tokens_and_seeds_stay():
    assert set(RECORDS) - set(CHANGED) == {"tokenize", "seed_model"}


@pytest.mark.parametrize("name", sorted(set(RECORDS) - set(CHANGED)))
def test_the_same_settings_and_inputs_have_the_same_key(name: str):
    assert known_stages()[name].made(manifest(RECORDS[name])) is not None


@pytest.mark.parametrize("name", sorted(set(RECORDS) - set(CHANGED)))
def test_other_inputs_have_another_key(name: str):
    other = RECORDS[name] | {"inputs": {"documents": "another"}}
    assert known_stages()[name].made(manifest(other)) is None


@pytest.mark.parametrize("name", sorted(CHANGED))
def test_a_stage_that_changed_does_not_take_its_old_results(name: str):
    assert known_stages()[name].made(manifest(RECORDS[name])) is None


def test_a_result_of_then_is_served_from_the_store(tmp_path: Path):
    (folder,) = (OLD / "tokenize").iterdir()
    shutil.copytree(OLD / "tokenize", tmp_path / "tokenize")
    old = Manifest.model_validate_json((folder / "manifest.json").read_text())
    inputs = {
        # There is no such path: whoever computed anything would fail.
        role: Artifact(name=role, path=tmp_path / "nowhere", digest=digest)
        for role, digest in old.inputs.items()
    }
    report = MetricsFile(tmp_path / "metrics.jsonl")
    config = TokenizeConfig.model_validate(old.config)
    found = run_stage(tokenize, config, inputs, Store(tmp_path), report)
    assert found.key == folder.name and found.summary == old.summary
    assert (tmp_path / "metrics.jsonl").read_text()  # what was measured then is told again
