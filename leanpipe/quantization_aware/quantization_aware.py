"""Stage `quantization_aware`: train a model on the grid of Q4_0, so that storing it there costs it less.

Quantisation-aware distillation: of conversations the model learns what it predicts itself, whole; of text what its first
teacher predicts, where that was asked before, else what it predicts itself, too. The idea is that of the Gemma Team 2025, "Gemma 3 Technical
Report", section 2.3, https://arxiv.org/abs/2503.19786.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, model_validator

from leanpipe.compression.gguf_types import GgufType
from leanpipe.core import device
from leanpipe.core.device import Kind
from leanpipe.core.estimate import (
    Estimate,
    Expected,
    ExpectedInputs,
    Repeated,
    bytes_of_weight,
    process_bytes,
    read_arithmetic,
)
from leanpipe.core.report import Report
from leanpipe.core.stage import NOT_COMPARED, Summary, stage
from leanpipe.models.load import load_for_inference, load_model, load_tokenizer, save_model, vocabulary_size
from leanpipe.models.zeros import check_zeros_stay, hold_zeros, pass_on_mark, pruned_input
from leanpipe.training.trainer.config import TrainingConfig, check_training

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from leanpipe.compression.gguf_export import Importance
    from leanpipe.training.losses.objectives import Objective
    from leanpipe.training.trainer.data import BlockDataset, TrainingData


class QuantizationAwareSettings(TrainingConfig):
    """How long a model that is to be stored in 4 bits learns on their grid, and from what."""

    tokens: int = Field(10_240, ge=0, le=10**12)
    """Length of the training in tokens, before q4_0 is made; 0 leaves this stage out. Of other formats nothing is trained."""
    learning_rate: float = Field(2e-4, gt=0, le=1)
    """The highest learning rate, reached after warming up. Much lower, no weight reaches another number of its 4 bits."""
    batch: int = Field(1, ge=1, le=65_536)
    """Blocks per step of the optimiser. All weights are rounded once for each micro-batch."""
    validations: int = Field(2, ge=2, le=1_000)
    """How many times the loss on held-out text is measured, the start and the end included."""
    validation_tokens: int = Field(2_048, ge=1, le=10**9)
    """How many tokens of held-out text, and of held-out conversations, are measured (fewer if there are no more)."""
    conversations: float = Field(0.5, ge=0, le=1)
    """Share of the training that is conversations; the rest is text. So neither is forgotten."""
    kl_weight: float = Field(0.9, ge=0, le=1)
    """1 learns what teachers predict, 0 the text and the answers alone (then none is run). Of conversations the teacher is
    the model itself, unrounded; of text the first teacher, if its predictions were kept (distill.teacher_logprobs)."""

    calibration_tokens: int = Field(2_048, ge=0, le=10**9)
    """How many of the tokens to learn are read first, half of them conversations, to see which weights matter most; the grid of
    each block is chosen by that. With 0 all count the same."""

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.sharding == "full":
            raise ValueError("sharding=full cannot round weights that are in shards: set sharding to none")
        return self


class QuantizationAwareConfig(QuantizationAwareSettings):
    """How a model learns on its grid, with what other stages are told: how the model will be stored, and which conversations were held out."""

    embeddings: GgufType = "q8_0"
    """What embeddings and output layer will be stored as. They are not trained."""
    keep: tuple[str, ...] = ()
    """Modules that will stay in full precision, by name or by the end or start of it."""
    thoughts: bool = True
    """Learn what the assistant thinks, too."""
    validation_share: float = Field(0.05, gt=0, lt=1)
    """Share of the conversations that was held out when they were learnt."""
    validation_seed: int = Field(0, ge=0, le=2**32 - 1)
    """The seed that decided which."""


@dataclass(frozen=True)
class QuantizationAwareInputs:
    """The model folder, the output folder of the tokenize stage, and a .json or .jsonl file or folder of conversations."""

    model: Path
    blocks: Path
    instructions: Path
    teacher_logprobs: Path | None = None
    """The output folder of the cache_teacher stage, if the teacher was asked before."""


def check_quantization_aware(config: QuantizationAwareConfig, inputs: ExpectedInputs) -> None:
    """Raise UserError for settings that this device or this model cannot do. Reads the model's config only."""
    from leanpipe.models.count import check_context

    check_training(config)
    if "blocks" in inputs:
        check_context(inputs["model"], inputs["blocks"].facts["block_length"], "tokenize.block_length")


