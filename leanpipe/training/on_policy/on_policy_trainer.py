"""Adapts TRL's trainer for on-policy distillation: given answers mixed in, reporting our way, resuming from what is whole.

TRL is imported only where it is used: it is no part of a plain installation, and it imports MLflow where it finds it.
Of its two trainers `GKDTrainer` mixes in given answers by itself. But it holds the logits of whole batches, divides the
loss of the student's answers by the number of tokens of the given ones, and is on its way out, so this is the other one.
"""

import json
import logging
import math
import os
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedTokenizerBase, PrinterCallback, TrainerCallback, TrainerControl

from leanpipe.core.errors import UserError
from leanpipe.core.plots import draw_losses
from leanpipe.core.report import Report
from leanpipe.core.store import CHECKPOINTS
from leanpipe.processes.sigterm import DeferredSigterm
from leanpipe.training.finetune.chat import Example
from leanpipe.training.finetune.packing import Block, pack
from leanpipe.training.losses.chunked_loss import IGNORED
from leanpipe.training.losses.objectives import check_head
from leanpipe.training.on_policy.on_policy import OnPolicyConfig, Turn, Turns
from leanpipe.training.trainer import checkpoints
from leanpipe.training.trainer.arguments import on_one_device, shared_arguments
from leanpipe.training.trainer.data import ShuffledEpochs
from leanpipe.training.trainer.outcome import (
    FINISHED,
    load_trained,
    mean_nats,
    read_facts,
    read_trained,
    save_trained,
)

if TYPE_CHECKING:
    from trl import DistillationTrainer
else:
    DistillationTrainer = object

log = logging.getLogger(__name__)

_STATE = "leanpipe.json"
"""What of ours a checkpoint holds beside what transformers keeps."""
_REPORTED = {
    "loss": "loss",
    "learning_rate": "learning_rate",
    "grad_norm": "grad_norm",
    "entropy": "entropy",
    "completions/mean_length": "answer_tokens",
    "completions/clipped_ratio": "answers_cut",
    "validation_divergence": "validation_divergence",
    "validation_loss": "validation_loss",
}
"""What of TRL's figures and ours is told, and how it is called."""


@dataclass(frozen=True)
class Measured:
    """How good the student is on held-out conversations."""

    divergence: float
    """Nats per token of answers that the student writes to their prompts, from the teacher."""
    loss: float
    """Nats per token of the given answers."""


@dataclass(frozen=True)
class Outcome:
    """How a training went."""

    initial: Measured
    final: Measured
    training_loss: float
    """The last reported one."""
    student_share: float
    """Share of the batches whose answers the student wrote."""
    answer_tokens: float
    """Mean length of an answer that the student wrote."""
    tokens: int
    """Tokens of prompts and answers that were read."""
    tokens_per_second: float
    """The writing of answers included."""

    @classmethod
    def read(cls, facts: dict[str, Any]) -> "Outcome":
        """Make one of what `asdict` made of it."""
        return cls(**facts | {name: Measured(**facts[name]) for name in ("initial", "final")})


@dataclass
class _Tally:
    """What was done so far."""

    answers: int = 0
    answer_tokens: int = 0
    seconds: float = 0.0

    @classmethod
    def read(cls, checkpoint: Path | None) -> "_Tally":
        """Read the tally of a checkpoint; a new one without."""
        return cls(**json.loads((checkpoint / _STATE).read_text())) if checkpoint else cls()


