"""Train a student that is smaller than its teacher to predict what the teacher predicts."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from leanpipe import device
from leanpipe.errors import UserError
from leanpipe.models.load import load_for_inference, load_tokenizer, save_model
from leanpipe.report import Report
from leanpipe.stage import Summary, stage
from leanpipe.training.config import TrainingConfig, check_training

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from leanpipe.training.objectives import Objective
    from leanpipe.training.trainer import Text


class DistillConfig(TrainingConfig):
    """How large the student is, where its weights come from, and what it learns from the teacher."""

    neutral: ClassVar[frozenset[str]] = frozenset({"teacher_memory"})

    tokens: int = Field(25_600, ge=1, le=10**12)
    """Length of the training in tokens. Text that is shorter is read again, in another order each time."""
    learning_rate: float = Field(8e-4, gt=0, le=1)
    """The highest learning rate, reached after warming up."""
    batch: int = Field(1, ge=1, le=65_536)
    """Blocks per step of the optimiser. Short runs learn more from many small steps, long ones from larger batches."""
    validation_tokens: int = Field(6_144, ge=1, le=10**9)
    """How many tokens of held-out text the loss is measured on (fewer if there are no more)."""
    size: float = Field(0.6, gt=0, le=1)
    """Size of the student as a share of the teacher's parameters. It keeps the teacher's width and has fewer layers."""
    initialisation: Literal["teacher_layers", "random"] = "teacher_layers"
    """Begin with some of the teacher's layers, or with new weights (which need far more tokens)."""
    keep: Literal["first_and_last", "evenly_spaced"] = "first_and_last"
    """Which of the teacher's layers stay: the first and the last ones (two to one), or evenly spaced ones."""
    kl_weight: float = Field(0.9, ge=0, le=1)
    """1 learns the teacher's distribution alone, 0 the text alone (then the teacher is not run at all)."""
    temperature: float = Field(1.0, gt=0, le=100)
    """Softens both distributions before they are compared; 1 leaves them as they are."""
    teacher_memory: float = Field(0, ge=0, le=100_000)
    """Memory of the device that the teacher may take, in gigabytes; the rest of it lies in the host's memory and on disk,
    which is slower and changes nothing else. 0 is what the student's training leaves free."""


@dataclass(frozen=True)
class DistillInputs:
    """A model folder, and the output folder of the tokenize stage."""

    teacher: Path
    blocks: Path


@stage(version=1, uses_device=True)
def distill(config: DistillConfig, inputs: DistillInputs, out: Path, report: Report) -> Summary:
    """Make the student, train it on the blocks, and write it to `out` as a model folder."""
    from leanpipe.models.count import count_parameters, parameters_of
    from leanpipe.training.trainer import train

    check_distill(config, inputs.teacher)
    tokenizer = load_tokenizer(inputs.blocks / "tokenizer")
    check_vocabulary(config, inputs.teacher, tokenizer)
    text = _text(config, inputs.blocks, tokenizer)
    teacher = load_for_inference(
        inputs.teacher,
        config.teacher_memory,
        student_bytes(config, inputs.teacher, len(text.train[0]["input_ids"])),
    )
    teacher_parameters = parameters_of(teacher.config)
    student = make_student(config, teacher, load_tokenizer(inputs.teacher), tokenizer)
    outcome = train(student, _objective(config, teacher), text, config, out, report)
    save_model(student, tokenizer, out)
    return {
        "initial_bits_per_byte": text.bits_per_byte(outcome.initial_validation),
        "bits_per_byte": text.bits_per_byte(outcome.validation),
        "parameters": count_parameters(student),
        "teacher_parameters": teacher_parameters,
        "layers": student.config.num_hidden_layers,
        "tokens": outcome.tokens,
        "tokens_per_second": outcome.tokens_per_second,
        "final_loss": outcome.loss,
        "peak_memory": device.peak_memory(),
    }


def check_distill(config: DistillConfig, teacher: Path) -> None:
    """Raise UserError for settings that this device or this teacher cannot do. Reads the teacher's config only."""
    from leanpipe.models.count import layers_for_size, read_config

    check_training(config)
    layers_for_size(read_config(teacher), config.size)


def check_vocabulary(config: DistillConfig, teacher: Path, tokenizer: "PreTrainedTokenizerBase") -> None:
    """Raise UserError if the text was not cut into the teacher's tokens although the teacher is to be imitated."""
    if config.kl_weight > 0 and load_tokenizer(teacher).get_vocab() != tokenizer.get_vocab():
        raise UserError(
            f"the text was tokenised with another vocabulary than the teacher's ({teacher}), so their predictions cannot "
            "be compared: tokenise with the tokenizer 'teacher', or set distill.kl_weight to 0"
        )


def student_bytes(config: DistillConfig, teacher: Path, block: int) -> int:
    """What training the student on blocks of `block` tokens will take on the device, the teacher left out."""
    from leanpipe.models.count import layers_for_size, read_config, with_layers
    from leanpipe.planning.memory import size_of, training_memory

    whole = read_config(teacher)
    size = size_of(with_layers(whole, list(range(layers_for_size(whole, config.size)))))
    return training_memory(size, config, block, process=0, kl=config.kl_weight > 0).peak


def make_student(
    config: DistillConfig,
    teacher: "PreTrainedModel",
    teacher_tokenizer: "PreTrainedTokenizerBase",
    tokenizer: "PreTrainedTokenizerBase",
) -> "PreTrainedModel":
    """The untrained student, in float32, with the vocabulary of `tokenizer`."""
    import torch

    from leanpipe.models.count import layers_for_size, with_layers
    from leanpipe.models.student import (
        change_vocabulary,
        evenly_spaced,
        first_and_last,
        random_student,
        student_from_teacher,
    )

    torch.manual_seed(config.seed)
    choose = {"first_and_last": first_and_last, "evenly_spaced": evenly_spaced}[config.keep]
    kept = choose(teacher.config.num_hidden_layers, layers_for_size(teacher.config, config.size))
    if config.initialisation == "teacher_layers":
        student = student_from_teacher(teacher, kept)
    else:
        student = random_student(with_layers(teacher.config, kept))
    if tokenizer.get_vocab() != teacher_tokenizer.get_vocab():
        change_vocabulary(student, teacher_tokenizer, tokenizer)
    return student


def _objective(config: DistillConfig, teacher: "PreTrainedModel") -> "Objective":
    from leanpipe.training.objectives import CrossEntropy, Distillation

    return Distillation(teacher, config.temperature, config.kl_weight) if config.kl_weight else CrossEntropy()


def _text(config: DistillConfig, folder: Path, tokenizer: "PreTrainedTokenizerBase") -> "Text":
    from leanpipe.tokens.blocks import Blocks
    from leanpipe.training.data import scored_bytes, spread
    from leanpipe.training.trainer import Text

    train, validation = Blocks(folder, "train"), Blocks(folder, "validation")
    for name, blocks in (("train", train), ("validation", validation)):
        if not len(blocks):
            raise UserError(
                f"{folder} has no {name} block: give more text, or set a shorter block length in tokenize"
            )
    chosen = spread(validation, config.validation_tokens)
    return Text(train, chosen, scored_bytes(chosen, tokenizer))
