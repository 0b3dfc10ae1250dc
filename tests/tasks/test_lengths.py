"""Minutes become lengths before any work, by a real plan on this machine: said, tracked as parameters, and the same every time."""

import re
from pathlib import Path

import pytest

from flows import data_to_deployment
from leanpipe.core.home import Home
from leanpipe.planning.within_minutes import LENGTHS
from leanpipe.settings.presets import smoke
from tasks.preflight import _decide_lengths, decide_lengths
from tasks.run import IN_PLACE, tracked_run
from tasks.run_inputs import resolve
from tests.flows.material import write_corpus, write_instructions
from tests.support.tiny_models import tiny_model


def test_minutes_become_lengths_that_are_said_and_tracked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    home = Home(tmp_path / "home")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv(IN_PLACE, "1")
    given = {
        "corpus": (str(write_corpus(tmp_path / "text")),),
        "teacher": str(tiny_model(tmp_path / "teacher", layers=2)),
        "instructions": str(write_instructions(tmp_path / "instructions.jsonl")),
    }
    config = smoke().model_copy(update={"minutes": 600.0, **given})
    with tracked_run("a flow", config, home, undecided=LENGTHS) as run:
        found = resolve.fn(
            run, corpus=config.corpus, models=(config.teacher,), instructions=config.instructions
        )
        decided = _decide_lengths.fn(run, data_to_deployment.stages, config, found)
        said = r"600 minutes: distill.tokens=[\d,]+, finetune.tokens=[\d,]+: by the plan [\d.]+ minutes"
        assert re.search(said, caplog.text)
        assert _decide_lengths.fn(run, data_to_deployment.stages, config, found) == decided
        known = run.tracking.answer("the test", lambda: run.tracking.client.get_run(run.mlflow_run))
        lengths = {"distill.tokens": decided.distill.tokens, "finetune.tokens": decided.finetune.tokens}
        assert {name: known.data.params[name] for name in LENGTHS} == {
            name: str(tokens) for name, tokens in lengths.items()
        }
        assert known.data.params["minutes"] == "600.0"
        assert decided.distill.tokens > config.distill.tokens
        assert decided.model_copy(update={"distill": config.distill, "finetune": config.finetune}) == config
        as_it_is = config.model_copy(update={"minutes": 0.0})
        assert decide_lengths(run, data_to_deployment.stages, as_it_is, found) is as_it_is
