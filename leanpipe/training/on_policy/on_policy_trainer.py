"""TRL's trainer for on-policy distillation: with given answers mixed in, reporting our way, resuming from what is whole.

TRL is imported only where it is used: it is no part of a plain installation, and it imports MLflow where it finds it.
Of its two trainers `GKDTrainer` mixes in given answers by itself. But it holds the logits of whole batches, divides the
loss of the student's answers by the number of tokens of the given ones, and is on its way out, so this is the other one.
"""

import json
import logging
import math
import os
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedTokenizerBase, PrinterCallback, Trainer, TrainerCallback, TrainerControl

from leanpipe.core import device
from leanpipe.core.errors import UserError
from leanpipe.core.plots import draw_losses
from leanpipe.core.report import Report
from leanpipe.processes.sigterm import Termination
from leanpipe.training.finetune.chat import Example
from leanpipe.training.finetune.forgetting import nats
from leanpipe.training.finetune.packing import Block, pack
from leanpipe.training.losses.chunked import IGNORED
from leanpipe.training.losses.objectives import check_head
from leanpipe.training.on_policy.on_policy import OnPolicyConfig, Turn, Turns
from leanpipe.training.trainer import checkpoints
from leanpipe.training.trainer.arguments import BETAS
from leanpipe.training.trainer.data import Passes, scored_tokens

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
    """On held-out conversations."""

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
    """Of prompts and answers."""
    tokens_per_second: float
    """The writing of answers included."""


@dataclass
class _Tally:
    """What was done so far."""

    answers: int = 0
    answer_tokens: int = 0
    seconds: float = 0.0


