"""Held-out answers: which they are, what a model is charged for, and that finetuning learns none of them."""

import json
import math

import pytest
import torch

from leanpipe.core.errors import UserError
from leanpipe.core.report import Silent
from leanpipe.evaluation.answer_scores import held_out_answers, score_answers
from leanpipe.evaluation.compare import comparison, to_markdown
from leanpipe.evaluation.evaluate import EvaluateInputs, evaluate
from leanpipe.training.finetune.conversations import split_examples
from leanpipe.training.finetune.finetune import FinetuneConfig
from leanpipe.training.finetune.hold_out import FOLDER, HoldOutConfig, HoldOutInputs, hold_out_instructions
from tests.evaluation.test_evaluate import CONFIG, write_documents
from tests.support.tiny_models import tiny_llama, tiny_model, tiny_text, tiny_tokenizer


def write_conversations(path, count=40):
    lines = (
        {"instruction": f"What is number {n}?", "output": f"It is {n} times one, called {n * 7}."}
        for n in range(count)
    )
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def instructions(tmp_path_factory):
    return write_conversations(tmp_path_factory.mktemp("instructions") / "numbers.jsonl")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model"))


def test_what_is_held_out_is_what_finetuning_does_not_learn(instructions, model, tmp_path):
    config = FinetuneConfig(validation_share=0.2, seed=3)
    inputs = HoldOutInputs(model, instructions)
    summary = hold_out_instructions.function(HoldOutConfig.of(config), inputs, tmp_path, Silent())
    assert summary == {"held_out_conversations": 8, "learnt_conversations": 32}
    held_out = {
        one.conversation.messages[-1]["content"] for one in held_out_answers(tmp_path / FOLDER, 1_000)
    }
    examples = split_examples(config, instructions, tiny_tokenizer())
    learnt, validation = (
        {tiny_tokenizer().decode([one for one in example.labels if one >= 0]) for example in some}
        for some in (examples.train, examples.validation)
    )
    assert {f"{answer}<|im_end|>" for answer in held_out} == {one.strip() for one in validation}
    assert not held_out & {one.removesuffix("<|im_end|>") for one in learnt}


def test_only_the_answer_and_its_end_are_charged_for(instructions):
    """By hand: -ln p of every token of the answer after all that stands before it, over the answer's bytes."""
    model, tokenizer = tiny_llama(), tiny_tokenizer()
    answers = held_out_answers(instructions, 3)
    scores = score_answers(model, tokenizer, answers, context=512, stride=256)
    for one in answers:
        question, answer = one.conversation.messages
        before = f"<|im_start|>user\n{question['content']}<|im_end|>\n<|im_start|>assistant\n"
        tokens = tokenizer.encode(before)
        said = tokenizer.encode(answer["content"] + "<|im_end|>")
        with torch.inference_mode():
            logits = model(torch.tensor([tokens + said])).logits[0].log_softmax(-1)
        expected = -sum(float(logits[len(tokens) - 1 + n, token]) for n, token in enumerate(said))
        assert scores[one.id].nats == pytest.approx(expected, rel=1e-5)
        assert scores[one.id].bytes == len(answer["content"].encode())
        assert scores[one.id].tokens == len(said)


def test_a_long_conversation_is_read_in_windows_and_every_token_of_the_answer_counts_once():
    """Every weight is zero: each token costs ln 512, whatever the windows are."""
    model, tokenizer = tiny_llama(), tiny_tokenizer()
    for parameter in model.parameters():
        parameter.data.zero_()
    path_text = " ".join(tiny_text()[0].split()[:150])
    from leanpipe.evaluation.answer_scores import HeldOutAnswers
    from leanpipe.training.finetune.instructions import Conversation

    turns = [{"role": "user", "content": path_text}, {"role": "assistant", "content": path_text}]
    one = HeldOutAnswers("one", Conversation(turns))
    scores = [score_answers(model, tokenizer, [one], 32, stride)["one"] for stride in (8, 32)]
    for score in scores:
        assert score.nats == pytest.approx(score.tokens * math.log(512), rel=1e-5)
    assert scores[0].tokens == scores[1].tokens > 200


def test_the_choice_does_not_depend_on_the_order_of_the_file(instructions, tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_text("".join(reversed(instructions.read_text().splitlines(keepends=True))))
    assert held_out_answers(other, 5) == held_out_answers(instructions, 5)


def test_an_evaluation_scores_answers_beside_text_and_the_table_shows_both(instructions, model, tmp_path):
    documents = write_documents(tmp_path / "clean", tiny_text()[:20])
    out = tmp_path / "out"
    out.mkdir()
    summary = evaluate.function(CONFIG, EvaluateInputs(model, documents, instructions), out, Silent())
    assert summary["answers_scored"] == CONFIG.conversations
    answers = json.loads((out / "evaluation.json").read_text())["answers"]
    assert len({one["id"] for one in answers}) == CONFIG.conversations
    total = sum(one["nats"] for one in answers) / math.log(2) / sum(one["bytes"] for one in answers)
    assert summary["answer_bits_per_byte"] == pytest.approx(total)
    alone = {name: value for name, value in summary.items() if not name.startswith("answer")}
    shown = to_markdown(comparison({"with": summary, "without": alone}))
    assert "answers, bits/byte" in shown and f"| {total:.3f} |" in shown and "| – |" in shown
    assert "answers" not in to_markdown(comparison({"without": alone}))


def test_too_few_conversations_are_one_sentence(tmp_path):
    path = write_conversations(tmp_path / "one.jsonl", 1)
    with pytest.raises(UserError, match=r"holds 1 conversations.*validation_share"):
        held_out_answers(path, 10)
