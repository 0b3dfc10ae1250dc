"""Teach a model to follow instructions with low-rank adapters, and merge them into it."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from leanpipe.core import device
from leanpipe.core.device import Kind
from leanpipe.core.errors import UserError
from leanpipe.core.estimate import (
    Estimate,
    Expected,
    ExpectedInputs,
    Repeated,
    bytes_of_weight,
    process_bytes,
    read_arithmetic,
)
from leanpipe.core.lineage import VALIDATED_ON
from leanpipe.core.report import Report
from leanpipe.core.stage import NOT_COMPARED, Summary, all_marks, stage
from leanpipe.models.card import licensed_input
from leanpipe.models.load import (
    load_for_inference,
    load_model,
    load_tokenizer,
    save_model,
    vocabulary_size,
)
from leanpipe.models.zeros import pass_on_mark, pruned_input
from leanpipe.training.finetune.conversations import Examples, split_examples
from leanpipe.training.trainer.config import TrainingConfig, check_training

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from leanpipe.training.finetune.forgetting import GeneralText
    from leanpipe.training.losses.objectives import Objective
    from leanpipe.training.trainer.data import TrainingData


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
    adapter: Literal["lora", "dora", "rslora"] = "lora"
    """lora adds a product of two thin matrices; dora learns the size of each output apart from its direction, slower and often better; rslora divides by the root of the rank, for high ranks."""
    base: Literal["full", "nf4"] = "full"
    """The weights that stay as they are: full keeps them in the fastest arithmetic, nf4 in 4 bits (QLoRA), a quarter of the memory. The adapters are merged into full precision either way."""
    rank: int = Field(16, ge=1, le=1_024)
    """Rank of the adapters: how much they can learn, and how large they are."""
    alpha: float = Field(32, gt=0, le=4_096)
    """The adapters' output is multiplied by alpha / rank; of rslora, by alpha / the root of rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of the adapters' inputs that is left out at random while training."""
    target_modules: tuple[str, ...] = Field(("all-linear",), min_length=1, max_length=100)
    """Names of the layers that get an adapter, such as q_proj; all-linear is every linear layer but the output."""
    max_length: int = Field(256, ge=8, le=131_072)
    """Conversations are cut after so many tokens, and packed into blocks of that length."""
    kl_weight: float = Field(0.0, ge=0, le=1)
    """What the teacher predicts of each token of the answers counts so much, the answers themselves the rest. A model without a teacher of its own vocabulary, as in the flow finetune, learns from the answers alone whatever this says."""
    written_share: float = Field(0.0, ge=0, le=1)
    """Share of the tokens that are conversations which the teacher answered (see `write`); the others have the given answers. Not without a teacher, either."""
    thoughts: bool = True
    """Learn what the assistant thinks before it answers, too (<think>…</think>); if not, thoughts are read only."""
    validation_share: float = Field(0.05, gt=0, lt=1)
    """Share of the conversations that is held out to measure the loss on; at least one."""
    general_tokens: int = Field(4_096, ge=0, le=10**9)
    """How many tokens of the corpus's held-out text are read before and after, to see what was forgotten; 0 reads none. Without a corpus nothing is measured."""

    def alone(self) -> Self:
        """Return the settings for a model that has no teacher of its own vocabulary."""
        return self.model_copy(update={"kl_weight": 0.0, "written_share": 0.0})

    @model_validator(mode="after")
    def _can_be_divided(self) -> Self:
        if self.sharding == "full" and self.base == "nf4":
            raise ValueError("sharding=full cannot divide weights of 4 bits: set base to full")
        return self


@dataclass(frozen=True)
class FinetuneInputs:
    """The model folder, a .json or .jsonl file of instructions or a folder of them, an output folder of stage `clean`, and the
    model folder of a teacher."""

    model: Path
    instructions: Path
    documents: Path | None = None
    teacher: Path | None = None
    """For `kl_weight` above 0."""
    written: Path | None = None
    """What stage `write` made of the instructions, for `written_share` above 0."""


def check_finetune(config: FinetuneConfig, inputs: ExpectedInputs) -> None:
    """Raise UserError for what this device, this model or these instructions cannot do. Loads no weights."""
    from leanpipe.models.count import check_context, expected_config, tokenizer_folder
    from leanpipe.training.finetune.instructions import read_instructions
    from leanpipe.training.finetune.lora import check_targets
    from leanpipe.training.finetune.masked_lora import check_masked
    from leanpipe.training.finetune.template import check_template

    check_training(config)
    model = inputs["model"]
    for reader in ("model", "teacher"):
        if reader in inputs:
            check_context(inputs[reader], config.max_length, "finetune.max_length")
    check_targets(expected_config(model), config.target_modules, model.path or "the student")
    if model.path:
        check_masked(model.path, config.adapter, config.base)
    instructions = inputs["instructions"].path if "instructions" in inputs else None
    if folder := tokenizer_folder(model):
        tokenizer = load_tokenizer(folder)
        check_template(tokenizer)
        if instructions:
            _check_learnable(config, instructions, tokenizer)
    elif instructions:
        read_instructions(instructions)


