"""The one training loop: transformers' Trainer, reporting our way, guarded, and resuming only from what is whole.

Where to find what:
- `train` is what stages call. It ends with the model trained in place, or as SIGTERM asked, with a checkpoint.
- `_finished` makes a `_Trainer` from the newest whole checkpoint, and another one whenever a training diverges (rewinds.py).
- `_Trainer` in four parts: a step, memory, validation, and reports with checkpoints.
- When to validate, save and stop is for `Schedule` (schedule.py), what is no longer a training for `DivergenceGuard`.
"""

import json
import logging
import math
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from transformers import PrinterCallback, Trainer, TrainerControl

from leanpipe.core import device
from leanpipe.core.errors import UserError
from leanpipe.core.plots import draw_losses
from leanpipe.core.report import Report
from leanpipe.core.store import CHECKPOINTS
from leanpipe.models.unwrap import unwrap_adapters
from leanpipe.processes.launcher import leave, rank
from leanpipe.processes.sigterm import DeferredSigterm
from leanpipe.training.distributed.forward_redirection import redirect_forward
from leanpipe.training.distributed.fsdp import (
    ShardedTrainer,
    gather_weights,
    is_sharded,
    scatter_weights,
    shard_model,
)
from leanpipe.training.losses.objectives import Batch, CrossEntropy, Objective, check_head
from leanpipe.training.trainer import checkpoints, micro_batch
from leanpipe.training.trainer.arguments import BETAS, steps_of, training_arguments
from leanpipe.training.trainer.config import TrainingConfig, check_training
from leanpipe.training.trainer.data import (
    ShuffledEpochs,
    TrainingData,
    collate,
    pad_to_multiple,
    scored_tokens,
)
from leanpipe.training.trainer.divergence_guard import Diverged, DivergenceGuard
from leanpipe.training.trainer.flops import flops_per_token
from leanpipe.training.trainer.kernels import fast_kernels
from leanpipe.training.trainer.optimizers import muon_and_adamw
from leanpipe.training.trainer.outcome import (
    INITIAL,
    Outcome,
    load_trained,
    read_trained,
    save_finished,
    save_trained,
    take_up_finished,
)
from leanpipe.training.trainer.rewinds import Rewinds
from leanpipe.training.trainer.schedule import Schedule, best_step, validations
from leanpipe.training.trainer.speed import SpeedMeter

__all__ = ["Outcome", "steps_of", "train"]

log = logging.getLogger(__name__)

_T = TypeVar("_T")

_STATE = "leanpipe.json"
"""What of ours a checkpoint holds beside what transformers keeps."""


def train(
    model: Any, objective: Objective, data: TrainingData, config: TrainingConfig, out: Path, report: Report
) -> Outcome:
    """Train `model` in place. What an earlier attempt left under `out/checkpoints` is gone on from.

    It stays there until the result is published: what follows the training may be killed, too.
    On SIGTERM it writes a checkpoint after the step, and then ends as the signal asked. Raises UserError when the training
    diverges and may not (or no longer) go back, and for settings that the device cannot run.
    """
    check_training(config)
    state = PartialState(cpu=device.name() == "cpu")
    if model.device.type != state.device.type:
        model.to(state.device)
    check_head(model)
    folder = out / CHECKPOINTS
    if outcome := take_up_finished(model, folder):
        state.wait_for_everyone()
        leave()
        report.progress(outcome.tokens, outcome.tokens, "tokens")
        return outcome
    if config.patience and rank() == 0 and checkpoints.find_whole(folder) is None:
        save_trained(model, folder, INITIAL)
    with DeferredSigterm() as termination, fast_kernels(model, config):
        trainer = _finished(model, objective, data, config, folder, report, termination)
    if termination.requested:
        log.info("told to end: stopped after step %d with a checkpoint", trainer.state.global_step)
        termination.follow(f"training stopped after step {trainer.state.global_step}")
    trainer.restore_best()
    if is_sharded(trainer.model):
        gather_weights(trainer.model, model)
    trainer.accelerator.wait_for_everyone()
    leave()
    model.config.use_cache = True  # the Trainer turns it off, and it would be saved so
    draw_losses(trainer.state.log_history, out / "report" / "loss.png")
    return save_finished(model, folder, trainer.outcome())


def _finished(
    model: Any,
    objective: Objective,
    data: TrainingData,
    config: TrainingConfig,
    folder: Path,
    report: Report,
    termination: DeferredSigterm,
) -> "_Trainer":
    """A trainer that has trained, to the end or until it was told to end."""
    state, kind = PartialState(), _Trainer
    if config.sharding == "full":
        kind, model = _ShardedTrainer, shard_model(model, device.dtype_of(config.arithmetic))
    while True:
        with state.main_process_first():  # it removes what is damaged
            checkpoint = checkpoints.find_whole(folder)
            rewinds = Rewinds(folder, config)
        trainer = kind(model, objective, data, config, folder, report, rewinds, termination, checkpoint)
        try:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            return trainer
        except Diverged as error:
            with state.main_process_first():
                if state.is_main_process:
                    rewinds.add(error, trainer.passes)
        model.zero_grad()


