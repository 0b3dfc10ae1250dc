"""Train a decoder from scratch on text, its sizes set by one dial."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pydantic import Field, model_validator

from leanpipe.core import device
from leanpipe.core.device import Kind
from leanpipe.core.errors import UserError
from leanpipe.core.estimate import Estimate, ExpectedInputs, process_bytes
from leanpipe.core.report import Report
from leanpipe.core.stage import NOT_COMPARED, Summary, stage
from leanpipe.models.attention.attention_patterns import AttentionConfig
from leanpipe.models.build import Architecture
from leanpipe.models.load import load_tokenizer, save_model
from leanpipe.training.trainer.config import TrainingConfig, check_training

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from leanpipe.training.trainer.data import TrainingData


class PretrainConfig(TrainingConfig):
    """How deep the model is, from which everything else follows that is left at 0."""

    depth: int = Field(2, ge=1, le=128)
    """Layers of the decoder. Width, heads, learning rate, batch and tokens follow from it: 12 is the size of GPT-2."""
    architecture: Architecture = "llama"
    """llama (RMSNorm, SwiGLU, rotary positions) or gpt2, as transformers' own classes."""
    width: int = Field(0, ge=0, le=65_536)
    """Size of the hidden states; 0 is 64 for each layer."""
    heads: int = Field(0, ge=0, le=1_024)
    """Attention heads of a layer; 0 is one for each 64 of the width."""
    kv_heads: int = Field(0, ge=0, le=1_024)
    """Heads of keys and values, each shared by several heads (llama only); 0 is as many as heads."""
    mlp_width: int = Field(0, ge=0, le=1_048_576)
    """Inner size of the feed-forward layers; 0 is 8/3 of the width for llama, 4 times for gpt2."""
    tied_embeddings: bool = True
    """Use one matrix as input embedding and output layer: right for small models, which it halves."""
    attention: AttentionConfig = AttentionConfig()
    """Which earlier tokens a token attends to."""
    tokens_per_parameter: float = Field(20, gt=0, le=10_000)
    """How long the training is where `tokens` is 0; 20 is the best use of the time that training takes (Chinchilla)."""
    tokens: int = Field(0, ge=0, le=10**12)
    """Length of the training in tokens; 0 is `tokens_per_parameter` for each parameter. Text that is shorter is read
    again, in another order each time."""
    learning_rate: float = Field(0, ge=0, le=1)
    """The highest learning rate, reached after warming up; 0 follows from width and batch."""
    batch: int = Field(0, ge=0, le=65_536)
    """Blocks per step of the optimiser; 0 follows from the tokens."""
    weight_decay: float = Field(0.1, ge=0, le=1)
    """How strongly weights are drawn to zero; norms and biases are left out."""

    @model_validator(mode="after")
    def _whole_micro_batches(self) -> Self:
        if self.batch:
            self.check_batch()
        return self


@dataclass(frozen=True)
class PretrainInputs:
    """The output folder of the tokenize stage."""

    blocks: Path


def check_pretrain(config: PretrainConfig, inputs: ExpectedInputs | None = None) -> None:
    """Raise UserError for settings that this device, or any decoder, cannot have. Costs nothing."""
    from leanpipe.training.pretrain.depth import shape_of

    check_training(config)
    shape_of(config, block=1)


def estimate_pretrain(config: PretrainConfig, inputs: ExpectedInputs, kind: Kind) -> Estimate:
    """What `pretrain` takes on blocks of this length and vocabulary."""
    from leanpipe.models.build import decoder_config
    from leanpipe.training.pretrain.depth import derive, shape_of
    from leanpipe.training.trainer.memory import (
        repeated_training,
        size_of,
        training_estimate,
        training_memory,
    )

    blocks = inputs["blocks"].facts
    vocabulary, block = blocks["vocabulary"], blocks["block_length"]
    derived = derive(config, vocabulary, block)
    model = decoder_config(config.architecture, shape_of(config, block), config.attention, vocabulary)
    size = size_of(model)
    memory = training_memory(size, derived, block, kind=kind, process=process_bytes(kind))
    return training_estimate(
        derived,
        size,
        memory,
        kind,
        trained=size.parameters,
        work=6 * size.parameters,
        result={"model": model, "tokenizer": blocks.get("tokenizer")},
        repeated=repeated_training(derived, model, block),
    )


@stage(
    version=2,
    uses_device=True,
    check=check_pretrain,
    estimate=estimate_pretrain,
    groups=dict.fromkeys(("tokens", "peak_memory"), NOT_COMPARED),
)
def pretrain(config: PretrainConfig, inputs: PretrainInputs, out: Path, report: Report) -> Summary:
    """Make a decoder with random weights, train it on the blocks, and write it to `out` as a model folder."""
    from leanpipe.models.build import decoder_config, random_decoder
    from leanpipe.models.count import count_parameters
    from leanpipe.training.losses.objectives import CrossEntropy
    from leanpipe.training.pretrain.depth import derive, scaled_parameters, shape_of
    from leanpipe.training.trainer.outcome import saved_loss
    from leanpipe.training.trainer.trainer import train

    check_pretrain(config)
    tokenizer = load_tokenizer(inputs.blocks / "tokenizer")
    text = _training_data(config, inputs.blocks, tokenizer)
    block = len(text.train[0]["input_ids"])
    derived = derive(config, len(tokenizer), block)
    shape = shape_of(derived, block)
    model = random_decoder(
        decoder_config(config.architecture, shape, config.attention, len(tokenizer), tokenizer), config.seed
    )
    parameters = count_parameters(model)
    outcome = train(model, CrossEntropy(), text, derived, out, report)
    save_model(model, tokenizer, out, made_of=())
    del model
    kept = saved_loss(out, text.validation, derived.arithmetic)
    return {
        "initial_bits_per_byte": text.bits_per_byte(outcome.initial_validation),
        "bits_per_byte": text.bits_per_byte(kept),
        "parameters": parameters,
        "tokens": outcome.tokens,
        "scaled_parameters": scaled_parameters(derived, len(tokenizer), block),
        "passes": round(outcome.tokens / (len(text.train) * block), 3),
        "layers": shape.layers,
        "width": shape.width,
        "heads": shape.heads,
        "kv_heads": shape.kv_heads,
        "mlp_width": shape.mlp_width,
        "batch_tokens": derived.batch * block,
        "learning_rate": derived.learning_rate,
        "tokens_per_second": outcome.tokens_per_second,
        "initial_validation_loss": outcome.initial_validation,
        "validation_loss": kept,
        "final_loss": outcome.loss,
        "peak_memory": device.peak_memory(),
    }


def _training_data(
    config: PretrainConfig, folder: Path, tokenizer: "PreTrainedTokenizerBase"
) -> "TrainingData":
    from leanpipe.tokens.blocks import Blocks
    from leanpipe.training.trainer.data import TrainingData, evenly_spaced_blocks, scored_bytes

    train, validation = Blocks(folder, "train"), Blocks(folder, "validation")
    for name, blocks in (("train", train), ("validation", validation)):
        if not len(blocks):
            raise UserError(
                f"{folder} has no {name} block: give more text, or set a shorter block length in tokenize"
            )
    chosen = evenly_spaced_blocks(validation, config.validation_tokens)
    return TrainingData(train, chosen, scored_bytes(chosen, tokenizer))
