"""On-policy distillation through TRL, on tiny models."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from leanpipe.core import device
from leanpipe.core.errors import UserError
from leanpipe.core.estimate import Expected
from leanpipe.models.load import load_model, load_tokenizer, save_model
from leanpipe.processes.sigterm import Terminated
from leanpipe.training.finetune.instructions import read_instructions
from leanpipe.training.on_policy.on_policy import (
    OnPolicyConfig,
    OnPolicyInputs,
    check_on_policy,
    check_student,
    on_policy,
    read_turns,
)
from tests.support.tiny_models import tiny_llama, tiny_model, tiny_tokenizer
from tests.training.blocks import Recorder

COLOURS = ["red", "green", "blue", "black", "white", "grey", "pink", "brown", "orange", "purple"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    """With opinions: random weights alone find every token as likely as any other."""
    model = tiny_llama(seed=1)
    with torch.no_grad():
        model.model.norm.weight.mul_(4)
    path = tmp_path_factory.mktemp("teacher")
    save_model(model, tiny_tokenizer(), path, torch.float32)
    return path


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("student"), layers=1)


def write_conversations(path: Path) -> Path:
    records = [{"instruction": f"Say {name}", "output": f"{name} it is"} for name in COLOURS]
    path.write_text("\n".join(map(json.dumps, records)) + "\nbroken\n")
    return path


def settings(**others) -> OnPolicyConfig:
    base = {
        "steps": 20,
        "batch": 4,
        "learning_rate": 1e-2,
        "max_new_tokens": 12,
        "precision": "fp32",
        "validation_conversations": 4,
        "student_share": 1,
    }
    return OnPolicyConfig(**{**base, **others})


def run(folder: Path, teacher: Path, student: Path, report=None, **others):
    torch.set_num_threads(1)
    out = folder / "out"
    out.mkdir(parents=True, exist_ok=True)
    inputs = OnPolicyInputs(teacher, student, write_conversations(folder / "colours.jsonl"))
    return on_policy.function(settings(**others), inputs, out, report or Recorder()), out


def divergence_on_own_answers(folder: Path, teacher: Path) -> float:
    """KL from the teacher, in nats per token, where the model in `folder` goes when it is asked for colours."""
    model, judge = load_model(folder, torch.float32), load_model(teacher, torch.float32)
    torch.manual_seed(0)
    total, tokens = 0.0, 0
    for name in COLOURS:
        asked = (
            tiny_tokenizer()
            .apply_chat_template(
                [{"role": "user", "content": f"Say {name}"}], add_generation_prompt=True, return_tensors="pt"
            )["input_ids"]
            .to(device.name())
        )
        with torch.no_grad():
            said = model.generate(asked, do_sample=True, top_k=0, max_new_tokens=12)
            ours, theirs = (one(said).logits[0].log_softmax(-1) for one in (model, judge))
        apart = (theirs.exp() * (theirs - ours)).sum(-1)[asked.shape[1] - 1 : -1]
        total, tokens = total + float(apart.sum()), tokens + len(apart)
    return total / tokens


@pytest.mark.parametrize("beta", [0, 0.5, 1])
def test_the_student_comes_nearer_to_its_teacher_where_it_goes_itself(tmp_path, teacher, student, beta):
    summary, out = run(tmp_path, teacher, student, beta=beta)
    assert summary["divergence"] < 0.8 * summary["initial_divergence"]
    assert divergence_on_own_answers(out, teacher) < 0.9 * divergence_on_own_answers(student, teacher)


def test_a_model_that_is_its_own_teacher_has_nothing_to_learn(tmp_path, teacher):
    summary, _ = run(tmp_path, teacher, teacher, steps=2)
    assert summary["initial_divergence"] == pytest.approx(0, abs=1e-3)


def test_it_writes_a_model_folder_that_names_no_place(tmp_path, teacher, student):
    recorder = Recorder()
    summary, out = run(tmp_path, teacher, student, recorder, steps=6, log_every_steps=2)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    assert model.config.num_hidden_layers == 1 and model.config.use_cache is True
    assert tokenizer.get_vocab() == tiny_tokenizer().get_vocab() and tokenizer.chat_template
    for file in (*out.glob("*.json"), *out.glob("*.jinja")):
        assert str(tmp_path) not in file.read_text() and str(student) not in file.read_text()
    assert (out / "report" / "loss.png").exists()
    assert (summary["conversations"], summary["skipped"]) == (10, 1)
    assert list(recorder.series("loss")) == [1, 2, 4, 6]
    assert list(recorder.series("validation_divergence")) == [0, 6]
    assert recorder.done == [(step, 6, "steps") for step in range(1, 7)]


def test_the_share_of_batches_with_the_students_own_answers(tmp_path, teacher, student):
    given, _ = run(tmp_path / "given", teacher, student, student_share=0)
    mixed, _ = run(tmp_path / "mixed", teacher, student, student_share=0.5, steps=8, seed=1)
    assert (given["student_share"], given["answer_tokens"]) == (0, 0)
    assert 0 < mixed["student_share"] < 1 and 0 < mixed["answer_tokens"] <= 12


def test_a_run_that_is_cut_off_goes_on_and_ends_with_the_same_weights(tmp_path, teacher, student):
    class Stop(Recorder):
        def progress(self, done, total, what) -> None:
            if done == 6:
                raise KeyError("stop")

    how = {"steps": 8, "checkpoint_every_steps": 4, "student_share": 0.5}
    whole, out = run(tmp_path / "whole", teacher, student, **how)
    with pytest.raises(KeyError):
        run(tmp_path / "cut", teacher, student, Stop(), **how)
    assert (tmp_path / "cut" / "out" / "checkpoints" / "checkpoint-4").exists()
    recorder = Recorder()
    gone_on, other = run(tmp_path / "cut", teacher, student, recorder, **how)
    assert [done for done, _, _ in recorder.done] == [5, 6, 7, 8]
    assert (other / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()
    figures = ("initial_divergence", "divergence", "student_share", "answer_tokens", "tokens")
    assert [gone_on[figure] for figure in figures] == [whole[figure] for figure in figures]
    # Cut off after it had trained, while it was saving, it trains no step again.
    (other / "model.safetensors").unlink()
    recorder = Recorder()
    saved_again, other = run(tmp_path / "cut", teacher, student, recorder, **how)
    assert recorder.done == [(8, 8, "steps")] and recorder.values == []
    assert (other / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()
    assert [saved_again[figure] for figure in figures] == [whole[figure] for figure in figures]


def test_a_run_that_is_cut_off_goes_on_with_less_at_once(tmp_path, teacher, student):
    class Stop(Recorder):
        def progress(self, done, total, what) -> None:
            if done == 3:
                raise KeyError("stop")

    _, out = run(tmp_path / "whole", teacher, student, steps=4)
    with pytest.raises(KeyError):
        run(tmp_path / "cut", teacher, student, Stop(), steps=4, checkpoint_every_steps=2)
    recorder = Recorder()
    _, other = run(
        tmp_path / "cut", teacher, student, recorder, steps=4, micro_batch=1, checkpoint_every_steps=9
    )
    assert [done for done, _, _ in recorder.done] == [3, 4]
    one, two = (load_file(folder / "model.safetensors") for folder in (out, other))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0.02, atol=1e-3)


def test_told_to_end_it_leaves_a_checkpoint_of_the_step_it_was_at(tmp_path, teacher, student):
    class Told(Recorder):
        def progress(self, done, total, what) -> None:
            if done == 3:
                os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with pytest.raises(Terminated, match="stopped after step 3"):
            run(tmp_path, teacher, student, Told(), steps=6)
    finally:
        signal.signal(signal.SIGTERM, before)
    recorder = Recorder()
    run(tmp_path, teacher, student, recorder, steps=6)
    assert [done for done, _, _ in recorder.done] == [4, 5, 6]


def test_smaller_micro_batches_change_nothing_in_the_result(tmp_path, teacher, student):
    weights = [
        load_file(
            run(tmp_path / str(size), teacher, student, steps=3, micro_batch=size)[1] / "model.safetensors"
        )
        for size in (4, 1)
    ]
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=0.02, atol=1e-3)


def test_without_trl_it_says_what_to_install(teacher, monkeypatch):
    monkeypatch.setitem(sys.modules, "trl", None)  # as if it were not installed
    with pytest.raises(UserError, match=r"needs TRL: pip install 'leanpipe\[on-policy\]', or set it to 0"):
        check_on_policy(settings(), {"teacher": Expected(teacher)})


def test_other_tokens_than_the_teachers_are_refused(tmp_path, teacher):
    other = tmp_path / "other"
    save_model(tiny_llama(vocabulary=400), tiny_tokenizer(400), other)
    with pytest.raises(
        UserError, match=r"other tokens than its teacher .* choose a student with the teacher's"
    ):
        run(tmp_path, teacher, other)


def test_a_vocabulary_that_is_filled_up_otherwise_is_refused(tmp_path, teacher, student):
    model = load_model(student, torch.float32)
    model.resize_token_embeddings(576)
    save_model(model, load_tokenizer(student), tmp_path)
    with pytest.raises(UserError, match="predicts 576 tokens, and its teacher 512"):
        check_student(tmp_path, teacher)


def test_answers_that_the_model_could_not_read_are_refused(teacher):
    with pytest.raises(UserError, match=r"asks for texts of 700 tokens, but the model .* reads 512 at most"):
        check_on_policy(settings(max_prompt_tokens=500, max_new_tokens=200), {"teacher": Expected(teacher)})


def test_a_student_of_damaged_weights_is_refused(tmp_path, teacher):
    model = tiny_llama(layers=1)
    with torch.no_grad():
        model.model.norm.weight.fill_(torch.nan)
    save_model(model, tiny_tokenizer(), tmp_path / "damaged")
    with pytest.raises(UserError, match="its weights are damaged"):
        run(tmp_path, teacher, tmp_path / "damaged")


def test_the_last_answer_of_each_conversation_is_learnt_and_some_are_held_out(tmp_path):
    read = read_turns(settings(), write_conversations(tmp_path / "colours.jsonl"), tiny_tokenizer())
    assert (len(read.train), len(read.held_out), read.skipped) == (6, 4, 1)
    text = {tiny_tokenizer().decode(turn.prompt + turn.answer) for turn in (*read.train, *read.held_out)}
    assert len(read_instructions(tmp_path).conversations) == len(text) == 10
    assert all("<|im_start|>assistant\n" in one for one in text)


def test_too_few_conversations_are_refused(tmp_path):
    with pytest.raises(UserError, match="has 0 conversations with a prompt of at most 8 tokens"):
        read_turns(
            settings(max_prompt_tokens=8), write_conversations(tmp_path / "colours.jsonl"), tiny_tokenizer()
        )
