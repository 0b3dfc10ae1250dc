"""Train a student that is smaller than its teacher to predict what the teacher predicts."""

import copy
import logging
from dataclasses import dataclass, replace
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
from leanpipe.core.store import Artifact
from leanpipe.models.card import licensed_input
from leanpipe.models.load import load_for_inference, load_model, load_tokenizer, save_model, vocabulary_size
from leanpipe.models.student import intact_parts
from leanpipe.training.trainer.config import TrainingConfig, check_training

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from leanpipe.training.distill.distillation_objectives import HiddenStateMatching
    from leanpipe.training.losses.objectives import Objective
    from leanpipe.training.trainer.data import BlockDataset, TrainingData

log = logging.getLogger(__name__)


class DistillConfig(TrainingConfig):
    """How the student learns, and what of the teacher: what it begins with is stage `shrink`'s."""

    renamed: ClassVar[dict[str, str]] = {
        "initialisation": "shrink.initialization",
        "predictions": "teacher_logprobs",
        "jensen_shannon_weight": "beta",
        "size": "shrink.size",
        "width": "shrink.width",
        "keep": "shrink.keep",
        "initialization": "shrink.initialization",
    }

    tokens: int = Field(65_536, ge=1, le=10**12)
    """Length of the training in tokens. Text that is shorter is read again, in another order each time."""
    learning_rate: float = Field(0, ge=0, le=1)
    """The highest learning rate, reached after warming up; 0 follows from tokens, batch and the student's size."""
    batch: int = Field(0, ge=0, le=65_536)
    """Blocks per step of the optimiser; 0 follows from tokens. Short runs learn more from many small steps, long ones from
    larger batches."""
    validation_tokens: int = Field(6_144, ge=1, le=10**9)
    """How many tokens of held-out text the loss is measured on (fewer if there are no more)."""
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
    kl_weight: float = Field(1.0, ge=0, le=1)
    """1 learns the teacher's distribution alone, 0 the text alone (then the teacher is not run at all)."""
    temperature: float = Field(1.0, gt=0, le=100)
    """Softens both distributions before they are compared; 1 leaves them as they are."""
    teacher_memory: Annotated[float, NotInKey("where the teacher lies, not what it says")] = Field(
        0, ge=0, le=100_000
    )
    """Memory of the device that the teacher may take, in gigabytes; the rest of it lies in the host's memory and on disk,
    which is slower and changes nothing but rounding. 0 is what the student's training leaves free."""

    frozen: Literal["none", "intact"] = "intact"
    """What does not learn: intact is what of the teacher was not cut, its embeddings, norms and first layer, which is faster, and
    better in trainings of less than some million tokens. Of new weights, or a narrower model, nothing is intact."""
    hidden_weight: float = Field(0.0, ge=0, le=1_000)
    """How much it counts, beside the predictions, that the student's hidden states point where the teacher's do. The
    teacher is asked at every step then."""

    @model_validator(mode="after")
    def _whole_micro_batches(self) -> Self:
        if self.batch:
            self.check_batch()
        return self

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
    student: Path | None = None
    """The model that learns, such as the output folder of the shrink stage; without it, a copy of the teacher."""
    written: Path | None = None
    """Blocks of what the teacher wrote, for `written_share` above 0."""
    written_logprobs: Path | None = None
    """What it predicts of those, for predictions that are cached."""


def with_recipe(
    config: DistillConfig, student: Artifact | Expected, blocks: Artifact | Expected, *, fresh: bool = False
) -> DistillConfig:
    """Fill in the learning rate and the batch that suit this student, which may not be there yet; `fresh` if its weights are new.

    Before the stage is told its settings: so its key says what it computes, and a rate that is given is the same one.
    """
    from leanpipe.models.count import expected_config, parameters_of
    from leanpipe.tokens.blocks import expected_blocks
    from leanpipe.training.distill.recipe import derive_recipe

    if config.learning_rate and config.batch:
        return config
    model = student if isinstance(student, Expected) else Expected(student.path)
    text = blocks if isinstance(blocks, Expected) else expected_blocks(blocks.path)
    size = parameters_of(expected_config(model))
    frozen = _freezes(config, model)
    return derive_recipe(config, size, text.facts["block_length"], fresh=fresh, frozen=frozen)


