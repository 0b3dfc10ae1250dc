"""What a model cannot read is refused by name, before any work: Llama would go on without a word, GPT-2 end in an IndexError."""

import json
from typing import Any

import pytest
import torch
from transformers import GPT2Config, LlamaConfig, MistralConfig

from leanpipe.core.errors import UserError
from leanpipe.core.estimate import Expected
from leanpipe.core.report import Silent
from leanpipe.core.stage import Stage
from leanpipe.evaluation.evaluate import EvaluateConfig, EvaluateInputs, evaluate
from leanpipe.models.attention.attention_patterns import AttentionConfig
from leanpipe.models.build import Shape, decoder_config, random_decoder
from leanpipe.models.count import longest_text
from leanpipe.models.load import save_model
from leanpipe.planning.preflight import CheckConfig, CheckInputs, check
from leanpipe.planning.steps import StepConfig, Steps
from leanpipe.shrink.shrink import ShrinkConfig, shrink
from leanpipe.tokens.tokenize import TokenizeConfig, tokenize
from leanpipe.training.distill.distill import DistillConfig, DistillInputs, distill
from leanpipe.training.distill.teacher_cache import CacheConfig, CacheInputs, cache_teacher
from leanpipe.training.finetune.finetune import FinetuneConfig, FinetuneInputs, finetune
from leanpipe.training.on_policy.on_policy import OnPolicyConfig, on_policy
from tests.support.tiny_models import tiny_tokenizer
from tests.training.blocks import write_blocks

READS = 64
SHORT: dict[str, Any] = {
    "context": 32,
    "prefill_tokens": 16,
    "decode_tokens": 4,
    "prompts": ("And?",),
    "max_new_tokens": 4,
}
DISTILL = DistillConfig(teacher_logprobs="online")
TEACHER = {"teacher": "models.0", "blocks": "tokenize"}
REFUSED: dict[str, tuple[Stage, Any, dict[str, str], str]] = {
    "cache_teacher": (cache_teacher, CacheConfig(blocks=1), TEACHER, "tokenize.block_length"),
    "distill": (distill, DISTILL, TEACHER, "tokenize.block_length"),
    "finetune": (
        finetune,
        FinetuneConfig(max_length=READS + 1),
        {"model": "models.0"},
        "finetune.max_length",
    ),
    "on_policy": (
        on_policy,
        OnPolicyConfig(steps=1, max_prompt_tokens=READS, max_new_tokens=1),
        {"teacher": "models.0"},
        "on_policy.max_prompt_tokens",
    ),
    "windows": (
        evaluate,
        EvaluateConfig(**SHORT | {"context": READS + 1}),
        {"model": "models.0"},
        "evaluate.context",
    ),
    "speed": (
        evaluate,
        EvaluateConfig(**SHORT | {"prefill_tokens": READS}),
        {"model": "models.0"},
        "evaluate.prefill_tokens [+] evaluate.decode_tokens",
    ),
    "answers": (
        evaluate,
        EvaluateConfig(**SHORT | {"max_new_tokens": READS - 4}),
        {"model": "models.0"},
        "evaluate.max_new_tokens",
    ),
}


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def model(request, tmp_path_factory):
    """A model that reads 64 tokens."""
    shape = Shape(2, 64, 4, 4, 128, READS, True)
    folder = tmp_path_factory.mktemp(request.param)
    config = decoder_config(request.param, shape, AttentionConfig(), 512, tiny_tokenizer())
    save_model(random_decoder(config, 0), tiny_tokenizer(), folder, torch.float32)
    return folder


def preflight(tmp_path, model, stage, config, inputs, block_length):
    """The stage `check` on a run that tokenises and then does one thing with the model."""
    steps = [
        step(tokenize, TokenizeConfig(block_length=block_length), documents="corpus.0", teacher="models.0"),
        step(stage, config, **inputs),
    ]
    given = CheckInputs(corpus=(tmp_path,), models=(model,))
    check.function(CheckConfig(device="cpu", steps=tuple(steps)), given, tmp_path, Silent())