def estimate_quantization_aware(
    config: QuantizationAwareConfig, inputs: ExpectedInputs, kind: Kind
) -> Estimate:
    """What `quantization_aware` takes: a training of all but the embeddings, beside the model itself as teacher."""
    from leanpipe.models.count import expected_config, tokenizer_folder
    from leanpipe.training.trainer.memory import (
        repeated_training,
        size_of,
        training_estimate,
        training_memory,
    )

    model, block = expected_config(inputs["model"]), inputs["blocks"].facts["block_length"]
    size = size_of(model)
    asks, trained = config.kl_weight > 0, size.parameters - size.head
    memory = training_memory(
        size,
        config,
        block,
        kind=kind,
        process=process_bytes(kind),
        trained=trained,
        teacher=bytes_of_weight() * size.parameters if asks else 0,
        kl=asks,
    )
    steps, validations = repeated_training(config, model, block)
    read = (config.tokens if asks else 0) + 6 * config.validation_tokens
    asked = Repeated("read", model, read, block, arithmetic=read_arithmetic())
    return training_estimate(
        config,
        size,
        memory,
        kind,
        trained=trained,
        work=4 * size.parameters + 2 * trained + (2 * size.parameters if asks else 0),
        result={"model": model, "tokenizer": tokenizer_folder(inputs["model"])},
        repeated=(steps, validations, asked),
    )


@stage(
    version=2,
    uses_device=True,
    check=check_quantization_aware,
    estimate=estimate_quantization_aware,
    marks=pruned_input("model"),
    groups=dict.fromkeys(("tokens", "rounded_layers", "peak_memory"), NOT_COMPARED),
)
def quantization_aware(
    config: QuantizationAwareConfig, inputs: QuantizationAwareInputs, out: Path, report: Report
) -> Summary:
    """Train the model by rounded weights, and write it to `out` with every weight on the grid that it will be stored on."""
    import torch

    from leanpipe.quantization_aware.fake_quantize import round_layers, rounded_layers
    from leanpipe.quantization_aware.grid import choose_grid, freeze_embeddings
    from leanpipe.tokens.blocks import expected_blocks
    from leanpipe.training.trainer.trainer import train

    check_quantization_aware(
        config, {"model": Expected(inputs.model), "blocks": expected_blocks(inputs.blocks)}
    )
    check_zeros_stay(inputs.model, "quantization_aware", config.optimizer, config.sharding)
    tokenizer = load_tokenizer(inputs.model)
    text, answers = _training_data(config, inputs, tokenizer)
    before = _measure(inputs.model, text, answers, config)
    report.metrics({"unrounded_bits_per_byte": before.bits_per_byte, "unrounded_answer_loss": before.answers})
    torch.manual_seed(config.seed)
    model = load_model(inputs.model, torch.float32)
    hold_zeros(model, inputs.model)
    grid = choose_grid(model, config.keep)
    grid = choose_grid(model, config.keep, _importance(model, text.train, config))
    embeddings = freeze_embeddings(model, config.embeddings)
    objective = _objective(config, inputs, vocabulary_size(tokenizer))
    with rounded_layers(model, grid):
        outcome = train(model, objective, text, config, out, report)
    del objective
    round_layers(model, grid)
    embeddings.restore()
    save_model(model, tokenizer, out, made_of=[inputs.model])
    pass_on_mark(inputs.model, out)
    del model
    after = _measure(out, text, answers, config)
    return {
        "initial_bits_per_byte": text.bits_per_byte(outcome.initial_validation),
        "bits_per_byte": after.bits_per_byte,
        "unrounded_bits_per_byte": before.bits_per_byte,
        "answer_loss": after.answers,
        "unrounded_answer_loss": before.answers,
        "rounded_layers": len(grid),
        "tokens": outcome.tokens,
        "tokens_per_second": outcome.tokens_per_second,
        "final_loss": outcome.loss,
        "peak_memory": device.peak_memory(),
    }


def _importance(
    model: "PreTrainedModel", learnt: "BlockDataset", config: QuantizationAwareConfig
) -> "Importance | None":
    """How much the errors of each layer's weights count, on some of what will be learnt."""
    from leanpipe.compression.calibration import measure_importance_matrix
    from leanpipe.training.trainer.data import evenly_spaced_blocks

    if not config.calibration_tokens:
        return None
    blocks = evenly_spaced_blocks(learnt, config.calibration_tokens)
    return measure_importance_matrix(model, [block["input_ids"][None].to(model.device) for block in blocks])


