"""Answers of a teacher among those that were given, and what it predicts of the answers."""

import json
from pathlib import Path

import pytest
import torch

from leanpipe.core.errors import UserError
from leanpipe.models.load import load_model, load_tokenizer, save_model
from leanpipe.training.finetune.chat import Example
from leanpipe.training.finetune.finetune import FinetuneConfig, FinetuneInputs, finetune
from leanpipe.training.finetune.instruction_files import ANSWERS
from leanpipe.training.finetune.teacher_answers import mix_answers, read_answers
from leanpipe.training.losses.chunked_loss import IGNORED
from tests.support.tiny_models import tiny_model, tiny_tokenizer
from tests.training.blocks import Recorder
from tests.training.finetune.test_finetune import COLOURS, write_instructions


def example(question: int, answer: int, length: int = 10) -> list[Example]:
    tokens = [question] * 4 + [answer] * (length - 4)
    return [Example(tokens, [IGNORED] * 4 + tokens[4:])]


def test_the_share_counts_tokens_and_no_question_is_answered_twice():
    given, written = [example(n, 1) for n in range(10, 20)], [example(n, 2) for n in (10, 11)]
    mixed = mix_answers(given, written, 0.5)
    assert mixed == [*given[2:4], *written]
    assert mix_answers(given, written, 0.25) == [*given[2:8], *written]
    assert mix_answers(given, written, 1) == written


def test_a_question_that_is_held_out_is_not_learnt_from_the_teachers_answer(tmp_path):
    path, tokenizer = tmp_path / ANSWERS, tiny_tokenizer()
    turns = [[{"role": "user", "content": asked}, {"role": "assistant", "content": "Yes."}] for asked in "ab"]
    path.write_text("\n".join(json.dumps({"messages": one}) for one in turns))
    both = read_answers(path, tokenizer, 64, [])
    assert read_answers(path, tokenizer, 64, both[:1]) == both[1:]
    with pytest.raises(UserError, match=r"set finetune.written_share to 0"):
        read_answers(path, tokenizer, 64, both)


def adapted(out: Path, model: Path, answer: str = "", **settings):
    inputs = {name: settings.pop(name) for name in ("teacher", "written") if name in settings}
    out.mkdir()
    config = FinetuneConfig(
        **({"tokens": 20 * 128, "batch": 2, "max_length": 64, "learning_rate": 1e-2, "rank": 4} | settings)
    )
    instructions = write_instructions(out / "colours.jsonl")
    if answer:
        records = [{"instruction": f"Say {name}", "output": answer} for name in COLOURS]
        instructions.write_text("\n".join(map(json.dumps, records)))
    return finetune.function(config, FinetuneInputs(model, instructions, **inputs), out, Recorder())


def divergence(folder: Path, teacher: Path) -> float:
    """How far a model is from a teacher on an answer to a question that it read, in nats per token."""
    tokenizer = load_tokenizer(folder)
    turns = [
        {"role": "user", "content": "Say red"},
        {"role": "assistant", "content": "red it is, and red it will be"},
    ]
    tokens = torch.tensor([tokenizer.encode(tokenizer.apply_chat_template(turns, tokenize=False))])
    with torch.no_grad():
        ours, theirs = (
            load_model(path, torch.float32)(tokens).logits[0].log_softmax(-1) for path in (folder, teacher)
        )
    return float((theirs.exp() * (theirs - ours)).sum(-1)[-10:].mean())


def test_with_its_teachers_predictions_a_model_comes_nearer_to_the_teacher(tmp_path):
    """A teacher that answers otherwise than the text: who learns from it learns to answer as it does."""
    torch.set_num_threads(1)
    model, teacher = tiny_model(tmp_path / "model"), tmp_path / "teacher"
    adapted(teacher, model, answer="nothing of the kind, nothing at all")
    for name, settings in (("alone", {}), ("taught", {"kl_weight": 1.0, "teacher": teacher})):
        adapted(tmp_path / name, model, **settings)
    far = {name: divergence(tmp_path / name, teacher) for name in ("model", "alone", "taught")}
    assert far["taught"] < 0.5 * min(far["model"], far["alone"])


def test_a_model_that_is_its_own_teacher_has_nothing_to_learn(tmp_path):
    model = tiny_model(tmp_path / "model")
    summary = adapted(tmp_path / "out", model, kl_weight=1.0, teacher=model, precision="fp32", tokens=128)
    assert summary["final_loss"] == pytest.approx(0, abs=1e-4)


def test_a_teacher_of_another_vocabulary_is_refused(tmp_path):
    from tests.support.tiny_models import tiny_llama

    model = tiny_model(tmp_path / "model")
    save_model(tiny_llama(vocabulary=400), tiny_tokenizer(400), tmp_path / "teacher", torch.float32)
    with pytest.raises(UserError, match=r"set finetune.kl_weight to 0"):
        adapted(tmp_path / "out", model, kl_weight=0.5, teacher=tmp_path / "teacher")


def test_the_teachers_answers_are_learnt_and_what_is_held_out_stays_as_it_was_given(tmp_path):
    model, written = tiny_model(tmp_path / "model"), tmp_path / "written"
    written.mkdir()
    turns = [{"role": "user", "content": "Say nothing"}, {"role": "assistant", "content": "zz " * 12}]
    (written / ANSWERS).write_text(json.dumps({"messages": turns}))
    plain = adapted(tmp_path / "plain", model)
    mixed = adapted(tmp_path / "mixed", model, written=written, written_share=0.5)
    assert mixed["initial_validation_loss"] == plain["initial_validation_loss"]
    assert mixed["examples"] < plain["examples"] and mixed["validation_loss"] != plain["validation_loss"]