def estimate_finetune(config: FinetuneConfig, inputs: ExpectedInputs, kind: Kind) -> Estimate:
    """What `finetune` takes. Afterwards the adapters are merged into a second copy of the model, in float32."""
    from leanpipe.models.count import expected_config, tokenizer_folder
    from leanpipe.training.trainer.memory import (
        lora_parameters,
        repeated_training,
        size_of,
        training_estimate,
        training_memory,
    )

    model = expected_config(inputs["model"])
    size = size_of(model)
    trained = lora_parameters(model, config.rank, config.target_modules)
    teacher = size_of(expected_config(inputs["teacher"])).parameters if "teacher" in inputs else 0
    memory = training_memory(
        size,
        config,
        config.max_length,
        kind=kind,
        process=process_bytes(kind),
        trained=trained,
        teacher=bytes_of_weight() * teacher,
        kl=teacher > 0,
    )
    short = 4 if config.arithmetic == "fp32" else 2
    # On a processor the memory of the training is kept by the process.
    merged = 4 * size.parameters
    merging = merged + (memory.peak if kind == "cpu" else short * size.parameters)
    memory = replace(memory, peak=max(memory.peak, merging), parts=memory.parts | {"merging": merged})
    work = 4 * size.parameters + 2 * trained + 2 * teacher
    result = {"model": model, "tokenizer": tokenizer_folder(inputs["model"])}
    steps, validations = repeated_training(config, model, config.max_length, "adapt")
    general = replace(validations, tokens=2 * config.general_tokens if "documents" in inputs else 0)
    repeated: tuple[Repeated, ...] = (steps, validations, general)
    if teacher:
        asked = expected_config(inputs["teacher"])
        repeated += (Repeated("read", asked, config.tokens, config.max_length, 1, read_arithmetic()),)
    return training_estimate(
        config, size, memory, kind, trained=trained, work=work, result=result, repeated=repeated
    )


@stage(
    version=4,
    uses_device=True,
    check=check_finetune,
    estimate=estimate_finetune,
    marks=all_marks(pruned_input("model"), licensed_input("model", "teacher", known="model")),
    reads={"documents": VALIDATED_ON},
    groups=dict.fromkeys(
        ("conversations", "examples", "tokens", "assistant_tokens", "peak_memory"), NOT_COMPARED
    ),
)
def finetune(config: FinetuneConfig, inputs: FinetuneInputs, out: Path, report: Report) -> Summary:
    """Train adapters, and write to `out` the model with them merged in, to `out/adapter` the adapters alone."""
    from leanpipe.training.finetune.lora import merge, save_adapter
    from leanpipe.training.trainer.trainer import train

    check_finetune(config, _expected(inputs))
    tokenizer = load_tokenizer(inputs.model)
    examples = split_examples(config, inputs.instructions, tokenizer, inputs.written)
    _write_mask(examples, tokenizer, out)
    text = _training_data(config, examples, tokenizer)
    general = _general(config, inputs.documents, tokenizer)
    model = _with_adapters(config, inputs.model)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    objective = _objective(config, inputs, tokenizer)
    outcome = train(model, objective, text, config, out, report)
    save_adapter(model, out / "adapter")
    del model, objective
    # Of the models as they are read, before and after: those that were trained may have a base of 4 bits.
    before = _measure(config, inputs.model, text, general)
    if before.general is not None:
        report.metrics({"general_bits_per_byte_before": before.general})
    sources = [inputs.model, *([inputs.teacher] if inputs.teacher and config.kl_weight else [])]
    save_model(merge(inputs.model, out / "adapter"), tokenizer, out, made_of=sources)
    pass_on_mark(inputs.model, out)
    after = _measure(config, out, text, general)
    forgotten = _forgotten(before.general, after.general, report)
    return {
        "initial_validation_loss": before.loss,
        "validation_loss": after.loss,
        "trainable_parameters": trained,
        "conversations": examples.conversations,
        "examples": len(examples.train) + len(examples.validation),
        "skipped": examples.skipped,
        "skipped_because": examples.reasons,
        "cut_answers": examples.cut,
        "tokens": outcome.tokens,
        "assistant_tokens": sum(example.learned for example in examples.train),
        "tokens_per_second": outcome.tokens_per_second,
        "mfu": outcome.mfu,
        "final_loss": outcome.loss,
        "peak_memory": device.peak_memory(),
        "shapes": examples.shapes,
        **forgotten,
    }


def _expected(inputs: FinetuneInputs) -> dict[str, Expected]:
    """What the check is told when the inputs are there."""
    expected = {"model": Expected(inputs.model)}
    return expected | ({"teacher": Expected(inputs.teacher)} if inputs.teacher else {})


