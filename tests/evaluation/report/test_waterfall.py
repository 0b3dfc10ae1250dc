"""Every step from the teacher to what is served, with its interval: what is planted at one of them is named there."""

import copy

import pytest
import torch

from leanpipe.core.errors import UserError
from leanpipe.evaluation.perplexity import bits_per_byte, bits_per_byte_error, score_documents
from leanpipe.evaluation.report.run_difference import named_step, run_difference
from leanpipe.evaluation.report.stored_scores import ModelScores, from_json, to_json
from leanpipe.evaluation.report.waterfall import (
    changed_steps,
    draw_waterfall,
    largest_loss,
    links,
    waterfall,
    waterfall_markdown,
)
from tests.support.tiny_models import tiny_llama, tiny_text, tiny_tokenizer

STAGES = {"student": "distill", "adapted": "finetune", "q4_0": "quantize"}
LABELS = ("teacher", *STAGES)
TEXTS = [text[:300] for text in tiny_text() if len(text) > 2_000][:16]
SEEDS = range(20)


@pytest.fixture(scope="module")
def teacher():
    """A tiny model that has learnt a little of the help topics, so that it can forget something."""
    model, tokens = tiny_llama(), tiny_tokenizer().encode(" ".join(tiny_text()[20:60]))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(80):
            starts = torch.randint(0, len(tokens) - 65, (8,)).tolist()
            batch = torch.tensor([tokens[start : start + 64] for start in starts])
            loss = model(batch, labels=batch).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


def scored(model) -> ModelScores:
    scores = score_documents(model, tiny_tokenizer(), TEXTS, 0, 256)
    by_id = {str(number): score for number, score in enumerate(scores)}
    summary = {"bits_per_byte": bits_per_byte(scores), "bits_per_byte_error": bits_per_byte_error(scores)}
    return ModelScores(summary, {"bits_per_byte": by_id}, {"context": 256, "stride": 256})


def noised(model, seed: int, share: float, layers: tuple[int, ...] = (0, 1)):
    """A copy of the model whose layers carry noise, as a share of each weight's own spread."""
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in layers:
            for weight in other.model.layers[layer].parameters():
                spread = weight.std() if weight.ndim > 1 else 0.0
                weight += share * spread * torch.randn(weight.shape, generator=generator)
    return other


def run_of(teacher, seed: int, planted: str = "") -> dict[str, ModelScores]:
    """A run whose stages each change the model a little; the stage `planted` also noises one layer's weights."""
    models, scores = [teacher], {"teacher": scored(teacher)}
    for number, label in enumerate(STAGES):
        model = noised(models[-1], 100 * seed + number, 0.02)
        if label == planted:
            model = noised(model, 1_000 + seed, 4.0, (seed % 2,))
        models.append(model)
        scores[label] = scored(model)
    return scores


@pytest.fixture(scope="module")
def healthy(teacher):
    return run_of(teacher, 999)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_planted_regression_is_named_at_its_stage(teacher, healthy, seed):
    planted = list(STAGES)[seed % len(STAGES)]
    broken = run_of(teacher, seed, planted)
    worst = largest_loss(waterfall(broken))
    assert worst is not None and (worst.stage, worst.after) == (STAGES[planted], planted)
    named = named_step(changed_steps(broken, healthy))
    assert named is not None and (named.stage, named.after) == (STAGES[planted], planted)


def test_a_stage_that_always_costs_something_is_not_named_against_an_earlier_run(teacher):
    """A student of half the layers is far worse than its teacher in both runs; what got worse is the quantisation."""
    small = copy.deepcopy(teacher)
    small.model.layers = small.model.layers[:1]

    def run(seed, planted):
        forms = {"student": noised(small, seed, 0.01, (0,))}
        forms["adapted"] = noised(forms["student"], seed + 1, 0.01, (0,))
        forms["q4_0"] = noised(forms["adapted"], seed + 2, 2.0 if planted else 0.01, (0,))
        return {"teacher": scored(teacher)} | {label: scored(model) for label, model in forms.items()}

    here, there = run(1, True), run(10, False)
    assert largest_loss(waterfall(there)).stage == "distill"
    assert waterfall(here)[0].stage == "distill" and waterfall(here)[0].verdict == "lost"
    assert named_step(changed_steps(here, there)).stage == "quantize"
    assert named_step(changed_steps(there, there)) is None


def test_steps_add_up_to_the_way_from_the_teacher_to_the_last_form(healthy):
    steps = waterfall(healthy)
    assert [step.name for step in steps] == [
        "distill: teacher → student",
        "finetune: student → adapted",
        "quantize: adapted → q4_0",
    ]
    ends = healthy["q4_0"].summary["bits_per_byte"] - healthy["teacher"].summary["bits_per_byte"]
    assert sum(step.difference.estimate for step in steps) == pytest.approx(ends, abs=1e-9)


def test_every_form_is_a_step_from_the_adapted_model_and_strangers_are_none():
    assert links(["adapted", "nf4", "teacher", "int8"]) == [
        ("finetune", "teacher", "adapted"),
        ("quantize", "adapted", "nf4"),
        ("quantize", "adapted", "int8"),
    ]
    assert links(["my-model", "other"]) == []


def test_the_table_says_what_was_lost_and_the_picture_is_drawn(teacher, tmp_path):
    steps = waterfall(run_of(teacher, 3, "adapted"))
    text = waterfall_markdown(steps)
    assert "most was lost by **finetune** (student → adapted)" in text
    assert "| finetune | student → adapted | held-out text | +" in text and "| lost |" in text
    draw_waterfall(steps, tmp_path / "waterfall.png")
    assert (tmp_path / "waterfall.png").read_bytes().startswith(b"\x89PNG")


def test_scores_are_read_back_as_they_were_written(healthy):
    assert from_json(to_json(healthy), "a run") == healthy
    for broken in ("", "[]", '{"teacher": {}}', '{"teacher": {"summary": {}, "scores": {"a": {"b": 3}}}}'):
        with pytest.raises(UserError, match="the scores of a run cannot be read"):
            from_json(broken, "a run")


def test_two_runs_are_compared_model_by_model_and_windows_that_differ_are_said(teacher, healthy):
    broken = run_of(teacher, 4, "adapted")
    found = run_difference(broken, healthy)
    verdicts = {one.label: one.verdict for one in found.models}
    assert verdicts["teacher"] == "the same" and verdicts["adapted"] == verdicts["q4_0"] == "worse"
    other = healthy | {
        "q4_0": ModelScores(healthy["q4_0"].summary, healthy["q4_0"].scores, {"context": 128, "stride": 64})
    }
    found = run_difference(broken, other)
    assert "q4_0" not in {one.label for one in found.models}
    assert len(found.remarks) == 1 and "windows of other lengths" in found.remarks[0]
