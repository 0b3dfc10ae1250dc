"""The one training loop: transformers' Trainer, reporting our way and resuming only from checkpoints that are whole."""

import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainingArguments

from leanpipe import device
from leanpipe.errors import UserError
from leanpipe.report import Report
from leanpipe.training import checkpoints
from leanpipe.training.config import TrainingConfig, check_training
from leanpipe.training.curves import draw_losses
from leanpipe.training.data import Blocks, Passes, collate, scored_tokens
from leanpipe.training.objectives import CrossEntropy, Objective, check_head

_OPTIMIZERS = {"adamw": "adamw_torch_fused", "adamw_8bit": "adamw_bnb_8bit", "adafactor": "adafactor"}
_SCHEDULES = {
    "cosine": "cosine",
    "linear": "linear",
    "wsd": "warmup_stable_decay",
    "constant": "constant_with_warmup",
}
_DECAY = 0.2
"""Share of a wsd schedule in which the learning rate falls (Hägele et al. 2024, arXiv 2405.18392, section 3)."""


@dataclass(frozen=True)
class Text:
    """What to train and what to validate on. All blocks are of one length."""

    train: Blocks
    validation: Sequence[Any]
    validation_bytes: int | None = None
    """UTF-8 bytes that the scored validation tokens spell, where bits per byte are wanted."""

    def bits_per_byte(self, nats_per_token: float) -> float:
        """A validation loss in a unit that does not depend on the tokenizer."""
        assert self.validation_bytes
        return nats_per_token * scored_tokens(self.validation) / math.log(2) / self.validation_bytes


@dataclass(frozen=True)
class Outcome:
    """How a training went."""

    initial_validation: float
    """Nats per scored token of the validation text before training."""
    validation: float
    """The same after it."""
    loss: float
    """The last reported training loss."""
    tokens: int
    tokens_per_second: float


def train(
    model: Any, objective: Objective, text: Text, config: TrainingConfig, out: Path, report: Report
) -> Outcome:
    """Train `model` in place. What an earlier attempt left under `out/checkpoints` is gone on from, then removed.

    Raises UserError when the loss is not finite, and for settings that the device cannot run.
    """
    check_training(config)
    check_head(model)
    folder = out / "checkpoints"
    checkpoint = checkpoints.find_whole(folder)
    trainer = _Trainer(model, objective, text, config, folder, report, resumed=checkpoint is not None)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    model.config.use_cache = True  # the Trainer turns it off, and it would be saved so
    history = trainer.state.log_history
    draw_losses(history, out / "report" / "loss.png")
    shutil.rmtree(folder, ignore_errors=True)
    validation = [entry["validation_loss"] for entry in history if "validation_loss" in entry]
    return Outcome(
        initial_validation=validation[0],
        validation=validation[-1],
        loss=next(entry["loss"] for entry in reversed(history) if "loss" in entry),
        tokens=trainer.total_tokens,
        tokens_per_second=trainer.clock.tokens_per_second,
    )


def steps_of(config: TrainingConfig, block: int) -> int:
    """Steps of the optimiser that `config.tokens` make with blocks of `block` tokens."""
    return math.ceil(config.tokens / (config.batch * block))


def _arguments(config: TrainingConfig, steps: int, folder: Path, resumed: bool) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=config.in_memory,
        per_device_eval_batch_size=config.in_memory,
        gradient_accumulation_steps=config.accumulation,
        learning_rate=config.learning_rate,
        lr_scheduler_type=_SCHEDULES[config.schedule],
        lr_scheduler_kwargs={"num_decay_steps": math.ceil(_DECAY * steps)}
        if config.schedule == "wsd"
        else {},
        warmup_steps=round(config.warmup * steps),
        optim=_OPTIMIZERS[config.optimizer],
        adam_beta2=0.95,  # runs are short: 0.999 would average over more steps than many have
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        bf16=config.arithmetic == "bf16",
        fp16=config.arithmetic == "fp16",
        activation_checkpointing=config.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},
        logging_steps=config.log_every_steps,
        logging_first_step=True,
        logging_nan_inf_filter=False,  # it would report a broken training as a good one
        eval_on_start=not resumed,
        eval_strategy="no",
        save_strategy="no",  # `_Schedule` decides when
        seed=config.seed,
        train_sampling_strategy="sequential",  # `Passes` shuffles
        remove_unused_columns=False,
        use_cpu=device.name() == "cpu",
        dataloader_pin_memory=device.name() == "cuda",
        disable_tqdm=True,
        report_to="none",
    )


