"""Go on training a student on answers of its own: it writes them, and its teacher says what it would have written."""

import importlib.util
import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from leanpipe.core import device
from leanpipe.core.config import StageConfig
from leanpipe.core.device import Kind
from leanpipe.core.errors import UserError
from leanpipe.core.estimate import (
    Estimate,
    Expected,
    ExpectedInputs,
    bytes_of_weight,
    host_bytes,
    process_bytes,
)
from leanpipe.core.keys import ByDevice, NotInKey
from leanpipe.core.report import Report
from leanpipe.core.stage import NOT_COMPARED, Summary, all_marks, stage
from leanpipe.models.card import licensed_input
from leanpipe.models.load import load_model, load_tokenizer, save_model
from leanpipe.models.zeros import hold_zeros, pass_on_mark, pruned_input

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TRL_TILE = (4_096, 32_768)
"""Tokens and entries of the vocabulary that TRL compares at once (`trl.kernels.chunked_divergence`)."""


_WATCHING = "how often the training is written down, not how it goes"


class OnPolicyConfig(StageConfig):
    """How long the student learns from its own answers, and how they are compared with the teacher's."""

    steps: int = Field(0, ge=0, le=10**9)
    """Steps of the optimiser; 0 leaves this stage out. It needs TRL: `pip install 'leanpipe[on-policy]'`."""
    student_share: float = Field(0.5, ge=0, le=1)
    """Share of the batches whose answers the student writes itself (lambda in GKD); the others have those that were
    given."""
    beta: float = Field(0.5, ge=0, le=1)
    """What is made small: 0 is forward KL, which covers all that the teacher may say, 1 is reverse KL, which keeps to what
    it is likely to say, and between them lies the generalised Jensen–Shannon divergence."""
    temperature: float = Field(1.0, ge=0.05, le=10)
    """At which the student's answers are drawn, and both distributions are compared."""
    max_new_tokens: int = Field(128, ge=1, le=131_072)
    """Answers are cut after so many tokens: the student's own, and those that were given."""
    max_prompt_tokens: int = Field(256, ge=8, le=131_072)
    """Conversations with more tokens before their last answer are left out."""
    learning_rate: float = Field(1e-4, gt=0, le=1)
    """The highest learning rate, reached after a tenth of the steps; from there it falls to 0 as a cosine does."""
    batch: int = Field(8, ge=1, le=65_536)
    """Conversations per step of the optimiser. Answers to all of them are written at once."""
    micro_batch: Annotated[int, NotInKey("the same sums, in parts: other last digits at the most")] = Field(
        0, ge=0, le=4_096
    )
    """Conversations that are learnt from at once; fewer take less memory and more time. 0 is the whole batch."""
    precision: Annotated[Literal["auto", "bf16", "fp32"], ByDevice("arithmetic")] = "auto"
    """Arithmetic of the matrix products; weights are kept in fp32. auto is bf16 where the device has it, else fp32."""
    validation_conversations: int = Field(32, ge=1, le=100_000)
    """How many conversations are held out to measure on before and after, but at most half of them."""
    checkpoint_every_steps: Annotated[int, NotInKey(_WATCHING)] = Field(50, ge=1, le=10**9)
    """Steps between checkpoints, from which a run that was cut off goes on."""
    log_every_steps: Annotated[int, NotInKey(_WATCHING)] = Field(5, ge=1, le=10**6)
    """Steps between reports of the loss and of the answers."""
    seed: int = Field(0, ge=0, le=2**32 - 1)
    """Decides the order of the conversations, what is held out, and how answers are drawn."""

    @model_validator(mode="after")
    def _whole_micro_batches(self) -> Self:
        if self.batch % self.in_memory:
            raise ValueError(f"batch ({self.batch}) must be a multiple of micro_batch ({self.micro_batch})")
        return self

    @property
    def in_memory(self) -> int:
        """Conversations that are learnt from at once."""
        return min(self.micro_batch or self.batch, self.batch)

    @property
    def arithmetic(self) -> str:
        """Type of the matrix products, bf16 or fp32: `precision`, with "auto" decided for this device."""
        return device.arithmetic_of(self.precision)


@dataclass(frozen=True)
class OnPolicyInputs:
    """The model folders of teacher and student, and a .json or .jsonl file or folder of conversations."""

    teacher: Path
    student: Path
    instructions: Path


@dataclass(frozen=True)
class Turn:
    """What was said before an assistant's turn, and that turn with its end, as tokens."""

    prompt: list[int]
    answer: list[int]


@dataclass(frozen=True)
class Turns:
    """Turns to learn from, others to measure on, and how many conversations gave none."""

    train: list[Turn]
    held_out: list[Turn]
    skipped: int


def check_on_policy(config: OnPolicyConfig, inputs: ExpectedInputs) -> None:
    """Raise UserError without TRL, or for what this teacher cannot do. Reads its config and its tokenizer."""
    from leanpipe.models.count import check_context, tokenizer_folder
    from leanpipe.training.finetune.template import check_template

    if importlib.util.find_spec("trl") is None:
        raise UserError(
            "on_policy.steps is above 0, which needs TRL: pip install 'leanpipe[on-policy]', or set it to 0"
        )
    if folder := tokenizer_folder(inputs["teacher"]):
        check_template(load_tokenizer(folder))
    for role in inputs.keys() & {"teacher", "student"}:
        tokens = config.max_prompt_tokens + config.max_new_tokens
        check_context(inputs[role], tokens, "on_policy.max_prompt_tokens + on_policy.max_new_tokens")


