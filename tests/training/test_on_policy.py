"""On-policy distillation through TRL, on tiny models."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from leanpipe.errors import UserError
from leanpipe.models.load import load_model, load_tokenizer, save_model
from leanpipe.training.on_policy import (
    OnPolicyConfig,
    OnPolicyInputs,
    check_on_policy,
    distill_on_policy,
    read_turns,
)
from tests.tiny import tiny_llama, tiny_model, tiny_tokenizer
from tests.training.blocks import Recorder

COLOURS = ["red", "green", "blue", "black", "white", "grey", "pink", "brown", "orange", "purple"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    """A model with an opinion: random weights alone predict every token alike."""
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
        "steps": 30,
        "batch": 4,
        "learning_rate": 1e-2,
        "max_new_tokens": 12,
        "precision": "fp32",
        "validation_conversations": 4,
    }
    return OnPolicyConfig(**{**base, **others})


def run(tmp_path, teacher, student, report=None, **others):
    torch.set_num_threads(1)
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    inputs = OnPolicyInputs(teacher, student, write_conversations(tmp_path / "colours.jsonl"))
    return distill_on_policy.function(settings(**others), inputs, out, report or Recorder()), out


@pytest.mark.parametrize("beta", [0, 0.5, 1])
def test_the_student_comes_nearer_to_its_teacher_where_it_goes_itself(tmp_path, teacher, student, beta):
    recorder = Recorder()
    summary, out = run(tmp_path, teacher, student, recorder, beta=beta, student_share=1)
    print(summary)
    assert summary["divergence"] < 0.7 * summary["initial_divergence"]
