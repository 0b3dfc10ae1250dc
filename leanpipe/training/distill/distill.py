"""Train a student that is smaller than its teacher to predict what the teacher predicts."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

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
from leanpipe.core.keys import NotInKey
from leanpipe.core.report import Report
from leanpipe.core.stage import NOT_COMPARED, Summary, stage
from leanpipe.models.load import load_for_inference, load_tokenizer, save_model, vocabulary_size
from leanpipe.models.student import evenly_spaced, first_and_last
from leanpipe.training.trainer.config import TrainingConfig, check_training

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from leanpipe.training.losses.objectives import Objective
    from leanpipe.training.trainer.data import BlockDataset, TrainingData


_SAMPLE_TOKENS = 4_096  # on which it is measured what of the teacher is important


class DistillConfig(TrainingConfig):
    """How large the student is, where its weights come from, and what it learns from the teacher."""

    renamed: ClassVar[dict[str, str]] = {
        "initialisation": "initialization",
        "predictions": "teacher_logprobs",
        "jensen_shannon_weight": "beta",
    }

    tokens: int = Field(40_960, ge=1, le=10**12)
    """Length of the training in tokens. Text that is shorter is read again, in another order each time."""
    learning_rate: float = Field(8e-4, gt=0, le=1)
    """The highest learning rate, reached after warming up."""
    batch: int = Field(1, ge=1, le=65_536)
    """Blocks per step of the optimiser. Short runs learn more from many small steps, long ones from larger batches."""
    validation_tokens: int = Field(6_144, ge=1, le=10**9)
    """How many tokens of held-out text the loss is measured on (fewer if there are no more)."""
    size: float = Field(0.6, gt=0, le=1)
    """Size of the student as a share of the teacher's parameters: it has as many layers as give that, at its width."""
    width: float = Field(1.0, gt=0, le=1)
    """Width of the student as a share of the teacher's: of hidden states, neurons and heads. Embeddings are a large part
    of a small model, and only less width makes them smaller."""
    initialization: Literal["teacher_layers", "random"] = "teacher_layers"
    """Begin with some of the teacher's layers, cut to the student's width, or with new weights (which need far more
    tokens)."""
    keep: Literal["importance", "first_and_last", "evenly_spaced"] = "importance"
    """Which of the teacher's layers stay: those that change the most what goes through them, as measured on the text, the
    first and the last ones (two to one), or evenly spaced ones."""
    teacher_logprobs: Literal["online", "cached"] = "cached"
    """Ask the teacher at every step, or once beforehand, for all students on this text, and keep its most likely tokens
    on disk (see `cache`). Cached takes less time from the second student or the second reading on, and less memory."""
    written_share: float = Field(0.0, ge=0, le=0.9)
    """Share of the text that the teacher writes itself, by going on from openings of the corpus (see `write`): what is
    learnt then is what it would say, too (Kim and Rush 2016, "Sequence-Level Knowledge Distillation")."""
    divergence: Literal["forward_kl", "reverse_kl", "jensen_shannon"] = "forward_kl"
    """What is made small: forward_kl covers all that the teacher may say, reverse_kl keeps to what it is likely to say,
    jensen_shannon lies between."""
    beta: float = Field(0.5, ge=0.01, le=0.99)
    """Weight of the teacher in the mixture that jensen_shannon compares both with: near 0 it acts as forward_kl, near 1 as
    reverse_kl."""
    kl_weight: float = Field(0.9, ge=0, le=1)
    """1 learns the teacher's distribution alone, 0 the text alone (then the teacher is not run at all)."""
    temperature: float = Field(1.0, gt=0, le=100)
    """Softens both distributions before they are compared; 1 leaves them as they are."""
    teacher_memory: Annotated[float, NotInKey("where the teacher lies, not what it says")] = Field(
        0, ge=0, le=100_000
    )
    """Memory of the device that the teacher may take, in gigabytes; the rest of it lies in the host's memory and on disk,
    which is slower and changes nothing but rounding. 0 is what the student's training leaves free."""

    hidden_weight: float = Field(0.0, ge=0, le=1_000)
    """How much it counts, beside the predictions, that the student's hidden states point where the teacher's do. The
    teacher is asked at every step then."""

    @model_validator(mode="after")
    def _hidden_states_are_not_cached(self) -> Self:
        if self.hidden_weight > 0 and (self.uses_cache or self.kl_weight == 0):
            raise ValueError(
                "hidden_weight needs a teacher at every step: set teacher_logprobs=online and kl_weight above 0, or hidden_weight=0"
            )
        return self

    @property
    def corpus_tokens(self) -> int:
        """How many of the tokens are the corpus's own."""
        return self.tokens - self.written_tokens

    @property
    def written_tokens(self) -> int:
        """How many of the tokens the teacher writes."""
        return round(self.written_share * self.tokens)

    @property
    def uses_cache(self) -> bool:
        """Whether the student reads what stage `cache_teacher` wrote."""
        return self.teacher_logprobs == "cached" and self.kl_weight > 0