def _objective(
    config: FinetuneConfig, inputs: FinetuneInputs, tokenizer: "PreTrainedTokenizerBase"
) -> "Objective":
    """The answers alone, or mixed with what the teacher predicts of them, who is asked at every step.

    An answer is one of many that would do: the teacher's distribution says which others, the text does not.
    """
    from leanpipe.training.losses.objectives import CrossEntropy

    if config.kl_weight == 0 or inputs.teacher is None:
        return CrossEntropy()
    from leanpipe.training.distill.distillation_objectives import Distillation
    from leanpipe.training.distill.teacher_cache import differing_tokens
    from leanpipe.training.losses.divergences import DistillationLoss

    if wrong := differing_tokens(load_tokenizer(inputs.teacher), tokenizer):
        raise UserError(
            f"the teacher {inputs.teacher} has another vocabulary than the model: {len(wrong)} tokens differ, {wrong[0]!r} is "
            "one, so it cannot say what it thinks of the answers: set finetune.kl_weight to 0"
        )
    alone = {"model": Expected(inputs.model)}
    aside = estimate_finetune(config, alone, device.name()).peak
    loss = DistillationLoss(kl_weight=config.kl_weight)
    return Distillation(load_for_inference(inputs.teacher, spare=aside), loss, vocabulary_size(tokenizer))


def _check_learnable(config: FinetuneConfig, path: Path, tokenizer: "PreTrainedTokenizerBase") -> None:
    """Raise UserError if nothing could be learnt from the instructions. Of many, some are enough to say that it could."""
    from leanpipe.training.finetune.chat import encode_all
    from leanpipe.training.finetune.instructions import read_instructions

    read = read_instructions(path).conversations
    some = read[:: len(read) // _CHECKED + 1]
    if len(encode_all(some, tokenizer, config.max_length, config.thoughts).conversations) < 2:
        split_examples(config, path, tokenizer)


_CHECKED = 500


def _training_data(
    config: FinetuneConfig, examples: Examples, tokenizer: "PreTrainedTokenizerBase"
) -> "TrainingData":
    from leanpipe.training.finetune.packing import pack
    from leanpipe.training.trainer.data import TrainingData, evenly_spaced_blocks

    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    train, validation = (
        pack(some, config.max_length, padding) for some in (examples.train, examples.validation)
    )
    return TrainingData(train, evenly_spaced_blocks(validation, config.validation_tokens))


def _with_adapters(config: FinetuneConfig, path: Path) -> "PreTrainedModel":
    """The model, frozen, in the fastest arithmetic, with trainable adapters in float32."""
    import torch
    from peft import get_peft_model

    from leanpipe.training.finetune.lora import load_nf4, lora_config
    from leanpipe.training.finetune.masked_lora import mask_adapters

    torch.manual_seed(config.seed)
    dtype = device.dtype_of(config.arithmetic)
    adapters = lora_config(config.rank, config.alpha, config.dropout, config.target_modules, config.adapter)
    base = load_nf4(path, dtype) if config.base == "nf4" else load_model(path, dtype)
    adapted = get_peft_model(base, adapters)
    mask_adapters(adapted, path)
    return adapted


class _Measured(NamedTuple):
    """How good a model is that lies in a folder."""

    loss: float
    general: float | None
    """Bits per byte of general text."""


def _measure(
    config: FinetuneConfig, folder: Path, text: "TrainingData", general: "GeneralText | None"
) -> _Measured:
    from leanpipe.training.trainer.outcome import load_saved, mean_nats

    model = load_saved(folder, config.arithmetic)
    loss = mean_nats(model, text.validation, config.arithmetic)
    return _Measured(loss, general.bits_per_byte(model, config.arithmetic) if general else None)


def _general(
    config: FinetuneConfig, documents: Path | None, tokenizer: "PreTrainedTokenizerBase"
) -> "GeneralText | None":
    from leanpipe.training.finetune.forgetting import general_text

    if documents is None or not config.general_tokens:
        return None
    return general_text(documents, tokenizer, config.general_tokens, config.max_length)


def _forgotten(before: float | None, after: float | None, report: Report) -> Summary:
    """Bits per byte of general text before and after, and the difference: what the instructions cost."""
    if before is None or after is None:
        return {}
    figures = {"general_bits_per_byte": after, "forgotten_bits_per_byte": after - before}
    report.metrics(figures)
    return {"general_bits_per_byte_before": before, **figures}


def _write_mask(examples: Examples, tokenizer: "PreTrainedTokenizerBase", out: Path) -> None:
    from leanpipe.training.finetune.chat import describe_mask

    path = out / "report" / "mask.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    read = (
        f"The instructions were read as {examples.shapes}. Records that were skipped: {examples.reasons}. "
        f"Of {examples.cut:,} conversations `max_length` cut off something that the assistant said.\n\n"
    )
    path.write_text(read + describe_mask(examples.train[0], tokenizer))