def estimate_on_policy(config: OnPolicyConfig, inputs: ExpectedInputs, kind: Kind) -> Estimate:
    """What `on_policy` takes. Time is reckoned as if answers were written as fast as they are read: a lower bound."""
    from leanpipe.models.count import expected_config
    from leanpipe.training.trainer.config import TrainingConfig
    from leanpipe.training.trainer.memory import size_of, training_memory

    size, large = (size_of(expected_config(inputs[role])) for role in ("student", "teacher"))
    length = config.max_prompt_tokens + config.max_new_tokens
    alike = TrainingConfig(batch=config.batch, micro_batch=config.micro_batch, precision=config.precision)
    weights = bytes_of_weight() * large.parameters
    memory = training_memory(size, alike, length, kind=kind, process=process_bytes(kind), teacher=weights)
    # TRL compares both models' logits in float32, in tiles; on a processor with what lies between.
    rows = min(config.in_memory * config.max_new_tokens, _TRL_TILE[0])
    tiles = rows * min(size.vocabulary, _TRL_TILE[1]) * 4 * (2 if kind == "cuda" else 8)
    peak = memory.peak + tiles
    work = 6 * size.parameters + 2 * large.parameters + config.student_share * 2 * size.parameters
    return Estimate(
        peak,
        host_bytes(kind, peak),
        2 * 12 * size.parameters + 2 * size.parameters,
        work * config.steps * config.batch * length,
        memory.parts | {"logits": tiles},
        result=inputs["student"].facts,
    )


@stage(
    version=2,
    uses_device=True,
    check=check_on_policy,
    estimate=estimate_on_policy,
    marks=all_marks(pruned_input("student"), licensed_input("student", "teacher", known="student")),
    groups=dict.fromkeys(("conversations", "tokens", "peak_memory"), NOT_COMPARED),
)
def on_policy(config: OnPolicyConfig, inputs: OnPolicyInputs, out: Path, report: Report) -> Summary:
    """Train the student, and write it to `out` as a model folder.

    As in Agarwal et al. 2024, "On-Policy Distillation of Language Models", arXiv 2306.13649, algorithm 1.
    """
    import torch

    from leanpipe.training.on_policy.on_policy_trainer import train_on_policy

    check_on_policy(config, {"teacher": Expected(inputs.teacher), "student": Expected(inputs.student)})
    check_student(inputs.student, inputs.teacher)
    tokenizer = load_tokenizer(inputs.student)
    turns = read_turns(config, inputs.instructions, tokenizer)
    student, teacher = load_model(inputs.student, torch.float32), load_model(inputs.teacher)
    hold_zeros(student, inputs.student)
    outcome = train_on_policy(student, teacher, tokenizer, turns, config, out, report)
    # TRL may give its tokenizer another padding token.
    sources = (inputs.student, inputs.teacher)
    save_model(student, load_tokenizer(inputs.student), out, made_of=sources)
    pass_on_mark(inputs.student, out)
    return {
        "initial_divergence": outcome.initial.divergence,
        "divergence": outcome.final.divergence,
        "initial_validation_loss": outcome.initial.loss,
        "validation_loss": outcome.final.loss,
        "student_share": outcome.student_share,
        "answer_tokens": outcome.answer_tokens,
        "conversations": len(turns.train) + len(turns.held_out),
        "skipped": turns.skipped,
        "tokens": outcome.tokens,
        "tokens_per_second": outcome.tokens_per_second,
        "final_loss": outcome.training_loss,
        "peak_memory": device.peak_memory(),
    }


def check_student(student: Path, teacher: Path) -> None:
    """Raise UserError unless a token means the same to both, as each is compared. Reads configs and tokenizers."""
    from leanpipe.models.count import read_config
    from leanpipe.training.distill.teacher_cache import differing_tokens

    wrong = differing_tokens(load_tokenizer(teacher), load_tokenizer(student))
    if wrong:
        raise UserError(
            f"the student {student} cuts text into other tokens than its teacher {teacher}: {len(wrong)} differ, "
            f"{wrong[0]!r} is one, so their predictions cannot be compared: choose a student with the teacher's tokenizer"
        )
    ours, theirs = (read_config(path).vocab_size for path in (student, teacher))
    if ours != theirs:
        raise UserError(
            f"the student {student} predicts {ours} tokens, and its teacher {theirs}: their vocabularies must be filled up "
            "to the same number"
        )


def read_turns(config: OnPolicyConfig, path: Path, tokenizer: "PreTrainedTokenizerBase") -> Turns:
    """Read the last answer of each conversation, in an order that the seed decides. Raises UserError for fewer than two."""
    from leanpipe.training.finetune.chat import last_answers
    from leanpipe.training.finetune.instructions import read_instructions

    read = read_instructions(path)
    pairs = last_answers(read.conversations, tokenizer)
    turns = [
        Turn(prompt, answer[: config.max_new_tokens])
        for prompt, answer in pairs
        if answer and len(prompt) <= config.max_prompt_tokens
    ]
    if len(turns) < 2:
        raise UserError(
            f"{path} has {len(turns)} conversations with a prompt of at most {config.max_prompt_tokens} tokens: at least 2 "
            "are needed, one to learn, one to check; raise on_policy.max_prompt_tokens or give more"
        )
    random.Random(config.seed).shuffle(turns)
    held_out = min(config.validation_conversations, len(turns) // 2)
    skipped = read.skipped + len(read.conversations) - len(turns)
    return Turns(turns[held_out:], turns[:held_out], skipped)