def check_distill(config: DistillConfig, inputs: ExpectedInputs) -> None:
    """Raise UserError for settings that this device or these models cannot do. Reads their configs only."""
    from leanpipe.models.count import check_context, read_config

    check_training(config)
    for role in ("teacher", "student"):
        if role in inputs and inputs[role].path:
            read_config(inputs[role].path)
        if role in inputs and "blocks" in inputs:
            check_context(inputs[role], inputs["blocks"].facts["block_length"], "tokenize.block_length")
    if config.learning_rate and config.batch and "blocks" in inputs:
        log.info("distill: %s", _rate_and_batch(config, inputs["blocks"].facts["block_length"]))


def estimate_distill(config: DistillConfig, inputs: ExpectedInputs, kind: Kind) -> Estimate:
    """What `distill` takes. A teacher whose predictions are cached is not there."""
    from leanpipe.models.count import expected_config
    from leanpipe.training.trainer.memory import (
        repeated_training,
        size_of,
        training_estimate,
        training_memory,
    )

    config = with_recipe(config, inputs.get("student", inputs["teacher"]), inputs["blocks"])
    teacher, blocks = expected_config(inputs["teacher"]), inputs["blocks"].facts
    student = copy.deepcopy(expected_config(inputs.get("student", inputs["teacher"])))
    student.dtype = "bfloat16"  # as models are saved here
    size, large = size_of(student), size_of(teacher)
    asks = config.kl_weight > 0 and not config.uses_cache
    reading = Repeated("read", teacher, config.tokens, blocks["block_length"], 1, read_arithmetic())
    still = size.head if _freezes(config, inputs.get("student", inputs["teacher"])) else 0
    memory = training_memory(
        size,
        config,
        blocks["block_length"],
        kind=kind,
        process=process_bytes(kind),
        teacher=bytes_of_weight() * large.parameters if asks else 0,
        kl=asks,
        still=still,
    )
    estimate = training_estimate(
        config,
        size,
        memory,
        kind,
        trained=size.parameters - still,
        work=6 * size.parameters - 2 * still + (2 * large.parameters if asks else 0),
        result={"model": student, "tokenizer": blocks.get("tokenizer")},
        repeated=(
            *repeated_training(config, student, blocks["block_length"], "train_layers" if still else "train"),
            *([reading] if asks else []),
        ),
    )
    return replace(estimate, derived=_rate_and_batch(config, blocks["block_length"]))


def _freezes(config: DistillConfig, student: Expected) -> bool:
    """Whether embeddings and norms do not learn, as far as it is known before there is a student."""
    parts = intact_parts(student.path) if student.path else student.facts.get("intact", [])
    return config.frozen == "intact" and "embeddings" in parts


def _rate_and_batch(config: DistillConfig, block: int) -> str:
    return f"learning rate {config.learning_rate:g}, batches of {config.batch * block:,} tokens"