class _Trainer(Trainer):
    """Sums losses over scored tokens, so that neither the size of a micro-batch nor padding weighs in."""

    loss_is_scaled_for_ga = True
    control: TrainerControl

    def __init__(
        self,
        model: Any,
        objective: Objective,
        text: Text,
        config: TrainingConfig,
        folder: Path,
        report: Report,
        resumed: bool,
    ):
        block = len(text.train[0]["input_ids"])
        steps = steps_of(config, block)
        arguments = _arguments(config, steps, folder, resumed)
        # Else it would spread over every GPU it sees, with a batch on each.
        arguments._n_gpu = min(arguments.n_gpu, 1)
        super().__init__(
            model=model,
            args=arguments,
            data_collator=collate,
            train_dataset=Passes(text.train, steps * config.batch, config.seed),
            eval_dataset=text.validation,
        )
        self.model_accepts_loss_kwargs = True  # asks for the number of scored tokens of a whole batch
        self._loss_shifts_labels = True
        self.total_tokens = steps * config.batch * block
        self.clock = _Clock(config.batch * block)
        self._objective, self._text, self._report = objective, text, report
        self._parts: dict[str, torch.Tensor] = {}
        self._parts_since = 0
        self.remove_callback(PrinterCallback)
        self.add_callback(_Schedule(config, self.clock, report, self.total_tokens))

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The objective's mean over the scored tokens of the whole batch, of which `inputs` is one micro-batch."""
        with self.accelerator.autocast():
            sums = self._objective(self.accelerator.unwrap_model(model), inputs)
        count = max(int(num_items_in_batch), 1)
        if not self._parts:
            self._parts_since = self.state.global_step
        for name, value in sums.items():
            self._parts[name] = self._parts.get(name, 0) + value.detach() / count
        return sums["loss"] / count

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        if not torch.isfinite(loss):
            raise UserError(
                f"the loss is {loss.item()} at step {self.state.global_step + 1}: lower learning_rate "
                f"(now {self.args.learning_rate:g}) or set precision to fp32"
            )
        return loss

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Nats per scored token of the validation text."""
        self.model.eval()
        total = 0.0
        for batch in self.get_eval_dataloader():
            with torch.no_grad(), self.accelerator.autocast():
                sums = CrossEntropy()(self.accelerator.unwrap_model(self.model), self._prepare_inputs(batch))
            total += float(sums["loss"])
        metrics = {"validation_loss": total / max(scored_tokens(self._text.validation), 1)}
        if not math.isfinite(total):
            raise UserError(
                f"the loss on validation text is {total} at step {self.state.global_step}: lower learning_rate"
            )
        if self._text.validation_bytes:
            metrics["validation_bits_per_byte"] = self._text.bits_per_byte(metrics["validation_loss"])
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            steps = self.state.global_step - self._parts_since
            logs |= {name: float(value) / steps for name, value in self._parts.items()}
            logs["tokens_per_second"] = self.clock.tokens_per_second
            self._parts = {}
        super().log(logs, start_time)
        if "train_runtime" not in logs:
            self._report.metrics(
                {name: value for name, value in logs.items() if name != "epoch"}, self.state.global_step
            )

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        checkpoints.seal(Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}")


class _Clock:
    """Counts the time spent on training steps: not on validation, checkpoints or loading."""

    def __init__(self, tokens_per_step: int):
        self._tokens_per_step, self._steps, self._seconds, self._started = tokens_per_step, 0, 0.0, 0.0

    def start(self) -> None:
        self._started = time.perf_counter()

    def stop(self) -> None:
        self._seconds += time.perf_counter() - self._started
        self._steps += 1

    @property
    def tokens_per_second(self) -> float:
        return self._steps * self._tokens_per_step / self._seconds if self._seconds else 0.0


class _Schedule(TrainerCallback):
    """Decides after which steps to validate and to save, and reports progress."""

    def __init__(self, config: TrainingConfig, clock: _Clock, report: Report, total_tokens: int):
        self._config, self._clock, self._report, self._total_tokens = config, clock, report, total_tokens

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._clock.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._clock.stop()
        step, last = state.global_step, state.max_steps
        parts = self._config.validations - 1
        control.should_evaluate = step in {round(part * last / parts) for part in range(1, parts + 1)}
        control.should_log = control.should_log or step == last
        control.should_save = step % self._config.checkpoint_every_steps == 0 and step < last
        self._report.progress(step * self._total_tokens / last, self._total_tokens, "tokens")