@dataclass(frozen=True)
class _Measured:
    """How good a model is on held-out text, and on the answers of held-out conversations in nats per token."""

    bits_per_byte: float
    answers: float


def _measure(
    folder: Path, text: "TrainingData", answers: "Sequence", config: QuantizationAwareConfig
) -> _Measured:
    from leanpipe.training.trainer.kernels import use_inference_kernels
    from leanpipe.training.trainer.outcome import load_saved, mean_nats

    model = load_saved(folder, config.arithmetic)
    use_inference_kernels(model)
    nats, of_answers = (mean_nats(model, blocks, config.arithmetic) for blocks in (text.validation, answers))
    return _Measured(text.bits_per_byte(nats), of_answers)


def _objective(
    config: QuantizationAwareConfig, inputs: QuantizationAwareInputs, vocabulary: int
) -> "Objective":
    from leanpipe.quantization_aware.teachers import ByKind
    from leanpipe.training.distill.distillation_objectives import CachedDistillation, Distillation
    from leanpipe.training.distill.teacher_logprobs import TeacherLogprobs
    from leanpipe.training.losses.divergences import DistillationLoss
    from leanpipe.training.losses.objectives import CrossEntropy

    if config.kl_weight == 0:
        return CrossEntropy()
    loss = DistillationLoss(kl_weight=config.kl_weight)
    itself = Distillation(load_for_inference(inputs.model), loss, vocabulary)
    if inputs.teacher_logprobs is None:
        return itself
    return ByKind(CachedDistillation(TeacherLogprobs(inputs.teacher_logprobs).format, loss), itself)


def _training_data(
    config: QuantizationAwareConfig, inputs: QuantizationAwareInputs, tokenizer: "PreTrainedTokenizerBase"
) -> "tuple[TrainingData, Sequence]":
    """Text and conversations to learn, with held-out text; and held-out conversations."""
    from torch.utils.data import ConcatDataset

    from leanpipe.tokens.blocks import Blocks
    from leanpipe.training.finetune.conversations import split_examples
    from leanpipe.training.finetune.finetune import FinetuneConfig
    from leanpipe.training.finetune.packing import pack
    from leanpipe.training.trainer.data import TrainingData, evenly_spaced_blocks, scored_bytes

    train, validation = Blocks(inputs.blocks, "train"), Blocks(inputs.blocks, "validation")
    asked = FinetuneConfig(
        max_length=train.block_length,
        thoughts=config.thoughts,
        validation_share=config.validation_share,
        seed=config.validation_seed,
    )
    examples = split_examples(asked, inputs.instructions, tokenizer)
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    learnt, held_out = (
        pack(some, train.block_length, padding) for some in (examples.train, examples.validation)
    )
    text = evenly_spaced_blocks(validation, config.validation_tokens)
    return (
        TrainingData(
            ConcatDataset(_learnt(config, inputs, train, learnt)), text, scored_bytes(text, tokenizer)
        ),
        evenly_spaced_blocks(held_out, config.validation_tokens),
    )


def _learnt(
    config: QuantizationAwareConfig,
    inputs: QuantizationAwareInputs,
    text: "BlockDataset",
    spoken: "BlockDataset",
) -> "list[Any]":
    """What is learnt of the blocks of text and of conversations, by their shares, with what the teacher said of the text."""
    from leanpipe.quantization_aware.teachers import ToldOrNot
    from leanpipe.training.distill.teacher_logprobs import TeacherLogprobs, WithTeacherLogprobs
    from leanpipe.training.trainer.data import Subset

    answers = round(config.conversations * config.tokens)
    read = config.tokens - answers
    parts: list[Any] = [Subset(spoken, answers)] if answers else []
    if inputs.teacher_logprobs is None or config.kl_weight == 0:
        return [*parts, Subset(text, read)] if read else parts
    kept = TeacherLogprobs(inputs.teacher_logprobs)
    size = kept.format.record_bytes
    parts = [ToldOrNot(part, size, told=False) for part in parts]
    if read:
        # Of more text than the teacher was asked of, what it was asked of is read again.
        asked = Subset(text, min(read, len(kept) * len(text[0]["input_ids"])))
        parts.append(ToldOrNot(WithTeacherLogprobs(asked, kept), size, told=True))
    return parts
