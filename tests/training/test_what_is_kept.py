"""What a training stage reports is what the model does that it saved, whatever was trained and however it was saved."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from leanpipe.models.load import load_model, load_tokenizer
from leanpipe.tokens.blocks import Blocks
from leanpipe.training.finetune import finetune as finetuning
from leanpipe.training.finetune.finetune import FinetuneConfig, FinetuneInputs, finetune
from leanpipe.training.finetune.forgetting import general_text
from leanpipe.training.losses.chunked_loss import IGNORED
from leanpipe.training.on_policy.on_policy import read_turns
from leanpipe.training.trainer.data import evenly_spaced_blocks, scored_bytes
from tests.support.tiny_models import tiny_model, tiny_text, tiny_tokenizer
from tests.training.blocks import Recorder
from tests.training.distill.test_distill import run as run_distill
from tests.training.finetune.test_finetune import write_instructions
from tests.training.finetune.test_forgetting import hold_out
from tests.training.on_policy.test_on_policy import run as run_on_policy
from tests.training.on_policy.test_on_policy import settings as on_policy_settings
from tests.training.pretrain.test_pretrain import run as run_pretrain

pytestmark = pytest.mark.usefixtures("one_thread")
EXACT = 1e-6  # float32 itself; saving in bfloat16 changes more


def saved_nats(folder: Path, blocks: Any) -> tuple[float, int]:
    """Nats of all scored tokens under the model in `folder`, read document by document, and their number."""
    model, nats, scored = load_model(folder, torch.float32), 0.0, 0
    for block in blocks:
        tokens, labels = torch.as_tensor(block["input_ids"]), torch.as_tensor(block["labels"])
        starts = torch.as_tensor(block["position_ids"]).eq(0).nonzero()[:, 0].tolist()
        for first, last in zip(starts, [*starts[1:], len(tokens)], strict=True):
            with torch.no_grad():
                logits = model(input_ids=tokens[None, first:last]).logits[0, :-1]
            wanted = labels[first + 1 : last]
            nats += float(F.cross_entropy(logits, wanted, ignore_index=IGNORED, reduction="sum"))
            scored += int((wanted != IGNORED).sum())
    return nats, scored


def validation_of(folder: Path) -> list[Any]:
    return evenly_spaced_blocks(Blocks(folder, "validation"), 128)


def test_a_student_is_measured_as_it_was_saved(tmp_path):
    teacher = tiny_model(tmp_path / "teacher", layers=4)
    summary, out = run_distill(tmp_path, teacher, precision="fp32", teacher_logprobs="online")
    blocks = validation_of(tmp_path / "blocks")
    nats, _ = saved_nats(out, blocks)
    size = scored_bytes(blocks, tiny_tokenizer())
    assert summary["bits_per_byte"] == pytest.approx(nats / math.log(2) / size, rel=EXACT)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_new_model_is_measured_as_it_was_saved(tmp_path, architecture):
    summary, out = run_pretrain(tmp_path, architecture=architecture)
    nats, scored = saved_nats(out, validation_of(tmp_path / "blocks"))
    assert summary["validation_loss"] == pytest.approx(nats / scored, rel=EXACT)


@pytest.mark.parametrize("base", ["full", "nf4"])
def test_an_adapted_model_is_measured_merged_and_what_it_was_before_too(tmp_path, base):
    """The adapters of nf4 learn on weights of 4 bits, and are merged into those of the model."""
    model, out = tiny_model(tmp_path / "model"), tmp_path / "out"
    out.mkdir()
    told = write_instructions(tmp_path / "colours.jsonl")
    documents = hold_out(tmp_path / "documents", [text[:300] for text in tiny_text()[:5]])
    config = FinetuneConfig(
        tokens=20 * 2 * 64,
        batch=2,
        max_length=64,
        learning_rate=1e-2,
        rank=4,
        alpha=8,
        base=base,
        precision="fp32",
        general_tokens=256,
    )
    summary = finetune.function(config, FinetuneInputs(model, told, documents), out, Recorder())
    tokenizer = load_tokenizer(model)
    held_out = finetuning._training_data(
        config, finetuning.split_examples(config, told, tokenizer), tokenizer
    )
    general = general_text(documents, tokenizer, 256, 64)
    for folder, loss, bits in (
        (model, "initial_validation_loss", "general_bits_per_byte_before"),
        (out, "validation_loss", "general_bits_per_byte"),
    ):
        nats, scored = saved_nats(folder, held_out.validation)
        assert summary[loss] == pytest.approx(nats / scored, rel=EXACT)
        nats, _ = saved_nats(folder, general.blocks)
        assert summary[bits] == pytest.approx(nats / math.log(2) / general.bytes, rel=EXACT)


def test_a_student_that_answered_is_measured_as_it_was_saved(tmp_path):
    pytest.importorskip("trl")
    teacher, student = tiny_model(tmp_path / "teacher", seed=1), tiny_model(tmp_path / "student", layers=1)
    summary, out = run_on_policy(tmp_path, teacher, student, steps=4)
    turns = read_turns(on_policy_settings(), tmp_path / "colours.jsonl", tiny_tokenizer())
    blocks = [
        {
            "input_ids": torch.tensor(turn.prompt + turn.answer),
            "position_ids": torch.arange(len(turn.prompt + turn.answer)),
            "labels": torch.tensor([IGNORED] * len(turn.prompt) + turn.answer),
        }
        for turn in turns.held_out
    ]
    nats, scored = saved_nats(out, blocks)
    assert summary["validation_loss"] == pytest.approx(nats / scored, rel=EXACT)