@dataclass(frozen=True)
class DistillInputs:
    """The teacher's model folder, and the output folder of the tokenize stage."""

    teacher: Path
    blocks: Path
    teacher_logprobs: Path | None = None
    """The output folder of the cache_teacher stage, for predictions that are cached."""
    written: Path | None = None
    """Blocks of what the teacher wrote, for `written_share` above 0."""
    written_logprobs: Path | None = None
    """What it predicts of those, for predictions that are cached."""


def check_distill(config: DistillConfig, inputs: ExpectedInputs) -> None:
    """Raise UserError for settings that this device or this teacher cannot do. Reads the teacher's config only.

    The student has its teacher's positions, and so reads as much.
    """
    from leanpipe.models.count import check_context, expected_config, layers_for_size

    check_training(config)
    layers_for_size(expected_config(inputs["teacher"]), config.size, config.width)
    if "blocks" in inputs:
        check_context(inputs["teacher"], inputs["blocks"].facts["block_length"], "tokenize.block_length")


def student_config(config: DistillConfig, teacher: "PretrainedConfig") -> "PretrainedConfig":
    """The config of the student that such a teacher will have."""
    from leanpipe.models.count import layers_for_size, with_layers
    from leanpipe.models.narrow import narrow_config

    count = layers_for_size(teacher, config.size, config.width)
    return with_layers(narrow_config(teacher, config.width), list(range(count)))


def estimate_distill(config: DistillConfig, inputs: ExpectedInputs, kind: Kind) -> Estimate:
    """What `distill` takes. A teacher whose predictions are cached only lends its layers."""
    from leanpipe.models.count import expected_config
    from leanpipe.training.trainer.memory import (
        repeated_training,
        size_of,
        training_estimate,
        training_memory,
    )

    teacher, blocks = expected_config(inputs["teacher"]), inputs["blocks"].facts
    student = student_config(config, teacher)
    student.dtype = "bfloat16"  # as models are saved here
    size, large = size_of(student), size_of(teacher)
    asks = config.kl_weight > 0 and not config.uses_cache
    asked = _SAMPLE_TOKENS + (config.tokens if asks else 0)
    reading = Repeated("read", teacher, asked, blocks["block_length"], 1, read_arithmetic())
    memory = training_memory(
        size,
        config,
        blocks["block_length"],
        kind=kind,
        process=process_bytes(kind),
        teacher=bytes_of_weight() * large.parameters if asks else 0,
        kl=asks,
    )
    return training_estimate(
        config,
        size,
        memory,
        kind,
        trained=size.parameters,
        work=6 * size.parameters + (2 * large.parameters if asks else 0),
        result={"model": student, "tokenizer": blocks.get("tokenizer")},
        repeated=(*repeated_training(config, student, blocks["block_length"]), reading),
    )