class _Trainer(Trainer):
    """Sums losses over scored tokens, so that neither the size of a micro-batch nor padding weighs in."""

    loss_is_scaled_for_ga = True
    control: TrainerControl
    optimizer: Any

    def __init__(
        self,
        model: Any,
        objective: Objective,
        data: TrainingData,
        config: TrainingConfig,
        folder: Path,
        report: Report,
        rewinds: Rewinds,
        termination: DeferredSigterm,
        checkpoint: Path | None,
    ):
        block = len(data.train[0]["input_ids"])
        steps = steps_of(config, block)
        self.passes = ShuffledEpochs(
            data.train, steps * config.batch, config.seed, config.batch, rewinds.batches
        )
        super().__init__(
            model=model,
            args=training_arguments(config, steps, folder, resumed=checkpoint is not None),
            data_collator=collate,
            train_dataset=self.passes,
        )
        self.model_accepts_loss_kwargs = True  # asks for the number of scored tokens of a whole batch
        self._loss_shifts_labels = True
        self._tokens_per_step = config.batch * block
        self._config, self._folder = config, folder
        self._objective, self._data, self._report, self._rewinds = objective, data, report, rewinds
        self._termination = termination
        peak = device.peak_flops(device.dtype_of(config.arithmetic)) * config.processes
        self.meter = SpeedMeter(
            self._tokens_per_step, flops_per_token(unwrap_adapters(model), data.train), peak
        )
        self._guard = DivergenceGuard(config.spike)
        self._kept_loss: float | None = None  # where other weights are kept than those of the last step
        self._in_memory = micro_batch.first_guess(unwrap_adapters(model), config, block)
        if checkpoint:
            self._restore(json.loads((checkpoint / _STATE).read_text()))
        self.remove_callback(PrinterCallback)
        self.add_callback(Schedule(config, self.meter, report, self._tokens_per_step, termination))

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Make ours where transformers has none."""
        if self._config.optimizer != "muon":
            return super().create_optimizer(model)
        if self.optimizer is None:
            decayed = set(self.get_decay_parameter_names(self.model))
            rate, decay = self._config.learning_rate, self._config.weight_decay
            self.optimizer = muon_and_adamw(self.model, decayed, rate, decay, BETAS)
        return self.optimizer

    # A step

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Go forward and backward over one batch, in as many micro-batches as memory needs; return its mean loss."""
        model.train()
        batch, scored = self._prepare_inputs(inputs), max(int(num_items_in_batch), 1)
        generators = micro_batch.random_state()

        def undo() -> None:
            model.zero_grad()
            micro_batch.set_random_state(generators)

        means = self._within_memory(lambda: self._accumulate(model, batch, scored), undo)
        if self.args.world_size > 1:
            means = self._reduced(means)
        else:
            self._termination.agreed = self._termination.requested
        self._guard.check(self.state.global_step + 1, float(means["loss"]))
        self.meter.add(means)
        return means["loss"]

    def _accumulate(self, model: Any, batch: Batch, scored: int) -> dict[str, torch.Tensor]:
        """Add up the gradients of a whole batch; return this process's part of its mean losses."""
        means: dict[str, torch.Tensor] = {}
        rows = len(batch["input_ids"])
        for start in range(0, rows, self._in_memory):
            micro = {name: value[start : start + self._in_memory] for name, value in batch.items()}
            last = start + self._in_memory >= rows
            # A model in shards has room for no more than a layer's whole gradients.
            with nullcontext() if last or is_sharded(model) else self.accelerator.no_sync(model):
                sums = self._sums(model, micro, self._objective)
                # Backward passes of several processes are averaged.
                self.accelerator.backward(sums["loss"] * (self.args.world_size / scored))
            for name, value in sums.items():
                means[name] = means.get(name, 0) + value.detach() / scored
        return means

    def _sums(self, model: Any, batch: Batch, objective: Objective) -> dict[str, torch.Tensor]:
        inner = self.accelerator.unwrap_model(model)

        def sums() -> dict[str, torch.Tensor]:
            # Copies: what comes out of a model in shards carries its hooks, which a view might lose.
            return {name: value.clone() for name, value in objective(inner, batch).items()}

        with self.accelerator.autocast():
            return redirect_forward(model, inner, sums)

    def _reduced(self, means: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Sum the means over all processes, which also agree on whether to stop."""
        asked = torch.tensor(float(self._termination.requested), device=self.args.device)
        sums = self.accelerator.reduce(torch.stack([asked, *means.values()]), "sum")
        self._termination.agreed = bool(sums[0])
        return dict(zip(means, sums[1:], strict=True))

    # Memory

    def _within_memory(self, compute: Callable[[], _T], undo: Callable[[], None] = lambda: None) -> _T:
        """Run `compute()`; whenever memory runs out, `undo()` and again with fewer blocks at once.

        Raises UserError if one is too many already.
        """
        while True:
            try:
                return compute()
            except (RuntimeError, MemoryError) as error:
                if not micro_batch.is_out_of_memory(error):
                    raise
            undo()
            self._halve()

    def _halve(self) -> None:
        step = self.state.global_step + 1
        fewer = micro_batch.smaller(self._in_memory, self._config.share)
        if fewer is None:
            raise UserError(
                f"memory ran out at step {step} with one block of {len(self._data.train[0]['input_ids'])} tokens: use shorter "
                "blocks, a smaller model, gradient_checkpointing or optimizer=adamw_8bit"
            )
        if self.args.world_size > 1:  # the others are waiting for this process's gradients
            raise UserError(f"memory ran out at step {step}: set micro_batch to {fewer}")
        if device.name() == "cuda":
            torch.cuda.empty_cache()
        log.warning(
            "memory ran out at step %d: %d blocks at once instead of %d", step, fewer, self._in_memory
        )
        self._in_memory = fewer

    def _clip_grad_norm(self, model: Any) -> Any:
        norm = super()._clip_grad_norm(model)
        if self.args.fp16:  # its scaler leaves such steps out by itself
            return norm
        self._guard.check_finite(self.state.global_step + 1, float(norm), "gradient's length")
        return norm

    # Validation

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Measure nats per scored token of the validation text, and report it."""
        metrics = {"validation_loss": self._validation_loss()}
        self._check_validation(metrics["validation_loss"])
        if self._data.validation_bytes:
            metrics["validation_bits_per_byte"] = self._data.bits_per_byte(metrics["validation_loss"])
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _validation_loss(self) -> float:
        self.model.eval()
        return self._within_memory(self._validation_sum) / max(scored_tokens(self._data.validation), 1)

    def _validation_sum(self) -> float:
        """Nats of all scored tokens of the validation text."""
        rank, number = self.args.process_index, self.args.world_size
        blocks, total = pad_to_multiple(self._data.validation, number)[rank::number], 0.0
        for start in range(0, len(blocks), self._in_memory):
            batch = self._prepare_inputs(collate(blocks[start : start + self._in_memory]))
            with torch.no_grad():
                total += float(self._sums(self.model, batch, CrossEntropy())["loss"])
        if number == 1:
            return total
        return float(self.accelerator.reduce(torch.tensor(total, device=self.args.device), "sum"))

    def _check_validation(self, loss: float) -> None:
        step = self.state.global_step
        if step:
            self._guard.check_finite(step, loss, "loss on validation text")
        elif not math.isfinite(loss):
            raise UserError(
                f"the loss on validation text is {loss} before training: the model's weights are damaged"
            )

    # Reports and checkpoints

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Report what transformers logs, with the meter's figures."""
        if "loss" in logs:
            logs |= self.meter.report() | {"micro_batch": self._in_memory}
        super().log(logs, start_time)
        if "train_runtime" not in logs:
            self._report.metrics(
                {name: value for name, value in logs.items() if name != "epoch"}, self.state.global_step
            )

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        step = self.state.global_step
        state: dict[str, Any] = {"meter": self.meter.state(), "guard": self._guard.state()}
        state |= {"micro_batch": self._in_memory, "asked": self._config.micro_batch}
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            (checkpoints.aside(self._folder) / f"checkpoint-{step}" / _STATE).write_text(json.dumps(state))
            checkpoints.publish(self._folder, step, keep={best_step(self.state.log_history)})
        self.accelerator.wait_for_everyone()

    def _restore(self, state: dict[str, Any]) -> None:
        self.meter.restore(state["meter"])
        self._guard.restore(state["guard"])
        if self._config.micro_batch in (0, state.get("asked")):  # else another number is asked for
            self._in_memory = state["micro_batch"]

    def restore_best(self) -> None:
        """Load the weights of the best validation if there is patience; else keep those of the last step.

        What is kept is measured: `outcome` tells of no other weights than those.
        """
        best = best_step(self.state.log_history)
        if not self._config.patience or best == self.state.global_step:
            return
        checkpoint, initial = self._folder / f"checkpoint-{best}", None
        if best == 0 and (initial := read_trained(self._folder, INITIAL)):
            (scatter_weights if is_sharded(self.model) else load_trained)(self.model, initial)
        elif best and checkpoints.is_whole(checkpoint):
            self._load_from_checkpoint(str(checkpoint))
        else:
            log.warning("the weights of step %d were the best, but are damaged: the last ones are kept", best)
            return
        self._kept_loss = self._validation_loss()
        log.info("the weights of step %d are kept: no later validation was better", best)

    def outcome(self) -> Outcome:
        """Return how the training went, from what was logged."""
        history = self.state.log_history
        losses = validations(history)
        last = losses[max(losses)]
        return Outcome(
            initial_validation=losses[0],
            validation=last if self._kept_loss is None else self._kept_loss,
            loss=next(entry["loss"] for entry in reversed(history) if "loss" in entry),
            tokens=self.state.global_step * self._tokens_per_step,
            tokens_per_second=self.meter.tokens_per_second,
            mfu=self.meter.mfu,
            micro_batch=self._in_memory,
            rewinds=self._rewinds.count,
        )


class _ShardedTrainer(_Trainer, ShardedTrainer):
    """Trains a model in shards as `_Trainer` does a whole one."""
