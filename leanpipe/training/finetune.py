"""Teach a model to follow instructions with low-rank adapters, and merge them into it."""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from leanpipe import device
from leanpipe.errors import UserError
from leanpipe.models.load import load_model, load_tokenizer, save_model
from leanpipe.report import Report
from leanpipe.stage import Summary, stage
from leanpipe.training.config import TrainingConfig, check_training

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from leanpipe.training.chat import Example
    from leanpipe.training.trainer import Text


class FinetuneConfig(TrainingConfig):
    """The size of the adapters, where they go, and how conversations are read."""

    tokens: int = Field(12_800, ge=1, le=10**12)
    """Length of the training in tokens, those that are only read included. Text that is shorter is read again."""
    learning_rate: float = Field(2e-3, gt=0, le=1)
    """The highest learning rate, reached after warming up."""
    batch: int = Field(1, ge=1, le=65_536)
    """Blocks per step of the optimiser. Short runs learn more from many small steps, long ones from larger batches."""
    validation_tokens: int = Field(4_096, ge=1, le=10**9)
    """How many tokens of held-out conversations the loss is measured on (fewer if there are no more)."""
    rank: int = Field(16, ge=1, le=1_024)
    """Rank of the adapters: how much they can learn, and how large they are."""
    alpha: float = Field(32, gt=0, le=4_096)
    """The adapters' output is multiplied by alpha / rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of the adapters' inputs that is left out at random while training."""
    target_modules: tuple[str, ...] = Field(("all-linear",), min_length=1, max_length=100)
    """Names of the layers that get an adapter, such as q_proj; all-linear is every linear layer but the output."""
    max_length: int = Field(256, ge=8, le=131_072)
    """Conversations are cut after so many tokens, and packed into blocks of that length."""
    validation_share: float = Field(0.05, gt=0, lt=1)
    """Share of the conversations that is held out to measure the loss on; at least one."""


@dataclass(frozen=True)
class FinetuneInputs:
    """A model folder, and a .json or .jsonl file of instructions or a folder of them."""

    model: Path
    instructions: Path


@dataclass(frozen=True)
class _Examples:
    train: "list[Example]"
    validation: "list[Example]"
    skipped: int


@stage(version=1, uses_device=True)
def finetune(config: FinetuneConfig, inputs: FinetuneInputs, out: Path, report: Report) -> Summary:
    """Train adapters, and write to `out` the model with them merged in, to `out/adapter` the adapters alone."""
    from leanpipe.training.lora import merge, save_adapter
    from leanpipe.training.objectives import CrossEntropy
    from leanpipe.training.trainer import train

    check_finetune(config, inputs.model)
    tokenizer = load_tokenizer(inputs.model)
    examples = _examples(config, inputs.instructions, tokenizer)
    _write_mask(examples.train[0], tokenizer, out)
    text = _text(config, examples, tokenizer)
    model = _with_adapters(config, inputs.model)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    outcome = train(model, CrossEntropy(), text, config, out, report)
    save_adapter(model, out / "adapter")
    save_model(merge(inputs.model, out / "adapter"), tokenizer, out)
    return {
        "initial_validation_loss": outcome.initial_validation,
        "validation_loss": outcome.validation,
        "trainable_parameters": trained,
        "examples": len(examples.train) + len(examples.validation),
        "skipped": examples.skipped,
        "tokens": outcome.tokens,
        "assistant_tokens": sum(example.learnt for example in examples.train),
        "tokens_per_second": outcome.tokens_per_second,
        "mfu": outcome.mfu,
        "final_loss": outcome.loss,
        "peak_memory": device.peak_memory(),
    }


def check_finetune(config: FinetuneConfig, model: Path) -> None:
    """Raise UserError for settings that this device or this model cannot do. Reads configs only."""
    from leanpipe.training.chat import check_template
    from leanpipe.training.lora import check_targets

    check_training(config)
    check_targets(model, config.target_modules)
    check_template(load_tokenizer(model))


def _examples(config: FinetuneConfig, path: Path, tokenizer: "PreTrainedTokenizerBase") -> _Examples:
    """Conversations as tokens, some of them held out. Those of which nothing would be learnt are skipped."""
    from leanpipe.training.chat import encode, holds_control_tokens
    from leanpipe.training.instructions import read_instructions

    read = read_instructions(path)
    clean = [messages for messages in read.conversations if not holds_control_tokens(messages, tokenizer)]
    encoded = [encode(messages, tokenizer, config.max_length) for messages in clean]
    usable = [example for example in encoded if example.learnt]
    if len(usable) < 2:
        raise UserError(
            f"{path} has {len(usable)} usable instructions: at least 2 are needed, one to learn, one to check"
        )
    random.Random(config.seed).shuffle(usable)
    held_out = min(len(usable) - 1, max(1, round(config.validation_share * len(usable))))
    skipped = read.skipped + len(read.conversations) - len(usable)
    return _Examples(usable[held_out:], usable[:held_out], skipped)


def _text(config: FinetuneConfig, examples: _Examples, tokenizer: "PreTrainedTokenizerBase") -> "Text":
    from leanpipe.training.data import spread
    from leanpipe.training.packing import pack
    from leanpipe.training.trainer import Text

    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    train, validation = (
        pack(some, config.max_length, padding) for some in (examples.train, examples.validation)
    )
    return Text(train, spread(validation, config.validation_tokens))


def _with_adapters(config: FinetuneConfig, path: Path) -> "PreTrainedModel":
    """The model, frozen, in the fastest arithmetic, with trainable adapters in float32."""
    import torch
    from peft import get_peft_model

    from leanpipe.training.lora import lora_config

    torch.manual_seed(config.seed)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[config.arithmetic]
    adapters = lora_config(config.rank, config.alpha, config.dropout, config.target_modules)
    return get_peft_model(load_model(path, dtype), adapters)


def _write_mask(example: "Example", tokenizer: "PreTrainedTokenizerBase", out: Path) -> None:
    from leanpipe.training.chat import describe_mask

    path = out / "report" / "mask.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(describe_mask(example, tokenizer))