@stage(
    version=3,
    uses_device=True,
    check=check_distill,
    estimate=estimate_distill,
    groups=dict.fromkeys(("teacher_parameters", "tokens", "peak_memory"), NOT_COMPARED),
)
def distill(config: DistillConfig, inputs: DistillInputs, out: Path, report: Report) -> Summary:
    """Make the student, train it on the blocks, and write it to `out` as a model folder."""
    from leanpipe.models.count import count_parameters, whole_parameters
    from leanpipe.models.student import change_vocabulary
    from leanpipe.tokens.blocks import expected_blocks
    from leanpipe.training.distill.teacher_cache import check_same_tokens
    from leanpipe.training.trainer.outcome import saved_loss
    from leanpipe.training.trainer.trainer import train

    check_distill(config, {"teacher": Expected(inputs.teacher), "blocks": expected_blocks(inputs.blocks)})
    for blocks in (inputs.blocks, inputs.written):
        if blocks and config.kl_weight > 0:
            check_same_tokens(inputs.teacher, blocks)
    tokenizer = load_tokenizer(inputs.blocks / "tokenizer")
    text = _training_data(config, inputs, tokenizer)
    aside = 0 if config.uses_cache else student_bytes(config, inputs.teacher, len(text.train[0]["input_ids"]))
    teacher = load_for_inference(inputs.teacher, config.teacher_memory, aside)
    teacher_parameters = whole_parameters(teacher.config)
    made = make_student(config, teacher, text.train)
    student = made.model
    if tokenizer.get_vocab() != (old := load_tokenizer(inputs.teacher)).get_vocab():
        change_vocabulary(student, old, tokenizer)
    objective = _objective(config, inputs, teacher, made, vocabulary_size(tokenizer))
    del teacher, made  # whose memory is needed, if the objective does not need them
    device.release_memory()
    outcome = train(student, objective, text, config, out, report)
    save_model(student, tokenizer, out)
    parameters, layers = count_parameters(student), student.config.num_hidden_layers
    del student, objective
    return {
        "initial_bits_per_byte": text.bits_per_byte(outcome.initial_validation),
        "bits_per_byte": text.bits_per_byte(saved_loss(out, text.validation, config.arithmetic)),
        "parameters": parameters,
        "teacher_parameters": teacher_parameters,
        "layers": layers,
        "tokens": outcome.tokens,
        "tokens_per_second": outcome.tokens_per_second,
        "final_loss": outcome.loss,
        "peak_memory": device.peak_memory(),
    }


@dataclass(frozen=True)
class Student:
    """An untrained student, in float32, and what of the teacher it was made of."""

    model: "PreTrainedModel"
    layers: list[int]
    """Indices of the teacher's layers."""
    hidden: "torch.Tensor | None" = None
    """Entries of the teacher's hidden states, in rising order; None for all."""


def student_bytes(config: DistillConfig, teacher: Path, block: int) -> int:
    """Estimate the bytes that training the student on blocks of `block` tokens takes, the teacher left out."""
    from leanpipe.models.count import read_config
    from leanpipe.training.trainer.memory import size_of, training_memory

    size = size_of(student_config(config, read_config(teacher)))
    return training_memory(size, config, block, kind=device.name(), process=0, kl=config.kl_weight > 0).peak


def make_student(config: DistillConfig, teacher: "PreTrainedModel", blocks: "BlockDataset") -> Student:
    """Make the student as `config` wants it; what of the teacher is important is measured on some of the `blocks`."""
    import torch

    from leanpipe.models.count import layers_for_size, with_layers
    from leanpipe.models.importance import layer_influence, measure_importance
    from leanpipe.models.narrow import narrow_config, narrow_model
    from leanpipe.models.student import layer_list_name, most_important, random_student, student_from_teacher
    from leanpipe.training.trainer.data import evenly_spaced_blocks

    torch.manual_seed(config.seed)
    layers, sample = teacher.config.num_hidden_layers, evenly_spaced_blocks(blocks, _SAMPLE_TOKENS)
    count = layers_for_size(teacher.config, config.size, config.width)
    if config.initialization == "random":
        kept = evenly_spaced(layers, count)
        return Student(random_student(with_layers(narrow_config(teacher.config, config.width), kept)), kept)
    name = layer_list_name(teacher)
    if config.keep == "importance":
        kept = most_important(layer_influence(teacher, list(teacher.get_submodule(name)), sample), count)
    else:
        kept = {"first_and_last": first_and_last, "evenly_spaced": evenly_spaced}[config.keep](layers, count)
    if config.width == 1:
        return Student(student_from_teacher(teacher, kept), kept)
    importance = measure_importance(teacher, list(teacher.get_submodule(name)), sample)
    narrow = narrow_model(teacher, name, importance, config.width)
    return Student(student_from_teacher(narrow.model, kept), kept, narrow.hidden)