def step(stage, config, **inputs):
    return StepConfig(
        label=stage.name, stage=stage.address, config=config.model_dump(mode="json"), inputs=inputs
    )


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_a_model_cannot_read_is_refused_before_any_work(tmp_path, model, name):
    stage, config, inputs, setting = REFUSED[name]
    with pytest.raises(UserError, match=f"{setting}.*{model}.*reads {READS}") as refused:
        preflight(tmp_path, model, stage, config, inputs, READS + 1)
    assert "\n" not in str(refused.value)


def test_what_a_model_can_just_read_is_not_refused(tmp_path, model):
    preflight(tmp_path, model, cache_teacher, CacheConfig(blocks=1), TEACHER, READS)
    preflight(tmp_path, model, distill, DISTILL, TEACHER, READS)
    preflight(tmp_path, model, finetune, FinetuneConfig(max_length=READS), {"model": "models.0"}, READS)
    whole = EvaluateConfig(**SHORT | {"context": READS, "prefill_tokens": READS - 4})
    preflight(tmp_path, model, evaluate, whole, {"model": "models.0"}, READS)


def test_a_student_that_is_not_there_yet_reads_what_its_teacher_does(tmp_path, model):
    steps = [
        step(tokenize, TokenizeConfig(block_length=READS), documents="corpus.0", teacher="models.0"),
        step(distill, DISTILL, **TEACHER),
        step(evaluate, EvaluateConfig(**SHORT | {"context": READS + 1}), model="distill"),
    ]
    given = CheckInputs(corpus=(tmp_path,), models=(model,))
    with pytest.raises(UserError, match=f"evaluate.context.* the model that distill makes reads {READS}"):
        check.function(CheckConfig(device="cpu", steps=tuple(steps)), given, tmp_path, Silent())


def test_what_a_check_refuses_and_no_estimate_can_count_is_said_by_the_check():
    """GPT-2 has no groups of heads to narrow: what it would take cannot be told, and why it cannot be cut can."""
    teacher = Expected(facts={"model": GPT2Config(vocab_size=512, n_embd=64, n_layer=2, n_head=4)})
    blocks = Expected(facts={"block_length": 64})
    with pytest.raises(UserError, match="the hidden size of a gpt2 model cannot be cut, only layers"):
        Steps("cpu").stage(shrink, ShrinkConfig(width=0.5), teacher=teacher, blocks=blocks)


def test_stages_refuse_it_themselves(tmp_path, model):
    """Whoever runs a stage alone has no preflight."""
    blocks = write_blocks(tmp_path / "blocks", length=READS + 1)
    with pytest.raises(UserError, match="block_length"):
        cache_teacher.function(CacheConfig(blocks=1), CacheInputs(model, blocks), tmp_path, Silent())
    with pytest.raises(UserError, match="block_length"):
        distill.function(DISTILL, DistillInputs(model, blocks), tmp_path, Silent())
    told = tmp_path / "told.json"
    told.write_text(json.dumps([{"instruction": "Say a.", "output": "a"}] * 4))
    with pytest.raises(UserError, match="max_length"):
        finetune.function(
            FinetuneConfig(max_length=READS + 1), FinetuneInputs(model, told), tmp_path, Silent()
        )
    with pytest.raises(UserError, match="context"):
        evaluate.function(
            EvaluateConfig(**SHORT | {"context": 128}), EvaluateInputs(model, tmp_path), tmp_path, Silent()
        )


def rope(kind, **more):
    return {"rope_type": kind, "rope_theta": 10_000.0, **more}


@pytest.mark.parametrize(
    ("config", "reads"),
    [
        (GPT2Config(n_positions=512), 512),
        (LlamaConfig(max_position_embeddings=2_048), 2_048),
        (MistralConfig(max_position_embeddings=2_048, sliding_window=128), 2_048),
        (LlamaConfig(max_position_embeddings=2_048, rope_parameters=rope("linear", factor=4.0)), 8_192),
        (
            LlamaConfig(
                max_position_embeddings=2_048,
                rope_parameters=rope("yarn", factor=4.0, original_max_position_embeddings=1_024),
            ),
            4_096,
        ),
    ],
)
def test_what_a_config_says_of_how_much_its_model_reads(config, reads):
    assert longest_text(config) == reads