@stage(
    version=4,
    uses_device=True,
    check=check_distill,
    estimate=estimate_distill,
    marks=licensed_input("teacher", "student"),
    groups=dict.fromkeys(
        ("teacher_parameters", "tokens", "learning_rate", "batch_tokens", "peak_memory"), NOT_COMPARED
    ),
)
def distill(config: DistillConfig, inputs: DistillInputs, out: Path, report: Report) -> Summary:
    """Train the student on the blocks, and write it to `out` as a model folder."""
    import torch

    from leanpipe.models.count import count_parameters, read_config, whole_parameters
    from leanpipe.models.student import change_vocabulary, freeze
    from leanpipe.models.zeros import check_zeros_stay, hold_zeros, pass_on_mark
    from leanpipe.tokens.blocks import expected_blocks
    from leanpipe.training.trainer.outcome import saved_loss
    from leanpipe.training.trainer.trainer import train

    begun = inputs.student or inputs.teacher
    known = {
        "teacher": Expected(inputs.teacher),
        "student": Expected(begun),
        "blocks": expected_blocks(inputs.blocks),
    }
    config = with_recipe(config, known["student"], known["blocks"])
    check_distill(config, known)
    if config.kl_weight > 0:
        _check_tokens(inputs)
    check_zeros_stay(begun, "distill", config.optimizer, config.sharding)
    tokenizer = load_tokenizer(inputs.blocks / "tokenizer")
    text = _training_data(config, inputs, tokenizer)
    objective = _objective(config, inputs, vocabulary_size(tokenizer), len(text.train[0]["input_ids"]))
    device.release_memory()
    torch.manual_seed(config.seed)
    student = load_model(begun, torch.float32)
    if tokenizer.get_vocab() != (old := load_tokenizer(begun)).get_vocab():
        change_vocabulary(student, old, tokenizer)
    hold_zeros(student, begun)
    if config.frozen == "intact":
        freeze(student, intact_parts(begun))
    outcome = train(student, objective, text, config, out, report)
    save_model(student, tokenizer, out, made_of=(begun, inputs.teacher))
    pass_on_mark(begun, out)
    parameters, layers = count_parameters(student), student.config.num_hidden_layers
    del student, objective
    return {
        "initial_bits_per_byte": text.bits_per_byte(outcome.initial_validation),
        "bits_per_byte": text.bits_per_byte(saved_loss(out, text.validation, config.arithmetic)),
        "parameters": parameters,
        "teacher_parameters": whole_parameters(read_config(inputs.teacher)),
        "layers": layers,
        "tokens": outcome.tokens,
        "learning_rate": config.learning_rate,
        "batch_tokens": config.batch * len(text.train[0]["input_ids"]),
        "tokens_per_second": outcome.tokens_per_second,
        "final_loss": outcome.loss,
        "peak_memory": device.peak_memory(),
    }


def student_bytes(config: DistillConfig, student: Path, block: int) -> int:
    """Estimate the bytes that training the student on blocks of `block` tokens takes, the teacher left out."""
    from leanpipe.models.count import read_config
    from leanpipe.training.trainer.memory import size_of, training_memory

    size = size_of(read_config(student))
    return training_memory(size, config, block, kind=device.name(), process=0, kl=config.kl_weight > 0).peak


def _check_tokens(inputs: DistillInputs) -> None:
    """Teacher, student and all blocks must have the same tokens."""
    from leanpipe.training.distill.teacher_cache import check_same_tokens

    for model in {inputs.teacher, inputs.student or inputs.teacher}:
        for blocks in filter(None, (inputs.blocks, inputs.written)):
            check_same_tokens(model, blocks)


def _objective(config: DistillConfig, inputs: DistillInputs, vocabulary: int, block: int) -> "Objective":
    from leanpipe.training.distill.distillation_objectives import CachedDistillation, Distillation
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
    aside = student_bytes(config, inputs.student or inputs.teacher, block)
    teacher = load_for_inference(inputs.teacher, config.teacher_memory, aside)
    return Distillation(teacher, loss, vocabulary, _matched_states(config, inputs))


def _matched_states(config: DistillConfig, inputs: DistillInputs) -> "HiddenStateMatching | None":
    """Which of the teacher's hidden states the student's should be like, by what it was cut from; None if none."""
    import torch

    from leanpipe.core.files import read_object
    from leanpipe.models.count import read_config
    from leanpipe.models.student import SHAPE, evenly_spaced
    from leanpipe.training.distill.distillation_objectives import HiddenStateMatching, teacher_layers_followed

    if config.hidden_weight == 0:
        return None
    begun = inputs.student or inputs.teacher
    student, teacher = read_config(begun), read_config(inputs.teacher)
    shape = read_object(begun / SHAPE)
    kept = shape.get("layers") or evenly_spaced(teacher.num_hidden_layers, student.num_hidden_layers)
    entries = shape.get("hidden") or list(range(student.hidden_size))
    return HiddenStateMatching(
        config.hidden_weight,
        teacher_layers_followed(kept, teacher.num_hidden_layers),
        torch.tensor(entries, dtype=torch.long),
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
