"""The last step of the waterfall: what a server answers from, apart from what the stored bits cost."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from leanpipe.core.errors import UserError
from leanpipe.core.report import Silent
from leanpipe.core.store import Store, external
from leanpipe.engines.open_engine import open_logits
from leanpipe.evaluation.evaluate import evaluate
from leanpipe.evaluation.held_out import held_out
from leanpipe.evaluation.perplexity import score_documents
from leanpipe.evaluation.report.run_report import RunFacts, write_run_report
from leanpipe.evaluation.report.waterfall import largest_loss, served_by, waterfall
from leanpipe.evaluation.usage.score_weights import load_stored
from leanpipe.models.load import document_start, load_model, load_tokenizer
from leanpipe.models.offload import GGUF_FILE
from leanpipe.processes.run_stage import run_stage
from leanpipe.settings.flows import PipelineConfig
from tasks.promote import score_without_engine
from tasks.report import read_scores
from tests.evaluation.parity.trained import write_form, write_trained
from tests.evaluation.test_evaluate import CONFIG, write_documents
from tests.support.tiny_models import tiny_text

ASKED = PipelineConfig(
    evaluate=CONFIG.model_copy(
        update={"text_bytes": 6_000, "stored_weights": True, "sampling": ("greedy",), "batch_sizes": ()}
    )
)


class Runs:
    """Computes stages here and now, and keeps what came of them by label."""

    def __init__(self, store: Path):
        self.store, self.results = Store(store), {}

    def stage(self, stage, config, *, label, **inputs):
        self.results[label] = run_stage(stage, config, inputs, self.store, Silent())
        return self.results[label]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run that evaluated a trained model and its form in 4 bits, and scored the weights of that alone."""
    root = tmp_path_factory.mktemp("served")
    folders = {"adapted": write_trained(root / "adapted", steps=60)}
    folders["q4_0"] = write_form("q4_0", folders["adapted"], root / "q4_0")
    documents = external("documents", write_documents(root / "clean", tiny_text()[:20]))
    run = Runs(root / "store")
    models = {label: external(label, path) for label, path in folders.items()}
    evaluations = {
        label: run.stage(
            evaluate, ASKED.evaluate, label=f"evaluate-{label}", model=model, documents=documents
        )
        for label, model in models.items()
    }
    score_without_engine(run, ASKED, "q4_0", models["q4_0"], documents)
    return run, models, evaluations, documents


def test_what_the_bits_cost_and_what_the_engine_costs_are_two_steps_that_add_up(made):
    run, _, evaluations, _ = made
    scores = read_scores(evaluations, run.results)
    steps = waterfall(scores)
    assert [step.name for step in steps] == [
        "quantize: adapted → q4_0 weights",
        "serve: q4_0 weights → q4_0",
    ]
    whole = evaluations["q4_0"].summary["bits_per_byte"] - evaluations["adapted"].summary["bits_per_byte"]
    assert sum(step.difference.estimate for step in steps) == pytest.approx(whole, abs=1e-9)
    # The engine rounds activations to 8 bits, which costs something else than nothing, and less than 4 bits of weights.
    assert 0 < abs(steps[1].difference.estimate) < abs(steps[0].difference.estimate)
    (said,) = (one for one in served_by(scores) if "q4_0" in one)
    assert "scored by llama.cpp, which serves it" in said and "the step from its weights" in said


def test_the_report_tells_the_served_step_and_has_no_row_of_speeds_for_weights(made, tmp_path):
    run, _, evaluations, _ = made
    facts = RunFacts("a run", "", read_scores(evaluations, run.results))
    write_run_report(facts, tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "| serve | q4_0 weights → q4_0 |" in text and "adapted was scored by transformers" in text
    speeds = text.partition("## Size and speed")[2]
    assert "| q4_0 |" in speeds and "weights" not in speeds


def test_without_it_the_waterfall_says_that_the_step_holds_the_engine_too(made):
    _, _, evaluations, _ = made
    scores = read_scores(evaluations)
    assert [step.name for step in waterfall(scores)] == ["quantize: adapted → q4_0"]
    assert any("what that costs is within its step" in one for one in served_by(scores))


def test_a_server_that_answers_from_other_weights_is_named(made, tmp_path):
    """The file that is served was made of a damaged model; the weights that were scored are sound."""
    run, models, evaluations, documents = made
    damaged = shutil.copytree(models["adapted"].path, tmp_path / "damaged")
    model = load_model(damaged, torch.float32)
    with torch.no_grad():
        for weight in model.model.layers[0].parameters():
            weight += weight.std() * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    model.save_pretrained(damaged)
    served = write_form("q4_0", damaged, tmp_path / "q4_0")
    asked, scores = ASKED.evaluate, read_scores(evaluations, run.results)
    passages = held_out(documents.path, asked.text_bytes, asked.document_bytes)
    tokenizer, texts = load_tokenizer(served), [one.text for one in passages]
    found = score_documents(
        open_logits(served, asked.context),
        tokenizer,
        texts,
        document_start(tokenizer),
        asked.context,
        asked.step,
    )
    by_digest = {passage.digest: score for passage, score in zip(passages, found, strict=True)}
    scores["q4_0"] = replace(scores["q4_0"], scores={"bits_per_byte": by_digest})
    assert largest_loss(waterfall(scores)).stage == "serve"


def test_nothing_is_scored_twice_that_its_engine_scored(made, tmp_path):
    run, models, _, documents = made
    before = dict(run.results)
    score_without_engine(run, ASKED, "adapted", models["adapted"], documents)
    off = ASKED.model_copy(update={"evaluate": CONFIG})
    score_without_engine(run, off, "q4_0", models["q4_0"], documents)
    assert run.results == before


def test_weights_that_transformers_cannot_read_are_one_sentence(made, tmp_path):
    _, models, _, _ = made
    with pytest.raises(UserError, match="holds no GGUF file"):
        load_stored(models["adapted"].path)
    broken = shutil.copytree(models["q4_0"].path, tmp_path / "q4_0")
    content = (broken / GGUF_FILE).read_bytes()
    (broken / GGUF_FILE).write_bytes(content.replace(b"llama", b"xlama"))
    with pytest.raises(UserError, match=r"leave evaluate\.stored_weights off"):
        load_stored(broken)
    assert json.loads((broken / "config.json").read_text())["model_type"] == "llama"