def train_on_policy(
    student: Any,
    teacher: Any,
    tokenizer: PreTrainedTokenizerBase,
    turns: Turns,
    config: OnPolicyConfig,
    out: Path,
    report: Report,
) -> Outcome:
    """Train `student` in place. What an earlier attempt left under `out/checkpoints` is gone on from, until all is published.

    On SIGTERM it writes a checkpoint after the step, and then ends as the signal asked.
    """
    check_head(student)
    folder = out / CHECKPOINTS
    if (facts := read_facts(folder)) and (weights := read_trained(folder, FINISHED)):
        load_trained(student, weights)
        report.progress(config.steps, config.steps, "steps")
        return Outcome.read(facts)
    checkpoint = checkpoints.find_whole(folder)
    with DeferredSigterm() as termination:
        tally = _Tally.read(checkpoint)
        trainer = _trainer_type()(
            config,
            turns,
            tally,
            model=student,
            teacher_model=teacher,
            args=_arguments(config, folder, resumed=checkpoint is not None),
            train_dataset=ShuffledEpochs(_items(turns.train), config.steps * config.batch, config.seed),
            processing_class=tokenizer,
            callbacks=[_Watch(config, folder, tally, report, termination)],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if not termination.requested:
            round_as_saved(student)
            trainer.evaluate()
    if termination.requested:
        log.info("told to end: stopped after step %d with a checkpoint", trainer.state.global_step)
        termination.follow(f"training stopped after step {trainer.state.global_step}")
    student.config.use_cache = True  # the Trainer turns it off, and it would be saved so
    draw_losses(trainer.state.log_history, out / "report" / "loss.png")
    outcome = trainer.outcome()
    save_trained(student, folder, FINISHED, asdict(outcome))
    return outcome


def round_as_saved(model: Any) -> None:
    """Give the weights the values that they will have when they are saved and read again, so that those are measured."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16())


def _arguments(config: OnPolicyConfig, folder: Path, resumed: bool) -> Any:
    """TRL's own settings."""
    with _without_mlflow():
        from trl import DistillationConfig

    made = DistillationConfig(
        **shared_arguments(config, config.steps, folder, resumed),
        per_device_train_batch_size=config.in_memory,
        gradient_accumulation_steps=config.batch // config.in_memory,
        lr_scheduler_type="cosine",
        warmup_steps=round(0.1 * config.steps),
        beta=config.beta,
        temperature=config.temperature,
        max_completion_length=config.max_new_tokens,
        gradient_checkpointing=False,
        shuffle_dataset=False,  # `ShuffledEpochs` shuffles
        dataloader_pin_memory=False,  # what is read are lists
    )
    return on_one_device(made)


def _trainer_type() -> Any:
    with _without_mlflow():
        from trl import DistillationTrainer as Base

    return type("OnPolicyTrainer", (_WithGivenAnswers, Base), {})


@contextmanager
def _without_mlflow() -> Iterator[None]:
    """TRL imports MLflow where it finds it, and the library does not know MLflow."""
    name = "DISABLE_MLFLOW_INTEGRATION"
    before = os.environ.get(name)
    os.environ[name] = "TRUE"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _items(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """Items of a dataset as TRL reads them: what is under "prompt" it passes on as it is."""
    return [{"prompt": {"tokens": turn.prompt, "answer": turn.answer}} for turn in turns]


class _WithGivenAnswers(DistillationTrainer):
    """Adds to TRL's trainer: prompts are tokens already, some batches get the given answers, a broken training ends at once.

    What it overrides of TRL's private methods it says there, with what that buys.
    """

    control: TrainerControl

    def __init__(self, config: OnPolicyConfig, turns: Turns, tally: _Tally, **others: Any):
        self._config, self._held_out, self._tally = config, turns.held_out, tally
        self._given: list[list[int]] = []
        self._written = 0
        super().__init__(**others)
        self._answers = _blocks(turns.held_out, self.processing_class.pad_token_id)

    def _send_telemetry(self) -> None:
        """Private to TRL: buys that nobody is told what is trained here. The environment variable that turns it off is
        read when huggingface_hub is imported, which was long before."""

    def _tokenize_prompts(self, prompts: list[dict[str, list[int]]]) -> Any:
        """Private to TRL: buys prompts as tokens, those of the chat template and no more. TRL would cut text anew."""
        self._given = [prompt["answer"] for prompt in prompts]
        return [prompt["tokens"] for prompt in prompts], None, {}

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> list[list[int]]:
        """Private to TRL: buys batches with the given answers, `student_share`, which TRL's `DistillationTrainer` lacks."""
        training = self.model.training
        if training and not _is_own(self._config, self.state.global_step):
            return self._given
        answers = super()._generate_single_turn(*args, **kwargs)
        self._written = sum(map(len, answers))
        if training:
            self._tally.answers += len(answers)
            self._tally.answer_tokens += self._written
        return answers

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Times a step, and ends a training whose loss is no number."""
        started = time.perf_counter()
        loss = super().training_step(*args, **kwargs)
        self._tally.seconds += time.perf_counter() - started
        self._check_finite(float(loss), "loss")
        return loss

    def _clip_grad_norm(self, model: Any) -> Any:
        """Private to transformers: buys the gradient's length at every step, reported or not."""
        norm = super()._clip_grad_norm(model)
        self._check_finite(float(norm), "gradient's length")
        return norm

    def _check_finite(self, value: float, what: str) -> None:
        """End the training before the student answers with what became of its weights: drawing from what is no number ends in a crash."""
        if not math.isfinite(value):
            raise UserError(
                f"the {what} is {value} at step {self.state.global_step + 1}: lower on_policy.learning_rate"
            )

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Measure the model as it is now. Answers are drawn from the same random numbers each time."""
        self.model.eval()
        loss = mean_nats(self.model, self._answers, self._config.arithmetic)
        if not math.isfinite(loss):
            raise UserError(f"the student's loss on given answers is {loss}: its weights are damaged")
        with torch.random.fork_rng():
            torch.manual_seed(self._config.seed)
            divergence = self._divergence()
        figures = {"validation_divergence": divergence, "validation_loss": loss}
        self.log(dict(figures))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, figures)
        return figures

    def _divergence(self) -> float:
        """Nats per token of the student's own answers to the held-out prompts."""
        total, tokens, rows = 0.0, 0, self._config.in_memory
        for start in range(0, len(self._held_out), rows):
            items = _items(self._held_out[start : start + rows])
            mean, _, _ = self.prediction_step(self.model, items, prediction_loss_only=True)
            total, tokens = total + float(mean) * self._written, tokens + self._written
        return total / tokens

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write none: TRL would put a page on the model into each checkpoint."""

    def outcome(self) -> Outcome:
        """Return how the training went, from what was logged and counted."""
        history, steps, tally = self.state.log_history, self._config.steps, self._tally
        measured = [
            Measured(entry["validation_divergence"], entry["validation_loss"])
            for entry in history
            if "validation_divergence" in entry
        ]
        tokens = self.state.num_input_tokens_seen
        return Outcome(
            initial=measured[0],
            final=measured[-1],
            training_loss=next(entry["loss"] for entry in reversed(history) if "loss" in entry),
            student_share=sum(_is_own(self._config, step) for step in range(steps)) / steps,
            answer_tokens=tally.answer_tokens / max(tally.answers, 1),
            tokens=tokens,
            tokens_per_second=tokens / tally.seconds,
        )


def _is_own(config: OnPolicyConfig, step: int) -> bool:
    """Whether the student answers itself in this step, counted from 0: the same however often a run is cut off."""
    return random.Random(f"{config.seed} {step}").random() < config.student_share


def _blocks(turns: Sequence[Turn], padding: int) -> list[Block]:
    """Blocks of which the given answers are scored."""
    examples = [
        Example(turn.prompt + turn.answer, [IGNORED] * len(turn.prompt) + turn.answer) for turn in turns
    ]
    return pack(examples, max(len(example.tokens) for example in examples), padding)


class _Watch(TrainerCallback):
    """Decides when to measure, save and stop, and tells how it goes."""

    def __init__(
        self,
        config: OnPolicyConfig,
        folder: Path,
        tally: _Tally,
        report: Report,
        termination: DeferredSigterm,
    ):
        self._config, self._folder, self._tally = config, folder, tally
        self._report, self._termination = report, termination

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Report as often as is asked for now: a checkpoint brings what was asked for when it was written."""
        state.logging_steps = args.logging_steps

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Decide what follows the step, and report progress."""
        step, last = state.global_step, state.max_steps
        self._report.progress(step, last, "steps")
        control.should_evaluate = False  # what is kept is measured, after it is rounded
        control.should_log = control.should_log or step == last
        due = step % self._config.checkpoint_every_steps == 0 or self._termination.requested
        control.should_save = due and step < last

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Complete and publish the checkpoint, and stop after it if the process was told to end."""
        place = checkpoints.aside(self._folder) / f"checkpoint-{state.global_step}"
        (place / _STATE).write_text(json.dumps(asdict(self._tally)))
        checkpoints.publish(self._folder, state.global_step)
        if self._termination.requested:  # only now: the checkpoint would say so, too
            control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Report what of TRL's figures and ours matters."""
        told = {name: logs[theirs] for theirs, name in _REPORTED.items() if logs.get(theirs) is not None}
        if told:
            self._report.metrics(told, state.global_step)