def _objective(
    config: DistillConfig, inputs: DistillInputs, teacher: "PreTrainedModel", made: Student, vocabulary: int
) -> "Objective":
    from leanpipe.training.distill.distillation_objectives import (
        CachedDistillation,
        Distillation,
        HiddenStateMatching,
        teacher_layers_followed,
    )
    from leanpipe.training.distill.teacher_logprobs import TeacherLogprobs
    from leanpipe.training.losses.divergences import DistillationLoss
    from leanpipe.training.losses.objectives import CrossEntropy

    loss = DistillationLoss(
        divergence=config.divergence,
        beta=config.beta,
        temperature=config.temperature,
        kl_weight=config.kl_weight,
    )
    if config.kl_weight == 0:
        return CrossEntropy()
    if config.uses_cache:
        return CachedDistillation(TeacherLogprobs(_teacher_logprobs(inputs)).format, loss)
    if config.hidden_weight == 0:
        return Distillation(teacher, loss, vocabulary)
    followed = teacher_layers_followed(made.layers, teacher.config.num_hidden_layers)
    return Distillation(
        teacher, loss, vocabulary, HiddenStateMatching(config.hidden_weight, followed, made.hidden)
    )


def _teacher_logprobs(inputs: DistillInputs) -> Path:
    if inputs.teacher_logprobs is None:
        raise UserError(
            "distill.teacher_logprobs is cached, but no predictions were given: run the stage cache_teacher first, or set "
            "distill.teacher_logprobs to online"
        )
    return inputs.teacher_logprobs


def _training_data(
    config: DistillConfig, inputs: DistillInputs, tokenizer: "PreTrainedTokenizerBase"
) -> "TrainingData":
    from leanpipe.tokens.blocks import Blocks
    from leanpipe.training.trainer.data import Joined, TrainingData, evenly_spaced_blocks, scored_bytes

    train, validation = Blocks(inputs.blocks, "train"), Blocks(inputs.blocks, "validation")
    for name, blocks in (("train", train), ("validation", validation)):
        if not len(blocks):
            raise UserError(
                f"{inputs.blocks} has no {name} block: give more text, or set a shorter block length in tokenize"
            )
    held_out = evenly_spaced_blocks(validation, config.validation_tokens)
    logprobs = _teacher_logprobs(inputs) if config.uses_cache else None
    learned = _chosen(train, config.corpus_tokens, logprobs)
    if config.written_share:
        if inputs.written is None:
            raise UserError(
                f"distill.written_share is {config.written_share:g}, but nothing that the teacher wrote was given: run the flow "
                "distill or data-to-deployment, where it writes, or set distill.written_share to 0"
            )
        written = Blocks(inputs.written, "train")
        learned = Joined(learned, _chosen(written, config.written_tokens, inputs.written_logprobs))
    return TrainingData(learned, held_out, scored_bytes(held_out, tokenizer))


def _chosen(blocks: "BlockDataset", tokens: int, logprobs: Path | None) -> "BlockDataset":
    """The blocks that are learnt from, each with what the teacher predicts in it if that was cached."""
    from leanpipe.training.distill.teacher_logprobs import TeacherLogprobs, WithTeacherLogprobs
    from leanpipe.training.trainer.data import Subset

    chosen = Subset(blocks, tokens)
    return WithTeacherLogprobs(chosen, TeacherLogprobs(logprobs)) if logprobs else chosen