def train_on_policy(
    student: Any,
    teacher: Any,
    tokenizer: PreTrainedTokenizerBase,
    turns: Turns,
    config: OnPolicyConfig,
    out: Path,
    report: Report,
) -> Outcome:
    """Train `student` in place. What an earlier attempt left under `out/checkpoints` is gone on from, then removed.

    On SIGTERM it writes a checkpoint after the step, and then ends as the signal asked.
    """
    check_head(student)
    folder = out / "checkpoints"
    checkpoint = checkpoints.find_whole(folder)
    with Termination() as termination:
        trainer = _trainer_type()(
            config,
            turns,
            folder,
            checkpoint,
            model=student,
            teacher_model=teacher,
            args=_arguments(config, folder, resumed=checkpoint is not None),
            train_dataset=Passes(_items(turns.train), config.steps * config.batch, config.seed),
            processing_class=tokenizer,
            callbacks=[_Watch(config, report, termination)],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if termination.requested:
        log.info("told to end: stopped after step %d with a checkpoint", trainer.state.global_step)
        termination.follow(f"training stopped after step {trainer.state.global_step}")
    student.config.use_cache = True  # the Trainer turns it off, and it would be saved so
    draw_losses(trainer.state.log_history, out / "report" / "loss.png")
    shutil.rmtree(folder, ignore_errors=True)
    return trainer.outcome()


def _arguments(config: OnPolicyConfig, folder: Path, resumed: bool) -> Any:
    """What TRL needs to know."""
    with _without_mlflow():
        from trl import DistillationConfig

    made = DistillationConfig(
        output_dir=str(checkpoints.aside(folder)),
        max_steps=config.steps,
        per_device_train_batch_size=config.in_memory,
        gradient_accumulation_steps=config.batch // config.in_memory,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=round(0.1 * config.steps),
        adam_beta1=BETAS[0],
        adam_beta2=BETAS[1],
        beta=config.beta,
        temperature=config.temperature,
        max_completion_length=config.max_new_tokens,
        bf16=config.arithmetic == "bf16",
        gradient_checkpointing=False,
        logging_steps=config.log_every_steps,
        logging_first_step=True,
        logging_nan_inf_filter=False,  # it would report a broken training as a good one
        eval_on_start=not resumed,
        eval_strategy="no",
        save_strategy="no",  # `_Watch` decides when
        seed=config.seed,
        shuffle_dataset=False,  # `Passes` shuffles
        use_cpu=device.name() == "cpu",
        dataloader_pin_memory=False,  # what is read are lists
        disable_tqdm=True,
        report_to="none",
    )
    # Else TRL refuses a machine with several GPUs.
    made._n_gpu = min(made.n_gpu, 1)
    return made


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
    return [{"prompt": turn.prompt, "answer": turn.answer} for turn in turns]


class _WithGivenAnswers(DistillationTrainer):
    """Of TRL's trainer: prompts are tokens already, some batches get the given answers, and checkpoints are whole."""

    control: TrainerControl

    def __init__(
        self, config: OnPolicyConfig, turns: Turns, folder: Path, checkpoint: Path | None, **others: Any
    ):
        self._config, self._folder = config, folder
        self._held_out = turns.held_out
        self._given: list[list[int]] | None = None
        super().__init__(**others)
        self._answers = _blocks(turns.held_out, self.processing_class.pad_token_id)
        state = json.loads((checkpoint / _STATE).read_text()) if checkpoint else {}
        self._tally = _Tally(**state)

    def _send_telemetry(self) -> None:
        """Nobody is told what is trained here."""

    def _tokenize_prompts(self, prompts: list[list[int]]) -> Any:
        return prompts, None, {}

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        own = not self.model.training or _is_own(self._config, self.state.global_step)
        self._given = None if own else [item["answer"] for item in inputs]
        return super()._generate_and_score_completions(inputs)

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> list[list[int]]:
        if self._given is not None:
            return self._given
        answers = super()._generate_single_turn(*args, **kwargs)
        if self.model.training:
            self._tally.answers += len(answers)
            self._tally.answer_tokens += sum(map(len, answers))
        return answers

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        started = time.perf_counter()
        loss = super().training_step(*args, **kwargs)
        self._tally.seconds += time.perf_counter() - started
        self._check_finite(float(loss), "loss")
        return loss

    def _clip_grad_norm(self, model: Any) -> Any:
        norm = super()._clip_grad_norm(model)
        self._check_finite(float(norm), "gradient's length")
        return norm

    def _check_finite(self, value: float, what: str) -> None:
        """Before the student answers with what became of its weights: drawing from what is no number ends in a crash."""
        if not math.isfinite(value):
            raise UserError(
                f"the {what} is {value} at step {self.state.global_step + 1}: lower on_policy.learning_rate"
            )

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """`Measured` of the model as it is now. Answers are drawn from the same random numbers each time."""
        self.model.eval()
        loss = nats(self.model, self._answers, self._config.arithmetic) / max(scored_tokens(self._answers), 1)
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
        total, tokens, rows = 0.0, 0, self._config.in_memory
        for start in range(0, len(self._held_out), rows):
            batch = self._prepare_inputs(_items(self._held_out[start : start + rows]))
            with torch.no_grad(), self.compute_loss_context_manager():
                mean = float(self.compute_loss(self.model, batch))
            written = int(batch["completion_mask"].sum())
            total, tokens = total + mean * written, tokens + written
        return total / tokens

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        Trainer._save_checkpoint(self, model, trial)  # TRL's writes a page on the model beside
        step = self.state.global_step
        place = checkpoints.aside(self._folder) / f"checkpoint-{step}"
        (place / _STATE).write_text(json.dumps(asdict(self._tally)))
        checkpoints.publish(self._folder, step)

    def outcome(self) -> Outcome:
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

    def __init__(self, config: OnPolicyConfig, report: Report, termination: Termination):
        self._config, self._report, self._termination = config, report, termination

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        step, last = state.global_step, state.max_steps
        self._report.progress(step, last, "steps")
        control.should_evaluate = step == last
        control.should_log = control.should_log or step == last
        due = step % self._config.checkpoint_every_steps == 0 or self._termination.requested
        control.should_save = due and step < last

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._termination.requested:  # only now: the checkpoint would say so, too
            control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        told = {name: logs[theirs] for theirs, name in _REPORTED.items() if logs.get(theirs) is not None}
        if told:
            self._report.metrics(told, state.global_step)
